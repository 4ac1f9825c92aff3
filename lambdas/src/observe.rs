//! Gathering what a decision rests on: little first, more only where the decision asks for it.

use crate::cloud::{Cloud, CloudError, mark};
use crate::deadline::Deadline;
use crate::decide::{Hint, Marks, Missing, Observation, Sighting};
use futures::future::join_all;
use lease::config::ClusterConfig;
use lease::ids::{ClusterId, InstanceId, Lineage, NodeId};
use lease::record::Row;
use lease::time::Millis;
use std::collections::{BTreeMap, BTreeSet};

/// Why nothing could be decided at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("there is no cluster {0} in this deployment")]
    NoCluster(ClusterId),
    #[error(transparent)]
    Cloud(#[from] CloudError),
}

/// Between two looks at something that is expected to change.
const PACE: Millis = Millis(250);

/// The row and the configuration: enough for most hints.
///
/// # Errors
/// [`Trouble`]; nothing was changed.
pub async fn begin(cloud: &impl Cloud, cluster: &ClusterId, hint: Hint) -> Result<Observation, Trouble> {
    let (row, config) = futures::try_join!(cloud.row(cluster), cloud.config(cluster))?;
    let config = config.ok_or_else(|| Trouble::NoCluster(cluster.clone()))?;
    Ok(Observation {
        hint,
        config,
        row,
        heartbeats: None,
        instances: None,
        instance_looks: 0,
        row_moves: None,
        gave_up_on: BTreeSet::new(),
        marks: marks(cloud),
    })
}

/// New marks, for a new intended write.
pub fn marks(cloud: &impl Cloud) -> Marks {
    let lineage = Lineage::new(mark(cloud).as_str()).expect("hexadecimal digits are a valid name");
    Marks { intent: mark(cloud), lineage }
}

/// Adds what is missing to `seen`. After a look that took time the row is read again. What AWS does not answer is asked
/// for again until `deadline`.
///
/// # Errors
/// [`CloudError`]; `seen` is as it was, or has more.
pub async fn look(
    cloud: &impl Cloud,
    seen: &mut Observation,
    missing: &[Missing],
    deadline: Deadline,
) -> Result<(), CloudError> {
    let mut slow = false;
    for what in missing {
        match what {
            Missing::Heartbeats => {
                seen.heartbeats = Some(deadline.insist(cloud, || heartbeats(cloud, &seen.config)).await?);
            }
            Missing::Movement { nodes, within } => {
                slow = true;
                let known = seen.heartbeats.get_or_insert_default();
                let moved = deadline.insist(cloud, || movement(cloud, &seen.config, known, nodes, *within)).await?;
                known.extend(moved);
            }
            Missing::Instances { after } => {
                if *after > Millis::ZERO {
                    slow = true;
                    cloud.sleep(*after).await;
                }
                let ids: Vec<InstanceId> = seen.config.nodes.iter().map(|node| node.instance.clone()).collect();
                seen.instances = Some(deadline.insist(cloud, || cloud.instances(&ids)).await?);
                seen.instance_looks += 1;
            }
            Missing::RowMovement { within } => {
                let before = seen.row.clone();
                let moves = || row_moves(cloud, &seen.config.cluster, before.as_ref(), *within);
                seen.row_moves = Some(deadline.insist(cloud, moves).await?);
                slow = true;
            }
        }
    }
    if slow {
        seen.row = deadline.insist(cloud, || cloud.row(&seen.config.cluster)).await?;
    }
    Ok(())
}

/// Every node's heartbeat, read at once. One that cannot be read (written by a newer release, or malformed) is as good as
/// none: it must not keep the others from being considered. One that is only not answered for now is no such: a standby
/// must not be passed over for it.
///
/// # Errors
/// [`CloudError`] where none could be read, or one was not answered.
pub async fn heartbeats(cloud: &impl Cloud, config: &ClusterConfig) -> Result<BTreeMap<NodeId, Sighting>, CloudError> {
    let reads = config.nodes.iter().map(|member| cloud.heartbeat(&config.cluster, &member.name));
    let mut found = BTreeMap::new();
    let mut failed = None;
    let mut answered = false;
    for (member, read) in config.nodes.iter().zip(join_all(reads).await) {
        match read {
            Ok(sighting) => {
                answered = true;
                found.extend(sighting.map(|sighting| (member.name.clone(), sighting)));
            }
            Err(error) => {
                tracing::warn!(cluster = %config.cluster, node = %member.name, %error, "its heartbeat cannot be read");
                failed = failed.filter(CloudError::is_passing).or(Some(error));
            }
        }
    }
    match failed {
        Some(error) if !answered || error.is_passing() => Err(error),
        _ => Ok(found),
    }
}

/// These nodes' heartbeats after looking for movement: each has advanced since `known`, or stood still for `within`.
///
/// # Errors
/// [`CloudError`] where one that seems to stand still was not answered for: it may have advanced all the same.
async fn movement(
    cloud: &impl Cloud,
    config: &ClusterConfig,
    known: &BTreeMap<NodeId, Sighting>,
    nodes: &BTreeSet<NodeId>,
    within: Millis,
) -> Result<BTreeMap<NodeId, Sighting>, CloudError> {
    let ends = cloud.elapsed().plus(within);
    let mut found = BTreeMap::new();
    let mut still: BTreeSet<NodeId> = nodes.clone();
    loop {
        cloud.sleep(PACE).await;
        let mut unanswered = None;
        for node in still.clone() {
            match cloud.heartbeat(&config.cluster, &node).await {
                Ok(Some(read)) if read.seq > known.get(&node).map_or(0, |sighting| sighting.seq) => {
                    still.remove(&node);
                    found.insert(node, Sighting { advanced: Some(true), ..read });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(cluster = %config.cluster, %node, %error, "its heartbeat cannot be read");
                    unanswered = Some(error).filter(CloudError::is_passing).or(unanswered);
                }
            }
        }
        if still.is_empty() {
            return Ok(found);
        }
        if cloud.elapsed() >= ends {
            if let Some(error) = unanswered {
                return Err(error);
            }
            let stood =
                |node| known.get(&node).map(|known| (node, Sighting { advanced: Some(false), ..known.clone() }));
            found.extend(still.into_iter().filter_map(stood));
            return Ok(found);
        }
    }
}

/// Whether (epoch, beat) moves from where `before` has it, looking for at most `within`.
///
/// # Errors
/// [`CloudError`] of a read.
pub async fn row_moves(
    cloud: &impl Cloud,
    cluster: &ClusterId,
    before: Option<&Row>,
    within: Millis,
) -> Result<bool, CloudError> {
    let place = |row: &Row| (row.epoch, row.beat);
    let ends = cloud.elapsed().plus(within);
    loop {
        let left = ends.minus(cloud.elapsed());
        if left == Millis::ZERO {
            return Ok(false);
        }
        cloud.sleep(PACE.min(left)).await;
        let found = cloud.row(cluster).await?;
        if found.as_ref().map(place) != before.map(place) {
            return Ok(true);
        }
    }
}
