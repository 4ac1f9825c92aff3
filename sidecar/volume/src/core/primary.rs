//! The primary's half: requests in, local disk and peers in parallel, completion upward.
//!
//! ```text
//!  request ──▶ order ──▶ hot ──▶ local disk ─────────┐
//!                          └──▶ each peer's stream ──┴─ all of `need` ──▶ answered ──▶ durable everywhere ──▶ forgotten
//!                               or a mark for the absent
//! ```

use super::peer::Peer;
use super::ranges::Ranges;
use super::rate::Rate;
use super::repair::Repairs;
use super::rules::{Basis, Owed, Peers, bit};
use super::verify::Run;
use super::{
    Ask, Effect, FLUSH_AFTER, FLUSH_BYTES, FLUSH_WRITES, Guard, Io, Job, Link, Owner, REQUESTS_MAX, RETAINED_MAX,
    RETAINED_WRITES, Refusal, Replica, RequestId, Role,
};
use crate::ids::{Generation, PEERS_MAX, Sequence, Session, Span};
use crate::metadata::Slot;
use crate::wire::Bye;
use bytes::Bytes;
use lease::ids::{Epoch, Incarnation};
use lease::time::Moment;
use std::collections::{BTreeMap, BTreeSet};

/// A write that is not answered, or not durable everywhere.
#[derive(Debug)]
pub(super) struct Op {
    asked: Moment,
    /// Until it is answered.
    request: Option<RequestId>,
    pub(super) job: Job,
    pub(super) span: Span,
    pub(super) started: bool,
    /// When it did, and in which round (see `follower`).
    pub(super) since: Option<Moment>,
    pub(super) round: u64,
    /// What only followers lack of it is marked for them: its extents are claimed no longer.
    pub(super) relieved: bool,
    /// Written here, after this many flushes had begun: the next one covers it.
    written: Option<u64>,
    pub(super) owed: Owed,
    /// Its place in each peer's present stream; 0: none.
    pub(super) places: [Sequence; PEERS_MAX],
    /// Reads that would see it, and wait until it is answered.
    readers: Vec<Io>,
}

impl Op {
    /// Nobody needs it any more: answered, durable here after so many flushes, and durable or marked everywhere else.
    fn is_over(&self, flushes: u64) -> bool {
        self.owed.is_over(self.request.is_none(), self.written.is_some_and(|begun| flushes > begun))
    }

    /// Nobody but these needs it any more.
    pub(super) fn is_over_but_for(&self, these: Peers, flushes: u64) -> bool {
        let durable_here = self.written.is_some_and(|begun| flushes > begun);
        self.request.is_none() && durable_here && self.owed.is_kept_only_for(these)
    }
}

/// A flush that a front end asked for.
#[derive(Debug)]
pub(super) struct Flush {
    id: RequestId,
    /// The local flush that covers it.
    local: u64,
    /// For each peer, the place up to which its stream must be durable.
    pub(super) places: BTreeMap<Slot, Sequence>,
}

/// What leads one epoch.
#[derive(Debug)]
pub(super) struct Primary {
    pub(super) epoch: Epoch,
    pub(super) sessions: u64,
    pub(super) need: BTreeSet<Incarnation>,
    seen: u64,
    pub(super) peers: BTreeMap<Slot, Peer>,
    pub(super) greetings: BTreeMap<Link, (Session, Moment)>,
    pub(super) ops: BTreeMap<u64, Op>,
    next_op: u64,
    /// Numbers of the writes that are not answered, and where they write.
    pub(super) open: BTreeSet<u64>,
    open_ranges: Ranges<u64>,
    /// Reads that are not answered; those that are done and may not be answered yet.
    pub(super) reads: BTreeSet<RequestId>,
    pub(super) reads_done: Vec<(RequestId, Result<Bytes, Refusal>)>,
    pub(super) flushes: Vec<Flush>,
    flush_begun: u64,
    flush_ended: u64,
    /// Bytes of the writes that are kept; of those that no flush covers yet; and how many of these are written here.
    pub(super) retained: u64,
    unflushed: u64,
    uncovered: usize,
    unflushed_since: Option<Moment>,
    pub(super) generation: Generation,
    /// The generation is not yet everywhere where it must be: nothing is completed. Then it is being saved here.
    turning: Option<Option<u64>>,
    /// Each member was found to have what this replica had taken when the epoch began: reads may be answered. Before, they may
    /// see a write that was never acknowledged and that another member lacks; that one may be the next holder.
    even: bool,
    pub(super) fenced_by: Option<Epoch>,
    pub(super) diverged: BTreeSet<Incarnation>,
    /// Writes of which something was acknowledged: they may be answered now.
    pub(super) heard_of: Vec<u64>,
    /// What an answer takes has changed: look at all.
    pub(super) look: bool,
    /// Something may be forgotten.
    pub(super) retire: bool,
    pub(super) verify: Option<Run>,
    pub(super) repairs: Repairs,
    /// The round of what starts now, unless something was answered for good in it: then it is over.
    pub(super) round: u64,
    pub(super) round_over: bool,
    /// Of the resyncs.
    pub(super) rate: Rate,
}

impl Primary {
    pub(super) fn requires(&self, peer: &Peer) -> bool {
        peer.waited_for || self.need.contains(&peer.incarnation)
    }

    fn peer(&self, incarnation: &Incarnation) -> Option<&Peer> {
        self.peers.values().find(|peer| peer.incarnation == *incarnation)
    }

    /// It was met in this epoch, with what both sides had marked, and lacks nothing but what is kept for it.
    fn is_present(&self, member: &Incarnation) -> bool {
        self.peer(member).is_some_and(|peer| peer.counts() && peer.streams())
    }

    /// Who must acknowledge; `None`: one of them can not, so nothing can be completed.
    fn quorum(&self) -> Option<Peers> {
        let known = |member: &Incarnation| self.peer(member).is_some_and(Peer::counts);
        let all = self.need.iter().all(known);
        let required = self.peers.iter().filter(|(_, peer)| self.requires(peer));
        all.then(|| required.fold(0, |set, (slot, _)| set | bit(*slot)))
    }

    /// How far a peer's stream is durable on this node and on all its companions, as far as it is there. Writes that began
    /// before the stream did may be in it as copies: until they are durable everywhere nothing of it is settled.
    pub(super) fn settled(&self, slot: Slot) -> Sequence {
        let Some(dialogue) = self.peers[&slot].dialogue.as_ref() else { return Sequence(0) };
        match dialogue.kept.first() {
            _ if dialogue.elders > 0 => Sequence(0),
            None => dialogue.durable,
            Some(first) => dialogue.durable.min(Sequence(first.0 - 1)),
        }
    }

    /// So many local flushes have ended.
    pub(super) fn flushes_ended(&self) -> u64 {
        self.flush_ended
    }

    /// What was here when the epoch began is durable: a copy of it may count.
    pub(super) fn has_flushed(&self) -> bool {
        self.flush_ended > 0
    }

    /// Requests that wait here, and whether another may come in.
    pub(super) fn takes_requests(&self) -> bool {
        let requests = self.open.len() + self.reads.len() + self.flushes.len();
        requests < REQUESTS_MAX && self.ops.len() < RETAINED_WRITES && self.retained < RETAINED_MAX
    }

    /// Who has left does not know what is completed from here on, and is to be told apart by that.
    fn begin_turn(&mut self, out: &mut Vec<Effect>) {
        self.generation.turn += 1;
        self.turning = Some(None);
        self.look = true;
        self.say_state(None, out);
    }

    /// Members that hold up what is to be completed, and those that differ.
    pub(super) fn missing(&self) -> impl Iterator<Item = &Incarnation> {
        let reads = !self.even && !self.reads.is_empty();
        let waits = !self.open.is_empty() || !self.flushes.is_empty() || self.turning.is_some() || reads;
        let apart = move |member: &Incarnation| self.peer(member).is_some_and(Peer::is_apart);
        self.need.iter().filter(move |member| waits && !self.is_present(member) || apart(member))
    }

    pub(super) fn mirrored(&self) -> impl Iterator<Item = &Incarnation> {
        let in_sync = self.peers.values().filter(|peer| peer.is_in_sync() && peer.waited_for);
        in_sync.map(|peer| &peer.incarnation)
    }
}

impl Replica {
    /// This node holds the epoch and has activated it.
    pub(super) fn lead(&mut self, epoch: Epoch, need: BTreeSet<Incarnation>, now: Moment) {
        self.fence();
        self.end_session();
        if self.store.superblock().promised != epoch || !self.is_promised() || !self.is_whole() {
            // The node activates no epoch that was not promised: this order is not for this replica.
            return;
        }
        let mut peers = BTreeMap::new();
        for member in &need {
            if let Some(slot) = self.store.slot(member, |slot| peers.contains_key(&slot)) {
                let whole = Basis::of_member(self.store.marks(slot));
                peers.insert(slot, Peer::new(member.clone(), whole));
            }
        }
        self.role = Role::Leading(Box::new(Primary {
            epoch,
            sessions: 0,
            need,
            seen: 0,
            peers,
            greetings: BTreeMap::new(),
            ops: BTreeMap::new(),
            next_op: 0,
            open: BTreeSet::new(),
            open_ranges: Ranges::new(),
            reads: BTreeSet::new(),
            reads_done: Vec::new(),
            flushes: Vec::new(),
            flush_begun: 0,
            flush_ended: 0,
            retained: 0,
            unflushed: 0,
            uncovered: 0,
            unflushed_since: None,
            generation: Generation { epoch, turn: 0 },
            turning: Some(None),
            even: false,
            fenced_by: None,
            diverged: BTreeSet::new(),
            heard_of: Vec::new(),
            look: true,
            retire: false,
            verify: None,
            repairs: Repairs::default(),
            round: 0,
            round_over: false,
            rate: Rate::new(self.setup.resync, now),
        }));
        self.intact = true;
        // What this replica took as a standby and has not flushed: no peer is compared with it before it is durable here.
        self.flush_all(None, now);
    }

    /// Who is needed now, as the row proves or will prove.
    pub(super) fn needed(&mut self, epoch: Epoch, need: BTreeSet<Incarnation>, seen: u64) {
        let Role::Leading(primary) = &mut self.role else { return };
        if primary.epoch != epoch || seen < primary.seen {
            return;
        }
        primary.seen = seen;
        primary.look = true;
        let smaller = primary.need.iter().any(|member| !need.contains(member));
        primary.need = need;
        if smaller {
            primary.begin_turn(&mut self.out);
            self.part_from_spared();
        }
    }

    /// Who was a member while it was copied to, and is none any more: from here on its image would be neither old nor new. It begins
    /// anew, and is marked first.
    fn part_from_spared(&mut self) {
        let tears = !self.omits(Guard::TearWhoLeft);
        let Role::Leading(primary) = &mut self.role else { return };
        let gone = |peer: &Peer| {
            let dialogue = peer.dialogue.as_ref()?;
            (dialogue.spared && tears && !primary.need.contains(&peer.incarnation)).then_some(dialogue.link)
        };
        let gone: Vec<Link> = primary.peers.values().filter_map(gone).collect();
        for link in gone {
            self.out.push(Effect::HangUp { link, why: Bye::Closing });
            self.lost(link);
        }
    }

    // --- requests ------------------------------------------------------------------------------------------------

    pub(super) fn ask(&mut self, id: RequestId, ask: Ask, now: Moment) {
        let through = self.setup.write_through;
        let job = match ask {
            Ask::Read(span) => Job::Read(span),
            Ask::Write { volume, at, data, fua } => Job::Write { volume, at, data, fua: fua || through },
            Ask::Zero { span, fua } => Job::Zero { span, fua: fua || through },
            // Zeros, and room on the disk where it can be had without their looking different.
            Ask::Trim { span, fua } if fua || through => Job::Zero { span, fua: true },
            Ask::Trim { span, .. } => Job::Trim(span),
            Ask::Flush => Job::Flush,
        };
        let refuse = |refusal| Effect::Answer { id, result: Err(refusal) };
        if !matches!(self.role, Role::Leading(_)) {
            self.out.push(refuse(Refusal::NotServing));
            return;
        }
        let Some(span) = job.span() else {
            self.flush_all(Some(id), now);
            return;
        };
        let geometry = self.store.geometry();
        if !geometry.holds(span) || geometry.touched(span).count() > usize::from(geometry.slots()) {
            self.out.push(refuse(Refusal::Invalid));
            return;
        }
        let ordered = !self.omits(Guard::OrderMeeting);
        if !job.changes() {
            let strict = !self.omits(Guard::ReadAfterWrites);
            let Role::Leading(primary) = &mut self.role else { return };
            let seen = if strict { primary.open_ranges.meeting(span) } else { Vec::new() };
            let io = self.works.add(Owner::Read(id), job, &self.store, ordered, seen.len());
            for number in seen {
                primary.ops.get_mut(&number).expect("an open write is kept").readers.push(io);
            }
            primary.reads.insert(id);
            return;
        }
        let Role::Leading(primary) = &mut self.role else { return };
        primary.next_op += 1;
        let number = primary.next_op;
        let op = Op {
            asked: now,
            request: Some(id),
            job: job.clone(),
            span,
            started: false,
            since: None,
            round: 0,
            relieved: false,
            written: None,
            owed: Owed::default(),
            places: [Sequence(0); PEERS_MAX],
            readers: Vec::new(),
        };
        primary.ops.insert(number, op);
        primary.open.insert(number);
        primary.open_ranges.insert(number, span);
        primary.retained += span.len;
        self.works.add(Owner::Write(number), job, &self.store, ordered, 0);
    }

    /// A write's extents are hot: it goes to the peers and to the local disk, and what is absent is marked (invariant 3).
    pub(super) fn primary_starts(&mut self, number: u64, now: Moment) {
        let marks = !self.omits(Guard::MarkAbsent);
        let Role::Leading(primary) = &mut self.role else { return };
        let span = {
            let round = primary.round_of_next();
            let op = primary.ops.get_mut(&number).expect("a work belongs to a write");
            (op.started, op.since, op.round) = (true, Some(now), round);
            op.span
        };
        for slot in self.store.slots() {
            let (streams, kept) =
                primary.peers.get(&slot).map_or((false, false), |peer| (peer.streams(), peer.whole.is_some()));
            let op = primary.ops.get_mut(&number).expect("a work belongs to a write");
            op.owed.starts(slot, streams || kept);
            if !(streams || kept) && marks {
                self.store.mark(slot, span);
            }
            if !kept && let Some(peer) = primary.peers.get_mut(&slot) {
                peer.lagging_since.get_or_insert(now);
            }
            if streams {
                primary.send_op(slot, number, &mut self.out);
            }
        }
        primary.unflushed += span.len;
        primary.unflushed_since.get_or_insert(now);
    }

    pub(super) fn primary_wrote(&mut self, number: u64) {
        let Role::Leading(primary) = &mut self.role else { return };
        if let Some(op) = primary.ops.get_mut(&number) {
            op.written = Some(primary.flush_begun);
            primary.uncovered += 1;
            primary.heard_of.push(number);
        }
    }

    pub(super) fn primary_flushed(&mut self, number: u64) {
        let Role::Leading(primary) = &mut self.role else { return };
        primary.flush_ended = primary.flush_ended.max(number);
        (primary.look, primary.retire) = (true, true);
    }

    pub(super) fn primary_read(&mut self, id: RequestId, result: Result<Bytes, Refusal>) {
        let Role::Leading(primary) = &mut self.role else { return };
        if primary.reads.contains(&id) {
            primary.reads_done.push((id, result));
        }
    }

    /// Makes everything durable that was written until now, here and at all peers.
    fn flush_all(&mut self, request: Option<RequestId>, now: Moment) {
        let Role::Leading(primary) = &mut self.role else { return };
        primary.flush_begun += 1;
        let number = primary.flush_begun;
        (primary.unflushed, primary.uncovered) = (0, 0);
        // What is under way now is covered by the next one.
        primary.unflushed_since = primary.open.first().map(|_| now);
        let streaming: Vec<Slot> =
            primary.peers.iter().filter(|(_, peer)| peer.streams()).map(|(slot, _)| *slot).collect();
        let mut places = BTreeMap::new();
        for slot in streaming {
            places.insert(slot, primary.say(slot, crate::wire::Message::Flush, None, &mut self.out));
        }
        if let Some(id) = request {
            primary.flushes.push(Flush { id, local: number, places });
        }
        self.works.add(Owner::Flush(number), Job::Flush, &self.store, false, 0);
    }

    /// Whether something may be answered now, for all that the node and the peers have said.
    pub(super) fn may_answer(&self) -> bool {
        let fenced = matches!(&self.role, Role::Leading(primary) if primary.fenced_by.is_some());
        !self.frozen && !fenced
    }

    /// The gate opens or closes.
    pub(super) fn freeze(&mut self, frozen: bool) {
        self.frozen = frozen;
        if let Role::Leading(primary) = &mut self.role {
            primary.look = true;
        }
    }

    // --- what is due ---------------------------------------------------------------------------------------------

    pub(super) fn tend(&mut self, now: Moment) {
        self.tend_dialogues(now);
        self.bound_ages(now);
        let Role::Leading(primary) = &self.role else { return };
        if primary.unflushed_since.is_some_and(|since| now.longest_since(since) >= FLUSH_AFTER) {
            self.flush_all(None, now);
        }
    }

    /// After the report: nothing that it unsays is relied on, and what it has not unsaid still is.
    pub(super) fn settle_primary(&mut self, now: Moment) {
        self.let_go();
        self.begin_asked();
        self.turn();
        self.pump(now);
        let Role::Leading(primary) = &mut self.role else { return };
        let pressed = self.store.is_full() && primary.flush_begun == primary.flush_ended && primary.uncovered > 0;
        if primary.unflushed >= FLUSH_BYTES || primary.uncovered >= FLUSH_WRITES || pressed {
            self.flush_all(None, now);
        }
        self.complete();
        self.bound_followers(now);
        self.retire();
    }

    /// Whoever is away and not waited for any more: what is kept for it is marked.
    fn let_go(&mut self) {
        let (at_once, turns) = (self.omits(Guard::UnsaidFirst), !self.omits(Guard::TurnOnLetGo));
        let Role::Leading(primary) = &mut self.role else { return };
        let seen = primary.seen;
        let mut left = false;
        for peer in primary.peers.values_mut() {
            let there = peer.streams() && !peer.is_apart();
            if peer.waited_for && !there && (at_once || peer.unsaid.is_none_or(|report| seen >= report)) {
                peer.waited_for = false;
                peer.unsaid = None;
                left |= !primary.need.contains(&peer.incarnation);
            }
        }
        if left && turns {
            primary.begin_turn(&mut self.out);
        }
        self.part_from_differing();
        let Role::Leading(primary) = &self.role else { return };
        // For who follows it is kept while there is room, so that a link that blinks costs no resync.
        let away = |peer: &Peer| peer.whole.is_some() && !peer.streams() && !peer.follows;
        let kept = primary.peers.iter().filter(|(_, peer)| away(peer) && !primary.requires(peer));
        let gone: Vec<Slot> = kept.map(|(slot, _)| *slot).collect();
        gone.into_iter().for_each(|slot| self.stop_keeping(slot));
    }

    /// A new generation is first everywhere where acknowledgements come from, then here; then writes are completed in it.
    fn turn(&mut self) {
        let saved = self.store.saved();
        let Role::Leading(primary) = &mut self.role else { return };
        let generation = primary.generation;
        match primary.turning {
            None => {}
            Some(Some(version)) if saved >= version => {
                primary.turning = None;
                primary.look = true;
            }
            Some(Some(_)) => {}
            Some(None) => {
                let known = |peer: &&Peer| !primary.requires(peer) || peer.generation >= Some(generation);
                let members = primary.need.iter().all(|member| primary.peer(member).is_some());
                if members && primary.peers.values().all(|peer| known(&peer)) {
                    primary.turning = Some(Some(self.store.change(|superblock| {
                        superblock.begin(generation);
                        superblock.completed = Some(generation);
                    })));
                }
            }
        }
    }

    /// Answers what was read, what is written here and on every member (invariant 1), and flushes that are durable there
    /// (invariant 7).
    fn complete(&mut self) {
        let (all, flush_all) = (!self.omits(Guard::AckOfAll), !self.omits(Guard::FlushAll));
        let (open, gate_reads) = (self.may_answer(), !self.omits(Guard::GateReads));
        let Role::Leading(primary) = &mut self.role else { return };
        if !primary.look && primary.heard_of.is_empty() && primary.reads_done.is_empty() {
            return;
        }
        // Once is enough: what comes from now on is seen by no read before it is acknowledged by all.
        primary.even = primary.even || primary.need.iter().all(|member| primary.is_present(member));
        if primary.even && (open || !gate_reads) {
            for (id, result) in std::mem::take(&mut primary.reads_done) {
                primary.reads.remove(&id);
                self.out.push(Effect::Answer { id, result });
            }
        }
        if !open {
            // The thaw looks at all.
            primary.heard_of.clear();
            return;
        }
        if primary.turning.is_some() {
            primary.heard_of.clear();
            return;
        }
        let looks_at_all = std::mem::take(&mut primary.look);
        let heard_of = std::mem::take(&mut primary.heard_of);
        let quorum = if all { primary.quorum() } else { Some(0) };
        let Some(quorum) = quorum else { return };
        let (copies, now) = (primary.is_copying(), self.now);
        let candidates: Vec<u64> = if looks_at_all { primary.open.iter().copied().collect() } else { heard_of };
        for number in candidates {
            let Some(op) = primary.ops.get_mut(&number) else { continue };
            if op.written.is_none() || !op.owed.is_acknowledged(quorum) {
                continue;
            }
            let Some(id) = op.request.take() else { continue };
            primary.open.remove(&number);
            primary.open_ranges.remove(number, op.span);
            primary.retire |= op.is_over(primary.flush_ended);
            primary.round_over |= op.job.is_fua();
            primary.rate.answered(now.boottime_us.saturating_sub(op.asked.boottime_us), copies);
            std::mem::take(&mut op.readers).into_iter().for_each(|io| self.works.free(io));
            self.out.push(Effect::Answer { id, result: Ok(Bytes::new()) });
        }
        let (peers, ended) = (&primary.peers, primary.flush_ended);
        let durable = |flush: &Flush, slot: Slot| {
            let up_to = peers[&slot].dialogue.as_ref().map(|dialogue| dialogue.durable);
            flush.places.get(&slot).is_some_and(|place| up_to.is_some_and(|up_to| up_to >= *place))
        };
        let members = (0..PEERS_MAX).filter(|slot| flush_all && quorum & bit(*slot) != 0);
        let done = |flush: &Flush| flush.local <= ended && members.clone().all(|slot| durable(flush, slot));
        let before = primary.flushes.len();
        for flush in primary.flushes.extract_if(.., |flush| done(flush)) {
            self.out.push(Effect::Answer { id: flush.id, result: Ok(Bytes::new()) });
        }
        primary.round_over |= primary.flushes.len() < before;
    }

    /// Forgets what is answered and durable everywhere, or marked; its extents may leave the log. Then whoever may let go of
    /// more than it knows hears it.
    fn retire(&mut self) {
        let Role::Leading(primary) = &mut self.role else { return };
        if !std::mem::take(&mut primary.retire) {
            return;
        }
        let ended = primary.flush_ended;
        for (_, op) in primary.ops.extract_if(.., |_, op| op.is_over(ended)) {
            primary.retained -= op.span.len;
            for (slot, peer) in &mut primary.peers {
                if let Some(dialogue) = &mut peer.dialogue
                    && !dialogue.kept.remove(&op.places[*slot])
                {
                    dialogue.elders = dialogue.elders.saturating_sub(1);
                }
            }
            if !op.relieved {
                let extents: Vec<u32> = self.store.geometry().touched(op.span).map(|(extent, _)| extent).collect();
                self.store.release(&extents);
            }
        }
        self.tell_settled();
    }

    /// The epoch is over: every request ends in error, and what is not durable everywhere is marked for everybody.
    pub(super) fn abdicate(&mut self, primary: Primary) {
        self.abandon_repairs(primary.repairs);
        let refused = |id| Effect::Answer { id, result: Err(Refusal::NotServing) };
        for op in primary.ops.into_values() {
            self.out.extend(op.request.map(refused));
            if op.started {
                for slot in self.store.slots() {
                    self.store.mark(slot, op.span);
                }
                if !op.relieved {
                    let extents: Vec<u32> = self.store.geometry().touched(op.span).map(|(extent, _)| extent).collect();
                    self.store.release(&extents);
                }
            }
        }
        self.out.extend(primary.flushes.into_iter().map(|flush| flush.id).chain(primary.reads).map(refused));
        let links = primary.peers.into_values().filter_map(|peer| peer.dialogue).map(|dialogue| dialogue.link);
        for link in links.chain(primary.greetings.into_keys()) {
            self.out.push(Effect::HangUp { link, why: Bye::Closing });
        }
        self.works.abandon(Owner::Orphan);
    }
}
