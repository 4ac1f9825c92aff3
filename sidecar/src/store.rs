//! The row and the cluster's configuration, for the core. Reads and writes have a task and connections each, so that a
//! renewal never waits behind anything.

use crate::clock;
use crate::node::event::{Event, Ticket};
use crate::state_dir::{StateDir, StateError};
use lease::change::Write;
use lease::config::ClusterConfig;
use lease::ids::ClusterId;
use lease::policy::Policy;
use lease::table::{Table, TableError};
use lease::time::Millis;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

const CONFIG_FILE: &str = "cluster.json";
/// The machine asks for one at a time; a second may wait while the answer to the first is on its way.
pub const REQUESTS_MAX: usize = 4;

/// How long one read or write is tried. Less than the machine's own patience with the lease, more than a slow answer.
#[must_use]
pub fn budget(policy: &Policy) -> Duration {
    policy.beat_ms.max(Millis(500)).into()
}

/// Reads the row each time it is asked to.
pub async fn read_rows(table: Table, cluster: ClusterId, mut asked: mpsc::Receiver<()>, events: mpsc::Sender<Event>) {
    while asked.recv().await.is_some() {
        let at = clock::now();
        let event = match table.read(&cluster).await {
            Ok(row) => Event::RowRead { asked: at, row: row.map(Box::new) },
            Err(error) => Event::RowUnreadable { problem: error.to_string() },
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// Makes the writes it is given, one after the other.
pub async fn write_rows(
    table: Table,
    budget: Duration,
    mut writes: mpsc::Receiver<(Ticket, Box<Write>)>,
    events: mpsc::Sender<Event>,
) {
    while let Some((ticket, write)) = writes.recv().await {
        let outcome = table.write(&write, budget).await;
        if events.send(Event::Written { ticket, outcome }).await.is_err() {
            return;
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(
        "table {table} has no configuration of cluster {cluster}; deploy the cluster first, or correct `cluster` and `table` in the node's configuration"
    )]
    NoCluster { table: String, cluster: ClusterId },
    #[error("cannot read the configuration of cluster {cluster}, and none is kept from before: {error}")]
    Unreadable { cluster: ClusterId, error: TableError },
}

/// The cluster's configuration, from the table; where that does not answer, as it was at the last start. The second value
/// says why it is an old one.
///
/// # Errors
/// [`SetupError`] where there is none at all, or a wrong one.
pub async fn cluster_config(
    table: &Table,
    cluster: &ClusterId,
    state: &StateDir,
) -> Result<(ClusterConfig, Option<TableError>), SetupError> {
    match table.read_config(cluster).await {
        Ok(Some(config)) => {
            state.write_json(CONFIG_FILE, &to_json(&config))?;
            Ok((config, None))
        }
        Ok(None) => Err(SetupError::NoCluster { table: table.name().into(), cluster: cluster.clone() }),
        // What a person has to put right first (a wrong configuration, a missing right) is no reason to run with an old one.
        Err(error) if !error.is_passing() => Err(SetupError::Unreadable { cluster: cluster.clone(), error }),
        Err(error) => match kept_config(state, cluster) {
            Some(config) => Ok((config, Some(error))),
            None => Err(SetupError::Unreadable { cluster: cluster.clone(), error }),
        },
    }
}

/// The configuration of the last start, if there was one with this cluster.
#[must_use]
pub fn kept_config(state: &StateDir, cluster: &ClusterId) -> Option<ClusterConfig> {
    let kept = state.read_json::<serde_json::Value>(CONFIG_FILE).map_err(|error| error.to_string()).transpose()?;
    match kept.and_then(|kept| ClusterConfig::parse(&kept.to_string()).map_err(|problems| problems.to_string())) {
        Ok(config) => Some(config).filter(|config| config.cluster == *cluster),
        Err(problem) => {
            tracing::warn!(file = CONFIG_FILE, problem, "the configuration that was kept cannot be used");
            None
        }
    }
}

/// What in a configuration in use does next to nothing: no reason not to run on it, and told.
#[must_use]
pub fn futile(config: &ClusterConfig) -> Option<String> {
    config.policy.check_lag_limit().err().map(|bad| format!("the cluster's configuration: policy.{bad}"))
}

/// Looks once in a while whether the configuration is still the one that this daemon runs on. It is not taken up while
/// running: members, timers and addresses hold for the life of a process, so that no step of the protocol sees two.
pub async fn watch_config(table: Table, mine: ClusterConfig, trouble: watch::Sender<Option<String>>) -> Infallible {
    loop {
        tokio::time::sleep(CONFIG_EVERY.into()).await;
        let found = match table.read_config(&mine.cluster).await {
            Ok(Some(config)) if config == mine => futile(&mine),
            Ok(Some(_)) => Some(CHANGED.to_owned()),
            Ok(None) => {
                Some("the cluster's configuration was deleted; this node goes on with the one it has".to_owned())
            }
            // No news; the row's reader tells of an outage.
            Err(error) if error.is_passing() => continue,
            Err(error) => Some(error.to_string()),
        };
        trouble.send_if_modified(|trouble| {
            let changed = *trouble != found;
            if changed && let Some(problem) = &found {
                tracing::warn!(problem, "the cluster's configuration");
            }
            trouble.clone_from(&found);
            changed
        });
    }
}

/// How often: a deployment is no matter of seconds, and each look costs a read.
const CONFIG_EVERY: Millis = Millis(60_000);
const CHANGED: &str =
    "the cluster's configuration has changed since this daemon started; restart it to take it up, standbys first";

/// As [`ClusterConfig::parse`] reads it.
fn to_json(config: &ClusterConfig) -> serde_json::Value {
    let mut policy = serde_json::to_value(&config.policy).expect("a policy always serialises");
    if let Some(policy) = policy.as_object_mut() {
        policy.retain(|_, value| !value.is_null());
    }
    let nodes: Vec<_> = config
        .nodes
        .iter()
        .map(|node| serde_json::json!({"name": node.name, "instance": node.instance, "priority": node.priority}))
        .collect();
    let virtual_ips: Vec<_> = config
        .virtual_ips
        .iter()
        .map(|vip| serde_json::json!({"address": vip.address, "vpc": vip.vpc, "create_in": vip.create_in}))
        .collect();
    let mut json =
        serde_json::json!({"cluster": config.cluster, "nodes": nodes, "virtual_ips": virtual_ips, "policy": policy});
    if let Some(ports) = &config.ports {
        json["ports"] = serde_json::json!({"service": ports.service});
        if let Some(health) = ports.health {
            json["ports"]["health"] = health.into();
        }
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_configuration_is_the_one_that_was_read() {
        for (policy, ports) in [
            (r#"{"ttl_ms":5000}"#, ""),
            (
                r#"{"ttl_ms":3000,"lossy_lag_limit_ms":1000,"clock_rate_bound_ppm":10000}"#,
                r#","ports":{"health":7402}"#,
            ),
            ("{}", r#","ports":{"service":[80,5432],"health":7402}"#),
        ] {
            let json = format!(
                r#"{{"cluster":"web","nodes":[{{"name":"a","instance":"i-0a","priority":1}},{{"name":"b","instance":"i-0b"}}],
                "virtual_ips":[{{"address":"10.99.0.10","vpc":"vpc-1","create_in":["rtb-1"]}}],"policy":{policy}{ports}}}"#
            );
            let read = ClusterConfig::parse(&json).expect("good");
            assert_eq!(ClusterConfig::parse(&to_json(&read).to_string()).expect("still good"), read);
        }
    }
}
