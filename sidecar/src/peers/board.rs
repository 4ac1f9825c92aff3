//! What is known of the connections to peers, for status and metrics, and what is counted on them.

use super::refusal::{Refusal, Refusals, Tell};
use crate::clock;
use lease::ids::{Incarnation, NodeId};
use lease::record::Holder;
use lease::time::{Millis, Moment};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// One direction of a peer link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Direction {
    up_since: Option<Moment>,
    problem: Option<String>,
    incarnation: Option<Incarnation>,
}

/// One peer, for people and programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PeerState {
    pub node: String,
    pub address: Option<String>,
    pub fingerprint: Option<String>,
    /// Its replica, as it last named it on the link.
    pub incarnation: Option<Incarnation>,
    /// The connection that this node dials: `None` while it is down.
    pub outgoing_up_ms: Option<Millis>,
    /// The connection that the peer dials.
    pub incoming_up_ms: Option<Millis>,
    /// Why the last attempt failed or the last connection ended.
    pub problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Outgoing,
    Incoming,
}

#[derive(Debug, Default)]
pub struct Board {
    links: Mutex<BTreeMap<(NodeId, bool), Direction>>,
    refusals: Mutex<Refusals>,
    pub frames_sent: AtomicU64,
    pub frames_received: AtomicU64,
    /// Messages for the core that it had no room for.
    pub frames_dropped: AtomicU64,
}

impl Board {
    pub(super) fn up(&self, peer: &Holder, way: Way) {
        let incarnation = Some(peer.incarnation.clone());
        let direction = Direction { up_since: Some(clock::now()), problem: None, incarnation };
        self.links().insert((peer.node.clone(), way == Way::Outgoing), direction);
    }

    pub(super) fn down(&self, node: &NodeId, way: Way, problem: String) {
        let mut links = self.links();
        let direction = links.entry((node.clone(), way == Way::Outgoing)).or_default();
        direction.up_since = None;
        direction.problem = Some(problem);
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<(NodeId, bool), Direction>> {
        self.links.lock().expect("no thread panics while it holds this")
    }

    /// Counts a refusal, and logs it if it is the first of its kind for a while.
    pub(super) fn refused(&self, refusal: &Refusal, place: &str) {
        let tell =
            self.refusals.lock().expect("no thread panics while it holds this").count(refusal, place, clock::now());
        match tell {
            Tell::No => {}
            Tell::Info => tracing::info!(cause = refusal.cause(), place, "peer link not yet: {refusal}"),
            Tell::Warn => tracing::warn!(cause = refusal.cause(), place, "peer link refused: {refusal}"),
        }
    }

    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Refusals so far, by cause.
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.refusals.lock().expect("no thread panics while it holds this").counts()
    }

    /// Both connections to `node`, as they are now.
    pub fn state(&self, node: &NodeId) -> PeerState {
        let links = self.links();
        let (outgoing, incoming) = (links.get(&(node.clone(), true)), links.get(&(node.clone(), false)));
        let now = clock::now();
        let up = |direction: Option<&Direction>| direction?.up_since.map(|since| now.shortest_since(since));
        let problem = |direction: Option<&Direction>| direction?.problem.clone();
        PeerState {
            node: node.to_string(),
            address: None,
            fingerprint: None,
            incarnation: outgoing.or(incoming).and_then(|direction| direction.incarnation.clone()),
            outgoing_up_ms: up(outgoing),
            incoming_up_ms: up(incoming),
            problem: problem(outgoing).or_else(|| problem(incoming)),
        }
    }
}
