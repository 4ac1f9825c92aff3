//! What must hold in every state of A4, and what must be seen somewhere.

use super::state::{BLOCKS, Role, Stage, State, each, one};
use super::{A4, Met};
use stateright::Property;

impl A4 {
    fn candidates(&self, state: &State) -> impl Iterator<Item = usize> {
        let fit = (0..self.nodes).filter(|node| self.may_lead(state, *node)).fold(0, |set, node| set | one(node));
        each(fit)
    }

    /// Whatever a loss of power leaves, just now.
    pub(super) fn flushed_is_kept(&self, state: &State) -> bool {
        self.candidates(state).all(|node| {
            let blocks = state.nodes[node].blocks.iter().zip(state.flushed).take(self.blocks);
            blocks.into_iter().all(|(block, flushed)| {
                each(block.may_be()).all(|value| value >= flushed.into() && !is_buried(state, value))
            })
        })
    }

    /// Unless a loss of power took it, there and unflushed.
    pub(super) fn read_stays(&self, state: &State) -> bool {
        self.candidates(state).all(|node| {
            let me = &state.nodes[node];
            (0..self.blocks).all(|block| {
                let seen = me.blocks[block].seen;
                me.excused & one(block) != 0 || seen >= state.floor[block] && !is_buried(state, seen.into())
            })
        })
    }

    /// As if all power were lost just now: what any two would mark together, when they start again.
    pub(super) fn differences_are_covered(&self, state: &State) -> bool {
        let pairs = (0..self.nodes).flat_map(|one| (0..one).map(move |other| (one, other)));
        pairs.into_iter().all(|(a, b)| {
            let (first, second) = (&state.nodes[a], &state.nodes[b]);
            let differ = (0..self.blocks).filter(|block| {
                let all = first.blocks[*block].may_be() | second.blocks[*block].may_be();
                all.count_ones() > 1
            });
            let differ = differ.fold(0, |set, block| set | one(block));
            differ == 0 || differ & !(self.recovered(first)[b] | self.recovered(second)[a]) == 0
        })
    }

    pub(super) fn in_sync_is_equal(&self, state: &State) -> bool {
        (0..self.nodes).all(|at| {
            let Role::Leading(primary) = &state.nodes[at].role else { return true };
            (0..self.nodes).all(|peer| {
                let settled = primary.peers[peer].stage == Stage::InSync
                    && state.in_session(at, peer)
                    && state.nodes[peer].standing().is_some_and(|standing| standing.stream.is_empty());
                let same = |block: usize| state.nodes[at].blocks[block].seen == state.nodes[peer].blocks[block].seen;
                !settled || (0..self.blocks).all(same)
            })
        })
    }

    pub(super) fn whole_is_whole(&self, state: &State) -> bool {
        state.nodes[..self.nodes].iter().filter(|node| node.whole).all(|node| {
            let values = node.blocks[..self.blocks].iter().fold(0, |all, block| all | block.may_be());
            each(values & !1).all(|value| {
                let before = state.writes[value - 1].before;
                let own = usize::from(state.writes[value - 1].block);
                (0..BLOCKS)
                    .filter(|block| *block != own)
                    .all(|block| each(node.blocks[block].may_be()).all(|value| value >= before[block].into()))
            })
        })
    }

    /// What the search must come across.
    pub(super) fn reachable(&self) -> Vec<Property<Self>> {
        let (two, three) = (self.nodes == 2, self.nodes == 3);
        let mut properties = vec![
            Property::sometimes("a write is acknowledged and flushed by all", |_, state: &State| {
                state.row.in_sync.count_ones() > 1 && state.flushed != [0; BLOCKS]
            }),
            Property::sometimes("a session ends in the middle of a resync", |a4: &Self, _: &State| {
                a4.has_met(Met::ResyncCut)
            }),
            Property::sometimes("a standby crashes in the middle of a resync", |a4: &Self, _: &State| {
                a4.has_met(Met::CrashedInResync)
            }),
            Property::sometimes("a resync is taken up again", |a4: &Self, _: &State| a4.has_met(Met::ResyncResumed)),
            Property::sometimes("a block is compared after a crash, and is the same", |a4: &Self, _: &State| {
                a4.has_met(Met::FoundSame)
            }),
            Property::sometimes("a block is compared after a crash, and differs", |a4: &Self, _: &State| {
                a4.has_met(Met::FoundDifferent)
            }),
            Property::sometimes("a write that only the old holder had is undone", |a4: &Self, _: &State| {
                a4.has_met(Met::OrphanUndone)
            }),
        ];
        let _ = (two, three);
        properties.extend([
            Property::sometimes("both crash, the standby first", |a4: &Self, _: &State| {
                a4.has_met(Met::StandbyCrashedFirst)
            }),
            Property::sometimes("both crash, the primary first", |a4: &Self, _: &State| {
                a4.has_met(Met::PrimaryCrashedFirst)
            }),
            Property::sometimes("a block is written while its copy is on its way", |a4: &Self, _: &State| {
                a4.has_met(Met::WrittenWhileCopied)
            }),
            Property::sometimes("a clean block is marked again by a write that was lost", |a4: &Self, _: &State| {
                a4.has_met(Met::Voided)
            }),
            Property::sometimes("a standby loses what it had not flushed", |a4: &Self, _: &State| {
                a4.has_met(Met::StandbyLost)
            }),
            Property::sometimes("what it may have lost is sent again", |a4: &Self, _: &State| a4.has_met(Met::Resent)),
            Property::sometimes("only the log knows of a difference", |a4: &Self, _: &State| a4.has_met(Met::LogAlone)),
            Property::sometimes("only the standby's marks know of a difference", |a4: &Self, _: &State| {
                a4.has_met(Met::TheirMarks)
            }),
            Property::sometimes("a member that was lost is in the set again", |a4: &Self, state: &State| {
                a4.has_met(Met::StandbyLost)
                    && state.row.in_sync.count_ones() > 1
                    && state.nodes.iter().any(|node| node.guesses)
            }),
        ]);
        properties
    }
}

fn is_buried(state: &State, value: usize) -> bool {
    value > 0 && state.buried & one(value - 1) != 0
}
