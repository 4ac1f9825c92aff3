//! Whole runs on a world in memory.

mod by_hand;
mod deciding;
mod disturbed;
mod following;

use super::*;
use crate::cloud::fake::{Fake, LAUNCHED_S, hearing, holder, node, row};
use crate::decide::Described;
use crate::operate;
use crate::topology::{InterfaceId, Target};
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
