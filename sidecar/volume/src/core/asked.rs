//! What a standby is asked of its copy: whether a range is the same as the primary's, and what it holds. Each at its place of the stream:
//! after the writes before it, before those behind it.

use super::{Effect, Job, Owner, Replica, Role};
use crate::ids::{Digest, Sequence, Span};
use crate::wire::Message;
use bytes::Bytes;

/// What a primary asks to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) span: Span,
    pub(super) digest: Digest,
    /// For an operator: what differs is marked, and copied when somebody decides so.
    pub(super) verifies: bool,
}

impl Replica {
    /// Hashes a range, to compare it.
    pub(super) fn compare(&mut self, at: Sequence, asked: Asked) {
        let span = asked.span;
        if !self.store.geometry().holds(span) {
            self.nack(at);
            return;
        }
        if let Some(standing) = self.standing() {
            standing.open.insert(at);
            standing.digests.insert(at, asked);
        }
        self.works.add(Owner::Stream(at), Job::Digest(span), &self.store, true, 0);
    }

    /// A range was read; `None`: it can not be.
    pub(super) fn stream_digest(&mut self, at: Sequence, found: Option<Digest>) {
        let Some(standing) = self.standing() else { return };
        let Some(asked) = standing.digests.remove(&at) else { return };
        let same = found == Some(asked.digest);
        if asked.verifies && !same {
            self.differs(asked.span);
        }
        let found = found.filter(|_| asked.verifies);
        let message = if same { Message::Same } else { Message::Differs { found } };
        let Some(standing) = self.standing() else { return };
        let (link, frame) = (standing.link, standing.frame(at, message));
        self.out.push(Effect::Send { link, frame });
        self.ended(at);
    }

    /// One of both copies is not what was written. Whoever leads next is told of it by the marks; nobody counts this replica as
    /// one that has everything.
    fn differs(&mut self, span: Span) {
        for slot in self.store.slots() {
            self.store.mark(slot, span);
        }
        if let Role::Standby(standby) = &mut self.role {
            standby.caught_up = None;
            standby.session.iter_mut().for_each(|standing| (standing.in_sync, standing.equal) = (false, None));
        }
    }

    /// The primary cannot read this.
    pub(super) fn read_for_primary(&mut self, at: Sequence, span: Span) {
        if !self.store.geometry().holds(span) {
            self.nack(at);
            return;
        }
        if let Some(standing) = self.standing() {
            standing.open.insert(at);
        }
        self.works.add(Owner::StreamRead(at), Job::Read(span), &self.store, true, 0);
    }

    /// A range that the primary cannot read; `None`: nor can this replica.
    pub(super) fn stream_read(&mut self, at: Sequence, data: Option<Bytes>) {
        let Some(standing) = self.standing() else { return };
        let (link, frame) = (standing.link, standing.frame(at, Message::Fetched { data }));
        self.out.push(Effect::Send { link, frame });
        self.ended(at);
    }
}
