//! A volume as a block device by the kernel's driver for block devices in userspace, ublk.
//!
//! ```text
//!   file system ─▶ /dev/ublkbN ─▶ ublk_drv ═ io_uring on /dev/ublkcN ═▶ queue ─▶ request::Device
//! ```
//!
//! Its protocol is spoken here over the same crate `io-uring` as the disks' engine. The crate `libublk` 0.4 has it too, but brings an
//! executor of its own, which cannot share a thread with the volume's event loop, and a generator of bindings that needs libclang at
//! each build.
//!
//! What the kernel does, and what follows for us (`drivers/block/ublk_drv.c`, Linux 6.9 to 6.15):
//!
//! 1. A request waits for its answer for ever: a standstill of the volume is a pause, and nothing is ever sent twice to one process.
//! 2. A device with recovery outlives its server, however that ended. Requests wait for the next server, for ever; those that the
//!    old one had not answered are handed over again. What the old one had begun on the disk has ended before: the next server holds
//!    the backing's lock, and the kernel gives it only when nothing is under way by the dead one's open file.
//! 3. The kernel knows the old server as gone when its thread has ended and `/dev/ublkcN` is closed. So who leaves a device to its
//!    successor stops answering, and keeps the queue to its process's end ([`queue::Server::abandon`]).
//! 4. A server that is killed between the beginning of a recovery and its end, some milliseconds, leaves a device that the kernel lets
//!    nobody recover: the next server ends it, and who has it mounted gets errors.
//! 5. To stop a device the kernel waits for what is under way, so its queue is served, with errors, meanwhile.
//!
//! The process must not hold the last reference to a mount namespace in which its own device is mounted: its end would wait for an
//! unmount that waits for it.

mod abi;
mod control;
mod queue;

pub use control::ControlError;

use super::device::{Attached, Behind, DeviceError, Lineage, Name, Parting, QUIET_MAX, Shape, Spec, Succession};
use super::record::{Entry, Record};
use super::sysfs;
use abi::Info;
use control::Control;
use queue::Server;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// What the kernel calls its devices, before their numbers.
const DISK: &str = "ublkb";
/// For an old server to be gone, in looks with that pause in between: ten seconds.
const GONE_LOOKS: usize = 100;
const GONE_PAUSE: Duration = Duration::from_millis(100);
/// For requests that the kernel takes back as a device ends.
const OVER_MAX: Duration = Duration::from_secs(1);

/// A device that is there.
struct Running {
    number: u32,
    server: Rc<Server>,
    work: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.work.abort();
    }
}

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
    let (running, is_resumed) = attach(spec, &lineage, behind, record).await?;
    let disk = disk(running.number);
    // From here on a device is there, and must not be left without a name.
    let entry = Entry { disk: disk.clone(), connections: 0, data: lineage.now };
    if let Err(error) = record.write(&entry).and_then(|()| sysfs::name(spec.name.text(), &disk)) {
        stop(&running).await?;
        return Err(error.into());
    }
    attached(&Attached { name: sysfs::link(spec.name.text()), disk: disk.clone(), connections: None, is_resumed });
    let (parting, outcome) = tokio::select! {
        parting = parting => (parting, Ok(())),
        () = running.server.is_over() => (Parting::Revoke, Err(DeviceError::Disconnected(disk.clone()))),
    };
    let waits = match (parting, spec.succession) {
        (Parting::Leave, Succession::Waits { always }) => always || sysfs::is_in_use(&disk),
        (Parting::Revoke, _) | (Parting::Leave, Succession::None) => false,
    };
    if waits {
        running.server.leave();
        let _ = tokio::time::timeout(QUIET_MAX, running.server.is_quiet()).await;
        running.server.abandon();
        quiet();
        tracing::info!(disk, name = %spec.name, "the device waits for its next server: `serve` again; to end it, unmount it then, and stop that server");
        running.server.is_quiet().await;
        return outcome;
    }
    sysfs::unname(spec.name.text());
    // The data may be another's from now on: what is answered is answered with errors.
    running.server.refuse();
    quiet();
    let ended = stop(&running).await;
    record.clear();
    running.server.is_quiet().await;
    outcome.and(ended)
}

/// Whether this kernel has the driver, and lets this process use it.
pub(super) async fn available() -> Result<(), DeviceError> {
    ask(|_| Ok(())).await
}

/// Ends the devices that earlier servers of this name left behind.
pub(super) async fn end(name: &Name) -> Result<(), DeviceError> {
    for found in of(name).await? {
        delete(&found, name).await?;
    }
    Ok(())
}

/// The devices of this name, started or not.
async fn of(name: &Name) -> Result<Vec<Info>, DeviceError> {
    let Ok(devices) = fs::read_dir("/sys/class/ublk-char") else { return Ok(Vec::new()) };
    let number =
        |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.strip_prefix("ublkc")?.parse().ok();
    let mut numbers: Vec<u32> = devices.filter_map(number).collect();
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    numbers.sort_unstable();
    let identity = identity(name);
    ask(move |control| {
        let mut found = Vec::new();
        for number in numbers {
            match control.info(number) {
                Ok(info) if info.identity == identity => found.push(info),
                // Another's, or gone meanwhile.
                Ok(_) | Err(ControlError::Refused { error: Errno::NODEV, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    })
    .await
}

async fn delete(found: &Info, name: &Name) -> Result<(), DeviceError> {
    let number = found.number;
    if matches!(found.state, abi::LIVE | abi::QUIESCED) {
        tracing::warn!(number, %name, "the device of an earlier server is ended: what still uses it gets errors");
    }
    ask(move |control| {
        control.stop(number)?;
        control.delete(number)
    })
    .await
}

async fn attach(
    spec: &Spec,
    lineage: &Lineage,
    behind: Behind,
    record: &Record,
) -> Result<(Running, bool), DeviceError> {
    let shape = Shape::of(behind.geometry);
    let wanted = Info::wanted(identity(&spec.name), spec.succession != Succession::None);
    let left = record.read();
    let mut resumed = None;
    for found in of(&spec.name).await? {
        let number = found.number;
        let fits = left.as_ref().is_some_and(|entry| {
            entry.index(DISK) == Some(number)
                && lineage.since.as_ref() == Some(&entry.data)
                && sysfs::size_bytes(&disk(number)) == Some(shape.size_bytes)
                && spec.succession != Succession::None
                && found.fits(&wanted)
        });
        if fits && begin_recovery(number).await? {
            resumed = Some(number);
            continue;
        }
        delete(&found, &spec.name).await?;
    }
    if let Some(number) = resumed {
        let running = host(number, behind)?;
        ask(move |control| control.end_recovery(number)).await?;
        return Ok((running, true));
    }
    let params = abi::params(shape.size_bytes, shape.block_bytes, behind.geometry.read_only);
    let number = ask(move |control| {
        let added = control.add(&wanted)?.number;
        control.set_params(added, params).inspect_err(|_| drop(control.delete(added)))?;
        Ok(added)
    });
    let number = number.await?;
    let started = match host(number, behind) {
        // The kernel reads from it before it says that it has started.
        Ok(running) => ask(move |control| control.start(number)).await.map(|()| running),
        Err(error) => Err(error.into()),
    };
    match started {
        Ok(running) => Ok((running, false)),
        Err(error) => {
            ask(move |control| control.delete(number)).await?;
            Err(error)
        }
    }
}

/// `false`: it cannot be recovered.
async fn begin_recovery(number: u32) -> Result<bool, DeviceError> {
    for _ in 0..GONE_LOOKS {
        match ask(move |control| control.start_recovery(number)).await {
            Ok(()) => return Ok(true),
            // Its server is on its way out.
            Err(DeviceError::Ublk(ControlError::Refused { error: Errno::BUSY, .. })) => {}
            Err(DeviceError::Ublk(ControlError::Refused { .. })) => return Ok(false),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(GONE_PAUSE).await;
    }
    Ok(false)
}

/// Serves the device's queue in this thread's event loop from now on.
fn host(number: u32, behind: Behind) -> io::Result<Running> {
    let file = File::options().read(true).write(true).open(format!("/dev/ublkc{number}"))?;
    let (server, readiness) = Server::new(file, behind.device, behind.pool)?;
    let work = tokio::task::spawn_local({
        let server = Rc::clone(&server);
        async move { server.work(readiness).await }
    });
    Ok(Running { number, server, work })
}

/// Ends the device: what still uses it gets errors.
async fn stop(running: &Running) -> Result<(), DeviceError> {
    running.server.refuse();
    let number = running.number;
    let gone = |outcome: Result<(), DeviceError>| match outcome {
        // Somebody else has ended it.
        Err(DeviceError::Ublk(ControlError::Refused { error: Errno::NODEV, .. })) => Ok(()),
        other => other,
    };
    gone(ask(move |control| control.stop(number)).await)?;
    let _ = tokio::time::timeout(OVER_MAX, running.server.is_over()).await;
    gone(ask(move |control| control.delete(number)).await)
}

fn disk(number: u32) -> String {
    format!("{DISK}{number}")
}

/// What the kernel keeps for a device's server, and gives its successor: which device of ours it is.
fn identity(name: &Name) -> u64 {
    let hash = Sha256::digest(name.identifier());
    u64::from_ne_bytes(hash[..8].try_into().expect("eight bytes"))
}

/// The kernel may take its time, and reads of the device meanwhile: so not on the thread that serves it.
async fn ask<T: Send + 'static>(
    work: impl FnOnce(&mut Control) -> Result<T, ControlError> + Send + 'static,
) -> Result<T, DeviceError> {
    let asking = tokio::task::spawn_blocking(move || work(&mut open()?));
    Ok(asking.await.map_err(|_| DeviceError::Ended)??)
}

fn open() -> Result<Control, ControlError> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    control::judge(release.trim())?;
    match Control::open() {
        Err(ControlError::NoDriver) => {
            // This tells in the log why it could not be had.
            match std::process::Command::new("modprobe").arg("ublk_drv").output() {
                Ok(done) if !done.status.success() => {
                    tracing::warn!("modprobe ublk_drv: {}", String::from_utf8_lossy(&done.stderr).trim());
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "modprobe cannot be run"),
            }
            Control::open()
        }
        other => other,
    }
}
