//! What can happen to a node. Everything the machine learns comes in as one of these, with the moment of its arrival.

use lease::ids::{Beat, Epoch, Incarnation, NodeId};
pub use lease::outcome::Outcome;
use lease::record::{Holder, Row};
use lease::time::{Millis, Moment};
use std::collections::BTreeSet;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed; sent at least every [`super::TICK`].
    Tick,
    /// The answer of a strongly consistent read that was asked for at `asked`. `None`: the cluster has no row yet.
    RowRead { asked: Moment, row: Option<Box<Row>> },
    /// The read got no answer; it says nothing about the row.
    RowUnreadable { problem: String },
    /// What became of the write with this ticket.
    Written { ticket: Ticket, outcome: Outcome },
    /// A peer that believes to hold the lease asks for a promise.
    Pinged { from: Holder, ping: Ping },
    /// A peer answered one of this node's pings.
    Ponged { from: Holder, pong: Pong },
    /// A peer says: the row has changed in a way that concerns you.
    Nudged { from: NodeId },
    /// The connection to this peer is lost; silence follows.
    LinkLost { node: NodeId },
    /// All resources are up in the epoch they were started for.
    WorkloadUp { epoch: Epoch },
    /// Nothing of the workload is left on this node.
    WorkloadDown,
    /// The workload does not end, not even by force.
    WorkloadStuck { problem: String },
    /// A resource failed to start, or failed its checks often enough.
    ResourceFailed { epoch: Epoch, resource: String, reason: String },
    /// What the replication core says of the data: after each start, and at every change. Only where the node has volumes.
    Replica(Replica),
    /// The daemon was asked to end (SIGTERM): hand over if somebody can continue, release otherwise.
    ShutDown,
}

/// This node's copy of the data, and as holder what it knows of the others' copies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Replica {
    /// A whole image: not in the middle of a resync.
    pub consistent: bool,
    /// Durable: what is of an older epoch is refused, and what had been taken of older ones is on the disk.
    pub promised: Epoch,
    /// As standby: the epoch in which the holder has last said that this copy has everything. Not kept over a start.
    pub caught_up: Option<Epoch>,
    /// As holder: whose copies have all that was ever completed here. Nothing is completed without them, from before this
    /// is said until after it is unsaid: so none of them lacks a write when it becomes a member.
    pub mirrored: BTreeSet<Incarnation>,
    /// As holder: members that hold up what waits to be completed, because their copies cannot be reached. Their nodes may
    /// answer all the same.
    pub missing: BTreeSet<Incarnation>,
    /// As standby: the last [`Node::closing`](super::Node::closing) that the replication has followed. Whatever else is said here
    /// is how it was since then, with nobody's frames taken any more.
    pub closed: Option<u64>,
    /// The last epoch that was held while this replica's disk failed: it does not lead it, or not any more, and serves in another one only.
    pub ended: Option<Epoch>,
}

/// Names one write of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// The holder's question to a standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ping {
    /// Rises by one with each ping of this process to this peer.
    pub number: u64,
    /// The holder's epoch, and its last beat that is proven applied: both were SENT before this ping.
    pub epoch: Epoch,
    pub beat: Beat,
    /// The highest number that this peer has answered so far: shows it that its answers get through.
    pub answered: u64,
}

/// A standby's answer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pong {
    /// The ping's.
    pub number: u64,
    pub answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Answer {
    /// I will not accept the lease before `promise_ms` from now. `ready`: my data is whole and all of the holder's.
    Promise { epoch: Epoch, promise_ms: Millis, incarnation: Incarnation, ready: bool },
    /// I hear you, but do not promise: my answers have not been getting through, or I have been told to stop.
    NoPromise { epoch: Epoch },
    /// Your epoch is over.
    Fenced { epoch: Epoch },
}
