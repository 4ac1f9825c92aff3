//! What is deployed: the cluster's configuration item, and how it changes under running nodes. The functions read it at each
//! run; a node takes it up at its next start.

use crate::ec2::{TABLES, VIP};
use crate::faults::Undo;
use crate::trace::Us;
use crate::weather::{TTLS, Weather};
use crate::world::{Happening, Message, NAMES, Who, World, holder};
use lease::config::ClusterConfig;
use node::event::Event;
use serde_json::{Value, json};
use std::sync::Arc;

/// Loss is allowed up to this lag, or up to one that no standby here keeps to.
const LIMITS: [u64; 2] = [60_000, 500];

/// What differs between two deployments.
#[derive(Clone, Copy, Debug)]
pub struct Deployed {
    pub ttl_ms: u64,
    /// How far an asynchronous standby may lag that takes over (R240). `None`: nothing is ever lost.
    pub lag_limit_ms: Option<u64>,
    /// A node that the configuration does not name.
    pub out: Option<usize>,
}

impl Deployed {
    #[must_use]
    pub fn first(weather: &Weather) -> Self {
        Self { ttl_ms: weather.ttl_ms, lag_limit_ms: weather.lossy.then_some(LIMITS[0]), out: None }
    }
}

#[must_use]
pub fn config(nodes: usize, deployed: Deployed) -> ClusterConfig {
    let nodes: Vec<Value> = (0..nodes)
        .filter(|host| Some(*host) != deployed.out)
        .map(|host| json!({ "name": NAMES[host], "instance": holder(host).instance, "priority": host + 1 }))
        .collect();
    let mut json = json!({
        "cluster": "web", "nodes": nodes,
        "virtual_ips": [{ "address": VIP, "vpc": "vpc-1", "create_in": [format!("rtb-{TABLES}")] }],
        "policy": { "ttl_ms": deployed.ttl_ms },
    });
    if let Some(limit) = deployed.lag_limit_ms {
        json["policy"]["lossy_lag_limit_ms"] = json!(limit);
    }
    ClusterConfig::parse(&json.to_string()).expect("a valid configuration")
}

impl World {
    fn deploy(&mut self, deployed: Deployed) {
        self.deployed = deployed;
        self.longest_lease_ms = self.longest_lease_ms.max(deployed.ttl_ms);
        self.config = Arc::new(config(self.hosts.len(), deployed));
        let out = deployed.out.map_or("nobody", |host| NAMES[host]);
        let limit = deployed.lag_limit_ms;
        self.trace.line(self.now, "deployed", || format!("ttl {} ms, loss {limit:?}, without {out}", deployed.ttl_ms));
    }

    /// One of what may differ is deployed anew. False: what was drawn does not fit this moment.
    pub(crate) fn reconfigure(&mut self, span: Us) -> bool {
        let mut next = self.deployed;
        let what = self.dice.index(3);
        match what {
            0 => next.ttl_ms = TTLS[self.dice.index(TTLS.len())],
            1 if self.weather.may_lose() => {
                let others = [None, Some(LIMITS[0]), Some(LIMITS[1])];
                next.lag_limit_ms = others[self.dice.index(others.len())];
                if next.lag_limit_ms == self.deployed.lag_limit_ms {
                    return false;
                }
            }
            2 if self.deployed.out.is_none() => {
                let Some(host) = self.spare() else { return false };
                next.out = Some(host);
                // Its daemon would refuse to start.
                let who = Who::Node { host, life: self.hosts[host].life };
                let order = Message::Event(Box::new(Event::ShutDown));
                self.queue.push(self.now, Happening::To { who, what: order });
                self.undo_after(span, Undo::Member { host });
            }
            _ => return false,
        }
        self.counts.deployed.one(what);
        self.deploy(next);
        true
    }

    /// A node that neither holds the lease nor is about to: nobody takes another one out.
    fn spare(&mut self) -> Option<usize> {
        let row = self.store.row.clone().filter(|_| self.store.away.is_none())?;
        let host = self.dice.index(self.hosts.len());
        let me = &self.hosts[host].me.node;
        let busy = [
            row.holder.as_ref().map(|holder| &holder.node),
            row.nominee.as_ref().map(|nominee| &nominee.node),
            row.intent.as_ref().map(|intent| &intent.to),
        ];
        (row.holder.is_some() && !busy.contains(&Some(me))).then_some(host)
    }

    /// It is a node of the cluster again. Who has started without it, knows no way to it, and starts once more.
    pub(crate) fn take_back(&mut self, host: usize) {
        self.deploy(Deployed { out: None, ..self.deployed });
        self.start_daemon(host);
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            if self.hosts[other].without == Some(host) && self.hosts[other].node.is_some() {
                self.restart_once(other);
            }
        }
    }
}
