//! Faults: drawn by weight from those that the seed has, injected, and undone after a while.

use crate::host::{Part, Standstill};
use crate::trace::Us;
use crate::weather::Kind;
use crate::world::{Happening, NAMES, World};

/// After a suspension a node has looked at its clocks by then: a tick, and what its queue holds.
const SEES: Us = 100_000;

/// The end of a fault that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    Link {
        from: usize,
        to: usize,
    },
    Slow {
        from: usize,
        to: usize,
        by: Us,
    },
    Cut {
        path: usize,
    },
    Mute {
        path: usize,
    },
    Throttle {
        path: usize,
    },
    Deny {
        path: usize,
    },
    SlowTable {
        path: usize,
        by: Us,
    },
    Pause {
        host: usize,
        life: u64,
    },
    Stall {
        host: usize,
        power: u64,
    },
    Daemon {
        host: usize,
    },
    Workload {
        host: usize,
    },
    Functions,
    Bus,
    Losing,
    Ec2,
    Row,
    Resume,
    /// A node is one of the cluster's again.
    Member {
        host: usize,
    },
    /// The second half of failing slowly.
    Isolate {
        host: usize,
    },
    /// The second half of a story: this VM stands still, its clocks go on.
    HeldUp {
        host: usize,
        span: Us,
    },
    /// The second half of a story: all links of this node are cut.
    CutOff {
        host: usize,
        span: Us,
    },
    /// The second half of a partition: these nodes lose the table, too.
    Apart {
        side: [bool; 3],
        span: Us,
    },
    /// The next turn of a flapping link.
    Flap {
        one: usize,
        other: usize,
        turns: u32,
        pace: Option<(Us, Us)>,
    },
    /// The next turn of a daemon that restarts in a loop.
    Loop {
        host: usize,
        turns: u32,
    },
}

impl World {
    /// One fault, and the next after it.
    pub(crate) fn fault(&mut self) {
        if self.healed {
            return;
        }
        let every = self.weather.every;
        let next = self.dice.between(every / 4, every * 7 / 4);
        self.queue.push(self.now + next, Happening::Fault);
        self.keep_copies();
        if self.dice.below(4) == 0 {
            self.decide_for_the_holder();
        }
        if let Some(kind) = self.weather.draw(&mut self.dice) {
            self.inject(kind);
        }
    }

    /// Somebody takes a snapshot, or a backup of the table, now and then.
    fn keep_copies(&mut self) {
        let host = self.dice.index(self.hosts.len());
        let here = &mut self.hosts[host];
        if here.replica.consistent && self.dice.below(4) == 0 {
            here.snapshot = Some(here.replica.copy());
        }
        if self.dice.below(6) == 0 && self.store.away.is_none() {
            self.store.backup.clone_from(&self.store.row);
        }
    }

    /// From a tenth of a ttl to the weather's longest, short ones more often; undone in any case when faults stop.
    fn span(&mut self) -> Us {
        let ttl = self.weather.ttl_ms * 1_000;
        self.dice.skewed(ttl / 10, ttl * self.weather.longest_ttl)
    }

    pub(crate) fn undo_after(&mut self, span: Us, undo: Undo) {
        self.queue.push_late(self.now + span, Happening::Undo(undo));
    }

    /// The holder more often than the others: that is where it hurts.
    fn victim(&mut self) -> usize {
        let holder =
            self.store.row.as_ref().and_then(|row| row.holder.as_ref()).map(|holder| self.host_of(&holder.node));
        match holder {
            Some(host) if self.dice.below(2) == 0 => host,
            _ => self.dice.index(self.hosts.len()),
        }
    }

    fn pair(&mut self) -> (usize, usize) {
        let one = self.victim();
        let other = (one + 1 + self.dice.index(self.hosts.len() - 1)) % self.hosts.len();
        if self.dice.below(2) == 0 { (one, other) } else { (other, one) }
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize, span: Us) {
        self.network.link(from, to).cut += 1;
        self.undo_after(span, Undo::Link { from, to });
    }

    pub(crate) fn cut_from_peers(&mut self, host: usize, span: Us) {
        for peer in (0..self.hosts.len()).filter(|peer| *peer != host) {
            self.cut(host, peer, span);
            self.cut(peer, host, span);
        }
    }

    pub(crate) fn cut_from_table(&mut self, path: usize, span: Us) {
        self.store.paths[path].cut += 1;
        self.undo_after(span, Undo::Cut { path });
    }

    /// Some path, or all of them.
    fn some_paths(&mut self) -> Vec<usize> {
        let all = self.store.paths.len();
        if self.dice.below(3) == 0 { (0..all).collect() } else { vec![self.dice.index(all)] }
    }

    pub(crate) fn inject(&mut self, kind: Kind) {
        let span = self.span();
        let host = self.victim();
        if !self.really(kind, host, span) {
            return;
        }
        self.counts.fault(kind);
        self.trace.mark(self.now, kind as u64);
    }

    pub(crate) fn say(&mut self, kind: Kind, what: impl FnOnce() -> String) {
        self.trace.line(self.now, "fault", || format!("{}: {}", kind.name(), what()));
    }

    /// False: there was nothing to do it to.
    fn really(&mut self, kind: Kind, host: usize, span: Us) -> bool {
        let seconds = span as f64 / 1e6;
        let name = NAMES[host];
        let for_long = move || format!("{name}, {seconds:.3} s");
        match kind {
            Kind::CutOneWay => {
                let (from, to) = self.pair();
                self.say(kind, || format!("{} to {}, {seconds:.3} s", NAMES[from], NAMES[to]));
                self.cut(from, to, span);
            }
            Kind::CutLink => {
                let (one, other) = self.pair();
                self.say(kind, || format!("{} and {}, {seconds:.3} s", NAMES[one], NAMES[other]));
                self.cut(one, other, span);
                self.cut(other, one, span);
            }
            Kind::CutNode => {
                self.say(kind, for_long);
                self.cut_from_peers(host, span);
            }
            Kind::Isolate => {
                let span = span.max(self.weather.ttl_ms * 1_500);
                self.say(kind, || format!("{name}, {:.3} s", span as f64 / 1e6));
                self.cut_from_peers(host, span);
                self.cut_from_table(host, span);
            }
            Kind::Partition => {
                let span = span.max(self.weather.ttl_ms * 1_500);
                let mut side = [false; 3];
                side[host] = true;
                if self.hosts.len() > 2 && self.dice.below(2) == 0 {
                    side[(host + 1 + self.dice.index(2)) % 3] = true;
                }
                let names: Vec<_> = (0..self.hosts.len()).filter(|one| side[*one]).map(|one| NAMES[one]).collect();
                self.say(kind, || format!("{names:?}, {:.3} s", span as f64 / 1e6));
                for one in 0..self.hosts.len() {
                    for other in (0..self.hosts.len()).filter(|other| side[one] != side[*other]) {
                        self.cut(one, other, span);
                    }
                }
                // Networks seldom fail all at once.
                let first = if self.dice.below(2) == 0 { 0 } else { self.dice.below(2 * self.weather.ttl_ms * 1_000) };
                self.undo_after(first.min(span), Undo::Apart { side, span: span - first.min(span) });
            }
            Kind::FailSlowly => {
                let by = self.dice.between(150_000, 600_000);
                let first = self.dice.between(700_000, 3_000_000);
                self.say(kind, || format!("{name}, up to {} ms each way", by / 1_000));
                self.store.paths[host].slow += by;
                self.undo_after(first + 1_500_000, Undo::SlowTable { path: host, by });
                self.undo_after(first, Undo::Isolate { host });
            }
            Kind::Flap => {
                let (one, other) = self.pair();
                let turns = u32::try_from(self.dice.between(3, 12)).unwrap_or(3);
                self.say(kind, || format!("{} and {}, {turns} times", NAMES[one], NAMES[other]));
                self.flap(one, other, turns, None);
            }
            Kind::SlowLink => {
                let (from, to) = self.pair();
                let by = self.dice.skewed(5_000, 1_000_000);
                self.say(kind, || format!("{} to {}, up to {} ms, {seconds:.3} s", NAMES[from], NAMES[to], by / 1_000));
                self.network.link(from, to).slow += by;
                self.undo_after(span, Undo::Slow { from, to, by });
            }
            Kind::TableCut => {
                self.say(kind, for_long);
                self.cut_from_table(host, span);
            }
            Kind::TableOutage => {
                self.say(kind, || format!("{seconds:.3} s"));
                for path in 0..self.store.paths.len() {
                    self.cut_from_table(path, span);
                }
            }
            Kind::TableMute | Kind::TableThrottled => {
                let paths = self.some_paths();
                self.say(kind, || format!("paths {paths:?}, {seconds:.3} s"));
                for path in paths {
                    if kind == Kind::TableMute {
                        self.store.paths[path].mute += 1;
                        self.undo_after(span, Undo::Mute { path });
                    } else {
                        self.store.paths[path].throttled += 1;
                        self.undo_after(span, Undo::Throttle { path });
                    }
                }
            }
            Kind::TableSlow => {
                let by = self.dice.skewed(20_000, 600_000);
                let paths = self.some_paths();
                self.say(kind, || format!("paths {paths:?}, up to {} ms each way, {seconds:.3} s", by / 1_000));
                for path in paths {
                    self.store.paths[path].slow += by;
                    self.undo_after(span, Undo::SlowTable { path, by });
                }
            }
            Kind::TableDenied => {
                self.say(kind, for_long);
                self.store.paths[host].denied += 1;
                self.undo_after(span, Undo::Deny { path: host });
            }
            Kind::KillDaemon
            | Kind::Crash
            | Kind::StopInstance
            | Kind::CrashAtEffect
            | Kind::ShutDown
            | Kind::RestartLoop
            | Kind::Pause
            | Kind::Stall
            | Kind::Freeze
            | Kind::Suspend
            | Kind::ResourceFails
            | Kind::WorkloadStuck
            | Kind::DiskStall
            | Kind::Drift => return self.harm(kind, host, span),
            Kind::NoFunctions => {
                self.say(kind, || format!("{seconds:.3} s"));
                self.functions.down += 1;
                self.undo_after(span, Undo::Functions);
            }
            Kind::NoBus => {
                self.say(kind, || format!("{seconds:.3} s"));
                self.bus.down += 1;
                self.undo_after(span, Undo::Bus);
            }
            Kind::OldEvent => return self.repeat_event(),
            Kind::NoEc2 => {
                self.say(kind, || format!("{seconds:.3} s"));
                self.ec2.down += 1;
                self.undo_after(span, Undo::Ec2);
            }
            Kind::FreezeRun | Kind::KillRun => {
                let at = self.dice.index(self.functions.runs.len());
                let Some(run) = self.functions.runs.keys().nth(at).copied() else { return false };
                if kind == Kind::KillRun {
                    self.kill_run(run, "the environment died");
                } else {
                    let span = self.dice.skewed(50_000, 40_000_000);
                    self.freeze_run(run, span);
                }
            }
            Kind::Switchover | Kind::PauseCluster | Kind::Force | Kind::ForceLossy => {
                self.say(kind, String::new);
                self.operate(kind, host);
                if kind == Kind::PauseCluster {
                    self.undo_after(span, Undo::Resume);
                }
            }
            Kind::RowLost | Kind::RowOld => return self.take_row_away(kind, span),
            Kind::Reconfigure => return self.reconfigure(span),
            Kind::Wipe | Kind::Restore => return self.replace_replica(kind, host),
            Kind::Meddle => {
                if self.dice.below(3) == 0 {
                    self.set_check(host, true);
                } else {
                    let table = self.dice.index(crate::ec2::TABLES);
                    let to = if self.dice.below(4) == 0 { None } else { Some(host) };
                    // Only the listed table's route is made again when it is gone.
                    self.set_route(table, to.or((table != crate::ec2::TABLES - 1).then_some(host)), " (by somebody)");
                }
            }
        }
        true
    }

    fn harm(&mut self, kind: Kind, host: usize, span: Us) -> bool {
        let seconds = span as f64 / 1e6;
        let name = NAMES[host];
        if !self.hosts[host].on {
            return false;
        }
        let has_daemon = self.hosts[host].node.is_some();
        match kind {
            Kind::KillDaemon if has_daemon => {
                self.say(kind, || format!("{name}, back after {seconds:.3} s"));
                self.kill_daemon(host, "killed");
                self.undo_after(span, Undo::Daemon { host });
            }
            Kind::Crash => {
                self.say(kind, || name.into());
                self.power_off(host, true);
            }
            Kind::StopInstance => {
                self.say(kind, || name.into());
                self.stop_instance(host, "by somebody");
            }
            Kind::CrashAtEffect if has_daemon => {
                let after = u32::try_from(self.dice.below(8)).unwrap_or(0);
                let power = self.dice.below(2) == 0;
                self.say(kind, || format!("{name}, after {after} more"));
                let part = if self.dice.below(2) == 0 { Part::Node } else { Part::Volume };
                self.hosts[host].crash_after = Some((after, power, part));
            }
            Kind::ShutDown if has_daemon => {
                self.say(kind, || format!("{name}, back after {seconds:.3} s"));
                let life = self.hosts[host].life;
                let who = crate::world::Who::Node { host, life };
                let what = crate::world::Message::Event(Box::new(node::event::Event::ShutDown));
                self.queue.push(self.now, Happening::To { who, what });
                self.undo_after(span, Undo::Daemon { host });
            }
            Kind::RestartLoop if has_daemon => {
                let turns = u32::try_from(self.dice.between(2, 8)).unwrap_or(2);
                self.say(kind, || format!("{name}, {turns} times"));
                self.restart_again(host, turns);
            }
            Kind::Pause if has_daemon => {
                self.say(kind, || format!("{name}, {seconds:.3} s"));
                self.hosts[host].paused += 1;
                let life = self.hosts[host].life;
                self.undo_after(span, Undo::Pause { host, life });
            }
            Kind::Stall | Kind::Freeze | Kind::Suspend if self.hosts[host].stalled.is_none() => {
                // Half of them for longer than a lease.
                let ttl = self.weather.ttl_ms * 1_000;
                let span = if self.dice.below(2) == 0 { span } else { self.dice.between(ttl, 4 * ttl) };
                self.say(kind, || format!("{name}, {:.3} s", span as f64 / 1e6));
                self.stand_still(
                    host,
                    match kind {
                        Kind::Freeze => Standstill::ClocksStand,
                        Kind::Suspend => Standstill::Suspended,
                        _ => Standstill::ClocksRun,
                    },
                    span,
                );
            }
            Kind::ResourceFails => {
                let here = &mut self.hosts[host];
                let epoch = here.node.as_ref().and_then(|node| node.holding()).map(|tenure| tenure.epoch);
                let Some(epoch) = epoch.filter(|_| here.running) else { return false };
                here.failed = true;
                let who = crate::world::Who::Node { host, life: here.life };
                let event = node::event::Event::ResourceFailed {
                    epoch,
                    resource: "app".into(),
                    reason: "its checks fail".into(),
                };
                self.say(kind, || name.into());
                self.queue.push(self.now, Happening::To { who, what: crate::world::Message::Event(Box::new(event)) });
            }
            Kind::WorkloadStuck => {
                self.say(kind, || format!("{name}, {seconds:.3} s"));
                self.hosts[host].stuck = true;
                self.undo_after(span, Undo::Workload { host });
            }
            // Without volumes nothing that matters is on it.
            Kind::DiskStall if self.weather.volumes => {
                // At times for so long that it counts as failed, and is taken back.
                let longest = if self.dice.below(4) == 0 { 16_000_000 } else { 4_000_000 };
                let span = span.min(longest);
                self.say(kind, || format!("{name}, {:.3} s", span as f64 / 1e6));
                self.stall_disks(host, span);
            }
            Kind::Drift => {
                let here = &self.hosts[host];
                let stands = here.stalled.is_some() && here.standstill != Standstill::ClocksRun;
                if !self.weather.drift || stands {
                    return false;
                }
                let (boot, raw) = self.rates(host);
                let now = self.now;
                self.say(kind, || name.into());
                self.hosts[host].clock.set_rates(now, boot, raw);
            }
            _ => return false,
        }
        true
    }

    pub(crate) fn stand_still(&mut self, host: usize, how: Standstill, span: Us) {
        let here = &mut self.hosts[host];
        here.stalled = Some(self.now);
        here.standstill = how;
        let power = here.power;
        self.undo_after(span, Undo::Stall { host, power });
    }

    /// A VM that stood still goes on.
    fn wake(&mut self, host: usize) {
        let now = self.now;
        let here = &mut self.hosts[host];
        let Some(since) = here.stalled.take() else { return };
        self.trace.line(now, NAMES[host], || "VM goes on".into());
        if here.standstill != Standstill::ClocksRun && here.address_until > since {
            here.address_until += now - since;
        }
        match here.standstill {
            Standstill::ClocksRun => {}
            Standstill::ClocksStand => {
                here.clock.stood_still(since, now);
                // What it had left of its rights, by its own clocks, however slow these are: one lease of its own, or a promise
                // that counts as long, or what it hears now about requests of before.
                let ttl = self.store.row.as_ref().map_or(0, |row| row.ttl_ms.0).max(here.ttl_ms());
                here.tainted_until = now + ttl * 1_300;
            }
            Standstill::Suspended => {
                here.clock.slept(since, now);
                // Its next look at its clocks tells it.
                // What its clocks missed before this suspension is still missing.
                here.tainted_until = here.tainted_until.max(now + SEES);
                let life = here.life;
                self.queue.push(here.tainted_until, Happening::LookAt { host, life });
            }
        }
        self.check_serving(host);
        if self.hosts[host].node.is_some() {
            self.go_on(host);
        } else {
            self.queue.push(now, Happening::StartDaemon { host });
        }
    }

    /// `pace`: how long it is down and up, each time.
    pub(crate) fn flap(&mut self, one: usize, other: usize, turns: u32, pace: Option<(Us, Us)>) {
        let (down, up) = pace.unwrap_or((self.dice.skewed(20_000, 3_000_000), self.dice.skewed(20_000, 3_000_000)));
        self.cut(one, other, down);
        if pace.is_some() || self.dice.below(3) != 0 {
            self.cut(other, one, down);
        }
        if turns > 0 && !self.healed {
            self.undo_after(down + up, Undo::Flap { one, other, turns: turns - 1, pace });
        }
    }

    fn restart_again(&mut self, host: usize, turns: u32) {
        self.kill_daemon(host, "killed, again");
        let pause = self.dice.skewed(50_000, 1_000_000);
        self.undo_after(pause, Undo::Daemon { host });
        if turns > 0 && !self.healed {
            let next = pause + self.dice.skewed(100_000, 3_000_000);
            self.undo_after(next, Undo::Loop { host, turns: turns - 1 });
        }
    }

    pub(crate) fn undo(&mut self, undo: Undo) {
        let lower = |count: &mut u32| *count = count.saturating_sub(1);
        match undo {
            Undo::Link { from, to } => lower(&mut self.network.link(from, to).cut),
            Undo::Slow { from, to, by } => {
                let link = self.network.link(from, to);
                link.slow = link.slow.saturating_sub(by);
            }
            Undo::Cut { path } => lower(&mut self.store.paths[path].cut),
            Undo::Mute { path } => lower(&mut self.store.paths[path].mute),
            Undo::Throttle { path } => lower(&mut self.store.paths[path].throttled),
            Undo::SlowTable { path, by } => {
                let slow = &mut self.store.paths[path].slow;
                *slow = slow.saturating_sub(by);
            }
            Undo::Pause { host, life } => {
                if self.hosts[host].life == life {
                    lower(&mut self.hosts[host].paused);
                    self.trace.line(self.now, NAMES[host], || "daemon goes on".into());
                    self.go_on(host);
                }
            }
            Undo::Stall { host, power } => {
                if self.hosts[host].power == power {
                    self.wake(host);
                }
            }
            Undo::Deny { path } => lower(&mut self.store.paths[path].denied),
            Undo::Losing => lower(&mut self.bus.losing),
            Undo::Apart { side, span } => {
                if !self.healed {
                    for one in (0..self.hosts.len()).filter(|one| side[*one]) {
                        self.cut_from_table(one, span);
                    }
                }
            }
            Undo::Daemon { host } => self.start_daemon(host),
            Undo::Workload { host } => {
                self.hosts[host].stuck = false;
                self.hosts[host].failed = false;
            }
            Undo::Functions => {
                lower(&mut self.functions.down);
                if self.functions.down == 0 {
                    self.functions_back();
                }
            }
            Undo::Bus => {
                lower(&mut self.bus.down);
                if self.bus.down == 0 {
                    self.bus_back();
                }
            }
            Undo::Ec2 => lower(&mut self.ec2.down),
            Undo::Row => self.put_row_back(),
            Undo::Resume => self.resume_cluster(),
            Undo::Member { host } => self.take_back(host),
            Undo::Isolate { host } => {
                if !self.healed {
                    self.really(Kind::Isolate, host, 0);
                }
            }
            Undo::HeldUp { host, span } => self.stand_still(host, Standstill::ClocksRun, span),
            Undo::CutOff { host, span } => self.cut_from_peers(host, span),
            Undo::Flap { one, other, turns, pace } => {
                if !self.healed {
                    self.flap(one, other, turns, pace);
                }
            }
            Undo::Loop { host, turns } => {
                if !self.healed {
                    self.restart_again(host, turns);
                }
            }
        }
    }
}
