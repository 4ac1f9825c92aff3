//! Where clients connect: a UNIX socket that only its owner can open, or TCP.

use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, UnixListener};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;
/// Replies that the kernel takes before the client does, so that a large reply is one system call, and made while the client
/// reads the one before. The kernel gives less where its limits say so.
const SEND_BUFFER_BYTES: usize = 4 << 20;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
            Place::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// Why nobody can connect there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("{path} is a socket that another server listens on: stop that one, or take another path")]
    Taken { path: PathBuf },
    #[error("{path} exists and is no socket: it is left as it is; take another path")]
    NotASocket { path: PathBuf },
    #[error("cannot listen on {place}: {source}")]
    Listen { place: Place, source: io::Error },
}

#[derive(Debug)]
pub enum Listener {
    Unix { listener: UnixListener, path: PathBuf },
    Tcp(TcpListener),
}

/// A connection that was accepted, between threads.
#[derive(Debug)]
pub enum Accepted {
    Unix(StdUnixStream),
    Tcp(std::net::TcpStream),
}

impl Listener {
    /// # Errors
    /// Where the place is taken, or the system refuses it.
    pub fn bind(place: &Place) -> Result<Listener, ListenError> {
        let failed = |source| ListenError::Listen { place: place.clone(), source };
        match place {
            Place::Tcp(address) => bind_tcp(*address).map(Listener::Tcp).map_err(failed),
            Place::Unix(path) => {
                remove_stale(path)?;
                let listener = bind_unix(path).map_err(failed)?;
                Ok(Listener::Unix { listener, path: path.clone() })
            }
        }
    }

    /// Where it listens really: with the port that the system chose, where it was asked to.
    #[must_use]
    pub fn place(&self) -> Place {
        match self {
            Listener::Unix { path, .. } => Place::Unix(path.clone()),
            Listener::Tcp(listener) => Place::Tcp(listener.local_addr().expect("a bound socket has an address")),
        }
    }

    /// # Errors
    /// Of one connection (it went before it was accepted), or of the process (no descriptors left); neither ends a listener.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Listener::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let socket = Socket::from(std::os::fd::OwnedFd::from(stream.into_std()?));
                enlarge(&socket);
                Ok(Accepted::Unix(socket.into()))
            }
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Replies are written whole; none waits for the next.
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream.into_std()?))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix { path, .. } = self {
            // Gone already: fine.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Before `listen`: until then every connect is refused, so that nobody gets in with the mode that the umask gave.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A server that starts anew does not wait for the old one's connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// A server that was killed leaves its socket behind.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket { path: path.to_owned() });
    }
    if StdUnixStream::connect(path).is_ok() {
        return Err(ListenError::Taken { path: path.to_owned() });
    }
    // If it cannot be removed, `bind` says why.
    let _ = std::fs::remove_file(path);
    Ok(())
}

fn enlarge(socket: &Socket) {
    if let Err(error) = socket.set_send_buffer_size(SEND_BUFFER_BYTES) {
        tracing::debug!(%error, "the send buffer stays as it is");
    }
}
