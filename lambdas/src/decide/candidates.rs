//! Who could take over: the standbys, what is known of each, and in which order they are preferred.

use super::{Hint, Observation, Sighting, launch};
use lease::heartbeat::Heartbeat;
use lease::ids::{Epoch, NodeId};
use lease::record::Row;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// A standby that has written a heartbeat that can be believed.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub heartbeat: &'a Heartbeat,
    pub priority: u64,
    pub life: Life,
    /// Its replica holds every acknowledged write.
    pub in_sync: bool,
    /// Whether it hears the holder on the peer link, by its own word. Only as good as `life`.
    pub hears_holder: bool,
}

/// Signs of life, best first. Heartbeats carry no time that could be compared with anything here, so it is movement that
/// counts: of the heartbeat's number while we look, or of what it has last seen of the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Life {
    /// The hint is its own word, or its heartbeat advanced while we looked.
    Proven,
    /// Its heartbeat has seen this epoch's latest beats: it was written seconds ago, as the row counts them.
    Fresh,
    /// Nothing recent is known.
    Doubtful,
    /// Its heartbeat stood still while we looked, or its instance does not run.
    Dead,
}

impl Candidate<'_> {
    pub(super) fn node(&self) -> &NodeId {
        &self.heartbeat.node
    }

    /// A whole image, fit to be opened.
    pub(super) fn whole(&self) -> bool {
        self.heartbeat.replica.consistent
    }

    /// It is never in sync, by its configuration.
    pub(super) fn is_asynchronous(&self) -> bool {
        // Nodes of before the word was told show it by what only these have.
        self.heartbeat.replica.asynchronous || self.heartbeat.replica.lag_ms.is_some()
    }

    /// A resource failed on it: moving there may only move the failure.
    pub(super) fn ailing(&self) -> bool {
        self.heartbeat.resources.iter().any(|resource| resource.state == "failed")
    }

    /// Alive first, then healthy, then priority as configured, then freshest.
    pub(super) fn order(&self) -> impl Ord + use<> {
        let freshest = Reverse((self.heartbeat.epoch, self.heartbeat.beat));
        (self.life.max(Life::Fresh), self.ailing(), self.priority, freshest, self.heartbeat.node.clone())
    }
}

/// The standbys of `row`, best first, and remarks on heartbeats that are not believed.
pub(super) fn standbys<'a>(seen: &'a Observation, row: &Row) -> (Vec<Candidate<'a>>, Vec<String>) {
    let mut found = Vec::new();
    let mut notes = Vec::new();
    let holder = row.holder.as_ref().map(|holder| &holder.node);
    for member in seen.config.nodes.iter().filter(|member| Some(&member.name) != holder) {
        let Some(sighting) = seen.heartbeats.as_ref().and_then(|all| all.get(&member.name)) else { continue };
        let heartbeat = &sighting.heartbeat;
        if heartbeat.cluster != seen.config.cluster || heartbeat.node != member.name {
            notes.push(format!(
                "heartbeat of {}: names {}/{}, not believed",
                member.name, heartbeat.cluster, heartbeat.node
            ));
            continue;
        }
        if heartbeat.instance != member.instance {
            notes.push(format!(
                "heartbeat of {}: from {}, not believed; the configuration names {}",
                member.name, heartbeat.instance, member.instance
            ));
            continue;
        }
        let in_row = holder.and_then(|holder| heartbeat.hears.get(holder)).is_some_and(|hearing| hearing.linked);
        let hears_holder = match &seen.hint {
            Hint::Suspected { node, hears, .. } if *node == member.name => *hears,
            _ => in_row,
        };
        found.push(Candidate {
            heartbeat,
            priority: member.priority,
            life: life(seen, row, sighting),
            in_sync: row.in_sync.contains(&heartbeat.incarnation),
            hears_holder,
        });
    }
    found.sort_by_key(Candidate::order);
    (found, notes)
}

/// Nodes whose movement has not been looked at yet.
pub(super) fn unmoved<'a>(candidates: impl IntoIterator<Item = &'a Candidate<'a>>) -> BTreeSet<NodeId> {
    let unsure = |candidate: &&Candidate<'_>| matches!(candidate.life, Life::Fresh | Life::Doubtful);
    candidates.into_iter().filter(unsure).map(|candidate| candidate.node().clone()).collect()
}

fn life(seen: &Observation, row: &Row, sighting: &Sighting) -> Life {
    let heartbeat = &sighting.heartbeat;
    let speaks = match &seen.hint {
        Hint::Suspected { node, .. } | Hint::Joined { node } => *node == heartbeat.node,
        _ => false,
    };
    if speaks || sighting.advanced == Some(true) {
        return Life::Proven;
    }
    if sighting.advanced == Some(false) || is_down(seen, heartbeat) {
        return Life::Dead;
    }
    // What has seen this epoch's beat k was written after beat k was made: not longer ago than the row took for the beats
    // since, and has stood still since the last. So also in an epoch that has only a few: it is as young itself. A living
    // standby's heartbeat is at most one interval old and shows beats of one read interval before that.
    let policy = &seen.config.policy;
    let recent = 2 + 2 * (policy.heartbeat_ms.0 + policy.row_read_ms.0) / policy.beat_ms.0.max(1);
    // Epoch 0 is also what a node says that has never seen a row. And where nobody holds, no beats pass by which a time
    // could be told: only who has just let go says that it was a moment ago.
    let counts = row.epoch > Epoch(0) && (row.holder.is_some() || matches!(seen.hint, Hint::Released { .. }));
    if counts && heartbeat.epoch == row.epoch && row.beat.0.saturating_sub(heartbeat.beat.0) <= recent {
        Life::Fresh
    } else {
        Life::Doubtful
    }
}

/// EC2 says that the boot which wrote this heartbeat no longer runs.
fn is_down(seen: &Observation, heartbeat: &Heartbeat) -> bool {
    let Some(described) = seen.instances.as_ref().and_then(|all| all.get(&heartbeat.instance)) else { return false };
    match described.state.as_str() {
        "terminated" | "shutting-down" => true,
        "stopped" | "stopping" => {
            described.launched.is_some() && described.launched == launch::seconds(&heartbeat.launched)
        }
        _ => false,
    }
}
