use super::*;
use crate::cloud::CloudError;
use crate::cloud::fake::{Fake, holder, node, row};
use lease::ids::{Beat, Epoch};
use lease::record::{Intent, Nominee};
use lease::rules::Rule;

fn web() -> ClusterId {
    "web".parse().expect("a name")
}

async fn visited(cloud: &Fake, memory: &Memory) -> Visit {
    visit(cloud, &web(), memory, Deadline(cloud.elapsed().plus(Millis(50_000)))).await.expect("the world answers")
}

fn nobodys_nominee(name: &str) -> Nominee {
    Nominee {
        node: node(name),
        incarnation: holder(name).incarnation,
        epoch: Epoch(7),
        beat: Beat(100),
        rule: Rule::R210,
        reason: "left behind".into(),
        proof: None,
        lossy: false,
    }
}

#[tokio::test]
async fn drift_is_corrected_and_told_and_a_second_visit_finds_none() {
    let cloud = Fake::pair();
    let first = visited(&cloud, &Memory::default()).await;
    assert_eq!(first.measures.routes_corrected, 1, "the route that was missing: {:?}", first.did);
    assert_eq!(
        (first.measures.in_sync_standbys, first.measures.stale_heartbeats, first.measures.holder_silent),
        (1, 0, 0)
    );
    assert_eq!(cloud.kinds(), ["Drift Corrected"]);
    let second = visited(&cloud, &Memory::default()).await;
    assert_eq!(second.measures.routes_corrected, 0);
    assert_eq!(cloud.kinds(), ["Drift Corrected"]);
}

#[tokio::test]
async fn a_silent_holder_that_nobody_told_of_is_replaced() {
    let cloud = Fake::pair();
    cloud.kill("a");
    let visit = visited(&cloud, &Memory::default()).await;
    assert_eq!(visit.measures.holder_silent, 1);
    assert_eq!(
        cloud.state().row.as_ref().and_then(|row| row.holder.as_ref()).map(|holder| holder.node.clone()),
        Some(node("b"))
    );
    assert!(visit.did[0].starts_with("R210"), "{:?}", visit.did);
}

#[tokio::test]
async fn a_cluster_without_a_row_is_founded() {
    let cloud = Fake::pair();
    cloud.state().row = None;
    visited(&cloud, &Memory::default()).await;
    assert_eq!(
        cloud.state().row.as_ref().and_then(|row| row.holder.as_ref()).map(|holder| holder.node.clone()),
        Some(node("a"))
    );
}

#[tokio::test]
async fn a_nomination_that_nobody_drives_is_given_to_another() {
    let cloud = Fake::of(&["a", "b", "c"]);
    for name in ["a", "b"] {
        cloud.kill(name);
    }
    cloud.state().row.as_mut().expect("a row").nominee = Some(nobodys_nominee("b"));
    let visit = visited(&cloud, &Memory::default()).await;
    assert_eq!(visit.measures.stuck, 1);
    assert_eq!(
        cloud.state().row.as_ref().and_then(|row| row.holder.as_ref()).map(|holder| holder.node.clone()),
        Some(node("c"))
    );
}

#[tokio::test]
async fn a_request_to_move_that_nobody_takes_is_taken_back() {
    let cloud = Fake::pair();
    cloud.state().hand_over_after = None;
    let intent =
        Intent { id: "left".parse().expect("a name"), to: node("b"), rule: Rule::R400, reason: "asked by hand".into() };
    cloud.state().row.as_mut().expect("a row").intent = Some(intent);
    let memory = Memory::default();
    visited(&cloud, &memory).await;
    assert!(cloud.state().row.as_ref().expect("a row").intent.is_some(), "it may still be taken");
    cloud.sleep(Millis(60_000)).await;
    let visit = visited(&cloud, &memory).await;
    assert_eq!(visit.measures.stuck, 1);
    assert_eq!(cloud.state().row.as_ref().expect("a row").intent, None);
}

#[tokio::test]
async fn one_clusters_failure_does_not_stop_the_others() {
    let cloud = Fake::pair();
    let clusters = ["zebra".parse().expect("a name"), web()];
    let visits = visit_all(&cloud, &clusters, &Memory::default(), Deadline(cloud.elapsed().plus(Millis(50_000)))).await;
    assert_eq!(visits[0].1.measures.failed_visits, 1);
    assert_eq!((visits[1].1.measures.failed_visits, visits[1].1.measures.routes_corrected), (0, 1));
    let told = answer(&visits);
    assert!(told["clusters"]["zebra"]["did"][0].as_str().expect("a text").contains("no cluster zebra"));
    // The schedule's tick fails for it; whoever asks by hand is answered, as is a tick without a failure.
    let tick = serde_json::json!({ "source": "aws.events", "detail-type": "Scheduled Event", "detail": {} });
    let failure = super::told(&tick, &visits).expect_err("a failed visit");
    assert!(failure.to_string().contains("zebra: failed: there is no cluster zebra"), "{failure}");
    assert_eq!(super::told(&serde_json::json!({}), &visits).as_ref(), Ok(&told));
    assert!(super::told(&tick, &visits[1..]).is_ok());
}

#[tokio::test]
async fn nobody_in_sync_and_dead_standbys_are_measured() {
    let cloud = Fake::pair();
    cloud.kill("b");
    let visit = visited(&cloud, &Memory::default()).await;
    assert_eq!((visit.measures.in_sync_standbys, visit.measures.stale_heartbeats), (0, 1));
    let cloud = Fake::pair();
    cloud.state().row = Some(row("a", &["a"]));
    assert_eq!(visited(&cloud, &Memory::default()).await.measures.in_sync_standbys, 0);
}

#[tokio::test]
async fn a_throttled_read_does_not_end_a_visit_that_has_begun() {
    for (call, times) in [("row", 3), ("heartbeat", 9), ("route_tables", 7), ("interfaces_of", 3)] {
        let cloud = Fake::pair();
        cloud.kill("a");
        let throttle = async {
            cloud.sleep(Millis(500)).await;
            cloud.state().throttled.insert(call, times);
        };
        let memory = Memory::default();
        let ((), visit) = futures::join!(throttle, visited(&cloud, &memory));
        assert_eq!(visit.measures.holder_silent, 1, "{call}");
        let holder = cloud.state().row.as_ref().and_then(|row| row.holder.clone());
        assert_eq!(holder.map(|holder| holder.node), Some(node("b")), "{call}: {:?}", visit.did);
    }
}

/// Two listed tables with a fault each that only a person can put right: told once, measured each minute.
#[tokio::test]
async fn a_route_that_is_gone_and_one_in_a_table_that_is_not_listed_are_told_once() {
    let cloud = Fake::pair();
    let memory = Memory::default();
    visited(&cloud, &memory).await;
    {
        let mut state = cloud.state();
        let vip: ipnet::IpNet = "10.99.0.10/32".parse().expect("a range");
        let theirs = state.tables.get_mut(&"rtb-2".into()).expect("a table");
        let route = theirs.static_route(vip).expect("a route").clone();
        theirs.routes.retain(|route| route.destination != vip);
        state.tables.get_mut(&"rtb-other".into()).expect("a table").routes.push(route);
        state.calls.clear();
    }
    for _ in 0..3 {
        let visit = visited(&cloud, &memory).await;
        assert_eq!((visit.measures.network_problems, visit.measures.routes_corrected), (2, 0), "{:?}", visit.did);
        assert!(visit.did[0].contains("rtb-2") && visit.did[1].contains("rtb-other"), "{:?}", visit.did);
    }
    assert_eq!(cloud.state().calls, [""; 0], "neither is the functions' to change");
    assert_eq!(cloud.kinds(), ["Drift Corrected", "Network Incomplete"]);
    // Nor does a failover touch them; what it has left is told with its timeline.
    cloud.kill("a");
    visited(&cloud, &memory).await;
    assert_eq!(cloud.routes().last(), Some(&("rtb-other".into(), "eni-a".into())));
    let Some(lease::events::Event::NetworkIncomplete(told)) = cloud.state().events.pop() else {
        panic!("{:?}", cloud.kinds())
    };
    assert_eq!((told.epoch, told.holder, told.problems.len()), (Epoch(8), Some(node("b")), 2));
    assert!(told.timeline.is_some_and(|timeline| timeline.to == node("b") && timeline.steps.len() > 3));
}

/// Not only the holder's: whoever is next must be found ready, and is told of while there is time if it cannot be.
#[tokio::test]
async fn a_standbys_interface_is_made_to_forward_before_its_turn() {
    let cloud = Fake::of(&["a", "b", "c"]);
    let memory = Memory::default();
    visited(&cloud, &memory).await;
    let check = |name: &str| cloud.state().interfaces.get_mut(&name.into()).expect("an interface").checked = true;
    check("eni-b");
    let visit = visited(&cloud, &memory).await;
    assert_eq!(visit.did, ["corrected eni-b: source/destination check on → off"]);
    assert!(!cloud.state().interfaces[&"eni-b".into()].checked);
    // Refused, and one that is gone: told once, tried each minute.
    check("eni-b");
    cloud.state().interfaces.remove(&"eni-c".into());
    for at in 0..2 {
        let refused = CloudError::Refused {
            call: "ModifyNetworkInterfaceAttribute",
            code: "UnauthorizedOperation".into(),
            message: format!("Encoded authorization failure message: {at}"),
        };
        cloud.state().faults.push_back(refused);
        let visit = visited(&cloud, &memory).await;
        assert_eq!(visit.measures.network_problems, 2, "{:?}", visit.did);
        assert!(
            visit.did[0].contains("i-0c has no network interface") && visit.did[1].contains("eni-b"),
            "{:?}",
            visit.did
        );
    }
    assert_eq!(cloud.kinds(), ["Drift Corrected", "Drift Corrected", "Network Incomplete"]);
    visited(&cloud, &memory).await;
    assert!(!cloud.state().interfaces[&"eni-b".into()].checked);
}

/// The driver nominated and moved every route, or died on the way; the holder's own word was lost.
#[tokio::test]
async fn a_failover_that_nobody_told_the_end_of_is_told_once() {
    for moved_by_the_driver in [true, false] {
        let cloud = Fake::pair();
        let memory = Memory::default();
        visited(&cloud, &memory).await;
        cloud.kill("a");
        // Time to nominate, and no more.
        let short = Deadline(cloud.elapsed().plus(Millis(3_000)));
        let hint = Hint::StoodStill { epoch: Epoch(7), beat: cloud.state().row.as_ref().expect("a row").beat };
        run(&cloud, &web(), hint, short).await.expect("the world answers");
        cloud.sleep(Millis(5_000)).await;
        cloud.row(&web()).await.expect("b accepts meanwhile");
        if moved_by_the_driver {
            let vip: ipnet::IpNet = "10.99.0.10/32".parse().expect("a range");
            for table in ["rtb-1", "rtb-2", "rtb-new"] {
                cloud.replace_route(&table.into(), vip, &"eni-b".into()).await.expect("a route");
            }
        }
        for memory in [&memory, &memory, &Memory::default()] {
            visited(&cloud, memory).await;
        }
        let told: Vec<_> = cloud
            .state()
            .events
            .iter()
            .filter_map(|event| match event {
                Event::FailoverCompleted(told) => Some(told.timeline.clone()),
                _ => None,
            })
            .collect();
        let [timeline] = &told[..] else { panic!("{:?}", cloud.kinds()) };
        assert_eq!((timeline.rule, timeline.epoch), (Rule::R210, Epoch(8)));
        assert_eq!((timeline.from.clone(), timeline.to.clone()), (Some(node("a")), node("b")));
        assert_eq!(timeline.steps.len(), if moved_by_the_driver { 1 } else { 4 }, "{timeline:?}");
    }
}
