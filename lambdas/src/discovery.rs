//! Discovery: from the virtual IPs alone to a [`Topology`]. Only filtered, paginated describes.

use crate::cloud::{Cloud, CloudError, Tables};
use crate::routing::listed;
use crate::topology::{InterfaceId, RouteTable, TableId, Target, Topology, VpcId};
use ipnet::IpNet;
use lease::config::ClusterConfig;
use lease::ids::InstanceId;
use std::collections::{BTreeMap, BTreeSet};

/// Most values that EC2 takes in one filter.
const TABLES_PER_CALL: usize = 200;

/// How much to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// What a failover may change: two or three calls at once, and one more for listed tables that do not carry the address.
    Failover,
    /// What a dry run tells of: every table and subnet of the VPCs, and where routes lead today.
    Whole,
}

/// Describes the network of `config`'s virtual IPs.
///
/// # Errors
/// [`CloudError`] of the first call that failed. Nothing was changed.
pub async fn discover(cloud: &impl Cloud, config: &ClusterConfig, view: View) -> Result<Topology, CloudError> {
    let vpcs: BTreeSet<VpcId> = config.virtual_ips.iter().map(|ip| VpcId(ip.vpc.clone())).collect();
    let vpcs: Vec<VpcId> = vpcs.into_iter().collect();
    let instances: Vec<InstanceId> = config.nodes.iter().map(|node| node.instance.clone()).collect();
    if vpcs.is_empty() {
        return Ok(Topology::default());
    }
    match view {
        View::Failover => {
            let family = |v4: bool| -> Vec<IpNet> {
                config
                    .virtual_ips
                    .iter()
                    .map(|ip| IpNet::from(ip.address))
                    .filter(|net| net.addr().is_ipv4() == v4)
                    .collect()
            };
            let (interfaces, v4, v6) = futures::try_join!(
                cloud.interfaces_of(&instances),
                tables(cloud, Tables::Carrying { vpcs: vpcs.clone(), destinations: family(true) }),
                tables(cloud, Tables::Carrying { vpcs: vpcs.clone(), destinations: family(false) }),
            )?;
            let carrying: BTreeMap<TableId, RouteTable> = v4.into_iter().chain(v6).collect();
            // Only where something is amiss, or a route is to be made for the first time.
            let unseen = config.virtual_ips.iter().flat_map(listed).filter(|table| !carrying.contains_key(table));
            let unseen: Vec<TableId> = unseen.collect::<BTreeSet<_>>().into_iter().collect();
            let described = unseen.chunks(TABLES_PER_CALL).map(|some| tables(cloud, Tables::Listed(some.to_vec())));
            let described = futures::future::try_join_all(described).await?;
            Ok(Topology {
                interfaces,
                tables: described.into_iter().flatten().chain(carrying).collect(),
                ..Topology::default()
            })
        }
        View::Whole => {
            let all = Tables::Of(vpcs.clone());
            let (described, mut interfaces, tables, subnets) = futures::try_join!(
                cloud.vpcs(&vpcs),
                cloud.interfaces_of(&instances),
                cloud.route_tables(&all),
                cloud.subnets(&vpcs),
            )?;
            let elsewhere: BTreeSet<InterfaceId> = tables
                .values()
                .flat_map(|table| &table.routes)
                .filter(|route| config.virtual_ips.iter().any(|ip| IpNet::from(ip.address) == route.destination))
                .filter_map(|route| match &route.target {
                    Target::Interface(id) if !interfaces.contains_key(id) => Some(id.clone()),
                    _ => None,
                })
                .collect();
            if !elsewhere.is_empty() {
                interfaces.extend(cloud.interfaces(&elsewhere.into_iter().collect::<Vec<_>>()).await?);
            }
            Ok(Topology { vpcs: described, tables, subnets, interfaces })
        }
    }
}

/// Asks for no tables where none are named: an empty filter would mean all.
async fn tables(cloud: &impl Cloud, which: Tables) -> Result<BTreeMap<TableId, RouteTable>, CloudError> {
    let empty = match &which {
        Tables::Carrying { destinations, .. } => destinations.is_empty(),
        Tables::Listed(ids) => ids.is_empty(),
        Tables::Of(vpcs) => vpcs.is_empty(),
    };
    if empty { Ok(BTreeMap::new()) } else { cloud.route_tables(&which).await }
}
