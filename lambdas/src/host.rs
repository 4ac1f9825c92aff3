//! Running under Lambda: what the three binaries share.

use crate::api::ApiError;
use crate::aws::Aws;
use crate::cloud::Cloud;
use crate::converge::Deadline;
use crate::environment::Environment;
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use lease::time::Millis;
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// Serves invocations until Lambda ends the process. What `handle` fails with fails the invocation: Lambda sends an event
/// that failed to the function's failure destination.
///
/// # Errors
/// A bad environment, or a Runtime API that does not answer.
pub fn serve<F, Answer>(handle: F) -> Result<(), anyhow::Error>
where
    F: Fn(&'static Aws, Value, Deadline) -> Answer,
    Answer: Future<Output = Result<Value, ApiError>>,
{
    log_json();
    let environment = Environment::of_process()?;
    // One thread: the work is waiting for AWS, and 128 MB come with a fraction of one core.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // One for the process's life, like its connections.
        let aws: &'static Aws = Box::leak(Box::new(Aws::new(environment)));
        aws.make_ready();
        let service = service_fn(|event: LambdaEvent<Value>| {
            let ends = event.context.deadline();
            #[expect(clippy::disallowed_methods, reason = "Lambda states its deadline by the wall clock")]
            let now = SystemTime::now();
            let left = ends.duration_since(now).unwrap_or(Duration::ZERO);
            let left = Millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
            let answer = handle(aws, event.payload, Deadline(aws.elapsed().plus(left)));
            async {
                answer
                    .await
                    .map_err(|error| Diagnostic { error_type: error.code.to_owned(), error_message: error.to_string() })
            }
        });
        lambda_runtime::run(service).await.map_err(|error| anyhow::anyhow!(error))
    })
}

/// One JSON object a line: what CloudWatch Logs can query by field.
fn log_json() {
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_target(false)
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .init();
}

/// A line of its own in the log, as the embedded metric format needs it.
pub fn print_line(line: &Value) {
    println!("{line}");
}

/// Milliseconds since 1970, for timestamps of metrics.
#[must_use]
pub fn wall_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "CloudWatch wants a wall clock's time; nothing is decided by it")]
    let now = SystemTime::now();
    u64::try_from(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// Puts the answer where CloudFormation waits for it. Without it the deployment hangs until its time-out, so it is tried
/// a few times.
pub async fn answer_cloudformation(response: &crate::configure::Response) {
    let Some(url) = &response.url else {
        tracing::error!("the request has no ResponseURL: nobody can be answered");
        return;
    };
    // The process has one TLS provider; a second installation is refused and harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = match reqwest::Client::builder().timeout(Duration::from_secs(5)).build() {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "no HTTP client: CloudFormation is not answered");
            return;
        }
    };
    for attempt in 1..=4_u64 {
        // The URL is signed for an empty content type.
        let put = client.put(url).header("content-type", "").body(response.body.to_string()).send().await;
        match put.and_then(reqwest::Response::error_for_status) {
            Ok(_) => return,
            Err(error) => tracing::warn!(attempt, error = %error.without_url(), "CloudFormation could not be answered"),
        }
        tokio::time::sleep(Duration::from_millis(500 * attempt)).await;
    }
}
