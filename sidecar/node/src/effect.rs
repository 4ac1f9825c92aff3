//! What a node can do. Reading this enum is reading everything that the machine can cause.

use super::event::{Ping, Pong, Ticket};
use lease::change::Write;
use lease::events;
use lease::ids::{Epoch, NodeId};
use lease::time::Millis;

#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a step makes a few; an event, the largest, is rare")]
pub enum Effect {
    /// Read the row, strongly consistent; answer with `RowRead` or `RowUnreadable`. At most one read is asked at a time.
    Read,
    /// Make this conditional write; answer with `Written`. At most one write is asked at a time.
    Write { ticket: Ticket, write: Box<Write> },
    /// Ask a peer for a promise.
    Ping { to: NodeId, ping: Ping },
    /// Answer a peer. The promise in it is already in force.
    Pong { to: NodeId, pong: Pong },
    /// Tell a peer to read the row now.
    Nudge { to: NodeId },
    /// Refuse what is of an older epoch than this from now on, durably, and let what was taken of it reach the disk; then
    /// say so with `Replica`. Only where the node has volumes.
    Promise { epoch: Epoch },
    /// Hold the virtual addresses for at most this long; the kernel takes them away by itself when nothing extends it.
    /// Repeated with each extension of the node's authority.
    HoldAddress { at_most: Millis },
    /// Take the virtual addresses off the node now.
    DropAddress,
    /// Open the volumes and start all resources, clearing away leftovers first; answer with `WorkloadUp` or `ResourceFailed`.
    StartWorkload { epoch: Epoch },
    /// Stop all resources in order within their limits, then by force, and close the volumes once every write has ended;
    /// answer with `WorkloadDown` or `WorkloadStuck`.
    StopWorkload,
    /// End all of the workload's processes now; answer with `WorkloadDown` or `WorkloadStuck`.
    KillWorkload,
    /// This node can not be trusted to stop serving: reboot it.
    Reboot { reason: String },
    /// Put an event on the bus. Best effort: the machine repeats what matters.
    Emit(events::Event),
    /// Write the heartbeat item now, before its turn.
    Heartbeat,
    /// A line for the log: something that an operator would want to know happened.
    Note(Note),
    /// The daemon may end.
    Exit,
}

/// Notes, each logged once with cluster, node and epoch as fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The machine's state changed.
    Became { from: &'static str, to: &'static str, epoch: Epoch, why: String },
    /// Something is wrong that the node lives with.
    Trouble { epoch: Epoch, what: String },
}
