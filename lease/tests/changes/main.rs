//! Every change against every row: refused, or legal with the protocol's invariants.

mod edges;
mod generate;

use generate::{changes, rows};
use lease::change::{Change, Drain, Expect, Founding, Refusal, Terms, Write};
use lease::ids::{Beat, Epoch, Nonce, Rev};
use lease::record::{Holder, Nominee, Row};
use lease::rules::Rule;
use lease::time::Millis;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// The holder that a change speaks for, and the epoch it believes in.
fn writer(change: &Change) -> Option<(&Holder, Option<Epoch>)> {
    match change {
        Change::Renew { me, epoch }
        | Change::Shrink { me, epoch, .. }
        | Change::Grow { me, epoch, .. }
        | Change::Activate { me, epoch }
        | Change::HandOver { me, epoch, .. }
        | Change::Release { me, epoch } => Some((me, Some(*epoch))),
        Change::Restart { me, .. } => Some((me, None)),
        Change::Nominate(_)
        | Change::Accept { .. }
        | Change::Leave { .. }
        | Change::Intend(_)
        | Change::ClearIntent { .. }
        | Change::Pause(_)
        | Change::Resume => None,
    }
}

/// The holder's gate may be open for good, for all that this nominee, who is no member, can know or wait for.
fn may_serve_on(row: &Row, nominee: &Nominee) -> bool {
    let dead = |holder: &Holder| nominee.proof.as_ref().is_some_and(|proof| proof.instance == holder.instance);
    !row.lossy_ok && row.holder.as_ref().is_some_and(|holder| !dead(holder))
}

fn takes_epoch(change: &Change) -> bool {
    matches!(change, Change::Accept { .. } | Change::HandOver { .. } | Change::Restart { .. })
}

/// What every reader of a row relies on.
fn check_row(row: &Row) {
    assert!(!row.in_sync.is_empty(), "in_sync is empty: nobody could ever accept");
    if let Some(holder) = &row.holder {
        assert!(row.in_sync.contains(&holder.incarnation), "the holder itself is not in sync: {row:?}");
    }
    assert!(row.holder.is_some() || !row.activated, "activated, yet nobody holds it");
    assert!(!row.activated || row.done_intent().is_none(), "a request that is done outlives the activation: {row:?}");
    if let Some(nominee) = row.live_nominee() {
        assert!(row.holder.as_ref().is_none_or(|holder| holder.node != nominee.node), "the holder is its own nominee");
        assert!(nominee.lossy || row.in_sync.contains(&nominee.incarnation), "a live nomination would lose writes");
    }
}

/// The invariants of one step.
fn check_step(change: &Change, old: &Row, write: &Write) {
    let new = &write.row;
    assert_eq!(write.expect, Expect::Version(Box::new(old.clone())), "it is written over the row that was read");
    assert_eq!(new.rev, old.rev.next(), "rev rises by exactly one");
    assert_ne!(new.nonce, old.nonce);
    assert_eq!((&new.cluster, &new.lineage), (&old.cluster, &old.lineage), "identity is for life");
    check_row(new);

    if takes_epoch(change) {
        assert_eq!(new.epoch, old.epoch.next(), "a new holder, or a restart of one, takes exactly the next epoch");
        assert_eq!(new.beat, Beat(0));
        assert!(!new.activated, "nothing serves before it is activated");
        assert!(new.nominee.is_none() && new.open_intent().is_none(), "what was asked of the old epoch is over");
        if let Some(intent) = &new.intent {
            assert_eq!(old.intent.as_ref(), Some(intent), "only a request that was made says why");
            assert!(!matches!(change, Change::Accept { .. }), "a nominee takes over by its nomination");
        }
    } else {
        assert_eq!(new.epoch, old.epoch);
        assert_eq!((new.ttl_ms, new.lossy_ok), (old.ttl_ms, old.lossy_ok), "terms are fixed for the epoch");
        assert!(
            new.holder == old.holder || matches!(change, Change::Release { .. }),
            "only a new epoch has a new holder"
        );
    }

    match writer(change) {
        Some((me, epoch)) => {
            assert!(old.is_held_by(me), "only the holder writes as holder");
            assert!(epoch.is_none_or(|epoch| epoch == old.epoch), "and only in the epoch it believes in");
            if !takes_epoch(change) {
                assert_eq!(new.beat, old.beat.next(), "each of the holder's writes renews");
            }
        }
        None if !takes_epoch(change) => assert_eq!(new.beat, old.beat, "nobody else moves the beat"),
        None => {}
    }
    // Whoever moves (epoch, beat) voids the nomination, in the row itself and not only by its binding.
    if (new.epoch, new.beat) != (old.epoch, old.beat) {
        assert!(new.nominee.is_none());
    }

    match change {
        Change::Accept { me, terms } => {
            let nominee = old.live_nominee().expect("only a live nominee accepts");
            assert_eq!((&nominee.node, &nominee.incarnation), (&me.node, &me.incarnation));
            assert!(old.in_sync.contains(&me.incarnation) || nominee.lossy && !may_serve_on(old, nominee));
            assert_eq!(new.in_sync, BTreeSet::from([me.incarnation.clone()]), "nobody else is proven to be in sync");
            assert_eq!(new.holder.as_ref(), Some(me));
            assert_eq!(Terms { ttl_ms: new.ttl_ms, lossy_ok: new.lossy_ok }, *terms);
        }
        Change::HandOver { to, terms, .. } => {
            assert!(
                old.activated && old.in_sync.contains(&to.incarnation),
                "only to a member, and only once activated"
            );
            assert_eq!(new.holder.as_ref(), Some(to));
            assert_eq!(new.in_sync, old.in_sync, "everything was acknowledged everywhere");
            assert_eq!(Terms { ttl_ms: new.ttl_ms, lossy_ok: new.lossy_ok }, *terms);
        }
        Change::Restart { me, after, .. } => {
            assert_eq!(new.holder.as_ref(), Some(me));
            match after {
                Drain::Clean => assert_eq!(new.in_sync, old.in_sync),
                Drain::Crash => assert_eq!(new.in_sync, BTreeSet::from([me.incarnation.clone()])),
            }
        }
        Change::Nominate(nominee) => {
            assert!(old.in_sync.contains(&nominee.incarnation) || !may_serve_on(old, nominee));
            assert_eq!((new.nominee.as_ref(), &new.in_sync), (Some(nominee), &old.in_sync));
        }
        Change::Grow { peer, .. } => {
            assert!(old.activated && !old.in_sync.contains(peer));
            assert_eq!(new.in_sync, with(&old.in_sync, peer));
        }
        Change::Shrink { peer, .. } | Change::Leave { me: peer } => assert_eq!(with(&new.in_sync, peer), old.in_sync),
        _ => assert_eq!(new.in_sync, old.in_sync, "{change:?} has no business with the in-sync set"),
    }
    check_intent(change, old, new);
    if !matches!(change, Change::Pause(_) | Change::Resume) {
        assert_eq!(new.paused, old.paused, "only an operator pauses and resumes");
    }
    assert!(
        new.activated == old.activated
            || takes_epoch(change)
            || matches!(change, Change::Activate { .. } | Change::Release { .. })
    );
}

/// Who may touch a request to move: who makes it, who clears it, and whoever ends what it was asked of.
fn check_intent(change: &Change, old: &Row, new: &Row) {
    match change {
        Change::Intend(intent) => assert_eq!(new.intent.as_ref(), Some(intent)),
        Change::ClearIntent { .. } | Change::Release { .. } | Change::Accept { .. } => assert_eq!(new.intent, None),
        Change::HandOver { to, .. } => {
            assert_eq!(new.intent, old.intent.clone().filter(|intent| intent.to == to.node), "its reason survives");
        }
        Change::Restart { .. } => {
            assert_eq!(
                new.intent,
                old.done_intent().filter(|_| !old.activated).cloned(),
                "told once active, not before"
            );
        }
        Change::Activate { .. } => assert_eq!(new.intent.as_ref(), old.open_intent(), "what is done is cleared"),
        _ => assert_eq!(new.intent, old.intent, "{change:?} has no business with the request to move"),
    }
}

fn with(
    set: &BTreeSet<lease::ids::Incarnation>,
    member: &lease::ids::Incarnation,
) -> BTreeSet<lease::ids::Incarnation> {
    assert!(!set.contains(member));
    let mut set = set.clone();
    set.insert(member.clone());
    set
}

fn nonce(number: u64) -> Nonce {
    Nonce::new(format!("w{number}")).expect("a valid nonce")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_change_on_any_row_is_refused_or_keeps_the_invariants(row in rows(), change in changes()) {
        check_row(&row);
        if let Ok(write) = change.on(&row, nonce(row.rev.0)) {
            check_step(&change, &row, &write);
        }
    }

    /// A refusal is a matter of the change and the row alone, and a nonce decides nothing.
    #[test]
    fn the_same_question_gets_the_same_answer(row in rows(), change in changes()) {
        let (one, two) = (change.on(&row, nonce(1)), change.on(&row, nonce(2)));
        prop_assert_eq!(one.as_ref().err(), two.as_ref().err());
        if let (Ok(one), Ok(mut two)) = (one, two) {
            two.row.nonce = one.row.nonce.clone();
            prop_assert_eq!(one, two);
        }
    }

    /// Whoever has lost the lease, in whatever way, can no longer write as its holder.
    #[test]
    fn a_former_holder_is_refused(row in rows(), change in changes()) {
        if let Some((me, epoch)) = writer(&change) {
            let answer = change.on(&row, nonce(1));
            if !row.is_held_by(me) {
                prop_assert!(matches!(answer, Err(Refusal::NotHolder { .. })), "{:?}", answer);
            } else if epoch.is_some_and(|epoch| epoch != row.epoch) {
                prop_assert!(matches!(answer, Err(Refusal::EpochMoved { .. })), "{:?}", answer);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// From the founding on, whatever is tried in whatever order: one holder per epoch, and rev and epoch only rise.
    #[test]
    fn a_life_of_a_row_has_one_holder_per_epoch(tries in prop::collection::vec(changes(), 1..120)) {
        let founding = Founding {
            cluster: generate::cluster(),
            lineage: generate::lineage(),
            terms: Terms { ttl_ms: Millis(3_000), lossy_ok: false },
            nominee: Nominee { rule: Rule::R050, ..generate::nominee("a", 1, (99, 99), false) },
        };
        let mut row = founding.write(nonce(0)).row;
        check_row(&row);
        prop_assert_eq!((row.rev, row.epoch), (Rev(1), Epoch(0)));
        let mut holders = BTreeMap::new();
        for (number, change) in tries.iter().enumerate() {
            // Bound to the row as it is now, so that a walk gets somewhere.
            let change = generate::bound_to(change, &row);
            if let Ok(write) = change.on(&row, nonce(number as u64 + 1)) {
                check_step(&change, &row, &write);
                row = write.row;
            }
            if let Some(holder) = &row.holder {
                let first = holders.entry(row.epoch).or_insert_with(|| holder.clone());
                prop_assert_eq!(&*first, holder, "two holders of epoch {}", row.epoch);
            }
        }
    }
}

#[test]
fn a_founded_row_is_released_and_its_nominee_may_accept_at_once_and_nobody_else() {
    let founding = Founding {
        cluster: generate::cluster(),
        lineage: generate::lineage(),
        terms: Terms { ttl_ms: Millis(4_000), lossy_ok: true },
        nominee: generate::nominee("a", 1, (99, 99), false),
    };
    let write = founding.write(nonce(0));
    assert_eq!(write.expect, Expect::Absent);
    let row = write.row;
    assert_eq!((row.epoch, row.beat, row.rev), (Epoch(0), Beat(0), Rev(1)));
    assert_eq!((row.holder.as_ref(), row.activated, row.ttl_ms, row.lossy_ok), (None, false, Millis(4_000), true));
    let nominee = row.live_nominee().expect("bound to epoch 0, beat 0, whatever the caller wrote");
    assert_eq!(nominee.node, generate::node("a"));
    let terms = Terms { ttl_ms: Millis(3_000), lossy_ok: false };
    let accept = |me| Change::Accept { me, terms }.on(&row, nonce(1));
    assert!(accept(generate::holder("a", 1)).is_ok());
    assert!(matches!(accept(generate::holder("b", 1)), Err(Refusal::NotNominated { .. })));
}

/// The walk above is worth nothing if it never leaves the start.
#[test]
fn walks_get_somewhere() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut reached = BTreeSet::new();
    for _ in 0..300 {
        use proptest::strategy::ValueTree;
        let tries = prop::collection::vec(changes(), 120).new_tree(&mut runner).expect("a tree").current();
        let nominee = generate::nominee("a", 1, (0, 0), false);
        let terms = Terms { ttl_ms: Millis(3_000), lossy_ok: false };
        let mut row =
            Founding { cluster: generate::cluster(), lineage: generate::lineage(), terms, nominee }.write(nonce(0)).row;
        for change in tries {
            let change = generate::bound_to(&change, &row);
            if let Ok(write) = change.on(&row, nonce(write_number(&row))) {
                reached.insert(edges::kind(&change));
                row = write.row;
            }
        }
    }
    assert_eq!(reached.len(), edges::KINDS, "only these changes were ever legal: {reached:?}");
}

fn write_number(row: &Row) -> u64 {
    row.rev.0 + 1
}
