//! How fast resyncs may go beside the writes that go on: as fast as it goes while nobody writes; else as fast as the writes stand it.
//!
//! ```text
//!  latencies of the writes ──▶ each period: those under the resync, held against those without it ──▶ [`decide`] ──▶ bytes a second
//! ```
//! "Without it" is what was seen while nothing was copied, and what is seen at the floor, which is kept in any case so that a resync
//! ends. While writes go on, the resync listens now and then: it goes down to the floor for a moment and hears what they take then. So
//! a load that has changed since it began does not keep it down, nor let it do harm.
//!
//! What is compared is the 95th percentile: what people complain of is not the middle.

use lease::time::{Millis, Moment};

/// Bytes a second that a resync may read, unless the configuration says otherwise: a TiB takes a day and a half then, and the smallest
/// EBS volumes give sixteen times as much.
pub const FLOOR: u64 = 8 << 20;
/// What is asked is decided after so long, if so many writes were answered; and after so long in any case.
const PERIOD: Millis = Millis(100);
const ENOUGH: u32 = 20;
const PERIOD_MAX: Millis = Millis(1_000);
/// Fewer writes say nothing of how it is without a resync.
const ALONE_LEAST: u32 = 8;
/// And a write that took longer than this without one has waited for a member or the gate, not for a disk.
const ALONE_MAX_US: u64 = 500_000;
/// Between two moments of listening: what they cost is about a fiftieth.
const LISTEN_EVERY: Millis = Millis(10_000);
/// Periods at the floor before one counts: what was on its way is through by then.
const CALM: u32 = 2;
/// What may be read at once after nothing was, in milliseconds of the rate: the time between two looks.
const BURST_MS: u64 = super::TICK.0;

/// Within which bytes a second a resync goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Not slower than this, whatever it does to the writes.
    pub floor: u64,
    /// Not faster than this, even where nobody writes; not below the floor. `u64::MAX`: as fast as it goes.
    pub ceiling: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { floor: FLOOR, ceiling: u64::MAX }
    }
}

/// What was seen in one period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// 95th percentiles of what writes take, in microseconds; `None`: not known, or there were none.
    alone_us: Option<u64>,
    beside_us: Option<u64>,
    /// What was read for resyncs.
    bytes_s: u64,
    /// Writes that are kept fill the room that there is for them.
    pressed: bool,
}

/// The next limit. Half as slow again is too slow; between that and a fifth it stays as it is.
fn decide(limits: Limits, limit: u64, seen: Seen) -> u64 {
    // A limit that was not reached has slowed nothing.
    let slower = limit.min(seen.bytes_s) / 10 * 7;
    let next = match (seen.alone_us, seen.beside_us) {
        _ if seen.pressed => slower,
        (_, None) => limits.ceiling,
        (None, Some(_)) => limits.floor,
        (Some(alone), Some(beside)) if beside > alone.saturating_mul(3) / 2 => slower,
        (Some(alone), Some(beside)) if beside <= alone.saturating_mul(6) / 5 => limit.saturating_mul(3) / 2,
        (Some(_), Some(_)) => limit,
    };
    next.clamp(limits.floor, limits.ceiling)
}

/// Classes in which latencies are counted: four for each doubling, up to 16 s.
const CLASSES: usize = 96;

/// How often what was seen.
#[derive(Clone, Debug)]
struct Latencies {
    counts: [u32; CLASSES],
    total: u32,
}

impl Latencies {
    const NONE: Self = Self { counts: [0; CLASSES], total: 0 };

    fn add(&mut self, us: u64) {
        let us = us.max(4);
        let doublings = us.ilog2();
        let quarter = (us >> (doublings - 2)) & 3;
        let class = doublings as usize * 4 + usize::try_from(quarter).expect("below four");
        self.counts[class.min(CLASSES - 1)] += 1;
        self.total += 1;
    }

    fn take_in(&mut self, others: &Self) {
        self.counts.iter_mut().zip(others.counts).for_each(|(count, more)| *count += more);
        self.total += others.total;
    }

    /// Half of it is forgotten.
    fn fade(&mut self) {
        self.counts.iter_mut().for_each(|count| *count /= 2);
        self.total = self.counts.iter().sum();
    }

    /// The 95th percentile: the least of its class.
    fn tail_us(&self) -> Option<u64> {
        let rank = (u64::from(self.total) * 95).div_ceil(100);
        let mut below = 0;
        let at = self.counts.iter().position(|count| {
            below += u64::from(*count);
            below >= rank && rank > 0
        })?;
        let (doublings, quarter) = (at / 4, at as u64 % 4);
        Some((4 + quarter) << doublings >> 2)
    }
}

/// The rate of all resyncs of one holder together.
#[derive(Debug)]
pub(super) struct Rate {
    limits: Limits,
    limit: u64,
    /// Bytes that may be read now, as of then.
    allowance: u64,
    filled: Moment,
    /// Of this period.
    since: Moment,
    bytes: u64,
    beside: Latencies,
    alone: Latencies,
    /// Periods at the floor, without a break.
    calm: u32,
    /// It listens, and goes on with this limit then; and when it has listened last.
    resumes: Option<u64>,
    listened: Moment,
}

impl Rate {
    pub(super) fn new(limits: Limits, now: Moment) -> Self {
        Self {
            limits,
            limit: limits.ceiling,
            allowance: 0,
            filled: now,
            since: now,
            bytes: 0,
            beside: Latencies::NONE,
            alone: Latencies::NONE,
            calm: 0,
            resumes: None,
            listened: now,
        }
    }

    /// What it is held to now; `None`: to nothing.
    pub(super) fn limit(&self) -> Option<u64> {
        (self.limit < u64::MAX).then_some(self.limit)
    }

    /// A write was answered, so long after it was asked.
    pub(super) fn answered(&mut self, us: u64, copies: bool) {
        if copies {
            self.beside.add(us);
        } else if us <= ALONE_MAX_US {
            self.alone.add(us);
            if self.alone.total >= 512 {
                self.alone.fade();
            }
        }
    }

    /// Nothing is copied: the next resync begins as fast as it goes.
    pub(super) fn rests(&mut self, now: Moment) {
        (self.limit, self.since, self.bytes, self.calm) = (self.limits.ceiling, now, 0, 0);
        (self.resumes, self.listened) = (None, now);
        if self.beside.total > 0 {
            self.beside = Latencies::NONE;
        }
    }

    /// Looks whether the limit is to be another. `urgent`: all writes wait for a resync.
    pub(super) fn look(&mut self, now: Moment, urgent: bool, pressed: bool) {
        if urgent {
            self.rests(now);
            return;
        }
        let elapsed = now.shortest_since(self.since);
        if elapsed < PERIOD || self.beside.total < ENOUGH && elapsed < PERIOD_MAX {
            return;
        }
        let floor = self.limits.floor;
        self.calm = if self.limit == floor { self.calm + 1 } else { 0 };
        let calm = self.calm >= CALM;
        if calm && !pressed {
            if self.beside.total >= ENOUGH {
                // Nothing of before counts any more: a load that is lighter now would not be noticed.
                self.alone = Latencies::NONE;
            }
            self.alone.take_in(&self.beside);
        }
        let seen = Seen {
            alone_us: self.alone.tail_us().filter(|_| self.alone.total >= ALONE_LEAST),
            beside_us: self.beside.tail_us(),
            bytes_s: self.bytes.saturating_mul(1_000) / elapsed.0,
            pressed,
        };
        match self.resumes {
            Some(_) if !calm => {}
            Some(limit) => (self.limit, self.resumes, self.listened) = (limit, None, now),
            None => {
                self.limit = decide(self.limits, self.limit, seen);
                let due = seen.beside_us.is_some() && now.shortest_since(self.listened) >= LISTEN_EVERY;
                if due && self.limit > floor {
                    // Not from a limit that nothing has reached.
                    self.resumes = Some(self.limit.min(seen.bytes_s.saturating_mul(2)).max(floor));
                    self.limit = floor;
                }
            }
        }
        (self.since, self.bytes, self.beside) = (now, 0, Latencies::NONE);
    }

    /// Whether so much may be read now; then it counts.
    pub(super) fn takes(&mut self, bytes: u64, now: Moment) -> bool {
        if self.limit < u64::MAX {
            let elapsed = now.shortest_since(self.filled);
            if elapsed > Millis::ZERO {
                self.filled = now;
                let most = (self.limit / 1_000).saturating_mul(BURST_MS).max(bytes);
                let more = (self.limit / 1_000).saturating_mul(elapsed.0);
                self.allowance = self.allowance.saturating_add(more).min(most);
            }
            if self.allowance < bytes {
                return false;
            }
            self.allowance -= bytes;
        }
        self.bytes += bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { floor: 10, ceiling: 1_000 };

    fn after(limit: u64, alone_us: Option<u64>, beside_us: Option<u64>) -> u64 {
        decide(LIMITS, limit, Seen { alone_us, beside_us, bytes_s: limit, pressed: false })
    }

    #[test]
    fn it_yields_to_writes_that_are_slower_than_without_it() {
        assert_eq!(after(100, Some(200), Some(301)), 70, "half as slow again is too much");
        assert_eq!(after(100, Some(200), Some(300)), 100);
        assert_eq!(after(100, Some(200), Some(241)), 100, "not quite as without it");
        assert_eq!(after(100, Some(200), Some(240)), 150);
        assert_eq!(after(100, Some(200), Some(20)), 150);
    }

    #[test]
    fn it_stays_between_floor_and_ceiling() {
        assert_eq!(after(10, Some(1), Some(1_000_000)), 10, "whatever it does to the writes");
        assert_eq!(after(1_000, Some(9), Some(9)), 1_000);
        assert_eq!(after(20, Some(9), None), 1_000, "nobody writes");
        assert_eq!(after(500, None, Some(9)), 10, "what they take without it is not known: it is heard at the floor");
    }

    #[test]
    fn a_limit_that_was_not_reached_slows_nothing() {
        let seen = Seen { alone_us: Some(1), beside_us: Some(9), bytes_s: 100, pressed: false };
        assert_eq!(decide(LIMITS, 1_000, seen), 70, "of what it was in fact");
        let seen = Seen { pressed: true, beside_us: None, ..seen };
        assert_eq!(decide(LIMITS, 1_000, seen), 70, "no room for what is written: nobody is answered");
    }

    #[test]
    fn a_percentile_is_right_to_a_quarter_of_a_doubling() {
        for us in [4, 100, 999, 65_536, 900_000] {
            let mut seen = Latencies::NONE;
            (0..100).for_each(|number| seen.add(if number < 94 { 1 } else { us }));
            let tail = seen.tail_us().expect("there are some");
            assert!(tail <= us && us * 4 <= tail * 5, "{us}: {tail}");
            seen.fade();
            assert_eq!((seen.total, seen.tail_us()), (50, Some(tail)));
        }
        assert_eq!(Latencies::NONE.tail_us(), None);
        let mut far = Latencies::NONE;
        far.add(u64::MAX);
        assert!(far.tail_us() > Some(8_000_000));
    }

    #[test]
    fn what_was_not_read_is_not_saved_up() {
        let begin = Moment::default();
        let mut rate = Rate::new(Limits { floor: 1_000, ceiling: 64_000 }, begin);
        assert!(!rate.takes(1_000, begin), "nothing has been earned");
        let later = begin.after(Millis(60_000));
        let taken = (0..100).take_while(|_| rate.takes(1_000, later)).count();
        assert_eq!(taken, 3, "what {BURST_MS} ms give");
        assert!(rate.takes(3_000, later.after(Millis(50))));
    }

    /// A disk in which writes take `load` and as much again for each MiB/s of the resync: what rates it comes to.
    struct Disk {
        rate: Rate,
        now: Moment,
        load_us: u64,
    }

    impl Disk {
        /// For so many milliseconds, a write each: MiB a second that were read.
        fn run(&mut self, ms: u64, writes: bool) -> u64 {
            let mut bytes = 0;
            for _ in 0..ms {
                self.now = self.now.after(Millis(1));
                self.rate.look(self.now, false, false);
                // No disk gives more than 256 MiB/s.
                let mut left = 4;
                while left > 0 && self.rate.takes(64 << 10, self.now) {
                    (left, bytes) = (left - 1, bytes + (64 << 10));
                }
                if writes {
                    let mib_s = self.rate.limit().unwrap_or(u64::MAX).min(256 << 20) >> 20;
                    self.rate.answered(self.load_us + self.load_us * mib_s / 50, true);
                }
            }
            (bytes * 1_000 / ms) >> 20
        }
    }

    fn disk(alone: bool) -> Disk {
        let mut disk =
            Disk { rate: Rate::new(Limits::default(), Moment::default()), now: Moment::default(), load_us: 1_000 };
        if alone {
            (0..100).for_each(|_| disk.rate.answered(disk.load_us, false));
        }
        disk
    }

    #[test]
    fn it_finds_what_the_writes_stand_whether_it_knew_them_before_or_not() {
        for alone in [true, false] {
            let mut disk = disk(alone);
            disk.run(3_000, true);
            let rate = disk.run(20_000, true);
            assert!((10..=35).contains(&rate), "half as slow again is at 25 MiB/s: {rate}");
        }
    }

    #[test]
    fn it_goes_as_fast_as_it_can_where_nobody_writes() {
        let mut disk = disk(true);
        assert!(disk.run(1_000, false) >= 240);
        disk.run(3_000, true);
        assert!(disk.run(1_000, true) < 40);
        disk.run(2_000, false);
        assert!(disk.run(1_000, false) >= 240, "again");
    }

    /// Whoever held them against what they took when it began would stay at the floor for ever, or never yield.
    #[test]
    fn it_hears_that_the_load_has_changed() {
        let mut disk = disk(true);
        disk.run(5_000, true);
        disk.load_us = 4_000;
        disk.run(15_000, true);
        let rate = disk.run(10_000, true);
        assert!((10..=35).contains(&rate), "heavier: {rate}");
        disk.load_us = 500;
        disk.run(25_000, true);
        let rate = disk.run(10_000, true);
        assert!((10..=35).contains(&rate), "lighter: {rate}");
    }
}
