//! `leasehold volume serve`: one backing, served by NBD; alone, or replicated by hand between two of these (see
//! [`crate::replicate`]).

use crate::backing::disk::Options;
use crate::backing::{Backing, Engine, StartError};
use crate::buffer::Pool;
use crate::core::Follow;
use crate::drive::group::{DeviceExport, Export};
use crate::drive::undo::{self, UNDO_MIB, UNDO_MIB_MOST};
use crate::drive::{Compress, area};
use crate::frontends::device::{self, Apart, DeviceError, Driver, Lineage, Name, Spec, Succession};
use crate::frontends::kernel_nbd;
use crate::ids::VolumeNo;
use crate::nbd::MEMORY_MAX_BYTES;
use crate::nbd::connection::Farewell;
use crate::nbd::listen::{ListenError, Listener, Place};
use crate::nbd::server::{self, Config};
use crate::nbd::tls::{self, TlsError};
use crate::operate::{VERIFY_MIB_S, VERIFY_MIB_S_LEAST, VERIFY_MIB_S_MOST, resync_limits};
use crate::replicate::{self, Admin, Manner, Role};
use crate::request::Volume;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Event loops, at most: the kernel's client opens four connections.
const THREADS_MAX: usize = 4;

/// Serve a file or block device by NBD, until SIGTERM or SIGINT
#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("place").required(true).multiple(true))]
#[command(group = clap::ArgGroup::new("replication").multiple(true))]
pub struct Args {
    /// The file or block device that holds the data
    #[arg(long, value_name = "FILE")]
    pub backing: PathBuf,
    /// Listen on a UNIX socket, which only this user (and root) can open
    #[arg(long, value_name = "PATH", group = "place")]
    pub socket: Option<PathBuf>,
    /// Listen on TCP; beyond this machine, with TLS
    #[arg(long, value_name = "HOST:PORT", group = "place")]
    pub listen_nbd: Option<String>,
    /// Be a block device of this machine, /dev/leasehold/NAME; after a restart, even by kill -9, the same device goes on. On
    /// SIGTERM it ends, unless it is in use (mounted): then it waits for the next server
    #[arg(long, value_name = "NAME", group = "place", conflicts_with = "listen", value_parser = Name::new)]
    pub device: Option<Name>,
    /// By which driver of the kernel's: nbd, its NBD client, or, in a build with the feature, ublk
    #[arg(long, value_name = "DRIVER", requires = "device", default_value = "nbd", value_parser = Driver::new)]
    pub device_driver: Driver,
    /// Connections between the kernel's NBD client and this server; by default as many as processors, up to 4
    #[arg(long, value_name = "COUNT", requires = "device", value_parser = clap::value_parser!(u16).range(1..=i64::from(kernel_nbd::CONNECTIONS_MAX)))]
    pub device_connections: Option<u16>,
    /// When the kernel's NBD client sends a request anew that was not answered: what was under way as a server died is late by so much
    #[arg(long, value_name = "SECONDS", requires = "device", default_value_t = device::RETRY.as_secs(), value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub device_retry: u64,
    /// How long the device's users wait while nobody serves it, before they get errors; with ublk, for ever
    #[arg(long, value_name = "SECONDS", requires = "device", default_value_t = device::WAIT.as_secs(), value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub device_wait: u64,
    /// On SIGTERM, let the device wait for the next server even where nobody seems to use it
    #[arg(long, requires = "device")]
    pub keep_device: bool,
    /// The server's certificate (PEM); with it, clients must use TLS, on the UNIX socket too
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Clients must show a certificate of this authority (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_ca: Option<PathBuf>,
    /// Serve without TLS to other machines: anybody who reaches the port can read and write everything
    #[arg(long, conflicts_with = "tls_cert")]
    pub insecure: bool,
    /// Refuse everything that changes data
    #[arg(long, conflicts_with = "replication")]
    pub read_only: bool,
    /// How to read and write; without it, io_uring where the kernel allows it
    #[arg(long)]
    pub engine: Option<Engine>,
    /// Go through the page cache, where the file system has no O_DIRECT
    #[arg(long)]
    pub buffered: bool,
    /// The export's name; clients that name none are served too
    #[arg(long, value_name = "NAME", default_value = "")]
    pub export: String,
    /// Connections at a time
    #[arg(long, value_name = "COUNT", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// How long a client may take to send one request of up to 32 MiB, or to take one reply; who is idle is left alone
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub patience: u64,
    /// Keep the replica that listens there equal: it has every write before that is answered. May be given again
    #[arg(long, value_name = "HOST:PORT", group = "replication", conflicts_with = "listen")]
    pub peer: Vec<String>,
    /// Be the replica that another keeps equal, and serve nobody
    #[arg(long, value_name = "HOST:PORT", groups = ["replication", "place"])]
    pub listen: Option<String>,
    /// With --listen: have each write before it is answered; what is usual
    #[arg(long = "sync", requires = "listen", conflicts_with = "asynchronous")]
    pub synchronous: bool,
    /// With --listen: follow in order, soon after; nothing waits for this replica, and what it lacks of the leader is shown
    #[arg(long = "async", requires = "listen")]
    pub asynchronous: bool,
    /// The file of the replica's metadata, if it is not at the backing's own end
    #[arg(long, value_name = "FILE", requires = "replication")]
    pub metadata: Option<PathBuf>,
    /// Keep there what a resync overwrites, so that the image of before can be had again (leasehold volume rollback)
    #[arg(long, value_name = "FILE", requires = "replication")]
    pub undo: Option<PathBuf>,
    /// How much of it, in MiB; a resync that overwrites more goes on without
    #[arg(long, value_name = "MIB", requires = "undo", default_value_t = UNDO_MIB, value_parser = clap::value_parser!(u64).range(1..=UNDO_MIB_MOST))]
    pub undo_limit: u64,
    /// Be asked there by leasehold volume status, verify, resync and forget-peer: a UNIX socket, for this user (and root) only
    #[arg(long, value_name = "PATH", requires = "replication")]
    pub admin: Option<PathBuf>,
    /// How fast a verification reads, in MiB a second, on each side
    #[arg(long, value_name = "MIB", requires = "admin", default_value_t = VERIFY_MIB_S, value_parser = clap::value_parser!(u64).range(VERIFY_MIB_S_LEAST..=VERIFY_MIB_S_MOST))]
    pub verify_rate: u64,
    /// How fast another is brought up to date at least, in MiB a second, whatever that does to the clients' writes
    #[arg(long, value_name = "MIB", requires = "peer", value_parser = clap::value_parser!(u64).range(1..=VERIFY_MIB_S_MOST))]
    pub resync_floor: Option<u64>,
    /// And at most, even where nobody writes; without it, as fast as it goes
    #[arg(long, value_name = "MIB", requires = "peer", value_parser = clap::value_parser!(u64).range(1..=VERIFY_MIB_S_MOST))]
    pub resync_ceiling: Option<u64>,
    /// Compress data on their way to other replicas, where they shrink and the other side can read it: "lz4" or "off"
    #[arg(long, value_name = "HOW", requires = "replication", value_parser = Compress::new)]
    pub compress: Option<Compress>,
    /// Offer clients no volatile cache: each write is durable everywhere before it is answered
    #[arg(long, requires = "peer")]
    pub write_through: bool,
    /// How to part from clients on SIGTERM
    #[arg(long, value_enum, default_value_t = Farewell::Refuse)]
    pub farewell: Farewell,
}

/// Why a volume is not served. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{option} {given}: {why}; give an address and a port, as in 127.0.0.1:10809")]
    Address { option: &'static str, given: String, why: String },
    #[error(
        "--listen-nbd {address} can be reached by other machines: give --tls-cert and --tls-key, or say --insecure"
    )]
    Insecure { address: SocketAddr },
    #[error(
        "{option} {address} is another machine's, or can be reached by others, and replication by hand has no TLS: keep to 127.0.0.1 (through a tunnel, if need be), or say --insecure"
    )]
    Replication { option: &'static str, address: SocketAddr },
    #[error(
        "{path} is a replica: give --peer or --listen; what is written past its replication makes it differ and nobody notices"
    )]
    IsReplica { path: PathBuf },
    #[error(transparent)]
    Replicate(#[from] crate::replicate::ReplicateError),
    #[error("--resync-ceiling: {0}")]
    ResyncCeiling(String),
    #[error("--export: a name has at most 4096 bytes and no NUL")]
    Name,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Backing(#[from] StartError),
    #[error("--device: {0}")]
    Device(#[from] DeviceError),
    #[error("the server failed: {0}")]
    Server(#[from] io::Error),
}

/// Serves until SIGTERM or SIGINT. Prints one line for each place once clients can connect there. When this returns, every
/// request that was accepted has been answered or its client is gone.
///
/// # Errors
/// Where something asked for cannot be had; nothing has been served then.
pub async fn run(args: Args) -> Result<(), ServeError> {
    if args.export.len() > 4096 || args.export.contains('\0') {
        return Err(ServeError::Name);
    }
    if args.device.is_some() {
        // Before there are threads: they have it from this one.
        device::prepare_process();
    }
    let mut places: Vec<Place> = args.socket.clone().map(Place::Unix).into_iter().collect();
    if let Some(given) = &args.listen_nbd {
        let address = resolve("--listen-nbd", given)?;
        if args.tls_cert.is_none() && !args.insecure && !address.ip().is_loopback() {
            return Err(ServeError::Insecure { address });
        }
        places.push(Place::Tcp(address));
    }
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (certificate.clone(), key.clone());
            Some(tls::load(&tls::Files { certificate, key, client_authority: args.tls_ca.clone() })?)
        }
        _ => None,
    };
    let pool = Pool::default();
    let config = Config {
        name: args.export.clone(),
        description: format!("leasehold volume {}", args.backing.display()),
        tls,
        pool: pool.clone(),
        threads: std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX),
        connections_max: usize::from(args.connections),
        memory_bytes: MEMORY_MAX_BYTES,
        farewell: args.farewell,
        patience: Duration::from_secs(args.patience),
    };
    // Before clients can connect: what comes from now on is not missed.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    if args.listen.is_some() || !args.peer.is_empty() {
        return replicated(&args, config, places, stop).await;
    }
    let options = Options { path: args.backing.clone(), read_only: args.read_only, buffered: args.buffered };
    let backing = Backing::open(&options, args.engine, pool)?;
    if area::has_locator(&backing) {
        return Err(ServeError::IsReplica { path: args.backing });
    }
    let listeners = places.iter().map(Listener::bind).collect::<Result<Vec<_>, _>>()?;
    let geometry = backing.geometry();
    for listener in &listeners {
        println!(
            "serving {} ({} bytes, {}) at {}",
            args.backing.display(),
            geometry.size_bytes,
            match backing.engine() {
                Engine::Uring => "io_uring",
                Engine::Threads => "threads",
            },
            listener.place(),
        );
    }
    let pool = config.pool.clone();
    let backing = Arc::new(backing);
    let Some(spec) = device(&args) else {
        server::serve(config, backing, listeners, stop).await?;
        return Ok(());
    };
    // Nobody tells apart who has written to it: what the device has was in this file, and a file that has grown or was replaced
    // by another of the same size is the operator's own doing.
    let data = format!("file {}", std::fs::canonicalize(&args.backing)?.display());
    let lineage = Lineage { since: Some(data.clone()), now: data };
    let (apart, attached) = Apart::start(spec, lineage, Arc::clone(&backing) as Arc<dyn Volume>, pool).await?;
    println!("serving {} ({} bytes) at {attached}", args.backing.display(), geometry.size_bytes);
    let ended = apart.ended();
    let stop = async {
        tokio::select! {
            () = stop => {}
            () = ended => {}
        }
    };
    server::serve(config, backing, listeners, stop).await?;
    Ok(apart.part().await?)
}

fn device(args: &Args) -> Option<Spec> {
    let mut spec = Spec::new(args.device.clone()?, Succession::Waits { always: args.keep_device });
    spec.driver = args.device_driver;
    spec.connections = args.device_connections.unwrap_or(spec.connections);
    spec.retry = Duration::from_secs(args.device_retry);
    spec.wait = Duration::from_secs(args.device_wait);
    Some(spec)
}

async fn replicated(
    args: &Args,
    config: Config,
    places: Vec<Place>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let trusted = |option, given: &String| {
        let address = resolve(option, given)?;
        if !args.insecure && !address.ip().is_loopback() {
            return Err(ServeError::Replication { option, address });
        }
        Ok(address)
    };
    let peers = args.peer.iter().map(|given| trusted("--peer", given)).collect::<Result<Vec<_>, _>>()?;
    let listen = args.listen.as_ref().map(|given| trusted("--listen", given)).transpose()?;
    let undo = args.undo.clone().map(|path| undo::Place { path, limit: args.undo_limit << 20 });
    let files = area::Files {
        backings: vec![args.backing.clone()],
        metadata: args.metadata.clone(),
        undo,
        buffered: args.buffered,
    };
    let role = match listen {
        Some(address) => {
            Role::Standby { address, follow: if args.asynchronous { Follow::Async } else { Follow::Sync } }
        }
        None => {
            let device = device(args).map(DeviceExport::new);
            Role::Leader { peers, export: Box::new(Export { volume: VolumeNo(0), places, config, device }) }
        }
    };
    let admin = args.admin.clone().map(|socket| Admin { socket, verify_mib_s: args.verify_rate });
    let resync = resync_limits(args.resync_floor, args.resync_ceiling).map_err(ServeError::ResyncCeiling)?;
    let manner = Manner {
        engine: args.engine,
        write_through: args.write_through,
        resync,
        compress: args.compress.unwrap_or_default(),
    };
    replicate::run(&files, manner, role, admin, stop).await?;
    Ok(())
}

fn resolve(option: &'static str, given: &str) -> Result<SocketAddr, ServeError> {
    let bad = |why: String| ServeError::Address { option, given: given.to_owned(), why };
    let mut found = given.to_socket_addrs().map_err(|error| bad(error.to_string()))?;
    found.next().ok_or_else(|| bad("no address has this name".to_owned()))
}
