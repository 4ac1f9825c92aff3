//! Replicas in a small world: links that break, disks that lose and tear what was not flushed, processes that die and machines
//! that lose power at any step, and an arbiter that is right by construction. What the clients were told is kept beside it.
//!
//! One seed, one run; [`weather`] says what it meets, [`checks`] what must hold. It must also get quiet in the end.

mod arbiter;
mod checks;
mod clients;
mod disk;
mod faults;
mod ledger;
mod operator;
mod stories;
mod tests;
mod weather;
mod world;

/// A small generator (SplitMix64): the same run for the same seed, everywhere.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("below a usize")
    }
}
