//! Bringing a peer to what the primary has: marked chunks, in order, beside the writes that go on.
//!
//! ```text
//!  marked ──▶ read here ──▶ its place in the stream ──▶ durable there ──▶ no mark
//!           └─ `reading` ─┘
//!           └────────────── `under_way` ────────────┘     a flush is asked after each `flush_after` of them
//! ```
//! A chunk is read under the same order as writes: after those before it, and those behind it wait until its bytes have their
//! place in the peer's stream. So at the peer it never lands on something newer. Once it is durable there, and only then, its
//! mark goes; a write that is lost behind it marks it again.
//!
//! What is read and what is not durable are bounded apart: a disk wants few reads at a time, and a copy that waited for the flush
//! of those before it would leave disk and link idle while that lasts.

use super::peer::{Peer, Sent};
use super::primary::Primary;
use super::{Answer, Guard, Job, Owner, RETAINED_MAX, Replica, Role};
use crate::ids::Session;
use crate::metadata::Slot;
use crate::wire::Message;
use lease::time::Moment;
use std::collections::BTreeMap;

/// Chunks that are read at once, for one peer: what keeps a disk busy. A write that meets one of them waits for that read.
const READING: usize = 16;
/// Chunks that are read, or sent and not durable there, for one peer: so many can be lost and are copied again, and so much of them
/// both sides hold in memory at the most. More than a fast link and disk have under way while the peer makes a part of them durable.
const UNDER_WAY: usize = 256;
const UNDER_WAY_BYTES: usize = 16 << 20;

/// How much of a resync is under way at once, for each peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Windows {
    /// Chunks being read here.
    pub(super) reading: usize,
    /// These, and those that were sent and are not durable there.
    pub(super) under_way: usize,
    /// After so many the peer is asked to make them durable: while it does, the others are on their way.
    pub(super) flush_after: usize,
}

impl Windows {
    pub(super) fn of(chunk_shift: u8) -> Self {
        let under_way = (UNDER_WAY_BYTES >> chunk_shift).clamp(READING, UNDER_WAY);
        Self { reading: READING, under_way, flush_after: under_way / 4 }
    }
}

/// How far the resync of one session is.
#[derive(Debug)]
pub(super) struct Resync {
    /// Compare before copying: the marks are a guess.
    compare: bool,
    cursor: u32,
    under_way: UnderWay,
    /// Compared, and not the same; under way still.
    to_copy: Vec<(u32, u32)>,
    /// Sent since a flush was asked.
    unflushed: usize,
    /// The next chunk is there to be read, and is not yet: the rate.
    early: bool,
}

/// Chunks being read, or sent and not durable: of each extent, the bits.
#[derive(Debug, Default)]
struct UnderWay {
    words: BTreeMap<u32, u64>,
    count: usize,
}

impl UnderWay {
    fn of(&self, extent: u32) -> u64 {
        self.words.get(&extent).copied().unwrap_or(0)
    }

    fn insert(&mut self, (extent, bit): (u32, u32)) {
        let word = self.words.entry(extent).or_insert(0);
        self.count += usize::from(*word & 1 << bit == 0);
        *word |= 1 << bit;
    }

    fn remove(&mut self, (extent, bit): (u32, u32)) {
        let Some(word) = self.words.get_mut(&extent) else { return };
        self.count -= usize::from(*word & 1 << bit != 0);
        *word &= !(1 << bit);
        if *word == 0 {
            self.words.remove(&extent);
        }
    }
}

impl Resync {
    pub(super) fn new(compare: bool) -> Self {
        Self { compare, cursor: 0, under_way: UnderWay::default(), to_copy: Vec::new(), unflushed: 0, early: false }
    }

    pub(super) fn arrived(&mut self, extent: u32, bit: u32) {
        self.under_way.remove((extent, bit));
    }

    pub(super) fn differs(&mut self, extent: u32, bit: u32) {
        self.to_copy.push((extent, bit));
    }

    /// What is not durable there, and what is sent again.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 2] {
        [self.under_way.count, self.to_copy.len()]
    }
}

impl Primary {
    /// Somebody is being brought up to date.
    pub(super) fn is_copying(&self) -> bool {
        self.peers.values().any(Peer::is_copied_to)
    }
}

impl Replica {
    /// Keeps each peer that is behind supplied with chunks, and ends the resync when nothing is marked.
    pub(super) fn pump(&mut self, now: Moment) {
        let Role::Leading(primary) = &self.role else { return };
        if !primary.has_flushed() && !self.omits(Guard::FlushFirst) {
            return;
        }
        let behind = primary.peers.iter().filter(|(_, peer)| peer.is_copied_to());
        let behind: Vec<Slot> = behind.map(|(slot, _)| *slot).collect();
        // Whoever is waited for holds up all writes until it has everything.
        let urgent = behind.iter().any(|slot| primary.requires(&primary.peers[slot]));
        let pressed = primary.retained > RETAINED_MAX / 2;
        if let Role::Leading(primary) = &mut self.role {
            if behind.is_empty() {
                primary.rate.rests(now);
            } else {
                primary.rate.look(now, urgent, pressed);
            }
        }
        for slot in behind {
            while self.read_next(slot, now) {}
            self.flush_or_end(slot);
        }
    }

    /// Reads the next chunk. False: enough is under way, it is too early, or nothing is left to send.
    fn read_next(&mut self, slot: Slot, now: Moment) -> bool {
        let (windows, marks) = (self.windows, self.store.marks(slot));
        let Role::Leading(primary) = &mut self.role else { return false };
        let Some(peer) = primary.peers.get_mut(&slot) else { return false };
        let Some(dialogue) = peer.dialogue.as_mut() else { return false };
        if peer.reading >= windows.reading {
            return false;
        }
        let (session, resync) = (dialogue.session, &mut dialogue.resync);
        resync.early = false;
        let (chunk, compare) = if let Some(chunk) = resync.to_copy.last() {
            (*chunk, false)
        } else {
            // All that is under way is marked: nothing is looked for where nothing else is.
            if resync.under_way.count >= windows.under_way || marks <= resync.under_way.count as u64 {
                return false;
            }
            let Some(extent) = self.store.next_marked(slot, resync.cursor) else {
                resync.cursor = 0;
                return false;
            };
            let free = self.store.marked(slot, extent) & !resync.under_way.of(extent);
            if free == 0 {
                resync.cursor = extent + 1;
                return true;
            }
            resync.cursor = extent;
            ((extent, free.trailing_zeros()), resync.compare)
        };
        let (extent, bit) = chunk;
        let span = self.store.geometry().chunk(extent, bit);
        if !primary.rate.takes(span.len, now) {
            resync.early = true;
            return false;
        }
        resync.to_copy.pop();
        resync.under_way.insert(chunk);
        peer.reading += 1;
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
        primary.say(slot, message, Some(sent), &mut self.out);
        if let Some(dialogue) = primary.peers.get_mut(&slot).and_then(|peer| peer.dialogue.as_mut()) {
            dialogue.resync.unflushed += 1;
            if early {
                dialogue.resync.arrived(extent, bit);
                self.store.clear(slot, extent, 1 << bit);
            }
        }
    }

    fn flush_or_end(&mut self, slot: Slot) {
        let (windows, marks) = (self.windows, self.store.marks(slot));
        let Role::Leading(primary) = &mut self.role else { return };
        let Some(peer) = primary.peers.get_mut(&slot) else { return };
        let Some(dialogue) = peer.dialogue.as_mut() else { return };
        let resync = &mut dialogue.resync;
        // Nothing more comes before something is durable.
        let waits = peer.reading == 0 && resync.to_copy.is_empty() && !resync.early;
        if waits && resync.under_way.count == 0 && marks == 0 {
            self.caught_up(slot);
        } else if resync.unflushed >= windows.flush_after || waits && resync.unflushed > 0 {
            resync.unflushed = 0;
            primary.say(slot, Message::Flush, None, &mut self.out);
        }
    }
}
