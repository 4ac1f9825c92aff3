//! Whether a thread still turns, seen from another one. A thread that hangs says nothing, and nothing waits for it: a node whose
//! volumes hang would keep its lease and serve nobody.

use crate::node::TICK;
use lease::time::Millis;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longer than a turn may ever take. A disk that stands still holds no thread up.
pub const LIMIT: Millis = Millis(20_000);

/// The watcher's side. It counts its own turns, not time: after a stop or a suspension of the whole process nobody has turned, and
/// nobody hangs.
#[derive(Debug)]
pub struct Standstill {
    turns: Arc<AtomicU64>,
    seen: u64,
    idle: u64,
}

impl Standstill {
    /// `turns` rises with each turn of the thread that is watched.
    #[must_use]
    pub fn new(turns: Arc<AtomicU64>) -> Self {
        Self { turns, seen: 0, idle: 0 }
    }

    /// To be asked every [`TICK`]: whether the thread has not turned for [`LIMIT`].
    pub fn is_one(&mut self) -> bool {
        let turns = self.turns.load(Ordering::Relaxed);
        self.idle = if turns == self.seen { self.idle + 1 } else { 0 };
        self.seen = turns;
        self.idle * TICK.0 >= LIMIT.0
    }
}

#[cfg(test)]
mod tests {
    use super::{LIMIT, Standstill};
    use crate::node::TICK;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn a_thread_that_does_not_turn_is_noticed_and_one_that_turns_seldom_is_not() {
        let turns = Arc::new(AtomicU64::new(0));
        let mut watched = Standstill::new(Arc::clone(&turns));
        let limit = LIMIT.0 / TICK.0;
        for _ in 0..3 {
            turns.fetch_add(1, Ordering::Relaxed);
            assert!((0..limit).all(|_| !watched.is_one()), "it has turned a moment ago");
        }
        assert!(watched.is_one());
        turns.fetch_add(1, Ordering::Relaxed);
        assert!(!watched.is_one());
    }
}
