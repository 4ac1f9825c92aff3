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

impl State {
    pub(crate) fn member(node: usize) -> Member {
        Member::of(node, 0)
    }

    pub(crate) fn rightful(&self, node: usize) -> bool {
        let held = &self.nodes[node];
        held.role == Role::Holding && held.epoch == self.row.epoch() && self.row.holder() == Some(Self::member(node))
    }
}
