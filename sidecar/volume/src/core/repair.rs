//! Read errors of the primary's disk: a peer in step reads instead, and what it has is written here again.
//!
//! ```text
//!  read ──fails──▶ held ──FETCH, at this place of the stream──▶ FETCHED ──▶ answered ──▶ written here, durably ──▶ repaired
//!                    └──nobody in step can──▶ the error goes up
//! ```
//! The range of the failed read stays as it is until the peer has answered: no write that meets it starts, so what the peer has at
//! that place is what the read would have found. It is written back only if no write waits behind it: that one would be undone,
//! or repairs the range itself. A write error is never masked, of this write neither: such a disk has failed.

use super::notice::Notice;
use super::peer::{Sent, Stage};
use super::rules::{Peers, bit};
use super::{Answer, Effect, Guard, Io, Job, Owner, Refusal, Replica, Role};
use crate::ids::{Sequence, Span};
use crate::metadata::Slot;
use crate::wire::Message;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// Ranges, and their bytes, that are on their way at once, from peers and to the local disk; a single range may be as long as that.
/// A disk that fails each read must not fill the memory on either side.
pub(super) const REPAIRS_MAX: usize = 64;
const BYTES_MAX: u64 = crate::wire::MAX_SPAN;

/// A read that failed here and is asked of a peer.
#[derive(Clone, Copy, Debug)]
struct Fetch {
    span: Span,
    /// Who is asked now, and who could not.
    asked: Option<Slot>,
    tried: Peers,
}

/// What is being read elsewhere, and written here.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    fetches: BTreeMap<Io, Fetch>,
    waiting: VecDeque<Io>,
    /// What is asked of a peer, or written here.
    under_way: usize,
    bytes: u64,
    /// Ranges that are being written here, and hot for that.
    writing: Vec<Span>,
}

impl Repairs {
    fn has_room(&self, span: Span) -> bool {
        self.under_way == 0 || self.under_way < REPAIRS_MAX && self.bytes + span.len <= BYTES_MAX
    }

    fn begin(&mut self, span: Span) {
        self.under_way += 1;
        self.bytes += span.len;
    }

    fn end(&mut self, span: Span) {
        self.under_way -= 1;
        self.bytes -= span.len;
    }

    /// Failed reads, and what is under way.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 2] {
        [self.fetches.len(), self.under_way]
    }
}

impl Replica {
    /// A work has failed on the local disk. False: it is no read of this primary's.
    pub(super) fn read_failed(&mut self, io: Io) -> bool {
        let reads = matches!(self.works.owner(io), Some(Owner::Read(_) | Owner::Verify { .. } | Owner::Chunk { .. }));
        if !reads {
            return false;
        }
        let Some(span) = self.works.hold(io) else { return false };
        // Longer than a frame may be: nobody asks so much at once.
        if self.failed || span.len > BYTES_MAX || self.server(0).is_none() {
            self.unreadable(io, span);
            return true;
        }
        self.repairs(|repairs| {
            repairs.fetches.insert(io, Fetch { span, asked: None, tried: 0 });
            repairs.waiting.push_back(io);
        });
        self.fetch_next();
        true
    }

    /// Who can be asked, of those not yet tried.
    fn server(&self, tried: Peers) -> Option<Slot> {
        let Role::Leading(primary) = &self.role else { return None };
        let can = |slot: &Slot| {
            let dialogue = primary.peers[slot].dialogue.as_ref();
            dialogue.is_some_and(|dialogue| dialogue.stage == Stage::InSync && dialogue.fetches)
                && tried & bit(*slot) == 0
        };
        primary.peers.keys().copied().find(can)
    }

    /// Asks for what waits, as much as may be on its way.
    fn fetch_next(&mut self) {
        loop {
            let Role::Leading(primary) = &self.role else { return };
            let Some(io) = primary.repairs.waiting.front().copied() else { return };
            let Some(fetch) = primary.repairs.fetches.get(&io).copied() else {
                self.repairs(|repairs| repairs.waiting.pop_front());
                continue;
            };
            if !primary.repairs.has_room(fetch.span) {
                return;
            }
            let server = self.server(fetch.tried);
            self.repairs(|repairs| repairs.waiting.pop_front());
            let (Some(slot), Role::Leading(primary)) = (server, &mut self.role) else {
                self.unreadable(io, fetch.span);
                continue;
            };
            primary.repairs.begin(fetch.span);
            primary.repairs.fetches.insert(io, Fetch { asked: Some(slot), ..fetch });
            primary.say(slot, Message::Fetch { span: fetch.span }, Some(Sent::Fetch(io)), &mut self.out);
        }
    }

    fn repairs<T>(&mut self, change: impl FnOnce(&mut Repairs) -> T) {
        if let Role::Leading(primary) = &mut self.role {
            change(&mut primary.repairs);
        }
    }

    /// A peer has answered at this place of its stream. False: with something else than what was asked.
    pub(super) fn fetched(&mut self, slot: Slot, at: Sequence, data: Option<Bytes>) -> bool {
        let Role::Leading(primary) = &mut self.role else { return true };
        let Some(dialogue) = primary.peers.get_mut(&slot).and_then(|peer| peer.dialogue.as_mut()) else { return true };
        let Some(Sent::Fetch(io)) = dialogue.places.get(&at).copied() else { return false };
        dialogue.places.remove(&at);
        let Some(fetch) = primary.repairs.fetches.get(&io).copied() else { return true };
        if data.as_ref().is_some_and(|data| data.len() as u64 != fetch.span.len) {
            return false;
        }
        let by = primary.peers[&slot].incarnation.clone();
        match data {
            Some(data) => {
                self.repairs(|repairs| {
                    repairs.fetches.remove(&io);
                    repairs.end(fetch.span);
                });
                self.tally.reads_served += 1;
                self.out.push(Effect::Tell(Notice::Served { span: fetch.span, by }));
                self.write_back(io, fetch.span, &data);
                if let Some((owner, _)) = self.works.done(io) {
                    self.served(owner, data);
                }
            }
            None => self.ask_another(io, slot),
        }
        self.fetch_next();
        true
    }

    /// Before the held read is over: what waits behind it comes later than this.
    fn write_back(&mut self, io: Io, span: Span, data: &Bytes) {
        if self.failed || self.works.is_waited_for(io) && !self.omits(Guard::RepairUndone) {
            return;
        }
        let job = Job::Write { volume: span.volume, at: span.at, data: data.clone(), fua: true };
        self.works.add(Owner::Repair(span), job, &self.store, true, 0);
        self.repairs(|repairs| repairs.begin(span));
    }

    /// What was to be read is known.
    fn served(&mut self, owner: Owner, data: Bytes) {
        match owner {
            Owner::Read(id) => self.primary_read(id, Ok(data)),
            // Compared with nobody: it is what one of them has.
            Owner::Verify { run, span } => self.verify_read(run, span, &Answer::Failed),
            // Where its hash was asked for that is not at hand: it is copied as it is.
            Owner::Chunk { slot, session, extent, bit, .. } => {
                self.chunk_read(slot, session, (extent, bit), Answer::Data(data));
            }
            _ => {}
        }
    }

    fn ask_another(&mut self, io: Io, slot: Slot) {
        self.repairs(|repairs| {
            let Some(fetch) = repairs.fetches.get_mut(&io) else { return };
            (fetch.asked, fetch.tried) = (None, fetch.tried | bit(slot));
            let span = fetch.span;
            repairs.end(span);
            // It was first before, and is again.
            repairs.waiting.push_front(io);
        });
    }

    /// Nobody can: the error goes up.
    fn unreadable(&mut self, io: Io, span: Span) {
        self.repairs(|repairs| repairs.fetches.remove(&io));
        self.tally.reads_failed += 1;
        self.out.push(Effect::Tell(Notice::Unreadable { span }));
        let Some((owner, _)) = self.works.done(io) else { return };
        match owner {
            Owner::Read(id) => self.primary_read(id, Err(Refusal::Io)),
            Owner::Verify { run, span } => self.verify_read(run, span, &Answer::Failed),
            Owner::Chunk { slot, session, extent, bit, .. } => {
                self.chunk_read(slot, session, (extent, bit), Answer::Failed);
            }
            _ => {}
        }
    }

    /// The peer is gone, or is not to be asked any more: whatever was asked of it is asked of another.
    pub(super) fn fetches_lost(&mut self, slot: Slot) {
        let Role::Leading(primary) = &self.role else { return };
        let asked = primary.repairs.fetches.iter().filter(|(_, fetch)| fetch.asked == Some(slot));
        let asked: Vec<Io> = asked.map(|(io, _)| *io).collect();
        asked.into_iter().rev().for_each(|io| self.ask_another(io, slot));
        self.fetch_next();
    }

    /// What a peer had is being written here.
    pub(super) fn repair_starts(&mut self, span: Span) {
        self.repairs(|repairs| repairs.writing.push(span));
    }

    /// It is written, durably.
    pub(super) fn repaired(&mut self, span: Span) {
        self.repairs(|repairs| {
            repairs.end(span);
            if let Some(at) = repairs.writing.iter().position(|writing| *writing == span) {
                repairs.writing.swap_remove(at);
            }
        });
        let extents: Vec<u32> = self.store.geometry().touched(span).map(|(extent, _)| extent).collect();
        self.store.release(&extents);
        self.tally.reads_repaired += 1;
        self.out.push(Effect::Tell(Notice::Repaired { span }));
        self.fetch_next();
    }

    /// The epoch is over: what is being written may be torn, and is marked for everybody.
    pub(super) fn abandon_repairs(&mut self, repairs: Repairs) {
        for span in repairs.writing {
            for slot in self.store.slots() {
                self.store.mark(slot, span);
            }
            let extents: Vec<u32> = self.store.geometry().touched(span).map(|(extent, _)| extent).collect();
            self.store.release(&extents);
        }
    }
}
