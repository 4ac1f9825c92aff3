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

    /// A write under way when everything stops: some of its sectors land.
    pub(super) fn tear(&mut self, at: usize, bytes: &[u8], dice: &mut Dice) {
        let luck = dice.below(3);
        for (number, sector) in bytes.chunks(SECTOR).enumerate() {
            if luck == 1 || luck == 2 && dice.below(2) == 0 {
                self.write(at + number * SECTOR, sector, false);
            }
        }
    }

    pub(super) fn power_lost(&mut self, dice: &mut Dice) {
        let mode = dice.below(3);
        for one in std::mem::take(&mut self.cached) {
            for (number, sector) in one.bytes.chunks(SECTOR).enumerate() {
                let at = one.at + number * SECTOR;
                if one.sticky || mode == 1 || mode == 2 && dice.below(2) == 0 {
                    self.durable[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        self.bytes.clone_from(&self.durable);
    }
}
