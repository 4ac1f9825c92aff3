//! Token buckets in the size that EC2 gives each account and Region for each kind of call. Spending less than AWS
//! allows is faster than being turned away: a throttled call costs a backoff.
//!
//! Source: Amazon EC2 developer guide, "Request throttling": mutating calls 50 at once, then 5 a second;
//! `ModifyNetworkInterfaceAttribute` 100 and 5; filtered or paginated describes 100 and 20.

use lease::time::Millis;

/// One kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ReplaceRoute,
    CreateRoute,
    ModifyInterface,
    /// Each describe action has a bucket of its own at AWS; one for all of them is stricter and simple.
    Describe,
}

/// The buckets of one running function. Other callers of the account share AWS's buckets, so it is a courtesy, not a
/// guarantee: throttling is still retried.
#[derive(Clone, Debug)]
pub struct Budget {
    replace: Bucket,
    create: Bucket,
    modify: Bucket,
    describe: Bucket,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            replace: Bucket::new(50, 5),
            create: Bucket::new(50, 5),
            modify: Bucket::new(100, 5),
            describe: Bucket::new(100, 20),
        }
    }
}

impl Budget {
    /// Takes one token for a call at `now` and says how long the caller must wait before making it.
    pub fn take(&mut self, kind: Kind, now: Millis) -> Millis {
        match kind {
            Kind::ReplaceRoute => &mut self.replace,
            Kind::CreateRoute => &mut self.create,
            Kind::ModifyInterface => &mut self.modify,
            Kind::Describe => &mut self.describe,
        }
        .take(now)
    }
}

/// Thousandths of a token, so that refilling needs no fractions; negative: owed to calls that wait.
#[derive(Clone, Debug)]
struct Bucket {
    full: i64,
    per_ms: i64,
    level: i64,
    at: Millis,
}

impl Bucket {
    fn new(burst: i64, per_second: i64) -> Self {
        Self { full: burst * 1_000, per_ms: per_second, level: burst * 1_000, at: Millis::ZERO }
    }

    fn take(&mut self, now: Millis) -> Millis {
        let elapsed = i64::try_from(now.minus(self.at).0).unwrap_or(i64::MAX);
        self.level = self.level.saturating_add(elapsed.saturating_mul(self.per_ms)).min(self.full);
        self.at = self.at.max(now);
        self.level -= 1_000;
        let owed = u64::try_from(-self.level).unwrap_or(0);
        Millis(owed.div_ceil(self.per_ms.unsigned_abs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_five_a_second() {
        let mut budget = Budget::default();
        let waits: Vec<_> = (0..60).map(|_| budget.take(Kind::ReplaceRoute, Millis(7)).0).collect();
        assert!(waits[..50].iter().all(|wait| *wait == 0));
        assert_eq!(waits[50], 200);
        assert_eq!(waits[59], 2_000);
        // Two seconds pay the debt, ten more fill the bucket again, and never above its size.
        assert_eq!(budget.take(Kind::ReplaceRoute, Millis(2_207)).0, 0);
        for _ in 0..50 {
            assert_eq!(budget.take(Kind::ReplaceRoute, Millis(100_000)).0, 0);
        }
        assert_eq!(budget.take(Kind::ReplaceRoute, Millis(100_000)).0, 200);
    }

    #[test]
    fn kinds_do_not_share() {
        let mut budget = Budget::default();
        for _ in 0..50 {
            budget.take(Kind::ReplaceRoute, Millis::ZERO);
        }
        assert_eq!(budget.take(Kind::CreateRoute, Millis::ZERO), Millis::ZERO);
    }
}
