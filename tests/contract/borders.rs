//! Who may depend on whom, as cargo resolved it for what ships (no development dependencies).

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Package names that each package depends on, directly or not.
fn reaches() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--offline",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(tests::repository())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo's metadata is JSON");
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let name = |value: &Value| value.as_str().expect("a text").to_owned();
    let names: BTreeMap<String, String> =
        list(&metadata["packages"]).iter().map(|package| (name(&package["id"]), name(&package["name"]))).collect();
    let edges: BTreeMap<String, Vec<String>> = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| {
            let ships = |dependency: &&Value| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev");
            let to = list(&node["deps"]).iter().filter(ships).map(|dependency| name(&dependency["pkg"])).collect();
            (name(&node["id"]), to)
        })
        .collect();
    let members: Vec<String> = list(&metadata["workspace_members"]).iter().map(name).collect();
    members
        .iter()
        .map(|member| {
            let mut reached = BTreeSet::new();
            let mut ahead = vec![member.clone()];
            while let Some(id) = ahead.pop() {
                for next in &edges[&id] {
                    if reached.insert(next.clone()) {
                        ahead.push(next.clone());
                    }
                }
            }
            (names[member].clone(), reached.iter().map(|id| names[id].clone()).collect())
        })
        .collect()
}

#[test]
fn a_node_links_no_sdk_that_could_move_traffic() {
    let sidecar = &reaches()["sidecar"];
    let sdks: Vec<&str> = sidecar.iter().map(String::as_str).filter(|name| name.starts_with("aws-sdk-")).collect();
    // sts: aws-config's default credentials chain brings it; a node has no right that would make it useful.
    let allowed = ["aws-sdk-dynamodb", "aws-sdk-eventbridge", "aws-sdk-sts"];
    let foreign: Vec<_> = sdks.iter().filter(|name| !allowed.contains(name)).collect();
    assert!(foreign.is_empty(), "the sidecar links {foreign:?}");
    assert!(sdks.contains(&"aws-sdk-dynamodb"), "the check looks at the right thing");
}

#[test]
fn arrows_run_one_way() {
    let reaches = reaches();
    assert!(!reaches["sidecar"].contains("lambdas"), "the sidecar depends on the functions");
    assert!(!reaches["lambdas"].contains("sidecar"), "the functions depend on the sidecar");
    for above in ["sidecar", "lambdas", "tests"] {
        assert!(!reaches["lease"].contains(above), "the shared crate depends on {above}");
    }
    for ships in ["sidecar", "lambdas"] {
        assert!(reaches[ships].contains("lease"));
        for test_only in ["tests", "proptest"] {
            assert!(!reaches[ships].contains(test_only), "{ships} ships {test_only}");
        }
    }
    assert!(reaches["lambdas"].contains("aws-sdk-ec2"), "the check looks at the right thing");
}

#[test]
fn one_implementation_of_tls_ships() {
    for (member, reached) in reaches().iter().filter(|(member, _)| *member != "tests") {
        for other in ["openssl", "native-tls", "aws-lc-rs"] {
            assert!(!reached.contains(other), "{member} links {other} beside ring");
        }
    }
}
