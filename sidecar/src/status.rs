//! What this node believes and why, gathered from all its parts: the answer of the admin socket.

use crate::address;
use crate::bus;
use crate::clock;
use crate::peers::Peers;
use crate::peers::board::PeerState;
use crate::ports;
use crate::snapshot::Snapshot;
use lease::config::{ClusterConfig, Ports};
use lease::heartbeat::ResourceHealth;
use lease::record::Holder;
use lease::table::Requests;
use lease::time::Millis;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;
use volume::operate::Operated;

/// Where everything that is shown comes from.
#[derive(Debug)]
pub struct Sources {
    pub me: Holder,
    pub config: ClusterConfig,
    pub interface: String,
    /// Why the cluster's configuration is not the one that this daemon runs on, or may not be.
    pub config_trouble: watch::Receiver<Option<String>>,
    pub snapshot: watch::Receiver<Snapshot>,
    pub address: watch::Receiver<address::State>,
    /// The ports that only the active node answers, where the cluster has such.
    pub ports: Option<(Ports, watch::Receiver<ports::State>)>,
    pub health: watch::Receiver<Vec<ResourceHealth>>,
    pub peers: Arc<Peers>,
    /// Of each client: the row's reader, the row's writer, the heartbeat's.
    pub requests: Vec<Arc<Requests>>,
    pub volumes: Option<Operated>,
    pub events: Arc<bus::Counts>,
}

/// A core that has not spoken for this long hangs.
pub const CORE_LIMIT: Millis = Millis(2_000);

impl Sources {
    /// Requests to DynamoDB by operation: sent and failed, over all clients. Only operations that a node makes.
    #[must_use]
    pub fn requests(&self) -> BTreeMap<&'static str, (u64, u64)> {
        let mut sums = BTreeMap::new();
        for count in self.requests.iter().flat_map(|requests| requests.counts()) {
            let sum: &mut (u64, u64) = sums.entry(count.operation.name()).or_default();
            sum.0 += count.sent;
            sum.1 += count.failed;
        }
        sums.retain(|name, (sent, _)| *sent > 0 || NODE_OPERATIONS.contains(name));
        sums
    }

    /// Requests that DynamoDB bills as writes, and as reads.
    #[must_use]
    pub fn billed(&self) -> (u64, u64) {
        let counts = || self.requests.iter().flat_map(|requests| requests.counts());
        let writes = counts().filter(|count| count.operation.is_write()).map(|count| count.sent).sum();
        let reads = counts().filter(|count| !count.operation.is_write()).map(|count| count.sent).sum();
        (writes, reads)
    }

    /// How long the core has not spoken.
    #[must_use]
    pub fn core_silent(&self) -> Millis {
        clock::now().longest_since(self.snapshot.borrow().at)
    }

    /// Everything, for people and programs.
    #[must_use]
    pub fn status(&self) -> Value {
        let now = clock::now();
        let snapshot = self.snapshot.borrow().clone();
        let address = self.address.borrow().clone();
        let peers: Vec<Value> = self.peers.states().into_iter().map(|peer| self.peer(peer, &snapshot)).collect();
        let decisions: Vec<Value> = snapshot
            .decisions
            .iter()
            .rev()
            .map(|made| json!({"ago_ms": now.shortest_since(made.at), "epoch": made.epoch, "what": made.what}))
            .collect();
        let (writes, reads) = self.billed();
        let dynamodb: BTreeMap<_, _> = self
            .requests()
            .into_iter()
            .map(|(name, (sent, failed))| (name, json!({"sent": sent, "failed": failed})))
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cluster": self.config.cluster,
            "node": self.me.node,
            "me": self.me,
            "members": self.config.nodes.iter().map(|node| &node.name).collect::<Vec<_>>(),
            "policy": self.config.policy,
            "config_trouble": *self.config_trouble.borrow(),
            "core_silent_ms": now.longest_since(snapshot.at),
            "role_for_ms": now.shortest_since(snapshot.role_since),
            "unprotected_for_ms": snapshot.unprotected_since.map(|since| now.shortest_since(since)),
            "holds": snapshot.holds(),
            "beliefs": snapshot.view,
            "decisions": decisions,
            "address": {
                "addresses": self.config.virtual_ips.iter().map(|vip| vip.address).collect::<Vec<_>>(),
                "interface": self.interface,
                "held": address.held,
                "problem": address.problem,
            },
            "ports": self.ports.as_ref().map(|(ports, state)| {
                let state = state.borrow();
                json!({
                    "service": ports.service,
                    "health": ports.health,
                    "open": state.open,
                    "healthy": state.healthy,
                    "problem": state.problem,
                })
            }),
            "resources": *self.health.borrow(),
            "peers": peers,
            "volumes": self.volumes.as_ref().map(Operated::status),
            "refusals": self.peers.board().refusals(),
            "dynamodb": {"operations": dynamodb, "writes": writes, "reads": reads},
            "events": {
                "put": self.events.put.load(Ordering::Relaxed),
                "failed": self.events.failed.load(Ordering::Relaxed),
            },
        })
    }

    fn peer(&self, peer: PeerState, snapshot: &Snapshot) -> Value {
        #[derive(Serialize)]
        struct Peer<'a> {
            #[serde(flatten)]
            state: PeerState,
            hears: Option<&'a lease::heartbeat::Hearing>,
        }
        let hears = snapshot.view.hears.iter().find(|(node, _)| node.as_str() == peer.node).map(|(_, hearing)| hearing);
        serde_json::to_value(Peer { state: peer, hears }).expect("string keys only, so it always serialises")
    }
}

/// What a node asks of DynamoDB; shown also while it is zero.
const NODE_OPERATIONS: [&str; 5] = ["read_row", "write_row", "read_config", "read_heartbeat", "write_heartbeat"];
