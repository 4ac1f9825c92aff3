//! The standby's half: it takes a stream frame by frame, promises, and claims what may differ.

use super::dialogue::{kept, no_elders, settled, unsettled};
use super::state::{Block, Frame, Role, State, Word, each, one};
use super::{A4, Met, Mistake};

impl A4 {
    pub(super) fn deliver(&self, state: &mut State, at: usize) {
        let nodes = self.nodes;
        let (blocks_of, writes) = (state.writes, state.writes);
        let me = &mut state.nodes[at];
        let Role::Standby(Some(standing)) = &mut me.role else { unreachable!("it has a session") };
        let frame = standing.stream.pop();
        let (from, session) = (usize::from(standing.primary), standing.session);
        let epoch = standing.epoch;
        let mut words = Vec::new();
        let mut absent = 0;
        let gets = standing.companions | one(from) | one(at);
        let others = (0..nodes).filter(|node| gets & one(*node) == 0).fold(0, |set, node| set | one(node));
        match frame {
            Frame::Write(number) => {
                let at_block = usize::from(blocks_of[usize::from(number)].block);
                me.hot |= one(at_block);
                me.blocks[at_block].write(number + 1);
                standing.taken.writes |= one(number.into());
                standing.writes |= one(number.into());
                absent = one(at_block);
                words.push(Word::Written(number));
            }
            Frame::Copy { block, value } => {
                me.hot |= one(block.into());
                if me.blocks[usize::from(block)].seen > value {
                    self.meet(Met::OrphanUndone);
                }
                me.blocks[usize::from(block)].write(value);
                standing.taken.blocks |= one(block.into());
                standing.copies |= one(block.into());
                absent = one(block.into());
                if self.errs(Mistake::MarkedAfterFirst) {
                    standing.late = true;
                }
            }
            Frame::Compare { block, value } => {
                let same = me.blocks[usize::from(block)].seen == value;
                if same {
                    standing.taken.blocks |= one(block.into());
                }
                words.push(if same { Word::Same(block) } else { Word::Differs(block) });
            }
            Frame::Resync => {
                standing.in_sync = false;
                me.intact = false;
                if !self.errs(Mistake::MarkedAfterFirst) {
                    me.whole = false;
                }
            }
            Frame::State(companions) => {
                let gone = standing.companions & !companions;
                let unsettled = unsettled(standing, &writes);
                if standing.in_sync {
                    standing.equal = Some((companions, standing.taken.writes));
                } else if let Some((equal, _)) = &mut standing.equal {
                    *equal &= companions;
                }
                standing.companions = companions;
                for node in each(gone) {
                    me.marks[node] |= unsettled;
                }
            }
            Frame::Flush(number) => {
                me.blocks.iter_mut().for_each(Block::flush);
                standing.taken.flush = number;
                words.push(Word::Durable(standing.taken));
            }
            Frame::CaughtUp(number) => {
                if !self.errs(Mistake::WholeUnflushed) {
                    me.blocks.iter_mut().for_each(Block::flush);
                }
                standing.taken.flush = number;
                standing.late = false;
                standing.in_sync = true;
                standing.equal = Some((standing.companions, standing.taken.writes));
                words.push(Word::InSync(standing.taken));
                (me.whole, me.intact) = (true, true);
                me.marks[from] = 0;
                me.excused = 0;
            }
        }
        if let Role::Standby(Some(standing)) = &mut me.role
            && standing.late
            && !matches!(frame, Frame::Copy { .. })
        {
            (standing.late, me.whole) = (false, false);
        }
        for node in each(others) {
            me.marks[node] |= absent;
        }
        let heard = state.in_session(from, at);
        if let Role::Leading(primary) = &mut state.nodes[from].role
            && primary.epoch == epoch
            && heard
        {
            words.into_iter().for_each(|word| primary.peers[at].words.push((session, word)));
        }
    }

    pub(super) fn settle_claims(&self, state: &mut State, at: usize, peer: usize) {
        let primary = *state.nodes[at].primary().expect("it leads");
        let me = &mut state.nodes[peer];
        let Role::Standby(Some(standing)) = &mut me.role else { unreachable!("it has a session") };
        let (writes, copies) = settled(&primary, standing, peer);
        standing.writes &= !writes;
        standing.copies &= !copies;
        if let Some((equal, before)) = standing.equal
            && before & kept(&primary) == 0
            && no_elders(&primary, peer)
        {
            standing.equal = None;
            each(equal).for_each(|node| me.marks[node] = 0);
        }
    }

    /// Nothing older is taken from now on, and nothing of it is on its way to the disk.
    pub(super) fn promise(&self, state: &mut State, at: usize, epoch: u8) {
        let me = &mut state.nodes[at];
        me.promised = epoch;
        if self.errs(Mistake::OldEpochTaken)
            && let Some(Frame::Write(number)) = me.standing().and_then(|standing| standing.stream.first())
        {
            me.queued = number + 1;
        }
        self.end_session(state, at);
    }

    /// What was taken and is not known to be durable everywhere is marked for everybody.
    pub(super) fn end_session(&self, state: &mut State, at: usize) {
        let (nodes, writes) = (self.nodes, state.writes);
        let me = &mut state.nodes[at];
        let Role::Standby(standing) = &mut me.role else { return };
        let Some(standing) = standing.take() else { return };
        if self.errs(Mistake::UnsettledForgotten) {
            return;
        }
        let blocks = unsettled(&standing, &writes);
        for node in (0..nodes).filter(|node| *node != at) {
            me.marks[node] |= blocks;
        }
    }
}
