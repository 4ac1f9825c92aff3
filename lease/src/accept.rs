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
        // Equal counts as later: what is left is rounded, and must end no earlier than the promise that was just given.
        if promise >= self.promise_left(at) {
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

    /// How long this process must yet leave alone a `row` that names its node for an epoch that it does not hold: then it
    /// takes a new one ([`crate::change::Change::Restart`]).
    ///
    /// Not while somebody may serve on a promise of this process. And where nobody has activated the epoch and only this
    /// node is in the set, it may be the late acceptance of an earlier process: that one had waited, but each that started
    /// since may have promised without knowing of it, and has forgotten that. An activated epoch was held knowingly, and a
    /// hand-over was the other holder's own wish: a restart of these waits for nothing.
    #[must_use]
    pub fn follows_in(&self, row: &Row, policy: &Policy, now: Moment) -> Millis {
        let unheld = !row.activated && row.in_sync.len() <= 1;
        let span = policy.forgotten_promise_ms().max(policy.wait_for(row.ttl_ms));
        let forgotten = if unheld { span.minus(now.shortest_since(self.started)) } else { Millis::ZERO };
        self.promise_left(now).max(forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, Rev};
    use crate::record::{DeadState, Nominee, ProofOfDeath};
    use crate::rules::Rule;
    use std::collections::BTreeSet;

    const BOTH: (Epoch, Beat) = (Epoch(5), Beat(7));

    fn at(ms: u64) -> Moment {
        Moment::default().after(Millis(ms))
    }

    fn holder(name: &str) -> Holder {
        Holder {
            node: name.parse().expect("a valid name"),
            incarnation: format!("{name}-1").parse().expect("a valid name"),
            instance: format!("i-0{name}").parse().expect("a valid id"),
            boot: "boot-1".parse().expect("a valid id"),
            launched: "2026-01-31T23:59:59Z".into(),
        }
    }

    /// Held by `a`; `a` and `b` in sync, `b` nominated for exactly this epoch and beat.
    fn row() -> Row {
        Row {
            cluster: "web".parse().expect("a valid name"),
            rev: Rev(41),
            lineage: "line-1".parse().expect("a valid name"),
            epoch: BOTH.0,
            holder: Some(holder("a")),
            beat: BOTH.1,
            in_sync: ["a-1", "b-1"].map(|name| Incarnation::new(name).expect("a valid name")).into(),
            activated: true,
            nominee: Some(nominee()),
            intent: None,
            paused: None,
            ttl_ms: Millis(3_000),
            lossy_ok: false,
            nonce: "before".parse().expect("a valid nonce"),
        }
    }

    fn nominee() -> Nominee {
        Nominee {
            node: holder("b").node,
            incarnation: holder("b").incarnation,
            epoch: BOTH.0,
            beat: BOTH.1,
            rule: Rule::R210,
            reason: "silent".into(),
            proof: None,
            lossy: false,
        }
    }

    fn dead(name: &str) -> Option<ProofOfDeath> {
        Some(ProofOfDeath { instance: holder(name).instance, state: DeadState::Stopped })
    }

    /// A vigil of a process that started long ago and has just seen the row's epoch and beat.
    fn vigil(seen: Moment) -> Vigil {
        let mut vigil = Vigil::started(at(0));
        vigil.saw(BOTH.0, BOTH.1, seen);
        vigil
    }

    fn ask(vigil: &Vigil, row: &Row, now: Moment) -> Result<Ground, Hindrance> {
        vigil.may_accept(row, &holder("b"), true, &Policy::default(), now)
    }

    #[test]
    fn only_an_epoch_that_nobody_is_known_to_have_held_is_left_alone_for_what_was_forgotten() {
        let policy = Policy::default();
        let mut vigil = Vigil::started(at(60_000));
        let alone = Row { in_sync: [Incarnation::new("b-1").expect("a valid name")].into(), ..row() };
        let late = Row { activated: false, ..alone.clone() };
        let handed_over = Row { activated: false, ..row() };
        let left = |vigil: &Vigil, row: &Row, ms| vigil.follows_in(row, &policy, at(ms));
        assert_eq!(left(&vigil, &late, 60_000), Millis(3_667));
        assert_eq!(left(&vigil, &late, 63_666), Millis(1));
        assert_eq!(left(&vigil, &late, 63_667), Millis::ZERO);
        for row in [&alone, &handed_over] {
            assert_eq!(left(&vigil, row, 60_000), Millis::ZERO);
        }
        // Under a longer lease than its own policy's: the longer one.
        assert_eq!(left(&vigil, &Row { ttl_ms: Millis(6_000), ..late.clone() }, 64_000), Millis(3_334));
        vigil.promised(at(61_000), Millis(4_000));
        for row in [&late, &alone, &handed_over] {
            assert_eq!(left(&vigil, row, 62_000), Millis(3_000), "a promise of its own binds in every case");
        }
    }

    #[test]
    fn the_wait_counts_from_the_first_sight_and_ends_exactly() {
        let mut vigil = vigil(at(60_000));
        assert_eq!(ask(&vigil, &row(), at(60_000)), Err(Hindrance::Wait(Millis(3_667))));
        vigil.saw(BOTH.0, BOTH.1, at(62_000));
        assert_eq!(ask(&vigil, &row(), at(63_666)), Err(Hindrance::Wait(Millis(1))), "seen again changes nothing");
        assert_eq!(ask(&vigil, &row(), at(63_667)), Ok(Ground::WaitPassed));
    }

    #[test]
    fn a_later_beat_or_epoch_begins_the_wait_anew_and_an_older_one_does_not() {
        for later in [(Epoch(5), Beat(8)), (Epoch(6), Beat(0))] {
            let mut vigil = vigil(at(60_000));
            vigil.saw(later.0, later.1, at(61_000));
            assert_eq!(vigil.latest(), Some(later));
            assert_eq!(vigil.silence(at(61_500)), Millis(500));
        }
        for older in [(Epoch(5), Beat(6)), (Epoch(4), Beat(99))] {
            let mut vigil = vigil(at(60_000));
            vigil.saw(older.0, older.1, at(61_000));
            assert_eq!(vigil.latest(), Some(BOTH));
            assert_eq!(vigil.silence(at(61_500)), Millis(1_500));
        }
        assert_eq!((Vigil::started(at(0)).latest(), Vigil::started(at(0)).silence(at(9_000))), (None, Millis::ZERO));
    }

    /// A ping told of a later beat than the row that was read: the row is old, and its nominee with it.
    #[test]
    fn what_was_seen_of_another_beat_is_no_wait_for_this_one() {
        for other in [(Epoch(5), Beat(8)), (Epoch(6), Beat(7))] {
            let mut vigil = Vigil::started(at(0));
            vigil.saw(other.0, other.1, at(10_000));
            assert_eq!(ask(&vigil, &row(), at(60_000)), Err(Hindrance::Wait(Millis(3_667))));
        }
        assert_eq!(
            ask(&Vigil::started(at(0)), &row(), at(60_000)),
            Err(Hindrance::Wait(Millis(3_667))),
            "nothing seen"
        );
    }

    #[test]
    fn a_row_of_a_longer_lease_is_waited_out_by_its_own_ttl() {
        let row = Row { ttl_ms: Millis(6_000), ..row() };
        assert_eq!(ask(&vigil(at(60_000)), &row, at(60_000)), Err(Hindrance::Wait(Millis(7_334))));
        let mut young = Vigil::started(at(60_000));
        young.saw(BOTH.0, BOTH.1, at(50_000));
        assert_eq!(
            ask(&young, &row, at(60_000)),
            Err(Hindrance::Wait(Millis(7_334))),
            "its promise may have been as long"
        );
    }

    #[test]
    fn a_promise_is_waited_out_whatever_the_silence() {
        let mut vigil = vigil(at(50_000));
        vigil.promised(at(60_000), Millis(3_667));
        assert_eq!(ask(&vigil, &row(), at(63_666)), Err(Hindrance::Wait(Millis(1))));
        assert_eq!(ask(&vigil, &row(), at(63_667)), Ok(Ground::WaitPassed));
    }

    #[test]
    fn the_promise_that_ends_last_counts() {
        let mut vigil = vigil(at(0));
        assert_eq!(vigil.promise_left(at(0)), Millis::ZERO);
        vigil.promised(at(0), Millis(3_000));
        vigil.promised(at(1_000), Millis(500));
        assert_eq!(vigil.promise_left(at(1_000)), Millis(2_000));
        vigil.promised(at(1_000), Millis(2_500));
        assert_eq!(vigil.promise_left(at(1_000)), Millis(2_500));
    }

    /// Elapsed time is rounded down, so half a millisecond after the first promise as much is left of it as the second is
    /// long: the second is in force all the same, to its own end.
    #[test]
    fn a_second_promise_within_the_same_millisecond_ends_later() {
        let half = Moment { boottime_us: 500, monotonic_raw_us: 500 };
        let mut vigil = Vigil::started(at(0));
        vigil.promised(at(0), Millis(3_000));
        vigil.promised(half, Millis(3_000));
        assert_eq!(vigil.promise_left(at(3_000)), Millis(1));
    }

    #[test]
    fn a_new_process_waits_for_what_an_earlier_one_may_have_promised() {
        let mut vigil = Vigil::started(at(60_000));
        vigil.saw(BOTH.0, BOTH.1, at(50_000));
        assert_eq!(ask(&vigil, &row(), at(63_666)), Err(Hindrance::Wait(Millis(1))));
        assert_eq!(ask(&vigil, &row(), at(63_667)), Ok(Ground::WaitPassed));
    }

    #[test]
    fn only_the_named_replica_of_the_named_node_accepts_and_only_for_this_beat() {
        let vigil = vigil(at(0));
        let hindered = |row: &Row, me: &Holder| vigil.may_accept(row, me, true, &Policy::default(), at(60_000));
        let new_disk = Holder { incarnation: "b-2".parse().expect("a valid name"), ..holder("b") };
        let other_node = Holder { incarnation: holder("b").incarnation, ..holder("c") };
        assert_eq!(hindered(&row(), &holder("b")), Ok(Ground::WaitPassed));
        for me in [new_disk, other_node, holder("c")] {
            assert_eq!(hindered(&row(), &me), Err(Hindrance::NotNominated), "{me:?}");
        }
        for (epoch, beat) in [(Epoch(4), BOTH.1), (BOTH.0, Beat(6)), (BOTH.0, Beat(8))] {
            let stale = Row { nominee: Some(Nominee { epoch, beat, ..nominee() }), ..row() };
            assert_eq!(hindered(&stale, &holder("b")), Err(Hindrance::NotNominated));
        }
        assert_eq!(hindered(&Row { nominee: None, ..row() }, &holder("b")), Err(Hindrance::NotNominated));
    }

    #[test]
    fn data_decides_before_time_does() {
        let vigil = vigil(at(0));
        let policy = Policy::default();
        let alone: BTreeSet<Incarnation> = BTreeSet::from([holder("a").incarnation]);
        let outside = Row { in_sync: alone, ..row() };
        assert_eq!(ask(&vigil, &outside, at(60_000)), Err(Hindrance::NotInSync));
        let lossy = Row { nominee: Some(Nominee { lossy: true, ..nominee() }), ..outside };
        assert_eq!(ask(&vigil, &lossy, at(60_000)), Ok(Ground::WaitPassed));
        for row in [row(), lossy] {
            let answer = vigil.may_accept(&row, &holder("b"), false, &policy, at(60_000));
            assert_eq!(answer, Err(Hindrance::Inconsistent));
        }
    }

    #[test]
    fn nothing_is_waited_for_when_the_holder_let_go_or_is_proven_dead() {
        let mut vigil = Vigil::started(at(60_000));
        vigil.promised(at(60_000), Millis(3_667));
        let now = at(60_000);
        assert_eq!(ask(&vigil, &Row { holder: None, activated: false, ..row() }, now), Ok(Ground::Released));
        let proven = |proof| Row { nominee: Some(Nominee { proof, ..nominee() }), ..row() };
        assert_eq!(ask(&vigil, &proven(dead("a")), now), Ok(Ground::ProofOfDeath));
        assert_eq!(
            ask(&vigil, &proven(dead("c")), now),
            Err(Hindrance::Wait(Millis(3_667))),
            "another machine's death"
        );
    }
}
