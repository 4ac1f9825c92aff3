//! What a resync overwrites on a standby is kept first, so that its last whole image can be had again if the holder is lost before
//! the resync has ended.
//!
//! ```text
//!  RESYNC: superblock says inconsistent, and under which number is kept ──▶ a change in a chunk that is not kept:
//!    KEEP (the chunk, behind what came before, durable in the log) ──▶ the change ──▶ … ──▶ whole: the number is void
//! ```
//! A chunk is kept as a read in the order of the works: after the changes before it, before those behind it. So whatever is changed
//! under RESYNC is in the log as it was, durably, before it changes. A log that is full or fails is given up, and the superblock says so
//! before anything that it lacks is overwritten. A new process does not know what was kept, and keeps again: of several copies of a chunk
//! under one number the first counts.

use super::notice::Notice;
use super::{Effect, Guard, Io, Job, Owner, Replica};
use crate::ids::Span;
use crate::metadata::{DataState, Undo};
use std::collections::{BTreeMap, BTreeSet};

/// What is kept, as far as this process knows.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Chunks that are in the log, or on their way into it: for each extent its bits.
    chunks: BTreeMap<u32, u64>,
    /// Those on their way.
    under_way: BTreeSet<(u32, u32)>,
    /// The log is given up with this version of the superblock; what could not be kept stays as it is until then.
    given_up: Option<u64>,
    failed: Vec<Io>,
}

impl Replica {
    /// RESYNC: from here on what is overwritten is kept, if this image is worth it and there is where.
    pub(super) fn begin_undo(&mut self) {
        let superblock = self.store.superblock();
        // A replica without history has nothing that anybody would want back.
        let is_worth_it = superblock.state == DataState::Whole && !superblock.generations.is_empty();
        if !self.setup.keeps || !is_worth_it {
            return;
        }
        self.kept = Kept::default();
        let life = self.setup.life.0;
        self.store.change(|superblock| {
            // Another replica's log, or what a clone was made of, has none of it.
            let number = life.wrapping_add(superblock.next_tag).max(1);
            superblock.next_tag += 1;
            superblock.undo = Some(Undo { number, generations: superblock.generations.clone() });
        });
    }

    /// Before a change of this range is taken in: what it overwrites is kept.
    pub(super) fn keep(&mut self, span: Span) {
        let Some(number) = self.store.superblock().undo.as_ref().map(|undo| undo.number) else { return };
        if self.omits(Guard::KeepFirst) {
            return;
        }
        let touched: Vec<(u32, u64)> = self.store.geometry().touched(span).collect();
        for (extent, chunks) in touched {
            let kept = self.kept.chunks.entry(extent).or_default();
            let missing = chunks & !*kept;
            *kept |= missing;
            for bit in (0..64).filter(|bit| missing & 1 << bit != 0) {
                self.kept.under_way.insert((extent, bit));
                let span = self.store.geometry().chunk(extent, bit);
                self.works.add(Owner::Keep { extent, bit }, Job::Keep { span, number }, &self.store, true, 0);
            }
        }
    }

    /// A chunk is in the log, durably.
    pub(super) fn chunk_kept(&mut self, extent: u32, bit: u32) {
        self.kept.under_way.remove(&(extent, bit));
    }

    /// A work has failed. True: it was to keep a chunk, whose range stays as it is until the superblock says that nothing is kept.
    pub(super) fn keep_failed(&mut self, io: Io) -> bool {
        if !matches!(self.works.owner(io), Some(Owner::Keep { .. })) || self.works.hold(io).is_none() {
            return false;
        }
        self.kept.failed.push(io);
        if self.store.superblock().undo.is_some() {
            self.out.push(Effect::Tell(Notice::NotKept));
        }
        self.kept.given_up = Some(self.store.change(|superblock| superblock.undo = None));
        true
    }

    /// Whether nobody takes the log for whole any more, but the superblock does not say so yet: nothing may change.
    pub(super) fn gives_up(&self) -> bool {
        let unsaved = self.kept.given_up.is_some_and(|version| self.store.saved() < version);
        unsaved && !self.omits(Guard::GiveUpFirst)
    }

    /// What could not be kept may be overwritten now.
    pub(super) fn settle_undo(&mut self) {
        if self.gives_up() {
            return;
        }
        let failed = std::mem::take(&mut self.kept.failed);
        if !failed.is_empty() {
            self.out.push(Effect::DropKept);
        }
        for io in failed {
            self.works.done(io);
        }
    }

    /// The session is over: what was not started is not kept.
    pub(super) fn forget_keeping(&mut self) {
        for (extent, bit) in std::mem::take(&mut self.kept.under_way) {
            self.kept.chunks.entry(extent).and_modify(|bits| *bits &= !(1 << bit));
        }
        self.kept.failed.clear();
    }

    /// The image is whole, durably: what was kept is of no use.
    pub(super) fn drop_kept(&mut self) {
        self.kept = Kept::default();
        if self.setup.keeps {
            self.out.push(Effect::DropKept);
        }
    }
}
