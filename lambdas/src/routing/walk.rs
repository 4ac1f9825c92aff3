//! Following one packet, as AWS would.

use crate::topology::{InterfaceId, Route, SubnetId, TableId, Target, Topology};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// Where a packet from a subnet ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Walk {
    /// It is handed to this interface of an instance that accepts it. Whether that node answers is the lease's matter.
    Reaches { tables: Vec<TableId>, interface: InterfaceId },
    /// It leaves through something that this walk cannot follow: an internet gateway, a peering, an unknown interface.
    Leaves { tables: Vec<TableId>, through: String },
    /// It is dropped.
    Blackhole { tables: Vec<TableId>, why: String },
    /// It comes back to a table that it has passed.
    Loop { tables: Vec<TableId> },
}

impl Walk {
    #[must_use]
    pub fn reaches(&self, interface: &InterfaceId) -> bool {
        matches!(self, Self::Reaches { interface: found, .. } if found == interface)
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tables, end) = match self {
            Self::Reaches { tables, interface } => (tables, interface.to_string()),
            Self::Leaves { tables, through } => (tables, format!("{through} (leaves: not reached)")),
            Self::Blackhole { tables, why } => (tables, format!("dropped ({why})")),
            Self::Loop { tables } => (tables, "loop".to_owned()),
        };
        for table in tables {
            write!(f, "{table} → ")?;
        }
        f.write_str(&end)
    }
}

/// Follows a packet for `address` from `subnet`: the subnet's table, the longest prefix, the next hop. An interface of
/// an instance that forwards (check off, and none of `nodes`) sends it on by its own subnet's table.
#[must_use]
pub fn walk(topology: &Topology, nodes: &BTreeSet<InterfaceId>, subnet: &SubnetId, address: IpAddr) -> Walk {
    let mut tables: Vec<TableId> = Vec::new();
    let mut from = subnet;
    loop {
        let Some((id, table)) = topology.table_of(from) else {
            return Walk::Blackhole { tables, why: format!("no route table of {from} is known") };
        };
        if tables.contains(id) {
            tables.push(id.clone());
            return Walk::Loop { tables };
        }
        tables.push(id.clone());
        let Some(route) = best(&table.routes, address) else {
            return Walk::Blackhole { tables, why: format!("no route for {address}") };
        };
        let next = match &route.target {
            Target::Local => {
                return Walk::Blackhole { tables, why: format!("{address} is inside the VPC, on no interface") };
            }
            Target::Other(through) => return Walk::Leaves { tables, through: through.clone() },
            Target::Interface(next) => next,
        };
        if !route.active {
            return Walk::Blackhole { tables, why: format!("{next} is gone or not running") };
        }
        let Some(interface) = topology.interfaces.get(next) else {
            return Walk::Leaves { tables, through: next.to_string() };
        };
        if interface.checked {
            return Walk::Blackhole { tables, why: format!("source/destination check of {next} is on") };
        }
        if nodes.contains(next) {
            return Walk::Reaches { tables, interface: next.clone() };
        }
        from = &interface.subnet;
    }
}

/// Longest prefix first, static before propagated.
fn best(routes: &[Route], address: IpAddr) -> Option<&Route> {
    routes
        .iter()
        .filter(|route| covers(route.destination, address))
        .max_by_key(|route| (route.destination.prefix_len(), !route.propagated))
}

fn covers(range: IpNet, address: IpAddr) -> bool {
    range.contains(&address)
}
