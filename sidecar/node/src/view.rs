//! What the machine believes, for status, heartbeat and metrics. Reading it changes nothing.

use super::rules::Taker;
use super::tenure::{Phase, Tenure, Workload};
use super::{Node, Role};
use lease::authority::Standing;
use lease::heartbeat::Hearing;
use lease::ids::{Beat, Epoch, Lineage, NodeId};
use lease::record::Row;
use lease::time::{Millis, Moment};
use serde::Serialize;
use std::collections::BTreeMap;

/// A snapshot of one node's beliefs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct View {
    /// `starting`, `standby`, `nominated`, `accepting`, `activating`, `active`, `freezing`, `handing-over`, `releasing`,
    /// `demoting`, `fenced` or `gone`.
    pub role: &'static str,
    /// The epoch that this node holds, or the row's.
    pub epoch: Epoch,
    /// The latest (epoch, beat) seen, on the row or in a ping, and for how long it has stood.
    pub seen: Option<(Epoch, Beat)>,
    pub silence_ms: Millis,
    /// The row as last seen.
    pub row: Option<Row>,
    /// As holder: until when it may serve. `None`: it may not.
    pub authority: Option<Right>,
    /// As holder: what is left of the lease and of each needed member's promise.
    pub lease_left_ms: Millis,
    pub promises_left_ms: BTreeMap<String, Millis>,
    /// As standby: what is left of its own promise not to accept.
    pub promise_left_ms: Millis,
    /// What it hears of its peers.
    pub hears: BTreeMap<NodeId, Hearing>,
    /// The workload as the machine knows it, when it holds the lease.
    pub workload: Option<&'static str>,
    /// A write of the row whose outcome is unknown.
    pub unanswered_write: bool,
    /// Why the row is only known as it was: it could not be read, or not be written, when that was last tried.
    pub row_problem: Option<String>,
    /// Why a node is demoting or fenced.
    pub why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "left_ms")]
pub enum Right {
    /// For this much longer, unless extended.
    For(Millis),
    /// Nobody can legally accept.
    Alone,
}

impl Node {
    #[must_use]
    pub fn view(&self, now: Moment) -> View {
        let tenure = match &self.role {
            Role::Holding(tenure) => Some(tenure),
            _ => None,
        };
        let within = Millis(self.setup.policy.ping_ms.0 * 4);
        let hears = self.links.names().into_iter().filter_map(|peer| {
            let silent_ms = self.links.silence(&peer, now)?;
            let promise_left_ms =
                if self.holder() == Some(&peer) { self.vigil.promise_left(now) } else { Millis::ZERO };
            let linked = self.links.hears(&peer, within, now) || (tenure.is_some() && silent_ms < within);
            Some((peer, Hearing { linked, silent_ms, promise_left_ms }))
        });
        View {
            role: self.role_name(),
            epoch: self.epoch(),
            seen: self.vigil.latest(),
            silence_ms: self.vigil.silence(now),
            row: self.row.clone(),
            authority: tenure.and_then(|tenure| match tenure.authority.standing(now) {
                Standing::None => None,
                Standing::For(left) => Some(Right::For(left)),
                Standing::Alone => Some(Right::Alone),
            }),
            lease_left_ms: tenure.map_or(Millis::ZERO, |tenure| tenure.authority.lease_left(now)),
            promises_left_ms: tenure.map_or_else(BTreeMap::new, |tenure| {
                let left = |member: &lease::ids::Incarnation| tenure.authority.promise_left(member, now);
                tenure.authority.need().map(|member| (member.to_string(), left(member))).collect()
            }),
            promise_left_ms: self.vigil.promise_left(now),
            hears: hears.collect(),
            workload: tenure.map(|tenure| match &tenure.workload {
                Workload::Down => "down",
                Workload::Starting => "starting",
                Workload::Up => "up",
                Workload::Failed { .. } => "failed",
                Workload::Stopping => "stopping",
            }),
            unanswered_write: self.desk.pending.as_ref().is_some_and(|pending| pending.unanswered),
            row_problem: self.desk.problem.clone(),
            why: match &self.role {
                Role::Demoting { why, .. } | Role::Halted { why } => Some(why.clone()),
                Role::Holding(tenure) => match &tenure.phase {
                    Phase::HandingOver { to, .. } => Some(format!("handing over to {}", to.node)),
                    _ => None,
                },
                _ => None,
            },
        }
    }

    /// The epoch that this node holds, for who must know whose acknowledgements it needs and what its gate says.
    #[must_use]
    pub fn holding(&self) -> Option<&Tenure> {
        match &self.role {
            Role::Holding(tenure) => Some(tenure),
            _ => None,
        }
    }

    /// The cluster that the row belongs to, once it was read.
    #[must_use]
    pub fn lineage(&self) -> Option<&Lineage> {
        self.row.as_ref().filter(|_| !self.barred).map(|row| &row.lineage)
    }

    /// Whether this node may take the replicated writes of `epoch`: not before it has read the row, not of an epoch that it
    /// knows to be over, and not while it may be the holder of the next one without knowing it yet: by an acceptance of its
    /// own, or of an earlier process.
    #[must_use]
    pub fn takes_writes_of(&self, epoch: Epoch) -> bool {
        self.taker().takes(epoch)
    }

    /// The first epoch of which it may; `None`: of none.
    #[must_use]
    pub fn takes_writes_from(&self) -> Option<Epoch> {
        self.taker().takes_from()
    }

    /// Set while this node is about to ask for an epoch: the replication is to take nothing more of anybody, then to say so by
    /// this number ([`Replica::closed`](super::event::Replica)). Each time has its own, so that no answer is taken for a later one.
    #[must_use]
    pub fn closing(&self) -> Option<u64> {
        self.closing
    }

    fn taker(&self) -> Taker {
        Taker {
            stands_by: self.role == Role::Standby && !self.barred,
            accepting: self.accepting() || self.closing.is_some(),
            claimed: self.claim.is_some() && self.claim == self.row.as_ref().map(|row| row.rev),
            known: self.row.as_ref().map(|row| row.epoch).max(self.past),
        }
    }

    /// Whether this node serves at `now`: the gate's answer, for health checks.
    #[must_use]
    pub fn serves(&self, now: Moment) -> bool {
        match &self.role {
            Role::Holding(tenure) => {
                tenure.phase == Phase::Active && !tenure.frozen && tenure.authority.standing(now) != Standing::None
            }
            _ => false,
        }
    }

    pub(super) fn role_name(&self) -> &'static str {
        match &self.role {
            Role::Starting => "starting",
            Role::Standby if self.accepting() => "accepting",
            Role::Standby if self.nominated() => "nominated",
            Role::Standby => "standby",
            Role::Holding(tenure) => match tenure.phase {
                Phase::Activating => "activating",
                Phase::Active if tenure.frozen => "freezing",
                Phase::Active => "active",
                Phase::HandingOver { .. } => "handing-over",
                Phase::Releasing { .. } => "releasing",
            },
            Role::Demoting { .. } => "demoting",
            Role::Halted { .. } => "fenced",
            Role::Gone => "gone",
        }
    }
}
