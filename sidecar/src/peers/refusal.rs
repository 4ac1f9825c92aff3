//! Why a peer is not talked to. Each cause has a word of its own, for metrics, and a text for both sides.

use lease::ids::{ClusterId, Lineage, NodeId};
use lease::time::{Millis, Moment};
use std::collections::BTreeMap;

/// How often one cause from one place is logged at most.
const LOG_EVERY: Millis = Millis(60_000);
/// A key that is not known yet is no trouble before it stays so for this long: a member that starts dials its peers before
/// they have looked at its first heartbeat.
const UNKNOWN_KEY_GRACE: Millis = Millis(10_000);
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
    #[error(
        "the cluster was made anew: this side knows lineage {mine}, the peer {found}; restart the one that is behind"
    )]
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

    /// Whether it is what two members say that have not seen each other's heartbeats yet.
    fn is_of_a_new_key(&self) -> bool {
        matches!(self, Self::UnpinnedKey { .. })
            || matches!(self, Self::ByPeer { cause, .. } if cause == "unpinned_key")
    }
}

/// What to do about a refusal beside counting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// It was told a moment ago.
    No,
    /// For the record: it is expected to pass.
    Info,
    /// Somebody has to look.
    Warn,
}

/// When a refusal was seen first and told last.
#[derive(Clone, Copy, Debug)]
struct Seen {
    first: Moment,
    last: Moment,
    warned: Option<Moment>,
}

/// Counts refusals by cause, and has each told once a minute and place.
#[derive(Debug, Default)]
pub struct Refusals {
    counts: BTreeMap<&'static str, u64>,
    seen: BTreeMap<(&'static str, String), Seen>,
}

impl Refusals {
    /// Counts it and says how it is to be told.
    pub fn count(&mut self, refusal: &Refusal, place: &str, now: Moment) -> Tell {
        *self.counts.entry(refusal.cause()).or_default() += 1;
        self.seen.retain(|_, seen| now.longest_since(seen.last) < LOG_EVERY);
        let place = if self.seen.len() < PLACES_MAX { place } else { "elsewhere" };
        let key = (refusal.cause(), place.to_owned());
        let grace = if refusal.is_of_a_new_key() { UNKNOWN_KEY_GRACE } else { Millis::ZERO };
        let new = !self.seen.contains_key(&key);
        let seen = self.seen.entry(key).or_insert(Seen { first: now, last: now, warned: None });
        seen.last = now;
        if now.longest_since(seen.first) < grace {
            return if new { Tell::Info } else { Tell::No };
        }
        if seen.warned.is_some_and(|at| now.longest_since(at) < LOG_EVERY) {
            return Tell::No;
        }
        seen.warned = Some(now);
        Tell::Warn
    }

    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment { boottime_us: 0, monotonic_raw_us: 0 };

    #[test]
    fn each_is_counted_and_told_once_a_minute_and_place() {
        let mut refusals = Refusals::default();
        let replayed = Refusal::Replayed { found: 1, last: 1 };
        let malformed = Refusal::Malformed { problem: "x".into() };
        assert_eq!(refusals.count(&replayed, "10.0.1.10", START), Tell::Warn);
        assert_eq!(refusals.count(&replayed, "10.0.1.10", START.after(Millis(1_000))), Tell::No);
        assert_eq!(refusals.count(&malformed, "10.0.1.10", START), Tell::Warn);
        assert_eq!(refusals.count(&replayed, "10.0.1.11", START), Tell::Warn);
        assert_eq!(refusals.counts(), BTreeMap::from([("replayed", 3), ("malformed", 1)]));
        // It goes on: told again each minute.
        let told =
            (1..130).filter(|s| refusals.count(&replayed, "10.0.1.10", START.after(Millis(s * 1_000))) == Tell::Warn);
        assert_eq!(told.count(), 2);
    }

    #[test]
    fn a_new_key_is_no_trouble_unless_it_stays_unknown() {
        let mut refusals = Refusals::default();
        let unknown = Refusal::UnpinnedKey { fingerprint: "f".into() };
        let told: Vec<Tell> =
            (0..12).map(|s| refusals.count(&unknown, "10.0.1.10", START.after(Millis(s * 1_000)))).collect();
        assert_eq!(told[0], Tell::Info);
        assert!(told[1..10].iter().all(|told| *told == Tell::No));
        assert_eq!(told[10..], [Tell::Warn, Tell::No]);
    }

    #[test]
    fn strangers_from_everywhere_fill_neither_the_memory_nor_the_log() {
        let mut refusals = Refusals::default();
        let strange = Refusal::Malformed { problem: "x".into() };
        let told = (0..1_000).filter(|n| refusals.count(&strange, &n.to_string(), START) == Tell::Warn).count();
        assert_eq!(told, PLACES_MAX + 1);
        assert!(refusals.seen.len() <= PLACES_MAX + 1);
    }
}
