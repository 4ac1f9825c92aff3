//! The legal edges of the row's state machine as a table, so that a new edge, or one that is gone, shows in the diff of
//! `tests/legal_edges.txt`. `LEASEHOLD_BLESS=1` writes the file anew, to be read before it is committed.

use crate::generate::{cluster, holder, incarnation, lineage, node, nominee};
use lease::change::{Change, Drain, Terms};
use lease::ids::{Beat, Epoch, Nonce, Rev};
use lease::record::{DeadState, Intent, Nominee, Pause, ProofOfDeath, Row};
use lease::rules::Rule;
use lease::time::Millis;
use std::collections::BTreeSet;
use std::fmt::Write as _;

pub(crate) const KINDS: usize = 14;

pub(crate) fn kind(change: &Change) -> &'static str {
    match change {
        Change::Renew { .. } => "renew",
        Change::Shrink { .. } => "shrink",
        Change::Grow { .. } => "grow",
        Change::Nominate(_) => "nominate",
        Change::Accept { .. } => "accept",
        Change::Activate { .. } => "activate",
        Change::HandOver { .. } => "hand over",
        Change::Release { .. } => "release",
        Change::Restart { .. } => "restart",
        Change::Leave { .. } => "leave",
        Change::Intend(_) => "intend",
        Change::ClearIntent { .. } => "clear intent",
        Change::Pause(_) => "pause",
        Change::Resume => "resume",
    }
}

const EPOCH: Epoch = Epoch(5);
const BEAT: Beat = Beat(3);

/// In every state, `a` is the holder if there is one; `b` is the other node.
fn states() -> Vec<Row> {
    let mut states = Vec::new();
    for phase in ["released", "held", "activated"] {
        for members in [&["a"][..], &["b"], &["a", "b"]] {
            if phase != "released" && !members.contains(&"a") {
                continue;
            }
            for nomination in ["none", "b", "b, lossy", "b, lossy, a dead", "b, void"] {
                let nominated = match nomination {
                    "b" => Some(nominee("b", 1, (5, 3), false)),
                    "b, lossy" => Some(nominee("b", 1, (5, 3), true)),
                    "b, lossy, a dead" => Some(with_proof(nominee("b", 1, (5, 3), true))),
                    "b, void" => Some(nominee("b", 1, (5, 2), false)),
                    _ => None,
                };
                if nomination.ends_with("dead") && phase == "released" {
                    continue;
                }
                if nomination == "b" && !members.contains(&"b") {
                    continue;
                }
                states.push(Row {
                    cluster: cluster(),
                    rev: Rev(41),
                    lineage: lineage(),
                    epoch: EPOCH,
                    holder: (phase != "released").then(|| holder("a", 1)),
                    beat: BEAT,
                    in_sync: members.iter().map(|name| incarnation(name, 1)).collect(),
                    activated: phase == "activated",
                    nominee: nominated,
                    intent: None,
                    paused: None,
                    ttl_ms: Millis(3_000),
                    lossy_ok: false,
                    nonce: Nonce::new("before").expect("a valid nonce"),
                });
            }
        }
    }
    // Intent and pause change little, so they are not multiplied with everything else.
    let plain: Vec<Row> =
        states.iter().filter(|row| row.nominee.is_none() && row.in_sync.len() == 2).cloned().collect();
    for row in plain {
        let lossy = nominee("b", 1, (5, 3), true);
        let members = BTreeSet::from([incarnation("a", 1)]);
        states.push(Row { lossy_ok: true, in_sync: members, nominee: Some(lossy), ..row.clone() });
        states.push(Row { intent: Some(intent("i1")), ..row.clone() });
        if row.holder.is_some() && !row.activated {
            states.push(Row { intent: Some(Intent { to: node("a"), ..intent("i1") }), ..row.clone() });
        }
        states.push(Row { paused: Some(Pause { reason: "maintenance".into() }), ..row });
    }
    states
}

fn with_proof(nominee: Nominee) -> Nominee {
    let proof = ProofOfDeath { instance: holder("a", 1).instance, state: DeadState::Stopped };
    Nominee { proof: Some(proof), ..nominee }
}

fn intent(id: &str) -> Intent {
    Intent { id: Nonce::new(id).expect("a valid id"), to: node("b"), rule: Rule::R400, reason: "asked".into() }
}

fn tries() -> Vec<(&'static str, Change)> {
    let terms = Terms { ttl_ms: Millis(3_000), lossy_ok: false };
    let (a, b, epoch) = (holder("a", 1), holder("b", 1), EPOCH);
    let renewed = |name: &str| incarnation(name, 2);
    vec![
        ("a renews", Change::Renew { me: a.clone(), epoch }),
        ("a, of the epoch before, renews", Change::Renew { me: a.clone(), epoch: Epoch(4) }),
        ("a with a new disk renews", Change::Renew { me: holder("a", 2), epoch }),
        ("b renews", Change::Renew { me: b.clone(), epoch }),
        ("a shrinks by b", Change::Shrink { me: a.clone(), epoch, peer: b.incarnation.clone() }),
        ("a shrinks by itself", Change::Shrink { me: a.clone(), epoch, peer: a.incarnation.clone() }),
        ("b shrinks by a", Change::Shrink { me: b.clone(), epoch, peer: a.incarnation.clone() }),
        ("a grows by b", Change::Grow { me: a.clone(), epoch, peer: b.incarnation.clone() }),
        ("a grows by b with a new disk", Change::Grow { me: a.clone(), epoch, peer: renewed("b") }),
        ("a activates", Change::Activate { me: a.clone(), epoch }),
        ("a hands over to b", Change::HandOver { me: a.clone(), epoch, to: b.clone(), terms }),
        ("a hands over to b with a new disk", Change::HandOver { me: a.clone(), epoch, to: holder("b", 2), terms }),
        ("a hands over to itself", Change::HandOver { me: a.clone(), epoch, to: a.clone(), terms }),
        ("b hands over to itself", Change::HandOver { me: b.clone(), epoch, to: b.clone(), terms }),
        ("a releases", Change::Release { me: a.clone(), epoch }),
        ("b releases", Change::Release { me: b.clone(), epoch }),
        ("a restarts cleanly", Change::Restart { me: a.clone(), after: Drain::Clean, terms }),
        ("a restarts after a crash", Change::Restart { me: a.clone(), after: Drain::Crash, terms }),
        ("a with a new disk restarts", Change::Restart { me: holder("a", 2), after: Drain::Crash, terms }),
        ("b restarts after a crash", Change::Restart { me: b.clone(), after: Drain::Crash, terms }),
        ("a accepts", Change::Accept { me: a.clone(), terms }),
        ("b accepts", Change::Accept { me: b.clone(), terms }),
        ("b with a new disk accepts", Change::Accept { me: holder("b", 2), terms }),
        ("a leaves", Change::Leave { me: a.incarnation }),
        ("b leaves", Change::Leave { me: b.incarnation }),
        ("nominate a", Change::Nominate(nominee("a", 1, (5, 3), false))),
        ("nominate b", Change::Nominate(nominee("b", 1, (5, 3), false))),
        ("nominate b, lossy", Change::Nominate(nominee("b", 1, (5, 3), true))),
        ("nominate b, lossy, a proven dead", Change::Nominate(with_proof(nominee("b", 1, (5, 3), true)))),
        ("nominate b for the beat before", Change::Nominate(nominee("b", 1, (5, 2), false))),
        ("nominate b for the epoch before", Change::Nominate(nominee("b", 1, (4, 3), true))),
        ("intend a move to a", Change::Intend(Intent { to: node("a"), ..intent("i2") })),
        ("intend a move to b", Change::Intend(intent("i2"))),
        ("clear intent i1", Change::ClearIntent { id: Nonce::new("i1").expect("a valid id") }),
        ("clear intent i2", Change::ClearIntent { id: Nonce::new("i2").expect("a valid id") }),
        ("pause", Change::Pause(Pause { reason: "maintenance".into() })),
        ("resume", Change::Resume),
    ]
}

/// A state in one line: who holds, who is in sync, what is asked for.
fn told(row: &Row) -> String {
    let mut text = match (&row.holder, row.activated) {
        (None, _) => "released".to_owned(),
        (Some(holder), false) => format!("held by {}", holder.node),
        (Some(holder), true) => format!("active on {}", holder.node),
    };
    let members: Vec<&str> = row.in_sync.iter().map(|member| member.as_str().trim_end_matches("-1")).collect();
    write!(text, ", in sync {}", members.join("+")).expect("a String takes all");
    if let Some(nominee) = &row.nominee {
        let void = if row.live_nominee().is_none() { ", void" } else { "" };
        let lossy = if nominee.lossy { ", lossy" } else { "" };
        let proof = if nominee.proof.is_some() { ", a dead" } else { "" };
        write!(text, ", nominee {} ({}{lossy}{proof}{void})", nominee.node, nominee.rule).expect("a String takes all");
    }
    if let Some(intent) = &row.intent {
        write!(text, ", intent {} to {}", intent.id, intent.to).expect("a String takes all");
    }
    if row.lossy_ok {
        text.push_str(", lossy failover allowed");
    }
    if row.paused.is_some() {
        text.push_str(", paused");
    }
    text
}

fn table() -> String {
    let mut table =
        String::from("Legal changes of the row. Nodes a and b; `e` and `k` mark a raised epoch and beat.\n");
    let mut legal = BTreeSet::new();
    for row in states() {
        writeln!(table, "\n{}", told(&row)).expect("a String takes all");
        for (name, change) in tries() {
            let Ok(write) = change.on(&row, Nonce::new("after").expect("a valid nonce")) else { continue };
            legal.insert(kind(&change));
            let mark = match (write.row.epoch > row.epoch, write.row.beat > row.beat) {
                (true, _) => 'e',
                (false, true) => 'k',
                (false, false) => ' ',
            };
            writeln!(table, "  {name:<34} {mark}  {}", told(&write.row)).expect("a String takes all");
        }
    }
    assert_eq!(legal.len(), KINDS, "some change is legal nowhere: {legal:?}");
    table
}

#[test]
#[allow(clippy::disallowed_methods, reason = "whoever runs the test says whether the file is written anew")]
fn the_legal_edges_are_the_reviewed_ones() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/legal_edges.txt");
    let found = table();
    if std::env::var_os("LEASEHOLD_BLESS").is_some() {
        std::fs::write(&path, &found).expect("the table is written");
    }
    let reviewed = std::fs::read_to_string(&path).unwrap_or_default();
    for (number, (found, reviewed)) in found.lines().zip(reviewed.lines()).enumerate() {
        assert_eq!(
            found,
            reviewed,
            "line {} of {}: review the change, then LEASEHOLD_BLESS=1",
            number + 1,
            path.display()
        );
    }
    assert_eq!(found.lines().count(), reviewed.lines().count(), "{}: review, then LEASEHOLD_BLESS=1", path.display());
}
