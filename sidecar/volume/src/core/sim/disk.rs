//! A disk that loses what was not flushed, sector by sector, when the power goes.

use super::Dice;

pub(super) const SECTOR: usize = 512;

#[derive(Clone, Debug)]
struct Cached {
    at: usize,
    bytes: Vec<u8>,
    /// FUA: survives anyway.
    sticky: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Disk {
    /// As read now.
    pub(super) bytes: Vec<u8>,
    durable: Vec<u8>,
    cached: Vec<Cached>,
}

impl Disk {
    pub(super) fn new(size: usize) -> Self {
        Self { bytes: vec![0; size], durable: vec![0; size], cached: Vec::new() }
    }

    pub(super) fn write(&mut self, at: usize, bytes: &[u8], sticky: bool) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        if sticky && self.cached.is_empty() {
            self.durable[at..at + bytes.len()].copy_from_slice(bytes);
            return;
        }
        self.cached.push(Cached { at, bytes: bytes.to_vec(), sticky });
    }

    /// What a flush that begins now will cover.
    pub(super) fn mark(&self) -> usize {
        self.cached.len()
    }

    /// A flush that covers the first `mark` writes since the last has ended.
    pub(super) fn flushed(&mut self, mark: usize) {
        for one in self.cached.drain(..mark.min(self.cached.len())) {
            self.durable[one.at..one.at + one.bytes.len()].copy_from_slice(&one.bytes);
        }
    }

    /// Bytes that rot, or were never there: on the medium and in the cache.
    pub(super) fn spoil(&mut self, at: usize, bytes: &[u8]) {
        self.write(at, bytes, true);
    }

    /// A write under way when everything stops: some of its sectors land.
    pub(super) fn tear(&mut self, at: usize, bytes: &[u8], dice: &mut Dice) {
        for (at, sector) in torn(at, bytes, dice) {
            self.write(at, sector, false);
        }
    }

    /// What the medium holds when the power goes now.
    pub(super) fn after_power_loss(&self, dice: &mut Dice) -> Vec<u8> {
        let mode = dice.below(3);
        let mut left = self.durable.clone();
        for one in &self.cached {
            for (number, sector) in one.bytes.chunks(SECTOR).enumerate() {
                let at = one.at + number * SECTOR;
                if one.sticky || mode == 1 || mode == 2 && dice.below(2) == 0 {
                    left[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        left
    }

    /// What survives everything, in this range.
    pub(super) fn sure(&self, range: std::ops::Range<usize>) -> Vec<u8> {
        let mut left = self.durable[range.clone()].to_vec();
        for one in self.cached.iter().filter(|one| one.sticky) {
            let (from, to) = (one.at.max(range.start), (one.at + one.bytes.len()).min(range.end));
            if from < to {
                left[from - range.start..to - range.start].copy_from_slice(&one.bytes[from - one.at..to - one.at]);
            }
        }
        left
    }

    pub(super) fn power_lost(&mut self, dice: &mut Dice) {
        self.durable = self.after_power_loss(dice);
        self.cached.clear();
        self.bytes.clone_from(&self.durable);
    }
}

/// The sectors of a write that land when it is cut off: none, all, or some.
pub(super) fn torn<'a>(at: usize, bytes: &'a [u8], dice: &mut Dice) -> Vec<(usize, &'a [u8])> {
    let luck = dice.below(3);
    let mut lands = || luck == 1 || luck == 2 && dice.below(2) == 0;
    let sectors = bytes.chunks(SECTOR).enumerate().filter(|_| lands());
    sectors.map(|(number, sector)| (at + number * SECTOR, sector)).collect()
}
