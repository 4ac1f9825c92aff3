//! Following a change of holder that no function drove: a hand-over that a node began by itself, a holder's restart, an
//! acceptance after the driving function had died.

use super::drive::settle;
use super::{Answer, Ending};
use crate::cloud::Cloud;
use crate::converge::{Deadline, converge, look_twice};
use crate::decide::{Action, Decision};
use crate::discovery::{View, discover};
use crate::observe::Trouble;
use crate::report::{Moved, Story, is_completed};
use crate::routing::plan;
use lease::ids::{ClusterId, Epoch, NodeId};
use lease::rules::Rule;
use lease::time::Millis;

/// What a living driver needs between the acceptance and its last route, with room to spare.
const DRIVERS_TIME: Millis = Millis(1_000);

/// Makes the network match the row after a node said that it accepted `epoch` by `rule`. Where it matches already, or
/// the row has moved on, nothing is done: a function that drives this very move tells of it itself.
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
    let driven = is_driven(cloud, cluster, row.epoch).await;
    if driven {
        cloud.sleep(DRIVERS_TIME).await;
    }
    let topology = deadline.insist(cloud, || discover(cloud, &config, View::Failover)).await?;
    let drift = row
        .holder
        .as_ref()
        .and_then(|holder| config.member(&holder.node))
        .is_some_and(|member| !plan(&topology, &config.virtual_ips, &member.instance).changes.is_empty());
    if !drift {
        let told = decision(Rule::R120, format!("everything leads to {holder} already"));
        return Ok(Answer::of(cluster, &told, Ending::Nothing));
    }
    let reason = format!("{holder} accepted epoch {epoch}; the network follows");
    story.step(cloud, reason.clone());
    let told = decision(rule, reason.clone());
    // Both would make the same changes; only one tells: the driver, if it lives.
    let moved = Moved { rule, reason, from: None, to: holder.clone(), epoch };
    if !driven {
        let (network, timeline) = settle(cloud, &config, Some(topology), moved, deadline, &story).await?;
        let outcome = if network.matches() { Ending::Completed } else { Ending::Incomplete };
        return Ok(Answer { timeline: Some(timeline), network: Some(network), ..Answer::of(cluster, &told, outcome) });
    }
    let mut network = converge(cloud, &config, Some(topology), deadline, &story).await?;
    let looked = look_twice(cloud, &config, deadline, &story).await?;
    network.changed.extend(looked.changed);
    if !is_completed(cloud, cluster, row.epoch).await && network.matches() {
        let event = lease::events::Event::FailoverCompleted(lease::events::FailoverCompleted {
            v: lease::events::EVENT_VERSION,
            cluster: cluster.clone(),
            timeline: story.timeline(cloud, moved),
        });
        crate::report::tell(cloud, event, None).await;
    }
    let outcome = if network.matches() { Ending::Completed } else { Ending::Incomplete };
    Ok(Answer { network: Some(network), ..Answer::of(cluster, &told, outcome) })
}

/// Whether the history shows a function that began the move to `epoch`.
async fn is_driven(cloud: &impl Cloud, cluster: &ClusterId, epoch: Epoch) -> bool {
    let Ok(history) = cloud.history(cluster, 12).await else { return false };
    history.iter().any(|(_, _, item)| {
        let began = ["Failover Nominated", "Move Requested", "Founded"].iter().any(|kind| item["kind"] == *kind);
        began && item["detail"]["epoch"].as_u64().is_some_and(|from| from + 1 == epoch.0)
    })
}
