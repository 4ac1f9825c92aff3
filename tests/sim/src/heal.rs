//! The end of a seed: all faults stop, and the service must be whole again within the bound, and stay so.
//!
//! # The bound
//! When faults stop, every node starts or goes on, and every late message has arrived within a second. What may then still
//! stand in the way, each at its worst, one after the other:
//!
//! | what | seconds, at ttl L |
//! |------|-------------------|
//! | a boot and the daemon's start | 4 |
//! | a request to move that nobody drives is given up by its holder, or by its target's acceptance | 0.25 L |
//! | a suspicion: W/2 of silence on slow clocks, its repetition, the function's look at heartbeats | W/2 / 0.9 + 2 + 3 |
//! | a nominee's wait: W by slow clocks, anew after a start | W / 0.9 |
//! | a nomination that nobody drives and nobody accepts, given up by the standby that repeats its suspicion | W + 2 + 1 |
//! | or, where no event comes at all, `watch`: its period, its look, that same patience | 60 + 3 + W + 3 |
//! | workload's start and stop, resync of everybody, one after the other | 2 · 1.5 + 3 · 16 · 0.3 |
//!
//! With W = 1.23 L: 75 s and 6 L (of the longest L that was ever configured), and 15 s for the copies. A holder that runs on a frozen clock is caught by the same.

use crate::data::incarnation;
use crate::ec2::TABLES;
use crate::trace::Us;
use crate::world::{Happening, World};

/// Between two looks.
const LOOK: Us = 250_000;
/// Once whole, it must stay so.
const STAYS: Us = 4_000_000;
/// How long after all faults the operator is asked to give up data, where nobody has all of it.
const GIVE_UP: Us = 5_000_000;

#[derive(Debug, Default, Clone, Copy)]
pub struct Healing {
    at: Us,
    whole_since: Option<Us>,
    forced_at: Us,
    resumed_at: Us,
}

impl World {
    /// The stated bound on being whole again.
    #[must_use]
    pub fn bound(&self) -> Us {
        90_000_000 + 6 * crate::weather::TTL_MAX * 1_000
    }

    pub(crate) fn heal(&mut self) {
        self.trace.line(self.now, "faults", || "all stop".into());
        self.healed = true;
        self.healing = Healing { at: self.now, ..Healing::default() };
        // What lasts ends now, and what is late arrives within the second.
        self.queue.hurry(self.now + 1_000_000);
        for path in &mut self.store.paths {
            *path = crate::store::Path::default();
        }
        for from in 0..self.hosts.len() {
            for to in 0..self.hosts.len() {
                let link = self.network.link(from, to);
                link.cut = 0;
                link.slow = 0;
            }
        }
        self.bus.losing = 0;
        self.ec2.down = 0;
        for run in self.functions.runs.values_mut() {
            run.frozen_until = run.frozen_until.min(self.now + 500_000);
        }
        for host in 0..self.hosts.len() {
            self.hosts[host].stuck = false;
            self.hosts[host].crash_after = None;
            self.hosts[host].disk.stalled_until = 0;
        }
        self.weather.noise = crate::weather::Noise::default();
        self.queue.push(self.now + LOOK, Happening::Judge);
    }

    /// Whether everything is as it should be, and for how long.
    pub(crate) fn judge(&mut self) {
        let since = self.now - self.healing.at;
        // Whatever ended a daemon, somebody starts it again.
        for host in 0..self.hosts.len() {
            let here = &self.hosts[host];
            if here.on && here.node.is_none() && since > 1_500_000 {
                self.start_daemon(host);
            }
        }
        match self.not_whole() {
            None => {
                let whole = *self.healing.whole_since.get_or_insert(self.now);
                self.counts.longest_heal = self.counts.longest_heal.max(whole - self.healing.at);
                if self.now - whole >= STAYS {
                    self.finish();
                    return;
                }
            }
            Some(why) => {
                if self.healing.whole_since.is_some() {
                    self.trace.line(self.now, "heal", || format!("not whole any more: {why}"));
                }
                self.healing.whole_since = None;
                if since > self.bound() {
                    self.broken("liveness", format!("{:.1} s after all faults: {why}", since as f64 / 1e6));
                    return;
                }
                self.help();
            }
        }
        self.queue.push(self.now + LOOK, Happening::Judge);
    }

    /// What only a person can do.
    fn help(&mut self) {
        let Some(row) = self.store.row.clone() else { return };
        let now = self.now;
        let again = |at: Us| at == 0 || now - at > 10_000_000;
        if row.paused.is_some() && again(self.healing.resumed_at) {
            self.healing.resumed_at = self.now;
            self.resume_cluster();
        }
        let exists = self.hosts.iter().any(|host| row.in_sync.contains(&incarnation(host.replica.incarnation)));
        if !exists && self.now - self.healing.at > GIVE_UP && again(self.healing.forced_at) {
            self.healing.forced_at = self.now;
            self.force_with_loss();
        }
    }

    /// What is missing; `None`: the service is whole.
    fn not_whole(&self) -> Option<String> {
        let Some(row) = &self.store.row else { return Some("there is no row".into()) };
        let Some(holder) = &row.holder else { return Some(format!("nobody holds epoch {}", row.epoch)) };
        let host = self.host_of(&holder.node);
        if !row.activated {
            return Some(format!("epoch {} is not activated", row.epoch));
        }
        if !self.hosts[host].serves(self.now) {
            return Some(format!("the holder {} does not serve", holder.node));
        }
        for table in 0..TABLES {
            if self.ec2.now.routes[table] != Some(host) {
                return Some(format!("table {} does not lead to the holder {}", table + 1, holder.node));
            }
            if self.god.acks_by_table[table] < self.healing.at {
                return Some(format!("no write was taken through table {} since", table + 1));
            }
        }
        if self.ec2.now.checked[host] {
            return Some(format!("the interface of {} does not forward", holder.node));
        }
        if self.god.last_ack < self.healing.at {
            return Some("no write was acknowledged since".into());
        }
        let missing = self.hosts.iter().find(|host| !row.in_sync.contains(&incarnation(host.replica.incarnation)));
        missing.map(|host| format!("{} is not in sync", host.me.node))
    }

    /// All is quiet: members have the same data, to the last sector that is not being written.
    fn finish(&mut self) {
        self.done = true;
        self.check_members();
        self.judge_story();
    }
}
