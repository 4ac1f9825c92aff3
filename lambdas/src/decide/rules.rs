//! The automatic rules. What each rests on is in [`lease::rules::Rule`].

use super::asynchronous;
use super::candidates::{Candidate, Life, standbys, unmoved};
use super::{Action, Decision, Described, Hint, Missing, Observation, block, launch, look_again, nothing};
use lease::change::{Founding, Terms};
use lease::config::ClusterConfig;
use lease::ids::{Beat, Epoch, NodeId};
use lease::record::{DeadState, Holder, Intent, Nominee, ProofOfDeath, Row};
use lease::rules::Rule;
use lease::time::Millis;
use std::collections::BTreeSet;

/// EC2's event comes before its descriptions agree (they are eventually consistent): so often, so far apart, we ask.
const INSTANCE_LOOKS: u32 = 12;
const INSTANCE_PAUSE: Millis = Millis(400);

/// How long to look for movement of a heartbeat: an interval, and what a slow write may take on top.
pub(super) fn heartbeat_look(config: &ClusterConfig) -> Millis {
    config.policy.heartbeat_ms.plus(Millis(config.policy.heartbeat_ms.0 / 4 + 100))
}

/// How long a nominee may take: its whole wait, the read that shows it the nomination, and a second for the writes.
#[must_use]
pub fn acceptance_limit(config: &ClusterConfig, ttl: Millis) -> Millis {
    config.policy.wait_for(ttl).plus(config.policy.row_read_ms).plus(Millis(1_000))
}

/// R050. There is no row: a node that is alive becomes the first holder.
pub(super) fn found(seen: &Observation) -> Decision {
    if seen.hint.is_by_hand() {
        let why = format!("cluster {} has no lease yet: none of its nodes has ever joined", seen.config.cluster);
        return block(Rule::R050, why, "start the nodes; the first that joins becomes the holder");
    }
    let Some(heartbeats) = &seen.heartbeats else {
        return look_again(Rule::R050, "no row yet: who is there?", Missing::Heartbeats);
    };
    let mut alive = Vec::new();
    let mut unsure = BTreeSet::new();
    let mut notes = Vec::new();
    for member in &seen.config.nodes {
        let Some(sighting) = heartbeats.get(&member.name) else { continue };
        if sighting.heartbeat.instance != member.instance {
            notes.push(format!("heartbeat of {}: from {}, not believed", member.name, sighting.heartbeat.instance));
        } else if !sighting.heartbeat.replica.consistent {
            notes.push(format!("{}: its data is not a whole image", member.name));
        } else if sighting.advanced == Some(true) || matches!(&seen.hint, Hint::Joined { node } if *node == member.name)
        {
            alive.push((member, &sighting.heartbeat));
        } else if sighting.advanced.is_none() {
            unsure.insert(member.name.clone());
        }
    }
    alive.sort_by_key(|(member, _)| (member.priority, member.name.clone()));
    // A node of lower priority waits for proof that none of higher priority is there.
    let first = alive.first().map(|(member, _)| (member.priority, member.name.clone()));
    unsure.retain(|node| {
        let priority = seen.config.member(node).map_or(u64::MAX, |member| member.priority);
        first.as_ref().is_none_or(|first| (priority, node.clone()) < *first)
    });
    if !unsure.is_empty() {
        let missing = Missing::Movement { nodes: unsure, within: heartbeat_look(&seen.config) };
        return Decision { notes, ..look_again(Rule::R050, "no row yet: who is alive?", missing) };
    }
    let Some((member, heartbeat)) = alive.first() else {
        return Decision { notes, ..nothing(Rule::R050, "no row yet, and no node is alive".into()) };
    };
    let reason = format!("{} is the first node of the cluster", member.name);
    let founding = Founding {
        cluster: seen.config.cluster.clone(),
        lineage: seen.marks.lineage.clone(),
        terms: Terms { ttl_ms: seen.config.policy.ttl_ms, lossy_ok: seen.config.policy.lossy_lag_limit_ms.is_some() },
        nominee: Nominee {
            node: member.name.clone(),
            incarnation: heartbeat.incarnation.clone(),
            epoch: Epoch(0),
            beat: Beat(0),
            rule: Rule::R050,
            reason: reason.clone(),
            proof: None,
            lossy: false,
        },
    };
    Decision { rule: Rule::R050, reason, action: Action::Found(founding), notes }
}

/// R250. Nobody holds: an in-sync node is told at once. There is nothing to wait for.
pub(super) fn released(seen: &Observation, row: &Row) -> Decision {
    if seen.heartbeats.is_none() {
        return look_again(Rule::R250, "nobody holds the lease: who can?", Missing::Heartbeats);
    }
    let (all, notes) = standbys(seen, row);
    let releaser = match &seen.hint {
        Hint::Released { node, .. } => Some(node),
        _ => None,
    };
    let mut fit: Vec<&Candidate<'_>> = all
        .iter()
        .filter(|candidate| candidate.in_sync && candidate.whole() && candidate.life != Life::Dead)
        .filter(|candidate| !seen.gave_up_on.contains(candidate.node()))
        .collect();
    fit.sort_by_key(|candidate| (Some(candidate.node()) == releaser, candidate.order()));
    if let Some(nominee) = row.live_nominee().filter(|nominee| !seen.gave_up_on.contains(&nominee.node)) {
        // It only has to accept, unless it is known to be dead. What speaks now may be better placed.
        let speaks = fit.iter().any(|candidate| candidate.life == Life::Proven && *candidate.node() != nominee.node);
        let alive = fit.iter().any(|candidate| *candidate.node() == nominee.node && candidate.life <= Life::Fresh);
        let unsure = fit.iter().any(|candidate| *candidate.node() == nominee.node && candidate.life == Life::Doubtful);
        if alive || (unsure && !speaks) {
            return Decision { notes, ..nothing(Rule::R120, format!("{} is nominated already", nominee.node)) };
        }
    }
    let Some(best) = fit.first() else {
        let why =
            format!("nobody holds the lease and no in-sync node is alive{} ({})", in_vain(seen), members_told(row));
        let why = why + &asynchronous::told(&all, seen, row);
        return Decision { notes, ..block(Rule::R230, why, asynchronous::way_out(&all, seen, row)) };
    };
    // A doubtful one is looked at first: a wrong choice costs the whole time that a nominee gets.
    if best.life == Life::Doubtful {
        let missing = Missing::Movement { nodes: unmoved(fit), within: heartbeat_look(&seen.config) };
        return Decision { notes, ..look_again(Rule::R250, "nobody holds the lease: who is alive?", missing) };
    }
    let reason = format!("nobody holds epoch {}; {} is in sync", row.epoch, best.node());
    nominate(row, best, Rule::R250, reason, None, notes)
}

/// R200. EC2 said that the holder's instance is gone; its description decides, and for which boot.
pub(super) fn gone(seen: &Observation, row: &Row, holder: &Holder, told: &str) -> Decision {
    let mut missing = Vec::new();
    if seen.heartbeats.is_none() {
        missing.push(Missing::Heartbeats);
    }
    if seen.instances.is_none() {
        missing.push(Missing::Instances { after: Millis::ZERO });
    }
    if !missing.is_empty() {
        let reason = format!("EC2 reports {} as {told}: is it so?", holder.instance);
        return Decision { rule: Rule::R200, reason, action: Action::LookAgain(missing), notes: Vec::new() };
    }
    let Some(proof) = proof_of_death(seen, holder) else {
        let state = described(seen, holder).map_or("unknown to EC2", |described| described.state.as_str());
        let reason = format!(
            "EC2 reported {} as {told}, its description says {state}; that is no proof for the boot that holds epoch {}",
            holder.instance, row.epoch
        );
        return if seen.instance_looks < INSTANCE_LOOKS && is_this_boot_or_unknown(seen, holder) {
            look_again(Rule::R200, &reason, Missing::Instances { after: INSTANCE_PAUSE })
        } else {
            nothing(Rule::R120, reason)
        };
    };
    let (all, notes) = standbys(seen, row);
    let stands = |nominee: &&Nominee| nominee.proof.is_some() && !seen.gave_up_on.contains(&nominee.node);
    if let Some(nominee) = row.live_nominee().filter(stands) {
        let reason = format!("{} is nominated with this proof already", nominee.node);
        return Decision { notes, ..nothing(Rule::R120, reason) };
    }
    let fit = fit(&all, seen);
    match fit.first() {
        Some(best) => {
            let reason =
                format!("EC2 says that {} of holder {} is {}", holder.instance, holder.node, dead_word(proof.state));
            nominate(row, best, Rule::R200, reason, Some(proof), notes)
        }
        None => nobody_in_sync(seen, row, holder, &all, Some(proof), notes),
    }
}

/// R210, R220, R230, R240: the row stands still.
///
/// One standby in sync that does not hear the holder is enough for R210, whatever the others hear. It is safe: a holder
/// that does not renew serves beyond its lease only while EVERY member promises, so it lost that right when it lost this
/// one; and a member that does hear it after all goes on promising, and does not accept on its nomination. It keeps the
/// service alive: R220 would leave it to nobody for as long as one member hears a holder that may not serve. With two
/// nodes the only standby's word decides, as ever.
pub(super) fn suspected(seen: &Observation, row: &Row, holder: &Holder) -> Decision {
    if seen.heartbeats.is_none() {
        return look_again(Rule::R210, "the row stands still: what do the standbys hear?", Missing::Heartbeats);
    }
    let (all, notes) = standbys(seen, row);
    // One that hears the holder: its word counts if it is alive to say it.
    let hearing: Vec<_> = all
        .iter()
        .filter(|candidate| candidate.in_sync && candidate.hears_holder && candidate.life != Life::Dead)
        .collect();
    let mut fit = fit(&all, seen);
    fit.retain(|candidate| !candidate.hears_holder);
    if fit.is_empty() {
        if let Some(hears) = hearing.iter().find(|candidate| candidate.life == Life::Proven) {
            let reason =
                format!("{} still hears {}: it is cut off from the table, not dead", hears.node(), holder.node);
            return Decision { notes, ..nothing(Rule::R220, reason) };
        }
        if !hearing.is_empty() {
            let missing = Missing::Movement { nodes: unmoved(hearing), within: heartbeat_look(&seen.config) };
            return Decision {
                notes,
                ..look_again(Rule::R220, "a standby says it hears the holder: is it alive?", missing)
            };
        }
    }
    if let Some(nominee) = row.live_nominee() {
        let gave_up = seen.gave_up_on.contains(&nominee.node);
        let had_its_time = gave_up
            || matches!(&seen.hint, Hint::Suspected { silent_ms, .. }
                if *silent_ms > acceptance_limit(&seen.config, row.ttl_ms));
        fit.retain(|candidate| *candidate.node() != nominee.node);
        // Whoever else drives that nomination tells when it comes to nothing; here only who has waited for it does.
        if !had_its_time || (fit.is_empty() && !gave_up) {
            return Decision {
                notes,
                ..nothing(Rule::R120, format!("{} is nominated for exactly this already", nominee.node))
            };
        }
    }
    if let Some(best) = fit.iter().find(|candidate| candidate.life == Life::Proven) {
        let reason =
            format!("{} neither sees the row move nor hears {}{}", best.node(), holder.node, silence(&seen.hint));
        return nominate(row, best, Rule::R210, reason, None, notes);
    }
    if !fit.is_empty() {
        // Also those that hear it: if nobody else is alive, it is their word that counts.
        let nodes = unmoved(fit.into_iter().chain(hearing));
        let missing = Missing::Movement { nodes, within: heartbeat_look(&seen.config) };
        return Decision { notes, ..look_again(Rule::R210, "the row stands still: which standby is alive?", missing) };
    }
    nobody_in_sync(seen, row, holder, &all, None, notes)
}

/// R300. The holder lives and asks to be relieved.
pub(super) fn relief(seen: &Observation, row: &Row, why: &str) -> Decision {
    if let Some(intent) = row.open_intent() {
        return nothing(Rule::R120, format!("a move to {} is under way already ({})", intent.to, intent.reason));
    }
    match target_of_move(seen, row, Rule::R300) {
        Ok((to, notes)) => {
            let intent = Intent { id: seen.marks.intent.clone(), to, rule: Rule::R300, reason: why.into() };
            Decision { rule: Rule::R300, reason: why.into(), action: Action::Intend(intent), notes }
        }
        Err(decision) => *decision,
    }
}

/// The standby that a live holder could hand over to, or the decision that there is none, or that more must be seen.
pub(super) fn target_of_move(
    seen: &Observation,
    row: &Row,
    rule: Rule,
) -> Result<(NodeId, Vec<String>), Box<Decision>> {
    if seen.heartbeats.is_none() {
        return Err(Box::new(look_again(rule, "who could take over?", Missing::Heartbeats)));
    }
    let (all, notes) = standbys(seen, row);
    let fit: Vec<_> = fit(&all, seen).into_iter().filter(|candidate| !candidate.ailing()).collect();
    match fit.first() {
        Some(best) if best.life <= Life::Fresh => Ok((best.node().clone(), notes)),
        Some(_) => {
            let missing = Missing::Movement { nodes: unmoved(fit), within: heartbeat_look(&seen.config) };
            Err(Box::new(Decision { notes, ..look_again(rule, "which standby is alive?", missing) }))
        }
        None => {
            let told = asynchronous::told(&all, seen, row);
            let why = format!("no standby that is in sync, alive and healthy ({}){told}", members_told(row));
            let what = if told.is_empty() {
                "bring a standby back in sync (leasehold status on it says what is missing); the holder goes on until then"
            } else {
                asynchronous::MAKE_SYNC
            };
            Err(Box::new(Decision { notes, ..block(rule, why, what) }))
        }
    }
}

/// In sync, whole, not known to be dead, and not tried in vain.
fn fit<'a, 'b>(all: &'b [Candidate<'a>], seen: &Observation) -> Vec<&'b Candidate<'a>> {
    all.iter()
        .filter(|candidate| candidate.in_sync && candidate.whole() && candidate.life != Life::Dead)
        .filter(|candidate| !seen.gave_up_on.contains(candidate.node()))
        .collect()
}

pub(super) const FORCE: &str = "bring an in-sync node back; or, giving up the writes that only it has, invoke \
                     {\"action\":\"failover\",\"to\":\"<node>\",\"accept_data_loss\":true}";

/// R240 where it is allowed, else R230.
fn nobody_in_sync(
    seen: &Observation,
    row: &Row,
    holder: &Holder,
    all: &[Candidate<'_>],
    proof: Option<ProofOfDeath>,
    notes: Vec<String>,
) -> Decision {
    let limit = seen.config.policy.lossy_lag_limit_ms.filter(|_| row.lossy_ok);
    if let Some(limit) = limit {
        let lag = |candidate: &Candidate<'_>| candidate.heartbeat.replica.lag_ms.unwrap_or(Millis(u64::MAX));
        let mut fit: Vec<&Candidate<'_>> = all
            .iter()
            .filter(|candidate| candidate.whole() && candidate.life != Life::Dead && lag(candidate) <= limit)
            .filter(|candidate| !candidate.hears_holder && !seen.gave_up_on.contains(candidate.node()))
            .collect();
        fit.sort_by_key(|candidate| (candidate.life.max(Life::Fresh), lag(candidate), candidate.order()));
        if let Some(nominee) = row.live_nominee().filter(|nominee| !seen.gave_up_on.contains(&nominee.node)) {
            return Decision {
                notes,
                ..nothing(Rule::R120, format!("{} is nominated for exactly this already", nominee.node))
            };
        }
        if let Some(best) = fit.iter().find(|candidate| candidate.life == Life::Proven) {
            let reason =
                format!("holder {} is silent; {} lags {}, allowed are {limit}", holder.node, best.node(), lag(best));
            return nominate(row, best, Rule::R240, reason, proof, notes);
        }
        if !fit.is_empty() {
            let missing = Missing::Movement { nodes: unmoved(fit), within: heartbeat_look(&seen.config) };
            return Decision { notes, ..look_again(Rule::R240, "which asynchronous standby is alive?", missing) };
        }
    }
    let why = format!(
        "holder {} is silent and no in-sync standby is alive{} ({}){}",
        holder.node,
        in_vain(seen),
        members_told(row),
        asynchronous::told(all, seen, row)
    );
    Decision { notes, ..block(Rule::R230, why, asynchronous::way_out(all, seen, row)) }
}

fn nominate(
    row: &Row,
    best: &Candidate<'_>,
    rule: Rule,
    reason: String,
    proof: Option<ProofOfDeath>,
    notes: Vec<String>,
) -> Decision {
    let nominee = Nominee {
        node: best.node().clone(),
        incarnation: best.heartbeat.incarnation.clone(),
        epoch: row.epoch,
        beat: row.beat,
        rule,
        reason: reason.clone(),
        proof,
        lossy: !best.in_sync,
    };
    Decision { rule, reason, action: Action::Nominate(nominee), notes }
}

/// AWS's word that the very boot which took this epoch no longer runs. `terminated` is for ever; `stopped` counts for the
/// launch that the row names, or a later one, which began after that had ended. Not for an earlier one: an instance that was
/// started again is described as stopped for a while.
pub(super) fn proof_of_death(seen: &Observation, holder: &Holder) -> Option<ProofOfDeath> {
    let described = described(seen, holder)?;
    let state = match described.state.as_str() {
        "terminated" => DeadState::Terminated,
        "stopped" if described.launched? >= launch::seconds(&holder.launched)? => DeadState::Stopped,
        _ => return None,
    };
    Some(ProofOfDeath { instance: holder.instance.clone(), state })
}

fn described<'a>(seen: &'a Observation, holder: &Holder) -> Option<&'a Described> {
    seen.instances.as_ref()?.get(&holder.instance)
}

/// Whether asking EC2 again could still give proof: not if it already describes a later launch.
fn is_this_boot_or_unknown(seen: &Observation, holder: &Holder) -> bool {
    match (described(seen, holder).and_then(|described| described.launched), launch::seconds(&holder.launched)) {
        (Some(described), Some(held)) => described <= held,
        (None, _) => true,
        (Some(_), None) => false,
    }
}

pub(super) fn dead_word(state: DeadState) -> &'static str {
    match state {
        DeadState::Stopped => "stopped",
        DeadState::Terminated => "terminated",
    }
}

/// Who was nominated in this run and did not accept.
fn in_vain(seen: &Observation) -> String {
    let names: Vec<_> = seen.gave_up_on.iter().map(NodeId::as_str).collect();
    if names.is_empty() { String::new() } else { format!("; nominated in vain: {}", names.join(", ")) }
}

fn silence(hint: &Hint) -> String {
    match hint {
        Hint::Suspected { silent_ms, .. } => format!(" for {silent_ms}"),
        _ => String::new(),
    }
}

/// The in-sync set in words.
pub(super) fn members_told(row: &Row) -> String {
    let members: Vec<_> = row.in_sync.iter().map(ToString::to_string).collect();
    format!("in sync: {}", members.join(", "))
}
