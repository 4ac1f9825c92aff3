//! What nodes and functions tell each other, and the world, over the event bus: one versioned type for each kind.
//! Every event is only a hint to re-read the row; duplicates, late ones and lost ones change nothing but time.

use crate::ids::{Beat, ClusterId, Epoch, Incarnation, InstanceId, NodeId, Nonce};
use crate::rules::Rule;
use crate::time::Millis;
use serde::{Deserialize, Serialize};

/// EventBridge `source` of every event of ours.
pub const SOURCE: &str = "leasehold";
/// Version of all details below; raised when a field changes its meaning.
pub const EVENT_VERSION: u64 = 1;

/// One event's detail. The variant gives EventBridge's `detail-type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    HolderSuspected(HolderSuspected),
    ResourceFailed(ResourceFailed),
    HandoverRequested(HandoverRequested),
    NodeJoined(NodeJoined),
    ReplicaStateChanged(ReplicaStateChanged),
    FailoverNominated(FailoverNominated),
    FailoverAccepted(FailoverAccepted),
    FailoverCompleted(FailoverCompleted),
    FailoverBlocked(FailoverBlocked),
    DriftCorrected(DriftCorrected),
    NetworkIncomplete(NetworkIncomplete),
}

/// A standby sees the row stand still. `peer_link`: whether it still hears the holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderSuspected {
    pub v: u64,
    pub cluster: ClusterId,
    pub node: NodeId,
    pub epoch: Epoch,
    pub beat: Beat,
    pub silent_ms: Millis,
    pub peer_link: bool,
}

/// A resource of the holder failed its checks or its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceFailed {
    pub v: u64,
    pub cluster: ClusterId,
    pub node: NodeId,
    pub epoch: Epoch,
    pub resource: String,
    pub reason: String,
}

/// The holder asks to be relieved (R300), or has just released the lease (R250).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoverRequested {
    pub v: u64,
    pub cluster: ClusterId,
    pub node: NodeId,
    pub epoch: Epoch,
    pub released: bool,
    pub reason: String,
}

/// A node's daemon started and has written its first heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeJoined {
    pub v: u64,
    pub cluster: ClusterId,
    pub node: NodeId,
    pub instance: InstanceId,
    pub incarnation: Incarnation,
}

/// The holder took a replica into the in-sync set or out of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStateChanged {
    pub v: u64,
    pub cluster: ClusterId,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub in_sync: bool,
}

/// A standby was told to accept if it finds the holder gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverNominated {
    pub v: u64,
    pub cluster: ClusterId,
    pub rule: Rule,
    pub reason: String,
    pub nominee: NodeId,
    pub holder: Option<NodeId>,
    pub epoch: Epoch,
    pub beat: Beat,
    pub proof: bool,
    pub lossy: bool,
}

/// The nominee, or the target of a hand-over, holds a new epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverAccepted {
    pub v: u64,
    pub cluster: ClusterId,
    pub rule: Rule,
    pub holder: NodeId,
    pub epoch: Epoch,
}

/// The network matches the new holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverCompleted {
    pub v: u64,
    pub cluster: ClusterId,
    pub timeline: Timeline,
}

/// Nothing could be done, and why; an operator is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverBlocked {
    pub v: u64,
    pub cluster: ClusterId,
    pub rule: Rule,
    pub epoch: Epoch,
    pub why: String,
    /// For an operator; older functions said nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub what_to_do: String,
}

/// The network did not match the holder, without a failover under way, and was made to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftCorrected {
    pub v: u64,
    pub cluster: ClusterId,
    pub epoch: Epoch,
    pub changes: Vec<String>,
}

/// The network does not match the holder, and this much is left: to the next run, or to a person. Told once for each epoch
/// and remainder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkIncomplete {
    pub v: u64,
    pub cluster: ClusterId,
    pub epoch: Epoch,
    pub holder: Option<NodeId>,
    /// Steps that were not applied, each with why.
    pub failed: Vec<String>,
    /// What no step can put right, each with what to do.
    pub problems: Vec<String>,
    /// Of the failover that left it so; none where `watch` has found it.
    pub timeline: Option<Timeline>,
}

/// One failover or switchover, as the function that drove it saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// Names the run in the history.
    pub id: Nonce,
    pub rule: Rule,
    pub reason: String,
    pub from: Option<NodeId>,
    pub to: NodeId,
    /// The epoch that the run led to.
    pub epoch: Epoch,
    /// When the function took up the hint: wall clock, RFC 3339, for people only.
    pub began: String,
    /// What the hint says of the time before: the silence that a standby had measured.
    pub silent_ms: Option<Millis>,
    pub steps: Vec<Step>,
}

/// One step of a timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Since `began`.
    pub at_ms: Millis,
    pub what: String,
}

/// An event that this program cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    #[error("detail-type {found:?} is none of leasehold's")]
    UnknownType { found: String },
    #[error("{detail_type}: {problem}")]
    Malformed { detail_type: String, problem: String },
    #[error("{detail_type}: version {found} is newer than this program's {known}; update the functions")]
    Newer { detail_type: String, found: u64, known: u64 },
}

macro_rules! kinds {
    ($($variant:ident = $name:literal),* $(,)?) => {
        impl Event {
            /// EventBridge's `detail-type`.
            #[must_use]
            pub fn detail_type(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            /// The cluster it is about.
            #[must_use]
            pub fn cluster(&self) -> &ClusterId {
                match self { $(Self::$variant(detail) => &detail.cluster,)* }
            }

            /// EventBridge's `detail`, as JSON.
            #[must_use]
            pub fn detail(&self) -> String {
                let json = match self { $(Self::$variant(detail) => serde_json::to_string(detail),)* };
                json.expect("these types have string keys only, so they always serialise")
            }

            /// Reads an event as EventBridge delivers it.
            ///
            /// # Errors
            /// [`BadEvent`], naming the type and the problem.
            pub fn parse(detail_type: &str, detail: &serde_json::Value) -> Result<Self, BadEvent> {
                let version = detail.get("v").and_then(serde_json::Value::as_u64);
                if let Some(found) = version.filter(|found| *found > EVENT_VERSION) {
                    return Err(BadEvent::Newer { detail_type: detail_type.into(), found, known: EVENT_VERSION });
                }
                let malformed = |error: serde_json::Error| BadEvent::Malformed {
                    detail_type: detail_type.into(), problem: error.to_string(),
                };
                match detail_type {
                    $($name => serde::Deserialize::deserialize(detail).map(Self::$variant).map_err(malformed),)*
                    _ => Err(BadEvent::UnknownType { found: detail_type.into() }),
                }
            }
        }
    };
}

kinds! {
    HolderSuspected = "Holder Suspected",
    ResourceFailed = "Resource Failed",
    HandoverRequested = "Handover Requested",
    NodeJoined = "Node Joined",
    ReplicaStateChanged = "Replica State Changed",
    FailoverNominated = "Failover Nominated",
    FailoverAccepted = "Failover Accepted",
    FailoverCompleted = "Failover Completed",
    FailoverBlocked = "Failover Blocked",
    DriftCorrected = "Drift Corrected",
    NetworkIncomplete = "Network Incomplete",
}
