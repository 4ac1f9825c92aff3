//! The cluster's configuration item: members, addresses and policy, as the deployment wrote it.

use crate::fields::{Fields, Problem, Problems, millis, number, parsed, text, texts};
use crate::ids::{ClusterId, InstanceId, NodeId};
use crate::policy::Policy;
use crate::time::Millis;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Version of the configuration's layout.
pub const CONFIG_VERSION: u64 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    pub cluster: ClusterId,
    pub nodes: Vec<Member>,
    pub virtual_ips: Vec<VirtualIp>,
    /// `None`: clients reach the nodes by virtual addresses only.
    pub ports: Option<Ports>,
    pub policy: Policy,
}

/// A node that may hold the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: NodeId,
    /// The instance that speaks for this node; heartbeats from another are not believed.
    pub instance: InstanceId,
    /// Lower goes first when several could take over.
    pub priority: u64,
}

/// An address outside every VPC range that routes lead to the active node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualIp {
    pub address: IpAddr,
    pub vpc: String,
    /// Every route table that may lead to it, and the only ones that the functions have the right to change. Empty in an
    /// item that an older deployment has written: then every table that carries the address is meant, and none can be
    /// missed. Nodes have no use for it.
    pub route_tables: Vec<String>,
    /// Route tables in which a missing route is made; elsewhere only routes that exist are changed.
    pub create_in: Vec<String>,
}

/// TCP and UDP ports of the nodes' own addresses. The active node alone answers there, and every other refuses: for
/// clients that reach the nodes by a load balancer or a DNS record instead of a virtual IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Where the workload serves.
    pub service: BTreeSet<u16>,
    /// Where the sidecar answers a load balancer's health check, by TCP or HTTP, while this node is active and its resources
    /// are well.
    pub health: Option<u16>,
}

impl Ports {
    /// All of them: closed wherever nobody serves.
    #[must_use]
    pub fn guarded(&self) -> BTreeSet<u16> {
        self.service.iter().copied().chain(self.health).collect()
    }
}

impl ClusterConfig {
    /// Reads the JSON of the configuration item.
    ///
    /// # Errors
    /// [`Problems`]: every mistake at once.
    pub fn parse(json: &str) -> Result<Self, Problems> {
        let value: Value = serde_json::from_str(json).map_err(|error| {
            Problems(vec![Problem { key: "configuration".into(), found: None, allowed: format!("not JSON: {error}") }])
        })?;
        let mut fields = Fields::of("", &value).map_err(|problem| Problems(vec![problem]))?;
        let cluster = fields.required("cluster", "the cluster's name", parsed::<ClusterId>);
        let nodes = fields.tables("nodes", member);
        let virtual_ips = fields.tables("virtual_ips", virtual_ip);
        let ports = fields.table("ports", ports);
        let policy = fields.table("policy", policy).unwrap_or_default();
        let listed = value.get("nodes").and_then(Value::as_array).map_or(0, Vec::len);
        if !(1..=3).contains(&listed) {
            fields.bad("nodes", "name 1 to 3 nodes");
        }
        for (key, distinct) in [
            ("name", nodes.iter().map(|node| node.name.to_string()).collect::<BTreeSet<_>>().len()),
            ("instance", nodes.iter().map(|node| node.instance.to_string()).collect::<BTreeSet<_>>().len()),
        ] {
            if distinct != nodes.len() {
                fields.bad("nodes", format!("each node needs its own {key}"));
            }
        }
        if virtual_ips.iter().map(|vip| vip.address).collect::<BTreeSet<_>>().len() != virtual_ips.len() {
            fields.bad("virtual_ips", "each address once");
        }
        let problems = fields.finish();
        match cluster {
            Some(cluster) if problems.is_empty() => Ok(Self { cluster, nodes, virtual_ips, ports, policy }),
            _ => Err(Problems(problems)),
        }
    }

    /// The addresses in `json` that can be read, whatever else is wrong with it: so that what the network says against
    /// them can be told together with the rest.
    #[must_use]
    pub fn addresses(json: &str) -> Vec<VirtualIp> {
        let Ok(value) = serde_json::from_str::<Value>(json) else { return Vec::new() };
        Fields::of("", &value).map(|mut fields| fields.tables("virtual_ips", virtual_ip)).unwrap_or_default()
    }

    #[must_use]
    pub fn member(&self, name: &NodeId) -> Option<&Member> {
        self.nodes.iter().find(|node| node.name == *name)
    }
}

fn member(fields: &mut Fields<'_>) -> Option<Member> {
    let name = fields.required("name", "the node's name", parsed::<NodeId>);
    let instance = fields.required("instance", "the EC2 instance id of the node", parsed::<InstanceId>);
    let priority = fields.optional("priority", number).unwrap_or(100);
    Some(Member { name: name?, instance: instance?, priority })
}

fn virtual_ip(fields: &mut Fields<'_>) -> Option<VirtualIp> {
    let address = fields.required("address", "an address outside every VPC's range", |value| {
        let address: IpAddr = parsed(value)?;
        routable(address).map(|()| address)
    });
    let vpc = fields.required("vpc", "the VPC whose route tables lead to it", |value| {
        text(value)?
            .strip_prefix("vpc-")
            .map(|rest| format!("vpc-{rest}"))
            .ok_or_else(|| "a VPC id looks like vpc-0123456789abcdef0".into())
    });
    let route_tables = fields.optional("route_tables", texts).unwrap_or_default();
    let create_in = fields.optional("create_in", texts).unwrap_or_default();
    Some(VirtualIp { address: address?, vpc: vpc?, route_tables, create_in })
}

fn ports(fields: &mut Fields<'_>) -> Option<Ports> {
    let service = fields.optional("service", |value| {
        let list = value.as_array().ok_or("expected a list of ports, such as [5432]")?;
        list.iter().map(port).collect::<Result<BTreeSet<u16>, String>>()
    });
    let health = fields.optional("health", port);
    let found = Ports { service: service.unwrap_or_default(), health };
    if found.guarded().is_empty() {
        fields.bad("service", "name the workload's ports in `service`, a port for health checks in `health`, or both");
    } else if health.is_some_and(|health| found.service.contains(&health)) {
        fields.bad("health", "needs a port of its own: the sidecar answers there, not the workload");
    }
    Some(found)
}

fn port(value: &Value) -> Result<u16, String> {
    let port = value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    port.ok_or_else(|| "a port is a number from 1 to 65535".into())
}

/// Whether a VPC route may lead to this one address at all.
///
/// # Errors
/// What is allowed instead. Source: Amazon VPC user guide, route tables, "Considerations" (169.254.168.0/22, fd00:ec2::/32).
pub fn routable(address: IpAddr) -> Result<(), String> {
    let reserved: [ipnet::IpNet; 2] =
        ["169.254.168.0/22".parse().expect("a valid range"), "fd00:ec2::/32".parse().expect("a valid range")];
    if let Some(range) = reserved.iter().find(|range| range.contains(&address)) {
        return Err(format!("AWS routes nothing inside {range}; choose an address elsewhere, e.g. 10.99.0.10"));
    }
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0) == 0xfe80,
    };
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local {
        return Err("not an address that a route can lead to; choose one such as 10.99.0.10".into());
    }
    Ok(())
}

fn policy(fields: &mut Fields<'_>) -> Option<Policy> {
    let ttl = fields.optional("ttl_ms", millis).unwrap_or(Policy::default().ttl_ms);
    let rate = fields.optional("clock_rate_bound_ppm", number).unwrap_or(Policy::default().clock_rate_bound_ppm);
    let mut policy = Policy::with_rate_bound(Millis(ttl.0.min(1 << 40)), rate.min(900_000));
    let mut set = |name: &'static str, place: &mut Millis| {
        if let Some(value) = fields.optional(name, millis) {
            *place = value;
        }
    };
    set("beat_ms", &mut policy.beat_ms);
    set("ping_ms", &mut policy.ping_ms);
    set("wait_ms", &mut policy.wait_ms);
    set("promise_ms", &mut policy.promise_ms);
    set("suspect_ms", &mut policy.suspect_ms);
    set("peer_silence_ms", &mut policy.peer_silence_ms);
    set("grow_after_ms", &mut policy.grow_after_ms);
    set("freeze_margin_ms", &mut policy.freeze_margin_ms);
    set("heartbeat_ms", &mut policy.heartbeat_ms);
    set("row_read_ms", &mut policy.row_read_ms);
    set("handover_limit_ms", &mut policy.handover_limit_ms);
    policy.lossy_lag_limit_ms = fields.optional("lossy_lag_limit_ms", millis);
    match policy.check() {
        Ok(()) => Some(policy),
        Err(bad) => {
            for bad in bad {
                fields.bad(bad.key, format!("is {}: {}", bad.value, bad.allowed));
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"cluster":"web","nodes":[{"name":"a","instance":"i-0a","priority":1},{"name":"b","instance":"i-0b"}],
        "virtual_ips":[{"address":"10.99.0.10","vpc":"vpc-1","create_in":["rtb-1"]}],"policy":{"ttl_ms":5000}}"#;

    #[test]
    fn a_good_one_is_read_whole() {
        let config = ClusterConfig::parse(GOOD).expect("a good configuration");
        assert_eq!(config.cluster.as_str(), "web");
        assert_eq!(config.nodes[1].priority, 100);
        assert_eq!(config.policy, Policy::for_ttl(Millis(5_000)));
        assert_eq!(config.virtual_ips[0].create_in, ["rtb-1"]);
        assert!(config.virtual_ips[0].route_tables.is_empty(), "as an older deployment wrote it");
        let listed = GOOD.replace(r#""create_in""#, r#""route_tables":["rtb-1","rtb-2"],"create_in""#);
        let config = ClusterConfig::parse(&listed).expect("a good configuration");
        assert_eq!(config.virtual_ips[0].route_tables, ["rtb-1", "rtb-2"]);
    }

    #[test]
    fn ports_are_read_and_checked() {
        let with =
            |ports: &str| ClusterConfig::parse(&GOOD.replace(r#""policy""#, &format!(r#""ports":{ports},"policy""#)));
        let ports = with(r#"{"service":[5432,80],"health":7402}"#).expect("good").ports.expect("there");
        assert_eq!(ports.guarded(), BTreeSet::from([80, 5432, 7402]));
        for (bad, told) in [
            ("{}", "ports.service is missing: name the workload's ports"),
            (r#"{"service":[0]}"#, "1 to 65535"),
            (r#"{"service":[65536]}"#, "1 to 65535"),
            (r#"{"service":"5432"}"#, "a list of ports"),
            (r#"{"service":[80],"health":80}"#, "ports.health = 80: needs a port of its own"),
            (r#"{"health":80,"colour":1}"#, "ports.colour"),
        ] {
            let said = with(bad).expect_err(bad).to_string();
            assert!(said.contains(told), "{bad}: {said}");
        }
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_place() {
        let bad = r#"{"cluster":"Web","nodes":[{"name":"a","instance":"x"},{"nam":"b"}],
            "virtual_ips":[{"address":"169.254.169.1","vpc":"vpc-1"}],"policy":{"ttl_ms":10},"colour":"blue"}"#;
        let told = ClusterConfig::parse(bad).expect_err("a bad configuration").to_string();
        for part in [
            "cluster = \"Web\"",
            "nodes[0].instance",
            "nodes[1].name is missing",
            "nodes[1].nam",
            "169.254.168.0/22",
            "policy.ttl_ms",
            "colour",
        ] {
            assert!(told.contains(part), "{part} in:\n{told}");
        }
    }

    #[test]
    fn two_nodes_on_one_instance_are_one_node() {
        let told =
            ClusterConfig::parse(&GOOD.replace("i-0b", "i-0a")).expect_err("the same instance twice").to_string();
        assert!(told.contains("its own instance"), "{told}");
    }
}
