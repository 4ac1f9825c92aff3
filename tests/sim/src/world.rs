//! The simulated cluster: everything that it is made of, and the one loop that lets things happen in order of their time.

use crate::bus::{Bus, Put};
use crate::checks::{God, Violation};
use crate::client::Read;
use crate::clock::Clock;
use crate::cloud::Answer;
use crate::data::{Replica, Write, name};
use crate::deploy::{Deployed, config};
use crate::dice::Dice;
use crate::ec2::{Ec2, Ec2Change, launch_time};
use crate::faults::Undo;
use crate::heal::Healing;
use crate::history::History;
use crate::host::Host;
use crate::network::{Network, PeerMessage};
use crate::queue::Queue;
use crate::report::Counts;
use crate::run::Functions;
use crate::store::{AtTable, Store, Tried, Want};
use crate::stories::{BEGINS, Crossing, Gaps};
use crate::trace::{Trace, Us};
use crate::weather::Weather;
use crate::wires::{Parcel, Wires};
use lease::config::ClusterConfig;
use lease::ids::{BootId, ClusterId, Epoch, InstanceId, NodeId};
use lease::record::{Holder, Row};
use node::event::Event;
use serde_json::Value;
use std::sync::Arc;

pub const NAMES: [&str; 3] = ["a", "b", "c"];

/// A process that something is for. What is for one that has ended comes to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Node { host: usize, life: u64 },
    Run { run: u64 },
}

/// What a process is told. It waits while the process stands still.
#[derive(Clone, Debug)]
pub enum Message {
    Event(Box<Event>),
    Peer(Box<PeerMessage>),
    LinkLost {
        peer: usize,
    },
    RowTried {
        id: u64,
        tries: u32,
        result: Tried,
    },
    RowLimit {
        id: u64,
        tries: u32,
    },
    RowAgain {
        id: u64,
    },
    /// `None`: no answer. Else the row, if there is one.
    RowRead {
        want: Want,
        row: Option<Option<Arc<Row>>>,
    },
    Heartbeat,
    /// The volume's thread has heard something: from the node's, or from a disk.
    Ordered(Box<volume::core::Event>),
    /// The node's thread hears the volume's next report.
    Reported,
    /// Something has come on a connection between volumes.
    Parcel {
        wire: u64,
        end: usize,
        what: Parcel,
    },
    /// A write was answered; its client asks for it to be durable.
    Flush(Write),
    /// The workload's processes are gone.
    Ended {
        order: u64,
    },
    Answer {
        call: u32,
        answer: Answer,
    },
}

/// What is due at some time.
#[derive(Clone, Debug)]
pub enum Happening {
    Tick { host: usize, life: u64 },
    To { who: Who, what: Message },
    AtTable(AtTable),
    Disk { host: usize, life: u64, number: u64 },
    Up { host: usize, power: u64, order: u64, epoch: Epoch, who: Who },
    Down { host: usize, power: u64, order: u64, who: Who },
    Boot { host: usize, power: u64 },
    StartDaemon { host: usize },
    Stopped { host: usize },
    StartInstance { host: usize },
    StopInstance { host: usize },
    Launched { host: usize },
    Invoke { put: Put },
    Start { payload: Arc<Value>, what: &'static str },
    RunLimit { run: u64 },
    Watch,
    Ec2 { change: Ec2Change, answer: Option<(u64, u32, Us)> },
    LateRoute { table: usize, to: Option<usize> },
    RouteJudged { table: usize },
    Client,
    Read(Read),
    LookAt { host: usize, life: u64 },
    Story,
    Fault,
    Undo(Undo),
    Heal,
    Judge,
}

#[derive(Debug)]
pub struct World {
    pub now: Us,
    pub seed: u64,
    pub dice: Dice,
    pub weather: Weather,
    pub queue: Queue<Happening>,
    pub cluster: ClusterId,
    pub config: Arc<ClusterConfig>,
    pub deployed: Deployed,
    /// Of all that were ever deployed.
    pub longest_lease_ms: u64,
    pub hosts: Vec<Host>,
    pub network: Network,
    pub store: Store,
    pub ec2: Ec2,
    pub bus: Bus,
    pub functions: Functions,
    pub history: History,
    pub god: God,
    pub trace: Trace,
    pub counts: Counts,
    pub violation: Option<Violation>,
    pub wires: Wires,
    /// How many operations of the clients before this one were reads.
    pub reads_in_a_row: u32,
    pub incarnations: u32,
    pub gaps: Gaps,
    pub crossing: Crossing,
    /// Faults have stopped.
    pub healed: bool,
    pub healing: Healing,
    pub done: bool,
}

pub fn holder(host: usize) -> Holder {
    let node = NAMES[host];
    let (_, launched) = launch_time(0);
    Holder {
        node: NodeId::new(node).expect("a valid name"),
        incarnation: name(u32::try_from(host).unwrap_or(0) + 1),
        instance: InstanceId::new(format!("i-0{node}")).expect("a valid id"),
        boot: BootId::new(format!("boot-{node}-0")).expect("a valid name"),
        launched,
    }
}

impl World {
    #[must_use]
    pub fn new(seed: u64, weather: Weather, dice: Dice, keep_trace: bool) -> Self {
        let deployed = Deployed::first(&weather);
        let config = Arc::new(config(weather.nodes, deployed));
        let hosts = weather.nodes;
        let mut world = Self {
            now: 0,
            seed,
            dice,
            queue: Queue::default(),
            cluster: config.cluster.clone(),
            config,
            deployed,
            longest_lease_ms: deployed.ttl_ms,
            hosts: Vec::new(),
            network: Network::new(hosts),
            store: Store::new(hosts),
            ec2: Ec2::new(hosts),
            bus: Bus::default(),
            functions: Functions::default(),
            history: History::new(weather.sectors),
            god: God::default(),
            trace: Trace::new(keep_trace),
            counts: Counts { without_volumes: u64::from(!weather.volumes), ..Counts::default() },
            violation: None,
            reads_in_a_row: 0,
            wires: Wires::default(),
            incarnations: u32::try_from(hosts).unwrap_or(0),
            gaps: Gaps::default(),
            crossing: Crossing::default(),
            healed: false,
            healing: Healing::default(),
            done: false,
            weather,
        };
        for host in 0..hosts {
            let (boot, raw) = world.rates(host);
            let number = u32::try_from(host).unwrap_or(0) + 1;
            let replica = Replica::blank(number, world.weather.sectors, world.weather.volumes);
            let clock = Clock::booted(0, boot, raw);
            world.hosts.push(Host::new(holder(host), clock, replica, hosts));
            let at = world.dice.below(500_000);
            world.queue.push(at, Happening::StartDaemon { host });
        }
        let first_watch = world.dice.below(60_000_000);
        world.queue.push(first_watch, Happening::Watch);
        world.queue.push(1_000_000, Happening::Client);
        if world.weather.story.is_some() {
            // At any moment between two beats.
            let begins = BEGINS + world.dice.below(2_000_000);
            world.queue.push(begins, Happening::Story);
        } else {
            world.queue.push(4_000_000, Happening::Fault);
        }
        world.queue.push(world.weather.length, Happening::Heal);
        world
    }

    /// Runs until the service is whole again after all faults, or something is wrong.
    pub fn run(&mut self) {
        while !self.done && self.violation.is_none() {
            let Some((at, what)) = self.queue.pop() else { break };
            self.now = at;
            self.happen(what);
        }
        self.counts.simulated = self.now;
        self.counts.events = self.queue.count();
    }

    /// Runs to this time, or until something is wrong.
    #[cfg(test)]
    pub(crate) fn run_until(&mut self, end: Us) {
        while self.violation.is_none() {
            let Some((at, what)) = self.queue.pop() else { return };
            if at > end {
                self.queue.push(at, what);
                return;
            }
            self.now = at;
            self.happen(what);
        }
    }

    pub(crate) fn host_of(&self, node: &NodeId) -> usize {
        NAMES.iter().position(|name| *name == node.as_str()).expect("a node of the cluster")
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Tick { host, life } => self.tick(host, life),
            Happening::To { who, what } => self.deliver(who, what),
            Happening::AtTable(what) => self.at_table(what),
            Happening::Disk { host, life, number } => {
                if self.hosts[host].stalled.is_some() {
                    self.queue.push(self.now + 20_000, Happening::Disk { host, life, number });
                } else {
                    self.disk_done(host, life, number);
                }
            }
            Happening::Up { host, power, order, epoch, who } => {
                if self.hosts[host].stalled.is_some() {
                    self.queue.push(self.now + 20_000, Happening::Up { host, power, order, epoch, who });
                } else {
                    self.workload_up(host, power, order, epoch, who);
                }
            }
            Happening::Down { host, power, order, who } => {
                if self.hosts[host].stalled.is_some() {
                    self.queue.push(self.now + 20_000, Happening::Down { host, power, order, who });
                } else {
                    self.workload_down(host, power, order, who);
                }
            }
            Happening::Boot { host, power } => self.boot(host, power),
            Happening::StartDaemon { host } => self.start_daemon(host),
            Happening::Stopped { host } => self.instance_stopped(host),
            Happening::StopInstance { host } => self.stop_instance(host, "by somebody"),
            Happening::StartInstance { host } => self.start_instance(host),
            Happening::Launched { host } => self.instance_launched(host),
            Happening::Invoke { put } => self.invoke(put.payload, put.what),
            Happening::Start { payload, what } => {
                if self.functions.down == 0 {
                    self.start_failover(payload, what);
                }
            }
            Happening::RunLimit { run } => self.run_limit(run),
            Happening::Watch => {
                self.start_watch();
                self.queue.push(self.now + 60_000_000, Happening::Watch);
            }
            Happening::Ec2 { change, answer } => self.apply_ec2(change, answer),
            Happening::Client => self.client(),
            Happening::Read(read) => self.read(read),
            Happening::LateRoute { table, to } => self.set_route(table, to, " (a late call)"),
            Happening::RouteJudged { table } => self.judge_route(table),
            Happening::Story => self.tell_story(),
            Happening::LookAt { host, life } => {
                // After a suspension: by now it has seen what that means.
                let here = &mut self.hosts[host];
                if here.life == life && !here.is_frozen() {
                    self.check_serving(host);
                    self.check_windows(host);
                } else {
                    // It died, or stands still again, before it could look: its addresses live for what the kernel has left of them.
                    here.tainted_until = here.tainted_until.max(here.address_until);
                }
            }
            Happening::Fault => self.fault(),
            Happening::Undo(undo) => self.undo(undo),
            Happening::Heal => self.heal(),
            Happening::Judge => self.judge(),
        }
    }

    fn deliver(&mut self, who: Who, what: Message) {
        match who {
            Who::Node { host, life } => {
                let here = &self.hosts[host];
                if here.life != life {
                    return;
                }
                if here.is_frozen() {
                    self.miss(host, what);
                } else {
                    self.node_told(host, what);
                }
            }
            Who::Run { run } => {
                let Some(running) = self.functions.runs.get(&run) else { return };
                if running.frozen_until > self.now {
                    let until = running.frozen_until;
                    self.queue.push_late(until, Happening::To { who, what });
                } else {
                    self.run_told(run, what);
                }
            }
        }
    }

    fn node_told(&mut self, host: usize, what: Message) {
        match what {
            Message::Event(event) => self.step(host, *event),
            Message::Peer(message) => self.step(host, message.event()),
            Message::LinkLost { peer } => {
                let node = self.hosts[peer].me.node.clone();
                self.step(host, Event::LinkLost { node });
            }
            Message::RowTried { id, tries, result } => self.row_tried(id, tries, result),
            Message::RowLimit { id, tries } => self.row_limit(id, tries),
            Message::RowAgain { id } => self.row_try(id),
            Message::RowRead { want: Want::Asked(asked), row: Some(row) } => {
                let row = row.map(|row| Box::new(Row::clone(&row)));
                self.step(host, Event::RowRead { asked, row });
            }
            Message::RowRead { .. } => self.step(host, Event::RowUnreadable { problem: "no answer".into() }),
            Message::Heartbeat => self.heartbeat_due(host),
            Message::Ordered(event) => {
                self.step_volume(host, *event);
                self.begin_reading(host);
            }
            Message::Reported => self.reported(host),
            Message::Parcel { wire, end, what } => self.parcel(host, wire, end, what),
            Message::Flush(write) => self.flush(host, write),
            Message::Ended { order } => self.workload_ended(host, order),
            Message::Answer { .. } => unreachable!("nodes call nobody"),
        }
    }

    fn run_told(&mut self, run: u64, what: Message) {
        match what {
            Message::RowTried { id, tries, result } => self.row_tried(id, tries, result),
            Message::RowLimit { id, tries } => self.row_limit(id, tries),
            Message::RowAgain { id } => self.row_try(id),
            Message::RowRead { want: Want::Call(call), row } => {
                let problem = || lambdas::cloud::CloudError::Table { message: "no answer".into(), passing: true };
                self.answer(run, call, Answer::Row(row.ok_or_else(problem)));
            }
            Message::Answer { call, answer } => self.answer(run, call, answer),
            other => unreachable!("{other:?} is for nodes"),
        }
    }
}
