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

    /// What the search must come across, where its bounds allow it.
    pub(super) fn reachable(&self) -> Vec<Property<Self>> {
        let (crashes, breaks, epochs) = (self.left.crashes > 0, self.left.breaks > 0, self.left.epochs > 0);
        let mut properties = Vec::new();
        let mut reach = |possible: bool, name, check: fn(&Self, &State) -> bool| {
            if possible {
                properties.push(Property::sometimes(name, check));
            }
        };
        reach(true, "a write is acknowledged by all", |_, state| {
            state.row.epoch == 1 && state.row.in_sync.count_ones() > 1 && state.floor != [0; BLOCKS]
        });
        reach(self.left.flushes > 0, "a write is acknowledged by all, and flushed", |_, state| {
            state.row.in_sync.count_ones() > 1 && state.flushed != [0; BLOCKS]
        });
        reach(epochs, "a write that only the old holder had is undone by a resync", |a4, _| {
            a4.has_met(Met::OrphanUndone)
        });
        reach(epochs, "a write that nobody was told of stays, and is read", |_, state| {
            state.row.epoch > 1
                && state.nodes[0]
                    .primary()
                    .is_some_and(|old| old.epoch == 1 && old.ops.iter().any(|op| op.kept && !op.answered))
                && state.floor != [0; BLOCKS]
        });
        reach(epochs, "only the standby's marks know of a difference", |a4, _| a4.has_met(Met::TheirMarks));
        reach(epochs, "the first holder is in sync with its successor", |_, state| {
            state.nodes[1].primary().is_some_and(|leading| leading.peers[0].stage == Stage::InSync)
        });
        reach(self.nodes > 2, "two standbys are in sync in a later epoch, and have a write of it", |_, state| {
            let in_sync = |at: usize| {
                let peers = state.nodes[at].primary().map(|leading| leading.peers);
                peers.is_some_and(|peers| peers.iter().filter(|peer| peer.stage == Stage::InSync).count() == 2)
            };
            state.row.epoch > 1 && state.floor != [0; BLOCKS] && (0..state.nodes.len()).any(in_sync)
        });
        reach(epochs, "a member is copied to with its image as good as it was", |a4, _| a4.has_met(Met::Spared));
        reach(breaks, "a session ends in the middle of a resync", |a4, _| a4.has_met(Met::ResyncCut));
        reach(breaks, "a resync is taken up again", |a4, _| a4.has_met(Met::ResyncResumed));
        reach(breaks, "a write that is lost in a resync marks its block", |a4, _| a4.has_met(Met::Voided));
        reach(self.writes > 1 && (breaks || epochs), "a block is written while its copy is on its way", |a4, _| {
            a4.has_met(Met::WrittenWhileCopied)
        });
        reach(crashes, "a standby crashes in the middle of a resync", |a4, _| a4.has_met(Met::CrashedInResync));
        reach(crashes, "a standby loses what it had not flushed", |a4, _| a4.has_met(Met::StandbyLost));
        reach(crashes, "what it may have lost is sent again", |a4, _| a4.has_met(Met::Resent));
        reach(crashes, "only the log knows of a difference", |a4, _| a4.has_met(Met::LogAlone));
        reach(crashes && epochs, "a block is compared after a crash, and is the same", |a4, _| {
            a4.has_met(Met::FoundSame)
        });
        reach(crashes && epochs, "a block is compared after a crash, and differs", |a4, _| {
            a4.has_met(Met::FoundDifferent)
        });
        reach(self.left.crashes > 1, "both crash, the standby first", |a4, _| a4.has_met(Met::StandbyCrashedFirst));
        reach(self.left.crashes > 1, "both crash, the primary first", |a4, _| a4.has_met(Met::PrimaryCrashedFirst));
        properties
    }
}

fn is_buried(state: &State, value: usize) -> bool {
    value > 0 && state.buried & one(value - 1) != 0
}
