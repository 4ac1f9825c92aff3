//! Every timer of the protocol and every inequality between them, checked in one place.
//!
//! ```text
//! holder   |--beat--|--beat--|--beat--|   lease L from SEND of the last applied renewal
//!          ^ sent                         |freeze|  at L - margin   |demote| at L
//! watcher    ^ first sight of (epoch, beat)
//!            |------ suspect (W/2) -------|------- W = L(1+ρ)/(1-ρ) -------| may accept
//! promise      given: P <= W on the standby's clock; counted P(1-ρ)/(1+ρ) from the ping's send on the holder's
//! ```

use crate::time::Millis;
use serde::{Deserialize, Serialize};

/// Durations of one cluster, all derived from `ttl_ms` unless the configuration sets them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Policy {
    /// L: how long a lease lasts from the send of the renewal that was applied.
    pub ttl_ms: Millis,
    /// ρ in parts per million: each clock runs within 1 ± ρ of real time.
    pub clock_rate_bound_ppm: u64,
    /// Interval of renewals.
    pub beat_ms: Millis,
    /// Interval of pings from the holder to each standby.
    pub ping_ms: Millis,
    /// P: how long a standby promises, at each ping, not to accept.
    pub promise_ms: Millis,
    /// W: how long a watcher waits from the first sight of an (epoch, beat) before it may accept.
    pub wait_ms: Millis,
    /// Silence after which a standby tells the control plane. Early is free: a nomination is bound to (epoch, beat).
    pub suspect_ms: Millis,
    /// Silence of a standby after which the holder takes it out of the in-sync set.
    pub peer_silence_ms: Millis,
    /// A standby must have answered for this long before it is taken in again, so that a flapping one does not flap the set.
    pub grow_after_ms: Millis,
    /// The gate freezes this long before its deadline.
    pub freeze_margin_ms: Millis,
    /// Interval of heartbeat items.
    pub heartbeat_ms: Millis,
    /// Interval at which a standby reads the row while pings arrive.
    pub row_read_ms: Millis,
    /// How long an orderly hand-over may take before the holder gives it up.
    pub handover_limit_ms: Millis,
    /// R240: take over with an asynchronous standby that lags at most this much. `None`: never lose a write by failover.
    pub lossy_lag_limit_ms: Option<Millis>,
}

/// The smallest lease: below it the kernel's one-second grain of address lifetimes would end service between renewals.
pub const TTL_MIN: Millis = Millis(2_000);
/// The longest lease: the functions wait for an acceptance, and `watch` for two renewals, within one run of theirs.
pub const TTL_MAX: Millis = Millis(20_000);
/// Arithmetic stops here, so that a policy far out of bounds is told to be so instead of dividing by nothing.
const RATE_MAX_PPM: u64 = 900_000;

/// One broken rule between timers: the key, its value and what would be allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: {allowed}")]
pub struct BadPolicy {
    pub key: &'static str,
    pub value: String,
    pub allowed: String,
}

impl Policy {
    /// The defaults for a lease of `ttl_ms`, with ρ = 10 % (chrony's default slew limit is 8.3 %).
    #[must_use]
    pub fn for_ttl(ttl_ms: Millis) -> Self {
        Self::with_rate_bound(ttl_ms, 100_000)
    }

    /// The defaults for a lease of `ttl_ms` on clocks within `clock_rate_bound_ppm` of real time.
    #[must_use]
    pub fn with_rate_bound(ttl_ms: Millis, clock_rate_bound_ppm: u64) -> Self {
        let wait_ms = shortest_wait(ttl_ms, clock_rate_bound_ppm);
        Self {
            ttl_ms,
            clock_rate_bound_ppm,
            beat_ms: Millis(ttl_ms.0 / 4),
            ping_ms: Millis((ttl_ms.0 / 12).clamp(100, 1_000)),
            promise_ms: wait_ms,
            wait_ms,
            suspect_ms: Millis(wait_ms.0 / 2),
            peer_silence_ms: Millis(ttl_ms.0 * 2 / 3),
            grow_after_ms: Millis(1_000),
            freeze_margin_ms: Millis((ttl_ms.0 / 12).max(100)),
            heartbeat_ms: Millis(2_000),
            row_read_ms: Millis(2_000),
            handover_limit_ms: Millis(30_000),
            lossy_lag_limit_ms: None,
        }
    }

    /// How long the holder may count on a promise, from the send of the ping that it answers: P(1-ρ)/(1+ρ), rounded down.
    #[must_use]
    pub fn promise_counts_ms(&self, promised: Millis) -> Millis {
        let rate = u128::from(self.clock_rate_bound_ppm.min(RATE_MAX_PPM));
        let counted = u128::from(promised.0) * (1_000_000 - rate) / (1_000_000 + rate);
        Millis(u64::try_from(counted).unwrap_or(u64::MAX))
    }

    /// How long a program that has just started must refuse to accept: it may have forgotten a promise.
    #[must_use]
    pub fn forgotten_promise_ms(&self) -> Millis {
        self.promise_ms.max(self.wait_ms)
    }

    /// A silent holder's peers wait at least this long for a lease of `ttl`; rows may carry another ttl than the policy.
    #[must_use]
    pub fn wait_for(&self, ttl: Millis) -> Millis {
        self.wait_ms.max(shortest_wait(ttl, self.clock_rate_bound_ppm))
    }

    /// Every inequality that the protocol's proofs use, and the bounds that keep it operable. All violations at once.
    ///
    /// # Errors
    /// One [`BadPolicy`] for each rule that is broken.
    pub fn check(&self) -> Result<(), Vec<BadPolicy>> {
        let mut bad = Vec::new();
        let mut must = |holds: bool, key: &'static str, value: String, allowed: String| {
            if !holds {
                bad.push(BadPolicy { key, value, allowed });
            }
        };
        let ms = |value: Millis| value.0.to_string();
        must(
            (TTL_MIN..=TTL_MAX).contains(&self.ttl_ms),
            "ttl_ms",
            ms(self.ttl_ms),
            format!("use {} to {}", TTL_MIN.0, TTL_MAX.0),
        );
        must(
            (100..=200_000).contains(&self.clock_rate_bound_ppm),
            "clock_rate_bound_ppm",
            self.clock_rate_bound_ppm.to_string(),
            "use 100 to 200000 (0.01 % to 20 %)".into(),
        );
        // W >= L(1+ρ)/(1-ρ): when a watcher's wait is over, the holder's lease is over on every allowed pair of clocks.
        let shortest = shortest_wait(self.ttl_ms, self.clock_rate_bound_ppm);
        must(
            self.wait_ms >= shortest,
            "wait_ms",
            ms(self.wait_ms),
            format!("at least {}, which is ttl_ms (1+ρ)/(1-ρ)", shortest.0),
        );
        // P <= L(1+ρ)/(1-ρ): a standby that restarts under another configuration knows the row's ttl, not the promise it gave;
        // waiting for the row's lease must cover it.
        must(
            self.promise_ms <= shortest,
            "promise_ms",
            ms(self.promise_ms),
            format!("at most {}, which is ttl_ms (1+ρ)/(1-ρ)", shortest.0),
        );
        // Two renewals may fail before the lease runs out. With the bound on freeze_margin_ms below, two beats and the margin fit
        // into the lease with a twelfth to spare: a renewal late by one beat does not freeze service.
        must(
            self.beat_ms.0 >= 100 && self.beat_ms.0 * 3 <= self.ttl_ms.0,
            "beat_ms",
            ms(self.beat_ms),
            format!("use 100 to a third of ttl_ms ({})", self.ttl_ms.0 / 3),
        );
        // Three pings may be lost before a promise runs out on the holder's clock.
        must(
            self.ping_ms.0 >= 50 && self.ping_ms.0 * 4 <= self.promise_counts_ms(self.promise_ms).0,
            "ping_ms",
            ms(self.ping_ms),
            "use 50 to a quarter of what a promise counts on the holder's clock".into(),
        );
        must(
            self.suspect_ms > self.beat_ms && self.suspect_ms < self.wait_ms,
            "suspect_ms",
            ms(self.suspect_ms),
            format!("more than beat_ms ({}) and less than wait_ms ({})", self.beat_ms.0, self.wait_ms.0),
        );
        must(
            self.peer_silence_ms.0 >= 3 * self.ping_ms.0,
            "peer_silence_ms",
            ms(self.peer_silence_ms),
            format!("at least three pings ({})", 3 * self.ping_ms.0),
        );
        must(
            self.freeze_margin_ms.0 >= 100 && self.freeze_margin_ms.0 * 4 <= self.ttl_ms.0,
            "freeze_margin_ms",
            ms(self.freeze_margin_ms),
            format!("use 100 to a quarter of ttl_ms ({})", self.ttl_ms.0 / 4),
        );
        must(
            (500..=10_000).contains(&self.heartbeat_ms.0),
            "heartbeat_ms",
            ms(self.heartbeat_ms),
            "use 500 to 10000".into(),
        );
        must(
            self.row_read_ms.0 >= 100 && self.row_read_ms <= self.wait_ms,
            "row_read_ms",
            ms(self.row_read_ms),
            format!("use 100 to wait_ms ({})", self.wait_ms.0),
        );
        must(
            (1_000..=3_600_000).contains(&self.handover_limit_ms.0),
            "handover_limit_ms",
            ms(self.handover_limit_ms),
            "use 1000 to 3600000".into(),
        );
        if bad.is_empty() { Ok(()) } else { Err(bad) }
    }

    /// A setting that breaks nothing and does next to nothing: R240's limit, where it is shorter than it takes until a standby tells
    /// that the holder is silent. By then whoever follows has heard nothing for about as long. Deployments refuse it; what reads a
    /// configuration that is in use already goes on with it and says so, or a cluster that runs would be without failover.
    ///
    /// # Errors
    /// The [`BadPolicy`], with both figures.
    pub fn check_lag_limit(&self) -> Result<(), BadPolicy> {
        match self.lossy_lag_limit_ms {
            Some(limit) if limit <= self.suspect_ms => Err(BadPolicy {
                key: "lossy_lag_limit_ms",
                value: limit.0.to_string(),
                allowed: format!(
                    "more than suspect_ms ({}), or it hardly ever acts: so long a holder is silent before anybody says so, and whoever \
                     follows it is about as far behind then, however little before; allow some seconds more",
                    self.suspect_ms.0
                ),
            }),
            _ => Ok(()),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::for_ttl(Millis(3_000))
    }
}

/// L(1+ρ)/(1-ρ), rounded up.
fn shortest_wait(ttl: Millis, rate_ppm: u64) -> Millis {
    let rate = u128::from(rate_ppm.min(RATE_MAX_PPM));
    let wait = (u128::from(ttl.0) * (1_000_000 + rate)).div_ceil(1_000_000 - rate);
    Millis(u64::try_from(wait).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_for_every_allowed_ttl() {
        for ttl in [2_000, 2_500, 3_000, 5_000, 10_000, 20_000] {
            for rate in [100, 10_000, 100_000] {
                let policy = Policy::with_rate_bound(Millis(ttl), rate);
                assert_eq!(policy.check(), Ok(()), "ttl {ttl}, rate {rate}");
            }
        }
    }

    #[test]
    fn three_seconds_at_ten_percent() {
        let policy = Policy::default();
        assert_eq!(policy.wait_ms, Millis(3_667));
        assert_eq!(policy.promise_counts_ms(policy.promise_ms), Millis(3_000));
        assert_eq!((policy.beat_ms, policy.ping_ms), (Millis(750), Millis(250)));
    }

    #[test]
    fn all_violations_are_told_at_once() {
        let policy = Policy {
            wait_ms: Millis(3_000),
            promise_ms: Millis(20_000),
            beat_ms: Millis(2_000),
            ping_ms: Millis(9_000),
            ..Policy::default()
        };
        let bad = policy.check().expect_err("four timers are wrong");
        let keys: Vec<_> = bad.iter().map(|bad| bad.key).collect();
        for key in ["wait_ms", "beat_ms", "ping_ms", "promise_ms"] {
            assert!(keys.contains(&key), "{key} in {keys:?}");
        }
    }

    /// Each bound of each timer: the last allowed value, and the first that is not.
    #[test]
    fn each_bound_is_where_it_is_said_to_be() {
        let of_ttl = |ttl| Policy::for_ttl(Millis(ttl));
        let of_rate = |rate| Policy::with_rate_bound(Millis(3_000), rate);
        let with = |change: &dyn Fn(&mut Policy)| {
            let mut policy = Policy::default();
            change(&mut policy);
            policy
        };
        let ping = |ms| with(&|policy| (policy.ping_ms, policy.peer_silence_ms) = (Millis(ms), Millis(9_000)));
        let suspect = |ms| with(&|policy| policy.suspect_ms = Millis(ms));
        let beat = |ms| with(&|policy| policy.beat_ms = Millis(ms));
        let freeze = |ms| with(&|policy| policy.freeze_margin_ms = Millis(ms));
        let heartbeat = |ms| with(&|policy| policy.heartbeat_ms = Millis(ms));
        let row_read = |ms| with(&|policy| policy.row_read_ms = Millis(ms));
        let handover = |ms| with(&|policy| policy.handover_limit_ms = Millis(ms));
        let bounds = [
            ("ttl_ms", of_ttl(2_000), of_ttl(1_999)),
            ("ttl_ms", of_ttl(20_000), of_ttl(20_001)),
            ("clock_rate_bound_ppm", of_rate(100), of_rate(99)),
            ("clock_rate_bound_ppm", of_rate(200_000), of_rate(200_001)),
            ("wait_ms", with(&|policy| policy.wait_ms = Millis(3_667)), with(&|policy| policy.wait_ms = Millis(3_666))),
            (
                "promise_ms",
                with(&|policy| policy.promise_ms = Millis(3_667)),
                with(&|policy| policy.promise_ms = Millis(3_668)),
            ),
            ("beat_ms", beat(100), beat(99)),
            ("beat_ms", beat(1_000), beat(1_001)),
            ("ping_ms", ping(50), ping(49)),
            ("ping_ms", ping(750), ping(751)),
            ("suspect_ms", suspect(751), suspect(750)),
            ("suspect_ms", suspect(3_666), suspect(3_667)),
            (
                "peer_silence_ms",
                with(&|policy| policy.peer_silence_ms = Millis(750)),
                with(&|policy| policy.peer_silence_ms = Millis(749)),
            ),
            ("freeze_margin_ms", freeze(100), freeze(99)),
            ("freeze_margin_ms", freeze(750), freeze(751)),
            ("heartbeat_ms", heartbeat(500), heartbeat(499)),
            ("heartbeat_ms", heartbeat(10_000), heartbeat(10_001)),
            ("row_read_ms", row_read(100), row_read(99)),
            ("row_read_ms", row_read(3_667), row_read(3_668)),
            ("handover_limit_ms", handover(1_000), handover(999)),
            ("handover_limit_ms", handover(3_600_000), handover(3_600_001)),
        ];
        for (key, allowed, refused) in bounds {
            assert_eq!(allowed.check(), Ok(()), "{key}");
            let keys: Vec<_> = refused.check().expect_err(key).iter().map(|bad| bad.key).collect();
            assert_eq!(keys, [key]);
        }
    }

    #[test]
    fn a_lag_limit_that_is_over_before_a_holder_is_told_to_be_silent_is_told() {
        let limit = |limit: Option<u64>| Policy { lossy_lag_limit_ms: limit.map(Millis), ..Policy::default() };
        assert_eq!(limit(None).check_lag_limit(), Ok(()));
        assert_eq!(limit(Some(1_834)).check_lag_limit(), Ok(()));
        let bad = limit(Some(1_833)).check_lag_limit().expect_err("hardly acts");
        let told = bad.to_string();
        assert!(
            told.starts_with("lossy_lag_limit_ms = 1833: more than suspect_ms (1833), or it hardly ever acts"),
            "{told}"
        );
        assert_eq!(limit(Some(1_833)).check(), Ok(()), "a cluster that runs with it goes on");
    }

    #[test]
    fn a_rate_far_out_of_bounds_is_told_and_divides_by_nothing() {
        for rate in [900_000, 1_000_000, u64::MAX] {
            let policy = Policy { clock_rate_bound_ppm: rate, ..Policy::default() };
            let bad = policy.check().expect_err("no clock is that bad");
            assert!(bad.iter().any(|bad| bad.key == "clock_rate_bound_ppm"), "{bad:?}");
            assert_eq!(policy.promise_counts_ms(Millis(19_000)), Millis(1_000));
            assert_eq!(policy.wait_for(Millis(1_000)), Millis(19_000));
        }
    }

    #[test]
    fn the_defaults_of_short_and_long_leases() {
        let short = Policy::with_rate_bound(Millis(2_000), 10_000);
        let timers = |policy: &Policy| {
            let Policy { beat_ms, ping_ms, promise_ms, wait_ms, suspect_ms, peer_silence_ms, freeze_margin_ms, .. } =
                policy;
            [beat_ms, ping_ms, promise_ms, wait_ms, suspect_ms, peer_silence_ms, freeze_margin_ms].map(|timer| timer.0)
        };
        assert_eq!(timers(&short), [500, 166, 2_041, 2_041, 1_020, 1_333, 166]);
        assert_eq!(timers(&Policy::for_ttl(Millis(20_000))), [5_000, 1_000, 24_445, 24_445, 12_222, 13_333, 1_666]);
        assert_eq!(Policy::default(), Policy::for_ttl(Millis(3_000)));
    }

    #[test]
    fn a_promise_counts_less_with_its_holder_by_both_clocks() {
        let policy = Policy::with_rate_bound(Millis(3_000), 10_000);
        assert_eq!(policy.promise_counts_ms(Millis(1_010)), Millis(990));
        assert_eq!(policy.promise_counts_ms(Millis(1_011)), Millis(990), "rounded down");
        assert_eq!(policy.promise_counts_ms(Millis::ZERO), Millis::ZERO);
    }

    #[test]
    fn a_watcher_waits_for_the_longer_of_its_policy_and_the_row() {
        let policy = Policy { wait_ms: Millis(5_000), promise_ms: Millis(3_667), ..Policy::default() };
        assert_eq!(policy.wait_for(Millis(3_000)), Millis(5_000));
        assert_eq!(policy.wait_for(Millis(9_000)), Millis(11_000));
        assert_eq!(policy.forgotten_promise_ms(), Millis(5_000));
        let policy = Policy { promise_ms: Millis(6_000), ..policy };
        assert_eq!(policy.forgotten_promise_ms(), Millis(6_000));
    }

    /// For the worst allowed pair of clocks: a watcher's wait never ends before the lease, a promise never ends on the
    /// standby before the holder stops to count on it.
    #[test]
    fn waits_and_promises_outlast_rights_on_the_worst_clocks() {
        for ttl in 2_000..2_200 {
            for rate in [100, 33_333, 100_000, 199_999] {
                let policy = Policy::with_rate_bound(Millis(ttl), rate);
                let (slow, fast) = (1.0 - rate as f64 / 1e6, 1.0 + rate as f64 / 1e6);
                // Real time that the lease lasts at most: its holder's clock is slow. Real wait at least: the watcher's is fast.
                assert!(policy.ttl_ms.0 as f64 / slow <= policy.wait_ms.0 as f64 / fast + 1e-6);
                let counts = policy.promise_counts_ms(policy.promise_ms).0 as f64;
                assert!(counts / slow <= policy.promise_ms.0 as f64 / fast + 1e-6);
            }
        }
    }
}
