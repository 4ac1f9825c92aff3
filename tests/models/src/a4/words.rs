//! A step of A4 in words.

use super::state::{Durable, Frame, Node, Role, Stage, State, Word, each};
use super::steps::Step;
use crate::rows::node_name;

fn value(value: u8) -> String {
    if value == 0 { "the old data".into() } else { format!("w{value}") }
}

fn block(block: u8) -> String {
    format!("block {}", block + 1)
}

fn set(set: u8, prefix: &str) -> String {
    let all: Vec<String> = each(set).map(|at| format!("{prefix}{}", at + 1)).collect();
    if all.is_empty() { "nothing".into() } else { all.join(", ") }
}

fn durable(of: Durable) -> String {
    format!("durable: writes {}, copied {}", set(of.writes, "w"), set(of.blocks, "block "))
}

fn frame(frame: Frame) -> String {
    match frame {
        Frame::Resync => "RESYNC".into(),
        Frame::Write(number) => format!("WRITE w{}", number + 1),
        Frame::Copy { block: at, value: of } => format!("COPY of {}: {}", block(at), value(of)),
        Frame::Compare { block: at, value: of } => format!("COMPARE of {}: {}", block(at), value(of)),
        Frame::State(companions) => format!("STATE, companions {}", set(companions, "node ")),
        Frame::Flush(_) => "FLUSH".into(),
        Frame::CaughtUp(_) => "CAUGHT_UP".into(),
    }
}

fn word(word: Word) -> String {
    match word {
        Word::Nothing => "nothing".into(),
        Word::Written(number) => format!("w{} is written", number + 1),
        Word::Same(at) => format!("{} is the same", block(at)),
        Word::Differs(at) => format!("{} differs", block(at)),
        Word::Durable(of) => durable(of),
        Word::InSync(of) => format!("in sync, {}", durable(of)),
    }
}

fn name(node: u8) -> char {
    node_name(node.into())
}

pub(super) fn tell(nodes: usize, blocks: usize, before: &State, step: Step, after: &State) -> String {
    let said = match step {
        Step::Write { node, block: at } => {
            let late = if before.holds(node.into()) { "" } else { ", though its epoch is over" };
            format!("{} writes w{} to {}{late}", name(node), after.written, block(at))
        }
        Step::HeatLate { node } => format!("{}'s log learns of what it wrote", name(node)),
        Step::ApplyLate { node } => {
            let left = value(before.nodes[usize::from(node)].queued);
            format!("{}, which an older epoch left in its queue, reaches {}'s disk", left, name(node))
        }
        Step::Flush { node } => format!("the workload asks for a flush; {}'s disk has flushed", name(node)),
        Step::FlushFirst { node } => format!("{} has made durable what it found", name(node)),
        Step::Copy { node, peer } => format!("{} reads a marked block for {}", name(node), name(peer)),
        Step::Deliver { node } => {
            let first = before.nodes[usize::from(node)].standing().and_then(|standing| standing.stream.first());
            format!("{} takes {}", name(node), first.map_or_else(String::new, frame))
        }
        Step::Hear { node, peer } => {
            let words =
                before.nodes[usize::from(node)].primary().map(|primary| &primary.peers[usize::from(peer)].words);
            let first = words.and_then(super::state::Queue::first).map_or_else(String::new, |(_, first)| word(first));
            format!("{} hears of {}: {first}", name(node), name(peer))
        }
        Step::Settle { node, peer } => format!("{} hears from {} what is durable everywhere", name(peer), name(node)),
        Step::Cool { node, block: at } => format!("{} leaves {}'s log, the bitmaps saved", block(at), name(node)),
        Step::Save { node } => format!("{} saves its bitmaps", name(node)),
        Step::Connect { node, peer } => {
            let epoch = after.nodes[usize::from(peer)].promised;
            format!("{} and {} shake hands in epoch {epoch}", name(node), name(peer))
        }
        Step::Lost { node, peer } => format!("{} finds {} gone", name(node), name(peer)),
        Step::Ended { node } => format!("{} finds its primary gone", name(node)),
        Step::Kill { node } => format!("{}'s process is killed, and starts", name(node)),
        Step::Crash { node, left } => {
            let left: Vec<String> = left[..blocks].iter().map(|left| value(*left)).collect();
            format!("{} loses power and starts; its disk has {}", name(node), left.join(" | "))
        }
        Step::TakeOver { node } => format!("{} takes over, alone in the set", name(node)),
        Step::HandOver { to } => format!("the holder hands over to {}, the set kept", name(to)),
        Step::Fence { node } => format!("{} learns that its epoch is over", name(node)),
        Step::Shrink { node, peer } => format!("{} goes on without {}", name(node), name(peer)),
        Step::Grow { node, peer } => format!("{} takes {} into the set", name(node), name(peer)),
    };
    let mut changes: Vec<String> = Vec::new();
    if before.row != after.row {
        let in_set: String = each(after.row.in_sync).map(node_name).collect();
        changes.push(format!("epoch {}, holder {}, set {in_set}", after.row.epoch, name(after.row.holder)));
    }
    for at in 0..nodes {
        let now = node(nodes, blocks, &after.nodes[at]);
        if now != node(nodes, blocks, &before.nodes[at]) {
            changes.push(format!("{}: {now}", node_name(at)));
        }
    }
    for at in 0..blocks {
        let to = u8::try_from(at).expect("few");
        if after.flushed[at] != before.flushed[at] {
            changes.push(format!("{} is flushed on {}", value(after.flushed[at]), block(to)));
        } else if after.floor[at] > before.floor[at] {
            changes.push(format!("{} can be read on {}", value(after.floor[at]), block(to)));
        }
    }
    if changes.is_empty() { said } else { format!("{said} ⇒ {}", changes.join("; ")) }
}

/// What there is to know of a node, as far as a step changes it.
fn node(nodes: usize, blocks: usize, node: &Node) -> String {
    let mut parts: Vec<String> = Vec::new();
    let disk: Vec<String> = node.blocks[..blocks]
        .iter()
        .map(|block| {
            let cached = if block.cached == 0 { "" } else { " (cached)" };
            format!("{}{cached}", value(block.seen))
        })
        .collect();
    parts.push(disk.join(" | "));
    if !node.whole {
        parts.push("inconsistent".into());
    }
    if node.hot != 0 {
        parts.push(format!("hot {}", set(node.hot, "")));
    }
    for (at, marks) in node.marks.iter().enumerate().take(nodes).filter(|(_, marks)| **marks != 0) {
        parts.push(format!("marked for {}: {}", node_name(at), set(*marks, "")));
    }
    if let Role::Leading(primary) = &node.role {
        for (at, peer) in primary.peers.iter().enumerate().take(nodes).filter(|(_, peer)| peer.known) {
            match peer.stage {
                Stage::Resyncing => parts.push(format!("resyncs {}", node_name(at))),
                Stage::Ending => parts.push(format!("ends the resync of {}", node_name(at))),
                Stage::Away | Stage::InSync => {}
            }
        }
    }
    parts.join(", ")
}
