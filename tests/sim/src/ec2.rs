//! EC2: instances, the nodes' interfaces, and the route tables that carry the virtual IP. Descriptions may be old; a
//! mutating call may be turned away, or stay unanswered and be applied now, later, or never.

use crate::bus::Put;
use crate::cloud::{Answer, Ask};
use crate::dice::Dice;
use crate::trace::Us;
use crate::world::{Happening, Message, NAMES, Who, World};
use ipnet::IpNet;
use lambdas::cloud::{CloudError, Tables};
use lambdas::decide::Described;
use lambdas::topology::{Interface, InterfaceId, Route, RouteTable, Subnet, SubnetId, TableId, Target, Vpc};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Route tables of the clients. The last one has no route yet; the configuration lists it in `create_in`.
pub const TABLES: usize = 3;
pub const VIP: &str = "10.99.0.10";
/// When the simulation begins, in seconds since 1970 (2026-11-22T10:00:00Z).
const BEGAN_S: u64 = 1_795_341_600;
/// How long a call waits for its answer.
const TIME_OUT: Us = 2_500_000;
/// How late an unanswered call may be applied.
const LATEST: Us = 20_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    Pending,
    Running,
    Stopping,
    Stopped,
}

impl Power {
    fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// What can be described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub instances: Vec<(Power, i64)>,
    /// The host that each table leads to.
    pub routes: [Option<usize>; TABLES],
    /// Source/destination check of each host's interface.
    pub checked: Vec<bool>,
}

#[derive(Debug)]
pub struct Ec2 {
    pub now: State,
    /// States of the last seconds, each since when.
    past: VecDeque<(Us, State)>,
    pub down: u32,
}

/// A change that a mutating call makes.
#[derive(Clone, Debug)]
pub enum Ec2Change {
    Route { create: bool, table: usize, to: usize },
    LetForward { host: usize },
    Stop { host: usize },
}

#[must_use]
pub fn launch_time(now: Us) -> (i64, String) {
    let seconds = BEGAN_S + now / 1_000_000;
    (i64::try_from(seconds).unwrap_or(i64::MAX), crate::cloud::wall_clock(now))
}

impl Ec2 {
    #[must_use]
    pub fn new(hosts: usize) -> Self {
        let (launched, _) = launch_time(0);
        let now = State {
            instances: vec![(Power::Running, launched); hosts],
            routes: [Some(0), Some(0), None],
            checked: vec![true; hosts],
        };
        Self { past: VecDeque::from([(0, now.clone())]), now, down: 0 }
    }

    fn remember(&mut self, at: Us) {
        self.past.push_back((at, self.now.clone()));
        while self.past.len() > 64 {
            self.past.pop_front();
        }
    }

    /// The state as of some moment within `lag`.
    fn described(&self, now: Us, lag: Us, dice: &mut Dice) -> &State {
        let at = now.saturating_sub(dice.below(lag + 1));
        self.past.iter().rev().find(|(since, _)| *since <= at).or(self.past.front()).map_or(&self.now, |(_, old)| old)
    }
}

fn eni(host: usize) -> InterfaceId {
    InterfaceId(format!("eni-{}", NAMES[host]))
}

fn table_id(table: usize) -> TableId {
    TableId(format!("rtb-{}", table + 1))
}

impl World {
    pub(crate) fn ask_ec2(&mut self, run: u64, call: u32, ask: Ask) {
        let who = Who::Run { run };
        let answered = |answer| Happening::To { who, what: Message::Answer { call, answer } };
        let (way, back) = (self.dice.between(8_000, 60_000), self.dice.between(8_000, 60_000));
        let change = match ask {
            Ask::Route { create, table, to } => {
                let table = (0..TABLES).find(|one| table_id(*one) == table);
                let to = (0..self.hosts.len()).find(|host| eni(*host) == to);
                let (Some(table), Some(to)) = (table, to) else { unreachable!("no such table or interface") };
                Ec2Change::Route { create, table, to }
            }
            Ask::LetForward(interface) => {
                let host = (0..self.hosts.len()).find(|host| eni(*host) == interface).expect("a node's interface");
                Ec2Change::LetForward { host }
            }
            Ask::Stop(instance) => {
                let host = self.hosts.iter().position(|host| host.me.instance == instance).expect("a node's instance");
                Ec2Change::Stop { host }
            }
            describe => {
                let error = if self.ec2.down > 0 {
                    Some((TIME_OUT, CloudError::Unanswered { call: "Describe", problem: "time-out".into() }))
                } else if self.dice.happens(self.weather.noise.ec2) && self.dice.below(3) == 0 {
                    Some((way, CloudError::Throttled { call: "Describe", code: "RequestLimitExceeded".into() }))
                } else {
                    None
                };
                let at = self.now + error.as_ref().map_or(way + back, |(after, _)| *after);
                let answer = self.describe(&describe, error.map(|(_, error)| error));
                self.queue.push(at, answered(answer));
                return;
            }
        };
        let unanswered = || Answer::Done(Err(CloudError::Unanswered { call: "Ec2", problem: "time-out".into() }));
        if self.ec2.down > 0 {
            self.queue.push(self.now + TIME_OUT, answered(unanswered()));
        } else if self.dice.happens(self.weather.noise.ec2) {
            let apply = Happening::Ec2 { change, answer: None };
            match self.dice.below(4) {
                0 => {
                    let code = "RequestLimitExceeded".into();
                    let error = CloudError::Throttled { call: "Ec2", code };
                    self.queue.push(self.now + way, answered(Answer::Done(Err(error))));
                    return;
                }
                1 => self.queue.push(self.now + way, apply),
                2 => {
                    let late = self.dice.skewed(500_000, LATEST);
                    self.counts.late_calls += 1;
                    self.queue.push_late(self.now + late, apply);
                }
                _ => {}
            }
            self.counts.unanswered_calls += 1;
            self.queue.push(self.now + TIME_OUT, answered(unanswered()));
        } else {
            self.queue.push(self.now + way, Happening::Ec2 { change, answer: Some((run, call, back)) });
        }
    }

    /// A mutating call has come to EC2.
    pub(crate) fn apply_ec2(&mut self, change: Ec2Change, answer: Option<(u64, u32, Us)>) {
        let refused = |code: &str| Err(CloudError::Refused { call: "Ec2", code: code.into(), message: String::new() });
        let result = match change {
            Ec2Change::Route { create: true, table, .. } if self.ec2.now.routes[table].is_some() => {
                refused("RouteAlreadyExists")
            }
            Ec2Change::Route { create: false, table, .. } if self.ec2.now.routes[table].is_none() => {
                refused("InvalidRoute.NotFound")
            }
            Ec2Change::Route { table, to, .. } => {
                self.set_route(table, Some(to), if answer.is_some() { "" } else { " (unanswered)" });
                Ok(())
            }
            Ec2Change::LetForward { host } => {
                self.set_check(host, false);
                Ok(())
            }
            Ec2Change::Stop { host } => {
                self.stop_instance(host, "by force");
                Ok(())
            }
        };
        if let Some((run, call, back)) = answer {
            let what = Message::Answer { call, answer: Answer::Done(result) };
            self.queue.push(self.now + back, Happening::To { who: Who::Run { run }, what });
        }
    }

    pub(crate) fn set_route(&mut self, table: usize, to: Option<usize>, how: &str) {
        if self.ec2.now.routes[table] == to {
            return;
        }
        let from = std::mem::replace(&mut self.ec2.now.routes[table], to);
        self.ec2.remember(self.now);
        self.counts.routes += 1;
        self.route_moved(table, from);
        self.trace.line(self.now, "ec2", || {
            format!("{} leads to {}{how}", table_id(table), to.map_or("nobody", |host| NAMES[host]))
        });
    }

    pub(crate) fn set_check(&mut self, host: usize, on: bool) {
        if self.ec2.now.checked[host] != on {
            self.ec2.now.checked[host] = on;
            self.ec2.remember(self.now);
            let word = if on { "on" } else { "off" };
            self.trace.line(self.now, "ec2", || format!("{}: source/destination check {word}", eni(host)));
        }
    }

    fn set_power(&mut self, host: usize, power: Power) {
        self.ec2.now.instances[host].0 = power;
        self.ec2.remember(self.now);
        self.trace.line(self.now, "ec2", || format!("instance of {} is {}", NAMES[host], power.word()));
        let detail = json!({ "instance-id": self.hosts[host].me.instance, "state": power.word() });
        if power == Power::Stopped {
            self.put(Put::ec2("EC2 Instance State-change Notification", detail));
        }
    }

    /// EC2 takes the machine's power away at once; its descriptions follow.
    pub(crate) fn stop_instance(&mut self, host: usize, how: &str) {
        if self.ec2.now.instances[host].0 != Power::Running {
            return;
        }
        self.trace.line(self.now, "ec2", || format!("instance of {} is stopped {how}", NAMES[host]));
        self.power_off(host, false);
        // Where it was about to boot, that comes to nothing too.
        self.hosts[host].power += 1;
        self.set_power(host, Power::Stopping);
        let stopped = self.now + self.dice.skewed(300_000, 15_000_000);
        self.queue.push(stopped, Happening::Stopped { host });
    }

    pub(crate) fn instance_stopped(&mut self, host: usize) {
        if self.ec2.now.instances[host].0 == Power::Stopping {
            self.set_power(host, Power::Stopped);
            // Who starts it has seen it stopped; so has who stopped it, though both are told late.
            let pause = if self.healed { 5_000_000 } else { self.dice.skewed(2_000_000, 40_000_000) };
            self.queue.push_late(self.now + pause, Happening::StartInstance { host });
        }
    }

    pub(crate) fn start_instance(&mut self, host: usize) {
        if self.ec2.now.instances[host].0 != Power::Stopped {
            return;
        }
        let (seconds, text) = launch_time(self.now);
        self.ec2.now.instances[host].1 = seconds;
        self.hosts[host].me.launched = text;
        self.set_power(host, Power::Pending);
        self.queue.push(self.now + 800_000, Happening::Launched { host });
    }

    pub(crate) fn instance_launched(&mut self, host: usize) {
        self.set_power(host, Power::Running);
        let boot = self.dice.between(2_000_000, 8_000_000);
        let power = self.hosts[host].power;
        self.queue.push(self.now + boot, Happening::Boot { host, power });
    }

    fn describe(&mut self, ask: &Ask, error: Option<CloudError>) -> Answer {
        let state = self.ec2.described(self.now, self.weather.describe_lag, &mut self.dice);
        let (old, now) = (state, &self.ec2.now);
        let differs = match ask {
            Ask::Instances => old.instances != now.instances,
            Ask::Interfaces => old.checked != now.checked,
            Ask::RouteTables(_) => old.routes != now.routes,
            _ => false,
        };
        self.counts.old_descriptions += u64::from(differs && error.is_none());
        match ask {
            Ask::Instances => Answer::Instances(error.map_or_else(
                || {
                    let one = |(host, (power, launched)): (usize, &(Power, i64))| {
                        let described = Described { state: power.word().into(), launched: Some(*launched) };
                        (self.hosts[host].me.instance.clone(), described)
                    };
                    Ok(state.instances.iter().enumerate().map(one).collect())
                },
                Err,
            )),
            Ask::Interfaces => Answer::Interfaces(error.map_or_else(
                || {
                    let one = |(host, checked): (usize, &bool)| {
                        let attached = Some((self.hosts[host].me.instance.clone(), 0));
                        let subnet = SubnetId("subnet-nodes".into());
                        (eni(host), Interface { vpc: "vpc-1".into(), subnet, attached, checked: *checked })
                    };
                    Ok(state.checked.iter().enumerate().map(one).collect())
                },
                Err,
            )),
            Ask::RouteTables(which) => Answer::RouteTables(error.map_or_else(
                || {
                    let tables = (0..TABLES).map(|table| (table_id(table), route_table(state, table)));
                    Ok(tables.filter(|(id, table)| wanted(which, id, table)).collect())
                },
                Err,
            )),
            Ask::Subnets => Answer::Subnets(error.map_or_else(
                || {
                    let one = |at| {
                        let id = SubnetId(format!("subnet-{}", at + 1));
                        (id, Subnet { vpc: "vpc-1".into(), zone: format!("zone-{at}") })
                    };
                    Ok((0..TABLES).map(one).collect())
                },
                Err,
            )),
            Ask::Vpcs => Answer::Vpcs(error.map_or_else(
                || {
                    let cidrs = BTreeSet::from(["10.0.0.0/16".parse::<IpNet>().expect("a range")]);
                    Ok(BTreeMap::from([("vpc-1".into(), Vpc { cidrs })]))
                },
                Err,
            )),
            other => unreachable!("{other:?} is no description"),
        }
    }
}

fn route_table(state: &State, table: usize) -> RouteTable {
    let local = Route {
        destination: "10.0.0.0/16".parse().expect("a range"),
        target: Target::Local,
        active: true,
        propagated: false,
    };
    let vip = state.routes[table].map(|host| Route {
        destination: format!("{VIP}/32").parse().expect("a range"),
        target: Target::Interface(eni(host)),
        active: true,
        propagated: false,
    });
    RouteTable {
        vpc: "vpc-1".into(),
        main: false,
        subnets: BTreeSet::from([SubnetId(format!("subnet-{}", table + 1))]),
        routes: std::iter::once(local).chain(vip).collect(),
    }
}

fn wanted(which: &Tables, id: &TableId, table: &RouteTable) -> bool {
    match which {
        Tables::Carrying { vpcs, destinations } => {
            vpcs.contains(&table.vpc) && table.routes.iter().any(|route| destinations.contains(&route.destination))
        }
        Tables::Listed(ids) => ids.contains(id),
        Tables::Of(vpcs) => vpcs.contains(&table.vpc),
    }
}
