//! The operator's socket on this machine, and the place where Prometheus scrapes.

use crate::clock;
use crate::metrics;
use crate::status::{CORE_LIMIT, Sources};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use lease::ids::{ClusterId, NodeId};
use lease::time::Moment;
use prometheus_client::registry::Registry;
use serde_json::json;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use volume::operate::Operated;
use volume::operate::routes::commands;
pub use volume::operate::socket::{SocketError as AdminError, ask, open};

/// What there is to show.
#[derive(Clone, Debug)]
pub enum Shown {
    /// The node has not been made yet: what it waits for, since when, and what the last try said.
    Waiting {
        node: NodeId,
        cluster: ClusterId,
        what: &'static str,
        since: Moment,
        problem: Option<String>,
    },
    Running(Arc<Sources>),
}

/// Answers the operator, for good.
pub async fn serve(listener: UnixListener, shown: watch::Receiver<Shown>) -> std::io::Result<()> {
    let routes = Router::new().route("/status", get(status)).route("/healthz", get(health)).with_state(shown.clone());
    axum::serve(listener, routes.merge(commands(move || volumes(&shown)))).await
}

/// What commands are for; or why there is nothing to command.
fn volumes(shown: &watch::Receiver<Shown>) -> Result<Operated, String> {
    match &*shown.borrow() {
        Shown::Waiting { what, .. } => Err(format!("the node is waiting for {what}: its volumes are not there yet")),
        Shown::Running(sources) => {
            let none = || format!("{} has no volumes: its configuration names none", sources.me.node);
            sources.volumes.clone().ok_or_else(none)
        }
    }
}

/// Answers Prometheus, for good.
pub async fn serve_metrics(listener: TcpListener, sources: Arc<Sources>) -> std::io::Result<()> {
    let registry = Arc::new(metrics::registry(sources));
    axum::serve(listener, Router::new().route("/metrics", get(scrape)).with_state(registry)).await
}

async fn status(State(shown): State<watch::Receiver<Shown>>) -> Json<serde_json::Value> {
    let shown = shown.borrow().clone();
    Json(match shown {
        Shown::Running(sources) => sources.status(),
        Shown::Waiting { node, cluster, what, since, problem } => json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cluster": cluster,
            "node": node,
            "waiting": { "what": what, "for_ms": clock::now().shortest_since(since), "problem": problem },
        }),
    })
}

async fn health(State(shown): State<watch::Receiver<Shown>>) -> Response {
    let shown = shown.borrow().clone();
    match shown {
        Shown::Waiting { what, .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {what}\n")).into_response()
        }
        Shown::Running(sources) if sources.core_silent() < CORE_LIMIT => (StatusCode::OK, "ok\n").into_response(),
        Shown::Running(sources) => {
            let silent = sources.core_silent();
            (StatusCode::SERVICE_UNAVAILABLE, format!("the core has not stepped for {silent}\n")).into_response()
        }
    }
}

async fn scrape(State(registry): State<Arc<Registry>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_dir::tests::Scratch;
    use serde_json::Value;
    use volume::operate::socket::tell;

    /// A node that is not there yet has no volumes to command, and says what it waits for.
    #[tokio::test]
    async fn a_command_to_a_node_that_waits_is_refused_with_what_it_waits_for() {
        let folder = Scratch::new();
        let path = folder.path().join("node.sock");
        let shown = watch::Sender::new(Shown::Waiting {
            node: NodeId::new("a").expect("a name"),
            cluster: ClusterId::new("web").expect("a name"),
            what: "instance metadata",
            since: clock::now(),
            problem: None,
        });
        let listener = open(&path).await.expect("a socket");
        tokio::spawn(serve(listener, shown.subscribe()));
        let told = tell::<Value>(&path, "/volumes/verify", &json!({"volume": null})).await.expect_err("not yet");
        assert_eq!(told.to_string(), "the node is waiting for instance metadata: its volumes are not there yet");
        assert_eq!(ask(&path).await.expect("a status")["waiting"]["what"], "instance metadata");
        let unknown = tell::<Value>(&path, "/volumes/verify", &json!({"volumes": "data"})).await.expect_err("a typo");
        assert!(unknown.to_string().contains("422"), "{unknown}");
    }
}
