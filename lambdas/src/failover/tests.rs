//! Whole runs on a world in memory.

use super::*;
use crate::cloud::fake::{Fake, LAUNCHED_S, hearing, holder, node, row};
use crate::decide::Described;
use crate::operate;
use lease::ids::NodeId;
use serde_json::Value;

const WEB: &str = "web";

fn web() -> ClusterId {
    WEB.parse().expect("a name")
}

fn deadline(cloud: &Fake) -> Deadline {
    Deadline(cloud.elapsed().plus(Millis(60_000)))
}

fn suspected(hears: bool) -> Hint {
    Hint::Suspected { node: node("b"), epoch: Epoch(7), beat: Beat(100), silent_ms: Millis(1_833), hears }
}

async fn run_on(cloud: &Fake, hint: Hint) -> Answer {
    run(cloud, &web(), hint, deadline(cloud)).await.expect("the world answers")
}

async fn asked(cloud: &Fake, payload: Value) -> Value {
    operate::handle(cloud, &[web()], &payload, deadline(cloud)).await
}

fn accepted_by_b() -> Value {
    json!({ "source": "leasehold", "detail-type": "Failover Accepted", "detail": {
        "v": 1, "cluster": "web", "rule": "R210", "holder": "b", "epoch": 8 } })
}

fn leads_to(cloud: &Fake, eni: &str) {
    let expected = ["rtb-1", "rtb-2", "rtb-new"].map(|table| (table.to_owned(), eni.to_owned()));
    assert_eq!(cloud.routes(), expected);
}

fn holder_of(cloud: &Fake) -> (NodeId, u64) {
    let state = cloud.state();
    let row = state.row.as_ref().expect("a row");
    (row.holder.as_ref().expect("held").node.clone(), row.epoch.0)
}

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
async fn a_switchover_by_hand_moves_service_and_routes() {
    let cloud = Fake::pair();
    let answer = asked(&cloud, json!({ "action": "switchover", "cluster": "web", "to": "b" })).await;
    assert_eq!((answer["outcome"].as_str(), answer["rule"].as_str()), (Some("completed"), Some("R400")), "{answer}");
    assert_eq!(holder_of(&cloud), (node("b"), 8));
    leads_to(&cloud, "eni-b");
    let back = asked(&cloud, json!({ "action": "switchover", "cluster": "web" })).await;
    assert_eq!(back["outcome"], "completed", "{back}");
    leads_to(&cloud, "eni-a");
}

#[tokio::test]
async fn a_switchover_that_is_not_taken_says_why_and_leaves_no_request_behind() {
    let cloud = Fake::pair();
    cloud.state().hand_over_after = None;
    // The holder renews all the same.
    let answer = asked(&cloud, json!({ "action": "switchover", "cluster": "web", "to": "b" })).await;
    assert_eq!(answer["outcome"], "not_taken", "{answer}");
    assert!(answer["reason"].as_str().expect("a text").contains("b is standby and in sync"), "{answer}");
    assert_eq!(cloud.state().row.as_ref().expect("a row").intent, None);
    assert_eq!(holder_of(&cloud), (node("a"), 7));
}

#[tokio::test]
async fn a_forced_failover_stops_the_holder_first_and_says_what_it_may_not() {
    let force = json!({ "action": "failover", "cluster": "web", "to": "b", "force_stop": true });
    let cloud = Fake::pair();
    cloud.state().cut_off.insert(node("a"));
    let answer = asked(&cloud, force.clone()).await;
    assert_eq!((answer["outcome"].as_str(), answer["rule"].as_str()), (Some("completed"), Some("R410")), "{answer}");
    assert_eq!(cloud.state().calls[0], "stop i-0a");
    leads_to(&cloud, "eni-b");

    let cloud = Fake::pair();
    cloud.state().cut_off.insert(node("a"));
    let denied =
        CloudError::Refused { call: "StopInstances", code: "UnauthorizedOperation".into(), message: "no".into() };
    cloud.state().faults.push_back(denied);
    let answer = asked(&cloud, force.clone()).await;
    let what_to_do = answer["error"]["what_to_do"].as_str().expect("a text");
    for part in ["aws ec2 stop-instances --force --instance-ids i-0a", "allow_force_stop = true", "ec2:StopInstances"] {
        assert!(what_to_do.contains(part), "{part} in {answer}");
    }
    assert_eq!(answer["error"]["code"], "refused");
    assert_eq!(holder_of(&cloud), (node("a"), 7));
    assert!(cloud.state().row.as_ref().is_some_and(|row| row.nominee.is_none()), "nothing was changed");

    let cloud = Fake::pair();
    let answer = asked(&cloud, force).await;
    assert!(answer["error"]["message"].as_str().expect("a text").contains("alive and well"), "{answer}");
    assert!(cloud.state().calls.is_empty());
}

#[tokio::test]
async fn pause_and_resume() {
    let cloud = Fake::pair();
    let pause = json!({ "action": "pause", "cluster": "web", "reason": "kernel upgrade" });
    assert_eq!(asked(&cloud, pause.clone()).await["paused"], true);
    assert!(asked(&cloud, pause).await["error"]["message"].as_str().expect("a text").contains("kernel upgrade"));
    cloud.kill("a");
    let (epoch, beat) = {
        let state = cloud.state();
        let row = state.row.as_ref().expect("a row");
        (row.epoch, row.beat)
    };
    let answer =
        run_on(&cloud, Hint::Suspected { node: node("b"), epoch, beat, silent_ms: Millis(1), hears: false }).await;
    assert_eq!(answer.rule, Rule::R100);
    assert_eq!(cloud.kinds(), ["Failover Blocked"]);
    assert_eq!(asked(&cloud, json!({ "action": "resume", "cluster": "web" })).await["paused"], false);
    let answer =
        run_on(&cloud, Hint::Suspected { node: node("b"), epoch, beat, silent_ms: Millis(1), hears: false }).await;
    assert_eq!(answer.outcome, Ending::Completed);
    let history = asked(&cloud, json!({ "action": "history", "cluster": "web" })).await;
    let kinds: Vec<_> = history["events"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| event["kind"].as_str().expect("a kind"))
        .collect();
    assert_eq!(kinds, ["Failover Completed", "Failover Nominated", "Resumed", "Failover Blocked", "Paused"]);
}

async fn invoked(cloud: &Fake, payload: Value) -> Result<Value, crate::api::ApiError> {
    operate::invoked(cloud, &[web()], &payload, deadline(cloud)).await
}

/// Lambda sees a failed invocation, and sends the event to the queue of failures.
#[tokio::test]
async fn an_event_whose_work_cannot_be_done_fails_and_a_request_by_hand_is_answered() {
    let suspected = json!({ "source": "leasehold", "detail-type": "Holder Suspected", "detail": {
        "v": 1, "cluster": "web", "node": "b", "epoch": 7, "beat": 100, "silent_ms": 1833, "peer_link": false } });
    let stopped = json!({ "source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification",
        "detail": { "instance-id": "i-0a", "state": "stopped" } });
    let status = json!({ "action": "status", "cluster": "web" });
    // AWS does not answer for as long as the run lasts.
    for event in [&suspected, &accepted_by_b(), &stopped] {
        let cloud = Fake::pair();
        cloud.state().throttled.extend([("row", 1_000), ("config", 1_000)]);
        assert_eq!(invoked(&cloud, event.clone()).await.expect_err("a failure").code, "unavailable", "{event}");
        assert_eq!(invoked(&cloud, status.clone()).await.expect("an answer")["error"]["code"], "unavailable");
    }
    // Nobody can make anything of it.
    let cloud = Fake::pair();
    let strange = json!({ "source": "leasehold", "detail-type": "Holder Suspected", "detail": { "v": 9 } });
    assert_eq!(invoked(&cloud, strange).await.expect_err("a failure").code, "malformed_event");
    let strange = json!({ "action": "dance", "cluster": "web" });
    assert_eq!(invoked(&cloud, strange).await.expect("an answer")["error"]["code"], "bad_request");
    let mut zebra = suspected.clone();
    zebra["detail"]["cluster"] = json!("zebra");
    assert_eq!(invoked(&cloud, zebra).await.expect_err("a failure").code, "unknown_cluster");
    // A decision is none, whatever it is.
    let mut cut_off = suspected.clone();
    cut_off["detail"]["peer_link"] = json!(true);
    assert_eq!(invoked(&cloud, cut_off).await.expect("an answer")["outcome"], "nothing");
    cloud.kill("a");
    cloud.state().row = Some(row("a", &["a"]));
    assert_eq!(invoked(&cloud, suspected.clone()).await.expect("an answer")["outcome"], "blocked");
    // Moved, but the network does not follow: what is left is named.
    let cloud = Fake::pair();
    cloud.kill("a");
    let denied =
        || CloudError::Refused { call: "ReplaceRoute", code: "UnauthorizedOperation".into(), message: "no".into() };
    cloud.state().faults.extend((0..50).map(|_| denied()));
    let failure = invoked(&cloud, suspected).await.expect_err("a failure");
    assert_eq!(failure.code, "unfinished");
    assert!(failure.message.contains("rtb-1") && failure.message.contains("UnauthorizedOperation"), "{failure}");
}

#[tokio::test]
async fn a_pause_or_resume_whose_answer_was_lost_is_known_by_its_effect() {
    let pause = json!({ "action": "pause", "cluster": "web", "reason": "kernel upgrade" });
    let resume = json!({ "action": "resume", "cluster": "web" });
    for (applied, renews) in [(true, false), (true, true), (false, false), (false, true)] {
        let cloud = Fake::pair();
        cloud.state().renews_before_reads = renews;
        cloud.state().lost_answers.push_back(applied);
        assert_eq!(asked(&cloud, pause.clone()).await["paused"], true, "applied {applied}, renews {renews}");
        cloud.state().lost_answers.push_back(applied);
        assert_eq!(asked(&cloud, resume.clone()).await["paused"], false, "applied {applied}, renews {renews}");
        assert_eq!(cloud.state().row.as_ref().expect("a row").paused, None);
        let state = cloud.state();
        let kinds: Vec<_> = state.history.iter().map(|(_, _, item)| item["kind"].as_str().expect("a kind")).collect();
        assert_eq!(kinds, ["Paused", "Resumed"]);
    }
}

#[tokio::test]
async fn somebody_elses_pause_after_a_lost_answer_is_still_a_refusal() {
    let pause = json!({ "action": "pause", "cluster": "web", "reason": "kernel upgrade" });
    // The same reason in the very place of the lost write, and another one at any later place.
    for (reason, steps) in [("kernel upgrade", 1), ("disk swap", 1), ("disk swap", 3)] {
        let cloud = Fake::pair();
        cloud.state().lost_answers.push_back(false);
        cloud.state().after_lost = Some(Box::new(move |row: &mut Row| {
            row.paused = Some(lease::record::Pause { reason: reason.into() });
            row.rev.0 += steps;
            row.nonce = "somebody-else".parse().expect("a name");
        }));
        let answer = asked(&cloud, pause.clone()).await;
        assert_eq!(answer["error"]["rule"], "R100", "{answer}");
        assert!(answer["error"]["message"].as_str().expect("a text").contains(reason), "{answer}");
    }
    // Nobody had paused it, and no write of this call was lost.
    let cloud = Fake::pair();
    let answer = asked(&cloud, json!({ "action": "resume", "cluster": "web" })).await;
    assert!(answer["error"]["message"].as_str().expect("a text").contains("not paused"), "{answer}");
}

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

#[tokio::test]
async fn a_dry_run_tells_every_change_and_path_and_changes_nothing() {
    let cloud = Fake::pair();
    let plan = asked(&cloud, json!({ "action": "plan", "cluster": "web", "to": "b" })).await;
    assert_eq!(plan["changes"].as_array().map(Vec::len), Some(3), "{plan}");
    let paths = plan["paths"].as_array().expect("paths");
    assert_eq!(paths.len(), 4);
    assert_eq!(paths[0]["before"], "rtb-1 → eni-a");
    assert_eq!(paths[0]["after"], "rtb-1 → eni-b");
    let reached: Vec<_> = paths.iter().map(|path| path["reaches"].as_bool().expect("a flag")).collect();
    assert_eq!(reached, [true, true, true, false]);
    assert_eq!(plan["now"]["switchover"], "possible");
    assert!(cloud.state().calls.is_empty() && cloud.state().history.is_empty());
}

#[tokio::test]
async fn status_says_who_serves_and_whether_it_is_protected() {
    let cloud = Fake::pair();
    let status = asked(&cloud, json!({ "action": "status", "cluster": "web" })).await;
    assert_eq!(status["summary"], "SERVING on a, epoch 7; in sync: a, b");
    assert_eq!(status["network"]["matches"], false, "rtb-new has no route yet");
    let cloud = Fake::pair();
    cloud.state().row = Some(row("a", &["a"]));
    let status = asked(&cloud, json!({ "action": "status", "cluster": "web" })).await;
    assert!(status["summary"].as_str().expect("a text").contains("NOT PROTECTED"), "{status}");
    cloud.kill("a");
    let status = asked(&cloud, json!({ "action": "status", "cluster": "web" })).await;
    assert!(status["summary"].as_str().expect("a text").starts_with("SILENT"), "{status}");
}

#[tokio::test]
async fn an_unknown_cluster_is_one_clear_error_and_nothing_is_written() {
    let cloud = Fake::pair();
    for action in ["status", "plan", "switchover", "failover", "resume", "history"] {
        let answer = asked(&cloud, json!({ "action": action, "cluster": "zebra" })).await;
        assert_eq!(answer["error"]["code"], "unknown_cluster", "{action}: {answer}");
        assert!(answer["error"]["what_to_do"].as_str().expect("a text").contains("web"));
    }
    let state = cloud.state();
    assert!(state.history.is_empty() && state.events.is_empty() && state.calls.is_empty());
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
async fn a_request_whose_answer_was_lost_is_known_by_its_effect_though_the_holder_renewed_since() {
    let cloud = Fake::pair();
    cloud.state().lost_answers.push_back(true);
    cloud.state().renews_before_reads = true;
    let answer = asked(&cloud, json!({ "action": "switchover", "cluster": "web", "to": "b" })).await;
    assert_eq!(answer["outcome"], "completed", "{answer}");
    assert_eq!(holder_of(&cloud), (node("b"), 8));
}

#[tokio::test]
async fn a_request_whose_answer_was_lost_and_that_was_taken_up_at_once_is_completed() {
    for activated in [false, true] {
        let cloud = Fake::pair();
        cloud.state().lost_answers.push_back(true);
        cloud.state().after_lost = Some(Box::new(move |row: &mut Row| {
            let terms = lease::change::Terms { ttl_ms: row.ttl_ms, lossy_ok: row.lossy_ok };
            let nonce = |text: &str| text.parse().expect("a name");
            let hand_over = Change::HandOver { me: holder("a"), epoch: row.epoch, to: holder("b"), terms };
            *row = hand_over.on(row, nonce("a-1")).expect("legal").row;
            assert_eq!(row.done_intent().map(|intent| intent.rule), Some(Rule::R400));
            if activated {
                let activate = Change::Activate { me: holder("b"), epoch: row.epoch };
                *row = activate.on(row, nonce("b-1")).expect("legal").row;
            }
        }));
        let answer = asked(&cloud, json!({ "action": "switchover", "cluster": "web", "to": "b" })).await;
        assert_eq!(answer["outcome"], "completed", "activated {activated}: {answer}");
        leads_to(&cloud, "eni-b");
    }
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

#[tokio::test]
async fn a_heartbeat_that_cannot_be_read_does_not_keep_the_others_from_taking_over() {
    let cloud = Fake::of(&["a", "b", "c"]);
    cloud.kill("a");
    cloud.state().unreadable.extend([node("a"), node("c")]);
    assert_eq!(run_on(&cloud, suspected(false)).await.outcome, Ending::Completed);
    assert_eq!(holder_of(&cloud), (node("b"), 8));
}

#[tokio::test]
async fn what_a_person_must_put_right_is_told_so() {
    let cloud = Fake::pair();
    cloud.state().unreadable.extend([node("a"), node("b")]);
    let answer = asked(&cloud, json!({ "action": "status", "cluster": "web" })).await;
    assert_eq!(answer["error"]["code"], "unusable", "{answer}");
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
async fn by_hand_the_first_read_fails_at_once_and_later_ones_are_repeated() {
    let switchover = json!({ "action": "switchover", "cluster": "web", "to": "b" });
    let cloud = Fake::pair();
    cloud.state().throttled.insert("row", 1);
    let began = cloud.elapsed();
    let answer = asked(&cloud, switchover.clone()).await;
    assert_eq!((answer["error"]["code"].as_str(), cloud.elapsed()), (Some("unavailable"), began), "{answer}");
    assert!(cloud.state().history.is_empty() && cloud.state().row.as_ref().is_some_and(|row| row.intent.is_none()));

    for (call, times) in [("row", 4), ("route_tables", 7), ("interfaces_of", 3), ("heartbeat", 2)] {
        let cloud = Fake::pair();
        let throttle = async {
            while call == "row" && cloud.state().row.as_ref().is_some_and(|row| row.intent.is_none()) {
                cloud.sleep(Millis(1)).await;
            }
            cloud.state().throttled.insert(call, times);
        };
        let ((), answer) = futures::join!(throttle, asked(&cloud, switchover.clone()));
        assert_eq!(answer["outcome"], "completed", "{call}: {answer}");
        leads_to(&cloud, "eni-b");
    }
}

#[tokio::test]
async fn a_pause_is_found_in_the_row_as_soon_as_it_can_be_read() {
    let cloud = Fake::pair();
    cloud.state().lost_answers.push_back(true);
    let throttle = async {
        while cloud.state().row.as_ref().is_some_and(|row| row.paused.is_none()) {
            tokio::task::yield_now().await;
        }
        cloud.state().throttled.insert("row", 5);
    };
    let pause = json!({ "action": "pause", "cluster": "web", "reason": "kernel upgrade" });
    let (answer, ()) = futures::join!(asked(&cloud, pause), throttle);
    assert_eq!(answer["paused"], true, "{answer}");
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
