//! `failover`: decides who serves and makes the network match. See [`lambdas::api`] for what can be asked by hand.

// The futures of a whole run nest deeper than the default allows.
#![recursion_limit = "256"]

use lambdas::{host, operate};

fn main() -> anyhow::Result<()> {
    host::serve(|aws, payload, deadline| async move {
        operate::invoked(aws, &aws.environment().clusters, &payload, deadline).await
    })
}
