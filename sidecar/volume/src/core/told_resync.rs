//! How a resync keeps disk and link busy, told by hand.

use super::rate::{Limits, Rate};
use super::told::{LINK, Told, name, other, span, write};
use super::{Answer, Event, Io, Job, RequestId, Role, TICK};
use crate::ids::Sequence;
use crate::wire::Message;
use bytes::Bytes;
use lease::time::Millis;

impl Told {
    /// A primary whose peer, a stranger so far, lacks all of it: 512 chunks of 4 KiB.
    fn resyncing() -> Self {
        let mut told = Self::leading(8, [].into());
        told.step(Event::Connected { link: LINK });
        told.answer(Sequence(0), Message::Caps(other()));
        told.answer(Sequence(0), Message::Promised);
        told
    }

    /// All reads end, and those that follow from it, with something to send.
    fn reads(&mut self) {
        while let Some(at) = self.jobs.iter().position(|(_, job)| matches!(job, Job::Read(_))) {
            let (io, job) = self.jobs.remove(at);
            let len = usize::try_from(job.span().expect("it reads").len).expect("small");
            self.step(Event::Done { io, answer: Answer::Data(Bytes::from(vec![7; len])) });
        }
    }

    fn count(&self, is_it: impl Fn(&Message) -> bool) -> usize {
        self.said.iter().filter(|message| is_it(message)).count()
    }

    fn copies(&self) -> usize {
        self.count(|message| matches!(message, Message::Copy { .. }))
    }

    fn flushes(&self) -> usize {
        self.count(|message| *message == Message::Flush)
    }
}

/// A copy that waits for the flush of those before it leaves disk and link idle: half of the time, where they are fast.
#[test]
fn chunks_are_read_and_sent_while_others_are_made_durable() {
    let mut told = Told::resyncing();
    let reading = told.jobs.iter().filter(|(_, job)| matches!(job, Job::Read(_))).count();
    assert_eq!(reading, 16, "few at once");
    told.said.clear();
    told.reads();
    assert_eq!((told.copies(), told.flushes()), (256, 4), "until so many may be lost");
    let marks = |told: &Told| {
        let slot = told.machine.store().superblock().slot_of(&name("other")).expect("it is known");
        told.machine.store().marks(slot)
    };
    assert_eq!(marks(&told), 512, "none of them is durable");
    let first = told.said.iter().position(|message| *message == Message::Flush).expect("there are four");
    let before = told.last.0 - u64::try_from(told.said.len() - 1 - first).expect("few");
    told.answer(Sequence(before), Message::Durable);
    assert_eq!(marks(&told), 512 - 64);
    told.reads();
    assert_eq!((told.copies(), told.flushes()), (320, 5), "as many as are durable");
    while !told.said.contains(&Message::CaughtUp) {
        told.reads();
        told.answer(told.last, Message::Durable);
    }
    assert_eq!((told.copies(), marks(&told)), (512, 0));
}

/// Of a chunk that is larger than usual fewer are under way, so that no more memory is taken.
#[test]
fn what_is_under_way_is_bounded_in_bytes_too() {
    use super::resync::Windows;
    let of = |shift| {
        let windows = Windows::of(shift);
        (windows.reading, windows.under_way, windows.flush_after)
    };
    assert_eq!((of(12), of(16), of(18), of(20)), ((16, 256, 64), (16, 256, 64), (16, 64, 16), (16, 16, 4)));
}

/// Ends up to so many reads, and says that all is durable there.
fn copies_some(told: &mut Told, most: usize) -> usize {
    let reads: Vec<Io> =
        told.jobs.iter().filter(|(_, job)| matches!(job, Job::Read(_))).map(|(io, _)| *io).take(most).collect();
    for io in &reads {
        told.jobs.retain(|(other, _)| other != io);
        told.step(Event::Done { io: *io, answer: Answer::Data(Bytes::from(vec![7; 4096])) });
    }
    told.answer(told.last, Message::Durable);
    reads.len()
}

/// A disk in which a write takes three times as long beside a copy: the resync yields, and not below the floor; and when nobody writes
/// any more, it goes on as fast as it can.
#[test]
fn a_resync_yields_to_writes_that_become_slower_and_ends_all_the_same() {
    let mut told = Told::leading(8, [].into());
    let floor = 16 * 4096;
    if let Role::Leading(primary) = &mut told.machine.role {
        primary.rate = Rate::new(Limits { floor, ceiling: u64::MAX }, told.now);
    }
    let mut id = 0;
    // What a millisecond of disk brings: a write in one without a copy, in three beside some.
    let mut writes = |told: &mut Told, ms: u64| {
        let (mut copied, end) = (0, told.now.after(Millis(ms)));
        while told.now.boottime_us < end.boottime_us {
            id += 1;
            told.step(Event::Ask { id: RequestId(id), ask: write(7) });
            let copies = copies_some(told, 1);
            copied += copies;
            told.later(Millis(if copies == 0 { 1 } else { 3 }));
            while let Some(at) = told.jobs.iter().position(|(_, job)| job.changes() || *job == Job::Flush) {
                let (io, _) = told.jobs.remove(at);
                told.step(Event::Done { io, answer: Answer::Done });
            }
        }
        copied
    };
    assert_eq!(writes(&mut told, 200), 0, "nobody is there");
    told.step(Event::Connected { link: LINK });
    told.answer(Sequence(0), Message::Caps(other()));
    told.answer(Sequence(0), Message::Promised);
    let first = writes(&mut told, 200);
    assert!((50..=80).contains(&first), "it begins as fast as it can, a chunk with each write: {first}");
    writes(&mut told, 3_000);
    let held = |told: &Told| told.machine.survey().peers[0].held_to_bytes_s;
    assert!(held(&told).is_some(), "people are told");
    let slow = writes(&mut told, 3_000);
    assert!((48..=250).contains(&slow), "of 1,000: it makes no more than every twentieth write slower: {slow}");
    assert!(!told.said.contains(&Message::CaughtUp));
    for _ in 0..60 {
        told.later(TICK);
        copies_some(&mut told, usize::MAX);
        told.disk();
    }
    assert!(told.said.contains(&Message::CaughtUp), "nobody writes any more");
    assert_eq!(held(&told), None);
}

/// A flush that may begin does not wait for what came behind it, however often another is asked for.
#[test]
fn a_standby_flushes_what_has_ended_before_all_that_is_asked_has() {
    let mut told = Told::standing(4);
    for extent in 0..3 {
        told.hear(Message::Copy { volume: span(0, 1).volume, at: span(extent, 1).at, data: vec![1; 4096].into() });
        told.hear(Message::Flush);
    }
    let flushing = |told: &Told| told.jobs.iter().filter(|(_, job)| *job == Job::Flush).count();
    assert_eq!((told.changes(), flushing(&told)), (3, 0));
    let (io, _) = told.jobs.remove(0);
    told.step(Event::Done { io, answer: Answer::Done });
    assert_eq!((told.changes(), flushing(&told)), (2, 1), "the first is durable soon");
    told.said.clear();
    told.disk();
    let durable = told.count(|message| *message == Message::Durable);
    assert_eq!(durable, 2, "and the others together: {:?}", told.said);
    assert!(told.jobs.is_empty());
}

/// More flushes than are remembered one by one: the last is kept, and with it all of them.
#[test]
fn a_standby_remembers_a_bounded_number_of_flushes() {
    let mut told = Told::standing(4);
    told.hear(Message::Copy { volume: span(0, 1).volume, at: 0, data: vec![1; 4096].into() });
    for _ in 0..super::standby::FLUSHES_WANTED * 3 {
        told.hear(Message::Flush);
    }
    let sizes = told.machine.sizes(0);
    assert!(sizes.iter().all(|(_, found, bound)| found <= bound), "{sizes:?}");
    told.said.clear();
    told.disk();
    assert_eq!(told.count(|message| *message == Message::Durable), 1, "{:?}", told.said);
}
