//! Metrics in `CloudWatch`'s embedded metric format: one JSON line of the log for each cluster and visit.
//! Source: Amazon `CloudWatch` user guide, "Specification: Embedded metric format".

use lease::ids::ClusterId;
use serde_json::{Value, json};

/// `CloudWatch` namespace of all metrics.
pub const NAMESPACE: &str = "Leasehold";

/// What `watch` measures of one cluster. All are counts; the alarms are on these names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measures {
    /// Standbys that could take over without losing anything. 0: not protected.
    pub in_sync_standbys: u64,
    /// Nodes whose heartbeat stood still during the visit.
    pub stale_heartbeats: u64,
    /// 1: the holder did not renew during the visit.
    pub holder_silent: u64,
    /// 1: nobody holds the lease.
    pub nobody_holds: u64,
    /// 1: a nomination or a request to move stands and nobody takes it.
    pub stuck: u64,
    pub routes_corrected: u64,
    /// What no change of ours can put right: a missing route, a wrong address.
    pub network_problems: u64,
    pub paused: u64,
    /// 1: the cluster could not be looked at.
    pub failed_visits: u64,
}

impl Measures {
    /// The line. `at_ms`: milliseconds since 1970.
    #[must_use]
    pub fn line(&self, deployment: &str, cluster: &ClusterId, at_ms: u64) -> Value {
        let values = [
            ("InSyncStandbys", self.in_sync_standbys),
            ("StaleHeartbeats", self.stale_heartbeats),
            ("HolderSilent", self.holder_silent),
            ("NobodyHolds", self.nobody_holds),
            ("Stuck", self.stuck),
            ("RoutesCorrected", self.routes_corrected),
            ("NetworkProblems", self.network_problems),
            ("Paused", self.paused),
            ("FailedVisits", self.failed_visits),
        ];
        let metrics: Vec<Value> = values.iter().map(|(name, _)| json!({ "Name": name, "Unit": "Count" })).collect();
        let mut line = json!({
            "_aws": { "Timestamp": at_ms, "CloudWatchMetrics": [
                { "Namespace": NAMESPACE, "Dimensions": [["Deployment", "Cluster"]], "Metrics": metrics },
            ] },
            "Deployment": deployment, "Cluster": cluster,
        });
        for (name, value) in values {
            line[name] = value.into();
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_that_is_named_has_a_value() {
        let line =
            Measures { in_sync_standbys: 1, ..Measures::default() }.line("demo", &"web".parse().expect("a name"), 7);
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(line["InSyncStandbys"], 1);
        for metric in directive["Metrics"].as_array().expect("a list") {
            assert!(line[metric["Name"].as_str().expect("a name")].is_u64());
        }
        for dimension in directive["Dimensions"][0].as_array().expect("a list") {
            assert!(line[dimension.as_str().expect("a name")].is_string());
        }
    }
}
