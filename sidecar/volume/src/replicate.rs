//! Replication by hand, between `leasehold volume serve` here and there: for tests, benchmarks and moving data. Nobody decides
//! a failover here: who is told to lead does, with a new epoch at each start, and goes on alone when a peer is lost, which is
//! brought up to date when it comes back. Nobody numbers the epochs either, so each leader leaves a gap of its own making:
//! two that lead apart are told from each other. In a cluster the node decides (`leasehold node`), by the lease.

use crate::backing::Engine;
use crate::buffer::Pool;
use crate::core::rate::Limits;
use crate::core::{Event, Follow, Report};
use crate::drive::area::{AreaError, Files};
use crate::drive::group::{DeviceState, Export, Group, GroupError};
use crate::drive::{Admission, Compress, Order, Parts, Security};
use crate::ids::Life;
use crate::metadata::DataState;
use crate::operate::socket::{self, SocketError};
use crate::operate::{Operated, routes};
use lease::ids::{Epoch, Incarnation};
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Epochs that a leader may leave out.
const GAP: u64 = 1 << 32;

/// Which half this process is.
#[derive(Debug)]
pub enum Role {
    Leader { peers: Vec<SocketAddr>, export: Box<Export> },
    Standby { address: SocketAddr, follow: Follow },
}

/// How it does it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// `None`: the best one that the kernel allows.
    pub engine: Option<Engine>,
    /// Clients are offered no volatile cache.
    pub write_through: bool,
    pub resync: Limits,
    pub compress: Compress,
}

/// How an operator reaches it.
#[derive(Clone, Debug)]
pub struct Admin {
    pub socket: PathBuf,
    pub verify_mib_s: u64,
}

/// Why a replica is not served, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum ReplicateError {
    #[error(transparent)]
    Area(#[from] AreaError),
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the image is in the middle of a resync, or its disk failed: it can only follow (--listen)")]
    NotWhole,
    #[error("a peer has promised epoch {0}: somebody else leads by now; follow it (--listen)")]
    Fenced(Epoch),
    #[error("--admin: {0}")]
    Admin(#[from] SocketError),
    #[error("--device: {0}")]
    Device(String),
    #[error("the disk or the metadata failed: see the log above; nothing was acknowledged that is not on it")]
    Failed,
    #[error("the volume's thread ended: see the log above")]
    Ended,
}

/// Runs until `stop` is ready. Tells on the standard output who is in sync.
///
/// # Errors
/// [`ReplicateError`].
pub async fn run(
    files: &Files,
    manner: Manner,
    role: Role,
    admin: Option<Admin>,
    stop: impl Future<Output = ()>,
) -> Result<(), ReplicateError> {
    let Manner { engine, write_through, resync, compress } = manner;
    let opened = files.open(engine, &Pool::default())?;
    if matches!(role, Role::Leader { .. }) && opened.store.superblock().state != DataState::Whole {
        return Err(ReplicateError::NotWhole);
    }
    let listener = match &role {
        Role::Standby { address, .. } => {
            let listener = std::net::TcpListener::bind(address)
                .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                .map_err(|source| ReplicateError::Listen { address: *address, source })?;
            let place = listener.local_addr().unwrap_or(*address);
            println!("following at {place} as {}", opened.store.superblock().incarnation);
            Some(listener)
        }
        Role::Leader { .. } => None,
    };
    let (tell, mut reports) = mpsc::unbounded_channel();
    let (peers, exports, follow) = match role {
        Role::Leader { peers, export } => (Some(peers), vec![*export], Follow::Sync),
        Role::Standby { follow, .. } => (None, Vec::new(), follow),
    };
    let names = exports.iter().map(|export| export.config.name.clone()).chain([String::new()]).take(1).collect();
    let survey = watch::Sender::default();
    let shown = survey.subscribe();
    let mut device = exports.iter().find_map(|export| Some(export.device.as_ref()?.state.subscribe()));
    let incarnation = opened.store.superblock().incarnation.clone();
    let admission = Admission::closed();
    let parts = Parts {
        opened,
        life: life(),
        write_through,
        follow,
        resync,
        compress,
        listener,
        security: Security::Plain,
        exports,
        admission: Arc::clone(&admission),
        leads: watch::Sender::new(None),
        survey,
    };
    let group = Group::start(parts, tell).await?;
    if let Some(Admin { socket, verify_mib_s }) = admin {
        let listener = socket::open(&socket).await?;
        let operated = Operated { names, survey: shown, commander: group.commander(), verify_mib_s };
        tokio::spawn(async move { axum::serve(listener, routes::alone(operated)).await });
    }
    let mut by_hand = ByHand { leads: None, need: BTreeSet::new(), told: Report::default() };
    match peers {
        Some(peers) => {
            let first = reports.recv().await.ok_or(ReplicateError::Ended)?;
            by_hand.begin(&group, &first, &mut reports).await?;
            group.order(Order::Peers(peers));
            for place in group.places() {
                println!("serving {incarnation}, epoch {}, at {place}", by_hand.leads.unwrap_or_default());
            }
            if let Some(device) = &mut device {
                let state = device.wait_for(|state| *state != DeviceState::Absent).await;
                match &*state.map_err(|_| ReplicateError::Ended)? {
                    DeviceState::Attached(attached) => {
                        println!("serving {incarnation}, epoch {}, at {attached}", by_hand.leads.unwrap_or_default());
                    }
                    DeviceState::Failed(why) => return Err(ReplicateError::Device(why.clone())),
                    DeviceState::Absent => {}
                }
            }
        }
        None => admission.set(Some(Epoch(0))),
    }
    tokio::pin!(stop);
    loop {
        tokio::select! {
            report = reports.recv() => {
                let told = by_hand.told(&group, report.ok_or(ReplicateError::Ended)?);
                if let Err(ReplicateError::Fenced(_)) = told {
                    // The data is another's by now: a device of it must not wait for the next server.
                    group.order(Order::Tell(Event::Fence));
                }
                told?;
            }
            () = &mut stop => return Ok(()),
        }
    }
}

/// New with each process.
#[must_use]
pub fn life() -> Life {
    Life(random())
}

fn random() -> u64 {
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("the kernel's random source");
    u64::from_le_bytes(random)
}

/// What the lease is elsewhere.
#[derive(Debug)]
struct ByHand {
    leads: Option<Epoch>,
    need: BTreeSet<Incarnation>,
    told: Report,
}

impl ByHand {
    /// Leads, in an epoch after all that this replica has promised.
    async fn begin(
        &mut self,
        group: &Group,
        first: &Report,
        reports: &mut mpsc::UnboundedReceiver<Report>,
    ) -> Result<(), ReplicateError> {
        let mut told = first.clone();
        // What is read at the start is saved anew before it counts.
        let epoch = Epoch(told.promised.0 + 1 + random() % GAP);
        group.order(Order::Tell(Event::Promise { epoch }));
        loop {
            if told.failed {
                return Err(ReplicateError::Failed);
            }
            if told.promised == epoch {
                if !told.consistent {
                    return Err(ReplicateError::NotWhole);
                }
                break;
            }
            told = reports.recv().await.ok_or(ReplicateError::Ended)?;
        }
        group.order(Order::Tell(Event::Lead { epoch, need: BTreeSet::new() }));
        self.leads = Some(epoch);
        Ok(())
    }

    /// Whoever is equal is waited for; whoever is gone is not.
    fn told(&mut self, group: &Group, report: Report) -> Result<(), ReplicateError> {
        if report.failed {
            return Err(ReplicateError::Failed);
        }
        if let Some(epoch) = report.fenced_by {
            return Err(ReplicateError::Fenced(epoch));
        }
        for peer in report.mirrored.difference(&self.told.mirrored) {
            println!("in sync with {peer}");
        }
        for peer in self.told.mirrored.difference(&report.mirrored) {
            println!("out of sync with {peer}: going on without it");
        }
        for peer in report.diverged.difference(&self.told.diverged) {
            eprintln!(
                "{peer} holds writes that this replica never had: both are kept as they are. Decide which one counts, and wipe and create the other anew"
            );
        }
        if self.told.consistent && !report.consistent {
            println!("a resync is under way: until it ends, this image is of no use");
        }
        if report.caught_up != self.told.caught_up {
            match report.caught_up {
                Some(epoch) => println!("equal to the leader of epoch {epoch}"),
                None => println!("behind the leader"),
            }
        }
        if let Some(epoch) = self.leads {
            self.need = self.need.union(&report.mirrored).cloned().collect();
            self.need.retain(|member| !report.missing.contains(member));
            let need = self.need.clone();
            group.order(Order::Tell(Event::Need { epoch, need, seen: report.number }));
        }
        self.told = report;
        Ok(())
    }
}
