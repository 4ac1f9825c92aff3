//! The row as an item: native attributes, so that policies can name them and people can read them.
//!
//! Attributes that this program does not know are ignored when read and kept when written (`UpdateItem` touches only
//! what it names): a newer program may add one at the same layout version only if older ones may ignore it.

use super::items::{Attributes, Item, number, text, to_native};
use super::{LEASE_ITEM, TableError};
use crate::change::{Expect, Write};
use crate::ids::{Beat, ClusterId, Epoch, Rev};
use crate::policy::{TTL_MAX, TTL_MIN};
use crate::record::{ROW_VERSION, Row};
use crate::time::Millis;
use aws_sdk_dynamodb::types::AttributeValue;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// Reads the row of `cluster`.
pub(super) fn parse(cluster: &ClusterId, attributes: &Attributes) -> Result<Row, TableError> {
    let item = Item { key: cluster.as_str(), item: LEASE_ITEM, attributes };
    item.version(ROW_VERSION)?;
    let row = Row {
        cluster: item.name("cluster")?,
        rev: Rev(item.number("rev")?),
        lineage: item.name("lineage")?,
        epoch: Epoch(item.number("epoch")?),
        holder: item.map("holder")?,
        beat: Beat(item.number("beat")?),
        in_sync: item.names("in_sync")?,
        activated: item.flag("activated")?,
        nominee: item.map("nominee")?,
        intent: item.map("intent")?,
        paused: item.map("paused")?,
        ttl_ms: Millis(item.number("ttl_ms")?),
        lossy_ok: item.flag("lossy_ok")?,
        nonce: item.name("nonce")?,
    };
    // Rows that no legal change leads to were made by hand or by a bug. Acting on one could let two nodes serve.
    if row.cluster != *cluster {
        return Err(item.malformed("cluster", cluster.to_string()));
    }
    if row.rev == Rev(0) {
        return Err(item.malformed("rev", "1 or more"));
    }
    if !(TTL_MIN..=TTL_MAX).contains(&row.ttl_ms) {
        return Err(item.malformed("ttl_ms", format!("{} to {}", TTL_MIN.0, TTL_MAX.0)));
    }
    match &row.holder {
        Some(holder) if !row.in_sync.contains(&holder.incarnation) => {
            Err(item.malformed("in_sync", format!("the holder's {} among the members", holder.incarnation)))
        }
        None if row.activated => Err(item.malformed("activated", "false while nobody holds the lease")),
        _ => Ok(row),
    }
}

/// What one `UpdateItem` says.
#[derive(Debug, PartialEq)]
pub(super) struct Update {
    pub(super) expression: String,
    pub(super) condition: &'static str,
    pub(super) names: HashMap<String, String>,
    pub(super) values: HashMap<String, AttributeValue>,
}

impl Update {
    /// Names only what differs from the row that was read: a node is not permitted to name more, and another writer's
    /// attribute is never written back. Absolute values, so that a try that is processed twice does no harm.
    pub(super) fn of(write: &Write) -> Self {
        let new = attributes(&write.row);
        let mut update = Self {
            expression: String::new(),
            condition: "attribute_not_exists(#rev)",
            names: HashMap::from([("#rev".into(), "rev".into())]),
            values: HashMap::new(),
        };
        let mut old = BTreeMap::new();
        if let Expect::Version(read) = &write.expect {
            // rev and nonce: a row that was deleted and founded again counts from 1 again.
            update.condition = "#rev = :old_rev AND #nonce = :old_nonce";
            update.names.insert("#nonce".into(), "nonce".into());
            update.values.insert(":old_rev".into(), number(read.rev.0));
            update.values.insert(":old_nonce".into(), text(read.nonce.as_str()));
            old = attributes(read);
        }
        let mut set = Vec::new();
        for (name, value) in new.iter().filter(|(name, value)| old.get(*name) != Some(value)) {
            set.push(format!("#{name} = :{name}"));
            update.names.insert(format!("#{name}"), (*name).into());
            update.values.insert(format!(":{name}"), value.clone());
        }
        let mut remove = Vec::new();
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            remove.push(format!("#{name}"));
            update.names.insert(format!("#{name}"), (*name).into());
        }
        // Never empty: rev and nonce always differ.
        update.expression = format!("SET {}", set.join(", "));
        if !remove.is_empty() {
            update.expression.push_str(" REMOVE ");
            update.expression.push_str(&remove.join(", "));
        }
        update
    }
}

/// All attributes of the row but its keys.
fn attributes(row: &Row) -> BTreeMap<&'static str, AttributeValue> {
    fn map<T: Serialize>(value: &T) -> AttributeValue {
        to_native(serde_json::to_value(value).expect("these types have string keys only, so they always serialise"))
    }
    let members = row.in_sync.iter().map(ToString::to_string).collect();
    let mut attributes = BTreeMap::from([
        ("v", number(ROW_VERSION)),
        ("rev", number(row.rev.0)),
        ("lineage", text(row.lineage.as_str())),
        ("epoch", number(row.epoch.0)),
        ("beat", number(row.beat.0)),
        ("in_sync", AttributeValue::Ss(members)),
        ("activated", AttributeValue::Bool(row.activated)),
        ("ttl_ms", number(row.ttl_ms.0)),
        ("lossy_ok", AttributeValue::Bool(row.lossy_ok)),
        ("nonce", text(row.nonce.as_str())),
    ]);
    let optional = [
        ("holder", row.holder.as_ref().map(map)),
        ("nominee", row.nominee.as_ref().map(map)),
        ("intent", row.intent.as_ref().map(map)),
        ("paused", row.paused.as_ref().map(map)),
    ];
    attributes.extend(optional.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))));
    attributes
}
