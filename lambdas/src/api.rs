//! What an operator may ask of `failover`, by `aws lambda invoke`. Request and answer are JSON; unknown keys are refused.
//!
//! Every request names an action and a cluster:
//!
//! | request | does |
//! |---------|------|
//! | `{"action":"status","cluster":"web"}` | who serves, why, who could take over, whether the network matches |
//! | `{"action":"plan","cluster":"web","to":"b"}` | a dry run: each change and each path before and after; changes nothing. `to` is optional: the standby that would take over |
//! | `{"action":"switchover","cluster":"web","to":"b"}` | moves the service while its holder lives; nothing is lost. `to` is optional. Waits for the end |
//! | `{"action":"failover","cluster":"web","to":"b","accept_data_loss":true,"force_stop":true}` | moves the service from a holder that is dead. All but `cluster` is optional; `accept_data_loss` where the target is not in sync, `force_stop` to have the holder's instance stopped first where EC2 does not say that it is dead (the deployment must allow it: `allow_force_stop`). Refused while the holder is alive and well |
//! | `{"action":"pause","cluster":"web","reason":"kernel upgrade"}` | nothing is decided automatically until `resume`; the network still follows the lease |
//! | `{"action":"resume","cluster":"web"}` | the opposite |
//! | `{"action":"history","cluster":"web","limit":20}` | what was decided and done, newest first; `limit` is 1 to 200, by default 20 |
//!
//! # Answers
//!
//! `status`:
//! ```json
//! {"cluster":"web","summary":"SERVING on a, epoch 7; in sync: a, b","protected":true,
//!  "lease":{"holder":"a","epoch":7,"beat":412,"activated":true,"renewing":true,"paused":null,"intent":null,"nominee":null},
//!  "nodes":[{"node":"a","instance":"i-0a","role":"active","in_sync":true,"holder":true,"seq":918}],
//!  "network":{"matches":true,"changes_needed":[],"problems":[]},
//!  "what_to_do":null}
//! ```
//! `plan`:
//! ```json
//! {"cluster":"web","to":"b","changes":[{"table":"rtb-1","destination":"10.99.0.10/32","from":"eni-a","to":"eni-b"}],
//!  "forwarding":["eni-b"],
//!  "paths":[{"subnet":"subnet-1","zone":"ap-northeast-1a","address":"10.99.0.10","before":"rtb-1 → eni-a","after":"rtb-1 → eni-b","reaches":true}],
//!  "problems":[]}
//! ```
//! `switchover` and `failover`: how it ended, by which rule, and the timeline:
//! ```json
//! {"cluster":"web","outcome":"completed","rule":"R400","says":"operator's switchover","reason":"asked by hand",
//!  "timeline":{"id":"5f...","rule":"R400","reason":"asked by hand","from":"a","to":"b","epoch":8,"began":"2026-11-22T16:00:00.000Z",
//!              "silent_ms":null,"steps":[{"at_ms":3,"what":"a asked to hand over to b"},{"at_ms":210,"what":"b accepted, epoch 8"}]},
//!  "network":{"epoch":8,"holder":"b","changed":["rtb-1: 10.99.0.10/32 eni-a → eni-b"],"failed":[],"problems":[],"routes":1}}
//! ```
//! `outcome`: `completed`, `incomplete` (moved; some routes are left to the next run), `not_taken` (the holder did not hand
//! over, `reason` says why), `holder_returned`, `out_of_time`, `nothing`.
//!
//! `pause`, `resume`: `{"cluster":"web","paused":true,"reason":"kernel upgrade"}`.
//! `history`: `{"cluster":"web","events":[{"time":"2026-11-22T16:00:00.123Z","id":"1a2b3c4d","kind":"Failover Completed","detail":{},"decision":{}}]}`.
//! An item that cannot be read is there with its key, as `{"kind":"unreadable","item":"event#...","why":"..."}`.
//!
//! Every refusal and every mistake, with nothing changed:
//! ```json
//! {"error":{"code":"refused","rule":"R410","message":"holder a is alive and well: it renews its lease",
//!           "what_to_do":"use {\"action\":\"switchover\"}, which loses nothing"}}
//! ```
//! `code`: `bad_request`, `malformed_event`, `unknown_cluster`, `refused`, `unavailable` (AWS gave no answer; ask again),
//! `unusable` (a row, a configuration or a right must be put right first; the message names it).
//!
//! Nobody reads the answer to an event: a run that an event woke and that could not do its work (these codes, and
//! `unfinished`: moved or nominated, and then out of time) fails instead, so that the event ends in the queue of failures.
//! What a rule decides, to block included, is no failure.

use lease::fields::{Fields, number, parsed, text};
use lease::ids::{ClusterId, NodeId};
use lease::rules::Rule;
use serde_json::{Value, json};

/// A request as it was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub cluster: ClusterId,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Status,
    Plan { to: Option<NodeId> },
    Switchover { to: Option<NodeId>, reason: String },
    Failover { to: Option<NodeId>, accept_data_loss: bool, force_stop: bool, reason: String },
    Pause { reason: String },
    Resume,
    History { limit: usize },
}

/// Why nothing was done, or not all. By hand it is the answer; an event's run fails with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}; {what_to_do}")]
pub struct ApiError {
    pub code: &'static str,
    pub message: String,
    pub what_to_do: String,
}

const ACTIONS: &str = "one of: status, plan, switchover, failover, pause, resume, history";
const DEFAULT_LIMIT: usize = 20;
const BY_HAND: &str = "asked by hand";

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// [`ApiError`] with every mistake at once.
    pub fn parse(payload: &Value) -> Result<Self, ApiError> {
        let mut fields = Fields::of("", payload).map_err(|_| {
            bad_request("the payload must be a JSON object, e.g. {\"action\":\"status\",\"cluster\":\"web\"}".into())
        })?;
        let cluster = fields.required("cluster", "the cluster's name", parsed::<ClusterId>);
        let action = match fields.required("action", ACTIONS, text).as_deref() {
            Some("status") => Some(Action::Status),
            Some("plan") => Some(Action::Plan { to: fields.optional("to", parsed) }),
            Some("switchover") => Some(Action::Switchover {
                to: fields.optional("to", parsed),
                reason: fields.optional("reason", text).unwrap_or_else(|| BY_HAND.into()),
            }),
            Some("failover") => Some(Action::Failover {
                to: fields.optional("to", parsed),
                accept_data_loss: fields.optional("accept_data_loss", flag).unwrap_or(false),
                force_stop: fields.optional("force_stop", flag).unwrap_or(false),
                reason: fields.optional("reason", text).unwrap_or_else(|| BY_HAND.into()),
            }),
            Some("pause") => Some(Action::Pause {
                reason: fields.required("reason", "why: it is what others will read", text).unwrap_or_default(),
            }),
            Some("resume") => Some(Action::Resume),
            Some("history") => {
                Some(Action::History { limit: fields.optional("limit", limit).unwrap_or(DEFAULT_LIMIT) })
            }
            Some(_) => {
                fields.bad("action", ACTIONS);
                // The other keys cannot be judged without it.
                for known in ["to", "reason", "accept_data_loss", "force_stop", "limit"] {
                    fields.value(known);
                }
                None
            }
            None => None,
        };
        let problems = fields.finish();
        match (cluster, action) {
            (Some(cluster), Some(action)) if problems.is_empty() => Ok(Self { cluster, action }),
            _ => Err(bad_request(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))),
        }
    }
}

fn flag(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "expected true or false".into())
}

fn limit(value: &Value) -> Result<usize, String> {
    let found = number(value)?;
    usize::try_from(found).ok().filter(|limit| (1..=200).contains(limit)).ok_or_else(|| "use 1 to 200".into())
}

fn bad_request(message: String) -> ApiError {
    ApiError { code: "bad_request", message, what_to_do: "correct the request; nothing was changed".into() }
}

impl ApiError {
    /// As it is answered.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({ "error": { "code": self.code, "message": self.message, "what_to_do": self.what_to_do } })
    }

    #[must_use]
    pub fn unknown_cluster(cluster: &ClusterId, known: &[ClusterId]) -> Self {
        let known: Vec<_> = known.iter().map(ClusterId::as_str).collect();
        Self {
            code: "unknown_cluster",
            message: format!("there is no cluster {cluster} in this deployment"),
            what_to_do: if known.is_empty() {
                "add it to cluster.toml and deploy".into()
            } else {
                format!("name one of: {}; or add it to cluster.toml and deploy", known.join(", "))
            },
        }
    }

    /// What AWS answered cannot be used until a person has put something right: a row or a configuration that cannot be
    /// read, a right that is missing.
    #[must_use]
    pub fn unusable(message: String) -> Self {
        let what_to_do = "put right what the message names, then ask again".into();
        Self { code: "unusable", message, what_to_do }
    }

    /// A run that had to end before its work was done.
    #[must_use]
    pub fn unfinished(message: String) -> Self {
        let what_to_do = "watch goes on from it within a minute; if it does not, status says what is left".into();
        Self { code: "unfinished", message, what_to_do }
    }

    #[must_use]
    pub fn unavailable(message: String) -> Self {
        let what_to_do = "ask again; what was decided before stands, the next event or watch goes on from it".into();
        Self { code: "unavailable", message, what_to_do }
    }
}

/// A refusal by a rule.
#[must_use]
pub fn refused(rule: Rule, message: &str, what_to_do: &str) -> Value {
    json!({ "error": { "code": "refused", "rule": rule, "message": message, "what_to_do": what_to_do } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_of_the_documentation_is_understood() {
        let documentation = include_str!("api.rs");
        let examples: Vec<&str> =
            documentation.lines().filter_map(|line| line.strip_prefix("//! | `{")?.split('`').next()).collect();
        assert_eq!(examples.len(), 7);
        for example in examples {
            let payload: Value = serde_json::from_str(&format!("{{{example}")).expect("JSON");
            Request::parse(&payload).unwrap_or_else(|error| panic!("{example}: {error:?}"));
        }
    }

    #[test]
    fn every_answer_of_the_documentation_is_json() {
        let documentation: String = include_str!("api.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//!"))
            .map(|line| format!("{line}\n"))
            .collect();
        let answers: Vec<&str> =
            documentation.split("```json").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert_eq!(answers.len(), 4);
        for answer in answers {
            serde_json::from_str::<Value>(answer).unwrap_or_else(|error| panic!("{answer}: {error}"));
        }
    }

    #[test]
    fn mistakes_are_told_all_at_once() {
        for (payload, parts) in [
            (json!({}), vec!["cluster is missing", "action is missing"]),
            (
                json!({ "action": "dance", "cluster": "Web", "colour": 1 }),
                vec!["\"dance\"", "one of: status", "\"Web\"", "colour"],
            ),
            (
                json!({ "action": "failover", "cluster": "web", "to": "B!", "force_stop": "yes" }),
                vec!["to = ", "force_stop"],
            ),
            (json!({ "action": "status", "cluster": "web", "to": "b" }), vec!["to = \"b\": unknown key"]),
            (json!({ "action": "pause", "cluster": "web" }), vec!["reason is missing"]),
            (json!({ "action": "history", "cluster": "web", "limit": 0 }), vec!["1 to 200"]),
            (json!([1]), vec!["JSON object"]),
        ] {
            let error = Request::parse(&payload).expect_err("a bad request");
            assert_eq!(error.code, "bad_request");
            for part in parts {
                assert!(error.message.contains(part), "{part} in {}", error.message);
            }
        }
    }
}
