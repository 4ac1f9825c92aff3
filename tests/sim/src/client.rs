//! Clients: they send to the virtual IP through one of the route tables, and take what answers. A read takes its way there
//! and back, and whatever else happens meanwhile is told to others before it ends.

use crate::ec2::TABLES;
use crate::history::{Asked, Version};
use crate::trace::Us;
use crate::world::{Happening, World};

/// Where the answer of a workload takes long, it takes up to this.
const SLOW_ANSWER: Us = 1_000_000;

/// A read on its way.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub host: usize,
    /// It is lost with the machine that it is for.
    power: u64,
    asked: Asked,
    /// The answer on its way back. `None`: the question is on its way there.
    answer: Option<Version>,
}

impl World {
    /// One operation, and the next after it.
    pub(crate) fn client(&mut self) {
        if self.healing.clients_end() {
            return;
        }
        let every = self.weather.op_every;
        let next = self.dice.between(every / 2, every * 3 / 2);
        self.queue.push(self.now + next, Happening::Client);
        let table = self.dice.index(TABLES);
        let sector = self.dice.index(self.history.len());
        // Never many reads in a row: how long no write was acknowledged tells of the cluster, not of the dice.
        let reads = self.dice.below(2) == 0 && self.reads_in_a_row < 2;
        self.reads_in_a_row = if reads { self.reads_in_a_row + 1 } else { 0 };
        let Some(host) = self.ec2.now.routes[table] else { return };
        if self.ec2.now.checked[host] || !self.hosts[host].serves(self.now) {
            self.counts.unanswered += 1;
            return;
        }
        self.counts.answered += 1;
        self.gaps.answer(self.now);
        self.check_answer(host);
        if reads && self.weather.volumes {
            let read = Read { host, power: self.hosts[host].power, asked: self.history.asks(sector), answer: None };
            let at = self.now + self.dice.between(100, 600);
            self.queue.push(at, Happening::Read(read));
        } else if !self.weather.volumes {
            // What the workload does with it is its own matter.
            self.god.acks_by_table[table] = self.now;
            self.god.last_ack = self.now;
            self.gaps.acknowledgement(self.now);
        } else if self.write(host, sector) {
            self.god.acks_by_table[table] = self.now;
            if self.weather.bursts {
                for more in 0..self.dice.index(5) {
                    self.write(host, (sector + 3 * more) % self.history.len());
                }
            }
        }
    }

    /// The read has come to its node, or its answer to the client.
    pub(crate) fn read(&mut self, mut read: Read) {
        let here = &self.hosts[read.host];
        if let Some(version) = read.answer {
            self.check_read(read.host, read.asked, version);
        } else if here.stalled.is_some() && here.power == read.power {
            self.queue.push(self.now + 20_000, Happening::Read(read));
        } else if here.serves(self.now) && self.check_answer(read.host) {
            // From the workload's own memory: it asks nobody, not even a daemon that stands still.
            read.answer = Some(self.hosts[read.host].cache[read.asked.sector]);
            let slow = self.dice.below(20) == 0;
            let took = if slow { self.dice.skewed(600, SLOW_ANSWER) } else { self.dice.between(100, 600) };
            self.queue.push(self.now + took, Happening::Read(read));
        }
    }
}
