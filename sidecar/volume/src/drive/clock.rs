//! The one place of this crate that reads clocks. Everybody else is given a [`Moment`].

use lease::time::Moment;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Both clocks of this machine, now.
#[must_use]
pub(crate) fn now() -> Moment {
    let micros = |time: Timespec| {
        let (seconds, nanoseconds) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
        seconds * 1_000_000 + nanoseconds / 1_000
    };
    Moment {
        boottime_us: micros(clock_gettime(ClockId::Boottime)),
        monotonic_raw_us: micros(clock_gettime(ClockId::MonotonicRaw)),
    }
}
