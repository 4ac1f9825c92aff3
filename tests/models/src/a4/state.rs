//! What a state of A4 is made of. Sets of nodes, blocks and writes are bits.

use volume::core::rules::{Basis, Owed};

pub(super) const NODES: usize = 3;
pub(super) const BLOCKS: usize = 3;
pub(super) const WRITES: usize = 3;
/// Frames on their way in one direction of one session.
const QUEUE: usize = 8;

pub(super) type Set = u8;

pub(super) const fn one(at: usize) -> Set {
    1 << at
}

pub(super) fn each(set: Set) -> impl Iterator<Item = usize> {
    (0..8).filter(move |at| set & one(*at) != 0)
}

/// First in, first out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Queue<T> {
    items: [T; QUEUE],
    len: u8,
}

impl<T: Copy + Default> Queue<T> {
    pub fn push(&mut self, item: T) {
        self.items[usize::from(self.len)] = item;
        self.len += 1;
    }

    pub fn pop(&mut self) -> T {
        let first = self.items[0];
        self.items.copy_within(1.., 0);
        self.items[QUEUE - 1] = T::default();
        self.len -= 1;
        first
    }

    pub fn first(&self) -> Option<T> {
        (self.len > 0).then_some(self.items[0])
    }

    pub fn any(&self, fits: impl Fn(&T) -> bool) -> bool {
        self.items[..usize::from(self.len)].iter().any(fits)
    }

    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Besides a write there may be words of the session to say.
    pub const fn has_room(&self) -> bool {
        self.len as usize + 3 <= QUEUE
    }
}

/// One block of a disk with a volatile cache. A value is the number of the write that left it, from 1; 0: as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Block {
    /// What a read returns.
    pub seen: u8,
    /// Written since the last flush: a loss of power leaves one of these, or what is on the plate.
    pub cached: Set,
    pub plate: u8,
}

impl Block {
    pub fn write(&mut self, value: u8) {
        self.seen = value;
        self.cached |= one(value.into());
        if self.cached | one(self.plate.into()) == one(value.into()) {
            self.cached = 0;
        }
    }

    pub const fn flush(&mut self) {
        (self.plate, self.cached) = (self.seen, 0);
    }

    /// What a loss of power may leave.
    pub const fn may_be(&self) -> Set {
        self.cached | one(self.plate as usize)
    }
}

/// In a stream, to a standby.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Frame {
    #[default]
    Resync,
    Write(u8),
    Copy {
        block: u8,
        value: u8,
    },
    Compare {
        block: u8,
        value: u8,
    },
    State(Set),
    /// With the number of the last flush that was asked.
    Flush(u8),
    CaughtUp(u8),
}

/// All that a session has brought, durable: writes, and copied or compared blocks; and up to which flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Durable {
    pub writes: Set,
    pub blocks: Set,
    pub flush: u8,
}

/// From a standby.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Word {
    #[default]
    Nothing,
    Written(u8),
    Same(u8),
    Differs(u8),
    Durable(Durable),
    InSync(Durable),
}

/// A session, seen from the standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Standing {
    pub primary: u8,
    pub epoch: u8,
    pub session: u8,
    pub stream: Queue<Frame>,
    /// Others that get the same stream.
    pub companions: Set,
    /// Taken in this session.
    pub taken: Durable,
    /// Of these, what is not known to be durable everywhere: claimed in the log.
    pub writes: Set,
    pub copies: Set,
    pub in_sync: bool,
    /// Once these writes are settled, those companions have what is here.
    pub equal: Option<(Set, Set)>,
    /// Only where a rule is left out: to be marked inconsistent after the first block.
    pub late: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stage {
    #[default]
    Away,
    Resyncing,
    Ending,
    InSync,
}

/// Another replica, as the primary knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    pub known: bool,
    pub whole: Option<Basis>,
    pub waited_for: bool,
    /// Its process is the one of the last session.
    pub same_life: bool,
    pub again: bool,
    /// A member that is copied to with its image as good as it was.
    pub spared: bool,
    pub stage: Stage,
    pub session: u8,
    pub compare: bool,
    /// Writes sent in this session; and those that are kept for anybody and were not.
    pub sent: Set,
    pub elders: Set,
    /// Blocks sent and not durable; of these, compared, and found to be the same; compared, and different.
    pub under_way: Set,
    pub compared: Set,
    pub same: Set,
    pub to_copy: Set,
    /// A flush was asked since the last block.
    pub asked: bool,
    /// What the standby has said: which session, and what.
    pub words: Queue<(u8, Word)>,
}

/// A write that is not answered, or not durable everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Op {
    pub kept: bool,
    pub answered: bool,
    pub durable_here: bool,
    pub owed: Owed,
}

/// A flush that the workload asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flush {
    /// Writes that were answered before.
    pub covers: Set,
    /// Whose stream has it; whose end of a resync stands for it; where it is done.
    pub asked: Set,
    pub at_end: Set,
    pub durable: Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Primary {
    pub epoch: u8,
    pub need: Set,
    /// What was here when the epoch began is durable.
    pub flushed: bool,
    /// Every member was found to have what was here when the epoch began: reads are answered.
    pub even: bool,
    pub flushes: u8,
    pub flush: Option<Flush>,
    pub ops: [Op; WRITES],
    pub peers: [Peer; NODES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Standby(Option<Standing>),
    Leading(Primary),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub blocks: [Block; BLOCKS],
    /// In the superblock.
    pub promised: u8,
    pub whole: bool,
    /// In the activity log; each block is an extent of its own.
    pub hot: Set,
    /// Bitmaps: on the disk, and in memory.
    pub saved: [Set; NODES],
    pub marks: [Set; NODES],
    /// Recovery has marked what may not differ.
    pub guesses: bool,
    /// In this process it has had everything.
    pub intact: bool,
    pub role: Role,
    /// Blocks of which a loss of power took what was not flushed, since it last had everything.
    pub excused: Set,
    /// Only where a rule is left out: written, and not yet hot.
    pub cold: Set,
    /// Only where a rule is left out: what an older epoch has left in the queue of the disk.
    pub queued: u8,
}

impl Node {
    pub fn primary(&self) -> Option<&Primary> {
        match &self.role {
            Role::Leading(primary) => Some(primary),
            Role::Standby(_) => None,
        }
    }

    pub fn standing(&self) -> Option<&Standing> {
        match &self.role {
            Role::Standby(standing) => standing.as_ref(),
            Role::Leading(_) => None,
        }
    }

    /// Only where it is known to lead.
    pub fn leading(&mut self) -> &mut Primary {
        match &mut self.role {
            Role::Leading(primary) => primary,
            Role::Standby(_) => unreachable!("it leads"),
        }
    }
}

/// Who holds which epoch, and who may come next: right by construction, for that is A1's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    pub epoch: u8,
    pub holder: u8,
    pub in_sync: Set,
}

/// A write that was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Write {
    pub block: u8,
    /// What was flushed on each block when it was asked for, as far as who took it could know.
    pub before: [u8; BLOCKS],
}

/// What may still go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    pub crashes: u8,
    pub breaks: u8,
    pub epochs: u8,
    pub flushes: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub row: Row,
    pub nodes: [Node; NODES],
    pub writes: [Write; WRITES],
    pub written: u8,
    pub left: Left,
    /// The newest value of each block that was acknowledged or could have been read; and that was acknowledged before a
    /// flush which was.
    pub floor: [u8; BLOCKS],
    pub flushed: [u8; BLOCKS],
    /// Writes that are gone for good: a later holder without them has completed something.
    pub buried: Set,
    /// A write was acknowledged though it was gone.
    pub late_ack: bool,
}

impl State {
    pub fn holds(&self, node: usize) -> bool {
        usize::from(self.row.holder) == node
            && self.nodes[node].primary().is_some_and(|primary| primary.epoch == self.row.epoch)
    }

    pub fn block_of(&self, write: usize) -> usize {
        usize::from(self.writes[write].block)
    }

    /// The blocks that these writes write.
    pub fn blocks_of(&self, writes: Set) -> Set {
        each(writes).fold(0, |set, write| set | one(self.block_of(write)))
    }

    /// Both ends of this session are in it.
    pub fn in_session(&self, primary: usize, peer: usize) -> bool {
        let Some(leading) = self.nodes[primary].primary() else { return false };
        let at = &leading.peers[peer];
        at.stage != Stage::Away
            && self.nodes[peer].standing().is_some_and(|standing| {
                usize::from(standing.primary) == primary
                    && (standing.epoch, standing.session) == (leading.epoch, at.session)
            })
    }
}
