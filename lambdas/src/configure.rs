//! `configure`: CloudFormation's custom resource `Custom::LeaseholdCluster`. Checks a cluster's configuration, also
//! against the network as it is, and stores it. A bad one fails the deployment with every mistake, and changes nothing.

use crate::cloud::{Cloud, CloudError, Tables};
use crate::routing::check;
use crate::topology::{Topology, VpcId};
use lease::config::{ClusterConfig, VirtualIp};
use lease::ids::ClusterId;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// CloudFormation's limit for a whole response is 4 KB. A reason that takes more of it than this, as JSON, is cut; what else
/// is in a response takes 1 KB at most (three names of AWS's, the longest of them 255 characters, and our own).
const REASON_BYTES: usize = 2_500;
const PHYSICAL_PREFIX: &str = "leasehold-cluster/";
/// Physical id of a resource that was never stored: deleting it removes nothing.
const NEVER_STORED: &str = "leasehold-cluster/none!";

/// What CloudFormation gets, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub url: Option<String>,
    pub body: Value,
}

/// Handles one request and says what to answer.
pub async fn handle(cloud: &impl Cloud, request: &Value) -> Response {
    let text = |key: &str| request.get(key).and_then(Value::as_str).map(str::to_owned);
    let before = text("PhysicalResourceId");
    let (physical, result) = match text("RequestType").as_deref() {
        Some("Create" | "Update") => match store(cloud, request).await {
            Ok(cluster) => (format!("{PHYSICAL_PREFIX}{cluster}"), Ok(())),
            // The old id: another one would make CloudFormation delete what is stored under the old.
            Err(why) => (before.unwrap_or_else(|| NEVER_STORED.into()), Err(why)),
        },
        Some("Delete") => {
            let physical = before.unwrap_or_else(|| NEVER_STORED.into());
            let stored = physical.strip_prefix(PHYSICAL_PREFIX).and_then(|name| ClusterId::new(name).ok());
            let result = match stored {
                // Only the configuration: the lease row is the cluster's memory of who may serve, and stays.
                Some(cluster) => cloud.remove_config(&cluster).await.map_err(|error| error.to_string()),
                None => Ok(()),
            };
            (physical, result)
        }
        other => {
            let why = format!("RequestType {other:?}: expected Create, Update or Delete");
            (before.unwrap_or_else(|| NEVER_STORED.into()), Err(why))
        }
    };
    let mut body = json!({
        "Status": if result.is_ok() { "SUCCESS" } else { "FAILED" },
        "PhysicalResourceId": physical,
        "StackId": request.get("StackId"), "RequestId": request.get("RequestId"),
        "LogicalResourceId": request.get("LogicalResourceId"),
    });
    match result {
        Ok(()) => tracing::info!(resource = %physical, "stored"),
        Err(why) => {
            tracing::error!(resource = %physical, %why, "refused");
            body["Reason"] = cut(&why).into();
        }
    }
    Response { url: text("ResponseURL"), body }
}

async fn store(cloud: &impl Cloud, request: &Value) -> Result<ClusterId, String> {
    let properties = request.get("ResourceProperties");
    let json = properties
        .and_then(|properties| properties.get("Config"))
        .and_then(Value::as_str)
        .ok_or("property Config is missing: expected the cluster's configuration as a JSON text")?;
    let config = ClusterConfig::parse(json);
    let addresses = ClusterConfig::addresses(json);
    let mut mistakes: Vec<String> = config.as_ref().err().into_iter().map(ToString::to_string).collect();
    // What runs goes on with such a limit; what is deployed from now on has none.
    if let Err(bad) = config.as_ref().map_or(Ok(()), |config| config.policy.check_lag_limit()) {
        mistakes.push(format!("policy.{bad}"));
    }
    match network(cloud, &addresses).await {
        Ok(more) => mistakes.extend(more),
        Err(error) => mistakes.push(format!("the network could not be checked: {error}")),
    }
    match config {
        Ok(config) if mistakes.is_empty() => {
            cloud.store_config(&config.cluster, json).await.map_err(|error| error.to_string())?;
            Ok(config.cluster)
        }
        _ => Err(mistakes.join("\n")),
    }
}

/// What the network says against addresses that are valid by themselves. All at once.
async fn network(cloud: &impl Cloud, addresses: &[VirtualIp]) -> Result<Vec<String>, CloudError> {
    let vpcs: BTreeSet<VpcId> = addresses.iter().map(|ip| VpcId(ip.vpc.clone())).collect();
    if vpcs.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<VpcId> = vpcs.iter().cloned().collect();
    let all = Tables::Of(ids.clone());
    let (described, tables) = futures::try_join!(cloud.vpcs(&ids), cloud.route_tables(&all))?;
    let mut mistakes: Vec<String> = vpcs
        .iter()
        .filter(|vpc| !described.contains_key(vpc))
        .map(|vpc| format!("{vpc} does not exist in this Region and account"))
        .collect();
    let topology = Topology { vpcs: described, tables, ..Topology::default() };
    for address in addresses.iter().filter(|ip| topology.vpcs.contains_key(&VpcId(ip.vpc.clone()))) {
        mistakes.extend(check(&topology, address).iter().map(ToString::to_string));
    }
    Ok(mistakes)
}

fn cut(reason: &str) -> String {
    const MORE: &str = "... (more in the log)";
    let as_json = |text: &str| Value::from(text).to_string().len();
    if as_json(reason) <= REASON_BYTES {
        return reason.to_owned();
    }
    let mut left = REASON_BYTES - as_json(MORE);
    let fits = |one: &char| {
        let size = as_json(one.encode_utf8(&mut [0; 4])) - 2;
        let fits = size <= left;
        left = left.saturating_sub(size);
        fits
    };
    let kept: String = reason.chars().take_while(fits).collect();
    kept + MORE
}

#[cfg(test)]
mod tests;
