//! The node's dealings with the row: one read and one write at a time, and what is unknown stays unknown.

use super::event::Ticket;
use super::rules;
use lease::change::{Change, Write};
use lease::ids::Nonce;
use lease::record::Row;
use lease::time::Moment;

/// A write of this node that is not settled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pending {
    pub ticket: Ticket,
    pub change: Change,
    pub write: Write,
    /// When it was FIRST sent: whatever it grants counts from here, whichever try is applied.
    pub sent: Moment,
    /// A try went without an answer: it may be applied at any time until the row is seen to have moved.
    pub unanswered: bool,
    /// An answer is being waited for.
    pub in_flight: bool,
    /// When the last try ended without an answer.
    pub idle_since: Moment,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Desk {
    /// Random for this process, so that no two processes ever make the same nonce.
    prefix: String,
    count: u64,
    pub(super) pending: Option<Pending>,
    /// A read is on its way, asked at this moment.
    pub(super) reading: Option<Moment>,
    /// The last answered read: when it was asked.
    pub(super) read_at: Option<Moment>,
    /// The last read that failed.
    pub(super) failed_at: Option<Moment>,
    /// The last write that was certainly not made.
    pub(super) denied_at: Option<Moment>,
    /// Why the row could not be read, or not be written, when that was last tried.
    pub(super) problem: Option<String>,
    /// Something happened that makes a read due at once.
    pub(super) read_wanted: bool,
}

impl Desk {
    pub(super) fn new(prefix: String) -> Self {
        Self {
            prefix,
            count: 0,
            pending: None,
            reading: None,
            read_at: None,
            failed_at: None,
            denied_at: None,
            problem: None,
            read_wanted: true,
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.count += 1;
        Ticket(self.count)
    }

    /// A mark that no write had before.
    pub(super) fn nonce(&mut self) -> Nonce {
        self.count += 1;
        Nonce::new(format!("{}-{}", self.prefix, self.count)).expect("prefix and count are letters, digits and '-'")
    }

    /// Takes up a write, to be sent at `now`.
    pub(super) fn take(&mut self, change: Change, write: Write, now: Moment) -> Ticket {
        assert!(self.pending.is_none(), "one write at a time");
        let ticket = self.ticket();
        self.pending =
            Some(Pending { ticket, change, write, sent: now, unanswered: false, in_flight: true, idle_since: now });
        ticket
    }

    /// The unanswered write again, under a new ticket and the same nonce.
    pub(super) fn again(&mut self) -> Option<(Ticket, Write)> {
        let ticket = self.ticket();
        let pending = self.pending.as_mut()?;
        pending.ticket = ticket;
        pending.in_flight = true;
        Some((ticket, pending.write.clone()))
    }

    /// What a fresh row says of the pending write: `Some(true)` applied, `Some(false)` never will be from now on.
    pub(super) fn settled_by(&self, row: &Row) -> Option<bool> {
        rules::settled_by(&self.pending.as_ref()?.write, row)
    }
}
