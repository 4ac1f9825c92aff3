//! What the workload asks of a holder: written, sent, flushed, answered, and forgotten once nobody needs it.

use super::dialogue::{say, small};
use super::state::{Block, Flush, Frame, NODES, Op, Stage, State, Write, each, one};
use super::{A4, Met, Mistake};

impl A4 {
    pub(super) fn write(&self, state: &mut State, at: usize, block: usize) {
        let rightful = state.holds(at);
        let number = usize::from(state.written);
        state.written += 1;
        let before = if rightful { state.flushed } else { Default::default() };
        state.writes[number] = Write { block: small(block), before };
        let copied = (0..NODES).any(|peer| {
            state.nodes[at].primary().is_some_and(|primary| primary.peers[peer].under_way & one(block) != 0)
        });
        if copied {
            self.meet(Met::WrittenWhileCopied);
        }
        let me = &mut state.nodes[at];
        if self.errs(Mistake::LogAfterWrite) {
            me.cold |= one(block) & !me.hot;
        } else {
            me.hot |= one(block);
        }
        me.blocks[block].write(small(number + 1));
        me.excused &= !one(block);
        let mut op = Op { kept: true, ..Op::default() };
        let mut to = 0;
        for peer in (0..self.nodes).filter(|peer| *peer != at) {
            let it = &me.leading().peers[peer];
            let (streams, kept) = (it.stage != Stage::Away, it.whole.is_some());
            let gets_it = streams || kept;
            op.owed.starts(peer, gets_it);
            if !gets_it && !self.errs(Mistake::AbsentUnmarked) {
                me.marks[peer] |= one(block);
            }
            if streams {
                to |= one(peer);
            }
        }
        me.leading().ops[number] = op;
        for peer in each(to) {
            self.send(state, at, peer, number);
        }
    }

    pub(super) fn send(&self, state: &mut State, at: usize, peer: usize, number: usize) {
        state.nodes[at].leading().peers[peer].sent |= one(number);
        say(state, at, peer, Frame::Write(small(number)));
    }

    pub(super) fn flush_here(&self, state: &mut State, at: usize) {
        let me = &mut state.nodes[at];
        me.blocks.iter_mut().for_each(Block::flush);
        for op in me.leading().ops.iter_mut().filter(|op| op.kept) {
            op.durable_here = true;
        }
    }

    pub(super) fn flush(&self, state: &mut State, at: usize) {
        state.left.flushes -= 1;
        self.flush_here(state, at);
        let answered = (0..self.writes).filter(|write| {
            let op = &state.nodes[at].primary().expect("it leads").ops[*write];
            op.answered
        });
        let covers = answered.fold(0, |set, write| set | one(write));
        let primary = state.nodes[at].leading();
        primary.flushes += 1;
        let number = primary.flushes;
        let asked = (0..NODES).filter(|peer| primary.peers[*peer].stage != Stage::Away);
        let asked = asked.fold(0, |set, peer| set | one(peer));
        primary.flush = Some(Flush { covers, asked, at_end: 0, durable: 0 });
        for peer in each(asked) {
            say(state, at, peer, Frame::Flush(number));
        }
    }

    /// Answers what is written here and on every member (invariant 1), and a flush that is durable there (invariant 7).
    pub(super) fn complete(&self, state: &mut State, at: usize) {
        let rightful = state.holds(at);
        let primary = state.nodes[at].primary().expect("it leads");
        let counts = |peer: usize| primary.peers[peer].whole.is_some();
        let required = |peer: &usize| primary.need & one(*peer) != 0 || primary.peers[*peer].waited_for;
        if each(primary.need).any(|peer| !counts(peer)) {
            return;
        }
        let quorum = (0..self.nodes).filter(required).fold(0, |set, peer| set | one(peer));
        let quorum = if self.errs(Mistake::AckOfOne) { 0 } else { quorum };
        let open = |number: &usize| {
            let op = &primary.ops[*number];
            op.kept && !op.answered && op.owed.is_acknowledged(quorum)
        };
        let answered: Vec<usize> = (0..self.writes).filter(open).collect();
        let flush = primary.flush.filter(|flush| flush.durable & quorum == quorum || self.errs(Mistake::FlushOfOne));
        for number in answered {
            state.nodes[at].leading().ops[number].answered = true;
            let block = state.block_of(number);
            let holder = &state.nodes[usize::from(state.row.holder)];
            if !rightful && holder.excused & one(block) != 0 && holder.blocks[block].seen <= small(number) {
                // Its answer is late, and the new holder has lost it since, with its power.
                continue;
            }
            state.late_ack |= state.buried & one(number) != 0;
            state.floor[block] = state.floor[block].max(small(number + 1));
            if rightful {
                self.bury(state, at);
            }
        }
        if let Some(flush) = flush {
            state.nodes[at].leading().flush = None;
            for number in each(flush.covers) {
                let block = state.block_of(number);
                state.flushed[block] = state.flushed[block].max(small(number + 1));
            }
        }
    }

    /// Something was completed without them: writes that the holder does not have are gone.
    pub(super) fn bury(&self, state: &mut State, at: usize) {
        let seen = state.nodes[at].blocks;
        for number in 0..usize::from(state.written) {
            if small(number + 1) > seen[state.block_of(number)].seen {
                state.buried |= one(number);
            }
        }
    }
}
