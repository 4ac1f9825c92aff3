//! The metadata of one replica, in memory; and the batches of pages that bring the disk up to it.

use super::Refused;
use super::activity::{ActivityLog, Plan};
use super::bitmap::Bitmap;
use super::geometry::Geometry;
use super::page::PAGE;
use super::superblock::{DataState, Peer, Slot, Superblock};
use crate::ids::{PEERS_MAX, Span};
use bytes::Bytes;
use lease::ids::{Incarnation, Lineage};

/// Pages in a batch at most: 1 MiB, a few milliseconds of any disk.
const BATCH_PAGES: usize = 256;

/// Pages to be written, in any order, and then made durable; [`Store::persisted`] with its number when they are. One batch
/// at a time: whatever a later one relies on is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub number: u64,
    /// Byte offset in the area, and the page.
    pub pages: Vec<(u64, Bytes)>,
}

/// What a batch holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// This copy of the superblock at this version.
    Superblock {
        copy: usize,
        version: u64,
    },
    Transaction,
    Pages,
    Ring,
    /// Nothing: pages that nobody reads, for the flush behind them.
    Flush,
}

/// What was found when the area was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Extents that may have been being written: marked as different from every peer's.
    pub hot: u32,
    /// The activity log could not be read: all is marked.
    pub log_lost: bool,
    /// Pages of bitmaps that could not be read: all that they cover is marked. A peer without resync until now has such.
    pub bitmap_pages_lost: u32,
}

impl Recovery {
    /// Whether anything is marked that need not differ: worth comparing before it is copied.
    #[must_use]
    pub fn is_guess(&self) -> bool {
        self.hot > 0 || self.log_lost || self.bitmap_pages_lost > 0
    }
}

#[derive(Debug)]
pub struct Store {
    superblock: Superblock,
    /// Of the superblock in memory; raised by each change.
    version: u64,
    /// Of the two copies on the disk; 0: it can not be read.
    copies: [u64; 2],
    log: ActivityLog,
    /// All that was read is durable. What a process wrote that was killed may still be in a cache: it reads well, and the next
    /// loss of power takes it.
    sure: bool,
    /// The ring is not whole: all bitmaps first, then a new ring, before anything gets hot.
    ring_lost: bool,
    bitmaps: [Option<Bitmap>; PEERS_MAX],
    batches: u64,
    in_flight: Option<(u64, Content)>,
}

impl Store {
    /// A replica without history, and the pages that make it one: all of them durable before it is used.
    #[must_use]
    pub fn format(lineage: Lineage, incarnation: Incarnation, geometry: Geometry) -> (Self, Vec<(u64, Bytes)>) {
        let superblock = Superblock {
            lineage,
            incarnation,
            geometry,
            promised: lease::ids::Epoch(0),
            state: DataState::Whole,
            generations: Vec::new(),
            completed: None,
            peers: [const { None }; PEERS_MAX],
            next_tag: 1,
            undo: None,
        };
        let mut pages: Vec<_> = ActivityLog::blank_ring().map(|(page, bytes)| (page * PAGE as u64, bytes)).collect();
        pages.extend([0, 1].map(|copy| (copy * PAGE as u64, superblock.encode(1))));
        let log = ActivityLog::blank(superblock.geometry.slots());
        (Self::with(superblock, 1, log), pages)
    }

    fn with(superblock: Superblock, version: u64, log: ActivityLog) -> Self {
        Self {
            superblock,
            version,
            copies: [version; 2],
            log,
            sure: true,
            ring_lost: false,
            bitmaps: [const { None }; PEERS_MAX],
            batches: 0,
            in_flight: None,
        }
    }

    /// The replica as it was, with everything marked that may differ. `read` gives the page at a byte offset of the area;
    /// `None`: it can not be read.
    ///
    /// # Errors
    /// [`Refused`]: there is no valid superblock. What was promised is unknown, so nothing may be done with it.
    pub fn recover(mut read: impl FnMut(u64) -> Option<Bytes>) -> Result<(Self, Recovery), Refused> {
        let mut at = |page: u64| read(page * PAGE as u64);
        let copies = [at(0), at(1)].map(|page| Superblock::decode(page.as_deref()));
        let versions = copies.each_ref().map(|copy| copy.as_ref().map_or(0, |(version, _)| *version));
        let (version, superblock) = match copies {
            [Ok(a), Ok(b)] => {
                if a.0 >= b.0 {
                    a
                } else {
                    b
                }
            }
            [Ok(one), Err(_)] | [Err(_), Ok(one)] => one,
            [Err(a), Err(b)] => return Err(Refused::NoSuperblock { a, b }),
        };
        let geometry = superblock.geometry.clone();
        let mut recovery = Recovery::default();
        let log = ActivityLog::recover(geometry.slots(), geometry.extents(), &mut at);
        recovery.log_lost = log.is_none();
        let mut store = Self::with(superblock, version, log.unwrap_or_else(|| ActivityLog::blank(geometry.slots())));
        store.ring_lost = recovery.log_lost;
        store.sure = false;
        store.copies = versions;
        let hot: Vec<u32> = store.log.hot().collect();
        recovery.hot = u32::try_from(hot.len()).expect("few slots");
        for (slot, peer) in store.superblock.peers.iter().enumerate() {
            let Some(peer) = peer else { continue };
            let (mut map, bad) = Bitmap::recover(peer.tag, &geometry, |page| at(geometry.bitmap_page(slot, page)));
            recovery.bitmap_pages_lost += bad;
            if recovery.log_lost {
                (0..geometry.extents()).for_each(|extent| map.set(extent, geometry.full(extent)));
            }
            for extent in &hot {
                map.set(*extent, geometry.full(*extent));
            }
            store.bitmaps[slot] = Some(map);
        }
        Ok((store, recovery))
    }

    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.superblock.geometry
    }

    /// Changes the superblock. The change may be told and relied on once [`Self::saved`] has reached what this returns.
    pub fn change(&mut self, change: impl FnOnce(&mut Superblock)) -> u64 {
        let before = self.superblock.clone();
        change(&mut self.superblock);
        if self.superblock != before {
            self.version += 1;
        }
        self.version
    }

    /// Under another name from now on: to its peers it is a replica that they know nothing of. Before anything else is done; the
    /// pages must be durable, one after the other, before it is used.
    pub fn rename(&mut self, incarnation: Incarnation) -> [(u64, Bytes); 2] {
        // What is in an undo log is of that replica, not of this one.
        self.change(|superblock| (superblock.incarnation, superblock.undo) = (incarnation, None));
        self.copies = [self.version; 2];
        [0, 1].map(|copy| (copy * PAGE as u64, self.superblock.encode(self.version)))
    }

    /// Nothing that it has completed as primary counts any more: whoever leads need not know of it. Its marks stay, and say what is to
    /// be copied over. Before anything else is done; the pages must be durable, one after the other.
    pub fn give_up(&mut self) -> [(u64, Bytes); 2] {
        self.change(|superblock| superblock.completed = None);
        self.copies = [self.version; 2];
        [0, 1].map(|copy| (copy * PAGE as u64, self.superblock.encode(self.version)))
    }

    /// The version of the superblock that both copies have reached, durably.
    #[must_use]
    pub fn saved(&self) -> u64 {
        if self.sure { self.copies[0].min(self.copies[1]) } else { 0 }
    }

    /// As if all that was read were durable: only tests do so.
    pub(crate) fn trust(&mut self) {
        self.sure = true;
    }

    // --- peers and their bitmaps ---------------------------------------------------------------------------------

    /// The place of this replica; a new one has everything marked. Of the places that are taken, one that is not in `used`
    /// is given up: who comes back to it has everything marked again. `None`: all are in use.
    pub fn slot(&mut self, incarnation: &Incarnation, used: impl Fn(Slot) -> bool) -> Option<Slot> {
        if let Some(slot) = self.superblock.slot_of(incarnation) {
            return Some(slot);
        }
        let peers = &self.superblock.peers;
        let slot = (0..PEERS_MAX).find(|slot| peers[*slot].is_none()).or((0..PEERS_MAX).find(|slot| !used(*slot)))?;
        self.begin_bitmap(slot, incarnation.clone());
        Some(slot)
    }

    /// All of this peer's copy may differ from now on, and may be copied over. One write of the superblock says so: no page of
    /// the old bitmap counts any more.
    pub fn distrust(&mut self, slot: Slot) {
        if let Some(peer) = &self.superblock.peers[slot] {
            self.begin_bitmap(slot, peer.incarnation.clone());
        }
    }

    fn begin_bitmap(&mut self, slot: Slot, incarnation: Incarnation) {
        let tag = self.superblock.next_tag;
        self.bitmaps[slot] = Some(Bitmap::full(tag, &self.superblock.geometry));
        self.change(|superblock| {
            superblock.next_tag += 1;
            superblock.peers[slot] = Some(Peer { incarnation, tag, differs: false });
        });
    }

    /// A verification found that this peer differs.
    pub fn doubt(&mut self, slot: Slot) {
        self.change(|superblock| superblock.peers[slot].iter_mut().for_each(|peer| peer.differs = true));
    }

    /// Whether a verification has found so, and nobody has decided since.
    #[must_use]
    pub fn is_doubted(&self, slot: Slot) -> bool {
        self.superblock.peers[slot].as_ref().is_some_and(|peer| peer.differs)
    }

    /// Gives the peer's place and its bitmap up. Should it come back, it has everything marked.
    pub fn forget(&mut self, slot: Slot) {
        self.bitmaps[slot] = None;
        self.change(|superblock| superblock.peers[slot] = None);
    }

    /// The places that are taken.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        let taken = self.bitmaps.each_ref().map(Option::is_some);
        (0..PEERS_MAX).filter(move |slot| taken[*slot])
    }

    fn map(&self, slot: Slot) -> &Bitmap {
        self.bitmaps[slot].as_ref().expect("a place that is taken has a bitmap")
    }
    fn map_mut(&mut self, slot: Slot) -> &mut Bitmap {
        self.bitmaps[slot].as_mut().expect("a place that is taken has a bitmap")
    }

    /// Marks the chunks of the range as different from this peer's. Durable at the latest when their extents leave the log.
    pub fn mark(&mut self, slot: Slot, span: Span) {
        for (extent, mask) in self.superblock.geometry.touched(span) {
            self.bitmaps[slot].as_mut().expect("a place that is taken has a bitmap").set(extent, mask);
        }
    }

    pub fn mark_word(&mut self, slot: Slot, extent: u32, mask: u64) {
        let full = if extent < self.geometry().extents() { self.geometry().full(extent) } else { return };
        self.map_mut(slot).set(extent, mask & full);
    }

    pub fn mark_all(&mut self, slot: Slot) {
        for extent in 0..self.geometry().extents() {
            self.mark_word(slot, extent, u64::MAX);
        }
    }

    /// These chunks are known to be equal at that peer, durably there, and nothing newer is on its way to either.
    pub fn clear(&mut self, slot: Slot, extent: u32, mask: u64) {
        self.map_mut(slot).clear(extent, mask);
    }

    pub fn clear_all(&mut self, slot: Slot) {
        for extent in 0..self.geometry().extents() {
            self.clear(slot, extent, u64::MAX);
        }
    }

    /// The same of all that lies as a whole within volumes of these sizes.
    pub fn clear_within(&mut self, slot: Slot, volumes: &[u64]) {
        for extent in 0..self.geometry().extents() {
            let mask = self.geometry().within(extent, volumes);
            self.clear(slot, extent, mask);
        }
    }

    #[must_use]
    pub fn marked(&self, slot: Slot, extent: u32) -> u64 {
        self.map(slot).word(extent)
    }

    /// Chunks that may differ from this peer's.
    #[must_use]
    pub fn marks(&self, slot: Slot) -> u64 {
        self.map(slot).ones()
    }

    /// The first extent at or after `from` with a mark.
    #[must_use]
    pub fn next_marked(&self, slot: Slot, from: u32) -> Option<u32> {
        let words = self.map(slot).words();
        let at = words.get(from as usize..)?.iter().position(|word| *word != 0)?;
        Some(from + u32::try_from(at).expect("extents fit"))
    }

    // --- the activity log ----------------------------------------------------------------------------------------

    /// Whether the extent is durably hot: only then may data in it change.
    #[must_use]
    pub fn is_hot(&self, extent: u32) -> bool {
        self.log.is_hot(extent)
    }

    /// Whether the extent is hot, or on its way to be.
    pub(crate) fn is_arriving(&self, extent: u32) -> bool {
        self.log.is_arriving(extent)
    }

    /// Changes whenever something got hot.
    pub(crate) fn heat(&self) -> u64 {
        self.log.heat()
    }

    /// Somebody waits for a slot, and all are claimed: it is time to make durable what claims them.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.log.is_full()
    }

    /// Keeps hot extents hot until released as often.
    pub fn claim(&mut self, extents: &[u32]) {
        extents.iter().for_each(|extent| self.log.claim(*extent));
    }

    pub fn release(&mut self, extents: &[u32]) {
        extents.iter().for_each(|extent| self.log.release(*extent));
    }

    // --- the disk ------------------------------------------------------------------------------------------------

    /// What is to be written next; `None`: nothing, or a batch is on its way. `waiting`: the extents of the requests that wait
    /// for their being hot, in order. `idle`: there is time for what only saves work after a crash.
    pub fn next_batch<'a>(&mut self, waiting: impl Iterator<Item = &'a [u32]>, idle: bool) -> Option<Batch> {
        if self.in_flight.is_some() {
            return None;
        }
        let (content, pages) = self.next_content(waiting, idle)?;
        self.batches += 1;
        self.in_flight = Some((self.batches, content));
        let pages = pages.into_iter().map(|(page, bytes)| (page * PAGE as u64, bytes)).collect();
        Some(Batch { number: self.batches, pages })
    }

    fn next_content<'a>(
        &mut self,
        waiting: impl Iterator<Item = &'a [u32]>,
        idle: bool,
    ) -> Option<(Content, Vec<(u64, Bytes)>)> {
        if !self.sure {
            let blank = Bytes::from(vec![0; PAGE]);
            return Some((Content::Flush, Geometry::FREE.map(|page| (page, blank.clone())).collect()));
        }
        // Always the older copy: the newer stays whole meanwhile, so what was read or written once is never lost again.
        if self.saved() < self.version {
            let copy = usize::from(self.copies[1] < self.copies[0]);
            let page = (copy as u64, self.superblock.encode(self.version));
            return Some((Content::Superblock { copy, version: self.version }, vec![page]));
        }
        if self.ring_lost {
            let pages = self.unsaved_pages();
            if pages.is_empty() {
                return Some((Content::Ring, ActivityLog::blank_ring().collect()));
            }
            return Some((Content::Pages, pages));
        }
        let bitmaps = &self.bitmaps;
        let saved = |extent| bitmaps.iter().flatten().all(|map| map.is_saved(extent));
        match self.log.plan(waiting, saved) {
            Plan::Transaction { page, bytes } => Some((Content::Transaction, vec![(page, bytes)])),
            Plan::Save(extents) => Some((Content::Pages, self.pages_of(&extents))),
            Plan::Nothing if idle => {
                let pages = self.unsaved_pages();
                (!pages.is_empty()).then_some((Content::Pages, pages))
            }
            Plan::Nothing => None,
        }
    }

    fn pages_of(&mut self, extents: &[u32]) -> Vec<(u64, Bytes)> {
        let mut pages = Vec::new();
        for (slot, map) in self.bitmaps.iter_mut().enumerate() {
            let Some(map) = map else { continue };
            for extent in extents {
                if let Some(page) = map.unsaved_page_of(*extent) {
                    pages.push((self.superblock.geometry.bitmap_page(slot, page), map.save(page)));
                }
            }
        }
        pages
    }

    fn unsaved_pages(&mut self) -> Vec<(u64, Bytes)> {
        let mut pages = Vec::new();
        for (slot, map) in self.bitmaps.iter_mut().enumerate() {
            let Some(map) = map else { continue };
            for page in map.unsaved_pages(BATCH_PAGES - pages.len()) {
                pages.push((self.superblock.geometry.bitmap_page(slot, page), map.save(page)));
            }
        }
        pages
    }

    /// The batch with this number is durable. Others are ignored.
    pub fn persisted(&mut self, number: u64) {
        let Some((_, content)) = self.in_flight.take_if(|(batch, _)| *batch == number) else { return };
        match content {
            Content::Flush => self.sure = true,
            Content::Superblock { copy, version } => self.copies[copy] = version,
            Content::Transaction => self.log.arrived(),
            Content::Pages => self.bitmaps.iter_mut().flatten().for_each(Bitmap::saved),
            Content::Ring => {
                self.log = ActivityLog::blank(self.geometry().slots());
                self.ring_lost = false;
            }
        }
    }
}
