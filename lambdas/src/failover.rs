//! One run: from a hint to a network that matches the lease.
//!
//! ```text
//!  hint ─▶ look ─▶ decide ─▶ nothing / blocked ─▶ told, done
//!           ▲        │
//!           │        ├─▶ nominate ─▶ tell ┐
//!           │        ├─▶ intend          ├─▶ wait for the row to be taken ─▶ make the network match ─▶ tell
//!           │        └─▶ found            │   (meanwhile: discover, make the destination ready)
//!           └──── refused, or not taken ◀─┘
//! ```
//!
//! The run may die after any of these: the row says what has been decided, and the next hint or `watch` goes on from it.
//!
//! It does not end for a read that fails in passing ([`Deadline::insist`]). When its time is over:
//!
//! | run by | before anything is written | once it has nominated or asked | once the lease has moved |
//! |---|---|---|---|
//! | an event | begun again while time is left; then the suspicion is repeated every 2 s, `watch` comes each minute | the nominee accepts, the holder hands over: `Failover Accepted` wakes [`follow`] | `watch` moves what is left |
//! | hand | answered at once if the first read fails, else when the time is over: nothing was changed, ask again | the same | the same |
//! | `watch` | the next minute's | the same | the same |

mod drive;
mod follow;

pub use follow::follow;

use crate::cloud::{Cloud, CloudError, mark};
use crate::converge::{Deadline, Network};
use crate::decide::{Action, Decision, Hint, Observation, decide};
use crate::observe::{Trouble, begin, look, marks};
use crate::report::{Story, decision_record, is_told, record, tell};
use lease::change::{Change, Expect, Write};
use lease::events::{EVENT_VERSION, Event, FailoverBlocked, FailoverNominated, Timeline};
use lease::ids::{Beat, ClusterId, Epoch, NodeId};
use lease::outcome::Outcome;
use lease::record::Row;
use lease::rules::Rule;
use lease::time::Millis;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeSet;

/// Rounds of looking and deciding in one run, as a backstop: each round has learnt something or lost a race.
const ROUNDS: usize = 60;
/// How long one write of the row is tried.
const WRITE: Millis = Millis(1_500);
/// Between two descriptions while an instance is being stopped by force.
const STOP_PACE: Millis = Millis(1_000);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Nothing had to be done.
    Nothing,
    /// Nothing could be done, or must not be.
    Blocked,
    /// The holder renewed before the nominee accepted: the nomination is void, service never moved.
    HolderReturned,
    /// The holder did not take up the request to move; the request was cleared.
    NotTaken,
    /// Moved, and the network matches.
    Completed,
    /// Moved; some routes are left to the next run.
    Incomplete,
    /// The function's time was over; the next hint goes on.
    OutOfTime,
}

/// What a run has to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    pub cluster: ClusterId,
    pub outcome: Ending,
    pub rule: Rule,
    pub says: &'static str,
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what_to_do: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
}

impl Answer {
    pub(crate) fn of(cluster: &ClusterId, decision: &Decision, outcome: Ending) -> Self {
        Self {
            cluster: cluster.clone(),
            outcome,
            rule: decision.rule,
            says: decision.rule.says(),
            reason: decision.reason.clone(),
            what_to_do: None,
            notes: decision.notes.clone(),
            timeline: None,
            network: None,
        }
    }
}

/// Decides on `hint` and does what is decided, as far as the time allows.
///
/// # Errors
/// [`Trouble`] where nothing could be read. What the row says stands.
pub async fn run(cloud: &impl Cloud, cluster: &ClusterId, hint: Hint, deadline: Deadline) -> Result<Answer, Trouble> {
    run_without(cloud, cluster, hint, BTreeSet::new(), deadline).await
}

/// The same, passing over nominees that have had their time already.
///
/// # Errors
/// As [`run`].
pub async fn run_without(
    cloud: &impl Cloud,
    cluster: &ClusterId,
    hint: Hint,
    gave_up_on: BTreeSet<NodeId>,
    deadline: Deadline,
) -> Result<Answer, Trouble> {
    let silent = match &hint {
        Hint::Suspected { silent_ms, .. } => Some(*silent_ms),
        _ => None,
    };
    let story = Story::begin(cloud, silent);
    let mut seen = begin(cloud, cluster, hint).await?;
    seen.gave_up_on = gave_up_on;
    let mut last = None;
    for _ in 0..ROUNDS {
        let decision = decide(&seen);
        if deadline.left(cloud) == Millis::ZERO {
            return Ok(Answer::of(cluster, &decision, Ending::OutOfTime));
        }
        match decision.action.clone() {
            Action::LookAgain(missing) => look(cloud, &mut seen, &missing, deadline).await?,
            Action::Nothing => {
                // Left alone although something is wrong: people need to read why.
                let suspicion = !matches!(seen.hint, Hint::Look | Hint::Joined { .. });
                if decision.rule == Rule::R220 || (decision.rule == Rule::R100 && suspicion) {
                    tell_blocked(cloud, &decision, &seen).await;
                }
                return Ok(Answer::of(cluster, &decision, Ending::Nothing));
            }
            Action::Block { what_to_do } => {
                let by_hand = matches!(seen.hint, Hint::Switchover { .. } | Hint::Force { .. });
                if !by_hand {
                    tell_blocked(cloud, &decision, &seen).await;
                }
                return Ok(Answer { what_to_do: Some(what_to_do), ..Answer::of(cluster, &decision, Ending::Blocked) });
            }
            Action::Stop(instance) => {
                // Deciding took seconds: whoever holds the lease now is not stopped for what its predecessor did.
                let found = deadline.insist(cloud, || cloud.row(cluster)).await?;
                let term = |row: &Option<Row>| row.as_ref().map(|row| (row.epoch, row.beat, row.holder.clone()));
                if term(&found) != term(&seen.row) {
                    seen.row = found;
                    seen.row_moves = None;
                    seen.heartbeats = None;
                    seen.instances = None;
                    continue;
                }
                if let Some(refused) = stop(cloud, cluster, &decision, &instance, &story).await {
                    return Ok(refused);
                }
                seen.instances = None;
                cloud.sleep(STOP_PACE).await;
                let found = deadline.insist(cloud, || cloud.row(cluster)).await?;
                if term(&found) != term(&seen.row) {
                    seen.row_moves = None;
                }
                seen.row = found;
            }
            Action::Found(founding) => {
                let write = founding.clone().write(mark(cloud));
                if let Some(row) = apply(cloud, &mut seen, &write, deadline).await? {
                    let detail =
                        json!({ "nominee": founding.nominee.node, "epoch": row.epoch, "lineage": row.lineage });
                    record(cloud, cluster, "Founded", detail, Some(decision_record(&decision, &seen))).await;
                    let ended =
                        drive::nomination(cloud, &seen, &decision, &row, &founding.nominee, deadline, &story).await?;
                    if let Some(answer) = drive::go_on(&mut seen, &decision, ended, &mut last) {
                        return Ok(answer);
                    }
                }
            }
            Action::Nominate(nominee) => {
                let nominate = Change::Nominate(nominee.clone());
                let Some(row) = change(cloud, &mut seen, &nominate, deadline).await? else { continue };
                let driven = drive::nomination(cloud, &seen, &decision, &row, &nominee, deadline, &story);
                // Nobody waits for the telling: with proof of death the nominee accepts within milliseconds.
                let (ended, ()) = futures::join!(driven, tell_nominated(cloud, &decision, &seen, &row));
                let ended = ended?;
                if let Some(answer) = drive::go_on(&mut seen, &decision, ended, &mut last) {
                    return Ok(answer);
                }
            }
            Action::Intend(intent) => {
                let intend = Change::Intend(intent.clone());
                let Some(row) = change(cloud, &mut seen, &intend, deadline).await? else { continue };
                story.step(cloud, format!("{} asked to hand over to {}", holder_name(&row), intent.to));
                let from = row.holder.as_ref().map(|holder| &holder.node);
                let detail = json!({
                    "from": from, "to": intent.to, "rule": intent.rule, "reason": intent.reason, "epoch": row.epoch,
                });
                record(cloud, cluster, "Move Requested", detail, Some(decision_record(&decision, &seen))).await;
                return drive::intent(cloud, &seen, &decision, &row, &intent, deadline, &story).await;
            }
        }
    }
    Ok(last.unwrap_or_else(|| Answer::of(cluster, &decide(&seen), Ending::OutOfTime)))
}

/// Applies `change` to the row that was decided on. `None`: it was not, `seen` has the row as it is now; decide again.
async fn change(
    cloud: &impl Cloud,
    seen: &mut Observation,
    change: &Change,
    deadline: Deadline,
) -> Result<Option<Row>, Trouble> {
    let Some(row) = &seen.row else { return Ok(None) };
    match change.on(row, mark(cloud)) {
        Ok(write) => apply(cloud, seen, &write, deadline).await,
        Err(refusal) => {
            // The rules and the row's own guards disagree: a bug, or a row from another version. Look again, slowly.
            tracing::error!(cluster = %seen.config.cluster, %refusal, "the decision is not legal on the row it was made on");
            cloud.sleep(Millis(500)).await;
            seen.row = deadline.insist(cloud, || cloud.row(&seen.config.cluster)).await?;
            Ok(None)
        }
    }
}

/// Sends one write. An outcome that is not known is found out by reading: its effect shows whether it was applied. The
/// answer is the row as it was written, also where it has moved on since: what follows is waited for from there.
async fn apply(
    cloud: &impl Cloud,
    seen: &mut Observation,
    write: &Write,
    deadline: Deadline,
) -> Result<Option<Row>, Trouble> {
    let read = || cloud.row(&write.row.cluster);
    let found = match cloud.write(write, WRITE).await {
        Outcome::Applied(row) => return Ok(Some(*row)),
        Outcome::Refused { found } => found.map(|row| *row),
        Outcome::Superseded { found } if has_effect(&found, write) => return Ok(Some(write.row.clone())),
        Outcome::Superseded { found } => Some(*found),
        Outcome::NotApplied { problem } => {
            tracing::warn!(cluster = %seen.config.cluster, %problem, "the row was not written");
            cloud.sleep(Millis(200)).await;
            deadline.insist(cloud, read).await?
        }
        Outcome::Unknown { problem } => {
            tracing::warn!(cluster = %seen.config.cluster, %problem, "whether the row was written is not known: reading it");
            let found = deadline.insist(cloud, read).await?;
            if found.as_ref().is_some_and(|row| has_effect(row, write)) {
                return Ok(Some(write.row.clone()));
            }
            // Not there now, perhaps later. It carries the version it was made for, so it cannot undo what follows.
            found
        }
    };
    seen.row = found;
    seen.row_moves = None;
    seen.marks = marks(cloud);
    Ok(None)
}

/// Whether `found` shows that `write` was applied, also where the holder has renewed since: its nonce is gone then, what
/// it asked for is not.
fn has_effect(found: &Row, write: &Write) -> bool {
    let founded = matches!(write.expect, Expect::Absent) && found.lineage == write.row.lineage;
    let asked = write.row.intent.is_some() && found.intent == write.row.intent;
    // Taken up already: the request is cleared once the new holder is active.
    let moved = write.row.intent.as_ref().is_some_and(|intent| {
        found.epoch == write.row.epoch.next() && found.holder.as_ref().is_some_and(|holder| holder.node == intent.to)
    });
    let nominated = write.row.nominee.is_some() && found.live_nominee() == write.row.nominee.as_ref();
    found.nonce == write.row.nonce || founded || asked || moved || nominated
}

async fn stop(
    cloud: &impl Cloud,
    cluster: &ClusterId,
    decision: &Decision,
    instance: &lease::ids::InstanceId,
    story: &Story,
) -> Option<Answer> {
    story.step(cloud, format!("stopping {instance} by force"));
    match cloud.stop(instance).await {
        Ok(()) => None,
        // Unanswered: it may be stopping all the same; the descriptions will tell.
        Err(error) if error.is_passing() => {
            tracing::warn!(%cluster, %error, "asking again");
            None
        }
        Err(error) => {
            let by_hand = format!(
                "stop it yourself (aws ec2 stop-instances --force --instance-ids {instance}) and ask again without force_stop"
            );
            let denied = matches!(error.code(), Some("UnauthorizedOperation" | "AccessDenied"));
            let what = if denied {
                format!(
                    "this deployment does not let the function stop instances: {by_hand}; or set allow_force_stop = true for the cluster in cluster.toml, deploy (it grants ec2:StopInstances on the cluster's instances) and ask again"
                )
            } else {
                by_hand
            };
            let blocked = Decision { reason: format!("{instance} could not be stopped: {error}"), ..decision.clone() };
            Some(Answer { what_to_do: Some(what), ..Answer::of(cluster, &blocked, Ending::Blocked) })
        }
    }
}

async fn tell_nominated(cloud: &impl Cloud, decision: &Decision, seen: &Observation, row: &Row) {
    let Some(nominee) = &row.nominee else { return };
    let event = Event::FailoverNominated(FailoverNominated {
        v: EVENT_VERSION,
        cluster: row.cluster.clone(),
        rule: nominee.rule,
        reason: nominee.reason.clone(),
        nominee: nominee.node.clone(),
        holder: row.holder.as_ref().map(|holder| holder.node.clone()),
        epoch: nominee.epoch,
        beat: nominee.beat,
        proof: nominee.proof.is_some(),
        lossy: nominee.lossy,
    });
    tell(cloud, event, Some(decision_record(decision, seen))).await;
}

/// Once for each rule and (epoch, beat).
async fn tell_blocked(cloud: &impl Cloud, decision: &Decision, seen: &Observation) {
    let (epoch, beat) = seen.row.as_ref().map_or((Epoch(0), Beat(0)), |row| (row.epoch, row.beat));
    if is_told(cloud, &seen.config.cluster, decision.rule, epoch, beat).await {
        return;
    }
    let event = Event::FailoverBlocked(FailoverBlocked {
        v: EVENT_VERSION,
        cluster: seen.config.cluster.clone(),
        rule: decision.rule,
        epoch,
        why: decision.reason.clone(),
        what_to_do: match &decision.action {
            Action::Block { what_to_do } => what_to_do.clone(),
            _ => String::new(),
        },
    });
    tell(cloud, event, Some(decision_record(decision, seen))).await;
}

pub(crate) fn holder_name(row: &Row) -> String {
    row.holder.as_ref().map_or_else(|| "nobody".to_owned(), |holder| holder.node.to_string())
}

impl From<&CloudError> for Ending {
    /// A run that lost the cloud in its middle: what the row says stands, the next hint goes on.
    fn from(_: &CloudError) -> Self {
        Self::Incomplete
    }
}

#[cfg(test)]
mod tests;
