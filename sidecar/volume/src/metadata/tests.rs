//! Random work on a disk that loses, tears and reorders whatever was not flushed, a crash at every point of it, and what must
//! hold after each: nothing that may differ is reported clean, and no promise that was answered is forgotten.

use super::activity::ActivityLog;
use super::*;
use crate::ids::{Generation, PEERS_MAX, Span, VolumeNo};
use bytes::Bytes;
use lease::ids::{Epoch, Incarnation, Lineage};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const SECTOR: usize = 512;

fn name(text: &str) -> Incarnation {
    Incarnation::new(text).expect("a name")
}

/// 4 KiB chunks, so that an extent is 256 KiB: two volumes of 9 and 3 extents, the last of each cut short.
fn geometry(slots: u16) -> Geometry {
    Geometry::new(vec![(8 * 64 + 5) * 4096, (2 * 64 + 1) * 4096], 12, slots).expect("possible")
}

fn format(slots: u16) -> (Store, BTreeMap<u64, Vec<u8>>) {
    let (store, pages) = Store::format(Lineage::new("l").expect("a name"), name("me"), geometry(slots));
    (store, pages.into_iter().map(|(at, page)| (at, page.to_vec())).collect())
}

#[test]
fn a_range_touches_the_chunks_it_reaches_into_and_no_others() {
    let geometry = geometry(3);
    let touched = |volume, at, len| geometry.touched(Span { volume: VolumeNo(volume), at, len }).collect::<Vec<_>>();
    assert_eq!(geometry.extents(), 12);
    assert_eq!(touched(0, 0, 4096), [(0, 1)]);
    assert_eq!(touched(0, 4095, 2), [(0, 3)]);
    assert_eq!(touched(0, 63 * 4096, 8192), [(0, 1 << 63), (1, 1)]);
    assert_eq!(touched(1, 0, 64 * 4096), [(9, u64::MAX)]);
    assert_eq!(geometry.full(8), 0b1_1111);
    assert_eq!(geometry.full(11), 1);
    assert_eq!(geometry.chunk(9, 1), Span { volume: VolumeNo(1), at: 4096, len: 4096 });
    assert!(!geometry.holds(Span { volume: VolumeNo(1), at: 128 * 4096, len: 8192 }));
    assert!(!geometry.holds(Span { volume: VolumeNo(2), at: 0, len: 512 }));
}

#[test]
fn memory_and_area_stay_within_what_is_stated() {
    let geometry = Geometry::new(vec![1 << 40], 16, 1838).expect("possible");
    assert!(geometry.area() < 15 << 20, "{} bytes", geometry.area());
    let finest = Geometry::new(vec![1 << 40], 12, 1838).expect("possible");
    assert!(u64::from(finest.extents()) * 8 * PEERS_MAX as u64 <= 224 << 20);
    assert_eq!(Geometry::new(vec![100], 16, 64), Err(Unfit::Size { found: 100 }));
    assert_eq!(Geometry::new(vec![4096], 8, 64), Err(Unfit::Chunk { found: 8 }));
}

#[test]
fn a_superblock_is_read_as_it_was_written_and_its_bytes_are_pinned() {
    let (mut store, _) = format(3);
    store.slot(&name("peer"), |_| false).expect("room");
    store.change(|superblock| {
        superblock.promised = Epoch(7);
        superblock.state = DataState::Inconsistent;
        superblock.begin(Generation { epoch: Epoch(7), turn: 1 });
    });
    let page = store.superblock().encode(9);
    assert_eq!(Superblock::decode(Some(&page)), Ok((9, store.superblock().clone())));
    assert_eq!(
        page[PAGE - 4..],
        [24, 49, 198, 17],
        "the layout has changed: raise the version and keep the old one readable"
    );
}

/// Doubt is in what the first programs left zero; and one write of the superblock ends it and puts all of the copy in question.
#[test]
fn a_peer_that_differs_stays_so_until_all_of_it_is_in_question() {
    let (mut store, mut disk) = format(3);
    let save = |store: &mut Store, disk: &mut BTreeMap<u64, Vec<u8>>| {
        while let Some(batch) = store.next_batch(std::iter::empty(), true) {
            disk.extend(batch.pages.iter().map(|(at, page)| (*at, page.to_vec())));
            store.persisted(batch.number);
        }
    };
    let found = |disk: &BTreeMap<u64, Vec<u8>>| {
        Store::recover(|at| disk.get(&at).map(|page| Bytes::copy_from_slice(page))).expect("a superblock").0
    };
    let one = store.slot(&name("one"), |_| false).expect("room");
    let two = store.slot(&name("two"), |slot| slot == one).expect("room");
    [one, two].into_iter().for_each(|slot| store.clear_all(slot));
    store.mark(two, Span { volume: VolumeNo(0), at: 0, len: 4096 });
    store.doubt(two);
    save(&mut store, &mut disk);
    let again = found(&disk);
    assert_eq!([one, two].map(|slot| (again.is_doubted(slot), again.marks(slot))), [(false, 0), (true, 1)]);
    store.distrust(two);
    // The superblock alone, before any page of the bitmap.
    let batch = store.next_batch(std::iter::empty(), false).expect("a superblock to save");
    disk.extend(batch.pages.iter().map(|(at, page)| (*at, page.to_vec())));
    let (again, all) = (found(&disk), found(&disk).geometry().extents());
    let full: u64 = (0..all).map(|extent| u64::from(again.geometry().full(extent).count_ones())).sum();
    assert_eq!([one, two].map(|slot| (again.is_doubted(slot), again.marks(slot))), [(false, 0), (false, full)]);
    store.persisted(batch.number);
    store.forget(one);
    save(&mut store, &mut disk);
    assert_eq!(found(&disk).slots().collect::<Vec<_>>(), [two]);
}

/// A page of a bitmap fails to be read at one start: everything is marked. What is marked then must be on the disk before the log
/// forgets it, for at the next start the page may be read well, and say what it said before.
#[test]
fn a_page_that_is_read_well_again_says_nothing_old() {
    let (mut store, mut disk) = format(2);
    let peer = store.slot(&name("peer"), |_| false).expect("room");
    store.clear_all(peer);
    let save = |store: &mut Store, disk: &mut BTreeMap<u64, Vec<u8>>, waiting: &[[u32; 1]], idle: bool| {
        while let Some(batch) = store.next_batch(waiting.iter().map(|one| &one[..]), idle) {
            disk.extend(batch.pages.iter().map(|(at, page)| (*at, page.to_vec())));
            store.persisted(batch.number);
        }
    };
    save(&mut store, &mut disk, &[], true);
    let page = geometry(2).bitmap_page(peer, 0) * PAGE as u64;
    let missing = |at: u64| disk.get(&at).filter(|_| at != page).map(|page| Bytes::copy_from_slice(page));
    let (mut store, recovery) = Store::recover(missing).expect("a superblock");
    assert_eq!(recovery.bitmap_pages_lost, 1);
    // A write that this peer lacks, and as many others as make the log forget it.
    save(&mut store, &mut disk, &[[0]], false);
    store.claim(&[0]);
    store.mark(peer, Span { volume: VolumeNo(0), at: 0, len: 4096 });
    store.release(&[0]);
    for other in 1..4 {
        save(&mut store, &mut disk, &[[other]], false);
    }
    assert!(!store.is_hot(0), "the log has forgotten it");
    let (store, _) = Store::recover(|at| disk.get(&at).map(|page| Bytes::copy_from_slice(page))).expect("a superblock");
    assert!(store.marked(peer, 0) & 1 != 0, "it is reported clean");
}

#[test]
fn history_is_bounded_and_only_grows_forward() {
    let (mut store, _) = format(3);
    store.change(|superblock| {
        for epoch in 1..=100 {
            (0..100).for_each(|turn| superblock.begin(Generation { epoch: Epoch(epoch), turn }));
        }
        superblock.begin(Generation { epoch: Epoch(100), turn: 5 });
    });
    let generations = &store.superblock().generations;
    assert_eq!(generations.len(), crate::ids::GENERATIONS_MAX);
    assert!(generations.iter().all(|generation| generation.turn == 99), "one for each epoch");
    assert_eq!(generations.last(), Some(&Generation { epoch: Epoch(100), turn: 99 }));
}

#[test]
fn what_no_superblock_vouches_for_is_refused() {
    let (_, mut disk) = format(3);
    disk.get_mut(&0).expect("copy A")[100] ^= 1;
    assert!(Store::recover(|at| disk.get(&at).map(|page| page.clone().into())).is_ok());
    disk.get_mut(&4096).expect("copy B")[9] ^= 1;
    let refused = Store::recover(|at| disk.get(&at).map(|page| page.clone().into()));
    assert!(matches!(refused, Err(Refused::NoSuperblock { .. })));
}

#[test]
fn a_ring_with_a_bad_page_says_nothing() {
    let mut ring: BTreeMap<u64, Bytes> = ActivityLog::blank_ring().collect();
    let whole = |ring: &BTreeMap<u64, Bytes>| ActivityLog::recover(3, 12, |at| ring.get(&at).cloned()).is_some();
    assert!(whole(&ring));
    let mut torn = ring[&10].to_vec();
    torn[40] ^= 1;
    ring.insert(10, torn.into());
    assert!(!whole(&ring));
    ring.remove(&10);
    assert!(!whole(&ring));
}

/// A disk, with what was written to it since the last flush.
#[derive(Default)]
struct Disk {
    durable: BTreeMap<u64, Vec<u8>>,
    pending: Vec<(u64, Bytes)>,
}

impl Disk {
    fn flush(&mut self) {
        for (at, page) in std::mem::take(&mut self.pending) {
            self.durable.insert(at, page.to_vec());
        }
    }

    /// Each sector that is not flushed stays or goes, as the bits of `luck` say.
    fn crash(&mut self, mut luck: u64) {
        for (at, page) in std::mem::take(&mut self.pending) {
            let old = self.durable.entry(at).or_insert_with(|| vec![0; PAGE]);
            // Half of the crashes keep or lose whole pages.
            let whole = luck & 1 == 0;
            luck = luck.rotate_right(1);
            for (old, new) in old.chunks_mut(SECTOR).zip(page.chunks(SECTOR)) {
                if luck & 1 == 1 {
                    old.copy_from_slice(new);
                }
                luck = if whole { luck } else { luck.rotate_right(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) };
            }
        }
    }

    fn recover(&self) -> (Store, Recovery) {
        Store::recover(|at| self.durable.get(&at).map(|page| page.clone().into())).expect("a superblock is whole")
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write {
        chunk: u32,
    },
    /// The oldest write ends: durable everywhere, or nothing is known of this peer.
    End {
        lost_at: Option<usize>,
    },
    Resynced {
        peer: usize,
        chunk: u32,
    },
    Promise,
    Meet {
        peer: usize,
    },
    Forget {
        peer: usize,
    },
    Batch {
        idle: bool,
    },
    Flushed,
    Crash {
        luck: u64,
    },
    /// A page that was confirmed can not be read any more: one copy of the superblock, of the ring, or of a bitmap.
    Rot {
        page: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..12 * 64_u32).prop_map(|chunk| Op::Write { chunk }),
        6 => proptest::option::of(0..3_usize).prop_map(|lost_at| Op::End { lost_at }),
        3 => (0..3_usize, 0..12 * 64_u32).prop_map(|(peer, chunk)| Op::Resynced { peer, chunk }),
        1 => Just(Op::Promise),
        1 => (0..3_usize).prop_map(|peer| Op::Meet { peer }),
        1 => (0..3_usize).prop_map(|peer| Op::Forget { peer }),
        10 => any::<bool>().prop_map(|idle| Op::Batch { idle }),
        10 => Just(Op::Flushed),
        2 => any::<u64>().prop_map(|luck| Op::Crash { luck }),
        1 => (0..76_u64).prop_map(|page| Op::Rot { page }),
    ]
}

/// What is true, kept beside the store.
struct World {
    store: Store,
    disk: Disk,
    batch: Option<u64>,
    /// Writes that wait for their extent, and those under way, as (extent, bit).
    waiting: Vec<[u32; 1]>,
    waiting_bits: Vec<u32>,
    under_way: Vec<(u32, u32)>,
    /// By incarnation: what may differ from that peer's.
    differs: BTreeMap<Incarnation, BTreeSet<(u32, u32)>>,
    answered: Epoch,
    asked: Option<(u64, Epoch)>,
    /// Peers whose place is known to be durable.
    met: BTreeMap<Incarnation, u64>,
    lives: usize,
}

impl World {
    fn new(slots: u16) -> Self {
        let (store, durable) = format(slots);
        Self {
            store,
            disk: Disk { durable, pending: Vec::new() },
            batch: None,
            waiting: Vec::new(),
            waiting_bits: Vec::new(),
            under_way: Vec::new(),
            differs: BTreeMap::new(),
            answered: Epoch(0),
            asked: None,
            met: BTreeMap::new(),
            lives: 0,
        }
    }

    fn peer(&self, number: usize) -> Incarnation {
        name(&format!("p{number}"))
    }

    fn admit(&mut self) {
        while self.waiting.first().is_some_and(|[extent]| self.store.is_hot(*extent)) {
            let [extent] = self.waiting.remove(0);
            self.store.claim(&[extent]);
            self.under_way.push((extent, self.waiting_bits.remove(0)));
        }
    }

    fn step(&mut self, op: &Op) {
        self.apply(op);
        // Who had to make room is not known any more.
        let superblock = self.store.superblock();
        self.met.retain(|peer, _| superblock.slot_of(peer).is_some());
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Write { chunk } => {
                let (extent, bit) = (chunk / 64, chunk % 64);
                if self.store.geometry().full(extent) & 1 << bit != 0 && self.waiting.len() < 5 {
                    self.waiting.push([extent]);
                    self.waiting_bits.push(bit);
                    self.admit();
                }
            }
            Op::End { lost_at } => {
                if self.under_way.is_empty() {
                    return;
                }
                let (extent, bit) = self.under_way.remove(0);
                if let Some(peer) = lost_at.map(|peer| self.peer(peer))
                    && let Some(slot) = self.store.superblock().slot_of(&peer)
                {
                    let span = self.store.geometry().chunk(extent, bit);
                    self.store.mark(slot, span);
                    self.differs.entry(peer).or_default().insert((extent, bit));
                }
                self.store.release(&[extent]);
            }
            Op::Resynced { peer, chunk } => {
                let (peer, at) = (self.peer(*peer), (chunk / 64, chunk % 64));
                if let Some(slot) = self.store.superblock().slot_of(&peer) {
                    self.store.clear(slot, at.0, 1 << at.1);
                    self.differs.entry(peer).or_default().remove(&at);
                }
            }
            Op::Promise => {
                let next = self.store.superblock().promised.next();
                self.asked = Some((self.store.change(|superblock| superblock.promised = next), next));
            }
            Op::Meet { peer } => {
                let peer = self.peer(*peer);
                if self.store.superblock().slot_of(&peer).is_none() {
                    let mine: Vec<_> =
                        (0..3).filter_map(|one| self.store.superblock().slot_of(&self.peer(one))).collect();
                    self.store.slot(&peer, |slot| mine.contains(&slot)).expect("seven places for three");
                    self.met.insert(peer.clone(), self.store.change(|_| {}));
                    self.differs.insert(peer, BTreeSet::new());
                }
            }
            Op::Forget { peer } => {
                let peer = self.peer(*peer);
                if let Some(slot) = self.store.superblock().slot_of(&peer) {
                    // As a replaced disk: another incarnation takes its place.
                    let other = name(&format!("x{}", self.lives));
                    self.lives += 1;
                    while self.store.superblock().peers.iter().any(Option::is_none) {
                        let filler = name(&format!("f{}", self.lives));
                        self.lives += 1;
                        self.store.slot(&filler, |_| true).expect("there is room");
                    }
                    assert_eq!(self.store.slot(&other, |used| used != slot), Some(slot));
                    assert_eq!(self.store.marks(slot), 8 * 64 + 5 + 2 * 64 + 1, "nothing of the earlier one counts");
                    self.differs.remove(&peer);
                    self.met.remove(&peer);
                }
            }
            Op::Batch { idle } => {
                let waiting = self.waiting.iter().map(|one| &one[..]);
                if let Some(batch) = self.store.next_batch(waiting, *idle) {
                    self.disk.pending = batch.pages;
                    self.batch = Some(batch.number);
                }
            }
            Op::Flushed => {
                self.disk.flush();
                if let Some(number) = self.batch.take() {
                    self.store.persisted(number);
                }
                if let Some((_, epoch)) = self.asked.take_if(|(version, _)| self.store.saved() >= *version) {
                    self.answered = epoch;
                }
                self.admit();
            }
            Op::Crash { luck } => {
                self.disk.crash(*luck);
                self.recover();
            }
            Op::Rot { page } => {
                // A copy of the superblock rots only while the other is whole, or nothing could be saved.
                let safe =
                    *page >= 2 || self.store.saved() == self.store.change(|_| {}) && self.disk.pending.is_empty();
                if safe && let Some(bytes) = self.disk.durable.get_mut(&(page * PAGE as u64)) {
                    bytes[1000] ^= 0x55;
                    self.disk.crash(0);
                    self.recover();
                }
            }
        }
    }

    fn recover(&mut self) {
        let saved = self.store.saved();
        self.met.retain(|_, version| *version <= saved);
        let (store, _) = self.disk.recover();
        assert!(store.superblock().promised >= self.answered, "a promise was forgotten");
        for peer in self.met.keys() {
            let slot = store.superblock().slot_of(peer).expect("a durable place is still there");
            let differs = self.differs[peer].iter().chain(&self.under_way);
            for (extent, bit) in differs {
                assert!(
                    store.marked(slot, *extent) & 1 << bit != 0,
                    "chunk {extent}.{bit} is reported clean for {peer}"
                );
            }
        }
        let known: Vec<Incarnation> =
            store.superblock().peers.iter().flatten().map(|peer| peer.incarnation.clone()).collect();
        self.differs.retain(|peer, _| known.contains(peer));
        self.met = known.iter().map(|peer| (peer.clone(), 0)).collect();
        for peer in &known {
            // What was under way may have reached the disk here or there.
            self.differs.entry(peer.clone()).or_default().extend(self.under_way.iter().copied());
        }
        self.store = store;
        self.batch = None;
        self.asked = None;
        self.under_way.clear();
        self.waiting.clear();
        self.waiting_bits.clear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_may_differ_is_reported_clean_and_no_promise_is_forgotten(
        slots in 2..6_u16,
        ops in proptest::collection::vec(op(), 1..400),
        luck in any::<u64>(),
    ) {
        let mut world = World::new(slots);
        for peer in 0..3 {
            world.step(&Op::Meet { peer });
            for _ in 0..3 {
                world.step(&Op::Batch { idle: true });
                world.step(&Op::Flushed);
            }
            let slot = world.store.superblock().slot_of(&world.peer(peer)).expect("just met");
            world.store.clear_all(slot);
        }
        for op in &ops {
            world.step(op);
        }
        world.step(&Op::Crash { luck });
    }

    /// Whoever waits is let in once those before it have ended, whatever else waits.
    #[test]
    fn nobody_waits_for_ever(slots in 3..6_u16, wants in proptest::collection::vec((0..12_u32, 0..12_u32), 1..40)) {
        let (mut store, _) = format(slots);
        let mut waiting: Vec<Vec<u32>> = wants.iter().map(|(a, b)| if a == b { vec![*a] } else { vec![*a, *b] }).collect();
        for _ in 0..wants.len() * 4 {
            if let Some(batch) = store.next_batch(waiting.iter().map(Vec::as_slice), false) {
                store.persisted(batch.number);
            }
            // All that are hot at this moment run, then all of them end.
            let hot: Vec<Vec<u32>> =
                waiting.iter().filter(|extents| extents.iter().all(|extent| store.is_hot(*extent))).cloned().collect();
            waiting.retain(|extents| !extents.iter().all(|extent| store.is_hot(*extent)));
            hot.iter().for_each(|extents| store.claim(extents));
            hot.iter().for_each(|extents| store.release(extents));
        }
        prop_assert!(waiting.is_empty(), "{waiting:?} still wait");
    }
}
