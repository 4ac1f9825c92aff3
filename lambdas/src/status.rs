//! `status`: who serves, why, who could take over, and whether the network matches.

use crate::cloud::Cloud;
use crate::decide::Sighting;
use crate::discovery::{View, discover};
use crate::observe::{Trouble, heartbeats, row_moves};
use crate::routing::plan;
use lease::config::ClusterConfig;
use lease::ids::{ClusterId, NodeId};
use lease::record::Row;
use lease::time::Millis;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The status of `cluster`.
///
/// # Errors
/// [`Trouble`] where the table could not be read. A network that cannot be read is part of the answer.
pub async fn status(cloud: &impl Cloud, cluster: &ClusterId) -> Result<Value, Trouble> {
    let (row, config) = futures::try_join!(cloud.row(cluster), cloud.config(cluster))?;
    let config = config.ok_or_else(|| Trouble::NoCluster(cluster.clone()))?;
    // Two beats and what a write may be late: long enough to see a living holder renew.
    let within = Millis(config.policy.beat_ms.0 * 2 + 300);
    let (sightings, moves, network) = futures::join!(
        heartbeats(cloud, &config),
        row_moves(cloud, cluster, row.as_ref(), within),
        network(cloud, &config, row.as_ref()),
    );
    let (sightings, renewing) = (sightings?, moves?);
    let Some(row) = row else {
        return Ok(json!({
            "cluster": cluster, "summary": "NOT SERVING: the cluster has no lease yet", "protected": false, "lease": null,
            "nodes": nodes(&config, None, &sightings), "network": network,
            "what_to_do": "start the nodes; the first that joins becomes the holder",
        }));
    };
    let (summary, protected, what_to_do) = summary(&config, &row, &sightings, renewing);
    Ok(json!({
        "cluster": cluster, "summary": summary, "protected": protected,
        "lease": {
            "holder": row.holder.as_ref().map(|holder| &holder.node), "epoch": row.epoch, "beat": row.beat,
            "activated": row.activated, "renewing": renewing,
            "paused": row.paused.as_ref().map(|pause| &pause.reason),
            "intent": row.intent.as_ref().map(|intent| json!({ "to": intent.to, "rule": intent.rule, "reason": intent.reason })),
            "nominee": row.live_nominee().map(|nominee| json!({ "node": nominee.node, "rule": nominee.rule, "reason": nominee.reason })),
        },
        "nodes": nodes(&config, Some(&row), &sightings), "network": network, "what_to_do": what_to_do,
    }))
}

fn nodes(config: &ClusterConfig, row: Option<&Row>, sightings: &BTreeMap<NodeId, Sighting>) -> Vec<Value> {
    let node = |member: &lease::config::Member| {
        let holder = row.and_then(|row| row.holder.as_ref()).is_some_and(|holder| holder.node == member.name);
        let Some(Sighting { seq, heartbeat, .. }) = sightings.get(&member.name) else {
            return json!({ "node": member.name, "instance": member.instance, "role": "never seen", "in_sync": false, "holder": holder });
        };
        json!({
            "node": member.name, "instance": member.instance, "role": heartbeat.role, "holder": holder, "seq": seq,
            "in_sync": row.is_some_and(|row| row.in_sync.contains(&heartbeat.incarnation)),
            "believed": heartbeat.instance == member.instance, "version": heartbeat.version,
            "hears": heartbeat.hears, "resources": heartbeat.resources,
        })
    };
    config.nodes.iter().map(node).collect()
}

fn summary(
    config: &ClusterConfig,
    row: &Row,
    sightings: &BTreeMap<NodeId, Sighting>,
    renewing: bool,
) -> (String, bool, Option<&'static str>) {
    let in_sync: Vec<&str> = config
        .nodes
        .iter()
        .filter(|member| sightings.get(&member.name).is_some_and(|s| row.in_sync.contains(&s.heartbeat.incarnation)))
        .map(|member| member.name.as_str())
        .collect();
    let Some(holder) = &row.holder else {
        let what = "start an in-sync node; it is nominated as soon as it joins";
        return (
            format!("NOT SERVING: nobody holds epoch {}; in sync: {}", row.epoch, in_sync.join(", ")),
            false,
            Some(what),
        );
    };
    let standbys = in_sync.iter().filter(|node| **node != holder.node.as_str()).count();
    let place = format!("{}, epoch {}", holder.node, row.epoch);
    let pause = row.paused.as_ref().map_or_else(String::new, |pause| format!("; PAUSED: {}", pause.reason));
    let sync = in_sync.join(", ");
    if !renewing {
        let what = "failover decides by itself; see history. If a standby still hears the holder (R220), repair its path to DynamoDB";
        return (format!("SILENT: {place} does not renew; in sync: {sync}{pause}"), standbys > 0, Some(what));
    }
    if !row.activated {
        return (format!("STARTING on {place}; in sync: {sync}{pause}"), standbys > 0, None);
    }
    if standbys == 0 {
        let what = "bring a standby back: start its daemon, and look at its log";
        return (format!("SERVING on {place}, NOT PROTECTED: no standby in sync{pause}"), false, Some(what));
    }
    let what = row.paused.as_ref().map(|_| "resume when the work is done: until then nothing fails over");
    (format!("SERVING on {place}; in sync: {sync}{pause}"), row.paused.is_none(), what)
}

async fn network(cloud: &impl Cloud, config: &ClusterConfig, row: Option<&Row>) -> Value {
    let holder = row.and_then(|row| row.holder.as_ref()).and_then(|holder| config.member(&holder.node));
    let Some(member) = holder else { return json!({ "matches": false, "why": "nobody holds the lease" }) };
    match discover(cloud, config, View::Failover).await {
        Err(error) => json!({ "matches": null, "why": error.to_string() }),
        Ok(topology) => {
            let plan = plan(&topology, &config.virtual_ips, &member.instance);
            json!({
                "matches": plan.changes.is_empty() && plan.problems.is_empty(),
                "changes_needed": plan.changes.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "problems": plan.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
        }
    }
}
