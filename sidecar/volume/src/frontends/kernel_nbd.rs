//! A volume as a block device of this machine's kernel, by the kernel's own NBD client. Both ends of its sockets are made here: ours
//! is served as any connection, the other is the kernel's from the beginning. There is no handshake, as both know the volume.
//!
//! ```text
//!   file system ─▶ /dev/nbdN ─▶ kernel's client ═ 1..16 UNIX sockets ═▶ our connections ─▶ gate ─▶ request::Device
//!                                     ▲                                        │ one ended
//!                                     └──────── RECONFIGURE: a new socket ◀────┘
//! ```
//!
//! What the kernel does, and what follows for us (`drivers/block/nbd.c`, Linux 6.1 to 6.12):
//!
//! 1. A request without an answer for [`Spec::retry`] has its socket closed and is sent again by another; so is a request whose
//!    socket died, but only then. So the time is short, a standstill of the volume (fencing, a lost peer) closes sockets, and a new one
//!    is made for each that ends. What comes twice is kept in order by the [gate](crate::nbd::gate).
//! 2. Requests fail only once there has been no socket at all for [`Spec::wait`], or after a disconnect. While this process
//!    lives there are sockets; so that time is what a restart may take.
//! 3. A device whose server died waits. The next server finds it by its identifier (`/sys/block/nbdN/backend`) and gives it new
//!    sockets: to those who use it, the restart is a pause.
//! 4. A device that was disconnected never comes back: those who still have it open get errors until they close it.

use super::netlink::{Nbd, NetlinkError, Wanted};
use super::record::{Entry, Record};
use super::{memory, sysfs};
use crate::buffer::Pool;
use crate::nbd::connection::{Connection, Farewell, Input};
use crate::nbd::gate::Gate;
use crate::nbd::handshake::Agreed;
use crate::nbd::spec::can;
use crate::nbd::transmission::Terms;
use crate::nbd::{Budget, MEMORY_MAX_BYTES, Memory};
use crate::request::{Device, Geometry, Volume};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, LocalSet};

/// Of one device: more give nothing, as all of them are served by one thread.
pub const CONNECTIONS_MAX: u16 = 16;
/// What the kernel's client is offered unless somebody says otherwise: as many as processors, up to this.
const CONNECTIONS_USUAL: usize = 4;
/// [`Spec::retry`] and [`Spec::wait`] unless somebody says otherwise.
pub const RETRY: Duration = Duration::from_secs(10);
pub const WAIT: Duration = Duration::from_secs(600);
/// Before a connection that ended is made anew: one that finds no place in the kernel ends at once.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked whether the process that had the name is gone, with that pause in between: three seconds.
const TAKEN_LOOKS: usize = 30;
/// The kernel owes nothing: who is slow is this machine.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// For connections that are parted from to have closed: they need two seconds at most.
const QUIET_MAX: Duration = Duration::from_secs(3);
/// Requests and replies that a socket holds; the kernel gives less where its limits say so.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Blocks that a file system may count on: the least is a disk's sector, the most a page of every machine.
const BLOCK_BYTES: std::ops::RangeInclusive<u32> = 512..=4096;

/// What the device is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// It is found as `/dev/leasehold/NAME`.
    pub name: Name,
    pub connections: u16,
    /// After so long without an answer the kernel sends a request again, by another connection; whole seconds, at least one.
    pub retry: Duration,
    /// How long requests wait while nobody serves the device, before they fail; whole seconds.
    pub wait: Duration,
    pub succession: Succession,
}

impl Spec {
    /// With what is usual.
    #[must_use]
    pub fn new(name: Name, succession: Succession) -> Spec {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let connections = u16::try_from(processors.min(CONNECTIONS_USUAL)).expect("few");
        Spec { name, connections, retry: RETRY, wait: WAIT, succession }
    }
}

/// What becomes of a device whose server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Succession {
    /// It ends with its server, in errors; one that a server that was killed left behind is ended, not used.
    None,
    /// It waits for the next server if it is in use, or where `always`; the next server goes on with it if the data is still the
    /// same ([`Lineage`]).
    Waits { always: bool },
}

/// What a device's contents follow from. Who has it mounted holds parts of it in memory: a device may go on only with data that
/// nobody else has changed in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// What the data was when this process found it. `None`: nothing that a device could go on with.
    pub since: Option<String>,
    /// What it is from now on: the next server's `since`, if it finds it unchanged.
    pub now: String,
}

/// A device's name: 1 to 40 of a-z, A-Z, 0-9, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// # Errors
    /// What is allowed.
    pub fn new(text: &str) -> Result<Name, String> {
        let fits = (1..=40).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if fits { Ok(Name(text.to_owned())) } else { Err("use 1 to 40 of a-z, A-Z, 0-9, '-' and '_'".to_owned()) }
    }

    fn identifier(&self) -> String {
        format!("leasehold/{}", self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The name that stays: `/dev/leasehold/NAME`.
    pub name: PathBuf,
    /// The number that the kernel gave: `/dev/nbdN`.
    pub index: u32,
    pub connections: u16,
    /// An earlier server's, which goes on.
    pub is_resumed: bool,
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attached { name, index, connections, is_resumed } = self;
        let s = if *connections == 1 { "" } else { "s" };
        write!(f, "{} ({}, {connections} connection{s}", name.display(), sysfs::node(*index).display())?;
        f.write_str(if *is_resumed { ", resumed)" } else { ")" })
    }
}

/// Why there is no device, or none any more. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error(
        "this kernel has no nbd driver: install the kernel package with its modules (Ubuntu: linux-modules-extra-$(uname -r); Debian's and Amazon Linux's have it), see that `modprobe nbd` works, or serve by --socket"
    )]
    NoDriver,
    #[error("{0}; it takes root (CAP_SYS_ADMIN) and a kernel from 5.14 on")]
    Kernel(NetlinkError),
    #[error("another process of this machine serves a device named {0}: stop that one, or take another name")]
    Taken(Name),
    #[error("the device's name or record: {0}")]
    Files(#[from] io::Error),
    #[error("{} was disconnected by somebody else (nbd-client -d?): it does not come back", sysfs::node(*.0).display())]
    Disconnected(u32),
    #[error("the device's thread ended: see the log above")]
    Ended,
}

impl From<NetlinkError> for DeviceError {
    fn from(error: NetlinkError) -> DeviceError {
        match error {
            NetlinkError::NoDriver => DeviceError::NoDriver,
            error => DeviceError::Kernel(error),
        }
    }
}

/// What is behind a device.
pub struct Behind {
    pub geometry: Geometry,
    pub device: Rc<dyn Device>,
    /// Where writes' data is read into.
    pub pool: Pool,
}

impl fmt::Debug for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Behind").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}

/// How to part from a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// The server ends; the device, as [`Spec::succession`] says.
    Leave,
    /// The data may be changed by others from now on: the device ends at once, what is outstanding in errors.
    Revoke,
}

/// Serves a volume as a device until told how to part, in the calling thread's event loop: a `LocalSet` of tokio's. `attached` is
/// called once the device is there, `quiet` once nothing more is answered: who fences what is behind the device does so after it, as
/// a device that waits for its next server must not see the errors. When this returns, nothing is outstanding.
///
/// # Errors
/// [`DeviceError`]; the device is not there then, or not any more.
pub async fn serve(
    spec: &Spec,
    lineage: Lineage,
    behind: Behind,
    parting: impl Future<Output = Parting>,
    attached: impl FnOnce(&Attached),
    quiet: impl FnOnce(),
) -> Result<(), DeviceError> {
    let record = open_record(&spec.name).await?;
    let geometry = behind.geometry;
    let mut hosts = Hosts::new(behind);
    let outcome = match attach(spec, &lineage, geometry, &record, &mut hosts).await {
        Ok(found) => {
            attached(&found);
            tend(spec, &record, &found, &mut hosts, parting, quiet).await
        }
        Err(error) => {
            quiet();
            Err(error)
        }
    };
    hosts.gate.cut();
    while hosts.tasks.join_next().await.is_some() {}
    outcome
}

/// Whether this kernel can have devices at all: to be asked before anybody is promised one.
///
/// # Errors
/// [`DeviceError`]: it cannot.
pub async fn available() -> Result<(), DeviceError> {
    ask(|_| Ok(())).await
}

/// Ends what an earlier server of this name left behind, in errors for those who still use it.
///
/// # Errors
/// [`DeviceError`]; a kernel without the driver has nothing left behind.
pub async fn end_leftovers(name: &Name) -> Result<(), DeviceError> {
    let record = open_record(name).await?;
    for index in sysfs::of(&name.identifier()) {
        tracing::warn!(index, %name, "the device of an earlier server is ended: what still uses it gets errors");
        ask(move |nbd| nbd.disconnect(index)).await?;
    }
    sysfs::unname(&name.0);
    record.clear();
    Ok(())
}

/// One that was killed may be still on its way out.
async fn open_record(name: &Name) -> Result<Record, DeviceError> {
    for _ in 0..TAKEN_LOOKS {
        if let Some(record) = Record::open(&name.0)? {
            return Ok(record);
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
    Err(DeviceError::Taken(name.clone()))
}

async fn attach(
    spec: &Spec,
    lineage: &Lineage,
    geometry: Geometry,
    record: &Record,
    hosts: &mut Hosts,
) -> Result<Attached, DeviceError> {
    let block_bytes = geometry.block_bytes.clamp(*BLOCK_BYTES.start(), *BLOCK_BYTES.end());
    let size_bytes = geometry.size_bytes / u64::from(block_bytes) * u64::from(block_bytes);
    if size_bytes != geometry.size_bytes {
        tracing::warn!(size_bytes, "the device is shorter than the volume by less than a block of {block_bytes} bytes");
    }
    let identifier = spec.name.identifier();
    let left = record.read();
    let mut resumed = None;
    for index in sysfs::of(&identifier) {
        let fits = left.as_ref().filter(|entry| {
            entry.index == index
                && lineage.since.as_ref() == Some(&entry.data)
                && sysfs::size_bytes(index) == Some(size_bytes)
                && spec.succession != Succession::None
        });
        if let Some(entry) = fits {
            let sockets = hosts.pairs(entry.connections)?;
            let (identifier, timeouts) = (identifier.clone(), (spec.retry, spec.wait));
            match ask(move |nbd| nbd.reconfigure(index, &identifier, Some(timeouts), &borrowed(&sockets))).await {
                Ok(()) => {
                    resumed = Some((index, entry.connections));
                    continue;
                }
                // It was disconnected, and somebody has it open all the same.
                Err(DeviceError::Kernel(NetlinkError::Refused { error: Errno::INVAL, .. })) => {}
                Err(error) => return Err(error),
            }
        } else {
            tracing::warn!(
                index,
                name = %spec.name,
                "the device of an earlier server is of other data, or of data that others may have changed since: it is ended, and what still uses it gets errors"
            );
        }
        ask(move |nbd| nbd.disconnect(index)).await?;
    }
    let is_resumed = resumed.is_some();
    let (index, connections) = match resumed {
        Some(resumed) => resumed,
        None => {
            let sockets = hosts.pairs(spec.connections)?;
            let (retry, wait, flags) = (spec.retry, spec.wait, flags(geometry));
            let index = ask(move |nbd| {
                let wanted = Wanted {
                    size_bytes,
                    block_bytes,
                    flags,
                    timeout: retry,
                    dead_timeout: wait,
                    identifier: &identifier,
                };
                nbd.connect(&wanted, &borrowed(&sockets))
            });
            let index = index.await?;
            // Only while nobody uses it, and not on the thread that serves it: the kernel waits for what is under way, and sends
            // what waits, on the thread that asks.
            let raised = tokio::task::spawn_blocking(move || sysfs::raise_request_size(index));
            let _ = tokio::time::timeout(QUIET_MAX, raised).await;
            (index, spec.connections)
        }
    };
    // From here on a device is there, and must not be left without a name.
    let entry = Entry { index, connections, data: lineage.now.clone() };
    if let Err(error) = record.write(&entry).and_then(|()| sysfs::name(&spec.name.0, index)) {
        hosts.gate.cut();
        ask(move |nbd| nbd.disconnect(index)).await?;
        return Err(error.into());
    }
    Ok(Attached { name: sysfs::link(&spec.name.0), index, connections, is_resumed })
}

async fn tend(
    spec: &Spec,
    record: &Record,
    found: &Attached,
    hosts: &mut Hosts,
    parting: impl Future<Output = Parting>,
    quiet: impl FnOnce(),
) -> Result<(), DeviceError> {
    let index = found.index;
    tokio::pin!(parting);
    let (parting, outcome) = loop {
        tokio::select! {
            parting = &mut parting => break (parting, Ok(())),
            Some(_) = hosts.tasks.join_next() => {
                tokio::time::sleep(RECONNECT_PAUSE).await;
                let mut missing = 1;
                while hosts.tasks.try_join_next().is_some() {
                    missing += 1;
                }
                let (sockets, identifier) = (hosts.pairs(missing)?, spec.name.identifier());
                tracing::debug!(index, missing, "the kernel gets new sockets");
                match ask(move |nbd| nbd.reconfigure(index, &identifier, None, &borrowed(&sockets))).await {
                    Ok(()) => {}
                    Err(DeviceError::Kernel(NetlinkError::Refused { error: Errno::INVAL, .. })) => {
                        break (Parting::Revoke, Err(DeviceError::Disconnected(index)));
                    }
                    Err(error) => break (Parting::Revoke, Err(error)),
                }
            }
        }
    };
    let waits = match (parting, spec.succession) {
        (Parting::Leave, Succession::Waits { always }) => always || sysfs::is_in_use(index),
        (Parting::Revoke, _) | (Parting::Leave, Succession::None) => false,
    };
    if waits {
        hosts.hang_up().await;
        quiet();
        tracing::info!(
            index,
            name = %spec.name,
            "the device waits {} s for its next server; `serve` again, or unmount it and end it with `nbd-client -d`",
            spec.wait.as_secs()
        );
        return outcome;
    }
    // Nobody opens it any more; what its sockets hold is not read any more, and the kernel, which may be waiting to send, does not
    // hold up what follows; then it is over.
    sysfs::unname(&spec.name.0);
    hosts.gate.cut();
    // Somebody else's may have the number by now.
    let ended = if sysfs::of(&spec.name.identifier()).contains(&index) {
        ask(move |nbd| nbd.disconnect(index)).await
    } else {
        Ok(())
    };
    record.clear();
    quiet();
    outcome.and(ended)
}

/// Our ends of the sockets.
struct Hosts {
    terms: Terms,
    device: Rc<dyn Device>,
    pool: Pool,
    memory: Memory,
    gate: Rc<Gate>,
    parting: watch::Sender<bool>,
    /// Connections that may still answer.
    answering: Rc<watch::Sender<usize>>,
    tasks: JoinSet<()>,
}

impl Hosts {
    fn new(behind: Behind) -> Hosts {
        Hosts {
            terms: Terms { geometry: behind.geometry, agreed: Agreed::default() },
            device: behind.device,
            pool: behind.pool,
            memory: Memory::new(MEMORY_MAX_BYTES),
            gate: Rc::default(),
            parting: watch::Sender::new(false),
            answering: Rc::new(watch::Sender::new(0)),
            tasks: JoinSet::new(),
        }
    }

    /// So many new connections: the kernel's ends of them. To be closed here once the kernel has them.
    fn pairs(&mut self, count: u16) -> io::Result<Vec<OwnedFd>> {
        (0..count).map(|_| self.pair()).collect()
    }

    fn pair(&mut self) -> io::Result<OwnedFd> {
        let (ours, theirs) = StdUnixStream::pair()?;
        for end in [&ours, &theirs] {
            // Less is slower, and that is all.
            let _ = socket2::SockRef::from(end).set_send_buffer_size(SOCKET_BUFFER_BYTES);
        }
        ours.set_nonblocking(true)?;
        let pass = self.gate.enter(ours.try_clone()?.into());
        let stream = UnixStream::from_std(ours)?;
        let budget = Budget::new(self.memory.clone());
        let (terms, device, pool) = (self.terms, Rc::clone(&self.device), self.pool.clone());
        let mut connection =
            Connection::new(stream, Input::default(), terms, device, pool, budget, PATIENCE).gated(pass);
        let mut parting = self.parting.subscribe();
        let answering = Answering::new(&self.answering);
        self.tasks.spawn_local(async move {
            let farewell = async {
                let _ = parting.wait_for(|is_parting| *is_parting).await;
                Farewell::HangUp
            };
            let end = connection.serve(farewell, || drop(answering)).await;
            tracing::debug!(%end, "a connection of the kernel ended");
        });
        Ok(theirs.into())
    }

    /// Nothing new is taken; what is under way is answered if it is soon done, and never later than this returns.
    async fn hang_up(&self) {
        let mut answering = self.answering.subscribe();
        self.parting.send_replace(true);
        let _ = tokio::time::timeout(QUIET_MAX, answering.wait_for(|count| *count == 0)).await;
    }
}

/// A connection that may still answer.
struct Answering(Rc<watch::Sender<usize>>);

impl Answering {
    fn new(count: &Rc<watch::Sender<usize>>) -> Answering {
        count.send_modify(|count| *count += 1);
        Answering(Rc::clone(count))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// A device on a thread of its own, for a volume that any thread can serve.
#[derive(Debug)]
pub struct Apart {
    parting: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
    thread: JoinHandle<Result<(), DeviceError>>,
}

impl Apart {
    /// Returns once the device is there.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub async fn start(
        spec: Spec,
        lineage: Lineage,
        volume: Arc<dyn Volume>,
        pool: Pool,
    ) -> Result<(Apart, Attached), DeviceError> {
        let (parting, mut parted) = watch::channel(false);
        let (ending, ended) = watch::channel(false);
        let (tell, told) = oneshot::channel();
        let thread = std::thread::Builder::new().name("volume-device".to_owned()).spawn(move || {
            let _ending = ending;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, async {
                let behind = Behind { geometry: volume.geometry(), device: Rc::from(volume.lane()?), pool };
                let parting = async {
                    let _ = parted.wait_for(|is_parting| *is_parting).await;
                    Parting::Leave
                };
                let attached = |attached: &Attached| drop(tell.send(attached.clone()));
                serve(&spec, lineage, behind, parting, attached, || ()).await
            })
        })?;
        let apart = Apart { parting, ended, thread };
        match told.await {
            Ok(attached) => Ok((apart, attached)),
            Err(_) => Err(apart.part().await.err().unwrap_or(DeviceError::Ended)),
        }
    }

    /// Ready when it has ended by itself, which [`Apart::part`] explains.
    pub fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut ended = self.ended.clone();
        async move {
            // The sender only ever goes.
            let _ = ended.wait_for(|_| false).await;
        }
    }

    /// Parts from the device as its [`Succession`] says.
    ///
    /// # Errors
    /// Why it had ended before.
    pub async fn part(self) -> Result<(), DeviceError> {
        self.parting.send_replace(true);
        let thread = self.thread;
        tokio::task::spawn_blocking(move || thread.join().unwrap_or(Err(DeviceError::Ended)))
            .await
            .map_err(|_| DeviceError::Ended)?
    }
}

/// To be called before a process that serves devices starts its threads. See [`Spec`] and the facts in this module's text: what the
/// kernel writes to must not wait for the kernel to write.
pub fn prepare_process() {
    memory::prepare();
}

fn flags(geometry: Geometry) -> u16 {
    let flags = can::HAS_FLAGS | can::SEND_FLUSH | can::SEND_FUA | can::CAN_MULTI_CONN;
    flags | if geometry.read_only { can::READ_ONLY } else { can::SEND_TRIM | can::SEND_WRITE_ZEROES }
}

fn borrowed(sockets: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    sockets.iter().map(|socket| socket.as_fd()).collect()
}

/// The kernel may take its time, and reads of the device meanwhile: so not on the thread that serves them.
async fn ask<T: Send + 'static>(
    work: impl FnOnce(&mut Nbd) -> Result<T, NetlinkError> + Send + 'static,
) -> Result<T, DeviceError> {
    let asking = tokio::task::spawn_blocking(move || work(&mut open()?));
    Ok(asking.await.map_err(|_| DeviceError::Ended)??)
}

fn open() -> Result<Nbd, NetlinkError> {
    match Nbd::open() {
        Err(NetlinkError::NoDriver) => {
            // The kernel has tried already, where it can; this tells in the log why it could not.
            match std::process::Command::new("modprobe").arg("nbd").output() {
                Ok(done) if !done.status.success() => {
                    tracing::warn!("modprobe nbd: {}", String::from_utf8_lossy(&done.stderr).trim());
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "modprobe cannot be run"),
            }
            Nbd::open()
        }
        other => other,
    }
}
