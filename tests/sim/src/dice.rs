//! Chance from a seed. Everything random in a simulated world comes from one of these, in a fixed order.

/// splitmix64 (Steele, Lea, Flood 2014): 64 bits of state, one multiplication chain a number, and every seed is a good one.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut dice = Self(seed ^ 0x6c65_6173_6568_6f6c);
        dice.roll();
        dice
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `sides`; 0 for none.
    pub fn below(&mut self, sides: u64) -> u64 {
        if sides == 0 { 0 } else { self.roll() % sides }
    }

    /// From `low` to `high`, both possible.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// Small numbers often, large ones seldom: evenly distributed in magnitude.
    pub fn skewed(&mut self, low: u64, high: u64) -> u64 {
        let top = self.between(low, high.max(low));
        let top = self.between(low, top);
        self.between(low, top)
    }

    /// True `per_million` times in a million.
    pub fn happens(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.below(1_000_000) < u64::from(per_million)
    }

    pub fn index(&mut self, of: usize) -> usize {
        usize::try_from(self.below(of as u64)).unwrap_or(0)
    }

    /// A source of its own, so that what one part asks for does not move another's chance.
    pub fn split(&mut self) -> Self {
        Self::of(self.roll())
    }
}
