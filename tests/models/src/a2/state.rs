//! A state of A2.

use super::clocks::{Age, Rate, Right, Watch};
use crate::rows::{Member, NODES, Packed, Want};

/// Late requests at most; two that would do the same are one.
pub(crate) const LATE: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Standby,
    Holding,
}

/// A conditional write that its writer does not know the fate of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pending {
    pub(crate) want: Want,
    pub(crate) new: Packed,
    /// Epoch and beat of the row that it was made on.
    pub(crate) made_on: (u8, u8),
    pub(crate) sent: Age,
    pub(crate) landed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) role: Role,
    pub(crate) rate: Rate,
    pub(crate) pending: Option<Pending>,
    // --- as holder ---
    pub(crate) epoch: u8,
    pub(crate) right: Right,
    // --- as standby ---
    pub(crate) watch: Watch,
    /// The row's epoch, if the row names this node and this process knows that an earlier one held it, or held it itself; else 0.
    pub(crate) past: u8,
    /// When it asked for a read whose answer is not there yet; only where it matters.
    pub(crate) asked: Option<Age>,
}

/// The last question of a holder to one node, on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ping {
    pub(crate) from: u8,
    pub(crate) epoch: u8,
    pub(crate) sent: Age,
    /// It shows that the answers of its receiver have been getting through.
    pub(crate) heard: bool,
}

/// The last promise of one node, on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pong {
    pub(crate) to: u8,
    pub(crate) epoch: u8,
    /// The ping's, by the clock of who sent it.
    pub(crate) sent: Age,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(crate) row: Packed,
    pub(crate) nodes: [Node; NODES],
    pub(crate) pings: [Option<Ping>; NODES],
    pub(crate) pongs: [Option<Pong>; NODES],
    /// Rows that requests of dead processes may still make.
    pub(crate) late: [Option<Packed>; LATE],
    pub(crate) restarts: u8,
    /// Ticks that the first holder may yet spend suspended.
    pub(crate) sleeps: u8,
    /// Ticks since the first holder had an answer of the first standby; only where links are one-way.
    pub(crate) unheard: u8,
}

impl Node {
    /// What tells apart nodes that play the same part, without the names of others.
    fn part(&self, row: Packed, me: Member) -> impl Ord + use<> {
        let named = (row.holder() == Some(me), row.nominee() == Some(me), row.in_sync().has(me));
        let pending = self.pending.map(|pending| (pending.want, pending.new.rev(), pending.sent, pending.landed));
        let right = (self.right.lease, self.right.proven, self.right.need.count());
        let watch = (self.watch.seen, self.watch.promised, self.watch.started, self.past);
        (self.role == Role::Holding, self.rate, named, pending, self.epoch, right, watch)
    }

    fn renumbered(mut self, to: impl Fn(usize) -> usize + Copy) -> Self {
        if let Some(pending) = &mut self.pending {
            pending.new = pending.new.renumbered(to);
            match &mut pending.want {
                Want::Shrink(member) | Want::Grow(member) | Want::HandOver(member) => *member = member.renumbered(to),
                _ => {}
            }
        }
        self.right.need = self.right.need.renumbered(to);
        let promises = self.right.promises;
        for (node, promise) in promises.into_iter().enumerate() {
            self.right.promises[to(node)] = promise;
        }
        self
    }
}

impl State {
    /// Of two states that differ only in which of the second and third node is which, one.
    pub(crate) fn of_its_kind(self) -> Self {
        let part = |node: usize| self.nodes[node].part(self.row, Self::member(node));
        if part(1) <= part(2) {
            return self;
        }
        let to = |node: usize| [0, 2, 1][node];
        let mut other = self;
        other.row = self.row.renumbered(to);
        for node in 0..NODES {
            other.nodes[to(node)] = self.nodes[node].renumbered(to);
            other.pings[to(node)] = self.pings[node];
            other.pongs[to(node)] = self.pongs[node];
        }
        let renumber = |place: &mut u8| *place = u8::try_from(to(usize::from(*place))).expect("few nodes");
        other.pings.iter_mut().flatten().for_each(|ping| renumber(&mut ping.from));
        other.pongs.iter_mut().flatten().for_each(|pong| renumber(&mut pong.to));
        other.late.iter_mut().flatten().for_each(|late| *late = late.renumbered(to));
        other.late.sort_unstable();
        other
    }

    pub(crate) fn member(node: usize) -> Member {
        Member::of(node, 0)
    }

    pub(crate) fn rightful(&self, node: usize) -> bool {
        let held = &self.nodes[node];
        held.role == Role::Holding && held.epoch == self.row.epoch() && self.row.holder() == Some(Self::member(node))
    }
}
