//! How often a peer's heartbeat item may be read: the whole cluster has 1.5 reads a second, and its rows need one of them.

use lease::time::{Millis, Moment};

/// Reads that may be made at once.
const BURST: u32 = 5;
/// Then one in each of these.
const REFILL: Millis = Millis(5_000);
/// Between two reads of one peer, whatever the reason: an item that has just been read says nothing new.
const SPACING: Millis = Millis(400);

/// Reads of one peer's heartbeat that are left. Those for unknown keys and those for a peer that is not reached have their
/// own, so that neither a dead peer nor a stranger who knocks all day keeps a new key from being learnt.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    for_keys: Bucket,
    for_reach: Bucket,
    last: Option<Moment>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u32,
    /// When the last one was added.
    refilled: Moment,
}

impl Allowance {
    #[must_use]
    pub fn new(now: Moment) -> Self {
        let full = Bucket { left: BURST, refilled: now };
        Self { for_keys: full, for_reach: full, last: None }
    }

    /// Whether one may be made now. `for_key`: some key was not known; else the peer is not reached.
    pub fn take(&mut self, for_key: bool, now: Moment) -> bool {
        if self.last.is_some_and(|last| now.shortest_since(last) < SPACING) {
            return false;
        }
        let bucket = if for_key { &mut self.for_keys } else { &mut self.for_reach };
        let taken = bucket.take(now);
        if taken {
            self.last = Some(now);
        }
        taken
    }
}

impl Bucket {
    fn take(&mut self, now: Moment) -> bool {
        while self.left < BURST && now.shortest_since(self.refilled) >= REFILL {
            self.left += 1;
            self.refilled = self.refilled.after(REFILL);
        }
        if self.left == 0 {
            return false;
        }
        if self.left == BURST {
            self.refilled = now;
        }
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment { boottime_us: 0, monotonic_raw_us: 0 };

    #[test]
    fn strangers_and_dead_peers_cost_a_bounded_number_of_reads() {
        // A stranger knocks ten times a second for ten minutes, and the peer is dead.
        let mut allowance = Allowance::new(START);
        let made = (0..6_000).filter(|tenth| allowance.take(tenth % 2 == 0, START.after(Millis(tenth * 100)))).count();
        assert!((230..=260).contains(&made), "{made}: 0.4 a second");
    }

    #[test]
    fn a_dead_peer_keeps_no_new_key_from_being_learnt() {
        let mut allowance = Allowance::new(START);
        for second in 0..60 {
            allowance.take(false, START.after(Millis(second * 1_000)));
        }
        assert!(allowance.take(true, START.after(Millis(60_500))));
    }
}
