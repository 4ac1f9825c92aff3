//! Epochs begin, members leave, processes and power end; and what a start finds.

use super::dialogue::small;
use super::state::{BLOCKS, Block, NODES, Node, Op, Peer, Primary, Role, Row, Stage, State, WRITES, each, one};
use super::{A4, Met, Mistake};
use volume::core::rules::Basis;

impl A4 {
    pub(super) fn take_over(&self, state: &mut State, at: usize, set: u8) {
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
        me.intact = true;
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

    pub(super) fn abdicate(&self, state: &mut State, at: usize) {
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

    pub(super) fn shrink(&self, state: &mut State, at: usize, peer: usize) {
        if state.holds(at) {
            state.row.in_sync &= !one(peer);
        }
        let primary = state.nodes[at].leading();
        primary.need &= !one(peer);
        primary.peers[peer].waited_for = false;
        let spared = primary.peers[peer].spared;
        if primary.peers[peer].whole.is_some() {
            self.stop_keeping(state, at, peer);
        }
        if spared {
            self.lost(state, at, peer);
        }
    }

    pub(super) fn crash(&self, state: &mut State, at: usize, left: [u8; BLOCKS]) {
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
    pub(super) fn start_again(&self, state: &mut State, at: usize) {
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
        (me.guesses, me.intact) = (me.hot != 0, false);
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
    pub(super) fn look(&self, state: &mut State) {
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
    pub(super) fn tidy(&self, state: &mut State) {
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
