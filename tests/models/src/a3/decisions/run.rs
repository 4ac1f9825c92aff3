//! One run of `failover`, or a visit of `watch`, as [`lambdas::failover::run`] and [`lambdas::watch::visit`] have it:
//! from await to await, until somebody has taken the lease. What follows then is in the model of the routes.
//!
//! ```text
//!  watch: read row ─▶ read row ─▶ read row (a nomination that stands still) ─┐
//!  read row ─▶ decide ◀──────────────────────────────────────────────────────┘
//!               │ ▲
//!               │ ├── look at heartbeats, instances, the row ─▶ read row where that took time
//!               │ ├── write refused, or not answered and not to be found
//!               │ └── nominee did not accept in its time
//!               ├─▶ write nomination ─▶ wait: taken, or renewed ─▶ done
//!               ├─▶ write request ─▶ wait: taken, given up, or not taken: write that it is taken back ─▶ done
//!               ├─▶ read row ─▶ stop the holder's instance ─▶ read row
//!               └─▶ nothing, blocked ─▶ done
//! ```

use super::observation::{Beats, Instance, Seen, Verdict, Wanted, Why};
use super::{Broken, Decisions, Mutation, Process, State};
use crate::a3::lease::{Lease, Node, Nomination, Request, Wish};
use lease::record::DeadState;
use lease::rules::Rule;
use std::fmt;

/// What a run awaits next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::a3) enum Run {
    /// A visit of `watch`: the row, for the first time, for the second, and once a nomination has had its time.
    Visit,
    VisitAgain(Lease),
    VisitLast(Lease),
    /// The row, for a hint; nominees that are passed over.
    Begin(Why, u8),
    /// What the decision asks for.
    Decided(Seen),
    /// The row, after a look that took time.
    Reread(Seen),
    /// The row, to find a nomination that was not answered.
    Find(Seen, Nomination),
    /// The row, until it is taken; seen is the row as it was once the nomination was in it.
    Wait(Seen),
    /// The row, before an instance is stopped; the stop; the row after it.
    BeforeStop(Seen),
    Stop(Seen),
    AfterStop(Seen),
    /// The row, to find a request that was not answered.
    FindRequest(Seen, Request),
    /// The row, until the request is carried out, given up, or has stood for longer than any hand-over may take.
    Asked(Request),
    /// The answer to the write that takes back the request with this id; made on this row.
    TakeBack(Lease, u8),
}

/// A step of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::a3) enum Step {
    ReadRow,
    /// As the consistent read would have had it before the last write: for a mutant only.
    ReadOldRow,
    /// What the looks find.
    Look(Found),
    /// The decision ends the run.
    End,
    Write {
        answered: bool,
    },
    /// Nobody took the lease, and the holder did not renew, for as long as a nominee may take.
    TimeOut,
    Stop,
}

/// What a look found, a bit for each node where it is about nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(in crate::a3) struct Found {
    hears: u8,
    advanced: u8,
    /// EC2 describes these as they were before their last change.
    late: u8,
    /// EC2 was asked often enough.
    enough: bool,
    row_moves: bool,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = |bits: u8| Node::all(3).filter(|node| bits & node.bit() != 0).collect::<Vec<_>>();
        write!(f, "heartbeats that hear {:?}, that advance {:?}", nodes(self.hears), nodes(self.advanced))?;
        if self.late != 0 {
            write!(f, ", described late {:?}", nodes(self.late))?;
        }
        f.write_str(if self.row_moves { ", the row moves" } else { "" })
    }
}

impl Run {
    pub(super) fn of(why: Why) -> Self {
        Self::Begin(why, 0)
    }
}

impl Decisions {
    /// What `run` may do next. `smooth`: only what a world does in which nothing goes wrong any more.
    pub(super) fn steps(&self, state: &State, run: &Run, smooth: bool) -> Vec<Step> {
        let read = match self.mutation {
            Some(Mutation::ReadsOldRow) if state.before.is_some() => vec![Step::ReadRow, Step::ReadOldRow],
            _ => vec![Step::ReadRow],
        };
        match run {
            Run::Decided(seen) => match self.verdict(seen) {
                Verdict::Nothing(_) | Verdict::Blocked(_) | Verdict::Stop => vec![Step::End],
                Verdict::Nominate(_) | Verdict::Intend(..) if smooth || state.afloat.is_some() => {
                    vec![Step::Write { answered: true }]
                }
                Verdict::Nominate(_) | Verdict::Intend(..) => {
                    vec![Step::Write { answered: true }, Step::Write { answered: false }]
                }
                Verdict::LookAgain(wanted) => {
                    let found = if smooth { vec![self.truth(state)] } else { self.findings(state, wanted) };
                    found.into_iter().map(Step::Look).collect()
                }
            },
            Run::Wait(seen) => {
                let over = state.row.place() != seen.row.place();
                if over { read } else { vec![Step::TimeOut] }
            }
            Run::Stop(_) => vec![Step::Stop],
            Run::Asked(request) if state.row.open_request() == Some(*request) => vec![Step::TimeOut],
            Run::TakeBack(..) => vec![Step::Write { answered: true }],
            _ => read,
        }
    }

    /// Everything that a look may find. Who is heard by whom is no state: at each look anybody may be heard or not.
    fn findings(&self, state: &State, wanted: Wanted) -> Vec<Found> {
        let nodes = || Node::all(self.bounds.nodes);
        let mut all = vec![Found::default()];
        let mut or = |change: &dyn Fn(&mut Found)| {
            let mut more = all.clone();
            more.iter_mut().for_each(change);
            all.append(&mut more);
        };
        for node in nodes() {
            let heartbeat = wanted.heartbeats || wanted.movement & node.bit() != 0;
            let lives = state.nodes[node.place()].process != Process::Down;
            if wanted.movement & node.bit() != 0 && lives {
                or(&|found| found.advanced |= node.bit());
            }
            if heartbeat && state.row.holder.is_none_or(|holder| holder.node != node) {
                or(&|found| found.hears |= node.bit());
            }
            if wanted.instances && state.nodes[node.place()].instance_was.is_some() {
                or(&|found| found.late |= node.bit());
            }
        }
        if wanted.instances {
            or(&|found| found.enough = true);
        }
        if wanted.row {
            or(&|found| found.row_moves = true);
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// What a look finds where nothing goes wrong: who lives beats and hears who lives.
    fn truth(&self, state: &State) -> Found {
        let lives = |node: &Node| state.nodes[node.place()].process != Process::Down;
        let bits = |nodes: &mut dyn Iterator<Item = Node>| nodes.map(Node::bit).sum();
        let holder_lives = state.row.holder.is_some_and(|holder| lives(&holder.node));
        Found {
            hears: if holder_lives { bits(&mut Node::all(self.bounds.nodes).filter(lives)) } else { 0 },
            advanced: bits(&mut Node::all(self.bounds.nodes).filter(lives)),
            late: 0,
            enough: true,
            row_moves: holder_lives,
        }
    }

    /// What the run decides.
    pub(super) fn verdict(&self, seen: &Seen) -> Verdict {
        let mut seen = *seen;
        match (self.mutation, seen.why) {
            (Some(Mutation::DeafToHearing), why) => {
                seen.heartbeats = seen.heartbeats.map(|all| all.map(|beats| Beats { hears: false, ..beats }));
                if let Why::Suspected { node, place, long, .. } = why {
                    seen.why = Why::Suspected { node, place, long, hears: false };
                }
            }
            (Some(Mutation::TrustsTheEvent), Why::Stopped { node }) => {
                let launch = seen.row.holder.map_or(0, |holder| holder.launch);
                let mut all = seen.instances.unwrap_or([Instance { running: true, launch: 0 }; 3]);
                all[node.place()] = Instance { running: false, launch };
                seen.instances = Some(all);
            }
            _ => {}
        }
        let verdict = self.decider.decide(&seen);
        match (self.mutation, verdict, seen.why) {
            (Some(Mutation::OrderIsProof), Verdict::Blocked(Rule::R410) | Verdict::Stop, Why::Force { .. }) => {
                let Some(holder) = seen.row.holder else { return verdict };
                let alive = |node: &Node| *node != holder.node && seen.row.in_sync & node.bit() != 0;
                let Some(node) = Node::all(self.bounds.nodes).find(alive) else { return verdict };
                let (epoch, beat) = seen.row.place();
                let proof = Some((holder.node, DeadState::Stopped));
                Verdict::Nominate(Nomination { node, epoch, beat, rule: Rule::R410, proof, lossy: false })
            }
            _ => verdict,
        }
    }

    /// The state after `step` of the run in `slot`.
    pub(super) fn step(&self, state: &mut State, slot: usize, step: Step) {
        let Some(run) = state.runs[slot] else { return };
        let row = match step {
            Step::ReadOldRow => state.before.unwrap_or(state.row),
            _ => state.row,
        };
        let decided = |seen: Seen| Some(Run::Decided(seen));
        state.runs[slot] = match (run, step) {
            (Run::Visit, _) => Some(Run::VisitAgain(row)),
            (Run::VisitAgain(first), _) => match (first.live_nominee(), row.live_nominee()) {
                (Some(was), Some(is)) if was == is => Some(Run::VisitLast(row)),
                _ => self.visited(&first, &row, 0),
            },
            (Run::VisitLast(second), _) => {
                // The nomination stood at both looks, so the row did.
                let stands = |nominee: &Nomination| Some(*nominee) == second.live_nominee();
                let stuck =
                    row.live_nominee().filter(stands).filter(|_| self.mutation != Some(Mutation::WaitsForNominee));
                self.visited(&second, &second, stuck.map_or(0, |nominee| nominee.node.bit()))
            }
            (Run::Begin(why, gave_up_on), _) => decided(Seen {
                why,
                row,
                heartbeats: None,
                instances: None,
                asked_enough: false,
                row_moves: None,
                gave_up_on,
            }),
            (Run::Decided(seen), Step::Look(found)) => self.look(state, seen, found),
            (Run::Decided(seen), Step::Write { answered }) => match self.verdict(&seen) {
                Verdict::Intend(to, rule) => self.ask(state, seen, Request { id: seen.row.rev, to, rule }, answered),
                _ => self.write(state, seen, answered),
            },
            (Run::FindRequest(seen, request), _) => match row.request == Some(request) {
                true => Some(Run::Asked(request)),
                false => decided(Seen { row, row_moves: None, ..seen }),
            },
            (Run::Asked(request), Step::TimeOut) => Some(Run::TakeBack(row, request.id)),
            (Run::Asked(_), _) => None,
            (Run::TakeBack(seen, id), _) => self.take_back(state, seen, id),
            (Run::Decided(seen), Step::End) => match self.verdict(&seen) {
                Verdict::Stop => Some(Run::BeforeStop(seen)),
                _ => None,
            },
            (Run::Reread(seen), _) => decided(Seen { row, ..seen }),
            (Run::Find(seen, nomination), _) => {
                // What follows is waited for from the row as it was written.
                let written = self.row.after(&seen.row, Wish::Nominate(nomination), seen.row.epoch);
                match written.filter(|_| row.live_nominee() == Some(nomination)) {
                    Some(written) => Some(Run::Wait(waiting(seen, written))),
                    None => decided(Seen { row, row_moves: None, ..seen }),
                }
            }
            (Run::Wait(seen), Step::TimeOut) => {
                let nominee = seen.row.live_nominee().map_or(0, |nominee| nominee.node.bit());
                decided(Seen { row, gave_up_on: seen.gave_up_on | nominee, ..seen })
            }
            (Run::Wait(_), _) => None,
            (Run::BeforeStop(seen), _) => match term(&row) == term(&seen.row) {
                true => Some(Run::Stop(seen)),
                false => decided(Seen { row, row_moves: None, heartbeats: None, instances: None, ..seen }),
            },
            (Run::Stop(seen), _) => {
                if let Some(holder) = seen.row.holder {
                    state.stop(holder.node);
                }
                Some(Run::AfterStop(Seen { instances: None, ..seen }))
            }
            (Run::AfterStop(seen), _) => {
                let row_moves = if term(&row) == term(&seen.row) { seen.row_moves } else { None };
                decided(Seen { row, row_moves, ..seen })
            }
            (Run::Decided(_), _) => unreachable!("a decision is followed by what it asks for"),
        };
    }

    fn look(&self, state: &State, mut seen: Seen, found: Found) -> Option<Run> {
        let Verdict::LookAgain(wanted) = self.verdict(&seen) else { unreachable!("only who needs to looks") };
        let launch = |place: usize| state.nodes[place].launch;
        let read =
            |place: usize, advanced| Beats { hears: found.hears >> place & 1 != 0, advanced, launch: launch(place) };
        if wanted.heartbeats {
            seen.heartbeats = Some([0, 1, 2].map(|place| read(place, None)));
        }
        let mut heartbeats = seen.heartbeats.unwrap_or([0, 1, 2].map(|place| read(place, None)));
        for (place, beats) in heartbeats.iter_mut().enumerate() {
            if wanted.movement >> place & 1 != 0 {
                let advanced = found.advanced >> place & 1 != 0;
                *beats = if advanced { read(place, Some(true)) } else { Beats { advanced: Some(false), ..*beats } };
                seen.heartbeats = None;
            }
        }
        seen.heartbeats = seen.heartbeats.or((wanted.heartbeats || wanted.movement != 0).then_some(heartbeats));
        if wanted.instances {
            let described = |place: usize| {
                let node = &state.nodes[place];
                let late = found.late >> place & 1 != 0;
                node.instance_was.filter(|_| late).unwrap_or(Instance { running: node.running, launch: node.launch })
            };
            seen.instances = Some([0, 1, 2].map(described));
            seen.asked_enough |= found.enough;
        }
        if wanted.row {
            seen.row_moves = Some(found.row_moves);
        }
        Some(if wanted.slow { Run::Reread(seen) } else { Run::Decided(seen) })
    }

    fn write(&self, state: &mut State, seen: Seen, answered: bool) -> Option<Run> {
        let Verdict::Nominate(nomination) = self.verdict(&seen) else { unreachable!("only a decision is written") };
        state.broken = state.broken.or(self.broken_by(&seen, nomination));
        if self.mutation == Some(Mutation::TakesForNominee) {
            // It takes the silence for the lease's end, and the lease for the node.
            let nominated = self.row.after(&seen.row, Wish::Nominate(nomination), seen.row.epoch)?;
            let taken = self.row.after(&nominated, Wish::Accept(state.boot(nomination.node)), nominated.epoch)?;
            self.put(state, seen.row, Lease { rev: seen.row.rev + 1, ..taken });
            return None;
        }
        if self.mutation == Some(Mutation::AddsEpoch) {
            // ADD 1, on whatever row there is.
            let (row, me) = (state.row, state.boot(nomination.node));
            let mut taken = Lease { rev: row.rev + 1, epoch: row.epoch + 1, beat: 0, holder: Some(me), ..row };
            (taken.in_sync, taken.activated, taken.nominee) = (nomination.node.bit(), false, None);
            self.put(state, seen.row, taken);
            return None;
        }
        // The row's own guards refuse: the run looks again.
        let Some(next) = self.row.after(&seen.row, Wish::Nominate(nomination), seen.row.epoch) else {
            return Some(Run::Reread(seen));
        };
        if !answered {
            state.afloat = Some((seen.row, next));
            return Some(Run::Find(seen, nomination));
        }
        if self.put(state, seen.row, next) {
            Some(Run::Wait(waiting(seen, next)))
        } else {
            Some(Run::Decided(Seen { row: state.row, row_moves: None, ..seen }))
        }
    }

    /// A request to move is written.
    fn ask(&self, state: &mut State, seen: Seen, request: Request, answered: bool) -> Option<Run> {
        let Some(next) = self.row.after(&seen.row, Wish::Intend(request), seen.row.epoch) else {
            return Some(Run::Reread(seen));
        };
        if !answered {
            state.afloat = Some((seen.row, next));
            return Some(Run::FindRequest(seen, request));
        }
        Some(match self.put(state, seen.row, next) {
            true => Run::Asked(request),
            false => Run::Decided(Seen { row: state.row, row_moves: None, ..seen }),
        })
    }

    /// As `lambdas::watch` and `lambdas::failover` take a request back: the one that they saw, and where the row has moved,
    /// on the row that was found.
    fn take_back(&self, state: &mut State, seen: Lease, id: u8) -> Option<Run> {
        let next = self.row.after(&seen, Wish::ClearIntent(id), seen.epoch)?;
        if !self.put(state, seen, next) {
            return Some(Run::TakeBack(state.row, id));
        }
        None
    }

    /// Where a visit goes on, or its end.
    fn visited(&self, first: &Lease, row: &Lease, gave_up_on: u8) -> Option<Run> {
        match row.holder {
            None => Some(Run::Begin(Why::Look, gave_up_on)),
            Some(_) if first.place() == row.place() => {
                Some(Run::Begin(Why::StoodStill { place: row.place() }, gave_up_on))
            }
            // The holder lives. A request that nobody takes is taken back, some minutes later.
            Some(_) if self.mutation == Some(Mutation::KeepsRequests) => None,
            Some(_) => row.open_request().map(|request| Run::TakeBack(*row, request.id)),
        }
    }

    /// What nominating on this observation breaks.
    fn broken_by(&self, seen: &Seen, nomination: Nomination) -> Option<Broken> {
        let hears = match seen.why {
            Why::Suspected { node, hears, .. } if node == nomination.node => hears,
            _ => seen.heartbeats.is_some_and(|all| all[nomination.node.place()].hears),
        };
        if nomination.rule == Rule::R210 && hears {
            return Some(Broken::Heard);
        }
        (seen.row.paused && nomination.rule != Rule::R410).then_some(Broken::Paused)
    }
}

/// Waiting for what was written. Heartbeats are read anew if it comes to nothing.
fn waiting(seen: Seen, written: Lease) -> Seen {
    Seen { row: written, heartbeats: None, ..seen }
}

fn term(row: &Lease) -> (u8, u8, Option<crate::a3::lease::Boot>) {
    (row.epoch, row.beat, row.holder)
}
