//! A state of A1, packed small: a search keeps millions of them.

use crate::rows::{Member, Members, NODES, Packed, Want};
use std::hash::{Hash, Hasher};

/// Writes at most.
pub(crate) const WRITES: usize = 2;
/// Late requests of dead processes at most; two that would do the same are one.
const ORPHANS: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub(crate) enum Role {
    #[default]
    Standby,
    Activating,
    Active,
    /// Drained, on the way out: the hand-over or release is under way.
    Leaving,
}

impl Role {
    pub(crate) fn holds(self) -> bool {
        matches!(self, Self::Activating | Self::Active | Self::Leaving)
    }
}

/// A conditional write of a living process that it does not know the fate of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) want: Want,
    /// The row that it makes.
    pub(crate) new: Packed,
    /// Epoch and beat of the row that it was made on. They follow from the others, so they are not hashed.
    pub(crate) made_on: (u8, u8),
    /// It was applied.
    pub(crate) landed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Node {
    // --- the process: gone with a crash ---
    pub(crate) role: Role,
    /// The epoch it holds.
    pub(crate) epoch: u8,
    /// As holder: whose acknowledgements it waits for, itself aside.
    pub(crate) need: Members,
    /// As standby that the row names: the row's epoch, if this process knows that an earlier one had it; else 0.
    pub(crate) past: u8,
    /// As holder: writes submitted in this epoch.
    pub(crate) seq: u8,
    /// The epoch whose holder has shaken hands with this process.
    pub(crate) session: u8,
    pub(crate) pending: Option<Pending>,
    /// The rev of the row from which an earlier process may have wanted to accept, until it is known what became of it.
    pub(crate) claim: u8,
    // --- the replica: on the disk ---
    pub(crate) incarnation: u8,
    /// The writes it holds, a bit each.
    pub(crate) data: u8,
    /// A whole image: not in the middle of a resync.
    pub(crate) consistent: bool,
    /// Frames of older epochs are refused.
    pub(crate) promised: u8,
    /// The last frame applied of the promised epoch.
    pub(crate) applied: u8,
}

/// Where a frame of a write to one node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Frame {
    #[default]
    None,
    OnItsWay,
    /// By the replica of this incarnation.
    Acked(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub(crate) enum Fate {
    #[default]
    NotSubmitted,
    Submitted,
    Acked,
    /// Its holder is gone: the workload was never told, it may survive or not.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Write {
    pub(crate) fate: Fate,
    pub(crate) by: u8,
    pub(crate) epoch: u8,
    pub(crate) seq: u8,
    /// Submitted when the row was at a higher epoch already.
    pub(crate) late: bool,
    pub(crate) frames: [Frame; NODES],
}

/// What must never happen and cannot be seen from a state alone: set when it happens, never cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Broken {
    /// I1: a row that did not follow from the one before.
    pub(crate) row: bool,
    /// I4: a write submitted too late was acknowledged.
    pub(crate) late_ack: bool,
    /// I5: somebody accepted, or an acknowledgement counted, that must not.
    pub(crate) stranger: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub(crate) row: Packed,
    pub(crate) nodes: [Node; NODES],
    pub(crate) writes: [Write; WRITES],
    /// Rows that requests of dead processes may still make: sorted, 0 for none.
    pub(crate) orphans: [u64; ORPHANS],
    /// Wipes and restores that may still happen.
    pub(crate) formats: u8,
    /// The writes that somebody has read.
    pub(crate) read: u8,
    pub(crate) broken: Broken,
}

impl State {
    /// The member that a node's replica is now.
    pub(crate) fn member(&self, node: usize) -> Member {
        Member::of(node, self.nodes[node].incarnation)
    }

    /// The node that has this member's replica; `None`: that replica is gone.
    pub(crate) fn node_of(&self, member: Member) -> Option<usize> {
        let node = member.node();
        (self.member(node) == member).then_some(node)
    }

    /// The writes that the workload was told are done.
    pub(crate) fn acked(&self) -> u8 {
        let acked = self.writes.iter().enumerate().filter(|(_, write)| write.fate == Fate::Acked);
        acked.fold(0, |set, (at, _)| set | 1 << at)
    }

    /// This node holds, and the row agrees.
    pub(crate) fn rightful(&self, node: usize) -> bool {
        let held = &self.nodes[node];
        held.role.holds() && held.epoch == self.row.epoch() && self.row.holder() == Some(self.member(node))
    }

    pub(crate) fn orphans(&self) -> impl Iterator<Item = Packed> + '_ {
        self.orphans.iter().filter(|orphan| **orphan != 0).map(|orphan| Packed(*orphan))
    }

    pub(crate) fn add_orphan(&mut self, orphan: Packed) {
        if self.orphans.contains(&orphan.0) {
            return;
        }
        let free = self.orphans.iter().position(|orphan| *orphan == 0).expect("room for every late request");
        self.orphans[free] = orphan.0;
        self.orphans.sort_unstable_by(|one, other| other.cmp(one));
    }

    pub(crate) fn drop_orphan(&mut self, orphan: Packed) {
        for place in &mut self.orphans {
            if *place == orphan.0 {
                *place = 0;
            }
        }
        self.orphans.sort_unstable_by(|one, other| other.cmp(one));
    }
}

fn want_bits(want: Want) -> u64 {
    match want {
        Want::Renew => 1,
        Want::Shrink(peer) => 2 | u64::from(peer.0) << 4,
        Want::Grow(peer) => 3 | u64::from(peer.0) << 4,
        Want::Nominate { .. } => 4,
        Want::Accept => 5,
        Want::Activate => 6,
        Want::HandOver(to) => 7 | u64::from(to.0) << 4,
        Want::Release => 8,
        Want::Restart { clean } => 9 | u64::from(clean) << 4,
        Want::Leave => 10,
    }
}

/// By hand, a few words instead of a hundred fields: most of a search's time is hashing.
impl Hash for State {
    fn hash<H: Hasher>(&self, to: &mut H) {
        to.write_u64(self.row.0);
        for node in &self.nodes {
            let process = node.role as u64
                | u64::from(node.epoch) << 3
                | u64::from(node.need.0) << 8
                | u64::from(node.past) << 24
                | u64::from(node.seq) << 28
                | u64::from(node.session) << 32;
            let disk = u64::from(node.incarnation)
                | u64::from(node.data) << 2
                | u64::from(node.consistent) << 4
                | u64::from(node.promised) << 5
                | u64::from(node.applied) << 9
                | u64::from(node.claim) << 11;
            to.write_u64(process | disk << 40);
            if let Some(pending) = &node.pending {
                let flags = u64::from(pending.landed) | want_bits(pending.want) << 1;
                to.write_u64(pending.new.0 ^ flags << 52);
            } else {
                to.write_u64(0);
            }
        }
        for write in &self.writes {
            let frames = write.frames.iter().fold(0, |bits: u64, frame| {
                bits << 3
                    | match frame {
                        Frame::None => 0,
                        Frame::OnItsWay => 1,
                        Frame::Acked(incarnation) => 2 + u64::from(*incarnation),
                    }
            });
            let bits = write.fate as u64
                | u64::from(write.by) << 2
                | u64::from(write.epoch) << 4
                | u64::from(write.seq) << 8
                | u64::from(write.late) << 10
                | frames << 11;
            to.write_u64(bits);
        }
        for orphan in self.orphans.iter().take_while(|orphan| **orphan != 0) {
            to.write_u64(*orphan);
        }
        let rest = u64::from(self.formats)
            | u64::from(self.read) << 4
            | u64::from(self.broken.row) << 8
            | u64::from(self.broken.late_ack) << 9
            | u64::from(self.broken.stranger) << 10;
        to.write_u64(rest);
    }
}
