//! A workload with real processes in a real cgroup, for tests.

#![allow(clippy::disallowed_methods, reason = "a test waits for real processes")]
#![allow(dead_code, reason = "each test file uses what it needs")]

use lease::ids::{ClusterId, Epoch, NodeId};
use lease::time::Millis;
use sidecar::address;
use sidecar::identity::random_hex;
use sidecar::node::event::Event;
use sidecar::resources::cgroup::{Cgroup, beside_this_process};
use sidecar::resources::workload::Workload;
use sidecar::resources::{Check, Kind, Order, Resource, Script, Surroundings};
use std::path::PathBuf;
use tokio::sync::{mpsc, watch};

/// A workload that follows orders, in a cgroup and with a scratch directory of its own.
pub(crate) struct Stage {
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) group: Cgroup,
    pub(crate) scratch: PathBuf,
    pub(crate) held: watch::Sender<address::State>,
    pub(crate) health: watch::Receiver<Vec<lease::heartbeat::ResourceHealth>>,
}

pub(crate) fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

pub(crate) fn resource(name: &str, start: &str) -> Resource {
    Resource {
        name: name.into(),
        kind: Kind::Script(Script { start: sh(start), stop: None, check: None }),
        start_limit: Millis(2_000),
        stop_limit: Millis(1_000),
        check_limit: Millis(500),
        check_every: Millis(100),
        failures: 2,
    }
}

pub(crate) trait WithCommands: Sized {
    fn script(&mut self) -> &mut Script;
    fn stop(mut self, script: &str) -> Self {
        self.script().stop = Some(sh(script));
        self
    }
    fn check(mut self, script: &str) -> Self {
        self.script().check = Some(Check::Command(sh(script)));
        self
    }
}

impl WithCommands for Resource {
    fn script(&mut self) -> &mut Script {
        match &mut self.kind {
            Kind::Script(script) => script,
            Kind::Mount(_) => panic!("no script"),
        }
    }
}

/// `resources` is given the scratch directory's path.
pub(crate) fn stage(resources: impl FnOnce(&str) -> Vec<Resource>) -> Stage {
    let id = random_hex(6);
    let scratch = std::env::temp_dir().join(format!("leasehold-workload-{id}"));
    std::fs::create_dir_all(&scratch).expect("a scratch directory");
    let path = beside_this_process(&format!("leasehold-test-{id}")).expect("cgroup v2");
    let around = Surroundings {
        cluster: ClusterId::new("web").expect("a name"),
        node: NodeId::new("a").expect("a name"),
        virtual_ips: vec!["10.99.0.10".parse().expect("an address")],
        launcher: env!("CARGO_BIN_EXE_leasehold").into(),
    };
    let workload =
        Workload::new(resources(scratch.to_str().expect("text")), &path, around).expect("these tests need root");
    let (orders, followed) = mpsc::channel(16);
    let (events_in, events) = mpsc::channel(16);
    let held = watch::Sender::new(address::State { held: true, problem: None });
    let health = workload.health();
    tokio::spawn(workload.follow(followed, events_in, held.subscribe()));
    Stage { orders, events, group: Cgroup::ensure(&path).expect("made"), scratch, held, health }
}

impl Stage {
    pub(crate) async fn order(&self, order: Order) {
        self.orders.send(order).await.expect("followed");
    }
    pub(crate) async fn start(&self) {
        self.order(Order::Start { epoch: Epoch(7) }).await;
    }
    pub(crate) async fn event(&mut self) -> Event {
        tokio::time::timeout(Millis(10_000).into(), self.events.recv()).await.expect("in time").expect("an event")
    }
    pub(crate) async fn up(&mut self) {
        self.start().await;
        assert_eq!(self.event().await, Event::WorkloadUp { epoch: Epoch(7) });
    }
    pub(crate) fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.scratch.join(name)).unwrap_or_default()
    }
    pub(crate) fn state(&self) -> String {
        self.health.borrow()[0].state.clone()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.group.kill();
        let _ = std::fs::remove_dir_all(&self.scratch);
        for _ in 0..100 {
            let remove = |path: &std::path::Path| {
                for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                    let _ = std::fs::remove_dir(entry.path());
                }
                std::fs::remove_dir(path)
            };
            if remove(self.group.path()).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
