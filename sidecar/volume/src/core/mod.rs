//! The replica's machine: pure. Events come in with the moment of their arrival, effects come out; nothing else happens.
//!
//! One machine per replica, for all volumes of its group: one order, one epoch, one set. It is standby until it is told to
//! lead, and standby again for good in that epoch once it is fenced.
//!
#![doc = include_str!("manual.md")]

mod asked;
#[cfg(test)]
mod bounds;
mod command;
pub mod follower;
mod notice;
#[cfg(test)]
mod pace;
mod peer;
mod primary;
mod ranges;
pub mod rate;
mod repair;
mod resync;
pub mod rules;
mod settle;
#[cfg(test)]
mod sim;
mod standby;
pub mod survey;
#[cfg(test)]
mod told;
#[cfg(test)]
mod told_async;
#[cfg(test)]
mod told_resync;
#[cfg(test)]
mod told_sizes;
#[cfg(test)]
mod told_verify;
mod undo;
mod verdict;
pub mod verify;
mod works;

pub use command::{Command, Objection};
pub use follower::Follow;
pub use notice::{Notice, Tally};
pub use verdict::verdict;
pub use works::Io;

use crate::ids::{Digest, Life, Span, VolumeNo};
use crate::metadata::{Batch, DataState, Slot, Store, unclaimed};
use crate::wire::{Bye, FETCHES, FOLLOWS, Frame, INTACT, Introduction, ROUNDS};
use bytes::Bytes;
use lease::ids::{Epoch, Incarnation, Lineage};
use lease::time::{Millis, Moment};
use primary::Primary;
use standby::Standby;
use std::collections::BTreeSet;
use works::Works;

/// The machine must see a [`Event::Tick`] at least this often.
pub const TICK: Millis = Millis(50);
/// Writes that are kept because they are not durable everywhere, in bytes: about a second of a fast disk. Past it no more
/// requests are taken until something has become durable.
pub const RETAINED_MAX: u64 = 64 << 20;
/// And so many of them: small ones cost more than their bytes, and a standby's queue must hold all of them at once.
pub const RETAINED_WRITES: usize = 32_768;
/// Requests that are not answered: what all connections of a front end may ask at once, many times over.
pub const REQUESTS_MAX: usize = 4_096;
/// What is not durable is made so after this many bytes: a fraction of what may be kept, so that taking never pauses for it.
const FLUSH_BYTES: u64 = 8 << 20;
/// Or so many writes.
const FLUSH_WRITES: usize = RETAINED_WRITES / 8;
/// And after this long, so that an idle volume has nothing to compare after a crash.
const FLUSH_AFTER: Millis = Millis(1_000);
/// A session without a sign of life for this long is given up.
pub const SILENCE: Millis = Millis(2_000);
/// Signs of life are sent this often.
const PING: Millis = Millis(250);
/// A disk that has not answered for this long has failed: longer than EBS takes to move a volume to other hardware is not
/// promised to anybody, and the node's lease ends when its I/O makes no progress.
pub const STALL: Millis = Millis(10_000);
/// Who has not looked for this long does not know how long the disk has been silent.
const HELD_UP: Millis = Millis(1_000);

/// Names one dialogue partner's connection; given by whoever owns the sockets, never used twice in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64);

/// Names one request of the front end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a front end asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Read(Span),
    Write {
        volume: VolumeNo,
        at: u64,
        data: Bytes,
        fua: bool,
    },
    Zero {
        span: Span,
        fua: bool,
    },
    /// The range reads as zeros afterwards, on every replica: else they would differ.
    Trim {
        span: Span,
        fua: bool,
    },
    /// Covers every write that was answered before it was asked.
    Flush,
}

impl Ask {
    /// What it changes.
    #[cfg(test)]
    fn changes(&self) -> Option<Span> {
        match self {
            Self::Write { volume, at, data, .. } => Some(Span { volume: *volume, at: *at, len: data.len() as u64 }),
            Self::Zero { span, .. } | Self::Trim { span, .. } => Some(*span),
            Self::Read(_) | Self::Flush => None,
        }
    }
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// This node does not serve, or not any more: whether a write was done is unknown, and it will never be told.
    NotServing,
    /// The local disk failed.
    Io,
    /// The range is not on the volume, or larger than the activity log can hold at once.
    Invalid,
}

/// What is done on the local disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    Read(Span),
    Digest(Span),
    /// The range goes into the undo log under this number, durably before it is done. A log that is full fails.
    Keep {
        span: Span,
        number: u64,
    },
    Write {
        volume: VolumeNo,
        at: u64,
        data: Bytes,
        fua: bool,
    },
    Zero {
        span: Span,
        fua: bool,
    },
    Trim(Span),
    /// What was written before is durable, on all volumes.
    Flush,
}

impl Job {
    #[must_use]
    pub fn span(&self) -> Option<Span> {
        match self {
            Self::Read(span) | Self::Digest(span) | Self::Trim(span) => Some(*span),
            Self::Zero { span, .. } | Self::Keep { span, .. } => Some(*span),
            Self::Write { volume, at, data, .. } => Some(Span { volume: *volume, at: *at, len: data.len() as u64 }),
            Self::Flush => None,
        }
    }

    fn is_fua(&self) -> bool {
        matches!(self, Self::Write { fua: true, .. } | Self::Zero { fua: true, .. })
    }

    fn changes(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Zero { .. } | Self::Trim(_))
    }
}

/// What the local disk answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Data(Bytes),
    Digest(Digest),
    Failed,
}

/// Everything that the machine learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed; at least every [`TICK`].
    Tick,
    Ask {
        id: RequestId,
        ask: Ask,
    },
    Done {
        io: Io,
        answer: Answer,
    },
    /// The batch's pages are durable.
    Persisted {
        batch: u64,
    },
    /// The metadata can not be written: the replica is of no use any more.
    MetadataFailed,
    /// A connection to a standby that this node opened: it speaks first.
    Connected {
        link: Link,
    },
    Received {
        link: Link,
        frame: Frame,
    },
    Disconnected {
        link: Link,
    },

    // From the node's machine.
    /// From this epoch on frames may be taken; `None`: none may. As `Node::takes_writes_of` says. Before the first: none.
    Admit {
        from: Option<Epoch>,
    },
    /// `Node::closing`: to be told by the next report once nothing is admitted any more.
    Close {
        number: u64,
    },
    /// The cluster that this node is part of: a replica of none becomes one of its; one of another's takes no part.
    Belong {
        lineage: Lineage,
    },
    /// An operator's wish; done if [`Replica::judge`] has nothing against it.
    Command(Command),
    /// `Effect::Promise` of the node.
    Promise {
        epoch: Epoch,
    },
    /// This node holds `epoch`, which was promised, and has activated it: serve.
    Lead {
        epoch: Epoch,
        need: BTreeSet<Incarnation>,
    },
    /// Who is needed now (`Authority::need`), said after report number `seen` was taken in.
    Need {
        epoch: Epoch,
        need: BTreeSet<Incarnation>,
        seen: u64,
    },
    /// The gate: closed, nothing is completed. Open again only within the same epoch.
    Freeze {
        frozen: bool,
    },
    /// The epoch is over for this node: everything ends in error, and nothing of it is ever resumed.
    Fence,
}

/// Everything that the machine can cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Do this on the local disk; answer with [`Event::Done`]. Any number at once, in any order.
    Submit {
        io: Io,
        job: Job,
    },
    /// Write these pages, then make them durable; answer with [`Event::Persisted`].
    Persist(Batch),
    Send {
        link: Link,
        frame: Frame,
    },
    /// Close the connection; whatever still comes in on it is not heard.
    HangUp {
        link: Link,
        why: Bye,
    },
    /// The request is done. A write: written here and on every member of `need` (with FUA: durable there), or the node has
    /// shrunk who is missing out of the row. A flush: durable there.
    Answer {
        id: RequestId,
        result: Result<Bytes, Refusal>,
    },
    /// For the node's machine, before anything that follows from it.
    Report(Report),
    /// What is in the undo log is of no use any more. Nothing waits for it; what is kept later is not meant.
    DropKept,
    /// For the log.
    Tell(Notice),
}

/// What the node's machine is told: `Event::Replica` of the node, and what an operator asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rises with each; given back in [`Event::Need`].
    pub number: u64,
    /// A whole image, on a disk that works.
    pub consistent: bool,
    /// Durable, and drained.
    pub promised: Epoch,
    /// The last [`Event::Close`] that found nothing admitted.
    pub closed: Option<u64>,
    /// As standby: the epoch in which the holder has last said that this copy has everything.
    pub caught_up: Option<Epoch>,
    /// As holder: whose copies have all that was ever completed here. Nothing is completed without them until the node has
    /// answered the report in which one is missing.
    pub mirrored: BTreeSet<Incarnation>,
    /// Members of `need` that hold up what waits to be completed, or that are known to differ: the node is asked to shrink them out.
    pub missing: BTreeSet<Incarnation>,
    /// A peer has promised a higher epoch than this node's.
    pub fenced_by: Option<Epoch>,
    /// The disk failed or stands still: hand over (holder), or leave (standby).
    pub failed: bool,
    /// This data is another cluster's: it counts as nobody's here.
    pub stranger: bool,
    /// Peers with which history has diverged: refused until somebody decides.
    pub diverged: BTreeSet<Incarnation>,
}

/// A guard that can be left out in tests, to see that somebody notices. Each names the invariant that it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// 1: acknowledged by all of `need`.
    AckOfAll,
    /// 1: who was said to be mirrored is waited for until the node knows better.
    UnsaidFirst,
    /// 2: hot before data.
    HotFirst,
    /// 3: kept and claimed until durable, not until written.
    KeepUntilDurable,
    /// 3: a copied chunk is clean once durable, not once sent.
    CleanWhenDurable,
    /// 3: what an absent peer misses is marked.
    MarkAbsent,
    /// 3: what a standby has taken is marked when it leads.
    MarkUnsettled,
    /// 4: the standby's own marks are resynced too.
    UnionOfMarks,
    /// 5: frames below the promise are refused.
    RefuseOlder,
    /// 5: a promise is durable before it is answered.
    PersistPromise,
    /// 5: what older epochs left in the queue is drained before.
    DrainOlder,
    /// 6: inconsistent before the first byte.
    MarkInconsistent,
    /// 6: whoever has left the set while it was copied to is marked before more is completed without it.
    TearWhoLeft,
    /// 6: durable before whole again.
    FlushBeforeWhole,
    /// 7: a flush is durable on all.
    FlushAll,
    /// 8: where ranges meet, the order is one.
    OrderMeeting,
    /// 10: a read waits for the writes that it would see.
    ReadAfterWrites,
    /// 5: what a killed process left in a cache is made durable before it is relied on.
    SureFirst,
    /// 1: behind a closed gate nothing is read either.
    GateReads,
    /// 3: nothing of a stream is settled while a write from before it is not durable everywhere.
    SettleElders,
    /// 3: marks against companions stay until the stream is settled.
    KeepForCompanions,
    /// 6: an image that is sent again what it may have lost is marked.
    MarkResent,
    /// 3: what a new primary has not flushed is not copied.
    FlushFirst,
    /// 1: a generation is durable before its place in the stream is.
    SaveBeforeEnd,
    /// A generation begins when a replica in step is let go.
    TurnOnLetGo,
    /// A half image does not know the generation of what it lacks.
    ResyncFirst,
    /// 11: who differs leaves the set.
    SetApart,
    /// 11: who differs is not copied over before somebody has asked.
    AskFirst,
    /// 10: what a peer had is not written over what is newer.
    RepairUndone,
    /// 6: what a resync overwrites is kept before.
    KeepFirst,
    /// 6: an undo log that is given up is not taken for whole by anybody, before it lacks something.
    GiveUpFirst,
    /// 12: a round is durable before the next one begins.
    RoundsInOrder,
    /// 12: sent again is what was not reached, or the image is marked before.
    SendUnreached,
    /// 12: a replica that follows does not know the generation that it may lack something of.
    FollowerUnknowing,
    /// 12: who lags is told from since when, not until when.
    LagFromProbe,
}

/// What a machine is told when it is made.
#[derive(Clone, Debug)]
pub struct Setup {
    /// New with each process.
    pub life: Life,
    /// No volatile cache is offered: every write is durable on all of `need` before it is answered.
    pub write_through: bool,
    /// How this replica follows whoever leads.
    pub follow: Follow,
    /// How fast it brings others up to date, as holder.
    pub resync: rate::Limits,
    /// There is an undo log: [`Job::Keep`] can be done.
    pub keeps: bool,
}

/// Whose a work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Of a role that is over.
    Orphan,
    /// The primary's write with this number.
    Write(u64),
    Read(RequestId),
    /// The primary's own flush; the number counts flushes.
    Flush(u64),
    /// A chunk on its way to a peer, and whether it is to be compared first.
    Chunk {
        slot: Slot,
        session: crate::ids::Session,
        extent: u32,
        bit: u32,
        compare: bool,
    },
    /// A chunk of a verification, by its number.
    Verify {
        run: u64,
        span: Span,
    },
    /// What a peer had, written here again.
    Repair(Span),
    /// A frame of the standby's stream.
    Stream(crate::ids::Sequence),
    /// A chunk on its way into the undo log.
    Keep {
        extent: u32,
        bit: u32,
    },
    /// What the primary cannot read.
    StreamRead(crate::ids::Sequence),
    /// The standby's flush, up to there.
    StreamFlush(crate::ids::Sequence),
}

#[derive(Debug)]
enum Role {
    Standby(Box<Standby>),
    Leading(Box<Primary>),
}

/// One replica. Owns all its state.
#[derive(Debug)]
pub struct Replica {
    setup: Setup,
    store: Store,
    works: Works<Owner>,
    role: Role,
    admitted: Option<Epoch>,
    closed: Option<u64>,
    /// Asked by the node or by a primary: told once durable and drained.
    promise_version: u64,
    /// Since this version of the superblock the image is whole, if it is.
    whole_version: u64,
    /// The last of them was told to the node.
    reported: Report,
    frozen: bool,
    /// In this process, all that was ever completed was on this disk, and nothing has come between since.
    intact: bool,
    failed: bool,
    /// It failed by standing still, and nothing that it answered since was an error.
    stalled: bool,
    stranger: bool,
    /// What a resync overwrites here.
    kept: undo::Kept,
    /// A batch of metadata is on its way since then.
    persisting: Option<Moment>,
    /// The last tick.
    ticked: Option<Moment>,
    /// What recovery marked is a guess: compare before copying.
    guesses: bool,
    /// Of this step.
    now: Moment,
    /// The last verification here, and how many there were.
    verification: Option<verify::Verification>,
    verifications: u64,
    /// Of each resync.
    windows: resync::Windows,
    tally: Tally,
    out: Vec<Effect>,
    #[cfg(test)]
    pub(crate) without: Option<Guard>,
}

impl Replica {
    /// A replica whose metadata was read, see [`Store::recover`]; `guesses` as the recovery says.
    #[must_use]
    pub fn new(setup: Setup, store: Store, guesses: bool) -> Self {
        let windows = resync::Windows::of(store.geometry().chunk_shift());
        let mut replica = Self {
            setup,
            store,
            works: Works::new(),
            role: Role::Standby(Box::default()),
            admitted: None,
            closed: None,
            promise_version: 0,
            whole_version: 0,
            reported: Report::default(),
            frozen: false,
            intact: false,
            failed: false,
            stalled: false,
            stranger: false,
            kept: undo::Kept::default(),
            persisting: None,
            ticked: None,
            guesses,
            now: Moment::default(),
            verification: None,
            verifications: 0,
            windows,
            tally: Tally::default(),
            out: Vec::new(),
            #[cfg(test)]
            without: None,
        };
        // What the superblock says may not be on both copies yet. And what is overwritten without a log is not kept.
        let keeps = replica.setup.keeps;
        replica.promise_version =
            replica.store.change(|superblock| superblock.undo.take_if(|_| !keeps).map_or((), drop));
        replica.whole_version = replica.promise_version;
        replica
    }

    /// Takes one event in and adds what it causes to `out`, in order.
    pub fn step(&mut self, event: Event, now: Moment, out: &mut Vec<Effect>) {
        self.take_in(event, now);
        self.conclude(now, out);
    }

    /// Takes one of several events in that came together, in order: many writes cost one look at what follows from them, and are
    /// acknowledged in one frame. Nothing follows from it before [`Self::conclude`].
    pub fn take_in(&mut self, event: Event, now: Moment) {
        self.now = now;
        match event {
            Event::Tick => self.tick(now),
            Event::Ask { id, ask } => self.ask(id, ask, now),
            Event::Done { io, answer } => self.done(io, answer),
            Event::Persisted { batch } => {
                self.persisting = None;
                self.store.persisted(batch);
            }
            Event::MetadataFailed => self.fail(),
            Event::Connected { link } => self.connected(link, now),
            Event::Received { link, frame } => match &self.role {
                Role::Standby(_) => self.take(link, frame),
                Role::Leading(_) => self.heard(link, frame, now),
            },
            Event::Disconnected { link } => self.lost(link),
            Event::Admit { from } => self.admit(from),
            Event::Close { number } if self.admitted.is_none() => self.closed = Some(number),
            // Admitted again since: whoever asked has given it up.
            Event::Close { .. } => {}
            Event::Belong { lineage } => self.belong(lineage),
            Event::Command(command) => self.command(command, now),
            Event::Promise { epoch } => self.promise(epoch),
            Event::Lead { epoch, need } => self.lead(epoch, need, now),
            Event::Need { epoch, need, seen } => self.needed(epoch, need, seen),
            Event::Freeze { frozen } => self.freeze(frozen),
            Event::Fence => self.fence(),
        }
    }

    /// Adds to `out`, in order, what follows from all that was taken in.
    pub fn conclude(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.now = now;
        self.settle(now);
        out.append(&mut self.out);
    }

    /// Whether another request may come in: what is kept, and what waits, is bounded.
    #[must_use]
    pub fn takes_requests(&self) -> bool {
        match &self.role {
            Role::Standby(_) => true,
            Role::Leading(primary) => primary.takes_requests(),
        }
    }

    /// The epoch that this replica leads.
    #[must_use]
    pub fn leads(&self) -> Option<Epoch> {
        match &self.role {
            Role::Standby(_) => None,
            Role::Leading(primary) => Some(primary.epoch),
        }
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    fn belong(&mut self, lineage: Lineage) {
        let superblock = self.store.superblock();
        if superblock.lineage == unclaimed() {
            self.whole_version = self.store.change(|superblock| superblock.lineage = lineage);
        } else if superblock.lineage != lineage {
            self.stranger = true;
        }
    }

    // --- epochs --------------------------------------------------------------------------------------------------

    /// Refuses what is older from now on, durably; see [`Self::is_promised`] for when it may be told.
    fn promise(&mut self, epoch: Epoch) {
        if epoch > self.store.superblock().promised {
            self.promise_version = self.store.change(|superblock| superblock.promised = epoch);
            if let Role::Standby(standby) = &self.role
                && let Some(session) = &standby.session
            {
                self.out.push(Effect::HangUp { link: session.link, why: Bye::Closing });
                self.end_session();
            }
        }
    }

    /// Durable, and nothing that was taken of older epochs is on its way to the disk (invariant 5).
    fn is_promised(&self) -> bool {
        let durable = self.store.saved() >= self.promise_version || self.omits(Guard::PersistPromise);
        durable && (self.works.is_idle() || self.omits(Guard::DrainOlder))
    }

    /// Everything of this role ends; what it leaves unfinished is marked as different from everybody's.
    fn fence(&mut self) {
        if matches!(self.role, Role::Leading(_)) {
            let Role::Leading(primary) = std::mem::replace(&mut self.role, Role::Standby(Box::default())) else {
                unreachable!("it was leading")
            };
            self.abdicate(*primary);
        }
        // Said of that role, or of one that had ended before it was told.
        self.frozen = false;
    }

    /// The disk failed, and the image counts as nobody's. A holder is none any more: what it was asked, and what it is asked from
    /// now on, ends in error. Whoever waited without an end could not be stopped, and the lease not handed over.
    fn fail(&mut self) {
        (self.failed, self.stalled) = (true, false);
        self.fence();
        if let Role::Standby(standby) = &self.role
            && let Some(session) = &standby.session
        {
            self.out.push(Effect::HangUp { link: session.link, why: Bye::DiskFailed });
            self.end_session();
        }
    }

    fn introduction(&self) -> Introduction {
        let superblock = self.store.superblock();
        Introduction {
            lineage: superblock.lineage.clone(),
            incarnation: superblock.incarnation.clone(),
            life: self.setup.life,
            chunk_shift: superblock.geometry.chunk_shift(),
            features: FETCHES
                | ROUNDS
                | if self.intact { INTACT } else { 0 }
                | if self.setup.follow == Follow::Async { FOLLOWS } else { 0 },
            volumes: superblock.geometry.volumes().to_vec(),
        }
    }

    /// Of the same cluster, and not this replica itself.
    fn is_kin(&self, other: &Introduction) -> bool {
        let mine = self.store.superblock();
        other.lineage == mine.lineage
            && other.incarnation != mine.incarnation
            && other.chunk_shift == mine.geometry.chunk_shift()
    }

    /// Whether a replica can hold all that who leads has: its volumes are as large, or larger since they were resized.
    fn holds_all_of(standby: &[u64], primary: &[u64]) -> bool {
        standby.len() == primary.len() && standby.iter().zip(primary).all(|(standby, primary)| primary <= standby)
    }

    /// Whole, durably so, and on a disk that works.
    fn is_whole(&self) -> bool {
        let whole = self.store.superblock().state == DataState::Whole;
        whole && self.store.saved() >= self.whole_version && !self.failed && !self.stranger
    }

    fn tick(&mut self, now: Moment) {
        // After a suspension, a stop or a long wait for the processor: what the disk has answered meanwhile is still to be read.
        if self.ticked.replace(now).is_some_and(|before| now.longest_since(before) >= HELD_UP) {
            self.works.begin_again(now);
            self.persisting = self.persisting.map(|_| now);
        }
        let persisting = self.persisting.map_or(Millis::ZERO, |since| now.longest_since(since));
        if !self.failed && persisting.max(self.works.slowest(now)) >= STALL {
            self.fail();
            self.stalled = true;
        } else if self.stalled && self.works.is_idle() && self.persisting.is_none() {
            // All that it had been given has ended well: a disk that was moved, and no broken one. What it missed is copied.
            (self.failed, self.stalled, self.intact) = (false, false, false);
        }
        if matches!(self.role, Role::Leading(_)) {
            self.tend(now);
        }
    }

    #[cfg(test)]
    fn omits(&self, guard: Guard) -> bool {
        self.without == Some(guard)
    }
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "in tests it looks")]
    fn omits(&self, _: Guard) -> bool {
        false
    }
}
