//! Clients of the AWS services that a node may use: DynamoDB, EventBridge and instance metadata. No other SDK is linked.

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use std::time::Duration;

/// A connection that takes longer is tried anew.
const CONNECT_LIMIT: Duration = Duration::from_millis(1_500);
/// The longest that an event may take on its way out; it is a hint, and the machine repeats what matters.
const EVENT_LIMIT: Duration = Duration::from_secs(3);

/// An HTTP client with connections of its own: what uses it never waits behind what does not.
#[must_use]
pub fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

/// The configuration that the SDK's default chain finds: credentials from the instance profile, endpoints and Region as
/// the environment or the instance says.
pub async fn load(region: Option<String>) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http_client());
    if let Some(region) = region {
        loader = loader.region(Region::new(region));
    }
    loader.load().await
}

/// Instance metadata, version 2 of its protocol only.
#[must_use]
pub fn imds() -> aws_config::imds::Client {
    let provider = aws_config::provider_config::ProviderConfig::without_region().with_http_client(http_client());
    aws_config::imds::Client::builder()
        .configure(&provider)
        .connect_timeout(Duration::from_secs(1))
        .read_timeout(Duration::from_secs(1))
        .max_attempts(3)
        .build()
}

/// A DynamoDB client with connections of its own. Its retries are the table's business.
#[must_use]
pub fn dynamodb(shared: &SdkConfig) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::config::Builder::from(shared)
        .http_client(http_client())
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_LIMIT).build())
        .build();
    aws_sdk_dynamodb::Client::from_conf(config)
}

/// An EventBridge client with connections of its own.
#[must_use]
pub fn eventbridge(shared: &SdkConfig) -> aws_sdk_eventbridge::Client {
    let limits = TimeoutConfig::builder()
        .connect_timeout(CONNECT_LIMIT)
        .operation_attempt_timeout(CONNECT_LIMIT)
        .operation_timeout(EVENT_LIMIT)
        .build();
    let config = aws_sdk_eventbridge::config::Builder::from(shared)
        .http_client(http_client())
        .retry_config(RetryConfig::standard().with_max_attempts(2))
        .timeout_config(limits)
        .build();
    aws_sdk_eventbridge::Client::from_conf(config)
}

/// An error and its causes in one line, without the structures that SDK errors print of themselves.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        // Wrappers often repeat what they wrap.
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}
