//! Numbers of the replication: one type each, so that none can be passed for another. Those of the lease come from `lease`.

use std::fmt;

/// Volumes of one group: each has its place in the superblock and in the introduction.
pub const VOLUMES_MAX: usize = 16;
/// Other replicas that one remembers: a cluster has two or three nodes, and replaced disks leave old names behind.
pub const PEERS_MAX: usize = 7;
/// Stretches of history that are told apart. Each new holder begins one, and each member that is lost for a while.
pub const GENERATIONS_MAX: usize = 64;

macro_rules! number {
    ($(#[$doc:meta])* $type:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $type(pub $inner);

        impl $type {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($type), self.0)
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A volume of the consistency group, in the order in which the group was formatted; from 0.
    VolumeNo(u32)
);
number!(
    /// One connected dialogue between a primary and a standby; rises with each within an epoch, so (epoch, session) names
    /// one dialogue for ever: an epoch belongs to one process.
    Session(u64)
);
number!(
    /// Place of a frame in its session's stream, from 1 and without gaps. 0: before all of it.
    Sequence(u64)
);
number!(
    /// One run of a standby's process. What it had written but not flushed survives within a life, not beyond it.
    Life(u64)
);

/// A range of one volume, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Span {
    pub volume: VolumeNo,
    pub at: u64,
    pub len: u64,
}

impl Span {
    /// The first byte behind it. Checked where spans come in: no span reaches past 2^64.
    #[must_use]
    pub fn end(self) -> u64 {
        self.at + self.len
    }

    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.volume == other.volume && self.at < other.end() && other.at < self.end()
    }
}

/// SHA-256 of a range's bytes; computed at the edge, beside the read.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// A stretch of history: the holder's epoch, and how often it has gone on without a member in it. New before the first
/// write that is completed under it, and durable by then on all whose acknowledgement counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Generation {
    pub epoch: lease::ids::Epoch,
    pub turn: u32,
}
