//! The mapping of the row to DynamoDB, against the local cloud: conflicts, lost answers, outages, late writes, races.

use anyhow::Result;
use aws_sdk_dynamodb::types::AttributeValue;
use lease::change::{Change, Write};
use lease::ids::{Epoch, Rev};
use lease::outcome::Outcome;
use lease::record::{Pause, Row};
use lease::table::{Operation, Table, TableError};
use lease::time::Millis;
use serde_json::json;
use std::time::Duration;
use tests::cloud::{Keys, LocalCloud};
use tests::example::{accept, founding, heartbeat, named, nonce, renewal, write};

const TABLE: &str = "deployment";
const BUDGET: Duration = Duration::from_secs(3);

/// A table of its own in a cloud of its own, with the row of `web` held by `a` at rev 2.
async fn held() -> Result<(LocalCloud, Table, Row)> {
    let cloud = LocalCloud::start()?;
    let table = cloud.table(TABLE).await?;
    let founded = applied(table.write(&founding("web", "line-1").write(nonce(1)), BUDGET).await);
    let row = applied(table.write(&write(&accept("a"), &founded, 2), BUDGET).await);
    assert_eq!((row.rev, row.epoch), (Rev(2), Epoch(1)));
    Ok((cloud, table, row))
}

#[track_caller]
fn applied(outcome: Outcome) -> Row {
    match outcome {
        Outcome::Applied(row) => *row,
        other => panic!("not applied: {other:?}"),
    }
}

fn sent(table: &Table, operation: Operation) -> u64 {
    table
        .requests()
        .counts()
        .into_iter()
        .find(|count| count.operation == operation)
        .expect("every kind is counted")
        .sent
}

/// A fault of the row's writes.
fn of_writes(kind: &str, count: u64) -> serde_json::Value {
    json!({ "kind": kind, "service": "dynamodb", "action": "UpdateItem", "count": count })
}

#[tokio::test]
async fn a_row_lives_through_all_its_changes() -> Result<()> {
    let (_cloud, table, mut row) = held().await?;
    let (a, b) = (tests::example::holder("a"), tests::example::holder("b"));
    let e = |epoch| Epoch(epoch);
    let changes = [
        Change::Activate { me: a.clone(), epoch: e(1) },
        Change::Grow { me: a.clone(), epoch: e(1), peer: b.incarnation.clone() },
        Change::Renew { me: a.clone(), epoch: e(1) },
        Change::Nominate(tests::example::nominee("b", e(1), lease::ids::Beat(3))),
        Change::Pause(Pause { reason: "maintenance".into() }),
        Change::Resume,
        Change::HandOver {
            me: a,
            epoch: e(1),
            to: b.clone(),
            terms: lease::change::Terms { ttl_ms: Millis(5_000), lossy_ok: true },
        },
        Change::Activate { me: b.clone(), epoch: e(2) },
        Change::Release { me: b, epoch: e(2) },
    ];
    for (number, change) in changes.iter().enumerate() {
        let write = write(change, &row, 100 + number as u64);
        assert_eq!(applied(table.write(&write, BUDGET).await), write.row, "{change:?}");
        row = table.read(&row.cluster).await?.expect("a row");
        assert_eq!(row, write.row, "as read back after {change:?}");
    }
    assert_eq!((row.rev, row.epoch), (Rev(11), Epoch(2)));
    Ok(())
}

#[tokio::test]
async fn other_items_come_back_as_they_were_written() -> Result<()> {
    let cloud = LocalCloud::start()?;
    let table = cloud.table(TABLE).await?;
    let (web, a) = (named("web"), named("a"));
    assert_eq!(table.read(&web).await?, None);
    assert_eq!(table.read_config(&web).await?, None);
    assert_eq!(table.read_heartbeat(&web, &a).await?, None);
    assert_eq!(table.history(&web, 10).await?, []);

    table.write_heartbeat(&web, &a, 7, &heartbeat("web", "a")).await?;
    table.write_heartbeat(&web, &a, 8, &heartbeat("web", "a")).await?;
    assert_eq!(table.read_heartbeat(&web, &a).await?, Some((8, heartbeat("web", "a"))));

    let config = json!({
        "cluster": "web", "policy": {},
        "nodes": [{"name": "a", "instance": "i-0a"}, {"name": "b", "instance": "i-0b"}],
        "virtual_ips": [{"address": "10.99.0.10", "vpc": "vpc-1"}],
    });
    table.write_config(&web, &config.to_string()).await?;
    assert_eq!(table.read_config(&web).await?.expect("a configuration").nodes.len(), 2);
    let refused = table.write_config(&web, &config.to_string().replace("i-0b", "b")).await.expect_err("a bad one");
    assert!(refused.to_string().contains("nodes[1].instance"), "{refused}");
    let other = table.write_config(&named("db"), &config.to_string()).await.expect_err("another cluster's");
    assert_eq!(other, TableError::OtherCluster { cluster: named("db"), found: web.clone() });
    table.delete_config(&web).await?;
    table.delete_config(&web).await?;
    assert_eq!(table.read_config(&web).await?, None);

    for second in 10..30 {
        let time = format!("2026-01-31T23:59:{second}.000Z");
        table.put_event(&web, &time, "x", &json!({ "second": second }).to_string()).await?;
        table.put_event(&web, &time, "x", &json!({ "second": second }).to_string()).await?;
    }
    let history = table.history(&web, 3).await?;
    let seconds: Vec<_> = history.iter().map(|recorded| recorded.detail["second"].clone()).collect();
    assert_eq!(seconds, [29, 28, 27], "newest first");
    assert_eq!(table.history(&web, 100).await?.len(), 20, "the same event twice is one");
    Ok(())
}

#[tokio::test]
async fn a_lost_race_shows_the_row_that_won() -> Result<()> {
    let (cloud, table, row) = held().await?;
    let first = applied(table.write(&write(&renewal(&row), &row, 3), BUDGET).await);
    let late = table.write(&write(&renewal(&row), &row, 4), BUDGET).await;
    assert_eq!(late, Outcome::Refused { found: Some(Box::new(first.clone())) });
    // A second founding finds the first.
    let again = table.write(&founding("web", "line-2").write(nonce(5)), BUDGET).await;
    assert_eq!(again, Outcome::Refused { found: Some(Box::new(first.clone())) });
    // A row that was deleted and founded anew is not taken for the old one, even at the same rev.
    let raw = cloud.dynamodb(&Keys::operator());
    let delete = || raw.delete_item().table_name(TABLE).key("cluster", text("web")).key("item", text("lease")).send();
    delete().await?;
    let gone = table.write(&write(&renewal(&first), &first, 6), BUDGET).await;
    assert_eq!(gone, Outcome::Refused { found: None });
    let anew = applied(table.write(&founding("web", "line-2").write(nonce(7)), BUDGET).await);
    let old = Row { rev: anew.rev, ..first };
    let mistaken = table.write(&write(&renewal(&old), &old, 8), BUDGET).await;
    assert_eq!(mistaken, Outcome::Refused { found: Some(Box::new(anew)) });
    Ok(())
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_recognised_by_its_mark() -> Result<()> {
    let (cloud, table, row) = held().await?;
    let before = sent(&table, Operation::WriteRow);
    cloud.fault(&of_writes("drop_after", 1))?;
    // Time enough for a second try on a busy machine: the first takes a third of it.
    let renewed = applied(table.write(&write(&renewal(&row), &row, 3), 3 * BUDGET).await);
    assert_eq!(renewed.rev, Rev(3), "applied once, not twice");
    assert_eq!(sent(&table, Operation::WriteRow) - before, 2, "each try is counted");
    assert_eq!(table.read(&row.cluster).await?, Some(renewed));
    Ok(())
}

/// Starts the write whose first try meets `fault`, lets `meanwhile` happen to the row, and returns the outcome.
async fn overtaken(fault: &str, meanwhile: impl Fn(&Row) -> Vec<Write>) -> Result<(Outcome, Row)> {
    let (cloud, table, row) = held().await?;
    cloud.fault(&of_writes(fault, 1))?;
    let slow = {
        let (table, write) = (table.clone(), write(&renewal(&row), &row, 3));
        tokio::spawn(async move { table.write(&write, BUDGET).await })
    };
    // The first try takes a second to be given up; the others come between it and the second.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let current = table.read(&row.cluster).await?.expect("a row");
    for write in meanwhile(&current) {
        applied(table.write(&write, BUDGET).await);
    }
    let outcome = slow.await?;
    Ok((outcome, table.read(&row.cluster).await?.expect("a row")))
}

#[tokio::test]
async fn overtaken_after_a_lost_answer_is_not_called_refused() -> Result<()> {
    // It was applied, and another write came on top of it.
    let (outcome, row) = overtaken("drop_after", |row| vec![write(&renewal(row), row, 10)]).await?;
    assert_eq!(row.rev, Rev(4));
    assert_eq!(outcome, Outcome::Superseded { found: Box::new(row) });
    // It was not applied; but after two other writes nobody can tell.
    let (outcome, row) = overtaken("drop", |row| {
        let first = write(&renewal(row), row, 10);
        let second = write(&renewal(&first.row), &first.row, 11);
        vec![first, second]
    })
    .await?;
    assert_eq!(row.rev, Rev(4));
    assert_eq!(outcome, Outcome::Superseded { found: Box::new(row) });
    Ok(())
}

#[tokio::test]
async fn whoever_made_the_next_version_proves_that_a_lost_write_was_not_applied() -> Result<()> {
    let (outcome, row) = overtaken("drop", |row| vec![write(&renewal(row), row, 10)]).await?;
    assert_eq!(row.rev, Rev(3));
    assert_eq!(outcome, Outcome::Refused { found: Some(Box::new(row)) });
    Ok(())
}

#[tokio::test]
async fn a_try_that_arrives_late_changes_nothing() -> Result<()> {
    let (cloud, table, row) = held().await?;
    // Applied 1.8 s after it was sent, when its sender has long tried again, succeeded, and renewed once more.
    cloud.fault(
        &json!({ "kind": "delay", "delay_ms": 1800, "service": "dynamodb", "action": "UpdateItem", "count": 1 }),
    )?;
    let renewed = applied(table.write(&write(&renewal(&row), &row, 3), BUDGET).await);
    let twice = applied(table.write(&write(&renewal(&renewed), &renewed, 4), BUDGET).await);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(table.read(&row.cluster).await?, Some(twice));
    Ok(())
}

#[tokio::test]
async fn an_outage_leaves_the_outcome_unknown_and_ends_in_time() -> Result<()> {
    let (cloud, table, row) = held().await?;
    for kind in ["refuse", "error", "drop"] {
        cloud.fault(&json!({ "kind": kind, "service": "dynamodb" }))?;
        let began = tokio::time::Instant::now();
        let budget = Duration::from_millis(700);
        let outcome = table.write(&write(&renewal(&row), &row, 3), budget).await;
        assert!(matches!(outcome, Outcome::Unknown { .. }), "{kind}: {outcome:?}");
        assert!(began.elapsed() < budget + Duration::from_millis(150), "{kind}: {:?}", began.elapsed());
        let patient = table.clone().with_patience(budget);
        let error = patient.read(&row.cluster).await.expect_err("no answer");
        assert!(matches!(error, TableError::Unanswered { .. }), "{kind}: {error}");
        cloud.no_faults()?;
    }
    assert_eq!(table.read(&row.cluster).await?, Some(row));
    Ok(())
}

#[tokio::test]
async fn what_was_turned_away_is_known_not_to_be_applied() -> Result<()> {
    let (cloud, table, row) = held().await?;
    cloud.fault(&of_writes("throttle", 2))?;
    let renewed = applied(table.write(&write(&renewal(&row), &row, 3), BUDGET).await);
    cloud.fault(&json!({ "kind": "throttle", "service": "dynamodb" }))?;
    let outcome = table.write(&write(&renewal(&renewed), &renewed, 4), Duration::from_millis(500)).await;
    assert!(matches!(&outcome, Outcome::NotApplied { problem } if problem.contains("turned away")), "{outcome:?}");
    cloud.no_faults()?;
    // One try without an answer is enough for doubt.
    cloud.fault(&of_writes("drop", 1))?;
    cloud.fault(&of_writes("throttle", 1_000))?;
    let outcome = table.write(&write(&renewal(&renewed), &renewed, 5), Duration::from_millis(900)).await;
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    Ok(())
}

#[tokio::test]
async fn a_row_of_a_newer_program_is_neither_read_nor_overwritten() -> Result<()> {
    let (cloud, table, row) = held().await?;
    let raw = cloud.dynamodb(&Keys::operator());
    raw.update_item()
        .table_name(TABLE)
        .key("cluster", text("web"))
        .key("item", text("lease"))
        .update_expression("SET v = :v, rev = :rev, shards = :shards REMOVE in_sync")
        .expression_attribute_values(":v", AttributeValue::N("2".into()))
        .expression_attribute_values(":rev", AttributeValue::N("3".into()))
        .expression_attribute_values(":shards", AttributeValue::L(Vec::new()))
        .send()
        .await?;
    let newer = TableError::Newer { key: "web".into(), item: "lease".into(), found: 2, known: 1 };
    assert_eq!(table.read(&row.cluster).await, Err(newer.clone()));
    let outcome = table.write(&write(&renewal(&row), &row, 3), BUDGET).await;
    assert_eq!(outcome, Outcome::NotApplied { problem: newer.to_string() });
    Ok(())
}

#[tokio::test]
async fn mistakes_of_the_deployment_are_told_at_once_and_say_what_to_do() -> Result<()> {
    let cloud = LocalCloud::start()?;
    let table = Table::new(&cloud.dynamodb(&Keys::operator()), "elsewhere");
    let began = tokio::time::Instant::now();
    let error = table.read(&named("web")).await.expect_err("there is no such table");
    assert!(matches!(error, TableError::NoTable { .. }), "{error}");
    assert!(error.to_string().contains("elsewhere") && error.to_string().contains("deploy the stack"), "{error}");
    let outcome = table.write(&founding("web", "line-1").write(nonce(1)), BUDGET).await;
    assert!(matches!(&outcome, Outcome::NotApplied { problem } if problem.contains("deploy the stack")), "{outcome:?}");
    assert!(began.elapsed() < Duration::from_secs(1), "no retry mends that: {:?}", began.elapsed());
    Ok(())
}

/// Eight writers want the same row; each version is made by exactly one of them, and none is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_version_is_won_once() -> Result<()> {
    const WRITERS: u64 = 8;
    const WINS: u64 = 10;
    let (cloud, table, row) = held().await?;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let table = Table::new(&cloud.dynamodb(&Keys::operator()), TABLE);
            let mut row = row.clone();
            tokio::spawn(async move {
                let mut won = Vec::new();
                let mut mark = 1_000 * (writer + 1);
                while (won.len() as u64) < WINS {
                    mark += 1;
                    row = match table.write(&write(&renewal(&row), &row, mark), Duration::from_secs(20)).await {
                        Outcome::Applied(row) => {
                            won.push(row.rev);
                            *row
                        }
                        Outcome::Refused { found: Some(found) } | Outcome::Superseded { found } => *found,
                        other => panic!("{other:?}"),
                    };
                }
                won
            })
        })
        .collect();
    let mut won = Vec::new();
    for writer in writers {
        won.extend(writer.await?);
    }
    won.sort_unstable();
    let every: Vec<Rev> = (3..3 + WRITERS * WINS).map(Rev).collect();
    assert_eq!(won, every);
    let last = table.read(&row.cluster).await?.expect("a row");
    assert_eq!((last.rev, last.beat.0), (Rev(2 + WRITERS * WINS), WRITERS * WINS));
    Ok(())
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}
