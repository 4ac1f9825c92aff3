//! Replicas that follow asynchronously: never waited for, and at every moment an image that the holder's disk could have shown after a
//! loss of power.
//!
//! ```text
//!  Resyncing ──no marks left──▶ Ending ──IN_SYNC──▶ Following ──more than may be kept for it──▶ behind: marked, rests, is resynced
//!                                  ▲                   │ link lost
//!                                  └──from its round───┘
//! ```
//! The holder numbers rounds: one ends as soon as something was answered for good in it, so no write of a round was asked after
//! another of it was known to be safe. In the stream of who follows, ROUND stands between two: what came before is durable there
//! before anything of the next one goes to its disk. So whatever of the round under way its disk loses, what is left is a prefix.

use super::peer::Stage;
use super::primary::{Op, Primary};
use super::rules::{Peers, bit};
use super::{Effect, Guard, RETAINED_MAX, RETAINED_WRITES, Replica, Role};
use crate::ids::Sequence;
use crate::metadata::Slot;
use crate::wire::{Bye, Frame, Message};
use lease::ids::Epoch;
use lease::time::{Millis, Moment};

/// How a replica follows whoever leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Follow {
    /// It has each write before that is answered, and may take over.
    #[default]
    Sync,
    /// In order, soon after: nothing waits for it, and it takes over only where data may be lost.
    Async,
}

impl Follow {
    /// As configurations and people say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
        }
    }
}

/// Bytes of writes that are kept because only a replica that follows lacks them: half of what is kept at all, so that there is room for
/// what members lack, and requests are taken.
pub const FOLLOW_BYTES: u64 = RETAINED_MAX / 2;
/// And so many of them.
pub const FOLLOW_WRITES: usize = RETAINED_WRITES / 2;
/// And for so long: a link that is away for longer has a resync behind it anyway, and what is kept holds places in the log.
pub const FOLLOW_AGE: Millis = Millis(30_000);
/// Who has fallen behind while it was connected stays at its last whole prefix for so long: a link that is too slow for the load would
/// else keep it in the middle of a resync, which nobody can take over from.
pub const FOLLOW_REST: Millis = Millis(10_000);
/// Questions of a standby after its lag that are not answered: one for each sign of life.
pub(super) const PROBES_MAX: usize = 16;

/// How far a copy is behind, in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lag {
    #[default]
    Unknown,
    /// It has everything, durably.
    Nothing,
    /// It may lack what was completed since then; before, nothing.
    Since(Moment),
}

impl Lag {
    /// In milliseconds, as of now.
    #[must_use]
    pub fn at(self, now: Moment) -> Option<Millis> {
        match self {
            Self::Unknown => None,
            Self::Nothing => Some(Millis::ZERO),
            Self::Since(since) => Some(now.longest_since(since)),
        }
    }
}

/// This much before.
fn before(moment: Moment, span: Millis) -> Moment {
    let us = span.0.saturating_mul(1_000);
    Moment {
        boottime_us: moment.boottime_us.saturating_sub(us),
        monotonic_raw_us: moment.monotonic_raw_us.saturating_sub(us),
    }
}

impl Primary {
    /// Those that follow.
    fn followers(&self) -> Peers {
        self.peers.iter().filter(|(_, peer)| peer.follows).fold(0, |set, (slot, _)| set | bit(*slot))
    }

    /// The writes that are kept for this one.
    fn kept_for(&self, slot: Slot) -> impl Iterator<Item = &Op> {
        self.ops.values().filter(move |op| op.started && op.owed.is_kept(slot))
    }

    /// What of the kept writes it lacks, in bytes.
    pub(super) fn kept_bytes(&self, slot: Slot) -> u64 {
        self.kept_for(slot).map(|op| op.span.len).sum()
    }

    /// Since when the oldest of the writes has been kept that it lacks.
    fn kept_since(&self, slot: Slot) -> Option<Moment> {
        self.kept_for(slot).filter_map(|op| op.since).min_by_key(|since| since.boottime_us)
    }

    pub(super) fn lag(&self, slot: Slot) -> Lag {
        let Some(peer) = self.peers.get(&slot).filter(|peer| peer.was_even) else { return Lag::Unknown };
        if peer.whole.is_none() {
            return peer.lagging_since.map_or(Lag::Nothing, Lag::Since);
        }
        self.kept_since(slot).map_or(Lag::Nothing, Lag::Since)
    }

    /// A write starts: in which round.
    pub(super) fn round_of_next(&mut self) -> u64 {
        self.round += u64::from(std::mem::take(&mut self.round_over));
        self.round
    }

    /// What follows in this one's stream is of this round.
    pub(super) fn say_round(&mut self, slot: Slot, round: u64, out: &mut Vec<Effect>) {
        let Some(peer) = self.peers.get_mut(&slot).filter(|peer| peer.follows && peer.whole.is_some()) else { return };
        let Some(dialogue) = peer.dialogue.as_mut().filter(|dialogue| dialogue.round != Some(round)) else { return };
        dialogue.round = Some(round);
        self.say(slot, Message::Round { round }, None, out);
    }
}

impl Replica {
    // --- the holder ----------------------------------------------------------------------------------------------

    /// A replica that follows has said how far it is: what it has is not sent again. If it does not know, all of it is, and its image is
    /// neither old nor new meanwhile. True: that is so.
    pub(super) fn takes_up(&mut self, slot: Slot) -> bool {
        let exact = !self.omits(Guard::SendUnreached);
        let Role::Leading(primary) = &mut self.role else { return false };
        let reached = primary.peers[&slot].dialogue.as_ref().and_then(|dialogue| dialogue.reached);
        let mut torn = false;
        for op in primary.ops.values_mut().filter(|op| op.started && op.owed.is_kept(slot)) {
            if exact && reached.is_some_and(|reached| op.round < reached) {
                op.owed.durable(slot);
            } else {
                op.owed.unacknowledge(slot);
                torn |= reached.is_none();
            }
        }
        (primary.look, primary.retire) = (true, true);
        self.unmark_relieved(slot);
        torn && exact
    }

    /// Whoever holds up what is kept falls behind: more than there is room for, or for too long.
    pub(super) fn bound_followers(&mut self, now: Moment) {
        let Role::Leading(primary) = &self.role else { return };
        let (followers, flushes) = (primary.followers(), primary.flushes_ended());
        if followers == 0 {
            return;
        }
        if primary.retained > FOLLOW_BYTES || primary.ops.len() > FOLLOW_WRITES {
            // Only if the oldest of it is kept for nobody else: else room is not theirs to make.
            let oldest = primary.ops.values().find(|op| op.started);
            let held = oldest.filter(|op| op.is_over_but_for(followers, flushes));
            let slots: Vec<Slot> = held
                .map_or(Vec::new(), |op| primary.peers.keys().copied().filter(|slot| op.owed.is_kept(*slot)).collect());
            slots.into_iter().for_each(|slot| self.falls_behind(slot, now));
        }
        if self.store.is_full() {
            self.relieve_log(followers, flushes);
        }
    }

    /// Who lacks what is older than may be kept.
    pub(super) fn bound_ages(&mut self, now: Moment) {
        let Role::Leading(primary) = &self.role else { return };
        let late = |slot: &Slot| primary.kept_since(*slot).is_some_and(|since| now.longest_since(since) >= FOLLOW_AGE);
        let slots = primary.peers.iter().filter(|(slot, peer)| peer.follows && late(slot));
        let slots: Vec<Slot> = slots.map(|(slot, _)| *slot).collect();
        slots.into_iter().for_each(|slot| self.falls_behind(slot, now));
    }

    fn falls_behind(&mut self, slot: Slot, now: Moment) {
        let Role::Leading(primary) = &mut self.role else { return };
        let Some(peer) = primary.peers.get_mut(&slot) else { return };
        if let Some(link) = peer.dialogue.as_ref().map(|dialogue| dialogue.link) {
            peer.rests_since = Some(now);
            self.out.push(Effect::HangUp { link, why: Bye::Closing });
            self.lost(link);
        }
        self.stop_keeping(slot);
    }

    /// The log is full of claims of what only followers lack: it is marked for them instead, and kept all the same.
    fn relieve_log(&mut self, followers: Peers, flushes: u64) {
        let Role::Leading(primary) = &mut self.role else { return };
        for op in primary.ops.values_mut().filter(|op| op.started && !op.relieved) {
            if !op.is_over_but_for(followers, flushes) {
                continue;
            }
            op.relieved = true;
            for slot in primary.peers.keys().filter(|slot| op.owed.is_kept(**slot)) {
                self.store.mark(*slot, op.span);
            }
            let extents: Vec<u32> = self.store.geometry().touched(op.span).map(|(extent, _)| extent).collect();
            self.store.release(&extents);
        }
    }

    /// A copy that has just ended may be of before a write that is marked instead of claimed: the copy's clearing is not its own.
    pub(super) fn mark_relieved(&mut self, slot: Slot) {
        let Role::Leading(primary) = &self.role else { return };
        if primary.peers.get(&slot).is_some_and(|peer| peer.follows) {
            for op in primary.kept_for(slot).filter(|op| op.relieved) {
                self.store.mark(slot, op.span);
            }
        }
    }

    /// What was marked instead of claimed is there: a whole follower has no other marks.
    pub(super) fn unmark_relieved(&mut self, slot: Slot) {
        let Role::Leading(primary) = &self.role else { return };
        let whole = primary.peers.get(&slot).is_some_and(|peer| peer.follows && peer.whole.is_some());
        if whole && self.store.marks(slot) > 0 && !primary.kept_for(slot).any(|op| op.relieved) {
            self.store.clear_all(slot);
        }
    }

    /// A sign of life of who follows, which asks how far behind it is. Behind a closed gate nobody knows: another may have taken over,
    /// and completed what nobody here has heard of.
    pub(super) fn say_lag(&mut self, slot: Slot, probe: Sequence, now: Moment) {
        if !self.may_answer() {
            return;
        }
        let Role::Leading(primary) = &self.role else { return };
        let Some(dialogue) = primary.peers[&slot].dialogue.as_ref() else { return };
        if dialogue.stage != Stage::Following || probe == Sequence(0) {
            return;
        }
        let Some(lag) = primary.lag(slot).at(now) else { return };
        let message = Message::Lag { lag_ms: lag.0 };
        let frame = Frame { epoch: primary.epoch, session: dialogue.session, sequence: probe, message };
        self.out.push(Effect::Send { link: dialogue.link, frame });
    }

    // --- who follows ---------------------------------------------------------------------------------------------

    pub(super) fn is_follower(&self) -> bool {
        self.setup.follow == Follow::Async
    }

    /// Everything before this round is durable, and nothing of it has begun.
    pub(super) fn reaches(&mut self, epoch: Epoch, round: u64) {
        if let Role::Standby(standby) = &mut self.role {
            standby.reached = Some((epoch, round));
        }
    }

    /// Which of this epoch's rounds this replica is in, if it knows.
    pub(super) fn reached_of(&self, epoch: Epoch) -> Option<u64> {
        let Role::Standby(standby) = &self.role else { return None };
        standby.reached.filter(|(of, _)| *of == epoch).map(|(_, round)| round)
    }

    /// The image is about to be neither old nor new: of how far it is nothing is known.
    pub(super) fn forgets_reached(&mut self) {
        if let Role::Standby(standby) = &mut self.role {
            (standby.reached, standby.lag) = (None, Lag::Unknown);
        }
    }

    /// The number of the next answer to a sign of life, and its moment is kept: what the primary says of it later was so then, or later.
    pub(super) fn probe(&mut self) -> Sequence {
        let now = self.now;
        if !self.is_follower() {
            return Sequence(0);
        }
        let Some(standing) = self.standing() else { return Sequence(0) };
        standing.probe = standing.probe.next();
        if standing.probes.len() >= PROBES_MAX {
            standing.probes.pop_front();
        }
        standing.probes.push_back((standing.probe, now));
        standing.probe
    }

    /// So far behind was this replica when the primary had heard that answer, which is later than when it was given.
    pub(super) fn lags(&mut self, probe: Sequence, lag: Millis) {
        let (now, loose) = (self.now, self.omits(Guard::LagFromProbe));
        let Role::Standby(standby) = &mut self.role else { return };
        let Some(standing) = &mut standby.session else { return };
        while standing.probes.front().is_some_and(|(other, _)| *other < probe) {
            standing.probes.pop_front();
        }
        let Some((_, asked)) = standing.probes.front().copied().filter(|(other, _)| *other == probe) else { return };
        if standby.reached.is_some_and(|(epoch, _)| epoch == standing.epoch) {
            standby.lag = Lag::Since(before(if loose { now } else { asked }, lag));
        }
    }
}
