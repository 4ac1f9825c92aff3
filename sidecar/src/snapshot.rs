//! What the core believes, as it tells the rest of the daemon: the heartbeat, status, metrics and systemd.

use crate::node::view::View;
use lease::ids::Epoch;
use lease::time::Moment;
use std::collections::VecDeque;
use std::sync::Arc;

/// Decisions that are remembered for the operator.
pub const DECISIONS_MAX: usize = 16;

/// One thing that the machine did or found, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub at: Moment,
    pub epoch: Epoch,
    pub what: String,
}

#[derive(Clone, Debug)]
pub struct Snapshot {
    pub view: View,
    pub at: Moment,
    /// Since when the role is what it is.
    pub role_since: Moment,
    /// Since when the holder has had no standby in sync; `None`: it has one, or this node is not the holder.
    pub unprotected_since: Option<Moment>,
    pub decisions: Arc<VecDeque<Decision>>,
}

impl Snapshot {
    #[must_use]
    pub fn first(view: View, at: Moment) -> Self {
        let unprotected_since = unprotected(&view).then_some(at);
        Self { view, at, role_since: at, unprotected_since, decisions: Arc::default() }
    }

    /// The next one, at `at`.
    #[must_use]
    pub fn next(&self, view: View, at: Moment) -> Self {
        let role_since = if view.role == self.view.role { self.role_since } else { at };
        let unprotected_since = unprotected(&view).then(|| self.unprotected_since.unwrap_or(at));
        Self { view, at, role_since, unprotected_since, decisions: Arc::clone(&self.decisions) }
    }

    pub fn decided(&mut self, decision: Decision) {
        let decisions = Arc::make_mut(&mut self.decisions);
        if decisions.len() == DECISIONS_MAX {
            decisions.pop_front();
        }
        decisions.push_back(decision);
    }

    /// Whether the machine holds the lease, in whatever phase.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.view.workload.is_some()
    }
}

fn unprotected(view: &View) -> bool {
    view.workload.is_some() && view.row.as_ref().is_none_or(|row| row.in_sync.len() < 2)
}
