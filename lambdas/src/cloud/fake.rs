//! A world in memory for tests: a row with its guards, nodes that behave, tables of routes, virtual time. The clock moves
//! to the next sleeper once all sleep; what the nodes do in between happens when the world is next looked at.

use super::{Cloud, CloudError, Found, Tables};
use crate::decide::{Described, Sighting};
use crate::topology::{Interface, InterfaceId, Route, RouteTable, Subnet, SubnetId, TableId, Target, Vpc, VpcId};
use ipnet::IpNet;
use lease::change::{Change, Expect, Terms, Write};
use lease::config::ClusterConfig;
use lease::events::Event;
use lease::heartbeat::{Hearing, Heartbeat, Replica};
use lease::ids::{Beat, BootId, ClusterId, Epoch, Incarnation, InstanceId, Lineage, NodeId, Nonce, Rev};
use lease::outcome::Outcome;
use lease::record::{Holder, Row};
use lease::time::Millis;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard};

pub(crate) const LAUNCHED: &str = "2026-11-22T10:00:00Z";
pub(crate) const LAUNCHED_S: i64 = 1_795_341_600;

pub(crate) fn node(name: &str) -> NodeId {
    name.parse().expect("a node's name")
}

pub(crate) fn config(nodes: &[&str]) -> ClusterConfig {
    let nodes: Vec<Value> = nodes
        .iter()
        .enumerate()
        .map(|(at, name)| serde_json::json!({ "name": name, "instance": format!("i-0{name}"), "priority": at + 1 }))
        .collect();
    let json = serde_json::json!({ "cluster": "web", "nodes": nodes,
        "virtual_ips": [{ "address": "10.99.0.10", "vpc": "vpc-1",
            "route_tables": ["rtb-1", "rtb-2", "rtb-new"], "create_in": ["rtb-new"] }] });
    ClusterConfig::parse(&json.to_string()).expect("a valid configuration")
}

pub(crate) fn holder(name: &str) -> Holder {
    Holder {
        node: node(name),
        incarnation: Incarnation::new(format!("inc-{name}")).expect("a name"),
        instance: InstanceId::new(format!("i-0{name}")).expect("an id"),
        boot: BootId::new(format!("boot-{name}")).expect("a name"),
        launched: LAUNCHED.into(),
    }
}

/// Held by `name`, active, epoch 7, beat 100.
pub(crate) fn row(name: &str, in_sync: &[&str]) -> Row {
    Row {
        cluster: "web".parse().expect("a name"),
        rev: Rev(500),
        lineage: Lineage::new("lineage").expect("a name"),
        epoch: Epoch(7),
        holder: Some(holder(name)),
        beat: Beat(100),
        in_sync: in_sync.iter().map(|name| holder(name).incarnation).collect(),
        activated: true,
        nominee: None,
        intent: None,
        paused: None,
        ttl_ms: Millis(3_000),
        lossy_ok: false,
        nonce: Nonce::new("first").expect("a name"),
    }
}

/// Of a healthy standby in step with [`row`], which hears nobody.
pub(crate) fn heartbeat(name: &str) -> Heartbeat {
    let me = holder(name);
    Heartbeat {
        cluster: "web".parse().expect("a name"),
        node: me.node,
        instance: me.instance,
        boot: me.boot,
        launched: me.launched,
        incarnation: me.incarnation,
        version: "0.1.0".into(),
        peer_address: "10.0.1.10:7400".into(),
        fingerprint: "ab".into(),
        role: "standby".into(),
        epoch: Epoch(7),
        beat: Beat(99),
        hears: BTreeMap::new(),
        resources: Vec::new(),
        replica: Replica { consistent: true, asynchronous: false, lag_ms: None },
    }
}

pub(crate) fn hearing(linked: bool) -> Hearing {
    Hearing { linked, silent_ms: Millis(100), promise_left_ms: Millis(2_000) }
}

/// Something that happens to the row.
type Hook = Box<dyn FnMut(&mut Row) + Send>;

/// What the world is, and what its nodes do.
pub(crate) struct State {
    pub now: Millis,
    pub config: Option<ClusterConfig>,
    pub row: Option<Row>,
    pub heartbeats: BTreeMap<NodeId, Heartbeat>,
    /// Nodes whose daemon runs: their heartbeats advance, the holder renews, a nominee accepts.
    pub alive: BTreeSet<NodeId>,
    /// Nodes that read and write nothing on the table, though alive.
    pub cut_off: BTreeSet<NodeId>,
    pub accept_after: Millis,
    /// The holder hands over on request after this; `None`: never.
    pub hand_over_after: Option<Millis>,
    pub instances: BTreeMap<InstanceId, Described>,
    pub tables: BTreeMap<TableId, RouteTable>,
    pub interfaces: BTreeMap<InterfaceId, Interface>,
    pub vpcs: BTreeMap<VpcId, Vpc>,
    pub subnets: BTreeMap<SubnetId, Subnet>,
    pub events: Vec<Event>,
    pub history: Vec<(String, String, Value)>,
    /// Mutating calls of EC2, in order.
    pub calls: Vec<String>,
    /// Answers of the next mutating calls, in order; then success.
    pub faults: VecDeque<CloudError>,
    /// Outcomes of the next writes: `true` where the write is applied but its answer lost.
    pub lost_answers: VecDeque<bool>,
    /// What happens to the row right after an answer was lost.
    pub after_lost: Option<Hook>,
    pub reads: usize,
    /// How many of the next calls of a read, by its name here, are throttled.
    pub throttled: BTreeMap<&'static str, u32>,
    /// Nodes whose heartbeat item a newer release has written.
    pub unreadable: BTreeSet<NodeId>,
    /// The holder renews before every read of the row, however close they are.
    pub renews_before_reads: bool,
    /// Called before each EC2 write is applied.
    pub before_write: Option<Hook>,
    nominated_at: Option<(Nonce, Millis)>,
    intended_at: Option<Millis>,
    beaten_at: Millis,
    random: u64,
    /// Until when each sleeps.
    sleepers: BTreeMap<u64, Millis>,
}

pub(crate) struct Fake(Mutex<State>);

impl Fake {
    /// Two nodes, `a` active and `b` in sync, both alive; two tables lead to `a`, a third is to be filled.
    pub(crate) fn pair() -> Self {
        Self::of(&["a", "b"])
    }

    pub(crate) fn of(names: &[&str]) -> Self {
        let table = |route: Option<&str>, subnet: &str| RouteTable {
            vpc: "vpc-1".into(),
            main: false,
            subnets: BTreeSet::from([subnet.into()]),
            routes: std::iter::once(Route {
                destination: "10.0.0.0/16".parse().expect("a range"),
                target: Target::Local,
                active: true,
                propagated: false,
            })
            .chain(route.map(|to| Route {
                destination: "10.99.0.10/32".parse().expect("a range"),
                target: Target::Interface(to.into()),
                active: true,
                propagated: false,
            }))
            .collect(),
        };
        let config = config(names);
        let interfaces = names.iter().map(|name| {
            let attached = Some((holder(name).instance, 0));
            let interface = Interface { vpc: "vpc-1".into(), subnet: "subnet-1".into(), attached, checked: false };
            (InterfaceId(format!("eni-{name}")), interface)
        });
        let instances = names
            .iter()
            .map(|name| (holder(name).instance, Described { state: "running".into(), launched: Some(LAUNCHED_S) }));
        Self(Mutex::new(State {
            now: Millis(1_000),
            config: Some(config),
            row: Some(row("a", names)),
            heartbeats: names.iter().map(|name| (node(name), heartbeat(name))).collect(),
            alive: names.iter().map(|name| node(name)).collect(),
            cut_off: BTreeSet::new(),
            accept_after: Millis(1_800),
            hand_over_after: Some(Millis(300)),
            instances: instances.collect(),
            tables: BTreeMap::from([
                ("rtb-1".into(), table(Some("eni-a"), "subnet-1")),
                ("rtb-2".into(), table(Some("eni-a"), "subnet-2")),
                ("rtb-new".into(), table(None, "subnet-3")),
                ("rtb-other".into(), table(None, "subnet-4")),
            ]),
            interfaces: interfaces.collect(),
            vpcs: BTreeMap::from([(
                "vpc-1".into(),
                Vpc { cidrs: BTreeSet::from(["10.0.0.0/16".parse().expect("a range")]) },
            )]),
            subnets: (1..=4)
                .map(|at| (SubnetId(format!("subnet-{at}")), Subnet { vpc: "vpc-1".into(), zone: format!("z{at}") }))
                .collect(),
            events: Vec::new(),
            history: Vec::new(),
            calls: Vec::new(),
            faults: VecDeque::new(),
            lost_answers: VecDeque::new(),
            after_lost: None,
            reads: 0,
            throttled: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            renews_before_reads: false,
            before_write: None,
            nominated_at: None,
            intended_at: None,
            beaten_at: Millis(1_000),
            random: 1,
            sleepers: BTreeMap::new(),
        }))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds the world")
    }

    /// The world after what its nodes have done by now.
    fn look(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.nodes_act();
        state
    }

    /// The node's daemon and machine are gone.
    pub(crate) fn kill(&self, name: &str) {
        self.state().alive.remove(&node(name));
    }

    pub(crate) fn routes(&self) -> Vec<(String, String)> {
        let vip: IpNet = "10.99.0.10/32".parse().expect("a range");
        let state = self.state();
        let routes = state
            .tables
            .iter()
            .filter_map(|(id, table)| Some((id.to_string(), table.static_route(vip)?.target.to_string())));
        routes.collect()
    }

    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        self.state().events.iter().map(Event::detail_type).collect()
    }
}

impl State {
    fn nodes_act(&mut self) {
        let now = self.now;
        let Some(row) = self.row.clone() else { return };
        let works = |node: &NodeId| self.alive.contains(node) && !self.cut_off.contains(node);
        if let Some(me) = row.holder.clone().filter(|holder| works(&holder.node)) {
            if !row.activated {
                return self.make(&Change::Activate { me, epoch: row.epoch });
            }
            let asked = row.open_intent().cloned().zip(self.hand_over_after);
            let at = *self.intended_at.get_or_insert(now);
            if row.open_intent().is_none() {
                self.intended_at = None;
            }
            if let Some((intent, _)) = asked.filter(|(_, after)| now.minus(at) >= *after) {
                let to = holder(intent.to.as_str());
                self.make(&Change::HandOver { me, epoch: row.epoch, to: to.clone(), terms: terms(&row) });
                self.make(&Change::Activate { me: to, epoch: row.epoch.next() });
                self.intended_at = None;
            } else if self.renews_before_reads || now.minus(self.beaten_at) >= Millis(750) {
                self.beaten_at = now;
                self.make(&Change::Renew { me, epoch: row.epoch });
            }
            return;
        }
        if let Some(nominee) = row.live_nominee().filter(|nominee| works(&nominee.node)) {
            let me = holder(nominee.node.as_str());
            let (nonce, at) = self.nominated_at.get_or_insert((row.nonce.clone(), now)).clone();
            if nonce != row.nonce {
                self.nominated_at = None;
            } else if now.minus(at) >= self.accept_after || nominee.proof.is_some() || row.holder.is_none() {
                self.make(&Change::Accept { me: me.clone(), terms: terms(&row) });
                self.make(&Change::Activate { me, epoch: row.epoch.next() });
                self.nominated_at = None;
            }
        }
    }

    fn make(&mut self, change: &Change) {
        let row = self.row.clone().expect("a row");
        let nonce = self.nonce();
        self.row = Some(change.on(&row, nonce).expect("a legal change").row);
    }

    fn nonce(&mut self) -> Nonce {
        self.random += 1;
        Nonce::new(format!("node-{}", self.random)).expect("a name")
    }

    fn answers(&mut self, call: &'static str) -> Result<(), CloudError> {
        match self.throttled.get_mut(call).filter(|left| **left > 0) {
            None => Ok(()),
            Some(left) => {
                *left -= 1;
                Err(CloudError::Throttled { call, code: "RequestLimitExceeded".into() })
            }
        }
    }

    fn fault(&mut self) -> Result<(), CloudError> {
        self.faults.pop_front().map_or(Ok(()), Err)
    }

    fn route(&mut self, table: &TableId, destination: IpNet, to: &InterfaceId) {
        if let Some(mut hook) = self.before_write.take() {
            hook(self.row.as_mut().expect("a row"));
            self.before_write = Some(hook);
        }
        let routes = &mut self.tables.get_mut(table).expect("a table").routes;
        routes.retain(|route| route.destination != destination);
        routes.push(Route { destination, target: Target::Interface(to.clone()), active: true, propagated: false });
    }
}

/// Somebody asleep; wakes up for good when it is no longer wanted.
struct Sleeper<'a> {
    world: &'a Fake,
    name: u64,
    until: Millis,
}

impl<'a> Sleeper<'a> {
    fn of(world: &'a Fake, span: Millis) -> Self {
        let mut state = world.state();
        state.random += 1;
        let (name, until) = (state.random, state.now.plus(span));
        state.sleepers.insert(name, until);
        Self { world, name, until }
    }

    /// Whether its time has come; it comes when all others sleep for longer.
    fn wakes(&self) -> bool {
        let mut state = self.world.state();
        if state.sleepers.values().all(|until| *until >= self.until) {
            state.now = state.now.max(self.until);
        }
        state.now >= self.until
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.world.state().sleepers.remove(&self.name);
    }
}

fn terms(row: &Row) -> Terms {
    Terms { ttl_ms: row.ttl_ms, lossy_ok: row.lossy_ok }
}

fn pick<Id: Ord + Clone, T: Clone>(all: &BTreeMap<Id, T>, wanted: impl Fn(&Id, &T) -> bool) -> Found<Id, T> {
    Ok(all.iter().filter(|(id, one)| wanted(id, one)).map(|(id, one)| (id.clone(), one.clone())).collect())
}

impl Cloud for Fake {
    fn elapsed(&self) -> Millis {
        self.state().now
    }

    fn wall_clock(&self) -> String {
        let now = self.state().now.0;
        format!("2026-11-22T10:{:02}:{:02}.{:03}Z", now / 60_000, now / 1_000 % 60, now % 1_000)
    }

    fn random(&self) -> u64 {
        let mut state = self.state();
        state.random += 1;
        state.random.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    async fn sleep(&self, span: Millis) {
        let sleeper = Sleeper::of(self, span);
        loop {
            // Everybody else gets to what they wait for first.
            tokio::task::yield_now().await;
            if sleeper.wakes() {
                return;
            }
        }
    }

    async fn row(&self, _: &ClusterId) -> Result<Option<Row>, CloudError> {
        let mut state = self.look();
        state.reads += 1;
        state.answers("row")?;
        Ok(state.row.clone())
    }

    async fn config(&self, cluster: &ClusterId) -> Result<Option<ClusterConfig>, CloudError> {
        let mut state = self.state();
        state.answers("config")?;
        Ok(state.config.clone().filter(|config| config.cluster == *cluster))
    }

    async fn store_config(&self, _: &ClusterId, json: &str) -> Result<(), CloudError> {
        self.state().config = Some(ClusterConfig::parse(json).expect("a valid configuration"));
        Ok(())
    }

    async fn remove_config(&self, cluster: &ClusterId) -> Result<(), CloudError> {
        let mut state = self.state();
        state.config = state.config.take().filter(|config| config.cluster != *cluster);
        Ok(())
    }

    async fn heartbeat(&self, _: &ClusterId, name: &NodeId) -> Result<Option<Sighting>, CloudError> {
        let mut state = self.look();
        state.answers("heartbeat")?;
        if state.unreadable.contains(name) {
            return Err(CloudError::Table { message: format!("heartbeat of {name}: version 9"), passing: false });
        }
        let moving = state.alive.contains(name) && !state.cut_off.contains(name);
        let seq = if moving { 10 + state.now.0 / 2_000 } else { 10 };
        Ok(state.heartbeats.get(name).map(|heartbeat| Sighting { seq, heartbeat: heartbeat.clone(), advanced: None }))
    }

    async fn write(&self, write: &Write, _: Millis) -> Outcome {
        let mut state = self.state();
        let matches = match (&write.expect, &state.row) {
            (Expect::Absent, None) => true,
            (Expect::Version(expected), Some(found)) => expected.rev == found.rev && expected.nonce == found.nonce,
            _ => false,
        };
        let lost = state.lost_answers.pop_front();
        if let Some(applied) = lost {
            if applied && matches {
                state.row = Some(write.row.clone());
            }
            if let Some(mut hook) = state.after_lost.take() {
                hook(state.row.as_mut().expect("a row"));
            }
            return Outcome::Unknown { problem: "time-out".into() };
        }
        if !matches {
            return Outcome::Refused { found: state.row.clone().map(Box::new) };
        }
        state.row = Some(write.row.clone());
        Outcome::Applied(Box::new(write.row.clone()))
    }

    async fn record(&self, _: &ClusterId, time: &str, id: &str, detail: &str) -> Result<(), CloudError> {
        let detail = serde_json::from_str(detail).expect("JSON");
        self.state().history.push((time.into(), id.into(), detail));
        Ok(())
    }

    async fn history(&self, _: &ClusterId, limit: usize) -> Result<Vec<(String, String, Value)>, CloudError> {
        Ok(self.state().history.iter().rev().take(limit).cloned().collect())
    }

    async fn announce(&self, event: &Event) -> Result<(), CloudError> {
        self.state().events.push(event.clone());
        Ok(())
    }

    async fn instances(&self, ids: &[InstanceId]) -> Found<InstanceId, Described> {
        let mut state = self.state();
        state.answers("instances")?;
        pick(&state.instances, |id, _| ids.contains(id))
    }

    async fn interfaces_of(&self, instances: &[InstanceId]) -> Found<InterfaceId, Interface> {
        let mut state = self.state();
        state.answers("interfaces_of")?;
        pick(&state.interfaces, |_, one| one.attached.as_ref().is_some_and(|(owner, _)| instances.contains(owner)))
    }

    async fn interfaces(&self, ids: &[InterfaceId]) -> Found<InterfaceId, Interface> {
        pick(&self.state().interfaces, |id, _| ids.contains(id))
    }

    async fn route_tables(&self, which: &Tables) -> Found<TableId, RouteTable> {
        let mut state = self.state();
        state.answers("route_tables")?;
        pick(&state.tables, |id, table| match which {
            Tables::Carrying { vpcs, destinations } => {
                vpcs.contains(&table.vpc) && table.routes.iter().any(|route| destinations.contains(&route.destination))
            }
            Tables::Listed(ids) => ids.contains(id),
            Tables::Of(vpcs) => vpcs.contains(&table.vpc),
        })
    }

    async fn subnets(&self, vpcs: &[VpcId]) -> Found<SubnetId, Subnet> {
        pick(&self.state().subnets, |_, subnet| vpcs.contains(&subnet.vpc))
    }

    async fn vpcs(&self, ids: &[VpcId]) -> Found<VpcId, Vpc> {
        pick(&self.state().vpcs, |id, _| ids.contains(id))
    }

    async fn replace_route(&self, table: &TableId, destination: IpNet, to: &InterfaceId) -> Result<(), CloudError> {
        let mut state = self.state();
        state.calls.push(format!("replace {table} {to}"));
        state.fault()?;
        let exists = state.tables.get(table).is_some_and(|table| table.static_route(destination).is_some());
        if !exists {
            return Err(CloudError::Refused {
                call: "ReplaceRoute",
                code: "InvalidRoute.NotFound".into(),
                message: String::new(),
            });
        }
        state.route(table, destination, to);
        Ok(())
    }

    async fn create_route(&self, table: &TableId, destination: IpNet, to: &InterfaceId) -> Result<(), CloudError> {
        let mut state = self.state();
        state.calls.push(format!("create {table} {to}"));
        state.fault()?;
        if state.tables.get(table).is_some_and(|table| table.static_route(destination).is_some()) {
            return Err(CloudError::Refused {
                call: "CreateRoute",
                code: "RouteAlreadyExists".into(),
                message: String::new(),
            });
        }
        state.route(table, destination, to);
        Ok(())
    }

    async fn let_forward(&self, interface: &InterfaceId) -> Result<(), CloudError> {
        let mut state = self.state();
        state.calls.push(format!("forward {interface}"));
        state.fault()?;
        state.interfaces.get_mut(interface).expect("an interface").checked = false;
        Ok(())
    }

    async fn stop(&self, instance: &InstanceId) -> Result<(), CloudError> {
        let mut state = self.state();
        state.calls.push(format!("stop {instance}"));
        state.fault()?;
        state.instances.get_mut(instance).expect("an instance").state = "stopped".into();
        let gone: Vec<NodeId> =
            state.heartbeats.values().filter(|h| h.instance == *instance).map(|h| h.node.clone()).collect();
        for node in gone {
            state.alive.remove(&node);
        }
        Ok(())
    }
}
