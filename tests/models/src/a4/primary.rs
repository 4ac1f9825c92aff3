//! The primary's half of a session: what a peer lacks is kept or marked, copied, acknowledged.

use super::dialogue::{companions, kept, next_block, say, small};
use super::state::{Durable, Frame, Op, Peer, Role, Stage, Standing, State, Word, one};
use super::{A4, Met, Mistake, epoch, session};
use volume::core::rules::{Basis, is_heard, tears_image};

impl A4 {
    pub(super) fn connect(&self, state: &mut State, at: usize, peer: usize) {
        let epoch = state.nodes[at].primary().expect("it leads").epoch;
        if !state.nodes[peer].whole {
            self.meet(Met::ResyncResumed);
        }
        // The standby: what came of another session ends; the promise is durable before it is answered.
        self.promise(state, peer, epoch);
        let theirs = state.nodes[peer].marks[at];
        let guesses = state.nodes[at].guesses;
        let me = &mut state.nodes[at];
        let cleared = self.errs(Mistake::VerdictClears);
        let Role::Leading(primary) = &mut me.role else { unreachable!("it leads") };
        let it = &mut primary.peers[peer];
        it.known = true;
        if !it.same_life {
            it.same_life = true;
            it.again |= primary.ops.iter().any(|op| op.kept && op.owed.may_be_lost(peer, false));
            if it.again {
                primary.ops.iter_mut().for_each(|op| op.owed.unacknowledge(peer));
                self.meet(Met::Resent);
            }
        }
        it.session += 1;
        it.compare = guesses;
        (it.sent, it.under_way, it.compared, it.same, it.to_copy, it.asked) = (0, 0, 0, 0, 0, false);
        let session = it.session;
        if Basis::joins_marks(it.whole) && !self.errs(Mistake::OwnMarksOnly) {
            if theirs & !me.marks[peer] != 0 {
                self.meet(Met::TheirMarks);
            }
            me.marks[peer] |= theirs;
        }
        if cleared {
            me.marks[peer] = 0;
        }
        let confirmed = Basis::confirmed(it.whole, me.marks[peer].into());
        if confirmed != it.whole {
            self.stop_keeping(state, at, peer);
        }
        let marks = state.nodes[at].marks[peer];
        let intact = state.nodes[peer].intact;
        let primary = state.nodes[at].leading();
        let it = &mut primary.peers[peer];
        it.stage = Stage::Resyncing;
        let (whole, again) = (it.whole.is_some(), it.again && !self.errs(Mistake::ResentUnmarked));
        let intact = intact && primary.need & one(peer) != 0 && !again && !whole;
        it.spared = intact;
        if intact && marks != 0 {
            self.meet(Met::Spared);
        }
        let companions = companions(primary, peer);
        state.nodes[peer].role = Role::Standby(Some(Standing {
            primary: small(at),
            epoch,
            session,
            stream: Default::default(),
            companions: 0,
            taken: Default::default(),
            writes: 0,
            copies: 0,
            in_sync: false,
            equal: None,
            late: false,
        }));
        if tears_image(marks.into(), again, intact) {
            say(state, at, peer, Frame::Resync);
        }
        if self.nodes > 2 {
            say(state, at, peer, Frame::State(companions));
        }
        if whole {
            let ops = state.nodes[at].leading().ops;
            for number in (0..self.writes).filter(|number| ops[*number].kept && ops[*number].owed.is_unsent(peer)) {
                self.send(state, at, peer, number);
            }
        }
        let primary = state.nodes[at].leading();
        primary.peers[peer].elders = kept(primary) & !primary.peers[peer].sent;
        if whole {
            self.caught_up(state, at, peer);
        }
    }

    pub(super) fn caught_up(&self, state: &mut State, at: usize, peer: usize) {
        let primary = state.nodes[at].leading();
        let it = &mut primary.peers[peer];
        (it.whole, it.waited_for, it.stage) = (Some(Basis::CaughtUp), true, Stage::Ending);
        it.spared = false;
        primary.ops.iter_mut().filter(|op| op.kept).for_each(|op| op.owed.caught_up(peer));
        let flushes = primary.flushes;
        if let Some(flush) = &mut primary.flush {
            flush.asked &= !one(peer);
            flush.durable &= !one(peer);
            flush.at_end |= one(peer);
        }
        say(state, at, peer, Frame::CaughtUp(flushes));
    }

    pub(super) fn copy(&self, state: &mut State, at: usize, peer: usize) {
        let me = &mut state.nodes[at];
        let Role::Leading(primary) = &mut me.role else { unreachable!("it leads") };
        let it = &mut primary.peers[peer];
        let block = next_block(me.marks[peer], it).expect("only then it is a step");
        let again = it.to_copy & one(block) != 0;
        it.to_copy &= !one(block);
        it.under_way |= one(block);
        it.asked = false;
        let value = me.blocks[block].seen;
        let compares = it.compare && !again;
        if compares {
            it.compared |= one(block);
        }
        if self.errs(Mistake::CleanWhenSent) && !compares {
            me.marks[peer] &= !one(block);
            it.under_way &= !one(block);
        }
        let block = small(block);
        let frame = if compares { Frame::Compare { block, value } } else { Frame::Copy { block, value } };
        say(state, at, peer, frame);
    }

    pub(super) fn hear(&self, state: &mut State, at: usize, peer: usize) {
        let primary = state.nodes[at].leading();
        let it = &mut primary.peers[peer];
        let (of, word) = it.words.pop();
        let epoch = epoch(primary.epoch);
        if !is_heard((epoch, session(it.session)), (epoch, session(of))) && !self.errs(Mistake::OldSessionHeard) {
            return;
        }
        match word {
            Word::Nothing => {}
            Word::Written(number) => {
                let op = &mut primary.ops[usize::from(number)];
                if self.errs(Mistake::CacheIsDurable) {
                    op.owed.durable(peer);
                } else {
                    op.owed.written(peer);
                }
            }
            Word::Same(block) => {
                it.same |= one(block.into());
                self.meet(Met::FoundSame);
            }
            Word::Differs(block) => {
                // Its place is forgotten; it stays under way until its copy is durable.
                it.compared &= !one(block.into());
                it.to_copy |= one(block.into());
                self.meet(Met::FoundDifferent);
            }
            Word::Durable(durable) => self.durable(state, at, peer, durable, false),
            Word::InSync(durable) => {
                let it = &mut primary.peers[peer];
                (it.stage, it.again) = (Stage::InSync, false);
                self.durable(state, at, peer, durable, true);
                self.say_state(state, at);
            }
        }
    }

    /// All of this is durable at the peer: only now is anything released (invariant 3).
    pub(super) fn durable(&self, state: &mut State, at: usize, peer: usize, durable: Durable, end: bool) {
        let writes = state.writes;
        let me = &mut state.nodes[at];
        let Role::Leading(primary) = &mut me.role else { unreachable!("it leads") };
        let it = &mut primary.peers[peer];
        for (number, op) in primary.ops.iter_mut().enumerate().filter(|(_, op)| op.kept) {
            op.owed.flushed_since(peer, it.sent & one(number) != 0);
            if durable.writes & one(number) != 0 {
                op.owed.durable(peer);
            }
        }
        let arrived = durable.blocks & it.under_way & !it.to_copy;
        // A comparison that is not known to be equal clears nothing.
        let equal = arrived & (!it.compared | it.same);
        if self.errs(Mistake::OlderVersion) {
            for (number, op) in primary.ops.iter_mut().enumerate() {
                if equal & one(writes[number].block.into()) != 0 {
                    op.owed.durable(peer);
                }
            }
        }
        it.under_way &= !arrived;
        it.compared &= !arrived;
        it.same &= !arrived;
        me.marks[peer] &= !equal;
        let number = primary.flushes;
        if let Some(flush) = &mut primary.flush {
            let covers =
                durable.flush == number && flush.asked & one(peer) != 0 || end && flush.at_end & one(peer) != 0;
            if covers {
                flush.durable |= one(peer);
            }
        }
    }

    /// The connection is gone: what is kept for the peer stays kept while it is waited for; what was only on its way is marked.
    pub(super) fn lost(&self, state: &mut State, at: usize, peer: usize) {
        let primary = state.nodes[at].leading();
        let it = &mut primary.peers[peer];
        let companion = it.stage == Stage::InSync;
        if it.stage == Stage::Resyncing {
            self.meet(Met::ResyncCut);
        }
        let words = if self.errs(Mistake::OldSessionHeard) { it.words } else { Default::default() };
        *it = Peer {
            known: it.known,
            whole: it.whole,
            waited_for: it.waited_for,
            same_life: it.same_life,
            again: it.again,
            session: it.session,
            words,
            ..Peer::default()
        };
        let keeps = it.whole.is_some();
        if let Some(flush) = &mut primary.flush {
            flush.asked &= !one(peer);
            flush.at_end &= !one(peer);
            flush.durable &= !one(peer);
        }
        if !keeps {
            self.stop_keeping(state, at, peer);
        }
        if companion {
            self.say_state(state, at);
        }
    }

    pub(super) fn stop_keeping(&self, state: &mut State, at: usize, peer: usize) {
        let (writes, marks_lost) = (state.writes, !self.errs(Mistake::LostNotMarked));
        let me = &mut state.nodes[at];
        let Role::Leading(primary) = &mut me.role else { unreachable!("it leads") };
        let copied = primary.peers[peer].whole.take().is_none();
        for (number, op) in primary.ops.iter_mut().enumerate().filter(|(_, op)| op.kept) {
            let block = one(writes[number].block.into());
            if op.owed.stop_keeping(peer) && marks_lost {
                if copied && me.marks[peer] & block == 0 {
                    self.meet(Met::Voided);
                }
                me.marks[peer] |= block;
            }
        }
    }

    pub(super) fn say_state(&self, state: &mut State, at: usize) {
        if self.nodes == 2 {
            return;
        }
        for peer in 0..self.nodes {
            let primary = state.nodes[at].primary().expect("it leads");
            if primary.peers[peer].stage != Stage::Away {
                let companions = companions(primary, peer);
                say(state, at, peer, Frame::State(companions));
            }
        }
    }

    /// What is due at the end of each step: resyncs end, requests are answered, writes are forgotten.
    pub(super) fn settle(&self, state: &mut State, at: usize) {
        let Role::Leading(primary) = &state.nodes[at].role else { return };
        if self.may_read(primary) {
            for peer in 0..self.nodes {
                self.flush_or_end(state, at, peer);
            }
        }
        self.complete(state, at);
        let primary = state.nodes[at].leading();
        for op in primary.ops.iter_mut().filter(|op| op.kept) {
            if op.owed.is_over(op.answered, op.durable_here) {
                *op = Op { answered: true, ..Op::default() };
            }
        }
    }

    pub(super) fn flush_or_end(&self, state: &mut State, at: usize, peer: usize) {
        let me = &state.nodes[at];
        let primary = me.primary().expect("it leads");
        let it = &primary.peers[peer];
        if it.stage != Stage::Resyncing || next_block(me.marks[peer], it).is_some() {
            return;
        }
        if it.under_way == 0 && me.marks[peer] == 0 {
            self.caught_up(state, at, peer);
        } else if !it.asked && it.under_way != 0 {
            let flushes = primary.flushes;
            state.nodes[at].leading().peers[peer].asked = true;
            say(state, at, peer, Frame::Flush(flushes));
        }
    }
}
