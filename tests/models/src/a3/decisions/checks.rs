//! What must hold in every state of the decisions' model, and what must be seen to happen.

use super::observation::{Verdict, Why};
use super::run::Run;
use super::{Action, Broken, Decisions, Process, RUNS, State, Wakes};
use crate::a3::lease::Node;
use lease::rules::Rule;
use stateright::{Model, Property};

/// Invariants and reachability checks; what can be reached depends on what wakes the functions.
pub(super) fn properties(wakes: Wakes) -> Vec<Property<Decisions>> {
    let mut properties: Vec<Property<Decisions>> = vec![
        Property::always("I1: rev rises with each write, an epoch has one holder", |_, state: &State| {
            state.broken != Some(Broken::Row)
        }),
        Property::always("a write changes no row but the one it was made on", |_, state: &State| {
            state.broken != Some(Broken::OtherRow)
        }),
        Property::always("I6: at most one node serves", |_, state: &State| state.serving() <= 1),
        Property::always("R210 nominates nobody that hears the holder", |_, state: &State| {
            state.broken != Some(Broken::Heard)
        }),
        Property::always("while paused nothing is nominated but by hand", |_, state: &State| {
            let automatic = |rule| state.row.paused && rule != Rule::R410;
            let nominated = state.row.live_nominee().is_some_and(|nominee| automatic(nominee.rule));
            state.broken != Some(Broken::Paused) && !nominated
        }),
        Property::always("a nomination is void after a renewal", |_, state: &State| {
            state.broken != Some(Broken::VoidNomination)
        }),
        Property::always("proof of death is true", |_, state: &State| {
            let proven = state.row.live_nominee().is_some_and(|nominee| nominee.proof.is_some());
            let Some(holder) = state.row.holder.filter(|_| proven) else { return true };
            let node = &state.nodes[holder.node.place()];
            !node.running || node.launch != holder.launch
        }),
        Property::always("once nothing fails any more, watch finds a holder", |model: &Decisions, state: &State| {
            model.finds_a_holder(state)
        }),
        Property::sometimes("R210: nominated on suspicion", |_, state: &State| {
            state.row.live_nominee().is_some_and(|nominee| nominee.rule == Rule::R210)
        }),
        Property::sometimes("R220: the holder is heard", |model: &Decisions, state: &State| {
            model.decides(state, |_, verdict| verdict == Verdict::Nothing(Rule::R220))
        }),
        Property::sometimes(
            "a nomination lands late, on the row it was made on",
            |model: &Decisions, state: &State| {
                model.can(state, |action, next| *action == Action::Land && next.row != state.row)
            },
        ),
        Property::sometimes("a nomination lands too late and changes nothing", |model: &Decisions, state: &State| {
            model.can(state, |action, next| *action == Action::Land && next.row == state.row)
        }),
        Property::sometimes("the holder renews after a nomination", |model: &Decisions, state: &State| {
            let renews = |action: &Action| matches!(action, Action::Renew(_));
            state.row.live_nominee().is_some()
                && model.can(state, |action, next| renews(action) && next.row.live_nominee().is_none())
        }),
        Property::sometimes("a nomination whose run was killed is accepted", |model: &Decisions, state: &State| {
            state.runs == [None; RUNS] && model.can(state, |action, _| matches!(action, Action::Accept(_)))
        }),
    ];
    if wakes != Wakes::ByHand {
        properties.extend([
            Property::sometimes("R110: a late event leads to nothing", |model: &Decisions, state: &State| {
                model.decides(state, |_, verdict| verdict == Verdict::Nothing(Rule::R110))
            }),
            Property::sometimes("R120: a repeated event leads to nothing", |model: &Decisions, state: &State| {
                state.row.live_nominee().is_some()
                    && model.decides(state, |_, verdict| verdict == Verdict::Nothing(Rule::R120))
            }),
        ]);
    }
    if wakes == Wakes::Events {
        properties.extend([
            Property::sometimes("R200: nominated on proof of death", |_, state: &State| {
                state.row.live_nominee().is_some_and(|nominee| nominee.rule == Rule::R200)
            }),
            Property::sometimes("R250: nominated after a release", |_, state: &State| {
                state.row.live_nominee().is_some_and(|nominee| nominee.rule == Rule::R250)
            }),
            Property::sometimes("R230: nobody in sync is alive", |model: &Decisions, state: &State| {
                model.decides(state, |_, verdict| verdict == Verdict::Blocked(Rule::R230))
            }),
            Property::sometimes(
                "EC2's late description is no proof of a later launch's death",
                |model: &Decisions, state: &State| {
                    let later = state.row.holder.is_some_and(|holder| holder.launch > 0);
                    let by_event = |why| matches!(why, Why::Stopped { .. });
                    later
                        && model.decides(state, |why, verdict| by_event(why) && verdict == Verdict::Nothing(Rule::R120))
                },
            ),
        ]);
    }
    if wakes == Wakes::ByHand {
        properties.extend([
            Property::sometimes("R410: nominated by hand", |_, state: &State| {
                state.row.live_nominee().is_some_and(|nominee| nominee.rule == Rule::R410)
            }),
            Property::sometimes("R410: refused, as the holder may serve", |model: &Decisions, state: &State| {
                model.decides(state, |_, verdict| verdict == Verdict::Blocked(Rule::R410))
            }),
        ]);
    }
    properties
}

impl Decisions {
    /// Once nothing is late and nothing else fails, visits of `watch` find a holder, wherever a member in sync lives.
    fn finds_a_holder(&self, state: &State) -> bool {
        let quiet = state.runs == [None; RUNS] && state.afloat.is_none() && state.broken.is_none();
        if !quiet || state.row.paused {
            return true;
        }
        let mut state = State { before: None, ..*state };
        for node in self.nodes() {
            state.nodes[node.place()].instance_was = None;
            if state.nodes[node.place()].running && state.nodes[node.place()].process == Process::Down {
                // Where its row's write is refused it stands by.
                let _ = self.begin(&mut state, node);
            }
        }
        let lives = |state: &State, node: Node| state.nodes[node.place()].process != Process::Down;
        if !self.nodes().any(|node| state.row.in_sync & node.bit() != 0 && lives(&state, node)) {
            return true;
        }
        // Three visits, and whether the last has led there.
        for _visit in 0..4 {
            for node in self.nodes() {
                if state.row.holder == Some(state.boot(node)) && state.nodes[node.place()].process == Process::Standby {
                    state.nodes[node.place()].process = Process::Holder(state.row.epoch);
                }
            }
            if state.is_held() {
                return true;
            }
            state.runs[0] = Some(Run::Visit);
            while let Some(run) = state.runs[0] {
                // The nominee accepts before anybody gives it up, and its wait is over before the visit's is.
                let slow = matches!(run, Run::Wait(_) | Run::VisitLast(_));
                if slow && self.nodes().any(|node| lives(&state, node) && self.accept(&mut state, node).is_some()) {
                    continue;
                }
                let step = self.steps(&state, &run, true).into_iter().next().expect("a run that goes on can go on");
                self.step(&mut state, 0, step);
            }
        }
        false
    }

    /// Whether some step from `state` is of this kind.
    fn can(&self, state: &State, kind: impl Fn(&Action, &State) -> bool) -> bool {
        let mut actions = Vec::new();
        self.actions(state, &mut actions);
        actions.into_iter().any(|action| self.apply(state, action).is_some_and(|next| kind(&action, &next)))
    }

    /// Whether a run is about to do this.
    fn decides(&self, state: &State, what: impl Fn(Why, Verdict) -> bool) -> bool {
        let decided = |run: &Run| match run {
            Run::Decided(seen) => what(seen.why, self.decider.decide(seen)),
            _ => false,
        };
        state.runs.iter().flatten().any(decided)
    }
}
