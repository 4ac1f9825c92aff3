//! The names that the deployment and the programs have agreed on: `cdk/contract.json` against the Rust side.

use lambdas::environment::Environment;
use lambdas::event::Waking;
use lease::config::ClusterConfig;
use lease::events::{Event, SOURCE};
use lease::table::{CONFIG_ITEM, HEARTBEAT_NAMES, KEYS, LEASE_ITEM, NODE_ITEM, NODE_NAMES, NODE_SEPARATOR};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeSet;

fn contract() -> Value {
    tests::json("cdk/contract.json")
}

fn set(list: &Value) -> BTreeSet<String> {
    list.as_array()
        .unwrap_or_else(|| panic!("{list} is no list"))
        .iter()
        .map(|name| name.as_str().expect("a name").to_owned())
        .collect()
}

fn names<'a>(list: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    list.into_iter().map(str::to_owned).collect()
}

#[test]
fn functions_read_the_environment_that_the_deployment_sets() {
    let asked = RefCell::new(BTreeSet::new());
    let read = |name: &str| {
        asked.borrow_mut().insert(name.to_owned());
        name.starts_with("LEASEHOLD_").then(|| "x".to_owned()).or((name == "AWS_REGION").then(|| "eu-west-1".into()))
    };
    Environment::parse(read).expect("a complete environment");
    let ours: BTreeSet<String> = asked.into_inner().into_iter().filter(|name| name.starts_with("LEASEHOLD_")).collect();
    let given = contract()["environment"].as_object().expect("a table").values().cloned().collect();
    assert_eq!(ours, set(&given));
}

#[test]
fn keys_of_the_table_are_the_deployed_ones() {
    let table = contract()["table"].clone();
    let ours = json!({
        "partition_key": KEYS[0], "sort_key": KEYS[1],
        "lease_item": LEASE_ITEM, "config_item": CONFIG_ITEM, "node_item": NODE_ITEM, "node_key_separator": NODE_SEPARATOR,
    });
    assert_eq!(table, ours);
}

#[test]
fn a_node_may_name_exactly_the_attributes_that_its_changes_name() {
    let may = contract()["node_may_write"].clone();
    assert_eq!(set(&may["lease"]), names(KEYS.into_iter().chain(NODE_NAMES)));
    assert_eq!(set(&may["heartbeat"]), names(KEYS.into_iter().chain(HEARTBEAT_NAMES)));
}

#[test]
fn rules_match_events_that_exist() {
    let events = contract()["events"].clone();
    assert_eq!(events["source"], SOURCE);
    let known: BTreeSet<String> = tests::json("lease/tests/golden/events.json")
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| {
            let kind = event["detail-type"].as_str().expect("a text");
            Event::parse(kind, &event["detail"]).expect("a golden event").detail_type().to_owned()
        })
        .collect();
    for wakes in set(&events["wake_failover"]) {
        assert!(known.contains(&wakes), "no program puts {wakes:?}");
    }
}

/// What the rule for AWS Health lets through is a hint, and nothing else of AWS Health is.
#[test]
fn the_rule_for_aws_health_matches_what_the_functions_act_on() {
    let events = contract()["events"].clone();
    let health = |key: &str, value: &Value| {
        let mut event = json!({ "source": events["health_source"], "detail-type": events["health_event"], "detail": {
            "service": events["health_service"], "eventTypeCategory": events["health_category"],
            "eventTypeCode": "AWS_EC2_PERSISTENT_INSTANCE_RETIREMENT_SCHEDULED", "statusCode": "upcoming",
            "affectedEntities": [{ "entityValue": "i-0a" }] } });
        match key {
            "source" | "detail-type" => event[key] = value.clone(),
            _ => event["detail"][key] = value.clone(),
        }
        lambdas::event::understand(&event)
    };
    let as_it_is = health("source", &events["health_source"]);
    assert!(matches!(&as_it_is, Ok(Waking::Instances(hints)) if hints.len() == 1), "{as_it_is:?}");
    for (key, value) in [("source", "aws.healthy"), ("detail-type", "AWS Health Abuse Event")] {
        assert!(health(key, &json!(value)).is_err(), "{key} = {value}");
    }
    for (key, value) in [("service", "RDS"), ("eventTypeCategory", "issue")] {
        let other = health(key, &json!(value));
        assert!(matches!(other, Ok(Waking::Ignored { .. })), "{key} = {value}: {other:?}");
    }
}

/// The keys that a table of the configuration may have: the parser tells them when it meets another.
fn known_keys(config: &Value, place: &str) -> BTreeSet<String> {
    let problems = ClusterConfig::parse(&config.to_string()).expect_err("an unknown key");
    let key = if place.is_empty() { "stranger".to_owned() } else { format!("{place}.stranger") };
    let told = problems.0.iter().find(|problem| problem.key == key).unwrap_or_else(|| panic!("{key} in:\n{problems}"));
    let known = told.allowed.strip_prefix("unknown key; known here: ").expect("the parser's words");
    names(known.split(", "))
}

#[test]
fn the_configuration_has_the_keys_that_the_functions_read() {
    let config = json!({
        "cluster": "web", "stranger": 1,
        "nodes": [{"name": "a", "instance": "i-0a", "stranger": 1}],
        "virtual_ips": [{"address": "10.99.0.10", "vpc": "vpc-1", "stranger": 1}],
        "ports": {"service": [80], "stranger": 1},
        "policy": {"stranger": 1},
    });
    let keys = contract()["cluster_config"].clone();
    assert_eq!(known_keys(&config, ""), set(&keys["keys"]));
    assert_eq!(known_keys(&config, "nodes[0]"), set(&keys["node_keys"]));
    assert_eq!(known_keys(&config, "virtual_ips[0]"), set(&keys["virtual_ip_keys"]));
    assert_eq!(known_keys(&config, "ports"), set(&keys["port_keys"]));
    assert_eq!(known_keys(&config, "policy"), set(&keys["policy_keys"]));
}
