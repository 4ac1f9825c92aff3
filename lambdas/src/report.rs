//! What a run leaves behind: its timeline, items of the history, events on the bus, lines in the log.
//!
//! Nothing of it is needed for the next decision, so a failure to tell is logged and never stops an act.

use crate::cloud::{Cloud, mark};
use crate::converge::Network;
use crate::decide::{Decision, Observation, inputs};
use lease::events::{EVENT_VERSION, Event, FailoverCompleted, NetworkIncomplete, Step, Timeline};
use lease::ids::{Beat, ClusterId, Epoch, NodeId};
use lease::rules::Rule;
use lease::time::Millis;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// The steps of one run as they happen. Shared by what runs at the same time.
#[derive(Debug)]
pub struct Story {
    began: Millis,
    wall: String,
    silent_ms: Option<Millis>,
    steps: Mutex<Vec<Step>>,
}

impl Story {
    /// Begins now.
    #[must_use]
    pub fn begin(cloud: &impl Cloud, silent_ms: Option<Millis>) -> Self {
        Self { began: cloud.elapsed(), wall: cloud.wall_clock(), silent_ms, steps: Mutex::default() }
    }

    pub fn step(&self, cloud: &impl Cloud, what: impl Into<String>) {
        let at_ms = cloud.elapsed().minus(self.began);
        let mut steps = self.steps.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        steps.push(Step { at_ms, what: what.into() });
    }

    /// The timeline so far.
    #[must_use]
    pub fn timeline(&self, cloud: &impl Cloud, what: Moved) -> Timeline {
        let mut steps = self.steps.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        steps.sort_by_key(|step| step.at_ms);
        Timeline {
            id: mark(cloud),
            rule: what.rule,
            reason: what.reason,
            from: what.from,
            to: what.to,
            epoch: what.epoch,
            began: self.wall.clone(),
            silent_ms: self.silent_ms,
            steps,
        }
    }
}

/// What a timeline is about.
#[derive(Clone, Debug)]
pub struct Moved {
    pub rule: Rule,
    pub reason: String,
    pub from: Option<NodeId>,
    pub to: NodeId,
    pub epoch: Epoch,
}

/// Adds to the history; `kind` says what it is, e.g. an event's detail-type.
pub async fn record(cloud: &impl Cloud, cluster: &ClusterId, kind: &str, detail: Value, decision: Option<Value>) {
    let mut item = json!({ "v": EVENT_VERSION, "kind": kind, "detail": detail });
    if let Some(decision) = decision {
        item["decision"] = decision;
    }
    let id = mark(cloud).as_str()[..8].to_owned();
    if let Err(error) = cloud.record(cluster, &cloud.wall_clock(), &id, &item.to_string()).await {
        tracing::warn!(%cluster, kind, %error, "not recorded in the history");
    }
}

/// Records an event and puts it on the bus.
pub async fn tell(cloud: &impl Cloud, event: Event, decision: Option<Value>) {
    let cluster = event.cluster().clone();
    let kind = event.detail_type();
    let detail: Value = serde_json::from_str(&event.detail()).unwrap_or_default();
    tracing::info!(%cluster, kind, %detail, "told");
    let announced = async {
        if let Err(error) = cloud.announce(&event).await {
            tracing::warn!(%cluster, kind, %error, "not put on the bus");
        }
    };
    futures::join!(record(cloud, &cluster, kind, detail, decision), announced);
}

/// A decision with everything that it rested on, as the history keeps it.
#[must_use]
pub fn decision_record(decision: &Decision, seen: &Observation) -> Value {
    json!({
        "rule": decision.rule, "says": decision.rule.says(), "reason": decision.reason,
        "notes": decision.notes, "inputs": inputs(seen),
    })
}

/// How far back a repeated telling is looked for, and what began a move that is under way.
pub const RECENT: usize = 12;

/// Whether the history already says this rule about this (epoch, beat): standbys repeat their suspicion every second,
/// and operators need to read it once.
pub async fn is_told(cloud: &impl Cloud, cluster: &ClusterId, rule: Rule, epoch: Epoch, beat: Beat) -> bool {
    let Ok(history) = cloud.history(cluster, RECENT).await else { return false };
    history.iter().any(|(_, _, item)| {
        let decision = &item["decision"];
        decision["rule"] == json!(rule)
            && decision["inputs"]["row"]["epoch"] == json!(epoch)
            && decision["inputs"]["row"]["beat"] == json!(beat)
    })
}

/// How far back a remainder is looked for: it stands until a person puts it right, and `watch` finds it every minute.
const REMAINDERS: usize = 50;

/// Tells what is left of making the network match, once for each epoch and remainder. Whether it was told now.
pub async fn tell_incomplete(
    cloud: &impl Cloud,
    cluster: &ClusterId,
    network: &Network,
    timeline: Option<Timeline>,
) -> bool {
    let Some(epoch) = network.epoch else { return false };
    let told = |item: &Value| {
        let texts =
            |key: &str| -> Vec<String> { serde_json::from_value(item["detail"][key].clone()).unwrap_or_default() };
        item["kind"] == "Network Incomplete"
            && item["detail"]["epoch"] == json!(epoch)
            && steps(&texts("failed")) == steps(&network.failed)
            && texts("problems") == network.problems
    };
    let history = cloud.history(cluster, REMAINDERS).await.unwrap_or_default();
    if history.iter().any(|(_, _, item)| told(item)) {
        return false;
    }
    let event = Event::NetworkIncomplete(NetworkIncomplete {
        v: EVENT_VERSION,
        cluster: cluster.clone(),
        epoch,
        holder: network.holder.clone(),
        failed: network.failed.clone(),
        problems: network.problems.clone(),
        timeline,
    });
    tell(cloud, event, None).await;
    true
}

/// The steps themselves: AWS's words after them differ from one refusal to the next.
fn steps(failed: &[String]) -> BTreeSet<String> {
    failed.iter().map(|step| step.splitn(3, ": ").take(2).collect::<Vec<_>>().join(": ")).collect()
}

/// What the history says of the move to one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Its completion was told.
    pub completed: bool,
    /// A function began it.
    pub began: Option<Began>,
    /// Where the last move before it led, as far back as was looked.
    pub before: Option<NodeId>,
}

/// How a function began a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Began {
    pub rule: Rule,
    pub reason: String,
    pub from: Option<NodeId>,
}

impl Account {
    /// Who held the lease before.
    #[must_use]
    pub fn from(&self) -> Option<NodeId> {
        self.began.as_ref().and_then(|began| began.from.clone()).or_else(|| self.before.clone())
    }

    /// Whether `to` took the lease from somebody else, and nobody has told that the move is completed. A new epoch of the
    /// same node is a restart of its daemon, not a move; and what is not known is not told.
    #[must_use]
    pub fn is_untold(&self, to: &NodeId) -> bool {
        let founded = self.began.as_ref().is_some_and(|began| began.rule == Rule::R050);
        !self.completed && (founded || self.from().is_some_and(|from| from != *to))
    }
}

/// What the latest events say of the move to `epoch`. `None`: the history cannot be read now.
pub async fn account_of(cloud: &impl Cloud, cluster: &ClusterId, epoch: Epoch, events: usize) -> Option<Account> {
    let history = cloud.history(cluster, events).await.ok()?;
    Some(account(history.iter().map(|(_, _, item)| item), epoch))
}

/// The same of `history`, newest first.
fn account<'a>(history: impl Iterator<Item = &'a Value>, epoch: Epoch) -> Account {
    let mut account = Account::default();
    for item in history {
        let (kind, detail) = (item["kind"].as_str().unwrap_or_default(), &item["detail"]);
        let node = |value: &Value| value.as_str().and_then(|name| NodeId::new(name).ok());
        let rule = |value: &Value| serde_json::from_value(value.clone()).ok();
        if kind == "Failover Completed" {
            let timeline = &detail["timeline"];
            let led_to = timeline["epoch"].as_u64().unwrap_or(u64::MAX);
            account.completed |= led_to == epoch.0;
            if led_to < epoch.0 && account.before.is_none() {
                account.before = node(&timeline["to"]);
            }
        } else if detail["epoch"].as_u64().is_some_and(|from| from + 1 == epoch.0) && account.began.is_none() {
            let reason = detail["reason"].as_str().unwrap_or_default().to_owned();
            account.began = match kind {
                "Failover Nominated" => {
                    rule(&detail["rule"]).map(|rule| Began { rule, reason, from: node(&detail["holder"]) })
                }
                "Move Requested" => {
                    rule(&detail["rule"]).map(|rule| Began { rule, reason, from: node(&detail["from"]) })
                }
                "Founded" => Some(Began { rule: Rule::R050, reason: Rule::R050.says().into(), from: None }),
                _ => None,
            };
        }
    }
    account
}

/// Tells of a move whose driver did not come to tell its end, or that none drove.
pub async fn tell_completed(cloud: &impl Cloud, cluster: &ClusterId, timeline: Timeline) {
    let completed = FailoverCompleted { v: EVENT_VERSION, cluster: cluster.clone(), timeline };
    tell(cloud, Event::FailoverCompleted(completed), None).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(items: &[Value], epoch: u64) -> Account {
        account(items.iter().rev(), Epoch(epoch))
    }

    #[test]
    fn the_history_tells_who_held_before_and_whether_the_end_was_told() {
        let done = |epoch: u64, to: &str| json!({ "kind": "Failover Completed", "detail": { "timeline": { "epoch": epoch, "to": to } } });
        let nominated = |epoch: u64, holder: Value| {
            json!({ "kind": "Failover Nominated", "detail": {
            "epoch": epoch, "rule": "R210", "reason": "silent", "holder": holder, "nominee": "b" } })
        };
        let (a, b): (NodeId, NodeId) = ("a".parse().expect("a name"), "b".parse().expect("a name"));
        let died = told(&[done(7, "a"), nominated(7, json!("a"))], 8);
        assert!(died.is_untold(&b) && died.from() == Some(a.clone()), "{died:?}");
        assert!(!told(&[done(7, "a"), nominated(7, json!("a")), done(8, "b")], 8).is_untold(&b));
        // Released: the nomination names no holder, the move before does.
        assert_eq!(told(&[done(7, "a"), nominated(7, Value::Null)], 8).from(), Some(a.clone()));
        // The holder drove it itself.
        assert!(told(&[done(7, "a")], 8).is_untold(&b));
        // Its daemon was restarted; nothing is known; and a first start.
        assert!(!told(&[done(7, "b"), nominated(7, json!("b"))], 8).is_untold(&b));
        assert!(!told(&[json!({ "kind": "Drift Corrected", "detail": { "epoch": 8 } })], 8).is_untold(&b));
        let first = told(&[json!({ "kind": "Founded", "detail": { "epoch": 0, "nominee": "a" } })], 1);
        assert!(first.is_untold(&a) && first.from().is_none());
        let unreadable = json!({ "kind": "unreadable", "item": "event#zzz", "why": "no version" });
        assert!(told(&[done(7, "a"), nominated(7, json!("a")), unreadable], 8).is_untold(&b));
    }
}
