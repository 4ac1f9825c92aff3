//! One epoch held by this node.

use lease::authority::Authority;
use lease::ids::{Epoch, Incarnation, Nonce};
use lease::record::Holder;
use lease::rules::Rule;
use lease::time::Moment;

/// ```text
///  Activating ──activate applied──▶ Active ──intent──▶ HandingOver ──hand-over applied──▶ (standby)
///   │                                 │  ▲                  │ target lost: back
///   └──volumes failed──▶ (demoting)   │  │                  │
///                                     │  └──────────────────┘
///                                     ├──shut down, nobody ready──▶ Releasing ──release applied──▶ (gone)
///                                     └──authority ended, fenced──▶ (demoting)        `frozen` beside Active
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenure {
    pub epoch: Epoch,
    /// Why this node holds the epoch.
    pub rule: Rule,
    pub phase: Phase,
    pub authority: Authority,
    /// When the last write that counts as a renewal was sent.
    pub beat_sent: Moment,
    /// The last renewal was refused by a change of the row that does not concern the holding: renew at once.
    pub beat_due: bool,
    pub workload: Workload,
    /// The gate is closed for now: addresses dropped, authority may come back.
    pub frozen: bool,
    /// When the addresses' lifetime was last extended.
    pub held_at: Option<Moment>,
    /// When the last round of pings went out.
    pub pinged_at: Option<Moment>,
    /// When a request to move was first seen: only a peer that has answered since may be handed over to.
    pub move_seen: Option<Moment>,
    /// When this node last asked to be relieved.
    pub relief_asked: Option<Moment>,
    pub began: Moment,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Activating,
    Active,
    HandingOver { to: Holder, intent: Option<Nonce>, since: Moment },
    Releasing { since: Moment },
}

/// The workload as the machine knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Workload {
    Down,
    Starting,
    Up,
    /// A resource failed; this node would rather be relieved.
    Failed {
        reason: String,
        since: Moment,
    },
    Stopping,
}

impl Tenure {
    pub(super) fn new(epoch: Epoch, rule: Rule, need: impl IntoIterator<Item = Incarnation>, now: Moment) -> Self {
        Self {
            epoch,
            rule,
            phase: Phase::Activating,
            authority: Authority::of_new_epoch(need),
            beat_sent: now,
            beat_due: false,
            workload: Workload::Down,
            frozen: false,
            held_at: None,
            pinged_at: None,
            move_seen: None,
            relief_asked: None,
            began: now,
        }
    }

    /// On the way out with the workload down: nothing is to be reachable here any more, whatever the authority.
    pub(super) fn is_drained(&self) -> bool {
        matches!(self.phase, Phase::HandingOver { .. } | Phase::Releasing { .. }) && self.workload == Workload::Down
    }

    /// Whether the gate matters: something of the workload may be running or reachable.
    pub(super) fn serves(&self) -> bool {
        !matches!(self.phase, Phase::Activating)
    }
}
