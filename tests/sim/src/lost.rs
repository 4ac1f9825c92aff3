//! What is lost for good or put back to an earlier state: a node's disk, and the row.
//!
//! Whoever loses its disk is a new replica: its incarnation, which is kept beside the data, is another. Not in here: a disk put
//! back in place together with its incarnation. Nothing tells that replica from the one that it was.

use crate::data::{Replica, name};
use crate::faults::Undo;
use crate::trace::Us;
use crate::weather::Kind;
use crate::world::{NAMES, World};

impl World {
    /// A disk is formatted, or made anew from a snapshot. A nominee's as often as not, where there is one: its acceptance may be
    /// on its way, and so may what a holder has sent, which then leaves a set of nobody who still exists. Never the last one that
    /// has everything: losing all of them is nobody's to survive.
    pub(crate) fn replace_replica(&mut self, kind: Kind, drawn: usize) -> bool {
        // In a row that is not the cluster's, a new replica would find another cluster.
        let Some(row) = self.store.row.clone().filter(|_| self.store.away.is_none()) else { return false };
        let nominee = row.live_nominee().map(|nominee| self.host_of(&nominee.node));
        let host = nominee.filter(|_| self.dice.below(2) == 0).unwrap_or(drawn);
        let has_all = |one: usize| {
            let replica = &self.hosts[one].replica;
            row.in_sync.contains(&name(replica.incarnation)) && replica.consistent
        };
        if (0..self.hosts.len()).filter(|one| *one != host).all(|one| !has_all(one)) {
            return false;
        }
        let holds = row.holder.as_ref().is_some_and(|holder| self.host_of(&holder.node) == host);
        let whose = match (holds, nominee == Some(host)) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        };
        self.counts.disks.one(whose);
        let role = ["the holder", "the nominee", "neither holds nor accepts"][whose];
        self.say(kind, || format!("{}, {role}", NAMES[host]));
        self.renew(host, kind);
        let pause = self.dice.skewed(200_000, 5_000_000);
        self.undo_after(pause, Undo::Daemon { host });
        true
    }

    /// After a takeover with loss, what the new holder lacks is still on other disks, and the volumes refuse to lose it unasked. The
    /// operator looks at that now and then, and decides for the holder: the others are made anew.
    pub(crate) fn decide_for_the_holder(&mut self) -> bool {
        let Some(row) = self.store.row.clone().filter(|row| row.activated && self.store.away.is_none()) else {
            return false;
        };
        let Some(holder) = row.holder.as_ref().map(|holder| self.host_of(&holder.node)) else { return false };
        let mut decided = false;
        for host in (0..self.hosts.len()).filter(|host| *host != holder) {
            let other = name(self.hosts[host].replica.incarnation);
            if self.hosts[holder].volume.is_diverged_from(&other) && !row.in_sync.contains(&other) {
                self.trace.line(self.now, "operator", || format!("gives up what only {} holds", NAMES[host]));
                self.counts.decided += 1;
                self.renew(host, Kind::Wipe);
                self.undo_after(1_000_000, Undo::Daemon { host });
                decided = true;
            }
        }
        decided
    }

    fn renew(&mut self, host: usize, kind: Kind) {
        self.kill_daemon(host, "its replica is replaced");
        self.incarnations += 1;
        let (number, volumes, sectors) = (self.incarnations, self.weather.volumes, self.history.len());
        let here = &mut self.hosts[host];
        here.end_workload();
        let old = here.snapshot.take().filter(|_| kind == Kind::Restore);
        here.replica = match old {
            Some(old) => old,
            None => Replica::blank(number, sectors, volumes),
        };
        here.replica.incarnation = number;
    }

    /// Somebody deletes the row or restores the table to an earlier state, and repairs that after a while. Only where every
    /// node's data knows of a later epoch: what nobody can know of, nobody can refuse.
    pub(crate) fn take_row_away(&mut self, kind: Kind, span: Us) -> bool {
        let Some(row) = self.store.row.clone().filter(|_| self.store.away.is_none()) else { return false };
        let old = if kind == Kind::RowLost { None } else { self.store.backup.clone() };
        let old_epoch = old.as_ref().map_or(0, |old| old.epoch.0);
        let known = |replica: &Replica| replica.promised > old_epoch;
        if old_epoch >= row.epoch.0
            || (kind == Kind::RowOld && old.is_none())
            || !self.hosts.iter().all(|host| known(&host.replica))
        {
            return false;
        }
        self.say(kind, || format!("epoch {old_epoch}, {:.3} s", span as f64 / 1e6));
        self.store.tampered = true;
        self.store.away = Some(row);
        self.store.away_since = self.now;
        self.store.row = old;
        self.undo_after(span, Undo::Row);
        true
    }

    pub(crate) fn put_row_back(&mut self) {
        if let Some(row) = self.store.away.take() {
            self.trace.line(self.now, "row", || format!("put back: rev {} epoch {}", row.rev, row.epoch));
            self.store.row = Some(row);
        }
    }
}
