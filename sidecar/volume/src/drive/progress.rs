//! How fast a peer is being brought up to date, from what it lacks at one look and the next.

use crate::core::survey::{PeerState, Survey};
use lease::ids::Incarnation;
use lease::time::{Millis, Moment};
use std::collections::BTreeMap;

/// How much of the rate is what the last look says: half of it is forgotten after about two looks.
const WEIGHT: f64 = 0.3;
/// Looks that are closer together than this say nothing.
const LEAST: Millis = Millis(100);

#[derive(Clone, Copy, Debug)]
struct Seen {
    behind_bytes: u64,
    at: Moment,
    /// Bytes per second, once there is something to go by.
    rate: Option<f64>,
}

/// What was seen of each peer that is being copied to.
#[derive(Debug, Default)]
pub(super) struct Progress(BTreeMap<Incarnation, Seen>);

impl Progress {
    /// Fills in the rates.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rates for people"
    )]
    pub(super) fn look(&mut self, survey: &mut Survey, now: Moment) {
        self.0.retain(|name, _| {
            survey.peers.iter().any(|peer| peer.incarnation == *name && peer.state == PeerState::Copying)
        });
        for peer in survey.peers.iter_mut().filter(|peer| peer.state == PeerState::Copying) {
            let first = Seen { behind_bytes: peer.behind_bytes, at: now, rate: None };
            let seen = self.0.entry(peer.incarnation.clone()).or_insert(first);
            let since = now.shortest_since(seen.at);
            if since >= LEAST {
                // Writes that are lost on the way mark again: then it was nothing, not less than nothing.
                let copied = seen.behind_bytes.saturating_sub(peer.behind_bytes) as f64 * 1_000.0 / since.0 as f64;
                let rate = seen.rate.map_or(copied, |rate| rate * (1.0 - WEIGHT) + copied * WEIGHT);
                *seen = Seen { behind_bytes: peer.behind_bytes, at: now, rate: Some(rate) };
            }
            peer.copied_bytes_s = seen.rate.map(|rate| rate.round() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::follower::Lag;
    use crate::core::survey::PeerSurvey;

    fn at(progress: &mut Progress, ms: u64, state: PeerState, behind_bytes: u64) -> Option<u64> {
        let incarnation = Incarnation::new("b").expect("a name");
        let peer = PeerSurvey {
            incarnation,
            state,
            behind_bytes,
            follow: None,
            lag: Lag::Unknown,
            copied_bytes_s: None,
            held_to_bytes_s: None,
        };
        let mut survey = Survey { peers: vec![peer], ..Survey::default() };
        progress.look(&mut survey, Moment::default().after(Millis(ms)));
        survey.peers[0].copied_bytes_s
    }

    #[test]
    fn the_rate_follows_what_is_copied_and_begins_anew_with_each_copying() {
        let mut progress = Progress::default();
        assert_eq!(at(&mut progress, 0, PeerState::Copying, 10_000_000), None);
        assert_eq!(at(&mut progress, 1_000, PeerState::Copying, 9_000_000), Some(1_000_000));
        assert_eq!(at(&mut progress, 2_000, PeerState::Copying, 9_000_000), Some(700_000));
        assert_eq!(at(&mut progress, 2_010, PeerState::Copying, 0), Some(700_000), "too soon to say");
        assert_eq!(at(&mut progress, 3_000, PeerState::Copying, 9_500_000), Some(490_000), "marked again");
        assert_eq!(at(&mut progress, 4_000, PeerState::InStep, 0), None);
        assert_eq!(at(&mut progress, 5_000, PeerState::Copying, 4_000), None);
    }
}
