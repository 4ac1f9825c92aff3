//! This node's replicated volumes: whose data they hold, what the machine lets them do, and what they tell it.
//!
//! ```text
//!  core ──step──▶ machine ──▶ [`Volumes::follow`]: admit, lead, need, freeze, fence ──▶ the group's thread
//!    ▲                                                                                     │ reports
//!    └───────────────────────────── Told ◀─────────────────────────────────────────────────┘
//! ```

use crate::config::{VolumeConfig, VolumesConfig};
use crate::identity::{PeerKey, random_hex};
use crate::node::Node;
use crate::peers::pins::Pins;
use crate::peers::tls;
use crate::standstill::Standstill;
use crate::state_dir::{StateDir, StateError};
use bridge::{Bridge, Heard};
use lease::ids::{Epoch, Incarnation};
use lease::time::{Millis, Moment};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use volume::buffer::Pool;
use volume::core::{Event as Said, Follow, Report};
use volume::drive::area::{AreaError, Files, Opened};
use volume::drive::group::{DeviceExport, Export, Group, GroupError};
use volume::drive::{Admission, Order, Parts, Security};
use volume::frontends::device::{self, DeviceError, Spec, Succession};
use volume::ids::VolumeNo;
use volume::nbd::MEMORY_MAX_BYTES;
use volume::nbd::connection::Farewell;
use volume::nbd::listen::Place;
use volume::nbd::server;
use volume::operate::Operated;
use volume::replicate::life;

/// Which disks this state directory has known as which replica.
const FILE: &str = "volumes.json";
/// Connections to one volume: the kernel's client has four.
const CONNECTIONS_MAX: usize = 16;
/// How long a client may take for one request or reply.
const PATIENCE: Duration = Duration::from_secs(60);
/// Looks for members that have moved.
const LOOK_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum VolumesError {
    #[error(transparent)]
    Area(#[from] AreaError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error("[[volume]] device: {0}")]
    Device(#[from] DeviceError),
    #[error("[volumes].listen {address}: {error}")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("the key of the peer link: {0}")]
    Key(rustls::Error),
}

/// What names the replica: the same disks on the same instance. A snapshot is restored to another disk, a clone is started as
/// another instance; what is on them is old, and must not count as what was there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    v: u64,
    incarnation: String,
    instance: String,
    disks: Vec<String>,
}

/// Opens this node's replica, under a new name if it is not the one that this machine had.
///
/// # Errors
/// [`VolumesError`].
pub fn open(config: &VolumesConfig, instance: &str, state: &StateDir) -> Result<Opened, VolumesError> {
    let files = Files {
        backings: config.volumes.iter().map(|volume| volume.backing.clone()).collect(),
        metadata: config.metadata.clone(),
        undo: config.undo.clone(),
        buffered: false,
    };
    let mut opened = files.open(None, &Pool::default())?;
    let found = |opened: &Opened| Known {
        v: 1,
        incarnation: opened.store.superblock().incarnation.to_string(),
        instance: instance.to_owned(),
        disks: files.backings.iter().chain(&files.metadata).map(|path| disk_name(path)).collect(),
    };
    let known: Option<Known> = state.read_json(FILE)?;
    let here = found(&opened);
    if known.as_ref() != Some(&here) {
        // A blank one, too: disks are cloned with what `create` made on them, and the holder's own name would count as in sync.
        if !opened.store.superblock().generations.is_empty() {
            tracing::warn!(
                ?known,
                ?here,
                "these disks are not the ones that this machine had: they are another replica from now on, and are compared with the holder's"
            );
        }
        let name = Incarnation::new(format!("r-{}", random_hex(8))).expect("a valid name");
        opened.rename(name)?;
        state.write_json(FILE, &found(&opened))?;
    }
    Ok(opened)
}

/// EBS volumes have a serial number of their own, which no snapshot takes along; a file has its inode. Neither depends on the
/// order in which a boot finds devices: a replica that changes its name has to be compared anew.
fn disk_name(path: &Path) -> String {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let Ok(found) = std::fs::metadata(path) else { return String::new() };
    if !found.file_type().is_block_device() {
        return format!("file {}", found.ino());
    }
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let read = |place: &str| std::fs::read_to_string(device.join(place)).ok().map(|text| text.trim().to_owned());
    // A partition's disk is one folder up. Device mapper has a name of its own kind.
    let serial =
        ["device/serial", "../device/serial", "serial", "../serial", "dm/uuid", "wwid"].into_iter().find_map(read);
    let part = read("partition").unwrap_or_default();
    format!("disk {} {part}", serial.as_deref().unwrap_or("without serial"))
}

/// What is needed to start them, beside the replica itself.
#[derive(Debug)]
pub struct Start<'a> {
    pub config: &'a VolumesConfig,
    pub opened: Opened,
    pub key: &'a PeerKey,
    pub pins: Arc<Pins>,
}

/// The volumes at work, as the core has them.
#[derive(Debug)]
pub struct Volumes {
    group: Arc<Group>,
    admission: Arc<Admission>,
    leads: watch::Receiver<Option<Epoch>>,
    shown: Operated,
    bridge: Bridge,
    standstill: Standstill,
}

impl Volumes {
    /// Starts them, as standby. Their reports come by the receiver.
    ///
    /// # Errors
    /// [`VolumesError`].
    pub async fn start(start: Start<'_>) -> Result<(Self, mpsc::UnboundedReceiver<Report>), VolumesError> {
        let Start { config, opened, key, pins } = start;
        let (tell, reports) = mpsc::unbounded_channel();
        for volume in config.volumes.iter().filter(|volume| volume.device.is_some()) {
            // Not as late as when this node is to lead.
            device::available(volume.driver).await?;
        }
        let failed = |error| VolumesError::Listen { address: config.listen, error };
        let listener = std::net::TcpListener::bind(config.listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let security = Security::Tls {
            client: tls::client(key, Arc::clone(&pins), None).map_err(VolumesError::Key)?,
            server: tls::server(key, pins).map_err(VolumesError::Key)?,
            name: rustls::pki_types::ServerName::try_from("leasehold").expect("a valid name"),
        };
        let admission = Admission::closed();
        let leads = watch::Sender::new(None);
        let led = leads.subscribe();
        let survey = watch::Sender::default();
        let names = config.volumes.iter().map(|volume| volume.name.clone()).collect();
        let shown = survey.subscribe();
        let exports = (0..).zip(&config.volumes).map(|(number, volume)| export(VolumeNo(number), volume)).collect();
        let parts = Parts {
            opened,
            life: life(),
            write_through: false,
            follow: config.follow,
            resync: config.resync,
            compress: config.compress,
            listener: Some(listener),
            security,
            exports,
            admission: Arc::clone(&admission),
            leads,
            survey,
        };
        let group = Arc::new(Group::start(parts, tell).await?);
        let commander = group.commander();
        let shown = Operated { names, survey: shown, commander, verify_mib_s: config.verify_mib_s };
        let standstill = Standstill::new(group.turns());
        let volumes = Self { group, admission, leads: led, shown, bridge: Bridge::default(), standstill };
        Ok((volumes, reports))
    }

    /// The epoch in which the devices take requests.
    #[must_use]
    pub fn leads(&self) -> watch::Receiver<Option<Epoch>> {
        self.leads.clone()
    }

    /// What people are shown of them, and ask of them.
    #[must_use]
    pub fn shown(&self) -> Operated {
        self.shown.clone()
    }

    /// Keeps the volumes connected to where the members are, for ever.
    pub fn connect(&self, pins: Arc<Pins>, port: u16) -> impl Future<Output = ()> + Send + use<> {
        let group = Arc::clone(&self.group);
        async move {
            let mut known = Vec::new();
            loop {
                let addresses: Vec<SocketAddr> =
                    pins.all().into_values().map(|pin| SocketAddr::new(pin.address.ip(), port)).collect();
                if addresses != known {
                    group.order(Order::Peers(addresses.clone()));
                    known = addresses;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// A report has come: what the machine is to hear of it.
    #[must_use]
    pub fn heard(&mut self, report: Report) -> Heard {
        let before = self.bridge.report();
        for peer in report.diverged.difference(&before.diverged) {
            tracing::error!(
                %peer,
                "this replica and that one both hold writes that the other never had: both are kept as they are; decide which one counts, and on the other one run `leasehold volume discard` while its daemon is stopped"
            );
        }
        if report.failed && !before.failed {
            tracing::error!(
                "the disk under the volumes failed or stands still: this replica takes no part; if the disk answers again it goes on by itself, after an error replace or mend the disk and restart the daemon"
            );
        } else if !report.failed && before.failed {
            tracing::info!("the disk under the volumes answers again: this replica is a standby");
        }
        if report.stranger && !before.stranger {
            tracing::error!(
                "the volumes' data is another cluster's: it takes no part here; create the replica anew, or correct the configuration"
            );
        }
        self.bridge.heard(report)
    }

    /// To be asked each tick: whether their thread hangs. Nothing more is to be had of it then, not even its end.
    pub fn hang(&mut self) -> bool {
        self.standstill.is_one()
    }

    /// What the replica tells its peers by the heartbeat.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        self.bridge.report().consistent
    }

    /// Whether it follows asynchronously when it does not lead: the configuration's word.
    #[must_use]
    pub fn is_asynchronous(&self) -> bool {
        self.shown.survey.borrow().follow == Follow::Async
    }

    /// For who follows asynchronously and knows it: how far it is behind. `None`: it follows synchronously, or does not know.
    #[must_use]
    pub fn lag(&self, now: Moment) -> Option<Millis> {
        let survey = self.shown.survey.borrow();
        let follows = survey.follow == Follow::Async && survey.leads.is_none();
        survey.lag.at(now).filter(|_| follows)
    }

    pub fn promise(&self, epoch: Epoch) {
        self.tell(Said::Promise { epoch });
    }

    /// Lets the volumes do what the machine may do now. After each step, before what follows from it.
    pub fn follow(&mut self, node: &Node) {
        let orders = self.bridge.follow(node);
        self.admission.set(orders.admit);
        for event in orders.tell {
            self.tell(event);
        }
    }

    fn tell(&self, event: Said) {
        self.group.order(Order::Tell(event));
    }
}

fn export(volume: VolumeNo, config: &VolumeConfig) -> Export {
    let nbd = server::Config {
        name: config.name.clone(),
        description: format!("leasehold volume {}", config.name),
        tls: None,
        pool: Pool::default(),
        threads: 1,
        connections_max: CONNECTIONS_MAX,
        memory_bytes: MEMORY_MAX_BYTES,
        farewell: Farewell::HangUp,
        patience: PATIENCE,
    };
    // A device never outlives the daemon that served it: the workload, which has parts of it in memory, is stopped with the
    // daemon, and until this node leads again another one may have.
    let device = config
        .device
        .clone()
        .map(|name| DeviceExport::new(Spec { driver: config.driver, ..Spec::new(name, Succession::None) }));
    let places = config.socket.clone().map(Place::Unix).into_iter().collect();
    Export { volume, places, config: nbd, device }
}

#[cfg(test)]
mod tests {
    use super::open;
    use crate::config::{VolumeConfig, VolumesConfig};
    use crate::state_dir::StateDir;
    use crate::state_dir::tests::Scratch;
    use std::path::Path;
    use volume::drive::area::{Files, Shape};
    use volume::frontends::device::Driver;

    fn config(folder: &Path) -> VolumesConfig {
        let (backing, socket) = (folder.join("disk"), folder.join("socket"));
        VolumesConfig {
            listen: "127.0.0.1:0".parse().expect("an address"),
            metadata: Some(folder.join("metadata")),
            undo: None,
            verify_mib_s: volume::operate::VERIFY_MIB_S,
            follow: volume::core::Follow::Sync,
            resync: volume::core::rate::Limits::default(),
            compress: volume::drive::Compress::Off,
            volumes: vec![VolumeConfig {
                name: "data".into(),
                backing,
                socket: Some(socket),
                device: None,
                driver: Driver::Nbd,
            }],
        }
    }

    fn name(config: &VolumesConfig, instance: &str, state: &Path) -> String {
        let state = StateDir::open(state).expect("open");
        open(config, instance, &state).expect("a replica").store.superblock().incarnation.to_string()
    }

    #[test]
    fn disks_keep_their_name_and_a_copy_never_has_it() {
        let (here, there) = (Scratch::new(), Scratch::new());
        let config_here = config(here.path());
        std::fs::write(&config_here.volumes[0].backing, vec![0; 1 << 20]).expect("a disk");
        let files = Files {
            backings: vec![config_here.volumes[0].backing.clone()],
            metadata: config_here.metadata.clone(),
            undo: None,
            buffered: false,
        };
        let lineage = lease::ids::Lineage::new("web").expect("a name");
        let made = lease::ids::Incarnation::new("made").expect("a name");
        files.create(lineage, made, &Shape::default()).expect("created");
        // A clone of the blank disks, as an image of a machine makes it.
        let config_there = config(there.path());
        for file in ["disk", "metadata"] {
            std::fs::copy(here.path().join(file), there.path().join(file)).expect("copied");
        }
        let state = |scratch: &Scratch| scratch.path().join("state");
        for scratch in [&here, &there] {
            std::fs::create_dir(state(scratch)).expect("a folder");
        }
        let first = name(&config_here, "i-0a", &state(&here));
        assert_eq!(name(&config_here, "i-0a", &state(&here)), first, "a restart changes nothing");
        assert_ne!(name(&config_there, "i-0b", &state(&there)), first);
        // The disks and the state directory of an image, started as another instance.
        assert_ne!(name(&config_here, "i-0c", &state(&here)), first);
        // Restored from a copy: another file, with what the name stood for some time ago.
        let kept = name(&config_here, "i-0c", &state(&here));
        std::fs::copy(here.path().join("disk"), here.path().join("restored")).expect("copied");
        std::fs::rename(here.path().join("restored"), here.path().join("disk")).expect("put back");
        assert_ne!(name(&config_here, "i-0c", &state(&here)), kept);
    }
}
