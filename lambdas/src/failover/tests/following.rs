//! Moves that no function drove, or whose driver died.

use super::*;

#[tokio::test]
async fn a_hand_over_that_no_function_drove_is_followed() {
    let accepted = json!({ "source": "leasehold", "detail-type": "Failover Accepted", "detail": {
        "v": 1, "cluster": "web", "rule": "R300", "holder": "b", "epoch": 8 } });
    let cloud = Fake::pair();
    let mut taken = row("b", &["a", "b"]);
    taken.epoch = Epoch(8);
    cloud.state().row = Some(taken);
    let answer = asked(&cloud, accepted.clone()).await;
    assert_eq!(answer["outcome"], "completed", "{answer}");
    leads_to(&cloud, "eni-b");
    assert_eq!(cloud.kinds(), ["Failover Completed"]);
    // Told again, there is nothing to do.
    assert_eq!(asked(&cloud, accepted).await["outcome"], "nothing");
    assert_eq!(cloud.kinds(), ["Failover Completed"]);
    let Event::FailoverCompleted(told) = cloud.state().events[0].clone() else { panic!("{:?}", cloud.kinds()) };
    assert_eq!(told.timeline.from, Some(node("a")), "the routes led to it");
}

#[tokio::test]
async fn who_let_go_of_the_lease_is_where_the_move_came_from() {
    let cloud = Fake::pair();
    cloud.kill("a");
    let released = Change::Release { me: holder("a"), epoch: Epoch(7) };
    let free = released.on(&row("a", &["a", "b"]), "let-go".parse().expect("a name")).expect("a legal change").row;
    cloud.state().row = Some(free);
    let hint = Hint::Released { node: node("a"), epoch: Epoch(7), reason: "shutdown".into() };
    let answer = run_on(&cloud, hint).await;
    assert_eq!(answer.rule, Rule::R250, "{answer:?}");
    assert_eq!(answer.timeline.expect("a timeline").from, Some(node("a")));
}

/// After its last route write, before it could tell: the new holder's word finds nothing to do but that.
#[tokio::test]
async fn a_driver_that_died_after_its_last_route_is_spoken_for_once() {
    let cloud = Fake::pair();
    cloud.kill("a");
    let short = Deadline(cloud.elapsed().plus(Millis(3_000)));
    run(&cloud, &web(), suspected(false), short).await.expect("the world answers");
    cloud.sleep(Millis(5_000)).await;
    cloud.row(&web()).await.expect("b accepts meanwhile");
    let vip = "10.99.0.10/32".parse().expect("a range");
    for table in ["rtb-1", "rtb-2"] {
        cloud.replace_route(&table.into(), vip, &"eni-b".into()).await.expect("a route");
    }
    cloud.create_route(&"rtb-new".into(), vip, &"eni-b".into()).await.expect("made");
    for _ in 0..2 {
        assert_eq!(asked(&cloud, accepted_by_b()).await["rule"], "R120");
    }
    assert_eq!(cloud.kinds(), ["Failover Nominated", "Failover Completed"]);
    let Event::FailoverCompleted(told) = cloud.state().events[1].clone() else { panic!("{:?}", cloud.kinds()) };
    assert_eq!((told.timeline.from, told.timeline.to, told.timeline.rule), (Some(node("a")), node("b"), Rule::R210));
}

/// A new epoch of the same node, though a function had nominated another: no failover took place.
#[tokio::test]
async fn a_restart_is_told_as_no_failover() {
    let cloud = Fake::pair();
    let completed = json!({ "kind": "Failover Completed", "detail": { "timeline": { "epoch": 7, "to": "a" } } });
    let nominated = json!({ "kind": "Failover Nominated", "detail": { "epoch": 7, "rule": "R210", "reason": "silent", "holder": "a" } });
    cloud.state().history = [completed, nominated].map(|item| (String::new(), String::new(), item)).into();
    let mut again = row("a", &["a", "b"]);
    again.epoch = Epoch(8);
    cloud.state().row = Some(again);
    cloud
        .create_route(&"rtb-new".into(), "10.99.0.10/32".parse().expect("a range"), &"eni-a".into())
        .await
        .expect("made");
    let accepted = json!({ "source": "leasehold", "detail-type": "Failover Accepted", "detail": {
        "v": 1, "cluster": "web", "rule": "R120", "holder": "a", "epoch": 8 } });
    assert_eq!(asked(&cloud, accepted).await["outcome"], "nothing");
    assert_eq!(cloud.kinds(), [""; 0]);
}

#[tokio::test]
async fn a_driver_that_died_after_nominating_is_replaced_by_the_new_holders_word() {
    let cloud = Fake::pair();
    cloud.kill("a");
    // The driver has time to nominate, and no more.
    let short = Deadline(cloud.elapsed().plus(Millis(3_000)));
    let answer = run(&cloud, &web(), suspected(false), short).await.expect("the world answers");
    assert_eq!(answer.outcome, Ending::OutOfTime);
    cloud.sleep(Millis(5_000)).await;
    cloud.row(&web()).await.expect("b accepts meanwhile");
    assert_eq!(holder_of(&cloud), (node("b"), 8));
    let accepted = json!({ "source": "leasehold", "detail-type": "Failover Accepted", "detail": {
        "v": 1, "cluster": "web", "rule": "R210", "holder": "b", "epoch": 8 } });
    assert_eq!(asked(&cloud, accepted).await["outcome"], "completed");
    leads_to(&cloud, "eni-b");
    assert_eq!(cloud.kinds(), ["Failover Nominated", "Failover Completed"]);
}

/// The usual case: the new holder's word arrives while the driver moves the routes.
#[tokio::test]
async fn the_driver_and_who_follows_make_each_change_once_and_tell_it_once() {
    for slow in [0, 6] {
        let cloud = Fake::pair();
        cloud.kill("a");
        // A driver that is throttled for longer than it is given.
        let throttled = || CloudError::Throttled { call: "ReplaceRoute", code: "RequestLimitExceeded".into() };
        cloud.state().faults.extend((0..slow).map(|_| throttled()));
        let followed = async {
            while holder_of(&cloud).0 == node("a") {
                cloud.sleep(Millis(20)).await;
            }
            asked(&cloud, accepted_by_b()).await
        };
        let (driven, followed) = futures::join!(run_on(&cloud, suspected(false)), followed);
        assert_eq!(driven.outcome, Ending::Completed, "{driven:?}");
        leads_to(&cloud, "eni-b");
        assert_eq!(cloud.kinds(), ["Failover Nominated", "Failover Completed"], "slow {slow}: {followed}");
        if slow == 0 {
            assert_eq!(followed["outcome"], "nothing", "{followed}");
            assert_eq!(cloud.state().calls.len(), 3, "{:?}", cloud.state().calls);
        }
    }
}

#[tokio::test]
async fn a_living_driver_is_not_helped() {
    let cloud = Fake::pair();
    cloud.kill("a");
    assert_eq!(run_on(&cloud, suspected(false)).await.outcome, Ending::Completed);
    let calls = cloud.state().calls.len();
    let accepted = json!({ "source": "leasehold", "detail-type": "Failover Accepted", "detail": {
        "v": 1, "cluster": "web", "rule": "R210", "holder": "b", "epoch": 8 } });
    assert_eq!(asked(&cloud, accepted).await["outcome"], "nothing");
    assert_eq!(cloud.kinds(), ["Failover Nominated", "Failover Completed"]);
    assert_eq!(cloud.state().calls.len(), calls);
}
