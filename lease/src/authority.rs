//! Authority: may this node serve at this moment? The gate asks nothing else, and nobody else.
//!
//! The holder may serve iff its lease runs, or EVERY other member of `need` has promised for longer than now, or `need`
//! is itself alone, proven in the row, and nobody may legally accept. A lease alone is enough because every acceptance
//! without proof of death waits for it to run out; promises of all are enough because only members accept. Where lossy
//! failover is allowed (R240), somebody who is no member may accept too: then the lease alone counts.

use crate::ids::Incarnation;
use crate::policy::Policy;
use crate::time::{Millis, Moment};
use std::collections::BTreeMap;

/// What one holder of one epoch may count on. Made new with each epoch: a right never crosses an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    /// Send time of the last renewal that is proven to have been applied, and the ttl that it was sent under.
    lease: Option<(Moment, Millis)>,
    /// The other members whose acknowledgement the holder waits for, each with the send time of the last ping that it
    /// answered with a promise and how long that promise counts here. A superset of the row's in-sync set.
    need: BTreeMap<Incarnation, Option<(Moment, Millis)>>,
    /// The row is proven to say in_sync = {me}, and lossy failover is not allowed in this epoch.
    alone: bool,
    /// Whoever may accept has promised: proven with the row's terms, and never where lossy failover is allowed, because
    /// then somebody who has promised nothing may accept.
    promises_suffice: bool,
}

/// Until when the holder may serve, on the holder's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// No right to serve now.
    None,
    /// The right lasts this much longer unless something extends it.
    For(Millis),
    /// Nobody can legally accept: the right lasts until this node itself lets somebody in.
    Alone,
}

impl Authority {
    /// Authority of a new epoch, with no right yet. Promises do not count before [`Self::proven`] has told the epoch's terms;
    /// activation is a write of the holder, so it has before anything is served.
    #[must_use]
    pub fn of_new_epoch(need: impl IntoIterator<Item = Incarnation>) -> Self {
        Self {
            lease: None,
            need: need.into_iter().map(|member| (member, None)).collect(),
            alone: false,
            promises_suffice: false,
        }
    }

    /// A write of this holder that changes (epoch, beat) was applied; it had been sent at `sent`.
    /// Counting from the answer instead would let the lease outlive the watchers' wait.
    pub fn renewed(&mut self, sent: Moment, ttl: Millis) {
        let newer = self.lease.is_none_or(|(last, _)| sent.longest_since(last) > Millis::ZERO);
        if newer {
            self.lease = Some((sent, ttl));
        }
    }

    /// `member` answered the ping sent at `sent` with a promise of `promised`. Ignored for who is not needed.
    pub fn promised(&mut self, member: &Incarnation, sent: Moment, promised: Millis, policy: &Policy) {
        if let Some(promise) = self.need.get_mut(member) {
            let newer = promise.is_none_or(|(last, _)| sent.longest_since(last) > Millis::ZERO);
            if newer {
                *promise = Some((sent, policy.promise_counts_ms(promised.min(policy.promise_ms))));
            }
        }
    }

    /// `member` must acknowledge from now on. To be called BEFORE the write that lets it in is sent: the write may be
    /// applied without an answer, and from then on the member may accept.
    pub fn needs(&mut self, member: Incarnation) {
        self.need.entry(member).or_insert(None);
        self.alone = false;
    }

    /// The row is proven to hold exactly `members` besides this holder: after an applied write of this holder.
    /// Never call it on a read alone: a write of this holder's own may still be on its way.
    pub fn proven(&mut self, members: impl IntoIterator<Item = Incarnation>, lossy_ok: bool) {
        let old = std::mem::take(&mut self.need);
        self.need = members.into_iter().map(|member| (member.clone(), old.get(&member).copied().flatten())).collect();
        self.alone = self.need.is_empty() && !lossy_ok;
        self.promises_suffice = !lossy_ok;
    }

    /// The others whose acknowledgement is needed.
    pub fn need(&self) -> impl Iterator<Item = &Incarnation> {
        self.need.keys()
    }

    /// The right to serve at `now`.
    #[must_use]
    pub fn standing(&self, now: Moment) -> Standing {
        if self.alone {
            return Standing::Alone;
        }
        let lease = self.lease_left(now);
        // No member at all and not proven alone: only the lease counts.
        let promises = self
            .need
            .keys()
            .map(|member| self.promise_left(member, now))
            .min()
            .filter(|_| self.promises_suffice)
            .unwrap_or(Millis::ZERO);
        match lease.max(promises) {
            Millis::ZERO => Standing::None,
            left => Standing::For(left),
        }
    }

    /// What is left of the lease.
    #[must_use]
    pub fn lease_left(&self, now: Moment) -> Millis {
        self.lease.map_or(Millis::ZERO, |(sent, ttl)| now.left_of(sent, ttl))
    }

    /// What is left of `member`'s promise, as counted here.
    #[must_use]
    pub fn promise_left(&self, member: &Incarnation, now: Moment) -> Millis {
        self.need.get(member).copied().flatten().map_or(Millis::ZERO, |(sent, counts)| now.left_of(sent, counts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::default().after(Millis(ms))
    }
    fn inc(name: &str) -> Incarnation {
        Incarnation::new(name).expect("a valid name")
    }

    #[test]
    fn a_lease_counts_from_the_send_and_ends_by_itself() {
        let mut authority = Authority::of_new_epoch([inc("b")]);
        assert_eq!(authority.standing(at(0)), Standing::None);
        authority.renewed(at(100), Millis(3_000));
        assert_eq!(authority.standing(at(3_099)), Standing::For(Millis(1)));
        assert_eq!(authority.standing(at(3_100)), Standing::None);
    }

    #[test]
    fn promises_of_all_serve_without_a_lease_and_one_missing_does_not() {
        let policy = Policy::default();
        let mut authority = Authority::of_new_epoch([inc("b"), inc("c")]);
        authority.proven([inc("b"), inc("c")], false);
        authority.promised(&inc("b"), at(0), policy.promise_ms, &policy);
        assert_eq!(authority.standing(at(10)), Standing::None);
        authority.promised(&inc("c"), at(500), policy.promise_ms, &policy);
        assert_eq!(authority.standing(at(510)), Standing::For(Millis(2_490)), "the shorter promise decides");
    }

    #[test]
    fn a_longer_promise_than_policy_states_counts_no_longer() {
        let policy = Policy::default();
        let mut authority = Authority::of_new_epoch([inc("b")]);
        authority.proven([inc("b")], false);
        authority.promised(&inc("b"), at(0), Millis(60_000), &policy);
        assert_eq!(authority.standing(at(0)), Standing::For(Millis(3_000)));
    }

    #[test]
    fn a_later_renewal_extends_the_lease_and_an_earlier_one_changes_nothing() {
        let mut authority = Authority::of_new_epoch([inc("b")]);
        authority.renewed(at(1_000), Millis(3_000));
        authority.renewed(at(500), Millis(3_000));
        assert_eq!(authority.lease_left(at(1_000)), Millis(3_000));
        authority.renewed(at(1_750), Millis(3_000));
        assert_eq!(authority.lease_left(at(1_750)), Millis(3_000));
    }

    #[test]
    fn a_later_answer_extends_the_promise() {
        let policy = Policy::default();
        let mut authority = Authority::of_new_epoch([inc("b")]);
        authority.promised(&inc("b"), at(0), policy.promise_ms, &policy);
        authority.promised(&inc("b"), at(250), policy.promise_ms, &policy);
        assert_eq!(authority.promise_left(&inc("b"), at(250)), Millis(3_000));
        assert_eq!(authority.promise_left(&inc("x"), at(250)), Millis::ZERO, "who is not needed has promised nothing");
    }

    #[test]
    fn who_is_needed_is_said_and_what_a_member_promised_outlasts_a_change_of_the_others() {
        let policy = Policy::default();
        let mut authority = Authority::of_new_epoch([inc("b")]);
        authority.promised(&inc("b"), at(0), policy.promise_ms, &policy);
        authority.needs(inc("c"));
        authority.needs(inc("b"));
        assert_eq!(authority.need().cloned().collect::<Vec<_>>(), [inc("b"), inc("c")]);
        authority.proven([inc("b")], false);
        assert_eq!(authority.need().cloned().collect::<Vec<_>>(), [inc("b")]);
        assert_eq!(authority.promise_left(&inc("b"), at(10)), Millis(2_990));
    }

    #[test]
    fn an_old_answer_never_shortens_nor_a_stranger_lengthens() {
        let policy = Policy::default();
        let mut authority = Authority::of_new_epoch([inc("b")]);
        authority.proven([inc("b")], false);
        authority.promised(&inc("b"), at(1_000), policy.promise_ms, &policy);
        authority.promised(&inc("b"), at(500), policy.promise_ms, &policy);
        authority.promised(&inc("x"), at(2_000), policy.promise_ms, &policy);
        assert_eq!(authority.standing(at(2_000)), Standing::For(Millis(2_000)));
    }

    #[test]
    fn alone_needs_proof_and_ends_when_somebody_may_come_in() {
        let mut authority = Authority::of_new_epoch([inc("b")]);
        authority.renewed(at(0), Millis(3_000));
        authority.proven([], false);
        assert_eq!(authority.standing(at(1_000_000)), Standing::Alone);
        authority.needs(inc("b"));
        assert_eq!(authority.standing(at(1_000_000)), Standing::None, "before the write that lets b in is sent");
    }

    #[test]
    fn promises_count_only_once_the_epoch_s_terms_are_proven() {
        let policy = Policy::default();
        let mut authority = Authority::of_new_epoch([inc("b")]);
        authority.promised(&inc("b"), at(0), policy.promise_ms, &policy);
        assert_eq!(authority.standing(at(10)), Standing::None);
        authority.proven([inc("b")], false);
        assert_eq!(authority.standing(at(10)), Standing::For(Millis(2_990)));
    }

    #[test]
    fn where_a_lossy_failover_is_allowed_promises_of_members_are_not_enough() {
        let policy = Policy::default();
        let mut authority = Authority::of_new_epoch([inc("b")]);
        authority.proven([inc("b")], true);
        authority.promised(&inc("b"), at(0), policy.promise_ms, &policy);
        assert_eq!(authority.standing(at(10)), Standing::None, "c has promised nothing and may accept");
        authority.renewed(at(0), Millis(3_000));
        assert_eq!(authority.standing(at(10)), Standing::For(Millis(2_990)));
    }

    #[test]
    fn where_a_lossy_failover_is_allowed_nobody_serves_on_being_alone() {
        let mut authority = Authority::of_new_epoch([]);
        authority.renewed(at(0), Millis(3_000));
        authority.proven([], true);
        assert_eq!(authority.standing(at(3_000)), Standing::None);
    }
}
