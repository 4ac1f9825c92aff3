//! A2: leases and promises, on clocks of different rates. At most one node may serve at any real time.
//!
//! **What is modelled.** Time passes in ticks, for any number of them. Each node's clocks run slow or fast, as far apart
//! as policy allows; the first holder may be suspended while one of its clocks stands. A holder renews and pings; standbys
//! promise, read and, when nominated, accept. Writes, pings and promises take as long as they like, or for ever: the same
//! as a link or a table that is down, for one node or for all, and for how long it likes. A node that is stopped (SIGSTOP)
//! does nothing for a while, which anybody may do here at any time; its right is judged by its clocks alone. One process
//! restarts, or two; an acceptance may land after the death of who sent it. With one pair, members are also taken out and in.
//!
//! **Whether a right may come back.** The machine looks at its gate before it looks at anything else; where the right has
//! ended the epoch is over for it, and a promise that arrives then opens nothing. Most searches leave that out ("rights that
//! come back"), which allows more: what they show holds without it. Not everything does. A standby that has restarted may
//! promise before it has read the row, its next process has forgotten that, and an old holder that lived on such a promise
//! would serve beside it: two restarts are searched only with the rule, and the mutant `right-comes-back` is the story.
//!
//! **What ships and is called**: [`Authority`](lease::authority::Authority), [`Vigil`](lease::accept::Vigil),
//! [`Policy`](lease::policy::Policy) with its real inequalities, [`Change::on`](lease::change::Change::on),
//! [`Outcome::of_conflict`](lease::outcome::Outcome::of_conflict). A holder's or standby's knowledge is kept as ages in
//! ticks; each question builds the real object of that age and asks it.
//!
//! **What is left out, and why nothing is lost by it.**
//! * Ages beyond eight ticks (6.4 s on the slow clock) are eight: every right, wait and promise is over by then.
//! * Pings and promises that are late, in most searches: one that is there at once gives the holder more and costs the
//!   standby the same. One search has them late, as have the mutants that count from the wrong end.
//! * What a ping shows of the row: a read at the same time shows it, and may happen at any time.
//! * A new ping takes the place of one still on its way to the same node, and so does a promise: an older one than the
//!   last known grants nothing ([`Authority::promised`](lease::authority::Authority::promised) takes the latest).
//! * Activation: here a node counts as serving, and its epoch as activated, from when it knows that it holds, which is sooner.
//! * In the search of three nodes the two standbys are alike: of two states that differ only in which is which one is searched,
//!   so B and C may change places within a trace.
//! * What a holder learns of a row that has moved on: it goes on as long as its right lasts, which is longer.
//! * The row in a node's memory: as in A1, who acts reads in the same step. The wait still counts from the first sight.
//! * Handing over, releasing and proof of death end the old holder's right before anything else happens; A1 has the first two.

mod clocks;
mod mistakes;
mod state;
mod steps;
mod words;

use crate::rows::{Member, Members, NODES, Packed};
use crate::runner::{Exhaustive, Limits, Size, Told};
use clocks::{Age, Counting, Rate, Right, Watch};
use lease::authority::Standing;
pub use mistakes::{Mistake, mutants};
use state::{LATE, Node, Role, State};
use stateright::{Model, Property};
use steps::Step;

/// The model and its bounds.
#[derive(Clone, Copy, Debug)]
pub struct A2 {
    nodes: usize,
    /// The last node is no member: the epoch allows lossy failover, and it may be nominated.
    lossy: bool,
    max_rev: u8,
    restarts: u8,
    /// A right that has ended may begin again in its epoch, by a renewal or promise that was under way. The machine never
    /// lets it: what holds here as well does not rest on that.
    reopens: bool,
    sleeps: u8,
    /// Members are taken out and in.
    members_change: bool,
    /// Pings and promises take their time.
    delays: bool,
    /// Answers to pings never arrive, and no write of the holder does.
    one_way: bool,
    /// Of two states that differ only in which standby is which, one is searched.
    alike: bool,
    /// Of all mixes of clocks only the one that is worst for the first holder: its own slow, the others' fast.
    worst_clocks: bool,
    mistake: Option<Mistake>,
}

/// With one-way links: a standby promises only to who heard it within this many ticks.
const HEARD_WITHIN: u8 = 2;

impl A2 {
    const fn real(nodes: usize, max_rev: u8) -> Self {
        Self {
            nodes,
            lossy: false,
            max_rev,
            restarts: 1,
            reopens: true,
            sleeps: 0,
            members_change: false,
            delays: false,
            one_way: false,
            alike: false,
            worst_clocks: false,
            mistake: None,
        }
    }

    fn errs(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn counting(&self) -> Counting {
        Counting {
            promise_in_full: self.errs(Mistake::PromiseInFull),
            ignores_suspension: self.errs(Mistake::HolderIgnoresSuspension),
            one_promise_is_enough: self.errs(Mistake::OnePromiseIsEnough),
            never_alone: self.errs(Mistake::NeverAlone),
        }
    }

    fn standing(&self, state: &State, node: usize) -> Standing {
        let me = &state.nodes[node];
        if me.role == Role::Holding { me.right.standing(me.rate, self.counting()) } else { Standing::None }
    }

    fn serves(&self, state: &State, node: usize) -> bool {
        self.standing(state, node) != Standing::None
    }
}

/// The searches of the real rules.
#[must_use]
pub fn exhaustive(size: Size) -> Vec<Exhaustive> {
    let search = |a2: A2, limits: Limits| {
        let how = [
            (a2.restarts == 1, ", one restart"),
            (a2.restarts == 2, ", two restarts"),
            (a2.reopens, ", rights that come back"),
            (a2.delays, ", pings and promises late"),
            (a2.lossy, ", lossy failover allowed"),
            (a2.members_change, ", members leave and return"),
            (a2.sleeps > 0, ", the holder suspended"),
            (a2.one_way, ", answers lost"),
            (a2.worst_clocks, ", the holder's clock slow and the others' fast"),
        ];
        let how: String = how.iter().filter(|(so, _)| *so).map(|(_, what)| *what).collect();
        let what = format!("{} nodes, rev <= {}, any length of time{how}", a2.nodes, a2.max_rev);
        Exhaustive::new("a2", what, move || a2, limits)
    };
    let pair = A2::real(2, 4);
    match size {
        Size::Test => vec![search(A2::real(2, 3), Limits::none())],
        Size::Ci => vec![
            search(pair, Limits::none()),
            search(A2 { delays: true, restarts: 0, ..pair }, Limits::none()),
            search(A2 { sleeps: 3, restarts: 0, ..pair }, Limits::none()),
            search(A2 { one_way: true, restarts: 0, ..A2::real(2, 3) }, Limits::none()),
            search(A2 { members_change: true, restarts: 0, ..A2::real(2, 5) }, Limits::none()),
            search(A2 { lossy: true, restarts: 0, ..A2::real(3, 3) }, Limits::none()),
            search(A2 { reopens: false, restarts: 2, ..pair }, Limits::none()),
            search(A2 { reopens: false, alike: true, restarts: 0, ..A2::real(3, 3) }, Limits::none()),
            search(A2 { reopens: false, alike: true, worst_clocks: true, ..A2::real(3, 4) }, Limits::none()),
        ],
        Size::Big => vec![
            search(
                A2 { sleeps: 3, delays: true, members_change: true, ..A2::real(2, 5) },
                Limits::at_most(30, 500_000_000),
            ),
            search(A2 { alike: true, ..A2::real(3, 4) }, Limits::at_most(30, 500_000_000)),
        ],
    }
}

impl Model for A2 {
    type State = State;
    type Action = Step;

    /// A serves in epoch 1 by a renewal of just now; every mix of clocks.
    fn init_states(&self) -> Vec<State> {
        let members = if self.lossy { self.nodes - 1 } else { self.nodes };
        let in_sync = (0..members).fold(Members::default(), |set, node| set.with(Member::of(node, 0)));
        let row = Packed::held(Member::of(0, 0), in_sync).with_lossy(self.lossy.into());
        let standby = |rate: Rate| Node {
            role: Role::Standby,
            rate,
            pending: None,
            epoch: 0,
            right: Right::default(),
            watch: Watch::started(Age::LONG_AGO),
            past: 0,
            asked: None,
        };
        let rates =
            |bits: usize| (0..NODES).map(move |node| if bits >> node & 1 == 0 { Rate::Slow } else { Rate::Fast });
        let worst = (1 << self.nodes) - 2;
        let mixes = (0..1 << self.nodes).filter(|bits| !self.worst_clocks || *bits == worst).map(|bits| {
            let mut nodes: [Node; NODES] =
                rates(bits).map(standby).collect::<Vec<_>>().try_into().expect("one for each node");
            let holder = &mut nodes[0];
            (holder.role, holder.epoch) = (Role::Holding, row.epoch());
            holder.right = Right {
                lease: Some(Age::NOW),
                need: in_sync.without(Member::of(0, 0)),
                proven: true,
                promises: [None; NODES],
                lossy: self.lossy && !self.errs(Mistake::PromisesThoughLossy),
            };
            State {
                row,
                nodes,
                pings: [None; NODES],
                pongs: [None; NODES],
                late: [None; LATE],
                restarts: self.restarts,
                sleeps: self.sleeps,
                unheard: 0,
            }
        });
        let mut mixes: Vec<State> = mixes.map(|state| if self.alike { state.of_its_kind() } else { state }).collect();
        mixes.sort_unstable_by_key(|state| state.nodes.map(|node| node.rate));
        mixes.dedup();
        mixes
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.steps(state, steps);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = *state;
        self.take(&mut next, step);
        self.tidy(&mut next);
        if !self.reopens {
            self.close_gates(state, &mut next);
            self.tidy(&mut next);
        }
        if self.alike {
            next = next.of_its_kind();
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("I6 one serves at a time", |a2: &Self, state: &State| {
                (0..a2.nodes).filter(|node| a2.serves(state, *node)).count() <= 1
            }),
            Property::always("L1 who is alone by proof needs no table", |a2: &Self, state: &State| {
                let alone = |node: usize| {
                    let right = &state.nodes[node].right;
                    state.nodes[node].role == Role::Holding && right.proven && right.need.count() == 0 && !right.lossy
                };
                (0..a2.nodes).all(|node| !alone(node) || a2.serves(state, node))
            }),
            Property::always("L1 a promise to who cannot hear it ends", |a2: &Self, state: &State| {
                // The promise itself lasts five ticks of the slow clock.
                !a2.one_way || state.unheard <= HEARD_WITHIN + 5 || !state.nodes[1].watch.is_bound(state.nodes[1].rate)
            }),
        ];
        if self.mistake.is_none() {
            properties.extend(self.reachable());
        }
        properties
    }
}

impl A2 {
    /// What the search must come across.
    fn reachable(&self) -> Vec<Property<Self>> {
        if self.one_way {
            return vec![Property::sometimes(
                "a standby stops to promise to who does not hear it, and takes over",
                |a2, state: &State| a2.serves(state, 1),
            )];
        }
        let mut properties =
            vec![Property::sometimes("a standby takes over once its wait is over", |a2: &Self, state: &State| {
                (1..a2.nodes).any(|node| a2.serves(state, node))
            })];
        if self.lossy {
            properties.push(Property::sometimes("one that is no member takes over", |a2: &Self, state: &State| {
                a2.serves(state, a2.nodes - 1)
            }));
            return properties;
        }
        properties.push(Property::sometimes(
            "the active serves past its lease on promises alone, the table out of reach",
            |a2: &Self, state: &State| {
                let me = &state.nodes[0];
                state.row.rev() == 1 && a2.serves(state, 0) && !me.right.lease_runs(me.rate, a2.counting())
            },
        ));
        properties.push(Property::sometimes(
            "a nominee has waited, and its promise alone holds it back",
            |a2: &Self, state: &State| {
                (1..a2.nodes).any(|node| {
                    let (me, member) = (&state.nodes[node], State::member(node));
                    let free = Watch { promised: None, ..me.watch };
                    state.row.nominee() == Some(member)
                        && free.may_accept(state.row, member, me.rate, false)
                        && !me.watch.may_accept(state.row, member, me.rate, false)
                })
            },
        ));
        if self.nodes > 2 && self.max_rev > 3 {
            properties.push(Property::sometimes("a takeover follows a renewal", |a2: &Self, state: &State| {
                state.row.rev() == 4
                    && state.restarts == a2.restarts
                    && (1..a2.nodes).any(|node| a2.serves(state, node))
            }));
        }
        if self.restarts > 0 && self.reopens {
            properties.push(Property::sometimes(
                "an acceptance lands after the death of who sent it, who is bound by a promise",
                |a2: &Self, state: &State| {
                    (1..a2.nodes).any(|node| {
                        let me = &state.nodes[node];
                        state.row.holder() == Some(State::member(node))
                            && me.role == Role::Standby
                            && me.watch.is_bound(me.rate)
                    })
                },
            ));
        }
        if self.members_change {
            properties.push(Property::sometimes(
                "the active serves alone, with neither lease nor promise",
                |a2: &Self, state: &State| {
                    let me = &state.nodes[0];
                    a2.standing(state, 0) == Standing::Alone
                        && !Right { need: Members(1), proven: false, ..me.right }.lease_runs(me.rate, a2.counting())
                },
            ));
            properties.push(Property::sometimes(
                "one let in without its holder's knowledge takes over",
                |a2: &Self, state: &State| state.row.rev() > 3 && a2.serves(state, 1),
            ));
        }
        if self.sleeps > 0 {
            properties.push(Property::sometimes(
                "the holder was suspended and lost its lease in it",
                |a2: &Self, state: &State| {
                    state.sleeps == 0 && state.nodes[0].role == Role::Holding && !a2.serves(state, 0)
                },
            ));
        }
        properties
    }
}

impl Told for A2 {
    fn tell(&self, before: &State, step: &Step, after: &State) -> String {
        words::tell(self, before, *step, after)
    }
}
