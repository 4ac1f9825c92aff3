//! Bringing a peer to what the primary has: marked chunks, in order, beside the writes that go on.
//!
//! A chunk is read under the same order as writes: after those before it, and those behind it wait until its bytes have their
//! place in the peer's stream. So at the peer it never lands on something newer. Once it is durable there, and only then, its
//! mark goes; a write that is lost behind it marks it again.

use super::peer::{Sent, Stage};
use super::{Answer, Guard, Job, Owner, RESYNC_WINDOW, Replica, Role};
use crate::ids::{Sequence, Session};
use crate::metadata::Slot;
use crate::wire::Message;
use std::collections::BTreeSet;

/// How far the resync of one session is.
#[derive(Debug)]
pub(super) struct Resync {
    /// Compare before copying: the marks are a guess.
    compare: bool,
    cursor: u32,
    /// Chunks being read, or sent and not durable, as (extent, bit).
    under_way: BTreeSet<(u32, u32)>,
    /// Compared, and not the same.
    to_copy: Vec<(u32, u32)>,
    /// Place of the last chunk, and up to where a flush was asked.
    last: Sequence,
    flushed: Sequence,
}

impl Resync {
    pub(super) fn new(compare: bool) -> Self {
        Self {
            compare,
            cursor: 0,
            under_way: BTreeSet::new(),
            to_copy: Vec::new(),
            last: Sequence(0),
            flushed: Sequence(0),
        }
    }

    pub(super) fn arrived(&mut self, extent: u32, bit: u32) {
        self.under_way.remove(&(extent, bit));
    }

    pub(super) fn differs(&mut self, extent: u32, bit: u32) {
        self.to_copy.push((extent, bit));
    }
}

impl Replica {
    /// Keeps each peer that is behind supplied with chunks, and ends the resync when nothing is marked.
    pub(super) fn pump(&mut self) {
        let Role::Leading(primary) = &self.role else { return };
        if !primary.has_flushed() && !self.omits(Guard::FlushFirst) {
            return;
        }
        let behind = primary
            .peers
            .iter()
            .filter(|(_, peer)| peer.dialogue.as_ref().is_some_and(|dialogue| dialogue.stage == Stage::Resyncing));
        let behind: Vec<Slot> = behind.map(|(slot, _)| *slot).collect();
        for slot in behind {
            while self.read_next(slot) {}
            self.flush_or_end(slot);
        }
    }

    /// Reads the next chunk. False: enough is under way, or nothing is left to send.
    fn read_next(&mut self, slot: Slot) -> bool {
        let Role::Leading(primary) = &mut self.role else { return false };
        let Some(peer) = primary.peers.get_mut(&slot) else { return false };
        let Some(dialogue) = peer.dialogue.as_mut() else { return false };
        if peer.reading >= RESYNC_WINDOW {
            return false;
        }
        let (session, resync) = (dialogue.session, &mut dialogue.resync);
        let (chunk, compare) = if let Some(chunk) = resync.to_copy.pop() {
            (chunk, false)
        } else {
            if resync.under_way.len() >= RESYNC_WINDOW {
                return false;
            }
            let Some(extent) = self.store.next_marked(slot, resync.cursor) else {
                resync.cursor = 0;
                return false;
            };
            let busy = (0..64).filter(|bit| resync.under_way.contains(&(extent, *bit)));
            let busy = busy.fold(0_u64, |mask, bit| mask | 1 << bit);
            let free = self.store.marked(slot, extent) & !busy;
            if free == 0 {
                resync.cursor = extent + 1;
                return true;
            }
            resync.cursor = extent;
            ((extent, free.trailing_zeros()), resync.compare)
        };
        resync.under_way.insert(chunk);
        peer.reading += 1;
        let (extent, bit) = chunk;
        let span = self.store.geometry().chunk(extent, bit);
        let job = if compare { Job::Digest(span) } else { Job::Read(span) };
        let ordered = !self.omits(Guard::OrderMeeting);
        self.works.add(Owner::Chunk { slot, session, extent, bit, compare }, job, &self.store, ordered, 0);
        true
    }

    /// A chunk was read: it gets its place in the stream now, before any later write to it starts.
    pub(super) fn chunk_read(&mut self, slot: Slot, session: Session, chunk: (u32, u32), answer: Answer) {
        let early = self.omits(Guard::CleanWhenDurable);
        let (extent, bit) = chunk;
        let span = self.store.geometry().chunk(extent, bit);
        let Role::Leading(primary) = &mut self.role else { return };
        let Some(peer) = primary.peers.get_mut(&slot) else { return };
        peer.reading = peer.reading.saturating_sub(1);
        if peer.dialogue.as_ref().is_none_or(|dialogue| dialogue.session != session) {
            return;
        }
        let (message, sent) = match answer {
            Answer::Data(data) if data.iter().all(|byte| *byte == 0) => {
                (Message::Zero { span, fua: false }, Sent::Copy { extent, bit })
            }
            Answer::Data(data) => {
                (Message::Copy { volume: span.volume, at: span.at, data }, Sent::Copy { extent, bit })
            }
            Answer::Digest(digest) => (Message::Compare { span, digest }, Sent::Compare { extent, bit, same: false }),
            Answer::Done | Answer::Failed => {
                self.fail();
                return;
            }
        };
        let at = primary.say(slot, message, Some(sent), &mut self.out);
        if let Some(dialogue) = primary.peers.get_mut(&slot).and_then(|peer| peer.dialogue.as_mut()) {
            dialogue.resync.last = at;
            if early {
                dialogue.resync.arrived(extent, bit);
                self.store.clear(slot, extent, 1 << bit);
            }
        }
    }

    fn flush_or_end(&mut self, slot: Slot) {
        let marks = self.store.marks(slot);
        let Role::Leading(primary) = &mut self.role else { return };
        let Some(peer) = primary.peers.get_mut(&slot) else { return };
        let Some(dialogue) = peer.dialogue.as_mut() else { return };
        let resync = &mut dialogue.resync;
        if peer.reading > 0 || !resync.to_copy.is_empty() {
            return;
        }
        if resync.under_way.is_empty() && marks == 0 {
            self.caught_up(slot);
        } else if resync.flushed < resync.last {
            let at = primary.say(slot, Message::Flush, None, &mut self.out);
            if let Some(dialogue) = primary.peers.get_mut(&slot).and_then(|peer| peer.dialogue.as_mut()) {
                dialogue.resync.flushed = at;
            }
        }
    }
}
