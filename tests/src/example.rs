//! One cluster `web` of two nodes, as rows and changes see it.

use lease::change::{Change, Founding, Terms, Write};
use lease::heartbeat::{Heartbeat, Replica};
use lease::ids::{Beat, Epoch, Nonce};
use lease::record::{Holder, Nominee, Row};
use lease::rules::Rule;
use lease::time::Millis;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::str::FromStr;

pub const TERMS: Terms = Terms { ttl_ms: Millis(3_000), lossy_ok: false };

/// A name of whatever kind is asked for.
///
/// # Panics
/// Where the text is no valid name of its kind.
pub fn named<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().expect("a valid name")
}

#[must_use]
pub fn nonce(number: u64) -> Nonce {
    named(&format!("n{number}"))
}

#[must_use]
pub fn holder(node: &str) -> Holder {
    Holder {
        node: named(node),
        incarnation: named(&format!("{node}-1")),
        instance: named(&format!("i-0{node}")),
        boot: named("boot-1"),
        launched: "2026-01-31T23:59:59Z".into(),
    }
}

/// The nomination of `node` for exactly the row's (epoch, beat).
#[must_use]
pub fn nominee(node: &str, epoch: Epoch, beat: Beat) -> Nominee {
    Nominee {
        node: named(node),
        incarnation: holder(node).incarnation,
        epoch,
        beat,
        rule: Rule::R210,
        reason: "silent".into(),
        proof: None,
        lossy: false,
    }
}

/// The founding of `cluster`, with `a` nominated.
#[must_use]
pub fn founding(cluster: &str, lineage: &str) -> Founding {
    Founding {
        cluster: named(cluster),
        lineage: named(lineage),
        terms: TERMS,
        nominee: nominee("a", Epoch(0), Beat(0)),
    }
}

#[must_use]
pub fn accept(node: &str) -> Change {
    Change::Accept { me: holder(node), terms: TERMS }
}

/// The holder's renewal of whatever epoch `row` is at.
#[must_use]
pub fn renewal(row: &Row) -> Change {
    Change::Renew { me: row.holder.clone().expect("somebody holds it"), epoch: row.epoch }
}

/// `change` on `row`, marked with `mark`.
///
/// # Panics
/// Where it is not legal.
#[must_use]
pub fn write(change: &Change, row: &Row, mark: u64) -> Write {
    change.on(row, nonce(mark)).expect("a legal change")
}

#[must_use]
pub fn heartbeat(cluster: &str, node: &str) -> Heartbeat {
    let me = holder(node);
    Heartbeat {
        cluster: named(cluster),
        node: me.node,
        instance: me.instance,
        boot: me.boot,
        launched: me.launched,
        incarnation: me.incarnation,
        version: "0.1.0".into(),
        peer_address: "10.0.1.10:7400".into(),
        fingerprint: "00".repeat(32),
        role: "standby".into(),
        epoch: Epoch(1),
        beat: Beat(2),
        hears: BTreeMap::new(),
        resources: Vec::new(),
        replica: Replica { consistent: true, asynchronous: false, lag_ms: None },
    }
}
