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

use super::device::{Attached, Behind, DeviceError, Lineage, Name, Parting, QUIET_MAX, Shape, Spec, Succession};
use super::netlink::{Nbd, NetlinkError, Wanted};
use super::record::{Entry, Record};
use super::sysfs;
use crate::buffer::Pool;
use crate::nbd::connection::{Connection, Farewell, Input};
use crate::nbd::gate::Gate;
use crate::nbd::handshake::Agreed;
use crate::nbd::spec::can;
use crate::nbd::transmission::Terms;
use crate::nbd::{Budget, MEMORY_MAX_BYTES, Memory};
use crate::request::{Device, Geometry};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the kernel calls its devices, before their numbers.
const DISK: &str = "nbd";
/// Of one device: more give nothing, as all of them are served by one thread.
pub const CONNECTIONS_MAX: u16 = 16;
/// Before a connection that ended is made anew: one that finds no place in the kernel ends at once.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// The kernel owes nothing: who is slow is this machine.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// Requests and replies that a socket holds; the kernel gives less where its limits say so.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// See [`super::device::serve`].
pub(super) async fn serve(
    spec: &Spec,
    record: &Record,
    lineage: Lineage,
    behind: Behind,
    parting: impl Future<Output = Parting>,
    attached: impl FnOnce(&Attached),
    quiet: impl FnOnce(),
) -> Result<(), DeviceError> {
    let geometry = behind.geometry;
    let mut hosts = Hosts::new(behind);
    let outcome = match attach(spec, &lineage, geometry, record, &mut hosts).await {
        Ok((index, found)) => {
            attached(&found);
            tend(spec, record, index, &mut hosts, parting, quiet).await
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

/// Whether this kernel has the driver.
pub(super) async fn available() -> Result<(), DeviceError> {
    ask(|_| Ok(())).await
}

/// Ends the devices that earlier servers of this name left behind.
pub(super) async fn end(name: &Name) -> Result<(), DeviceError> {
    for index in sysfs::of(&name.identifier()) {
        tracing::warn!(index, %name, "the device of an earlier server is ended: what still uses it gets errors");
        ask(move |nbd| nbd.disconnect(index)).await?;
    }
    Ok(())
}

async fn attach(
    spec: &Spec,
    lineage: &Lineage,
    geometry: Geometry,
    record: &Record,
    hosts: &mut Hosts,
) -> Result<(u32, Attached), DeviceError> {
    let Shape { block_bytes, size_bytes } = Shape::of(geometry);
    let identifier = spec.name.identifier();
    let left = record.read();
    let mut resumed = None;
    for index in sysfs::of(&identifier) {
        let fits = left.as_ref().filter(|entry| {
            entry.index(DISK) == Some(index)
                && lineage.since.as_ref() == Some(&entry.data)
                && sysfs::size_bytes(&disk(index)) == Some(size_bytes)
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
            let raised = tokio::task::spawn_blocking(move || sysfs::raise_request_size(&disk(index)));
            let _ = tokio::time::timeout(QUIET_MAX, raised).await;
            (index, spec.connections)
        }
    };
    // From here on a device is there, and must not be left without a name.
    let entry = Entry { disk: disk(index), connections, data: lineage.now.clone() };
    if let Err(error) = record.write(&entry).and_then(|()| sysfs::name(spec.name.text(), &disk(index))) {
        hosts.gate.cut();
        ask(move |nbd| nbd.disconnect(index)).await?;
        return Err(error.into());
    }
    let name = sysfs::link(spec.name.text());
    Ok((index, Attached { name, disk: disk(index), connections: Some(connections), is_resumed }))
}

async fn tend(
    spec: &Spec,
    record: &Record,
    index: u32,
    hosts: &mut Hosts,
    parting: impl Future<Output = Parting>,
    quiet: impl FnOnce(),
) -> Result<(), DeviceError> {
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
                        break (Parting::Revoke, Err(DeviceError::Disconnected(disk(index))));
                    }
                    Err(error) => break (Parting::Revoke, Err(error)),
                }
            }
        }
    };
    let waits = match (parting, spec.succession) {
        (Parting::Leave, Succession::Waits { always }) => always || sysfs::is_in_use(&disk(index)),
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
    sysfs::unname(spec.name.text());
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

fn disk(index: u32) -> String {
    format!("{DISK}{index}")
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
