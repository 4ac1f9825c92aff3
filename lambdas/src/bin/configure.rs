//! `configure`: CloudFormation's custom resource that checks and stores a cluster's configuration.

// The futures of a whole run nest deeper than the default allows.
#![recursion_limit = "256"]

use lambdas::{configure, host};

fn main() -> anyhow::Result<()> {
    host::serve(|aws, request, _deadline| async move {
        let response = configure::handle(aws, &request).await;
        host::answer_cloudformation(&response).await;
        Ok(response.body)
    })
}
