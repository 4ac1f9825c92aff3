//! Between the node's machine and its replicated volumes: what each is told of the other, and in which order. Pure; the daemon
//! and the simulator step the same.
//!
//! ```text
//!   node::Node ──holding, need, frozen, closing──▶ [`Bridge::follow`] ──▶ volume::core::Event   admit, lead, need, freeze, fence
//!   node::Event ◀── replica, failed ────────────── [`Bridge::heard`]  ◀── volume::core::Report
//! ```
//!
//! What each word means to the volumes, and which of the protocol's rules stands behind it, says [`volume::core`].

use lease::ids::{Epoch, Incarnation, Lineage};
use node::Node;
use node::event::Replica;
use node::tenure::Phase;
use std::collections::BTreeSet;
use volume::core::{Event, Report};

/// What the volumes are to be told after a step of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    /// From which epoch on frames may be taken. It holds at once, before anything that follows from the machine's step, however
    /// long the volumes are busy: what this node accepts next, nothing older is taken any more.
    pub admit: Option<Epoch>,
    /// In this order, behind all that was told before.
    pub tell: Vec<Event>,
}

/// What the machine is to hear of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub replica: Replica,
    /// Behind the replica's state: the volumes of the epoch that this node holds have failed.
    pub failed: Option<node::event::Event>,
}

/// What was told last, on either side.
#[derive(Debug, Default)]
pub struct Bridge {
    lineage: Option<Lineage>,
    /// The epoch that the node holds, and the one that the volumes were told to lead.
    held: Option<Epoch>,
    led: Option<Epoch>,
    closing: Option<u64>,
    need: BTreeSet<Incarnation>,
    frozen: bool,
    /// The last report that the machine has heard, and the last that the volumes were answered.
    seen: u64,
    answered: u64,
    /// The last epoch in which the volumes failed while it was held: they do not lead it, or not any more.
    ended: Option<Epoch>,
    report: Report,
}

impl Bridge {
    /// The volumes' last report; before the first one that of a replica that nobody can use.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// A report has come. The machine hears it before the volumes are told anything else.
    #[must_use]
    pub fn heard(&mut self, report: Report) -> Heard {
        let fails = report.failed && !self.report.failed;
        self.ended = self.held.filter(|_| fails).or(self.ended);
        let failed = self.led.filter(|_| fails);
        let replica = Replica {
            consistent: report.consistent,
            promised: report.promised,
            caught_up: report.caught_up,
            mirrored: report.mirrored.clone(),
            missing: report.missing.clone(),
            closed: report.closed,
            ended: self.ended,
        };
        self.seen = report.number;
        let failed = failed.map(|epoch| {
            let reason = "the disk failed or stands still: what the volumes are asked ends in errors".into();
            node::event::Event::ResourceFailed { epoch, resource: "volumes".into(), reason }
        });
        self.report = report;
        Heard { replica, failed }
    }

    /// Lets the volumes do what the machine may do now. After each of its steps, before what follows from it.
    #[must_use]
    pub fn follow(&mut self, node: &Node) -> Orders {
        let mut tell = Vec::new();
        let held = node.holding().map(|tenure| tenure.epoch);
        if std::mem::replace(&mut self.held, held) != held && self.report.failed {
            self.ended = held.or(self.ended);
        }
        let lineage = node.lineage();
        if lineage != self.lineage.as_ref()
            && let Some(lineage) = lineage
        {
            self.lineage = Some(lineage.clone());
            tell.push(Event::Belong { lineage: lineage.clone() });
        }
        let admit = node.takes_writes_from().filter(|_| self.lineage.is_some());
        if let Some(number) = node.closing()
            && self.closing.replace(number) != Some(number)
        {
            tell.push(Event::Close { number });
        }
        self.lead(node, &mut tell);
        Orders { admit, tell }
    }

    fn lead(&mut self, node: &Node, tell: &mut Vec<Event>) {
        let Some(tenure) = node.holding().filter(|tenure| tenure.phase != Phase::Activating) else {
            if self.led.take().is_some() {
                tell.push(Event::Fence);
            }
            return;
        };
        let (epoch, need): (Epoch, BTreeSet<_>) = (tenure.epoch, tenure.authority.need().cloned().collect());
        if self.led != Some(epoch) {
            self.led = Some(epoch);
            (self.need, self.frozen) = (need.clone(), false);
            tell.push(Event::Lead { epoch, need });
        } else if self.need != need || self.answered != self.seen {
            (self.need, self.answered) = (need.clone(), self.seen);
            tell.push(Event::Need { epoch, need, seen: self.seen });
        }
        if self.frozen != tenure.frozen {
            self.frozen = tenure.frozen;
            tell.push(Event::Freeze { frozen: tenure.frozen });
        }
    }
}
