//! What the clients were told, and what may be found on a disk because of it.

use super::disk::SECTOR;
use lease::time::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A problem, in words; or none.
pub(super) type Outcome = Result<(), String>;

#[derive(Debug)]
pub(super) struct Ledger {
    /// For each sector: the tag that may not be gone back behind, and the one that not even a loss of power may take.
    seen: Vec<u64>,
    durable: Vec<u64>,
    /// What was ever asked to be written there, and what was asked to be zeroed; zeros carry no tag.
    written: Vec<BTreeSet<u64>>,
    zeroed: Vec<BTreeSet<u64>>,
    /// Acknowledged, and not covered by a flush.
    unflushed: BTreeMap<u64, Range<usize>>,
    /// For each sector: what was acknowledged for good there, by the number of the acknowledgement.
    order: Vec<Vec<(usize, u64)>>,
    acknowledged: usize,
    /// When each of them was.
    times: Vec<Moment>,
    /// How many of them a write had before it when it was asked.
    floors: BTreeMap<u64, usize>,
}

impl Ledger {
    pub(super) fn new(sectors: usize) -> Self {
        Self {
            seen: vec![0; sectors],
            durable: vec![0; sectors],
            written: vec![BTreeSet::new(); sectors],
            zeroed: vec![[0].into(); sectors],
            unflushed: BTreeMap::new(),
            order: vec![Vec::new(); sectors],
            acknowledged: 0,
            times: Vec::new(),
            floors: BTreeMap::new(),
        }
    }

    pub(super) fn asked(&mut self, sectors: Range<usize>, tag: u64, zeros: bool) {
        let asked = if zeros { &mut self.zeroed } else { &mut self.written };
        for tags in &mut asked[sectors] {
            tags.insert(tag);
        }
        self.floors.insert(tag, self.acknowledged);
    }

    /// What a flush that is asked now covers.
    pub(super) fn unflushed(&self) -> BTreeSet<u64> {
        self.unflushed.keys().copied().collect()
    }

    pub(super) fn done(&mut self, sectors: Range<usize>, tag: u64, durable: bool, now: Moment) {
        for sector in sectors.clone() {
            self.seen[sector] = self.seen[sector].max(tag);
        }
        if durable {
            self.done_for_good(sectors, tag, now);
        } else {
            self.unflushed.insert(tag, sectors);
        }
    }

    fn done_for_good(&mut self, sectors: Range<usize>, tag: u64, now: Moment) {
        self.acknowledged += 1;
        self.times.push(now);
        for sector in sectors {
            self.durable[sector] = self.durable[sector].max(tag);
            self.order[sector].push((self.acknowledged, self.durable[sector]));
        }
    }

    /// A flush has ended. Returns where it made something durable.
    pub(super) fn flushed(&mut self, covers: &BTreeSet<u64>, now: Moment) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        for tag in covers {
            if let Some(sectors) = self.unflushed.remove(tag) {
                self.done_for_good(sectors.clone(), *tag, now);
                ranges.push(sectors);
            }
        }
        ranges
    }

    /// A volatile cache was offered, and a power loss took it from whoever serves now: what no flush covers may be gone.
    pub(super) fn cache_lost(&mut self) {
        self.seen.clone_from(&self.durable);
        self.unflushed.clear();
    }

    /// Somebody has ordered that what was acknowledged may be lost.
    pub(super) fn forgive(&mut self) {
        self.durable.fill(0);
        self.order.iter_mut().for_each(Vec::clear);
        self.cache_lost();
    }

    /// The tag that this sector shows, if it may show it; `after`: nothing older.
    fn shows(&self, sector: usize, bytes: &[u8], after: u64, who: &str) -> Result<u64, String> {
        let tag = u64::from_le_bytes(bytes[..8].try_into().expect("eight"));
        if bytes.chunks(8).any(|word| word != tag.to_le_bytes()) {
            return Err(format!("{who} a torn sector {sector}"));
        }
        // Of several times that zeros were written, the first that is possible.
        let at = if tag == 0 {
            self.zeroed[sector].range(after..).next().copied()
        } else {
            self.written[sector].range(after..).find(|one| **one == tag).copied()
        };
        at.ok_or_else(|| format!("{who} {tag} in sector {sector} after {after}"))
    }

    /// Somebody saw this in a sector: it is there for good.
    pub(super) fn saw(&mut self, sector: usize, bytes: &[u8], who: &str) -> Outcome {
        self.seen[sector] = self.shows(sector, bytes, self.seen[sector], who)?;
        Ok(())
    }

    /// Whether an image from this sector on shows everything that was acknowledged; `durable`: for good.
    pub(super) fn has_all(&self, first: usize, image: &[u8], durable: bool, who: &str) -> Outcome {
        let least = if durable { &self.durable } else { &self.seen };
        for (number, bytes) in image.chunks(SECTOR).enumerate() {
            let sector = first + number;
            self.shows(sector, bytes, least[sector], who)?;
        }
        Ok(())
    }

    /// Whether a whole image is one that a primary had: who shows a write also shows what was acknowledged before that was
    /// asked.
    pub(super) fn is_prefix(&self, image: &[u8], who: &str) -> Outcome {
        let tags = image.chunks(SECTOR).map(|bytes| u64::from_le_bytes(bytes[..8].try_into().expect("eight")));
        let floor = tags.filter_map(|tag| self.floors.get(&tag)).max().copied().unwrap_or(0);
        self.has_first(floor, image, who)
    }

    /// Whether an image shows what was acknowledged for good before then.
    pub(super) fn has_until(&self, until: Moment, image: &[u8], who: &str) -> Outcome {
        let before = self.times.partition_point(|time| time.boottime_us < until.boottime_us);
        self.has_first(before, image, who)
    }

    /// The first so many of what was acknowledged for good.
    fn has_first(&self, floor: usize, image: &[u8], who: &str) -> Outcome {
        for (sector, bytes) in image.chunks(SECTOR).enumerate() {
            let before = self.order[sector].partition_point(|(number, _)| *number <= floor);
            let least = before.checked_sub(1).map_or(0, |last| self.order[sector][last].1);
            self.shows(sector, bytes, least, who)?;
        }
        Ok(())
    }
}
