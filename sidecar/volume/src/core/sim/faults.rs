//! What goes wrong, and how it ends.

use super::ledger::Outcome;
use super::weather::Fault;
use super::world::{Wire, World, recover};
use crate::core::rate::Limits;
use crate::core::resync::Windows;
use crate::core::{Event, Job, Replica, Report, Setup};
use crate::ids::Life;
use crate::metadata::PAGE;
use lease::ids::Epoch;

impl World {
    pub(super) fn fault(&mut self) -> Outcome {
        let total: usize = self.weather.faults.iter().map(|(weight, _)| weight).sum();
        let mut left = self.dice.below(total);
        let pick = self.weather.faults.iter().find(|(weight, _)| {
            let found = left < *weight;
            left = left.saturating_sub(*weight);
            found
        });
        let fault = pick.expect("the weights sum up").1;
        let node = self.dice.below(self.nodes.len());
        let (power, until) = (self.dice.below(2) == 0, self.at + 50 + self.dice.below(600));
        match fault {
            Fault::Crash => self.crash(node, power),
            Fault::Blink if node != self.row.holder && self.nodes[node].replica.is_some() => {
                self.crash(node, power);
                return self.restart(node);
            }
            Fault::Blink => {}
            Fault::Cut => self.cut(),
            Fault::Mute => self.with_wire(|wire, _| wire.mute = true),
            Fault::Lag => self.with_wire(|wire, way| wire.lag[way] = until),
            Fault::Deaf => self.nodes[node].deaf = until + self.dice.below(1000),
            Fault::Slow => self.nodes[node].slow = until,
            Fault::Stall => self.nodes[node].stalled[usize::from(power)] = true,
            Fault::Sick => self.nodes[node].sick = true,
            Fault::Unreadable => self.nodes[node].unreadable = true,
            Fault::Freeze => {
                let holder = self.row.holder;
                if self.nodes[holder].leads == Some(self.row.epoch) {
                    self.met.freezes += 1;
                    let frozen = !self.nodes[holder].frozen;
                    self.nodes[holder].orders.push_back(Event::Freeze { frozen });
                }
            }
            Fault::Rot => return self.rot(node),
            Fault::BitRot => self.bit_rot(node),
        }
        Ok(())
    }

    fn with_wire(&mut self, change: impl FnOnce(&mut Wire, usize)) {
        if !self.wires.is_empty() {
            let (at, way) = (self.dice.below(self.wires.len()), self.dice.below(2));
            change(&mut self.wires[at], way);
        }
    }

    fn cut(&mut self) {
        if self.wires.is_empty() {
            return;
        }
        let at = self.dice.below(self.wires.len());
        let wire = self.wires.swap_remove(at);
        self.note(|| format!("link {:?} breaks", wire.ends));
        for (node, link) in wire.ends {
            self.nodes[node].orders.push_back(Event::Disconnected { link });
        }
    }

    /// A page of the metadata can not be read any more: never the second of both superblocks.
    fn rot(&mut self, node: usize) -> Outcome {
        if self.nodes[node].replica.is_some() {
            return Ok(());
        }
        // One fault at a time: nothing else is lost in the same moment.
        self.nodes[node].meta.flushed(usize::MAX);
        let pages = self.nodes[node].meta.bytes.len() / PAGE;
        let page = if self.dice.below(3) == 0 { self.dice.below(2) } else { self.dice.below(pages) };
        let mut spoilt = self.nodes[node].meta.bytes.clone();
        spoilt[page * PAGE + 100] ^= 0x55;
        if recover(&spoilt).is_ok() {
            self.note(|| format!("n{node}: page {page} rots"));
            let here = &mut self.nodes[node];
            here.meta.spoil(page * PAGE + 100, &spoilt[page * PAGE + 100..=page * PAGE + 100]);
            here.found = None;
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, node: usize, power: bool) {
        if self.nodes[node].replica.is_none() {
            return;
        }
        self.note(|| format!("n{node} {}", if power { "loses power" } else { "dies" }));
        let jobs = std::mem::take(&mut self.nodes[node].jobs);
        let changes: Vec<_> = jobs.iter().filter_map(|(_, job, _)| self.bytes_of(job)).collect();
        for (_, job, _) in &jobs {
            if let Job::Keep { span, number } = job
                && self.dice.below(2) == 0
            {
                self.keep(node, *number, self.place(*span));
            }
        }
        let dice = &mut self.dice;
        let here = &mut self.nodes[node];
        for (at, bytes) in changes {
            here.data.tear(at, &bytes, dice);
        }
        for (at, page) in here.batch.take().into_iter().flat_map(|batch| batch.pages) {
            here.meta.tear(usize::try_from(at).expect("small"), &page, dice);
        }
        if power {
            here.data.power_lost(dice);
            here.meta.power_lost(dice);
            here.hazy = true;
        }
        here.found = None;
        here.replica = None;
        here.reports.clear();
        (here.report, here.told) = (Report::default(), Report::default());
        here.closing = None;
        here.orders.clear();
        (here.taken, here.leads, here.growing) = (None, None, None);
        (here.frozen, here.sick, here.unreadable, here.spoilt) = (false, false, false, false);
        (here.stalled, here.slow, here.deaf, here.never_flushes) = ([false; 2], 0, 0, false);
        self.asked.retain(|_, asked| asked.node != node);
        let gone: Vec<Wire> = self.wires.extract_if(.., |wire| wire.ends.iter().any(|end| end.0 == node)).collect();
        for (other, link) in gone.into_iter().flat_map(|wire| wire.ends).filter(|end| end.0 != node) {
            self.nodes[other].orders.push_back(Event::Disconnected { link });
        }
    }

    pub(super) fn restart(&mut self, node: usize) -> Outcome {
        if self.nodes[node].replica.is_some() {
            return Ok(());
        }
        let (store, recovery) = recover(&self.nodes[node].meta.bytes)?;
        self.note(|| format!("n{node} starts: {recovery:?}"));
        let here = &mut self.nodes[node];
        here.life += 1;
        let slow = Limits { floor: 1 << 20, ceiling: 2 << 20 };
        let resync = if self.weather.narrow { slow } else { Limits::default() };
        let setup = Setup {
            life: Life(here.life),
            write_through: self.weather.write_through,
            follow: here.follow,
            resync,
            keeps: self.weather.keeps,
        };
        let mut replica = Replica::new(setup, store, recovery.is_guess());
        replica.without = self.weather.without;
        if self.weather.narrow {
            replica.windows = Windows { reading: 2, under_way: 6, flush_after: 2 };
        }
        here.replica = Some(replica);
        if self.row.holder == node {
            // A new process is a new epoch, alone until the others have been compared.
            self.row.epoch = self.row.epoch.next();
            self.row.in_sync = [node].into();
            self.take_epoch(node)
        } else {
            self.step_replica(node, Event::Admit { from: Some(Epoch(0)) })
        }
    }

    /// No more faults, and those that would last for ever end.
    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        while self.wires.iter().any(|wire| wire.mute) {
            self.cut();
        }
        self.wires.iter_mut().for_each(|wire| wire.lag = [0; 2]);
        for node in 0..self.nodes.len() {
            self.reopen(node);
            if self.nodes[node].stalled != [false; 2] {
                self.crash(node, false);
            }
            let here = &mut self.nodes[node];
            (here.slow, here.deaf, here.sick, here.unreadable) = (0, 0, false, false);
            here.bad.clear();
            here.orders.push_back(Event::Freeze { frozen: false });
        }
    }
}
