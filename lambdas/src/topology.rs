//! The network as it is: what AWS describes of route tables, subnets and the nodes' interfaces, as one typed value.
//!
//! Plain data: [`crate::discovery`] fills it, [`crate::routing`] plans on it. A partial view (a failover's) holds the
//! tables that carry the address or may be given it; a whole one (a dry run's) holds every table and subnet of the VPC.

use ipnet::IpNet;
use lease::ids::InstanceId;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

macro_rules! aws_id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $type(pub String);
        impl From<&str> for $type {
            fn from(id: &str) -> Self {
                Self(id.to_owned())
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

aws_id!(
    /// `vpc-...`
    VpcId
);
aws_id!(
    /// `subnet-...`
    SubnetId
);
aws_id!(
    /// `rtb-...`
    TableId
);
aws_id!(
    /// `eni-...`
    InterfaceId
);

/// What AWS described at one moment. EC2's reads are eventually consistent: it may be older than the last write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    pub vpcs: BTreeMap<VpcId, Vpc>,
    pub tables: BTreeMap<TableId, RouteTable>,
    /// Empty in a partial view.
    pub subnets: BTreeMap<SubnetId, Subnet>,
    /// The nodes' interfaces, and in a whole view those that routes for a virtual IP lead to today.
    pub interfaces: BTreeMap<InterfaceId, Interface>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vpc {
    pub cidrs: BTreeSet<IpNet>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    pub vpc: VpcId,
    pub zone: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTable {
    pub vpc: VpcId,
    /// Serves every subnet of the VPC that no other table is associated with.
    pub main: bool,
    /// Explicit associations.
    pub subnets: BTreeSet<SubnetId>,
    pub routes: Vec<Route>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub destination: IpNet,
    pub target: Target,
    /// Whether AWS calls it `active`; `blackhole` where the target is gone or not running.
    pub active: bool,
    /// Learnt from a gateway. It can be outweighed by a static route, not replaced.
    pub propagated: bool,
}

/// A route's next hop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The VPC itself.
    Local,
    Interface(InterfaceId),
    /// Any other kind, by its id: `igw-...`, `tgw-...`, `pcx-...`.
    Other(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Interface(id) => id.fmt(f),
            Self::Other(id) => f.write_str(id),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub vpc: VpcId,
    pub subnet: SubnetId,
    /// The instance that it is attached to, and at which place.
    pub attached: Option<(InstanceId, u32)>,
    /// Source/destination check: while on, the instance is handed no packet for a virtual IP.
    pub checked: bool,
}

impl Topology {
    /// The interface of `instance` that faces `vpc`: the one at the lowest place.
    #[must_use]
    pub fn interface_of(&self, instance: &InstanceId, vpc: &VpcId) -> Option<(&InterfaceId, &Interface)> {
        self.interfaces
            .iter()
            .filter(|(_, interface)| interface.vpc == *vpc)
            .filter_map(|(id, interface)| {
                let (owner, place) = interface.attached.as_ref()?;
                (owner == instance).then_some((*place, id, interface))
            })
            .min_by_key(|(place, id, _)| (*place, (*id).clone()))
            .map(|(_, id, interface)| (id, interface))
    }

    /// The table that a packet from `subnet` meets: its own, or the VPC's main one.
    #[must_use]
    pub fn table_of(&self, subnet: &SubnetId) -> Option<(&TableId, &RouteTable)> {
        let vpc = &self.subnets.get(subnet)?.vpc;
        self.tables
            .iter()
            .find(|(_, table)| table.subnets.contains(subnet))
            .or_else(|| self.tables.iter().find(|(_, table)| table.main && table.vpc == *vpc))
    }

    /// Every range of `vpc` that is known: described, or told by the local routes of its tables.
    #[must_use]
    pub fn ranges_of(&self, vpc: &VpcId) -> BTreeSet<IpNet> {
        let described = self.vpcs.get(vpc).map(|vpc| vpc.cidrs.clone()).unwrap_or_default();
        let local = self
            .tables
            .values()
            .filter(|table| table.vpc == *vpc)
            .flat_map(|table| &table.routes)
            .filter(|route| route.target == Target::Local)
            .map(|route| route.destination);
        described.into_iter().chain(local).collect()
    }
}

impl RouteTable {
    /// The static route for exactly `destination`: the one that can be replaced.
    #[must_use]
    pub fn static_route(&self, destination: IpNet) -> Option<&Route> {
        self.routes.iter().find(|route| route.destination == destination && !route.propagated)
    }
}
