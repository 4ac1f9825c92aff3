//! Routing as pure functions: [`plan`] says what must change so that a virtual IP leads to the active node, [`walk`]
//! follows a packet through the tables as AWS would, before and after.
//!
//! Nothing in here asks AWS. A plan is a difference: on a network that already matches, it is empty.

mod walk;

pub use walk::{Walk, walk};

use crate::topology::{InterfaceId, Route, TableId, Target, Topology, VpcId};
use ipnet::IpNet;
use lease::config::VirtualIp;
use lease::ids::InstanceId;
use std::collections::BTreeSet;
use std::fmt;

/// One change to the network. Applying it twice is as good as once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The interface must take packets for addresses that are not its own: source/destination check off.
    Forwarding { interface: InterfaceId },
    /// `destination` leads to `to`, instead of to `from`. `None`: there is no route yet, it is made.
    Route { table: TableId, destination: IpNet, from: Option<String>, to: InterfaceId },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forwarding { interface } => write!(f, "{interface}: source/destination check on → off"),
            Self::Route { table, destination, from, to } => {
                write!(f, "{table}: {destination} {} → {to}", from.as_deref().unwrap_or("no route"))
            }
        }
    }
}

/// Why a virtual IP cannot be led to the active node, or not everywhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error(
        "virtual IP {address} lies inside {vpc} ({range}); AWS cannot route a single address inside a VPC's own range. \
         Choose one outside, e.g. 10.99.0.10"
    )]
    InsideVpc { address: std::net::IpAddr, vpc: VpcId, range: IpNet },
    #[error(
        "missing route: no route table of {vpc} has a route for {destination}, and none is listed in create_in. \
         List the tables of the clients' subnets in create_in, or make the route once by hand"
    )]
    MissingRoute { destination: IpNet, vpc: VpcId },
    #[error("route table {table}, listed in create_in for {destination}, does not exist in {vpc}")]
    NoSuchTable { table: TableId, destination: IpNet, vpc: VpcId },
    #[error("instance {instance} has no network interface in {vpc}, where {destination} is routed")]
    NoInterface { instance: InstanceId, vpc: VpcId, destination: IpNet },
}

/// What must change, and what stands in the way. Problems concern single addresses: the others' changes stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub changes: Vec<Change>,
    pub problems: Vec<Problem>,
}

/// The difference between `topology` and a network in which every virtual IP leads to `active`.
#[must_use]
pub fn plan(topology: &Topology, addresses: &[VirtualIp], active: &InstanceId) -> Plan {
    let mut changes = BTreeSet::new();
    let mut problems = Vec::new();
    for address in addresses {
        match changes_for(topology, address, active) {
            Ok((found, more)) => {
                changes.extend(found);
                problems.extend(more);
            }
            Err(problem) => problems.push(problem),
        }
    }
    // The set's order puts `Forwarding` first: the destination is made ready before packets are sent there.
    Plan { changes: changes.into_iter().collect(), problems }
}

fn changes_for(
    topology: &Topology,
    address: &VirtualIp,
    active: &InstanceId,
) -> Result<(Vec<Change>, Vec<Problem>), Problem> {
    let vpc = VpcId(address.vpc.clone());
    let destination = IpNet::from(address.address);
    check_address(topology, address)?;
    let (to, interface) = topology.interface_of(active, &vpc).ok_or_else(|| Problem::NoInterface {
        instance: active.clone(),
        vpc: vpc.clone(),
        destination,
    })?;
    let mut changes = Vec::new();
    let mut problems = Vec::new();
    if interface.checked {
        changes.push(Change::Forwarding { interface: to.clone() });
    }
    let mut routed = false;
    for (id, table) in topology.tables.iter().filter(|(_, table)| table.vpc == vpc) {
        let Some(route) = table.static_route(destination) else { continue };
        routed = true;
        if route.target != Target::Interface(to.clone()) {
            changes.push(Change::Route {
                table: id.clone(),
                destination,
                from: Some(route.target.to_string()),
                to: to.clone(),
            });
        }
    }
    for id in &address.create_in {
        let id = TableId(id.clone());
        match topology.tables.get(&id).filter(|table| table.vpc == vpc) {
            None => problems.push(Problem::NoSuchTable { table: id, destination, vpc: vpc.clone() }),
            Some(table) if table.static_route(destination).is_none() => {
                routed = true;
                changes.push(Change::Route { table: id, destination, from: None, to: to.clone() });
            }
            Some(_) => {}
        }
    }
    if !routed {
        problems.push(Problem::MissingRoute { destination, vpc });
    }
    Ok((changes, problems))
}

/// What can be said of `address` before any node is asked about: its place, its routes, its tables. All at once.
#[must_use]
pub fn check(topology: &Topology, address: &VirtualIp) -> Vec<Problem> {
    let vpc = VpcId(address.vpc.clone());
    let destination = IpNet::from(address.address);
    let mut problems: Vec<Problem> = check_address(topology, address).err().into_iter().collect();
    let in_vpc = |id: &TableId| topology.tables.get(id).is_some_and(|table| table.vpc == vpc);
    for id in &address.create_in {
        let table = TableId(id.clone());
        if !in_vpc(&table) {
            problems.push(Problem::NoSuchTable { table, destination, vpc: vpc.clone() });
        }
    }
    let routed = topology.tables.values().any(|table| table.vpc == vpc && table.static_route(destination).is_some());
    if !routed && address.create_in.is_empty() {
        problems.push(Problem::MissingRoute { destination, vpc });
    }
    problems
}

fn check_address(topology: &Topology, address: &VirtualIp) -> Result<(), Problem> {
    let vpc = VpcId(address.vpc.clone());
    match topology.ranges_of(&vpc).into_iter().find(|range| range.contains(&address.address)) {
        Some(range) => Err(Problem::InsideVpc { address: address.address, vpc, range }),
        None => Ok(()),
    }
}

/// The network as it will be once `changes` are applied.
#[must_use]
pub fn after(topology: &Topology, changes: &[Change]) -> Topology {
    let mut next = topology.clone();
    for change in changes {
        match change {
            Change::Forwarding { interface } => {
                if let Some(interface) = next.interfaces.get_mut(interface) {
                    interface.checked = false;
                }
            }
            Change::Route { table, destination, to, .. } => {
                if let Some(table) = next.tables.get_mut(table) {
                    table.routes.retain(|route| route.destination != *destination || route.propagated);
                    let target = Target::Interface(to.clone());
                    table.routes.push(Route { destination: *destination, target, active: true, propagated: false });
                }
            }
        }
    }
    next
}

#[cfg(test)]
mod tests;
