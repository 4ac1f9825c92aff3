//! The numbers of the decision rules. A decision is an event that names its rule; operators ask why first.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why something was done, or was not. The numbers leave gaps for rules to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rule {
    /// The cluster has no row yet and a node has joined: the row is made and the first holder nominated.
    R050,
    /// Paused: no automatic action.
    R100,
    /// The row moved past the event's (epoch, beat): a stale hint, nothing to do.
    R110,
    /// Nothing is wrong: the holder renews, or the hint names nothing that needs an answer.
    R120,
    /// AWS says that the holder's instance is stopped or terminated: nominate with proof of death.
    R200,
    /// The holder is suspected, and an in-sync standby neither sees the row move nor hears it: nominate that standby,
    /// whatever others hear. Without its promise the holder may not serve beyond its lease.
    R210,
    /// The holder is suspected, but every in-sync standby that is alive still hears it: no nomination.
    R220,
    /// The holder is silent and no in-sync standby is alive: blocked; an operator may force.
    R230,
    /// The holder is silent, only asynchronous standbys are left and policy allows their lag: nominate the least behind.
    R240,
    /// The holder released the lease: nominate an in-sync standby at once.
    R250,
    /// The holder asks to be relieved: intent to hand over.
    R300,
    /// An operator asked for a switchover: intent to hand over.
    R400,
    /// An operator forced a failover.
    R410,
}

impl Rule {
    /// The rule in one clause, for events and for people.
    #[must_use]
    pub fn says(self) -> &'static str {
        match self {
            Self::R050 => "first start of the cluster",
            Self::R100 => "paused: no automatic action",
            Self::R110 => "stale hint: the row has moved on",
            Self::R120 => "nothing to do",
            Self::R200 => "the holder's instance is gone, says EC2",
            Self::R210 => "holder silent on the row and on the peer link",
            Self::R220 => "a standby still hears the holder: it is cut off from the table",
            Self::R230 => "holder silent and no in-sync standby alive",
            Self::R240 => "holder silent, only asynchronous standbys, lag within policy",
            Self::R250 => "the holder released the lease",
            Self::R300 => "the holder asks to be relieved",
            Self::R400 => "operator's switchover",
            Self::R410 => "operator's forced failover",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
