//! The standby's side: promise, watch, suspect, accept. And the leftovers of an earlier epoch of its own.

use super::effect::Effect;
use super::event::{Answer, Ping, Pong};
use super::rules::{Asked, Reply};
use super::{Node, REMIND, REPEAT, Role, TICK};
use lease::accept::Hindrance;
use lease::change::{Change, Drain};
use lease::events::{self, EVENT_VERSION};
use lease::ids::{Beat, Epoch};
use lease::record::Holder;
use lease::time::{Millis, Moment};

/// A suspicion that was told to the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Told {
    epoch: Epoch,
    beat: Beat,
    peer_link: bool,
    at: Moment,
}

impl Node {
    pub(super) fn stand_by(&mut self, now: Moment) {
        if self.ending.is_some() {
            self.leave(now);
            return;
        }
        if self.role == Role::Starting || self.barred {
            return;
        }
        let Some(row) = &self.row else { return };
        if row.is_held_by(&self.setup.me) {
            // An epoch of this node's past: never resumed, always followed by a new one. Not while a promise of this process
            // runs, nor one that an earlier process may have given: somebody may be serving on it. And not before the table has
            // answered since: where only the answers are lost, this would be applied unheard, and nobody else could take over
            // from a holder that does not know that it is one.
            if self.vigil.follows_in(row, &self.setup.policy, now) > Millis::ZERO || self.desk.read_at.is_none() {
                return;
            }
            // And with an image that can be served: else another member is to have the lease, if there is one.
            if !self.is_closed() || (self.setup.volumes && !self.replica.consistent) {
                return;
            }
            let (me, terms) = (self.setup.me.clone(), self.terms());
            self.propose(Change::Restart { me, after: Drain::Crash, terms }, now);
            return;
        }
        if row.live_nominee().is_some_and(|nominee| nominee.node == self.setup.me.node) {
            self.accept_when_due(now);
        }
        self.suspect_when_due(now);
    }

    fn accept_when_due(&mut self, now: Moment) {
        if self.desk.pending.is_some() {
            return;
        }
        let Some(row) = &self.row else { return };
        let (me, policy) = (self.setup.me.clone(), &self.setup.policy);
        let consistent = !self.setup.volumes || self.replica.consistent;
        match self.vigil.may_accept(row, &me, consistent, policy, now) {
            Ok(_) => {
                if !self.is_closed() {
                    return;
                }
                let terms = self.terms();
                self.propose(Change::Accept { me, terms }, now);
            }
            Err(Hindrance::Wait(_) | Hindrance::NotNominated | Hindrance::NotInSync | Hindrance::Inconsistent) => {}
        }
    }

    /// Whether nothing that a peer sends can change the data any more, and what is known of the data was said since. Until then it
    /// is asked for: what was said earlier may be older than a resync that has begun, and whoever asked for the lease on such
    /// a word would hold it with half an image, which nobody could serve from.
    fn is_closed(&mut self) -> bool {
        self.wants_closed = self.setup.volumes;
        !self.setup.volumes || (self.closing.is_some() && self.replica.closed == self.closing)
    }

    /// Tells the control plane once the row has stood still for long enough, as a fresh read shows.
    fn suspect_when_due(&mut self, now: Moment) {
        let Some(row) = &self.row else { return };
        let silence = self.vigil.silence(now);
        if silence < self.setup.policy.suspect_ms || self.vigil.latest() != Some((row.epoch, row.beat)) {
            return;
        }
        let peer_link = self.hears_holder(now);
        let repeat = if peer_link { REMIND } else { REPEAT };
        let told = self.told.is_some_and(|told| {
            (told.epoch, told.beat, told.peer_link) == (row.epoch, row.beat, peer_link)
                && now.longest_since(told.at) < repeat
        });
        if told {
            return;
        }
        // Only a read that was asked for after the last sign of life says that the row stands still.
        let recently = Millis(self.setup.policy.ping_ms.0 * 2);
        let fresh = self.desk.read_at.is_some_and(|at| now.longest_since(at) < recently);
        if !fresh {
            self.desk.read_wanted = true;
            return;
        }
        let (epoch, beat) = (row.epoch, row.beat);
        self.told = Some(Told { epoch, beat, peer_link, at: now });
        // First what this node hears, so that the function that the event wakes finds it.
        self.out.push(Effect::Heartbeat);
        self.emit(events::Event::HolderSuspected(events::HolderSuspected {
            v: EVENT_VERSION,
            cluster: self.setup.cluster.clone(),
            node: self.setup.me.node.clone(),
            epoch,
            beat,
            silent_ms: silence,
            peer_link,
        }));
    }

    /// A peer that believes to hold the lease asks for a promise.
    pub(super) fn pinged(&mut self, from: &Holder, ping: &Ping, now: Moment) {
        let known = self.row.as_ref().map_or(Epoch(0), |row| row.epoch).max(self.past.unwrap_or_default());
        let heard_back = self.links.pinged(from, ping, now);
        if ping.epoch >= known {
            self.vigil.saw(ping.epoch, ping.beat, now);
        }
        if ping.epoch > known {
            self.desk.read_wanted = true;
            // A pinned peer holds a newer epoch: whatever this node holds is over, and the row will say so.
            self.demote(format!("{} holds epoch {}", from.node, ping.epoch));
        }
        let asked = Asked {
            epoch: ping.epoch,
            known,
            rightful: self.row.as_ref().is_none_or(|row| {
                row.epoch != ping.epoch || row.holder.as_ref().is_some_and(|holder| holder.node == from.node)
            }),
            heard_back,
            idle: matches!(self.role, Role::Starting | Role::Standby | Role::Demoting { .. }),
            accepting: self.accepting(),
        };
        match asked.reply() {
            Reply::Fenced => self.answer(from, ping, Answer::Fenced { epoch: known }),
            Reply::NoPromise => self.answer(from, ping, Answer::NoPromise { epoch: known }),
            Reply::Promise => self.promise(from, ping, now),
        }
    }

    fn promise(&mut self, to: &Holder, ping: &Ping, now: Moment) {
        let promise_ms = self.setup.policy.promise_ms;
        // In force before it is given.
        self.vigil.promised(now, promise_ms);
        let incarnation = self.setup.me.incarnation.clone();
        let whole = !self.setup.volumes || (self.replica.consistent && self.replica.caught_up == Some(ping.epoch));
        let ready = self.role == Role::Standby && self.ending.is_none() && whole;
        self.answer(to, ping, Answer::Promise { epoch: ping.epoch, promise_ms, incarnation, ready });
    }

    fn answer(&mut self, to: &Holder, ping: &Ping, answer: Answer) {
        self.out.push(Effect::Pong { to: to.node.clone(), pong: Pong { number: ping.number, answer } });
    }

    /// An orderly end of a standby: out of the in-sync set first, so that the holder does not wait for it.
    fn leave(&mut self, now: Moment) {
        let since = self.ending.map_or(Millis::ZERO, |at| now.longest_since(at));
        if self.accepting() && since < self.setup.policy.ttl_ms {
            // It may have been applied: ending now would leave the lease with a node that is gone.
            return;
        }
        // A row that is not the cluster's any more has no members.
        let member = self.row.as_ref().filter(|_| !self.barred).is_some_and(|row| {
            row.in_sync.contains(&self.setup.me.incarnation) && row.in_sync.len() > 1 && row.holder.is_some()
        });
        // Only a fresh row says whether this node is a member.
        let fresh =
            self.ending.zip(self.desk.read_at).is_some_and(|(end, read)| read.monotonic_raw_us >= end.monotonic_raw_us);
        if !fresh && since < self.setup.policy.ttl_ms {
            self.desk.read_wanted = true;
            return;
        }
        // Handed over a moment ago: the next holder tells a hand-over from an old acceptance by the set that it was left.
        let activating = self.row.as_ref().is_some_and(|row| row.holder.is_some() && !row.activated);
        if activating && since < self.setup.policy.ttl_ms {
            self.desk.read_wanted = self.desk.read_at.is_none_or(|at| now.longest_since(at) >= TICK);
            return;
        }
        // The holder must have heard that this node is not ready any more, or it would take it in again at once.
        let told =
            self.holder().and_then(|holder| self.links.ping_silence(holder, now)).is_none_or(|silence| silence < since);
        if member && !told && since < Millis(self.setup.policy.ping_ms.0 * 3) {
            return;
        }
        if member && since < self.setup.policy.ttl_ms {
            let me = self.setup.me.incarnation.clone();
            if self.row.as_ref().is_some_and(|row| !row.is_held_by(&self.setup.me)) {
                self.propose(Change::Leave { me }, now);
                return;
            }
        }
        let from = self.role_name();
        self.role = Role::Gone;
        self.became(from, self.epoch(), "asked to end".into());
        self.out.push(Effect::Exit);
    }

    /// How often the row is to be read now; `None`: it is not.
    pub(super) fn reads_every(&self, now: Moment) -> Option<Millis> {
        let policy = &self.setup.policy;
        match &self.role {
            Role::Starting | Role::Standby => Some(match &self.row {
                None => policy.beat_ms,
                Some(_) if self.pings_arrive(now) => policy.row_read_ms,
                // Pings have stopped, the row still moves: somebody else's link is broken, not the holder.
                Some(_) if self.vigil.silence(now) < policy.suspect_ms => policy.beat_ms,
                Some(_) => policy.ping_ms,
            }),
            // A holder learns all it needs from its own writes; a read settles what they leave unknown.
            Role::Holding(_) => None,
            Role::Demoting { .. } => Some(policy.row_read_ms),
            Role::Halted { .. } | Role::Gone => None,
        }
    }

    fn pings_arrive(&self, now: Moment) -> bool {
        let Some(holder) = self.holder() else { return false };
        let within = Millis(self.setup.policy.ping_ms.0 * 3);
        self.links.ping_silence(holder, now).is_some_and(|silence| silence < within)
    }

    /// Whether the holder is heard, in both directions: pings come in and show that the answers get through.
    pub(super) fn hears_holder(&self, now: Moment) -> bool {
        let within = Millis(self.setup.policy.ping_ms.0 * 4);
        self.holder().is_some_and(|holder| self.links.hears(holder, within, now))
    }

    pub(super) fn accepting(&self) -> bool {
        self.desk.pending.as_ref().is_some_and(|pending| matches!(pending.change, Change::Accept { .. }))
    }

    pub(super) fn nominated(&self) -> bool {
        self.row.as_ref().and_then(|row| row.live_nominee()).is_some_and(|nominee| nominee.node == self.setup.me.node)
    }
}
