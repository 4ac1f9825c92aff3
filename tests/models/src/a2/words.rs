//! A step of A2 in words.

use super::A2;
use super::clocks::Rate;
use super::state::{Role, State};
use super::steps::Step;
use crate::rows::{Want, node_name};
use lease::authority::Standing;

fn want(want: Want) -> String {
    match want {
        Want::Shrink(peer) => format!("shrink: take {} out", peer.name()),
        Want::Grow(peer) => format!("grow: take {} in", peer.name()),
        Want::Restart { .. } => "restart".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}

pub(super) fn tell(a2: &A2, before: &State, step: Step, after: &State) -> String {
    let said = match step {
        Step::Tick { asleep: false } => "a tick".into(),
        Step::Tick { asleep: true } => "a tick, in which A's machine is suspended".into(),
        Step::Ping { from, to } => format!("{} pings {}", node_name(from), node_name(to)),
        Step::Exchange { from, to } => {
            format!("{} pings {}, which promises not to accept", node_name(from), node_name(to))
        }
        Step::Promise { node } => format!("{} promises not to accept", node_name(node)),
        Step::Count { node } => format!("the promise of {} arrives", node_name(node)),
        Step::Ask { node } => format!("{} asks for the row", node_name(node)),
        Step::Look { node } => format!("{} has read the row: {}", node_name(node), after.row.tells()),
        Step::Propose { node, want: wanted } => format!("{} sends: {}", node_name(node), want(wanted)),
        Step::Land { node } => {
            let pending = before.nodes[node].pending.map_or(String::new(), |pending| want(pending.want));
            format!("{}'s request lands ({pending})", node_name(node))
        }
        Step::LandLate { .. } => "the request of a process that is gone lands".into(),
        Step::Answer { node } => format!("{} hears that it was applied", node_name(node)),
        Step::AnswerLost { node } => format!("the answer to {} is lost, and the row has moved on", node_name(node)),
        Step::Nominate { node } => format!("the control plane nominates {}", node_name(node)),
        Step::Demote { node } => format!("{} stops and stands by", node_name(node)),
        Step::Restart { node } => format!("{} restarts", node_name(node)),
        Step::Force { node } => {
            format!("a function judges that the lease is over and makes {} the holder", node_name(node))
        }
        Step::TakeOver { node } => format!("{} takes over what the row gives it", node_name(node)),
    };
    let row = if before.row == after.row { String::new() } else { format!("; row {}", after.row.tells()) };
    let told: Vec<String> = (0..a2.nodes).filter_map(|node| change(a2, before, after, node)).collect();
    let told = if told.is_empty() { String::new() } else { format!(" [{}]", told.join(", ")) };
    format!("{said}{row}{told}")
}

/// What a step changes in a node's right to serve; at its first, how its clock runs.
fn change(a2: &A2, before: &State, after: &State, node: usize) -> Option<String> {
    let right = |state: &State| match a2.standing(state, node) {
        _ if state.nodes[node].role == Role::Standby => None,
        Standing::None => Some("may not serve".to_owned()),
        Standing::For(left) => Some(format!("may serve for {left}")),
        Standing::Alone => Some("may serve, being alone".to_owned()),
    };
    let (was, is) = (right(before), right(after));
    let rate = match after.nodes[node].rate {
        Rate::Slow => "slow clock",
        Rate::Fast => "fast clock",
    };
    (was != is).then(|| format!("{} ({rate}) {}", node_name(node), is.unwrap_or_else(|| "stands by".into())))
}
