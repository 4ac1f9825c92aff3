//! The nominee's own judgement: may I accept now? The row's side of it is [`crate::change::Change::Accept`].
//!
//! Nobody but the nominee can answer: it alone knows what it promised, and it alone has watched the row on one running
//! clock. A function that judged expiry would have no clock between two invocations.

use crate::ids::{Beat, Epoch};
use crate::policy::Policy;
use crate::record::{Holder, Row};
use crate::time::{Millis, Moment};

/// What a standby has seen and promised, by its own clocks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Vigil {
    /// The latest (epoch, beat) seen, on the row or in a ping, and when the read or ping that FIRST showed it arrived.
    seen: Option<(Epoch, Beat, Moment)>,
    /// The last promise given and its length.
    promise: Option<(Moment, Millis)>,
    /// When this process started: what it promised before, it has forgotten.
    started: Moment,
}

/// Why the nominee may accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ground {
    /// No live promise of mine, and the wait has passed since I first saw this (epoch, beat).
    WaitPassed,
    /// AWS says that the machine of the holder's boot no longer runs.
    ProofOfDeath,
    /// The holder let go.
    Released,
}

/// What still stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hindrance {
    NotNominated,
    /// Own replica does not hold every acknowledged write, and the nomination does not accept their loss.
    NotInSync,
    /// Own data is not a whole image.
    Inconsistent,
    /// This much longer must pass without a sign of the holder.
    Wait(Millis),
}

impl Vigil {
    #[must_use]
    pub fn started(now: Moment) -> Self {
        Self { seen: None, promise: None, started: now }
    }

    /// A read's answer or a ping that arrived at `at` showed (epoch, beat). Older sights change nothing.
    pub fn saw(&mut self, epoch: Epoch, beat: Beat, at: Moment) {
        if self.seen.is_none_or(|(e, b, _)| (epoch, beat) > (e, b)) {
            self.seen = Some((epoch, beat, at));
        }
    }

    /// A promise not to accept for `promise`, given at `at`: to be recorded before it is sent.
    pub fn promised(&mut self, at: Moment, promise: Millis) {
        if promise > self.promise_left(at) {
            self.promise = Some((at, promise));
        }
    }

    /// The latest (epoch, beat) seen.
    #[must_use]
    pub fn latest(&self) -> Option<(Epoch, Beat)> {
        self.seen.map(|(epoch, beat, _)| (epoch, beat))
    }

    /// How long the latest (epoch, beat) has stood, as a watcher counts.
    #[must_use]
    pub fn silence(&self, now: Moment) -> Millis {
        self.seen.map_or(Millis::ZERO, |(_, _, at)| now.shortest_since(at))
    }

    /// What is left of the last promise, as its giver counts.
    #[must_use]
    pub fn promise_left(&self, now: Moment) -> Millis {
        self.promise.map_or(Millis::ZERO, |(at, span)| span.minus(now.shortest_since(at)))
    }

    /// The ground to accept `row` at `now`, or what stands in the way.
    ///
    /// # Errors
    /// The [`Hindrance`], with the time left where time is all that is missing.
    pub fn may_accept(
        &self,
        row: &Row,
        me: &Holder,
        consistent: bool,
        policy: &Policy,
        now: Moment,
    ) -> Result<Ground, Hindrance> {
        let nominee = row
            .live_nominee()
            .filter(|nominee| nominee.node == me.node && nominee.incarnation == me.incarnation)
            .ok_or(Hindrance::NotNominated)?;
        if !nominee.lossy && !row.in_sync.contains(&me.incarnation) {
            return Err(Hindrance::NotInSync);
        }
        if !consistent {
            return Err(Hindrance::Inconsistent);
        }
        let Some(holder) = &row.holder else { return Ok(Ground::Released) };
        if nominee.proves_death_of(holder) {
            return Ok(Ground::ProofOfDeath);
        }
        let wait = policy.wait_for(row.ttl_ms);
        let unseen = match self.seen {
            Some((epoch, beat, at)) if (epoch, beat) == (row.epoch, row.beat) => wait.minus(now.shortest_since(at)),
            _ => wait,
        };
        let forgotten = policy.forgotten_promise_ms().max(wait).minus(now.shortest_since(self.started));
        match unseen.max(self.promise_left(now)).max(forgotten) {
            Millis::ZERO => Ok(Ground::WaitPassed),
            left => Err(Hindrance::Wait(left)),
        }
    }
}
