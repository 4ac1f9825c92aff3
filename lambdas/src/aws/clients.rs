//! The SDK clients. They share one HTTP client, so that the system's TLS roots are loaded once and connections are used
//! again.

use crate::environment::Environment;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use lease::table::Table;
use std::sync::OnceLock;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Clients {
    base: SdkConfig,
    table_name: String,
    table: OnceLock<Table>,
    bus: OnceLock<aws_sdk_eventbridge::Client>,
    ec2_reads: OnceLock<aws_sdk_ec2::Client>,
    ec2_writes: OnceLock<aws_sdk_ec2::Client>,
}

impl Clients {
    pub(super) fn new(environment: &Environment) -> Self {
        // Credentials come from Lambda's environment and nowhere else: no chain of providers to probe, no metadata
        // service to wait for. Lambda renews them by starting the environment anew.
        let base = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(environment.region.clone()))
            .credentials_provider(aws_sdk_ec2::config::SharedCredentialsProvider::new(
                EnvironmentVariableCredentialsProvider::new(),
            ))
            .http_client(http_client());
        let base = match &environment.endpoint {
            Some(url) => base.endpoint_url(url),
            None => base,
        };
        Self {
            base: base.build(),
            table_name: environment.table.clone(),
            table: OnceLock::new(),
            bus: OnceLock::new(),
            ec2_reads: OnceLock::new(),
            ec2_writes: OnceLock::new(),
        }
    }

    pub(super) fn make_all(&self) {
        self.table();
        self.bus();
        self.ec2_reads();
        self.ec2_writes();
    }

    pub(super) fn table(&self) -> &Table {
        self.table.get_or_init(|| Table::new(&aws_sdk_dynamodb::Client::new(&self.base), self.table_name.clone()))
    }

    /// Events are hints and idempotent: the SDK may retry.
    pub(super) fn bus(&self) -> &aws_sdk_eventbridge::Client {
        self.bus.get_or_init(|| aws_sdk_eventbridge::Client::new(&self.patient()))
    }

    /// For describes, which the SDK may retry.
    pub(super) fn ec2_reads(&self) -> &aws_sdk_ec2::Client {
        self.ec2_reads.get_or_init(|| aws_sdk_ec2::Client::new(&self.patient()))
    }

    /// For what changes something: one try, because a retry in here would go out after the row was read again.
    pub(super) fn ec2_writes(&self) -> &aws_sdk_ec2::Client {
        self.ec2_writes.get_or_init(|| {
            let once =
                self.base.to_builder().retry_config(RetryConfig::disabled()).timeout_config(limit(3_000)).build();
            aws_sdk_ec2::Client::new(&once)
        })
    }

    fn patient(&self) -> SdkConfig {
        let retries = RetryConfig::standard().with_max_attempts(3).with_initial_backoff(Duration::from_millis(100));
        self.base.to_builder().retry_config(retries).timeout_config(limit(2_000)).build()
    }
}

/// A short limit for each try; connecting included.
fn limit(try_ms: u64) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_millis(1_000))
        .operation_attempt_timeout(Duration::from_millis(try_ms))
        .build()
}

/// The same whatever the endpoint: with one of plain HTTP, as tests use, the system's roots are loaded all the same, so
/// that what is measured of a start is what happens on AWS. The SDK loads them when the first client is made, and keeps them.
fn http_client() -> SharedHttpClient {
    let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    aws_smithy_http_client::Builder::new().tls_provider(ring).build_https()
}
