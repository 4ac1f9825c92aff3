//! From a configuration file to a running node: makes every part, in the order that safety asks for, and starts the core.

use crate::address::{self, AddressError, Addresses};
use crate::admin::{self, AdminError, Shown};
use crate::aws;
use crate::bus;
use crate::clock;
use crate::config::{NodeConfig, VolumeConfig};
use crate::core::{Core, CoreError, EVENTS_MAX, Log, Outlets, Parts, Told};
use crate::fence::{self, FenceError};
use crate::health;
use crate::heartbeat::{self, Said};
use crate::identity::{self, IdentityError};
use crate::mailbox::Mailbox;
use crate::node::{Node, Setup};
use crate::notify::Notifier;
use crate::once::Once;
use crate::peers::board::Board;
use crate::peers::pins::Pins;
use crate::peers::{Local, Look, Peers};
use crate::ports::{self, Gate, PortsError};
use crate::resources::Surroundings;
use crate::resources::cgroup::{self, CgroupError};
use crate::resources::loop_device::LoopDevice;
use crate::resources::workload::{KILL_LIMIT, Left, ORDERS_MAX, Workload, WorkloadError};
use crate::snapshot::Snapshot;
use crate::state_dir::{StateDir, StateError};
use crate::status::Sources;
use crate::store::{self, SetupError};
use crate::volumes::{self, Volumes, VolumesError};
use lease::config::ClusterConfig;
use lease::heartbeat::{Heartbeat, Replica};
use lease::ids::{ClusterId, InstanceId, NodeId};
use lease::record::Holder;
use lease::table::Table;
use lease::time::Millis;
use std::collections::BTreeSet;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use volume::drive::area::Opened;
use volume::frontends::device;

/// Pause between two tries of what the start needs and the cloud does not give yet.
const AGAIN: Millis = Millis(2_000);
/// Looks at heartbeats that may wait; more of them would say nothing new.
const LOOKS_MAX: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Volumes(#[from] VolumesError),
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error(transparent)]
    Ports(#[from] PortsError),
    #[error(
        "port {port} of the cluster's [ports] is {what} of this node, which its peers must reach also while it is not active: choose another"
    )]
    OwnPort { port: u16, what: &'static str },
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Left(#[from] Left),
    #[error("{what} {address}: {error}")]
    Listen { what: &'static str, address: SocketAddr, error: std::io::Error },
    #[error("signals cannot be received: {0}")]
    Signals(std::io::Error),
    #[error("cluster {cluster} has no node {node}; its nodes are {known}; correct `node` in the configuration")]
    NoMember { cluster: ClusterId, node: NodeId, known: String },
    #[error("this machine had to reboot ({left}) and could not: {error}")]
    NotFenced { left: CgroupError, error: FenceError },
    #[error(
        "node {node} of cluster {cluster} is instance {member}, but this is {here}; correct `node` here, or the instance in \
         the cluster's configuration"
    )]
    AnotherInstance { cluster: ClusterId, node: NodeId, member: InstanceId, here: InstanceId },
}

/// A node whose parts run; only its core does not yet.
#[derive(Debug)]
pub struct Running {
    core: Core,
    events: mpsc::Receiver<crate::node::event::Event>,
    parts: Parts,
    terminate: Signal,
    interrupt: Signal,
}

impl Running {
    /// Runs the node until it is told to end and has handed over what it could.
    ///
    /// # Errors
    /// [`CoreError`]: why it ended otherwise.
    pub async fn run(self) -> Result<(), CoreError> {
        self.core.run(self.events, self.parts, self.terminate, self.interrupt).await
    }
}

/// Makes the node and starts its parts, on the runtime that this is called on. `None`: it was told to end before that.
///
/// # Errors
/// [`RunError`]: what is wrong, where, and what to do.
pub async fn start(mut config: NodeConfig, dev: Option<&Path>) -> Result<Option<Running>, RunError> {
    let devices = dev.map_or_else(Vec::new, |folder| loop_devices(&mut config, folder));
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    // First of all, so that an operator can ask a node that waits what it waits for. And a second daemon, started by
    // mistake, ends here, before it touches what the first one serves.
    let mut parts = Parts::new();
    let socket = admin::open(&config.admin_socket).await?;
    let waits = Waits::begin(&config);
    part(&mut parts, "the admin socket", admin::serve(socket, waits.shown.subscribe()));
    let prepared = tokio::select! {
        prepared = prepare(config, devices, &waits) => prepared?,
        // Nothing was started yet.
        () = either(&mut terminate, &mut interrupt) => return Ok(None),
    };
    let (core, events, parts) = prepared.start(parts, waits.shown).await?;
    Ok(Some(Running { core, events, parts, terminate, interrupt }))
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// A node that knows all it needs, and serves nothing.
struct Prepared {
    config: NodeConfig,
    state: Arc<StateDir>,
    workload: Workload,
    me: Holder,
    key: identity::PeerKey,
    private_ip: IpAddr,
    sdk: aws_config::SdkConfig,
    cluster: ClusterConfig,
    config_trouble: Option<String>,
    addresses: Addresses,
    gate: Option<Gate>,
    opened: Option<Opened>,
}

async fn prepare(config: NodeConfig, devices: Vec<LoopDevice>, waits: &Waits) -> Result<Prepared, RunError> {
    let state = Arc::new(StateDir::open(&config.state_dir)?);
    // 1. Whatever an earlier daemon left serving ends before anything else is done: this node may not be the holder any
    //    more. First the addresses that were known then, then the processes.
    let kept = store::kept_config(&state, &config.cluster);
    let closed = match kept.as_ref().and_then(|kept| kept.ports.clone()) {
        Some(ports) => Gate::close(&config.cluster, ports).await.map(drop),
        None => Ok(()),
    };
    let known = kept.iter().flat_map(|kept| &kept.virtual_ips).map(|vip| vip.address).collect();
    Addresses::open(&config.interface, known).await?.clear().await?;
    let group = match &config.cgroup {
        Some(path) => path.clone(),
        None => cgroup::beside_this_process("workload")?,
    };
    end_leftovers(&group, config.fence.as_deref()).await?;
    // Only now: where they cannot be closed, nothing may be left that answers there.
    closed?;

    // 2. Who this is.
    let imds = aws::imds();
    let instance = waits.until("instance metadata", || identity::instance(&imds, &state)).await;
    if config.volumes.iter().any(|volumes| volumes.volumes.iter().any(|volume| volume.device.is_some())) {
        // Before the disks' threads are started.
        device::prepare_process();
    }
    let opened = match &config.volumes {
        Some(volumes) => Some(volumes::open(volumes, &instance.instance_id, &state)?),
        None => None,
    };
    let replica = opened.as_ref().map(|opened| opened.store.superblock().incarnation.clone());
    let me = identity::holder(&config.node, &instance, replica, &state)?;
    let key = identity::peer_key(&config.node, &instance, &state)?;

    // 3. What it belongs to.
    let sdk = aws::load(config.region.clone().or(Some(instance.region.clone()))).await;
    let table = Table::new(&aws::dynamodb(&sdk), &config.table);
    let (cluster, kept_because) =
        waits.until("the cluster's configuration", || store::cluster_config(&table, &config.cluster, &state)).await;
    let config_trouble =
        kept_because.map(|error| format!("running on the cluster's configuration of an earlier start: {error}"));
    let config_trouble = config_trouble.or_else(|| store::futile(&cluster));
    if let Some(problem) = &config_trouble {
        tracing::warn!("{problem}");
    }
    let member = cluster.member(&config.node).ok_or_else(|| RunError::NoMember {
        cluster: config.cluster.clone(),
        node: config.node.clone(),
        known: cluster.nodes.iter().map(|node| node.name.to_string()).collect::<Vec<_>>().join(", "),
    })?;
    if member.instance != me.instance {
        return Err(RunError::AnotherInstance {
            cluster: config.cluster.clone(),
            node: config.node.clone(),
            member: member.instance.clone(),
            here: me.instance,
        });
    }

    // 4. The addresses of today, taken away as well.
    let virtual_ips: Vec<IpAddr> = cluster.virtual_ips.iter().map(|vip| vip.address).collect();
    let mut addresses = Addresses::open(&config.interface, virtual_ips.clone()).await?;
    addresses.clear().await?;
    let gate = match &cluster.ports {
        Some(ports) => {
            if let Some((port, what)) = own_port(&config, &ports.guarded()) {
                return Err(RunError::OwnPort { port, what });
            }
            Some(Gate::close(&config.cluster, ports.clone()).await?)
        }
        None => {
            Gate::remove(&config.cluster)?;
            None
        }
    };
    let around = Surroundings {
        cluster: config.cluster.clone(),
        node: config.node.clone(),
        virtual_ips,
        // In the child that is about to become it, this names this very program, also when its file was replaced.
        launcher: "/proc/self/exe".into(),
    };
    let workload = Workload::new(config.resources.clone(), &group, around)?.with_devices(devices);
    // Its processes ended first of all; now what these had mounted.
    workload.clear().await?;
    let private_ip = instance.private_ip;
    Ok(Prepared { config, state, workload, me, key, private_ip, sdk, cluster, config_trouble, addresses, gate, opened })
}

/// A port that this node's peers connect to and that would be closed to them.
fn own_port(config: &NodeConfig, guarded: &BTreeSet<u16>) -> Option<(u16, &'static str)> {
    let volumes = config.volumes.as_ref().map(|volumes| (volumes.listen.port(), "[volumes].listen"));
    let own = [Some((config.peer.listen.port(), "[peer].listen")), volumes];
    own.into_iter().flatten().find(|(port, _)| guarded.contains(port))
}

/// The volumes' block devices, by nbdfuse and in this folder instead of by the kernel.
fn loop_devices(config: &mut NodeConfig, folder: &Path) -> Vec<LoopDevice> {
    let volumes = config.volumes.iter_mut().flat_map(|volumes| &mut volumes.volumes);
    let device = |volume: &mut VolumeConfig| {
        let device = folder.join(volume.device.take()?.to_string());
        let socket = volume.socket.get_or_insert_with(|| device.with_extension("sock")).clone();
        Some(LoopDevice { device, socket })
    };
    volumes.filter_map(device).collect()
}

/// Ends what an earlier daemon's workload left running. What cannot be ended may still serve: the machine is rebooted, as
/// it is where a demotion cannot end its workload. An error ends this daemon; the next start tries again.
async fn end_leftovers(group: &Path, fence: Option<&[String]>) -> Result<(), RunError> {
    match cgroup::Cgroup::ensure(group)?.clear(KILL_LIMIT).await {
        Err(left @ CgroupError::Stuck { .. }) => {
            tracing::error!(reason = %left, "rebooting this machine: an earlier daemon's workload does not end");
            let error = fence::reboot(fence).await;
            Err(RunError::NotFenced { left, error })
        }
        done => Ok(done?),
    }
}

/// What the start waits for, as the admin socket shows it.
struct Waits {
    shown: watch::Sender<Shown>,
}

impl Waits {
    fn begin(config: &NodeConfig) -> Self {
        let what = "what an earlier daemon left to end";
        let (node, cluster) = (config.node.clone(), config.cluster.clone());
        Self { shown: watch::Sender::new(Shown::Waiting { node, cluster, what, since: clock::now(), problem: None }) }
    }

    fn show(&self, waited: &'static str, problem_now: Option<&str>) {
        self.shown.send_modify(|shown| {
            if let Shown::Waiting { what, since, problem, .. } = shown {
                if *what != waited {
                    (*what, *since) = (waited, clock::now());
                }
                *problem = problem_now.map(Into::into);
            }
        });
    }

    /// Tries until it succeeds. What is missing at the start (a role that is still spreading, a cluster that is about to
    /// be deployed, a network that comes up) often comes; a person reads the log or asks for the status.
    async fn until<T, E, F>(&self, what: &'static str, mut attempt: impl FnMut() -> F) -> T
    where
        E: std::fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        let mut told = Once::default();
        self.show(what, None);
        loop {
            match attempt().await {
                Ok(value) => return value,
                Err(error) => {
                    let problem = error.to_string();
                    self.show(what, Some(&problem));
                    if told.is_new(&problem, clock::now()) {
                        tracing::warn!(problem, "waiting for {what}");
                    }
                    tokio::time::sleep(AGAIN.into()).await;
                }
            }
        }
    }
}

impl Prepared {
    /// Starts every part and makes the machine.
    async fn start(
        self,
        mut parts: Parts,
        shown: watch::Sender<Shown>,
    ) -> Result<(Core, mpsc::Receiver<crate::node::event::Event>, Parts), RunError> {
        let policy = self.cluster.policy.clone();
        let others: Vec<_> = self.cluster.nodes.iter().filter(|node| node.name != self.config.node).cloned().collect();
        let names: Vec<NodeId> = others.iter().map(|node| node.name.clone()).collect();
        let (events_in, events) = mpsc::channel(EVENTS_MAX);

        let listen = self.config.peer.listen;
        let advertise = self.config.peer.advertise.unwrap_or_else(|| SocketAddr::new(self.private_ip, listen.port()));
        let base = self.base_heartbeat(advertise);

        // The machine first: parts tell it things as soon as they run.
        let now = clock::now();
        let setup = Setup {
            cluster: self.config.cluster.clone(),
            me: self.me.clone(),
            members: self.cluster.nodes.clone(),
            policy: policy.clone(),
            volumes: self.opened.is_some(),
            nonce_prefix: identity::random_hex(12),
        };
        let node = Node::new(setup, now);
        let snapshot = watch::Sender::new(Snapshot::first(node.view(now), now));
        let said = watch::Sender::new(Said { heartbeat: base.clone(), at: now });
        let lineage = watch::Sender::new(None);

        // The row: its reader and its writer, with connections of their own.
        let budget = store::budget(&policy);
        let reader = Table::new(&aws::dynamodb(&self.sdk), &self.config.table).with_patience(budget);
        let writer = Table::new(&aws::dynamodb(&self.sdk), &self.config.table);
        let beats = Table::new(&aws::dynamodb(&self.sdk), &self.config.table);
        let requests = vec![reader.requests(), writer.requests(), beats.requests()];
        let (reads, asked) = mpsc::channel(store::REQUESTS_MAX);
        let (writes, wanted) = mpsc::channel(store::REQUESTS_MAX);
        let row_reads = store::read_rows(reader.clone(), self.config.cluster.clone(), asked, events_in.clone());
        part(&mut parts, "the row's reader", row_reads);
        part(&mut parts, "the row's writer", store::write_rows(writer, budget, wanted, events_in.clone()));

        // Peers.
        let pins = Arc::new(Pins::new(heartbeat::kept_pins(&self.state, &others)));
        let volumes = match self.opened.zip(self.config.volumes.as_ref()) {
            Some((opened, config)) => {
                let start = volumes::Start { config, opened, key: &self.key, pins: Arc::clone(&pins) };
                let (volumes, reports) = Volumes::start(start).await?;
                part(&mut parts, "the volumes' links", volumes.connect(Arc::clone(&pins), config.listen.port()));
                Some((volumes, reports))
            }
            None => None,
        };
        let (look, looks) = mpsc::channel(LOOKS_MAX);
        let local = Local {
            cluster: self.config.cluster.clone(),
            me: self.me.clone(),
            key: self.key,
            pins: Arc::clone(&pins),
            lineage: lineage.subscribe(),
            events: events_in.clone(),
            board: Arc::new(Board::default()),
            look: look.clone(),
        };
        let peers = Peers::new(local, names.clone());
        let listener = bind("[peer].listen", listen).await?;
        part(&mut parts, "the peer listener", Arc::clone(&peers).listen(listener));
        for name in names {
            part(&mut parts, "a peer link", Arc::clone(&peers).dial(name));
        }

        // Heartbeats.
        let now_please = Arc::new(Notify::new());
        let turned = Arc::new(AtomicU64::new(now.boottime_us / 1_000));
        let writing = heartbeat::write(
            beats.clone(),
            policy.heartbeat_ms,
            said.subscribe(),
            Arc::clone(&now_please),
            Arc::clone(&turned),
        );
        part(&mut parts, "the heartbeat", writing);
        let cluster = self.config.cluster.clone();
        let looking = heartbeat::look_at_peers(beats, cluster, others, pins, Arc::clone(&self.state), looks);
        part(&mut parts, "the look at peers", looking);
        // Keys that were kept may be old, and none may be kept.
        let _ = look.try_send(Look::UnknownKey);

        // What serves.
        let (address, orders) = watch::channel(address::Order::Drop);
        let held = watch::Sender::new(address::State::default());
        let (workload, workload_orders) = mpsc::channel(ORDERS_MAX);
        let health = self.workload.health();
        let open = volumes.as_ref().map(|(volumes, _)| volumes.leads());
        let serving = self.workload.with_volumes(open);
        let address_seen = held.subscribe();
        part(&mut parts, "the workload", serving.follow(workload_orders, events_in.clone(), address_seen));
        let address_state = held.subscribe();
        let ports = match self.gate.zip(self.cluster.ports.clone()) {
            Some((gate, ports)) => {
                let state = watch::Sender::new(ports::State::default());
                let seen = state.subscribe();
                if let Some(port) = ports.health {
                    let address = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
                    let what = "the health checks' port of the cluster's [ports]";
                    let listener = health::listen(port).await;
                    let listener = listener.map_err(|error| RunError::Listen { what, address, error })?;
                    part(&mut parts, "the answer to health checks", health::answer(listener, state.subscribe()));
                }
                part(&mut parts, "the ports", gate.follow(orders.clone(), health.clone(), state));
                Some((ports, seen))
            }
            None => None,
        };
        part(&mut parts, "the address", self.addresses.follow(orders, held));

        // Events.
        let bus_queue = Arc::new(Mailbox::new(bus::EVENTS_MAX));
        let counts = Arc::new(bus::Counts::default());
        let client = aws::eventbridge(&self.sdk);
        let putting = bus::put_events(client, self.config.bus.clone(), Arc::clone(&bus_queue), Arc::clone(&counts));
        part(&mut parts, "the event bus", putting);

        // The configuration, looked at with the row's reader: its connections are idle most of the time.
        let trouble = watch::Sender::new(self.config_trouble);
        let config_trouble = trouble.subscribe();
        part(&mut parts, "the look at the configuration", store::watch_config(reader, self.cluster.clone(), trouble));

        // Whoever looks.
        let sources = Arc::new(Sources {
            me: self.me,
            config: self.cluster,
            interface: self.config.interface,
            config_trouble,
            snapshot: snapshot.subscribe(),
            address: address_state,
            ports,
            health: health.clone(),
            peers: Arc::clone(&peers),
            requests,
            volumes: volumes.as_ref().map(|(volumes, _)| volumes.shown()),
            events: counts,
        });
        shown.send_replace(Shown::Running(Arc::clone(&sources)));
        if let Some(listen) = self.config.metrics {
            let listener = bind("[metrics].listen", listen).await?;
            part(&mut parts, "the metrics listener", admin::serve_metrics(listener, sources));
        }

        // The lock on the state directory lasts as long as a part has it: the look at peers.
        let outlets = Outlets {
            reads,
            writes,
            peers,
            address,
            workload,
            events: events_in,
            bus: bus_queue,
            heartbeat: now_please,
            fence: self.config.fence,
            runtime: tokio::runtime::Handle::current(),
        };
        let told = Told { snapshot, said, lineage, heartbeat_turned_ms: turned };
        let log = Log::new(&base);
        Ok((Core { node, outlets, told, base, health, notifier: Notifier::new(), log, volumes }, events, parts))
    }

    fn base_heartbeat(&self, advertise: SocketAddr) -> Heartbeat {
        Heartbeat {
            cluster: self.config.cluster.clone(),
            node: self.config.node.clone(),
            instance: self.me.instance.clone(),
            boot: self.me.boot.clone(),
            launched: self.me.launched.clone(),
            incarnation: self.me.incarnation.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            peer_address: advertise.to_string(),
            fingerprint: self.key.fingerprint.clone(),
            role: "starting".into(),
            epoch: lease::ids::Epoch::default(),
            beat: lease::ids::Beat::default(),
            hears: std::collections::BTreeMap::new(),
            resources: Vec::new(),
            // Without volumes every replica is whole, and all of the same.
            replica: Replica { consistent: true, asynchronous: false, lag_ms: None },
        }
    }
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|error| RunError::Listen { what, address, error })
}

/// Runs `future` beside the core; its end is the daemon's.
fn part<T: std::fmt::Debug>(parts: &mut Parts, name: &'static str, future: impl Future<Output = T> + Send + 'static) {
    parts.spawn(async move { (name, format!(": {:?}", future.await)) });
}
