//! Online verification: whether each peer in step has what this replica has, by hashes, beside the writes that go on.
//!
//! ```text
//!  holder:  chunk ──after the writes before it──▶ hash ──▶ VERIFY, a place in each stream ──before the writes behind it
//!  standby:                                                 └──after the writes before it──▶ hash ──▶ SAME, or DIFFERS(hash)
//! ```
//! Both hashes are taken at one place of the stream, so a write under way is on both sides of the comparison or on neither: no
//! chunk needs a second look, and what differs differs. A write that meets the chunk waits while it is read, and no longer.
//!
//! Of two copies that differ one lacks acknowledged bytes, and a hash does not tell which. So nothing is copied over either, and
//! nobody may find itself served by the other one: the peer leaves the set (invariant 11 of the manual) until somebody decides.

use super::notice::Notice;
use super::peer::{Peer, Sent, Stage};
use super::primary::Primary;
use super::{Answer, Effect, Guard, Job, Owner, Replica, Role};
use crate::ids::{Digest, Sequence, Session, Span, VolumeNo};
use crate::metadata::Slot;
use crate::wire::{Bye, Message};
use lease::ids::Incarnation;
use lease::time::Moment;
use std::collections::{BTreeMap, VecDeque};

/// Bytes of this replica in a second, unless somebody says otherwise: a quarter of what the smallest EBS volume gives, so a TiB
/// takes nine hours.
pub const RATE: u64 = 32 << 20;
/// And at least so many: a TiB takes twelve days then. Slower, nothing is ever known of the whole.
pub const RATE_LEAST: u64 = 1 << 20;
/// Chunks under way at once: enough for the rate over a round trip, little beside what the workload has under way.
pub(super) const WINDOW: usize = 4;
/// Differences that are kept and told one by one; the rest are counted. Who differs in more differs in general.
pub const DIFFERENCES_MAX: usize = 64;

/// Two copies of one chunk that must be the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub peer: Incarnation,
    pub span: Span,
    pub here: Digest,
    /// `None`: the peer could not read it.
    pub there: Option<Digest>,
}

/// How far the comparison with one peer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    UnderWay,
    /// All of it was compared.
    Whole,
    /// The peer left, or this replica leads no more: of the rest nothing is known.
    CutOff,
}

/// What was compared with one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    pub peer: Incarnation,
    pub compared_bytes: u64,
    pub differing_chunks: u64,
    pub extent: Extent,
}

/// A verification, under way or over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// From 1, in this process.
    pub number: u64,
    pub volumes: Vec<VolumeNo>,
    pub total_bytes: u64,
    pub bytes_s: u64,
    pub began: Moment,
    pub ended: Option<Moment>,
    pub peers: Vec<Compared>,
    /// The first [`DIFFERENCES_MAX`] of them.
    pub differences: Vec<Difference>,
    /// Chunks that the local disk could not read: they were compared with nobody.
    pub unreadable_chunks: u64,
}

impl Verification {
    fn of(&mut self, peer: &Incarnation) -> Option<&mut Compared> {
        self.peers.iter_mut().find(|compared| compared.peer == *peer)
    }

    /// Chunks that differ, of all peers.
    #[must_use]
    pub fn differing_chunks(&self) -> u64 {
        self.peers.iter().map(|compared| compared.differing_chunks).sum()
    }

    /// All was compared, with everybody who was there, and nothing differs.
    #[must_use]
    pub fn is_well(&self) -> bool {
        let whole = self.peers.iter().all(|compared| compared.extent == Extent::Whole);
        whole && self.differing_chunks() == 0 && self.unreadable_chunks == 0
    }
}

/// What is under way at the primary.
#[derive(Debug)]
pub(super) struct Run {
    /// Tells its answers from those to an earlier one.
    number: u64,
    left: VecDeque<VolumeNo>,
    at: u64,
    bytes_s: u64,
    /// Bytes that may be read now, as of then.
    allowance: u64,
    since: Moment,
    /// Chunks that are being read here.
    reading: usize,
    /// In the sessions in which it began: chunks that are being compared there.
    targets: BTreeMap<Slot, (Session, usize)>,
}

impl Peer {
    /// It has all of the stream, so it must have what this replica has.
    pub(super) fn is_comparable(&self) -> bool {
        self.dialogue.as_ref().is_some_and(|dialogue| matches!(dialogue.stage, Stage::InSync | Stage::Differing))
    }
}

impl Primary {
    fn is_target(&self, slot: Slot) -> bool {
        let session = self.peers.get(&slot).and_then(|peer| peer.dialogue.as_ref()).map(|dialogue| dialogue.session);
        let began = self.verify.as_ref().and_then(|run| run.targets.get(&slot)).map(|(session, _)| *session);
        began.is_some() && began == session
    }
}

impl Replica {
    pub(super) fn begin_verify(&mut self, volume: Option<VolumeNo>, bytes_s: u64, now: Moment) {
        let sizes = self.store.geometry().volumes().to_vec();
        let volumes: Vec<VolumeNo> = (0..)
            .zip(&sizes)
            .map(|(number, _)| VolumeNo(number))
            .filter(|one| volume.is_none_or(|only| only == *one))
            .collect();
        let Role::Leading(primary) = &mut self.role else { return };
        let targets = primary.peers.iter().filter(|(_, peer)| peer.is_comparable());
        let targets: BTreeMap<Slot, (Session, usize)> =
            targets.filter_map(|(slot, peer)| Some((*slot, (peer.dialogue.as_ref()?.session, 0)))).collect();
        let compared = |slot: &Slot| Compared {
            peer: primary.peers[slot].incarnation.clone(),
            compared_bytes: 0,
            differing_chunks: 0,
            extent: Extent::UnderWay,
        };
        self.verifications += 1;
        self.verification = Some(Verification {
            number: self.verifications,
            total_bytes: volumes.iter().map(|volume| sizes[volume.0 as usize]).sum(),
            volumes: volumes.clone(),
            bytes_s,
            began: now,
            ended: None,
            peers: targets.keys().map(compared).collect(),
            differences: Vec::new(),
            unreadable_chunks: 0,
        });
        let (number, left) = (self.verifications, volumes.into());
        primary.verify = Some(Run { number, left, at: 0, bytes_s, allowance: 0, since: now, reading: 0, targets });
    }

    /// Goes on with what is under way, as fast as it may; and ends it.
    pub(super) fn pump_verify(&mut self, now: Moment) {
        while self.verify_next(now) {}
        let run = match &self.role {
            Role::Leading(primary) if !self.failed => primary.verify.as_ref(),
            Role::Leading(_) | Role::Standby(_) => None,
        };
        let goes_on = run.is_some_and(|run| {
            let waits = run.reading > 0 || run.targets.values().any(|(_, under_way)| *under_way > 0);
            !run.targets.is_empty() && (waits || !run.left.is_empty())
        });
        if goes_on {
            return;
        }
        let ended = run.is_some_and(|run| run.left.is_empty());
        if let Role::Leading(primary) = &mut self.role {
            primary.verify = None;
        }
        if let Some(verification) = self.verification.as_mut().filter(|verification| verification.ended.is_none()) {
            for compared in &mut verification.peers {
                if compared.extent == Extent::UnderWay {
                    compared.extent = if ended { Extent::Whole } else { Extent::CutOff };
                }
            }
            verification.ended = Some(now);
            self.out.push(Effect::Tell(Notice::Verified(Box::new(verification.clone()))));
        }
    }

    /// Reads the next chunk. False: enough is under way, it is too early, or all was read.
    fn verify_next(&mut self, now: Moment) -> bool {
        let ordered = !self.omits(Guard::OrderMeeting);
        let chunk = 1 << self.store.geometry().chunk_shift();
        let Role::Leading(primary) = &mut self.role else { return false };
        let Some(run) = &mut primary.verify else { return false };
        let elapsed = now.shortest_since(run.since);
        if elapsed.0 > 0 {
            run.since = now;
            // What was not used is not saved up: after a pause there is no burst.
            let most = (run.bytes_s / 10).max(WINDOW as u64 * chunk);
            let more = run.bytes_s.saturating_mul(elapsed.0) / 1_000;
            run.allowance = run.allowance.saturating_add(more).min(most);
        }
        let busy = run.targets.values().map(|(_, under_way)| *under_way).max().unwrap_or(0) + run.reading;
        let Some(volume) = run.left.front().copied() else { return false };
        let size = self.store.geometry().volumes()[volume.0 as usize];
        let span = Span { volume, at: run.at, len: chunk.min(size - run.at) };
        if busy >= WINDOW || run.allowance < span.len || run.targets.is_empty() {
            return false;
        }
        run.allowance -= span.len;
        run.reading += 1;
        run.at = span.end();
        if run.at >= size {
            run.left.pop_front();
            run.at = 0;
        }
        let owner = Owner::Verify { run: run.number, span };
        self.works.add(owner, Job::Digest(span), &self.store, ordered, 0);
        true
    }

    /// A chunk was read here: it gets its place in each stream now, before any later write to it starts.
    pub(super) fn verify_read(&mut self, number: u64, span: Span, answer: &Answer) {
        let Role::Leading(primary) = &mut self.role else { return };
        let Some(run) = primary.verify.as_mut().filter(|run| run.number == number) else { return };
        run.reading -= 1;
        let Answer::Digest(digest) = answer else {
            if let Some(verification) = &mut self.verification {
                verification.unreadable_chunks += 1;
            }
            return;
        };
        let targets: Vec<Slot> = run.targets.keys().copied().collect();
        for slot in targets.into_iter().filter(|slot| primary.is_target(*slot)).collect::<Vec<_>>() {
            if let Some((_, under_way)) = primary.verify.as_mut().and_then(|run| run.targets.get_mut(&slot)) {
                *under_way += 1;
            }
            let sent = Sent::Verify { run: number, span, digest: *digest };
            primary.say(slot, Message::Verify { span, digest: *digest }, Some(sent), &mut self.out);
        }
    }

    /// A peer says what it has at this place of its stream: the same (`None`), or something else, or what it cannot read.
    pub(super) fn verified(&mut self, slot: Slot, at: Sequence, differs: Option<Option<Digest>>) {
        let Role::Leading(primary) = &mut self.role else { return };
        let Some(peer) = primary.peers.get_mut(&slot) else { return };
        let Some(dialogue) = peer.dialogue.as_mut() else { return };
        let Some(Sent::Verify { run: number, span, digest }) = dialogue.places.remove(&at) else { return };
        let peer = peer.incarnation.clone();
        if let Some(run) = primary.verify.as_mut().filter(|run| run.number == number) {
            if let Some((_, under_way)) = run.targets.get_mut(&slot) {
                *under_way -= 1;
            }
            if let Some(compared) = self.verification.as_mut().and_then(|verification| verification.of(&peer)) {
                compared.compared_bytes += span.len;
                compared.differing_chunks += u64::from(differs.is_some());
            }
        }
        self.tally.compared_bytes += span.len;
        let Some(there) = differs else { return };
        self.tally.differing_chunks += 1;
        let difference = Difference { peer, span, here: digest, there };
        if let Some(verification) = &mut self.verification
            && verification.differences.len() < DIFFERENCES_MAX
        {
            verification.differences.push(difference.clone());
            self.out.push(Effect::Tell(Notice::Differs(difference)));
        }
        self.store.mark(slot, span);
        self.sets_apart(slot);
    }

    /// Who differs and is not waited for any more would take the stream in no order that could be relied on: it stays as it is
    /// now, which is what was there as it was a member, but for where it differs.
    pub(super) fn part_from_differing(&mut self) {
        let Role::Leading(primary) = &self.role else { return };
        let done = primary.peers.values().filter(|peer| !primary.requires(peer));
        let dialogues = done.filter_map(|peer| peer.dialogue.as_ref());
        let links: Vec<_> =
            dialogues.filter(|dialogue| dialogue.stage == Stage::Differing).map(|dialogue| dialogue.link).collect();
        for link in links {
            self.out.push(Effect::HangUp { link, why: Bye::Closing });
            self.lost(link);
        }
    }

    /// This peer's copy is not one to go on with: it leaves the set, and is copied over only when somebody asks for it. Until
    /// the node has taken it out of the row it takes the stream, and its acknowledgements are waited for: nothing stands still
    /// for this.
    pub(super) fn sets_apart(&mut self, slot: Slot) {
        if self.omits(Guard::SetApart) {
            return;
        }
        self.store.doubt(slot);
        let Role::Leading(primary) = &mut self.role else { return };
        let Some(dialogue) = primary.peers.get_mut(&slot).and_then(|peer| peer.dialogue.as_mut()) else { return };
        if dialogue.stage != Stage::InSync {
            return;
        }
        dialogue.stage = Stage::Differing;
        primary.look = true;
        // It hears of no other generation: what is completed without it must be told from what it has. And what it has from here on
        // it marks against everybody but this replica.
        let generation = primary.generation;
        let alone = Message::State { generation, companions: Vec::new() };
        primary.say(slot, alone, Some(Sent::State(generation)), &mut self.out);
        primary.say_state(None, &mut self.out);
    }

    /// The peer is gone: of the rest of its copy nothing is known.
    pub(super) fn verify_lost(&mut self, slot: Slot) {
        let Role::Leading(primary) = &mut self.role else { return };
        let Some(run) = &mut primary.verify else { return };
        if run.targets.remove(&slot).is_none() {
            return;
        }
        let peer = primary.peers[&slot].incarnation.clone();
        if let Some(compared) = self.verification.as_mut().and_then(|verification| verification.of(&peer)) {
            compared.extent = Extent::CutOff;
        }
    }
}
