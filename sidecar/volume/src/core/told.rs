//! One machine, told by hand what others would tell it.

use super::rate::Limits;
use super::{
    Answer, Ask, Effect, Event, Follow, Io, Job, Link, Notice, REQUESTS_MAX, Refusal, Replica, Report, RequestId,
    STALL, Setup, TICK,
};
use crate::ids::{Generation, Life, Sequence, Session, Span, VolumeNo};
use crate::metadata::{DataState, Geometry, Store};
use crate::wire::{Bye, Frame, Introduction, Message};
use bytes::Bytes;
use lease::ids::{Epoch, Incarnation, Lineage};
use lease::time::{Millis, Moment};
use std::collections::BTreeSet;

pub(super) const LINK: Link = Link(9);

/// A machine with its metadata on a disk that answers at once, unless it stands still.
pub(super) struct Told {
    pub(super) machine: Replica,
    pub(super) now: Moment,
    stands_still: bool,
    pub(super) jobs: Vec<(Io, Job)>,
    pub(super) said: Vec<Message>,
    pub(super) hung_up: Vec<Bye>,
    pub(super) answers: Vec<(RequestId, Result<Bytes, Refusal>)>,
    pub(super) report: Report,
    pub(super) told: Vec<Notice>,
    place: Sequence,
    /// The last place in the stream of this primary.
    pub(super) last: Sequence,
}

pub(super) fn name(text: &str) -> Incarnation {
    Incarnation::new(text).expect("a name")
}

pub(super) fn other() -> Introduction {
    Introduction {
        lineage: Lineage::new("l").expect("a name"),
        incarnation: name("other"),
        life: Life(7),
        chunk_shift: 12,
        features: 0,
        volumes: vec![8 << 18],
    }
}

pub(super) fn span(extent: u64, len: u64) -> Span {
    Span { volume: VolumeNo(0), at: extent << 18, len }
}

pub(super) fn write(extent: u64) -> Ask {
    let span = span(extent, 4096);
    Ask::Write { volume: span.volume, at: span.at, data: vec![1; 4096].into(), fua: false }
}

impl Told {
    /// Eight extents of 64 chunks of 4 KiB, and so many slots.
    fn new(slots: u16) -> Self {
        let geometry = Geometry::new(vec![8 << 18], 12, slots).expect("it fits");
        let (store, _) = Store::format(Lineage::new("l").expect("a name"), name("me"), geometry);
        let machine = Replica::new(
            Setup {
                life: Life(1),
                write_through: false,
                follow: Follow::Sync,
                resync: Limits::default(),
                keeps: false,
            },
            store,
            false,
        );
        let mut told = Self {
            machine,
            now: Moment::default(),
            stands_still: false,
            jobs: Vec::new(),
            said: Vec::new(),
            hung_up: Vec::new(),
            answers: Vec::new(),
            report: Report::default(),
            told: Vec::new(),
            place: Sequence(0),
            last: Sequence(0),
        };
        told.step(Event::Tick);
        told
    }

    /// A process that finds its data promised to this epoch, before it has done anything.
    fn found(promised: Epoch) -> Self {
        let mut told = Self::new(4);
        let (mut store, _) =
            Store::format(Lineage::new("l").expect("a name"), name("me"), told.machine.store().geometry().clone());
        store.change(|superblock| superblock.promised = promised);
        told.machine = Replica::new(
            Setup {
                life: Life(2),
                write_through: false,
                follow: Follow::Sync,
                resync: Limits::default(),
                keeps: false,
            },
            store,
            false,
        );
        told.report = Report::default();
        told
    }

    pub(super) fn step(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut out = Vec::new();
            self.machine.step(event, self.now, &mut out);
            for effect in out {
                match effect {
                    Effect::Submit { io, job } => self.jobs.push((io, job)),
                    Effect::Persist(_) if self.stands_still => {}
                    Effect::Persist(batch) => events.push(Event::Persisted { batch: batch.number }),
                    Effect::Send { frame, .. } => {
                        self.last = self.last.max(if frame.message.in_stream() { frame.sequence } else { Sequence(0) });
                        self.said.push(frame.message);
                    }
                    Effect::HangUp { why, .. } => self.hung_up.push(why),
                    Effect::Answer { id, result } => self.answers.push((id, result)),
                    Effect::Report(report) => self.report = report,
                    Effect::DropKept => {}
                    Effect::Tell(notice) => self.told.push(notice),
                }
            }
        }
    }

    /// Time passes, and is seen to.
    pub(super) fn later(&mut self, after: Millis) {
        let end = self.now.after(after);
        while self.now != end {
            let left = end.longest_since(self.now);
            self.now = if left > TICK { self.now.after(TICK) } else { end };
            self.step(Event::Tick);
        }
    }

    /// Time passes, and this machine does not get to run.
    pub(super) fn held_up(&mut self, span: Millis) {
        self.now = self.now.after(span);
        self.step(Event::Tick);
    }

    /// All that is on the disk ends.
    pub(super) fn disk(&mut self) {
        while !self.jobs.is_empty() {
            let (io, job) = self.jobs.remove(0);
            let answer = match job {
                Job::Read(span) => Answer::Data(vec![0; usize::try_from(span.len).expect("small")].into()),
                _ => Answer::Done,
            };
            self.step(Event::Done { io, answer });
        }
    }

    pub(super) fn leading(slots: u16, need: BTreeSet<Incarnation>) -> Self {
        let mut told = Self::new(slots);
        told.step(Event::Promise { epoch: Epoch(1) });
        told.step(Event::Lead { epoch: Epoch(1), need });
        told.disk();
        told
    }

    pub(super) fn hear(&mut self, message: Message) {
        let place = if message.in_stream() { self.place.next() } else { Sequence(0) };
        self.place = self.place.max(place);
        let frame = Frame { epoch: Epoch(2), session: Session(1), sequence: place, message };
        self.step(Event::Received { link: LINK, frame });
    }

    /// A standby that a primary has just begun to stream to.
    pub(super) fn standing(slots: u16) -> Self {
        let mut told = Self::new(slots);
        told.step(Event::Admit { from: Some(Epoch(0)) });
        told.hear(Message::Hello(other()));
        told.hear(Message::Generations(Vec::new()));
        told.hear(Message::Promise);
        assert_eq!(told.said.last(), Some(&Message::Promised));
        told.hear(Message::State { generation: Generation { epoch: Epoch(2), turn: 0 }, companions: Vec::new() });
        told
    }

    fn hear_write(&mut self, extent: u64) {
        let Ask::Write { volume, at, data, fua } = write(extent) else { unreachable!("it is a write") };
        self.hear(Message::Write { volume, at, data, fua });
    }

    pub(super) fn changes(&self) -> usize {
        self.jobs.iter().filter(|(_, job)| job.changes()).count()
    }
}

#[test]
fn what_follows_a_barrier_waits_until_what_came_before_is_durable() {
    let mut told = Told::standing(4);
    told.hear_write(0);
    told.hear(Message::Barrier);
    told.hear_write(1);
    assert_eq!(told.changes(), 1, "only the first");
    let (io, _) = told.jobs.remove(0);
    told.step(Event::Done { io, answer: Answer::Done });
    assert!(matches!(told.jobs[..], [(_, Job::Flush)]), "then a flush: {:?}", told.jobs);
    let (io, _) = told.jobs.remove(0);
    told.step(Event::Done { io, answer: Answer::Done });
    assert_eq!(told.changes(), 1, "and then the second");
}

#[test]
fn nothing_changes_behind_what_was_left_out_before_a_resync_is_said() {
    let mut told = Told::standing(4);
    told.hear(Message::CaughtUp);
    told.disk();
    assert_eq!(told.report.caught_up, Some(Epoch(2)));
    told.hear(Message::OutOfSync { span: span(3, 4096) });
    assert_eq!((told.report.caught_up, told.report.consistent), (None, true), "old, and whole");
    let slot = told.machine.store().superblock().slot_of(&name("other")).expect("it is known");
    assert_eq!(told.machine.store().marked(slot, 3), 1);
    told.hear_write(0);
    assert_eq!((told.changes(), &told.hung_up[..]), (0, &[Bye::Confused][..]));

    let mut told = Told::standing(4);
    told.hear(Message::OutOfSync { span: span(3, 4096) });
    told.hear(Message::Resync);
    assert!(!told.report.consistent);
    told.hear_write(0);
    assert_eq!((told.changes(), told.hung_up.len()), (1, 0));
    assert_eq!(told.machine.store().superblock().state, DataState::Inconsistent);
}

/// A resync that has come and not begun, because what came before it is not durable yet: whoever takes the lease on the word that
/// this image is whole would hold it with half an image.
#[test]
fn what_is_said_of_a_closed_image_stays_true() {
    let closed = |told: &Told| (told.report.closed, told.report.consistent);
    let mut told = Told::standing(4);
    told.hear_write(0);
    told.hear(Message::Barrier);
    told.hear(Message::OutOfSync { span: span(3, 4096) });
    told.hear(Message::Resync);
    told.step(Event::Close { number: 1 });
    assert_eq!(closed(&told), (None, true), "it is open");
    told.step(Event::Admit { from: None });
    told.step(Event::Close { number: 2 });
    assert_eq!(
        (closed(&told), &told.hung_up[..]),
        ((None, true), &[Bye::NotNow][..]),
        "what was taken is on its way to the disk"
    );
    told.disk();
    told.hear_write(1);
    assert_eq!((closed(&told), told.changes()), ((Some(2), true), 0));
}

/// Found by the cluster's simulator, seed 2627: the new holder's word came before the order that ended the old one's role, half of it
/// was heard, and the new holder waited for the rest as long as for a disk.
#[test]
fn who_hears_of_a_later_epoch_before_it_is_fenced_is_asked_again() {
    let mut told = Told::leading(4, [].into());
    told.step(Event::Admit { from: Some(Epoch(2)) });
    told.hear(Message::Hello(other()));
    assert_eq!((&told.hung_up[..], &told.said[..]), (&[Bye::NotNow][..], &[][..]));
    assert_eq!(told.report.fenced_by, Some(Epoch(2)));
    told.step(Event::Ask { id: RequestId(1), ask: Ask::Read(span(0, 4096)) });
    told.disk();
    assert_eq!(told.answers, [], "its epoch is over");
    told.step(Event::Fence);
    told.hear(Message::Hello(other()));
    told.hear(Message::Promise);
    assert_eq!(told.said.last(), Some(&Message::Promised));
}

/// Found by the cluster's simulator, seed 3375: a process asked for an epoch on the first report, which did not say yet that this
/// data had been promised to that very epoch. A table put back to an old state had let it look free.
#[test]
fn the_first_report_says_to_which_epoch_the_data_was_promised() {
    let mut told = Told::found(Epoch(9));
    told.stands_still = true;
    told.step(Event::Tick);
    told.step(Event::Close { number: 1 });
    assert_eq!(told.report, Report::default(), "it says nothing before it knows");
    told.stands_still = false;
    told.step(Event::Persisted { batch: 1 });
    assert_eq!((told.report.promised, told.report.closed, told.report.consistent), (Epoch(9), Some(1), true));

    // And later: what is promised and not durable yet is not left out either.
    let mut told = Told::standing(4);
    told.stands_still = true;
    told.step(Event::Promise { epoch: Epoch(3) });
    told.step(Event::Admit { from: None });
    told.step(Event::Close { number: 1 });
    assert_eq!((told.report.promised, told.report.closed), (Epoch(2), None));
}

/// Found by the cluster's simulator, seed 264: a standby that had been suspended took its disk for failed, for ever.
#[test]
fn who_was_held_up_does_not_take_its_disk_for_failed() {
    let mut told = Told::with_standby(0);
    told.step(Event::Ask { id: RequestId(1), ask: write(0) });
    assert!(!told.jobs.is_empty());
    told.held_up(Millis(3 * STALL.0));
    assert!(!told.report.failed, "it has not looked what the disk says");
    told.later(Millis(STALL.0 - 1_000));
    assert!(!told.report.failed);
    told.later(Millis(2_000));
    assert!(told.report.failed, "now it has looked for long enough");
}

#[test]
fn metadata_that_stands_still_is_a_disk_that_stands_still() {
    let mut told = Told::leading(4, [].into());
    told.stands_still = true;
    told.step(Event::Ask { id: RequestId(1), ask: write(5) });
    told.later(Millis(STALL.0 - 1));
    assert!(!told.report.failed);
    told.later(Millis(1));
    assert!(told.report.failed);
    assert_eq!(told.answers, [(RequestId(1), Err(Refusal::NotServing))]);
}

/// Found by the cluster's simulator, seed 2523: the gate closed on a holder whose disk had failed, which led no more; it was closed in
/// the next epoch as well, and nobody opened it.
#[test]
fn a_gate_that_closed_in_one_epoch_is_open_in_the_next() {
    let mut told = Told::leading(4, [].into());
    told.step(Event::Ask { id: RequestId(1), ask: write(0) });
    told.later(STALL);
    assert!(told.report.failed);
    told.step(Event::Freeze { frozen: true });
    told.step(Event::Fence);
    told.disk();
    told.later(TICK);
    assert!(!told.report.failed, "it has answered");
    told.step(Event::Promise { epoch: Epoch(2) });
    told.step(Event::Lead { epoch: Epoch(2), need: [].into() });
    told.answers.clear();
    told.step(Event::Ask { id: RequestId(2), ask: Ask::Read(span(0, 4096)) });
    told.disk();
    assert_eq!(told.answers.len(), 1);
}

/// Found by the cluster's simulator, seed 103818: a standby whose disk had stood still for a while took no part any more, for ever.
#[test]
fn a_disk_that_answers_again_is_taken_back_as_standby_and_one_that_fails_is_not() {
    for answers in [Answer::Done, Answer::Failed] {
        let mut told = Told::standing(4);
        told.hear_write(0);
        told.later(STALL);
        assert_eq!(
            (told.report.failed, told.report.consistent, &told.hung_up[..]),
            (true, false, &[Bye::DiskFailed][..])
        );
        told.hear(Message::Hello(other()));
        assert_eq!(told.hung_up.last(), Some(&Bye::DiskFailed));
        let (io, _) = told.jobs.pop().expect("the write");
        let well = answers == Answer::Done;
        told.step(Event::Done { io, answer: answers });
        told.later(TICK);
        assert_eq!((told.report.failed, told.report.consistent), (!well, well));
        told.hear(Message::Hello(other()));
        assert_eq!(told.hung_up.len(), if well { 2 } else { 3 });
    }
}

/// Found by a database on a disk that failed: its server could not be stopped, as its writes waited for ever, and the lease was
/// handed over after more than a minute.
#[test]
fn a_holder_whose_disk_fails_leaves_nobody_waiting() {
    let mut told = Told::leading(4, [name("other")].into());
    told.step(Event::Ask { id: RequestId(1), ask: write(0) });
    told.step(Event::Ask { id: RequestId(2), ask: Ask::Read(span(1, 512)) });
    told.step(Event::Ask { id: RequestId(3), ask: Ask::Flush });
    let changes = |job: &Job| matches!(job, Job::Write { .. });
    let (io, _) = told.jobs.iter().find(|(_, job)| changes(job)).cloned().expect("it goes to the disk");
    told.step(Event::Done { io, answer: Answer::Failed });
    assert!(told.report.failed && !told.report.consistent);
    told.step(Event::Ask { id: RequestId(4), ask: Ask::Read(span(1, 512)) });
    told.answers.sort_by_key(|(id, _)| id.0);
    let refused = |id| (RequestId(id), Err(Refusal::NotServing));
    assert_eq!(told.answers, (1..=4).map(refused).collect::<Vec<_>>());
    // What was under way on the disk ends later, and is nobody's any more.
    told.disk();
    assert_eq!(told.answers.len(), 4);
}

#[test]
fn a_closed_gate_loses_nothing_and_answers_all_when_it_opens() {
    let mut told = Told::leading(4, [].into());
    told.step(Event::Freeze { frozen: true });
    told.step(Event::Ask { id: RequestId(1), ask: write(0) });
    told.step(Event::Ask { id: RequestId(2), ask: Ask::Read(span(1, 512)) });
    told.step(Event::Ask { id: RequestId(3), ask: Ask::Flush });
    told.disk();
    assert!(told.answers.is_empty(), "{:?}", told.answers);
    told.step(Event::Freeze { frozen: false });
    let answered: BTreeSet<_> = told.answers.iter().filter(|(_, result)| result.is_ok()).map(|(id, _)| *id).collect();
    assert_eq!(answered, [1, 2, 3].map(RequestId).into());
}

#[test]
fn requests_are_taken_up_to_a_bound() {
    // A member that is needed and away: nothing can be answered.
    let mut told = Told::leading(4, [name("other")].into());
    let mut taken = 0;
    while told.machine.takes_requests() {
        taken += 1;
        let ask = if taken % 2 == 0 { write(0) } else { Ask::Read(span(0, 512)) };
        told.step(Event::Ask { id: RequestId(taken), ask });
        told.disk();
        assert!(taken <= REQUESTS_MAX as u64 + 1, "it must end");
    }
    assert!(told.answers.is_empty(), "not even the read before the first write: who knows what that member has");
    let sizes = told.machine.sizes(REQUESTS_MAX);
    assert!(sizes.iter().all(|(_, found, bound)| found <= bound), "{sizes:?}");
    assert_eq!(told.report.missing, [name("other")].into());
    told.step(Event::Need { epoch: Epoch(1), need: [].into(), seen: told.report.number });
    told.disk();
    assert!(told.machine.takes_requests());
    assert_eq!(told.answers.len() as u64, taken);
}

#[test]
fn who_needs_much_of_a_full_log_is_not_overtaken_for_ever() {
    let mut told = Told::leading(2, [].into());
    told.step(Event::Ask { id: RequestId(1), ask: write(0) });
    told.step(Event::Ask { id: RequestId(2), ask: write(1) });
    // Both slots, both others: the log is full, and these two never rest.
    told.step(Event::Ask {
        id: RequestId(3),
        ask: Ask::Zero { span: Span { volume: VolumeNo(0), at: (3 << 18) - 4096, len: 8192 }, fua: false },
    });
    for id in 4..40 {
        told.step(Event::Ask { id: RequestId(id), ask: write(id % 2) });
        if let Some((io, _)) = (!told.jobs.is_empty()).then(|| told.jobs.remove(0)) {
            told.step(Event::Done { io, answer: Answer::Done });
        }
    }
    assert!(told.answers.iter().any(|(id, result)| *id == RequestId(3) && result.is_ok()), "{:?}", told.answers);
}

#[test]
fn a_standby_that_never_promises_is_given_up() {
    let mut told = Told::leading(4, [].into());
    told.step(Event::Connected { link: LINK });
    let caps = other();
    let frame = Frame { epoch: Epoch(1), session: Session(1), sequence: Sequence(0), message: Message::Caps(caps) };
    told.step(Event::Received { link: LINK, frame });
    assert!(told.said.contains(&Message::Promise));
    told.later(Millis(STALL.0 - 1));
    assert!(told.hung_up.is_empty(), "it may be draining");
    told.later(Millis(1));
    assert_eq!(told.hung_up, [Bye::Closing]);
}

/// A hand-over in the middle of a write keeps the set, and not each member may have that write. Whoever has it and shows it, and
/// is lost then, is followed by one that never had it: what was read goes back (model A4, three nodes).
#[test]
fn a_new_holder_shows_nothing_that_its_members_may_lack() {
    let mut told = Told::standing(4);
    told.hear_write(0);
    told.disk();
    told.step(Event::Promise { epoch: Epoch(3) });
    told.step(Event::Lead { epoch: Epoch(3), need: [name("other"), name("third")].into() });
    told.disk();
    let third = told.machine.store().superblock().slot_of(&name("third")).expect("it is a member");
    assert!(told.machine.store().marks(third) > 0, "what was taken and not settled may be missing there");
    told.step(Event::Ask { id: RequestId(1), ask: Ask::Read(span(0, 4096)) });
    told.step(Event::Ask { id: RequestId(2), ask: write(1) });
    told.disk();
    assert!(told.answers.is_empty(), "neither the write nor the read");
    assert!(told.report.missing.contains(&name("third")), "whoever cannot be reached is left out");
    told.step(Event::Need { epoch: Epoch(3), need: BTreeSet::new(), seen: u64::MAX });
    told.disk();
    assert!(told.answers.iter().any(|(id, _)| *id == RequestId(1)), "with nobody who may be next it is shown");
}

/// Nothing is marked here for a member that was the holder before: it sent all that is here. But it may not have written it itself
/// (the simulation's seed 102 of an earlier day: its disk was slow, and the write was never acknowledged). Marks alone do not say
/// who is even: members are met first.
#[test]
fn a_member_without_marks_is_met_before_anything_is_shown() {
    let mut told = Told::with_standby(0);
    told.step(Event::Fence);
    told.step(Event::Promise { epoch: Epoch(2) });
    told.disk();
    told.step(Event::Lead { epoch: Epoch(2), need: [name("other")].into() });
    told.disk();
    let other = told.machine.store().superblock().slot_of(&name("other")).expect("it is a member");
    assert_eq!(told.machine.store().marks(other), 0);
    told.answers.clear();
    told.step(Event::Ask { id: RequestId(1), ask: Ask::Read(span(0, 4096)) });
    told.disk();
    assert!(told.answers.is_empty());
    assert_eq!(told.report.missing, [name("other")].into(), "and whoever is not there is left out");
    told.step(Event::Need { epoch: Epoch(2), need: BTreeSet::new(), seen: u64::MAX });
    told.disk();
    assert_eq!(told.answers.len(), 1);
}

/// Found by a scenario: it was told to operators as diverged for as long as the epoch lasted, and followed all the while.
#[test]
fn who_has_given_up_what_it_alone_had_is_not_called_diverged_any_more() {
    let mut told = Told::leading(4, BTreeSet::new());
    let says = |told: &mut Told, session: u64, message| {
        let frame = Frame { epoch: Epoch(1), session: Session(session), sequence: Sequence(0), message };
        told.step(Event::Received { link: LINK, frame });
    };
    for (session, completed, diverged) in [(1, Some(Generation { epoch: Epoch(9), turn: 0 }), true), (2, None, false)] {
        told.step(Event::Connected { link: LINK });
        says(&mut told, session, Message::Caps(other()));
        says(&mut told, session, Message::Generations(completed.into_iter().collect()));
        says(&mut told, session, Message::Promised);
        assert_eq!(told.report.diverged.contains(&name("other")), diverged, "{:?}", told.report);
    }
}
