//! The network in a few bytes, what EC2 describes of it, and the shipping planner on that description.

use crate::a3::lease::{Memo, Node};
use lambdas::routing::{Change, plan};
use lambdas::topology::{Interface, InterfaceId, Route, RouteTable, SubnetId, TableId, Target, Topology, VpcId};
use lease::config::VirtualIp;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// Route tables that the virtual IP is routed in. The first must carry it already; the last is listed in `create_in`.
pub(super) const TABLES: usize = 2;
/// The table in which a missing route is made.
pub(super) const LISTED: usize = TABLES - 1;

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 10));
/// As a route's destination.
const DESTINATION: &str = "10.99.0.10/32";
const NAMES: [&str; TABLES] = ["rtb-0", "rtb-1"];

/// Where the virtual IP's route of one table leads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::a3) enum Hop {
    Node(Node),
    /// Something that somebody else put there.
    Foreign,
    Missing,
}

impl fmt::Debug for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Foreign => f.write_str("foreign"),
            Self::Missing => f.write_str("missing"),
        }
    }
}

/// Routes of the virtual IP and the nodes' source/destination checks (a bit for each node where it is on).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct View {
    pub(super) hops: [Hop; TABLES],
    pub(super) checked: u8,
}

/// The network as it is, and what a late description may still show instead.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Network {
    pub(super) now: View,
    pub(super) before: View,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (table, name) in NAMES.iter().enumerate() {
            write!(f, "{}{name}→{:?}", if table == 0 { "" } else { " " }, self.now.hops[table])?;
            if self.before.hops[table] != self.now.hops[table] {
                write!(f, " (may be described as {:?})", self.before.hops[table])?;
            }
        }
        let checked: Vec<_> = Node::all(3).filter(|node| self.now.checked & node.bit() != 0).collect();
        if checked.is_empty() { Ok(()) } else { write!(f, " not forwarding {checked:?}") }
    }
}

/// Which parts a description shows late.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::a3) struct Late {
    pub(super) hops: [bool; TABLES],
    pub(super) checked: bool,
}

impl Late {
    pub(super) const NOTHING: Self = Self { hops: [false; TABLES], checked: false };
}

impl fmt::Debug for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut late: Vec<_> = (0..TABLES).filter(|table| self.hops[*table]).map(|table| NAMES[table]).collect();
        late.extend(self.checked.then_some("interfaces"));
        if late.is_empty() { f.write_str("as it is") } else { write!(f, "late for {}", late.join(", ")) }
    }
}

impl Network {
    /// Everything leads to `holder`, and only its interface forwards.
    pub(super) fn leading_to(holder: Node, nodes: u8) -> Self {
        let now = View { hops: [Hop::Node(holder); TABLES], checked: ((1 << nodes) - 1) & !holder.bit() };
        Self { now, before: now }
    }
    pub(super) fn put(&mut self, table: usize, hop: Hop) {
        if self.now.hops[table] != hop {
            self.before.hops[table] = self.now.hops[table];
            self.now.hops[table] = hop;
        }
    }
    pub(super) fn put_checked(&mut self, checked: u8) {
        if self.now.checked != checked {
            self.before.checked = self.now.checked;
            self.now.checked = checked;
        }
    }
    /// EC2 describes all of it as it is from now on.
    pub(super) fn settle(&mut self) {
        self.before = self.now;
    }
    /// Each way in which it may be described now.
    pub(super) fn descriptions(&self) -> Vec<Late> {
        let mut ways = vec![Late::NOTHING];
        for table in 0..TABLES {
            if self.before.hops[table] != self.now.hops[table] {
                ways.extend(ways.clone().into_iter().map(|mut way| {
                    way.hops[table] = true;
                    way
                }));
            }
        }
        if self.before.checked != self.now.checked {
            ways.extend(ways.clone().into_iter().map(|way| Late { checked: true, ..way }));
        }
        ways
    }
    pub(super) fn described(&self, late: Late) -> View {
        let mut view = self.now;
        for table in 0..TABLES {
            if late.hops[table] {
                view.hops[table] = self.before.hops[table];
            }
        }
        if late.checked {
            view.checked = self.before.checked;
        }
        view
    }
    /// Everything leads to `holder`, whose interface takes the packets.
    pub(super) fn leads_to(&self, holder: Node) -> bool {
        self.now.hops == [Hop::Node(holder); TABLES] && self.now.checked & holder.bit() == 0
    }
}

/// One route's change, as planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Call {
    /// Where a route was described.
    Replace,
    /// Where none was.
    Create,
}

/// What a plan asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Planned {
    pub(super) forwarding: bool,
    pub(super) calls: [Option<Call>; TABLES],
    /// It asks for something else: another destination, another table, another next hop.
    pub(super) stray: bool,
}

impl Planned {
    pub(super) fn is_empty(&self) -> bool {
        !self.forwarding && self.calls == [None; TABLES]
    }
}

/// The planner.
pub(super) struct Planner {
    known: Memo<(View, Node), Planned>,
    /// A mutant's: it changes every table that was described.
    every_table: bool,
}

impl Planner {
    pub(super) fn new(every_table: bool) -> Self {
        Self { known: Memo::new(), every_table }
    }
    /// What [`lambdas::routing::plan`] wants changed where `view` is described and `active` shall be reached.
    pub(super) fn plan(&self, view: View, active: Node) -> Planned {
        self.known.get((view, active), || {
            let topology = topology(view);
            let addresses = [VirtualIp {
                address: ADDRESS,
                vpc: "vpc-1".into(),
                route_tables: Vec::new(),
                create_in: vec![NAMES[LISTED].into()],
            }];
            let mut planned = Planned { forwarding: false, calls: [None; TABLES], stray: false };
            let mut changes = plan(&topology, &addresses, &active.instance()).changes;
            if self.every_table && !changes.is_empty() {
                changes.extend(topology.tables.keys().map(|table| Change::Route {
                    table: table.clone(),
                    destination: DESTINATION.parse().expect("a valid range"),
                    from: None,
                    to: interface_of(active),
                }));
            }
            for change in changes {
                match change {
                    Change::Forwarding { interface } if interface == interface_of(active) => planned.forwarding = true,
                    Change::Route { table, destination, from, to }
                        if destination.to_string() == DESTINATION && to == interface_of(active) =>
                    {
                        let call = if from.is_some() { Call::Replace } else { Call::Create };
                        match NAMES.iter().position(|name| table == TableId::from(*name)) {
                            Some(place) => planned.calls[place] = Some(call),
                            None => planned.stray = true,
                        }
                    }
                    Change::Forwarding { .. } | Change::Route { .. } => planned.stray = true,
                }
            }
            planned
        })
    }
}

fn interface_of(node: Node) -> InterfaceId {
    InterfaceId(format!("eni-{}", node.name()))
}

/// The described network, with bystanders that a planner could mistake for the virtual IP's: the routes of other
/// destinations, a table that was given the address by a gateway, a table of another VPC.
fn topology(view: View) -> Topology {
    let route = |to: &str, target: Target| Route {
        destination: to.parse().expect("a valid range"),
        target,
        active: true,
        propagated: false,
    };
    let common = || vec![route("10.0.0.0/16", Target::Local), route("0.0.0.0/0", Target::Other("igw-1".into()))];
    let table = |vpc: &str, routes| RouteTable { vpc: VpcId::from(vpc), main: false, subnets: BTreeSet::new(), routes };
    let mut tables = BTreeMap::new();
    for (name, hop) in NAMES.iter().zip(view.hops) {
        let mut routes = common();
        routes.push(route("10.98.0.0/24", Target::Interface(interface_of(Node(0)))));
        match hop {
            Hop::Node(node) => routes.push(route(DESTINATION, Target::Interface(interface_of(node)))),
            Hop::Foreign => routes.push(route(DESTINATION, Target::Other("tgw-1".into()))),
            Hop::Missing => {}
        }
        tables.insert(TableId::from(*name), table("vpc-1", routes));
    }
    let mut learnt = common();
    learnt.push(Route { propagated: true, ..route(DESTINATION, Target::Other("vgw-1".into())) });
    tables.insert("rtb-learnt".into(), table("vpc-1", learnt));
    let elsewhere = vec![route(DESTINATION, Target::Interface(interface_of(Node(0))))];
    tables.insert("rtb-elsewhere".into(), table("vpc-2", elsewhere));
    let interfaces = Node::all(3).map(|node| {
        let interface = Interface {
            vpc: VpcId::from("vpc-1"),
            subnet: SubnetId::from("subnet-1"),
            attached: Some((node.instance(), 0)),
            checked: view.checked & node.bit() != 0,
        };
        (interface_of(node), interface)
    });
    Topology { tables, interfaces: interfaces.collect(), ..Topology::default() }
}
