//! A node's disks: the volumes' data and their metadata. What was written and not flushed is lost when the power goes, sector by
//! sector, or not.

use crate::dice::Dice;
use std::ops::Range;

pub const SECTOR: usize = 512;

#[derive(Clone, Debug)]
struct Cached {
    at: usize,
    bytes: Vec<u8>,
    /// Written through: survives anyway.
    sure: bool,
}

/// One disk. All ranges are in bytes.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// As it is read now.
    bytes: Vec<u8>,
    durable: Vec<u8>,
    cached: Vec<Cached>,
}

impl Disk {
    #[must_use]
    pub fn blank(size: usize) -> Self {
        Self { bytes: vec![0; size], durable: vec![0; size], cached: Vec::new() }
    }

    /// As a copy of this one would be: what is read now, and all of it durable.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { bytes: self.bytes.clone(), durable: self.bytes.clone(), cached: Vec::new() }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    #[must_use]
    pub fn read(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    pub fn write(&mut self, at: usize, bytes: &[u8], sure: bool) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        if sure && self.cached.is_empty() {
            self.durable[at..at + bytes.len()].copy_from_slice(bytes);
        } else {
            self.cached.push(Cached { at, bytes: bytes.to_vec(), sure });
        }
    }

    /// What a flush that begins now will cover.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.cached.len()
    }

    /// A flush that covers the first `mark` of the writes since the last has ended.
    pub fn flushed(&mut self, mark: usize) {
        for one in self.cached.drain(..mark.min(self.cached.len())) {
            self.durable[one.at..one.at + one.bytes.len()].copy_from_slice(&one.bytes);
        }
    }

    /// What this range holds after the worst loss of power.
    #[must_use]
    pub fn sure(&self, range: Range<usize>) -> Vec<u8> {
        let mut left = self.durable[range.clone()].to_vec();
        for one in self.cached.iter().filter(|one| one.sure) {
            let (from, to) = (one.at.max(range.start), (one.at + one.bytes.len()).min(range.end));
            if from < to {
                left[from - range.start..to - range.start].copy_from_slice(&one.bytes[from - one.at..to - one.at]);
            }
        }
        left
    }

    /// A write that was under way when everything stopped: none, all or some of its sectors have landed.
    pub fn tear(&mut self, at: usize, bytes: &[u8], dice: &mut Dice) {
        let luck = dice.below(3);
        for (number, sector) in bytes.chunks(SECTOR).enumerate() {
            if luck == 1 || luck == 2 && dice.below(2) == 0 {
                self.write(at + number * SECTOR, sector, false);
            }
        }
    }

    pub fn lose_power(&mut self, dice: &mut Dice) {
        let luck = dice.below(3);
        for one in std::mem::take(&mut self.cached) {
            for (number, sector) in one.bytes.chunks(SECTOR).enumerate() {
                if one.sure || luck == 1 || luck == 2 && dice.below(2) == 0 {
                    let at = one.at + number * SECTOR;
                    self.durable[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        self.bytes.clone_from(&self.durable);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_flushed_or_written_through_survives_and_the_rest_may() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..60 {
            let mut disk = Disk::blank(3 * SECTOR);
            disk.write(0, &[1; SECTOR], false);
            let mark = disk.mark();
            disk.write(SECTOR, &[2; SECTOR], false);
            disk.write(2 * SECTOR, &[3; SECTOR], true);
            disk.flushed(mark);
            assert_eq!(disk.sure(SECTOR - 1..SECTOR + 1), [1, 0]);
            assert_eq!(disk.read(SECTOR..SECTOR + 1), [2]);
            disk.lose_power(&mut Dice::of(seed));
            assert_eq!((disk.read(0..1), disk.read(2 * SECTOR..2 * SECTOR + 1)), (&[1][..], &[3][..]));
            seen.insert(disk.read(SECTOR..SECTOR + 1)[0]);
        }
        assert_eq!(seen, [0, 2].into());
    }
}
