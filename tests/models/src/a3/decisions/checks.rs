//! What must hold in every state of the decisions' model, and what must be seen to happen.

use super::observation::{Verdict, Why};
use super::run::{Run, Step};
use super::{Action, Bounds, Broken, Decisions, Process, RUNS, State, Wakes};
use crate::a3::lease::{Node, Wish};
use lease::rules::Rule;
use stateright::{Model, Property};

/// Invariants and reachability checks; what can be reached depends on what wakes the functions.
pub(super) fn properties(bounds: Bounds) -> Vec<Property<Decisions>> {
    let Bounds { wakes, deaths, .. } = bounds;
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
        Property::always("a request that was carried out ends with the activation", |_, state: &State| {
            !state.row.activated || state.row.done_request().is_none()
        }),
        Property::always("once nothing fails any more, no request stays", |model: &Decisions, state: &State| {
            model.ends_requests(state)
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
            Property::sometimes("R400: an operator asks for a move", |_, state: &State| {
                state.row.open_request().is_some_and(|request| request.rule == Rule::R400)
            }),
            Property::sometimes("R300: the holder asks to be relieved", |_, state: &State| {
                state.row.open_request().is_some_and(|request| request.rule == Rule::R300)
            }),
            Property::sometimes("a second request is refused while one is open", |model: &Decisions, state: &State| {
                state.row.open_request().is_some()
                    && model.decides(state, |why, verdict| why == Why::Move && verdict == Verdict::Blocked(Rule::R400))
            }),
            Property::sometimes("a request is carried out, and its target not active yet", |_, state: &State| {
                state.row.done_request().is_some() && state.row.epoch == 2
            }),
            Property::sometimes(
                "a request lands when nobody waits for it any more",
                |model: &Decisions, state: &State| {
                    state.runs == [None; RUNS]
                        && model.can(state, |action, next| {
                            *action == Action::Land && next.row.open_request() != state.row.open_request()
                        })
                },
            ),
            Property::sometimes("a request is taken back", |model: &Decisions, state: &State| {
                let ends = |run: &Run| matches!(run, Run::TakeBack(..));
                state.runs.iter().flatten().any(ends)
                    && model.can(state, |action, next| {
                        matches!(action, Action::Step(..)) && next.row.request.is_none() && state.row.request.is_some()
                    })
            }),
            Property::sometimes("a request is taken back too late: its target holds", |_, state: &State| {
                let ends = |run: &Run| matches!(run, Run::TakeBack(..));
                state.runs.iter().flatten().any(ends) && state.row.done_request().is_some()
            }),
            Property::sometimes("the holder gives a request up", |model: &Decisions, state: &State| {
                model.can(state, |action, _| matches!(action, Action::GiveUp(_)))
            }),
            Property::sometimes("R410: refused, as the holder may serve", |model: &Decisions, state: &State| {
                model.decides(state, |_, verdict| verdict == Verdict::Blocked(Rule::R410))
            }),
        ]);
    }
    if wakes == Wakes::ByHand && deaths > 0 {
        properties.push(Property::sometimes(
            "its target restarts before it is active and still knows why",
            |_, state: &State| state.row.done_request().is_some() && state.row.epoch > 2,
        ));
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

    /// Once nothing is late and nothing else fails, a visit of `watch` leaves no request that the holder does not carry out.
    fn ends_requests(&self, state: &State) -> bool {
        let quiet = state.runs == [None; RUNS] && state.afloat.is_none() && state.broken.is_none();
        let Some(holder) = state.row.holder.filter(|_| quiet && state.row.open_request().is_some()) else {
            return true;
        };
        if state.nodes[holder.node.place()].process != Process::Active(state.row.epoch) {
            return true;
        }
        let mut state = *state;
        state.runs[0] = Some(Run::Visit);
        self.step(&mut state, 0, Step::ReadRow);
        // It lives: it has renewed when the visit reads again.
        let epoch = state.row.epoch;
        if self.wish(&mut state, Wish::Renew(holder), epoch).is_none() {
            return false;
        }
        while let Some(run) = state.runs[0] {
            let step = self.steps(&state, &run, true).into_iter().next().expect("a run that goes on can go on");
            self.step(&mut state, 0, step);
        }
        state.row.open_request().is_none()
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
