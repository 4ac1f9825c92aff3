//! The row: the one item of a cluster's lease. Plain data; what may happen to it is in [`crate::change`].

use crate::ids::{Beat, BootId, ClusterId, Epoch, Incarnation, InstanceId, Lineage, NodeId, Nonce, Rev};
use crate::rules::Rule;
use crate::time::Millis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Version of the row's layout that this program writes and understands.
pub const ROW_VERSION: u64 = 1;

/// The lease of one cluster. Every change is one conditional write on `rev` (and `nonce`, so that a row that was
/// deleted and made again is never mistaken for its predecessor).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Row {
    pub cluster: ClusterId,
    pub rev: Rev,
    pub lineage: Lineage,
    pub epoch: Epoch,
    /// Who holds the current epoch; `None` after a release, and before the first acceptance.
    pub holder: Option<Holder>,
    /// Raised by every write of the holder within the epoch. Watchers time their wait from the first sight of it.
    pub beat: Beat,
    /// The replicas that hold every acknowledged write. Never empty.
    pub in_sync: BTreeSet<Incarnation>,
    /// The holder has drained, reconciled and opened its volumes.
    pub activated: bool,
    pub nominee: Option<Nominee>,
    /// An operator's or the holder's own request to move, until it is done or cleared. Once its target holds the lease
    /// nothing is asked any more (see [`Self::open_intent`]); it stays until that holder activates, for its reason.
    pub intent: Option<Intent>,
    /// While set, nothing is decided automatically (R100).
    pub paused: Option<Pause>,
    /// Lease duration of this epoch. Changes only with the epoch, so that holder and watchers never use different ones.
    pub ttl_ms: Millis,
    /// A standby that may lack acknowledged writes may be nominated in this epoch (R240). Then the holder never serves
    /// on being alone: somebody might legally accept. Changes only with the epoch, for the same reason as `ttl_ms`.
    pub lossy_ok: bool,
    /// Mark of the last writer's intended write.
    pub nonce: Nonce,
}

impl Row {
    /// Whether this node, in this incarnation, is the row's holder.
    #[must_use]
    pub fn is_held_by(&self, me: &Holder) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.node == me.node && holder.incarnation == me.incarnation)
    }

    /// The nomination, if it still counts: it is bound to one (epoch, beat) and void once either moves.
    #[must_use]
    pub fn live_nominee(&self) -> Option<&Nominee> {
        self.nominee.as_ref().filter(|nominee| nominee.epoch == self.epoch && nominee.beat == self.beat)
    }

    /// The request to move, while there is something to do: its target does not hold the lease.
    #[must_use]
    pub fn open_intent(&self) -> Option<&Intent> {
        self.intent.as_ref().filter(|intent| self.holder.as_ref().is_none_or(|holder| holder.node != intent.to))
    }

    /// The request by which the holder took this epoch, until it activates.
    #[must_use]
    pub fn done_intent(&self) -> Option<&Intent> {
        self.intent.as_ref().filter(|intent| self.holder.as_ref().is_some_and(|holder| holder.node == intent.to))
    }
}

/// The process that took an epoch: node and replica, and the machine's boot it runs in. Proof of death is about that
/// boot, so it stands here rather than in a heartbeat that a later boot would overwrite.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub instance: InstanceId,
    pub boot: BootId,
    /// The instance's launch time as its identity document states it (`pendingTime`, RFC 3339). EC2 reads are eventually
    /// consistent: a description that still shows an earlier launch says nothing about this boot.
    pub launched: String,
}

/// A standby that the control plane told to accept, if it finds the holder gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Nominee {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub beat: Beat,
    pub rule: Rule,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<ProofOfDeath>,
    /// Acknowledged writes may be lost: set by R240 and by a forced failover, each of which says so.
    #[serde(default)]
    pub lossy: bool,
}

impl Nominee {
    /// The proof must be about the very machine whose boot took the epoch; the row names it.
    #[must_use]
    pub fn proves_death_of(&self, holder: &Holder) -> bool {
        self.proof.as_ref().is_some_and(|proof| proof.instance == holder.instance)
    }
}

/// AWS's own word that the instance of the holder's boot no longer runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProofOfDeath {
    pub instance: InstanceId,
    pub state: DeadState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeadState {
    Stopped,
    Terminated,
}

/// A request to move the service while its holder is alive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Intent {
    /// Names the request in events and answers.
    pub id: Nonce,
    /// Where to: a node of the cluster.
    pub to: NodeId,
    pub rule: Rule,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pause {
    pub reason: String,
}
