//! Making the network match the lease.
//!
//! Level-triggered: what is desired follows from the row as it is read now, never from the event that woke us. The row is
//! read again before each batch of changes; once the epoch has moved, the batch is dropped and everything starts anew
//! from the new row. A failed step undoes nothing and stops no other: it is tried again while time is left, and then
//! left to the next run. So is a read that fails in passing: what has begun is not left half done for it.
//!
//! ```text
//!  read row ─▶ discover ─▶ plan ─▶ empty? ─yes─▶ done
//!     ▲                              │no
//!     │                              ▼
//!     ├──── epoch moved ◀── read row, one batch at once ─▶ failed in passing: pause, once more
//! ```

use crate::cloud::{Cloud, CloudError};
pub use crate::deadline::Deadline;
use crate::discovery::{View, discover};
use crate::report::Story;
use crate::routing::{Change, plan, plan_anew, readiness};
use crate::targets::virtual_ip::{ensure_forwarding, ensure_route};
use crate::topology::Topology;
use futures::stream::{self, StreamExt};
use lease::config::ClusterConfig;
use lease::ids::{Epoch, InstanceId, NodeId};
use lease::record::Row;
use lease::time::Millis;

/// Changes sent at once. Half of EC2's burst, so that two clusters can fail over in the same second.
const BATCH: usize = 25;
/// Calls of a batch under way at once. Each needs a connection, and a TLS handshake costs a 128 MB function more time
/// than a call does: a few connections used again are faster than many.
const IN_FLIGHT: usize = 10;
/// First and longest pause before a failed step is tried again.
const PAUSE: Millis = Millis(100);
const PAUSE_LIMIT: Millis = Millis(2_000);
/// When to look again after the last change: once for EC2's late reads, once for a late write of somebody else.
const LOOKS: [Millis; 2] = [Millis(500), Millis(1_500)];
/// Rounds of one call: each is either progress or an epoch that moved.
const ROUNDS: usize = 20;

/// What became of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Network {
    /// The epoch whose holder the network was matched to; `None`: nobody holds the lease.
    pub epoch: Option<Epoch>,
    pub holder: Option<NodeId>,
    /// Applied, by EC2's own answer.
    pub changed: Vec<String>,
    /// Not applied: the step and why.
    pub failed: Vec<String>,
    /// What no change can put right: a missing route, a wrong address.
    pub problems: Vec<String>,
    /// How many routes were moved.
    pub routes: usize,
}

impl Network {
    /// Everything leads to the holder.
    #[must_use]
    pub fn matches(&self) -> bool {
        self.holder.is_some() && self.failed.is_empty() && self.problems.is_empty()
    }
}

/// The instance that the network must lead to: the one that the configuration names for the row's holder, not the one
/// that the holder itself wrote into the row.
fn desired<'a>(config: &'a ClusterConfig, row: &Row) -> Result<(NodeId, &'a InstanceId), String> {
    let holder = row.holder.as_ref().ok_or("nobody holds the lease")?;
    let member = config
        .member(&holder.node)
        .ok_or_else(|| format!("the holder {} is not a node of the configuration", holder.node))?;
    if member.instance != holder.instance {
        return Err(format!(
            "the holder {} runs on {}, the configuration names {}; deploy the configuration again, or stop that node",
            holder.node, holder.instance, member.instance
        ));
    }
    Ok((holder.node.clone(), &member.instance))
}

/// What the first round goes by.
#[derive(Debug)]
pub enum Known {
    Nothing,
    /// Discovered while the move was waited for: what leads to the new holder in it is not believed, see [`plan_anew`].
    BeforeMove(Topology),
    AfterMove(Topology),
}

/// Makes the network match the row.
///
/// Acknowledges on EC2's answers to the writes, or on a description that already matched; see [`look_twice`].
///
/// # Errors
/// [`CloudError`] when the row or the network could not be read while time was left. Steps that failed are in the result.
pub async fn converge(
    cloud: &impl Cloud,
    config: &ClusterConfig,
    mut known: Known,
    deadline: Deadline,
    story: &Story,
) -> Result<Network, CloudError> {
    let mut network = Network::default();
    for _ in 0..ROUNDS {
        let Some(row) = deadline.insist(cloud, || cloud.row(&config.cluster)).await? else { return Ok(network) };
        network.epoch = Some(row.epoch);
        network.failed.clear();
        network.problems.clear();
        let instance = match desired(config, &row) {
            Ok((node, instance)) => {
                network.holder = Some(node);
                instance
            }
            Err(problem) => {
                network.holder = None;
                network.problems.push(problem);
                return Ok(network);
            }
        };
        let plan = match std::mem::replace(&mut known, Known::Nothing) {
            Known::BeforeMove(topology) => plan_anew(&topology, &config.virtual_ips, instance),
            Known::AfterMove(topology) => plan(&topology, &config.virtual_ips, instance),
            Known::Nothing => {
                let topology = deadline.insist(cloud, || discover(cloud, config, View::Failover)).await?;
                plan(&topology, &config.virtual_ips, instance)
            }
        };
        network.problems = plan.problems.iter().map(ToString::to_string).collect();
        match apply(cloud, config, row.epoch, plan.changes, deadline, story, &mut network).await? {
            Applied::AsFarAsPossible => return Ok(network),
            Applied::Overtaken => story.step(cloud, format!("epoch {} has moved on: looking again", row.epoch)),
        }
    }
    network.problems.push(format!("the epoch moved {ROUNDS} times while the network was changed"));
    Ok(network)
}

enum Applied {
    /// What could not be applied is in the network's `failed`.
    AsFarAsPossible,
    Overtaken,
}

async fn apply(
    cloud: &impl Cloud,
    config: &ClusterConfig,
    epoch: Epoch,
    changes: Vec<Change>,
    deadline: Deadline,
    story: &Story,
    network: &mut Network,
) -> Result<Applied, CloudError> {
    // The destination is made ready before packets are sent there.
    let (forwarding, routes): (Vec<_>, Vec<_>) =
        changes.into_iter().partition(|change| matches!(change, Change::Forwarding { .. }));
    let anything = !forwarding.is_empty() || !routes.is_empty();
    let overtaken = async || {
        let found = deadline.insist(cloud, || cloud.row(&config.cluster)).await?;
        Ok::<_, CloudError>(found.is_none_or(|row| row.epoch != epoch))
    };
    for stage in [forwarding, routes] {
        let mut pending = stage;
        let mut pause = PAUSE;
        while !pending.is_empty() {
            let rest = pending.split_off(pending.len().min(BATCH));
            // No change without the row having been read first; none once the epoch has moved.
            if overtaken().await? {
                return Ok(Applied::Overtaken);
            }
            let results: Vec<_> =
                stream::iter(&pending).map(|change| ensure(cloud, change)).buffered(IN_FLIGHT).collect().await;
            let mut again = Vec::new();
            for (change, result) in pending.into_iter().zip(results) {
                match result {
                    Ok(()) => {
                        network.routes += usize::from(matches!(change, Change::Route { .. }));
                        network.changed.push(change.to_string());
                        story.step(cloud, change.to_string());
                    }
                    Err(error) if error.is_passing() && deadline.left(cloud) > pause => {
                        tracing::info!(cluster = %config.cluster, %change, %error, "trying again");
                        again.push(change);
                    }
                    Err(error) => {
                        tracing::warn!(cluster = %config.cluster, %change, %error, "left to the next run");
                        network.failed.push(format!("{change}: {error}"));
                    }
                }
            }
            if !again.is_empty() && rest.is_empty() {
                // Full jitter on the upper half: parallel runs must not meet again.
                let jitter = Millis(cloud.random() % (pause.0 / 2 + 1));
                cloud.sleep(Millis(pause.0 / 2).plus(jitter)).await;
                pause = PAUSE_LIMIT.min(Millis(pause.0 * 2));
            }
            pending = rest;
            pending.append(&mut again);
        }
    }
    // The lease may have moved while the last batch was on its way.
    Ok(if anything && overtaken().await? { Applied::Overtaken } else { Applied::AsFarAsPossible })
}

async fn ensure(cloud: &impl Cloud, change: &Change) -> Result<(), CloudError> {
    match change {
        Change::Forwarding { interface } => ensure_forwarding(cloud, interface).await,
        Change::Route { table, destination, from, to } => {
            ensure_route(cloud, table, *destination, to, from.is_some()).await
        }
    }
}

/// Makes `node` ready to be sent packets, before it holds the lease: its interface forwards. Returns what was
/// discovered on the way, with that done.
///
/// # Errors
/// [`CloudError`] of a describe.
pub async fn prepare(
    cloud: &impl Cloud,
    config: &ClusterConfig,
    node: &NodeId,
    story: &Story,
) -> Result<Topology, CloudError> {
    let topology = discover(cloud, config, View::Failover).await?;
    let Some(member) = config.member(node) else { return Ok(topology) };
    let plan = plan(&topology, &config.virtual_ips, &member.instance);
    let routes = plan.changes.iter().filter(|change| matches!(change, Change::Route { .. })).count();
    story.step(cloud, format!("network looked at: {routes} routes to move"));
    let mut done = Vec::new();
    for change in plan.changes.into_iter().filter(|change| matches!(change, Change::Forwarding { .. })) {
        match ensure(cloud, &change).await {
            Ok(()) => {
                story.step(cloud, change.to_string());
                done.push(change);
            }
            // It is planned and tried again when the network is made to match.
            Err(error) => tracing::warn!(cluster = %config.cluster, %change, %error, "not ready yet"),
        }
    }
    Ok(crate::routing::after(&topology, &done))
}

/// Makes every node but the `holder` ready to be sent packets, whoever will need it next. One that cannot be made so is
/// told long before its failover.
///
/// # Errors
/// [`CloudError`] when the interfaces cannot be described. Steps that failed are in the result.
pub async fn ready_standbys(
    cloud: &impl Cloud,
    config: &ClusterConfig,
    holder: Option<&NodeId>,
    deadline: Deadline,
    story: &Story,
) -> Result<Network, CloudError> {
    let standbys = config.nodes.iter().filter(|node| Some(&node.name) != holder);
    let standbys: Vec<InstanceId> = standbys.map(|node| node.instance.clone()).collect();
    let mut network = Network::default();
    if standbys.is_empty() || config.virtual_ips.is_empty() {
        return Ok(network);
    }
    let interfaces = deadline.insist(cloud, || cloud.interfaces_of(&standbys)).await?;
    let topology = Topology { interfaces, ..Topology::default() };
    let plan = readiness(&topology, &config.virtual_ips, &standbys);
    network.problems = plan.problems.iter().map(ToString::to_string).collect();
    for change in plan.changes {
        match ensure(cloud, &change).await {
            Ok(()) => {
                story.step(cloud, change.to_string());
                network.changed.push(change.to_string());
            }
            // The next visit tries again.
            Err(error) => network.failed.push(format!("{change}: {error}")),
        }
    }
    Ok(network)
}

/// Looks again twice after the last change: EC2 describes late, and a late write of an older run may still land.
/// What differs is put right; the result says what.
///
/// # Errors
/// [`CloudError`] when the row or the network cannot be read.
pub async fn look_twice(
    cloud: &impl Cloud,
    config: &ClusterConfig,
    deadline: Deadline,
    story: &Story,
) -> Result<Network, CloudError> {
    let mut last = Network::default();
    let mut changed = Vec::new();
    let mut routes = 0;
    for pause in LOOKS {
        if deadline.left(cloud) <= pause {
            break;
        }
        cloud.sleep(pause).await;
        last = converge(cloud, config, Known::Nothing, deadline, story).await?;
        changed.append(&mut last.changed);
        routes += last.routes;
    }
    Ok(Network { changed, routes, ..last })
}
