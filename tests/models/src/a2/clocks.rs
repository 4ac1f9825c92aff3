//! Ages on a node's clocks, and the shipping rules about them.

use crate::rows::{self, Member, Members, Memo, Packed, TTL, asked};
use lease::accept::Vigil;
use lease::authority::{Authority, Standing};
use lease::ids::{Beat, Epoch};
use lease::policy::Policy;
use lease::time::{Millis, Moment};
use std::cell::RefCell;

/// What one tick of real time is on a node's clocks. The two differ by (1+ρ)/(1-ρ) at the policy's ρ = 20 %: a lease of
/// 2.4 s lasts three ticks on the slow clock, and the wait of 3.6 s is over after three ticks on the fast one. Nothing is
/// left between them, so a wait that is too short by anything is too short by a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Rate {
    Slow,
    Fast,
}

impl Rate {
    fn micros(self) -> u64 {
        match self {
            Self::Slow => 800_000,
            Self::Fast => 1_200_000,
        }
    }
}

/// Older than any right, wait or promise on any clock: 6.4 s at least.
const OLDEST: u8 = 8;

/// How long ago something was, in ticks: by the clock that counts suspension, and by the one that stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Age {
    pub(crate) boot: u8,
    pub(crate) raw: u8,
}

impl Age {
    pub(crate) const NOW: Self = Self { boot: 0, raw: 0 };
    pub(crate) const LONG_AGO: Self = Self { boot: OLDEST, raw: OLDEST };

    pub(crate) fn pass(&mut self, asleep: bool) {
        self.boot = (self.boot + 1).min(OLDEST);
        self.raw = (self.raw + u8::from(!asleep)).min(OLDEST);
    }

    fn moment(self, rate: Rate) -> Moment {
        let now = now();
        Moment {
            boottime_us: now.boottime_us - u64::from(self.boot) * rate.micros(),
            monotonic_raw_us: now.monotonic_raw_us - u64::from(self.raw) * rate.micros(),
        }
    }
}

/// Every question is asked at this moment; what was before lies before it.
fn now() -> Moment {
    Moment::default().after(Millis(100_000))
}

/// What a holder knows of its right to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Right {
    /// Since the send of the last renewal that was applied.
    pub(crate) lease: Option<Age>,
    pub(crate) need: Members,
    /// The need and the terms are proven by an applied write.
    pub(crate) proven: bool,
    /// Since the send of the last ping that each node answered with a promise.
    pub(crate) promises: [Option<Age>; rows::NODES],
    /// The epoch allows lossy failover.
    pub(crate) lossy: bool,
}

/// How a holder counts; what differs from the default is a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Counting {
    pub(crate) promise_in_full: bool,
    pub(crate) ignores_suspension: bool,
    pub(crate) one_promise_is_enough: bool,
    pub(crate) never_alone: bool,
}

impl Right {
    fn real(&self, rate: Rate, how: Counting) -> Authority {
        let seen = |age: Age| if how.ignores_suspension { Age { boot: age.raw, ..age } } else { age };
        let mut policy = rows::policy();
        if how.promise_in_full {
            policy.clock_rate_bound_ppm = 0;
        }
        let members: Vec<Member> = self.need.each().collect();
        let mut authority = Authority::of_new_epoch(members.iter().map(|member| rows::incarnation(*member)));
        if self.proven {
            authority.proven(members.iter().map(|member| rows::incarnation(*member)), self.lossy);
        }
        if let Some(age) = self.lease {
            authority.renewed(seen(age).moment(rate), TTL);
        }
        for member in members {
            if let Some(age) = self.promises[member.node()] {
                authority.promised(&rows::incarnation(member), seen(age).moment(rate), policy.promise_ms, &policy);
            }
        }
        authority
    }

    /// What [`Authority::standing`] says now.
    pub(crate) fn standing(&self, rate: Rate, how: Counting) -> Standing {
        thread_local!(static SAID: RefCell<Memo<(Right, Rate, Counting), Standing>> = RefCell::default());
        asked(&SAID, (*self, rate, how), || {
            let authority = self.real(rate, how);
            let standing = authority.standing(now());
            if how.one_promise_is_enough {
                let longest =
                    self.need.each().map(|member| authority.promise_left(&rows::incarnation(member), now())).max();
                let longest = longest.filter(|left| *left > Millis::ZERO && self.proven && !self.lossy);
                return longest.map_or(standing, Standing::For);
            }
            match standing {
                Standing::Alone if how.never_alone => match authority.lease_left(now()) {
                    Millis::ZERO => Standing::None,
                    left => Standing::For(left),
                },
                standing => standing,
            }
        })
    }

    /// The lease alone, without promises.
    pub(crate) fn lease_runs(&self, rate: Rate, how: Counting) -> bool {
        let lease_only = Self { promises: [None; rows::NODES], proven: false, ..*self };
        lease_only.standing(rate, how) != Standing::None
    }
}

/// What a standby has seen and promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Watch {
    /// (epoch, beat), and since when.
    pub(crate) seen: Option<(u8, u8, Age)>,
    pub(crate) promised: Option<Age>,
    pub(crate) started: Age,
}

impl Watch {
    pub(crate) fn started(started: Age) -> Self {
        Self { seen: None, promised: None, started }
    }

    pub(crate) fn saw(&mut self, epoch: u8, beat: u8, at: Age) {
        if self.seen.is_none_or(|(e, b, _)| (epoch, beat) > (e, b)) {
            self.seen = Some((epoch, beat, at));
        }
    }

    pub(crate) fn pass(&mut self, asleep: bool) {
        for age in self.seen.iter_mut().map(|(_, _, age)| age).chain(&mut self.promised).chain([&mut self.started]) {
            age.pass(asleep);
        }
    }

    fn real(&self, rate: Rate) -> Vigil {
        let mut vigil = Vigil::started(self.started.moment(rate));
        if let Some((epoch, beat, age)) = self.seen {
            vigil.saw(Epoch(epoch.into()), Beat(beat.into()), age.moment(rate));
        }
        if let Some(age) = self.promised {
            vigil.promised(age.moment(rate), rows::policy().promise_ms);
        }
        vigil
    }

    /// Whether a promise of this process runs, by [`Vigil::promise_left`].
    pub(crate) fn is_bound(&self, rate: Rate) -> bool {
        thread_local!(static SAID: RefCell<Memo<(Option<Age>, Rate), bool>> = RefCell::default());
        asked(&SAID, (self.promised, rate), || self.real(rate).promise_left(now()) > Millis::ZERO)
    }

    /// Whether a new epoch may follow `row`, which names this node, by [`Vigil::follows_in`].
    pub(crate) fn may_follow(&self, row: Packed, rate: Rate) -> bool {
        type Question = (Option<Age>, Age, bool, Members, Rate);
        thread_local!(static SAID: RefCell<Memo<Question, bool>> = RefCell::default());
        asked(&SAID, (self.promised, self.started, row.activated(), row.in_sync(), rate), || {
            self.real(rate).follows_in(&row.unpack(), &rows::policy(), now()) == Millis::ZERO
        })
    }

    /// What is over is as if it had been long ago, and a watcher believes the clock that counts less.
    pub(crate) fn settle(&mut self, rate: Rate) {
        if !self.is_bound(rate) {
            self.promised = None;
        }
        let wait = rows::policy_wait();
        for age in self.seen.iter_mut().map(|(_, _, age)| age).chain([&mut self.started]) {
            let counted = age.boot.min(age.raw);
            *age = Age { boot: counted, raw: counted };
            if u64::from(counted) * rate.micros() / 1_000 >= wait.0 {
                *age = Age::LONG_AGO;
            }
        }
    }

    /// Whether [`Vigil::may_accept`] says so now. `ttl_only`: a mistake, the wait is the bare ttl.
    pub(crate) fn may_accept(&self, row: Packed, me: Member, rate: Rate, ttl_only: bool) -> bool {
        type Question = (Watch, Packed, Member, Rate, bool);
        thread_local!(static SAID: RefCell<Memo<Question, bool>> = RefCell::default());
        // The marks of the row do not matter for it, and there are many.
        let row = row.with_nonce(0).with_rev(1);
        asked(&SAID, (*self, row, me, rate, ttl_only), || {
            let mut policy: Policy = rows::policy();
            if ttl_only {
                policy.clock_rate_bound_ppm = 0;
                (policy.wait_ms, policy.promise_ms) = (TTL, TTL);
            }
            self.real(rate).may_accept(&row.unpack(), rows::holder(me), true, &policy, now()).is_ok()
        })
    }
}
