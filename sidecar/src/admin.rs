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
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;

/// The largest answer that the client takes.
const ANSWER_MAX_BYTES: u64 = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("{}: {error}; is the daemon running, and is this its [admin].socket?", path.display())]
    NoDaemon { path: PathBuf, error: std::io::Error },
    #[error("{}: a socket of another daemon that still answers", path.display())]
    Taken { path: PathBuf },
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{}: not an answer of this program: {problem}", path.display())]
    Answer { path: PathBuf, problem: String },
}

/// Opens the socket, readable and writable for its owner only. A dead daemon's is replaced.
///
/// # Errors
/// [`AdminError::Taken`] where another daemon answers on it.
pub async fn open(path: &Path) -> Result<UnixListener, AdminError> {
    let io = |error| AdminError::Io { path: path.to_owned(), error };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(io)?;
    }
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            return Err(AdminError::Taken { path: path.to_owned() });
        }
        std::fs::remove_file(path).map_err(io)?;
    }
    let listener = UnixListener::bind(path).map_err(io)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(io)?;
    Ok(listener)
}

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
    let routes = Router::new().route("/status", get(status)).route("/healthz", get(health)).with_state(shown);
    axum::serve(listener, routes).await
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

/// Asks the daemon behind `socket` for its status.
///
/// # Errors
/// [`AdminError`].
pub async fn ask(socket: &Path) -> Result<serde_json::Value, AdminError> {
    let mut stream =
        UnixStream::connect(socket).await.map_err(|error| AdminError::NoDaemon { path: socket.to_owned(), error })?;
    let mut answer = Vec::new();
    // Version 1.0: the answer ends with the connection, and is not cut into chunks.
    let talk = async {
        stream.write_all(b"GET /status HTTP/1.0\r\nHost: leasehold\r\n\r\n").await?;
        stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer).await
    };
    talk.await.map_err(|error| AdminError::Io { path: socket.to_owned(), error })?;
    let answer = String::from_utf8_lossy(&answer);
    let no_answer = |problem: String| AdminError::Answer { path: socket.to_owned(), problem };
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| no_answer("no HTTP".into()))?;
    let first = head.lines().next().unwrap_or_default();
    if first.split(' ').nth(1) != Some("200") {
        return Err(no_answer(first.into()));
    }
    serde_json::from_str(body).map_err(|error| no_answer(error.to_string()))
}
