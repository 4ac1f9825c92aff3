//! The mapping without DynamoDB: what is asked for, and what is refused when it comes back.

use super::items::{Attributes, from_native, to_native};
use super::row::{Update, parse};
use super::*;
use crate::change::{Change, Expect, Founding, Terms};
use crate::ids::{Beat, Epoch, Incarnation, Lineage, Nonce, Rev};
use crate::record::{DeadState, Holder, Intent, Nominee, Pause, ProofOfDeath, ROW_VERSION};
use crate::rules::Rule;
use crate::time::Millis;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn named<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a valid name")
}

fn holder(node: &str) -> Holder {
    Holder {
        node: named(node),
        incarnation: named(&format!("{node}-1")),
        instance: named(&format!("i-0{node}")),
        boot: named("b00t"),
        launched: "2026-01-31T23:59:59.000Z".into(),
    }
}

fn nominee(node: &str, epoch: u64, beat: u64) -> Nominee {
    Nominee {
        node: named(node),
        incarnation: named(&format!("{node}-1")),
        epoch: Epoch(epoch),
        beat: Beat(beat),
        rule: Rule::R200,
        reason: "a's instance is stopped".into(),
        proof: Some(ProofOfDeath { instance: named("i-0a"), state: DeadState::Stopped }),
        lossy: false,
    }
}

/// Every attribute set.
fn full() -> Row {
    Row {
        cluster: named("web"),
        rev: Rev(41),
        lineage: named("11111111-2222-4333-8444-555555555555"),
        epoch: Epoch(7),
        holder: Some(holder("a")),
        beat: Beat(12),
        in_sync: BTreeSet::from([named::<Incarnation>("a-1"), named("b-1")]),
        activated: true,
        nominee: Some(nominee("b", 7, 12)),
        intent: Some(Intent {
            id: named("move-1"),
            to: named("b"),
            rule: Rule::R400,
            reason: "operator's switchover".into(),
        }),
        paused: Some(Pause { reason: "maintenance".into() }),
        ttl_ms: Millis(3_000),
        lossy_ok: false,
        nonce: named::<Nonce>("n-41"),
    }
}

/// The item as DynamoDB would hold it after the founding write of `row`.
fn stored(row: &Row) -> Attributes {
    let update = Update::of(&Write { expect: Expect::Absent, row: row.clone() });
    let mut item = apply(Attributes::new(), &update);
    item.insert("cluster".into(), text(row.cluster.as_str()));
    item.insert("item".into(), text(LEASE_ITEM));
    item
}

/// What `UpdateItem` does with the expressions that we make.
fn apply(mut item: Attributes, update: &Update) -> Attributes {
    let (set, remove) = update.expression.split_once(" REMOVE ").unwrap_or((&update.expression, ""));
    for part in set.strip_prefix("SET ").expect("always sets").split(", ") {
        let (name, value) = part.split_once(" = ").expect("name = value");
        item.insert(update.names[name].clone(), update.values[value].clone());
    }
    for name in remove.split(", ").filter(|name| !name.is_empty()) {
        item.remove(&update.names[name]);
    }
    item
}

fn named_attributes(update: &Update) -> BTreeSet<&str> {
    update.names.values().map(String::as_str).collect()
}

#[test]
fn a_row_comes_back_as_it_was_written() {
    let mut bare = full();
    (bare.holder, bare.nominee, bare.intent, bare.paused, bare.activated) = (None, None, None, None, false);
    for row in [full(), bare] {
        assert_eq!(parse(&row.cluster, &stored(&row)), Ok(row));
    }
}

#[test]
fn a_write_names_only_what_differs() {
    let row = Row { nominee: None, ..full() };
    let change = Change::Renew { me: holder("a"), epoch: Epoch(7) };
    let write = change.on(&row, named("n-42")).expect("a legal renewal");
    let update = Update::of(&write);
    assert_eq!(named_attributes(&update), BTreeSet::from(["beat", "nonce", "rev"]));
    assert_eq!(update.condition, "#rev = :old_rev AND #nonce = :old_nonce");
    assert_eq!(update.values[":old_rev"], number(41));
    assert_eq!(update.values[":rev"], number(42));
    assert_eq!(parse(&row.cluster, &apply(stored(&row), &update)), Ok(write.row));
}

#[test]
fn what_is_gone_is_removed_and_what_is_unknown_is_kept() {
    let row = Row { paused: None, ..full() };
    let change = Change::Release { me: holder("a"), epoch: Epoch(7) };
    let write = change.on(&row, named("n-42")).expect("a legal release");
    let update = Update::of(&write);
    assert!(update.expression.ends_with(" REMOVE #holder, #intent, #nominee"), "{}", update.expression);
    let mut item = stored(&row);
    item.insert("later_invention".into(), AttributeValue::Bool(true));
    let after = apply(item, &update);
    assert_eq!(parse(&row.cluster, &after), Ok(write.row));
    assert!(after.contains_key("later_invention"));
}

/// A node's policy names no other attributes: see the contract test that compares it with the deployed policy.
#[test]
fn a_node_never_names_what_it_may_not_write() {
    let (a, b) = (holder("a"), holder("b"));
    let terms = Terms { ttl_ms: Millis(5_000), lossy_ok: true };
    let row = full();
    let held = Row { activated: false, ..row.clone() };
    let changes = [
        (&row, Change::Renew { me: a.clone(), epoch: Epoch(7) }),
        (&row, Change::Shrink { me: a.clone(), epoch: Epoch(7), peer: b.incarnation.clone() }),
        (&row, Change::Grow { me: a.clone(), epoch: Epoch(7), peer: named("c-1") }),
        (&row, Change::Accept { me: b.clone(), terms }),
        (&held, Change::Activate { me: a.clone(), epoch: Epoch(7) }),
        (&row, Change::HandOver { me: a.clone(), epoch: Epoch(7), to: b.clone(), terms }),
        (&row, Change::Release { me: a.clone(), epoch: Epoch(7) }),
        (&row, Change::Restart { me: a, after: crate::change::Drain::Crash, terms }),
        (&row, Change::Leave { me: b.incarnation }),
        (&row, Change::ClearIntent { id: named("move-1") }),
    ];
    for (row, change) in changes {
        let update = Update::of(&change.on(row, named("n-42")).expect("legal"));
        for name in named_attributes(&update) {
            assert!(NODE_NAMES.contains(&name), "{change:?} names {name}");
        }
    }
}

#[test]
fn founding_writes_everything_and_only_where_nothing_is() {
    let founding = Founding {
        cluster: named("web"),
        lineage: named::<Lineage>("line-1"),
        terms: Terms { ttl_ms: Millis(3_000), lossy_ok: false },
        nominee: nominee("a", 0, 0),
    };
    let update = Update::of(&founding.write(named("n-1")));
    assert_eq!(update.condition, "attribute_not_exists(#rev)");
    for name in
        ["v", "rev", "lineage", "epoch", "beat", "in_sync", "activated", "ttl_ms", "lossy_ok", "nonce", "nominee"]
    {
        assert!(named_attributes(&update).contains(name), "{name}");
    }
}

#[test]
fn a_newer_layout_is_refused_with_both_versions_before_anything_else_is_read() {
    let mut item = Attributes::new();
    item.insert("v".into(), number(ROW_VERSION + 1));
    let error = parse(&named("web"), &item).expect_err("a newer row");
    assert_eq!(
        error,
        TableError::Newer { key: "web".into(), item: "lease".into(), found: ROW_VERSION + 1, known: ROW_VERSION }
    );
    assert!(error.to_string().contains("update leasehold here"), "{error}");
}

#[test]
fn every_attribute_is_checked_and_the_error_names_both_sides() {
    let row = full();
    let wrong = AttributeValue::L(vec![text("x")]);
    for (name, _) in stored(&row).iter().filter(|(name, _)| *name != "item") {
        let mut item = stored(&row);
        item.insert(name.clone(), wrong.clone());
        let told = parse(&row.cluster, &item).expect_err("a wrong type").to_string();
        assert!(
            told.contains(&format!("attribute {name}: expected ")) && told.ends_with(r#"found ["x"]"#),
            "{name}: {told}"
        );
        let mut item = stored(&row);
        item.remove(name);
        let optional = ["holder", "nominee", "intent", "paused"].contains(&name.as_str());
        match parse(&row.cluster, &item) {
            // Nobody holds the lease, yet it is activated.
            Err(error) if name == "holder" => assert!(error.to_string().contains("activated"), "{error}"),
            Err(error) => {
                assert!(!optional && error.to_string().contains(&format!("attribute {name}: ")), "{name}: {error}");
            }
            Ok(_) => assert!(optional, "{name} may not be absent"),
        }
    }
}

#[test]
fn rows_that_no_change_leads_to_are_refused() {
    type Spoil = fn(&mut Row);
    let wrong: [(&str, Spoil); 5] = [
        ("in_sync", |row| row.in_sync = BTreeSet::from([named("b-1")])),
        ("activated", |row| row.holder = None),
        ("ttl_ms", |row| row.ttl_ms = Millis(0)),
        ("rev", |row| row.rev = Rev(0)),
        ("cluster", |row| row.cluster = named("other")),
    ];
    for (attribute, spoil) in wrong {
        let mut row = full();
        spoil(&mut row);
        let told = parse(&named("web"), &stored(&row)).expect_err(attribute).to_string();
        assert!(told.contains(&format!("attribute {attribute}: ")), "{told}");
    }
}

#[test]
fn a_field_inside_a_map_is_named() {
    let row = full();
    let mut item = stored(&row);
    let Some(AttributeValue::M(map)) = item.get_mut("holder") else { panic!("the holder is a map") };
    map.remove("instance");
    let told = parse(&row.cluster, &item).expect_err("a holder without instance").to_string();
    assert!(told.contains("attribute holder: expected missing field `instance`"), "{told}");
}

/// The stored form is a contract between versions: a difference here needs a new ROW_VERSION, or an older program
/// that ignores it must still be safe.
#[test]
fn the_stored_row_is_the_golden_one() {
    let row = full();
    let golden: Value =
        serde_json::from_str(include_str!("../../tests/golden/row.json")).expect("the golden file is JSON");
    let stored: Value = stored(&row).iter().map(|(name, value)| (name.clone(), dynamo_json(value))).collect();
    assert_eq!(stored, golden, "found:\n{stored:#}");
}

/// As DynamoDB's own JSON, with sets in order.
fn dynamo_json(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::S(text) => json!({ "S": text }),
        AttributeValue::N(digits) => json!({ "N": digits }),
        AttributeValue::Bool(flag) => json!({ "BOOL": flag }),
        AttributeValue::Ss(texts) => json!({ "SS": texts.iter().collect::<BTreeSet<_>>() }),
        AttributeValue::M(map) => {
            json!({ "M": map.iter().map(|(name, value)| (name.clone(), dynamo_json(value))).collect::<Value>() })
        }
        other => panic!("rows hold no {other:?}"),
    }
}

#[test]
fn json_survives_the_way_through_native_types() {
    let value = json!({ "text": "x", "number": 18_446_744_073_709_551_615_u64, "flag": true, "none": null, "list": [1, "y", {}] });
    assert_eq!(from_native(&to_native(value.clone())), Some(value));
}

#[test]
fn times_of_events_sort_as_text() {
    for good in ["2026-01-31T23:59:59.123Z", "1999-12-31T00:00:00.000Z"] {
        assert!(is_event_time(good), "{good}");
    }
    for bad in [
        "2026-01-31T23:59:59Z",
        "2026-01-31T23:59:59.123+00:00",
        "2026-01-31 23:59:59.123Z",
        "",
        "2026-01-31T23:59:59.1234Z",
    ] {
        assert!(!is_event_time(bad), "{bad}");
    }
}

/// What a node may leave in its cluster's partition, and what a newer release may: neither is an error of the history.
#[test]
fn an_event_that_cannot_be_read_is_told_with_its_key_and_why() {
    let cluster = named("web");
    let newer = "event#2026-01-31T23:59:59.123Z#x";
    for (name, version, time, why) in
        [("event#zzz", None, "zzz", "attribute v"), (newer, Some(99), "2026-01-31T23:59:59.123Z", "version 99")]
    {
        let mut item = Attributes::from([("item".to_owned(), text(name)), ("nonce".to_owned(), text("mine"))]);
        item.extend(version.map(|version| ("v".to_owned(), number(version))));
        let error = parse_event(&cluster, &item).expect_err("it has no readable version");
        let told = unreadable_event(&item, &error);
        assert_eq!(
            (told.time.as_str(), &told.detail["kind"], &told.detail["item"]),
            (time, &json!(UNREADABLE), &json!(name))
        );
        assert!(told.detail["why"].as_str().is_some_and(|told| told.contains(why)), "{}", told.detail);
    }
}

mod conflicts {
    //! What a failed condition proves. `rev` 41 was read; this write would have made it 42.
    use super::*;

    fn write() -> Write {
        let row = Row { nominee: None, ..full() };
        Change::Renew { me: holder("a"), epoch: Epoch(7) }.on(&row, named("mine")).expect("a legal renewal")
    }

    fn found(rev: u64, nonce: &str) -> Box<Row> {
        Box::new(Row { rev: Rev(rev), nonce: named(nonce), ..write().row })
    }

    #[test]
    fn our_own_mark_means_applied() {
        for unanswered in [false, true] {
            let outcome = Outcome::of_conflict(&write(), Some(found(42, "mine")), unanswered);
            assert_eq!(outcome, Outcome::Applied(found(42, "mine")));
        }
    }

    #[test]
    fn without_a_lost_answer_another_version_means_refused() {
        for rev in [42, 43, 99] {
            let outcome = Outcome::of_conflict(&write(), Some(found(rev, "theirs")), false);
            assert_eq!(outcome, Outcome::Refused { found: Some(found(rev, "theirs")) });
        }
    }

    #[test]
    fn after_a_lost_answer_only_the_very_next_version_proves_that_it_was_not_applied() {
        let next = Outcome::of_conflict(&write(), Some(found(42, "theirs")), true);
        assert_eq!(next, Outcome::Refused { found: Some(found(42, "theirs")) });
        let later = Outcome::of_conflict(&write(), Some(found(43, "theirs")), true);
        assert_eq!(later, Outcome::Superseded { found: found(43, "theirs") });
    }

    #[test]
    fn another_lineage_proves_nothing_about_a_lost_answer() {
        let mut other = found(42, "theirs");
        other.lineage = named("another");
        let outcome = Outcome::of_conflict(&write(), Some(other.clone()), true);
        assert_eq!(outcome, Outcome::Superseded { found: other });
    }

    #[test]
    fn a_row_that_is_gone_is_told() {
        assert_eq!(Outcome::of_conflict(&write(), None, true), Outcome::Refused { found: None });
    }
}
