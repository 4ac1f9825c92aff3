//! The backstop, every minute: looks at each cluster twice within seconds and does what no event has led to. Not the
//! detector: that is the standbys.

use crate::api::ApiError;
use crate::cloud::{Cloud, mark};
use crate::converge::{Deadline, Known, Network, converge, ready_standbys};
use crate::decide::{Hint, Sighting, acceptance_limit};
use crate::event::is_event;
use crate::failover::{Ending, run, run_without};
use crate::metrics::Measures;
use crate::observe::{Trouble, heartbeats};
use crate::report::{Moved, Story, account_of, record, tell, tell_completed, tell_incomplete};
use futures::future::join_all;
use lease::change::Change;
use lease::config::ClusterConfig;
use lease::events::{DriftCorrected, EVENT_VERSION, Event};
use lease::ids::{ClusterId, Epoch, NodeId, Nonce};
use lease::record::Row;
use lease::rules::Rule;
use lease::time::Millis;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// What a warm function remembers between visits: the requests to move that it has seen, and when first. A hint only:
/// a cold start forgets it, and then a request stands a minute longer.
#[derive(Debug, Default)]
pub struct Memory {
    intents: Mutex<BTreeMap<ClusterId, (Nonce, Millis)>>,
    /// The epochs that need no telling any more.
    told: Mutex<BTreeMap<ClusterId, Epoch>>,
}

/// How far back the beginning of an epoch is looked for, once for each epoch that a warm function meets. What lies further
/// back was told, or nobody waits for it any more.
const LOOK_BACK: usize = 50;

/// What one visit found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Visit {
    pub measures: Measures,
    /// In words, for the answer and the log.
    pub did: Vec<String>,
}

/// Visits every cluster. One cluster's failure does not stop the others.
pub async fn visit_all(
    cloud: &impl Cloud,
    clusters: &[ClusterId],
    memory: &Memory,
    deadline: Deadline,
) -> Vec<(ClusterId, Visit)> {
    let visits = clusters.iter().map(|cluster| async move {
        let visit = match visit(cloud, cluster, memory, deadline).await {
            Ok(visit) => visit,
            Err(error) => {
                tracing::error!(%cluster, %error, "the visit failed");
                let measures = Measures { failed_visits: 1, ..Measures::default() };
                Visit { measures, did: vec![format!("failed: {error}")] }
            }
        };
        (cluster.clone(), visit)
    });
    join_all(visits).await
}

/// Visits one cluster. What AWS does not answer is asked for again while time is left, but for the first read; the next
/// minute's visit takes up whatever this one could not.
///
/// # Errors
/// [`Trouble`] where the table or the network could not be read.
pub async fn visit(
    cloud: &impl Cloud,
    cluster: &ClusterId,
    memory: &Memory,
    deadline: Deadline,
) -> Result<Visit, Trouble> {
    let (first, config) = futures::try_join!(cloud.row(cluster), cloud.config(cluster))?;
    let config = config.ok_or_else(|| Trouble::NoCluster(cluster.clone()))?;
    let all = || heartbeats(cloud, &config);
    let before = deadline.insist(cloud, all).await?;
    // Long enough that every living node has beaten: the holder on the row, each in its heartbeat.
    let policy = &config.policy;
    cloud.sleep(Millis((policy.beat_ms.0 * 2).max(policy.heartbeat_ms.0 * 5 / 4) + 300)).await;
    let (row, after) = futures::try_join!(deadline.insist(cloud, || cloud.row(cluster)), deadline.insist(cloud, all))?;
    let mut visit =
        Visit { measures: measure(&config, first.as_ref(), row.as_ref(), &before, &after), did: Vec::new() };
    let Some(row) = row else {
        act(cloud, cluster, Hint::Look, BTreeSet::new(), deadline, &mut visit).await?;
        return Ok(visit);
    };
    // A nomination that stood for its whole time and that nobody drives any more.
    let stuck = stuck_nominee(cloud, &config, first.as_ref(), &row, deadline).await?;
    if let Some(nominee) = &stuck {
        visit.measures.stuck = 1;
        visit.did.push(format!("{nominee} did not accept its nomination"));
    }
    let place = |row: &Row| (row.epoch, row.beat);
    let stood = first.as_ref().map(place) == Some(place(&row));
    match (&row.holder, stood) {
        (None, _) => act(cloud, cluster, Hint::Look, stuck.into_iter().collect(), deadline, &mut visit).await?,
        (Some(_), true) => {
            let hint = Hint::StoodStill { epoch: row.epoch, beat: row.beat };
            act(cloud, cluster, hint, stuck.into_iter().collect(), deadline, &mut visit).await?;
        }
        (Some(_), false) => clear_old_intent(cloud, &config, &row, memory, &mut visit).await,
    }
    // Also while a holder is silent: until somebody else holds, everything shall lead to it.
    correct_drift(cloud, &config, first.as_ref(), memory, deadline, &mut visit).await?;
    Ok(visit)
}

async fn act(
    cloud: &impl Cloud,
    cluster: &ClusterId,
    hint: Hint,
    passed_over: BTreeSet<NodeId>,
    deadline: Deadline,
    visit: &mut Visit,
) -> Result<(), Trouble> {
    let answer = if passed_over.is_empty() {
        run(cloud, cluster, hint, deadline).await?
    } else {
        run_without(cloud, cluster, hint, passed_over, deadline).await?
    };
    if answer.outcome != Ending::Nothing {
        tracing::warn!(%cluster, rule = %answer.rule, outcome = ?answer.outcome, reason = %answer.reason, "no event led to this");
    }
    visit.did.push(format!("{} {}: {}", answer.rule, answer.says, answer.reason));
    Ok(())
}

fn measure(
    config: &ClusterConfig,
    first: Option<&Row>,
    row: Option<&Row>,
    before: &BTreeMap<NodeId, Sighting>,
    after: &BTreeMap<NodeId, Sighting>,
) -> Measures {
    let alive = |node: &NodeId| match (before.get(node), after.get(node)) {
        (Some(before), Some(after)) => after.seq > before.seq,
        (None, Some(_)) => true,
        _ => false,
    };
    let holder = row.and_then(|row| row.holder.as_ref());
    let standbys = config.nodes.iter().filter(|member| holder.is_none_or(|holder| holder.node != member.name));
    let in_sync = |member: &&lease::config::Member| {
        alive(&member.name)
            && after.get(&member.name).is_some_and(|sighting| {
                sighting.heartbeat.instance == member.instance
                    && row.is_some_and(|row| row.in_sync.contains(&sighting.heartbeat.incarnation))
            })
    };
    let place = |row: &Row| (row.epoch, row.beat);
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    Measures {
        in_sync_standbys: count(standbys.filter(in_sync).count()),
        stale_heartbeats: count(config.nodes.iter().filter(|member| !alive(&member.name)).count()),
        holder_silent: u64::from(holder.is_some() && first.map(place) == row.map(place)),
        nobody_holds: u64::from(holder.is_none()),
        paused: u64::from(row.is_some_and(|row| row.paused.is_some())),
        ..Measures::default()
    }
}

/// The nominee of a nomination that was there at the first look and still is once its whole time has passed.
async fn stuck_nominee(
    cloud: &impl Cloud,
    config: &ClusterConfig,
    first: Option<&Row>,
    row: &Row,
    deadline: Deadline,
) -> Result<Option<NodeId>, Trouble> {
    let (Some(was), Some(is)) = (first.and_then(Row::live_nominee), row.live_nominee()) else { return Ok(None) };
    if was != is {
        return Ok(None);
    }
    cloud.sleep(acceptance_limit(config, row.ttl_ms)).await;
    let later = deadline.insist(cloud, || cloud.row(&config.cluster)).await?;
    Ok(later.as_ref().and_then(Row::live_nominee).filter(|later| *later == is).map(|nominee| nominee.node.clone()))
}

/// A request to move whose function died would fire whenever the holder finds it possible: it is taken back once it has
/// stood longer than any hand-over may take.
async fn clear_old_intent(cloud: &impl Cloud, config: &ClusterConfig, row: &Row, memory: &Memory, visit: &mut Visit) {
    let now = cloud.elapsed();
    let old = {
        let mut intents = memory.intents.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // What its target has taken up already is cleared by that node.
        match row.open_intent() {
            None => {
                intents.remove(&config.cluster);
                None
            }
            Some(intent) => {
                let seen = intents.entry(config.cluster.clone()).or_insert_with(|| (intent.id.clone(), now));
                if seen.0 != intent.id {
                    *seen = (intent.id.clone(), now);
                }
                let limit = config.policy.handover_limit_ms.plus(Millis(5_000));
                (now.minus(seen.1) > limit).then(|| intent.clone())
            }
        }
    };
    let Some(intent) = old else { return };
    visit.measures.stuck = 1;
    let mut row = row.clone();
    let mut taken_back = false;
    for _ in 0..5 {
        // Not the row's request any more: it was taken up, or given up by the holder, who told so.
        let Ok(write) = (Change::ClearIntent { id: intent.id.clone() }).on(&row, mark(cloud)) else { return };
        match cloud.write(&write, Millis(1_500)).await {
            lease::outcome::Outcome::Applied(_) => {
                taken_back = true;
                break;
            }
            lease::outcome::Outcome::Refused { found: Some(found) } | lease::outcome::Outcome::Superseded { found } => {
                row = *found
            }
            other => {
                tracing::warn!(cluster = %config.cluster, outcome = ?other, "the request to move was not taken back; the next visit does");
                return;
            }
        }
    }
    if !taken_back {
        tracing::warn!(cluster = %config.cluster, "the row kept moving: the request to move is taken back by the next visit");
        return;
    }
    visit.did.push(format!("took back the request to move to {}: nobody took it", intent.to));
    let detail = json!({ "to": intent.to, "epoch": row.epoch, "reason": "taken back by watch: it stood longer than handover_limit_ms" });
    record(cloud, &config.cluster, "Move Not Taken", detail, None).await;
}

async fn correct_drift(
    cloud: &impl Cloud,
    config: &ClusterConfig,
    first: Option<&Row>,
    memory: &Memory,
    deadline: Deadline,
    visit: &mut Visit,
) -> Result<(), Trouble> {
    let story = Story::begin(cloud, None);
    let mut network = converge(cloud, config, Known::Nothing, deadline, &story).await?;
    // One that has begun meanwhile has a driver; so may this have had until now.
    if network.matches() && network.epoch == first.map(|row| row.epoch) {
        tell_untold(cloud, config, &network, memory, &story, visit).await;
    }
    match ready_standbys(cloud, config, network.holder.as_ref(), deadline, &story).await {
        Ok(standbys) => {
            network.changed.extend(standbys.changed);
            network.failed.extend(standbys.failed);
            network.problems.extend(standbys.problems);
        }
        // Not the reason to be silent about what has been done.
        Err(error) => network.failed.push(format!("the standbys' interfaces: {error}")),
    }
    visit.measures.routes_corrected = u64::try_from(network.changed.len()).unwrap_or(u64::MAX);
    let left = network.failed.len() + network.problems.len();
    visit.measures.network_problems = u64::try_from(left).unwrap_or(u64::MAX);
    if network.holder.is_some() && left > 0 {
        // It stands until somebody puts it right: once in the log and on the bus, each minute in the metric.
        let told_now = tell_incomplete(cloud, &config.cluster, &network, None).await;
        for problem in network.problems.iter().chain(&network.failed) {
            if told_now {
                tracing::warn!(cluster = %config.cluster, %problem, "the network does not match");
            }
            visit.did.push(problem.clone());
        }
    }
    let (Some(epoch), false) = (network.epoch, network.changed.is_empty()) else { return Ok(()) };
    visit.did.extend(network.changed.iter().map(|change| format!("corrected {change}")));
    let event = Event::DriftCorrected(DriftCorrected {
        v: EVENT_VERSION,
        cluster: config.cluster.clone(),
        epoch,
        changes: network.changed,
    });
    tell(cloud, event, Some(json!({ "holder": network.holder }))).await;
    Ok(())
}

/// A move whose driver died after its last route, or that this visit has completed, is told: each leaves a timeline.
async fn tell_untold(
    cloud: &impl Cloud,
    config: &ClusterConfig,
    network: &Network,
    memory: &Memory,
    story: &Story,
    visit: &mut Visit,
) {
    let (Some(epoch), Some(holder)) = (network.epoch, network.holder.clone()) else { return };
    if memory.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&config.cluster) == Some(&epoch) {
        return;
    }
    let Some(account) = account_of(cloud, &config.cluster, epoch, LOOK_BACK).await else { return };
    if account.is_untold(&holder) {
        story.step(cloud, format!("everything leads to {holder}, found by watch"));
        let (rule, began) = match &account.began {
            Some(began) => (began.rule, began.reason.clone()),
            None => (Rule::R120, "no function began it".to_owned()),
        };
        let reason = format!("{began}; told by watch: whoever moved to epoch {epoch} did not come to tell it");
        let moved = Moved { rule, reason, from: account.from(), to: holder.clone(), epoch };
        tell_completed(cloud, &config.cluster, story.timeline(cloud, moved)).await;
        visit.did.push(format!("told that the move to {holder}, epoch {epoch}, is completed"));
    }
    memory.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(config.cluster.clone(), epoch);
}

/// The visits as the function answers them.
#[must_use]
pub fn answer(visits: &[(ClusterId, Visit)]) -> Value {
    let told = visits.iter().map(|(cluster, visit)| (cluster.to_string(), json!({ "did": visit.did })));
    json!({ "clusters": Value::Object(told.collect()) })
}

/// The same for Lambda: a schedule's tick fails if a visit did, so that the failure is seen; by hand it is an answer.
///
/// # Errors
/// [`ApiError`] naming the visits that failed. The others were made.
pub fn told(tick: &Value, visits: &[(ClusterId, Visit)]) -> Result<Value, ApiError> {
    let failed: Vec<_> = visits
        .iter()
        .filter(|(_, visit)| visit.measures.failed_visits > 0)
        .map(|(cluster, visit)| format!("{cluster}: {}", visit.did.join("; ")))
        .collect();
    if failed.is_empty() || !is_event(tick) {
        return Ok(answer(visits));
    }
    Err(ApiError::unfinished(failed.join("; ")))
}

#[cfg(test)]
mod tests;
