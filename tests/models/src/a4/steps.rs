//! What may happen next in A4, and what it does.

use super::state::{
    BLOCKS, Block, Durable, Flush, Frame, NODES, Node, Op, Peer, Primary, Role, Row, Stage, Standing, State, WRITES,
    Word, Write, each, one,
};
use super::{A4, Met, Mistake, epoch, session};
use volume::core::rules::{Basis, is_fenced, is_heard, tears_image};

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The workload writes a block.
    Write {
        node: u8,
        block: u8,
    },
    /// Only where a rule is left out: the log learns of a write after the disk has it.
    HeatLate {
        node: u8,
    },
    /// Only where a rule is left out: what was queued of an older epoch reaches the disk.
    ApplyLate {
        node: u8,
    },
    /// Everything that was written here is durable, and every stream is told to be so; asked by the workload.
    Flush {
        node: u8,
    },
    /// What a new holder finds on its disk is durable.
    FlushFirst {
        node: u8,
    },
    /// A marked block is read and gets its place in the peer's stream.
    Copy {
        node: u8,
        peer: u8,
    },
    /// The next frame is taken.
    Deliver {
        node: u8,
    },
    /// The next answer is heard.
    Hear {
        node: u8,
        peer: u8,
    },
    /// A standby hears what is durable everywhere.
    Settle {
        node: u8,
        peer: u8,
    },
    /// An extent leaves the log, the bitmaps being saved.
    Cool {
        node: u8,
        block: u8,
    },
    /// The bitmaps are saved.
    Save {
        node: u8,
    },
    Connect {
        node: u8,
        peer: u8,
    },
    /// The primary finds the connection gone; the standby does.
    Lost {
        node: u8,
        peer: u8,
    },
    Ended {
        node: u8,
    },
    /// The process is killed, and starts.
    Kill {
        node: u8,
    },
    /// Power is lost and comes back; what each block is then.
    Crash {
        node: u8,
        left: [u8; BLOCKS],
    },
    /// A member takes a new epoch, alone in its set.
    TakeOver {
        node: u8,
    },
    /// The holder hands over, the set kept.
    HandOver {
        to: u8,
    },
    /// A holder learns that its epoch is over.
    Fence {
        node: u8,
    },
    /// A peer that is away is taken out of the set, or not waited for.
    Shrink {
        node: u8,
        peer: u8,
    },
    Grow {
        node: u8,
        peer: u8,
    },
}

impl A4 {
    pub(super) fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        for at in 0..self.nodes {
            let node = u8::try_from(at).expect("few nodes");
            let me = &state.nodes[at];
            match &me.role {
                Role::Leading(primary) => self.leading_steps(state, at, primary, steps),
                Role::Standby(standing) => {
                    if let Some(standing) = standing {
                        let from = usize::from(standing.primary);
                        let fenced = is_fenced(epoch(me.promised), epoch(standing.epoch));
                        let heard =
                            state.nodes[from].primary().is_none_or(|primary| primary.peers[at].words.has_room());
                        if !standing.stream.is_empty() && !fenced && heard {
                            steps.push(Step::Deliver { node });
                        }
                        if !state.in_session(from, at) || state.left.breaks > 0 {
                            steps.push(Step::Ended { node });
                        }
                    }
                    self.row_steps(state, at, steps);
                }
            }
            if me.cold != 0 {
                steps.push(Step::HeatLate { node });
            }
            if me.queued != 0 {
                steps.push(Step::ApplyLate { node });
            }
            if me.saved != me.marks {
                steps.push(Step::Save { node });
            }
            let claims = claims(state, at);
            steps.extend(
                each(me.hot & !claims).filter_map(|block| Some(Step::Cool { node, block: u8::try_from(block).ok()? })),
            );
            if state.left.crashes > 0 {
                self.crash_steps(me, node, steps);
            }
        }
    }

    fn leading_steps(&self, state: &State, at: usize, primary: &Primary, steps: &mut Vec<Step>) {
        let node = u8::try_from(at).expect("few nodes");
        let me = &state.nodes[at];
        let streams: Vec<usize> = (0..self.nodes).filter(|peer| primary.peers[*peer].stage != Stage::Away).collect();
        let room = |peer: &usize| stream_to(state, at, *peer).is_none_or(|standing| standing.stream.has_room());
        if usize::from(state.written) < self.writes && streams.iter().all(room) {
            steps.extend(
                (0..self.blocks).filter_map(|block| Some(Step::Write { node, block: u8::try_from(block).ok()? })),
            );
        }
        let worth = me.blocks[..self.blocks].iter().any(|block| block.cached != 0)
            || primary.ops.iter().any(|op| op.kept && !op.durable_here);
        let owes = primary.ops.iter().any(|op| op.kept && (0..self.nodes).any(|peer| op.owed.is_kept(peer)));
        if !primary.flushed {
            steps.push(Step::FlushFirst { node });
        } else if primary.flush.is_none() && state.left.flushes > 0 && (worth || owes) && streams.iter().all(room) {
            steps.push(Step::Flush { node });
        }
        if state.row.epoch > primary.epoch {
            steps.push(Step::Fence { node });
        } else {
            let fit = |to: &usize| self.may_lead(state, *to) && primary.peers[*to].stage == Stage::InSync;
            // Also in the middle of a write.
            if state.left.epochs > 0 {
                steps.extend(
                    (0..self.nodes).filter(|to| *to != at).filter(fit).map(|to| Step::HandOver { to: small(to) }),
                );
            }
        }
        for other in (0..self.nodes).filter(|other| *other != at) {
            let peer = small(other);
            let it = &primary.peers[other];
            if !it.words.is_empty() {
                steps.push(Step::Hear { node, peer });
            }
            if it.stage == Stage::Away {
                let willing = matches!(state.nodes[other].role, Role::Standby(_))
                    && !is_fenced(epoch(state.nodes[other].promised), epoch(primary.epoch));
                if willing {
                    steps.push(Step::Connect { node, peer });
                }
                let in_set = state.row.in_sync & one(other) != 0;
                if it.waited_for && !in_set || state.holds(at) && primary.need & one(other) != 0 {
                    steps.push(Step::Shrink { node, peer });
                }
            } else {
                if !state.in_session(at, other) || state.left.breaks > 0 {
                    steps.push(Step::Lost { node, peer });
                }
                let copies = self.may_read(primary) && it.stage == Stage::Resyncing;
                if copies && next_block(me.marks[other], it).is_some() && room(&other) {
                    steps.push(Step::Copy { node, peer });
                }
                let fresh = state.row.in_sync & one(other) == 0;
                if state.holds(at) && it.stage == Stage::InSync && it.waited_for && fresh {
                    steps.push(Step::Grow { node, peer });
                }
                if self.settles(state, at, other) {
                    steps.push(Step::Settle { node, peer });
                }
            }
        }
    }

    fn row_steps(&self, state: &State, at: usize, steps: &mut Vec<Step>) {
        if state.left.epochs > 0 && self.may_lead(state, at) {
            steps.push(Step::TakeOver { node: small(at) });
        }
    }

    /// In the set, and whole: who may be the next holder.
    pub(super) fn may_lead(&self, state: &State, node: usize) -> bool {
        state.row.in_sync & one(node) != 0 && state.nodes[node].whole
    }

    fn crash_steps(&self, me: &Node, node: u8, steps: &mut Vec<Step>) {
        steps.push(Step::Kill { node });
        let mut outcomes = vec![[0; BLOCKS]];
        for (at, block) in me.blocks.iter().enumerate().take(self.blocks) {
            outcomes = outcomes
                .iter()
                .flat_map(|outcome| {
                    each(block.may_be()).map(move |value| {
                        let mut outcome = *outcome;
                        outcome[at] = small(value);
                        outcome
                    })
                })
                .collect();
        }
        if me.blocks.iter().any(|block| block.cached != 0) {
            steps.extend(outcomes.into_iter().map(|left| Step::Crash { node, left }));
        }
    }

    fn may_read(&self, primary: &Primary) -> bool {
        primary.flushed || self.errs(Mistake::CopiesUnflushed)
    }

    /// Something that a standby claims is durable everywhere.
    fn settles(&self, state: &State, node: usize, peer: usize) -> bool {
        let Some(standing) = stream_to(state, node, peer) else { return false };
        // It comes behind what was said before: of companions that are gone, too.
        if standing.stream.any(|frame| matches!(frame, Frame::State(_))) {
            return false;
        }
        let primary = state.nodes[node].primary().expect("it has a stream");
        let (writes, copies) = settled(primary, standing, peer);
        let equal = standing.equal.is_some_and(|(_, before)| before & kept(primary) == 0 && no_elders(primary, peer));
        writes != 0 || copies != 0 || equal
    }

    pub(super) fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Write { node, block } => self.write(state, node.into(), block.into()),
            Step::HeatLate { node } => {
                let me = &mut state.nodes[usize::from(node)];
                me.hot |= std::mem::take(&mut me.cold);
            }
            Step::ApplyLate { node } => {
                let me = &mut state.nodes[usize::from(node)];
                let value = std::mem::take(&mut me.queued);
                let block = usize::from(state.writes[usize::from(value) - 1].block);
                me.hot |= one(block);
                me.blocks[block].write(value);
            }
            Step::Flush { node } => self.flush(state, node.into()),
            Step::FlushFirst { node } => {
                let at = usize::from(node);
                self.flush_here(state, at);
                state.nodes[at].leading().flushed = true;
            }
            Step::Copy { node, peer } => self.copy(state, node.into(), peer.into()),
            Step::Deliver { node } => self.deliver(state, node.into()),
            Step::Hear { node, peer } => self.hear(state, node.into(), peer.into()),
            Step::Settle { node, peer } => self.settle_claims(state, node.into(), peer.into()),
            Step::Cool { node, block } => {
                let me = &mut state.nodes[usize::from(node)];
                if !self.errs(Mistake::CooledUnsaved) {
                    me.saved = me.marks;
                }
                me.hot &= !one(block.into());
            }
            Step::Save { node } => {
                let me = &mut state.nodes[usize::from(node)];
                me.saved = me.marks;
            }
            Step::Connect { node, peer } => self.connect(state, node.into(), peer.into()),
            Step::Lost { node, peer } => {
                let (at, peer) = (usize::from(node), usize::from(peer));
                if state.in_session(at, peer) {
                    state.left.breaks -= 1;
                }
                self.lost(state, at, peer);
            }
            Step::Ended { node } => {
                let at = usize::from(node);
                let from = state.nodes[at].standing().map_or(0, |standing| usize::from(standing.primary));
                if state.in_session(from, at) {
                    state.left.breaks -= 1;
                }
                self.end_session(state, at);
            }
            Step::Kill { node } => {
                state.left.crashes -= 1;
                self.start_again(state, node.into());
            }
            Step::Crash { node, left } => self.crash(state, node.into(), left),
            Step::TakeOver { node } => self.take_over(state, node.into(), one(node.into())),
            Step::HandOver { to } => {
                let set = state.row.in_sync;
                self.take_over(state, to.into(), set);
            }
            Step::Fence { node } => self.abdicate(state, node.into()),
            Step::Shrink { node, peer } => self.shrink(state, node.into(), peer.into()),
            Step::Grow { node, peer } => {
                state.row.in_sync |= one(peer.into());
                state.nodes[usize::from(node)].leading().need |= one(peer.into());
            }
        }
        for node in 0..self.nodes {
            self.settle(state, node);
        }
        self.look(state);
        self.tidy(state);
    }

    // --- requests ------------------------------------------------------------------------------------------------

    fn write(&self, state: &mut State, at: usize, block: usize) {
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

    fn send(&self, state: &mut State, at: usize, peer: usize, number: usize) {
        state.nodes[at].leading().peers[peer].sent |= one(number);
        say(state, at, peer, Frame::Write(small(number)));
    }

    fn flush_here(&self, state: &mut State, at: usize) {
        let me = &mut state.nodes[at];
        me.blocks.iter_mut().for_each(Block::flush);
        for op in me.leading().ops.iter_mut().filter(|op| op.kept) {
            op.durable_here = true;
        }
    }

    fn flush(&self, state: &mut State, at: usize) {
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

    // --- the primary's half of a session -------------------------------------------------------------------------

    fn connect(&self, state: &mut State, at: usize, peer: usize) {
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
        let primary = state.nodes[at].leading();
        let it = &mut primary.peers[peer];
        it.stage = Stage::Resyncing;
        let (whole, again) = (it.whole.is_some(), it.again && !self.errs(Mistake::ResentUnmarked));
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
        if tears_image(marks.into(), again, false) {
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

    fn caught_up(&self, state: &mut State, at: usize, peer: usize) {
        let primary = state.nodes[at].leading();
        let it = &mut primary.peers[peer];
        (it.whole, it.waited_for, it.stage) = (Some(Basis::CaughtUp), true, Stage::Ending);
        primary.ops.iter_mut().filter(|op| op.kept).for_each(|op| op.owed.caught_up(peer));
        let flushes = primary.flushes;
        if let Some(flush) = &mut primary.flush {
            flush.asked &= !one(peer);
            flush.durable &= !one(peer);
            flush.at_end |= one(peer);
        }
        say(state, at, peer, Frame::CaughtUp(flushes));
    }

    fn copy(&self, state: &mut State, at: usize, peer: usize) {
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

    fn hear(&self, state: &mut State, at: usize, peer: usize) {
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
    fn durable(&self, state: &mut State, at: usize, peer: usize, durable: Durable, end: bool) {
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
    fn lost(&self, state: &mut State, at: usize, peer: usize) {
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

    fn stop_keeping(&self, state: &mut State, at: usize, peer: usize) {
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

    fn say_state(&self, state: &mut State, at: usize) {
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
    fn settle(&self, state: &mut State, at: usize) {
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

    fn flush_or_end(&self, state: &mut State, at: usize, peer: usize) {
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

    /// Answers what is written here and on every member (invariant 1), and a flush that is durable there (invariant 7).
    fn complete(&self, state: &mut State, at: usize) {
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
    fn bury(&self, state: &mut State, at: usize) {
        let seen = state.nodes[at].blocks;
        for number in 0..usize::from(state.written) {
            if small(number + 1) > seen[state.block_of(number)].seen {
                state.buried |= one(number);
            }
        }
    }

    // --- the standby's half --------------------------------------------------------------------------------------

    fn deliver(&self, state: &mut State, at: usize) {
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
                me.whole = true;
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

    fn settle_claims(&self, state: &mut State, at: usize, peer: usize) {
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
    fn promise(&self, state: &mut State, at: usize, epoch: u8) {
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

    // --- epochs and ends -----------------------------------------------------------------------------------------

    fn take_over(&self, state: &mut State, at: usize, set: u8) {
        state.left.epochs -= 1;
        let epoch = state.row.epoch + 1;
        state.row = Row { epoch, holder: small(at), in_sync: set };
        self.promise(state, at, epoch);
        let me = &mut state.nodes[at];
        let mut peers = [Peer::default(); NODES];
        let need = set & !one(at);
        for (peer, it) in peers.iter_mut().enumerate().filter(|(peer, _)| need & one(*peer) != 0) {
            (it.known, it.whole) = (true, Basis::of_member(me.marks[peer].into()));
        }
        me.role = Role::Leading(Primary {
            epoch,
            need,
            flushed: false,
            even: false,
            flushes: 0,
            flush: None,
            ops: [Op::default(); WRITES],
            peers,
        });
        // What was acknowledged and is not there was excused, or falls before. What nobody has seen so far may go.
        for block in 0..self.blocks {
            state.floor[block] = state.floor[block].min(state.nodes[at].blocks[block].seen).max(state.flushed[block]);
        }
    }

    fn abdicate(&self, state: &mut State, at: usize) {
        let (nodes, writes) = (self.nodes, state.writes);
        let me = &mut state.nodes[at];
        let primary = *me.primary().expect("it leads");
        let left = (0..self.writes).filter(|number| primary.ops[*number].kept);
        let left = left.fold(0, |set, number| set | one(writes[number].block.into()));
        for node in (0..nodes).filter(|node| *node != at) {
            me.marks[node] |= left;
        }
        me.role = Role::Standby(None);
    }

    fn shrink(&self, state: &mut State, at: usize, peer: usize) {
        if state.holds(at) {
            state.row.in_sync &= !one(peer);
        }
        let primary = state.nodes[at].leading();
        primary.need &= !one(peer);
        primary.peers[peer].waited_for = false;
        if primary.peers[peer].whole.is_some() {
            self.stop_keeping(state, at, peer);
        }
    }

    fn crash(&self, state: &mut State, at: usize, left: [u8; BLOCKS]) {
        state.left.crashes -= 1;
        let me = &mut state.nodes[at];
        let standby = me.standing().is_some();
        for (index, block) in me.blocks.iter_mut().enumerate().take(self.blocks) {
            if block.seen != left[index] {
                me.excused |= one(index);
                if standby {
                    self.meet(Met::StandbyLost);
                }
            }
            *block = Block { seen: left[index], cached: 0, plate: left[index] };
        }
        self.start_again(state, at);
    }

    /// A process ends, and the next one reads what is on the disk.
    fn start_again(&self, state: &mut State, at: usize) {
        let other_crashed = (0..self.nodes).any(|node| node != at && state.nodes[node].guesses);
        let leads = state.nodes[at].primary().is_some();
        if other_crashed {
            self.meet(if leads { Met::StandbyCrashedFirst } else { Met::PrimaryCrashedFirst });
        }
        if !state.nodes[at].whole {
            self.meet(Met::CrashedInResync);
        }
        let marks = self.recovered(&state.nodes[at]);
        let me = &mut state.nodes[at];
        let marks_in_log = me.hot & !me.saved.iter().fold(0, |all, saved| all | saved) != 0;
        if marks_in_log && leads {
            self.meet(Met::LogAlone);
        }
        me.marks = marks;
        me.guesses = me.hot != 0;
        (me.cold, me.queued) = (0, 0);
        me.role = Role::Standby(None);
        for other in &mut state.nodes {
            if let Role::Leading(primary) = &mut other.role {
                primary.peers[at].same_life = false;
            }
        }
    }

    /// The marks that a process finds when it starts: what was saved, and what was hot.
    pub(super) fn recovered(&self, node: &Node) -> [u8; NODES] {
        let ignored = match node.role {
            Role::Leading(_) => self.errs(Mistake::PrimarysLogIgnored),
            Role::Standby(_) => self.errs(Mistake::StandbysLogIgnored),
        };
        let hot = if ignored { 0 } else { node.hot };
        let mut marks = node.saved;
        marks.iter_mut().for_each(|marks| *marks |= hot);
        marks
    }

    /// A read is possible, and seen: of the holder's blocks that no unanswered write is about to change, once every member was
    /// found to have what was here when the epoch began.
    fn look(&self, state: &mut State) {
        let at = usize::from(state.row.holder);
        if !state.holds(at) {
            return;
        }
        let hasty = self.errs(Mistake::ShowsBeforeEven);
        let primary = state.nodes[at].leading();
        let present = |peer: &Peer| peer.whole.is_some() && peer.stage != Stage::Away;
        primary.even |= hasty || each(primary.need).all(|peer| present(&primary.peers[peer]));
        if !primary.even {
            return;
        }
        let me = state.nodes[at];
        let ops = me.primary().expect("it leads").ops;
        let open = (0..self.writes).filter(|number| ops[*number].kept && !ops[*number].answered);
        let open = open.fold(0, |set, number| set | one(state.block_of(number)));
        for block in (0..self.blocks).filter(|block| open & one(*block) == 0) {
            state.floor[block] = state.floor[block].max(me.blocks[block].seen);
        }
    }

    /// One state for all that nobody can tell apart.
    fn tidy(&self, state: &mut State) {
        for at in 0..self.nodes {
            let me = &mut state.nodes[at];
            me.marks[at] = 0;
            me.saved[at] = 0;
            if self.nodes == 2
                && let Role::Standby(Some(standing)) = &mut me.role
            {
                standing.equal = None;
            }
        }
    }
}

fn small(number: usize) -> u8 {
    u8::try_from(number).expect("few of each")
}

/// The stream of this primary's session with this peer, if both are in it.
fn stream_to(state: &State, primary: usize, peer: usize) -> Option<&Standing> {
    state.in_session(primary, peer).then(|| state.nodes[peer].standing()).flatten()
}

/// Says the next thing in this peer's stream. Who is not in the session any more does not hear it.
fn say(state: &mut State, at: usize, peer: usize, frame: Frame) {
    if state.in_session(at, peer)
        && let Role::Standby(Some(standing)) = &mut state.nodes[peer].role
    {
        standing.stream.push(frame);
    }
}

/// The next block of a resync: compared and different, or marked and not under way.
fn next_block(marks: u8, peer: &Peer) -> Option<usize> {
    each(peer.to_copy).next().or_else(|| each(marks & !peer.under_way).next())
}

fn companions(primary: &Primary, of: usize) -> u8 {
    let others = (0..NODES).filter(|node| *node != of && primary.peers[*node].stage == Stage::InSync);
    others.fold(0, |set, node| set | one(node))
}

/// Writes that somebody may lose.
fn kept(primary: &Primary) -> u8 {
    primary.ops.iter().enumerate().filter(|(_, op)| op.kept).fold(0, |set, (number, _)| set | one(number))
}

fn no_elders(primary: &Primary, peer: usize) -> bool {
    primary.peers[peer].elders & kept(primary) == 0
}

/// Of what a standby claims, the writes and copies that are durable everywhere.
fn settled(primary: &Primary, standing: &Standing, peer: usize) -> (u8, u8) {
    if !no_elders(primary, peer) {
        return (0, 0);
    }
    let under_way = primary.peers[peer].under_way;
    (standing.writes & !kept(primary), standing.copies & !under_way)
}

/// The blocks that a standby has changed and claims.
fn unsettled(standing: &Standing, writes: &[Write]) -> u8 {
    standing.copies | each(standing.writes).fold(0, |set, number| set | one(writes[number].block.into()))
}

/// What keeps an extent in the log.
fn claims(state: &State, at: usize) -> u8 {
    match &state.nodes[at].role {
        Role::Leading(primary) => state.blocks_of(kept(primary)),
        Role::Standby(Some(standing)) => unsettled(standing, &state.writes),
        Role::Standby(None) => 0,
    }
}
