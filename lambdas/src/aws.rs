//! [`Cloud`] on AWS. The only place with clocks, randomness and SDK clients.

mod clients;
mod describe;

use crate::budget::{Budget, Kind};
use crate::cloud::{Cloud, CloudError, Found, Tables};
use crate::decide::{Described, Sighting};
use crate::environment::Environment;
use crate::topology::{Interface, InterfaceId, RouteTable, Subnet, SubnetId, TableId, Vpc, VpcId};
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::AttributeBooleanValue;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::date_time::{DateTime, Format};
use clients::Clients;
use ipnet::IpNet;
use lease::change::Write;
use lease::config::ClusterConfig;
use lease::events::{Event, SOURCE};
use lease::ids::{ClusterId, InstanceId, NodeId};
use lease::outcome::Outcome;
use lease::record::Row;
use lease::table::{Table, TableError};
use lease::time::Millis;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// AWS, as one running function reaches it. Made once; connections stay open between invocations.
#[derive(Debug)]
pub struct Aws {
    environment: Environment,
    clients: Clients,
    budget: Mutex<Budget>,
    began: Instant,
}

impl Aws {
    /// Cheap: clients are made when they are first needed.
    #[must_use]
    pub fn new(environment: Environment) -> Self {
        let clients = Clients::new(&environment);
        #[expect(clippy::disallowed_methods, reason = "the functions' one monotonic clock, for pauses and timelines")]
        let began = Instant::now();
        Self { environment, clients, budget: Mutex::new(Budget::default()), began }
    }

    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    #[must_use]
    pub fn table(&self) -> &Table {
        self.clients.table()
    }

    /// Makes every client now. Lambda gives a function a whole core until it is ready, and a fraction of one afterwards:
    /// loading the system's TLS roots belongs there.
    pub fn make_ready(&self) {
        self.clients.make_all();
    }

    async fn spend(&self, kind: Kind) {
        let wait = {
            let mut budget = self.budget.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            budget.take(kind, self.elapsed())
        };
        if wait > Millis::ZERO {
            self.sleep(wait).await;
        }
    }
}

impl Cloud for Aws {
    fn elapsed(&self) -> Millis {
        Millis(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn wall_clock(&self) -> String {
        #[expect(clippy::disallowed_methods, reason = "when something happened, for people; nothing is decided by it")]
        let now = SystemTime::now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let millis = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let text = DateTime::from_millis(millis).fmt(Format::DateTime).unwrap_or_default();
        with_millis(&text)
    }

    fn random(&self) -> u64 {
        getrandom::u64().unwrap_or_else(|_| {
            // The kernel's generator cannot fail on Linux once booted; time still tells runs apart.
            u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
        })
    }

    async fn sleep(&self, span: Millis) {
        tokio::time::sleep(Duration::from(span)).await;
    }

    async fn row(&self, cluster: &ClusterId) -> Result<Option<Row>, CloudError> {
        self.clients.table().read(cluster).await.map_err(of_table)
    }

    async fn config(&self, cluster: &ClusterId) -> Result<Option<ClusterConfig>, CloudError> {
        self.clients.table().read_config(cluster).await.map_err(of_table)
    }

    async fn store_config(&self, cluster: &ClusterId, json: &str) -> Result<(), CloudError> {
        self.clients.table().write_config(cluster, json).await.map_err(of_table)
    }

    async fn remove_config(&self, cluster: &ClusterId) -> Result<(), CloudError> {
        self.clients.table().delete_config(cluster).await.map_err(of_table)
    }

    async fn heartbeat(&self, cluster: &ClusterId, node: &NodeId) -> Result<Option<Sighting>, CloudError> {
        let found = self.clients.table().read_heartbeat(cluster, node).await.map_err(of_table)?;
        Ok(found.map(|(seq, heartbeat)| Sighting { seq, heartbeat, advanced: None }))
    }

    async fn write(&self, write: &Write, budget: Millis) -> Outcome {
        self.clients.table().write(write, Duration::from(budget)).await
    }

    async fn record(&self, cluster: &ClusterId, time: &str, id: &str, detail: &str) -> Result<(), CloudError> {
        self.clients.table().put_event(cluster, time, id, detail).await.map_err(of_table)
    }

    async fn history(
        &self,
        cluster: &ClusterId,
        limit: usize,
    ) -> Result<Vec<(String, String, serde_json::Value)>, CloudError> {
        let found = self.clients.table().history(cluster, limit).await.map_err(of_table)?;
        Ok(found.into_iter().map(|event| (event.time, event.id, event.detail)).collect())
    }

    async fn announce(&self, event: &Event) -> Result<(), CloudError> {
        const CALL: &str = "PutEvents";
        let entry = aws_sdk_eventbridge::types::PutEventsRequestEntry::builder()
            .event_bus_name(&self.environment.bus)
            .source(SOURCE)
            .detail_type(event.detail_type())
            .detail(event.detail())
            .build();
        let answer =
            self.clients.bus().put_events().entries(entry).send().await.map_err(|error| failed(CALL, error))?;
        // PutEvents answers 200 also for entries that it has not taken.
        match answer.entries().iter().find_map(|entry| entry.error_code()) {
            None => Ok(()),
            Some(code) => {
                let message = answer.entries().iter().find_map(|entry| entry.error_message()).unwrap_or("").to_owned();
                Err(CloudError::Refused { call: CALL, code: code.into(), message })
            }
        }
    }

    async fn instances(&self, ids: &[InstanceId]) -> Found<InstanceId, Described> {
        self.spend(Kind::Describe).await;
        describe::instances(self.clients.ec2_reads(), ids).await
    }

    async fn interfaces_of(&self, instances: &[InstanceId]) -> Found<InterfaceId, Interface> {
        self.spend(Kind::Describe).await;
        let ids = instances.iter().map(ToString::to_string).collect();
        describe::interfaces(self.clients.ec2_reads(), "attachment.instance-id", ids).await
    }

    async fn interfaces(&self, ids: &[InterfaceId]) -> Found<InterfaceId, Interface> {
        self.spend(Kind::Describe).await;
        let ids = ids.iter().map(ToString::to_string).collect();
        describe::interfaces(self.clients.ec2_reads(), "network-interface-id", ids).await
    }

    async fn route_tables(&self, which: &Tables) -> Found<TableId, RouteTable> {
        self.spend(Kind::Describe).await;
        describe::route_tables(self.clients.ec2_reads(), which).await
    }

    async fn subnets(&self, vpcs: &[VpcId]) -> Found<SubnetId, Subnet> {
        self.spend(Kind::Describe).await;
        describe::subnets(self.clients.ec2_reads(), vpcs).await
    }

    async fn vpcs(&self, ids: &[VpcId]) -> Found<VpcId, Vpc> {
        self.spend(Kind::Describe).await;
        describe::vpcs(self.clients.ec2_reads(), ids).await
    }

    async fn replace_route(&self, table: &TableId, destination: IpNet, to: &InterfaceId) -> Result<(), CloudError> {
        self.spend(Kind::ReplaceRoute).await;
        let call = self.clients.ec2_writes().replace_route().route_table_id(&table.0).network_interface_id(&to.0);
        let call = match destination {
            IpNet::V4(net) => call.destination_cidr_block(net.to_string()),
            IpNet::V6(net) => call.destination_ipv6_cidr_block(net.to_string()),
        };
        call.send().await.map(drop).map_err(|error| failed("ReplaceRoute", error))
    }

    async fn create_route(&self, table: &TableId, destination: IpNet, to: &InterfaceId) -> Result<(), CloudError> {
        self.spend(Kind::CreateRoute).await;
        let call = self.clients.ec2_writes().create_route().route_table_id(&table.0).network_interface_id(&to.0);
        let call = match destination {
            IpNet::V4(net) => call.destination_cidr_block(net.to_string()),
            IpNet::V6(net) => call.destination_ipv6_cidr_block(net.to_string()),
        };
        call.send().await.map(drop).map_err(|error| failed("CreateRoute", error))
    }

    async fn let_forward(&self, interface: &InterfaceId) -> Result<(), CloudError> {
        self.spend(Kind::ModifyInterface).await;
        self.clients
            .ec2_writes()
            .modify_network_interface_attribute()
            .network_interface_id(&interface.0)
            .source_dest_check(AttributeBooleanValue::builder().value(false).build())
            .send()
            .await
            .map(drop)
            .map_err(|error| failed("ModifyNetworkInterfaceAttribute", error))
    }

    async fn stop(&self, instance: &InstanceId) -> Result<(), CloudError> {
        self.clients
            .ec2_writes()
            .stop_instances()
            .instance_ids(instance.as_str())
            .force(true)
            .skip_os_shutdown(true)
            .send()
            .await
            .map(drop)
            .map_err(|error| failed("StopInstances", error))
    }
}

fn of_table(error: TableError) -> CloudError {
    CloudError::Table { message: error.to_string(), passing: error.is_passing() }
}

/// `2026-01-31T23:59:59Z` or with any fraction, as `...:59.123Z`: history items sort by it as text.
fn with_millis(text: &str) -> String {
    let (whole, fraction) = text.trim_end_matches('Z').split_once('.').unwrap_or((text.trim_end_matches('Z'), ""));
    let mut fraction = fraction.to_owned();
    fraction.truncate(3);
    format!("{whole}.{fraction:0<3}Z")
}

/// Sorts an SDK error: turned away for load, refused for good, or nobody knows.
fn failed<E>(call: &'static str, error: SdkError<E, HttpResponse>) -> CloudError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    const THROTTLES: [&str; 6] = [
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "RequestThrottled",
    ];
    match &error {
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or("unknown").to_owned();
            let message = service.err().message().unwrap_or("").to_owned();
            let status = service.raw().status().as_u16();
            if THROTTLES.contains(&code.as_str()) || status == 429 {
                CloudError::Throttled { call, code }
            } else if status >= 500 {
                CloudError::Unanswered { call, problem: format!("{code} {message}") }
            } else {
                CloudError::Refused { call, code, message }
            }
        }
        SdkError::ConstructionFailure(_) => {
            CloudError::Refused { call, code: "NotSent".into(), message: chain(&error) }
        }
        _ => CloudError::Unanswered { call, problem: chain(&error) },
    }
}

/// An error and its sources in one line: the SDK's own text alone says "dispatch failure" and no more.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut told = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        told.push_str(": ");
        told.push_str(&source.to_string());
        next = source.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::with_millis;

    #[test]
    fn event_times_have_exactly_three_decimals() {
        assert_eq!(with_millis("2026-01-31T23:59:59Z"), "2026-01-31T23:59:59.000Z");
        assert_eq!(with_millis("2026-01-31T23:59:59.5Z"), "2026-01-31T23:59:59.500Z");
        assert_eq!(with_millis("2026-01-31T23:59:59.123456Z"), "2026-01-31T23:59:59.123Z");
    }
}
