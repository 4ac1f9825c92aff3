//! One machine: power, VM, daemon process, the kernel's hold on the virtual address, and the workload; each dies and
//! survives as it does in reality.

use crate::clock::Clock;
use crate::data::{Replica, Volume, name};
use crate::history::Version;
use crate::network::PeerMessage;
use crate::store::{AtTable, Want};
use crate::trace::Us;
use crate::world::{Happening, Message, NAMES, Who, World};
use lease::heartbeat::{HEARTBEAT_VERSION, Heartbeat, Replica as Health, ResourceHealth};
use lease::ids::BootId;
use lease::policy::Policy;
use lease::record::Holder;
use lease::time::{Millis, Moment};
use node::effect::{Effect, Note};
use node::event::Event;
use node::{Node, Setup, TICK};
use std::collections::VecDeque;
use std::sync::Arc;

/// The kernel may end an address's lifetime this much late (sidecar/src/address.rs).
const KERNEL_LATE_MS: u64 = 250;
/// An extension that adds less is not worth a request (sidecar/src/address.rs).
const WORTH_MS: u64 = 400;
/// Killed processes may take this long (sidecar/src/resources/workload.rs).
const KILL_LIMIT: Us = 3_000_000;
/// Events that wait for a process that stands still: what the kernel and the queues keep.
const MISSED_MAX: usize = 400;

/// A VM that stands still, and what its clocks do meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standstill {
    /// Others have its processor.
    ClocksRun,
    /// Both stand: nothing on it can know.
    ClocksStand,
    /// A suspension: `CLOCK_BOOTTIME` counts it, `CLOCK_MONOTONIC_RAW` and the kernel's timers do not.
    Suspended,
}

/// Which of the daemon's two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Node,
    Volume,
}

#[derive(Debug)]
pub struct Host {
    pub me: Holder,
    pub clock: Clock,
    pub on: bool,
    /// Raised with each loss of power.
    pub power: u64,
    /// Raised with each start and end of the daemon's process.
    pub life: u64,
    pub node: Option<Node>,
    /// SIGSTOP: the process stands still, kernel and workload go on.
    pub paused: u32,
    /// The VM stands still, since then, and how.
    pub stalled: Option<Us>,
    pub standstill: Standstill,
    /// Its clocks stood still with the VM: until then its own word about its rights is worth nothing.
    pub tainted_until: Us,
    /// When it sent its requests of the last second to the table.
    requests: VecDeque<Us>,
    pub missed: Vec<Message>,
    /// The workload's processes run, and the epoch that they were started in.
    pub running: bool,
    pub workload_epoch: u64,
    /// The number of the last order to the workload: a later one supersedes it.
    orders: u64,
    pub stuck: bool,
    pub failed: bool,
    /// Until when the kernel holds the address, by real time.
    pub address_until: Us,
    lent: Option<(Moment, Millis)>,
    pub replica: Replica,
    /// The disks answer nothing until then.
    pub stalled_until: Us,
    pub volume: Volume,
    /// The process that was taken into the row's set, while it knows what it had then.
    pub member_since: Option<u64>,
    /// What the workload has read or been told is written: its own memory, which outlives the daemon.
    pub cache: Vec<Version>,
    seq: u64,
    /// After so many more effects of this machine everything ends; true: by a loss of power.
    pub crash_after: Option<(u32, bool, Part)>,
    /// Nobody starts the daemon or the machine before then.
    pub kept_down: u32,
    /// An old state of the replica, for restores.
    pub snapshot: Option<Replica>,
    /// The timers that this process has started with, and the node that its configuration did not name.
    policy: Policy,
    pub without: Option<usize>,
}

impl Host {
    #[must_use]
    pub fn new(me: Holder, clock: Clock, replica: Replica, hosts: usize) -> Self {
        Self {
            me,
            clock,
            on: true,
            power: 0,
            life: 0,
            node: None,
            paused: 0,
            stalled: None,
            standstill: Standstill::ClocksRun,
            tainted_until: 0,
            requests: VecDeque::new(),
            missed: Vec::new(),
            running: false,
            workload_epoch: 0,
            orders: 0,
            stuck: false,
            failed: false,
            address_until: 0,
            lent: None,
            cache: replica.image(),
            replica,
            stalled_until: 0,
            volume: Volume::new(hosts),
            member_since: None,
            seq: 0,
            crash_after: None,
            kept_down: 0,
            snapshot: None,
            policy: Policy::default(),
            without: None,
        }
    }

    /// No process of it runs at all.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.paused > 0 || self.stalled.is_some()
    }

    /// Whether a client's packet for the virtual IP would be answered.
    #[must_use]
    pub fn serves(&self, now: Us) -> bool {
        self.on && self.running && self.stalled.is_none() && self.address_until > now
    }

    /// As sidecar/src/address.rs plans it: whole seconds, never beyond the authority, never shorter than what may stay.
    fn lend(&mut self, at_most: Millis, moment: Moment, now: Us, late_ms: u64) {
        let seconds = at_most.minus(Millis(KERNEL_LATE_MS)).0 / 1_000;
        let kept = self.lent.map(|(before, lifetime)| {
            let at_least = lifetime.minus(moment.longest_since(before));
            (at_least, lifetime.plus(Millis(KERNEL_LATE_MS)).minus(moment.shortest_since(before)))
        });
        let lend = match kept {
            None | Some((_, Millis::ZERO)) => seconds > 0,
            Some((_, longest)) if longest > at_most => {
                if seconds == 0 {
                    self.drop_address();
                }
                seconds > 0
            }
            Some((at_least, _)) => seconds * 1_000 >= at_least.0 + WORTH_MS,
        };
        if lend {
            self.lent = Some((moment, Millis(seconds * 1_000)));
            self.address_until = now + self.clock.real_us(seconds * 1_000 + late_ms);
        }
    }

    /// The lease that its process counts with.
    pub(crate) fn ttl_ms(&self) -> u64 {
        self.policy.ttl_ms.0
    }

    /// A request to the table: how many there were within the last second.
    pub(crate) fn requests(&mut self, now: Us) -> usize {
        self.requests.push_back(now);
        while self.requests.front().is_some_and(|at| now - at >= 1_000_000) {
            self.requests.pop_front();
        }
        self.requests.len()
    }

    fn drop_address(&mut self) {
        self.lent = None;
        self.address_until = 0;
    }

    /// Nothing of the workload is left, and nothing of it comes up any more.
    pub(crate) fn end_workload(&mut self) {
        self.running = false;
        self.orders += 1;
        self.drop_address();
    }
}

impl World {
    // --- the daemon ----------------------------------------------------------------------------------------------

    /// The daemon starts: first whatever an earlier one left serving ends, then the machine begins.
    pub(crate) fn start_daemon(&mut self, host: usize) {
        let here = &mut self.hosts[host];
        if !here.on || here.node.is_some() || here.kept_down > 0 || here.stalled.is_some() {
            return;
        }
        here.end_workload();
        // What the configuration does not name refuses to go on.
        if self.deployed.out == Some(host) {
            return;
        }
        here.life += 1;
        here.paused = 0;
        here.missed.clear();
        here.requests.clear();
        here.crash_after = None;
        here.failed = false;
        here.me.incarnation = name(here.replica.incarnation);
        here.policy = self.config.policy.clone();
        here.without = self.deployed.out;
        let prefix = format!("{}-{:x}", NAMES[host], self.dice.roll());
        let here = &mut self.hosts[host];
        let moment = here.clock.read(self.now);
        let setup = Setup {
            cluster: self.cluster.clone(),
            me: here.me.clone(),
            members: self.config.nodes.clone(),
            policy: here.policy.clone(),
            volumes: self.weather.volumes,
            nonce_prefix: prefix,
        };
        here.node = Some(Node::new(setup, moment));
        let life = here.life;
        self.trace.line(self.now, NAMES[host], || format!("daemon starts, process {life}"));
        self.start_volume(host);
        let who = Who::Node { host, life };
        self.queue.push(self.now, Happening::Tick { host, life });
        self.queue.push(self.now + 1_000, Happening::To { who, what: Message::Heartbeat });
    }

    fn end_process(&mut self, host: usize, power: bool) {
        let here = &mut self.hosts[host];
        let gone = Who::Node { host, life: here.life };
        here.life += 1;
        here.node = None;
        here.paused = 0;
        here.missed.clear();
        self.forget_writes(gone);
        self.end_volume(host, power);
    }

    /// SIGKILL of the daemon. The workload lives on; the kernel ends the address when nobody extends it.
    pub(crate) fn kill_daemon(&mut self, host: usize, why: &str) {
        if self.hosts[host].node.is_none() {
            return;
        }
        self.trace.line(self.now, NAMES[host], || format!("daemon ends: {why}"));
        self.end_process(host, false);
        self.close_connections(host);
    }

    /// All of the machine ends at once. `boots`: by itself, after a while.
    pub(crate) fn power_off(&mut self, host: usize, boots: bool) {
        if !self.hosts[host].on {
            return;
        }
        self.trace.line(self.now, NAMES[host], || "machine off".into());
        self.end_process(host, true);
        let here = &mut self.hosts[host];
        here.on = false;
        here.power += 1;
        here.end_workload();
        here.stuck = false;
        here.stalled = None;
        if boots {
            let power = here.power;
            let boot = if self.healed { 1_000_000 } else { self.dice.skewed(1_500_000, 25_000_000) };
            self.queue.push_late(self.now + boot, Happening::Boot { host, power });
        }
    }

    pub(crate) fn boot(&mut self, host: usize, power: u64) {
        let (boot, raw) = self.rates(host);
        let here = &mut self.hosts[host];
        if here.on || here.power != power {
            return;
        }
        here.on = true;
        here.clock = Clock::booted(self.now, boot, raw);
        here.tainted_until = 0;
        here.me.boot = BootId::new(format!("boot-{}-{power}", NAMES[host])).expect("a valid name");
        self.trace.line(self.now, NAMES[host], || "machine boots".into());
        self.queue.push(self.now + 300_000, Happening::StartDaemon { host });
    }

    /// Rates of a boot's clocks, within 1 ± ρ.
    pub(crate) fn rates(&mut self, host: usize) -> (u64, u64) {
        if !self.weather.drift {
            return (1_000_000, 1_000_000);
        }
        // Mostly at the very ends of what is allowed, one node's against the other's: there the sums must still come out.
        let slow = (host + usize::from(self.weather.first_is_fast)).is_multiple_of(2);
        match self.dice.below(8) {
            0 => (self.dice.between(900_000, 1_100_000), self.dice.between(900_000, 1_100_000)),
            1 if slow => (1_100_000, 1_100_000),
            1 => (900_000, 900_000),
            _ if slow => (900_000, 900_000),
            _ => (1_100_000, 1_100_000),
        }
    }

    pub(crate) fn tick(&mut self, host: usize, life: u64) {
        let here = &self.hosts[host];
        if here.life != life || here.is_frozen() {
            return;
        }
        let next = self.now + here.clock.real_us(TICK.0);
        self.queue.push(next, Happening::Tick { host, life });
        self.step(host, Event::Tick);
        if self.hosts[host].life == life {
            self.tend_volume(host);
        }
    }

    /// The process goes on: time first, then what has waited, in order.
    pub(crate) fn go_on(&mut self, host: usize) {
        let here = &mut self.hosts[host];
        if here.is_frozen() || here.node.is_none() {
            return;
        }
        let life = here.life;
        let missed = std::mem::take(&mut here.missed);
        self.queue.push(self.now, Happening::Tick { host, life });
        for what in missed {
            self.queue.push(self.now, Happening::To { who: Who::Node { host, life }, what });
        }
    }

    pub(crate) fn miss(&mut self, host: usize, what: Message) {
        let missed = &mut self.hosts[host].missed;
        if missed.len() < MISSED_MAX || !matches!(what, Message::Peer(_)) {
            missed.push(what);
        }
    }

    // --- the machine's steps -------------------------------------------------------------------------------------

    pub(crate) fn step(&mut self, host: usize, event: Event) {
        let here = &mut self.hosts[host];
        let moment = here.clock.read(self.now);
        let Some(node) = &mut here.node else { return };
        self.counts.steps += 1;
        let life = here.life;
        let effects = node.step(event, moment);
        self.trace.mark(moment.boottime_us, (host * 1_000 + effects.len()) as u64);
        self.follow(host);
        for effect in effects {
            if self.hosts[host].life != life || self.crashes_here(host, Part::Node) {
                return;
            }
            self.effect(host, effect, moment);
        }
    }

    /// Whether everything ends before the next effect of this machine.
    pub(crate) fn crashes_here(&mut self, host: usize, part: Part) -> bool {
        let Some((left, power, _)) = self.hosts[host].crash_after.filter(|(_, _, which)| *which == part) else {
            return false;
        };
        if left > 0 {
            self.hosts[host].crash_after = Some((left - 1, power, part));
            return false;
        }
        self.hosts[host].crash_after = None;
        if power {
            self.power_off(host, true);
        } else {
            self.kill_daemon(host, "crash between two effects");
            let pause = self.dice.skewed(100_000, 8_000_000);
            self.queue.push_late(self.now + pause, Happening::StartDaemon { host });
        }
        true
    }

    fn effect(&mut self, host: usize, effect: Effect, moment: Moment) {
        let here = &mut self.hosts[host];
        let who = Who::Node { host, life: here.life };
        let budget = here.policy.beat_ms.0.max(500);
        match effect {
            Effect::Read => self.row_read(who, Want::Asked(moment), budget),
            Effect::Write { ticket, write } => {
                self.cross(host, &write);
                self.row_write(who, Want::Ticket(ticket), Arc::new(*write), budget);
            }
            Effect::Ping { to, ping } => {
                let message = PeerMessage::Ping(here.me.clone(), ping);
                self.send(host, self.host_of(&to), message);
            }
            Effect::Pong { to, pong } => {
                let message = PeerMessage::Pong(here.me.clone(), pong);
                self.send(host, self.host_of(&to), message);
            }
            Effect::Nudge { to } => {
                let message = PeerMessage::Nudge(here.me.node.clone());
                self.send(host, self.host_of(&to), message);
            }
            Effect::HoldAddress { at_most } => {
                let late = self.dice.below(KERNEL_LATE_MS);
                self.hosts[host].lend(at_most, moment, self.now, late);
                self.check_serving(host);
                self.check_windows(host);
            }
            Effect::DropAddress => here.drop_address(),
            Effect::Promise { epoch } => {
                // As the daemon that ships says of itself.
                assert!(self.weather.volumes, "this daemon has no volumes");
                self.order_volume(host, volume::core::Event::Promise { epoch });
            }
            Effect::StartWorkload { epoch } => {
                here.orders += 1;
                let (order, power) = (here.orders, here.power);
                here.failed = false;
                here.running = false;
                let due = self.now + self.dice.between(self.weather.start_us / 2, self.weather.start_us);
                if self.weather.volumes {
                    self.start_on_volume(host, order, epoch, due);
                } else {
                    self.queue.push(due, Happening::Up { host, power, order, epoch, who });
                }
            }
            Effect::StopWorkload => {
                here.orders += 1;
                here.volume.shut();
                let (order, power) = (here.orders, here.power);
                let took = self.dice.between(self.weather.stop_us / 2, self.weather.stop_us);
                self.queue.push(self.now + took, Happening::Down { host, power, order, who });
            }
            Effect::KillWorkload => {
                here.orders += 1;
                here.volume.abandon();
                let (order, power) = (here.orders, here.power);
                let took = self.dice.between(500, 30_000);
                self.queue.push(self.now + took, Happening::Down { host, power, order, who });
            }
            Effect::Reboot { reason } => {
                self.counts.reboots += 1;
                self.trace.line(self.now, NAMES[host], || format!("reboots: {reason}"));
                self.power_off(host, true);
            }
            Effect::Emit(event) => {
                // The bus is as far away as the table is.
                if self.path(&who).cut == 0 {
                    self.emit_event(&event);
                } else {
                    self.counts.events_lost += 1;
                }
            }
            Effect::Heartbeat => self.heartbeat(host),
            Effect::Note(note) => self.note(host, note),
            Effect::Exit => {
                self.trace.line(self.now, NAMES[host], || "daemon exits".into());
                self.hosts[host].drop_address();
                self.end_process(host, false);
                self.close_connections(host);
            }
        }
    }

    fn note(&mut self, host: usize, note: Note) {
        match note {
            Note::Became { from, to, epoch, why } => {
                self.trace.mark(self.now, epoch.0);
                self.trace.line(self.now, NAMES[host], || format!("{from} -> {to}, epoch {epoch}: {why}"));
                if to == "activating" {
                    self.check_beginning(host);
                }
            }
            Note::Trouble { epoch, what } => {
                self.trace.line(self.now, NAMES[host], || format!("trouble at epoch {epoch}: {what}"));
                self.check_alarm(host, &what);
            }
        }
    }

    // --- the workload --------------------------------------------------------------------------------------------

    pub(crate) fn workload_up(&mut self, host: usize, power: u64, order: u64, epoch: lease::ids::Epoch, who: Who) {
        let here = &mut self.hosts[host];
        if here.power != power || here.orders != order {
            return;
        }
        here.running = true;
        here.workload_epoch = epoch.0;
        self.trace.line(self.now, NAMES[host], || format!("workload up, epoch {epoch}"));
        self.check_serving(host);
        let what = Message::Event(Box::new(Event::WorkloadUp { epoch }));
        self.queue.push(self.now, Happening::To { who, what });
    }

    pub(crate) fn workload_down(&mut self, host: usize, power: u64, order: u64, who: Who) {
        let here = &mut self.hosts[host];
        if here.power != power || here.orders != order {
            return;
        }
        if here.stuck {
            let what = Message::Event(Box::new(Event::WorkloadStuck { problem: "its processes do not die".into() }));
            self.queue.push(self.now + KILL_LIMIT, Happening::To { who, what });
            return;
        }
        if here.running {
            self.trace.line(self.now, NAMES[host], || "workload down".into());
        }
        self.hosts[host].running = false;
        self.queue.push(self.now, Happening::To { who, what: Message::Ended { order } });
    }

    /// Nothing of the workload is left; the volume closes once what was written has ended.
    pub(crate) fn workload_ended(&mut self, host: usize, order: u64) {
        if self.hosts[host].orders == order {
            self.close_soon(host);
        }
    }

    // --- heartbeats ----------------------------------------------------------------------------------------------

    /// The regular one, and the next after it.
    pub(crate) fn heartbeat_due(&mut self, host: usize) {
        self.heartbeat(host);
        let every = self.hosts[host].clock.real_us(self.hosts[host].policy.heartbeat_ms.0);
        let who = Who::Node { host, life: self.hosts[host].life };
        self.queue.push(self.now + every, Happening::To { who, what: Message::Heartbeat });
    }

    fn heartbeat(&mut self, host: usize) {
        let here = &self.hosts[host];
        let path = self.path(&Who::Node { host, life: here.life });
        self.asks_table(host);
        let here = &self.hosts[host];
        let Some(node) = &here.node else { return };
        if path.cut > 0 || path.denied > 0 || (path.throttled > 0 && self.dice.below(2) == 0) {
            return;
        }
        let view = node.view(here.clock.read(self.now));
        let (epoch, beat) = view.seen.unwrap_or_default();
        // Without volumes each is whole.
        let volumes = self.weather.volumes;
        let (asynchronous, lag_ms) = match self.weather.follower {
            Some(follower) => (follower == host, here.volume.lag(here.clock.read(self.now))),
            // Where asynchronous standbys count at all and none is configured, one that is no member says that it is a second behind.
            None => {
                let lag = (self.weather.may_lose() && here.volume.has_history()).then_some(Millis(1_000));
                (lag.is_some(), lag)
            }
        };
        let state = if here.failed {
            "failed"
        } else if here.running {
            "running"
        } else {
            "stopped"
        };
        let heartbeat = Heartbeat {
            cluster: self.cluster.clone(),
            node: here.me.node.clone(),
            instance: here.me.instance.clone(),
            boot: here.me.boot.clone(),
            launched: here.me.launched.clone(),
            incarnation: here.me.incarnation.clone(),
            version: HEARTBEAT_VERSION.to_string(),
            peer_address: String::new(),
            fingerprint: String::new(),
            role: view.role.into(),
            epoch: epoch.max(view.epoch),
            beat,
            hears: view.hears,
            resources: vec![ResourceHealth { name: "app".into(), state: state.into(), problem: None }],
            replica: Health { consistent: !volumes || here.volume.is_consistent(), asynchronous, lag_ms },
        };
        let here = &mut self.hosts[host];
        here.seq += 1;
        let at = AtTable::Heartbeat { host, seq: here.seq, heartbeat: Arc::new(heartbeat) };
        let way = self.dice.between(1_500, 8_000);
        self.queue.push(self.now + way, Happening::AtTable(at));
    }
}
