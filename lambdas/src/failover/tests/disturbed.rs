//! Lost answers, throttling, late descriptions, runs beside each other.

use super::*;

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_found_out_by_reading() {
    for applied in [true, false] {
        let cloud = Fake::pair();
        cloud.kill("a");
        cloud.state().lost_answers.push_back(applied);
        let answer = run_on(&cloud, suspected(false)).await;
        assert_eq!(answer.outcome, Ending::Completed, "applied {applied}: {answer:?}");
        assert_eq!(holder_of(&cloud), (node("b"), 8));
    }
}

#[tokio::test]
async fn two_runs_of_the_same_hint_do_not_fail_over_twice() {
    let cloud = Fake::pair();
    cloud.kill("a");
    let (first, second) = futures::join!(run_on(&cloud, suspected(false)), run_on(&cloud, suspected(false)));
    assert_eq!(holder_of(&cloud), (node("b"), 8));
    leads_to(&cloud, "eni-b");
    let endings = [first.outcome, second.outcome];
    assert!(endings.contains(&Ending::Completed), "{endings:?}");
    // Late, again, after everything: nothing.
    let late = run_on(&cloud, suspected(false)).await;
    assert_eq!((late.rule, late.outcome), (Rule::R110, Ending::Nothing));
}

#[tokio::test]
async fn throttled_and_lost_route_writes_are_tried_again_and_a_refused_one_stops_no_other() {
    let cloud = Fake::pair();
    cloud.kill("a");
    let throttled = || CloudError::Throttled { call: "ReplaceRoute", code: "RequestLimitExceeded".into() };
    let lost = CloudError::Unanswered { call: "ReplaceRoute", problem: "time-out".into() };
    cloud.state().faults.extend([throttled(), lost, throttled(), throttled()]);
    assert_eq!(run_on(&cloud, suspected(false)).await.outcome, Ending::Completed);
    leads_to(&cloud, "eni-b");

    let cloud = Fake::pair();
    cloud.kill("a");
    let denied =
        || CloudError::Refused { call: "ReplaceRoute", code: "UnauthorizedOperation".into(), message: "no".into() };
    cloud.state().faults.push_back(denied());
    let answer = run_on(&cloud, suspected(false)).await;
    // Refused at first; by the second look it went through.
    assert_eq!(answer.outcome, Ending::Completed, "{answer:?}");
    cloud.state().faults.extend((0..50).map(|_| denied()));
    let answer = asked(&cloud, json!({ "action": "status", "cluster": "web" })).await;
    assert_eq!(answer["network"]["matches"], true);
}

#[tokio::test]
async fn an_epoch_that_moves_stops_the_batch_and_the_new_holder_counts() {
    let cloud = Fake::pair();
    cloud.kill("a");
    let mut once = true;
    cloud.state().before_write = Some(Box::new(move |row: &mut Row| {
        // While the first batch is on its way, the lease goes back to a.
        if std::mem::take(&mut once) {
            row.epoch = row.epoch.next();
            row.rev = row.rev.next();
            row.holder = Some(holder("a"));
        }
    }));
    let answer = run_on(&cloud, suspected(false)).await;
    assert_eq!(holder_of(&cloud), (node("a"), 9));
    leads_to(&cloud, "eni-a");
    assert_eq!(answer.network.expect("a network").holder, Some(node("a")));
}

#[tokio::test]
async fn a_third_standbys_word_is_waited_for_only_while_it_could_be_alive() {
    let cloud = Fake::of(&["a", "b", "c"]);
    cloud.kill("a");
    cloud.kill("c");
    cloud.state().heartbeats.get_mut(&node("c")).expect("c").hears.insert(node("a"), hearing(true));
    let answer = run_on(&cloud, suspected(false)).await;
    assert_eq!(answer.outcome, Ending::Completed, "{answer:?}");
    assert_eq!(holder_of(&cloud), (node("b"), 8));
}

#[tokio::test]
async fn a_heartbeat_that_cannot_be_read_does_not_keep_the_others_from_taking_over() {
    let cloud = Fake::of(&["a", "b", "c"]);
    cloud.kill("a");
    cloud.state().unreadable.extend([node("a"), node("c")]);
    assert_eq!(run_on(&cloud, suspected(false)).await.outcome, Ending::Completed);
    assert_eq!(holder_of(&cloud), (node("b"), 8));
}

/// Every read there is: a failover in which each of them is throttled some times ends as if none had been.
#[tokio::test]
async fn a_read_that_is_throttled_leaves_nothing_half_done() {
    for (call, times) in [("row", 4), ("config", 2), ("heartbeat", 3), ("route_tables", 7), ("interfaces_of", 3)] {
        for after_the_move in [false, true] {
            let cloud = Fake::pair();
            cloud.kill("a");
            let throttle = async {
                while after_the_move && holder_of(&cloud).0 == node("a") {
                    cloud.sleep(Millis(10)).await;
                }
                cloud.state().throttled.insert(call, times);
            };
            let event = json!({ "source": "leasehold", "detail-type": "Holder Suspected", "detail": {
                "v": 1, "cluster": "web", "node": "b", "epoch": 7, "beat": 100, "silent_ms": 1833, "peer_link": false } });
            let ((), answer) = futures::join!(throttle, asked(&cloud, event));
            assert_eq!(answer["outcome"], "completed", "{call}, after the move {after_the_move}: {answer}");
            leads_to(&cloud, "eni-b");
            assert_eq!(cloud.kinds(), ["Failover Nominated", "Failover Completed"], "{call}");
        }
    }
}

#[tokio::test]
async fn a_standby_whose_heartbeat_is_not_answered_for_is_not_taken_for_dead() {
    let cloud = Fake::pair();
    cloud.kill("a");
    // Throttled while its movement is looked for, longer than that look takes.
    let throttle = async {
        cloud.sleep(Millis(10)).await;
        cloud.state().throttled.insert("heartbeat", 15);
    };
    let hint = Hint::StoodStill { epoch: Epoch(7), beat: Beat(100) };
    let ((), answer) = futures::join!(throttle, run_on(&cloud, hint));
    assert_eq!((answer.rule, answer.outcome), (Rule::R210, Ending::Completed), "{answer:?}");
}

#[tokio::test]
async fn proof_of_death_is_asked_for_until_ec2_answers() {
    let cloud = Fake::pair();
    cloud.kill("a");
    let stopped = Described { state: "stopped".into(), launched: Some(LAUNCHED_S) };
    cloud.state().instances.insert(holder("a").instance, stopped);
    cloud.state().throttled.extend([("instances", 5), ("config", 3)]);
    let event = json!({ "source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification",
        "detail": { "instance-id": "i-0a", "state": "stopped" } });
    let answer = asked(&cloud, event).await;
    assert_eq!((answer["outcome"].as_str(), answer["rule"].as_str()), (Some("completed"), Some("R200")), "{answer}");
}

#[tokio::test]
async fn what_led_to_the_new_holder_before_the_move_is_written_all_the_same() {
    let cloud = Fake::pair();
    cloud.kill("a");
    // EC2 still describes how it was before the last move, which led from b to a.
    for table in cloud.state().tables.values_mut() {
        for route in &mut table.routes {
            if route.target == Target::Interface(InterfaceId("eni-a".into())) {
                route.target = Target::Interface(InterfaceId("eni-b".into()));
            }
        }
    }
    assert_eq!(run_on(&cloud, suspected(false)).await.outcome, Ending::Completed);
    let calls = cloud.state().calls.clone();
    assert_eq!(calls, ["replace rtb-1 eni-b", "replace rtb-2 eni-b", "create rtb-new eni-b"]);
}
