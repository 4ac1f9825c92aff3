//! `watch`: the backstop that looks at every cluster each minute.

// The futures of a whole run nest deeper than the default allows.
#![recursion_limit = "256"]

use lambdas::{host, watch};
use std::sync::LazyLock;

static MEMORY: LazyLock<watch::Memory> = LazyLock::new(watch::Memory::default);

fn main() -> anyhow::Result<()> {
    host::serve(|aws, tick, deadline| async move {
        let environment = aws.environment();
        let visits = watch::visit_all(aws, &environment.clusters, &MEMORY, deadline).await;
        let at_ms = host::wall_ms();
        for (cluster, visit) in &visits {
            host::print_line(&visit.measures.line(&environment.table, cluster, at_ms));
        }
        watch::told(&tick, &visits)
    })
}
