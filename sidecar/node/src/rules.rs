//! The machine's rules that need nothing but values. [`Node`](crate::Node) asks them, and so do the models: what they search
//! is what ships.

use lease::change::{Change, Expect, Write};
use lease::ids::{Epoch, NodeId, Rev};
use lease::record::{Holder, Row};

/// What follows for a node when a write of its own is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sequel {
    /// It holds the epoch that this made.
    Holds,
    /// It holds on: its lease counts from the send of this write, and it needs whom the row names now.
    HoldsOn,
    /// It has given the epoch away, or back.
    StandsBy,
    /// Nothing that concerns who holds.
    Nothing,
}

impl Sequel {
    #[must_use]
    pub fn of(change: &Change) -> Self {
        match change {
            Change::Accept { .. } | Change::Restart { .. } => Self::Holds,
            Change::Renew { .. } | Change::Shrink { .. } | Change::Grow { .. } | Change::Activate { .. } => {
                Self::HoldsOn
            }
            Change::HandOver { .. } | Change::Release { .. } => Self::StandsBy,
            _ => Self::Nothing,
        }
    }
}

/// Whether `row` shows that `write` was applied, also where others have written since. By its nonce; or, for what only the
/// holder of the epoch may write, by the beat: nobody else raises it, and a node makes one write at a time.
#[must_use]
pub fn is_in(write: &Write, row: &Row) -> bool {
    let (wanted, Expect::Version(before)) = (&write.row, &write.expect) else { return false };
    let beats = wanted.epoch == before.epoch && wanted.beat > before.beat;
    row.lineage == wanted.lineage
        && (row.nonce == wanted.nonce || (beats && row.epoch == wanted.epoch && row.beat >= wanted.beat))
}

/// What a fresh row says of an unanswered write: `Some(true)` applied, `Some(false)` never will be from now on.
#[must_use]
pub fn settled_by(write: &Write, row: &Row) -> Option<bool> {
    if is_in(write, row) {
        Some(true)
    } else if row.rev >= write.row.rev {
        Some(false)
    } else {
        None
    }
}

/// Whether `row` gives its epoch to `me` by a hand-over, so that a standby may hold it at once. `past`: the highest epoch that
/// this node is known to have held.
///
/// A hand-over leaves at least two members. A row that has only me in it is an acceptance that an earlier process of mine
/// sent and that landed late: this process may have promised since, so it waits and takes a new epoch.
#[must_use]
pub fn is_handed_over(row: &Row, me: &Holder, past: Option<Epoch>) -> bool {
    row.is_held_by(me) && past.is_none_or(|past| row.epoch > past) && row.in_sync.len() > 1
}

/// What a process that starts must fear of an earlier one: that it sent an acceptance of this very version of the row, which
/// may still land.
#[must_use]
pub fn claim_on(row: &Row, me: &NodeId) -> Option<Rev> {
    row.live_nominee().filter(|nominee| nominee.node == *me).map(|_| row.rev)
}

/// What decides whether a node's copy takes replicated writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Taker {
    /// It has read the row, stands by, and the row is the one that it belongs to.
    pub stands_by: bool,
    /// An acceptance of this process is on its way, or about to be.
    pub accepting: bool,
    /// One of an earlier process may be.
    pub claimed: bool,
    /// The newest epoch that it knows of.
    pub known: Option<Epoch>,
}

impl Taker {
    /// Not of an epoch that it knows to be over, and not while it may be the holder of the next one without knowing it.
    #[must_use]
    pub fn takes(self, epoch: Epoch) -> bool {
        self.takes_from().is_some_and(|known| epoch >= known)
    }

    /// The first epoch that it may take; `None`: none.
    #[must_use]
    pub fn takes_from(self) -> Option<Epoch> {
        let free = self.stands_by && !self.accepting && !self.claimed;
        self.known.filter(|_| free)
    }
}

/// What decides how a node answers a peer that believes to hold `epoch` and asks for a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// The peer's.
    pub epoch: Epoch,
    /// The newest epoch that this node has read of, or held.
    pub known: Epoch,
    /// The row that it has read gives that epoch to nobody else.
    pub rightful: bool,
    /// The peer gets its answers.
    pub heard_back: bool,
    /// It holds nothing. A program that has just started may promise: that only restricts it.
    pub idle: bool,
    /// An acceptance of its own is on its way: a promise not to accept would be a lie.
    pub accepting: bool,
}

/// How a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// The peer's epoch is over.
    Fenced,
    NoPromise,
    Promise,
}

impl Asked {
    #[must_use]
    pub fn reply(self) -> Reply {
        let free = self.idle && !self.accepting;
        if self.epoch < self.known {
            Reply::Fenced
        } else if self.heard_back && self.rightful && free {
            Reply::Promise
        } else {
            Reply::NoPromise
        }
    }
}
