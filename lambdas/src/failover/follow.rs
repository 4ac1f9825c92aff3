//! Following a change of holder that no function drove: a hand-over that a node began by itself, a holder's restart, an
//! acceptance after the driving function had died.

use super::drive::settle;
use super::{Answer, Ending};
use crate::cloud::Cloud;
use crate::converge::{Deadline, Known, Network, converge, look_twice};
use crate::decide::{Action, Decision};
use crate::discovery::{View, discover};
use crate::observe::Trouble;
use crate::report::{Moved, RECENT, Story, account_of, tell_completed, tell_incomplete};
use crate::routing::{Change, Plan, plan};
use crate::topology::{InterfaceId, Topology};
use lease::config::ClusterConfig;
use lease::ids::{ClusterId, Epoch, NodeId};
use lease::rules::Rule;
use lease::time::Millis;

/// What a living driver needs between the acceptance and its last route, with room to spare.
const DRIVERS_TIME: Millis = Millis(1_000);

/// Makes the network match the row after a node said that it accepted `epoch` by `rule`. Where it matches already, or
/// the row has moved on, nothing is done: a function that drives this very move tells of it itself, and is spoken for if
/// it does not.
///
/// # Errors
/// [`Trouble`] where the row or the network could not be read.
pub async fn follow(
    cloud: &impl Cloud,
    cluster: &ClusterId,
    rule: Rule,
    holder: &NodeId,
    epoch: Epoch,
    deadline: Deadline,
) -> Result<Answer, Trouble> {
    let story = Story::begin(cloud, None);
    let (row, config) = futures::try_join!(cloud.row(cluster), cloud.config(cluster))?;
    let config = config.ok_or_else(|| Trouble::NoCluster(cluster.clone()))?;
    let decision = |rule, reason| Decision { rule, reason, action: Action::Nothing, notes: Vec::new() };
    let Some(row) = row.filter(|row| row.epoch <= epoch) else {
        let told = decision(Rule::R110, format!("epoch {epoch} is over"));
        return Ok(Answer::of(cluster, &told, Ending::Nothing));
    };
    // Another run may be driving this move: it is given a second, so that the same routes are not written twice.
    let mut account = account_of(cloud, cluster, row.epoch, RECENT).await.unwrap_or_default();
    let driven = account.began.is_some();
    if driven {
        cloud.sleep(DRIVERS_TIME).await;
    }
    let topology = deadline.insist(cloud, || discover(cloud, &config, View::Failover)).await?;
    let member = row.holder.as_ref().and_then(|holder| config.member(&holder.node));
    let plan = member.map(|member| plan(&topology, &config.virtual_ips, &member.instance)).unwrap_or_default();
    let began = account.began.as_ref().and_then(|began| began.from.clone());
    let from = began.or_else(|| led_to(&plan, &topology, &config, holder)).or_else(|| account.from());
    let moved = |reason: String| Moved { rule, reason, from: from.clone(), to: holder.clone(), epoch };
    if plan.changes.is_empty() {
        let told = decision(Rule::R120, format!("everything leads to {holder} already"));
        let ours = row.epoch == epoch && member.is_some_and(|member| member.name == *holder);
        if ours && driven && account.is_untold(holder) {
            // Its driver may be about to say so.
            for pause in [Millis::ZERO, DRIVERS_TIME] {
                cloud.sleep(pause).await;
                account.completed |= account_of(cloud, cluster, epoch, RECENT).await.is_none_or(|now| now.completed);
                if account.completed {
                    break;
                }
            }
        }
        if ours && account.is_untold(holder) {
            let reason =
                format!("{holder} accepted epoch {epoch}; whoever led the network there did not come to tell it");
            story.step(cloud, told.reason.clone());
            let timeline = story.timeline(cloud, moved(reason));
            if plan.problems.is_empty() {
                tell_completed(cloud, cluster, timeline).await;
            } else {
                let problems = plan.problems.iter().map(ToString::to_string).collect();
                let network =
                    Network { epoch: Some(epoch), holder: Some(holder.clone()), problems, ..Network::default() };
                tell_incomplete(cloud, cluster, &network, Some(timeline)).await;
            }
        }
        return Ok(Answer::of(cluster, &told, Ending::Nothing));
    }
    let reason = format!("{holder} accepted epoch {epoch}; the network follows");
    story.step(cloud, reason.clone());
    let told = decision(rule, reason.clone());
    // Both would make the same changes; only one tells: the driver, if it lives.
    let moved = moved(reason);
    if !driven {
        let (network, timeline) = settle(cloud, &config, Known::AfterMove(topology), moved, deadline, &story).await?;
        let outcome = if network.matches() { Ending::Completed } else { Ending::Incomplete };
        return Ok(Answer { timeline: Some(timeline), network: Some(network), ..Answer::of(cluster, &told, outcome) });
    }
    let mut network = converge(cloud, &config, Known::AfterMove(topology), deadline, &story).await?;
    let looked = look_twice(cloud, &config, deadline, &story).await?;
    network.changed.extend(looked.changed);
    let known = account_of(cloud, cluster, row.epoch, RECENT).await.is_some_and(|now| now.completed);
    let timeline = story.timeline(cloud, moved);
    if network.matches() && !known {
        tell_completed(cloud, cluster, timeline).await;
    } else if !network.matches() {
        tell_incomplete(cloud, cluster, &network, Some(timeline)).await;
    }
    let outcome = if network.matches() { Ending::Completed } else { Ending::Incomplete };
    Ok(Answer { network: Some(network), ..Answer::of(cluster, &told, outcome) })
}

/// The node that some route leads to which is to be changed: it held the lease before.
fn led_to(plan: &Plan, topology: &Topology, config: &ClusterConfig, holder: &NodeId) -> Option<NodeId> {
    let targets = plan.changes.iter().filter_map(|change| match change {
        Change::Route { from: Some(from), .. } => topology.interfaces.get(&InterfaceId(from.clone())),
        _ => None,
    });
    let owners = targets.filter_map(|interface| interface.attached.as_ref().map(|(owner, _)| owner));
    let mut nodes = owners.filter_map(|owner| config.nodes.iter().find(|node| node.instance == *owner));
    nodes.find(|node| node.name != *holder).map(|node| node.name.clone())
}
