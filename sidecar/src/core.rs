//! The core: the one task that steps the machine, and hands its effects to those who do them. It waits for nobody.

use crate::address;
use crate::clock;
use crate::fence;
use crate::heartbeat::Said;
use crate::mailbox::Mailbox;
use crate::node::effect::{Effect, Note};
use crate::node::event::{Event, Outcome, Ticket};
use crate::node::view::View;
use crate::node::{Node, TICK};
use crate::notify::Notifier;
use crate::once::Once;
use crate::peers::Peers;
use crate::resources;
use crate::snapshot::{Decision, Snapshot};
use crate::standstill;
use crate::volumes::Volumes;
use lease::change::Write;
use lease::events;
use lease::heartbeat::{Heartbeat, ResourceHealth};
use lease::ids::{Epoch, Lineage};
use lease::time::{Millis, Moment};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::signal::unix::Signal;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use volume::core::Report;

/// Events that may wait for the core. It takes each within microseconds; what comes faster is a peer's flood.
pub const EVENTS_MAX: usize = 256;
/// How often the rest of the daemon hears from the core.
const TELL_EVERY: Millis = Millis(250);
/// A heartbeat's task that has not turned for this long hangs: no pulse for the watchdog then.
const HEARTBEAT_LIMIT: Millis = Millis(30_000);

/// Why the core has ended.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    #[error("{part} ended{problem}; a node without it is no node")]
    PartEnded { part: &'static str, problem: String },
    #[error("told to end a second time: the workload was killed, nothing was handed over")]
    ToldTwice,
    #[error("the node had to reboot ({reason}) and could not: {error}")]
    NotFenced { reason: String, error: fence::FenceError },
}

/// Where effects go.
#[derive(Debug)]
pub struct Outlets {
    pub reads: mpsc::Sender<()>,
    pub writes: mpsc::Sender<(Ticket, Box<Write>)>,
    pub peers: Arc<Peers>,
    pub address: watch::Sender<address::Order>,
    pub workload: mpsc::Sender<resources::Order>,
    /// Back to the core itself.
    pub events: mpsc::Sender<Event>,
    pub bus: Arc<Mailbox<events::Event>>,
    pub heartbeat: Arc<Notify>,
    pub fence: Option<Vec<String>>,
    /// Where everything that does I/O runs.
    pub runtime: tokio::runtime::Handle,
}

/// What the core keeps the rest of the daemon informed by.
#[derive(Debug)]
pub struct Told {
    pub snapshot: watch::Sender<Snapshot>,
    pub said: watch::Sender<Said>,
    pub lineage: watch::Sender<Option<Lineage>>,
    /// When the heartbeat's task last turned, in milliseconds of boot time.
    pub heartbeat_turned_ms: Arc<AtomicU64>,
}

#[derive(Debug)]
pub struct Core {
    pub node: Node,
    pub outlets: Outlets,
    pub told: Told,
    /// What of the heartbeat never changes.
    pub base: Heartbeat,
    pub health: watch::Receiver<Vec<ResourceHealth>>,
    pub notifier: Notifier,
    pub log: Log,
    /// The replicated volumes and their reports, where this node has any.
    pub volumes: Option<(Volumes, mpsc::UnboundedReceiver<Report>)>,
}

/// What runs beside the core, each by its name. All run for as long as the daemon does.
pub type Parts = JoinSet<(&'static str, String)>;

impl Core {
    /// Steps the machine until it has said that the daemon may end.
    ///
    /// # Errors
    /// [`CoreError`].
    pub async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut parts: Parts,
        mut terminate: Signal,
        mut interrupt: Signal,
    ) -> Result<(), CoreError> {
        let mut ticks = tokio::time::interval(TICK.into());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told_at = clock::now();
        let mut ending = false;
        self.notifier.ready();
        loop {
            let event = tokio::select! {
                // Time first: whatever waits is judged by what has run out meanwhile.
                biased;
                _ = ticks.tick() => Event::Tick,
                Some(ended) = parts.join_next() => return Err(part_ended(ended)),
                _ = terminate.recv() => Event::ShutDown,
                _ = interrupt.recv() => Event::ShutDown,
                report = reported(&mut self.volumes) => self.heard(report)?,
                Some(event) = events.recv() => event,
            };
            if event == Event::ShutDown {
                if ending {
                    return Err(self.end_at_once().await);
                }
                ending = true;
                self.notifier.stopping();
            }
            if event == Event::Tick {
                self.end_if_volumes_hang();
            }
            let now = clock::now();
            let effects = self.node.step(event, now);
            if let Some((volumes, _)) = &mut self.volumes {
                volumes.follow(&self.node);
            }
            let eventful = !effects.is_empty();
            let before = self.told.snapshot.borrow().view.role;
            let mut exit = false;
            let mut heartbeat = false;
            for effect in effects {
                match effect {
                    Effect::Exit => exit = true,
                    Effect::Heartbeat => heartbeat = true,
                    Effect::Reboot { reason } => return Err(self.reboot(reason).await),
                    effect => self.obey(effect, now),
                }
            }
            if heartbeat || now.longest_since(told_at) >= TELL_EVERY || (eventful && self.node.view(now).role != before)
            {
                told_at = now;
                self.tell(now);
            }
            if heartbeat {
                self.outlets.heartbeat.notify_one();
            }
            if exit {
                self.leave().await;
                return Ok(());
            }
        }
    }

    /// The volumes have said something; what follows from it beside their state is put behind it.
    fn heard(&mut self, report: Option<Report>) -> Result<Event, CoreError> {
        let ended = || CoreError::PartEnded { part: "the volumes", problem: ": see the log above".into() };
        let (volumes, _) = self.volumes.as_mut().expect("only volumes report");
        let heard = volumes.heard(report.ok_or_else(ended)?);
        if let Some(failed) = heard.failed
            && self.outlets.events.try_send(failed).is_err()
        {
            // What waits is taken within microseconds; the lease is not renewed by a core that hangs.
            tracing::error!("the machine does not hear that its volumes failed");
        }
        Ok(Event::Replica(heard.replica))
    }

    fn obey(&mut self, effect: Effect, now: Moment) {
        let out = &self.outlets;
        match effect {
            Effect::Read => {
                // Full only if the machine asks twice, and then the answer to the first serves.
                let _ = out.reads.try_send(());
            }
            Effect::Write { ticket, write } => {
                if let Err(error) = out.writes.try_send((ticket, write)) {
                    self.write_not_taken(ticket, &error, now);
                }
            }
            Effect::Ping { to, ping } => out.peers.ping(&to, ping),
            Effect::Pong { to, pong } => out.peers.pong(&to, pong),
            Effect::Nudge { to } => out.peers.nudge(&to),
            Effect::HoldAddress { at_most } => {
                out.address.send_replace(address::Order::Hold { from: now, at_most });
            }
            Effect::DropAddress => {
                out.address.send_replace(address::Order::Drop);
            }
            Effect::StartWorkload { epoch } => self.order(resources::Order::Start { epoch }),
            Effect::StopWorkload => self.order(resources::Order::Stop),
            Effect::KillWorkload => self.order(resources::Order::Kill),
            Effect::Emit(event) => out.bus.put(event),
            Effect::Note(note) => {
                let decision = self.log.write(note, now);
                self.told.snapshot.send_modify(|snapshot| {
                    if let Some(decision) = decision {
                        snapshot.decided(decision);
                    }
                });
            }
            Effect::Promise { epoch } => {
                if let Some((volumes, _)) = &self.volumes {
                    volumes.promise(epoch);
                }
            }
            Effect::Exit | Effect::Heartbeat | Effect::Reboot { .. } => unreachable!("these are the loop's own"),
        }
    }

    /// The lease must not be renewed by a node whose volumes answer nobody, and the workload cannot be stopped without them. The end
    /// of the process ends both.
    fn end_if_volumes_hang(&mut self) {
        if let Some((volumes, _)) = &mut self.volumes
            && volumes.hang()
        {
            tracing::error!(limit_ms = %standstill::LIMIT, "the volumes' thread stands still: this process ends, and with it the right to serve; keep its core dump, and tell us");
            std::process::abort();
        }
    }

    fn order(&self, order: resources::Order) {
        if self.outlets.workload.try_send(order).is_err() {
            // Sixteen orders wait: whoever should follow them hangs, and this node cannot stop what it serves.
            tracing::error!(?order, "the workload follows no orders any more");
            std::process::abort();
        }
    }

    /// A queue that is full has given the write to nobody: it was not made.
    fn write_not_taken(
        &mut self,
        ticket: Ticket,
        error: &mpsc::error::TrySendError<(Ticket, Box<Write>)>,
        now: Moment,
    ) {
        let outcome = Outcome::NotApplied { problem: error.to_string() };
        for effect in self.node.step(Event::Written { ticket, outcome }, now) {
            // Writes come again at the machine's own pace, never at once, so this goes no deeper.
            self.obey(effect, now);
        }
    }

    /// Tells the rest of the daemon what the machine believes.
    fn tell(&mut self, now: Moment) {
        let view = self.node.view(now);
        let said = Said { heartbeat: self.heartbeat(&view), at: now };
        self.told.said.send_replace(said);
        let lineage = view.row.as_ref().map(|row| row.lineage.clone());
        self.told.lineage.send_if_modified(|known| {
            let changed = lineage.is_some() && *known != lineage;
            if changed {
                known.clone_from(&lineage);
            }
            changed
        });
        self.notifier.status(format!("{}, epoch {}", view.role, view.epoch));
        self.told.snapshot.send_modify(|snapshot| *snapshot = snapshot.next(view, now));
        let turned = self.told.heartbeat_turned_ms.load(Ordering::Relaxed);
        if (now.boottime_us / 1_000).saturating_sub(turned) < HEARTBEAT_LIMIT.0 {
            self.notifier.pulse(now);
        }
    }

    fn heartbeat(&self, view: &View) -> Heartbeat {
        let (epoch, beat) = view.seen.unwrap_or_default();
        Heartbeat {
            role: view.role.into(),
            epoch: epoch.max(view.epoch),
            beat,
            hears: view.hears.clone(),
            resources: self.health.borrow().clone(),
            replica: match &self.volumes {
                Some((volumes, _)) => {
                    let (asynchronous, lag_ms) = (volumes.is_asynchronous(), volumes.lag(clock::now()));
                    lease::heartbeat::Replica { consistent: volumes.is_consistent(), asynchronous, lag_ms }
                }
                None => self.base.replica,
            },
            ..self.base.clone()
        }
    }

    /// The address goes, what is still on its way goes out, and that is all.
    async fn leave(&mut self) {
        self.outlets.address.send_replace(address::Order::Drop);
        let deadline = clock::now().after(Millis(1_500));
        // A nudge and the last heartbeat need milliseconds; the event that a lease was released is worth a second.
        tokio::time::sleep(Millis(200).into()).await;
        while self.outlets.bus.pending() > 0 && deadline.longest_since(clock::now()) > Millis::ZERO {
            tokio::time::sleep(Millis(20).into()).await;
        }
    }

    async fn end_at_once(&mut self) -> CoreError {
        self.outlets.address.send_replace(address::Order::Drop);
        self.order(resources::Order::Kill);
        tokio::time::sleep(Millis(300).into()).await;
        CoreError::ToldTwice
    }

    async fn reboot(&mut self, reason: String) -> CoreError {
        self.outlets.address.send_replace(address::Order::Drop);
        let epoch = self.node.view(clock::now()).epoch;
        tracing::error!(cluster = %self.base.cluster, node = %self.base.node, %epoch, reason, "rebooting this machine");
        self.tell(clock::now());
        self.outlets.heartbeat.notify_one();
        // The address needs a moment to go, and the others to be told.
        tokio::time::sleep(Millis(200).into()).await;
        let command = self.outlets.fence.take();
        match self.outlets.runtime.spawn(async move { fence::reboot(command.as_deref()).await }).await {
            Ok(error) => CoreError::NotFenced { reason, error },
            Err(error) => CoreError::PartEnded { part: "the fence", problem: format!(": {error}") },
        }
    }
}

/// The volumes' next report; never, where there are none.
async fn reported(volumes: &mut Option<(Volumes, mpsc::UnboundedReceiver<Report>)>) -> Option<Report> {
    match volumes {
        Some((_, reports)) => reports.recv().await,
        None => std::future::pending().await,
    }
}

fn part_ended(ended: Result<(&'static str, String), tokio::task::JoinError>) -> CoreError {
    match ended {
        Ok((part, problem)) => CoreError::PartEnded { part, problem },
        Err(error) => CoreError::PartEnded { part: "a part of the daemon", problem: format!(": {error}") },
    }
}

/// The machine's notes on their way to the log: once, with cluster, node and epoch.
#[derive(Debug)]
pub struct Log {
    cluster: String,
    node: String,
    troubles: Once,
}

impl Log {
    #[must_use]
    pub fn new(base: &Heartbeat) -> Self {
        Self { cluster: base.cluster.to_string(), node: base.node.to_string(), troubles: Once::default() }
    }

    /// What is worth to be remembered for the operator; nothing for a trouble that was told a moment ago.
    fn write(&mut self, note: Note, now: Moment) -> Option<Decision> {
        match note {
            Note::Became { from, to, epoch, why } => {
                tracing::info!(cluster = self.cluster, node = self.node, %epoch, "{from} -> {to}: {why}");
                Some(Decision { at: now, epoch, what: format!("{from} -> {to}: {why}") })
            }
            Note::Trouble { epoch, what } => {
                if !self.troubles.is_new(&what, now) {
                    return None;
                }
                tracing::warn!(cluster = self.cluster, node = self.node, %epoch, "{what}");
                Some(Decision { at: now, epoch: Epoch(epoch.0), what })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_remembered_once_and_a_change_each_time() {
        let mut log = Log { cluster: "web".into(), node: "a".into(), troubles: Once::default() };
        let start = Moment::default();
        let trouble = |left| Note::Trouble { epoch: Epoch(1), what: format!("authority ends in {left} ms: frozen") };
        assert!(log.write(trouble(250), start).is_some());
        assert!(log.write(trouble(240), start.after(Millis(1_000))).is_none());
        assert!(log.write(trouble(240), start.after(crate::once::AGAIN)).is_some());
        let became = Note::Became { from: "standby", to: "active", epoch: Epoch(1), why: "because".into() };
        assert!(log.write(became.clone(), start).is_some() && log.write(became, start).is_some());
    }
}
