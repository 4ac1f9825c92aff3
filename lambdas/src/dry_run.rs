//! `plan`: what a move would change, and every client's path before and after. Changes nothing.

use crate::api::{ApiError, refused};
use crate::cloud::Cloud;
use crate::deadline::Deadline;
use crate::decide::{Action, Hint, Missing, decide};
use crate::discovery::{View, discover};
use crate::observe::{Trouble, begin, look};
use crate::routing::{Change, after, plan as routes, walk};
use crate::topology::{InterfaceId, VpcId};
use lease::ids::{ClusterId, NodeId};
use lease::rules::Rule;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The dry run's answer, or a refusal.
///
/// # Errors
/// [`Trouble`] where the table or the network could not be read.
pub async fn plan(
    cloud: &impl Cloud,
    cluster: &ClusterId,
    to: Option<&NodeId>,
    deadline: Deadline,
) -> Result<Result<Value, ApiError>, Trouble> {
    let mut seen = begin(cloud, cluster, Hint::Switchover { to: to.cloned(), reason: "dry run".into() }).await?;
    let topology = discover(cloud, &seen.config, View::Whole).await?;
    let holder = seen.row.as_ref().and_then(|row| row.holder.as_ref()).map(|holder| holder.node.clone());
    // What the rules would say to it, told beside the plan: a plan is also wanted while a move would be refused.
    let mut says = decide(&seen);
    for _ in 0..4 {
        let Action::LookAgain(missing) = &says.action else { break };
        look(cloud, &mut seen, &missing.clone(), deadline).await?;
        says = decide(&seen);
        if matches!(&says.action, Action::LookAgain(missing) if missing.iter().any(|m| matches!(m, Missing::RowMovement { .. })))
        {
            break;
        }
    }
    let chosen = match (&says.action, to) {
        (_, Some(to)) => Some(to.clone()),
        (Action::Intend(intent), None) => Some(intent.to.clone()),
        (_, None) => holder.clone(),
    };
    let Some(member) = chosen.as_ref().and_then(|node| seen.config.member(node)) else {
        let known: Vec<_> = seen.config.nodes.iter().map(|node| node.name.as_str()).collect();
        let who =
            chosen.map_or("nobody holds the lease".into(), |node| format!("{node} is not a node of cluster {cluster}"));
        return Ok(Ok(refused(Rule::R400, &who, &format!("name one of: {}", known.join(", ")))));
    };
    let planned = routes(&topology, &seen.config.virtual_ips, &member.instance);
    let next = after(&topology, &planned.changes);
    let nodes: BTreeSet<InterfaceId> = topology
        .interfaces
        .iter()
        .filter(|(_, interface)| {
            interface
                .attached
                .as_ref()
                .is_some_and(|(owner, _)| seen.config.nodes.iter().any(|node| node.instance == *owner))
        })
        .map(|(id, _)| id.clone())
        .collect();
    let mut paths = Vec::new();
    for address in &seen.config.virtual_ips {
        let vpc = VpcId(address.vpc.clone());
        let target = topology.interface_of(&member.instance, &vpc).map(|(id, _)| id.clone());
        for (id, subnet) in topology.subnets.iter().filter(|(_, subnet)| subnet.vpc == vpc) {
            let before = walk(&topology, &nodes, id, address.address);
            let then = walk(&next, &nodes, id, address.address);
            paths.push(json!({
                "subnet": id, "zone": subnet.zone, "address": address.address,
                "before": before.to_string(), "after": then.to_string(),
                "reaches": target.as_ref().is_some_and(|target| then.reaches(target)),
            }));
        }
    }
    let changes: Vec<Value> = planned
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::Route { table, destination, from, to } => {
                Some(json!({ "table": table, "destination": destination, "from": from, "to": to }))
            }
            Change::Forwarding { .. } => None,
        })
        .collect();
    let forwarding: Vec<_> = planned
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::Forwarding { interface } => Some(interface),
            Change::Route { .. } => None,
        })
        .collect();
    let verdict = match &says.action {
        Action::Intend(_) => json!({ "switchover": "possible" }),
        Action::Block { what_to_do } => {
            json!({ "switchover": "refused", "why": says.reason, "what_to_do": what_to_do })
        }
        _ => json!({ "switchover": "unclear", "why": says.reason }),
    };
    Ok(Ok(json!({
        "cluster": cluster, "holder": holder, "to": member.name, "changes": changes, "forwarding": forwarding,
        "paths": paths, "problems": planned.problems.iter().map(ToString::to_string).collect::<Vec<_>>(), "now": verdict,
    })))
}
