//! The holder's side: activate, renew, ping, keep the in-sync set true, hand over, ask to be relieved.

use super::effect::Effect;
use super::event::{Answer, Pong};
use super::rules::Sequel;
use super::tenure::{Phase, Tenure, Workload};
use super::{Node, REPEAT, Role};
use lease::authority::Standing;
use lease::change::{Change, Drain};
use lease::events::{self, EVENT_VERSION};
use lease::ids::{Epoch, Incarnation};
use lease::record::Holder;
use lease::time::{Millis, Moment};

/// A holder that asked to be relieved and was not restarts the failed workload itself after this long.
const RELIEF_LIMIT: Millis = Millis(5_000);
/// The addresses' lifetime is whole seconds, rounded down: with less than this left there is nothing to extend.
const HOLD_MIN: Millis = Millis(1_250);

impl Node {
    fn tenure(&mut self) -> Option<&mut Tenure> {
        match &mut self.role {
            Role::Holding(tenure) => Some(tenure),
            _ => None,
        }
    }

    pub(super) fn hold(&mut self, now: Moment) {
        self.ping_when_due(now);
        let Role::Holding(tenure) = &self.role else { return };
        match &tenure.phase {
            Phase::Activating
                if self.setup.volumes && (!self.replica.consistent || self.replica.ended == Some(tenure.epoch)) =>
            {
                // What must be durable first may never be. Whoever else is in sync takes over from one that has fallen silent.
                self.demote(
                    "the volumes ended before this epoch was activated: their disk failed or stands still".into(),
                );
                return;
            }
            Phase::Activating => {
                let (me, epoch, terms) = (self.setup.me.clone(), tenure.epoch, self.terms());
                let agreed =
                    self.row.as_ref().is_some_and(|row| (row.ttl_ms, row.lossy_ok) == (terms.ttl_ms, terms.lossy_ok));
                let promised = !self.setup.volumes || self.replica.promised >= epoch;
                if self.desk.pending.is_none() && agreed && promised {
                    self.propose(Change::Activate { me, epoch }, now);
                } else if self.desk.pending.is_none() && !agreed {
                    // Handed over under the other node's configuration: this node's timers fit its own only.
                    self.propose(Change::Restart { me, after: Drain::Clean, terms }, now);
                } else {
                    // What must be durable first takes its time; meanwhile the lease is kept.
                    self.renew_when_due(now);
                }
                return;
            }
            Phase::Active if self.replica.ended == Some(tenure.epoch) && self.replica.consistent => {
                // Nobody has taken over meanwhile: it goes on in an epoch that its volumes can serve in.
                self.demote("the volumes ended in this epoch, and their disk is well again".into());
                return;
            }
            Phase::Active => {
                self.keep_members(now);
                self.follow_intent(now);
                self.tend_workload(now);
            }
            Phase::HandingOver { .. } | Phase::Releasing { .. } => {
                // What was written before the stop needs every member: one that is lost now would hold it up for ever.
                if tenure.workload == Workload::Stopping {
                    self.drop_lost(now);
                }
                self.drained(now);
            }
        }
        self.renew_when_due(now);
        self.hold_address(now);
    }

    // --- lease and promises ------------------------------------------------------------------------------------

    fn renew_when_due(&mut self, now: Moment) {
        let beat_ms = self.setup.policy.beat_ms;
        let Role::Holding(tenure) = &self.role else { return };
        if self.desk.pending.is_some() || !(tenure.beat_due || now.longest_since(tenure.beat_sent) >= beat_ms) {
            return;
        }
        let (me, epoch) = (self.setup.me.clone(), tenure.epoch);
        self.propose_beat(Change::Renew { me, epoch }, now);
    }

    /// Proposes a change that counts as a renewal.
    fn propose_beat(&mut self, change: Change, now: Moment) -> bool {
        let proposed = self.propose(change, now);
        if proposed && let Some(tenure) = self.tenure() {
            tenure.beat_sent = now;
            tenure.beat_due = false;
        }
        proposed
    }

    /// A write of this holder was applied; `self.row` is what it made.
    pub(super) fn renewed(&mut self, change: &Change, sent: Moment, now: Moment) {
        let Some(row) = self.row.clone() else { return };
        let me = self.setup.me.incarnation.clone();
        let Role::Holding(tenure) = &mut self.role else { return };
        if row.epoch != tenure.epoch {
            return;
        }
        if Sequel::of(change) == Sequel::HoldsOn {
            tenure.authority.renewed(sent, row.ttl_ms);
            tenure.authority.proven(row.in_sync.iter().filter(|member| **member != me).cloned(), row.lossy_ok);
        }
        match change {
            Change::Activate { .. } => self.activated(now),
            Change::Shrink { peer, .. } => self.set_changed(peer, false),
            Change::Grow { peer, .. } => self.set_changed(peer, true),
            _ => {}
        }
    }

    fn activated(&mut self, now: Moment) {
        let margin = self.setup.policy.freeze_margin_ms;
        let Some(tenure) = self.tenure() else { return };
        tenure.phase = Phase::Active;
        // An answer that took longer than the lease opens nothing; the gate demotes on its next look.
        tenure.frozen = match tenure.authority.standing(now) {
            Standing::Alone => false,
            Standing::For(left) => left <= margin,
            Standing::None => true,
        };
        tenure.workload = Workload::Starting;
        let (epoch, rule) = (tenure.epoch, tenure.rule);
        self.hold_address(now);
        self.out.push(Effect::StartWorkload { epoch });
        self.out.push(Effect::Heartbeat);
        self.became("activating", epoch, format!("{rule}: {}", rule.says()));
        self.emit(events::Event::FailoverAccepted(events::FailoverAccepted {
            v: EVENT_VERSION,
            cluster: self.setup.cluster.clone(),
            rule,
            holder: self.setup.me.node.clone(),
            epoch,
        }));
    }

    /// Extends the addresses' lifetime while authority lasts; the kernel ends it if this program does not get to.
    fn hold_address(&mut self, now: Moment) {
        let (every, ttl) = (self.setup.policy.ping_ms, self.setup.policy.ttl_ms);
        let Some(tenure) = self.tenure() else { return };
        if tenure.frozen || tenure.held_at.is_some_and(|at| now.longest_since(at) < every) {
            return;
        }
        let at_most = match tenure.authority.standing(now) {
            Standing::None => return,
            Standing::For(left) if left < HOLD_MIN => return,
            Standing::For(left) => left.min(ttl),
            Standing::Alone => ttl,
        };
        tenure.held_at = Some(now);
        self.out.push(Effect::HoldAddress { at_most });
    }

    fn ping_when_due(&mut self, now: Moment) {
        let every = self.setup.policy.ping_ms;
        let ttl = self.setup.policy.ttl_ms;
        let Role::Holding(tenure) = &mut self.role else { return };
        if tenure.pinged_at.is_some_and(|at| now.longest_since(at) < every) {
            return;
        }
        // Whoever hears a holder leaves it alone (R220). One that was handed the lease and cannot reach the table to activate
        // serves nobody: it falls silent, so that who handed over can take the lease back.
        let stranded = tenure.phase == Phase::Activating
            && now.longest_since(tenure.began) >= ttl
            && tenure.authority.lease_left(now) == Millis::ZERO;
        if stranded {
            return;
        }
        tenure.pinged_at = Some(now);
        let epoch = tenure.epoch;
        let Some(beat) = self.row.as_ref().filter(|row| row.epoch == epoch).map(|row| row.beat) else { return };
        for to in self.links.names() {
            if let Some(ping) = self.links.ping(&to, epoch, beat, now) {
                self.out.push(Effect::Ping { to, ping });
            }
        }
    }

    pub(super) fn ponged(&mut self, from: &Holder, pong: &Pong, now: Moment) {
        let silence = self.setup.policy.peer_silence_ms;
        let Role::Holding(tenure) = &mut self.role else { return };
        match &pong.answer {
            Answer::Fenced { epoch } if *epoch > tenure.epoch => {
                let why = format!("fenced by {}: epoch {epoch} exists", from.node);
                self.demote(why);
                self.desk.read_wanted = true;
            }
            // The peer remembers an older epoch than this one, or answers a ping of an older one.
            Answer::Fenced { .. } => {}
            Answer::Promise { epoch, promise_ms, incarnation, ready } => {
                if *epoch != tenure.epoch || *incarnation != from.incarnation {
                    return;
                }
                if let Some(sent) = self.links.ponged(from, pong.number, *ready, now, silence) {
                    tenure.authority.promised(incarnation, sent, *promise_ms, &self.setup.policy);
                }
            }
            Answer::NoPromise { .. } => {
                // It hears this node, so the next ping can show it that its answers get through.
                self.links.ponged(from, pong.number, false, now, silence);
            }
        }
    }

    // --- the in-sync set ---------------------------------------------------------------------------------------

    /// Takes lost members out and returned ones in, one at a time.
    fn keep_members(&mut self, now: Moment) {
        if self.desk.pending.is_some() || self.drop_lost(now) {
            return;
        }
        let policy = &self.setup.policy;
        let Role::Holding(tenure) = &self.role else { return };
        let Some(row) = &self.row else { return };
        // Room enough on the lease: until the grown row is proven, this holder may not count on being alone.
        let room = tenure.authority.lease_left(now) >= Millis(policy.ttl_ms.0 / 2);
        let back = self
            .links
            .answering(policy.grow_after_ms, policy.peer_silence_ms, now)
            .into_iter()
            .filter(|peer| !self.setup.volumes || self.replica.mirrored.contains(&peer.incarnation))
            .find(|peer| !row.in_sync.contains(&peer.incarnation));
        if let Some(peer) = back.filter(|_| room) {
            // Before the write is sent: it may be applied without an answer, and then the peer may accept.
            if let Role::Holding(tenure) = &mut self.role {
                tenure.authority.needs(peer.incarnation.clone());
            }
            let (me, epoch) = (self.setup.me.clone(), self.epoch());
            self.propose_beat(Change::Grow { me, epoch, peer: peer.incarnation }, now);
        }
    }

    /// Takes one lost member out. False: none is lost, or something else is pending.
    fn drop_lost(&mut self, now: Moment) -> bool {
        let Role::Holding(tenure) = &self.role else { return false };
        let Some(row) = &self.row else { return false };
        let mine = &self.setup.me.incarnation;
        let lost = row.in_sync.iter().filter(|member| *member != mine).find(|member| {
            let silent = self.links.unanswered_for(member, now).unwrap_or_else(|| now.longest_since(tenure.began));
            // A node that answers while its copy is out of reach would hold up every write.
            let missing = self.missing_since.get(*member).map_or(Millis::ZERO, |since| now.longest_since(*since));
            silent.max(missing) >= self.setup.policy.peer_silence_ms
        });
        let Some(peer) = lost.cloned() else { return false };
        let (me, epoch) = (self.setup.me.clone(), tenure.epoch);
        self.propose_beat(Change::Shrink { me, epoch, peer }, now)
    }

    fn set_changed(&mut self, peer: &Incarnation, in_sync: bool) {
        let node = self.setup.me.node.clone();
        let epoch = self.epoch();
        self.emit(events::Event::ReplicaStateChanged(events::ReplicaStateChanged {
            v: EVENT_VERSION,
            cluster: self.setup.cluster.clone(),
            node,
            incarnation: peer.clone(),
            epoch,
            in_sync,
        }));
        self.out.push(Effect::Heartbeat);
    }

    // --- moving away in order ----------------------------------------------------------------------------------

    /// Somebody asked for a move: this node's own end, or the row's intent. The peer is asked once more before the workload
    /// is stopped for it, so that nothing is stopped for a peer that is gone.
    fn follow_intent(&mut self, now: Moment) {
        let patience = Millis(self.setup.policy.ping_ms.0 * 4);
        let intent = self.row.as_ref().and_then(|row| row.open_intent().cloned());
        let wanted = intent.is_some() || self.ending.is_some();
        let Some(tenure) = self.tenure() else { return };
        if !wanted {
            tenure.move_seen = None;
            return;
        }
        let Some(seen) = tenure.move_seen else {
            tenure.move_seen = Some(now);
            tenure.pinged_at = None;
            self.ping_when_due(now);
            return;
        };
        let overdue = now.longest_since(seen) >= patience;
        let Some(row) = &self.row else { return };
        let ready: Vec<Holder> = self
            .links
            .answered_since(seen)
            .into_iter()
            .filter(|peer| row.in_sync.contains(&peer.incarnation))
            .collect();
        if self.ending.is_some() {
            let order = |peer: &Holder| {
                let member = self.setup.members.iter().find(|member| member.name == peer.node);
                (member.map_or(u64::MAX, |member| member.priority), peer.node.clone())
            };
            match ready.into_iter().min_by_key(order) {
                Some(to) => self.hand_over(to, None, "this node was asked to end", now),
                None if overdue || row.in_sync.len() == 1 => self.release(now),
                None => {}
            }
            return;
        }
        let Some(intent) = intent else { return };
        if let Some(to) = ready.into_iter().find(|peer| peer.node == intent.to) {
            self.hand_over(to, Some(intent.id), &intent.reason, now);
        } else if overdue && self.desk.pending.is_none() {
            self.trouble(format!("cannot hand over to {}: it is not in sync or does not answer", intent.to));
            self.propose(Change::ClearIntent { id: intent.id }, now);
        }
    }

    fn hand_over(&mut self, to: Holder, intent: Option<lease::ids::Nonce>, why: &str, now: Moment) {
        let Some(tenure) = self.tenure() else { return };
        let epoch = tenure.epoch;
        let note = format!("to {}: {why}", to.node);
        tenure.phase = Phase::HandingOver { to, intent, since: now };
        tenure.workload = Workload::Stopping;
        self.out.push(Effect::StopWorkload);
        self.became("active", epoch, note);
    }

    fn release(&mut self, now: Moment) {
        let Some(tenure) = self.tenure() else { return };
        let epoch = tenure.epoch;
        tenure.phase = Phase::Releasing { since: now };
        tenure.workload = Workload::Stopping;
        self.out.push(Effect::StopWorkload);
        self.became("active", epoch, "this node was asked to end and no peer is ready".into());
    }

    /// The workload is down on the way out: let the next one in.
    pub(super) fn drained(&mut self, now: Moment) {
        let policy = self.setup.policy.clone();
        let terms = self.terms();
        let Role::Holding(tenure) = &mut self.role else { return };
        if tenure.workload != Workload::Down {
            return;
        }
        let (me, epoch) = (self.setup.me.clone(), tenure.epoch);
        match tenure.phase.clone() {
            Phase::HandingOver { to, intent, since } => {
                if !tenure.frozen {
                    tenure.frozen = true;
                    self.out.push(Effect::DropAddress);
                }
                if self.desk.pending.is_some() {
                    return;
                }
                let there = self.links.answering(Millis::ZERO, Millis(policy.ping_ms.0 * 3), now).contains(&to);
                let within = now.longest_since(since) < policy.handover_limit_ms;
                let member = self.row.as_ref().is_some_and(|row| row.in_sync.contains(&to.incarnation));
                if there && within && member {
                    self.propose_beat(Change::HandOver { me, epoch, to, terms }, now);
                } else {
                    self.serve_on(intent, &to, now);
                }
            }
            Phase::Releasing { .. } => {
                if !tenure.frozen {
                    tenure.frozen = true;
                    self.out.push(Effect::DropAddress);
                }
                let alone = self.row.as_ref().is_some_and(|row| row.in_sync.len() == 1);
                if alone {
                    // Nobody else could take over: keeping the lease's name lets this node restart without anybody's help.
                    let from = self.role_name();
                    self.past = self.past.max(Some(epoch));
                    self.role = Role::Gone;
                    self.became(from, epoch, "asked to end; nobody else is in sync".into());
                    self.out.push(Effect::Exit);
                } else if self.desk.pending.is_none() {
                    self.propose_beat(Change::Release { me, epoch }, now);
                }
            }
            Phase::Activating | Phase::Active => {}
        }
    }

    /// The hand-over came to nothing: serve again, here.
    fn serve_on(&mut self, intent: Option<lease::ids::Nonce>, to: &Holder, now: Moment) {
        self.trouble(format!("hand-over to {} given up: it does not answer, is not in sync or took too long", to.node));
        let Some(tenure) = self.tenure() else { return };
        let epoch = tenure.epoch;
        tenure.phase = Phase::Active;
        tenure.workload = Workload::Starting;
        self.out.push(Effect::StartWorkload { epoch });
        if let Some(id) = intent
            && self.row.as_ref().is_some_and(|row| row.intent.as_ref().is_some_and(|found| found.id == id))
        {
            self.propose(Change::ClearIntent { id }, now);
        }
        self.close_gate_when_due(now);
    }

    // --- the workload ------------------------------------------------------------------------------------------

    pub(super) fn workload_up(&mut self, epoch: Epoch) {
        if let Some(tenure) = self.tenure()
            && tenure.epoch == epoch
            && tenure.workload == Workload::Starting
        {
            tenure.workload = Workload::Up;
            self.out.push(Effect::Heartbeat);
        }
    }

    pub(super) fn resource_failed(&mut self, epoch: Epoch, resource: String, reason: String, now: Moment) {
        let Some(tenure) = self.tenure() else { return };
        if tenure.epoch != epoch || tenure.phase != Phase::Active {
            return;
        }
        tenure.workload = Workload::Failed { reason: format!("{resource}: {reason}"), since: now };
        let node = self.setup.me.node.clone();
        self.trouble(format!("resource {resource} failed: {reason}"));
        self.out.push(Effect::Heartbeat);
        self.emit(events::Event::ResourceFailed(events::ResourceFailed {
            v: EVENT_VERSION,
            cluster: self.setup.cluster.clone(),
            node,
            epoch,
            resource,
            reason,
        }));
    }

    /// With a failed workload: asks to be relieved while somebody could continue, else starts it again here.
    fn tend_workload(&mut self, now: Moment) {
        let silence = self.setup.policy.peer_silence_ms;
        let row_has =
            |node: &Node, peer: &Holder| node.row.as_ref().is_some_and(|row| row.in_sync.contains(&peer.incarnation));
        let Role::Holding(tenure) = &self.role else { return };
        match &tenure.workload {
            Workload::Failed { reason, since } => {
                let relief = self.links.answering(Millis::ZERO, silence, now).iter().any(|peer| row_has(self, peer));
                if !relief || now.longest_since(*since) >= RELIEF_LIMIT {
                    let Some(tenure) = self.tenure() else { return };
                    tenure.workload = Workload::Stopping;
                    tenure.relief_asked = None;
                    self.out.push(Effect::StopWorkload);
                } else if tenure.relief_asked.is_none_or(|at| now.longest_since(at) >= REPEAT) {
                    let (reason, epoch) = (reason.clone(), tenure.epoch);
                    if let Some(tenure) = self.tenure() {
                        tenure.relief_asked = Some(now);
                    }
                    self.emit(events::Event::HandoverRequested(events::HandoverRequested {
                        v: EVENT_VERSION,
                        cluster: self.setup.cluster.clone(),
                        node: self.setup.me.node.clone(),
                        epoch,
                        released: false,
                        reason,
                    }));
                }
            }
            // Stopped to be started again.
            Workload::Down => {
                let Some(tenure) = self.tenure() else { return };
                let epoch = tenure.epoch;
                tenure.workload = Workload::Starting;
                self.out.push(Effect::StartWorkload { epoch });
            }
            Workload::Starting | Workload::Up | Workload::Stopping => {}
        }
    }
}
