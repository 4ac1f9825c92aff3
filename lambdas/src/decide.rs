//! The decision: one pure function from what was seen to what shall be done, by numbered rules ([`lease::rules::Rule`]).
//!
//! ```text
//!  hint ─▶ no row ──────────────────────────────────▶ R050 found
//!          paused, and nobody asked by hand ────────▶ R100 nothing
//!          row past the hint's (epoch, beat) ───────▶ R110 nothing
//!          nobody holds ────────────────────────────▶ R250 nominate at once
//!          holder's instance gone, EC2 confirms ────▶ R200 nominate with proof of death
//!          suspected: one in sync does not hear it ─▶ R210 nominate it
//!                     all in sync that live hear it ▶ R220 nothing, told
//!                     only asynchronous, allowed ───▶ R240 nominate, lossy
//!                     nobody ───────────────────────▶ R230 blocked
//!          holder wants to be relieved ─────────────▶ R300 intent
//!          operator ────────────────────────────────▶ R400 intent, R410 forced nomination
//! ```
//!
//! No rule judges expiry: functions have no clock between two invocations. A nomination is bound to the (epoch, beat)
//! that was read, so it costs nothing when the holder is alive after all; the nominee alone judges by its own clock.
//! Where something is missing, the answer is [`Action::LookAgain`], and the caller comes back with more.

mod asynchronous;
mod candidates;
mod inputs;
pub mod launch;
mod operator;
mod rules;

pub use inputs::inputs;
pub use rules::acceptance_limit;

use lease::change::Founding;
use lease::config::ClusterConfig;
use lease::heartbeat::Heartbeat;
use lease::ids::{Beat, Epoch, InstanceId, Lineage, NodeId, Nonce};
use lease::record::{Intent, Nominee, Row};
use lease::rules::Rule;
use lease::time::Millis;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that a decision rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    pub hint: Hint,
    pub config: ClusterConfig,
    /// `None`: the cluster has none yet.
    pub row: Option<Row>,
    /// The nodes' own accounts; `None`: not read yet. Nodes that never wrote one are missing.
    pub heartbeats: Option<BTreeMap<NodeId, Sighting>>,
    /// What EC2 says of the members' instances; `None`: not asked yet.
    pub instances: Option<BTreeMap<InstanceId, Described>>,
    /// How often EC2 was asked in this run.
    pub instance_looks: u32,
    /// Whether (epoch, beat) moved between two reads two beats apart; `None`: looked at once.
    pub row_moves: Option<bool>,
    /// Nominees of this run that did not accept in their time.
    pub gave_up_on: BTreeSet<NodeId>,
    pub marks: Marks,
}

/// Randomness comes from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    pub intent: Nonce,
    pub lineage: Lineage,
}

/// A heartbeat item as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub seq: u64,
    pub heartbeat: Heartbeat,
    /// Whether `seq` rose while we looked; `None`: looked at once.
    pub advanced: Option<bool>,
}

/// An instance as EC2 describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// `pending`, `running`, `stopping`, `stopped`, `shutting-down`, `terminated`.
    pub state: String,
    /// `LaunchTime` in seconds since 1970. Changes with each start of the instance.
    pub launched: Option<i64>,
}

/// Why we look at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A standby sees the row stand still; `hears`: but the holder still answers on the peer link.
    Suspected {
        node: NodeId,
        epoch: Epoch,
        beat: Beat,
        silent_ms: Millis,
        hears: bool,
    },
    /// We saw the row stand still ourselves, for at least two beats.
    StoodStill {
        epoch: Epoch,
        beat: Beat,
    },
    /// EC2 said that an instance is `stopped` or `terminated`.
    InstanceState {
        instance: InstanceId,
        state: String,
    },
    /// EC2 will interrupt a spot instance in two minutes.
    Interruption {
        instance: InstanceId,
        action: String,
    },
    /// AWS has scheduled something for an instance that will interrupt it: a retirement, a reboot.
    Maintenance {
        instance: InstanceId,
        what: String,
        starts: Option<String>,
    },
    ResourceFailed {
        node: NodeId,
        epoch: Epoch,
        resource: String,
        reason: String,
    },
    /// The holder asks to be relieved.
    Relief {
        node: NodeId,
        epoch: Epoch,
        reason: String,
    },
    /// The holder let go.
    Released {
        node: NodeId,
        epoch: Epoch,
        reason: String,
    },
    Joined {
        node: NodeId,
    },
    /// The regular look: nothing in particular.
    Look,
    /// An operator asks to move the service while its holder is alive.
    Switchover {
        to: Option<NodeId>,
        reason: String,
    },
    /// An operator insists.
    Force {
        to: Option<NodeId>,
        accept_data_loss: bool,
        force_stop: bool,
        reason: String,
    },
}

impl Hint {
    fn is_by_hand(&self) -> bool {
        matches!(self, Self::Switchover { .. } | Self::Force { .. })
    }
}

/// What shall be done, by which rule, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub rule: Rule,
    /// One sentence for people.
    pub reason: String,
    pub action: Action,
    /// What was seen and not believed, and other remarks.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Nothing,
    Nominate(Nominee),
    Intend(Intent),
    Found(Founding),
    /// An operator's forced failover needs this instance dead first.
    Stop(InstanceId),
    /// Nothing can be done, or must not: `what_to_do` is for the operator.
    Block {
        what_to_do: String,
    },
    LookAgain(Vec<Missing>),
}

/// What a decision still needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The heartbeat items, read for the first time.
    Heartbeats,
    /// Whether these nodes' heartbeats advance; enough once all have, or `within` has passed.
    Movement { nodes: BTreeSet<NodeId>, within: Millis },
    /// EC2's description of the members' instances, after a pause.
    Instances { after: Millis },
    /// Whether the row moves.
    RowMovement { within: Millis },
}

/// Decides. Pure: the same observation gives the same decision.
#[must_use]
pub fn decide(seen: &Observation) -> Decision {
    let Some(row) = &seen.row else { return rules::found(seen) };
    if let Some(pause) = row.paused.as_ref().filter(|_| !seen.hint.is_by_hand()) {
        return nothing(Rule::R100, format!("paused: {}", pause.reason));
    }
    if let Some(stale) = stale(&seen.hint, row) {
        return stale;
    }
    match &seen.hint {
        Hint::Switchover { to, reason } => return operator::switchover(seen, row, to.as_ref(), reason),
        Hint::Force { to, accept_data_loss, force_stop, reason } => {
            let wish = operator::Wish { accept_data_loss: *accept_data_loss, force_stop: *force_stop };
            return operator::force(seen, row, to.as_ref(), wish, reason);
        }
        _ => {}
    }
    let Some(holder) = &row.holder else { return rules::released(seen, row) };
    match &seen.hint {
        Hint::Suspected { .. } | Hint::StoodStill { .. } => rules::suspected(seen, row, holder),
        Hint::InstanceState { instance, state } if *instance == holder.instance => {
            rules::gone(seen, row, holder, state)
        }
        Hint::Interruption { instance, action } if *instance == holder.instance => {
            rules::relief(seen, row, &format!("EC2 will {action} the holder's spot instance"))
        }
        Hint::Maintenance { instance, what, starts } if *instance == holder.instance => {
            let when = starts.as_ref().map_or_else(String::new, |starts| format!(" at {starts}"));
            rules::relief(seen, row, &format!("AWS has scheduled {what} for the holder's {instance}{when}"))
        }
        Hint::ResourceFailed { node, resource, reason, .. } if *node == holder.node => {
            rules::relief(seen, row, &format!("resource {resource} on {node}: {reason}"))
        }
        Hint::Relief { node, reason, .. } if *node == holder.node => rules::relief(seen, row, reason),
        Hint::InstanceState { instance, state } => nothing(
            Rule::R120,
            format!("{instance} is {state}; the holder {} runs on {}", holder.node, holder.instance),
        ),
        Hint::Interruption { instance, .. } | Hint::Maintenance { instance, .. } => {
            nothing(Rule::R120, format!("{instance} is not the holder's instance"))
        }
        Hint::ResourceFailed { node, .. } | Hint::Relief { node, .. } | Hint::Released { node, .. } => {
            nothing(Rule::R120, format!("the holder is {}, not {node}", holder.node))
        }
        Hint::Joined { node } => nothing(Rule::R120, format!("{node} joined; {} holds the lease", holder.node)),
        Hint::Look | Hint::Switchover { .. } | Hint::Force { .. } => {
            nothing(Rule::R120, format!("{} holds epoch {}", holder.node, row.epoch))
        }
    }
}

/// R110, from the row alone: so that most hints cost one read.
fn stale(hint: &Hint, row: &Row) -> Option<Decision> {
    let (hinted, found) = match hint {
        Hint::Suspected { epoch, beat, .. } | Hint::StoodStill { epoch, beat } => {
            ((*epoch, *beat), (row.epoch, row.beat))
        }
        Hint::ResourceFailed { epoch, .. } | Hint::Relief { epoch, .. } | Hint::Released { epoch, .. } => {
            ((*epoch, Beat(0)), (row.epoch, Beat(0)))
        }
        _ => return None,
    };
    (hinted < found).then(|| {
        let reason = format!(
            "the hint is about epoch {}, beat {}; the row is at epoch {}, beat {}",
            hinted.0, hinted.1, row.epoch, row.beat
        );
        nothing(Rule::R110, reason)
    })
}

fn nothing(rule: Rule, reason: String) -> Decision {
    Decision { rule, reason, action: Action::Nothing, notes: Vec::new() }
}

fn block(rule: Rule, reason: String, what_to_do: impl Into<String>) -> Decision {
    Decision { rule, reason, action: Action::Block { what_to_do: what_to_do.into() }, notes: Vec::new() }
}

fn look_again(rule: Rule, reason: &str, missing: Missing) -> Decision {
    Decision { rule, reason: reason.into(), action: Action::LookAgain(vec![missing]), notes: Vec::new() }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
