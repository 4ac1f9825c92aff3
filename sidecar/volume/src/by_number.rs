//! Maps by number, of what is asked for with each write.
//!
//! The standard library's hasher guards against keys that somebody has chosen so that they meet in one place, and takes longer than
//! all else that such a look-up does. These keys are counted by this process, or are places on a volume: who chooses those slows down
//! its own volume only.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

pub(crate) type ByNumber<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// 2^64 divided by the golden ratio: numbers in a row, and multiples of any power of two, are spread over the upper bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(SPREAD);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    /// The maps take a place by the lower bits.
    fn finish(&self) -> u64 {
        self.0.rotate_left(24)
    }
}

#[cfg(test)]
mod tests {
    use super::NumberHasher;
    use std::collections::HashSet;
    use std::hash::{BuildHasher as _, BuildHasherDefault};

    #[test]
    fn places_in_a_row_are_spread_whatever_their_distance() {
        let hasher = BuildHasherDefault::<NumberHasher>::default();
        for shift in [0, 9, 12, 16, 22, 30, 40] {
            let places: HashSet<u64> =
                (0..1024_u64).map(|number| hasher.hash_one((0_u32, number << shift)) % 1024).collect();
            assert!(places.len() > 400, "{} of 1024 places, multiples of 2^{shift}", places.len());
        }
    }
}
