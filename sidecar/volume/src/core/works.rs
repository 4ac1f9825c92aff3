//! What is being done on the local disk: in the order in which it came where ranges meet, and hot before data changes.
//!
//! ```text
//!  waiting ──nothing earlier meets it──▶ heating ──all its extents hot, claimed──▶ running ──done──▶ (gone)
//! ```
//! A work that only reads is not heated, and may be held when it has ended on the disk: its range then stays as it is. Reads may meet each other. Ends are counted, not guessed: a role that ends leaves
//! behind what is running, and who needs to know that nothing is on its way to the disk asks [`Works::is_idle`].

use super::Job;
use super::ranges::Ranges;
use crate::ids::Span;
use crate::metadata::Store;
use lease::time::{Millis, Moment};
use std::collections::{BTreeMap, BTreeSet};

/// Names one work; rises with each, so that the order of numbers is the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Io(pub u64);

#[derive(Debug)]
struct Work<O> {
    owner: O,
    job: Job,
    span: Option<Span>,
    changes: bool,
    extents: Vec<u32>,
    /// Once it runs.
    since: Option<Moment>,
    /// Earlier works that meet this one and have not ended, and what else it waits for.
    behind: usize,
    /// Later works that wait for this one.
    before: Vec<Io>,
}

#[derive(Debug)]
pub(super) struct Works<O> {
    next: u64,
    works: BTreeMap<Io, Work<O>>,
    ranges: Ranges<Io>,
    running: usize,
    /// Behind nothing, and not looked at since; looked at, and not hot.
    fresh: BTreeSet<Io>,
    heating: BTreeSet<Io>,
    /// How hot the log was then.
    heat: u64,
}

impl<O: Copy> Works<O> {
    pub(super) fn new() -> Self {
        Self {
            next: 0,
            works: BTreeMap::new(),
            ranges: Ranges::new(),
            running: 0,
            fresh: BTreeSet::new(),
            heating: BTreeSet::new(),
            heat: 0,
        }
    }

    /// Takes a work in. Extents are claimed when it starts and stay claimed: whoever owns it releases them. `held`: how often
    /// [`Self::free`] must be said before it may start.
    pub(super) fn add(&mut self, owner: O, job: Job, store: &Store, ordered: bool, held: usize) -> Io {
        let (span, changes) = (job.span(), job.changes());
        self.next += 1;
        let io = Io(self.next);
        let mut behind = held;
        if let Some(span) = span.filter(|_| ordered) {
            for earlier in self.ranges.meeting(span) {
                let earlier = self.works.get_mut(&earlier).expect("a range belongs to a work");
                if changes || earlier.changes {
                    earlier.before.push(io);
                    behind += 1;
                }
            }
        }
        if let Some(span) = span {
            self.ranges.insert(io, span);
        }
        let extents = match span {
            Some(span) if changes => store.geometry().touched(span).map(|(extent, _)| extent).collect(),
            _ => Vec::new(),
        };
        if behind == 0 {
            self.fresh.insert(io);
        }
        self.works.insert(io, Work { owner, job, span, changes, extents, since: None, behind, before: Vec::new() });
        io
    }

    /// One thing less that this work waits for.
    pub(super) fn free(&mut self, io: Io) {
        if let Some(work) = self.works.get_mut(&io) {
            work.behind -= 1;
            if work.behind == 0 {
                self.fresh.insert(io);
            }
        }
    }

    /// The next work that may start, now running: what to submit. Its extents are claimed. `hasty`: on their way into the log
    /// is enough.
    pub(super) fn start(&mut self, store: &mut Store, now: Moment, hasty: bool) -> Option<(Io, O, Job)> {
        if self.heat != store.heat() || hasty {
            self.heat = store.heat();
            self.fresh.append(&mut self.heating);
        }
        let full = store.is_full();
        while let Some(io) = self.fresh.pop_first() {
            let work = self.works.get_mut(&io).expect("it is fresh");
            let hot = |extent: &u32| store.is_hot(*extent) || hasty && store.is_arriving(*extent);
            // While the log is full nobody who came later keeps claiming what the first in the row waits for.
            let overtakes = full && !work.extents.is_empty() && self.heating.first().is_some_and(|first| *first < io);
            if overtakes || !work.extents.iter().all(hot) {
                self.heating.insert(io);
                continue;
            }
            store.claim(&work.extents);
            work.since = Some(now);
            self.running += 1;
            return Some((io, work.owner, work.job.clone()));
        }
        None
    }

    /// Whether somebody has not been looked at by [`Self::start`].
    pub(super) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// For whose extents the log is asked, in order.
    pub(super) fn heating(&self) -> impl Iterator<Item = &[u32]> {
        self.heating.iter().map(|io| self.works[io].extents.as_slice())
    }

    /// Whose this is.
    pub(super) fn owner(&self, io: Io) -> Option<O> {
        self.works.get(&io).map(|work| work.owner)
    }

    /// A work that only reads has ended on the disk, and its range stays as it is until [`Self::done`] is said of it: no later
    /// work that meets it starts.
    pub(super) fn hold(&mut self, io: Io) -> Option<Span> {
        let work = self.works.get_mut(&io)?;
        self.running -= usize::from(work.since.take().is_some());
        work.span
    }

    /// Whether a later change waits for this.
    pub(super) fn is_waited_for(&self, io: Io) -> bool {
        self.works.get(&io).is_some_and(|work| !work.before.is_empty())
    }

    /// A work has ended on the disk, or is held no longer. Returns whose it was, and whether it changed data or flushed it.
    pub(super) fn done(&mut self, io: Io) -> Option<(O, bool)> {
        let work = self.works.remove(&io)?;
        self.running -= usize::from(work.since.is_some());
        if let Some(span) = work.span {
            self.ranges.remove(io, span);
        }
        work.before.into_iter().for_each(|later| self.free(later));
        Some((work.owner, work.changes || work.span.is_none()))
    }

    /// Drops what has not started; what runs now belongs to `orphan`.
    pub(super) fn abandon(&mut self, orphan: O) {
        for (io, work) in self.works.extract_if(.., |_, work| work.since.is_none()) {
            if let Some(span) = work.span {
                self.ranges.remove(io, span);
            }
        }
        self.fresh.clear();
        self.heating.clear();
        self.works.values_mut().for_each(|work| work.owner = orphan);
    }

    /// Nothing is on its way to the disk.
    pub(super) fn is_idle(&self) -> bool {
        self.running == 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.works.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.works.len()
    }

    /// What is running counts from now on.
    pub(super) fn begin_again(&mut self, now: Moment) {
        self.works.values_mut().filter_map(|work| work.since.as_mut()).for_each(|since| *since = now);
    }

    /// For how long the slowest work has been running.
    pub(super) fn slowest(&self, now: Moment) -> Millis {
        let running = self.works.values().filter_map(|work| work.since);
        running.map(|since| now.longest_since(since)).max().unwrap_or(Millis::ZERO)
    }
}
