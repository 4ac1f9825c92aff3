//! EC2's describes, filtered and paginated to the end, turned into the domain's types.

use super::failed;
use crate::cloud::{CloudError, Found, Tables};
use crate::decide::Described;
use crate::topology::{Interface, InterfaceId, Route, RouteTable, Subnet, SubnetId, TableId, Target, Vpc, VpcId};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Filter, RouteOrigin, RouteState};
use ipnet::IpNet;
use lease::ids::InstanceId;
use std::collections::BTreeMap;

/// Most values that EC2 takes in one filter.
const FILTER_VALUES: usize = 200;

fn filter(name: &str, values: &[String]) -> Filter {
    Filter::builder().name(name).set_values(Some(values.to_vec())).build()
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

pub(super) async fn instances(ec2: &Client, ids: &[InstanceId]) -> Found<InstanceId, Described> {
    const CALL: &str = "DescribeInstances";
    let mut found = BTreeMap::new();
    // By filter, not by id: one unknown id would fail the whole call, and a terminated instance becomes unknown.
    let mut pages =
        ec2.describe_instances().filters(filter("instance-id", &texts(ids))).into_paginator().items().send();
    while let Some(reservation) = pages.next().await {
        for instance in reservation.map_err(|error| failed(CALL, error))?.instances() {
            let Some(Ok(id)) = instance.instance_id().map(InstanceId::new) else { continue };
            let state = instance.state().and_then(|state| state.name()).map_or("unknown", |name| name.as_str());
            let launched = instance.launch_time().map(aws_smithy_types::DateTime::secs);
            found.insert(id, Described { state: state.into(), launched });
        }
    }
    Ok(found)
}

pub(super) async fn interfaces(ec2: &Client, by: &str, ids: Vec<String>) -> Found<InterfaceId, Interface> {
    const CALL: &str = "DescribeNetworkInterfaces";
    let mut found = BTreeMap::new();
    let mut pages = ec2.describe_network_interfaces().filters(filter(by, &ids)).into_paginator().items().send();
    while let Some(interface) = pages.next().await {
        let interface = interface.map_err(|error| failed(CALL, error))?;
        let (Some(id), Some(vpc), Some(subnet)) =
            (interface.network_interface_id(), interface.vpc_id(), interface.subnet_id())
        else {
            continue;
        };
        let attached = interface.attachment().and_then(|attachment| {
            let instance = InstanceId::new(attachment.instance_id()?).ok()?;
            Some((instance, attachment.device_index().and_then(|place| u32::try_from(place).ok()).unwrap_or(0)))
        });
        let described = Interface {
            vpc: vpc.into(),
            subnet: subnet.into(),
            attached,
            // Not told: taken as on, so that it is switched off rather than believed.
            checked: interface.source_dest_check().unwrap_or(true),
        };
        found.insert(id.into(), described);
    }
    Ok(found)
}

pub(super) async fn route_tables(ec2: &Client, which: &Tables) -> Found<TableId, RouteTable> {
    const CALL: &str = "DescribeRouteTables";
    let filters = match which {
        Tables::Carrying { vpcs, destinations } => {
            let v4 = destinations.iter().all(|net| net.addr().is_ipv4());
            let by = if v4 { "route.destination-cidr-block" } else { "route.destination-ipv6-cidr-block" };
            vec![filter("vpc-id", &texts(vpcs)), filter(by, &texts(destinations))]
        }
        Tables::Listed(ids) => vec![filter("route-table-id", &texts(ids))],
        Tables::Of(vpcs) => vec![filter("vpc-id", &texts(vpcs))],
    };
    debug_assert!(filters.iter().all(|filter| filter.values().len() <= FILTER_VALUES));
    let mut found = BTreeMap::new();
    let mut pages = ec2.describe_route_tables().set_filters(Some(filters)).into_paginator().items().send();
    while let Some(table) = pages.next().await {
        let table = table.map_err(|error| failed(CALL, error))?;
        let (Some(id), Some(vpc)) = (table.route_table_id(), table.vpc_id()) else { continue };
        let associations = table.associations();
        let described = RouteTable {
            vpc: vpc.into(),
            main: associations.iter().any(|association| association.main() == Some(true)),
            subnets: associations
                .iter()
                .filter_map(|association| association.subnet_id())
                .map(SubnetId::from)
                .collect(),
            routes: table.routes().iter().filter_map(route).collect(),
        };
        found.insert(id.into(), described);
    }
    Ok(found)
}

/// `None` for destinations that are prefix lists: none of them is one address.
fn route(route: &aws_sdk_ec2::types::Route) -> Option<Route> {
    let destination: IpNet = route.destination_cidr_block().or(route.destination_ipv6_cidr_block())?.parse().ok()?;
    let other = [
        route.gateway_id(),
        route.transit_gateway_id(),
        route.vpc_peering_connection_id(),
        route.nat_gateway_id(),
        route.egress_only_internet_gateway_id(),
        route.local_gateway_id(),
        route.carrier_gateway_id(),
        route.core_network_arn(),
        route.instance_id(),
    ];
    let target = match (route.network_interface_id(), route.gateway_id()) {
        (Some(interface), _) => Target::Interface(interface.into()),
        (None, Some("local")) => Target::Local,
        _ => Target::Other(other.into_iter().flatten().next().unwrap_or("an unknown target").into()),
    };
    Some(Route {
        destination,
        target,
        active: route.state() != Some(&RouteState::Blackhole),
        propagated: route.origin() == Some(&RouteOrigin::EnableVgwRoutePropagation),
    })
}

pub(super) async fn subnets(ec2: &Client, vpcs: &[VpcId]) -> Found<SubnetId, Subnet> {
    const CALL: &str = "DescribeSubnets";
    let mut found = BTreeMap::new();
    let mut pages = ec2.describe_subnets().filters(filter("vpc-id", &texts(vpcs))).into_paginator().items().send();
    while let Some(subnet) = pages.next().await {
        let subnet = subnet.map_err(|error| failed(CALL, error))?;
        let (Some(id), Some(vpc)) = (subnet.subnet_id(), subnet.vpc_id()) else { continue };
        let zone = subnet.availability_zone().unwrap_or("unknown zone").to_owned();
        found.insert(id.into(), Subnet { vpc: vpc.into(), zone });
    }
    Ok(found)
}

pub(super) async fn vpcs(ec2: &Client, ids: &[VpcId]) -> Result<BTreeMap<VpcId, Vpc>, CloudError> {
    const CALL: &str = "DescribeVpcs";
    let mut found = BTreeMap::new();
    let mut pages = ec2.describe_vpcs().filters(filter("vpc-id", &texts(ids))).into_paginator().items().send();
    while let Some(vpc) = pages.next().await {
        let vpc = vpc.map_err(|error| failed(CALL, error))?;
        let Some(id) = vpc.vpc_id() else { continue };
        let v4 = vpc.cidr_block_association_set().iter().filter_map(|association| association.cidr_block());
        let v6 = vpc.ipv6_cidr_block_association_set().iter().filter_map(|association| association.ipv6_cidr_block());
        let cidrs = v4.chain(v6).chain(vpc.cidr_block()).filter_map(|range| range.parse().ok()).collect();
        found.insert(id.into(), Vpc { cidrs });
    }
    Ok(found)
}
