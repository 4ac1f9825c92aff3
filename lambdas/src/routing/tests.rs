use super::*;
use crate::topology::{Interface, RouteTable, Subnet, SubnetId, Vpc};
use proptest::prelude::*;
use std::collections::BTreeMap;

const VIP: &str = "10.99.0.10";

fn net(text: &str) -> IpNet {
    text.parse().expect("a range")
}

fn instance(name: &str) -> InstanceId {
    InstanceId::new(format!("i-0{name}")).expect("an id")
}

fn vip(create_in: &[&str]) -> VirtualIp {
    VirtualIp {
        address: VIP.parse().expect("an address"),
        vpc: "vpc-1".into(),
        route_tables: Vec::new(),
        create_in: create_in.iter().map(ToString::to_string).collect(),
    }
}

fn to(eni: &str) -> Target {
    Target::Interface(eni.into())
}

fn route(destination: &str, target: Target) -> Route {
    Route { destination: net(destination), target, active: true, propagated: false }
}

fn table(subnets: &[&str], routes: Vec<Route>) -> RouteTable {
    let local = route("10.0.0.0/16", Target::Local);
    RouteTable {
        vpc: "vpc-1".into(),
        main: false,
        subnets: subnets.iter().map(|id| SubnetId::from(*id)).collect(),
        routes: std::iter::once(local).chain(routes).collect(),
    }
}

/// Nodes a and b in subnets of their own; tables as given.
fn topology(tables: Vec<(&str, RouteTable)>) -> Topology {
    let subnets: BTreeSet<SubnetId> = tables.iter().flat_map(|(_, table)| table.subnets.clone()).collect();
    let node = |name: &str| Interface {
        vpc: "vpc-1".into(),
        subnet: format!("subnet-{name}").as_str().into(),
        attached: Some((instance(name), 0)),
        checked: false,
    };
    Topology {
        vpcs: BTreeMap::from([("vpc-1".into(), Vpc { cidrs: BTreeSet::from([net("10.0.0.0/16")]) })]),
        tables: tables.into_iter().map(|(id, table)| (id.into(), table)).collect(),
        subnets: subnets.into_iter().map(|id| (id, Subnet { vpc: "vpc-1".into(), zone: "1a".into() })).collect(),
        interfaces: BTreeMap::from([("eni-a".into(), node("a")), ("eni-b".into(), node("b"))]),
    }
}

fn nodes() -> BTreeSet<InterfaceId> {
    BTreeSet::from(["eni-a".into(), "eni-b".into()])
}

fn walk_from(topology: &Topology, subnet: &str) -> Walk {
    walk(topology, &nodes(), &subnet.into(), VIP.parse().expect("an address"))
}

#[test]
fn only_what_differs_is_changed() {
    let topology = topology(vec![
        ("rtb-1", table(&["s1"], vec![route("10.99.0.10/32", to("eni-a"))])),
        ("rtb-2", table(&["s2"], vec![route("10.99.0.10/32", to("eni-b"))])),
        ("rtb-3", table(&["s3"], vec![])),
    ]);
    let plan = plan(&topology, &[vip(&[])], &instance("b"));
    assert_eq!(plan.problems, []);
    let told: Vec<_> = plan.changes.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["rtb-1: 10.99.0.10/32 eni-a → eni-b"]);
}

#[test]
fn a_missing_route_is_made_only_where_it_is_allowed() {
    let topology = topology(vec![
        ("rtb-1", table(&["s1"], vec![route("10.99.0.10/32", to("eni-a"))])),
        ("rtb-2", table(&["s2"], vec![])),
        ("rtb-3", table(&["s3"], vec![])),
    ]);
    let plan = plan(&topology, &[vip(&["rtb-2"])], &instance("a"));
    let told: Vec<_> = plan.changes.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["rtb-2: 10.99.0.10/32 no route → eni-a"]);
}

#[test]
fn the_destination_is_made_ready_first() {
    let mut topology = topology(vec![("rtb-1", table(&["s1"], vec![route("10.99.0.10/32", to("eni-a"))]))]);
    topology.interfaces.get_mut(&"eni-b".into()).expect("b").checked = true;
    let plan = plan(&topology, &[vip(&[])], &instance("b"));
    assert!(matches!(plan.changes[0], Change::Forwarding { .. }), "{:?}", plan.changes);
    assert_eq!(plan.changes.len(), 2);
}

#[test]
fn an_address_inside_the_vpc_is_refused_and_nothing_is_changed() {
    let topology = topology(vec![("rtb-1", table(&["s1"], vec![route("10.0.3.9/32", to("eni-a"))]))]);
    let inside = VirtualIp { address: "10.0.3.9".parse().expect("an address"), ..vip(&["rtb-1"]) };
    let plan = plan(&topology, &[inside], &instance("b"));
    assert_eq!(plan.changes, []);
    let told = plan.problems[0].to_string();
    assert!(told.contains("10.0.3.9") && told.contains("vpc-1") && told.contains("10.0.0.0/16"), "{told}");
    // Known from the local routes alone, too: a failover does not describe VPCs.
    let partial = Topology { vpcs: BTreeMap::new(), ..topology };
    assert!(matches!(
        check(&partial, &VirtualIp { address: "10.0.3.9".parse().expect("an address"), ..vip(&[]) })[..],
        [Problem::InsideVpc { .. }, ..]
    ));
}

#[test]
fn what_is_missing_is_named() {
    let empty = topology(vec![("rtb-1", table(&["s1"], vec![]))]);
    let told = plan(&empty, &[vip(&[])], &instance("a")).problems;
    assert!(matches!(told[..], [Problem::MissingRoute { .. }]), "{told:?}");
    let told = plan(&empty, &[vip(&["rtb-9"])], &instance("a")).problems;
    assert!(matches!(told[..], [Problem::NoSuchTable { .. }]), "{told:?}");
    let told = plan(&empty, &[vip(&["rtb-1"])], &instance("zebra")).problems;
    assert!(matches!(told[..], [Problem::NoInterface { .. }]), "{told:?}");
    assert_eq!(check(&empty, &vip(&["rtb-1"])), []);
    assert!(matches!(check(&empty, &vip(&["rtb-9"]))[..], [Problem::NoSuchTable { .. }]));
}

/// A deployment that lists its tables: each must carry the address, or be one to make it in, and no other may carry it.
#[test]
fn each_listed_table_must_carry_the_address_and_no_other() {
    let carrying = || vec![route("10.99.0.10/32", to("eni-a"))];
    let topology = topology(vec![
        ("rtb-1", table(&["s1"], carrying())),
        ("rtb-2", table(&["s2"], vec![])),
        ("rtb-3", table(&["s3"], carrying())),
        ("rtb-4", table(&["s4"], vec![])),
        ("rtb-5", table(&["s5"], vec![])),
    ]);
    let address = |listed: &[&str], create_in: &[&str]| VirtualIp {
        route_tables: listed.iter().map(ToString::to_string).collect(),
        ..vip(create_in)
    };
    let listed = address(&["rtb-1", "rtb-2", "rtb-4", "rtb-9"], &["rtb-4"]);
    let told: Vec<_> = check(&topology, &listed).iter().map(ToString::to_string).collect();
    let [gone, missing, strange] = &told[..] else { panic!("{told:?}") };
    assert!(gone.contains("rtb-9") && gone.contains("does not exist in vpc-1"), "{gone}");
    assert!(missing.starts_with("missing route: rtb-2 of vpc-1") && missing.contains("create_in"), "{missing}");
    assert!(strange.starts_with("route not listed: rtb-3 of vpc-1") && strange.contains("route_tables"), "{strange}");
    let planned = plan(&topology, std::slice::from_ref(&listed), &instance("b"));
    let changes: Vec<_> = planned.changes.iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["rtb-1: 10.99.0.10/32 eni-a → eni-b", "rtb-4: 10.99.0.10/32 no route → eni-b"]);
    assert_eq!(planned.problems.iter().map(ToString::to_string).collect::<Vec<_>>(), told);
    // A node that has no interface hides nothing of it.
    let unknown = plan(&topology, &[listed], &instance("zebra"));
    assert_eq!((unknown.changes.len(), unknown.problems.len()), (0, 4), "{:?}", unknown.problems);
    assert_eq!(check(&topology, &address(&["rtb-1", "rtb-3", "rtb-4"], &["rtb-4"])), []);
}

#[test]
fn one_bad_address_does_not_stop_the_others() {
    let topology = topology(vec![("rtb-1", table(&["s1"], vec![route("10.99.0.10/32", to("eni-a"))]))]);
    let other = VirtualIp { address: "10.98.0.1".parse().expect("an address"), ..vip(&[]) };
    let plan = plan(&topology, &[other, vip(&[])], &instance("b"));
    assert_eq!((plan.changes.len(), plan.problems.len()), (1, 1));
}

#[test]
fn of_several_interfaces_the_first_in_the_addresses_vpc_is_meant() {
    let mut topology = topology(vec![("rtb-1", table(&["s1"], vec![route("10.99.0.10/32", to("eni-a"))]))]);
    let second = |vpc: &str, place| Interface {
        vpc: vpc.into(),
        subnet: "s1".into(),
        attached: Some((instance("b"), place)),
        checked: false,
    };
    topology.interfaces.insert("eni-0".into(), second("vpc-2", 0));
    topology.interfaces.insert("eni-1".into(), second("vpc-1", 3));
    let plan = plan(&topology, &[vip(&[])], &instance("b"));
    assert!(plan.changes[0].to_string().ends_with("→ eni-b"), "{:?}", plan.changes);
}

#[test]
fn a_propagated_route_is_no_route_of_ours() {
    let learnt = Route { propagated: true, ..route("10.99.0.10/32", Target::Other("vgw-1".into())) };
    let topology = topology(vec![("rtb-1", table(&["s1"], vec![learnt]))]);
    assert!(matches!(plan(&topology, &[vip(&[])], &instance("a")).problems[..], [Problem::MissingRoute { .. }]));
    let made = plan(&topology, &[vip(&["rtb-1"])], &instance("a"));
    assert!(walk_from(&after(&topology, &made.changes), "s1").reaches(&"eni-a".into()));
}

#[test]
fn packets_are_followed_as_aws_would() {
    let gone = Route { active: false, ..route("10.99.0.10/32", to("eni-a")) };
    let mut topology = topology(vec![
        (
            "rtb-1",
            table(
                &["s1"],
                vec![route("10.99.0.0/16", Target::Other("igw-1".into())), route("10.99.0.10/32", to("eni-b"))],
            ),
        ),
        ("rtb-2", table(&["s2"], vec![route("0.0.0.0/0", Target::Other("igw-1".into()))])),
        ("rtb-3", table(&["s3"], vec![])),
        ("rtb-4", table(&["s4"], vec![gone])),
        ("rtb-5", table(&["s5"], vec![route("10.99.0.10/32", to("eni-f"))])),
        ("rtb-6", table(&["s6"], vec![route("10.99.0.10/32", to("eni-f"))])),
        ("rtb-7", table(&["s7"], vec![route("10.99.0.10/32", to("eni-x"))])),
    ]);
    // A firewall in s6 that passes packets on.
    let firewall =
        Interface { vpc: "vpc-1".into(), subnet: "s6".into(), attached: Some((instance("f"), 0)), checked: false };
    topology.interfaces.insert("eni-f".into(), firewall);
    assert!(walk_from(&topology, "s1").reaches(&"eni-b".into()));
    assert!(matches!(walk_from(&topology, "s2"), Walk::Leaves { through, .. } if through == "igw-1"));
    assert!(matches!(walk_from(&topology, "s3"), Walk::Blackhole { why, .. } if why.contains("no route")));
    assert!(matches!(walk_from(&topology, "s4"), Walk::Blackhole { why, .. } if why.contains("not running")));
    assert!(matches!(walk_from(&topology, "s5"), Walk::Loop { .. }));
    assert!(matches!(walk_from(&topology, "s7"), Walk::Leaves { through, .. } if through == "eni-x"));
    assert!(matches!(walk_from(&topology, "s9"), Walk::Blackhole { .. }));
    topology.interfaces.get_mut(&"eni-b".into()).expect("b").checked = true;
    assert!(matches!(walk_from(&topology, "s1"), Walk::Blackhole { why, .. } if why.contains("source/destination")));
    assert_eq!(walk_from(&topology, "s2").to_string(), "rtb-2 → igw-1 (leaves: not reached)");
}

#[test]
fn a_subnet_without_a_table_of_its_own_uses_the_main_one() {
    let mut topology = topology(vec![
        ("rtb-1", table(&["s1"], vec![])),
        ("rtb-main", RouteTable { main: true, ..table(&[], vec![route("10.99.0.10/32", to("eni-a"))]) }),
    ]);
    topology.subnets.insert("s2".into(), Subnet { vpc: "vpc-1".into(), zone: "1a".into() });
    assert!(walk_from(&topology, "s2").reaches(&"eni-a".into()));
    assert!(!walk_from(&topology, "s1").reaches(&"eni-a".into()));
}

#[test]
fn ipv6_addresses_are_routed_the_same_way() {
    let topology = topology(vec![("rtb-1", table(&["s1"], vec![route("2001:db8::10/128", to("eni-a"))]))]);
    let v6 = VirtualIp { address: "2001:db8::10".parse().expect("an address"), ..vip(&[]) };
    let plan = plan(&topology, &[v6], &instance("b"));
    assert_eq!(plan.changes[0].to_string(), "rtb-1: 2001:db8::10/128 eni-a → eni-b");
}

/// Where a table leads the address: nowhere, a node, something else; and whether it is one of `create_in`.
fn any_table() -> impl Strategy<Value = (Option<&'static str>, bool, bool)> {
    (prop::option::of(prop::sample::select(vec!["eni-a", "eni-b", "eni-old", "igw-1"])), any::<bool>(), any::<bool>())
}

fn any_topology() -> impl Strategy<Value = (Topology, VirtualIp, bool)> {
    (prop::collection::vec(any_table(), 0..12), any::<bool>(), any::<bool>()).prop_map(
        |(tables, checked, active_is_b)| {
            let mut create_in = Vec::new();
            let mut built = Vec::new();
            for (at, (target, make, dead)) in tables.into_iter().enumerate() {
                let id = format!("rtb-{at}");
                if make {
                    create_in.push(id.clone());
                }
                let target = target.map(|id| if id.starts_with("eni") { to(id) } else { Target::Other(id.into()) });
                let routes = target
                    .map(|target| Route { active: !dead, ..route("10.99.0.10/32", target) })
                    .into_iter()
                    .collect();
                built.push((id, table(&[&format!("s{at}")], routes)));
            }
            let mut topology = topology(built.iter().map(|(id, table)| (id.as_str(), table.clone())).collect());
            for interface in topology.interfaces.values_mut() {
                interface.checked = checked;
            }
            let create_in: Vec<&str> = create_in.iter().map(String::as_str).collect();
            (topology, vip(&create_in), active_is_b)
        },
    )
}

proptest! {
    #[test]
    fn after_a_plan_every_subnet_with_the_route_reaches_the_active_node((topology, vip, active_is_b) in any_topology()) {
        let (active, eni) = if active_is_b { ("b", "eni-b") } else { ("a", "eni-a") };
        let plan = plan(&topology, std::slice::from_ref(&vip), &instance(active));
        let mut next = after(&topology, &plan.changes);
        // A route that already led there stays; whether AWS calls it dead is about the instance, not about the plan.
        for table in next.tables.values_mut() {
            table.routes.iter_mut().for_each(|route| route.active = true);
        }
        for (id, table) in &next.tables {
            let carries = table.static_route(net("10.99.0.10/32")).is_some();
            prop_assert!(carries || !vip.create_in.contains(&id.0));
            if carries {
                let subnet = table.subnets.first().expect("each table has one");
                let walked = walk(&next, &nodes(), subnet, vip.address);
                prop_assert!(walked.reaches(&eni.into()), "{id}: {walked}");
            }
        }
    }

    #[test]
    fn a_second_plan_is_empty((topology, vip, active_is_b) in any_topology()) {
        let active = instance(if active_is_b { "b" } else { "a" });
        let first = plan(&topology, std::slice::from_ref(&vip), &active);
        let second = plan(&after(&topology, &first.changes), std::slice::from_ref(&vip), &active);
        prop_assert_eq!(second.changes, vec![]);
    }

    #[test]
    fn a_plan_is_minimal((topology, vip, active_is_b) in any_topology()) {
        let active = instance(if active_is_b { "b" } else { "a" });
        let whole = plan(&topology, std::slice::from_ref(&vip), &active);
        for left_out in 0..whole.changes.len() {
            let mut fewer = whole.changes.clone();
            let missing = fewer.remove(left_out);
            let rest = plan(&after(&topology, &fewer), std::slice::from_ref(&vip), &active);
            prop_assert_eq!(rest.changes, vec![missing]);
        }
    }

    #[test]
    fn tables_of_others_are_left_alone((topology, vip, active_is_b) in any_topology()) {
        let active = instance(if active_is_b { "b" } else { "a" });
        let plan = plan(&topology, std::slice::from_ref(&vip), &active);
        for change in &plan.changes {
            if let Change::Route { table, from, .. } = change {
                let carried = topology.tables[table].static_route(net("10.99.0.10/32")).is_some();
                prop_assert_eq!(carried, from.is_some());
                prop_assert!(carried || vip.create_in.contains(&table.0));
            }
        }
    }
}
