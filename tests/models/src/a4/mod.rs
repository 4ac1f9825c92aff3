//! A4: resync and activity log. No difference between two disks is forgotten, whatever crashes, breaks or comes late.
//!
//! **What is modelled.** Two or three replicas: a disk of one or two blocks with a cache that a loss of power empties in part, in
//! any part; an activity log, a bitmap for each peer, in memory and on the disk; a state, whole or not; a promise. A primary that
//! writes, streams, copies marked blocks (compares them first when it has crashed itself), flushes, and is answered; standbys that take
//! a stream in order. Either end of a session may find it gone at any time, alone; what is on its way is taken until then.
//! Processes are killed, power is lost, at each step. Members take epochs, alone or by a hand-over that keeps the set; who held
//! the last one goes on believing in itself for as long as it likes.
//!
//! **What ships and is called** ([`volume::core::rules`]): what a write owes to each peer from its start to its end
//! ([`Owed`](volume::core::rules::Owed): kept, marked, acknowledged, durable, sent again), when a member's marks join those here and
//! when its word for having everything stands ([`Basis`](volume::core::rules::Basis)), when an image is to be marked before it is
//! torn, which frames are refused and which are not heard.
//!
//! **What is said again by hand**: in which order the machine asks these (`peer`, `resync`, `standby`, `primary`), what recovery marks
//! (`Store::recover`), when an extent may leave the log, what a standby claims and for how long, companions. A place in the stream
//! is not a number here but the set of all that came before it.
//!
//! **What is left out, and why nothing is lost by it.**
//! * The handshake is one step: before its last word it changes nothing but the promise and marks that are set.
//! * A block is an extent; an extent may leave the log whenever it may, not only when its slot is wanted.
//! * A write, a flush and a page of metadata happen at once. One on its way to the disk is either not begun, or in the cache; metadata is
//!   durable before what follows from it, so a crash between is a crash before.
//! * A crash is followed by the start: nothing comes between that could not come to a process that does nothing.
//! * A standby takes its stream frame by frame, though it executes in parallel what does not meet. So what a flush covers is always a prefix.
//! * The row is right by construction, its changes are single steps, and a new holder is whole and in the set: A1 shows how.
//! * Whatever can be read is read: of the holder's blocks those that no unanswered write is about to change, once it shows any.
//!
//! Not here: what becomes of a member that leaves the set while it is copied to with its image as good as it was (it is hung up on; three nodes,
//! two blocks and two writes are beyond an exhaustive search, the volume's own simulation leaves that guard out and falls); generations and the verdict; a log that is full; metadata that rots; write errors; FUA; ranges that span blocks.
//!
//! **What a search showed**: a hand-over keeps the set, also in the middle of a write; with three nodes the new holder may have what
//! another member has never seen, and that one may be the next. So nothing is read before each member was found to have what was
//! there when the epoch began (the mutant `shows-before-even`); with two nodes who hands over has it as well.
mod checks;
mod dialogue;
mod ends;
mod mistakes;
mod primary;
mod requests;
mod standby;
mod state;
mod steps;
mod words;

use crate::runner::{Exhaustive, Limits, Size, Told};
pub use mistakes::Mistake;
pub use mistakes::mutants;
use state::{BLOCKS, Left, NODES, Node, Op, Peer, Primary, Role, Row, Stage, Standing, State, Write, one};
use stateright::{Model, Property};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use steps::Step;
use volume::core::rules::Basis;

/// What must happen somewhere, and no state shows by itself.
#[derive(Clone, Copy, Debug)]
enum Met {
    StandbyCrashedFirst,
    PrimaryCrashedFirst,
    CrashedInResync,
    ResyncCut,
    ResyncResumed,
    WrittenWhileCopied,
    Voided,
    StandbyLost,
    Resent,
    FoundSame,
    FoundDifferent,
    OrphanUndone,
    LogAlone,
    TheirMarks,
    Spared,
}

/// The model and its bounds.
#[derive(Clone, Debug)]
pub struct A4 {
    nodes: usize,
    blocks: usize,
    writes: usize,
    left: Left,
    /// Whether the marks count, and not only what becomes of their lack.
    means: bool,
    mistake: Option<Mistake>,
    met: Arc<AtomicU32>,
}

fn epoch(number: u8) -> lease::ids::Epoch {
    lease::ids::Epoch(number.into())
}

fn session(number: u8) -> volume::ids::Session {
    volume::ids::Session(number.into())
}

impl A4 {
    fn real(nodes: usize, blocks: usize, writes: usize, left: Left) -> Self {
        Self { nodes, blocks, writes, left, means: true, mistake: None, met: Arc::default() }
    }

    fn fresh(&self) -> Self {
        Self { met: Arc::default(), ..self.clone() }
    }

    fn errs(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn meet(&self, what: Met) {
        self.met.fetch_or(1 << what as u32, Ordering::Relaxed);
    }

    fn has_met(&self, what: Met) -> bool {
        self.met.load(Ordering::Relaxed) & 1 << what as u32 != 0
    }
}

/// The searches of the real rules.
#[must_use]
pub fn exhaustive(size: Size) -> Vec<Exhaustive> {
    let search = |a4: A4, limits: Limits| {
        let Left { crashes, breaks, epochs, flushes } = a4.left;
        let what = format!(
            "{} nodes, {} blocks, {} writes; {crashes} crashes, {breaks} breaks, {epochs} new epochs, {flushes} flushes",
            a4.nodes, a4.blocks, a4.writes
        );
        Exhaustive::new("a4", what, move || a4.fresh(), limits)
    };
    let bounds = |nodes, blocks, writes, [crashes, breaks, epochs, flushes]: [u8; 4]| {
        search(A4::real(nodes, blocks, writes, Left { crashes, breaks, epochs, flushes }), Limits::none())
    };
    match size {
        Size::Test => vec![bounds(2, 1, 1, [1, 1, 1, 0])],
        Size::Ci => vec![
            bounds(2, 2, 1, [1, 1, 1, 1]),
            bounds(2, 1, 1, [2, 1, 1, 0]),
            bounds(2, 1, 2, [1, 1, 1, 0]),
            bounds(2, 1, 2, [1, 0, 1, 1]),
            bounds(2, 2, 2, [0, 1, 1, 0]),
            bounds(2, 1, 1, [1, 0, 2, 0]),
            bounds(3, 1, 1, [0, 0, 1, 0]),
        ],
        Size::Big => {
            let left = Left { crashes: 2, breaks: 2, epochs: 2, flushes: 1 };
            vec![search(A4::real(2, 2, 3, left), Limits::at_most(60, 1_000_000_000))]
        }
    }
}

impl Model for A4 {
    type State = State;
    type Action = Step;

    /// A cluster in service: A holds epoch 1, all are in sync, nothing is written yet.
    fn init_states(&self) -> Vec<State> {
        let everybody = (0..self.nodes).fold(0, |set, node| set | one(node));
        let standby = |node: usize| Standing {
            primary: 0,
            epoch: 1,
            session: 1,
            stream: Default::default(),
            companions: everybody & !one(0) & !one(node),
            taken: Default::default(),
            writes: 0,
            copies: 0,
            in_sync: true,
            equal: None,
            late: false,
        };
        let mut peers = [Peer::default(); NODES];
        for peer in &mut peers[1..self.nodes] {
            *peer = Peer {
                known: true,
                whole: Some(Basis::CaughtUp),
                waited_for: true,
                same_life: true,
                stage: Stage::InSync,
                session: 1,
                ..Peer::default()
            };
        }
        let primary = Primary {
            epoch: 1,
            need: everybody & !one(0),
            flushed: true,
            even: true,
            flushes: 0,
            flush: None,
            ops: [Op::default(); state::WRITES],
            peers,
        };
        let node = |at: usize| Node {
            blocks: Default::default(),
            promised: 1,
            whole: true,
            hot: 0,
            saved: [0; NODES],
            marks: [0; NODES],
            guesses: false,
            intact: at < self.nodes,
            role: match at {
                0 => Role::Leading(primary),
                at if at < self.nodes => Role::Standby(Some(standby(at))),
                _ => Role::Standby(None),
            },
            excused: 0,
            cold: 0,
            queued: 0,
        };
        vec![State {
            row: Row { epoch: 1, holder: 0, in_sync: everybody },
            nodes: std::array::from_fn(node),
            writes: [Write::default(); state::WRITES],
            written: 0,
            left: self.left,
            floor: [0; BLOCKS],
            flushed: [0; BLOCKS],
            buried: 0,
            late_ack: false,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.steps(state, steps);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = *state;
        self.take(&mut next, step);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            // Each "as if all power were lost just now", where that may matter.
            Property::always("R1 what was flushed is at whoever may lead", Self::flushed_is_kept),
            Property::always("R2 what was acknowledged or read does not go back", Self::read_stays),
            Property::always("R3 what may differ is marked or hot", Self::differences_are_covered),
            Property::always("R4 who is in sync has what the primary has", Self::in_sync_is_equal),
            Property::always("R5 an image that is whole has what was flushed before what it has", Self::whole_is_whole),
            Property::always("R6 no write is acknowledged that is gone", |_, state: &State| !state.late_ack),
        ];
        properties.retain(|property| self.means || !property.name.starts_with("R3"));
        if self.mistake.is_none() {
            properties.extend(self.reachable());
        }
        properties
    }
}

impl Told for A4 {
    fn tell(&self, before: &State, step: &Step, after: &State) -> String {
        words::tell(self.nodes, self.blocks, before, *step, after)
    }
}
