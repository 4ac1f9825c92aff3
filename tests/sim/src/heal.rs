//! The end of a seed: all faults stop, and the service must be whole again within the bound, and stay so. Then the clients
//! end, and every replica must hold the same.
//!
//! # The bound
//! Whole means: every node runs and is in sync, but for one that follows asynchronously, every route leads to the holder, writes go through each of them. When the
//! faults stop, what is late comes within a second, and no event is lost any more. What may then stand in the way, each at its
//! worst, by the slowest clock (/ 0.9) and by the longest lease that was ever configured in this seed (W = 1.23 L):
//!
//! | what | seconds |
//! |------|---------|
//! | A: routes or an interface that somebody changed: nobody but `watch` sees that, its period and its look | 60 + 3 |
//! | B: an instance was stopped last of all: until it is stopped, started, booted, its daemon begins | 15 + 5 + 1 + 8 + 1 |
//! | and a holder is gone: half of W in silence, the event and its repetition, the function's look at heartbeats | W/2 + 2 + 3 |
//! | and a nomination stands that nobody drives: it is given up, and the next nominee waits | W + 3 + W |
//! | the longer of A and B, and then: ends and starts of the workload, twice | 2 (stop + start) |
//! | a session given up and begun again, twice, what differs copied, the set grown | 8 + 100 times what a disk takes |
//! | what has diverged after a loss is given up by a person, who looks every 10 s, and its node starts | 2 (10 + 1) |
//! | where no member is left only a person can go on: asked 5 s after the end and every 10 s, and stops an instance first | 5 + 10 + 30 |

use crate::data::name;
use crate::ec2::TABLES;
use crate::trace::Us;
use crate::world::{Happening, NAMES, World};
use volume::core::follower::{FOLLOW_AGE, FOLLOW_REST};

/// Between two looks.
const LOOK: Us = 250_000;
/// Once whole, it must stay so.
const STAYS: Us = 4_000_000;
/// How long after all faults the operator is asked to give up data, where nobody has all of it.
const GIVE_UP: Us = 5_000_000;
/// Once the clients have ended, what they wrote is everywhere within this time.
const SETTLES: Us = 3_000_000;

const SECOND: Us = 1_000_000;
/// Of the bound: a stopped instance is back; `watch` has come by; a person has gone on.
const STARTED: Us = 30 * SECOND;
const WATCHED: Us = 63 * SECOND;
const HELPED: Us = 45 * SECOND;
/// And has made anew what has diverged, two nodes within one look each.
const DECIDED: Us = 22 * SECOND;
/// A session is given up after 2 s and begun again, twice; what differs is copied, and the set grown.
const COPIED: Us = 8 * SECOND;
/// What a disk does one after the other for that, and for what is under way when the clients end.
const SLOW: u64 = 100;
/// And this much later at who follows asynchronously, with a flush for each round: if what it lacks is too old, it rests, and is copied to.
const FOLLOWED: Us = (FOLLOW_AGE.0 + FOLLOW_REST.0) * 1_000 + COPIED;

#[derive(Debug, Default, Clone, Copy)]
pub struct Healing {
    at: Us,
    whole_since: Option<Us>,
    /// Since when the clients send nothing more.
    ended_since: Option<Us>,
    forced_at: Us,
    resumed_at: Us,
    decided_at: Us,
}

impl Healing {
    #[cfg(test)]
    pub(crate) fn end_clients(&mut self, now: Us) {
        self.ended_since = Some(now);
    }

    /// The clients have been told to end.
    #[must_use]
    pub fn clients_end(&self) -> bool {
        self.ended_since.is_some()
    }
}

impl World {
    /// The stated bound on being whole again.
    #[must_use]
    pub fn bound(&self) -> Us {
        let wait =
            lease::policy::Policy::for_ttl(lease::time::Millis(self.longest_lease_ms)).wait_ms.0 * 1_000 * 10 / 9;
        let taken_over = STARTED + wait / 2 + 5 * SECOND + wait + 3 * SECOND + wait;
        let workload = 2 * (self.weather.start_us + self.weather.stop_us);
        let copies = if self.weather.volumes { COPIED + SLOW * self.weather.disk_us } else { 0 };
        let decided = if self.healing.decided_at > 0 { DECIDED } else { 0 };
        let helped = decided + if self.healing.forced_at > 0 { HELPED } else { 0 };
        WATCHED.max(taken_over) + workload + copies + helped
    }

    /// Whether who follows asynchronously has all that its holder has.
    fn is_followed_up(&self) -> bool {
        let Some(follower) = self.weather.follower else { return true };
        let holder = self.store.row.as_ref().and_then(|row| row.holder.as_ref()).map(|one| self.host_of(&one.node));
        let name = name(self.hosts[follower].replica.incarnation);
        holder.is_some_and(|holder| holder == follower || self.hosts[holder].volume.is_ahead_of(&name) == Some(0))
    }

    fn follows_within(&self) -> Us {
        if self.weather.follower.is_some() { FOLLOWED } else { 0 }
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
            self.heal_disks(host);
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
                if self.now - whole >= STAYS {
                    self.settle(whole);
                }
            }
            Some(why) => {
                if self.healing.whole_since.is_some() {
                    self.trace.line(self.now, "heal", || format!("not whole any more: {why}"));
                }
                self.healing.whole_since = None;
                if self.healing.ended_since.take().is_some() {
                    self.queue.push(self.now, Happening::Client);
                }
                if since > self.bound() {
                    let bound = self.bound() as f64 / 1e6;
                    let since = since as f64 / 1e6;
                    self.broken("liveness", format!("{since:.1} s after all faults, the bound is {bound:.1} s: {why}"));
                }
                self.help();
            }
        }
        if !self.done {
            self.queue.push(self.now + LOOK, Happening::Judge);
        }
    }

    /// It has been whole since then: the clients end, and once nothing waits any more, so does the seed.
    fn settle(&mut self, whole: Us) {
        let ended = *self.healing.ended_since.get_or_insert(self.now);
        if self.now < ended + SECOND {
            return;
        }
        if (0..self.hosts.len()).all(|host| self.is_quiet(host)) && self.is_followed_up() {
            self.finish(whole);
        } else if self.now > ended + SETTLES + SLOW * self.weather.disk_us + self.follows_within() {
            self.broken("liveness", "the clients have ended, and something that they wrote is not everywhere".into());
        }
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
        if again(self.healing.decided_at) && self.decide_for_the_holder() {
            self.healing.decided_at = self.now;
        }
        let exists = self.hosts.iter().any(|host| row.in_sync.contains(&name(host.replica.incarnation)));
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
        // Nobody waits for who follows asynchronously: where its disk is slower than what is written, it is behind until clients end.
        let missing = self.hosts.iter().enumerate().find(|(number, other)| {
            let follows = self.weather.follower == Some(*number) && *number != host;
            let other = name(other.replica.incarnation);
            if follows { self.hosts[host].volume.is_diverged_from(&other) } else { !row.in_sync.contains(&other) }
        });
        missing.map(|(_, other)| format!("{} is not in sync, or has diverged", other.me.node))
    }

    /// All is quiet.
    fn finish(&mut self, whole: Us) {
        self.done = true;
        if self.weather.story.is_none() {
            let took = whole - self.healing.at;
            self.counts.recoveries.push(took / 1_000);
            self.counts.nearest = self.counts.nearest.max(took * 1_000 / self.bound());
        }
        self.check_members();
        self.check_equal();
        self.judge_story();
    }

    /// I3 at rest: every replica holds the same, to the last sector, which is what clients were told or may still be told, and
    /// what one reads now.
    pub(crate) fn check_equal(&mut self) {
        let holder = self.store.row.as_ref().and_then(|row| row.holder.as_ref()).map(|one| self.host_of(&one.node));
        let Some(holder) = holder.filter(|_| self.weather.volumes) else { return };
        for sector in 0..self.history.len() {
            let has = self.hosts[holder].replica.image()[sector];
            let other = self.hosts.iter().find(|host| host.replica.image()[sector] != has);
            if let Some(other) = other {
                let theirs = other.replica.image()[sector];
                let what = format!(
                    "at rest, {} has {theirs} in sector {sector}, and the holder {} has {has}",
                    other.me.node, NAMES[holder]
                );
                return self.broken("I3", what);
            }
            for read in [self.hosts[holder].cache[sector], has] {
                let asked = self.history.asks(sector);
                self.check_read(holder, asked, read);
            }
        }
    }
}
