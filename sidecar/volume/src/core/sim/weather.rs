//! What a run meets.

use crate::core::Guard;
use crate::metadata::PAGE;

/// The group's volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Three extents, some of 64 chunks, with room for two in the log.
    Large,
    /// Twelve extents of two chunks, with room for three: they push each other out all the time.
    Small,
}

impl Layout {
    /// Sizes of the volumes, and slots of the log.
    pub(super) fn shape(self) -> (Vec<usize>, u16) {
        match self {
            Self::Large => (vec![80 * PAGE, 32 * PAGE], 2),
            Self::Small => (vec![2 * PAGE; 12], 3),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A process dies, or its machine loses power.
    Crash,
    /// The same of a standby, which is back at once.
    Blink,
    /// A connection breaks, and both ends hear of it.
    Cut,
    /// A connection takes everything and delivers nothing.
    Mute,
    /// One way of a connection stands still for a while.
    Lag,
    /// A node does not read its reports, and what it says does not arrive, for a while.
    Deaf,
    /// A disk does nothing for a while.
    Slow,
    /// A disk, or its metadata, does nothing any more.
    Stall,
    /// The next write or flush of a disk fails.
    Sick,
    /// The next read of a disk fails.
    Unreadable,
    /// The gate closes for a while.
    Freeze,
    /// A page of the metadata of a node that is down can not be read any more.
    Rot,
    /// A byte of a standby's data changes by itself.
    BitRot,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    /// `None`: two or three, by the seed.
    pub(super) nodes: Option<usize>,
    pub(super) layout: Layout,
    pub(super) steps: usize,
    /// Steps between two faults, on average; and what they are, with their weights.
    pub(super) calm_steps: usize,
    pub(super) faults: &'static [(usize, Fault)],
    /// How much slower everything is than the timers: 1, or more.
    pub(super) pace: u64,
    /// A holder that lives is deposed in one of so many chances; 0: never.
    pub(super) takeover: usize,
    /// It hands over, in one of so many; 0: never.
    pub(super) handover: usize,
    /// A member whose copy answers is let go for its node's silence, in one of so many; 0: never.
    pub(super) whim: usize,
    /// Somebody verifies now and then, and decides what is found.
    pub(super) verifies: bool,
    pub(super) write_through: bool,
    /// The last node follows asynchronously.
    pub(super) follows: bool,
    /// A resync has less under way than the smallest volume has chunks.
    pub(super) narrow: bool,
    /// Standbys keep what a resync overwrites.
    pub(super) keeps: bool,
    pub(super) without: Option<Guard>,
}

/// Something of everything.
pub(super) const ALL: &[(usize, Fault)] = &[
    (4, Fault::Crash),
    (3, Fault::Blink),
    (4, Fault::Cut),
    (1, Fault::Mute),
    (4, Fault::Lag),
    (3, Fault::Deaf),
    (3, Fault::Slow),
    (1, Fault::Stall),
    (1, Fault::Sick),
    (2, Fault::Unreadable),
    (3, Fault::Freeze),
    (1, Fault::Rot),
];

impl Weather {
    /// Changes with the seed, so that a few seeds meet everything.
    pub(super) fn mixed(seed: u64) -> Self {
        Self {
            nodes: None,
            layout: if seed.is_multiple_of(4) { Layout::Large } else { Layout::Small },
            steps: 12_000,
            calm_steps: if seed.is_multiple_of(5) { 40 } else { 200 },
            faults: ALL,
            pace: if seed.is_multiple_of(7) { 20 } else { 1 },
            takeover: 6,
            handover: 4,
            whim: if seed.is_multiple_of(3) { 0 } else { 60 },
            verifies: true,
            write_through: seed.is_multiple_of(2),
            follows: seed % 5 == 3,
            narrow: seed % 4 >= 2,
            keeps: seed % 3 != 1,
            without: None,
        }
    }

    /// These faults only, close together, on two nodes and on three.
    pub(super) const fn of(faults: &'static [(usize, Fault)]) -> Self {
        Self {
            nodes: None,
            layout: Layout::Small,
            steps: 6_000,
            calm_steps: 200,
            faults,
            pace: 1,
            takeover: 30,
            handover: 0,
            whim: 0,
            verifies: false,
            write_through: true,
            follows: false,
            narrow: false,
            keeps: false,
            without: None,
        }
    }

    /// With a volatile cache.
    pub(super) fn cached(self) -> Self {
        Self { write_through: false, ..self }
    }

    /// With a node that follows asynchronously.
    pub(super) const fn followed(self) -> Self {
        Self { follows: true, ..self }
    }

    /// With an undo log.
    pub(super) const fn keeping(self) -> Self {
        Self { keeps: true, ..self }
    }

    /// With hardly a rest between two faults.
    pub(super) fn rough(self) -> Self {
        Self { calm_steps: 40, ..self }
    }

    pub(super) fn three(self) -> Self {
        Self { nodes: Some(3), ..self }
    }

    /// One holder, and somebody who verifies.
    pub(super) const fn verified(self) -> Self {
        Self { takeover: 0, verifies: true, ..self }
    }

    /// Holders hand over, and let members go as their nodes fall silent.
    pub(super) fn fickle(self) -> Self {
        Self { handover: 2, whim: 8, ..self }
    }

    /// Holders that live are often deposed.
    pub(super) fn unruly(self) -> Self {
        Self { takeover: 3, ..self }
    }
}
