//! A replica at work: its thread, its links, its front ends.

use super::area::{Area, Opened};
use super::lane::Lane;
use super::progress::Progress;
use super::{Admission, Driver, clock, link};
use crate::core::survey::Survey;
use crate::core::{Event, Replica, Report, Setup};
use crate::ids::{Life, VolumeNo};
use crate::nbd::listen::{ListenError, Listener, Place};
use crate::nbd::server::{self, Config};
use crate::request::{Device, Geometry, Volume as _};
use lease::ids::Epoch;
use rustls::pki_types::ServerName;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Between two attempts to reach a peer, and for one of them. A peer that is there is reached at the first.
const CONNECT_PAUSE: Duration = Duration::from_millis(200);
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Between two looks for what people are shown.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
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
}

/// What a group consists of.
pub struct Parts {
    pub opened: Opened,
    /// New with each process.
    pub life: Life,
    pub write_through: bool,
    /// Where peers connect; not blocking.
    pub listener: Option<std::net::TcpListener>,
    pub security: Security,
    pub exports: Vec<Export>,
    pub admission: Arc<Admission>,
    /// Kept at the epoch that this replica leads, once it does: then its device takes requests.
    pub leads: watch::Sender<Option<Epoch>>,
    /// Kept at what people are shown, each second.
    pub survey: watch::Sender<Survey>,
}

/// What the group's owner wants.
#[derive(Clone, Debug)]
pub enum Order {
    Tell(Event),
    /// Where the other replicas are, all of them: connected to while this one leads.
    Peers(Vec<SocketAddr>),
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
}

impl Group {
    /// Starts it as standby; each [`Report`] of it goes to `reports`, the first one at once.
    ///
    /// # Errors
    /// [`GroupError`]: nothing is running then.
    pub async fn start(parts: Parts, reports: mpsc::UnboundedSender<Report>) -> Result<Self, GroupError> {
        let (orders, arriving) = mpsc::unbounded_channel();
        let (started, is_started) = oneshot::channel();
        let thread = std::thread::Builder::new().name("volume-group".to_owned()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error.into()))),
            };
            LocalSet::new().block_on(&runtime, run(parts, arriving, reports, started));
        })?;
        let places =
            is_started.await.unwrap_or_else(|_| Err(io::Error::other("the volume's thread ended at once").into()))?;
        Ok(Self { orders: Some(orders), thread: Some(thread), places })
    }

    /// Where clients can connect, with the ports that the system chose.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        &self.places
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
) {
    let (leads, shown) = (parts.leads.clone(), parts.survey.clone());
    let (driver, stop, mut tasks, places) = match build(parts, reports) {
        Ok(built) => built,
        Err(error) => return drop(started.send(Err(error))),
    };
    if started.send(Ok(places)).is_err() {
        return;
    }
    let say = |leads: &watch::Sender<Option<Epoch>>| {
        let now = driver.look(Replica::leads);
        leads.send_if_modified(|said| std::mem::replace(said, now) != now)
    };
    tokio::task::spawn_local(keep_shown(Rc::clone(&driver), shown));
    let mut peers = Connectors { driver: Rc::clone(&driver), security: tasks.1.clone(), tasks: Vec::new() };
    driver.step(Event::Tick);
    driver.kick();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Tell(event) => {
                driver.step(event);
                driver.kick();
                say(&leads);
            }
            Order::Peers(addresses) => peers.set(&addresses),
        }
    }
    driver.step(Event::Fence);
    driver.kick();
    // Front ends first: they have answers to send.
    let _ = stop.send(true);
    while tasks.0.join_next().await.is_some() {}
}

type Built = (Rc<Driver>, watch::Sender<bool>, (JoinSet<()>, Security), Vec<Place>);

fn build(parts: Parts, reports: mpsc::UnboundedSender<Report>) -> Result<Built, GroupError> {
    let Parts { opened, life, write_through, listener, security, exports, admission, leads: _, survey: _ } = parts;
    let Opened { backings, area, at, store, recovery } = opened;
    let lanes = || backings.iter().map(|backing| backing.lane()).collect::<io::Result<Vec<_>>>();
    let area = Area::new(area.lane()?, at);
    let sizes = store.geometry().volumes().to_vec();
    let machine = Replica::new(Setup { life, write_through }, store, recovery.is_guess());
    let driver = Driver::new(machine, lanes()?, area, reports, admission);
    tokio::task::spawn_local(Rc::clone(&driver).hear_disks());
    tokio::task::spawn_local(Rc::clone(&driver).tick());
    if let Some(listener) = listener {
        let listener = TcpListener::from_std(listener)?;
        tokio::task::spawn_local(accept(Rc::clone(&driver), listener, security.clone()));
    }
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let mut places = Vec::new();
    for Export { volume, places: wanted, config } in exports {
        let number = volume.0 as usize;
        let listeners = wanted.iter().map(Listener::bind).collect::<Result<Vec<_>, _>>()?;
        places.extend(listeners.iter().map(Listener::place));
        let device: Rc<dyn Device> = Rc::new(Lane::new(Rc::clone(&driver), volume, backings[number].lane()?));
        let geometry = Geometry { size_bytes: sizes[number], ..backings[number].geometry() };
        let mut stopped = stopped.clone();
        tasks.spawn_local(async move {
            let stop = async move {
                let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
            };
            server::serve_here(config, geometry, device, listeners, stop).await;
        });
    }
    Ok((driver, stop, (tasks, security), places))
}

/// For ever.
async fn keep_shown(driver: Rc<Driver>, shown: watch::Sender<Survey>) {
    let mut progress = Progress::default();
    loop {
        let mut survey = driver.look(Replica::survey);
        progress.look(&mut survey, clock::now());
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
