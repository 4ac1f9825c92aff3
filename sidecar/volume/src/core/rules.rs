//! The rules by which something owed to a peer becomes nothing, one pure function each: called by the machine and by the models.

use crate::ids::Session;
use crate::metadata::Slot;
use lease::ids::Epoch;

/// A set of peers, one bit for each place.
pub type Peers = u8;
const _: () = assert!(crate::ids::PEERS_MAX <= Peers::BITS as usize);

#[must_use]
pub const fn bit(slot: Slot) -> Peers {
    1 << slot
}

/// What one write owes to each peer (invariant 3): what a peer may lack is kept for it, or marked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owed {
    /// Who has it in the stream, or will, and has not acknowledged it.
    awaiting: Peers,
    /// For whom it is marked instead.
    missed: Peers,
    /// Who may lose it: it is kept until it is durable there.
    held: Peers,
}

impl Owed {
    /// The write starts: a peer gets it (now or when it is back), or it is to be marked for that peer.
    pub const fn starts(&mut self, slot: Slot, gets_it: bool) {
        if gets_it {
            self.awaiting |= bit(slot);
            self.held |= bit(slot);
        } else {
            self.missed |= bit(slot);
        }
    }

    /// Written there: acknowledged, and kept still.
    pub const fn written(&mut self, slot: Slot) {
        self.awaiting &= !bit(slot);
    }

    /// Durable there: nothing is owed any more.
    pub const fn durable(&mut self, slot: Slot) {
        self.awaiting &= !bit(slot);
        self.held &= !bit(slot);
    }

    /// The peer has flushed in a session in which it was not sent this write: what it had acknowledged before is durable now,
    /// for it is the same process.
    pub const fn flushed_since(&mut self, slot: Slot, sent: bool) {
        if !sent && self.awaiting & bit(slot) == 0 {
            self.held &= !bit(slot);
        }
    }

    #[must_use]
    pub const fn is_kept(&self, slot: Slot) -> bool {
        self.held & bit(slot) != 0
    }

    /// To be sent when the peer is back: what it has acknowledged it has.
    #[must_use]
    pub const fn is_unsent(&self, slot: Slot) -> bool {
        self.held & self.awaiting & bit(slot) != 0
    }

    /// A new process of the peer may have lost this: acknowledged by an earlier one, and not known to be durable.
    #[must_use]
    pub const fn may_be_lost(&self, slot: Slot, durable_when_written: bool) -> bool {
        self.is_kept(slot) && self.awaiting & bit(slot) == 0 && !durable_when_written
    }

    /// As if what is kept had never been acknowledged.
    pub const fn unacknowledge(&mut self, slot: Slot) {
        self.awaiting |= self.held & bit(slot);
    }

    /// Nothing is kept for the peer any more. True: it is to be marked.
    pub const fn stop_keeping(&mut self, slot: Slot) -> bool {
        let kept = self.is_kept(slot);
        if kept {
            self.held &= !bit(slot);
            self.missed |= self.awaiting & bit(slot);
            self.awaiting &= !bit(slot);
        }
        kept
    }

    /// Everything that was marked is there, durably.
    pub const fn caught_up(&mut self, slot: Slot) {
        self.missed &= !bit(slot);
    }

    /// By all of these (invariant 1).
    #[must_use]
    pub const fn is_acknowledged(&self, quorum: Peers) -> bool {
        (self.awaiting | self.missed) & quorum == 0
    }

    /// Whether it is kept for nobody but these.
    #[must_use]
    pub const fn is_kept_only_for(&self, these: Peers) -> bool {
        self.held & these != 0 && self.held & !these == 0
    }

    /// Nobody needs the write any more: its extents may leave the log.
    #[must_use]
    pub const fn is_over(&self, answered: bool, durable_here: bool) -> bool {
        answered && self.held == 0 && durable_here
    }
}

/// Why the kept writes are all that the peer may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Basis {
    /// It was a member when the epoch began, and nothing here is marked: to be confirmed by its own marks.
    Member,
    /// In this epoch it was found to have everything.
    CaughtUp,
}

impl Basis {
    /// Of a member, when the epoch begins.
    #[must_use]
    pub const fn of_member(marks: u64) -> Option<Self> {
        if marks == 0 { Some(Self::Member) } else { None }
    }

    /// Whether what a peer has marked itself joins the marks here (invariant 4). Who has caught up lacks only what is kept for
    /// it, whatever it fears itself.
    #[must_use]
    pub fn joins_marks(whole: Option<Self>) -> bool {
        whole != Some(Self::CaughtUp)
    }

    /// Once its marks are known, this many here in all.
    #[must_use]
    pub fn confirmed(whole: Option<Self>, marks: u64) -> Option<Self> {
        whole.filter(|basis| *basis == Self::CaughtUp || marks == 0)
    }
}

/// Whether what is about to be sent makes an image neither old nor new, so that it is marked before (invariant 6). `again`: what an
/// earlier process of the peer had acknowledged is sent again. `intact`: it is a member, and its process has not ended since it had
/// everything. Then what is marked is what nobody was told of: with any part of it, its image is one that may be promoted.
#[must_use]
pub const fn tears_image(marks: u64, again: bool, intact: bool) -> bool {
    marks > 0 && !intact || again
}

/// A frame of an epoch below the promise is refused (invariant 5).
#[must_use]
pub fn is_fenced(promised: Epoch, frame: Epoch) -> bool {
    frame < promised
}

/// Only frames of the dialogue that goes on are heard (invariant 5).
#[must_use]
pub fn is_heard(dialogue: (Epoch, Session), frame: (Epoch, Session)) -> bool {
    dialogue == frame
}
