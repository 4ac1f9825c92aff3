use super::*;
use crate::cloud::fake::Fake;

const GOOD: &str = r#"{"cluster":"db","nodes":[{"name":"a","instance":"i-0a"}],
    "virtual_ips":[{"address":"10.99.0.20","vpc":"vpc-1","create_in":["rtb-1"]}]}"#;

fn request(kind: &str, config: &str, physical: Option<&str>) -> Value {
    json!({ "RequestType": kind, "ResponseURL": "http://somewhere/", "StackId": "s", "RequestId": "r", "LogicalResourceId": "l",
        "PhysicalResourceId": physical, "ResourceProperties": { "ServiceToken": "t", "Config": config } })
}

#[tokio::test]
async fn a_good_configuration_is_stored_and_removed() {
    let cloud = Fake::pair();
    let made = handle(&cloud, &request("Create", GOOD, None)).await;
    assert_eq!(
        (made.body["Status"].as_str(), made.body["PhysicalResourceId"].as_str()),
        (Some("SUCCESS"), Some("leasehold-cluster/db"))
    );
    assert_eq!(made.url.as_deref(), Some("http://somewhere/"));
    assert_eq!(cloud.state().config.as_ref().expect("stored").cluster.as_str(), "db");
    let gone = handle(&cloud, &request("Delete", "nonsense", Some("leasehold-cluster/db"))).await;
    assert_eq!(gone.body["Status"], "SUCCESS");
    assert_eq!(cloud.state().config, None);
}

#[tokio::test]
async fn a_bad_one_fails_with_every_mistake_and_changes_nothing() {
    for (config, parts) in [
        (r#"{"cluster":"Db","nodes":[]}"#, vec!["cluster", "nodes"]),
        ("not JSON", vec!["not JSON"]),
        // Inside the VPC's range, and a table that is not there.
        (
            r#"{"cluster":"db","nodes":[{"name":"a","instance":"i-0a"}],
            "virtual_ips":[{"address":"10.0.3.9","vpc":"vpc-1","create_in":["rtb-9"]}]}"#,
            vec!["10.0.3.9", "10.0.0.0/16", "rtb-9"],
        ),
        (
            r#"{"cluster":"db","nodes":[{"name":"a","instance":"i-0a"}],"virtual_ips":[{"address":"10.98.0.9","vpc":"vpc-1"}]}"#,
            vec!["missing route", "create_in"],
        ),
        // A listed table without the route, none to make it in; and one that has the route and is not listed.
        (
            r#"{"cluster":"db","nodes":[{"name":"a","instance":"i-0a"}],
            "virtual_ips":[{"address":"10.99.0.10","vpc":"vpc-1","route_tables":["rtb-1","rtb-other"]}]}"#,
            vec!["missing route: rtb-other", "route not listed: rtb-2"],
        ),
        (
            r#"{"cluster":"db","nodes":[{"name":"a","instance":"i-0a"}],"virtual_ips":[{"address":"10.98.0.9","vpc":"vpc-9"}]}"#,
            vec!["vpc-9 does not exist"],
        ),
        // Nothing would break, and nothing would ever come of it.
        (
            r#"{"cluster":"db","nodes":[{"name":"a","instance":"i-0a"}],"policy":{"ttl_ms":3000,"lossy_lag_limit_ms":1000}}"#,
            vec!["policy.lossy_lag_limit_ms = 1000: more than suspect_ms (1833)"],
        ),
    ] {
        let cloud = Fake::pair();
        let before = cloud.state().config.clone();
        let answer = handle(&cloud, &request("Update", config, Some("leasehold-cluster/web"))).await;
        assert_eq!(answer.body["Status"], "FAILED");
        assert_eq!(
            answer.body["PhysicalResourceId"], "leasehold-cluster/web",
            "another id would delete what is stored"
        );
        for part in parts {
            assert!(
                answer.body["Reason"].as_str().expect("a reason").contains(part),
                "{part} in {}",
                answer.body["Reason"]
            );
        }
        assert_eq!(cloud.state().config, before);
    }
}

#[tokio::test]
async fn deleting_what_was_never_stored_removes_nothing() {
    let cloud = Fake::pair();
    let failed = handle(&cloud, &request("Create", "{}", None)).await;
    let id = failed.body["PhysicalResourceId"].as_str().expect("an id").to_owned();
    assert_eq!(handle(&cloud, &request("Delete", "{}", Some(&id))).await.body["Status"], "SUCCESS");
    assert!(cloud.state().config.is_some());
}

#[tokio::test]
async fn mistakes_of_the_configuration_and_of_the_network_are_told_together() {
    let config = r#"{"cluster":"Db","nodes":[{"name":"a","instance":"i-0a"}],"policy":{"ttl_ms":10},"virtual_ips":[
        {"address":"10.0.3.9","vpc":"vpc-1","route_tables":["rtb-1"],"create_in":["rtb-1"]},
        {"address":"169.254.169.1","vpc":"vpc-1"},
        {"address":"10.98.0.9","vpc":"vpc-1","route_tables":["rtb-2"]}]}"#;
    let answer = handle(&Fake::pair(), &request("Create", config, None)).await;
    let reason = answer.body["Reason"].as_str().expect("a reason");
    for part in
        ["cluster = \"Db\"", "policy.ttl_ms", "169.254.168.0/22", "10.0.3.9 lies inside vpc-1", "missing route: rtb-2"]
    {
        assert!(reason.contains(part), "{part} in:\n{reason}");
    }
}

/// CloudFormation counts the response's bytes, in which a line's end takes two and a letter up to four.
#[test]
fn reasons_are_cut_to_what_cloudformation_takes() {
    assert_eq!(cut("short"), "short");
    let told = cut(&format!("{}\n", "x".repeat(200)).repeat(11));
    assert!(!told.contains("more in the log"), "eleven mistakes are told whole");
    for long in ["é", "\n", "\"", "→"].map(|one| cut(&one.repeat(5_000))) {
        let size = Value::from(long.as_str()).to_string().len();
        assert!((REASON_BYTES - 4..=REASON_BYTES).contains(&size) && long.ends_with("(more in the log)"), "{size}");
    }
}
