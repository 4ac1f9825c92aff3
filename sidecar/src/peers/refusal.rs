//! Why a peer is not talked to. Each cause has a word of its own, for metrics, and a text for both sides.

use crate::clock;
use lease::ids::{ClusterId, Lineage, NodeId};
use lease::time::{Millis, Moment};
use std::collections::BTreeMap;

/// How often one cause from one place is logged at most.
const LOG_EVERY: Millis = Millis(60_000);
/// Places remembered for that. Strangers may come from anywhere; beyond it they share one entry.
const PLACES_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "the key with fingerprint {fingerprint} belongs to no member: members show theirs in their heartbeat items, so a \
         member that has just made a new key is known after its next heartbeat"
    )]
    UnpinnedKey { fingerprint: String },
    #[error("the key with fingerprint {fingerprint} is {owner}'s, but it speaks for {claimed}")]
    KeyOfAnother { fingerprint: String, owner: NodeId, claimed: NodeId },
    #[error("this is cluster {mine}, the peer belongs to {found}; correct `cluster` in one of the configurations")]
    AnotherCluster { mine: ClusterId, found: ClusterId },
    #[error("the cluster was made anew: this side knows lineage {mine}, the peer {found}; restart the one that is behind")]
    AnotherLineage { mine: Lineage, found: Lineage },
    #[error("the peer speaks protocol version {found}, older than this side's {mine}; update leasehold on the peer")]
    OlderProtocol { found: u64, mine: u64 },
    #[error("the peer speaks protocol version {found}, newer than this side's {mine}; update leasehold on this side")]
    NewerProtocol { found: u64, mine: u64 },
    #[error("sequence {found} after {last}: replayed or reordered")]
    Replayed { found: u64, last: u64 },
    #[error("a frame of session {found} in session {mine}: recorded on another connection")]
    AnotherSession { found: String, mine: String },
    #[error("a frame of {found_bytes} bytes; at most {allowed_bytes} are allowed")]
    Oversize { found_bytes: usize, allowed_bytes: usize },
    #[error("not a frame of this protocol: {problem}")]
    Malformed { problem: String },
    #[error("the peer refuses ({cause}): {message}")]
    ByPeer { cause: String, message: String },
}

impl Refusal {
    /// One word, for metrics and for the peer's program.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::UnpinnedKey { .. } => "unpinned_key",
            Self::KeyOfAnother { .. } => "key_of_another",
            Self::AnotherCluster { .. } => "another_cluster",
            Self::AnotherLineage { .. } => "another_lineage",
            Self::OlderProtocol { .. } => "older_protocol",
            Self::NewerProtocol { .. } => "newer_protocol",
            Self::Replayed { .. } => "replayed",
            Self::AnotherSession { .. } => "another_session",
            Self::Oversize { .. } => "oversize",
            Self::Malformed { .. } => "malformed",
            Self::ByPeer { .. } => "by_peer",
        }
    }

    /// Whether the pins that this side has may be out of date: a look at the heartbeat items may settle it.
    #[must_use]
    pub fn asks_for_pins(&self) -> bool {
        matches!(self, Self::UnpinnedKey { .. } | Self::KeyOfAnother { .. })
    }
}

/// Counts refusals by cause, and lets each be logged once a minute and place.
#[derive(Debug, Default)]
pub struct Refusals {
    counts: BTreeMap<&'static str, u64>,
    logged: BTreeMap<(&'static str, String), Moment>,
}

impl Refusals {
    /// Counts it. True: it is to be logged.
    pub fn count(&mut self, refusal: &Refusal, place: &str) -> bool {
        *self.counts.entry(refusal.cause()).or_default() += 1;
        let now = clock::now();
        self.logged.retain(|_, at| now.longest_since(*at) < LOG_EVERY);
        let place = if self.logged.len() < PLACES_MAX { place } else { "elsewhere" };
        let key = (refusal.cause(), place.to_owned());
        if self.logged.contains_key(&key) {
            return false;
        }
        self.logged.insert(key, now);
        true
    }

    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_and_logged_once() {
        let mut refusals = Refusals::default();
        let replayed = Refusal::Replayed { found: 1, last: 1 };
        let malformed = Refusal::Malformed { problem: "x".into() };
        assert!(refusals.count(&replayed, "10.0.1.10"));
        assert!(!refusals.count(&replayed, "10.0.1.10"));
        assert!(refusals.count(&malformed, "10.0.1.10"));
        assert!(refusals.count(&replayed, "10.0.1.11"));
        assert_eq!(refusals.counts(), BTreeMap::from([("replayed", 3), ("malformed", 1)]));
    }

    #[test]
    fn strangers_from_everywhere_do_not_fill_the_memory_or_the_log() {
        let mut refusals = Refusals::default();
        let logged = (0..1_000).filter(|n| refusals.count(&Refusal::UnpinnedKey { fingerprint: "f".into() }, &n.to_string())).count();
        assert_eq!(logged, PLACES_MAX + 1);
        assert!(refusals.logged.len() <= PLACES_MAX + 1);
    }
}
