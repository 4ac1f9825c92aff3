//! Errors of the table in an operator's words: what happened, where, and what to do.

use super::Operation;
use crate::fields::Problems;
use crate::ids::ClusterId;

/// Why the table gave no answer that could be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error(
        "{operation} on table {table} is not permitted: {message}; give this program the role that the deployment made \
         for it (a node's instance profile, a function's role), or deploy the stack again"
    )]
    Denied { table: String, operation: Operation, message: String },
    #[error(
        "{operation} on table {table}: AWS does not accept the credentials ({code}): {message}; check the instance profile, \
         the instance's metadata service and its clock"
    )]
    Credentials { table: String, operation: Operation, code: String, message: String },
    #[error(
        "{operation}: there is no table {table} in this Region and account: {message}; correct the table's name, or deploy \
         the stack"
    )]
    NoTable { table: String, operation: Operation, message: String },
    #[error(
        "{operation} on table {table}: DynamoDB finds the request invalid: {message}; the table's keys must be `cluster` and \
         `item`, both texts; if they are, this is a bug of leasehold"
    )]
    Invalid { table: String, operation: Operation, message: String },
    #[error(
        "{operation} on table {table}: turned away {tries} times ({code}): {message}; the table must be on demand, or have \
         more capacity"
    )]
    Throttled { table: String, operation: Operation, tries: u32, code: String, message: String },
    #[error("{operation} on table {table}: no answer in {tries} tries: {problem}")]
    Unanswered { table: String, operation: Operation, tries: u32, problem: String },
    /// Version of the layout is newer than this program's: it must not guess what the new one means.
    #[error(
        "item {item} of {key} has layout version {found}, this program knows {known} at most; update leasehold here before \
         it takes part in the cluster again"
    )]
    Newer { key: String, item: String, found: u64, known: u64 },
    #[error("item {item} of {key}, attribute {attribute}: expected {expected}, found {found}")]
    Malformed { key: String, item: String, attribute: &'static str, found: String, expected: String },
    #[error("the configuration of cluster {cluster} is not valid:\n{problems}")]
    BadConfig { cluster: ClusterId, problems: Problems },
    #[error("the configuration is of cluster {found}, not of {cluster}")]
    OtherCluster { cluster: ClusterId, found: ClusterId },
    /// Events sort by their time as text, so it must be written in one way only.
    #[error(
        "{found:?} is no time of an event: expected RFC 3339 in UTC with milliseconds, e.g. 2026-01-31T23:59:59.123Z"
    )]
    BadTime { found: String },
}

impl TableError {
    /// Trying the same again, soon, may succeed: nothing has to be put right by a person first.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::Unanswered { .. } | Self::Credentials { .. })
    }
}
