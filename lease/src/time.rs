//! Time as values. Nobody in this crate may ask what time it is; moments come in, durations are compared.
//!
//! A node reads two clocks at once: `CLOCK_BOOTTIME`, which counts suspension, and `CLOCK_MONOTONIC_RAW`, which no clock
//! daemon slews. Each side of a lease believes the clock that is worse for itself: who holds a right takes the largest
//! elapsed time, who waits for another's right to end takes the smallest. Wall clocks decide nothing.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A duration in whole milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    pub const ZERO: Self = Self(0);

    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}
impl fmt::Debug for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}
impl From<Millis> for std::time::Duration {
    fn from(ms: Millis) -> Self {
        Self::from_millis(ms.0)
    }
}

/// One reading of a node's two clocks, in microseconds since an origin that only that node knows.
/// Moments of different nodes, or of different boots, must never meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct Moment {
    pub boottime_us: u64,
    pub monotonic_raw_us: u64,
}

impl Moment {
    /// Elapsed time as the holder of a right must count it: the larger of both clocks, rounded up.
    #[must_use]
    pub fn longest_since(self, then: Self) -> Millis {
        let us = (self.boottime_us.saturating_sub(then.boottime_us))
            .max(self.monotonic_raw_us.saturating_sub(then.monotonic_raw_us));
        Millis(us.div_ceil(1000))
    }

    /// Elapsed time as a watcher must count it: the smaller of both clocks, rounded down.
    #[must_use]
    pub fn shortest_since(self, then: Self) -> Millis {
        let us = (self.boottime_us.saturating_sub(then.boottime_us))
            .min(self.monotonic_raw_us.saturating_sub(then.monotonic_raw_us));
        Millis(us / 1000)
    }

    /// What is left of a right of `span` that began at `from`, as its holder counts it; zero once it is over.
    #[must_use]
    pub fn left_of(self, from: Self, span: Millis) -> Millis {
        span.minus(self.longest_since(from))
    }

    /// This moment later by `span` on both clocks. For timers and tests, not for rights.
    #[must_use]
    pub fn after(self, span: Millis) -> Self {
        Self { boottime_us: self.boottime_us + span.0 * 1000, monotonic_raw_us: self.monotonic_raw_us + span.0 * 1000 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_believes_the_fast_clock_and_a_watcher_the_slow_one() {
        let then = Moment { boottime_us: 1_000_000, monotonic_raw_us: 5_000_000 };
        let now = Moment { boottime_us: 4_000_500, monotonic_raw_us: 7_000_500 };
        assert_eq!(now.longest_since(then), Millis(3001));
        assert_eq!(now.shortest_since(then), Millis(2000));
        assert_eq!(now.left_of(then, Millis(3000)), Millis::ZERO);
    }

    #[test]
    fn each_side_rounds_against_itself() {
        let then = Moment { boottime_us: 500, monotonic_raw_us: 500 };
        let now = Moment { boottime_us: 1_499, monotonic_raw_us: 1_499 };
        assert_eq!((now.longest_since(then), now.shortest_since(then)), (Millis(1), Millis::ZERO));
        let now = Moment { boottime_us: 1_500, monotonic_raw_us: 1_500 };
        assert_eq!((now.longest_since(then), now.shortest_since(then)), (Millis(1), Millis(1)));
        assert_eq!(now.left_of(then, Millis(3)), Millis(2));
    }

    #[test]
    fn durations_end_at_zero_and_at_the_largest() {
        assert_eq!((Millis(5).minus(Millis(2)), Millis(2).minus(Millis(5))), (Millis(3), Millis::ZERO));
        assert_eq!((Millis(5).plus(Millis(2)), Millis(u64::MAX).plus(Millis(2))), (Millis(7), Millis(u64::MAX)));
        assert_eq!(std::time::Duration::from(Millis(1_500)), std::time::Duration::from_micros(1_500_000));
        assert_eq!((Millis(7).to_string(), format!("{:?}", Millis(7))), ("7 ms".into(), "7ms".into()));
    }

    #[test]
    fn a_later_moment_is_later_on_both_clocks() {
        let then = Moment { boottime_us: 1, monotonic_raw_us: 2 };
        assert_eq!(then.after(Millis(3)), Moment { boottime_us: 3_001, monotonic_raw_us: 3_002 });
    }

    #[test]
    fn a_clock_that_goes_back_gives_no_elapsed_time_to_the_watcher() {
        let then = Moment { boottime_us: 9_000, monotonic_raw_us: 9_000 };
        let now = Moment { boottime_us: 1_000, monotonic_raw_us: 90_000 };
        assert_eq!(now.shortest_since(then), Millis::ZERO);
        assert_eq!(now.longest_since(then), Millis(81));
    }
}
