//! The superblock: what may never be forgotten.

use super::geometry::Geometry;
use super::page::{Draft, Kind, PageFault, Reader};
use crate::ids::{GENERATIONS_MAX, Generation, PEERS_MAX};
use bytes::Bytes;
use lease::ids::{Epoch, Incarnation, Lineage};

/// Index of a peer's place in the superblock and of its bitmap; below [`PEERS_MAX`].
pub type Slot = usize;

/// Whether the image is one that the primary had at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataState {
    /// As after a crash of the primary at some moment.
    Whole,
    /// In the middle of a resync, or the disk failed: never to be promoted.
    Inconsistent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub incarnation: Incarnation,
    /// Of the pages of its bitmap; never used twice in one area.
    pub tag: u64,
    /// A verification found that it differs: nothing is copied over it before somebody has asked for that.
    pub differs: bool,
}

/// The last whole image, while a resync overwrites it: what is overwritten is kept under this number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undo {
    /// No other resync of any replica has it.
    pub number: u64,
    /// The history of that image.
    pub generations: Vec<Generation>,
}

/// The lineage of a replica that no cluster has taken in yet.
///
/// # Panics
/// Never.
#[must_use]
pub fn unclaimed() -> Lineage {
    Lineage::new("unclaimed").expect("a valid name")
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Of the cluster; [`unclaimed`] until one has taken it in.
    pub lineage: Lineage,
    /// Of this replica: new on format, restore and clone.
    pub incarnation: Incarnation,
    pub geometry: Geometry,
    /// Frames of older epochs are refused.
    pub promised: Epoch,
    pub state: DataState,
    /// The data's history, oldest first; at most [`GENERATIONS_MAX`].
    pub generations: Vec<Generation>,
    /// The last one in which this replica, as primary, completed writes: set before the first of them.
    pub completed: Option<Generation>,
    pub peers: [Option<Peer>; PEERS_MAX],
    pub next_tag: u64,
    /// Only of an inconsistent image: from what it can be made whole again, as it was.
    pub undo: Option<Undo>,
}

impl Superblock {
    /// Goes on under a new generation. Of each epoch the last turn is kept: a link that comes and goes begins many, and whoever
    /// knows one has what was completed in those before. The oldest epochs are forgotten.
    pub fn begin(&mut self, generation: Generation) {
        if self.generations.last() < Some(&generation) {
            self.generations.pop_if(|last| last.epoch == generation.epoch);
            self.generations.push(generation);
            let surplus = self.generations.len().saturating_sub(GENERATIONS_MAX);
            self.generations.drain(..surplus);
        }
    }

    #[must_use]
    pub fn slot_of(&self, incarnation: &Incarnation) -> Option<Slot> {
        self.peers.iter().position(|peer| peer.as_ref().is_some_and(|peer| peer.incarnation == *incarnation))
    }

    /// `version` tells which of the two copies is newer.
    pub(super) fn encode(&self, version: u64) -> Bytes {
        let mut draft = Draft::new(Kind::Superblock);
        draft.u64(version);
        draft.text(self.lineage.as_str());
        draft.text(self.incarnation.as_str());
        draft.u8(self.geometry.chunk_shift());
        draft.u16(self.geometry.slots());
        draft.u8(u8::try_from(self.geometry.volumes().len()).expect("at most VOLUMES_MAX"));
        for size in self.geometry.volumes() {
            draft.u64(*size);
        }
        draft.u64(self.promised.0);
        draft.u8(match self.state {
            DataState::Whole => 0,
            DataState::Inconsistent => 1,
        });
        draft.u8(u8::try_from(self.generations.len()).expect("at most GENERATIONS_MAX"));
        for generation in &self.generations {
            draft.u64(generation.epoch.0);
            draft.u32(generation.turn);
        }
        let completed = self.completed.unwrap_or_default();
        draft.u64(completed.epoch.0);
        draft.u32(completed.turn);
        draft.u64(self.next_tag);
        for (slot, peer) in self.peers.iter().enumerate() {
            if let Some(peer) = peer {
                draft.u8(u8::try_from(slot).expect("below PEERS_MAX"));
                draft.u64(peer.tag);
                draft.text(peer.incarnation.as_str());
            }
        }
        draft.u8(u8::MAX);
        // Behind what the first programs wrote, and zero where they did.
        let differing = |(slot, peer): (usize, &Option<Peer>)| peer.as_ref().filter(|peer| peer.differs).map(|_| slot);
        draft.u8(self.peers.iter().enumerate().filter_map(differing).fold(0, |set, slot| set | 1 << slot));
        let undo = self.undo.as_ref();
        draft.u64(undo.map_or(0, |undo| undo.number));
        let generations = undo.map_or(&[][..], |undo| &undo.generations);
        draft.u8(u8::try_from(generations.len()).expect("at most GENERATIONS_MAX"));
        for generation in generations {
            draft.u64(generation.epoch.0);
            draft.u32(generation.turn);
        }
        draft.seal()
    }

    pub(super) fn decode(page: Option<&[u8]>) -> Result<(u64, Self), PageFault> {
        let malformed = |what| PageFault::Malformed { what };
        let mut read = Reader::open(page, Kind::Superblock)?;
        let version = read.u64("version")?;
        let lineage = Lineage::new(read.text("lineage")?).map_err(|_| malformed("lineage"))?;
        let incarnation = Incarnation::new(read.text("incarnation")?).map_err(|_| malformed("incarnation"))?;
        let (chunk_shift, slots, count) = (read.u8("chunk")?, read.u16("slots")?, read.u8("volumes")?);
        let volumes = (0..count).map(|_| read.u64("size")).collect::<Result<Vec<_>, _>>()?;
        let geometry = Geometry::new(volumes, chunk_shift, slots).map_err(|_| malformed("geometry"))?;
        let promised = Epoch(read.u64("promised")?);
        let state = match read.u8("state")? {
            0 => DataState::Whole,
            1 => DataState::Inconsistent,
            _ => return Err(malformed("state")),
        };
        let count = read.u8("generations")?;
        let mut generation =
            || Ok::<_, PageFault>(Generation { epoch: Epoch(read.u64("epoch")?), turn: read.u32("turn")? });
        let generations = (0..count).map(|_| generation()).collect::<Result<Vec<_>, _>>()?;
        let completed = Some(generation()?).filter(|completed| completed.epoch > Epoch(0));
        let next_tag = read.u64("tag")?;
        let mut peers = [const { None }; PEERS_MAX];
        loop {
            let slot = read.u8("slot")?;
            if slot == u8::MAX {
                break;
            }
            let tag = read.u64("tag")?;
            let name = Incarnation::new(read.text("peer")?).map_err(|_| malformed("peer"))?;
            let place = peers.get_mut(usize::from(slot)).ok_or(malformed("slot"))?;
            *place = Some(Peer { incarnation: name, tag, differs: false });
        }
        let differing = read.u8("differing")?;
        for (slot, peer) in peers.iter_mut().enumerate() {
            peer.iter_mut().for_each(|peer| peer.differs = differing & 1 << slot != 0);
        }
        let (number, count) = (read.u64("undo")?, read.u8("undo")?);
        let mut generation =
            || Ok::<_, PageFault>(Generation { epoch: Epoch(read.u64("undo")?), turn: read.u32("undo")? });
        let kept = (0..count).map(|_| generation()).collect::<Result<Vec<_>, _>>()?;
        let undo = Some(Undo { number, generations: kept }).filter(|undo| undo.number > 0);
        Ok((
            version,
            Self { lineage, incarnation, geometry, promised, state, generations, completed, peers, next_tag, undo },
        ))
    }
}
