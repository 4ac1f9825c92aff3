//! Who takes over, and who does not.

use super::*;

#[tokio::test]
async fn a_dead_holder_is_replaced_and_every_route_follows() {
    let cloud = Fake::pair();
    cloud.kill("a");
    let answer = run_on(&cloud, suspected(false)).await;
    assert_eq!((answer.outcome, answer.rule), (Ending::Completed, Rule::R210), "{answer:?}");
    assert_eq!(holder_of(&cloud), (node("b"), 8));
    leads_to(&cloud, "eni-b");
    assert_eq!(cloud.kinds(), ["Failover Nominated", "Failover Completed"]);
    let timeline = answer.timeline.expect("a timeline");
    assert_eq!((timeline.from, timeline.to, timeline.epoch), (Some(node("a")), node("b"), Epoch(8)));
    assert_eq!(timeline.silent_ms, Some(Millis(1_833)));
    let told: Vec<_> = timeline.steps.iter().map(|step| step.what.as_str()).collect();
    for part in
        ["R210 nominated b", "network looked at: 3 routes", "b accepted, epoch 8", "3 routes moved: all lead to b"]
    {
        assert!(told.iter().any(|step| step.contains(part)), "{part} in {told:?}");
    }
    // The nomination is recorded with what it rested on.
    let state = cloud.state();
    let decision = &state.history[0].2["decision"];
    assert_eq!((decision["rule"].as_str(), decision["inputs"]["row"]["epoch"].as_u64()), (Some("R210"), Some(7)));
}

#[tokio::test]
async fn a_stopped_instance_is_proof_and_needs_no_waiting() {
    let cloud = Fake::pair();
    cloud.kill("a");
    cloud
        .state()
        .instances
        .insert(holder("a").instance, Described { state: "stopped".into(), launched: Some(LAUNCHED_S) });
    let event = json!({ "source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification",
        "detail": { "instance-id": "i-0a", "state": "stopped" } });
    let began = cloud.elapsed();
    let answer = asked(&cloud, event).await;
    assert_eq!((answer["outcome"].as_str(), answer["rule"].as_str()), (Some("completed"), Some("R200")), "{answer}");
    let accepted = answer["timeline"]["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .find(|step| step["what"] == "b accepted, epoch 8");
    assert!(accepted.expect("accepted")["at_ms"].as_u64().expect("a number") < 200);
    assert!(cloud.elapsed().minus(began) < Millis(3_000));
    leads_to(&cloud, "eni-b");
}

#[tokio::test]
async fn a_holder_that_renews_makes_the_nomination_void() {
    let cloud = Fake::pair();
    // Alive all the time: the suspicion was a slow network.
    let answer = run_on(&cloud, suspected(false)).await;
    assert_eq!(answer.outcome, Ending::HolderReturned, "{answer:?}");
    assert_eq!(holder_of(&cloud), (node("a"), 7));
    assert!(cloud.state().calls.is_empty());
}

#[tokio::test]
async fn stale_hints_cost_one_look_and_leave_nothing_behind() {
    let cloud = Fake::pair();
    cloud.state().row.as_mut().expect("a row").beat = Beat(101);
    let answer = run_on(&cloud, suspected(false)).await;
    assert_eq!((answer.rule, answer.outcome), (Rule::R110, Ending::Nothing));
    let state = cloud.state();
    assert_eq!((state.reads, state.history.len(), state.events.len()), (1, 0, 0));
}

#[tokio::test]
async fn a_holder_cut_off_from_the_table_is_left_alone_and_told_once() {
    let cloud = Fake::pair();
    cloud.state().cut_off.insert(node("a"));
    for _ in 0..5 {
        let answer = run_on(&cloud, suspected(true)).await;
        assert_eq!((answer.rule, answer.outcome), (Rule::R220, Ending::Nothing));
    }
    assert_eq!(cloud.kinds(), ["Failover Blocked"]);
    assert_eq!(cloud.state().history.len(), 1);
    assert_eq!(holder_of(&cloud), (node("a"), 7));
}

#[tokio::test]
async fn nobody_in_sync_is_blocked_and_told_once() {
    let cloud = Fake::pair();
    cloud.kill("a");
    cloud.state().row = Some(row("a", &["a"]));
    for _ in 0..3 {
        let answer = run_on(&cloud, suspected(false)).await;
        assert_eq!((answer.rule, answer.outcome), (Rule::R230, Ending::Blocked));
        assert!(answer.what_to_do.is_some());
    }
    assert_eq!(cloud.kinds(), ["Failover Blocked"]);
}

#[tokio::test]
async fn a_nominee_that_does_not_accept_is_replaced_by_another() {
    let cloud = Fake::of(&["a", "b", "c"]);
    cloud.kill("a");
    // b's last word is a suspicion; then it dies, too.
    cloud.kill("b");
    let answer = run_on(&cloud, suspected(false)).await;
    assert_eq!(answer.outcome, Ending::Completed, "{answer:?}");
    assert_eq!(holder_of(&cloud), (node("c"), 8));
    leads_to(&cloud, "eni-c");
    assert_eq!(cloud.kinds(), ["Failover Nominated", "Failover Nominated", "Failover Completed"]);
}

#[tokio::test]
async fn a_nominee_in_vain_with_nobody_else_is_told() {
    let cloud = Fake::pair();
    cloud.kill("a");
    cloud.kill("b");
    let answer = run_on(&cloud, suspected(false)).await;
    assert_eq!((answer.rule, answer.outcome), (Rule::R230, Ending::Blocked));
    assert_eq!(cloud.kinds(), ["Failover Nominated", "Failover Blocked"]);
}

#[tokio::test]
async fn the_destination_is_made_ready_while_it_waits() {
    let cloud = Fake::pair();
    cloud.kill("a");
    for interface in cloud.state().interfaces.values_mut() {
        interface.checked = true;
    }
    run_on(&cloud, suspected(false)).await;
    assert_eq!(cloud.state().calls[0], "forward eni-b");
    assert!(
        !cloud.state().interfaces.values().any(|interface| interface
            .attached
            .as_ref()
            .is_some_and(|(owner, _)| *owner == holder("b").instance)
            && interface.checked)
    );
}

#[tokio::test]
async fn the_first_node_founds_the_cluster() {
    let cloud = Fake::pair();
    cloud.state().row = None;
    let joined = json!({ "source": "leasehold", "detail-type": "Node Joined", "detail": {
        "v": 1, "cluster": "web", "node": "a", "instance": "i-0a", "incarnation": "inc-a" } });
    let answer = asked(&cloud, joined).await;
    assert_eq!((answer["outcome"].as_str(), answer["rule"].as_str()), (Some("completed"), Some("R050")), "{answer}");
    assert_eq!(holder_of(&cloud), (node("a"), 1));
    leads_to(&cloud, "eni-a");
}

#[tokio::test]
async fn an_instance_that_no_cluster_names_is_nobodys_business() {
    let cloud = Fake::pair();
    let event = json!({ "source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification",
        "detail": { "instance-id": "i-0zebra", "state": "stopped" } });
    let answer = asked(&cloud, event).await;
    assert_eq!(answer["outcome"], "nothing", "{answer}");
}

#[tokio::test]
async fn a_holder_that_aws_will_retire_hands_over_once_though_the_standby_is_named_too() {
    let cloud = Fake::pair();
    let mut event = json!({ "source": "aws.health", "detail-type": "AWS Health Event", "detail": {
        "service": "EC2", "eventTypeCode": "AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED", "eventTypeCategory": "scheduledChange",
        "affectedEntities": [{ "entityValue": "i-0a" }, { "entityValue": "i-0b" }, { "entityValue": "i-0zebra" }] } });
    let answer = asked(&cloud, event.clone()).await;
    let rules: Vec<_> =
        answer["clusters"].as_array().expect("two runs").iter().map(|ran| ran["rule"].clone()).collect();
    assert_eq!(rules, ["R300", "R120"], "{answer}");
    assert_eq!(holder_of(&cloud), (node("b"), 8));
    leads_to(&cloud, "eni-b");
    // The same again: b is the holder, and it is told of a alone.
    event["detail"]["affectedEntities"] = json!([{ "entityValue": "i-0a" }]);
    assert_eq!(asked(&cloud, event).await["rule"], "R120");
}
