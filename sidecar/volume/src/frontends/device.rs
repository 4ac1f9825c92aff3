//! A volume as a block device of this machine's kernel, whichever [`Driver`] of the kernel's it is by: what is wanted, what is there,
//! and what becomes of it when its server ends.

use super::record::Record;
#[cfg(feature = "ublk")]
use super::ublk;
use super::{kernel_nbd, memory, netlink::NetlinkError, sysfs};
use crate::buffer::Pool;
use crate::request::{Device, Geometry, Volume};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::LocalSet;

/// What the kernel's NBD client is offered unless somebody says otherwise: as many connections as processors, up to this.
const CONNECTIONS_USUAL: usize = 4;
/// [`Spec::retry`] and [`Spec::wait`] unless somebody says otherwise.
pub const RETRY: Duration = Duration::from_secs(10);
pub const WAIT: Duration = Duration::from_secs(600);
/// How often it is looked whether the process that had the name is gone, with that pause in between: three seconds.
const TAKEN_LOOKS: usize = 30;
const TAKEN_PAUSE: Duration = Duration::from_millis(100);
/// For what is under way when a device is parted from: what takes longer is asked again by the next server.
pub(super) const QUIET_MAX: Duration = Duration::from_secs(3);
/// Blocks that a file system may count on: the least is a disk's sector, the most a page of every machine.
const BLOCK_BYTES: std::ops::RangeInclusive<u32> = 512..=4096;

/// By which driver of the kernel's a volume becomes a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// Its NBD client: every distribution's kernel has it.
    #[default]
    Nbd,
    /// Its driver for block devices in userspace: fewer copies and system calls, in newer kernels, and in a build with the feature.
    #[cfg(feature = "ublk")]
    Ublk,
}

impl Driver {
    /// # Errors
    /// What is allowed.
    pub fn new(text: &str) -> Result<Driver, String> {
        match text {
            "nbd" => Ok(Driver::Nbd),
            #[cfg(feature = "ublk")]
            "ublk" => Ok(Driver::Ublk),
            #[cfg(not(feature = "ublk"))]
            "ublk" => Err("this build has no ublk: use \"nbd\", or build it with --features ublk".to_owned()),
            _ => Err("use \"nbd\", or \"ublk\" where it is built with the feature ublk".to_owned()),
        }
    }
}

/// What the device is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// It is found as `/dev/leasehold/NAME`.
    pub name: Name,
    pub driver: Driver,
    /// Of the NBD client.
    pub connections: u16,
    /// After so long without an answer the kernel's NBD client sends a request again, by another connection; whole seconds, at least
    /// one.
    pub retry: Duration,
    /// How long requests to the NBD client wait while nobody serves the device, before they fail; whole seconds. Those to ublk wait
    /// for ever.
    pub wait: Duration,
    pub succession: Succession,
}

impl Spec {
    /// With what is usual.
    #[must_use]
    pub fn new(name: Name, succession: Succession) -> Spec {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let connections = u16::try_from(processors.min(CONNECTIONS_USUAL)).expect("few");
        Spec { name, driver: Driver::default(), connections, retry: RETRY, wait: WAIT, succession }
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

    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// What tells our devices from others', and each of ours from the others.
    pub(super) fn identifier(&self) -> String {
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
    /// What the kernel calls it: `nbd0`, `ublkb0`.
    pub disk: String,
    /// Of the NBD client; ublk has none.
    pub connections: Option<u16>,
    /// An earlier server's, which goes on.
    pub is_resumed: bool,
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attached { name, disk, connections, is_resumed } = self;
        write!(f, "{} ({}", name.display(), sysfs::node(disk).display())?;
        if let Some(connections) = connections {
            let s = if *connections == 1 { "" } else { "s" };
            write!(f, ", {connections} connection{s}")?;
        }
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
    #[cfg(feature = "ublk")]
    #[error(transparent)]
    Ublk(#[from] ublk::ControlError),
    #[error("another process of this machine serves a device named {0}: stop that one, or take another name")]
    Taken(Name),
    #[error("the device's name or record: {0}")]
    Files(#[from] io::Error),
    #[error("{} was disconnected by somebody else (nbd-client -d, ublk del?): it does not come back", sysfs::node(.0).display())]
    Disconnected(String),
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

/// A device's size in whole blocks that a kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) block_bytes: u32,
    pub(super) size_bytes: u64,
}

impl Shape {
    pub(super) fn of(geometry: Geometry) -> Shape {
        let block_bytes = geometry.block_bytes.clamp(*BLOCK_BYTES.start(), *BLOCK_BYTES.end());
        let size_bytes = geometry.size_bytes / u64::from(block_bytes) * u64::from(block_bytes);
        if size_bytes != geometry.size_bytes {
            tracing::warn!(
                size_bytes,
                "the device is shorter than the volume by less than a block of {block_bytes} bytes"
            );
        }
        Shape { block_bytes, size_bytes }
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
    match spec.driver {
        Driver::Nbd => {
            #[cfg(feature = "ublk")]
            ublk::end(&spec.name).await?;
            kernel_nbd::serve(spec, &record, lineage, behind, parting, attached, quiet).await
        }
        #[cfg(feature = "ublk")]
        Driver::Ublk => {
            kernel_nbd::end(&spec.name).await?;
            ublk::serve(spec, &record, lineage, behind, parting, attached, quiet).await
        }
    }
}

/// Whether this kernel can have devices at all: to be asked before anybody is promised one.
///
/// # Errors
/// [`DeviceError`]: it cannot.
pub async fn available(driver: Driver) -> Result<(), DeviceError> {
    match driver {
        Driver::Nbd => kernel_nbd::available().await,
        #[cfg(feature = "ublk")]
        Driver::Ublk => ublk::available().await,
    }
}

/// Ends what an earlier server of this name left behind, by whichever driver, in errors for those who still use it.
///
/// # Errors
/// [`DeviceError`]; a kernel without a driver has nothing left behind.
pub async fn end_leftovers(name: &Name) -> Result<(), DeviceError> {
    let record = open_record(name).await?;
    kernel_nbd::end(name).await?;
    #[cfg(feature = "ublk")]
    ublk::end(name).await?;
    sysfs::unname(name.text());
    record.clear();
    Ok(())
}

/// One that was killed may be still on its way out.
async fn open_record(name: &Name) -> Result<Record, DeviceError> {
    for _ in 0..TAKEN_LOOKS {
        if let Some(record) = Record::open(name.text())? {
            return Ok(record);
        }
        tokio::time::sleep(TAKEN_PAUSE).await;
    }
    Err(DeviceError::Taken(name.clone()))
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
