//! The invariants, as somebody who sees everything judges them: the row's history, who may serve and who does, what each
//! replica holds. Named as in the protocol: I1 to I8.

use crate::data::{name, number_of};
use crate::history::{Asked, Version};
use crate::trace::Us;
use crate::world::{NAMES, Who, World};
use lease::authority::Standing;
use lease::record::{Holder, Row};
use node::tenure::Phase;
use std::collections::BTreeMap;

/// What was broken, when, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub at: Us,
    pub what: String,
}

/// Requests to the table that one node makes within any second, at most. In service there are three to six; in an outage each
/// read and each write is tried a few times within its budget, and again after a pause: 25 were the most of 10,000 seeds.
const REQUESTS: usize = 50;

/// What nobody in the cluster can know at once.
#[derive(Debug, Default)]
pub struct God {
    /// Who ever held each epoch.
    holders: BTreeMap<u64, Holder>,
    /// When each epoch began, and when it was activated.
    begun: BTreeMap<u64, Us>,
    activated: BTreeMap<u64, Us>,
    /// An acceptance with loss of data: the epoch, until its holder opens its volume.
    lossy: Option<u64>,
    /// The newest epoch that a client had an answer in.
    answered: u64,
    pub last_ack: Us,
    pub acks_by_table: [Us; crate::ec2::TABLES],
}

#[cfg(test)]
impl God {
    pub(crate) fn set_begun(&mut self, epoch: u64, at: Us) {
        self.begun.insert(epoch, at);
    }

    pub(crate) fn forget_activations(&mut self) {
        self.activated.clear();
    }
}

/// I1: one holder for each epoch, rev and epoch rise, lineage stays.
pub fn i1(before: Option<&Row>, after: &Row, holders: &mut BTreeMap<u64, Holder>) -> Result<(), String> {
    if let Some(before) = before {
        if after.rev != before.rev.next() {
            return Err(format!("rev went from {} to {}", before.rev, after.rev));
        }
        if after.epoch != before.epoch && after.epoch != before.epoch.next() {
            return Err(format!("epoch went from {} to {}", before.epoch, after.epoch));
        }
        if (after.epoch, after.beat) < (before.epoch, before.beat) {
            return Err(format!("beat went back from {} to {}", before.beat, after.beat));
        }
        if after.lineage != before.lineage {
            return Err("the lineage changed".into());
        }
    }
    if let Some(holder) = &after.holder {
        let known = holders.entry(after.epoch.0).or_insert_with(|| holder.clone());
        if known != holder {
            return Err(format!("epoch {} is held by {} and by {}", after.epoch, known.node, holder.node));
        }
    }
    Ok(())
}

/// I3: a member holds every acknowledged write. The first sector in which `member` is behind.
#[must_use]
pub fn i3(acknowledged: impl Iterator<Item = Version>, member: &[Version]) -> Option<(usize, Version, Version)> {
    acknowledged.zip(member).enumerate().find(|(_, (last, has))| *has < last).map(|(at, (last, has))| (at, last, *has))
}

/// I4, S1' to the letter: nothing that was submitted after a newer epoch had begun is ever acknowledged in an older one.
#[must_use]
pub fn i4(epoch: u64, submitted: Us, begun: &BTreeMap<u64, Us>) -> Option<u64> {
    begun.range(epoch + 1..).find(|(_, at)| **at <= submitted).map(|(newer, _)| *newer)
}

impl World {
    pub(crate) fn broken(&mut self, invariant: &'static str, what: String) {
        if self.violation.is_none() {
            self.trace.line(self.now, "VIOLATION", || format!("{invariant}: {what}"));
            self.violation = Some(Violation { invariant, at: self.now, what });
        }
    }

    /// The row has just been written.
    pub(crate) fn row_changed(&mut self, before: Option<&Row>, by: Who) {
        let Some(row) = self.store.row.clone() else { return };
        self.trace.mark(self.now, row.rev.0);
        if let Err(what) = i1(before, &row, &mut self.god.holders) {
            self.broken("I1", what);
        }
        let quiet = before.is_some_and(|before| {
            let mut renewed = before.clone();
            renewed.rev = row.rev;
            renewed.beat = row.beat;
            renewed.nonce.clone_from(&row.nonce);
            renewed.nominee.clone_from(&row.nominee);
            renewed == *row && (before.live_nominee().is_none() == row.live_nominee().is_none())
        });
        if !quiet {
            self.trace.line(self.now, "row", || row_line(&row, by));
        }
        if before.is_some_and(|before| before.epoch == row.epoch && before.in_sync != row.in_sync) {
            self.gaps.changes += 1;
        }
        if row.activated && before.is_none_or(|before| !before.activated || before.epoch != row.epoch) {
            self.god.activated.insert(row.epoch.0, self.now);
            self.counts.activations += 1;
        }
        if let Some(before) = before.filter(|before| before.epoch != row.epoch) {
            self.epoch_taken(before, &row);
            self.check_wait(before, by);
        }
        for one in &mut self.hosts {
            let me = name(one.replica.incarnation);
            let was = before.is_some_and(|before| before.in_sync.contains(&me));
            let takes = before.is_none_or(|before| before.epoch != row.epoch)
                && row.holder.as_ref().is_some_and(|holder| holder.incarnation == me);
            if row.in_sync.contains(&me) && (!was || takes) {
                one.member_since = Some(one.life);
            }
        }
        // I2, for the process that holds the epoch, if it lives.
        if let Some(host) = row.holder.as_ref().map(|holder| self.host_of(&holder.node)) {
            let tenure = self.hosts[host].node.as_ref().and_then(|node| node.holding());
            if let Some(tenure) = tenure.filter(|tenure| tenure.epoch == row.epoch) {
                let me = row.holder.as_ref().map(|holder| holder.incarnation.clone());
                let outside = row.in_sync.iter().find(|member| {
                    Some(*member) != me.as_ref() && !tenure.authority.need().any(|need| need == *member)
                });
                if let Some(outside) = outside {
                    let what = format!("{outside} is in the row's set, {} does not wait for it", NAMES[host]);
                    self.broken("I2", what);
                }
            }
        }
        self.check_members();
        if before.is_some_and(|before| before.in_sync.len() < row.in_sync.len()) {
            self.check_mirrors(&row);
        }
    }

    /// I3, more than that no member is behind: who has just been taken in is what the holder is, but for what is not answered yet.
    fn check_mirrors(&mut self, row: &Row) {
        let Some(holder) = row.holder.as_ref().map(|holder| self.host_of(&holder.node)) else { return };
        let here = &self.hosts[holder];
        let open = here.volume.unanswered();
        let mine = here.replica.image();
        for other in self.hosts.iter().filter(|other| other.me.node != here.me.node) {
            let me = name(other.replica.incarnation);
            if !row.in_sync.contains(&me) || !here.volume.is_mirrored_by(row.epoch, &other.volume, &me) {
                continue;
            }
            let pairs = mine.iter().zip(other.replica.image()).enumerate();
            if let Some((sector, (mine, theirs))) =
                pairs.into_iter().find(|(sector, (mine, theirs))| *mine != theirs && !open.contains(sector))
            {
                let what =
                    format!("{} is taken in with {theirs} in sector {sector}, the holder has {mine}", other.me.node);
                return self.broken("I3", what);
            }
        }
    }

    /// An epoch has begun: who may begin one, and what is lost by it.
    fn epoch_taken(&mut self, before: &Row, row: &Row) {
        let Some(holder) = &row.holder else { return };
        self.god.begun.insert(row.epoch.0, self.now);
        let lossy = !before.in_sync.contains(&holder.incarnation);
        match &before.holder {
            None if before.epoch.0 == 0 => self.counts.foundings += 1,
            None => self.counts.after_release += 1,
            Some(old) if old.node == holder.node => self.counts.restarts += 1,
            // Whoever accepts is alone in its set; a hand-over leaves it as it was, with both.
            Some(_) if row.in_sync.len() > 1 => self.counts.hand_overs += 1,
            Some(_) => self.counts.failovers += 1,
        }
        if lossy {
            let allowed = before.live_nominee().is_some_and(|nominee| nominee.lossy && nominee.node == holder.node);
            if !allowed {
                self.broken("I5", format!("{} took epoch {} without being in sync", holder.node, row.epoch));
            }
            self.counts.lossy += 1;
            self.god.lossy = Some(row.epoch.0);
        } else {
            self.god.lossy = None;
        }
        // A proof of death is one: the boot that held is over.
        let dead = before.live_nominee().filter(|nominee| nominee.node == holder.node && nominee.proof.is_some());
        if let Some(old) = before.holder.as_ref().filter(|_| dead.is_some()) {
            let one = &self.hosts[self.host_of(&old.node)];
            if one.on && one.me.boot == old.boot {
                self.broken("I6", format!("{} accepts on proof that {} is dead, which lives", holder.node, old.node));
            }
        }
        let host = self.host_of(&holder.node);
        let replica = &self.hosts[host].replica;
        let here = self.weather.volumes && number_of(&holder.incarnation) == replica.incarnation;
        if here && !replica.consistent {
            self.broken("I5", format!("{} took epoch {} with half an image", holder.node, row.epoch));
        }
        if lossy && here {
            // The operator gave up what only others have: from here on, this is the truth.
            let contents = self.hosts[host].replica.sure();
            if let Err((sector, least)) = self.history.is_image(&contents) {
                let what = format!(
                    "{} took epoch {} with an image that nobody ever had: it shows later writes, and not {least} in sector {sector}",
                    holder.node, row.epoch
                );
                self.broken("I5", what);
            }
            self.history.begin_again(&contents);
        }
    }

    /// I5, of who follows asynchronously and says that its image is whole: it may be forced to take over at any moment.
    pub(crate) fn check_prefix(&mut self, host: usize) {
        if let Err((sector, least)) = self.history.is_image(&self.hosts[host].replica.image()) {
            let what = format!(
                "{} follows, and starts with an image that nobody ever had: it shows later writes, and not {least} in sector {sector}",
                NAMES[host]
            );
            self.broken("I5", what);
        }
    }

    /// I6, where it is decided: who accepts because it has waited long enough finds nobody who may still serve.
    fn check_wait(&mut self, before: &Row, by: Who) {
        let Who::Node { host, life } = by else { return };
        // What a process that has ended sent may land late; whoever serves then, serves on promises given since.
        if self.hosts[host].life != life {
            return;
        }
        let waited = before.live_nominee().is_some_and(|nominee| nominee.node == self.hosts[host].me.node)
            && before.holder.as_ref().is_some_and(|old| old.node != self.hosts[host].me.node)
            && before.live_nominee().is_some_and(|nominee| nominee.proof.is_none());
        let Some(old) = before.holder.as_ref().filter(|_| waited).map(|old| self.host_of(&old.node)) else { return };
        let one = &self.hosts[old];
        let frozen = one.stalled.is_some() || one.tainted_until > self.now;
        let Some(tenure) = one.node.as_ref().filter(|_| one.on && !frozen).and_then(|node| node.holding()) else {
            return;
        };
        let standing = tenure.authority.standing(one.clock.read(self.now));
        if tenure.epoch == before.epoch && standing != Standing::None {
            let what = format!("{} accepts while {} may still serve: {standing:?}", NAMES[host], NAMES[old]);
            self.broken("I6", what);
        }
    }

    /// I3 for every member whose replica still exists.
    pub(crate) fn check_members(&mut self) {
        // A row that is no more, or an old one, says nothing.
        let Some(row) = self.store.row.clone().filter(|_| self.store.away.is_none()) else { return };
        // Without volumes a member has nothing that could be compared.
        if !self.weather.volumes {
            return;
        }
        for member in &row.in_sync {
            let number = number_of(member);
            let Some(host) = self.hosts.iter().position(|host| host.replica.incarnation == number) else { continue };
            let acknowledged = (0..self.history.len()).map(|sector| self.history.last(sector));
            if let Some((sector, last, has)) = i3(acknowledged, &self.hosts[host].replica.sure()) {
                let what = format!(
                    "{} is in sync at epoch {} and has {has} in sector {sector}; acknowledged is {last}",
                    NAMES[host], row.epoch
                );
                self.broken("I3", what);
            } else if !self.hosts[host].replica.consistent
                && self.hosts[host].member_since == Some(self.hosts[host].life)
            {
                // One whose process ended, or whose disks were given up, is copied to again, and may not be promoted meanwhile.
                self.broken("I5", format!("{} is in sync at epoch {} with half an image", NAMES[host], row.epoch));
            }
        }
    }

    /// A write is acknowledged to a client.
    pub(crate) fn acknowledged(&mut self, host: usize, sector: usize, version: Version, submitted: Us) {
        if let Some(newer) = i4(version.epoch, submitted, &self.god.begun) {
            let what = format!(
                "{} acknowledged {version}, submitted at {:.3} s, after epoch {newer} had begun",
                NAMES[host],
                submitted as f64 / 1e6
            );
            self.broken("I4", what);
        }
        self.god.last_ack = self.now;
        self.gaps.acknowledgement(self.now);
        self.trace.mark(self.now, (version.epoch << 32) + version.seq);
        self.history.acknowledged(sector, version);
        self.check_members();
    }

    /// A node answers a client, whatever was asked. False: it may for once do so wrongly (see `Host::tainted_until`).
    pub(crate) fn check_answer(&mut self, host: usize) -> bool {
        if self.hosts[host].tainted_until > self.now {
            return false;
        }
        let tenure = self.hosts[host].node.as_ref().and_then(|node| node.holding());
        if let Some(epoch) = tenure.map(|tenure| tenure.epoch.0)
            && !self.god.activated.contains_key(&epoch)
        {
            self.broken("I7", format!("{} answers in epoch {epoch}, which is not activated", NAMES[host]));
        }
        // I6, as clients see it with or without data: no epoch answers once a newer one has.
        let (epoch, newest) = (self.hosts[host].workload_epoch, self.god.answered);
        if epoch < newest {
            let what =
                format!("{} answers in epoch {epoch} after clients were answered in epoch {newest}", NAMES[host]);
            self.broken("I6", what);
        }
        self.god.answered = newest.max(epoch);
        true
    }

    /// A client has the answer to its read.
    pub(crate) fn check_read(&mut self, host: usize, asked: Asked, version: Version) {
        self.counts.reads += 1;
        self.trace.mark(self.now, (version.epoch << 32) + version.seq);
        if let Err(wrong) = self.history.answered(asked, version) {
            self.broken("history", format!("sector {} at {}: {wrong}", asked.sector, NAMES[host]));
        }
    }

    /// A volume opens: an accepted loss is final from here on.
    pub(crate) fn opened(&mut self, host: usize, epoch: u64) {
        if self.god.lossy.take_if(|lossy| *lossy == epoch).is_some() {
            self.history.given_up(&self.hosts[host].replica.image(), epoch);
        }
    }

    /// I6, by what clients would see: a node has just become reachable, or stays so for longer.
    pub(crate) fn check_serving(&mut self, host: usize) {
        let serves = |one: &crate::host::Host| one.serves(self.now) && one.tainted_until <= self.now;
        if !serves(&self.hosts[host]) {
            return;
        }
        if let Some(other) = (0..self.hosts.len()).find(|other| *other != host && serves(&self.hosts[*other])) {
            self.broken("I6", format!("{} and {} serve at once", NAMES[host], NAMES[other]));
        }
    }

    /// The epoch that this node believes it may serve in.
    fn open(&self, host: usize) -> Option<u64> {
        let one = &self.hosts[host];
        // The clocks of one that stands still, or did with them, say nothing.
        let tells = one.on && one.stalled.is_none() && one.tainted_until <= self.now;
        let tenure = one.node.as_ref().filter(|_| tells)?.holding()?;
        let standing = tenure.authority.standing(one.clock.read(self.now));
        // On the way out with the workload down, the gate is closed for good.
        let gone = tenure.frozen && tenure.phase != Phase::Active;
        let may = tenure.phase != Phase::Activating && !gone && standing != Standing::None;
        may.then_some(tenure.epoch.0)
    }

    /// I6, by what the machines believe: no other's gate may be open by its own clock.
    pub(crate) fn check_windows(&mut self, host: usize) {
        let Some(mine) = self.open(host) else { return };
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            if let Some(theirs) = self.open(other) {
                let what = format!(
                    "{} (epoch {mine}) and {} (epoch {theirs}) both believe that they may serve",
                    NAMES[host], NAMES[other]
                );
                return self.broken("I6", what);
            }
        }
    }

    /// I6, before anything is served: who begins to hold finds every other gate closed, whoever's process took the epoch.
    pub(crate) fn check_beginning(&mut self, host: usize) {
        let mine = self.hosts[host].node.as_ref().and_then(|node| node.holding()).map(|tenure| tenure.epoch.0);
        let Some(mine) = mine.filter(|_| self.hosts[host].tainted_until <= self.now) else { return };
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            // One that learns late of an epoch that is over gets no right by it.
            if let Some(theirs) = self.open(other).filter(|theirs| *theirs < mine) {
                let what = format!(
                    "{} begins epoch {mine} while {} believes that it may serve in epoch {theirs}",
                    NAMES[host], NAMES[other]
                );
                return self.broken("I6", what);
            }
        }
    }

    /// L1: nobody calls the operator for a row that went back where none did, and steps aside for it.
    pub(crate) fn check_alarm(&mut self, host: usize, what: &str) {
        let alarm =
            what.starts_with("the row is not what it was") || what.starts_with("the cluster's lease row is gone");
        if alarm && !self.store.tampered {
            self.broken("L1", format!("{} takes no part, and nobody has touched the row: {what}", NAMES[host]));
        }
    }

    /// L1: no node meets an outage with a storm.
    pub(crate) fn asks_table(&mut self, host: usize) {
        let requests = self.hosts[host].requests(self.now);
        self.counts.busiest = self.counts.busiest.max(requests as u64);
        if requests > REQUESTS {
            self.broken("L1", format!("{} sent {requests} requests to the table within a second", NAMES[host]));
        }
    }
}

fn row_line(row: &Row, by: Who) -> String {
    let by = match by {
        Who::Node { host, .. } => NAMES[host].to_owned(),
        Who::Run { run } => format!("function #{run}"),
    };
    let holder = row.holder.as_ref().map_or("nobody", |holder| holder.node.as_str());
    let members: Vec<_> = row.in_sync.iter().map(ToString::to_string).collect();
    let mut line = format!(
        "rev {} epoch {} beat {} held by {holder}{}, in sync {}",
        row.rev,
        row.epoch,
        row.beat,
        if row.activated { ", activated" } else { "" },
        members.join(" ")
    );
    if let Some(nominee) = row.live_nominee() {
        let lossy = if nominee.lossy { ", lossy" } else { "" };
        let proof = if nominee.proof.is_some() { ", proof of death" } else { "" };
        line += &format!("; nominated {} by {}{proof}{lossy}", nominee.node, nominee.rule);
    }
    if let Some(intent) = &row.intent {
        line += &format!("; intent to {} by {}", intent.to, intent.rule);
    }
    if row.paused.is_some() {
        line += "; paused";
    }
    format!("{line} (by {by})")
}
