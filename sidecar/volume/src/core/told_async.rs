//! Who follows asynchronously, told by hand.

use super::follower::{FOLLOW_AGE, FOLLOW_REST, Lag};
use super::survey::PeerState;
use super::told::{LINK, Told, name, other, write};
use super::{Ask, Event, RequestId};
use crate::ids::{Sequence, Session};
use crate::wire::{Bye, FOLLOWS, Frame, Message};
use lease::ids::Epoch;
use lease::time::Millis;
use std::collections::BTreeSet;

impl Told {
    fn follower_says(&mut self, session: u64, at: Sequence, message: Message) {
        let frame = Frame { epoch: Epoch(1), session: Session(session), sequence: at, message };
        self.step(Event::Received { link: LINK, frame });
    }

    /// One that follows connects, in this session, and promises.
    fn meets_follower(&mut self, session: u64) {
        self.step(Event::Connected { link: LINK });
        let mut caps = other();
        caps.features = FOLLOWS;
        self.follower_says(session, Sequence(0), Message::Caps(caps));
    }

    /// A primary with one that follows and has everything.
    fn with_follower() -> Self {
        let mut told = Self::leading(8, BTreeSet::new());
        told.meets_follower(1);
        told.follower_says(1, Sequence(0), Message::Promised);
        while !told.said.contains(&Message::CaughtUp) {
            told.disk();
            told.follower_says(1, told.last, Message::Durable);
        }
        let at = Sequence(told.last.0 - 1);
        told.follower_says(1, at, Message::InSync);
        assert_eq!((told.peer().0, told.peer().1), (PeerState::Following, Lag::Nothing));
        told.said.clear();
        told
    }

    fn peer(&self) -> (PeerState, Lag, u64) {
        let peer = self.machine.survey().peers.remove(0);
        (peer.state, peer.lag, peer.behind_bytes)
    }

    /// Time passes, and the disk answers.
    fn goes_on(&mut self, span: Millis) {
        let end = self.now.after(span);
        while self.now != end {
            self.later(end.longest_since(self.now).min(Millis(1_000)));
            self.disk();
        }
    }

    fn fua(&mut self, id: u64, extent: u64) {
        let Ask::Write { volume, at, data, .. } = write(extent) else { unreachable!("it is a write") };
        self.step(Event::Ask { id: RequestId(id), ask: Ask::Write { volume, at, data, fua: true } });
        self.disk();
    }
}

#[test]
fn nothing_waits_for_who_follows_and_a_round_stands_before_what_was_asked_after_an_answer() {
    let mut told = Told::with_follower();
    told.fua(1, 0);
    told.fua(2, 1);
    assert_eq!(told.answers.len(), 2, "it has acknowledged nothing");
    assert!(told.report.mirrored.is_empty() && told.report.missing.is_empty(), "{:?}", told.report);
    let stream: Vec<_> = told.said.iter().filter(|message| message.in_stream()).collect();
    assert!(
        matches!(stream[..], [Message::Write { .. }, Message::Round { round: 1 }, Message::Write { .. }, ..]),
        "{stream:?}"
    );
    assert!(!told.said.iter().any(|message| matches!(message, Message::State { .. })), "it hears of no generation");
    assert_eq!(told.peer().2, 8192);
}

#[test]
fn what_was_reached_is_not_sent_again_and_who_does_not_know_is_marked_before() {
    for reached in [Some(1), None] {
        let mut told = Told::with_follower();
        told.fua(1, 0);
        told.fua(2, 1);
        told.step(Event::Disconnected { link: LINK });
        told.said.clear();
        told.meets_follower(2);
        if let Some(round) = reached {
            told.follower_says(2, Sequence(0), Message::Reached { round });
        }
        told.follower_says(2, Sequence(0), Message::Promised);
        let writes = told.said.iter().filter(|message| matches!(message, Message::Write { .. })).count();
        let marked = told.said.contains(&Message::Resync);
        assert_eq!((writes, marked), if reached.is_some() { (1, false) } else { (2, true) });
    }
}

#[test]
fn who_lags_for_too_long_falls_behind_rests_and_is_copied_to() {
    let mut told = Told::with_follower();
    told.fua(1, 0);
    told.step(Event::Disconnected { link: LINK });
    told.goes_on(Millis(FOLLOW_AGE.0 - 1));
    let (state, lag, bytes) = told.peer();
    assert_eq!((state, lag.at(told.now), bytes), (PeerState::Away, Some(Millis(FOLLOW_AGE.0 - 1)), 4096));
    told.later(Millis(1));
    let (state, lag, _) = told.peer();
    assert_eq!((state, lag.at(told.now)), (PeerState::Away, Some(FOLLOW_AGE)), "its age is known still");
    told.said.clear();
    told.meets_follower(2);
    told.follower_says(2, Sequence(0), Message::Promised);
    assert!(told.said.contains(&Message::Resync), "what it lacks is marked, and copied");

    // The same while it is connected, and says no more than that it lives.
    let mut told = Told::with_follower();
    told.fua(1, 0);
    for _ in 0..FOLLOW_AGE.0 / 1_000 {
        told.follower_says(1, Sequence(0), Message::Pong);
        told.later(Millis(1_000));
        told.disk();
    }
    assert_eq!((told.peer().0, &told.hung_up[..]), (PeerState::Behind, &[Bye::Closing][..]));
    told.meets_follower(2);
    assert_eq!(told.hung_up.len(), 2, "it rests");
    told.goes_on(FOLLOW_REST);
    told.meets_follower(3);
    assert_eq!((told.hung_up.len(), told.peer().0), (2, PeerState::Meeting));
}

/// Found by the simulation, seed 13 of a later day: a holder that had been deposed went on to tell its follower that it lacked nothing.
#[test]
fn who_may_not_answer_does_not_say_how_far_another_lags() {
    let mut told = Told::with_follower();
    for frozen in [false, true, false] {
        told.said.clear();
        told.step(Event::Freeze { frozen });
        told.follower_says(1, Sequence(1), Message::Pong);
        assert_eq!(told.said.iter().any(|message| matches!(message, Message::Lag { .. })), !frozen);
    }
}

#[test]
fn a_member_that_comes_back_as_a_follower_leaves_the_set_first() {
    let mut told = Told::leading(8, [name("other")].into());
    told.meets_follower(1);
    assert_eq!((&told.hung_up[..], &told.report.missing), (&[Bye::Closing][..], &[name("other")].into()));
    told.step(Event::Need { epoch: Epoch(1), need: BTreeSet::new(), seen: told.report.number });
    told.meets_follower(2);
    assert_eq!((told.hung_up.len(), told.peer().0), (1, PeerState::Meeting));
}
