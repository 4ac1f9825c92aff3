//! One run of a function, as [`lambdas::converge`] and [`lambdas::failover`] have it: from await to await.
//!
//! ```text
//!  failover   describe ─▶ read row ─▶ plan ─┐
//!  look       read row ─▶ describe ─▶ plan ─┴▶ read row ─▶ calls ─▶ read row ─▶ done
//!                 ▲                                │  ▲      │          │
//!                 └────────── epoch moved ◀────────┴──┼──────┼──────────┘
//!                                                     └──────┴ next stage, or calls to be tried again
//! ```
//!
//! A failover's run looks twice more when it is done, and `watch` looks each minute: each of these looks is a run of its own
//! here, as nothing is carried from one to the next.

use super::network::{Call, Hop, Late, Network, Planned, TABLES, View};
use super::{Broken, Mutation, Routes, State};
use crate::a3::lease::Node;
use std::fmt;

/// What woke the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::a3) enum Kind {
    /// `failover` once the lease is taken: it looked at the network while it waited for that.
    Failover,
    /// A visit of `watch`, or one of the later looks of `failover`.
    Look,
}

/// A run under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Run {
    pub(super) kind: Kind,
    /// The newest epoch that it has read; 0: none yet.
    pub(super) seen: u8,
    /// Nothing but calls of one batch was awaited since it read the row.
    pub(super) just_read: bool,
    pub(super) next: Next,
}

/// What a run awaits next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Next {
    /// A description of the network, before the row is read.
    Prepare,
    /// The row; a description may be there already.
    Row(Option<View>),
    /// A description of the network, for this holder.
    Describe {
        epoch: u8,
        to: Node,
    },
    /// The row again, before a batch of calls.
    Check(Work),
    /// The answers of a batch.
    Answers(Work),
    /// The row again, after the last batch.
    CheckLast(Work),
    /// Only where old routes are cleaned up: a description to find them by, then their deletion.
    Sweep {
        to: Node,
    },
    Delete {
        tables: [bool; TABLES],
    },
}

/// What is left of a plan.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Work {
    pub(super) epoch: u8,
    pub(super) to: Node,
    pub(super) forwarding: bool,
    pub(super) calls: [Due; TABLES],
}

/// One route's call within a plan.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Due {
    Nothing,
    First(Call),
    /// The first was answered with "there is none" or "there is one": now the other kind.
    Second(Call),
    /// Unanswered; the first is to be made again.
    Again(Call),
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::a3) enum Fate {
    /// Applied, or refused, and answered.
    Answered,
    /// No answer: it is on its way still, and the run tries again.
    TriedAgain,
    /// No answer: it is on its way still, and the run has no time to try again.
    LeftToNext,
}

/// A step of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::a3) enum Step {
    Describe(Late),
    ReadRow,
    /// Switching an interface's check off; `false`: refused, and gone on without.
    Forward(bool),
    Call(usize, Fate),
    Delete(usize),
}

/// A call without an answer, which may be applied at any time from now on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Afloat {
    pub(super) table: usize,
    pub(super) call: Call,
    pub(super) to: Node,
}

impl Afloat {
    /// It is applied now, if it can be.
    pub(super) fn land(self, network: &mut Network) {
        let exists = network.now.hops[self.table] != Hop::Missing;
        if exists == (self.call == Call::Replace) {
            network.put(self.table, Hop::Node(self.to));
        }
    }
}

impl Work {
    fn of(epoch: u8, to: Node, planned: Planned) -> Self {
        let calls = planned.calls.map(|call| call.map_or(Due::Nothing, Due::First));
        Self { epoch, to, forwarding: planned.forwarding, calls }
    }
    fn is_done(&self) -> bool {
        !self.forwarding && self.calls == [Due::Nothing; TABLES]
    }
    /// Every call of the batch under way has an answer or none to come.
    fn is_answered(&self) -> bool {
        !self.calls.iter().any(|due| matches!(due, Due::First(_) | Due::Second(_)))
    }
}

impl Run {
    pub(super) fn begin(kind: Kind) -> Self {
        let next = match kind {
            Kind::Failover => Next::Prepare,
            Kind::Look => Next::Row(None),
        };
        Self { kind, seen: 0, just_read: false, next }
    }
    /// Whether it may call now, and for which table it may.
    pub(super) fn is_calling(&self, table: usize) -> Option<(Work, Due)> {
        match self.next {
            Next::Answers(work) if !work.forwarding => Some((work, work.calls[table])),
            _ => None,
        }
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.kind, self.next)
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepare => f.write_str("looks at the network first"),
            Self::Row(_) => f.write_str("reads the row"),
            Self::Describe { epoch, to } => write!(f, "looks at the network for {to:?} of epoch {epoch}"),
            Self::Check(work) => write!(f, "reads the row before calling for {:?} of epoch {}", work.to, work.epoch),
            Self::Answers(work) => write!(f, "calls for {:?} of epoch {}", work.to, work.epoch),
            Self::CheckLast(work) => write!(f, "reads the row after calling for {:?} of epoch {}", work.to, work.epoch),
            Self::Sweep { .. } => f.write_str("looks for old routes"),
            Self::Delete { .. } => f.write_str("deletes old routes"),
        }
    }
}

impl Routes {
    /// What the run in `slot` may do next.
    pub(super) fn steps(&self, state: &State, run: &Run, steps: &mut Vec<Step>) {
        match run.next {
            Next::Prepare | Next::Describe { .. } | Next::Sweep { .. } => {
                steps.extend(state.network.descriptions().into_iter().map(Step::Describe));
            }
            Next::Row(_) | Next::Check(_) | Next::CheckLast(_) => steps.push(Step::ReadRow),
            Next::Answers(work) if work.forwarding => steps.extend([Step::Forward(true), Step::Forward(false)]),
            Next::Answers(work) => {
                for (table, due) in work.calls.iter().enumerate() {
                    if matches!(due, Due::First(_) | Due::Second(_)) {
                        steps.push(Step::Call(table, Fate::Answered));
                        if state.afloat.is_none() && self.bounds.unanswered {
                            steps.push(Step::Call(table, Fate::TriedAgain));
                            steps.push(Step::Call(table, Fate::LeftToNext));
                        }
                    }
                }
            }
            Next::Delete { tables } => {
                steps.extend((0..TABLES).filter(|table| tables[*table]).map(Step::Delete));
            }
        }
    }

    /// The state after `step` of the run in `slot`.
    pub(super) fn step(&self, state: &mut State, slot: usize, step: Step) {
        let Some(mut run) = state.runs[slot] else { return };
        let next = match (run.next, step) {
            (Next::Prepare, Step::Describe(late)) => Some(Next::Row(Some(state.network.described(late)))),
            (Next::Row(prepared), Step::ReadRow) => self.read_row(state, &mut run, prepared),
            (Next::Describe { epoch, to }, Step::Describe(late)) => {
                run.just_read = false;
                let view = state.network.described(late);
                self.plan(state, epoch, to, view)
            }
            (Next::Check(work), Step::ReadRow) => Some(match self.overtaken(state, &mut run, work) {
                true => Next::Row(None),
                false => Next::Answers(work),
            }),
            (Next::CheckLast(work), Step::ReadRow) => match self.overtaken(state, &mut run, work) {
                true => Some(Next::Row(None)),
                false if self.mutation == Some(Mutation::CleansUp) => Some(Next::Sweep { to: work.to }),
                false => None,
            },
            (Next::Answers(work), Step::Forward(applied)) => {
                if applied {
                    state.network.put_checked(state.network.now.checked & !work.to.bit());
                }
                Some(self.after_forwarding(&mut run, Work { forwarding: false, ..work }))
            }
            (Next::Answers(work), Step::Call(table, fate)) => Some(self.call(state, &mut run, work, table, fate)),
            (Next::Sweep { to }, Step::Describe(late)) => {
                let view = state.network.described(late);
                let tables = view.hops.map(|hop| matches!(hop, Hop::Node(node) if node != to));
                if tables == [false; TABLES] { None } else { Some(Next::Delete { tables }) }
            }
            (Next::Delete { mut tables }, Step::Delete(table)) => {
                state.network.put(table, Hop::Missing);
                tables[table] = false;
                if tables == [false; TABLES] { None } else { Some(Next::Delete { tables }) }
            }
            _ => unreachable!("a step that this run does not await"),
        };
        state.runs[slot] = next.map(|next| Run { next, ..run });
    }

    /// The row's answer at the beginning of a round.
    fn read_row(&self, state: &mut State, run: &mut Run, prepared: Option<View>) -> Option<Next> {
        run.seen = run.seen.max(state.row.epoch);
        run.just_read = true;
        let nominee = state.row.live_nominee().filter(|_| self.mutation == Some(Mutation::RoutesToNominee));
        // Nobody holds: nothing is desired, the run is over.
        let to = nominee.map(|nominee| nominee.node).or(state.row.holder.map(|holder| holder.node))?;
        match prepared {
            Some(view) => self.plan(state, state.row.epoch, to, view),
            None => Some(Next::Describe { epoch: state.row.epoch, to }),
        }
    }

    fn plan(&self, state: &mut State, epoch: u8, to: Node, view: View) -> Option<Next> {
        let planned = self.planner.plan(view, to);
        if planned.stray {
            state.broken = state.broken.or(Some(Broken::Stray));
        }
        if planned.is_empty() {
            return None;
        }
        Some(self.before_batch(Work::of(epoch, to, planned)))
    }

    fn overtaken(&self, state: &State, run: &mut Run, work: Work) -> bool {
        run.seen = run.seen.max(state.row.epoch);
        run.just_read = true;
        state.row.epoch != work.epoch && self.mutation != Some(Mutation::FinishesOldPlan)
    }

    /// One call's end.
    fn call(&self, state: &mut State, run: &mut Run, mut work: Work, table: usize, fate: Fate) -> Next {
        let (Due::First(call) | Due::Second(call)) = work.calls[table] else {
            unreachable!("only what is due is called");
        };
        let first = matches!(work.calls[table], Due::First(_));
        state.broken = state.broken.or(broken_by(state, run, work));
        work.calls[table] = if fate == Fate::Answered {
            let exists = state.network.now.hops[table] != Hop::Missing;
            match call {
                Call::Replace if !exists && first => Due::Second(Call::Create),
                Call::Create if exists && first => Due::Second(Call::Replace),
                _ => {
                    Afloat { table, call, to: work.to }.land(&mut state.network);
                    Due::Nothing
                }
            }
        } else {
            state.afloat = Some(Afloat { table, call, to: work.to });
            // A second call is the other kind of what was planned.
            let planned = match (first, call) {
                (true, planned) => planned,
                (false, Call::Create) => Call::Replace,
                (false, Call::Replace) => Call::Create,
            };
            if fate == Fate::TriedAgain { Due::Again(planned) } else { Due::Nothing }
        };
        self.after_call(run, work)
    }

    /// The stage of forwarding is over: the routes are a batch of their own.
    fn after_forwarding(&self, run: &mut Run, work: Work) -> Next {
        run.just_read = false;
        match work.is_done() {
            true => Next::CheckLast(work),
            false => self.before_batch(work),
        }
    }

    /// The rest of the batch, or the calls that are to be made again, or the end of the run.
    fn after_call(&self, run: &mut Run, mut work: Work) -> Next {
        if work.is_done() {
            return Next::CheckLast(work);
        }
        if !work.is_answered() {
            return Next::Answers(work);
        }
        // It pauses first.
        run.just_read = false;
        for due in &mut work.calls {
            if let Due::Again(call) = *due {
                *due = Due::First(call);
            }
        }
        self.before_batch(work)
    }

    fn before_batch(&self, work: Work) -> Next {
        if self.mutation == Some(Mutation::NoReadBeforeCalls) { Next::Answers(work) } else { Next::Check(work) }
    }
}

/// What a call of `work` by `run` in `state` breaks.
fn broken_by(state: &State, run: &Run, work: Work) -> Option<Broken> {
    if run.seen > work.epoch {
        return Some(Broken::OldPlan);
    }
    if !run.just_read {
        return Some(Broken::NotReadBefore);
    }
    let holder = state.row.holder.map(|holder| holder.node);
    (state.row.epoch == work.epoch && holder.is_some_and(|holder| holder != work.to)).then_some(Broken::NotToHolder)
}
