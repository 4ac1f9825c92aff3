//! Looking for what comes next, instead of sleeping until it comes.
//!
//! Who sleeps has to be woken, and with one write at a time that takes longer than the write: each side sleeps for it once or twice. So
//! where one thing closely follows another, the thread looks for the next one for a moment before it sleeps, as KVM does for its guests
//! (`halt_poll_ns`). It keeps the processor from nobody: it offers it in each round, and where somebody takes it for long, it sleeps
//! at once for a while. With a single processor nobody could answer while it looks, so there it never does.

use lease::time::Moment;

/// What comes within so many microseconds comes closely: the answer of a neighbour and of a disk that are fast. What takes longer is
/// waited for asleep.
const CLOSE_US: u64 = 100;
/// So many things in a row have come closely before the next is looked for.
const ENOUGH: u32 = 4;
/// Between two rounds; who waited longer has company on its processor.
const HELD_UP_US: u64 = 1_000;
/// And leaves it alone for so long.
const REST_US: u64 = 1_000_000;

#[derive(Debug, Default)]
pub(super) struct Vigil {
    /// When the last thing came, and how many in a row came closely.
    came: u64,
    close: u32,
    /// The last round, and until when there is none.
    looked: u64,
    rests: u64,
}

impl Vigil {
    /// Something has come. True: the next one is to be looked for.
    pub(super) fn came(&mut self, now: Moment) -> bool {
        let now = now.monotonic_raw_us;
        let is_close = now.saturating_sub(self.came) <= CLOSE_US;
        self.close = if is_close { self.close.saturating_add(1) } else { 0 };
        (self.came, self.looked) = (now, now);
        self.close >= ENOUGH && now >= self.rests
    }

    /// Nothing was found in this round. False: no more looking, until something comes by itself.
    pub(super) fn goes_on(&mut self, now: Moment) -> bool {
        let now = now.monotonic_raw_us;
        if now.saturating_sub(self.looked) >= HELD_UP_US {
            self.rests = now + REST_US;
        }
        self.looked = now;
        now >= self.rests && now.saturating_sub(self.came) < CLOSE_US
    }
}

#[cfg(test)]
mod tests {
    use super::{CLOSE_US, ENOUGH, HELD_UP_US, REST_US, Vigil};
    use lease::time::Moment;

    fn at(us: u64) -> Moment {
        Moment { boottime_us: us, monotonic_raw_us: us }
    }

    /// One that looks, because enough has come closely; and when the last came.
    fn looking() -> (Vigil, u64) {
        let mut vigil = Vigil::default();
        let mut now = 1_000_000;
        for number in 0..=ENOUGH {
            now += CLOSE_US;
            assert_eq!(vigil.came(at(now)), number == ENOUGH);
        }
        (vigil, now)
    }

    #[test]
    fn it_looks_for_what_may_come_closely_and_not_longer() {
        let (mut vigil, came) = looking();
        assert!(vigil.goes_on(at(came + CLOSE_US - 1)));
        assert!(!vigil.goes_on(at(came + CLOSE_US)));
        // The next one took longer: it is begun anew.
        assert!(!vigil.came(at(came + 2 * CLOSE_US)));
    }

    #[test]
    fn nothing_is_looked_for_while_things_come_seldom() {
        let mut vigil = Vigil::default();
        assert!((1..1_000).all(|number| !vigil.came(at(number * (CLOSE_US + 1)))));
    }

    #[test]
    fn where_somebody_else_wants_the_processor_it_sleeps_for_a_while() {
        let (mut vigil, came) = looking();
        let held_up = came + HELD_UP_US;
        assert!(!vigil.goes_on(at(held_up)));
        let tells = |vigil: &mut Vigil, from: u64| (0..10).any(|number| vigil.came(at(from + number)));
        assert!(!tells(&mut vigil, held_up + 1));
        assert!(tells(&mut vigil, held_up + REST_US));
    }
}
