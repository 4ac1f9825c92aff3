//! The row, right by construction; and what each node makes of its replica's reports.

use super::ledger::Outcome;
use super::world::{Node, Row, World};
use crate::core::{Event, Replica};
use crate::metadata::DataState;
use lease::ids::{Epoch, Incarnation};
use std::collections::BTreeSet;

impl World {
    pub(super) fn take_epoch(&mut self, node: usize) -> Outcome {
        let epoch = self.row.epoch;
        let members = self.row.in_sync.clone();
        // Who leads now has not compared anybody.
        if !self.nodes[node].replica.as_ref().is_some_and(Replica::has_doubts) {
            self.nodes.iter_mut().for_each(|other| (other.differs, other.decided) = (None, false));
        }
        self.note(|| format!("n{node} holds {epoch:?} with {members:?}"));
        if std::mem::take(&mut self.nodes[node].hazy) && !self.weather.write_through {
            self.ledger.cache_lost();
        }
        let here = &mut self.nodes[node];
        here.taken = Some(epoch);
        here.growing = None;
        self.step_replica(node, Event::Admit { from: None })?;
        let state = self.nodes[node].replica.as_ref().map(|replica| replica.store().superblock().state);
        if state.is_some_and(|state| state != DataState::Whole) {
            return Err(format!("n{node} holds {epoch:?} with half an image: nobody can serve from it"));
        }
        self.step_replica(node, Event::Promise { epoch })
    }

    /// Who could take over, as its node knows from what it has read.
    fn may_take(&self, node: usize) -> bool {
        let here = &self.nodes[node];
        node != self.row.holder
            && self.row.in_sync.contains(&node)
            && here.replica.is_some()
            && here.report.consistent
            && here.leads.is_none()
            && here.deaf <= self.at
    }

    /// Its node lets nothing more be taken, and waits until that is said to be so; at times it gives up.
    fn is_closed(&mut self, node: usize) -> bool {
        let here = &mut self.nodes[node];
        let Some(number) = here.closing else {
            here.closings += 1;
            here.closing = Some(here.closings);
            here.orders.push_back(Event::Admit { from: None });
            here.orders.push_back(Event::Close { number: here.closings });
            return false;
        };
        let closed = here.report.closed == Some(number);
        if closed {
            here.closing = None;
        } else if self.dice.below(20) == 0 {
            self.reopen(node);
        }
        closed
    }

    pub(super) fn reopen(&mut self, node: usize) {
        let here = &mut self.nodes[node];
        if here.closing.take().is_some() {
            here.orders.push_back(Event::Admit { from: Some(Epoch(0)) });
        }
    }

    fn depose(&mut self) {
        let old = self.row.holder;
        self.ended.insert(self.row.epoch, self.now);
        self.nodes[old].orders.push_back(Event::Fence);
        self.nodes[old].orders.push_back(Event::Admit { from: Some(Epoch(0)) });
        self.nodes[old].taken = None;
    }

    /// Another member takes over; the holder may be alive, and hears of it later.
    pub(super) fn fail_over(&mut self, node: usize) -> Outcome {
        let holder = &self.nodes[self.row.holder];
        let (dead, chance) = (holder.replica.is_none() && !self.calm || holder.told.failed, self.weather.takeover);
        if !self.may_take(node) {
            self.reopen(node);
            return Ok(());
        }
        let begun = self.nodes[node].closing.is_some();
        // Once all is calm, only from a disk that has failed before.
        let now = begun || dead || !self.calm && chance > 0 && self.dice.below(chance) == 0;
        if !now || !self.is_closed(node) {
            return Ok(());
        }
        self.met.failovers += 1;
        self.depose();
        self.row = Row { epoch: self.row.epoch.next(), holder: node, in_sync: [node].into() };
        self.take_epoch(node)
    }

    /// The holder hands over, also in the middle of a write: the members stay.
    pub(super) fn hand_over(&mut self, node: usize) -> Outcome {
        let chance = self.weather.handover;
        let holder = &self.nodes[self.row.holder];
        let serves = holder.leads == Some(self.row.epoch) && holder.growing.is_none();
        // Whoever has begun was ready then; it takes nothing more, and is a member still.
        let ready = self.nodes[node].closing.is_some() || self.nodes[node].report.caught_up == Some(self.row.epoch);
        if !self.may_take(node) || !serves || !ready || chance == 0 {
            return Ok(());
        }
        if self.nodes[node].closing.is_none() && self.dice.below(chance) != 0 || !self.is_closed(node) {
            return Ok(());
        }
        self.met.handovers += 1;
        self.depose();
        (self.row.epoch, self.row.holder) = (self.row.epoch.next(), node);
        self.take_epoch(node)
    }

    /// The node reads a report and acts on it; it also shrinks and grows.
    pub(super) fn decide(&mut self, node: usize) -> Outcome {
        if self.nodes[node].replica.is_none() || self.nodes[node].deaf > self.at {
            return Ok(());
        }
        if let Some(report) = self.nodes[node].reports.pop_front() {
            self.nodes[node].report = report;
        }
        if self.nodes[node].report.failed && (self.row.holder != node || self.row.in_sync.len() == 1) {
            // Out of service, repaired, and started again.
            self.met.failed += 1;
            let spoilt = self.nodes[node].spoilt;
            self.nodes[node].bad.clear();
            self.crash(node, spoilt);
            return Ok(());
        }
        let (row, here) = (&self.row, &mut self.nodes[node]);
        if row.holder != node {
            return Ok(());
        }
        let members = |row: &Row, nodes: &[Node]| -> BTreeSet<Incarnation> {
            row.in_sync.iter().filter(|one| **one != node).map(|one| nodes[*one].name.clone()).collect()
        };
        if let Some(epoch) = here.taken {
            if here.report.promised == epoch && row.epoch == epoch {
                (here.taken, here.leads) = (None, Some(epoch));
                self.note(|| format!("n{node} leads {epoch:?}"));
                let need = members(&self.row, &self.nodes);
                return self.step_replica(node, Event::Lead { epoch, need });
            }
            return Ok(());
        }
        let Some(epoch) = here.leads.filter(|epoch| *epoch == row.epoch) else { return Ok(()) };
        let seen = self.nodes[node].report.number;
        if let Some(joining) = self.nodes[node].growing.clone() {
            // Said to the volume; now the row.
            if !self.nodes[node].orders.is_empty() {
                return Ok(());
            }
            let number = self.nodes.iter().position(|other| other.name == joining).expect("it is known");
            self.row.in_sync.insert(number);
            self.nodes[node].growing = None;
            self.met.grown += 1;
            self.check_taken_in(number)?;
            self.nodes[number].decided = false;
            self.note(|| format!("n{number} is in sync"));
            return self.check_mirrors();
        }
        let missing = self.nodes[node].report.missing.clone();
        let mut out = self.row.in_sync.iter().copied().find(|one| missing.contains(&self.nodes[*one].name));
        if self.weather.whim > 0 && !self.calm && self.dice.below(self.weather.whim) == 0 {
            out = self.row.in_sync.iter().copied().find(|one| *one != node);
        }
        let now = members(&self.row, &self.nodes);
        let joining = self.nodes[node].report.mirrored.iter().find(|one| !now.contains(*one)).cloned();
        if let Some(out) = out.filter(|_| self.dice.below(3) == 0) {
            self.row.in_sync.remove(&out);
            self.met.shrunk += 1;
            self.note(|| format!("n{out} is shrunk out"));
        } else if let Some(joining) = joining {
            self.nodes[node].growing = Some(joining);
        } else if self.dice.below(2) == 0 {
            return Ok(());
        }
        let mut need = members(&self.row, &self.nodes);
        need.extend(self.nodes[node].growing.clone());
        self.nodes[node].orders.push_back(Event::Need { epoch, need, seen });
        Ok(())
    }

    /// What was said to a volume reaches it.
    pub(super) fn order(&mut self, node: usize) -> Outcome {
        // A connection's end is heard by everybody; the rest comes from the node.
        let deaf = self.nodes[node].deaf > self.at;
        let orders = &mut self.nodes[node].orders;
        let heard = |event: &Event| !deaf || matches!(event, Event::Disconnected { .. });
        let Some(at) = orders.iter().position(heard) else { return Ok(()) };
        let event = orders.remove(at).expect("it is there");
        match event {
            Event::Fence => (self.nodes[node].leads, self.nodes[node].frozen) = (None, false),
            Event::Freeze { frozen } => self.nodes[node].frozen = frozen,
            _ => {}
        }
        self.step_replica(node, event)
    }
}
