//! What wakes `failover`: an event of a node, an event of EC2 or AWS Health, or an operator's request.

use crate::api::{ApiError, Request};
use crate::decide::Hint;
use lease::events::{Event, SOURCE};
use lease::ids::{ClusterId, Epoch, InstanceId, NodeId};
use lease::rules::Rule;
use serde_json::Value;

/// A payload, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waking {
    /// A reason to decide about a cluster.
    Hint { cluster: ClusterId, hint: Hint },
    /// A node says that it holds a new epoch: the network may have to follow.
    Accepted { cluster: ClusterId, rule: Rule, holder: NodeId, epoch: Epoch },
    /// Something happened to these instances, or will; whose they are stands in the configurations.
    Instances(Vec<(InstanceId, Hint)>),
    /// By hand.
    Request(Request),
    /// One of ours that asks for nothing.
    Ignored { what: String },
}

/// Whether EventBridge sent it (an event or the schedule): nobody reads the answer then.
#[must_use]
pub fn is_event(payload: &Value) -> bool {
    payload.get("source").is_some() || payload.get("detail-type").is_some()
}

/// Understands a payload.
///
/// # Errors
/// [`ApiError`]: what is wrong with it, all of it. Nothing was changed.
pub fn understand(payload: &Value) -> Result<Waking, ApiError> {
    let (source, kind) = (payload.get("source"), payload.get("detail-type"));
    if !is_event(payload) {
        return Request::parse(payload).map(Waking::Request);
    }
    let text = |value: Option<&Value>, key: &str| {
        value
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| malformed(format!("{key} is missing or no text")))
    };
    let (source, kind) = (text(source, "source")?, text(kind, "detail-type")?);
    let detail = payload.get("detail").ok_or_else(|| malformed("detail is missing".into()))?;
    match source.as_str() {
        SOURCE => Event::parse(&kind, detail).map(of_ours).map_err(|error| malformed(error.to_string())),
        "aws.ec2" => of_ec2(&kind, detail),
        "aws.health" => of_health(&kind, detail),
        _ => Err(malformed(format!("source {source:?} is none of {SOURCE}, aws.ec2 and aws.health"))),
    }
}

fn malformed(problem: String) -> ApiError {
    ApiError {
        code: "malformed_event",
        message: format!("an event that cannot be understood: {problem}"),
        what_to_do:
            "nothing was changed; update the functions and the nodes to the same release, and look at who put it".into(),
    }
}

fn of_ours(event: Event) -> Waking {
    let cluster = event.cluster().clone();
    let hint = match event {
        Event::HolderSuspected(told) => Hint::Suspected {
            node: told.node,
            epoch: told.epoch,
            beat: told.beat,
            silent_ms: told.silent_ms,
            hears: told.peer_link,
        },
        Event::ResourceFailed(told) => {
            Hint::ResourceFailed { node: told.node, epoch: told.epoch, resource: told.resource, reason: told.reason }
        }
        Event::HandoverRequested(told) if told.released => {
            Hint::Released { node: told.node, epoch: told.epoch, reason: told.reason }
        }
        Event::HandoverRequested(told) => Hint::Relief { node: told.node, epoch: told.epoch, reason: told.reason },
        Event::NodeJoined(told) => Hint::Joined { node: told.node },
        Event::FailoverAccepted(told) => {
            return Waking::Accepted { cluster, rule: told.rule, holder: told.holder, epoch: told.epoch };
        }
        // The functions' own words, and what only people read.
        other @ (Event::ReplicaStateChanged(_)
        | Event::FailoverNominated(_)
        | Event::FailoverCompleted(_)
        | Event::FailoverBlocked(_)
        | Event::DriftCorrected(_)
        | Event::NetworkIncomplete(_)) => return Waking::Ignored { what: other.detail_type().into() },
    };
    Waking::Hint { cluster, hint }
}

fn of_ec2(kind: &str, detail: &Value) -> Result<Waking, ApiError> {
    let text = |key: &str| {
        detail
            .get(key)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| malformed(format!("{kind}: detail.{key} is missing")))
    };
    // By the id in the detail: the ARN of a spot warning is malformed (no account).
    let instance = InstanceId::new(text("instance-id")?).map_err(|error| malformed(format!("{kind}: {error}")))?;
    let hint = match kind {
        "EC2 Instance State-change Notification" => {
            let state = text("state")?;
            if state != "stopped" && state != "terminated" {
                return Ok(Waking::Ignored { what: format!("{instance} is {state}") });
            }
            Hint::InstanceState { instance: instance.clone(), state }
        }
        "EC2 Spot Instance Interruption Warning" => {
            Hint::Interruption { instance: instance.clone(), action: text("instance-action")? }
        }
        _ => return Err(malformed(format!("detail-type {kind:?} of aws.ec2 is none that asks for anything"))),
    };
    Ok(Waking::Instances(vec![(instance, hint)]))
}

/// AWS Health tells of what AWS will do to instances: retire, stop or reboot them, mostly days ahead.
fn of_health(kind: &str, detail: &Value) -> Result<Waking, ApiError> {
    if kind != "AWS Health Event" {
        return Err(malformed(format!("detail-type {kind:?} of aws.health is none that asks for anything")));
    }
    let text = |key: &str| detail.get(key).and_then(Value::as_str);
    let missing = |key: &str| malformed(format!("{kind}: detail.{key} is missing"));
    let service = text("service").ok_or_else(|| missing("service"))?;
    let category = text("eventTypeCategory").ok_or_else(|| missing("eventTypeCategory"))?;
    let what = text("eventTypeCode").ok_or_else(|| missing("eventTypeCode"))?;
    let entities = detail.get("affectedEntities").and_then(Value::as_array);
    let over = |status: Option<&str>| matches!(status, Some("closed" | "RESOLVED"));
    let instances: Vec<InstanceId> = entities
        .into_iter()
        .flatten()
        .filter(|entity| !over(entity.get("status").and_then(Value::as_str)))
        .filter_map(|entity| entity.get("entityValue").and_then(Value::as_str))
        // An id, or an ARN that ends in one; volumes and hosts are entities too.
        .filter_map(|entity| entity.rsplit('/').next().filter(|id| id.starts_with("i-")))
        .filter_map(|id| InstanceId::new(id).ok())
        .collect();
    if service != "EC2" || category != "scheduledChange" || over(text("statusCode")) || instances.is_empty() {
        return Ok(Waking::Ignored { what: format!("{what} ({category} of {service})") });
    }
    let starts = text("startTime").map(str::to_owned);
    let hints = instances.into_iter().map(|instance| {
        let hint = Hint::Maintenance { instance: instance.clone(), what: what.into(), starts: starts.clone() };
        (instance, hint)
    });
    Ok(Waking::Instances(hints.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_nodes_suspicion_is_a_hint() {
        let event = json!({ "source": "leasehold", "detail-type": "Holder Suspected", "detail": {
            "v": 1, "cluster": "web", "node": "b", "epoch": 7, "beat": 12, "silent_ms": 1833, "peer_link": false } });
        let Ok(Waking::Hint { cluster, hint: Hint::Suspected { node, hears, .. } }) = understand(&event) else {
            panic!("{:?}", understand(&event))
        };
        assert_eq!((cluster.as_str(), node.as_str(), hears), ("web", "b", false));
    }

    #[test]
    fn a_spot_warning_goes_by_the_id_in_its_detail() {
        let event = json!({ "source": "aws.ec2", "detail-type": "EC2 Spot Instance Interruption Warning",
            "resources": ["arn:aws:ec2:us-east-2a:instance/i-0a"], "detail": { "instance-id": "i-0a", "instance-action": "stop" } });
        let Ok(Waking::Instances(hints)) = understand(&event) else { panic!("{:?}", understand(&event)) };
        assert!(matches!(&hints[..], [(id, Hint::Interruption { .. })] if id.as_str() == "i-0a"));
    }

    /// As AWS documents it for a scheduled change.
    fn retirement() -> Value {
        json!({ "source": "aws.health", "detail-type": "AWS Health Event", "resources": ["i-0a", "i-0b"], "detail": {
            "eventArn": "arn:aws:health:us-west-2::event/EC2/AWS_EC2_PERSISTENT_INSTANCE_RETIREMENT_SCHEDULED/1",
            "service": "EC2", "eventTypeCode": "AWS_EC2_PERSISTENT_INSTANCE_RETIREMENT_SCHEDULED",
            "eventTypeCategory": "scheduledChange", "startTime": "Sat, 05 Dec 2026 15:10:09 GMT", "statusCode": "upcoming",
            "affectedEntities": [{ "entityValue": "i-0a" }, { "entityValue": "vol-1" },
                { "entityValue": "arn:aws:ec2:us-west-2:123456789012:instance/i-0b", "status": "PENDING" },
                { "entityValue": "i-0c", "status": "RESOLVED" }] } })
    }

    #[test]
    fn a_scheduled_retirement_is_a_hint_for_each_instance_that_it_is_still_to_come_for() {
        let Ok(Waking::Instances(hints)) = understand(&retirement()) else { panic!("{:?}", understand(&retirement())) };
        let ids: Vec<_> = hints.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["i-0a", "i-0b"]);
        let Hint::Maintenance { what, starts, .. } = &hints[0].1 else { panic!("{hints:?}") };
        assert!(what.contains("RETIREMENT") && starts.as_deref().is_some_and(|starts| starts.contains("05 Dec 2026")));
        for (key, value) in [
            ("statusCode", json!("closed")),
            ("eventTypeCategory", json!("issue")),
            ("service", json!("RDS")),
            ("affectedEntities", json!([])),
        ] {
            let mut event = retirement();
            event["detail"][key] = value;
            assert!(matches!(understand(&event), Ok(Waking::Ignored { .. })), "{key}: {:?}", understand(&event));
        }
    }

    #[test]
    fn what_the_deployments_rules_match_is_understood() {
        let contract: Value = serde_json::from_str(include_str!("../../cdk/contract.json")).expect("JSON");
        let events = &contract["events"];
        let ec2 = |kind: &Value| {
            json!({ "source": events["aws_source"], "detail-type": kind, "detail": {
                "instance-id": "i-0a", "state": events["instance_states"][0], "instance-action": "stop" } })
        };
        let mut health = retirement();
        health["source"] = events["health_source"].clone();
        health["detail-type"] = events["health_event"].clone();
        health["detail"]["service"] = events["health_service"].clone();
        health["detail"]["eventTypeCategory"] = events["health_category"].clone();
        for event in [ec2(&events["instance_state"]), ec2(&events["spot_warning"]), health] {
            assert!(matches!(understand(&event), Ok(Waking::Instances(_))), "{event}: {:?}", understand(&event));
        }
    }

    #[test]
    fn what_cannot_be_understood_is_one_clear_error() {
        let good = json!({ "v": 1, "cluster": "web", "node": "b", "instance": "i-0b", "incarnation": "x" });
        let mut newer = good.clone();
        newer["v"] = json!(2);
        for (event, part) in [
            (json!({ "source": "leasehold" }), "detail-type"),
            (json!({ "source": "leasehold", "detail-type": "Node Joined" }), "detail is missing"),
            (json!({ "source": "leasehold", "detail-type": "Node Joined", "detail": {} }), "Node Joined"),
            (json!({ "source": "leasehold", "detail-type": "Node Joined", "detail": newer }), "newer"),
            (json!({ "source": "leasehold", "detail-type": "Nodes Joined", "detail": good }), "none of leasehold's"),
            (json!({ "source": "other", "detail-type": "Node Joined", "detail": good }), "other"),
            (
                json!({ "source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification", "detail": {} }),
                "instance-id",
            ),
            (json!({ "source": "aws.health", "detail-type": "AWS Health Abuse Event", "detail": {} }), "Abuse"),
            (json!({ "source": "aws.health", "detail-type": "AWS Health Event", "detail": {} }), "detail.service"),
        ] {
            let error = understand(&event).expect_err("malformed");
            assert_eq!(error.code, "malformed_event");
            assert!(error.message.contains(part), "{part} in {}", error.message);
        }
    }
}
