//! What an operator asks of running volumes, and what is shown of them: by HTTP on the daemon's admin socket, and by the verbs that
//! talk to it.
//!
//! ```text
//!  leasehold volume verify, resync, forget-peer (verbs) ──HTTP on a UNIX socket──▶ routes ──Order::Command──▶ the group's thread
//! ```

mod commander;
pub mod routes;
pub mod show;
pub mod socket;
pub mod verbs;

pub use commander::{Commander, Undone};

use crate::core::Follow;
use crate::core::rate;
use crate::core::survey::Survey;
use crate::core::verify::{self, Compared, Difference, Extent, Verification};
use crate::drive::{hex, now};
use serde_json::{Value, json};
use tokio::sync::watch;

/// How fast a verification reads, unless the configuration says otherwise, and at least; in MiB a second of each side.
pub const VERIFY_MIB_S: u64 = verify::RATE >> 20;
pub const VERIFY_MIB_S_LEAST: u64 = verify::RATE_LEAST >> 20;
/// And at most: more than any disk has.
pub const VERIFY_MIB_S_MOST: u64 = 1 << 20;

/// How fast a resync goes at least, unless the configuration says otherwise, in MiB a second.
pub const RESYNC_FLOOR_MIB_S: u64 = rate::FLOOR >> 20;

/// Within which MiB a second a resync goes; `ceiling`: `None`, as fast as it can.
///
/// # Errors
/// The ceiling is below the floor: what is allowed.
pub fn resync_limits(floor: Option<u64>, ceiling: Option<u64>) -> Result<rate::Limits, String> {
    let floor = floor.unwrap_or(RESYNC_FLOOR_MIB_S.min(ceiling.unwrap_or(u64::MAX)));
    match ceiling {
        Some(ceiling) if ceiling < floor => Err(format!("at least the floor, which is {floor} MiB a second")),
        _ => Ok(rate::Limits { floor: floor << 20, ceiling: ceiling.map_or(u64::MAX, |ceiling| ceiling << 20) }),
    }
}

/// Running volumes, as an operator has them.
#[derive(Clone, Debug)]
pub struct Operated {
    /// Of each volume, in order.
    pub names: Vec<String>,
    pub survey: watch::Receiver<Survey>,
    pub commander: Commander,
    pub verify_mib_s: u64,
}

impl Operated {
    /// For people and programs.
    #[must_use]
    pub fn status(&self) -> Value {
        let survey = self.survey.borrow().clone();
        let now = now();
        let volumes: Vec<_> = (self.names.iter().zip(&survey.sizes_bytes))
            .map(|(name, bytes)| json!({"name": name, "bytes": bytes}))
            .collect();
        let peers: Vec<_> = (survey.peers.iter())
            .map(|peer| {
                json!({
                    "incarnation": peer.incarnation,
                    "state": peer.state.to_string(),
                    "behind_bytes": peer.behind_bytes,
                    "follow": peer.follow.map(Follow::as_str),
                    "lag_ms": peer.lag.at(now),
                    "copied_bytes_s": peer.copied_bytes_s,
                    "held_to_bytes_s": peer.held_to_bytes_s,
                })
            })
            .collect();
        json!({
            "volumes": volumes,
            "leads": survey.leads,
            "follows": survey.follows,
            "follow": survey.follow.as_str(),
            "lag_ms": survey.lag.at(now),
            "consistent": survey.consistent,
            "undo_log": survey.keeps,
            "failed": survey.failed,
            "stranger": survey.stranger,
            "peers": peers,
            "verification": survey.verification.as_ref().map(|verification| self.verification(verification)),
            "reads_served_by_peers": survey.tally.reads_served,
            "reads_repaired": survey.tally.reads_repaired,
            "reads_failed": survey.tally.reads_failed,
            "sent_data_bytes": survey.sent.data_bytes,
            "sent_wire_bytes": survey.sent.wire_bytes,
        })
    }

    fn name(&self, volume: crate::ids::VolumeNo) -> String {
        self.names.get(volume.0 as usize).cloned().unwrap_or_else(|| volume.to_string())
    }

    fn verification(&self, verification: &Verification) -> Value {
        let now = now();
        let compared = |compared: &Compared| {
            json!({
                "incarnation": compared.peer,
                "compared_bytes": compared.compared_bytes,
                "differing_chunks": compared.differing_chunks,
                "extent": match compared.extent {
                    Extent::UnderWay => "under way",
                    Extent::Whole => "whole",
                    Extent::CutOff => "cut off",
                },
            })
        };
        let difference = |difference: &Difference| {
            json!({
                "volume": self.name(difference.span.volume),
                "offset": difference.span.at,
                "bytes": difference.span.len,
                "incarnation": difference.peer,
                "here": hex(difference.here),
                "there": difference.there.map(hex),
            })
        };
        json!({
            "number": verification.number,
            "volumes": verification.volumes.iter().map(|volume| self.name(*volume)).collect::<Vec<_>>(),
            "total_bytes": verification.total_bytes,
            "bytes_s": verification.bytes_s,
            "began_ms_ago": now.shortest_since(verification.began),
            "ended_ms_ago": verification.ended.map(|ended| now.shortest_since(ended)),
            "same": verification.ended.map(|_| verification.is_well()),
            "unreadable_chunks": verification.unreadable_chunks,
            "peers": verification.peers.iter().map(compared).collect::<Vec<_>>(),
            "differences": verification.differences.iter().map(difference).collect::<Vec<_>>(),
        })
    }
}
