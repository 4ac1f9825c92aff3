//! R400 and R410: what an operator asks for by hand.

use super::asynchronous;
use super::candidates::{Candidate, Life, standbys, unmoved};
use super::rules::{heartbeat_look, members_told, proof_of_death, target_of_move};
use super::{Action, Decision, Missing, Observation, block, look_again};
use lease::ids::NodeId;
use lease::record::{Holder, Intent, Nominee, Row};
use lease::rules::Rule;
use lease::time::Millis;

const R400: Rule = Rule::R400;
const R410: Rule = Rule::R410;

/// R400: an intent, which the holder carries out.
pub(super) fn switchover(seen: &Observation, row: &Row, to: Option<&NodeId>, reason: &str) -> Decision {
    let Some(holder) = &row.holder else {
        return block(
            R400,
            "nobody holds the lease".into(),
            "start the nodes; an in-sync one is nominated as soon as it joins",
        );
    };
    if let Some(intent) = row.open_intent() {
        let why = format!("a move to {} is under way already ({})", intent.to, intent.reason);
        return block(R400, why, "wait for it; it ends or is cleared within handover_limit_ms");
    }
    if !row.activated {
        let why = format!("{} has taken epoch {} and is not active yet", holder.node, row.epoch);
        return block(R400, why, "ask again once status says it is active");
    }
    let target = match to {
        None => match target_of_move(seen, row, R400) {
            Ok((to, notes)) => Ok((to, notes)),
            Err(decision) => return *decision,
        },
        Some(to) => named_target(seen, row, holder, to),
    };
    match target {
        Ok((to, notes)) => {
            let intent = Intent { id: seen.marks.intent.clone(), to, rule: R400, reason: reason.into() };
            Decision { rule: R400, reason: reason.into(), action: Action::Intend(intent), notes }
        }
        Err(decision) => *decision,
    }
}

fn named_target(
    seen: &Observation,
    row: &Row,
    holder: &Holder,
    to: &NodeId,
) -> Result<(NodeId, Vec<String>), Box<Decision>> {
    let refuse = |why: String, what: &str| Err(Box::new(block(R400, why, what)));
    if let Some(refusal) = not_a_member(seen, to, R400) {
        return Err(Box::new(refusal));
    }
    if holder.node == *to {
        return refuse(format!("{to} holds the lease already"), "nothing: it serves, see status");
    }
    if seen.heartbeats.is_none() {
        return Err(Box::new(look_again(R400, "is the target alive and in sync?", Missing::Heartbeats)));
    }
    let (all, notes) = standbys(seen, row);
    let Some(target) = all.iter().find(|candidate| candidate.node() == to) else {
        return refuse(format!("{to} has no heartbeat that can be believed"), "start its daemon, and look at its log");
    };
    if !target.in_sync || !target.whole() {
        let why = format!("{to} is not in sync ({}){}", members_told(row), asynchronous::lag_told(target));
        let what =
            if target.is_asynchronous() { asynchronous::MAKE_SYNC } else { "wait until it is; status shows when" };
        return refuse(why, what);
    }
    match target.life {
        Life::Dead => {
            refuse(format!("{to} is not alive: its heartbeat stands still"), "start its daemon, and look at its log")
        }
        Life::Doubtful => {
            let missing = Missing::Movement { nodes: unmoved([target]), within: heartbeat_look(&seen.config) };
            Err(Box::new(look_again(R400, "is the target alive?", missing)))
        }
        Life::Fresh | Life::Proven => Ok((to.clone(), notes)),
    }
}

/// What the operator accepts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub accept_data_loss: bool,
    pub force_stop: bool,
}

/// R410: a nomination with proof of death, where nobody would be nominated by the automatic rules.
pub(super) fn force(seen: &Observation, row: &Row, to: Option<&NodeId>, wish: Wish, reason: &str) -> Decision {
    if let Some(refusal) = to.and_then(|to| not_a_member(seen, to, R410)) {
        return refusal;
    }
    if seen.heartbeats.is_none() {
        return look_again(R410, "who could take over?", Missing::Heartbeats);
    }
    let (all, notes) = standbys(seen, row);
    let with_notes = |decision: Decision| Decision { notes: notes.clone(), ..decision };
    // 1. The target, before anything is stopped for it.
    let target = match forced_target(&all, seen, row, to, wish) {
        Ok(target) => target,
        Err(decision) => return with_notes(*decision),
    };
    // 2. The holder: nobody may fail over from one that is well, or that might still write.
    let mut proof = None;
    if let Some(holder) = &row.holder {
        if holder.node == *target.node() {
            return with_notes(block(R410, format!("{} holds the lease", holder.node), "name another node"));
        }
        let Some(moves) = seen.row_moves else {
            let within = Millis(seen.config.policy.beat_ms.0 * 2 + 500);
            return with_notes(look_again(R410, "is the holder alive?", Missing::RowMovement { within }));
        };
        let ailing = seen
            .heartbeats
            .as_ref()
            .and_then(|all| all.get(&holder.node))
            .is_some_and(|sighting| sighting.heartbeat.resources.iter().any(|resource| resource.state == "failed"));
        if moves && row.activated && !ailing {
            let why = format!("holder {} is alive and well: it renews its lease", holder.node);
            return with_notes(block(R410, why, "use {\"action\":\"switchover\"}, which loses nothing"));
        }
        if seen.instances.is_none() {
            return with_notes(look_again(
                R410,
                "is the holder's instance dead?",
                Missing::Instances { after: Millis::ZERO },
            ));
        }
        proof = proof_of_death(seen, holder);
        if proof.is_none() {
            if wish.force_stop {
                let why = format!("{} must be stopped before {} may take over", holder.instance, target.node());
                return with_notes(Decision {
                    rule: R410,
                    reason: why,
                    action: Action::Stop(holder.instance.clone()),
                    notes: Vec::new(),
                });
            }
            let why =
                format!("no proof that {} of holder {} is dead; it might still serve", holder.instance, holder.node);
            let what = "stop or terminate it yourself and ask again, or add \"force_stop\":true and the function stops it first, where the deployment allows it";
            return with_notes(block(R410, why, what));
        }
    }
    let nominee = Nominee {
        node: target.node().clone(),
        incarnation: target.heartbeat.incarnation.clone(),
        epoch: row.epoch,
        beat: row.beat,
        rule: R410,
        reason: reason.into(),
        proof,
        lossy: !target.in_sync,
    };
    Decision { rule: R410, reason: reason.into(), action: Action::Nominate(nominee), notes }
}

fn forced_target<'a, 'b>(
    all: &'b [Candidate<'a>],
    seen: &Observation,
    row: &Row,
    to: Option<&NodeId>,
    wish: Wish,
) -> Result<&'b Candidate<'a>, Box<Decision>> {
    let usable = |candidate: &&Candidate<'_>| {
        to.is_none_or(|to| candidate.node() == to) && !seen.gave_up_on.contains(candidate.node())
    };
    // Without a name: one that can be opened, that loses nothing first, then the order of all choices.
    let mut fit: Vec<_> = all.iter().filter(usable).collect();
    fit.sort_by_key(|candidate| {
        (candidate.life == Life::Dead, !candidate.whole(), !candidate.in_sync, candidate.order())
    });
    let Some(target) = fit.first() else {
        let who = to.map_or("no other node".to_owned(), ToString::to_string);
        let why = format!("{who} has no heartbeat that can be believed");
        return Err(Box::new(block(R410, why, "start its daemon, and look at its log")));
    };
    let node = target.node();
    if !target.whole() {
        let why = format!("the data of {node} is not a whole image: nothing could be opened");
        let what = "name another node, roll it back if its undo log has the image of before the resync (leasehold volume rollback), or restore it from a snapshot";
        return Err(Box::new(block(R410, why, what)));
    }
    if !target.in_sync && !wish.accept_data_loss {
        let lag = asynchronous::lag_told(target);
        let why = format!("{node} is not in sync ({}): acknowledged writes would be lost{lag}", members_told(row));
        return Err(Box::new(block(R410, why, "add \"accept_data_loss\":true if that is what you want")));
    }
    match target.life {
        Life::Dead => {
            let why = format!("{node} is not alive: its heartbeat stands still");
            Err(Box::new(block(R410, why, "start its daemon, and look at its log")))
        }
        Life::Doubtful | Life::Fresh => {
            let missing = Missing::Movement { nodes: unmoved([*target]), within: heartbeat_look(&seen.config) };
            Err(Box::new(look_again(R410, "is the target alive?", missing)))
        }
        Life::Proven => Ok(target),
    }
}

fn not_a_member(seen: &Observation, node: &NodeId, rule: Rule) -> Option<Decision> {
    seen.config.member(node).is_none().then(|| {
        let known: Vec<_> = seen.config.nodes.iter().map(|member| member.name.to_string()).collect();
        let why = format!("{node} is not a node of cluster {}", seen.config.cluster);
        block(rule, why, format!("name one of: {}", known.join(", ")))
    })
}
