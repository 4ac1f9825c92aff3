//! The table: how rows, configurations, heartbeats and history lie in DynamoDB. The only impure module of this crate.
//!
//! | `cluster` (hash) | `item` (range)       | attributes                        | written by         |
//! |------------------|----------------------|-----------------------------------|--------------------|
//! | `web`            | `lease`              | one for each field of [`Row`], `v` | nodes, functions   |
//! | `web`            | `config`             | `v`, `config` (JSON)              | the deployment     |
//! | `web/a`          | `node`               | `v`, `seq`, `state` (JSON)        | node `a` alone     |
//! | `web`            | `event#<time>#<id>`  | `v`, `detail` (JSON)              | functions          |
//!
//! A node's heartbeat has a partition of its own, so that `dynamodb:LeadingKeys` confines the node to it.
//! Every read is strongly consistent. Every change of the row is one `UpdateItem` under the condition that the version
//! that was read still stands.

mod error;
mod items;
mod request;
mod row;

pub use error::TableError;
pub use request::{Count, Operation, Requests};

use crate::change::Write;
use crate::config::{CONFIG_VERSION, ClusterConfig};
use crate::events::EVENT_VERSION;
use crate::heartbeat::{HEARTBEAT_VERSION, Heartbeat};
use crate::ids::{ClusterId, NodeId};
use crate::outcome::Outcome;
use crate::record::Row;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use items::{Attributes, Item, number, text};
use request::{Failure, Line, Pace, with_tries};
use std::sync::Arc;
use std::time::Duration;

/// The keys' names: partition and sort key.
pub const KEYS: [&str; 2] = ["cluster", "item"];
pub const LEASE_ITEM: &str = "lease";
pub const CONFIG_ITEM: &str = "config";
pub const NODE_ITEM: &str = "node";
/// Between cluster and node in the partition key of a heartbeat.
pub const NODE_SEPARATOR: &str = "/";
const EVENT_PREFIX: &str = "event#";
/// `kind` of an item of the history that cannot be read. No event is called so.
pub const UNREADABLE: &str = "unreadable";

/// The attributes that changes of a node name; its policy allows no others (not `v`, `lineage` and `paused`).
pub const NODE_NAMES: [&str; 11] =
    ["rev", "epoch", "holder", "beat", "in_sync", "activated", "nominee", "intent", "ttl_ms", "lossy_ok", "nonce"];
/// The attributes of a heartbeat.
pub const HEARTBEAT_NAMES: [&str; 3] = ["v", "seq", "state"];

/// Pages read for one history at most: a few unless somebody has filled it with what cannot be read.
const HISTORY_PAGES: usize = 12;
/// Unreadable items told in one history; more say nothing more.
const UNREADABLE_TOLD: usize = 20;

/// How long reads and the less urgent writes are tried, unless [`Table::with_patience`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(2);

/// One deployment's table. Cheap to clone; clones share the connection pool and the counts.
#[derive(Clone, Debug)]
pub struct Table {
    client: Client,
    line: Line,
    patience: Duration,
}

/// One event of a cluster's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// RFC 3339 in UTC with milliseconds; for people only.
    pub time: String,
    pub id: String,
    /// The JSON that was put.
    pub detail: serde_json::Value,
}

impl Table {
    /// The table `name`, reached as `client` is configured (endpoint, Region, credentials), but for retries and
    /// time-outs: both are this type's own business.
    #[must_use]
    pub fn new(client: &Client, name: impl Into<String>) -> Self {
        let config = client
            .config()
            .to_builder()
            // A retry inside the SDK would hide that the first try was applied.
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .build();
        let line = Line { table: name.into(), requests: Arc::default() };
        Self { client: Client::from_conf(config), line, patience: PATIENCE }
    }

    /// The same table, trying reads and the less urgent writes for `patience`.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.line.table
    }

    /// The counts of requests, for metrics.
    #[must_use]
    pub fn requests(&self) -> Arc<Requests> {
        Arc::clone(&self.line.requests)
    }

    /// The row as it stood at some time between call and return; `None`: the cluster has none.
    ///
    /// # Errors
    /// [`TableError`]; retried while the patience lasts where that can help. It says nothing about the row.
    pub async fn read(&self, cluster: &ClusterId) -> Result<Option<Row>, TableError> {
        let found = self.get(Operation::ReadRow, cluster.as_str(), LEASE_ITEM).await?;
        found.map(|attributes| row::parse(cluster, &attributes)).transpose()
    }

    /// Makes one change of the row, trying for at most `budget` (a try that is under way may end up to 40 ms later).
    /// All tries carry the write's own nonce, by which a try whose answer was lost is recognised.
    ///
    /// A lease counts from before the first call, not from the return. A write whose outcome was
    /// [`Outcome::Unknown`] may be passed again; but this call knows nothing of earlier ones, so from then on
    /// [`Outcome::Refused`] says no more than [`Outcome::Superseded`].
    pub async fn write(&self, write: &Write, budget: Duration) -> Outcome {
        let cluster = &write.row.cluster;
        let update = row::Update::of(write);
        let mut pace = Pace::within(budget);
        // Some try was sent, and may have been applied or may be yet.
        let mut unanswered = false;
        let gave_up = |unanswered: bool, problem: String| {
            if unanswered { Outcome::Unknown { problem } } else { Outcome::NotApplied { problem } }
        };
        loop {
            let error = match self.line.try_once(Operation::WriteRow, pace.limit(), self.send(cluster, &update)).await {
                Ok(Wrote::Applied) => return Outcome::Applied(Box::new(write.row.clone())),
                Ok(Wrote::Conflict(found)) => {
                    return match found.map(|attributes| row::parse(cluster, &attributes)).transpose() {
                        Ok(found) => Outcome::of_conflict(write, found.map(Box::new), unanswered),
                        Err(error) => gave_up(unanswered, error.to_string()),
                    };
                }
                Err(Failure::TurnedAway(error)) if !error.is_passing() => {
                    return gave_up(unanswered, error.to_string());
                }
                Err(Failure::TurnedAway(error)) => error,
                Err(Failure::Unanswered(problem)) => {
                    unanswered = true;
                    let table = self.line.table.clone();
                    TableError::Unanswered { table, operation: Operation::WriteRow, tries: 0, problem }
                }
            };
            if !pace.pause().await {
                return gave_up(unanswered, with_tries(error, pace.tries).to_string());
            }
        }
    }

    async fn send(&self, cluster: &ClusterId, update: &row::Update) -> Result<Wrote, SdkError<UpdateItemError>> {
        let sent = self
            .client
            .update_item()
            .table_name(&self.line.table)
            .key("cluster", text(cluster.as_str()))
            .key("item", text(LEASE_ITEM))
            .update_expression(&update.expression)
            .condition_expression(update.condition)
            .set_expression_attribute_names(Some(update.names.clone()))
            .set_expression_attribute_values(Some(update.values.clone()))
            // Not ReturnValues: a node may not ask for attributes that it may not name.
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match sent {
            Ok(_) => Ok(Wrote::Applied),
            Err(SdkError::ServiceError(service)) if service.err().is_conditional_check_failed_exception() => {
                let found = match service.into_err() {
                    UpdateItemError::ConditionalCheckFailedException(conflict) => conflict.item,
                    _ => None,
                };
                Ok(Wrote::Conflict(found.filter(|attributes| !attributes.is_empty())))
            }
            Err(error) => Err(error),
        }
    }

    /// The cluster's configuration; `None`: it has none.
    ///
    /// # Errors
    /// [`TableError`], with every mistake of the configuration at once.
    pub async fn read_config(&self, cluster: &ClusterId) -> Result<Option<ClusterConfig>, TableError> {
        let Some(attributes) = self.get(Operation::ReadConfig, cluster.as_str(), CONFIG_ITEM).await? else {
            return Ok(None);
        };
        let item = Item { key: cluster.as_str(), item: CONFIG_ITEM, attributes: &attributes };
        item.version(CONFIG_VERSION)?;
        parse_config(cluster, item.text("config")?).map(Some)
    }

    /// Writes the cluster's configuration, whole, if it is valid.
    ///
    /// # Errors
    /// [`TableError`], with every mistake of the configuration at once; nothing is written then.
    pub async fn write_config(&self, cluster: &ClusterId, json: &str) -> Result<(), TableError> {
        parse_config(cluster, json)?;
        let attributes = [("v", number(CONFIG_VERSION)), ("config", text(json))];
        self.set(Operation::WriteConfig, cluster.as_str(), CONFIG_ITEM, &attributes).await
    }

    /// Removes the cluster's configuration, if there is one.
    ///
    /// # Errors
    /// [`TableError`]; it may have been removed all the same if there was no answer.
    pub async fn delete_config(&self, cluster: &ClusterId) -> Result<(), TableError> {
        let request = self
            .client
            .delete_item()
            .table_name(&self.line.table)
            .key("cluster", text(cluster.as_str()))
            .key("item", text(CONFIG_ITEM));
        self.line.insist(Operation::DeleteConfig, self.patience, || request.clone().send()).await.map(drop)
    }

    /// A node's latest heartbeat and its number; `None`: it never wrote one.
    ///
    /// # Errors
    /// [`TableError`]; it says nothing about the node.
    pub async fn read_heartbeat(
        &self,
        cluster: &ClusterId,
        node: &NodeId,
    ) -> Result<Option<(u64, Heartbeat)>, TableError> {
        let key = node_key(cluster, node);
        let Some(attributes) = self.get(Operation::ReadHeartbeat, &key, NODE_ITEM).await? else { return Ok(None) };
        let item = Item { key: &key, item: NODE_ITEM, attributes: &attributes };
        item.version(HEARTBEAT_VERSION)?;
        let heartbeat: Heartbeat = item.json("state")?;
        if heartbeat.cluster != *cluster || heartbeat.node != *node {
            return Err(item.malformed("state", format!("a heartbeat of node {node} of cluster {cluster}")));
        }
        Ok(Some((item.number("seq")?, heartbeat)))
    }

    /// Writes this node's own heartbeat. `seq` must rise with each: readers tell a living node by its movement.
    ///
    /// # Errors
    /// [`TableError`]; it may have been written all the same if there was no answer.
    pub async fn write_heartbeat(
        &self,
        cluster: &ClusterId,
        node: &NodeId,
        seq: u64,
        heartbeat: &Heartbeat,
    ) -> Result<(), TableError> {
        let state = serde_json::to_string(heartbeat).expect("string keys only, so it always serialises");
        let [v, seq_name, state_name] = HEARTBEAT_NAMES;
        let attributes = [(v, number(HEARTBEAT_VERSION)), (seq_name, number(seq)), (state_name, text(state))];
        self.set(Operation::WriteHeartbeat, &node_key(cluster, node), NODE_ITEM, &attributes).await
    }

    /// Adds to the cluster's history. `time` is RFC 3339 in UTC with milliseconds (2026-01-31T23:59:59.123Z); `id`
    /// tells apart what happened in the same millisecond. Putting the same again changes nothing.
    ///
    /// # Errors
    /// [`TableError`]; it may have been put all the same if there was no answer.
    pub async fn put_event(&self, cluster: &ClusterId, time: &str, id: &str, json: &str) -> Result<(), TableError> {
        if !is_event_time(time) {
            return Err(TableError::BadTime { found: time.into() });
        }
        let request = self
            .client
            .put_item()
            .table_name(&self.line.table)
            .item("cluster", text(cluster.as_str()))
            .item("item", text(format!("{EVENT_PREFIX}{time}#{id}")))
            .item("v", number(EVENT_VERSION))
            .item("detail", text(json));
        self.line.insist(Operation::PutEvent, self.patience, || request.clone().send()).await.map(drop)
    }

    /// The cluster's history, newest first, at most `limit` events. An item among them that cannot be read (of a newer
    /// release, or a node's doing: IAM cannot keep it from writing lease attributes anywhere in its cluster's partition)
    /// is told as one of kind `unreadable`, on top of the limit, and keeps nothing else from being read.
    ///
    /// # Errors
    /// [`TableError`] where the table does not answer.
    pub async fn history(&self, cluster: &ClusterId, limit: usize) -> Result<Vec<Recorded>, TableError> {
        let mut history = Vec::new();
        let (mut read, mut unreadable) = (0, 0);
        let mut after: Option<Attributes> = None;
        for _ in 0..HISTORY_PAGES {
            if read >= limit {
                break;
            }
            // As many again as were in vain so far: a heap of them is passed in a few pages.
            let wanted = limit - read + unreadable;
            let request = self
                .client
                .query()
                .table_name(&self.line.table)
                .consistent_read(true)
                .scan_index_forward(false)
                .key_condition_expression("#cluster = :cluster AND begins_with(#item, :prefix)")
                .expression_attribute_names("#cluster", "cluster")
                .expression_attribute_names("#item", "item")
                .expression_attribute_values(":cluster", text(cluster.as_str()))
                .expression_attribute_values(":prefix", text(EVENT_PREFIX))
                .limit(i32::try_from(wanted).unwrap_or(i32::MAX))
                .set_exclusive_start_key(after.take());
            let page = self.line.insist(Operation::ReadHistory, self.patience, || request.clone().send()).await?;
            for attributes in page.items() {
                match parse_event(cluster, attributes) {
                    Ok(event) if read < limit => {
                        read += 1;
                        history.push(event);
                    }
                    Ok(_) => break,
                    Err(error) => {
                        unreadable += 1;
                        if unreadable <= UNREADABLE_TOLD {
                            history.push(unreadable_event(attributes, &error));
                        }
                    }
                }
            }
            after = page.last_evaluated_key;
            if after.is_none() {
                break;
            }
        }
        Ok(history)
    }

    async fn get(&self, operation: Operation, key: &str, item: &str) -> Result<Option<Attributes>, TableError> {
        let request = self
            .client
            .get_item()
            .table_name(&self.line.table)
            .key("cluster", text(key))
            .key("item", text(item))
            .consistent_read(true);
        let answer = self.line.insist(operation, self.patience, || request.clone().send()).await?;
        Ok(answer.item)
    }

    /// `UpdateItem` of these attributes, unconditionally: for items with one writer.
    async fn set(
        &self,
        operation: Operation,
        key: &str,
        item: &str,
        attributes: &[(&str, AttributeValue)],
    ) -> Result<(), TableError> {
        let mut request =
            self.client.update_item().table_name(&self.line.table).key("cluster", text(key)).key("item", text(item));
        let mut set = Vec::new();
        for (name, value) in attributes {
            set.push(format!("#{name} = :{name}"));
            request = request
                .expression_attribute_names(format!("#{name}"), *name)
                .expression_attribute_values(format!(":{name}"), value.clone());
        }
        let request = request.update_expression(format!("SET {}", set.join(", ")));
        self.line.insist(operation, self.patience, || request.clone().send()).await.map(drop)
    }
}

/// How one try to write the row was answered.
enum Wrote {
    Applied,
    /// The condition did not hold on this item; `None`: there is none.
    Conflict(Option<Attributes>),
}

fn node_key(cluster: &ClusterId, node: &NodeId) -> String {
    // Neither name may contain the slash, so no cluster's key can look like another's node.
    format!("{cluster}{NODE_SEPARATOR}{node}")
}

fn parse_config(cluster: &ClusterId, json: &str) -> Result<ClusterConfig, TableError> {
    let config =
        ClusterConfig::parse(json).map_err(|problems| TableError::BadConfig { cluster: cluster.clone(), problems })?;
    if config.cluster == *cluster {
        Ok(config)
    } else {
        Err(TableError::OtherCluster { cluster: cluster.clone(), found: config.cluster })
    }
}

fn parse_event(cluster: &ClusterId, attributes: &Attributes) -> Result<Recorded, TableError> {
    let name = match attributes.get("item") {
        Some(AttributeValue::S(name)) => name.as_str(),
        _ => EVENT_PREFIX,
    };
    let item = Item { key: cluster.as_str(), item: name, attributes };
    item.version(EVENT_VERSION)?;
    let (time, id) = name
        .strip_prefix(EVENT_PREFIX)
        .and_then(|rest| rest.split_once('#'))
        .ok_or_else(|| item.malformed("item", "event#<time>#<id>"))?;
    Ok(Recorded { time: time.into(), id: id.into(), detail: item.json("detail")? })
}

/// In the place of an event that cannot be read: its key, and why.
fn unreadable_event(attributes: &Attributes, why: &TableError) -> Recorded {
    let name = match attributes.get("item") {
        Some(AttributeValue::S(name)) => name.as_str(),
        _ => EVENT_PREFIX,
    };
    let rest = name.strip_prefix(EVENT_PREFIX).unwrap_or(name);
    let (time, id) = rest.split_once('#').unwrap_or((rest, ""));
    let detail = serde_json::json!({ "kind": UNREADABLE, "item": name, "why": why.to_string() });
    Recorded { time: time.into(), id: id.into(), detail }
}

fn is_event_time(time: &str) -> bool {
    let shape = b"0000-00-00T00:00:00.000Z";
    time.len() == shape.len()
        && time
            .bytes()
            .zip(shape)
            .all(|(found, shape)| if *shape == b'0' { found.is_ascii_digit() } else { found == *shape })
}

#[cfg(test)]
mod tests;
