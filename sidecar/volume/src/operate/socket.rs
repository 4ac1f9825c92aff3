//! The admin socket: opened by a daemon, asked by the operator's verbs.

use serde::de::DeserializeOwned;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// Where it is unless the configuration says otherwise; the operator's verbs look there.
pub const DEFAULT: &str = "/run/leasehold/node.sock";
/// The largest answer that the client takes.
const ANSWER_MAX_BYTES: u64 = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("{}: {error}; is the daemon running, and is this its [admin].socket?", path.display())]
    NoDaemon { path: PathBuf, error: std::io::Error },
    #[error("{}: a socket of another daemon that still answers", path.display())]
    Taken { path: PathBuf },
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{}: not an answer of this program: {problem}", path.display())]
    Answer { path: PathBuf, problem: String },
    /// In the daemon's words.
    #[error("{0}")]
    Refused(String),
}

/// Opens the socket, readable and writable for its owner only. A dead daemon's is replaced.
///
/// # Errors
/// [`SocketError::Taken`] where another daemon answers on it.
pub async fn open(path: &Path) -> Result<UnixListener, SocketError> {
    let io = |error| SocketError::Io { path: path.to_owned(), error };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(io)?;
    }
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            return Err(SocketError::Taken { path: path.to_owned() });
        }
        std::fs::remove_file(path).map_err(io)?;
    }
    let listener = UnixListener::bind(path).map_err(io)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(io)?;
    Ok(listener)
}

/// Asks the daemon behind `socket` for its status.
///
/// # Errors
/// [`SocketError`].
pub async fn ask(socket: &Path) -> Result<Value, SocketError> {
    talk(socket, "GET /status HTTP/1.0\r\nHost: leasehold\r\n\r\n").await
}

/// Tells the daemon behind `socket` to do something.
///
/// # Errors
/// [`SocketError::Refused`] with the daemon's reason; others where it cannot be told.
pub async fn tell<T: DeserializeOwned>(socket: &Path, path: &str, body: &Value) -> Result<T, SocketError> {
    let body = body.to_string();
    let head = format!("POST {path} HTTP/1.0\r\nHost: leasehold\r\nContent-Type: application/json");
    talk(socket, &format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await
}

/// Version 1.0: the answer ends with the connection, and is not cut into chunks.
async fn talk<T: DeserializeOwned>(socket: &Path, request: &str) -> Result<T, SocketError> {
    let mut stream =
        UnixStream::connect(socket).await.map_err(|error| SocketError::NoDaemon { path: socket.to_owned(), error })?;
    let mut answer = Vec::new();
    let talk = async {
        stream.write_all(request.as_bytes()).await?;
        stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer).await
    };
    talk.await.map_err(|error| SocketError::Io { path: socket.to_owned(), error })?;
    let answer = String::from_utf8_lossy(&answer);
    let no_answer = |problem: String| SocketError::Answer { path: socket.to_owned(), problem };
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| no_answer("no HTTP".into()))?;
    let first = head.lines().next().unwrap_or_default();
    match first.split(' ').nth(1) {
        Some("200") => serde_json::from_str(body).map_err(|error| no_answer(error.to_string())),
        // What the daemon says of a command that it understands.
        Some("404" | "409" | "503") if !body.is_empty() => Err(SocketError::Refused(body.trim().to_owned())),
        _ => Err(no_answer(first.into())),
    }
}
