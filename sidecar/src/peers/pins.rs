//! Which key belongs to which member, and where it is reached: from the heartbeat items, which each node alone may write.

use lease::heartbeat::Heartbeat;
use lease::ids::{InstanceId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::RwLock;
use tokio::sync::watch;

/// One member's key and address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub instance: InstanceId,
    pub address: SocketAddr,
    pub fingerprint: String,
}

/// The other members' keys, shared by all connections.
#[derive(Debug)]
pub struct Pins {
    pins: RwLock<BTreeMap<NodeId, Pin>>,
    changed: watch::Sender<u64>,
}

/// Why a heartbeat's key is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    #[error("the heartbeat of {node} is instance {found}'s, the cluster's configuration names {member}; not believed")]
    AnotherInstance { node: NodeId, found: InstanceId, member: InstanceId },
    #[error("the heartbeat of {node} names the address {found:?}; expected an address and a port")]
    BadAddress { node: NodeId, found: String },
    #[error("the heartbeat of {node} shows the key of {other}; two nodes never share one")]
    SharedKey { node: NodeId, other: NodeId },
}

impl Pins {
    /// Starts from what is known.
    #[must_use]
    pub fn new(pins: BTreeMap<NodeId, Pin>) -> Self {
        Self { pins: RwLock::new(pins), changed: watch::Sender::new(0) }
    }

    /// Takes in what a member's heartbeat shows. `member`: the instance that speaks for it. True: something changed.
    ///
    /// # Errors
    /// [`PinError`] where it is not believed; the old pin stays.
    pub fn learn(&self, heartbeat: &Heartbeat, member: &InstanceId) -> Result<bool, PinError> {
        let node = heartbeat.node.clone();
        if heartbeat.instance != *member {
            return Err(PinError::AnotherInstance { node, found: heartbeat.instance.clone(), member: member.clone() });
        }
        let Ok(address) = heartbeat.peer_address.parse() else {
            return Err(PinError::BadAddress { node, found: heartbeat.peer_address.clone() });
        };
        if let Some(other) = self.owner(&heartbeat.fingerprint).filter(|owner| *owner != node) {
            return Err(PinError::SharedKey { node, other });
        }
        let pin = Pin { instance: member.clone(), address, fingerprint: heartbeat.fingerprint.clone() };
        let before = self.pins.write().expect("no thread panics while it holds this").insert(node, pin.clone());
        let changed = before.as_ref() != Some(&pin);
        if changed {
            self.changed.send_modify(|version| *version += 1);
        }
        Ok(changed)
    }

    /// Whose key this is.
    #[must_use]
    pub fn owner(&self, fingerprint: &str) -> Option<NodeId> {
        self.all().into_iter().find(|(_, pin)| pin.fingerprint == fingerprint).map(|(node, _)| node)
    }

    #[must_use]
    pub fn of(&self, node: &NodeId) -> Option<Pin> {
        self.pins.read().expect("no thread panics while it holds this").get(node).cloned()
    }

    #[must_use]
    pub fn all(&self) -> BTreeMap<NodeId, Pin> {
        self.pins.read().expect("no thread panics while it holds this").clone()
    }

    /// Woken when a pin changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
