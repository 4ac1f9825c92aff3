//! What may happen next in A4; what it does is said in the files beside this one.

use super::dialogue::{claims, kept, next_block, no_elders, settled, small, stream_to};
use super::state::{BLOCKS, Frame, Node, Primary, Role, Stage, State, each, one};
use super::{A4, Mistake, epoch};
use volume::core::rules::is_fenced;

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

    pub(super) fn leading_steps(&self, state: &State, at: usize, primary: &Primary, steps: &mut Vec<Step>) {
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

    pub(super) fn row_steps(&self, state: &State, at: usize, steps: &mut Vec<Step>) {
        if state.left.epochs > 0 && self.may_lead(state, at) {
            steps.push(Step::TakeOver { node: small(at) });
        }
    }

    /// In the set, and whole: who may be the next holder.
    pub(super) fn may_lead(&self, state: &State, node: usize) -> bool {
        state.row.in_sync & one(node) != 0 && state.nodes[node].whole
    }

    pub(super) fn crash_steps(&self, me: &Node, node: u8, steps: &mut Vec<Step>) {
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

    pub(super) fn may_read(&self, primary: &Primary) -> bool {
        primary.flushed || self.errs(Mistake::CopiesUnflushed)
    }

    /// Something that a standby claims is durable everywhere.
    pub(super) fn settles(&self, state: &State, node: usize, peer: usize) -> bool {
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
}
