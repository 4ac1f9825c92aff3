//! What a node may do in AWS, and that it may do nothing else: the policy that the CDK app makes for node `a` of cluster
//! `web`, as its reviewed template has it, judged by the local cloud's IAM.

use anyhow::{Context as _, Result, ensure};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use lease::change::{Change, Drain};
use lease::ids::Epoch;
use lease::outcome::Outcome;
use lease::record::{Pause, Row};
use lease::table::{Table, TableError, UNREADABLE};
use serde_json::{Value, json};
use std::fmt::Debug;
use std::time::Duration;
use tests::cloud::{Keys, LocalCloud, REGION};
use tests::example::{TERMS, accept, founding, heartbeat, holder, named, nominee, nonce, renewal, write};

const ACCOUNT: &str = "123456789012";
const BUDGET: Duration = Duration::from_secs(3);
const TEMPLATE: &str = "cdk/test/snapshots/example.template.json";

/// The deployed parts that a node's policy is about, and the node's own keys.
struct Stage {
    cloud: LocalCloud,
    /// The operator's view of the table.
    table: Table,
    table_name: String,
    bus: String,
    node: Keys,
}

impl Stage {
    /// The table as node `a` sees it.
    fn as_node(&self) -> Table {
        Table::new(&self.raw(), self.table.name())
    }

    fn raw(&self) -> Client {
        self.cloud.dynamodb(&self.node)
    }
}

async fn stage() -> Result<Stage> {
    let template = tests::json(TEMPLATE);
    let resources = template["Resources"].as_object().context("a template has resources")?;
    let only = |kind: &str, property: &str| {
        let found = resources.values().find(|one| one["Type"] == kind).with_context(|| format!("no {kind}"))?;
        found["Properties"][property].as_str().map(str::to_owned).with_context(|| format!("{kind} has no {property}"))
    };
    let table_name = only("AWS::DynamoDB::Table", "TableName")?;
    let bus = only("AWS::Events::EventBus", "Name")?;
    let role = resources
        .iter()
        .find(|(_, one)| {
            one["Type"] == "AWS::IAM::Role"
                && one["Properties"]["Description"].as_str().is_some_and(|text| text.contains("node a of cluster web"))
        })
        .context("no role of node a")?;
    // Everything that grants this role anything: it must be one inline policy and nothing attached.
    ensure!(role.1["Properties"]["ManagedPolicyArns"].is_null() && role.1["Properties"]["Policies"].is_null());
    let policies: Vec<&Value> = resources
        .values()
        .filter(|one| one["Type"] == "AWS::IAM::Policy")
        .map(|one| &one["Properties"])
        .filter(|policy| policy["Roles"].as_array().is_some_and(|roles| roles.contains(&json!({ "Ref": role.0 }))))
        .collect();
    ensure!(policies.len() == 1, "{} policies for node a", policies.len());
    let mut document = policies[0]["PolicyDocument"].clone();
    resolve(&mut document, &|id| match resources[id]["Type"].as_str() {
        Some("AWS::DynamoDB::Table") => format!("arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{table_name}"),
        Some("AWS::Events::EventBus") => format!("arn:aws:events:{REGION}:{ACCOUNT}:event-bus/{bus}"),
        other => panic!("a node's policy names {id}, a {other:?}"),
    });

    let cloud = LocalCloud::start()?;
    let operator = Keys::operator();
    let table = cloud.table(&table_name).await?;
    let done = cloud.call(&operator, "events", "AWSEvents.CreateEventBus", &json!({ "Name": bus }))?;
    ensure!(done.status == 200, "{}", done.body);
    let trust = role.1["Properties"]["AssumeRolePolicyDocument"].to_string();
    let role_name = role.1["Properties"]["RoleName"].as_str().context("the role has a name")?;
    let version = ("Version", "2010-05-08");
    for call in [
        vec![("Action", "CreateRole"), version, ("RoleName", role_name), ("AssumeRolePolicyDocument", &trust)],
        vec![
            ("Action", "PutRolePolicy"),
            version,
            ("RoleName", role_name),
            ("PolicyName", "granted"),
            ("PolicyDocument", &document.to_string()),
        ],
    ] {
        let done = cloud.query(&operator, "iam", &call)?;
        ensure!(done.status == 200, "{}", done.body);
    }
    let arn = format!("arn:aws:iam::{ACCOUNT}:role/{role_name}");
    let assume = [("Action", "AssumeRole"), ("Version", "2011-06-15"), ("RoleArn", &arn), ("RoleSessionName", "i-0a")];
    let session = cloud.query(&operator, "sts", &assume)?;
    ensure!(session.status == 200, "{}", session.body);
    let part = |tag: &str| {
        let (_, rest) = session.body.split_once(&format!("<{tag}>")).with_context(|| format!("no {tag}"))?;
        Ok::<_, anyhow::Error>(rest.split('<').next().unwrap_or_default().to_owned())
    };
    let node = Keys { id: part("AccessKeyId")?, secret: part("SecretAccessKey")?, token: Some(part("SessionToken")?) };
    Ok(Stage { cloud, table, table_name, bus, node })
}

/// `Fn::GetAtt` of an ARN, as CloudFormation would put it in.
fn resolve(value: &mut Value, arn: &dyn Fn(&str) -> String) {
    if let Some(id) = value["Fn::GetAtt"][0].as_str() {
        *value = Value::String(arn(id));
        return;
    }
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| resolve(value, arn)),
        Value::Object(map) => map.values_mut().for_each(|value| resolve(value, arn)),
        _ => {}
    }
}

#[track_caller]
fn applied(outcome: Outcome) -> Row {
    match outcome {
        Outcome::Applied(row) => *row,
        other => panic!("not applied: {other:?}"),
    }
}

#[track_caller]
fn not_permitted(what: &str, outcome: &Outcome) {
    let denied = matches!(outcome, Outcome::NotApplied { problem } if problem.contains("is not permitted"));
    assert!(denied, "{what}: {outcome:?}");
}

#[track_caller]
fn denied<T: Debug, E: ProvideErrorMetadata + Debug>(what: &str, answer: &Result<T, SdkError<E>>) {
    let code = answer.as_ref().err().and_then(|error| error.as_service_error()).and_then(ProvideErrorMetadata::code);
    assert_eq!(code, Some("AccessDeniedException"), "{what}: {answer:?}");
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// Refusals prove nothing if the node may do nothing at all.
#[tokio::test]
async fn a_node_may_do_its_whole_work() -> Result<()> {
    let stage = stage().await?;
    let node = stage.as_node();
    let (web, a, b) = (named("web"), named("a"), named("b"));
    assert_eq!(node.read(&web).await?, None);
    assert_eq!(node.read_config(&web).await?, None);
    assert_eq!(node.read_heartbeat(&web, &b).await?, None);
    node.write_heartbeat(&web, &a, 1, &heartbeat("web", "a")).await?;
    assert_eq!(node.read_heartbeat(&web, &a).await?, Some((1, heartbeat("web", "a"))));

    let mut row = applied(stage.table.write(&founding("web", "line-1").write(nonce(1)), BUDGET).await);
    let (me, epoch) = (holder("a"), Epoch(1));
    let peer = holder("b").incarnation;
    let changes = [
        accept("a"),
        Change::Activate { me: me.clone(), epoch },
        Change::Renew { me: me.clone(), epoch },
        Change::Grow { me: me.clone(), epoch, peer: peer.clone() },
        Change::Shrink { me: me.clone(), epoch, peer: peer.clone() },
        Change::Grow { me: me.clone(), epoch, peer: peer.clone() },
        Change::Leave { me: peer },
        Change::Restart {
            me: me.clone(),
            after: Drain::Crash,
            terms: lease::change::Terms { lossy_ok: true, ..TERMS },
        },
        Change::Activate { me: me.clone(), epoch: Epoch(2) },
        Change::Grow { me: me.clone(), epoch: Epoch(2), peer: holder("b").incarnation },
        Change::HandOver { me, epoch: Epoch(2), to: holder("b"), terms: TERMS },
    ];
    for (number, change) in changes.iter().enumerate() {
        row = applied(node.write(&write(change, &row, 10 + number as u64), BUDGET).await);
    }
    // Lost races show the row, too: that is what the old item is asked for.
    let lost = node.write(&write(&renewal(&row), &Row { nonce: nonce(999), ..row.clone() }, 99), BUDGET).await;
    assert_eq!(lost, Outcome::Refused { found: Some(Box::new(row)) });

    let event = json!({ "Entries": [entry(&stage.bus, "leasehold")] });
    let put = stage.cloud.call(&stage.node, "events", "AWSEvents.PutEvents", &event)?;
    assert_eq!((put.status, put.json()?["FailedEntryCount"].clone()), (200, json!(0)), "{}", put.body);
    Ok(())
}

fn entry(bus: &str, source: &str) -> Value {
    json!({ "Source": source, "DetailType": "Holder Suspected", "Detail": "{}", "EventBusName": bus })
}

#[tokio::test]
async fn a_node_may_not_touch_what_the_operator_and_the_functions_own() -> Result<()> {
    let stage = stage().await?;
    let node = stage.as_node();
    not_permitted("founding", &node.write(&founding("web", "line-1").write(nonce(1)), BUDGET).await);
    let row = applied(stage.table.write(&founding("web", "line-1").write(nonce(1)), BUDGET).await);
    let row = applied(stage.table.write(&write(&accept("a"), &row, 2), BUDGET).await);
    let pause = Change::Pause(Pause { reason: "mine".into() });
    not_permitted("pausing", &node.write(&write(&pause, &row, 3), BUDGET).await);
    let paused = applied(stage.table.write(&write(&pause, &row, 4), BUDGET).await);
    not_permitted("resuming", &node.write(&write(&Change::Resume, &paused, 5), BUDGET).await);
    let mut other = write(&renewal(&paused), &paused, 6);
    other.row.lineage = named("another");
    not_permitted("another lineage", &node.write(&other, BUDGET).await);

    let config =
        json!({ "cluster": "web", "nodes": [{"name": "a", "instance": "i-0a"}], "virtual_ips": [], "policy": {} });
    let refused = node.write_config(&named("web"), &config.to_string()).await;
    assert!(matches!(refused, Err(TableError::Denied { .. })), "{refused:?}");
    for refused in [
        node.write_heartbeat(&named("web"), &named("b"), 1, &heartbeat("web", "b")).await,
        node.delete_config(&named("web")).await,
        node.put_event(&named("web"), "2026-01-31T23:59:59.123Z", "x", "{}").await,
        node.history(&named("web"), 1).await.map(drop),
    ] {
        let error = refused.expect_err("not permitted");
        assert!(matches!(error, TableError::Denied { .. }), "{error}");
        assert!(error.to_string().contains("instance profile"), "it says what to do: {error}");
    }
    assert_eq!(stage.table.read(&named("web")).await?, Some(paused));
    Ok(())
}

#[tokio::test]
async fn a_node_may_not_reach_another_cluster() -> Result<()> {
    let stage = stage().await?;
    let node = stage.as_node();
    // "web-2" begins like "web": a careless pattern would let it in.
    for cluster in ["db", "web-2"] {
        let found = applied(stage.table.write(&founding(cluster, "line-1").write(nonce(1)), BUDGET).await);
        let read = node.read(&found.cluster).await;
        assert!(matches!(read, Err(TableError::Denied { .. })), "{read:?}");
        let held = applied(stage.table.write(&write(&accept("a"), &found, 2), BUDGET).await);
        not_permitted(cluster, &node.write(&write(&renewal(&held), &held, 3), BUDGET).await);
        let accepted = node
            .write(
                &write(
                    &Change::Nominate(nominee("b", held.epoch, held.beat)),
                    &Row { in_sync: [holder("b").incarnation, holder("a").incarnation].into(), ..held },
                    4,
                ),
                BUDGET,
            )
            .await;
        not_permitted(cluster, &accepted);
        for read in [
            node.read_heartbeat(&named(cluster), &named("a")).await.map(drop),
            node.write_heartbeat(&named(cluster), &named("a"), 1, &heartbeat(cluster, "a")).await,
        ] {
            assert!(matches!(read, Err(TableError::Denied { .. })), "{read:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_node_may_use_no_other_way_into_the_table() -> Result<()> {
    let stage = stage().await?;
    let (raw, table) = (stage.raw(), stage.table_name.as_str());
    denied("Scan", &raw.scan().table_name(table).send().await);
    let query = raw.query().table_name(table).key_condition_expression("cluster = :c");
    denied("Query", &query.expression_attribute_values(":c", text("web")).send().await);
    let put = raw.put_item().table_name(table).item("cluster", text("web")).item("item", text("lease"));
    denied("PutItem", &put.item("rev", text("x")).send().await);
    let delete = raw.delete_item().table_name(table).key("cluster", text("web")).key("item", text("lease"));
    denied("DeleteItem", &delete.send().await);
    denied("DeleteTable", &raw.delete_table().table_name(table).send().await);
    let update = || {
        raw.update_item()
            .table_name(table)
            .key("cluster", text("web"))
            .key("item", text("lease"))
            .update_expression("SET nonce = :n")
            .expression_attribute_values(":n", text("n"))
    };
    denied("the whole item in return", &update().return_values(ReturnValue::AllNew).send().await);
    denied(
        "a foreign attribute in the condition",
        &update().condition_expression("attribute_exists(lineage)").send().await,
    );
    let spelled = update().update_expression("SET #p = :n").expression_attribute_names("#p", "paused");
    denied("a foreign attribute by another name", &spelled.send().await);
    let statement = json!({ "Statement": format!("SELECT * FROM \"{table}\"") });
    let partiql = stage.cloud.call(&stage.node, "dynamodb", "DynamoDB_20120810.ExecuteStatement", &statement)?;
    assert!(partiql.status == 400 && partiql.body.contains("AccessDenied"), "{}", partiql.body);
    let batch = json!({ "RequestItems": { table: [{ "DeleteRequest": { "Key": { "cluster": {"S": "web"}, "item": {"S": "lease"} } } }] } });
    let batch = stage.cloud.call(&stage.node, "dynamodb", "DynamoDB_20120810.BatchWriteItem", &batch)?;
    assert!(batch.status == 400 && batch.body.contains("AccessDenied"), "{}", batch.body);
    Ok(())
}

/// IAM cannot condition on the sort key: a node may put lease attributes onto any item of its cluster's partition. It can
/// neither hide the history by that nor change what is in it.
#[tokio::test]
async fn a_node_cannot_make_the_history_unreadable() -> Result<()> {
    let stage = stage().await?;
    let (raw, table) = (stage.raw(), stage.table_name.as_str());
    let web = named("web");
    for second in 10..40 {
        let time = format!("2026-01-31T23:59:{second}.123Z");
        stage.table.put_event(&web, &time, "x", &json!({ "kind": "Paused", "second": second }).to_string()).await?;
    }
    let update = |item: &str, expression: &str| {
        let with_value = expression.starts_with("SET").then(|| text("mine"));
        raw.update_item()
            .table_name(table)
            .key("cluster", text("web"))
            .key("item", text(item))
            .update_expression(expression)
            .set_expression_attribute_values(with_value.map(|value| [(":n".to_owned(), value)].into()))
    };
    let real = "event#2026-01-31T23:59:39.123Z#x";
    denied("an event's version", &update(real, "SET v = :n").send().await);
    denied("an event's text", &update(real, "REMOVE detail").send().await);
    update(real, "SET nonce = :n").send().await?;
    // Newer than any event, and more of them than anybody looks back.
    for number in 0..60 {
        update(&format!("event#zzz{number:02}"), "SET nonce = :n").send().await?;
    }
    let history = stage.table.history(&web, 12).await?;
    let (strange, real): (Vec<_>, Vec<_>) = history.iter().partition(|event| event.detail["kind"] == UNREADABLE);
    let seconds: Vec<_> = real.iter().map(|event| event.detail["second"].clone()).collect();
    assert_eq!(
        seconds,
        (28..40).rev().map(Value::from).collect::<Vec<_>>(),
        "they use up nothing of what is asked for"
    );
    assert_eq!((strange.len(), strange[0].detail["item"].as_str()), (20, Some("event#zzz59")));
    assert!(strange[0].detail["why"].as_str().is_some_and(|why| why.contains("attribute v")), "{:?}", strange[0]);
    Ok(())
}

#[tokio::test]
async fn a_node_may_not_move_traffic_nor_speak_for_others() -> Result<()> {
    let stage = stage().await?;
    let version = ("Version", "2016-11-15");
    let route = ("DestinationCidrBlock", "10.99.0.10/32");
    for call in [
        vec![("Action", "ReplaceRoute"), version, ("RouteTableId", "rtb-1"), route, ("NetworkInterfaceId", "eni-1")],
        vec![("Action", "CreateRoute"), version, ("RouteTableId", "rtb-1"), route, ("NetworkInterfaceId", "eni-1")],
        vec![("Action", "DescribeInstances"), version],
        vec![("Action", "StopInstances"), version, ("InstanceId.1", "i-0b")],
        vec![
            ("Action", "ModifyNetworkInterfaceAttribute"),
            version,
            ("NetworkInterfaceId", "eni-1"),
            ("SourceDestCheck.Value", "false"),
        ],
    ] {
        let answer = stage.cloud.query(&stage.node, "ec2", &call)?;
        assert!(answer.status == 403 && answer.body.contains("UnauthorizedOperation"), "{call:?}: {}", answer.body);
    }
    for (bus, source) in [(stage.bus.as_str(), "aws.ec2"), (&stage.bus, "somebody"), ("default", "leasehold")] {
        let event = json!({ "Entries": [entry(bus, source)] });
        let put = stage.cloud.call(&stage.node, "events", "AWSEvents.PutEvents", &event)?;
        assert!(put.status == 400 && put.body.contains("AccessDenied"), "{bus} {source}: {}", put.body);
    }
    let invoke = stage.cloud.query(
        &stage.node,
        "sts",
        &[
            ("Action", "AssumeRole"),
            ("Version", "2011-06-15"),
            ("RoleArn", "arn:aws:iam::123456789012:role/leasehold-web-b"),
            ("RoleSessionName", "x"),
        ],
    )?;
    assert!(invoke.body.contains("AccessDenied"), "{}", invoke.body);
    Ok(())
}
