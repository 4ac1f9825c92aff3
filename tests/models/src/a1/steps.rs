//! What can happen in A1, and what follows.

use super::guards::drained;
use super::state::{Fate, Frame, Node, Pending, Role, State};
use super::{A1, Mistake};
use crate::rows::{self, Member, Members, Packed, Want, need};
use node::rules::Sequel;

/// The nonce of the row at the start, of the control plane's writes, and of the requests of dead processes.
pub(super) const MARK_OF_OTHERS: u8 = 14;
/// No rev reaches it.
const UNTIL_THE_ROW_IS_BACK: u8 = 31;
pub(super) const MARK_OF_THE_DEAD: u8 = 15;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The workload writes.
    Submit { node: usize },
    /// A frame reaches a copy, which applies and acknowledges it.
    Deliver { write: usize, node: usize },
    /// All that are needed have acknowledged: the workload is told.
    Complete { write: usize },
    /// The workload reads.
    Read { node: usize },
    /// A node sends a conditional write.
    Propose { node: usize, want: Want },
    /// The table applies it.
    Land { node: usize },
    /// The table applies the request of a process that is gone.
    LandLate { new: Packed },
    /// Its answer "applied" arrives, or a second try finds the row as the first one left it.
    Answer { node: usize },
    /// The answer was lost, and a second try finds that the row has moved on since.
    AnswerLost { node: usize },
    /// The control plane names a node.
    Nominate { node: usize },
    /// A standby takes itself out of the set.
    Leave { node: usize },
    /// A standby finds that the lease was handed over to it.
    TakeOver { node: usize },
    /// The holder's right ends, or it is fenced.
    Demote { node: usize },
    /// A node's process dies; the next one reads the row.
    Crash { node: usize },
    /// The same, with a new disk.
    Wipe { node: usize },
    /// The same, with the disk as it was before the first write.
    Restore { node: usize },
    /// Holder and standby agree on the epoch; the standby's copy becomes a target of resync.
    Handshake { holder: usize, node: usize },
    /// The copy has all of the holder's data.
    Resync { holder: usize, node: usize },
    /// The row is deleted, and made anew with this node as its first.
    Remake { node: usize },
    /// Only where a mistake makes it possible: the holder takes a read for proof that its grow was not applied.
    Misread { node: usize },
    /// Only where a mistake makes it possible: somebody else makes this node the holder.
    Force { node: usize },
}

impl Want {
    pub(super) fn lets_in(self) -> bool {
        matches!(self, Self::Grow(_))
    }
}

impl A1 {
    #[allow(clippy::too_many_lines, reason = "one line for each thing that can happen")]
    pub(super) fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        let room = state.row.rev() < self.max_rev;
        for at in 0..self.writes {
            for node in 0..self.nodes {
                if self.accepts(state, at, node) {
                    steps.push(Step::Deliver { write: at, node });
                }
            }
            if self.completes(state, at).is_some() {
                steps.push(Step::Complete { write: at });
            }
        }
        for node in 0..self.nodes {
            self.steps_of(state, node, room, steps);
            let member = state.member(node);
            if room && state.row.nominee() != Some(member) && self.nominated(state, member).is_some() {
                steps.push(Step::Nominate { node });
            }
            if self.remade && state.row.lineage() == 0 {
                steps.push(Step::Remake { node });
            }
            if room && self.errs(Mistake::PromotedByAnother) && state.row.holder() != Some(member) {
                steps.push(Step::Force { node });
            }
        }
        if room {
            steps.extend(state.orphans().map(|new| Step::LandLate { new }));
        }
    }

    fn steps_of(&self, state: &State, node: usize, room: bool, steps: &mut Vec<Step>) {
        let me = &state.nodes[node];
        steps.push(Step::Crash { node });
        if state.formats > 0 {
            steps.extend([Step::Wipe { node }, Step::Restore { node }]);
        }
        if !self.knows_lineage(state) {
            if me.role.holds() {
                steps.push(Step::Demote { node });
            }
            return;
        }
        if let Some(pending) = &me.pending {
            if room && self.lands(state, pending) {
                steps.push(Step::Land { node });
            }
            if pending.landed {
                steps.push(Step::Answer { node });
                if state.row != pending.new {
                    steps.push(Step::AnswerLost { node });
                }
            }
            let misread = if pending.landed { Mistake::StaleRead } else { Mistake::ReadAsProof };
            if pending.want.lets_in() && self.errs(misread) {
                steps.push(Step::Misread { node });
            }
        }
        match me.role {
            Role::Standby => {
                if self.was_handed(state, node) {
                    steps.push(Step::TakeOver { node });
                }
                let left = rows::on(state.row, state.member(node), 0, Want::Leave, MARK_OF_OTHERS);
                if room && left.is_some() {
                    steps.push(Step::Leave { node });
                }
            }
            Role::Activating | Role::Active | Role::Leaving => steps.push(Step::Demote { node }),
        }
        if me.role == Role::Active {
            if state.writes[..self.writes].iter().any(|write| write.fate == Fate::NotSubmitted) {
                steps.push(Step::Submit { node });
            }
            if drained(state, node) && me.data & !state.acked() & !state.read != 0 {
                steps.push(Step::Read { node });
            }
            for other in (0..self.nodes).filter(|other| *other != node) {
                if self.shakes_hands(state, node, other) {
                    steps.push(Step::Handshake { holder: node, node: other });
                }
                if self.resyncs(state, node, other) {
                    steps.push(Step::Resync { holder: node, node: other });
                }
            }
        }
        if room && me.pending.is_none() {
            self.proposals(state, node, steps);
        }
    }

    fn proposals(&self, state: &State, node: usize, steps: &mut Vec<Step>) {
        let mut propose = |want: Want| {
            if self.proposed(state, node, want).is_some() {
                steps.push(Step::Propose { node, want });
            }
        };
        let me = &state.nodes[node];
        match me.role {
            Role::Standby => {
                if self.accepts_lease(state, node) {
                    propose(Want::Accept);
                }
                if state.row.holder() == Some(state.member(node)) && !self.was_handed(state, node) {
                    propose(Want::Restart { clean: self.errs(Mistake::RestartKeepsSet) });
                }
            }
            Role::Activating => propose(Want::Activate),
            Role::Active => {
                propose(Want::Renew);
                for other in (0..self.nodes).filter(|other| *other != node) {
                    if self.caught_up(state, node, other) {
                        propose(Want::Grow(state.member(other)));
                    }
                }
                for member in state.row.in_sync().each() {
                    propose(Want::Shrink(member));
                    if drained(state, node) {
                        propose(Want::HandOver(member));
                    }
                }
                if drained(state, node) {
                    propose(Want::Release);
                }
            }
            Role::Leaving => {}
        }
    }
}

impl A1 {
    // --- effects -----------------------------------------------------------------------------------------------

    #[allow(clippy::too_many_lines, reason = "one arm for each thing that can happen")]
    pub(super) fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Submit { node } => self.submit(state, node),
            Step::Deliver { write, node } => {
                let incarnation = state.nodes[node].incarnation;
                let frame = &mut state.writes[write];
                let (epoch, seq) = (frame.epoch, frame.seq);
                frame.frames[node] = Frame::Acked(incarnation);
                let copy = &mut state.nodes[node];
                promise(copy, epoch);
                // What it has applied already it acknowledges again and drops.
                if epoch < copy.promised || seq > copy.applied {
                    copy.data |= 1 << write;
                    copy.applied = seq;
                }
            }
            Step::Complete { write } => {
                let node = self.completes(state, write).expect("only then it is a step");
                let done = &state.writes[write];
                let strange = state.nodes[node]
                    .need
                    .each()
                    .any(|member| done.frames[member.node()] != Frame::Acked(member.0 % rows::INCARNATIONS));
                state.broken.late_ack |= done.late;
                state.broken.stranger |= strange;
                state.writes[write].fate = Fate::Acked;
            }
            Step::Read { node } => state.read |= state.nodes[node].data & !state.acked(),
            Step::Propose { node, want } => self.propose(state, node, want),
            Step::Land { node } => {
                let mut pending = state.nodes[node].pending.expect("only then it is a step");
                pending.new = self.landed(state, &pending);
                pending.landed = true;
                state.nodes[node].pending = Some(pending);
                self.apply(state, pending.new);
            }
            Step::LandLate { new } => {
                state.drop_orphan(new);
                self.apply(state, new);
            }
            Step::Answer { node } => {
                let pending = state.nodes[node].pending.take().expect("only then it is a step");
                self.settled(state, node, pending.want, pending.new);
            }
            Step::AnswerLost { node } => {
                let pending = state.nodes[node].pending.take().expect("only then it is a step");
                self.conflict(state, node, pending);
            }
            Step::Nominate { node } => {
                let new = self.nominated(state, state.member(node)).expect("only then it is a step");
                self.apply(state, new);
            }
            Step::Leave { node } => {
                let new = rows::on(state.row, state.member(node), 0, Want::Leave, MARK_OF_OTHERS);
                self.apply(state, new.expect("only then it is a step"));
            }
            Step::TakeOver { node } => self.hold(state, node, state.row, false),
            Step::Demote { node } => self.stand_down(state, node),
            Step::Crash { node } => self.start_again(state, node),
            Step::Wipe { node } => self.format(state, node, 0, false),
            // The snapshot was taken before the first write.
            Step::Restore { node } => self.format(state, node, 1, true),
            Step::Handshake { holder, node } => {
                let epoch = state.nodes[holder].epoch;
                let copy = &mut state.nodes[node];
                promise(copy, epoch);
                copy.session = epoch;
                // In the middle of a resync it is neither old nor new; it says so before the first block.
                (copy.consistent, copy.data) = (false, 0);
            }
            Step::Resync { holder, node } => {
                let (data, seq) = (state.nodes[holder].data, state.nodes[holder].seq);
                let copy = &mut state.nodes[node];
                (copy.data, copy.applied, copy.consistent) = (data, seq, true);
            }
            Step::Remake { node } => {
                let first = state.member(node);
                state.row = Packed(0)
                    .with_rev(1)
                    .with_lineage(1)
                    .with_nonce(MARK_OF_OTHERS)
                    .with_nominee(first.0 + 1)
                    .with_in_sync(Members::default().with(first));
                if !self.errs(Mistake::ConditionOnRevAlone) {
                    state.orphans = Default::default();
                }
            }
            Step::Misread { node } => {
                let pending = state.nodes[node].pending.take().expect("only then it is a step");
                if let Want::Grow(peer) = pending.want {
                    state.nodes[node].need = state.nodes[node].need.without(peer);
                }
                if self.follows(state, pending.new) {
                    state.add_orphan(pending.new.with_nonce(MARK_OF_THE_DEAD));
                }
            }
            Step::Force { node } => {
                let me = state.member(node);
                let new = state
                    .row
                    .with_rev(state.row.rev() + 1)
                    .with_epoch(state.row.epoch() + 1)
                    .with_beat(0)
                    .with_holder(me.0 + 1)
                    .with_activated(0)
                    .with_nominee(0)
                    .with_in_sync(Members::default().with(me));
                self.apply(state, new);
            }
        }
    }

    fn submit(&self, state: &mut State, node: usize) {
        let at =
            state.writes.iter().position(|write| write.fate == Fate::NotSubmitted).expect("only then it is a step");
        let newer = state.row.epoch() > state.nodes[node].epoch;
        let me = &mut state.nodes[node];
        me.seq += 1;
        me.data |= 1 << at;
        let (epoch, seq, need) = (me.epoch, me.seq, me.need);
        // Its own frames: what it has itself it has applied.
        (me.promised, me.applied) = (epoch, seq);
        let mut frames = [Frame::None; rows::NODES];
        for (other, frame) in frames.iter_mut().enumerate().take(self.nodes).filter(|(other, _)| *other != node) {
            if need.each().any(|member| member.node() == other) || state.nodes[other].session == epoch {
                *frame = Frame::OnItsWay;
            }
        }
        let by = u8::try_from(node).expect("few nodes");
        state.writes[at] = super::Write { fate: Fate::Submitted, by, epoch, seq, late: newer, frames };
    }

    fn propose(&self, state: &mut State, node: usize, want: Want) {
        let new = self.proposed(state, node, want).expect("only then it is a step");
        let made_on = (state.row.epoch(), state.row.beat());
        let me = &mut state.nodes[node];
        me.pending = Some(Pending { want, new, made_on, landed: false });
        match want {
            // Before it is sent.
            Want::Grow(peer) if !self.errs(Mistake::GrowNeedsLate) => me.need = need::needs(me.need, peer),
            Want::Shrink(peer) if self.errs(Mistake::ShrinkCompletesEarly) => me.need = me.need.without(peer),
            Want::HandOver(_) | Want::Release => me.role = Role::Leaving,
            _ => {}
        }
    }

    /// The row becomes `new`.
    fn apply(&self, state: &mut State, new: Packed) {
        let old = state.row;
        let same_epoch = new.epoch() == old.epoch();
        let holder_changed = new.holder().is_some() && new.holder() != old.holder();
        state.broken.row |= new.rev() != old.rev() + 1
            || new.epoch() < old.epoch()
            || same_epoch && holder_changed
            || new.lineage() != old.lineage();
        let taken = new.holder().filter(|_| !same_epoch);
        state.broken.stranger |= taken.is_some_and(|holder| !old.in_sync().has(holder));
        state.row = new;
        // Whoever was sent for another row comes too late.
        state.orphans = Default::default();
    }

    /// A write of this node was applied: `node::Node::settled`.
    fn settled(&self, state: &mut State, node: usize, want: Want, row: Packed) {
        match rows::sequel(want) {
            Sequel::Holds => {
                state.broken.stranger |= want == Want::Accept && !state.nodes[node].consistent;
                self.hold(state, node, row, true);
            }
            Sequel::StandsBy => self.stand_down(state, node),
            Sequel::HoldsOn => {
                let others = row.in_sync().without(state.member(node));
                let me = &mut state.nodes[node];
                me.need = need::proven(me.need, others);
                if want == Want::Activate {
                    me.role = Role::Active;
                }
            }
            Sequel::Nothing => unreachable!("nobody waits for it"),
        }
    }

    /// The condition of this node's write does not hold on the row as it is, and never will again.
    fn conflict(&self, state: &mut State, node: usize, pending: Pending) {
        if rows::applied_after_conflict(pending.new, state.row, pending.landed) {
            self.settled(state, node, pending.want, pending.new);
            return;
        }
        if rows::is_in(pending.new, pending.made_on, state.row) {
            self.settled(state, node, pending.want, state.row);
            return;
        }
        // `node::Node::adopt` of that row. Whoever holds no longer stops when it gets to it.
        let (rightful, epoch) = (state.rightful(node), state.row.epoch());
        let me = &mut state.nodes[node];
        match me.role {
            Role::Standby => promise(me, epoch),
            Role::Leaving if rightful => me.role = Role::Active,
            _ => {}
        }
    }

    /// This node holds `row`'s epoch: `node::Node::take_over`. `proven`: by its own write.
    fn hold(&self, state: &mut State, node: usize, row: Packed, proven: bool) {
        let others = row.in_sync().without(state.member(node));
        let me = &mut state.nodes[node];
        (me.role, me.epoch, me.past) = (Role::Activating, row.epoch(), 0);
        (me.seq, me.session, me.claim) = (0, 0, 0);
        me.need = if proven { need::proven(Members::default(), others) } else { others };
        promise(me, row.epoch());
    }

    /// A holder stops: its workload is killed, and it stands by.
    fn stand_down(&self, state: &mut State, node: usize) {
        let past = state.nodes[node].epoch;
        self.end_process(state, node);
        (state.nodes[node].role, state.nodes[node].past) = (Role::Standby, past);
    }

    /// A process ends in whatever it was doing; the next one reads the row.
    fn start_again(&self, state: &mut State, node: usize) {
        self.end_process(state, node);
        let (row, member) = (state.row, state.member(node));
        let mine = row.holder() == Some(member);
        let knows = self.knows_lineage(state);
        let me = &mut state.nodes[node];
        // Whatever epoch the row gives this node belongs to an earlier process.
        (me.role, me.session, me.past) = (Role::Standby, 0, if mine { row.epoch() } else { 0 });
        // Nominated in this very row: an acceptance of an earlier process may still be on its way.
        // By node: a new disk fears the acceptance of the one before it, too.
        let own = row.nominee() == Some(Member::of(node, me.incarnation));
        let claimed = rows::is_claimed(row, member) && (own || !self.errs(Mistake::AcksByNode));
        me.claim = match (knows, claimed) {
            // It may have accepted on the row that is gone.
            (false, _) => UNTIL_THE_ROW_IS_BACK,
            (true, true) if !self.errs(Mistake::ClaimForgotten) => row.rev(),
            (true, _) => 0,
        };
        if knows {
            promise(me, row.epoch());
        }
        if mine && self.errs(Mistake::RestartKeepsEpoch) {
            self.hold(state, node, row, true);
            state.nodes[node].role = Role::Active;
        }
    }

    /// All that only the process knows is gone; what it asked for may still happen.
    fn end_process(&self, state: &mut State, node: usize) {
        if let Some(pending) = state.nodes[node].pending.take()
            && self.follows(state, pending.new)
        {
            let mark = if self.errs(Mistake::NonceReused) { 1 } else { MARK_OF_THE_DEAD };
            state.add_orphan(pending.new.with_nonce(mark));
        }
        let me = &mut state.nodes[node];
        (me.epoch, me.seq, me.need) = (0, 0, Members::default());
        for write in &mut state.writes {
            if write.fate == Fate::Submitted && usize::from(write.by) == node {
                write.fate = Fate::Unknown;
            }
        }
    }

    fn format(&self, state: &mut State, node: usize, promised: u8, consistent: bool) {
        self.end_process(state, node);
        let me = &mut state.nodes[node];
        let incarnation = if self.errs(Mistake::FormatKeepsName) { me.incarnation } else { me.incarnation + 1 };
        // With its old name it believes to be what it was.
        let consistent = consistent || self.errs(Mistake::FormatKeepsName);
        *me = Node { incarnation, promised, consistent, ..Node::default() };
        state.formats -= 1;
        self.start_again(state, node);
    }

    /// One state for all that nobody can tell apart.
    pub(super) fn tidy(&self, state: &mut State) {
        for node in 0..self.nodes {
            // Never to be applied any more: its writer may know.
            if let Some(pending) = state.nodes[node].pending
                && self.is_over(state, &pending)
            {
                state.nodes[node].pending = None;
                self.conflict(state, node, pending);
            }
            let row = state.row;
            let named = row.holder() == Some(state.member(node));
            let me = &mut state.nodes[node];
            // The acceptance that it claimed for is settled: it knows from a read, by which it takes the epoch to heart.
            if me.claim != 0 && me.pending.is_none() && row.rev() > me.claim && row.lineage() == 0 {
                me.claim = 0;
                promise(me, row.epoch());
            }
            // Whoever the row does not name now is named in a later epoch only.
            if !named || me.past < row.epoch() {
                me.past = 0;
            }
        }
        for node in 0..self.nodes {
            let copy = &state.nodes[node];
            let holding = |epoch: u8| state.nodes.iter().any(|node| node.role.holds() && node.epoch == epoch);
            let on_its_way =
                state.writes.iter().any(|write| write.epoch == copy.promised && write.frames[node] == Frame::OnItsWay);
            // No frame of that epoch can come any more, and its count says nothing of another's.
            let (no_session, no_frames) = (!holding(copy.session), !on_its_way && !holding(copy.promised));
            let copy = &mut state.nodes[node];
            if no_session {
                copy.session = 0;
            }
            if no_frames {
                copy.applied = 0;
            }
        }
        for write in &mut state.writes {
            for (frame, copy) in write.frames.iter_mut().zip(&state.nodes) {
                let told = write.fate != Fate::Submitted;
                let useless = match frame {
                    Frame::None => false,
                    Frame::OnItsWay => {
                        !self.takes_some_day(copy, write.epoch)
                            || told && write.epoch == copy.promised && write.seq <= copy.applied
                    }
                    Frame::Acked(_) => told,
                };
                if useless {
                    *frame = Frame::None;
                }
            }
        }
    }
}

/// Refuse what is older, from now on and for ever; the count of frames begins anew with each epoch.
fn promise(copy: &mut Node, epoch: u8) {
    if epoch > copy.promised {
        (copy.promised, copy.applied) = (epoch, 0);
    }
}
