//! Single faults, and what is promised about each (L1): service goes on, or resumes within a stated time. One seed in a few
//! is such a story in an otherwise quiet world, with clocks, timers, sizes and moment from the seed. Faults that come in
//! crowds can only be asked for safety, and for service after them; these are asked for service during them.

use crate::dice::Dice;
use crate::faults::Undo;
use crate::trace::Us;
use crate::weather::Kind;
use crate::world::{Happening, NAMES, World};

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
    Switchover,
    /// A call of an executor of old lands after the routes have been moved: it is put right within seconds, not by `watch`.
    LateRoute,
}

const ALL: [Story; 16] = [
    Story::TableAwayForAll,
    Story::TableAwayForHolder,
    Story::TableAwayForStandby,
    Story::LinkCut,
    Story::ControlPlaneDown,
    Story::StandbyCrashes,
    Story::StandbyPaused,
    Story::StandbyRestarts,
    Story::HolderCrashes,
    Story::HolderStopped,
    Story::HolderIsolated,
    Story::HolderPaused,
    Story::HolderRestarts,
    Story::HolderUnheard,
    Story::Switchover,
    Story::LateRoute,
];

/// The longest times without service since the story began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gaps {
    pub answered_at: Us,
    pub acknowledged_at: Us,
    pub answered: Us,
    pub acknowledged: Us,
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
    #[must_use]
    pub fn of(dice: &mut Dice) -> Self {
        ALL[dice.index(ALL.len())]
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
            Story::Switchover | Story::LateRoute => (going_on + start + stop, going_on + start + stop),
        }
    }

    pub(crate) fn tell_story(&mut self) {
        let Some(story) = self.weather.story else { return };
        let holder = self.store.row.as_ref().and_then(|row| row.holder.as_ref()).map(|one| self.host_of(&one.node));
        let Some(holder) = holder else { return self.broken("L1", "nobody serves a quiet world".into()) };
        let standby = (holder + 1) % self.hosts.len();
        self.gaps = Gaps { answered_at: self.now, acknowledged_at: self.now, ..Gaps::default() };
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
            Story::StandbyPaused => self.pause(standby, span),
            Story::StandbyRestarts => self.restart_once(standby),
            Story::HolderCrashes => self.power_off(holder, true),
            Story::HolderStopped => self.stop_instance(holder, "by somebody"),
            Story::HolderIsolated => {
                self.cut_from_peers(holder, span);
                self.table_away(vec![holder], span);
            }
            Story::HolderPaused => self.pause(holder, span),
            Story::HolderRestarts => self.restart_once(holder),
            Story::HolderUnheard => {
                for peer in (0..self.hosts.len()).filter(|peer| *peer != holder) {
                    self.cut(peer, holder, 2 * span);
                }
                self.table_away(vec![holder], 2 * span);
            }
            Story::Switchover | Story::LateRoute => self.operate(Kind::Switchover, holder),
        }
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

    fn restart_once(&mut self, host: usize) {
        self.kill_daemon(host, "killed");
        self.queue.push(self.now + 400_000, Happening::Undo(Undo::Daemon { host }));
    }

    /// At the end: whether service went on as promised.
    pub(crate) fn judge_story(&mut self) {
        let Some(story) = self.weather.story else { return };
        let (answered, acknowledged) = self.promised_gaps(story);
        let gaps = self.gaps;
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
