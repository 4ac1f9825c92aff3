//! A replica at work: its thread, its links, its front ends.

use super::area::{Area, Opened};
use super::driver::Places;
use super::lane::Lane;
use super::log::Log;
use super::progress::Progress;
use super::{Admission, Compress, Driver, clock, link};
use crate::buffer::Pool;
use crate::core::follower::Lag;
use crate::core::rate::Limits;
use crate::core::survey::Survey;
use crate::core::{Command, Event, Follow, Objection, Replica, Report, Setup};
use crate::frontends::device::{self, Attached, Behind, Lineage, Parting, Spec, Succession};
use crate::ids::{Life, VolumeNo};
use crate::nbd::listen::{ListenError, Listener, Place};
use crate::nbd::server::{self, Config};
use crate::operate::Commander;
use crate::request::{Device, Geometry, Volume as _};
use lease::ids::{Epoch, Incarnation};
use rustls::pki_types::ServerName;
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Between two attempts to reach a peer, and for one of them. A peer that is there is reached at the first.
const CONNECT_PAUSE: Duration = Duration::from_millis(200);
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Between two looks for what people are shown.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// After a device that could not be had, or was taken away.
const DEVICE_PAUSE: Duration = Duration::from_secs(2);
/// For devices that wait for their next server to have let go of this one: a little more than they take.
const DEVICE_QUIET_MAX: Duration = Duration::from_secs(5);
/// Links from peers at a time: each of a few may have an old one that is not known to be dead.
const LINKS_MAX: usize = 16;

/// What the links between replicas are protected by.
#[derive(Clone)]
pub enum Security {
    /// Nothing: on one machine, or where the network is trusted.
    Plain,
    /// TLS, with whose keys each side accepts in its configuration.
    Tls { client: Arc<rustls::ClientConfig>, server: Arc<rustls::ServerConfig>, name: ServerName<'static> },
}

/// One volume, served by NBD while this replica leads.
#[derive(Clone, Debug)]
pub struct Export {
    pub volume: VolumeNo,
    pub places: Vec<Place>,
    pub config: Config,
    /// A block device of this machine; there only while this replica leads.
    pub device: Option<DeviceExport>,
}

/// A block device, and how it stands with it.
#[derive(Clone, Debug)]
pub struct DeviceExport {
    pub spec: Spec,
    pub state: watch::Sender<DeviceState>,
}

impl DeviceExport {
    #[must_use]
    pub fn new(spec: Spec) -> Self {
        Self { spec, state: watch::Sender::new(DeviceState::Absent) }
    }
}

/// How it stands with a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// This replica does not lead, or not yet.
    Absent,
    Attached(Attached),
    /// It cannot be had, for this reason; it is tried again and again.
    Failed(String),
}

/// What a group consists of.
pub struct Parts {
    pub opened: Opened,
    /// New with each process.
    pub life: Life,
    pub write_through: bool,
    /// How this replica follows whoever leads.
    pub follow: Follow,
    /// How fast it brings others up to date, while it leads.
    pub resync: Limits,
    /// How what goes to the peers is compressed, where they can read it.
    pub compress: Compress,
    /// Where peers connect; not blocking.
    pub listener: Option<std::net::TcpListener>,
    pub security: Security,
    pub exports: Vec<Export>,
    pub admission: Arc<Admission>,
    /// Kept at the epoch that this replica leads, once it does and its devices are there: then they take requests.
    pub leads: watch::Sender<Option<Epoch>>,
    /// Kept at what people are shown, each second.
    pub survey: watch::Sender<Survey>,
}

/// What the group's owner wants.
#[derive(Debug)]
pub enum Order {
    Tell(Event),
    /// Where the other replicas are, all of them: connected to while this one leads.
    Peers(Vec<SocketAddr>),
    /// An operator's wish, and where to say what came of it: see [`Commander::command`].
    Command(Command, oneshot::Sender<Result<u64, Objection>>),
}

/// Why a group does not start.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("the volume's thread does not start: {0}")]
    Thread(#[from] io::Error),
}

/// A running group. Dropped, it ends: the device is gone, what was not answered is not, and the files are free again.
#[derive(Debug)]
pub struct Group {
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
    places: Vec<Place>,
    turns: Arc<AtomicU64>,
}

impl Group {
    /// Starts it as standby; each [`Report`] of it goes to `reports`, the first one at once.
    ///
    /// # Errors
    /// [`GroupError`]: nothing is running then.
    pub async fn start(parts: Parts, reports: mpsc::UnboundedSender<Report>) -> Result<Self, GroupError> {
        let (orders, arriving) = mpsc::unbounded_channel();
        let (started, is_started) = oneshot::channel();
        let turns = Arc::new(AtomicU64::new(0));
        let turned = Arc::clone(&turns);
        let thread = std::thread::Builder::new().name("volume-group".to_owned()).spawn(move || {
            if parts.exports.iter().any(|export| export.device.is_some()) {
                device::prepare_process();
            }
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error.into()))),
            };
            LocalSet::new().block_on(&runtime, run(parts, arriving, reports, started, turned));
        })?;
        let places =
            is_started.await.unwrap_or_else(|_| Err(io::Error::other("the volume's thread ended at once").into()))?;
        Ok(Self { orders: Some(orders), thread: Some(thread), places, turns })
    }

    /// Where clients can connect, with the ports that the system chose.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Rises with each turn of its thread, at least each [`crate::core::TICK`]: whoever watches sees whether it hangs.
    #[must_use]
    pub fn turns(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.turns)
    }

    /// For an operator.
    ///
    /// # Panics
    /// Never: the orders' sender is there until the group is dropped.
    #[must_use]
    pub fn commander(&self) -> Commander {
        Commander(self.orders.as_ref().expect("it runs").downgrade())
    }

    pub fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // A thread that is gone has told so by ending its reports.
            let _ = orders.send(order);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Started = oneshot::Sender<Result<Vec<Place>, GroupError>>;

async fn run(
    parts: Parts,
    mut orders: mpsc::UnboundedReceiver<Order>,
    reports: mpsc::UnboundedSender<Report>,
    started: Started,
    turns: Arc<AtomicU64>,
) {
    let (leads, shown) = (parts.leads.clone(), parts.survey.clone());
    let Built { driver, stop, mut servers, security, places, devices } = match build(parts, reports, turns) {
        Ok(built) => built,
        Err(error) => return drop(started.send(Err(error))),
    };
    if started.send(Ok(places)).is_err() {
        return;
    }
    let say = || {
        let now = driver.look(Replica::leads);
        devices.leads.send_if_modified(|said| std::mem::replace(said, now) != now);
        let now = now.filter(|epoch| devices.are_there(*epoch));
        leads.send_if_modified(|said| std::mem::replace(said, now) != now)
    };
    tokio::task::spawn_local(keep_shown(Rc::clone(&driver), shown));
    let mut peers = Connectors { driver: Rc::clone(&driver), security, tasks: Vec::new() };
    driver.step(Event::Tick);
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            () = devices.changed.notified() => {
                say();
                continue;
            }
        };
        match order {
            Some(Order::Tell(event)) => {
                driver.step(event);
                say();
            }
            Some(Order::Peers(addresses)) => peers.set(&addresses),
            Some(Order::Command(command, answer)) => {
                let judged = driver.look(|machine| machine.judge(&command));
                if judged.is_ok() {
                    driver.step(Event::Command(command));
                }
                // Whoever asked may have gone.
                let _ = answer.send(judged.map(|()| driver.look(Replica::verifications)));
            }
            None => break,
        }
    }
    // Who was fenced by a peer has not heard of it by an order: its devices do not wait for anybody.
    say();
    // A device that waits for its next server must see no error: it is let go of before what it asked is refused.
    devices.part().await;
    driver.step(Event::Fence);
    // Front ends first: they have answers to send.
    let _ = stop.send(true);
    while servers.join_next().await.is_some() {}
}

struct Built {
    driver: Rc<Driver>,
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
    security: Security,
    places: Vec<Place>,
    devices: Rc<Devices>,
}

/// What the group's loop and the devices' tasks tell each other.
#[derive(Default)]
struct Devices {
    /// The epoch that this replica leads.
    leads: watch::Sender<Option<Epoch>>,
    /// The group ends.
    ends: watch::Sender<bool>,
    /// For which epoch each device is there.
    there: RefCell<Vec<Option<Epoch>>>,
    /// Devices that may still answer.
    answering: watch::Sender<usize>,
    changed: Notify,
}

impl Devices {
    fn are_there(&self, epoch: Epoch) -> bool {
        self.there.borrow().iter().all(|there| *there == Some(epoch))
    }

    fn set(&self, number: usize, there: Option<Epoch>) {
        self.there.borrow_mut()[number] = there;
        self.changed.notify_one();
    }

    /// Lets go of all of them: when this returns, nothing is answered to them any more.
    async fn part(&self) {
        let mut answering = self.answering.subscribe();
        self.ends.send_replace(true);
        let _ = tokio::time::timeout(DEVICE_QUIET_MAX, answering.wait_for(|count| *count == 0)).await;
    }
}

fn build(parts: Parts, reports: mpsc::UnboundedSender<Report>, turns: Arc<AtomicU64>) -> Result<Built, GroupError> {
    let Parts {
        opened,
        life,
        write_through,
        follow,
        resync,
        compress,
        listener,
        security,
        exports,
        admission,
        leads: _,
        survey: _,
    } = parts;
    let Opened { backings, area, at, undo, store, recovery } = opened;
    let lanes = || backings.iter().map(|backing| backing.lane()).collect::<io::Result<Vec<_>>>();
    let area = Area::new(area.lane()?, at);
    let sizes = store.geometry().volumes().to_vec();
    let (incarnation, promised) = (store.superblock().incarnation.clone(), store.superblock().promised);
    let found = data(&incarnation, promised);
    let setup = Setup { life, write_through, follow, resync, keeps: undo.is_some() };
    let machine = Replica::new(setup, store, recovery.is_guess());
    let names = exports.iter().map(|export| export.config.name.clone()).collect();
    let driver =
        Driver::new(machine, Places { disks: lanes()?, area, undo }, compress, reports, admission, Log::new(names));
    tokio::task::spawn_local(Rc::clone(&driver).keep_vigil());
    tokio::task::spawn_local(Rc::clone(&driver).hear_disks());
    tokio::task::spawn_local(Rc::clone(&driver).tick(turns));
    if let Some(listener) = listener {
        let listener = TcpListener::from_std(listener)?;
        tokio::task::spawn_local(accept(Rc::clone(&driver), listener, security.clone()));
    }
    let (stop, stopped) = watch::channel(false);
    let mut servers = JoinSet::new();
    let mut places = Vec::new();
    let devices = Rc::new(Devices::default());
    for Export { volume, places: wanted, config, device: wanted_device } in exports {
        let number = volume.0 as usize;
        let listeners = wanted.iter().map(Listener::bind).collect::<Result<Vec<_>, _>>()?;
        places.extend(listeners.iter().map(Listener::place));
        let device: Rc<dyn Device> = Rc::new(Lane::new(Rc::clone(&driver), volume, backings[number].lane()?));
        let geometry = Geometry { size_bytes: sizes[number], ..backings[number].geometry() };
        if let Some(wanted) = wanted_device {
            let mut there = devices.there.borrow_mut();
            there.push(None);
            let lane: Rc<dyn Device> = Rc::new(Lane::new(Rc::clone(&driver), volume, backings[number].lane()?));
            let kept = KeptDevice {
                number: there.len() - 1,
                wanted,
                device: lane,
                geometry,
                pool: config.pool.clone(),
                incarnation: incarnation.clone(),
                found: Some(found.clone()),
                devices: Rc::clone(&devices),
            };
            servers.spawn_local(kept.keep());
        }
        let mut stopped = stopped.clone();
        servers.spawn_local(async move {
            let stop = async move {
                let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
            };
            server::serve_here(config, geometry, device, listeners, stop).await;
        });
    }
    Ok(Built { driver, stop, servers, security, places, devices })
}

/// A device that may still answer.
struct Answering(Rc<Devices>);

impl Answering {
    fn new(devices: &Rc<Devices>) -> Self {
        devices.answering.send_modify(|count| *count += 1);
        Self(Rc::clone(devices))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.send_modify(|count| *count -= 1);
    }
}

/// What a replica's data is after it has promised an epoch: while it has promised no other, nobody else has changed it.
fn data(incarnation: &Incarnation, promised: Epoch) -> String {
    format!("{incarnation} {promised}")
}

/// One device, there while this replica leads.
struct KeptDevice {
    number: usize,
    wanted: DeviceExport,
    device: Rc<dyn Device>,
    geometry: Geometry,
    pool: Pool,
    incarnation: Incarnation,
    /// What the data was as this process found it; gone once a device was there in this process.
    found: Option<String>,
    devices: Rc<Devices>,
}

impl KeptDevice {
    async fn keep(mut self) {
        if self.wanted.spec.succession == Succession::None
            && let Err(error) = device::end_leftovers(&self.wanted.spec.name).await
        {
            tracing::warn!(%error, "what an earlier process left of the device is looked for again before it is made anew");
        }
        let mut leads = self.devices.leads.subscribe();
        let mut ends = self.devices.ends.subscribe();
        loop {
            let epoch = tokio::select! {
                epoch = leads.wait_for(Option::is_some) => epoch.ok().and_then(|epoch| *epoch),
                _ = ends.wait_for(|ends| *ends) => None,
            };
            let Some(epoch) = epoch else { return };
            if let Err(error) = self.serve(epoch).await {
                let failed = DeviceState::Failed(error.to_string());
                if self.wanted.state.send_replace(failed.clone()) != failed {
                    tracing::error!(%error, "there is no device; it is tried again and again");
                }
                tokio::select! {
                    () = tokio::time::sleep(DEVICE_PAUSE) => {}
                    _ = ends.wait_for(|ends| *ends) => {}
                }
            } else {
                self.wanted.state.send_replace(DeviceState::Absent);
            }
            if *ends.borrow() {
                return;
            }
        }
    }

    /// Serves as long as this replica leads this epoch.
    async fn serve(&mut self, epoch: Epoch) -> Result<(), device::DeviceError> {
        let (mut leads, mut ends) = (self.devices.leads.subscribe(), self.devices.ends.subscribe());
        let parting = async move {
            tokio::select! {
                biased;
                _ = leads.wait_for(|now| *now != Some(epoch)) => Parting::Revoke,
                _ = ends.wait_for(|ends| *ends) => Parting::Leave,
            }
        };
        let lineage = Lineage { since: self.found.take(), now: data(&self.incarnation, epoch) };
        let (devices, number, state) = (Rc::clone(&self.devices), self.number, self.wanted.state.clone());
        let answering = Answering::new(&devices);
        let attached = |attached: &Attached| {
            devices.set(number, Some(epoch));
            state.send_replace(DeviceState::Attached(attached.clone()));
        };
        let quiet = move || drop(answering);
        let behind = Behind { geometry: self.geometry, device: Rc::clone(&self.device), pool: self.pool.clone() };
        let outcome = device::serve(&self.wanted.spec, lineage, behind, parting, attached, quiet).await;
        self.devices.set(number, None);
        outcome
    }
}

/// For ever.
async fn keep_shown(driver: Rc<Driver>, shown: watch::Sender<Survey>) {
    let mut progress = Progress::default();
    loop {
        let now = clock::now();
        let mut survey = driver.survey();
        progress.look(&mut survey, now);
        // What lacks nothing at this look is said to later: it may lack what was completed since.
        for peer in survey.peers.iter_mut().filter(|peer| peer.lag == Lag::Nothing) {
            peer.lag = Lag::Since(now);
        }
        shown.send_if_modified(|before| std::mem::replace(before, survey.clone()) != survey);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn accept(driver: Rc<Driver>, listener: TcpListener, security: Security) {
    let mut links = JoinSet::new();
    loop {
        while links.len() >= LINKS_MAX {
            links.join_next().await;
        }
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a peer's connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while links.try_join_next().is_some() {}
        let (driver, security) = (Rc::clone(&driver), security.clone());
        links.spawn_local(async move {
            if let Err(error) = welcome(driver, stream, security).await {
                tracing::debug!(%error, "a peer's connection came to nothing");
            }
        });
    }
}

async fn welcome(driver: Rc<Driver>, stream: TcpStream, security: Security) -> io::Result<()> {
    link::tune(&stream)?;
    match security {
        Security::Plain => link::run(driver, stream, false).await,
        Security::Tls { server, .. } => {
            let accepted = tokio::time::timeout(CONNECT_MAX, TlsAcceptor::from(server).accept(stream)).await;
            link::run(driver, accepted.map_err(io::Error::from)??, false).await;
        }
    }
    Ok(())
}

/// One task per peer's address.
struct Connectors {
    driver: Rc<Driver>,
    security: Security,
    tasks: Vec<(SocketAddr, tokio::task::JoinHandle<()>)>,
}

impl Connectors {
    fn set(&mut self, addresses: &[SocketAddr]) {
        self.tasks.retain(|(address, task)| {
            let stays = addresses.contains(address);
            if !stays {
                task.abort();
            }
            stays
        });
        for address in addresses {
            if !self.tasks.iter().any(|(known, _)| known == address) {
                let task = keep_connected(Rc::clone(&self.driver), *address, self.security.clone());
                self.tasks.push((*address, tokio::task::spawn_local(task)));
            }
        }
    }
}

/// Connects to a peer as long as this replica leads.
async fn keep_connected(driver: Rc<Driver>, address: SocketAddr, security: Security) {
    let mut told = false;
    loop {
        if driver.look(|machine| machine.leads().is_some()) {
            match connect(&driver, address, &security).await {
                Ok(()) => told = false,
                Err(error) if !told => {
                    tracing::info!(%address, %error, "a peer cannot be reached; it is tried again and again");
                    told = true;
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}

/// Connects, and stays until the connection ends.
async fn connect(driver: &Rc<Driver>, address: SocketAddr, security: &Security) -> io::Result<()> {
    let stream = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await.map_err(io::Error::from)??;
    link::tune(&stream)?;
    match security {
        Security::Plain => link::run(Rc::clone(driver), stream, true).await,
        Security::Tls { client, name, .. } => {
            let connecting = TlsConnector::from(Arc::clone(client)).connect(name.clone(), stream);
            let stream = tokio::time::timeout(CONNECT_MAX, connecting).await.map_err(io::Error::from)??;
            link::run(Rc::clone(driver), stream, true).await;
        }
    }
    Ok(())
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Security::Plain => "Plain",
            Security::Tls { .. } => "Tls",
        })
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("opened", &self.opened).field("life", &self.life).finish_non_exhaustive()
    }
}
