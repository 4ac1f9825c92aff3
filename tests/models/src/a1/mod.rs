//! A1: the row and the in-sync set. No clock anywhere: whatever is late, lost, repeated or forgotten, no acknowledged
//! write is lost.
//!
//! **What is modelled.** Two or three nodes, each a process that crashes and starts and a replica on a disk; the row;
//! one or two writes to one sector. A holder submits a write, sends a frame to each copy, and tells the workload when
//! all of its `need` have acknowledged. Each change of the row is a request that is applied now, later or never, with
//! or without an answer, also after the death of who sent it. Replicas are wiped, or restored from a snapshot.
//!
//! **What ships and is called**: [`Change::on`](lease::change::Change::on) for every change,
//! [`Authority`](lease::authority::Authority) for `need`, [`Outcome::of_conflict`](lease::outcome::Outcome::of_conflict)
//! for what a refusal means, [`Vigil::may_accept`](lease::accept::Vigil::may_accept) for who may accept once every wait
//! is over. How the node's machine strings them together (`node::Node::settled`, `adopt`, `stand_by`) is repeated in
//! `steps`, step by step, as is the data path, which is not written yet: there the model says what it must do.
//!
//! **What the data path must do**, as the searches showed: each of these left out, an old holder acknowledges a write that
//! it was given after a newer epoch began (I4).
//! * A copy takes no frames from before its own acceptance is sent until it is settled.
//! * A process that starts while the row nominates it takes none until the row has moved: an earlier process of it may
//!   have sent an acceptance that has not landed yet.
//! * A node that finds a row of another lineage takes none: it may have accepted on the row that is gone.
//! * Whoever reads a newer epoch refuses frames of older ones from then on.
//!
//! **What is left out, and why nothing is lost by it.**
//! * Time. Leases and promises only narrow when somebody acts; here everybody may act at any time. A2 has the time.
//! * Messages that get lost or die: they stay on their way for ever. Whoever waits may give up at any time, so a search
//!   has seen everything that a loss leads to.
//! * Refused frames: who would refuse one simply does not get it yet.
//! * Refused writes: their writer may learn of it at once. It need not do anything with what it knows, except where it
//!   holds an epoch that is over; there the model lets it go on in its belief until it happens to stop.
//! * The time between a crash and the next start's first read: nothing happens in it that could not happen to a process
//!   that stands still, crashes at the end of that time and is back at once. So a crash is followed by that read.
//! * What each node believes of the row. A write from an old row is refused and shows the row as it is, which is what
//!   a read does; so nodes read the row in the step in which they act on it. What they wrote and do not know the fate of,
//!   they do not know here either. Mistakes that need an old view bring it with them.
//! * Functions in flight: a nomination that comes late comes to a row that has moved, or is the same as one made now.
//! * Nonces count up for ever in the program; here a new one is the lowest that nothing alive carries. They are only ever
//!   compared for equality. The requests of dead processes are compared with nothing and share one nonce.

mod guards;
mod mistakes;
mod state;
mod steps;
mod words;

use crate::rows::{Member, Members, NODES, Packed};
use crate::runner::{Exhaustive, Limits, Size, Told};
pub use mistakes::Mistake;
pub use mistakes::mutants;
use state::{Broken, Fate, Node, Role, State, Write};
use stateright::{Model, Property};
use steps::{MARK_OF_THE_DEAD, Step};

/// The model and its bounds.
#[derive(Clone, Copy, Debug)]
pub struct A1 {
    nodes: usize,
    max_rev: u8,
    writes: usize,
    /// How often a replica may be wiped or restored, in all.
    formats: u8,
    /// The row may be deleted and made anew, once.
    remade: bool,
    mistake: Option<Mistake>,
    /// The invariants that count; a mutant is better judged by the damage than by the means that it lacks.
    judged_by: &'static [&'static str],
}

impl A1 {
    const fn real(nodes: usize, max_rev: u8, writes: usize) -> Self {
        Self {
            nodes,
            max_rev,
            writes,
            formats: 1,
            remade: false,
            mistake: None,
            judged_by: &["I1", "I2", "I3", "I4", "I5", "I7"],
        }
    }

    fn errs(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}

/// The searches of the real rules.
#[must_use]
pub fn exhaustive(size: Size) -> Vec<Exhaustive> {
    let search = |a1: A1, limits: Limits| {
        let remade = if a1.remade { ", row made anew" } else { "" };
        let what = format!("{} nodes, rev <= {}, {} writes{remade}", a1.nodes, a1.max_rev, a1.writes);
        Exhaustive::new("a1", what, move || a1, limits)
    };
    match size {
        Size::Test => vec![search(A1::real(2, 4, 1), Limits::none())],
        Size::Ci => vec![
            search(A1::real(2, 6, 2), Limits::none()),
            search(A1::real(3, 5, 1), Limits::none()),
            search(A1 { remade: true, ..A1::real(2, 5, 1) }, Limits::none()),
        ],
        Size::Big => vec![search(A1::real(3, 5, 2), Limits::at_most(60, 1_000_000_000))],
    }
}

impl Model for A1 {
    type State = State;
    type Action = Step;

    /// A cluster in service: A holds epoch 1, all are in sync, nothing is written yet.
    fn init_states(&self) -> Vec<State> {
        let everybody = (0..self.nodes).fold(Members::default(), |set, node| set.with(Member::of(node, 0)));
        let mut nodes = [Node::default(); NODES];
        for node in &mut nodes[..self.nodes] {
            (node.consistent, node.promised) = (true, 1);
        }
        let holder = &mut nodes[0];
        (holder.role, holder.epoch) = (Role::Active, 1);
        holder.need = everybody.without(Member::of(0, 0));
        vec![State {
            row: Packed::held(Member::of(0, 0), everybody),
            nodes,
            writes: [Write::default(); state::WRITES],
            orphans: Default::default(),
            formats: self.formats,
            read: 0,
            broken: Broken::default(),
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.steps(state, steps);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = *state;
        self.take(&mut next, step);
        self.tidy(&mut next);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("I1 one holder an epoch, rev and epoch rise", |_, state: &State| one_holder(state)),
            Property::always("I2 the in-sync set is within need", |a1: &Self, state: &State| within_need(a1, state)),
            Property::always("I3 each member holds every acknowledged write", |_, state: &State| {
                members_hold(state, state.acked())
            }),
            Property::always("I4 no write submitted after a newer epoch is acknowledged", |_, state: &State| {
                !state.broken.late_ack
            }),
            Property::always("I5 no stranger accepts, nor counts", |_, state: &State| !state.broken.stranger),
            Property::always("I7 a value once read never reverts", |_, state: &State| members_hold(state, state.read)),
        ];
        properties.retain(|property| self.judged_by.contains(&&property.name[..2]));
        if self.mistake.is_none() {
            properties.extend(self.reachable());
        }
        properties
    }
}

impl A1 {
    /// What the search must come across.
    fn reachable(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::sometimes("a write is acknowledged by two copies", |_, state: &State| {
                state.acked() != 0 && state.row.in_sync().count() > 1 && state.row.epoch() == 1
            }),
            Property::sometimes(
                "a write is acknowledged by one copy alone, and another lacks it",
                |a1: &Self, state: &State| {
                    state.row.in_sync().count() == 1
                        && state.nodes[..a1.nodes].iter().any(|node| state.acked() & !node.data != 0)
                },
            ),
            Property::sometimes(
                "a late acknowledgement: the predecessor completes after a newer epoch began",
                |a1: &Self, state: &State| {
                    (0..a1.writes)
                        .any(|at| state.writes[at].epoch < state.row.epoch() && a1.completes(state, at).is_some())
                },
            ),
            Property::sometimes("a member was let in and the holder does not know", |_, state: &State| {
                state
                    .nodes
                    .iter()
                    .any(|node| node.pending.is_some_and(|pending| pending.landed && pending.want.lets_in()))
            }),
            Property::sometimes("the first holder is active again in a later epoch", |_, state: &State| {
                state.nodes[0].role == Role::Active && state.nodes[0].epoch > 1 && state.rightful(0)
            }),
            Property::sometimes("a hand-over reaches its target, the set kept", |_, state: &State| {
                state.nodes[1].role == Role::Activating && state.row.in_sync().count() > 1
            }),
            Property::sometimes("the lease is released", |_, state: &State| state.row.holder().is_none()),
            Property::sometimes("an acceptance lands after the death of who sent it", |_, state: &State| {
                let dead = |member: Member| {
                    let node = &state.nodes[member.node()];
                    node.role == Role::Standby && node.pending.is_none() && state.row.nonce() == MARK_OF_THE_DEAD
                };
                state.row.epoch() > 1 && state.row.in_sync().count() == 1 && state.row.holder().is_some_and(dead)
            }),
            Property::sometimes("an old holder believes in itself while a newer one is active", |_, state: &State| {
                state.nodes.iter().filter(|node| node.role == Role::Active).count() > 1
            }),
            Property::sometimes("a write that nobody was told of survives and is read", |_, state: &State| {
                state
                    .writes
                    .iter()
                    .enumerate()
                    .any(|(at, write)| write.fate == Fate::Unknown && state.read & 1 << at != 0)
            }),
        ];
        if self.max_rev >= 5 {
            properties.push(Property::sometimes("a write of a later epoch is acknowledged", |_, state: &State| {
                state.writes.iter().any(|write| write.fate == Fate::Acked && write.epoch > 1)
            }));
            properties.push(Property::sometimes("a wiped replica is a member again", |_, state: &State| {
                state.row.in_sync().each().any(|member| member != Member::of(member.node(), 0))
            }));
        }
        properties
    }
}

impl Told for A1 {
    fn tell(&self, before: &State, step: &Step, after: &State) -> String {
        words::tell(before, *step, after)
    }
}

/// I1. What a single state shows of it; what only a step shows is in `broken`.
fn one_holder(state: &State) -> bool {
    let holding = |node: &&Node| node.role.holds();
    let mut epochs: Vec<u8> = state.nodes.iter().filter(holding).map(|node| node.epoch).collect();
    epochs.sort_unstable();
    let twice = epochs.windows(2).any(|pair| pair[0] == pair[1]);
    // Whoever holds an epoch was given it by the row; by its predecessor, where the row was made anew.
    let given = state.row.lineage() != 0
        || state.nodes.iter().enumerate().all(|(at, node)| {
            !node.role.holds()
                || node.epoch < state.row.epoch()
                || node.epoch == state.row.epoch() && state.row.holder().is_none_or(|holder| holder.node() == at)
        });
    !state.broken.row && !twice && given
}

/// I2.
fn within_need(a1: &A1, state: &State) -> bool {
    (0..a1.nodes).all(|node| {
        !state.rightful(node) || state.row.in_sync().without(state.member(node)).within(state.nodes[node].need)
    })
}

/// I3 and I7: whoever the row would let accept, and exists, has these writes. A row made anew lets nobody accept until
/// somebody has followed it.
fn members_hold(state: &State, writes: u8) -> bool {
    let followed = state.row.lineage() == 0 || state.row.holder().is_some();
    let members = state.row.in_sync().each().filter_map(|member| state.node_of(member));
    !followed || members.fold(0, |lacking, node| lacking | writes & !state.nodes[node].data) == 0
}
