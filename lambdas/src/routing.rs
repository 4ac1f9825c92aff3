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
    /// `tables`: those listed in `route_tables`; none where the configuration, of an older deployment, lists none.
    #[error("missing route: {}", missing_route(destination, vpc, tables))]
    MissingRoute { destination: IpNet, vpc: VpcId, tables: Vec<TableId> },
    #[error(
        "route not listed: {} of {vpc} routes {destination} and is not in route_tables, so the functions may not change \
         it, and after a failover its clients would still be sent to the old node. List it in route_tables, or delete \
         that route in it",
        these(tables)
    )]
    NotListed { destination: IpNet, vpc: VpcId, tables: Vec<TableId> },
    #[error(
        "route table {table}, listed for {destination}, does not exist in {vpc}: take it out of route_tables and create_in"
    )]
    NoSuchTable { table: TableId, destination: IpNet, vpc: VpcId },
    #[error("instance {instance} has no network interface in {vpc}, where {destination} is routed")]
    NoInterface { instance: InstanceId, vpc: VpcId, destination: IpNet },
}

fn missing_route(destination: &IpNet, vpc: &VpcId, tables: &[TableId]) -> String {
    if tables.is_empty() {
        return format!(
            "no route table of {vpc} has a route for {destination}, and none is listed in create_in. \
             List the tables of the clients' subnets in create_in, or make the route once by hand"
        );
    }
    format!(
        "{} of {vpc} has no static route for {destination}, though listed in route_tables: its clients reach nobody. \
         List it in create_in too, or make the route once by hand (aws ec2 create-route), or take it out of route_tables",
        these(tables)
    )
}

fn these(tables: &[TableId]) -> String {
    tables.iter().map(|table| table.0.as_str()).collect::<Vec<_>>().join(", ")
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
    plan_where(topology, addresses, active, |route, to| route.target != Target::Interface(to.clone()))
}

/// As [`plan`], with every route written, also where it is described as right. For a move whose network was described
/// before it: EC2 describes late, and what leads to the new holder already is how it was before the last move.
#[must_use]
pub fn plan_anew(topology: &Topology, addresses: &[VirtualIp], active: &InstanceId) -> Plan {
    plan_where(topology, addresses, active, |_, _| true)
}

fn plan_where(
    topology: &Topology,
    addresses: &[VirtualIp],
    active: &InstanceId,
    is_written: fn(&Route, &InterfaceId) -> bool,
) -> Plan {
    let mut changes = BTreeSet::new();
    let mut problems = Vec::new();
    for address in addresses {
        let found = check(topology, address);
        // A single address inside the VPC's range cannot be routed at all; what else is wrong concerns single tables.
        if !found.iter().any(|problem| matches!(problem, Problem::InsideVpc { .. })) {
            match changes_for(topology, address, active, is_written) {
                Ok(found) => changes.extend(found),
                Err(problem) => problems.push(problem),
            }
        }
        problems.extend(found);
    }
    // The set's order puts `Forwarding` first: the destination is made ready before packets are sent there.
    Plan { changes: changes.into_iter().collect(), problems }
}

fn changes_for(
    topology: &Topology,
    address: &VirtualIp,
    active: &InstanceId,
    is_written: fn(&Route, &InterfaceId) -> bool,
) -> Result<Vec<Change>, Problem> {
    let vpc = VpcId(address.vpc.clone());
    let destination = IpNet::from(address.address);
    let (to, interface) = topology.interface_of(active, &vpc).ok_or_else(|| Problem::NoInterface {
        instance: active.clone(),
        vpc: vpc.clone(),
        destination,
    })?;
    let mut changes = Vec::new();
    if interface.checked {
        changes.push(Change::Forwarding { interface: to.clone() });
    }
    for (id, table) in topology.tables.iter().filter(|(id, table)| table.vpc == vpc && may_change(address, id)) {
        let Some(route) = table.static_route(destination) else { continue };
        if is_written(route, to) {
            changes.push(Change::Route {
                table: id.clone(),
                destination,
                from: Some(route.target.to_string()),
                to: to.clone(),
            });
        }
    }
    for id in address.create_in.iter().cloned().map(TableId) {
        let missing =
            topology.tables.get(&id).is_some_and(|table| table.vpc == vpc && table.static_route(destination).is_none());
        if missing {
            changes.push(Change::Route { table: id, destination, from: None, to: to.clone() });
        }
    }
    Ok(changes)
}

/// What `members` still need before packets may be sent to them. A standby's interface must not be found wanting only when
/// its turn has come.
#[must_use]
pub fn readiness(topology: &Topology, addresses: &[VirtualIp], members: &[InstanceId]) -> Plan {
    let mut changes = BTreeSet::new();
    let mut problems = Vec::new();
    for (address, instance) in addresses.iter().flat_map(|address| members.iter().map(move |member| (address, member)))
    {
        let vpc = VpcId(address.vpc.clone());
        match topology.interface_of(instance, &vpc) {
            Some((id, interface)) if interface.checked => {
                changes.insert(Change::Forwarding { interface: id.clone() });
            }
            Some(_) => {}
            None => {
                let destination = IpNet::from(address.address);
                problems.push(Problem::NoInterface { instance: instance.clone(), vpc, destination });
            }
        }
    }
    Plan { changes: changes.into_iter().collect(), problems }
}

/// The tables that the configuration lists for `address`; empty in one that an older deployment has written.
#[must_use]
pub fn listed(address: &VirtualIp) -> BTreeSet<TableId> {
    address.route_tables.iter().chain(&address.create_in).cloned().map(TableId).collect()
}

/// Where no tables are listed, every one that carries the address is meant.
fn may_change(address: &VirtualIp, table: &TableId) -> bool {
    address.route_tables.is_empty() || listed(address).contains(table)
}

/// What can be said of `address` before any node is asked about: its place, its routes, its tables. All at once.
#[must_use]
pub fn check(topology: &Topology, address: &VirtualIp) -> Vec<Problem> {
    let vpc = VpcId(address.vpc.clone());
    let destination = IpNet::from(address.address);
    let mut problems: Vec<Problem> = check_address(topology, address).err().into_iter().collect();
    let of_vpc = || topology.tables.iter().filter(|(_, table)| table.vpc == vpc);
    let carries = |id: &TableId| topology.tables.get(id).is_some_and(|table| table.static_route(destination).is_some());
    let (there, missing): (Vec<TableId>, Vec<TableId>) =
        listed(address).into_iter().partition(|id| of_vpc().any(|(other, _)| other == id));
    problems.extend(missing.into_iter().map(|table| Problem::NoSuchTable { table, destination, vpc: vpc.clone() }));
    if address.route_tables.is_empty() {
        if address.create_in.is_empty() && !of_vpc().any(|(id, _)| carries(id)) {
            problems.push(Problem::MissingRoute { destination, vpc, tables: Vec::new() });
        }
        return problems;
    }
    let routeless = |id: &TableId| !carries(id) && !address.create_in.contains(&id.0);
    let tables: Vec<TableId> = there.into_iter().filter(routeless).collect();
    if !tables.is_empty() {
        problems.push(Problem::MissingRoute { destination, vpc: vpc.clone(), tables });
    }
    let strangers = of_vpc().map(|(id, _)| id).filter(|id| carries(id) && !may_change(address, id));
    let tables: Vec<TableId> = strangers.cloned().collect();
    if !tables.is_empty() {
        problems.push(Problem::NotListed { destination, vpc, tables });
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
