//! One request to DynamoDB: what is counted, how long it may take, what its failure proves, and when it is tried again.
//!
//! The SDK's own retries are off: they would hide that an earlier try was applied. Each try here is one request.

use super::TableError;
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// What a request is for. Counted one by one, because each costs money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    ReadRow,
    WriteRow,
    ReadConfig,
    WriteConfig,
    DeleteConfig,
    ReadHeartbeat,
    WriteHeartbeat,
    PutEvent,
    ReadHistory,
}

impl Operation {
    pub const ALL: [Self; 9] = [
        Self::ReadRow,
        Self::WriteRow,
        Self::ReadConfig,
        Self::WriteConfig,
        Self::DeleteConfig,
        Self::ReadHeartbeat,
        Self::WriteHeartbeat,
        Self::PutEvent,
        Self::ReadHistory,
    ];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadRow => "read_row",
            Self::WriteRow => "write_row",
            Self::ReadConfig => "read_config",
            Self::WriteConfig => "write_config",
            Self::DeleteConfig => "delete_config",
            Self::ReadHeartbeat => "read_heartbeat",
            Self::WriteHeartbeat => "write_heartbeat",
            Self::PutEvent => "put_event",
            Self::ReadHistory => "read_history",
        }
    }

    /// The action that a policy has to allow for it.
    #[must_use]
    pub fn action(self) -> &'static str {
        match self {
            Self::ReadRow | Self::ReadConfig | Self::ReadHeartbeat => "dynamodb:GetItem",
            Self::WriteRow | Self::WriteConfig | Self::WriteHeartbeat => "dynamodb:UpdateItem",
            Self::DeleteConfig => "dynamodb:DeleteItem",
            Self::PutEvent => "dynamodb:PutItem",
            Self::ReadHistory => "dynamodb:Query",
        }
    }

    /// Billed as a write.
    #[must_use]
    pub fn is_write(self) -> bool {
        matches!(self, Self::WriteRow | Self::WriteConfig | Self::DeleteConfig | Self::WriteHeartbeat | Self::PutEvent)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.action())
    }
}

/// Requests so far, each try counted. Shared with whoever exports metrics; never goes down.
#[derive(Debug, Default)]
pub struct Requests {
    sent: [AtomicU64; Operation::ALL.len()],
    failed: [AtomicU64; Operation::ALL.len()],
}

/// One line of [`Requests`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    pub operation: Operation,
    /// Tries sent.
    pub sent: u64,
    /// Of these, the ones without an answer or with an error. A lost race for the row is an answer, not a failure.
    pub failed: u64,
}

impl Requests {
    #[must_use]
    pub fn counts(&self) -> [Count; Operation::ALL.len()] {
        Operation::ALL.map(|operation| Count {
            operation,
            sent: self.sent[operation as usize].load(Ordering::Relaxed),
            failed: self.failed[operation as usize].load(Ordering::Relaxed),
        })
    }
}

/// How one try failed, by what that proves.
#[derive(Debug)]
pub(super) enum Failure {
    /// AWS turned the request away: it was not processed.
    TurnedAway(TableError),
    /// It may have been processed.
    Unanswered(String),
}

/// Where requests of one table go.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) table: String,
    pub(super) requests: Arc<Requests>,
}

impl Line {
    /// One try, given up after `limit`.
    pub(super) async fn try_once<T, E>(
        &self,
        operation: Operation,
        limit: Duration,
        send: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.requests.sent[operation as usize].fetch_add(1, Ordering::Relaxed);
        let failure = match tokio::time::timeout(limit, send).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => self.judge(operation, &error),
            Err(_) => Failure::Unanswered(format!("no answer within {} ms", limit.as_millis())),
        };
        self.requests.failed[operation as usize].fetch_add(1, Ordering::Relaxed);
        Err(failure)
    }

    /// Tries until there is an answer, an error that a retry does not mend, or no time left. For requests that may
    /// safely be processed twice: reads, and writes of absolute values by their only writer.
    pub(super) async fn insist<T, E, F>(
        &self,
        operation: Operation,
        budget: Duration,
        mut send: impl FnMut() -> F,
    ) -> Result<T, TableError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let mut pace = Pace::within(budget);
        loop {
            let error = match self.try_once(operation, pace.limit(), send()).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::TurnedAway(error)) if !error.is_passing() => return Err(error),
                Err(Failure::TurnedAway(error)) => error,
                Err(Failure::Unanswered(problem)) => {
                    TableError::Unanswered { table: self.table.clone(), operation, tries: 0, problem }
                }
            };
            if !pace.pause().await {
                return Err(with_tries(error, pace.tries));
            }
        }
    }

    /// What the failure proves. Only codes that say that DynamoDB did not process the request count as turned away;
    /// whatever is not named here is without an answer.
    fn judge<E>(&self, operation: Operation, error: &SdkError<E>) -> Failure
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let table = self.table.clone();
        let (code, message) = match error {
            SdkError::ServiceError(service) => {
                let meta = service.err().meta();
                (meta.code().unwrap_or_default(), meta.message().unwrap_or("no message").to_owned())
            }
            // Never sent: no endpoint, no credentials, no signature.
            SdkError::ConstructionFailure(_) => {
                let message = DisplayErrorContext(error).to_string();
                return Failure::TurnedAway(TableError::Credentials { table, operation, code: "none".into(), message });
            }
            _ => ("", String::new()),
        };
        Failure::TurnedAway(match code {
            "AccessDeniedException" | "AccessDenied" => TableError::Denied { table, operation, message },
            "ValidationException" | "SerializationException" => TableError::Invalid { table, operation, message },
            "ResourceNotFoundException" => TableError::NoTable { table, operation, message },
            "ExpiredTokenException"
            | "ExpiredToken"
            | "UnrecognizedClientException"
            | "InvalidSignatureException"
            | "IncompleteSignatureException"
            | "MissingAuthenticationTokenException" => {
                TableError::Credentials { table, operation, code: code.into(), message }
            }
            // The last two: DynamoDB saw another change of the same item under way, and made none for us.
            "ProvisionedThroughputExceededException"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "TransactionConflictException"
            | "ReplicatedWriteConflictException" => {
                TableError::Throttled { table, operation, tries: 1, code: code.into(), message }
            }
            _ => return Failure::Unanswered(DisplayErrorContext(error).to_string()),
        })
    }
}

pub(super) fn with_tries(mut error: TableError, made: u32) -> TableError {
    if let TableError::Unanswered { tries, .. } | TableError::Throttled { tries, .. } = &mut error {
        *tries = made;
    }
    error
}

/// Tries within a time budget: capped exponential pauses with full jitter, so that two nodes that failed together do
/// not come back together.
#[derive(Debug)]
pub(super) struct Pace {
    budget: Duration,
    deadline: Instant,
    pause: Duration,
    pub(super) tries: u32,
}

const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// A try with less time than this is not worth its price: DynamoDB's median is below 10 ms, its tail is not.
const SHORTEST_TRY: Duration = Duration::from_millis(40);

impl Pace {
    pub(super) fn within(budget: Duration) -> Self {
        Self { budget, deadline: Instant::now() + budget, pause: FIRST_PAUSE, tries: 1 }
    }

    /// How long the next try may take: a third of the budget, so that one lost packet does not use it up, but time
    /// enough for a new connection.
    pub(super) fn limit(&self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        left.min((self.budget / 3).max(Duration::from_millis(300))).max(SHORTEST_TRY)
    }

    /// Waits before the next try. False: no time is left for one.
    pub(super) async fn pause(&mut self) -> bool {
        let pause = self.pause.mul_f64(jitter());
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        if self.deadline.saturating_duration_since(Instant::now()) < pause + SHORTEST_TRY {
            return false;
        }
        tokio::time::sleep(pause).await;
        self.tries += 1;
        true
    }
}

/// Between 0 and 1.
fn jitter() -> f64 {
    getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX))
}
