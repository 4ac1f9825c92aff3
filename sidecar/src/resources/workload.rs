//! Runs the workload: starts and stops resources in order, checks them, and ends them by force when order fails.
//!
//! ```text
//!          Start                    all started               Stop
//!  Down ─────────▶ Starting ───────────────────▶ Up (checks) ───────▶ Stopping ──▶ Down
//!    ▲                │ a start fails              │ checks fail        │ limit over
//!    │                └──▶ Failed ◀────────────────┘                    ▼
//!    └───────────────────────── nothing left ◀───────────────────── Killing ──▶ Stuck
//! ```

use super::cgroup::{Cgroup, CgroupError};
use super::command::Runner;
use super::http::Prober;
use super::loop_device::{self, LoopDevice};
use super::{Check, Kind, Order, Resource, Surroundings};
use crate::address;
use crate::node::event::Event;
use futures::future::join_all;
use lease::heartbeat::ResourceHealth;
use lease::ids::Epoch;
use lease::time::Millis;
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, watch};

/// How long killed processes may take to be gone before the node counts as unable to stop serving.
pub const KILL_LIMIT: Millis = Millis(3_000);
/// How long the first start waits for the address, which most servers need in order to listen on it.
const ADDRESS_WAIT: Millis = Millis(2_000);
/// How long volumes may take to open: they are told before the workload is.
const VOLUMES_WAIT: Millis = Millis(5_000);
/// Cgroups beside those of the resources, whose names have no dot.
const UNMOUNT: &str = "workload.unmount";
const DEVICES: &str = "workload.devices";
/// Orders that may wait. The machine gives one and awaits its answer, a kill apart.
pub const ORDERS_MAX: usize = 16;

/// The resources of this node and the cgroup that they live in.
#[derive(Debug)]
pub struct Workload {
    resources: Vec<Resource>,
    group: Cgroup,
    around: Surroundings,
    prober: Option<Prober>,
    health: watch::Sender<Vec<ResourceHealth>>,
    /// The epoch in which the volumes take requests; `None`: there are none.
    volumes: Option<watch::Receiver<Option<Epoch>>>,
    /// Made of the volumes before anything starts.
    devices: Vec<LoopDevice>,
}

/// What could not be ended, and may still serve.
#[derive(Debug, thiserror::Error)]
pub enum Left {
    #[error(transparent)]
    Processes(#[from] CgroupError),
    #[error("{} does not go away: {problem}", target.display())]
    Mounted { target: PathBuf, problem: String },
}

#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("http checks: {0}")]
    Http(reqwest::Error),
}

impl Workload {
    /// # Errors
    /// [`WorkloadError`] where there is no cgroup to run in.
    pub fn new(resources: Vec<Resource>, group: &Path, around: Surroundings) -> Result<Self, WorkloadError> {
        let group = Cgroup::ensure(group)?;
        let asks = resources.iter().any(|resource| matches!(check_command(resource), Some(Check::Http(_))));
        let prober = asks.then(Prober::new).transpose().map_err(WorkloadError::Http)?;
        let health = resources.iter().map(|resource| state(&resource.name, "stopped", None)).collect();
        Ok(Self {
            resources,
            group,
            around,
            prober,
            health: watch::Sender::new(health),
            volumes: None,
            devices: Vec::new(),
        })
    }

    /// With volumes that are open before anything starts.
    #[must_use]
    pub fn with_volumes(self, volumes: Option<watch::Receiver<Option<Epoch>>>) -> Self {
        Self { volumes, ..self }
    }

    /// With block devices that are made of the volumes by nbdfuse.
    #[must_use]
    pub fn with_devices(self, devices: Vec<LoopDevice>) -> Self {
        Self { devices, ..self }
    }

    /// The state of each resource, as it changes.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Vec<ResourceHealth>> {
        self.health.subscribe()
    }

    /// Ends what is there, or what an earlier daemon left: processes first, then what these had mounted.
    ///
    /// # Errors
    /// Where something is left.
    pub async fn clear(&self) -> Result<(), Left> {
        self.group.clear(KILL_LIMIT).await?;
        let mounts: Vec<_> = self.resources.iter().filter_map(|resource| resource.kind.mount()).collect();
        if mounts.is_empty() && self.devices.is_empty() {
            return Ok(());
        }
        let group = self.group.child(UNMOUNT)?;
        let runner = Runner { cgroup: &group, resource: UNMOUNT, epoch: None, around: &self.around };
        for mount in mounts.iter().rev() {
            let target = mount.target.clone();
            mount.detach(&runner, KILL_LIMIT).await.map_err(|problem| Left::Mounted { target, problem })?;
        }
        for device in self.devices.iter().rev() {
            let target = device.device.clone();
            device.stop(&runner).await.map_err(|problem| Left::Mounted { target, problem })?;
        }
        // nbdfuse, once more, and whatever hung.
        Ok(self.group.clear(KILL_LIMIT).await?)
    }

    /// Follows orders until their sender is gone.
    pub async fn follow(
        self,
        mut orders: mpsc::Receiver<Order>,
        events: mpsc::Sender<Event>,
        mut address: watch::Receiver<address::State>,
    ) {
        let mut next = orders.recv().await;
        while let Some(order) = next {
            next = match order {
                Order::Start { epoch } => {
                    tokio::select! {
                        biased;
                        order = orders.recv() => order,
                        never = self.run(epoch, &events, &mut address) => match never {},
                    }
                }
                Order::Stop => {
                    tokio::select! {
                        biased;
                        order = more_than_stop(&mut orders) => order,
                        () = self.stop(&events) => orders.recv().await,
                    }
                }
                Order::Kill => {
                    self.end(&events).await;
                    orders.recv().await
                }
            };
        }
    }

    /// Starts all, then checks them for as long as nobody orders otherwise.
    async fn run(
        &self,
        epoch: Epoch,
        events: &mpsc::Sender<Event>,
        address: &mut watch::Receiver<address::State>,
    ) -> std::convert::Infallible {
        if let Err(error) = self.clear().await {
            tell(events, Event::WorkloadStuck { problem: error.to_string() }).await;
            return std::future::pending().await;
        }
        if !self.around.virtual_ips.is_empty() {
            let held = tokio::time::timeout(ADDRESS_WAIT.into(), address.wait_for(|state| state.held)).await;
            if held.is_err() {
                tracing::warn!(limit = %ADDRESS_WAIT, "the virtual address is not there yet; starting all the same");
            }
        }
        if let Some(mut volumes) = self.volumes.clone() {
            let open = volumes.wait_for(|leads| *leads == Some(epoch));
            let open = tokio::time::timeout(VOLUMES_WAIT.into(), open).await.is_ok_and(|open| open.is_ok());
            if !open {
                let reason = format!("they do not open in epoch {epoch} within {VOLUMES_WAIT}");
                tell(events, Event::ResourceFailed { epoch, resource: "volumes".into(), reason }).await;
                return std::future::pending().await;
            }
        }
        for device in &self.devices {
            if let Err(reason) = self.make(device, epoch).await {
                let resource = device.device.display().to_string();
                tell(events, Event::ResourceFailed { epoch, resource, reason }).await;
                return std::future::pending().await;
            }
        }
        for resource in &self.resources {
            self.set(resource, "starting", None);
            if let Err(reason) = self.start(resource, epoch).await {
                self.set(resource, "failed", Some(reason.clone()));
                tell(events, Event::ResourceFailed { epoch, resource: resource.name.clone(), reason }).await;
                return std::future::pending().await;
            }
            self.set(resource, "running", None);
        }
        tell(events, Event::WorkloadUp { epoch }).await;
        join_all(self.resources.iter().map(|resource| self.watch(resource, epoch, events))).await;
        std::future::pending().await
    }

    async fn make(&self, device: &LoopDevice, epoch: Epoch) -> Result<(), String> {
        let group = self.group.child(DEVICES).map_err(|error| error.to_string())?;
        device.start(&Runner { cgroup: &group, resource: DEVICES, epoch: Some(epoch), around: &self.around }).await
    }

    async fn start(&self, resource: &Resource, epoch: Epoch) -> Result<(), String> {
        let group = self.group.child(&resource.name).map_err(|error| error.to_string())?;
        let runner = Runner { cgroup: &group, resource: &resource.name, epoch: Some(epoch), around: &self.around };
        let limit = resource.start_limit;
        match &resource.kind {
            Kind::Script(script) => runner.run(&script.start, limit).await.map_err(|error| error.to_string()),
            Kind::Mount(mount) => match tokio::time::timeout(limit.into(), mount.start(&runner, limit)).await {
                Ok(mounted) => mounted,
                Err(_) => Err(format!("{} cannot be mounted within {limit}", mount.source.display())),
            },
        }
    }

    async fn watch(&self, resource: &Resource, epoch: Epoch, events: &mpsc::Sender<Event>) {
        if matches!(&resource.kind, Kind::Script(script) if script.check.is_none()) {
            return;
        }
        let mut failed = 0;
        loop {
            tokio::time::sleep(resource.check_every.into()).await;
            match self.check(resource, epoch).await {
                Ok(()) => {
                    if failed > 0 {
                        self.set(resource, "running", None);
                    }
                    failed = 0;
                }
                Err(reason) => {
                    failed += 1;
                    let state = if failed >= resource.failures { "failed" } else { "running" };
                    self.set(resource, state, Some(reason.clone()));
                    // Once for each row of failures: the machine has it from then on.
                    if failed == resource.failures {
                        let reason = format!("{failed} checks in a row failed: {reason}");
                        tell(events, Event::ResourceFailed { epoch, resource: resource.name.clone(), reason }).await;
                    }
                }
            }
        }
    }

    async fn check(&self, resource: &Resource, epoch: Epoch) -> Result<(), String> {
        let script = match &resource.kind {
            Kind::Mount(mount) => return mount.check(),
            Kind::Script(script) => script,
        };
        match &script.check {
            None => Ok(()),
            Some(Check::Http(url)) => match &self.prober {
                Some(prober) => prober.ask(url, resource.check_limit).await,
                None => Err("no http client".into()),
            },
            Some(Check::Command(words)) => {
                let group = self.group.child(&check_group(resource)).map_err(|error| error.to_string())?;
                let (epoch, around) = (Some(epoch), &self.around);
                let runner = Runner { cgroup: &group, resource: &resource.name, epoch, around };
                let result = runner.run(words, resource.check_limit).await;
                // Whatever it left, and itself if it hangs.
                if let Err(error) = group.clear(KILL_LIMIT).await {
                    return Err(error.to_string());
                }
                result.map_err(|error| error.to_string())
            }
        }
    }

    /// Stops all in order, each within its limit, then ends what is left.
    async fn stop(&self, events: &mpsc::Sender<Event>) {
        for resource in self.resources.iter().rev() {
            self.set(resource, "stopping", None);
            if let Err(problem) = self.stop_one(resource).await {
                tracing::warn!(resource = resource.name, problem, "did not stop in order; killing it");
            }
        }
        for device in self.devices.iter().rev() {
            if let Err(problem) = self.unmake(device).await {
                tracing::warn!(device = %device.device.display(), problem, "did not go in order");
            }
        }
        self.end(events).await;
    }

    async fn unmake(&self, device: &LoopDevice) -> Result<(), String> {
        let group = self.group.child(UNMOUNT).map_err(|error| error.to_string())?;
        device.stop(&Runner { cgroup: &group, resource: DEVICES, epoch: None, around: &self.around }).await?;
        let group = self.group.child(DEVICES).map_err(|error| error.to_string())?;
        // It writes back what it holds, and ends.
        match tokio::time::timeout(loop_device::LIMIT.into(), group.empty()).await {
            Ok(ended) => ended.map_err(|error| error.to_string()),
            Err(_) => Err(format!("nbdfuse is left after {}", loop_device::LIMIT)),
        }
    }

    async fn stop_one(&self, resource: &Resource) -> Result<(), String> {
        // A check that is under way must not find fault with what is being stopped.
        let checks = self.group.path().join(check_group(resource));
        if checks.exists() {
            Cgroup::ensure(&checks).and_then(|group| group.kill()).map_err(|error| error.to_string())?;
        }
        let group = self.group.child(&resource.name).map_err(|error| error.to_string())?;
        let limit = resource.stop_limit;
        let runner = Runner { cgroup: &group, resource: &resource.name, epoch: None, around: &self.around };
        let in_order = async {
            match &resource.kind {
                Kind::Script(script) => {
                    if let Some(words) = &script.stop {
                        runner.run(words, limit).await.map_err(|error| error.to_string())?;
                        group.empty().await.map_err(|error| error.to_string())?;
                    }
                    Ok(())
                }
                Kind::Mount(mount) => mount.stop(&runner, limit).await,
            }
        };
        let in_order: Result<(), String> = match tokio::time::timeout(limit.into(), in_order).await {
            Ok(result) => result,
            Err(_) => Err(format!("processes {:?} are left after {limit}", group.processes())),
        };
        group.clear(KILL_LIMIT).await.map_err(|error| error.to_string())?;
        in_order
    }

    /// Kills all and tells how that went.
    async fn end(&self, events: &mpsc::Sender<Event>) {
        match self.clear().await {
            Ok(()) => {
                for resource in &self.resources {
                    self.set(resource, "stopped", None);
                }
                tell(events, Event::WorkloadDown).await;
            }
            Err(error) => tell(events, Event::WorkloadStuck { problem: error.to_string() }).await,
        }
    }

    fn set(&self, resource: &Resource, word: &str, problem: Option<String>) {
        self.health.send_if_modified(|health| {
            let Some(found) = health.iter_mut().find(|found| found.name == resource.name) else { return false };
            let next = state(&resource.name, word, problem);
            let changed = *found != next;
            *found = next;
            changed
        });
    }
}

/// The next order that is not `Stop` again.
async fn more_than_stop(orders: &mut mpsc::Receiver<Order>) -> Option<Order> {
    loop {
        match orders.recv().await {
            Some(Order::Stop) => {}
            order => return order,
        }
    }
}

/// The core is gone where this fails, and with it the process.
async fn tell(events: &mpsc::Sender<Event>, event: Event) {
    let _ = events.send(event).await;
}

fn check_command(resource: &Resource) -> Option<&Check> {
    match &resource.kind {
        Kind::Script(script) => script.check.as_ref(),
        Kind::Mount(_) => None,
    }
}

/// No resource's name has a dot in it.
fn check_group(resource: &Resource) -> String {
    format!("{}.check", resource.name)
}

fn state(name: &str, state: &str, problem: Option<String>) -> ResourceHealth {
    ResourceHealth { name: name.into(), state: state.into(), problem }
}
