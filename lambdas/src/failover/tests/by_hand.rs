//! What an operator asks for.

use super::*;

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
async fn what_a_person_must_put_right_is_told_so() {
    let cloud = Fake::pair();
    cloud.state().unreadable.extend([node("a"), node("b")]);
    let answer = asked(&cloud, json!({ "action": "status", "cluster": "web" })).await;
    assert_eq!(answer["error"]["code"], "unusable", "{answer}");
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
