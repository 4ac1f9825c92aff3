//! The one place that reads clocks. Everybody else is given a [`Moment`].

use lease::time::Moment;
use nix::time::{ClockId, clock_gettime};

/// Both clocks of this node, now.
///
/// # Panics
/// Where the kernel has no `CLOCK_BOOTTIME` or `CLOCK_MONOTONIC_RAW` (before Linux 2.6.39): nothing can be decided there.
#[must_use]
pub fn now() -> Moment {
    Moment { boottime_us: read(ClockId::CLOCK_BOOTTIME), monotonic_raw_us: read(ClockId::CLOCK_MONOTONIC_RAW) }
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("Linux has this clock since 2.6.39");
    let seconds = u64::try_from(time.tv_sec()).expect("these clocks start at 0 and never go back");
    let nanoseconds = u64::try_from(time.tv_nsec()).expect("nanoseconds of a time are not negative");
    seconds * 1_000_000 + nanoseconds / 1_000
}

#[cfg(test)]
mod tests {
    use lease::time::Millis;

    #[test]
    fn both_clocks_run_on() {
        let then = super::now();
        while super::now().shortest_since(then) < Millis(2) {}
        assert!(super::now().longest_since(then) < Millis(1_000));
    }
}
