//! Verification, read repair and what an operator asks, told by hand.

use super::told::{LINK, Told, name, other, span, write};
use super::verify::{Extent, RATE_LEAST, WINDOW};
use super::{Answer, Ask, Command, Event, Guard, Job, Notice, Objection, Refusal, RequestId, SILENCE};
use crate::ids::{Digest, Sequence, Session, Span};
use crate::wire::{Bye, FETCHES, Frame, Message};
use bytes::Bytes;
use lease::ids::Epoch;
use lease::time::Millis;

const HERE: Digest = Digest([1; 32]);
const THERE: Digest = Digest([2; 32]);
const ALL: Command = Command::Verify { volume: None, bytes_s: 64 << 20 };

impl Told {
    /// The standby answers.
    pub(super) fn answer(&mut self, at: Sequence, message: Message) {
        let frame = Frame { epoch: Epoch(1), session: Session(1), sequence: at, message };
        self.step(Event::Received { link: LINK, frame });
    }

    /// A primary, alone in its set, with a standby that has everything; the node knows.
    pub(super) fn with_standby(features: u64) -> Self {
        let mut told = Self::leading(8, [].into());
        told.step(Event::Connected { link: LINK });
        let mut caps = other();
        caps.features = features;
        told.answer(Sequence(0), Message::Caps(caps));
        told.answer(Sequence(0), Message::Promised);
        while !told.said.contains(&Message::CaughtUp) {
            told.disk();
            told.answer(told.last, Message::Durable);
        }
        told.answer(told.last, Message::InSync);
        told.acknowledge();
        told.step(Event::Need { epoch: Epoch(1), need: [name("other")].into(), seen: told.report.number });
        assert_eq!(told.report.mirrored, [name("other")].into());
        told.said.clear();
        told
    }

    /// All that was sent is written there.
    fn acknowledge(&mut self) {
        self.answer(Sequence(0), Message::Written { ranges: vec![(Sequence(1), self.last)] });
    }

    fn command(&mut self, command: Command) {
        assert_eq!(self.machine.judge(&command), Ok(()));
        self.step(Event::Command(command));
    }

    /// The first job of this kind ends so.
    fn ends(&mut self, is_it: impl Fn(&Job) -> bool, answer: Answer) -> Job {
        let at = self.jobs.iter().position(|(_, job)| is_it(job)).expect("it was submitted");
        let (io, job) = self.jobs.remove(at);
        self.step(Event::Done { io, answer });
        job
    }

    fn has(&self, is_it: impl Fn(&Job) -> bool) -> bool {
        self.jobs.iter().any(|(_, job)| is_it(job))
    }

    fn read(&mut self, id: u64, span: Span) {
        self.step(Event::Ask { id: RequestId(id), ask: Ask::Read(span) });
        self.ends(|job| matches!(job, Job::Read(_)), Answer::Failed);
    }

    fn is_answered(&self, id: u64) -> Option<&Result<Bytes, Refusal>> {
        self.answers.iter().find(|(other, _)| *other == RequestId(id)).map(|(_, result)| result)
    }
}

fn digests(job: &Job) -> bool {
    matches!(job, Job::Digest(_))
}

fn is_fetch(message: &Message) -> bool {
    matches!(message, Message::Fetch { .. })
}

#[test]
fn a_write_under_way_is_on_both_sides_of_the_comparison_or_on_neither() {
    let mut told = Told::with_standby(0);
    told.step(Event::Ask { id: RequestId(1), ask: write(0) });
    told.command(ALL);
    told.later(Millis(100));
    let first = |job: &Job| digests(job) && job.span() == Some(span(0, 4096));
    assert!(!told.has(first), "it waits for the write: {:?}", told.jobs);
    assert!(told.has(digests), "others do not wait for it");
    told.ends(Job::changes, Answer::Done);
    assert!(told.has(first));
    // A write that comes meanwhile waits for the hash, and comes behind it in the stream.
    told.step(Event::Ask { id: RequestId(2), ask: write(0) });
    assert_eq!(told.changes(), 0);
    told.ends(first, Answer::Digest(HERE));
    assert_eq!(told.changes(), 1);
    let stream: Vec<bool> = told
        .said
        .iter()
        .filter_map(|message| match message {
            Message::Write { at: 0, .. } => Some(true),
            Message::Verify { span: Span { at: 0, .. }, .. } => Some(false),
            _ => None,
        })
        .collect();
    assert_eq!(stream, [true, false, true]);
}

#[test]
fn a_verification_is_as_fast_as_it_may_be_and_tells_what_it_has_compared() {
    let mut told = Told::with_standby(0);
    assert_eq!(
        told.machine.judge(&Command::Verify { volume: None, bytes_s: RATE_LEAST - 1 }),
        Err(Objection::TooSlow { asked: RATE_LEAST - 1 })
    );
    told.command(Command::Verify { volume: None, bytes_s: RATE_LEAST });
    assert_eq!(told.machine.judge(&ALL), Err(Objection::UnderWay));
    let (mut compared, began) = (0, told.now);
    while told.told.is_empty() {
        told.later(Millis(20));
        while told.has(digests) {
            assert!(told.jobs.len() <= WINDOW);
            told.ends(digests, Answer::Digest(HERE));
            told.answer(told.last, Message::Same);
            compared += 4096;
        }
        let passed = told.now.longest_since(began);
        assert!(compared * 1_000 <= RATE_LEAST * passed.0, "{compared} bytes in {passed:?}");
        assert!(passed <= Millis(2_500), "2 MiB at 1 MiB/s");
        told.answer(Sequence(0), Message::Pong);
    }
    let [Notice::Verified(verification)] = &told.told[..] else { panic!("{:?}", told.told) };
    assert!(verification.is_well(), "{verification:?}");
    assert_eq!((verification.total_bytes, verification.peers[0].compared_bytes), (8 << 18, 8 << 18));
    assert_eq!(told.report.mirrored, [name("other")].into(), "and is a member still");
}

#[test]
fn who_differs_leaves_the_set_and_nothing_stands_still_for_it() {
    let mut told = Told::with_standby(0);
    told.command(ALL);
    told.later(Millis(10));
    let job = told.ends(digests, Answer::Digest(HERE));
    told.answer(told.last, Message::Differs { found: Some(THERE) });
    let [Notice::Differs(difference)] = &told.told[..] else { panic!("{:?}", told.told) };
    assert_eq!((Some(difference.span), difference.here, difference.there), (job.span(), HERE, Some(THERE)));
    assert_eq!((&told.report.mirrored, &told.report.missing), (&[].into(), &[name("other")].into()));
    let slot = told.machine.store().superblock().slot_of(&name("other")).expect("it is known");
    assert!(told.machine.store().is_doubted(slot) && told.machine.store().marks(slot) == 1);
    // Until the node has taken it out, a write waits for it, and it acknowledges.
    told.step(Event::Ask { id: RequestId(1), ask: write(3) });
    told.ends(Job::changes, Answer::Done);
    assert_eq!(told.is_answered(1), None);
    told.acknowledge();
    assert_eq!(told.is_answered(1), Some(&Ok(Bytes::new())));
    told.step(Event::Need { epoch: Epoch(1), need: [].into(), seen: told.report.number });
    // Then it stays as it is: whoever is not waited for takes writes in no order that could be relied on. Nothing is copied over it.
    assert_eq!(told.hung_up, [Bye::Closing]);
    told.said.clear();
    told.step(Event::Ask { id: RequestId(2), ask: write(4) });
    told.ends(Job::changes, Answer::Done);
    assert_eq!(told.said, []);
    assert_eq!(told.is_answered(2), Some(&Ok(Bytes::new())));
    // Back again, it is told nothing.
    told.hung_up.clear();
    told.step(Event::Connected { link: LINK });
    told.said.clear();
    let frame = Frame { epoch: Epoch(1), session: Session(2), sequence: Sequence(0), message: Message::Caps(other()) };
    told.step(Event::Received { link: LINK, frame });
    told.later(SILENCE);
    assert_eq!((&told.said[..], &told.hung_up[..]), (&[][..], &[][..]));
    // Until somebody says that this copy counts: then all of it is in question.
    told.command(Command::Resync(name("other")));
    assert_eq!(told.hung_up, [Bye::Closing]);
    assert!(!told.machine.store().is_doubted(slot));
    assert_eq!(told.machine.store().marks(slot), 8 * 64);
}

#[test]
fn whoever_leaves_was_not_compared_as_a_whole() {
    let mut told = Told::with_standby(0);
    told.command(ALL);
    told.later(Millis(10));
    told.step(Event::Disconnected { link: LINK });
    told.disk();
    let [Notice::Verified(verification)] = &told.told[..] else { panic!("{:?}", told.told) };
    assert_eq!(verification.peers[0].extent, Extent::CutOff);
    assert!(!verification.is_well());
    assert_eq!(told.machine.judge(&ALL), Err(Objection::NobodyInStep));
}

#[test]
fn a_standby_that_differs_says_what_it_has_and_counts_as_nobody_with_everything() {
    let mut told = Told::standing(4);
    told.hear(Message::CaughtUp);
    told.disk();
    told.hear(Message::Verify { span: span(3, 4096), digest: HERE });
    told.ends(digests, Answer::Digest(HERE));
    assert_eq!((told.said.contains(&Message::Same), told.report.caught_up), (true, Some(Epoch(2))));
    told.hear(Message::Verify { span: span(3, 4096), digest: HERE });
    told.ends(digests, Answer::Digest(THERE));
    assert!(told.said.contains(&Message::Differs { found: Some(THERE) }), "{:?}", told.said);
    assert_eq!((told.report.caught_up, told.report.consistent), (None, true));
    let slot = told.machine.store().superblock().slot_of(&name("other")).expect("it is known");
    assert_eq!(told.machine.store().marked(slot, 3), 1);
}

#[test]
fn what_cannot_be_read_here_a_peer_in_step_reads_and_it_is_written_again() {
    let mut told = Told::with_standby(FETCHES);
    told.read(1, span(2, 4096));
    assert_eq!(told.said, [Message::Fetch { span: span(2, 4096) }]);
    let data = Bytes::from(vec![9; 4096]);
    told.answer(told.last, Message::Fetched { data: Some(data.clone()) });
    assert_eq!(told.is_answered(1), Some(&Ok(data.clone())));
    let (volume, at) = (span(2, 4096).volume, span(2, 4096).at);
    assert_eq!(told.ends(Job::changes, Answer::Done), Job::Write { volume, at, data, fua: true });
    assert!(matches!(told.told[..], [Notice::Served { .. }, Notice::Repaired { .. }]), "{:?}", told.told);
    assert!(!told.report.failed);
    // A disk that does not take it has failed, as with every write.
    told.read(2, span(2, 4096));
    told.answer(told.last, Message::Fetched { data: Some(Bytes::from(vec![9; 4096])) });
    told.ends(Job::changes, Answer::Failed);
    assert!(told.report.failed);
}

#[test]
fn what_a_peer_had_is_not_written_over_what_is_newer() {
    let behind_the_newer = |without: Option<Guard>| {
        let mut told = Told::with_standby(FETCHES);
        told.machine.without = without;
        told.read(1, span(2, 4096));
        told.step(Event::Ask { id: RequestId(2), ask: write(2) });
        assert_eq!(told.changes(), 0, "it waits: else the peer would show what the read must not see");
        told.answer(told.last, Message::Fetched { data: Some(Bytes::from(vec![9; 4096])) });
        assert!(told.is_answered(1).is_some_and(Result::is_ok));
        let newer = told.ends(Job::changes, Answer::Done);
        assert!(matches!(newer, Job::Write { data, .. } if data[0] == 1));
        told.changes()
    };
    assert_eq!((behind_the_newer(None), behind_the_newer(Some(Guard::RepairUndone))), (0, 1));
}

#[test]
fn where_nobody_can_read_the_error_goes_up() {
    let io = Some(&Err(Refusal::Io));
    // A peer that does not know the question.
    let mut told = Told::with_standby(0);
    told.read(1, span(2, 4096));
    assert_eq!(told.is_answered(1), io);
    // One that cannot read it either; one that leaves without an answer.
    let mut told = Told::with_standby(FETCHES);
    told.read(1, span(2, 4096));
    told.answer(told.last, Message::Fetched { data: None });
    assert_eq!(told.is_answered(1), io);
    told.read(2, span(2, 4096));
    assert_eq!(told.is_answered(2), None);
    told.step(Event::Disconnected { link: LINK });
    told.read(3, span(3, 4096));
    told.step(Event::Need { epoch: Epoch(1), need: [].into(), seen: told.report.number });
    assert_eq!((told.is_answered(2), told.is_answered(3)), (io, io));
    assert!(!told.said.iter().any(|message| is_fetch(message) && *message == Message::Fetch { span: span(3, 4096) }));
    assert_eq!((told.report.failed, told.changes()), (false, 0));
}

#[test]
fn an_answer_of_another_length_is_not_taken() {
    let mut told = Told::with_standby(FETCHES);
    told.read(1, span(2, 4096));
    told.answer(told.last, Message::Fetched { data: Some(Bytes::from(vec![9; 512])) });
    assert_eq!(told.hung_up, [Bye::Confused]);
    assert_eq!(told.is_answered(1), Some(&Err(Refusal::Io)));
}

#[test]
fn a_standby_reads_for_the_primary_what_it_has_at_that_place() {
    let mut told = Told::standing(4);
    let Ask::Write { volume, at, data, fua } = write(1) else { unreachable!("it is a write") };
    told.hear(Message::Write { volume, at, data, fua });
    told.hear(Message::Fetch { span: span(1, 4096) });
    assert!(!told.has(|job| matches!(job, Job::Read(_))), "after the write");
    told.ends(Job::changes, Answer::Done);
    let data = Bytes::from(vec![1; 4096]);
    told.ends(|job| matches!(job, Job::Read(_)), Answer::Data(data.clone()));
    assert!(told.said.contains(&Message::Fetched { data: Some(data) }));
    told.hear(Message::Fetch { span: span(1, 4096) });
    told.ends(|job| matches!(job, Job::Read(_)), Answer::Failed);
    assert!(told.said.contains(&Message::Fetched { data: None }));
    told.hear(Message::Fetch { span: span(99, 4096) });
    assert_eq!(told.hung_up, [Bye::Confused]);
}

#[test]
fn only_who_is_no_member_and_not_there_is_forgotten() {
    let mut told = Told::with_standby(0);
    let forget = Command::Forget(name("other"));
    assert_eq!(told.machine.judge(&forget), Err(Objection::Member(name("other"))));
    told.step(Event::Need { epoch: Epoch(1), need: [].into(), seen: told.report.number });
    assert_eq!(told.machine.judge(&forget), Err(Objection::Member(name("other"))), "it is waited for still");
    told.step(Event::Disconnected { link: LINK });
    told.step(Event::Need { epoch: Epoch(1), need: [].into(), seen: told.report.number });
    let unknown = told.machine.judge(&Command::Forget(name("nobody")));
    assert_eq!(unknown, Err(Objection::Unknown { peer: name("nobody"), known: vec![name("other")] }));
    told.command(forget);
    assert_eq!(told.machine.store().slots().count(), 0);
    // It goes on without, and knows it as new when it comes.
    told.step(Event::Ask { id: RequestId(1), ask: write(0) });
    told.disk();
    assert_eq!(told.is_answered(1), Some(&Ok(Bytes::new())));
    assert_eq!(Told::standing(4).machine.judge(&ALL), Err(Objection::NotLeading));
}
