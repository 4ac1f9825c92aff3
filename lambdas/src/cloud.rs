//! Everything that the functions may ask of the world. Reading [`Cloud`] is reading all they can do: what is not in
//! here, no decision of theirs can cause. [`crate::aws`] implements it on AWS.

use crate::decide::{Described, Sighting};
use crate::topology::{Interface, InterfaceId, RouteTable, Subnet, SubnetId, TableId, Vpc, VpcId};
use ipnet::IpNet;
use lease::change::Write;
use lease::config::ClusterConfig;
use lease::events::Event;
use lease::ids::{ClusterId, InstanceId, NodeId};
use lease::outcome::Outcome;
use lease::record::Row;
use lease::time::Millis;
use std::collections::BTreeMap;
use std::future::Future;

/// Why a call has no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// The table's own words name the operation and what to do. `passing`: trying again, soon, may help.
    #[error("{message}")]
    Table { message: String, passing: bool },
    #[error("{call}: refused by AWS ({code}): {message}")]
    Refused { call: &'static str, code: String, message: String },
    #[error("{call}: AWS is throttling ({code})")]
    Throttled { call: &'static str, code: String },
    /// A mutating call may have been applied all the same, now or later.
    #[error("{call}: no answer: {problem}")]
    Unanswered { call: &'static str, problem: String },
}

impl CloudError {
    /// Trying again, soon, may help.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::Unanswered { .. } | Self::Table { passing: true, .. })
    }

    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } | Self::Throttled { code, .. } => Some(code),
            Self::Table { .. } | Self::Unanswered { .. } => None,
        }
    }
}

/// Which route tables to describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tables {
    /// Those of `vpcs` with a route for exactly one of `destinations` (all of one address family).
    Carrying { vpcs: Vec<VpcId>, destinations: Vec<IpNet> },
    /// These, where they exist.
    Listed(Vec<TableId>),
    /// All of `vpcs`.
    Of(Vec<VpcId>),
}

pub type Found<Id, T> = Result<BTreeMap<Id, T>, CloudError>;

/// The world as the functions reach it. Reads are strongly consistent for the table, eventually for EC2.
/// Every mutating call of EC2 is made once, without a retry underneath: its outcome is the caller's to judge.
pub trait Cloud: Send + Sync {
    /// Time since some moment before this run, for durations.
    fn elapsed(&self) -> Millis;
    /// RFC 3339 in UTC with milliseconds, for people.
    fn wall_clock(&self) -> String;
    fn random(&self) -> u64;
    fn sleep(&self, span: Millis) -> impl Future<Output = ()> + Send;

    fn row(&self, cluster: &ClusterId) -> impl Future<Output = Result<Option<Row>, CloudError>> + Send;
    fn config(&self, cluster: &ClusterId) -> impl Future<Output = Result<Option<ClusterConfig>, CloudError>> + Send;
    /// Writes a configuration, whole, if it is valid.
    fn store_config(&self, cluster: &ClusterId, json: &str) -> impl Future<Output = Result<(), CloudError>> + Send;
    fn remove_config(&self, cluster: &ClusterId) -> impl Future<Output = Result<(), CloudError>> + Send;
    fn heartbeat(
        &self,
        cluster: &ClusterId,
        node: &NodeId,
    ) -> impl Future<Output = Result<Option<Sighting>, CloudError>> + Send;
    fn write(&self, write: &Write, budget: Millis) -> impl Future<Output = Outcome> + Send;
    fn record(
        &self,
        cluster: &ClusterId,
        time: &str,
        id: &str,
        detail: &str,
    ) -> impl Future<Output = Result<(), CloudError>> + Send;
    /// Newest first: time, id and detail.
    fn history(
        &self,
        cluster: &ClusterId,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(String, String, serde_json::Value)>, CloudError>> + Send;
    /// Puts an event on the bus.
    fn announce(&self, event: &Event) -> impl Future<Output = Result<(), CloudError>> + Send;

    /// What EC2 says of these instances; unknown ones are missing.
    fn instances(&self, ids: &[InstanceId]) -> impl Future<Output = Found<InstanceId, Described>> + Send;
    fn interfaces_of(&self, instances: &[InstanceId]) -> impl Future<Output = Found<InterfaceId, Interface>> + Send;
    fn interfaces(&self, ids: &[InterfaceId]) -> impl Future<Output = Found<InterfaceId, Interface>> + Send;
    fn route_tables(&self, which: &Tables) -> impl Future<Output = Found<TableId, RouteTable>> + Send;
    fn subnets(&self, vpcs: &[VpcId]) -> impl Future<Output = Found<SubnetId, Subnet>> + Send;
    fn vpcs(&self, ids: &[VpcId]) -> impl Future<Output = Found<VpcId, Vpc>> + Send;

    fn replace_route(
        &self,
        table: &TableId,
        destination: IpNet,
        to: &InterfaceId,
    ) -> impl Future<Output = Result<(), CloudError>> + Send;
    fn create_route(
        &self,
        table: &TableId,
        destination: IpNet,
        to: &InterfaceId,
    ) -> impl Future<Output = Result<(), CloudError>> + Send;
    /// Switches the source/destination check off.
    fn let_forward(&self, interface: &InterfaceId) -> impl Future<Output = Result<(), CloudError>> + Send;
    /// Stops the instance by force, without waiting for its operating system.
    fn stop(&self, instance: &InstanceId) -> impl Future<Output = Result<(), CloudError>> + Send;
}

/// A name for one run or one intended write: letters and digits, different each time.
#[must_use]
pub fn mark(cloud: &impl Cloud) -> lease::ids::Nonce {
    let text = format!("{:016x}{:016x}", cloud.random(), cloud.random());
    lease::ids::Nonce::new(text).expect("hexadecimal digits are a valid name")
}

#[cfg(test)]
pub(crate) mod fake;
