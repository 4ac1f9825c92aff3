//! A node's two clocks: each runs at its own rate within 1 ± ρ, starts anew with each boot, and may be frozen with its VM.

use crate::trace::Us;
use lease::time::Moment;

/// Where every boot's clocks begin. Not zero: no node may take a clock's value for a time since anything.
const ORIGIN: Us = 1_000_000_000;

#[derive(Clone, Debug)]
pub struct Clock {
    /// Parts in a million of real time.
    boot_ppm: u64,
    raw_ppm: u64,
    /// The reading at this real time; it goes on from here.
    since: Us,
    base: Moment,
}

impl Clock {
    #[must_use]
    pub fn booted(now: Us, boot_ppm: u64, raw_ppm: u64) -> Self {
        Self { boot_ppm, raw_ppm, since: now, base: Moment { boottime_us: ORIGIN, monotonic_raw_us: ORIGIN / 2 } }
    }

    #[must_use]
    pub fn read(&self, now: Us) -> Moment {
        let elapsed = now.checked_sub(self.since).expect("a clock is not asked about a time before it was last set");
        Moment {
            boottime_us: self.base.boottime_us + elapsed * self.boot_ppm / 1_000_000,
            monotonic_raw_us: self.base.monotonic_raw_us + elapsed * self.raw_ppm / 1_000_000,
        }
    }

    /// Other rates from now on.
    pub fn set_rates(&mut self, now: Us, boot_ppm: u64, raw_ppm: u64) {
        *self = Self { boot_ppm, raw_ppm, since: now, base: self.read(now) };
    }

    /// The VM stood still from `then` to `now`, and its clocks with it.
    pub fn stood_still(&mut self, then: Us, now: Us) {
        *self = Self { since: now, base: self.read(then), ..self.clone() };
    }

    /// The machine was suspended from `then` to `now`: one clock counts that, the other does not.
    pub fn slept(&mut self, then: Us, now: Us) {
        let base = Moment { monotonic_raw_us: self.read(then).monotonic_raw_us, ..self.read(now) };
        *self = Self { since: now, base, ..self.clone() };
    }

    /// Real time until the kernel's timer of `ms` fires: it counts on the raw clock.
    #[must_use]
    pub fn real_us(&self, ms: u64) -> Us {
        ms * 1_000 * 1_000_000 / self.raw_ppm
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lease::time::Millis;

    #[test]
    fn rates_and_stalls_count() {
        let mut clock = Clock::booted(0, 1_100_000, 900_000);
        let start = clock.read(0);
        assert_eq!(clock.read(1_000_000).longest_since(start), Millis(1_100));
        assert_eq!(clock.read(1_000_000).shortest_since(start), Millis(900));
        clock.stood_still(1_000_000, 5_000_000);
        assert_eq!(clock.read(5_000_000), Clock::booted(0, 1_100_000, 900_000).read(1_000_000));
        clock.set_rates(5_000_000, 1_000_000, 1_000_000);
        assert_eq!(clock.read(6_000_000).longest_since(start), Millis(2_100));
        let before = clock.read(6_000_000);
        clock.slept(6_000_000, 9_000_000);
        assert_eq!(clock.read(9_000_000).longest_since(before), Millis(3_000));
        assert_eq!(clock.read(9_000_000).shortest_since(before), Millis(0));
        assert_eq!(Clock::booted(0, 1_000_000, 900_000).real_us(900), 1_000_000);
    }
}
