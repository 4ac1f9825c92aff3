//! Clients: they send to the virtual IP through one of the route tables, and take what answers.

use crate::ec2::TABLES;
use crate::world::{Happening, World};

impl World {
    /// One operation, and the next after it.
    pub(crate) fn client(&mut self) {
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
        if reads {
            // From the workload's own memory: it asks nobody, not even a daemon that stands still.
            let version = self.hosts[host].cache[sector];
            self.check_read(host, sector, version);
        } else if self.write(host, sector) {
            self.god.acks_by_table[table] = self.now;
        }
    }
}
