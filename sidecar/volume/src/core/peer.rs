//! The primary's half of one session, from the first word to being in sync.
//!
//! ```text
//!  away ──connected──▶ (HELLO) ──CAPS──▶ Promising ──PROMISED, verdict──▶ Resyncing ──no marks left──▶ Ending ──IN_SYNC──▶ InSync
//!                                            └──the log holds all that it lacks: sent again──────────────▲
//! ```
//! Found to differ (see `verify`): InSync ──▶ Differing, until it has left the set. When it comes again it is
//! Withheld: nothing is said to it. `resync` by an operator ends either, and it begins anew.

use super::follower::{FOLLOW_REST, Lag};
use super::primary::{Op, Primary};
use super::resync::Resync;
use super::rules::{Basis, is_heard, tears_image};
use super::{Effect, Guard, Io, Job, Link, PING, Replica, Role, SILENCE, STALL, verdict};
use crate::ids::{Digest, Generation, Life, Sequence, Session, Span};
use crate::metadata::Slot;
use crate::wire::{Bye, FETCHES, FOLLOWS, Frame, INTACT, Introduction, Message, Verdict};
use lease::ids::Incarnation;
use lease::time::Moment;
use std::collections::{BTreeMap, BTreeSet};

/// Another replica, as the primary knows it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) incarnation: Incarnation,
    /// `None`: what it lacks is marked. Else what it lacks is kept.
    pub(super) whole: Option<Basis>,
    /// Nothing is completed without it, be it in `need` or not.
    pub(super) waited_for: bool,
    /// The report in which it is not mirrored any more.
    pub(super) unsaid: Option<u64>,
    life: Option<Life>,
    /// What an earlier process had acknowledged may be lost and is sent again: until it has all of it, its image is neither
    /// old nor new.
    again: bool,
    /// Durable there, with its history.
    pub(super) generation: Option<Generation>,
    /// Chunks that are being read for it, in this session or an earlier one.
    pub(super) reading: usize,
    /// An operator wants all of it compared, and copied where it differs: once nobody requires it; and what it lacks is a guess.
    pub(super) resync_asked: bool,
    pub(super) compare: bool,
    /// It follows asynchronously (see `follower`). Or it is about to, and is still a member: first it leaves.
    pub(super) follows: bool,
    leaving: bool,
    /// As follower: it has had everything in this epoch; since when what it lacks is marked; and since when it rests.
    pub(super) was_even: bool,
    pub(super) lagging_since: Option<Moment>,
    pub(super) rests_since: Option<Moment>,
    pub(super) dialogue: Option<Dialogue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Promising,
    Resyncing,
    /// CAUGHT_UP is at this place.
    Ending(Sequence),
    InSync,
    /// It has everything, or is sent it, and is not waited for.
    Following,
    /// It takes all of the stream, and is not what this replica is.
    Differing,
    /// It is known to differ: nothing is said to it.
    Withheld,
}

/// What is at a place of the stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sent {
    Op(u64),
    Copy { extent: u32, bit: u32 },
    Compare { extent: u32, bit: u32, same: bool },
    State(Generation),
    Verify { run: u64, span: Span, digest: Digest },
    Fetch(Io),
}

#[derive(Debug)]
pub(super) struct Dialogue {
    pub(super) link: Link,
    pub(super) session: Session,
    pub(super) stage: Stage,
    pub(super) sent: Sequence,
    pub(super) durable: Sequence,
    /// How far it was told that its stream is settled.
    settled: Sequence,
    /// What is not known to be durable there.
    pub(super) places: BTreeMap<Sequence, Sent>,
    /// Places of the writes that are kept for anybody; and how many are kept that began before this stream did.
    pub(super) kept: BTreeSet<Sequence>,
    pub(super) elders: usize,
    /// The history that it was told, and the last generation that it has completed itself.
    history: Vec<Generation>,
    completed: Option<Generation>,
    pub(super) resync: Resync,
    /// It says that it answers FETCH.
    pub(super) fetches: bool,
    /// It says that its image has had everything, in this process.
    intact: bool,
    /// It is a member that is copied to with its image as good as it was.
    pub(super) spared: bool,
    /// As follower: the round that it has said to be in, and the last one that it was told.
    pub(super) reached: Option<u64>,
    pub(super) round: Option<u64>,
    heard: Moment,
    pinged: Moment,
}

impl Peer {
    pub(super) fn new(incarnation: Incarnation, whole: Option<Basis>) -> Self {
        Self {
            incarnation,
            whole,
            waited_for: false,
            unsaid: None,
            life: None,
            again: false,
            generation: None,
            reading: 0,
            resync_asked: false,
            compare: false,
            follows: false,
            leaving: false,
            was_even: false,
            lagging_since: None,
            rests_since: None,
            dialogue: None,
        }
    }

    /// It takes part in the stream.
    pub(super) fn streams(&self) -> bool {
        let aside = |stage| matches!(stage, Stage::Promising | Stage::Withheld);
        self.dialogue.as_ref().is_some_and(|dialogue| !aside(dialogue.stage))
    }

    /// It is known to differ, or somebody wants it to be seen so: it is to leave the set.
    pub(super) fn is_apart(&self) -> bool {
        let apart = |stage| matches!(stage, Stage::Differing | Stage::Withheld);
        self.resync_asked || self.leaving || self.dialogue.as_ref().is_some_and(|dialogue| apart(dialogue.stage))
    }

    pub(super) fn is_in_sync(&self) -> bool {
        self.dialogue.as_ref().is_some_and(|dialogue| dialogue.stage == Stage::InSync)
    }

    /// It is being brought up to date.
    pub(super) fn is_copied_to(&self) -> bool {
        self.dialogue.as_ref().is_some_and(|dialogue| dialogue.stage == Stage::Resyncing)
    }

    /// It was met in this epoch.
    pub(super) fn is_met(&self) -> bool {
        self.life.is_some()
    }

    /// Its acknowledgements count: it lacks nothing but what is kept for it.
    pub(super) fn counts(&self) -> bool {
        self.whole.is_some()
    }
}

impl Primary {
    /// Says the next thing in this peer's stream.
    pub(super) fn say(&mut self, slot: Slot, message: Message, sent: Option<Sent>, out: &mut Vec<Effect>) -> Sequence {
        let epoch = self.epoch;
        let Some(dialogue) = self.peers.get_mut(&slot).and_then(|peer| peer.dialogue.as_mut()) else {
            return Sequence(0);
        };
        let sequence = if message.in_stream() { dialogue.sent.next() } else { Sequence(0) };
        dialogue.sent = dialogue.sent.max(sequence);
        if let Some(sent) = sent {
            dialogue.places.insert(sequence, sent);
        }
        let frame = Frame { epoch, session: dialogue.session, sequence, message };
        out.push(Effect::Send { link: dialogue.link, frame });
        sequence
    }

    pub(super) fn slot_at(&self, link: Link) -> Option<Slot> {
        let at = |peer: &Peer| peer.dialogue.as_ref().is_some_and(|dialogue| dialogue.link == link);
        self.peers.iter().find(|(_, peer)| at(peer)).map(|(slot, _)| *slot)
    }

    /// The replicas in sync besides this one peer.
    fn companions(&self, of: Slot) -> Vec<Incarnation> {
        let others = self.peers.iter().filter(|(slot, peer)| **slot != of && peer.is_in_sync());
        others.map(|(_, peer)| peer.incarnation.clone()).collect()
    }

    /// Tells a peer, or all, under which generation and with whom it goes on.
    pub(super) fn say_state(&mut self, only: Option<Slot>, out: &mut Vec<Effect>) {
        let generation = self.generation;
        // Who follows may lack what is completed, and is told apart by not knowing in which generation.
        let told = self.peers.iter().filter(|(_, peer)| peer.streams() && !peer.is_apart() && !peer.follows);
        let slots: Vec<Slot> = told.map(|(slot, _)| *slot).collect();
        for slot in slots.into_iter().filter(|slot| only.is_none_or(|only| only == *slot)) {
            let state = Message::State { generation, companions: self.companions(slot) };
            self.say(slot, state, Some(Sent::State(generation)), out);
        }
    }

    /// Sends a write to a peer.
    pub(super) fn send_op(&mut self, slot: Slot, number: u64, out: &mut Vec<Effect>) {
        let op = &self.ops[&number];
        let round = op.round;
        let message = match &op.job {
            Job::Write { volume, at, data, fua } => {
                Message::Write { volume: *volume, at: *at, data: data.clone(), fua: *fua }
            }
            Job::Zero { span, fua } => Message::Zero { span: *span, fua: *fua },
            Job::Trim(span) => Message::Trim { span: *span },
            Job::Read(_) | Job::Digest(_) | Job::Keep { .. } | Job::Flush => unreachable!("a write changes data"),
        };
        self.say_round(slot, round, out);
        let at = self.say(slot, message, Some(Sent::Op(number)), out);
        self.ops.get_mut(&number).expect("it is being sent").places[slot] = at;
        if let Some(dialogue) = self.peers.get_mut(&slot).and_then(|peer| peer.dialogue.as_mut()) {
            dialogue.kept.insert(at);
        }
    }
}

impl Replica {
    /// This node opened a connection: introduce oneself.
    pub(super) fn connected(&mut self, link: Link, now: Moment) {
        let introduction = self.introduction();
        let Role::Leading(primary) = &mut self.role else {
            self.out.push(Effect::HangUp { link, why: Bye::Closing });
            return;
        };
        primary.sessions += 1;
        let session = Session(primary.sessions);
        primary.greetings.insert(link, (session, now));
        let (epoch, message) = (primary.epoch, Message::Hello(introduction));
        self.out.push(Effect::Send { link, frame: Frame { epoch, session, sequence: Sequence(0), message } });
    }

    /// A standby speaks.
    pub(super) fn heard(&mut self, link: Link, frame: Frame, now: Moment) {
        if let Message::Hello(_) = frame.message {
            // Another who believes to lead: one of both is fenced by the promise.
            self.take(link, frame);
            return;
        }
        let Role::Leading(primary) = &mut self.role else { return };
        if frame.message == Message::Fenced {
            if frame.epoch > primary.epoch {
                primary.fenced_by = Some(frame.epoch);
            }
            return;
        }
        if frame.epoch != primary.epoch {
            return;
        }
        if let Some((session, _)) = primary.greetings.get(&link).copied() {
            if session == frame.session
                && let Message::Caps(introduction) = &frame.message
            {
                primary.greetings.remove(&link);
                self.introduced(link, session, introduction, now);
            }
            return;
        }
        let Some(slot) = primary.slot_at(link) else { return };
        let epoch = primary.epoch;
        let peer = primary.peers.get_mut(&slot).expect("it has a dialogue");
        let joins = Basis::joins_marks(peer.whole);
        let dialogue = peer.dialogue.as_mut().expect("it has a dialogue");
        if !is_heard((epoch, dialogue.session), (frame.epoch, frame.session)) {
            return;
        }
        dialogue.heard = now;
        let at = frame.sequence;
        match frame.message {
            Message::Generations(completed) if dialogue.stage == Stage::Promising => {
                dialogue.completed = completed.last().copied();
            }
            Message::Bitmap { all, words, .. } if dialogue.stage == Stage::Promising => {
                // What is kept for it is all that it lacks, whatever it fears itself.
                if joins && !self.omits(Guard::UnionOfMarks) {
                    if all {
                        self.store.mark_all(slot);
                    }
                    words.into_iter().for_each(|(extent, bits)| self.store.mark_word(slot, extent, bits));
                }
            }
            Message::Reached { round } if dialogue.stage == Stage::Promising => dialogue.reached = Some(round),
            Message::Promised if dialogue.stage == Stage::Promising => self.promised(slot),
            Message::Written { ranges } => self.written(slot, &ranges),
            Message::Durable if at <= dialogue.sent => self.durable(slot, at),
            Message::Same => match dialogue.places.get_mut(&at) {
                Some(Sent::Compare { same, .. }) => *same = true,
                Some(Sent::Verify { .. }) => self.verified(slot, at, None),
                _ => {}
            },
            Message::Differs { found } => match dialogue.places.get(&at).copied() {
                Some(Sent::Compare { extent, bit, .. }) => {
                    dialogue.places.remove(&at);
                    dialogue.resync.differs(extent, bit);
                }
                Some(Sent::Verify { .. }) => self.verified(slot, at, Some(found)),
                _ => {}
            },
            Message::Fetched { data } => {
                if !self.fetched(slot, at, data) {
                    self.confused(link);
                }
            }
            Message::InSync if dialogue.stage == Stage::Ending(at) && peer.follows => {
                dialogue.stage = Stage::Following;
                (peer.was_even, peer.lagging_since) = (true, None);
                self.durable(slot, at);
            }
            Message::InSync if dialogue.stage == Stage::Ending(at) => {
                dialogue.stage = Stage::InSync;
                (peer.unsaid, peer.again) = (None, false);
                self.durable(slot, at);
                if let Role::Leading(primary) = &mut self.role {
                    primary.say_state(None, &mut self.out);
                }
            }
            Message::Pong => self.say_lag(slot, at, now),
            Message::Bye(why) => {
                if why == Bye::Diverged {
                    primary.diverged.insert(peer.incarnation.clone());
                }
                self.lost(link);
            }
            _ => self.confused(link),
        }
    }

    /// The peer said what does not fit the dialogue.
    fn confused(&mut self, link: Link) {
        self.out.push(Effect::HangUp { link, why: Bye::Confused });
        self.lost(link);
    }

    fn introduced(&mut self, link: Link, session: Session, them: &Introduction, now: Moment) {
        if !self.is_kin(them) || !Self::holds_all_of(&them.volumes, self.store.geometry().volumes()) {
            self.out.push(Effect::HangUp { link, why: Bye::Stranger });
            return;
        }
        let Role::Leading(primary) = &mut self.role else { return };
        let used = |slot: Slot| primary.peers.contains_key(&slot);
        let Some(slot) = self.store.slot(&them.incarnation, used) else {
            self.out.push(Effect::HangUp { link, why: Bye::Stranger });
            return;
        };
        if let Some(old) =
            primary.peers.get(&slot).and_then(|peer| peer.dialogue.as_ref()).map(|dialogue| dialogue.link)
        {
            self.out.push(Effect::HangUp { link: old, why: Bye::Closing });
            self.lost(old);
        }
        if !self.admits(slot, link, them, now) {
            return;
        }
        let withheld = self.store.is_doubted(slot) && !self.omits(Guard::AskFirst);
        let guesses = self.guesses;
        let mut history = self.store.superblock().generations.clone();
        let unknowing = them.features & FOLLOWS != 0 && !self.omits(Guard::FollowerUnknowing);
        // With room for the one that it goes on in.
        let surplus = (history.len() + 1).saturating_sub(crate::ids::GENERATIONS_MAX);
        history.drain(..surplus);
        let Role::Leading(primary) = &mut self.role else { return };
        if unknowing {
            // What is completed in this epoch it may lack.
            let epoch = primary.epoch;
            history.retain(|generation| generation.epoch < epoch);
        }
        let peer = primary.peers.entry(slot).or_insert_with(|| Peer::new(them.incarnation.clone(), None));
        let (mut again, compare) = (peer.again, guesses || peer.compare);
        if peer.life != Some(them.life) {
            // What an earlier process had written may be lost, unless it was durable.
            peer.life = Some(them.life);
            again |= primary.ops.values().any(|op| op.owed.may_be_lost(slot, op.job.is_fua()));
            primary.ops.values_mut().filter(|_| again).for_each(|op| op.owed.unacknowledge(slot));
        }
        peer.again = again;
        peer.dialogue = Some(Dialogue {
            link,
            session,
            stage: if withheld { Stage::Withheld } else { Stage::Promising },
            sent: Sequence(0),
            durable: Sequence(0),
            settled: Sequence(0),
            places: BTreeMap::new(),
            kept: BTreeSet::new(),
            elders: 0,
            history: history.clone(),
            completed: None,
            resync: Resync::new(compare),
            fetches: them.features & FETCHES != 0,
            intact: them.features & INTACT != 0,
            spared: false,
            reached: None,
            round: None,
            heard: now,
            pinged: now,
        });
        if withheld {
            return;
        }
        primary.say(slot, Message::Generations(history), None, &mut self.out);
        primary.say(slot, Message::Promise, None, &mut self.out);
    }

    /// Whether this one is met now, as what it says to be. Who was a member and is to follow leaves the set first; who has fallen
    /// behind rests.
    fn admits(&mut self, slot: Slot, link: Link, them: &Introduction, now: Moment) -> bool {
        let follows = them.features & FOLLOWS != 0;
        let Role::Leading(primary) = &mut self.role else { return false };
        let peer = primary.peers.entry(slot).or_insert_with(|| Peer::new(them.incarnation.clone(), None));
        let changes = peer.follows != follows;
        let rests = follows && peer.rests_since.is_some_and(|since| now.shortest_since(since) < FOLLOW_REST);
        peer.leaving = false;
        let required = follows && primary.requires(&primary.peers[&slot]);
        if let Some(peer) = primary.peers.get_mut(&slot).filter(|_| required) {
            peer.leaving = true;
            primary.look = true;
        }
        if required || rests {
            self.out.push(Effect::HangUp { link, why: Bye::Closing });
            return false;
        }
        if changes {
            // What is kept for the one is not in the order that the other needs.
            self.stop_keeping(slot);
        }
        if let Role::Leading(primary) = &mut self.role
            && let Some(peer) = primary.peers.get_mut(&slot)
        {
            (peer.follows, peer.rests_since) = (follows, None);
            peer.was_even &= !changes;
        }
        true
    }

    /// The standby refuses everything older now: begin with what it lacks.
    fn promised(&mut self, slot: Slot) {
        let (marks_resent, resync_first) = (!self.omits(Guard::MarkResent), !self.omits(Guard::ResyncFirst));
        let counts_elders = !self.omits(Guard::SettleElders);
        let Role::Leading(primary) = &mut self.role else { return };
        let peer = primary.peers.get_mut(&slot).expect("it has a dialogue");
        let dialogue = peer.dialogue.as_mut().expect("it has a dialogue");
        let link = dialogue.link;
        let found = verdict(&dialogue.history, dialogue.completed);
        if found == Verdict::Diverged {
            primary.diverged.insert(peer.incarnation.clone());
            primary.say(slot, Message::Verdict(found), None, &mut self.out);
            self.out.push(Effect::HangUp { link, why: Bye::Diverged });
            self.lost(link);
            return;
        }
        // It may have given up what it had alone.
        primary.diverged.remove(&peer.incarnation);
        let follows = peer.follows;
        if Basis::confirmed(peer.whole, self.store.marks(slot)) != peer.whole {
            self.stop_keeping(slot);
        }
        let torn = follows && self.takes_up(slot);
        let Role::Leading(primary) = &mut self.role else { return };
        primary.say(slot, Message::Verdict(found), None, &mut self.out);
        let peer = primary.peers.get_mut(&slot).expect("it has a dialogue");
        let (whole, again) = (peer.whole.is_some(), if follows { torn } else { peer.again && marks_resent });
        let member = primary.need.contains(&peer.incarnation);
        let dialogue = peer.dialogue.as_mut().expect("it has a dialogue");
        dialogue.stage = Stage::Resyncing;
        dialogue.spared = member && dialogue.intact && !again && !whole;
        let intact = dialogue.spared;
        // Before the generation: whole, and knowing it, is only who has what was completed in it.
        if !resync_first {
            primary.say_state(Some(slot), &mut self.out);
        }
        // A whole follower's marks stand for what is kept for it.
        let marks = if follows && whole { 0 } else { self.store.marks(slot) };
        if tears_image(marks, again, intact) {
            primary.say(slot, Message::Resync, None, &mut self.out);
        }
        if resync_first {
            primary.say_state(Some(slot), &mut self.out);
        }
        if whole {
            let mine = |op: &Op| op.started && op.owed.is_unsent(slot);
            // What was written in this life and not flushed needs no second writing, but is durable only after a flush.
            let mut again: Vec<u64> =
                primary.ops.iter().filter(|(_, op)| mine(op)).map(|(number, _)| *number).collect();
            again.sort_by_key(|number| primary.ops[number].round);
            again.into_iter().for_each(|number| primary.send_op(slot, number, &mut self.out));
        }
        let elders = primary.ops.values().filter(|op| op.started && op.places[slot] == Sequence(0)).count();
        if let Some(dialogue) = primary.peers.get_mut(&slot).and_then(|peer| peer.dialogue.as_mut()) {
            dialogue.elders = if counts_elders { elders } else { 0 };
        }
        if whole {
            self.caught_up(slot);
        }
    }

    /// Everything that the peer lacks has been sent: from here on nothing is completed without it.
    pub(super) fn caught_up(&mut self, slot: Slot) {
        let Role::Leading(primary) = &mut self.role else { return };
        let at = primary.say(slot, Message::CaughtUp, None, &mut self.out);
        let peer = primary.peers.get_mut(&slot).expect("it has a dialogue");
        peer.whole = Some(Basis::CaughtUp);
        peer.waited_for = !peer.follows;
        let dialogue = peer.dialogue.as_mut().expect("it has a dialogue");
        (dialogue.stage, dialogue.spared) = (Stage::Ending(at), false);
        let round = primary.round;
        primary.say_round(slot, round, &mut self.out);
        // What was written before it came was copied to it, durably.
        primary.ops.values_mut().for_each(|op| op.owed.caught_up(slot));
        primary.look = true;
        for flush in &mut primary.flushes {
            flush.places.insert(slot, at);
        }
    }

    fn written(&mut self, slot: Slot, ranges: &[(Sequence, Sequence)]) {
        let keep = !self.omits(Guard::KeepUntilDurable);
        let Role::Leading(primary) = &mut self.role else { return };
        let peer = primary.peers.get_mut(&slot).expect("it has a dialogue");
        let Some(dialogue) = &mut peer.dialogue else { return };
        for (first, last) in ranges {
            let mut states = Vec::new();
            for (place, sent) in dialogue.places.range(*first..=*last) {
                match sent {
                    Sent::Op(number) => {
                        if let Some(op) = primary.ops.get_mut(number) {
                            if keep {
                                op.owed.written(slot);
                            } else {
                                op.owed.durable(slot);
                            }
                            primary.retire |= !keep;
                            primary.heard_of.push(*number);
                        }
                    }
                    // Written in the superblock: durable.
                    Sent::State(generation) => states.push((*place, *generation)),
                    Sent::Copy { .. } | Sent::Compare { .. } | Sent::Verify { .. } | Sent::Fetch(_) => {}
                }
            }
            for (place, generation) in states {
                dialogue.places.remove(&place);
                peer.generation = Some(generation);
                primary.look = true;
            }
        }
    }

    /// All of the stream up to there is durable at the peer: only now is anything released (invariant 3).
    fn durable(&mut self, slot: Slot, up_to: Sequence) {
        let Role::Leading(primary) = &mut self.role else { return };
        let peer = primary.peers.get_mut(&slot).expect("it has a dialogue");
        let Some(dialogue) = &mut peer.dialogue else { return };
        dialogue.durable = dialogue.durable.max(up_to);
        // Written in an earlier session of the same life, and covered by this one's flush.
        for op in primary.ops.values_mut() {
            op.owed.flushed_since(slot, op.places[slot] != Sequence(0));
        }
        let rest = dialogue.places.split_off(&up_to.next());
        for sent in std::mem::replace(&mut dialogue.places, rest).into_values() {
            match sent {
                Sent::Op(number) => {
                    if let Some(op) = primary.ops.get_mut(&number) {
                        op.owed.durable(slot);
                    }
                }
                Sent::Copy { extent, bit } | Sent::Compare { extent, bit, same: true } => {
                    dialogue.resync.arrived(extent, bit);
                    self.store.clear(slot, extent, 1 << bit);
                }
                Sent::Compare { extent, bit, same: false } => dialogue.resync.arrived(extent, bit),
                Sent::State(generation) => peer.generation = Some(generation),
                // Its answer came before.
                Sent::Verify { .. } | Sent::Fetch(_) => {}
            }
        }
        (primary.look, primary.retire) = (true, true);
        self.mark_relieved(slot);
        self.unmark_relieved(slot);
    }

    /// The connection is gone. What is kept for the peer stays kept while it is waited for; what was only on its way is marked.
    pub(super) fn lost(&mut self, link: Link) {
        if let Role::Standby(standby) = &self.role {
            if standby.session.as_ref().is_some_and(|session| session.link == link) {
                self.end_session();
            }
            return;
        }
        let Role::Leading(primary) = &mut self.role else { return };
        primary.greetings.remove(&link);
        let Some(slot) = primary.slot_at(link) else { return };
        let peer = primary.peers.get_mut(&slot).expect("it has a dialogue");
        let companion = peer.is_in_sync();
        peer.dialogue = None;
        peer.generation = None;
        let whole = peer.whole.is_some();
        primary.ops.values_mut().for_each(|op| op.places[slot] = Sequence(0));
        for flush in &mut primary.flushes {
            flush.places.remove(&slot);
        }
        if !whole {
            self.stop_keeping(slot);
        }
        self.verify_lost(slot);
        self.fetches_lost(slot);
        if companion && let Role::Leading(primary) = &mut self.role {
            primary.say_state(None, &mut self.out);
        }
    }

    /// What is kept for the peer is marked instead; its acknowledgement of it does not count any more.
    pub(super) fn stop_keeping(&mut self, slot: Slot) {
        let marks = !self.omits(Guard::MarkAbsent);
        let Role::Leading(primary) = &mut self.role else { return };
        let lag = primary.lag(slot);
        let peer = primary.peers.get_mut(&slot).expect("it is known");
        peer.whole = None;
        if let Lag::Since(since) = lag {
            peer.lagging_since = Some(since);
        }
        for op in primary.ops.values_mut() {
            if op.owed.stop_keeping(slot) && op.started && marks {
                self.store.mark(slot, op.span);
            }
        }
        (primary.look, primary.retire) = (true, true);
    }

    /// Whoever may let go of more than it knows hears it at once: its log may be full of claims.
    pub(super) fn tell_settled(&mut self) {
        let Role::Leading(primary) = &mut self.role else { return };
        let slots: Vec<Slot> = primary.peers.iter().filter(|(_, peer)| peer.streams()).map(|(slot, _)| *slot).collect();
        for slot in slots {
            let settled = primary.settled(slot);
            let dialogue = primary.peers.get_mut(&slot).and_then(|peer| peer.dialogue.as_mut()).expect("it streams");
            if dialogue.settled < settled {
                dialogue.settled = settled;
                primary.say(slot, Message::Ping { settled }, None, &mut self.out);
            }
        }
    }

    /// Signs of life, and who gives none.
    pub(super) fn tend_dialogues(&mut self, now: Moment) {
        let Role::Leading(primary) = &mut self.role else { return };
        let mut silent: Vec<Link> = Vec::new();
        let overdue = primary.greetings.iter().filter(|(_, (_, since))| now.longest_since(*since) >= SILENCE);
        silent.extend(overdue.map(|(link, _)| *link));
        let mut due = Vec::new();
        for (slot, peer) in &mut primary.peers {
            let Some(dialogue) = &mut peer.dialogue else { continue };
            // Before it promises it lets its disk end what it was given: for as long as a disk may take.
            let quiet = matches!(dialogue.stage, Stage::Promising | Stage::Withheld);
            let patience = if quiet { STALL } else { SILENCE };
            if now.longest_since(dialogue.heard) >= patience {
                silent.push(dialogue.link);
            } else if !quiet && now.longest_since(dialogue.pinged) >= PING {
                dialogue.pinged = now;
                due.push(*slot);
            }
        }
        for slot in due {
            let settled = primary.settled(slot);
            primary.say(slot, Message::Ping { settled }, None, &mut self.out);
        }
        for link in silent {
            self.out.push(Effect::HangUp { link, why: Bye::Closing });
            self.lost(link);
        }
    }
}
