//! Nodes, the row and the runs that decide: who is nominated on what grounds, and what becomes of it.

mod checks;
mod observation;
mod run;

use super::lease::{Boot, Launch, Lease, Memo, Node, Nomination, RowRules, Wish};
use crate::runner::Told;
use lease::accept::Vigil;
use lease::ids::{Beat, Epoch};
use lease::policy::Policy;
use lease::time::{Millis, Moment};
use observation::{Decider, Instance, Verdict, Why};
use run::{Run, Step};
use stateright::{Model, Property};
use std::fmt;

const RUNS: usize = 2;
/// The launch of a node that this cluster does not have.
const ABSENT: Launch = 9;

/// How much may happen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) nodes: u8,
    pub(super) revs: u8,
    pub(super) runs: usize,
    /// Processes and instances that end.
    pub(super) deaths: u8,
    pub(super) wakes: Wakes,
}

/// What wakes the functions, besides the minute of `watch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wakes {
    /// Every event, also late and repeated.
    Events,
    /// Suspicions only.
    Suspicions,
    /// An operator: forced failovers, pauses.
    ByHand,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, revs, runs, deaths, wakes } = self;
        write!(f, "decisions, {nodes} nodes, {runs} runs at a time, rev <= {revs}, {deaths} deaths")?;
        f.write_str(match wakes {
            Wakes::Events => ", all events",
            Wakes::Suspicions => ", suspicions",
            Wakes::ByHand => ", by hand",
        })
    }
}

/// A rule left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutation {
    /// A function raises the epoch by adding one, on whatever row there is.
    AddsEpoch,
    /// Reads of the row may be old, and the write asks for the epoch only.
    ReadsOldRow,
    /// A function takes the lease for the node when the row has stood still for long enough by its own clock.
    TakesForNominee,
    /// An operator's word is proof of death.
    OrderIsProof,
    /// EC2's event is proof of death, without its description.
    TrustsTheEvent,
    /// Nobody asks whether the holder is heard.
    DeafToHearing,
    /// A nomination holds for the whole epoch.
    OutlivesRenewal,
    /// `watch` passes over nobody: a nomination that stands will be accepted some day.
    WaitsForNominee,
    /// `watch` takes no request back.
    KeepsRequests,
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Process {
    Down,
    Standby,
    /// It has taken this epoch and is not active yet.
    Holder(u8),
    /// Its gate is open.
    Active(u8),
    /// Its gate has closed by itself; a renewal opens it again.
    Frozen(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct NodeState {
    process: Process,
    running: bool,
    launch: Launch,
    /// What EC2 may still describe instead.
    instance_was: Option<Instance>,
}

/// What must never happen, told by the step that did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Broken {
    Row,
    OtherRow,
    Heard,
    Paused,
    VoidNomination,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    row: Lease,
    nodes: [NodeState; 3],
    runs: [Option<Run>; RUNS],
    /// An unanswered write: the row it was made on, and the row it makes.
    afloat: Option<(Lease, Lease)>,
    deaths: u8,
    /// What a read may show that is not consistent: for a mutant only.
    before: Option<Lease>,
    broken: Option<Broken>,
}

impl State {
    fn boot(&self, node: Node) -> Boot {
        Boot { node, launch: self.nodes[node.place()].launch }
    }
    /// The instance ends, and what runs on it.
    fn stop(&mut self, node: Node) {
        let state = &mut self.nodes[node.place()];
        if state.running {
            state.instance_was = Some(Instance { running: true, launch: state.launch });
            (state.running, state.process) = (false, Process::Down);
        }
    }
    fn serving(&self) -> usize {
        self.nodes.iter().filter(|node| matches!(node.process, Process::Active(_))).count()
    }
    /// The holder is alive and knows that it is.
    fn is_held(&self) -> bool {
        let knows = |holder: &Boot| match self.nodes[holder.node.place()].process {
            Process::Holder(epoch) | Process::Active(epoch) | Process::Frozen(epoch) => epoch == self.row.epoch,
            Process::Down | Process::Standby => false,
        };
        self.row.holder.as_ref().is_some_and(knows)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts().join(" | "))
    }
}

impl State {
    /// What there is to see, part by part.
    fn parts(&self) -> Vec<String> {
        let mut parts = vec![format!("row: rev {} {:?}", self.row.rev, self.row)];
        for node in Node::all(3).filter(|node| self.nodes[node.place()].launch != ABSENT) {
            let state = &self.nodes[node.place()];
            let instance = if state.running { "" } else { " (instance stopped)" };
            parts.push(format!("{:?} is {:?}{instance}", self.boot(node), state.process));
        }
        parts.extend(self.afloat.map(|(_, next)| format!("on its way: {next:?}")));
        parts.extend(self.broken.map(|broken| format!("broken: {broken:?}")));
        parts
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The holder renews; who finds another holder stands by.
    Renew(Node),
    /// The gate closes: lease and promises are over.
    Freeze(Node),
    Activate(Node),
    TakeIn(Node, Node),
    HandOver(Node, Node),
    /// The holder clears the request: its target is not there.
    GiveUp(Node),
    Release(Node),
    Accept(Node),
    /// A node learns from the row that it holds the lease.
    Learn(Node),
    Crash(Node),
    StopInstance(Node),
    StartInstance(Node),
    Begin(Node),
    Describe(Node),
    Pause,
    Resume,
    Run(Run),
    Step(usize, Step),
    Kill(usize),
    Land,
    Vanish,
}

/// The model.
pub(super) struct Decisions {
    bounds: Bounds,
    mutation: Option<Mutation>,
    row: RowRules,
    decider: Decider,
    /// May this node accept on this row, where its waits are over, or are not?
    vigils: Memo<(Lease, Boot, bool), bool>,
}

impl Decisions {
    pub(super) fn new(bounds: Bounds, mutation: Option<Mutation>) -> Self {
        Self { bounds, mutation, row: RowRules::new(), decider: Decider::new(bounds.nodes), vigils: Memo::new() }
    }

    fn nodes(&self) -> impl Iterator<Item = Node> + use<> {
        Node::all(self.bounds.nodes)
    }

    /// The write is applied if the row is the one that it was made on.
    fn put(&self, state: &mut State, made_on: Lease, next: Lease) -> bool {
        let applies = match self.mutation {
            Some(Mutation::ReadsOldRow) => state.row.epoch == made_on.epoch,
            Some(Mutation::AddsEpoch) => true,
            _ => state.row.rev == made_on.rev,
        };
        if applies {
            let rises = next.rev == state.row.rev + 1 && next.epoch >= state.row.epoch;
            let one_holder = next.epoch > state.row.epoch || next.holder.is_none() || next.holder == state.row.holder;
            if !rises || !one_holder {
                state.broken = state.broken.or(Some(Broken::Row));
            }
            if state.row != made_on {
                state.broken = state.broken.or(Some(Broken::OtherRow));
            }
            if self.mutation == Some(Mutation::ReadsOldRow) {
                state.before = Some(state.row);
            }
            state.row = next;
        }
        applies
    }

    /// A node's or an operator's write, on the row as it is.
    fn wish(&self, state: &mut State, wish: Wish, epoch: u8) -> Option<()> {
        let mut next = self.row.after(&state.row, wish, epoch)?;
        if self.mutation == Some(Mutation::OutlivesRenewal) && matches!(wish, Wish::Renew(_)) {
            next.nominee = state.row.nominee;
        }
        self.put(state, state.row, next).then_some(())
    }

    /// [`Vigil::may_accept`]. That the waits are over only once the holder's gate is closed is A2's to show, for every
    /// pair of clocks; here it is taken for granted.
    fn may_accept(&self, state: &State, node: Node) -> bool {
        let closed = match state.row.holder {
            Some(holder) => state.nodes[holder.node.place()].process != Process::Active(state.row.epoch),
            None => true,
        };
        let me = state.boot(node);
        self.vigils.get((state.row, me, closed), || {
            let at = |ms: u64| Moment { boottime_us: ms * 1_000, monotonic_raw_us: ms * 1_000 };
            let mut vigil = Vigil::started(at(0));
            let sighted = if closed { at(1_000) } else { at(100_000) };
            vigil.saw(Epoch(state.row.epoch.into()), Beat(state.row.beat.into()), sighted);
            if !closed {
                vigil.promised(sighted, Policy::default().promise_ms);
            }
            vigil
                .may_accept(&state.row.row(), &me.holder(), true, &Policy::default(), at(100_000 + Millis(1).0))
                .is_ok()
        })
    }

    fn accept(&self, state: &mut State, node: Node) -> Option<()> {
        let mut row = state.row;
        let void = row.live_nominee().is_none();
        if void && self.mutation == Some(Mutation::OutlivesRenewal) {
            // Its wait is over for the beat that it was nominated at.
            let nominee = row.nominee.filter(|nominee| nominee.epoch == row.epoch)?;
            row.nominee = Some(Nomination { beat: row.beat, ..nominee });
        } else if !self.may_accept(state, node) {
            return None;
        }
        let next = self.row.after(&row, Wish::Accept(state.boot(node)), row.epoch)?;
        self.put(state, state.row, next).then_some(())?;
        state.nodes[node.place()].process = Process::Holder(next.epoch);
        if void {
            state.broken = state.broken.or(Some(Broken::VoidNomination));
        }
        Some(())
    }

    /// A node whose process begins: a holder takes a new epoch, everybody else stands by.
    fn begin(&self, state: &mut State, node: Node) -> Option<()> {
        let me = state.boot(node);
        let holds = state.row.holder.is_some_and(|holder| holder.node == node);
        state.nodes[node.place()].process = Process::Standby;
        if holds {
            self.wish(state, Wish::Restart(me), state.row.epoch)?;
            state.nodes[node.place()].process = Process::Holder(state.row.epoch);
        }
        Some(())
    }

    fn node_actions(&self, state: &State, node: Node, actions: &mut Vec<Action>) {
        let is = &state.nodes[node.place()];
        let others = || self.nodes().filter(move |other| *other != node);
        match is.process {
            Process::Down if is.running => actions.push(Action::Begin(node)),
            Process::Down if is.launch == 0 => actions.push(Action::StartInstance(node)),
            Process::Down => {}
            Process::Standby => {
                let mine = state.row.holder == Some(state.boot(node));
                actions.push(if mine { Action::Learn(node) } else { Action::Accept(node) });
            }
            Process::Holder(_) => actions.extend([Action::Activate(node), Action::Renew(node)]),
            Process::Frozen(_) => actions.push(Action::Renew(node)),
            Process::Active(_) => {
                actions.extend([Action::Renew(node), Action::Freeze(node), Action::Release(node)]);
                actions.extend(others().map(|other| Action::TakeIn(node, other)));
                actions.extend(others().map(|other| Action::HandOver(node, other)));
                actions.extend(state.row.request.map(|_| Action::GiveUp(node)));
            }
        }
        if state.deaths > 0 && is.process != Process::Down {
            actions.push(Action::Crash(node));
        }
        if state.deaths > 0 && is.running && is.launch == 0 {
            actions.push(Action::StopInstance(node));
        }
        if is.instance_was.is_some() {
            actions.push(Action::Describe(node));
        }
    }

    /// Every event that may come now: each that could ever have been sent, also late and repeated.
    fn hints(&self, state: &State) -> Vec<Why> {
        let (epoch, beat) = state.row.place();
        if self.bounds.wakes == Wakes::ByHand {
            let relief = state.row.holder.map(|holder| Why::Relief { node: holder.node, epoch });
            return [Why::Force { stop: false }, Why::Force { stop: true }, Why::Move]
                .into_iter()
                .chain(relief)
                .collect();
        }
        let older = if beat > 0 { (epoch, beat - 1) } else { (epoch.saturating_sub(1), 9) };
        let mut hints = Vec::new();
        for node in self.nodes().filter(|node| state.row.holder.is_some_and(|holder| holder.node != *node)) {
            for (hears, long) in [(false, false), (true, false), (false, true)] {
                hints.push(Why::Suspected { node, place: (epoch, beat), hears, long });
            }
            hints.push(Why::Suspected { node, place: older, hears: false, long: false });
        }
        if self.bounds.wakes == Wakes::Suspicions {
            return hints;
        }
        // It was stopped at some time.
        let stopped = |node: &Node| !state.nodes[node.place()].running || state.nodes[node.place()].launch > 0;
        hints.extend(self.nodes().filter(stopped).map(|node| Why::Stopped { node }));
        if state.row.holder.is_none() {
            hints.extend(self.nodes().map(|node| Why::Released { node, epoch }));
            hints.extend(self.nodes().map(|node| Why::Joined { node }));
        }
        hints
    }

    fn apply(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        let epoch_of = |node: Node| match state.nodes[node.place()].process {
            Process::Holder(epoch) | Process::Active(epoch) | Process::Frozen(epoch) => epoch,
            Process::Down | Process::Standby => 0,
        };
        let me = |node: Node| state.boot(node);
        match action {
            Action::Renew(node) => {
                let epoch = epoch_of(node);
                let opens = !matches!(state.nodes[node.place()].process, Process::Holder(_));
                let process = &mut next.nodes[node.place()].process;
                *process = if opens { Process::Active(epoch) } else { Process::Holder(epoch) };
                if self.wish(&mut next, Wish::Renew(me(node)), epoch).is_none() {
                    next.nodes[node.place()].process = Process::Standby;
                }
            }
            Action::Freeze(node) => next.nodes[node.place()].process = Process::Frozen(epoch_of(node)),
            Action::Activate(node) => {
                self.wish(&mut next, Wish::Activate(me(node)), epoch_of(node))?;
                next.nodes[node.place()].process = Process::Active(epoch_of(node));
            }
            Action::TakeIn(node, peer) => {
                if state.nodes[peer.place()].process == Process::Down {
                    return None;
                }
                self.wish(&mut next, Wish::Grow(me(node), peer), epoch_of(node))?;
            }
            Action::HandOver(node, peer) => {
                if state.nodes[peer.place()].process != Process::Standby {
                    return None;
                }
                self.wish(&mut next, Wish::HandOver(me(node), me(peer)), epoch_of(node))?;
                next.nodes[node.place()].process = Process::Standby;
            }
            Action::GiveUp(node) => {
                // It acts on what its last write showed it: the row as it is.
                let mine = state.row.holder == Some(me(node)) && state.row.epoch == epoch_of(node);
                let request = state.row.open_request().filter(|_| mine)?;
                self.wish(&mut next, Wish::ClearIntent(request.id), epoch_of(node))?;
            }
            Action::Release(node) => {
                self.wish(&mut next, Wish::Release(me(node)), epoch_of(node))?;
                next.nodes[node.place()].process = Process::Standby;
            }
            Action::Accept(node) => self.accept(&mut next, node)?,
            Action::Learn(node) => next.nodes[node.place()].process = Process::Holder(state.row.epoch),
            Action::Crash(node) => {
                next.nodes[node.place()].process = Process::Down;
                next.deaths -= 1;
            }
            Action::StopInstance(node) => {
                next.stop(node);
                next.deaths -= 1;
            }
            Action::StartInstance(node) => {
                let node = &mut next.nodes[node.place()];
                node.instance_was = Some(Instance { running: false, launch: node.launch });
                (node.running, node.launch) = (true, node.launch + 1);
            }
            Action::Begin(node) => self.begin(&mut next, node)?,
            Action::Describe(node) => next.nodes[node.place()].instance_was = None,
            Action::Pause => self.wish(&mut next, Wish::Pause, state.row.epoch)?,
            Action::Resume => self.wish(&mut next, Wish::Resume, state.row.epoch)?,
            Action::Run(run) => next.runs[state.runs.iter().position(Option::is_none)?] = Some(run),
            Action::Step(slot, step) => self.step(&mut next, slot, step),
            Action::Kill(slot) => next.runs[slot] = None,
            Action::Land => {
                let (made_on, row) = next.afloat.take()?;
                self.put(&mut next, made_on, row);
            }
            Action::Vanish => next.afloat = None,
        }
        if self.bounds.wakes == Wakes::Suspicions {
            // Nobody asks EC2.
            next.nodes.iter_mut().for_each(|node| node.instance_was = None);
        }
        // Which of two runs is which does not matter, if only one is left.
        if next.runs[0].is_none() {
            next.runs.swap(0, 1);
        }
        (next != *state && next.row.rev <= self.bounds.revs).then_some(next)
    }
}

impl Model for Decisions {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let standby = NodeState { process: Process::Standby, running: true, launch: 0, instance_was: None };
        let mut nodes = [standby; 3];
        nodes[0].process = Process::Active(1);
        for absent in nodes.iter_mut().skip(usize::from(self.bounds.nodes)) {
            (absent.process, absent.running, absent.launch) = (Process::Down, false, ABSENT);
        }
        vec![State {
            row: Lease::first(self.bounds.nodes),
            nodes,
            runs: [None; RUNS],
            afloat: None,
            deaths: self.bounds.deaths,
            before: None,
            broken: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        for node in self.nodes() {
            self.node_actions(state, node, actions);
        }
        if self.bounds.wakes == Wakes::ByHand {
            actions.push(if state.row.paused { Action::Resume } else { Action::Pause });
        }
        if state.runs.iter().flatten().count() < self.bounds.runs {
            actions.extend(self.hints(state).into_iter().map(|why| Action::Run(Run::of(why))));
            actions.push(Action::Run(Run::Visit));
        }
        for (slot, run) in state.runs.iter().enumerate() {
            if let Some(run) = run {
                actions.extend(self.steps(state, run, false).into_iter().map(|step| Action::Step(slot, step)));
                actions.push(Action::Kill(slot));
            }
        }
        if state.afloat.is_some() {
            actions.extend([Action::Land, Action::Vanish]);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.apply(state, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        checks::properties(self.bounds)
    }
}

impl Told for Decisions {
    fn tell(&self, before: &State, action: &Action, after: &State) -> String {
        let what = match action {
            Action::Run(run) => format!("run begins: {run:?}"),
            Action::Step(slot, step) => {
                let doing = match before.runs[*slot] {
                    Some(Run::Decided(seen)) => match self.verdict(&seen) {
                        Verdict::LookAgain(_) => "looks".to_owned(),
                        verdict => format!("{:?}: decides {verdict:?}", seen.why),
                    },
                    Some(run) => format!("{run:?}").split(['(', ' ']).next().unwrap_or_default().to_owned(),
                    None => String::new(),
                };
                format!("run {}: {doing}, {step:?}", slot + 1)
            }
            other => format!("{other:?}"),
        };
        what + &super::changed(&before.parts(), &after.parts())
    }
}
