//! Carrying out what wakes `failover`, each to its JSON answer, or to the failure that Lambda is to see.

use crate::api::{Action, ApiError, Request, refused};
use crate::cloud::{Cloud, CloudError, mark};
use crate::converge::Deadline;
use crate::decide::Hint;
use crate::event::{Waking, is_event, understand};
use crate::failover::{Answer, Ending, follow, run};
use crate::observe::Trouble;
use crate::report::record;
use crate::{dry_run, status};
use futures::future::join_all;
use lease::change::{Change, Refusal, Write};
use lease::ids::{ClusterId, InstanceId};
use lease::outcome::Outcome;
use lease::record::{Pause, Row};
use lease::rules::Rule;
use lease::time::Millis;
use serde_json::{Value, json};

/// Handles one payload of `failover`. Always answers; what could not be done says so.
pub async fn handle(cloud: &impl Cloud, clusters: &[ClusterId], payload: &Value, deadline: Deadline) -> Value {
    invoked(cloud, clusters, payload, deadline).await.unwrap_or_else(|error| error.to_json())
}

/// The same for Lambda: whoever asks by hand gets an answer, whatever it is; an event whose work could not be done fails
/// its invocation, and so ends in the queue of failures instead of in an answer that nobody reads.
///
/// # Errors
/// [`ApiError`] for an event that could not be understood, or whose work was not done or not finished.
pub async fn invoked(
    cloud: &impl Cloud,
    clusters: &[ClusterId],
    payload: &Value,
    deadline: Deadline,
) -> Result<Value, ApiError> {
    let answer = match understand(payload) {
        Ok(waking) => act(cloud, clusters, waking, deadline).await,
        Err(error) => Err(error),
    };
    match answer {
        Err(error) if !is_event(payload) => {
            tracing::error!(code = error.code, message = %error.message, "refused");
            Ok(error.to_json())
        }
        Err(error) => {
            tracing::error!(code = error.code, message = %error.message, "the event's work is not done");
            Err(error)
        }
        answered => answered,
    }
}

async fn act(
    cloud: &impl Cloud,
    clusters: &[ClusterId],
    waking: Waking,
    deadline: Deadline,
) -> Result<Value, ApiError> {
    let said = |cluster: &ClusterId, result: Result<Answer, Trouble>| match result {
        Ok(answer) => of_event(&answer),
        Err(error) => Err(trouble(error, cluster, clusters)),
    };
    match waking {
        Waking::Ignored { what } => Ok(json!({ "outcome": "nothing", "reason": format!("{what} asks for nothing") })),
        Waking::Hint { cluster, hint } => {
            said(&cluster, patiently(cloud, deadline, || run(cloud, &cluster, hint.clone(), deadline)).await)
        }
        Waking::Accepted { cluster, rule, holder, epoch } => {
            said(&cluster, patiently(cloud, deadline, || follow(cloud, &cluster, rule, &holder, epoch, deadline)).await)
        }
        Waking::Instances(hints) => {
            let found = deadline.insist(cloud, || owners(cloud, clusters, &hints)).await;
            let owned = found.map_err(|error| ApiError::unavailable(error.to_string()))?;
            if owned.is_empty() {
                let told: Vec<_> = hints.iter().map(|(instance, _)| instance.as_str()).collect();
                let reason = format!("no cluster of this deployment has {}", told.join(", "));
                return Ok(json!({ "outcome": "nothing", "reason": reason }));
            }
            // All at once: two nodes of one cluster must not hand over to each other in turn.
            let runs = owned.iter().map(|(cluster, hint)| async {
                let ran = patiently(cloud, deadline, || run(cloud, cluster, hint.clone(), deadline)).await;
                said(cluster, ran)
            });
            all_of(join_all(runs).await)
        }
        Waking::Request(request) => by_hand(cloud, clusters, request, deadline).await,
    }
}

/// Begins a run again while AWS cannot be read and time is left: nobody else will take this hint up. Whatever a run did
/// before it failed, the next one finds in the row.
async fn patiently<F: Future<Output = Result<Answer, Trouble>>>(
    cloud: &impl Cloud,
    deadline: Deadline,
    run: impl Fn() -> F,
) -> Result<Answer, Trouble> {
    const PAUSE: Millis = Millis(1_000);
    const LAST_TRY: Millis = Millis(5_000);
    loop {
        match run().await {
            Err(Trouble::Cloud(error)) if deadline.left(cloud) > LAST_TRY => {
                tracing::warn!(%error, "beginning again");
                cloud.sleep(PAUSE).await;
            }
            ended => return ended,
        }
    }
}

/// The answer of several clusters' runs: a failure if one of them failed.
fn all_of(mut runs: Vec<Result<Value, ApiError>>) -> Result<Value, ApiError> {
    if runs.len() == 1 {
        return runs.remove(0);
    }
    let (done, failed): (Vec<_>, Vec<_>) = runs.into_iter().partition(Result::is_ok);
    let mut failed: Vec<ApiError> = failed.into_iter().filter_map(Result::err).collect();
    if failed.is_empty() {
        return Ok(json!({ "clusters": done.into_iter().flatten().collect::<Vec<_>>() }));
    }
    let messages: Vec<_> = failed.iter().map(|error| error.message.clone()).collect();
    Err(ApiError { message: messages.join("; "), ..failed.remove(0) })
}

/// The answer to an event goes to a log, if anywhere: the decision in short.
fn of_event(answer: &Answer) -> Result<Value, ApiError> {
    tracing::info!(
        cluster = %answer.cluster, rule = %answer.rule, outcome = ?answer.outcome, reason = %answer.reason, "decided"
    );
    match answer.outcome {
        Ending::Incomplete | Ending::OutOfTime => Err(ApiError::unfinished(unfinished(answer))),
        Ending::Nothing | Ending::Blocked | Ending::HolderReturned | Ending::NotTaken | Ending::Completed => {
            Ok(json!(answer))
        }
    }
}

fn unfinished(answer: &Answer) -> String {
    let end = if answer.outcome == Ending::OutOfTime { "out of time" } else { "the network does not match yet" };
    let mut message = format!("{}: {}: {}: {end}", answer.cluster, answer.rule, answer.reason);
    let network = answer.network.iter();
    for left in network.flat_map(|network| network.failed.iter().chain(&network.problems)) {
        message.push_str("; ");
        message.push_str(left);
    }
    message
}

/// The clusters that these instances are nodes of, each with the hint: one machine may run a daemon for each of several.
async fn owners(
    cloud: &impl Cloud,
    clusters: &[ClusterId],
    hints: &[(InstanceId, Hint)],
) -> Result<Vec<(ClusterId, Hint)>, CloudError> {
    let configs = join_all(clusters.iter().map(|cluster| cloud.config(cluster))).await;
    let mut found = Vec::new();
    let mut unreadable = None;
    for config in configs {
        match config {
            Ok(Some(config)) => {
                let ours = |instance: &InstanceId| config.nodes.iter().any(|node| node.instance == *instance);
                let of_ours = hints.iter().filter(|(instance, _)| ours(instance));
                found.extend(of_ours.map(|(_, hint)| (config.cluster.clone(), hint.clone())));
            }
            Ok(None) => {}
            // Another cluster's bad configuration must not keep this one from being served.
            Err(error) => unreadable = Some(error),
        }
    }
    match unreadable {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

async fn by_hand(
    cloud: &impl Cloud,
    clusters: &[ClusterId],
    request: Request,
    deadline: Deadline,
) -> Result<Value, ApiError> {
    let cluster = &request.cluster;
    let trouble = |error: Trouble| trouble(error, cluster, clusters);
    match request.action {
        Action::Status => status::status(cloud, cluster).await.map_err(trouble),
        Action::Plan { to } => dry_run::plan(cloud, cluster, to.as_ref(), deadline).await.map_err(trouble)?,
        Action::Switchover { to, reason } => {
            let hint = Hint::Switchover { to, reason };
            run(cloud, cluster, hint, deadline).await.map(|answer| of_request(&answer)).map_err(trouble)
        }
        Action::Failover { to, accept_data_loss, force_stop, reason } => {
            let hint = Hint::Force { to, accept_data_loss, force_stop, reason };
            run(cloud, cluster, hint, deadline).await.map(|answer| of_request(&answer)).map_err(trouble)
        }
        Action::Pause { reason } => {
            let pause = Change::Pause(Pause { reason: reason.clone() });
            let row = change(cloud, cluster, &pause, deadline).await.map_err(trouble)?;
            Ok(paused(cloud, cluster, row, true, &reason).await)
        }
        Action::Resume => {
            let row = change(cloud, cluster, &Change::Resume, deadline).await.map_err(trouble)?;
            Ok(paused(cloud, cluster, row, false, "").await)
        }
        Action::History { limit } => {
            if cloud.config(cluster).await.map_err(|error| trouble(error.into()))?.is_none() {
                return Err(ApiError::unknown_cluster(cluster, clusters));
            }
            let found = cloud.history(cluster, limit).await.map_err(|error| trouble(error.into()))?;
            let events: Vec<Value> = found
                .into_iter()
                .map(|(time, id, detail)| {
                    let mut event = json!({ "time": time, "id": id });
                    if let (Some(event), Value::Object(detail)) = (event.as_object_mut(), detail) {
                        event.extend(detail);
                    }
                    event
                })
                .collect();
            Ok(json!({ "cluster": cluster, "events": events }))
        }
    }
}

fn of_request(answer: &Answer) -> Value {
    tracing::info!(
        cluster = %answer.cluster, rule = %answer.rule, outcome = ?answer.outcome, reason = %answer.reason, "decided by hand"
    );
    if answer.outcome == Ending::Blocked {
        return refused(answer.rule, &answer.reason, answer.what_to_do.as_deref().unwrap_or("see status"));
    }
    json!(answer)
}

fn trouble(error: Trouble, cluster: &ClusterId, clusters: &[ClusterId]) -> ApiError {
    match error {
        Trouble::NoCluster(_) => ApiError::unknown_cluster(cluster, clusters),
        Trouble::Cloud(error) if error.is_passing() => ApiError::unavailable(error.to_string()),
        Trouble::Cloud(error) => ApiError::unusable(error.to_string()),
    }
}

/// Applies a change that holds on any row, however it moves meanwhile: a holder writes more than once a second.
/// Once something may have been written, the row is read until it tells.
async fn change(
    cloud: &impl Cloud,
    cluster: &ClusterId,
    change: &Change,
    deadline: Deadline,
) -> Result<Result<Row, String>, Trouble> {
    const BUDGET: Millis = Millis(1_500);
    let (row, config) = futures::try_join!(cloud.row(cluster), cloud.config(cluster))?;
    if config.is_none() {
        return Err(Trouble::NoCluster(cluster.clone()));
    }
    let mut row = row;
    let mut unanswered: Vec<Write> = Vec::new();
    let mut last = String::new();
    for _ in 0..10 {
        let Some(found) = row else {
            return Ok(Err(format!("cluster {cluster} has no lease yet: none of its nodes has ever joined")));
        };
        if unanswered.iter().any(|write| is_in(write, &found)) {
            return Ok(Ok(found));
        }
        let write = match change.on(&found, mark(cloud)) {
            Ok(write) => write,
            Err(Refusal::AlreadyPaused { reason }) => return Ok(Err(format!("it is paused already: {reason}"))),
            Err(refusal) => return Ok(Err(refusal.to_string())),
        };
        row = match cloud.write(&write, BUDGET).await {
            Outcome::Applied(row) => return Ok(Ok(*row)),
            Outcome::Refused { found } => found.map(|row| *row),
            Outcome::Superseded { found } => {
                unanswered.push(write);
                Some(*found)
            }
            Outcome::NotApplied { problem } => {
                last = problem;
                deadline.insist(cloud, || cloud.row(cluster)).await?
            }
            Outcome::Unknown { problem } => {
                unanswered.push(write);
                last = problem;
                deadline.insist(cloud, || cloud.row(cluster)).await?
            }
        };
    }
    let message = format!("the row kept moving, or did not answer: {last}; status shows whether it was done");
    Err(Trouble::Cloud(CloudError::Table { message, passing: true }))
}

/// Whether `found` shows that this pause or resume, whose answer was lost, was applied: by its mark, or, once somebody
/// has written since, by what it asked for. Somebody else's same wish in between cannot be told from it then, and makes
/// no difference to who asked. A stranger's mark in the very place of the write proves that it was not applied.
fn is_in(write: &Write, found: &Row) -> bool {
    found.nonce == write.row.nonce || (found.rev > write.row.rev && found.paused == write.row.paused)
}

async fn paused(cloud: &impl Cloud, cluster: &ClusterId, row: Result<Row, String>, pause: bool, reason: &str) -> Value {
    match row {
        Ok(row) => {
            let kind = if pause { "Paused" } else { "Resumed" };
            record(cloud, cluster, kind, json!({ "reason": reason, "epoch": row.epoch }), None).await;
            json!({ "cluster": cluster, "paused": pause, "reason": reason })
        }
        Err(why) => refused(if pause { Rule::R100 } else { Rule::R120 }, &why, "see status"),
    }
}
