//! What must hold before something happens in A1. Each mistake leaves one of these out, or one of the effects in `steps`.

use super::state::{Fate, Frame, Node, Pending, Role, State};
use super::steps::MARK_OF_OTHERS;
use super::{A1, Mistake};
use crate::rows::{self, Member, Packed, Want};
use lease::ids::Epoch;
use node::rules::Taker;

impl A1 {
    /// A replica takes part only in the row it was made for.
    pub(super) fn knows_lineage(&self, state: &State) -> bool {
        state.row.lineage() == 0 || self.errs(Mistake::AnyLineage)
    }

    pub(super) fn proposed(&self, state: &State, node: usize, want: Want) -> Option<Packed> {
        let mark = if self.errs(Mistake::NonceReused) { 1 } else { unused_mark(state) };
        let new = rows::on(state.row, state.member(node), state.nodes[node].epoch, want, mark)?;
        if want == Want::Accept && self.errs(Mistake::AcceptKeepsSet) {
            return Some(new.with_in_sync(state.row.in_sync()));
        }
        Some(new)
    }

    pub(super) fn nominated(&self, state: &State, member: Member) -> Option<Packed> {
        let want = Want::Nominate { proof: false, lossy: false };
        rows::on(state.row, member, 0, want, MARK_OF_OTHERS)
    }

    pub(super) fn accepts_lease(&self, state: &State, node: usize) -> bool {
        rows::may_accept_in_the_end(state.row, state.member(node), state.nodes[node].consistent)
    }

    /// `new` was made from the row as it is. Every applied write raises rev by one, so within a lineage the rev says it;
    /// beyond, the nonce in the condition does.
    pub(super) fn follows(&self, state: &State, new: Packed) -> bool {
        let same = new.lineage() == state.row.lineage() || self.errs(Mistake::ConditionOnRevAlone);
        same && new.rev() == state.row.rev() + 1
    }

    /// The condition of the write holds on the row as it is.
    pub(super) fn lands(&self, state: &State, pending: &Pending) -> bool {
        if pending.landed {
            return false;
        }
        let takes_epoch = matches!(pending.want, Want::Accept | Want::HandOver(_) | Want::Restart { .. });
        let base_epoch = pending.new.epoch() - u8::from(takes_epoch);
        let on_rev = self.follows(state, pending.new);
        on_rev
            || self.errs(Mistake::ConditionOnEpoch) && state.row.epoch() == base_epoch && state.row != pending.new
            || self.errs(Mistake::EpochAdded) && pending.want == Want::Accept && state.row != pending.new
    }

    /// Its condition can never hold again.
    pub(super) fn is_over(&self, state: &State, pending: &Pending) -> bool {
        let moved = state.row.rev() >= pending.new.rev() || state.row.lineage() != pending.new.lineage();
        !pending.landed && moved && !self.lands(state, pending)
    }

    /// What the table makes of it.
    pub(super) fn landed(&self, state: &State, pending: &Pending) -> Packed {
        if self.follows(state, pending.new) {
            return pending.new;
        }
        let next = pending.new.with_rev(state.row.rev() + 1);
        if self.errs(Mistake::EpochAdded) { next.with_epoch(state.row.epoch() + 1) } else { next }
    }

    /// The lease was handed over to this node.
    pub(super) fn was_handed(&self, state: &State, node: usize) -> bool {
        let me = &state.nodes[node];
        me.role == Role::Standby && me.pending.is_none() && rows::is_handed_over(state.row, state.member(node), me.past)
    }

    /// This copy would apply this write's frame now.
    pub(super) fn accepts(&self, state: &State, at: usize, node: usize) -> bool {
        let (write, copy) = (&state.writes[at], &state.nodes[node]);
        if write.frames[node] != Frame::OnItsWay || !copy.consistent {
            return false;
        }
        let blind = self.errs(Mistake::FramesWhileAccepting);
        let taker = Taker {
            stands_by: copy.role == Role::Standby || self.errs(Mistake::OldFramesTaken) && copy.role.holds(),
            accepting: accepting(copy) && !blind,
            claimed: copy.claim != 0 && !blind,
            known: self.known(copy, write.epoch),
        };
        // Frames of an epoch come in turn.
        let in_turn = match write.epoch.cmp(&copy.promised) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => write.seq <= copy.applied + 1,
            std::cmp::Ordering::Greater => write.seq == 1,
        };
        taker.takes(Epoch(write.epoch.into())) && in_turn
    }

    /// This copy may yet take frames of this epoch.
    pub(super) fn takes_some_day(&self, copy: &Node, epoch: u8) -> bool {
        let free = Taker { stands_by: true, accepting: false, claimed: false, known: self.known(copy, epoch) };
        free.takes(Epoch(epoch.into()))
    }

    /// What the copy has promised lasts longer than what the process knows, and is never less.
    fn known(&self, copy: &Node, epoch: u8) -> Option<Epoch> {
        let known = if self.errs(Mistake::OldFramesTaken) { copy.promised.min(epoch) } else { copy.promised };
        Some(Epoch(known.into()))
    }

    /// The holder that may tell the workload that this write is done: every needed replica itself has acknowledged.
    pub(super) fn completes(&self, state: &State, at: usize) -> Option<usize> {
        let write = &state.writes[at];
        let node = usize::from(write.by);
        let me = &state.nodes[node];
        let open = write.fate == Fate::Submitted && me.role == Role::Active && me.epoch == write.epoch;
        let acked = |member: Member| match write.frames[member.node()] {
            Frame::Acked(incarnation) => {
                Member::of(member.node(), incarnation) == member || self.errs(Mistake::AcksByNode)
            }
            Frame::None | Frame::OnItsWay => false,
        };
        (open && me.need.each().all(acked)).then_some(node)
    }

    pub(super) fn shakes_hands(&self, state: &State, holder: usize, node: usize) -> bool {
        let (active, copy) = (&state.nodes[holder], &state.nodes[node]);
        let outside = !active.need.has(state.member(node)) || self.errs(Mistake::ResyncInSet);
        copy.role == Role::Standby
            && copy.claim == 0
            && !accepting(copy)
            && copy.session != active.epoch
            && copy.promised <= active.epoch
            && outside
    }

    pub(super) fn resyncs(&self, state: &State, holder: usize, node: usize) -> bool {
        let (active, copy) = (&state.nodes[holder], &state.nodes[node]);
        copy.role == Role::Standby
            && copy.session == active.epoch
            && copy.promised == active.epoch
            && !active.need.has(state.member(node))
            && (!copy.consistent || active.data & !copy.data != 0)
    }

    pub(super) fn caught_up(&self, state: &State, holder: usize, node: usize) -> bool {
        let (active, copy) = (&state.nodes[holder], &state.nodes[node]);
        let shaken = copy.session == active.epoch && copy.promised == active.epoch && active.data & !copy.data == 0;
        copy.role == Role::Standby && copy.consistent && (shaken || self.errs(Mistake::GrowWithoutHandshake))
    }
}

/// An acceptance of this process is on its way.
fn accepting(copy: &Node) -> bool {
    copy.pending.is_some_and(|pending| pending.want == Want::Accept)
}

/// Nothing that this holder submitted is unfinished.
pub(super) fn drained(state: &State, node: usize) -> bool {
    let open = |write: &super::Write| write.fate == Fate::Submitted && usize::from(write.by) == node;
    !state.writes.iter().any(open)
}

/// The lowest nonce that nothing alive carries.
fn unused_mark(state: &State) -> u8 {
    let used = |mark: u8| {
        state.row.nonce() == mark
            || state.nodes.iter().any(|node| node.pending.is_some_and(|pending| pending.new.nonce() == mark))
    };
    (1..MARK_OF_OTHERS).find(|mark| !used(*mark)).expect("few writes are alive at a time")
}
