//! Rows and changes for property tests. A small world (three nodes, two incarnations each, few epochs and beats), so that
//! what a change names often is what the row holds.

use lease::change::{Change, Drain, Terms};
use lease::ids::{Beat, ClusterId, Epoch, Incarnation, Lineage, NodeId, Nonce, Rev};
use lease::record::{DeadState, Holder, Intent, Nominee, Pause, ProofOfDeath, Row};
use lease::rules::Rule;
use lease::time::Millis;
use proptest::prelude::*;

pub(crate) fn cluster() -> ClusterId {
    ClusterId::new("web").expect("a valid name")
}

pub(crate) fn lineage() -> Lineage {
    Lineage::new("line-1").expect("a valid name")
}

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("a valid name")
}

pub(crate) fn incarnation(name: &str, number: u8) -> Incarnation {
    Incarnation::new(format!("{name}-{number}")).expect("a valid name")
}

pub(crate) fn holder(name: &str, number: u8) -> Holder {
    Holder {
        node: node(name),
        incarnation: incarnation(name, number),
        instance: format!("i-0{name}").parse().expect("a valid id"),
        boot: "boot-1".parse().expect("a valid id"),
        launched: "2026-01-31T23:59:59Z".into(),
    }
}

pub(crate) fn nominee(name: &str, number: u8, (epoch, beat): (u64, u64), lossy: bool) -> Nominee {
    Nominee {
        node: node(name),
        incarnation: incarnation(name, number),
        epoch: Epoch(epoch),
        beat: Beat(beat),
        rule: Rule::R210,
        reason: "silent".into(),
        proof: None,
        lossy,
    }
}

fn nonce(text: &str) -> Nonce {
    Nonce::new(text).expect("a valid nonce")
}

fn names() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c"])
}

fn holders() -> impl Strategy<Value = Holder> {
    (names(), 1..=2_u8, 0..4_u8).prop_map(|(name, number, odd)| {
        let mut holder = holder(name, number);
        if odd == 0 {
            holder.boot = "boot-2".parse().expect("a valid id");
        }
        holder
    })
}

fn incarnations() -> impl Strategy<Value = Incarnation> {
    (names(), 1..=2_u8).prop_map(|(name, number)| incarnation(name, number))
}

fn terms() -> impl Strategy<Value = Terms> {
    (prop::sample::select(vec![2_000, 3_000, 300_000]), any::<bool>())
        .prop_map(|(ttl_ms, lossy_ok)| Terms { ttl_ms: Millis(ttl_ms), lossy_ok })
}

fn nominees() -> impl Strategy<Value = Nominee> {
    let rules = prop::sample::select(vec![Rule::R200, Rule::R210, Rule::R240, Rule::R250, Rule::R410]);
    (names(), 1..=2_u8, (0..3_u64, 0..3_u64), any::<bool>(), rules, any::<bool>()).prop_map(
        |(name, number, at, lossy, rule, dead)| {
            let proof = ProofOfDeath { instance: "i-0a".parse().expect("a valid id"), state: DeadState::Stopped };
            Nominee { rule, proof: dead.then_some(proof), ..nominee(name, number, at, lossy) }
        },
    )
}

fn intents() -> impl Strategy<Value = Intent> {
    (prop::sample::select(vec!["i1", "i2"]), names()).prop_map(|(id, to)| Intent {
        id: nonce(id),
        to: node(to),
        rule: Rule::R400,
        reason: "asked".into(),
    })
}

/// Any row that readers may meet: what `check_row` demands holds.
pub(crate) fn rows() -> impl Strategy<Value = Row> {
    let numbers = (1..1_000_u64, 0..3_u64, 0..3_u64);
    let options = (
        prop::option::of(holders()),
        prop::option::of(nominees()),
        prop::option::of(intents()),
        prop::option::of(Just(Pause { reason: "maintenance".into() })),
    );
    let set = prop::collection::btree_set(incarnations(), 1..=4);
    (numbers, options, set, any::<bool>(), terms()).prop_map(
        |((rev, epoch, beat), (holder, nominee, intent, paused), mut in_sync, activated, terms)| {
            if let Some(holder) = &holder {
                in_sync.insert(holder.incarnation.clone());
            }
            let mut row = Row {
                cluster: cluster(),
                rev: Rev(rev),
                lineage: lineage(),
                epoch: Epoch(epoch),
                activated: activated && holder.is_some(),
                holder,
                beat: Beat(beat),
                in_sync,
                nominee,
                intent,
                paused,
                ttl_ms: terms.ttl_ms,
                lossy_ok: terms.lossy_ok,
                nonce: nonce("before"),
            };
            let impossible = row.live_nominee().is_some_and(|nominee| {
                row.holder.as_ref().is_some_and(|holder| holder.node == nominee.node)
                    || (!nominee.lossy && !row.in_sync.contains(&nominee.incarnation))
            });
            if impossible {
                row.nominee = None;
            }
            if row.activated {
                row.intent = row.open_intent().cloned();
            }
            row
        },
    )
}

pub(crate) fn changes() -> impl Strategy<Value = Change> {
    let epoch = || (0..3_u64).prop_map(Epoch);
    prop_oneof![
        (holders(), epoch()).prop_map(|(me, epoch)| Change::Renew { me, epoch }),
        (holders(), epoch(), incarnations()).prop_map(|(me, epoch, peer)| Change::Shrink { me, epoch, peer }),
        (holders(), epoch(), incarnations()).prop_map(|(me, epoch, peer)| Change::Grow { me, epoch, peer }),
        nominees().prop_map(Change::Nominate),
        (holders(), terms()).prop_map(|(me, terms)| Change::Accept { me, terms }),
        (holders(), epoch()).prop_map(|(me, epoch)| Change::Activate { me, epoch }),
        (holders(), epoch(), holders(), terms()).prop_map(|(me, epoch, to, terms)| Change::HandOver {
            me,
            epoch,
            to,
            terms
        }),
        (holders(), epoch()).prop_map(|(me, epoch)| Change::Release { me, epoch }),
        (holders(), any::<bool>(), terms()).prop_map(|(me, clean, terms)| Change::Restart {
            me,
            after: if clean { Drain::Clean } else { Drain::Crash },
            terms,
        }),
        incarnations().prop_map(|me| Change::Leave { me }),
        intents().prop_map(Change::Intend),
        prop::sample::select(vec!["i1", "i2"]).prop_map(|id| Change::ClearIntent { id: nonce(id) }),
        Just(Change::Pause(Pause { reason: "maintenance".into() })),
        Just(Change::Resume),
    ]
}

/// The same wish, by somebody who has read `row`: the right epoch and beat, and two times out of three the right holder.
pub(crate) fn bound_to(change: &Change, row: &Row) -> Change {
    let mut change = change.clone();
    if let (Some(holder), Some(me)) = (&row.holder, speaker(&mut change))
        && me.node.as_str() != "c"
    {
        *me = holder.clone();
    }
    match &mut change {
        Change::Renew { epoch, .. }
        | Change::Shrink { epoch, .. }
        | Change::Grow { epoch, .. }
        | Change::Activate { epoch, .. }
        | Change::HandOver { epoch, .. }
        | Change::Release { epoch, .. } => *epoch = row.epoch,
        Change::Nominate(nominee) => (nominee.epoch, nominee.beat) = (row.epoch, row.beat),
        _ => {}
    }
    change
}

fn speaker(change: &mut Change) -> Option<&mut Holder> {
    match change {
        Change::Renew { me, .. }
        | Change::Shrink { me, .. }
        | Change::Grow { me, .. }
        | Change::Activate { me, .. }
        | Change::HandOver { me, .. }
        | Change::Release { me, .. }
        | Change::Restart { me, .. } => Some(me),
        _ => None,
    }
}
