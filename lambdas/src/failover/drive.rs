//! After the decision is in the row: wait until somebody takes the lease, meanwhile make the network ready, then make
//! it match.

use super::{Answer, Ending, holder_name};
use crate::cloud::{Cloud, CloudError, mark};
use crate::converge::{Deadline, Known, Network, converge, look_twice, prepare};
use crate::decide::{Decision, Hint, Observation, acceptance_limit};
use crate::observe::{Trouble, heartbeats};
use crate::report::{Moved, RECENT, Story, account_of, record, tell_completed, tell_incomplete};
use crate::topology::Topology;
use futures::future::{Either, select};
use lease::change::Change;
use lease::config::ClusterConfig;
use lease::ids::{Epoch, NodeId};
use lease::outcome::Outcome;
use lease::record::{Intent, Nominee, Row};
use lease::rules::Rule;
use lease::time::Millis;
use serde_json::json;
use std::pin::pin;

/// Between two reads of the row while somebody is about to take it.
const POLL: Millis = Millis(50);
/// The same after the first seconds of a slow hand-over.
const SLOW_POLL: Millis = Millis(200);
const SLOW_AFTER: Millis = Millis(5_000);
/// On top of the holder's own limit for a hand-over, so that it is the holder who gives up first and says why.
const HANDOVER_MARGIN: Millis = Millis(2_000);

/// How waiting for a nominee ended.
pub(super) enum Driven {
    Answered(Box<Answer>),
    /// It did not accept in its time; somebody else may.
    NotAccepted {
        nominee: NodeId,
        row: Option<Box<Row>>,
    },
}

/// Turns the end of a nomination into an answer, or into what the next decision must know.
pub(super) fn go_on(
    seen: &mut Observation,
    decision: &Decision,
    ended: Driven,
    last: &mut Option<Answer>,
) -> Option<Answer> {
    match ended {
        Driven::Answered(answer) => Some(*answer),
        Driven::NotAccepted { nominee, row } => {
            *last = Some(Answer::of(&seen.config.cluster, decision, Ending::OutOfTime));
            seen.gave_up_on.insert(nominee);
            // Without a later look the next write is refused, and shows the row.
            seen.row = row.map(|row| *row).or(seen.row.take());
            seen.heartbeats = None;
            None
        }
    }
}

/// What the row did while we watched it.
enum Waited {
    /// A later epoch has a holder.
    Taken(Row),
    /// The holder moved the beat: it is alive.
    Renewed,
    /// The holder's daemon took a new epoch: it is alive, and what was asked of the old epoch is void.
    Restarted(Row),
    /// An intent disappeared without the epoch having moved.
    Dropped(Row),
    TimedOut(Option<Row>),
}

/// Waits for `nominee` to take the lease and makes the network match.
pub(super) async fn nomination(
    cloud: &impl Cloud,
    seen: &Observation,
    decision: &Decision,
    row: &Row,
    nominee: &Nominee,
    deadline: Deadline,
    story: &Story,
) -> Result<Driven, Trouble> {
    let config = &seen.config;
    story.step(cloud, format!("{} nominated {} ({})", decision.rule, nominee.node, decision.reason));
    let limit = acceptance_limit(config, row.ttl_ms);
    let watch = wait(cloud, row, limit, deadline, |found| {
        if found.epoch == row.epoch && found.beat != row.beat { Some(Waited::Renewed) } else { None }
    });
    let (waited, topology) = while_preparing(cloud, config, &nominee.node, story, watch).await;
    match waited {
        Waited::Taken(taken) => {
            let answer = complete(cloud, seen, decision, row, &taken, topology, deadline, story).await;
            Ok(Driven::Answered(Box::new(answer)))
        }
        Waited::Renewed | Waited::Restarted(_) => {
            let reason = format!("{} renewed its lease; the nomination of {} is void", holder_name(row), nominee.node);
            let detail = json!({ "nominee": nominee.node, "epoch": row.epoch, "reason": reason });
            record(cloud, &config.cluster, "Nomination Void", detail, None).await;
            let answer = Answer::of(&config.cluster, decision, Ending::HolderReturned);
            Ok(Driven::Answered(Box::new(Answer { reason, ..answer })))
        }
        Waited::TimedOut(_) if deadline.left(cloud) == Millis::ZERO => {
            let answer = Answer::of(&config.cluster, decision, Ending::OutOfTime);
            Ok(Driven::Answered(Box::new(answer)))
        }
        Waited::TimedOut(found) => {
            story.step(cloud, format!("{} did not accept within {limit}", nominee.node));
            let detail = json!({ "nominee": nominee.node, "epoch": row.epoch, "within_ms": limit });
            record(cloud, &config.cluster, "Nomination Not Accepted", detail, None).await;
            Ok(Driven::NotAccepted { nominee: nominee.node.clone(), row: found.map(Box::new) })
        }
        Waited::Dropped(found) => Ok(Driven::NotAccepted { nominee: nominee.node.clone(), row: Some(Box::new(found)) }),
    }
}

/// Waits for the holder to hand over, or to give the request up, and makes the network match.
pub(super) async fn intent(
    cloud: &impl Cloud,
    seen: &Observation,
    decision: &Decision,
    row: &Row,
    intent: &Intent,
    deadline: Deadline,
    story: &Story,
) -> Result<Answer, Trouble> {
    let config = &seen.config;
    let limit = config.policy.handover_limit_ms.plus(HANDOVER_MARGIN);
    let watch = wait(cloud, row, limit, deadline, |found| {
        let gone = found.intent.as_ref().is_none_or(|other| other.id != intent.id);
        if found.epoch == row.epoch && gone { Some(Waited::Dropped(found.clone())) } else { None }
    });
    let (waited, topology) = while_preparing(cloud, config, &intent.to, story, watch).await;
    let (why, found) = match waited {
        Waited::Taken(taken) => {
            return Ok(complete(cloud, seen, decision, row, &taken, topology, deadline, story).await);
        }
        Waited::Dropped(found) => (format!("{} gave the request up", holder_name(row)), Some(found)),
        Waited::Restarted(found) => (format!("{} restarted and forgot the request", holder_name(row)), Some(found)),
        Waited::Renewed | Waited::TimedOut(None) => (format!("the request was not taken within {limit}"), None),
        Waited::TimedOut(Some(found)) => {
            clear(cloud, &found, intent).await;
            (format!("{} did not take the request within {limit}; it is cleared", holder_name(row)), Some(found))
        }
    };
    let facts = why_not(cloud, config, found.as_ref().unwrap_or(row), &intent.to).await;
    let reason = format!("{why}: {facts}");
    let detail = json!({ "to": intent.to, "epoch": row.epoch, "reason": reason });
    record(cloud, &config.cluster, "Move Not Taken", detail, None).await;
    let what = "read the log of the holder's daemon; the service goes on where it is".to_owned();
    let answer = Answer::of(&config.cluster, decision, Ending::NotTaken);
    Ok(Answer {
        reason,
        what_to_do: Some(what),
        timeline: Some(story.timeline(cloud, moved(seen, decision, row, row))),
        ..answer
    })
}

/// A request that nobody waits for must not fire later. Only this one is cleared; losing the race is as good.
async fn clear(cloud: &impl Cloud, row: &Row, intent: &Intent) {
    let mut row = row.clone();
    for _ in 0..5 {
        let Ok(write) = (Change::ClearIntent { id: intent.id.clone() }).on(&row, mark(cloud)) else { return };
        match cloud.write(&write, super::WRITE).await {
            Outcome::Refused { found: Some(found) } | Outcome::Superseded { found } => row = *found,
            Outcome::Applied(_) | Outcome::Refused { found: None } => return,
            Outcome::NotApplied { problem } | Outcome::Unknown { problem } => {
                tracing::warn!(cluster = %row.cluster, %problem, "the request may still stand");
                return;
            }
        }
    }
}

/// What the holder and the target say of themselves, for a request that was not taken.
async fn why_not(cloud: &impl Cloud, config: &ClusterConfig, row: &Row, to: &NodeId) -> String {
    let Ok(heartbeats) = heartbeats(cloud, config).await else { return "the nodes' heartbeats cannot be read".into() };
    let mut facts = Vec::new();
    if let Some(sighting) = row.holder.as_ref().and_then(|holder| heartbeats.get(&holder.node)) {
        facts.push(format!("{} is {}", sighting.heartbeat.node, sighting.heartbeat.role));
        for resource in &sighting.heartbeat.resources {
            let problem = resource.problem.as_ref().map_or_else(String::new, |problem| format!(" ({problem})"));
            facts.push(format!("its resource {} is {}{problem}", resource.name, resource.state));
        }
    }
    match heartbeats.get(to) {
        None => facts.push(format!("{to} has no heartbeat")),
        Some(sighting) if !row.in_sync.contains(&sighting.heartbeat.incarnation) => {
            facts.push(format!("{to} is no longer in sync"));
        }
        Some(sighting) => facts.push(format!("{to} is {} and in sync", sighting.heartbeat.role)),
    }
    facts.join(", ")
}

/// Watches the row until it is taken, until `judge` ends it, or until `limit` or the deadline.
async fn wait(
    cloud: &impl Cloud,
    from: &Row,
    limit: Millis,
    deadline: Deadline,
    judge: impl Fn(&Row) -> Option<Waited>,
) -> Waited {
    let began = cloud.elapsed();
    let mut last = None;
    loop {
        match cloud.row(&from.cluster).await {
            Ok(Some(found)) => {
                if found.epoch > from.epoch && found.holder.is_some() {
                    // A new epoch of the same node is a restart of its daemon, not a move.
                    let node = |row: &Row| row.holder.as_ref().map(|holder| holder.node.clone());
                    return if node(&found) == node(from) { Waited::Restarted(found) } else { Waited::Taken(found) };
                }
                if let Some(end) = judge(&found) {
                    return end;
                }
                last = Some(found);
            }
            Ok(None) => {}
            // The table may be back in time; the deadline is what ends this.
            Err(error) => tracing::warn!(cluster = %from.cluster, %error, "waiting"),
        }
        let waited = cloud.elapsed().minus(began);
        if waited >= limit || deadline.left(cloud) == Millis::ZERO {
            return Waited::TimedOut(last);
        }
        cloud.sleep(if waited > SLOW_AFTER { SLOW_POLL } else { POLL }).await;
    }
}

/// Runs `watch` and meanwhile discovers the network and makes `node` ready. The wait's end does not wait for discovery.
async fn while_preparing(
    cloud: &impl Cloud,
    config: &ClusterConfig,
    node: &NodeId,
    story: &Story,
    watch: impl Future<Output = Waited>,
) -> (Waited, Option<Topology>) {
    let ready = |found: Result<Topology, CloudError>| match found {
        Ok(topology) => Some(topology),
        Err(error) => {
            tracing::warn!(cluster = %config.cluster, %error, "the network could not be looked at yet");
            None
        }
    };
    match select(pin!(watch), pin!(prepare(cloud, config, node, story))).await {
        Either::Left((waited, _)) => (waited, None),
        Either::Right((topology, watch)) => (watch.await, ready(topology)),
    }
}

/// The lease is taken: the network follows, and everybody is told.
#[allow(clippy::too_many_arguments, reason = "the whole of one run comes together here, and nowhere else")]
async fn complete(
    cloud: &impl Cloud,
    seen: &Observation,
    decision: &Decision,
    before: &Row,
    taken: &Row,
    topology: Option<Topology>,
    deadline: Deadline,
    story: &Story,
) -> Answer {
    let config = &seen.config;
    story.step(cloud, format!("{} accepted, epoch {}", holder_name(taken), taken.epoch));
    if taken.activated {
        story.step(cloud, format!("{} active", holder_name(taken)));
    }
    let moved = moved(seen, decision, before, taken);
    let known = topology.map_or(Known::Nothing, Known::BeforeMove);
    let network = settle(cloud, config, known, moved, deadline, story).await;
    match network {
        Ok((network, timeline)) => {
            let outcome = if network.matches() { Ending::Completed } else { Ending::Incomplete };
            let answer = Answer::of(&config.cluster, decision, outcome);
            Answer { timeline: Some(timeline), network: Some(network), ..answer }
        }
        Err(error) => {
            tracing::error!(cluster = %config.cluster, %error, "the network does not follow yet; left to the next run");
            let answer = Answer::of(&config.cluster, decision, Ending::from(&error));
            Answer { reason: format!("{}; then {error}", decision.reason), ..answer }
        }
    }
}

/// Makes the network match, tells that it does, and looks again twice.
pub(super) async fn settle(
    cloud: &impl Cloud,
    config: &ClusterConfig,
    known: Known,
    moved: Moved,
    deadline: Deadline,
    story: &Story,
) -> Result<(Network, lease::events::Timeline), CloudError> {
    let network = converge(cloud, config, known, deadline, story).await?;
    story.step(cloud, in_words(&network));
    let epoch = network.epoch.unwrap_or(moved.epoch);
    let mut from = moved.from;
    if from.is_none() && moved.rule != Rule::R050 {
        from = account_of(cloud, &config.cluster, epoch, RECENT).await.and_then(|account| account.from());
    }
    let moved = Moved { epoch, from, to: network.holder.clone().unwrap_or(moved.to), ..moved };
    let timeline = story.timeline(cloud, moved);
    if network.matches() {
        tell_completed(cloud, &config.cluster, timeline.clone()).await;
    } else {
        tell_incomplete(cloud, &config.cluster, &network, Some(timeline.clone())).await;
    }
    let mut network = network;
    let looked = match look_twice(cloud, config, deadline, story).await {
        Ok(looked) => looked,
        // What EC2 acknowledged stands; `watch` looks within a minute.
        Err(error) => {
            tracing::warn!(cluster = %config.cluster, %error, "not looked at again");
            return Ok((network, timeline));
        }
    };
    if !looked.changed.is_empty() {
        tracing::info!(cluster = %config.cluster, changed = ?looked.changed, "put right after a second look");
        network.changed.extend(looked.changed.iter().cloned());
        network.routes += looked.routes;
    }
    if looked.epoch.is_some() {
        network.epoch = looked.epoch;
        network.holder = looked.holder;
        network.failed = looked.failed;
        network.problems = looked.problems;
    }
    Ok((network, timeline))
}

fn in_words(network: &Network) -> String {
    let holder = network.holder.as_ref().map_or("nobody", NodeId::as_str);
    match (network.routes, network.failed.len() + network.problems.len()) {
        (routes, 0) => format!("{routes} routes moved: all lead to {holder}"),
        (routes, left) => format!("{routes} routes moved to {holder}, {left} left"),
    }
}

fn moved(seen: &Observation, decision: &Decision, before: &Row, taken: &Row) -> Moved {
    // Who has let go of the lease is in the row no more, but in the event that said so.
    let released = match &seen.hint {
        Hint::Released { node, .. } => Some(node.clone()),
        _ => None,
    };
    Moved {
        rule: decision.rule,
        reason: decision.reason.clone(),
        from: before.holder.as_ref().map(|holder| holder.node.clone()).or(released),
        to: taken
            .holder
            .as_ref()
            .map_or_else(|| NodeId::new("nobody").expect("a valid name"), |holder| holder.node.clone()),
        epoch: if taken.epoch == Epoch(0) { before.epoch } else { taken.epoch },
    }
}
