//! A whole cluster in one thread around the real machines: a row, links, address lifetimes as the kernel keeps them, a
//! workload that takes time, and a function that nominates as told. Time is a number. After every event: at most one
//! node is reachable and running, and no node's check fails (the machine asserts those itself).

#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "a module of several test programs, each of which uses its part"
)]

use lease::change::{Change, Expect, Founding, Terms, Write};
use lease::config::Member;
use lease::events::Event as Told;
use lease::ids::{BootId, ClusterId, Incarnation, InstanceId, Lineage, NodeId, Nonce};
use lease::outcome::Outcome;
use lease::policy::Policy;
use lease::record::{Holder, Intent, Nominee, ProofOfDeath, Row};
use lease::rules::Rule;
use lease::time::{Millis, Moment};
use node::effect::{Effect, Note};
use node::event::{Event, Replica};
use node::view::View;
use node::{Node, Setup, TICK};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

const TABLE_MS: u64 = 8;
const LINK_MS: u64 = 1;
const FUNCTION_MS: u64 = 200;
const WORKLOAD_MS: u64 = 60;
const VOLUME_MS: u64 = 1;

pub struct Host {
    pub node: Option<Node>,
    pub running: bool,
    pub address_until: u64,
    /// While set, the daemon's process is stopped: no event reaches it, the kernel and the workload go on.
    stopped: bool,
    missed: Vec<Event>,
    /// This node's clock against real time, in percent.
    pub clock_percent: u64,
    starts: u64,
}

pub struct World {
    pub now: u64,
    pub hosts: BTreeMap<&'static str, Host>,
    pub row: Option<Row>,
    pub policy: Policy,
    /// Who cannot reach the table.
    pub no_table: BTreeSet<&'static str>,
    /// Writes are applied, answers are lost.
    pub mute_table: bool,
    /// Whose writes the table does not process, and says so.
    pub denied: BTreeSet<&'static str>,
    /// One-way cuts of the peer link.
    pub cuts: BTreeSet<(&'static str, &'static str)>,
    pub no_functions: bool,
    /// Nodes have volumes; their replication says what the test says.
    pub volumes: bool,
    /// The last epoch that each node asked its replication to promise.
    promises: BTreeMap<&'static str, u64>,
    /// What each node's replication has told last.
    replicas: BTreeMap<&'static str, Replica>,
    /// Those whose replication does not follow when its node closes it.
    pub never_closed: BTreeSet<&'static str>,
    pub told: Vec<(u64, &'static str, Told)>,
    pub notes: Vec<String>,
    pub rebooted: BTreeSet<&'static str>,
    pub writes: u64,
    pub reads: u64,
    /// (from, to, who) of every span of time in which somebody served.
    pub served: Vec<(u64, u64, &'static str)>,
    queue: BinaryHeap<Due>,
    count: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Due {
    at: u64,
    order: u64,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Event(&'static str, u64, Event),
    Apply(&'static str, u64, node::event::Ticket, Box<Write>),
    Read(&'static str, u64, Moment),
    Function(Told),
    Down(&'static str),
    Up(&'static str),
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

pub fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("a valid name")
}
fn nonce(text: String) -> Nonce {
    Nonce::new(text).expect("a valid nonce")
}

impl World {
    pub fn of(names: &[&'static str]) -> Self {
        Self::made(names, false)
    }

    /// Nodes with volumes; nothing is known of their data until [`Self::tell_replica`].
    pub fn with_volumes(names: &[&'static str]) -> Self {
        Self::made(names, true)
    }

    fn made(names: &[&'static str], volumes: bool) -> Self {
        let mut world = Self {
            now: 0,
            hosts: BTreeMap::new(),
            row: None,
            policy: Policy::default(),
            no_table: BTreeSet::new(),
            mute_table: false,
            denied: BTreeSet::new(),
            cuts: BTreeSet::new(),
            no_functions: false,
            volumes,
            promises: BTreeMap::new(),
            replicas: BTreeMap::new(),
            never_closed: BTreeSet::new(),
            told: Vec::new(),
            notes: Vec::new(),
            rebooted: BTreeSet::new(),
            writes: 0,
            reads: 0,
            served: Vec::new(),
            queue: BinaryHeap::new(),
            count: 0,
        };
        for name in names {
            world.hosts.insert(
                name,
                Host {
                    node: None,
                    running: false,
                    address_until: 0,
                    stopped: false,
                    missed: Vec::new(),
                    clock_percent: 100,
                    starts: 0,
                },
            );
        }
        for name in names {
            world.boot(name);
        }
        world
    }

    /// A cluster that serves on the first node with all others in sync.
    pub fn serving(names: &[&'static str]) -> Self {
        let mut world = Self::of(names);
        world.run_until(20_000, |world| {
            world.serving_now() == Some(names[0])
                && world.row.as_ref().is_some_and(|row| row.in_sync.len() == names.len())
        });
        world.run(1_000);
        world
    }

    pub fn holder(&self, name: &str) -> Holder {
        Holder {
            node: node(name),
            incarnation: Incarnation::new(format!("inc-{name}")).expect("valid"),
            instance: InstanceId::new(format!("i-{name}")).expect("valid"),
            boot: BootId::new(format!("boot-{name}")).expect("valid"),
            launched: "2026-01-01T00:00:00Z".into(),
        }
    }

    /// Starts the node's daemon; whatever ran before is gone but for the workload.
    pub fn boot(&mut self, name: &'static str) {
        let now = self.moment(name);
        self.replicas.remove(name);
        let host = self.hosts.get_mut(name).expect("a known node");
        host.starts += 1;
        host.stopped = false;
        host.missed.clear();
        let starts = host.starts;
        let node = self.machine(name, now);
        self.hosts.get_mut(name).expect("a known node").node = Some(node);
        self.push(0, What::Event(name, starts, Event::Tick));
    }

    /// The machine of a new process of this node, to be run by a test itself.
    pub fn machine(&self, name: &'static str, now: Moment) -> Node {
        let member = |name: &&'static str| Member {
            name: node(name),
            instance: InstanceId::new(format!("i-{name}")).expect("valid"),
            priority: 1,
        };
        let setup = Setup {
            cluster: ClusterId::new("web").expect("valid"),
            me: self.holder(name),
            members: self.hosts.keys().map(member).collect(),
            policy: self.policy.clone(),
            volumes: self.volumes,
            nonce_prefix: format!("{name}-{}", self.hosts[name].starts),
        };
        Node::new(setup, now)
    }

    /// SIGKILL of the daemon; the workload goes on, the kernel ends the address.
    pub fn kill_daemon(&mut self, name: &'static str) {
        let host = self.hosts.get_mut(name).expect("a known node");
        host.node = None;
        host.starts += 1;
        // The kernel closes its connections, and the peers see it at once.
        let peers: Vec<_> =
            self.hosts.iter().filter(|(peer, _)| **peer != name).map(|(peer, host)| (*peer, host.starts)).collect();
        for (peer, starts) in peers {
            if !self.cuts.contains(&(name, peer)) {
                self.push(LINK_MS, What::Event(peer, starts, Event::LinkLost { node: node(name) }));
            }
        }
    }

    /// The whole machine is gone.
    pub fn power_off(&mut self, name: &'static str) {
        self.kill_daemon(name);
        let host = self.hosts.get_mut(name).expect("a known node");
        host.running = false;
        host.address_until = 0;
    }

    pub fn sigstop(&mut self, name: &'static str) {
        self.hosts.get_mut(name).expect("a known node").stopped = true;
    }

    pub fn sigcont(&mut self, name: &'static str) {
        let host = self.hosts.get_mut(name).expect("a known node");
        host.stopped = false;
        let starts = host.starts;
        for event in std::mem::take(&mut host.missed) {
            self.push(0, What::Event(name, starts, event));
        }
        self.push(0, What::Event(name, starts, Event::Tick));
    }

    pub fn cut(&mut self, one: &'static str, other: &'static str) {
        self.cuts.insert((one, other));
        self.cuts.insert((other, one));
    }

    pub fn shut_down(&mut self, name: &'static str) {
        let starts = self.hosts[name].starts;
        self.push(0, What::Event(name, starts, Event::ShutDown));
    }

    pub fn promised(&self, name: &str) -> Option<u64> {
        self.promises.get(name).copied()
    }

    /// The node's replication tells of its data.
    pub fn tell_replica(&mut self, name: &'static str, replica: Replica) {
        let starts = self.hosts[name].starts;
        self.replicas.insert(name, replica.clone());
        self.push(0, What::Event(name, starts, Event::Replica(replica)));
    }

    pub fn fail_resource(&mut self, name: &'static str) {
        let epoch = self.row.as_ref().expect("a row").epoch;
        let starts = self.hosts[name].starts;
        let event = Event::ResourceFailed { epoch, resource: "nginx".into(), reason: "check failed".into() };
        self.push(0, What::Event(name, starts, event));
    }

    /// A change by a function or an operator, on the row as it is.
    pub fn change(&mut self, change: Change) {
        self.count += 1;
        let row = self.row.as_ref().expect("a row");
        let write = change.on(row, nonce(format!("function-{}", self.count))).expect("a legal change");
        self.row = Some(write.row);
    }

    pub fn intend(&mut self, to: &str) {
        let id = nonce(format!("intent-{}", self.count));
        self.change(Change::Intend(Intent { id, to: node(to), rule: Rule::R400, reason: "test".into() }));
    }

    pub fn nominate(&mut self, to: &str, rule: Rule, proof: Option<ProofOfDeath>) {
        let row = self.row.as_ref().expect("a row");
        let nominee = Nominee {
            node: node(to),
            incarnation: self.holder(to).incarnation,
            epoch: row.epoch,
            beat: row.beat,
            rule,
            reason: "test".into(),
            proof,
            lossy: false,
        };
        self.change(Change::Nominate(nominee));
    }

    pub fn view(&self, name: &'static str) -> View {
        self.hosts[name].node.as_ref().expect("running").view(self.moment(name))
    }

    fn moment(&self, name: &str) -> Moment {
        let percent = self.hosts.get(name).map_or(100, |host| host.clock_percent);
        let us = 1_000_000_000 + self.now * 10 * percent;
        Moment { boottime_us: us, monotonic_raw_us: us }
    }

    pub fn is_serving(&self, name: &str) -> bool {
        let host = &self.hosts[name];
        host.running && host.address_until > self.now
    }

    pub fn serving_now(&self) -> Option<&'static str> {
        let serving: Vec<_> = self.hosts.keys().copied().filter(|name| self.is_serving(name)).collect();
        assert!(serving.len() <= 1, "at {}: {serving:?} serve at once\n{}", self.now, self.notes.join("\n"));
        serving.first().copied()
    }

    /// The longest time without anybody serving, from `since` on.
    pub fn longest_gap(&self, since: u64) -> u64 {
        let mut at = since;
        let mut longest = 0;
        for (from, to, _) in self.served.iter().filter(|(_, to, _)| *to >= since) {
            longest = longest.max(from.saturating_sub(at));
            at = at.max(*to);
        }
        longest.max(self.now.saturating_sub(at))
    }

    pub fn count_told(&self, wanted: impl Fn(&Told) -> bool) -> usize {
        self.told.iter().filter(|(_, _, told)| wanted(told)).count()
    }

    pub fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        self.run_to(end, |_| false);
    }

    /// Runs until `done`, at most `ms`; panics otherwise.
    pub fn run_until(&mut self, ms: u64, done: impl Fn(&Self) -> bool) -> u64 {
        let (start, end) = (self.now, self.now + ms);
        assert!(self.run_to(end, &done), "not within {ms} ms; row {:?}\n{}", self.row, self.notes.join("\n"));
        self.now - start
    }

    fn run_to(&mut self, end: u64, done: impl Fn(&Self) -> bool) -> bool {
        while self.now < end {
            if done(self) {
                return true;
            }
            while self.queue.peek().is_some_and(|due| due.at <= self.now) {
                let due = self.queue.pop().expect("peeked");
                self.happen(due.what);
                self.serving_now();
            }
            self.now += 1;
            if self.now.is_multiple_of(TICK.0) {
                let live: Vec<_> = self
                    .hosts
                    .iter()
                    .filter(|(_, host)| host.node.is_some())
                    .map(|(name, host)| (*name, host.starts))
                    .collect();
                for (name, starts) in live {
                    self.happen(What::Event(name, starts, Event::Tick));
                    self.serving_now();
                }
            }
            if let Some(name) = self.serving_now() {
                match self.served.last_mut() {
                    Some((_, to, who)) if *who == name && *to + 1 >= self.now => *to = self.now,
                    _ => self.served.push((self.now, self.now, name)),
                }
            }
        }
        done(self)
    }

    fn push(&mut self, after: u64, what: What) {
        self.count += 1;
        self.queue.push(Due { at: self.now + after, order: self.count, what });
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Event(name, starts, event) => {
                let now = self.moment(name);
                let host = self.hosts.get_mut(name).expect("a known node");
                if host.starts != starts {
                    return;
                }
                if host.stopped {
                    if event != Event::Tick && host.missed.len() < 1_000 {
                        host.missed.push(event);
                    }
                    return;
                }
                let Some(machine) = host.node.as_mut() else { return };
                let effects = machine.step(event, now);
                let (closing, volume) = (machine.closing(), self.replicas.get_mut(name));
                if let (Some(_), Some(replica)) = (closing, volume)
                    && replica.closed != closing
                    && !self.never_closed.contains(name)
                {
                    replica.closed = closing;
                    let event = Event::Replica(replica.clone());
                    self.push(VOLUME_MS, What::Event(name, starts, event));
                }
                for effect in effects {
                    self.effect(name, starts, effect, now);
                }
            }
            What::Apply(name, starts, ticket, write) => self.apply(name, starts, ticket, &write),
            What::Read(name, starts, asked) => {
                let row = self.row.clone().map(Box::new);
                self.push(TABLE_MS / 2, What::Event(name, starts, Event::RowRead { asked, row }));
            }
            What::Function(told) => self.function(&told),
            What::Down(name) => self.hosts.get_mut(name).expect("a known node").running = false,
            What::Up(name) => self.hosts.get_mut(name).expect("a known node").running = true,
        }
    }

    fn apply(&mut self, name: &'static str, starts: u64, ticket: node::event::Ticket, write: &Write) {
        let matches = match (&write.expect, &self.row) {
            (Expect::Absent, None) => true,
            (Expect::Version(seen), Some(row)) => seen.rev == row.rev && seen.nonce == row.nonce,
            _ => false,
        };
        let outcome = if matches {
            self.row = Some(write.row.clone());
            Outcome::Applied(Box::new(write.row.clone()))
        } else {
            Outcome::of_conflict(write, self.row.clone().map(Box::new), false)
        };
        if self.mute_table {
            let outcome = Outcome::Unknown { problem: "the answer was lost".into() };
            self.push(500, What::Event(name, starts, Event::Written { ticket, outcome }));
        } else {
            self.push(TABLE_MS / 2, What::Event(name, starts, Event::Written { ticket, outcome }));
        }
    }

    fn effect(&mut self, name: &'static str, starts: u64, effect: Effect, now: Moment) {
        match effect {
            Effect::Read => {
                self.reads += 1;
                if self.no_table.contains(name) {
                    let event = Event::RowUnreadable { problem: "time-out".into() };
                    self.push(500, What::Event(name, starts, event));
                } else {
                    self.push(TABLE_MS / 2, What::Read(name, starts, now));
                }
            }
            Effect::Write { ticket, write } => {
                self.writes += 1;
                if self.denied.contains(name) {
                    let outcome = Outcome::NotApplied { problem: "access denied".into() };
                    self.push(TABLE_MS, What::Event(name, starts, Event::Written { ticket, outcome }));
                } else if self.no_table.contains(name) {
                    let outcome = Outcome::Unknown { problem: "time-out".into() };
                    self.push(500, What::Event(name, starts, Event::Written { ticket, outcome }));
                } else {
                    self.push(TABLE_MS / 2, What::Apply(name, starts, ticket, write));
                }
            }
            Effect::Ping { to, ping } => {
                let from = self.holder(name);
                self.send(name, &to, Event::Pinged { from, ping });
            }
            Effect::Pong { to, pong } => {
                let from = self.holder(name);
                self.send(name, &to, Event::Ponged { from, pong });
            }
            Effect::Nudge { to } => self.send(name, &to, Event::Nudged { from: node(name) }),
            Effect::HoldAddress { at_most } => {
                // As the kernel keeps it: whole seconds, up to 250 ms late.
                let seconds = at_most.0.saturating_sub(250) / 1_000;
                let until = if seconds == 0 { 0 } else { self.now + seconds * 1_000 + 250 };
                self.hosts.get_mut(name).expect("a known node").address_until = until;
            }
            Effect::DropAddress => self.hosts.get_mut(name).expect("a known node").address_until = 0,
            Effect::StartWorkload { epoch } => {
                self.push(WORKLOAD_MS, What::Up(name));
                self.push(WORKLOAD_MS, What::Event(name, starts, Event::WorkloadUp { epoch }));
            }
            Effect::StopWorkload | Effect::KillWorkload => {
                self.push(WORKLOAD_MS / 2, What::Down(name));
                self.push(WORKLOAD_MS / 2, What::Event(name, starts, Event::WorkloadDown));
            }
            Effect::Reboot { .. } => {
                self.rebooted.insert(name);
                self.power_off(name);
            }
            Effect::Emit(told) => {
                self.told.push((self.now, name, told.clone()));
                if !self.no_functions && !self.no_table.contains(name) {
                    self.push(FUNCTION_MS, What::Function(told));
                }
            }
            Effect::Note(Note::Became { from, to, epoch, why }) => {
                self.notes.push(format!("{:>8} {name} {from} -> {to} epoch {epoch}: {why}", self.now));
            }
            Effect::Note(Note::Trouble { epoch, what }) => {
                self.notes.push(format!("{:>8} {name} trouble at epoch {epoch}: {what}", self.now));
            }
            Effect::Promise { epoch } => drop(self.promises.insert(name, epoch.0)),
            Effect::Heartbeat => {}
            Effect::Exit => self.power_off(name),
        }
    }

    fn send(&mut self, from: &'static str, to: &NodeId, event: Event) {
        let Some(to) = self.hosts.keys().copied().find(|name| *name == to.as_str()) else { return };
        if !self.cuts.contains(&(from, to)) {
            let starts = self.hosts[to].starts;
            self.push(LINK_MS, What::Event(to, starts, event));
        }
    }

    /// The control plane in a nutshell: found, nominate the suspecting in-sync standby, turn relief into an intent.
    fn function(&mut self, told: &Told) {
        let in_sync = |row: &Row, name: &NodeId| row.in_sync.contains(&self.holder(name.as_str()).incarnation);
        match told {
            Told::NodeJoined(joined) if self.row.is_none() => {
                let nominee = Nominee {
                    node: joined.node.clone(),
                    incarnation: joined.incarnation.clone(),
                    epoch: lease::ids::Epoch(0),
                    beat: lease::ids::Beat(0),
                    rule: Rule::R050,
                    reason: "first start".into(),
                    proof: None,
                    lossy: false,
                };
                let founding = Founding {
                    cluster: joined.cluster.clone(),
                    lineage: Lineage::new("lineage-1").expect("valid"),
                    terms: Terms { ttl_ms: self.policy.ttl_ms, lossy_ok: false },
                    nominee,
                };
                self.row = Some(founding.write(nonce("founding".into())).row);
            }
            Told::HolderSuspected(hint) => {
                let Some(row) = &self.row else { return };
                if (row.epoch, row.beat) == (hint.epoch, hint.beat)
                    && !hint.peer_link
                    && row.paused.is_none()
                    && in_sync(row, &hint.node)
                    && row.live_nominee().is_none()
                {
                    let rule = if row.holder.is_none() { Rule::R250 } else { Rule::R210 };
                    self.nominate(&hint.node.to_string(), rule, None);
                }
            }
            Told::HandoverRequested(request) => {
                let Some(row) = &self.row else { return };
                let other = self.hosts.keys().copied().find(|name| {
                    *name != request.node.as_str() && in_sync(row, &node(name)) && self.hosts[name].node.is_some()
                });
                match other {
                    Some(other) if request.released && row.holder.is_none() => self.nominate(other, Rule::R250, None),
                    Some(other)
                        if row.intent.is_none() && row.holder.as_ref().is_some_and(|h| h.node == request.node) =>
                    {
                        self.intend(other);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    pub fn epoch(&self) -> u64 {
        self.row.as_ref().map_or(0, |row| row.epoch.0)
    }

    pub fn ttl(&self) -> u64 {
        self.policy.ttl_ms.0
    }

    pub fn in_sync(&self) -> usize {
        self.row.as_ref().map_or(0, |row| row.in_sync.len())
    }

    pub fn proof(name: &str) -> ProofOfDeath {
        ProofOfDeath {
            instance: InstanceId::new(format!("i-{name}")).expect("valid"),
            state: lease::record::DeadState::Stopped,
        }
    }

    pub fn lease_ms(&self, name: &'static str) -> Millis {
        self.view(name).lease_left_ms
    }
}
