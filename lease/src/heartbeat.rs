//! The heartbeat item: what a node says of itself, every two seconds. A hint for decisions, never a lease.

use crate::ids::{Beat, BootId, ClusterId, Epoch, Incarnation, InstanceId, NodeId};
use crate::record::Holder;
use crate::time::Millis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the heartbeat's layout.
pub const HEARTBEAT_VERSION: u64 = 1;

/// One node's own account, written by that node only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub instance: InstanceId,
    pub boot: BootId,
    pub launched: String,
    pub incarnation: Incarnation,
    /// Version of the program.
    pub version: String,
    /// Where peers reach this node's peer link: `host:port`.
    pub peer_address: String,
    /// SHA-256 of the peer link's certificate, in lower-case hex. Peers pin it.
    pub fingerprint: String,
    /// The node machine's state, in its own word (`standby`, `active`, ...).
    pub role: String,
    /// The latest (epoch, beat) that this node has seen, on the row or in a ping.
    pub epoch: Epoch,
    pub beat: Beat,
    /// What it hears of its peers on the peer link.
    pub hears: BTreeMap<NodeId, Hearing>,
    pub resources: Vec<ResourceHealth>,
    pub replica: Replica,
}

/// What one node hears of another on the peer link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hearing {
    /// Both directions work: pings come in, and they show that the answers get through.
    pub linked: bool,
    /// Since the last message, as of this heartbeat.
    pub silent_ms: Millis,
    /// What is left of this node's promise to it.
    pub promise_left_ms: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceHealth {
    pub name: String,
    /// `stopped`, `starting`, `running`, `failed`, `stopping`.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The node's copy of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// A whole image, fit to be opened.
    pub consistent: bool,
    /// It follows asynchronously, and is never in sync by design. Nodes of before this was told say nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asynchronous: bool,
    /// For an asynchronous copy: how far it is behind, where it knows. `None` for any other.
    pub lag_ms: Option<Millis>,
}

impl Heartbeat {
    /// The identity that this node would hold the lease under.
    #[must_use]
    pub fn as_holder(&self) -> Holder {
        Holder {
            node: self.node.clone(),
            incarnation: self.incarnation.clone(),
            instance: self.instance.clone(),
            boot: self.boot.clone(),
            launched: self.launched.clone(),
        }
    }
}
