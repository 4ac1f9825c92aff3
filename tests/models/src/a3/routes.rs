//! Runs and routes: who may change which route when, and where the routes lead in the end.

mod executor;
mod network;

use super::lease::{Boot, Lease, Node, Nomination, RowRules, Wish};
use crate::runner::Told;
use executor::{Afloat, Due, Kind, Next, Run, Step};
use lease::rules::Rule;
use network::{Hop, LISTED, Late, Network, Planner, TABLES};
use stateright::{Model, Property};
use std::fmt;

/// Runs at a time. A third would do what one of the two could do later.
const RUNS: usize = 2;

/// How much may happen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) nodes: u8,
    pub(super) epochs: u8,
    /// Changes to the network by somebody else.
    pub(super) meddling: u8,
    /// Whether calls may stay without an answer; one at a time is on its way then.
    pub(super) unanswered: bool,
    /// The row goes from nomination to activation step by step, not at once.
    pub(super) step_by_step: bool,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, epochs, meddling, unanswered, step_by_step } = self;
        write!(f, "routes, {nodes} nodes, {TABLES} tables, {RUNS} runs at a time, epoch <= {epochs}")?;
        write!(f, ", {meddling} changes by others")?;
        f.write_str(if *unanswered { ", unanswered calls" } else { "" })?;
        f.write_str(if *step_by_step { ", nomination to activation step by step" } else { "" })
    }
}

/// A rule left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutation {
    /// No row is read between planning and calling.
    NoReadBeforeCalls,
    /// It reads, sees that the epoch has moved, and finishes what it began.
    FinishesOldPlan,
    /// Nobody looks at the network but who was woken by an event.
    NoWatch,
    /// Routes that lead to an older holder are deleted after the own ones are made.
    CleansUp,
    /// Routes lead to the nominee as soon as it is nominated.
    RoutesToNominee,
    /// Once a description matches, `watch` looks no more until the epoch moves.
    TrustsAMatch,
    /// Every table that was described gets the route.
    EveryTable,
}

/// The model.
pub(super) struct Routes {
    bounds: Bounds,
    mutation: Option<Mutation>,
    row: RowRules,
    planner: Planner,
}

/// What must never happen, told by the step that did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Broken {
    OldPlan,
    NotReadBefore,
    NotToHolder,
    Stray,
    Row,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    row: Lease,
    network: Network,
    runs: [Option<Run>; RUNS],
    afloat: Option<Afloat>,
    /// Changes by somebody else that may still come.
    meddling: u8,
    /// The epoch for which a description matched: for a mutant only.
    matched: u8,
    broken: Option<Broken>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts().join(" | "))
    }
}

impl State {
    /// What there is to see, part by part.
    fn parts(&self) -> Vec<String> {
        let mut parts = vec![format!("row: {:?}", self.row), format!("{:?}", self.network)];
        let runs = self.runs.iter().enumerate().filter_map(|(slot, run)| run.map(|run| (slot, run)));
        parts.extend(runs.map(|(slot, run)| format!("run {}: {run:?}", slot + 1)));
        parts.extend(self.afloat.map(|afloat| format!("on its way: rtb-{} to {:?}", afloat.table, afloat.to)));
        parts.extend(self.broken.map(|broken| format!("broken: {broken:?}")));
        parts
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The row changes: a node's write, or a function's.
    Row(Wish),
    /// A run begins: an event, a repeated one, a late one, or the minute of `watch`.
    Begin(Kind),
    Step(usize, Step),
    /// The function ends at this very moment.
    Kill(usize),
    /// An unanswered call is applied.
    Land,
    /// An unanswered call never is.
    Vanish,
    /// Descriptions show the network as it is.
    Settle,
    /// Somebody else changes a route, or switches a check on.
    Meddle(usize, Hop),
    Check(Node),
}

impl Routes {
    pub(super) fn new(bounds: Bounds, mutation: Option<Mutation>) -> Self {
        let planner = Planner::new(mutation == Some(Mutation::EveryTable));
        Self { bounds, mutation, row: RowRules::new(), planner }
    }

    /// What may happen to the row. Who may want it, and when, is in the other models; here anything legal may come at any time.
    fn wishes(&self, row: &Lease) -> Vec<Wish> {
        let mut wishes = Vec::new();
        let boot = |node| Boot { node, launch: 0 };
        let nominate = |node, rule| {
            Wish::Nominate(Nomination { node, epoch: row.epoch, beat: row.beat, rule, proof: None, lossy: false })
        };
        match (row.live_nominee(), row.holder) {
            (Some(nominee), _) => wishes.push(Wish::Accept(boot(nominee.node))),
            (None, Some(holder)) => {
                wishes.extend(Node::all(self.bounds.nodes).map(|node| nominate(node, Rule::R210)));
                wishes.extend(Node::all(self.bounds.nodes).map(|node| Wish::HandOver(holder, boot(node))));
                wishes.extend([Wish::Restart(holder), Wish::Release(holder)]);
            }
            (None, None) => wishes.extend(Node::all(self.bounds.nodes).map(|node| nominate(node, Rule::R250))),
        }
        wishes.extend(row.holder.map(Wish::Activate));
        wishes
    }

    fn after_wish(&self, row: &Lease, wish: Wish) -> Option<Lease> {
        let mut next = self.row.after(row, wish, row.epoch)?;
        if !self.bounds.step_by_step {
            if let Some(nominee) = next.live_nominee() {
                next = self.row.after(&next, Wish::Accept(Boot { node: nominee.node, launch: 0 }), next.epoch)?;
            }
            if let Some(holder) = next.holder.filter(|_| !next.activated) {
                next = self.row.after(&next, Wish::Activate(holder), next.epoch)?;
            }
        }
        // Who is in sync is no matter of routes: everybody always is.
        next.in_sync = row.in_sync;
        // No run reads `rev` or `beat`; a nomination stays bound to the beat.
        let nominee = next.live_nominee().map(|nominee| Nomination { beat: 0, ..nominee });
        Some(Lease { rev: 0, beat: 0, nominee, ..next })
    }

    fn apply(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Row(wish) => {
                next.row = self.after_wish(&state.row, wish)?;
                let rises = next.row.epoch == state.row.epoch + 1;
                let stays = next.row.epoch == state.row.epoch
                    && (next.row.holder == state.row.holder || next.row.holder.is_none());
                if !rises && !stays {
                    next.broken = Some(Broken::Row);
                }
            }
            Action::Begin(kind) => {
                let slot = state.runs.iter().position(Option::is_none)?;
                if kind == Kind::Look && self.looks_away(state) {
                    return None;
                }
                next.runs[slot] = Some(Run::begin(kind));
            }
            Action::Step(slot, step) => {
                let run = state.runs[slot]?;
                self.step(&mut next, slot, step);
                // Before the runs are sorted.
                let matched = matches!(run.next, Next::Describe { .. }) && next.runs[slot].is_none();
                if matched && self.mutation == Some(Mutation::TrustsAMatch) {
                    next.matched = run.seen;
                }
            }
            Action::Kill(slot) => next.runs[slot] = None,
            Action::Land => next.afloat.take()?.land(&mut next.network),
            Action::Vanish => next.afloat = None,
            Action::Settle => next.network.settle(),
            Action::Meddle(table, hop) => {
                next.network.put(table, hop);
                next.meddling -= 1;
            }
            Action::Check(node) => {
                next.network.put_checked(state.network.now.checked | node.bit());
                next.meddling -= 1;
            }
        }
        // Which run is which does not matter: two states that differ in it alone are one.
        next.runs.sort_unstable_by_key(|run| (run.is_none(), *run));
        (next != *state).then_some(next)
    }

    fn looks_away(&self, state: &State) -> bool {
        match self.mutation {
            Some(Mutation::NoWatch) => true,
            Some(Mutation::TrustsAMatch) => state.matched == state.row.epoch,
            _ => false,
        }
    }

    /// One visit of `watch` in a world where nothing goes wrong.
    fn visited(&self, state: &State) -> State {
        let mut state = *state;
        if self.looks_away(&state) {
            return state;
        }
        state.network.settle();
        state.runs[0] = Some(Run::begin(Kind::Look));
        while let Some(run) = state.runs[0] {
            let mut steps = Vec::new();
            self.steps(&state, &run, &mut steps);
            let smooth = |step: &Step| match step {
                Step::Describe(late) => *late == Late::NOTHING,
                Step::Call(_, fate) => *fate == executor::Fate::Answered,
                Step::ReadRow | Step::Forward(_) | Step::Delete(_) => true,
            };
            let step = steps.into_iter().find(smooth).expect("a run that goes on can go on");
            self.step(&mut state, 0, step);
            state.network.settle();
        }
        state
    }

    /// I8. Nothing is late or under way: then one visit leads every route to the holder, and another changes nothing.
    fn leads_to_holder(&self, state: &State) -> bool {
        // With routes at the nominee this would fall at once and show nothing of runs.
        if self.mutation == Some(Mutation::RoutesToNominee) {
            return true;
        }
        let quiet = state.runs == [None; RUNS] && state.afloat.is_none();
        let Some(holder) = state.row.holder.filter(|_| quiet && state.broken.is_none()) else { return true };
        let visited = self.visited(state);
        visited.network.leads_to(holder.node) && self.visited(&visited).network.now == visited.network.now
    }

    /// Whether some step from `state` is of this kind.
    fn can(&self, state: &State, kind: impl Fn(&Action, &State) -> bool) -> bool {
        let mut actions = Vec::new();
        self.actions(state, &mut actions);
        actions.into_iter().any(|action| self.apply(state, action).is_some_and(|next| kind(&action, &next)))
    }
}

/// A route that led to the row's holder leads elsewhere after `next`.
fn led_away(state: &State, next: &State) -> bool {
    let Some(holder) = state.row.holder else { return false };
    let hop = Hop::Node(holder.node);
    (0..TABLES).any(|table| state.network.now.hops[table] == hop && next.network.now.hops[table] != hop)
}

fn corrected(state: &State, next: &State) -> bool {
    led_away(next, state)
}

fn kind_of(state: &State, action: &Action) -> Option<Kind> {
    match action {
        Action::Step(slot, _) => state.runs[*slot].map(|run| run.kind),
        _ => None,
    }
}

impl Model for Routes {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            row: Lease { rev: 0, ..Lease::first(self.bounds.nodes) },
            network: Network::leading_to(Node(0), self.bounds.nodes),
            runs: [None; RUNS],
            afloat: None,
            meddling: self.bounds.meddling,
            matched: 0,
            broken: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        let bounded = |wish: &Wish| {
            let opens = matches!(wish, Wish::HandOver(..) | Wish::Restart(_) | Wish::Release(_) | Wish::Nominate(_));
            !opens || state.row.epoch < self.bounds.epochs
        };
        actions.extend(self.wishes(&state.row).into_iter().filter(bounded).map(Action::Row));
        if state.runs.iter().any(Option::is_none) {
            actions.extend([Action::Begin(Kind::Failover), Action::Begin(Kind::Look)]);
        }
        for (slot, run) in state.runs.iter().enumerate() {
            if let Some(run) = run {
                let mut steps = Vec::new();
                self.steps(state, run, &mut steps);
                actions.extend(steps.into_iter().map(|step| Action::Step(slot, step)));
                actions.push(Action::Kill(slot));
            }
        }
        if state.afloat.is_some() {
            actions.extend([Action::Land, Action::Vanish]);
        }
        if state.network.before != state.network.now {
            actions.push(Action::Settle);
        }
        if state.meddling > 0 {
            // What can happen to one table can happen to the other, but that only a listed one is made again.
            actions.push(Action::Meddle(0, Hop::Foreign));
            actions.extend(Node::all(self.bounds.nodes).map(|node| Action::Meddle(0, Hop::Node(node))));
            actions.push(Action::Meddle(LISTED, Hop::Missing));
            actions.extend(Node::all(self.bounds.nodes).map(Action::Check));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.apply(state, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties: Vec<Property<Self>> = vec![
            Property::always("I1: epochs rise by one, one holder each", |_, state: &State| {
                state.broken != Some(Broken::Row)
            }),
            Property::always("no route is changed by a run that has seen a newer epoch", |_, state: &State| {
                state.broken != Some(Broken::OldPlan)
            }),
            Property::always("no call is made without the row read right before", |_, state: &State| {
                state.broken != Some(Broken::NotReadBefore)
            }),
            Property::always("within an epoch routes move to its holder only", |_, state: &State| {
                state.broken != Some(Broken::NotToHolder)
            }),
            Property::always("only the virtual IP's routes are touched", |_, state: &State| {
                state.broken != Some(Broken::Stray)
            }),
            Property::always(
                "I8: once nothing is late, watch leads every route to the holder, for good",
                |model, state: &State| model.leads_to_holder(state),
            ),
            Property::sometimes("a late run moves a route away from the holder", |model, state: &State| {
                model.can(state, |action, next| matches!(action, Action::Step(..)) && led_away(state, next))
            }),
            Property::sometimes("watch puts a route right", |model, state: &State| {
                state.row.activated
                    && model
                        .can(state, |action, next| kind_of(state, action) == Some(Kind::Look) && corrected(state, next))
            }),
            Property::sometimes("a run finishes what another left half done", |model, state: &State| {
                let holder = state.row.holder.map(|holder| Hop::Node(holder.node));
                let half = Some(state.network.now.hops[0]) == holder && state.runs[1].is_none();
                let fresh = state.runs[0].is_some_and(|run| run.is_calling(0).is_some());
                half && fresh
                    && state.meddling == model.bounds.meddling
                    && state.row.activated
                    && model.can(state, |action, next| matches!(action, Action::Step(0, _)) && corrected(state, next))
            }),
            Property::sometimes("a late description hides that a route leads away", |model, state: &State| {
                model.can(state, |action, next| match action {
                    Action::Step(slot, Step::Describe(late)) if *late != Late::NOTHING => {
                        let holder = state.row.holder.map(|holder| holder.node);
                        holder.is_some_and(|holder| !state.network.leads_to(holder))
                            && next.runs.iter().flatten().count() < state.runs.iter().flatten().count()
                            && kind_of(state, action) == Some(Kind::Look)
                    }
                    _ => false,
                })
            }),
            Property::sometimes("a repeated event leads to no call", |model, state: &State| {
                model.can(state, |action, next| match action {
                    Action::Step(slot, Step::ReadRow) => state.runs[*slot].is_some_and(|run| {
                        matches!(run.next, Next::Row(Some(_)))
                            && next.runs.iter().flatten().count() < state.runs.iter().flatten().count()
                    }),
                    _ => false,
                })
            }),
            Property::sometimes("a run sees the epoch move and begins anew", |model, state: &State| {
                model.can(state, |action, next| match action {
                    Action::Step(slot, Step::ReadRow) => state.runs[*slot].is_some_and(|run| {
                        matches!(run.next, Next::Check(_))
                            && next.runs.iter().flatten().any(|next| next.next == Next::Row(None))
                    }),
                    _ => false,
                })
            }),
        ];
        if self.bounds.unanswered {
            let name = "a late call, long unanswered, moves a route away from the holder";
            properties.push(Property::sometimes(name, |model, state: &State| {
                model.can(state, |action, next| *action == Action::Land && led_away(state, next))
            }));
        }
        if self.bounds.step_by_step {
            let name = "routes lead to a holder that is not active yet";
            properties.push(Property::sometimes(name, |_, state: &State| {
                state.row.holder.is_some_and(|holder| !state.row.activated && state.network.leads_to(holder.node))
            }));
        }
        if self.bounds.meddling > 0 {
            let name = "a route was described and is gone: it is made";
            properties.push(Property::sometimes(name, |_, state: &State| {
                let second = |run: &Run| run.is_calling(LISTED).is_some_and(|(_, due)| matches!(due, Due::Second(_)));
                state.runs.iter().flatten().any(second)
            }));
        }
        properties
    }
}

impl Told for Routes {
    fn tell(&self, before: &State, action: &Action, after: &State) -> String {
        let name = |slot: usize| match before.runs[slot].or(after.runs[slot]) {
            Some(run) => format!("run {} ({:?})", slot + 1, run.kind),
            None => format!("run {}", slot + 1),
        };
        let what = match action {
            Action::Row(wish) => format!("row: {wish:?}"),
            Action::Begin(kind) => format!("a run of {kind:?} begins"),
            Action::Step(slot, step) => {
                let step = match step {
                    Step::Describe(late) => format!("is shown the network {late:?}"),
                    Step::ReadRow => format!("reads the row: {:?}", before.row),
                    Step::Forward(true) => "switches the check off".into(),
                    Step::Forward(false) => "is refused to switch the check off".into(),
                    Step::Call(table, fate) => format!("calls for rtb-{table}: {fate:?}"),
                    Step::Delete(table) => format!("deletes the route of rtb-{table}"),
                };
                format!("{} {step}", name(*slot))
            }
            Action::Kill(slot) => format!("{} is killed", name(*slot)),
            Action::Land => "the unanswered call is applied".into(),
            Action::Vanish => "the unanswered call is lost".into(),
            Action::Settle => "descriptions show everything as it is".into(),
            Action::Meddle(table, hop) => format!("somebody else: rtb-{table} → {hop:?}"),
            Action::Check(node) => format!("somebody else: check of {node:?} on"),
        };
        what + &super::changed(&before.parts(), &after.parts())
    }
}
