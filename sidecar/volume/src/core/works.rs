//! What is being done on the local disk: in the order in which it came where ranges meet, and hot before data changes.
//!
//! ```text
//!  waiting ──nothing earlier meets it──▶ heating ──all its extents hot, claimed──▶ running ──done──▶ (gone)
//! ```
//! A work that only reads is not heated. Reads may meet each other. Ends are counted, not guessed: a role that ends leaves
//! behind what is running, and who needs to know that nothing is on its way to the disk asks [`Works::is_idle`].

use super::Job;
use crate::ids::Span;
use crate::metadata::Store;
use lease::time::Moment;
use std::collections::BTreeMap;

/// Names one work; rises with each, so that the order of numbers is the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Io(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Heating,
    Running(Moment),
}

#[derive(Debug)]
struct Work<O> {
    owner: O,
    job: Job,
    span: Option<Span>,
    changes: bool,
    extents: Vec<u32>,
    phase: Phase,
    /// Earlier works that meet this one and have not ended.
    behind: usize,
}

#[derive(Debug)]
pub(super) struct Works<O> {
    next: u64,
    works: BTreeMap<Io, Work<O>>,
    running: usize,
}

impl<O: Copy> Works<O> {
    pub(super) fn new() -> Self {
        Self { next: 0, works: BTreeMap::new(), running: 0 }
    }

    /// Takes a work in. Extents are claimed when it starts and stay claimed: whoever owns it releases them.
    pub(super) fn add(&mut self, owner: O, job: Job, store: &Store, ordered: bool) -> Io {
        let (span, changes) = (job.span(), job.changes());
        let meets = |other: &&Work<O>| {
            let both = span.zip(other.span).is_some_and(|(mine, other)| mine.overlaps(other));
            ordered && both && (changes || other.changes)
        };
        let behind = self.works.values().filter(meets).count();
        let extents = match span {
            Some(span) if changes => store.geometry().touched(span).map(|(extent, _)| extent).collect(),
            _ => Vec::new(),
        };
        self.next += 1;
        let io = Io(self.next);
        let phase = if behind == 0 { Phase::Heating } else { Phase::Waiting };
        self.works.insert(io, Work { owner, job, span, changes, extents, phase, behind });
        io
    }

    /// The next work that may start, now running: what to submit. Its extents are claimed.
    pub(super) fn start(&mut self, store: &mut Store, now: Moment) -> Option<(Io, O, Job)> {
        let ready =
            |work: &Work<O>| work.phase == Phase::Heating && work.extents.iter().all(|extent| store.is_hot(*extent));
        let (io, work) = self.works.iter_mut().find(|(_, work)| ready(work))?;
        store.claim(&work.extents);
        work.phase = Phase::Running(now);
        self.running += 1;
        Some((*io, work.owner, work.job.clone()))
    }

    /// Whether [`Self::start`] would find one.
    pub(super) fn can_start(&self, store: &Store) -> bool {
        let ready =
            |work: &Work<O>| work.phase == Phase::Heating && work.extents.iter().all(|extent| store.is_hot(*extent));
        self.works.values().any(ready)
    }

    /// For whose extents the log is asked, in order.
    pub(super) fn heating(&self) -> impl Iterator<Item = &[u32]> {
        let heating = self.works.values().filter(|work| work.phase == Phase::Heating && !work.extents.is_empty());
        heating.map(|work| work.extents.as_slice())
    }

    /// A work has ended on the disk. Returns whose it was, and its extents.
    pub(super) fn done(&mut self, io: Io) -> Option<(O, Vec<u32>)> {
        let work = self.works.remove(&io)?;
        self.running -= 1;
        let behind = |later: &Work<O>| {
            let both = work.span.zip(later.span).is_some_and(|(mine, later)| mine.overlaps(later));
            both && (work.changes || later.changes) && later.behind > 0
        };
        for (_, later) in self.works.range_mut(io..).filter(|(_, later)| behind(later)) {
            later.behind -= 1;
            if later.behind == 0 {
                later.phase = Phase::Heating;
            }
        }
        Some((work.owner, work.extents))
    }

    /// Drops what has not started; what runs now belongs to `orphan`.
    pub(super) fn abandon(&mut self, orphan: O) {
        self.works.retain(|_, work| matches!(work.phase, Phase::Running(_)));
        self.works.values_mut().for_each(|work| work.owner = orphan);
    }

    /// Nothing is on its way to the disk.
    pub(super) fn is_idle(&self) -> bool {
        self.running == 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.works.is_empty()
    }

    /// Since when the oldest work has been running.
    pub(super) fn oldest(&self) -> Option<Moment> {
        self.works.values().find_map(|work| match work.phase {
            Phase::Running(since) => Some(since),
            _ => None,
        })
    }
}
