//! A step of A1 in words.

use super::state::{Frame, State};
use super::steps::Step;
use crate::rows::{Want, node_name};

fn want(want: Want) -> String {
    match want {
        Want::Renew => "renew".into(),
        Want::Shrink(peer) => format!("shrink: take {} out", peer.name()),
        Want::Grow(peer) => format!("grow: take {} in", peer.name()),
        Want::Nominate { .. } => "nominate".into(),
        Want::Accept => "accept".into(),
        Want::Activate => "activate".into(),
        Want::HandOver(to) => format!("hand over to {}", to.name()),
        Want::Release => "release".into(),
        Want::Restart { clean: false } => "restart, set reduced to itself".into(),
        Want::Restart { clean: true } => "restart, set kept".into(),
        Want::Leave => "leave the set".into(),
    }
}

fn data(bits: u8) -> String {
    match bits {
        0 => "nothing".into(),
        1 => "w1".into(),
        2 => "w2".into(),
        _ => "w1 and w2".into(),
    }
}

pub(super) fn tell(before: &State, step: Step, after: &State) -> String {
    let said = match step {
        Step::Submit { node } => {
            let at = (0..2).find(|at| before.writes[*at] != after.writes[*at]).unwrap_or(0);
            let write = &after.writes[at];
            let to = (0..3).filter(|node| write.frames[*node] == Frame::OnItsWay);
            let to: Vec<_> = to.map(|node| node_name(node).to_string()).collect();
            let late = if write.late { ", though a newer epoch exists" } else { "" };
            let to = if to.is_empty() { "nobody".into() } else { to.join(", ") };
            format!("{} submits w{} in epoch {}, frames to {to}{late}", node_name(node), at + 1, write.epoch)
        }
        Step::Deliver { write, node } => {
            let copy = &after.nodes[node];
            let how = if before.nodes[node].data == copy.data { "takes it for a repetition" } else { "applies it" };
            let name = after.member(node).name();
            format!("w{} reaches {name}, which {how} and acknowledges; it has {}", write + 1, data(copy.data))
        }
        Step::Complete { write } => {
            let by = usize::from(before.writes[write].by);
            let need = before.nodes[by].need.names();
            format!(
                "{} has the acknowledgements of {need}: the workload is told that w{} is done",
                node_name(by),
                write + 1
            )
        }
        Step::Read { node } => format!("the workload reads {} at {}", data(after.read), node_name(node)),
        Step::Propose { node, want: wanted } => {
            let need = after.nodes[node].need;
            let changed =
                if need == before.nodes[node].need { String::new() } else { format!("; it needs {}", need.names()) };
            format!("{} sends: {}{changed}", node_name(node), want(wanted))
        }
        Step::Land { node } => {
            let pending = before.nodes[node].pending.map_or(String::new(), |pending| want(pending.want));
            format!("{}'s request lands ({pending})", node_name(node))
        }
        Step::LandLate { .. } => "the request of a process that is gone lands".into(),
        Step::Answer { node } => format!("{} hears that it was applied; {}", node_name(node), role(after, node)),
        Step::AnswerLost { node } => {
            format!("the answer to {} is lost, and the row has moved on; {}", node_name(node), role(after, node))
        }
        Step::Nominate { node } => format!("the control plane nominates {}", after.member(node).name()),
        Step::Leave { node } => format!("{} takes itself out", node_name(node)),
        Step::TakeOver { node } => format!("{} finds the lease handed over to it", node_name(node)),
        Step::Demote { node } => format!("{} stops serving", node_name(node)),
        Step::Crash { node } => format!("{} crashes, starts and reads the row; {}", node_name(node), role(after, node)),
        Step::Wipe { node } => {
            format!("the disk of {} is wiped: it is {} now", node_name(node), after.member(node).name())
        }
        Step::Restore { node } => {
            format!(
                "the disk of {} is restored from an old snapshot: it is {} now",
                node_name(node),
                after.member(node).name()
            )
        }
        Step::Handshake { holder, node } => {
            let epoch = after.nodes[holder].epoch;
            format!("{} and {} shake hands in epoch {epoch}; a resync begins", node_name(holder), node_name(node))
        }
        Step::Resync { holder, node } => {
            format!("{} has all of {}'s data: {}", node_name(node), node_name(holder), data(after.nodes[node].data))
        }
        Step::Remake { node } => {
            format!("the row is deleted and made anew, with {} as the first nominee", after.member(node).name())
        }
        Step::Misread { node } => {
            format!(
                "{} reads a row without its grow and takes that for proof; it needs {}",
                node_name(node),
                after.nodes[node].need.names()
            )
        }
        Step::Force { node } => format!("somebody makes {} the holder", after.member(node).name()),
    };
    if before.row == after.row { said } else { format!("{said}; row {}", after.row.tells()) }
}

fn role(state: &State, node: usize) -> String {
    let me = &state.nodes[node];
    if me.role.holds() {
        format!("it holds epoch {} ({:?}), needs {}", me.epoch, me.role, me.need.names())
    } else {
        format!("{:?}", me.role).to_lowercase()
    }
}
