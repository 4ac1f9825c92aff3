//! Single faults, and what is promised about each (L1): service goes on, or resumes within a stated time. One seed in a few
//! is such a story in an otherwise quiet world, with clocks, timers, sizes and moment from the seed. Faults that come in
//! crowds can only be asked for safety, and for service after them; these are asked for service during them.

use crate::data::name;
use crate::dice::Dice;
use crate::faults::Undo;
use crate::host::{Part, Standstill};
use crate::trace::Us;
use crate::weather::Kind;
use crate::world::{Happening, NAMES, World};
use lease::change::Write;

/// When the story begins: the cluster is whole long before.
pub const BEGINS: Us = 15_000_000;
/// Between two answers while nothing may interrupt the service.
const UNINTERRUPTED: Us = 1_000_000;
/// From the fence to the first answer, beside all waits: cold starts, calls, descriptions, ticks, one lost race.
const FUNCTIONS: Us = 3_500_000;
/// From a late call to its correction by a function that is still there: its looks, and their calls.
const PUT_RIGHT: Us = 4_000_000;
/// A standby's last word that it hears the holder is doubted for a heartbeat's interval and a little more.
const DOUBT: Us = 2_700_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Story {
    TableAwayForAll,
    TableAwayForHolder,
    TableAwayForStandby,
    LinkCut,
    ControlPlaneDown,
    StandbyCrashes,
    StandbyPaused,
    StandbyRestarts,
    HolderCrashes,
    HolderStopped,
    HolderIsolated,
    HolderPaused,
    HolderRestarts,
    /// Pings arrive, answers do not, and the holder cannot reach the table.
    HolderUnheard,
    /// Answers come late, and the holder lives on them, without the table: then the links are cut, too.
    AnswersLate,
    Switchover,
    /// A call of an executor of old lands after the routes have been moved: it is put right within seconds, not by `watch`.
    LateRoute,
    /// The holder is gone, and so is each event until long after the first suspicion.
    EventsLost,
    /// The holder's instance is stopped while the standbys' disks hang with its last writes.
    DisksHang,
    /// The holder, alone in the set, stands still with its clocks going, for longer than a disk may.
    AloneHeldUp,
    /// The link to a standby comes and goes, each time for too short to take the standby in.
    StandbyFlaps,
    /// A holder whose clocks stood still comes back while its successor's acceptance is on its way, and the table is gone; the
    /// successor's process may die over it. No time is promised: nobody may serve beside it, and it ends well.
    TakeoverCrossed,
    /// A standby was away. The holder's write that takes it in again comes late to the table, and nothing is heard of it, while reads are
    /// answered; and the link to it is cut just then. No time is promised.
    GrowCrossed,
}

/// Once, at the first acceptance after the story has begun, or at the first member taken in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Crossing {
    armed: bool,
    growing: bool,
    /// Until when this node's further writes are lost.
    pub muted: Option<(usize, Us)>,
    /// The next write's first try comes to the table this late, and its answer to nobody.
    pub late: Option<Us>,
}

/// The longest times without service since the story began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gaps {
    pub answered_at: Us,
    pub acknowledged_at: Us,
    pub answered: Us,
    pub acknowledged: Us,
    /// From when on hints were lost, or disks hung.
    held_up: Us,
    /// How often the in-sync set has changed within an epoch.
    pub changes: u32,
    /// In which epoch it began.
    epoch: u64,
    routes_moved: bool,
}

impl Gaps {
    pub fn answer(&mut self, now: Us) {
        self.answered = self.answered.max(now - self.answered_at);
        self.answered_at = now;
    }

    pub fn acknowledgement(&mut self, now: Us) {
        self.acknowledged = self.acknowledged.max(now - self.acknowledged_at);
        self.acknowledged_at = now;
    }
}

impl Story {
    pub const ALL: [Self; 23] = [
        Self::TableAwayForAll,
        Self::TableAwayForHolder,
        Self::TableAwayForStandby,
        Self::LinkCut,
        Self::ControlPlaneDown,
        Self::StandbyCrashes,
        Self::StandbyPaused,
        Self::StandbyRestarts,
        Self::HolderCrashes,
        Self::HolderStopped,
        Self::HolderIsolated,
        Self::HolderPaused,
        Self::HolderRestarts,
        Self::HolderUnheard,
        Self::AnswersLate,
        Self::Switchover,
        Self::LateRoute,
        Self::EventsLost,
        Self::DisksHang,
        Self::AloneHeldUp,
        Self::StandbyFlaps,
        Self::TakeoverCrossed,
        Self::GrowCrossed,
    ];

    #[must_use]
    pub fn of(dice: &mut Dice) -> Self {
        Self::ALL[dice.index(Self::ALL.len())]
    }
}

impl World {
    /// Within what clients are answered, and writes acknowledged, whatever the story's fault.
    #[must_use]
    pub fn promised_gaps(&self, story: Story) -> (Us, Us) {
        let policy = &self.config.policy;
        // By the slowest clock.
        let slow = |ms: u64| ms * 1_000 * 10 / 9;
        let pace = 6 * self.weather.op_every;
        let (start, stop) = (self.weather.start_us, self.weather.stop_us);
        let going_on = UNINTERRUPTED + pace;
        // A lost member holds writes up until it is taken out, and that takes a beat.
        let without_member = going_on + slow(policy.peer_silence_ms.0 + policy.beat_ms.0);
        let doubt = if self.weather.nodes > 2 { DOUBT } else { 0 };
        let taken_over = pace + start + FUNCTIONS + doubt + slow(policy.wait_ms.0 + policy.beat_ms.0);
        match story {
            Story::TableAwayForAll
            | Story::TableAwayForHolder
            | Story::TableAwayForStandby
            | Story::ControlPlaneDown => (going_on, going_on),
            Story::LinkCut | Story::StandbyCrashes | Story::StandbyPaused | Story::StandbyRestarts => {
                (going_on, without_member)
            }
            Story::HolderCrashes | Story::HolderStopped | Story::HolderIsolated | Story::HolderPaused => {
                (taken_over, taken_over)
            }
            // Its new process waits for nobody; its machine's leftovers end first.
            Story::HolderRestarts => (going_on + start + slow(1_500), going_on + start + slow(2_500)),
            // The standby promises for as long as eight pings are unanswered, and then for one promise.
            Story::HolderUnheard => {
                let promises = slow(8 * policy.ping_ms.0 + policy.promise_ms.0);
                (taken_over + promises, taken_over + promises)
            }
            // Until the cut reads go on. A member whose answers are late may count as lost, and without the table nobody takes it out
            // of the set: then writes wait for the successor.
            Story::AnswersLate => {
                let late = taken_over + self.gaps.held_up;
                (late, late + slow(3 * policy.ttl_ms.0))
            }
            Story::Switchover | Story::LateRoute => (going_on + start + stop, going_on + start + stop),
            // Once events come again, the next word of a suspicion is two seconds away.
            Story::EventsLost => {
                let within = taken_over + self.gaps.held_up + slow(2_000);
                (within, within)
            }
            Story::AloneHeldUp => {
                let within = going_on + self.gaps.held_up;
                (within, within.max(without_member))
            }
            Story::DisksHang => (taken_over + self.gaps.held_up, taken_over + self.gaps.held_up),
            // Held up once, until it is taken out; or twice, where it was about to be.
            Story::StandbyFlaps => (going_on, 2 * without_member),
            Story::TakeoverCrossed | Story::GrowCrossed => (Us::MAX, Us::MAX),
        }
    }

    /// How often the in-sync set changes at most, where that is promised.
    fn promised_changes(story: Story) -> u32 {
        match story {
            Story::TableAwayForAll
            | Story::TableAwayForHolder
            | Story::TableAwayForStandby
            | Story::ControlPlaneDown => 0,
            Story::LinkCut | Story::StandbyCrashes | Story::StandbyPaused | Story::StandbyRestarts => 2,
            Story::StandbyFlaps => 4,
            _ => u32::MAX,
        }
    }

    pub(crate) fn tell_story(&mut self) {
        let Some(story) = self.weather.story else { return };
        let holder = self.store.row.as_ref().and_then(|row| row.holder.as_ref()).map(|one| self.host_of(&one.node));
        let Some(holder) = holder else { return self.broken("L1", "nobody serves a quiet world".into()) };
        self.counts.stories.one(story as usize);
        let standby = (holder + 1) % self.hosts.len();
        let epoch = self.store.row.as_ref().map_or(0, |row| row.epoch.0);
        self.gaps = Gaps { answered_at: self.now, acknowledged_at: self.now, epoch, ..Gaps::default() };
        let ttl = self.config.policy.ttl_ms.0 * 1_000;
        let span = self.dice.between(3 * ttl, 6 * ttl);
        self.trace.line(self.now, "story", || format!("{story:?}; {} holds", NAMES[holder]));
        match story {
            Story::TableAwayForAll => self.table_away((0..=self.hosts.len()).collect(), span),
            Story::TableAwayForHolder => self.table_away(vec![holder], span),
            Story::TableAwayForStandby => self.table_away(vec![standby], span),
            Story::LinkCut => {
                self.cut(holder, standby, span);
                self.cut(standby, holder, span);
            }
            Story::ControlPlaneDown => {
                self.functions.down += 1;
                self.bus.down += 1;
                self.ec2.down += 1;
                for undo in [Undo::Functions, Undo::Bus, Undo::Ec2] {
                    self.undo_after(span, undo);
                }
            }
            Story::StandbyCrashes => self.power_off(standby, true),
            Story::GrowCrossed => {
                self.crossing.growing = true;
                self.power_off(standby, true);
            }
            Story::StandbyPaused => self.pause(standby, span),
            Story::StandbyRestarts => self.restart_once(standby),
            Story::HolderCrashes => self.power_off(holder, true),
            Story::HolderStopped => self.stop_instance(holder, "by somebody"),
            Story::HolderIsolated => {
                // Of two standbys one may still hear it, and be heard: that must not keep the other.
                let spared = (self.hosts.len() > 2 && self.dice.below(2) == 0).then_some((holder + 2) % 3);
                for peer in (0..self.hosts.len()).filter(|peer| *peer != holder && Some(*peer) != spared) {
                    self.cut(holder, peer, span);
                    self.cut(peer, holder, span);
                }
                self.table_away(vec![holder], span);
            }
            Story::EventsLost => {
                let wait = self.config.policy.wait_ms.0 * 1_000;
                self.gaps.held_up = self.dice.between(wait, wait + 3_000_000);
                self.bus.losing += 1;
                self.undo_after(self.gaps.held_up, Undo::Losing);
                self.cut_from_peers(holder, 10 * ttl);
                self.table_away(vec![holder], 10 * ttl);
            }
            Story::DisksHang => {
                // Not for so long, by the fastest clock, that it counts as failed: then only a person brings it back.
                let longest = (self.config.policy.wait_ms.0 * 1_000 + 4_000_000).min(8_000_000);
                self.gaps.held_up = self.dice.between(2_000_000, longest);
                for host in (0..self.hosts.len()).filter(|host| *host != holder) {
                    self.stall_disks(host, self.gaps.held_up);
                }
                let at = self.now + self.dice.between(20_000, 400_000);
                self.queue.push(at, Happening::StopInstance { host: holder });
            }
            Story::AloneHeldUp => {
                self.cut_from_peers(holder, 12 * ttl);
                // By the slowest clock as long as a disk may stand still, and more.
                self.gaps.held_up = self.dice.between(13_000_000, 17_000_000);
                let span = self.gaps.held_up;
                self.undo_after(ttl + 2_000_000, Undo::HeldUp { host: holder, span });
            }
            Story::StandbyFlaps => {
                let silence = self.config.policy.peer_silence_ms.0 * 1_000 * 10 / 9;
                let down = silence + self.dice.between(200_000, 600_000);
                let up = self.dice.between(450_000, 850_000);
                self.flap(holder, standby, 6, Some((down, up)));
            }
            Story::TakeoverCrossed => {
                self.crossing.armed = true;
                self.stand_still(holder, Standstill::ClocksStand, 6 * ttl);
            }
            Story::HolderPaused => self.pause(holder, span),
            Story::HolderRestarts => self.restart_once(holder),
            Story::HolderUnheard => {
                for peer in (0..self.hosts.len()).filter(|peer| *peer != holder) {
                    self.cut(peer, holder, 2 * span);
                }
                self.table_away(vec![holder], 2 * span);
            }
            Story::AnswersLate => {
                let ping = self.config.policy.ping_ms.0 * 1_000;
                let by = self.dice.between(2 * ping, 7 * ping);
                // Beyond the lease: then promises are all there is.
                let cut = self.dice.between(ttl + ttl / 2, 3 * ttl);
                self.gaps.held_up = 2 * by;
                for peer in (0..self.hosts.len()).filter(|peer| *peer != holder) {
                    self.network.link(peer, holder).slow += by;
                    self.undo_after(cut, Undo::Slow { from: peer, to: holder, by });
                }
                self.table_away(vec![holder], cut + span);
                self.undo_after(cut, Undo::CutOff { host: holder, span });
            }
            Story::Switchover | Story::LateRoute => self.operate(Kind::Switchover, holder),
        }
    }

    /// A node writes: in one story the first acceptance is crossed by the return of the holder that it is to follow.
    pub(crate) fn cross(&mut self, host: usize, write: &Write) {
        self.cross_growing(host, write);
        let Some(row) = self.store.row.clone().filter(|_| self.crossing.armed) else { return };
        let old = row.holder.as_ref().map(|holder| self.host_of(&holder.node)).filter(|old| *old != host);
        let Some(old) = old.filter(|_| write.row.epoch > row.epoch) else { return };
        self.crossing.armed = false;
        let soon = self.dice.below(2) == 0;
        self.crossing.late =
            Some(if soon { self.dice.between(300_000, 2_500_000) } else { self.dice.between(2_500_000, 12_000_000) });
        let ttl = self.config.policy.ttl_ms.0 * 1_000;
        let span = self.dice.between(ttl, 4 * ttl);
        let everybody = self.dice.below(2) == 0;
        self.table_away(if everybody { (0..=self.hosts.len()).collect() } else { vec![old] }, span);
        let dies = self.dice.below(2) == 0;
        if dies {
            self.hosts[host].crash_after = Some((0, false, Part::Node));
        }
        self.trace.line(self.now, "story", || {
            format!("{}'s acceptance is late, {} comes back; {everybody}, {dies}", NAMES[host], NAMES[old])
        });
        let at = self.now + self.dice.below(300_000);
        let power = self.hosts[old].power;
        self.queue.push(at, Happening::Undo(Undo::Stall { host: old, power }));
    }

    /// In another the first member that is taken in is cut off meanwhile.
    fn cross_growing(&mut self, host: usize, write: &Write) {
        let Some(row) = self.store.row.clone().filter(|row| self.crossing.growing && row.epoch == write.row.epoch)
        else {
            return;
        };
        let mut members = self.hosts.iter().map(|one| name(one.replica.incarnation));
        let taken_in = members.position(|one| write.row.in_sync.contains(&one) && !row.in_sync.contains(&one));
        let Some(taken_in) = taken_in.filter(|taken_in| *taken_in != host) else { return };
        self.crossing.growing = false;
        let ttl = self.config.policy.ttl_ms.0 * 1_000;
        let late = self.dice.between(ttl / 4, ttl * 3 / 4);
        self.crossing.late = Some(late);
        self.crossing.muted = Some((host, self.now + late + self.dice.below(200_000)));
        let span = late + self.dice.between(ttl / 2, 2 * ttl);
        self.trace.line(self.now, "story", || {
            format!("{} is taken in late, and cut off from {}", NAMES[taken_in], NAMES[host])
        });
        self.cut(host, taken_in, span);
        self.cut(taken_in, host, span);
    }

    /// A route has been changed; in one story that is when an old call lands.
    pub(crate) fn route_moved(&mut self, table: usize, from: Option<usize>) {
        let moved = self.gaps.answered_at > 0 && !self.gaps.routes_moved;
        if self.weather.story == Some(Story::LateRoute) && moved && from.is_some() {
            self.gaps.routes_moved = true;
            // Before the second of the function's two looks.
            let at = self.now + self.dice.between(300_000, 1_200_000);
            self.queue.push(at, Happening::LateRoute { table, to: from });
            self.queue.push(at + PUT_RIGHT, Happening::RouteJudged { table });
        }
    }

    pub(crate) fn judge_route(&mut self, table: usize) {
        let holder = self.store.row.as_ref().and_then(|row| row.holder.as_ref()).map(|one| self.host_of(&one.node));
        if self.ec2.now.routes[table] != holder {
            let what = format!("an old call has led table {} astray, and nobody has looked again", table + 1);
            self.broken("I8", what);
        }
    }

    fn table_away(&mut self, paths: Vec<usize>, span: Us) {
        for path in paths {
            self.cut_from_table(path, span);
        }
    }

    fn pause(&mut self, host: usize, span: Us) {
        self.hosts[host].paused += 1;
        let life = self.hosts[host].life;
        self.undo_after(span, Undo::Pause { host, life });
    }

    pub(crate) fn restart_once(&mut self, host: usize) {
        self.kill_daemon(host, "killed");
        self.queue.push(self.now + 400_000, Happening::Undo(Undo::Daemon { host }));
    }

    /// At the end: whether service went on as promised.
    pub(crate) fn judge_story(&mut self) {
        let Some(story) = self.weather.story else { return };
        let (answered, acknowledged) = self.promised_gaps(story);
        let gaps = self.gaps;
        let epoch = self.store.row.as_ref().map_or(0, |row| row.epoch.0);
        let stays = story == Story::AloneHeldUp || Self::promised_changes(story) < u32::MAX;
        if stays && epoch != gaps.epoch {
            let what = format!("{story:?}: epoch {epoch} began; promised is that {} goes on", gaps.epoch);
            self.broken("L1", what);
        }
        if gaps.changes > Self::promised_changes(story) {
            let most = Self::promised_changes(story);
            self.broken(
                "L1",
                format!("{story:?}: the in-sync set changed {} times; promised are {most}", gaps.changes),
            );
        }
        let seconds = |us: Us| us as f64 / 1e6;
        if gaps.answered > answered {
            let what = format!(
                "{story:?}: no client was answered for {:.2} s; promised are {:.2} s",
                seconds(gaps.answered),
                seconds(answered)
            );
            self.broken("L1", what);
        } else if gaps.acknowledged > acknowledged {
            let what = format!(
                "{story:?}: no write was acknowledged for {:.2} s; promised are {:.2} s",
                seconds(gaps.acknowledged),
                seconds(acknowledged)
            );
            self.broken("L1", what);
        }
    }
}
