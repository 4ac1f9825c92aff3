//! What nodes and functions of different versions tell each other, byte for byte: a difference here is a change of the
//! contract. Golden files: `tests/golden/events.json`, `tests/golden/heartbeat.json` (and `row.json`, compared where
//! the row is mapped).

use lease::events::{BadEvent, EVENT_VERSION, Event, SOURCE};
use lease::heartbeat::Heartbeat;
use serde_json::{Value, json};

fn golden_events() -> Vec<Value> {
    serde_json::from_str(include_str!("golden/events.json")).expect("the golden file is a JSON list")
}

fn parse(golden: &Value) -> Result<Event, BadEvent> {
    Event::parse(golden["detail-type"].as_str().expect("a detail-type"), &golden["detail"])
}

#[test]
fn each_golden_event_is_read_and_written_back_the_same() {
    for golden in golden_events() {
        assert_eq!(golden["source"], SOURCE);
        let event = parse(&golden).unwrap_or_else(|error| panic!("{error} in {golden}"));
        assert_eq!(event.detail_type(), golden["detail-type"]);
        assert_eq!(event.cluster().as_str(), "web");
        let written: Value = serde_json::from_str(&event.detail()).expect("details are JSON");
        assert_eq!(written, golden["detail"], "{}", event.detail_type());
        assert_eq!(written["v"], EVENT_VERSION, "every detail has its version");
    }
}

#[test]
fn every_kind_of_event_has_a_golden_one() {
    // An exhaustive match: a new kind does not compile until it is listed here, and fails until it has a golden event.
    fn number(event: &Event) -> usize {
        match event {
            Event::HolderSuspected(_) => 0,
            Event::ResourceFailed(_) => 1,
            Event::HandoverRequested(_) => 2,
            Event::NodeJoined(_) => 3,
            Event::ReplicaStateChanged(_) => 4,
            Event::FailoverNominated(_) => 5,
            Event::FailoverAccepted(_) => 6,
            Event::FailoverCompleted(_) => 7,
            Event::FailoverBlocked(_) => 8,
            Event::DriftCorrected(_) => 9,
            Event::NetworkIncomplete(_) => 10,
        }
    }
    let mut seen = [false; 11];
    for golden in golden_events() {
        seen[number(&parse(&golden).expect("a golden event"))] = true;
    }
    assert_eq!(seen, [true; 11]);
}

#[test]
fn a_newer_event_is_refused_with_both_versions() {
    for mut golden in golden_events() {
        golden["detail"]["v"] = json!(EVENT_VERSION + 1);
        assert!(matches!(parse(&golden), Err(BadEvent::Newer { found, known, .. }) if found == known + 1));
    }
}

#[test]
fn events_that_lack_a_field_or_are_no_event_of_ours_are_refused_by_name() {
    for golden in golden_events() {
        for field in golden["detail"].as_object().expect("a table").keys() {
            let mut broken = golden.clone();
            broken["detail"].as_object_mut().expect("a table").remove(field);
            match parse(&broken) {
                Err(error) => assert!(error.to_string().contains(field), "{error}"),
                // Absent and null mean the same for what may be missing.
                Ok(_) => assert!(
                    golden["detail"][field].is_null() || ["holder"].contains(&field.as_str()),
                    "{field} in {golden}"
                ),
            }
        }
    }
    let stranger = Event::parse("EC2 Instance State-change Notification", &json!({}));
    assert!(matches!(stranger, Err(BadEvent::UnknownType { .. })));
}

#[test]
fn a_golden_heartbeat_is_read_and_written_back_the_same() {
    let golden: Value = serde_json::from_str(include_str!("golden/heartbeat.json")).expect("JSON");
    let heartbeat: Heartbeat = serde_json::from_value(golden.clone()).expect("a heartbeat");
    assert_eq!(serde_json::to_value(&heartbeat).expect("JSON"), golden);
    assert_eq!(heartbeat.as_holder().instance.as_str(), "i-0123456789abcdef0");
}
