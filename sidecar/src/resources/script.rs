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
use super::command::{self, CommandError};
use super::http::Prober;
use super::{Check, Order, Resource, Surroundings};
use crate::address;
use crate::node::event::Event;
use futures::future::join_all;
use lease::heartbeat::ResourceHealth;
use lease::ids::Epoch;
use lease::time::Millis;
use std::path::Path;
use tokio::sync::{mpsc, watch};

/// How long killed processes may take to be gone before the node counts as unable to stop serving.
pub const KILL_LIMIT: Millis = Millis(3_000);
/// How long the first start waits for the address, which most servers need in order to listen on it.
const ADDRESS_WAIT: Millis = Millis(2_000);
/// How long volumes may take to open: they are told before the workload is.
const VOLUMES_WAIT: Millis = Millis(5_000);
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
        let asks = resources.iter().any(|resource| matches!(resource.check, Some(Check::Http(_))));
        let prober = asks.then(Prober::new).transpose().map_err(WorkloadError::Http)?;
        let health = resources.iter().map(|resource| state(&resource.name, "stopped", None)).collect();
        Ok(Self { resources, group, around, prober, health: watch::Sender::new(health), volumes: None })
    }

    /// With volumes that are open before anything starts.
    #[must_use]
    pub fn with_volumes(self, volumes: Option<watch::Receiver<Option<Epoch>>>) -> Self {
        Self { volumes, ..self }
    }

    /// The state of each resource, as it changes.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Vec<ResourceHealth>> {
        self.health.subscribe()
    }

    /// Ends what an earlier daemon may have left. To be done before anything else.
    ///
    /// # Errors
    /// [`CgroupError::Stuck`] where that does not succeed.
    pub async fn clear(&self) -> Result<(), CgroupError> {
        self.group.clear(KILL_LIMIT).await
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

    async fn start(&self, resource: &Resource, epoch: Epoch) -> Result<(), String> {
        let group = self.group.child(&resource.name).map_err(|error| error.to_string())?;
        let limit = resource.start_limit;
        command::run(&resource.start, &group, limit, &resource.name, Some(epoch), &self.around)
            .await
            .map_err(|error: CommandError| error.to_string())
    }

    async fn watch(&self, resource: &Resource, epoch: Epoch, events: &mpsc::Sender<Event>) {
        let Some(check) = &resource.check else { return };
        let mut failed = 0;
        loop {
            tokio::time::sleep(resource.check_every.into()).await;
            match self.check(resource, check, epoch).await {
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

    async fn check(&self, resource: &Resource, check: &Check, epoch: Epoch) -> Result<(), String> {
        match check {
            Check::Http(url) => match &self.prober {
                Some(prober) => prober.ask(url, resource.check_limit).await,
                None => Err("no http client".into()),
            },
            Check::Command(words) => {
                let group = self.group.child(&check_group(resource)).map_err(|error| error.to_string())?;
                let limit = resource.check_limit;
                let result = command::run(words, &group, limit, &resource.name, Some(epoch), &self.around).await;
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
        self.end(events).await;
    }

    async fn stop_one(&self, resource: &Resource) -> Result<(), String> {
        // A check that is under way must not find fault with what is being stopped.
        let checks = self.group.path().join(check_group(resource));
        if checks.exists() {
            Cgroup::ensure(&checks).and_then(|group| group.kill()).map_err(|error| error.to_string())?;
        }
        let group = self.group.child(&resource.name).map_err(|error| error.to_string())?;
        let limit = resource.stop_limit;
        let in_order = async {
            if let Some(words) = &resource.stop {
                command::run(words, &group, limit, &resource.name, None, &self.around)
                    .await
                    .map_err(|error| error.to_string())?;
                group.empty().await.map_err(|error| error.to_string())?;
            }
            Ok(())
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

/// No resource's name has a dot in it.
fn check_group(resource: &Resource) -> String {
    format!("{}.check", resource.name)
}

fn state(name: &str, state: &str, problem: Option<String>) -> ResourceHealth {
    ResourceHealth { name: name.into(), state: state.into(), problem }
}
