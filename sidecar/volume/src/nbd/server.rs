//! The server: accepts, leads each connection through the handshake into transmission, and parts from all of them.
//!
//! Connections live on a few threads of their own, each with an event loop and a lane of the volume; a connection never
//! changes its thread. Nothing else runs there, so that a busy volume delays nobody's heartbeat, and the other way round.

use super::budget::{Budget, Memory};
use super::connection::{Connection, End, Farewell, Input};
use super::handshake::{Agreed, Closed, Encryption, Handshake, Next, Offer};
use super::listen::{Accepted, Listener};
use super::transmission::Terms;
use crate::buffer::Pool;
use crate::request::{Device, Geometry, Volume};
use rustls::ServerConfig;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;

/// From the connection to transmission. Who is slower holds one of the connections that are allowed.
const HANDSHAKE_MAX: Duration = Duration::from_secs(15);
/// For a last TLS record to be taken by a client that is going anyway.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What to serve, and how.
#[derive(Clone)]
pub struct Config {
    pub name: String,
    pub description: String,
    /// With it, TLS is required.
    pub tls: Option<Arc<ServerConfig>>,
    pub pool: Pool,
    /// Event loops; connections are spread over them.
    pub threads: usize,
    /// Connections at a time, those in handshake included. More are closed at once.
    pub connections_max: usize,
    /// Data of requests that are outstanding, all connections together.
    pub memory_bytes: u64,
    pub farewell: Farewell,
    /// How long a client may take to send one request, or to take one reply.
    pub patience: Duration,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("name", &self.name).field("threads", &self.threads).finish_non_exhaustive()
    }
}

/// What the threads share.
#[derive(Clone)]
struct Shared {
    config: Config,
    geometry: Geometry,
    memory: Memory,
    shutdown: watch::Receiver<bool>,
    /// Connections whose client went while requests were outstanding.
    abandoned: Arc<watch::Sender<usize>>,
}

impl Shared {
    fn new(config: Config, geometry: Geometry, shutdown: watch::Receiver<bool>) -> Shared {
        let memory = Memory::new(config.memory_bytes);
        Shared { config, geometry, memory, shutdown, abandoned: Arc::new(watch::channel(0).0) }
    }
}

type Arrival = (Accepted, OwnedSemaphorePermit);

/// Serves until `stop` is ready, then parts from the clients. When this returns nothing is outstanding.
///
/// # Errors
/// Where the threads or their lanes cannot be had.
pub async fn serve(
    config: Config,
    volume: Arc<dyn Volume>,
    listeners: Vec<Listener>,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let (stopping, shutdown) = watch::channel(false);
    let allowed = Arc::new(Semaphore::new(config.connections_max));
    let threads_count = config.threads.max(1);
    let shared = Shared::new(config, volume.geometry(), shutdown);
    let mut threads = Vec::with_capacity(threads_count);
    let mut arrivals = Vec::with_capacity(threads_count);
    for _ in 0..threads_count {
        // Bounded by the connections that are allowed.
        let (arrive, arriving) = mpsc::unbounded_channel();
        let (started, is_started) = tokio::sync::oneshot::channel();
        let (shared, volume) = (shared.clone(), Arc::clone(&volume));
        let thread = std::thread::Builder::new()
            .name("volume-nbd".to_owned())
            .spawn(move || run_thread(shared, volume.as_ref(), arriving, started))?;
        // A lane that cannot be had is told before anybody is served.
        is_started.await.unwrap_or_else(|_| Err(io::Error::other("a thread of the server ended at once")))?;
        threads.push(thread);
        arrivals.push(arrive);
    }
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, Arc::clone(&allowed), arrivals.clone()));
    }
    drop(arrivals);
    stop.await;
    // The listeners close, and with the last sender the threads know that nobody else comes.
    accepting.shutdown().await;
    // Nobody listening means that no thread is left, which `join` tells.
    let _ = stopping.send(true);
    tokio::task::spawn_blocking(move || {
        for thread in threads {
            thread.join().map_err(|_| io::Error::other("a thread of the server panicked"))?;
        }
        Ok(())
    })
    .await?
}

/// As [`serve`], in the calling thread's event loop and on a device of its own: a `LocalSet` of tokio's. `threads` counts for
/// nothing.
pub async fn serve_here(
    config: Config,
    geometry: Geometry,
    device: Rc<dyn Device>,
    listeners: Vec<Listener>,
    stop: impl Future<Output = ()>,
) {
    let (stopping, shutdown) = watch::channel(false);
    let allowed = Arc::new(Semaphore::new(config.connections_max));
    let (arrive, arriving) = mpsc::unbounded_channel();
    let tending = tokio::task::spawn_local(tend(Shared::new(config, geometry, shutdown), device, arriving));
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, Arc::clone(&allowed), vec![arrive.clone()]));
    }
    drop(arrive);
    stop.await;
    accepting.shutdown().await;
    let _ = stopping.send(true);
    // It ends once the last connection has; a panic in one is told by its own thread.
    let _ = tending.await;
}

async fn accept(listener: Listener, allowed: Arc<Semaphore>, threads: Vec<mpsc::UnboundedSender<Arrival>>) {
    let mut next = 0;
    loop {
        let accepted = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&allowed).try_acquire_owned() else {
            tracing::warn!(place = %listener.place(), "a connection was closed: there are as many as are allowed");
            continue;
        };
        next = (next + 1) % threads.len();
        // A thread that has ended is a server that ends.
        let _ = threads[next].send((accepted, permit));
    }
}

type Started = tokio::sync::oneshot::Sender<io::Result<()>>;

fn run_thread(shared: Shared, volume: &dyn Volume, arriving: mpsc::UnboundedReceiver<Arrival>, started: Started) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(started.send(Err(error))),
    };
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let device: Rc<dyn Device> = match volume.lane() {
            Ok(device) => Rc::from(device),
            Err(error) => return drop(started.send(Err(error))),
        };
        if started.send(Ok(())).is_ok() {
            tend(shared, device, arriving).await;
        }
    });
}

/// Hosts what arrives, until nobody can arrive any more and the last has left.
async fn tend(shared: Shared, device: Rc<dyn Device>, mut arriving: mpsc::UnboundedReceiver<Arrival>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            arrival = arriving.recv() => {
                let Some((accepted, permit)) = arrival else { break };
                let (shared, device) = (shared.clone(), Rc::clone(&device));
                connections.spawn_local(async move {
                    host(accepted, shared, device).await;
                    drop(permit);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
    while connections.join_next().await.is_some() {}
}

/// One connection, from its first byte to its last.
async fn host(accepted: Accepted, shared: Shared, device: Rc<dyn Device>) {
    let outcome = match accepted {
        Accepted::Unix(stream) => match UnixStream::from_std(stream) {
            Ok(stream) => greet(stream, &shared, device).await,
            Err(error) => Err(error.into()),
        },
        Accepted::Tcp(stream) => match TcpStream::from_std(stream) {
            Ok(stream) => greet(stream, &shared, device).await,
            Err(error) => Err(error.into()),
        },
    };
    match outcome {
        Ok(end @ (End::Disconnected | End::ShutDown | End::Lost)) => tracing::debug!(%end, "a client left"),
        Ok(end) => tracing::warn!(%end, "a client was dropped"),
        Err(Failed::Closed(Closed::Aborted)) => tracing::debug!("a client only looked"),
        Err(failed) => tracing::info!(%failed, "a handshake came to nothing"),
    }
}

/// Why a connection did not reach transmission.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Closed(#[from] Closed),
    #[error("it took more than {} s", HANDSHAKE_MAX.as_secs())]
    Late,
    #[error("bytes were sent in the clear after STARTTLS")]
    Smuggled,
    #[error("the server shuts down")]
    ShutDown,
    #[error("{0}")]
    Socket(#[from] io::Error),
}

enum Haggled {
    Agreed(Agreed),
    StartTls,
}

async fn greet<S>(mut stream: S, shared: &Shared, device: Rc<dyn Device>) -> Result<End, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = tokio::time::sleep(HANDSHAKE_MAX);
    tokio::pin!(deadline);
    let Config { name, description, tls, .. } = &shared.config;
    let offer = Offer { name: name.clone(), description: description.clone(), geometry: shared.geometry };
    let encryption = if tls.is_some() { Encryption::Required } else { Encryption::Unavailable };
    let mut input = Input::default();
    let mut handshake = Handshake::new(offer, encryption);
    let haggled = tokio::select! {
        haggled = async {
            stream.write_all(&Handshake::greeting()).await?;
            haggle(&mut stream, &mut handshake, &mut input).await
        } => haggled?,
        () = deadline.as_mut() => return Err(Failed::Late),
        () = shut_down(shared) => return Err(Failed::ShutDown),
    };
    match haggled {
        Haggled::Agreed(agreed) => Ok(transmit(stream, input, agreed, shared, device).await),
        Haggled::StartTls => {
            // What is here already was sent by somebody who could not know whether TLS comes: not by our client.
            if !input.unused().is_empty() {
                return Err(Failed::Smuggled);
            }
            let config = Arc::clone(tls.as_ref().expect("TLS is offered only with it"));
            let mut handshake = handshake.secured();
            let (stream, haggled) = tokio::select! {
                secured = async {
                    let mut stream = TlsAcceptor::from(config).accept(stream).await?;
                    let haggled = haggle(&mut stream, &mut handshake, &mut input).await?;
                    Ok::<_, Failed>((stream, haggled))
                } => secured?,
                () = deadline.as_mut() => return Err(Failed::Late),
                () = shut_down(shared) => return Err(Failed::ShutDown),
            };
            match haggled {
                Haggled::Agreed(agreed) => Ok(transmit(stream, input, agreed, shared, device).await),
                Haggled::StartTls => unreachable!("a secured handshake refuses STARTTLS"),
            }
        }
    }
}

async fn haggle<S>(stream: &mut S, handshake: &mut Handshake, input: &mut Input) -> Result<Haggled, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut output = Vec::new();
    loop {
        let (used, next) = handshake.step(input.unused(), &mut output);
        input.used(used);
        if !output.is_empty() {
            stream.write_all(&output).await?;
            stream.flush().await?;
            output.clear();
        }
        match next {
            Next::Haggle => {}
            Next::Wait => {
                if std::future::poll_fn(|cx| input.poll_fill(stream, cx)).await? == 0 {
                    return Err(Failed::Closed(Closed::Aborted));
                }
            }
            Next::StartTls => return Ok(Haggled::StartTls),
            Next::Transmit(agreed) => return Ok(Haggled::Agreed(agreed)),
            Next::Close(closed) => {
                let _ = stream.shutdown().await;
                return Err(Failed::Closed(closed));
            }
        }
    }
}

async fn transmit<S>(stream: S, input: Input, agreed: Agreed, shared: &Shared, device: Rc<dyn Device>) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // A client that lost its connection sends what was not answered again on a new one. Its old requests may still be on their
    // way to the disk; nothing newer may come before they are there.
    let mut abandoned = shared.abandoned.subscribe();
    tokio::select! {
        _ = abandoned.wait_for(|count| *count == 0) => {}
        () = shut_down(shared) => return End::ShutDown,
    }
    tracing::debug!(agreed.structured, agreed.block_status, "a client is served");
    let budget = Budget::new(shared.memory.clone());
    let Config { pool, patience, .. } = &shared.config;
    let terms = Terms { geometry: shared.geometry, agreed };
    let mut connection = Connection::new(stream, input, terms, device, pool.clone(), budget, *patience);
    let mut left = None;
    let farewell = async {
        shut_down(shared).await;
        shared.config.farewell
    };
    let end = connection.serve(farewell, || left = Some(Abandoned::new(&shared.abandoned))).await;
    drop(left);
    let mut stream = connection.into_stream();
    let _ = tokio::time::timeout(CLOSE_MAX, stream.shutdown()).await;
    end
}

/// A connection whose client is gone while its requests are outstanding.
struct Abandoned(Arc<watch::Sender<usize>>);

impl Abandoned {
    fn new(count: &Arc<watch::Sender<usize>>) -> Abandoned {
        count.send_modify(|count| *count += 1);
        Abandoned(Arc::clone(count))
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

async fn shut_down(shared: &Shared) {
    // An error means that the sender is gone, and with it the server.
    let _ = shared.shutdown.clone().wait_for(|is_stopping| *is_stopping).await;
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
