//! The data path: each node's volumes are the replication core that ships, on a simulated disk, between a workload that reads and
//! writes them and the node's machine. Here is what the daemon's threads and the kernel do for it.
//!
//! ```text
//!  node::Node ──bridge──▶ orders ──▶ ┌───────────────────────┐ ──▶ jobs, batches ──▶ disk
//!      ▲                             │ volume::core::Replica │
//!      └──bridge── reports ◀──────── └───────────────────────┘ ◀─▶ wires ◀─▶ the other nodes'
//!                                              ▲ asks
//!                                           workload
//! ```
//! Orders and reports come a moment later, for the volumes have a thread of their own; which frames may be taken holds at once.
//! Several volumes are one group, small enough that the log of hot extents does not hold all of them.

use crate::disk::{Disk, SECTOR};
use crate::history::Version;
use crate::trace::Us;
use crate::world::{Happening, Message, NAMES, Who, World};
use bridge::Bridge;
use bytes::Bytes;
use lease::ids::{Epoch, Incarnation};
use lease::time::{Millis, Moment};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use volume::core::rate::Limits;
use volume::core::survey::{PeerState, PeerSurvey};
use volume::core::{
    Answer, Ask, Effect, Event, Follow, Io, Job, Notice, Replica as Machine, Report, RequestId, STALL, Setup,
};
use volume::ids::{Digest, Life, Span, VolumeNo};
use volume::metadata::{Batch, DataState, Geometry, PAGE, Recovery, Store, unclaimed};
use volume::wire::Message as Word;

/// Sectors of the history in one volume, and how far apart they are: two in a chunk of 4 KiB.
const PER_VOLUME: usize = 4;
const APART: usize = 2_048;
/// Writes that clients wait for at once; with more to say, they wait.
const IN_FLIGHT: usize = 8;
const CHUNK_SHIFT: u8 = 12;
/// Extents that the log holds: one is a volume.
const SLOTS: u16 = 2;

/// By what a client's write counts as acknowledged: each is a promise that no single failure takes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It is written through (FUA), and answered.
    Through,
    /// The volume offers no volatile cache, and has answered it.
    NoCache,
    /// It is answered, and a flush that was asked for then is, too.
    Flushed,
}

impl Durability {
    pub const ALL: [Self; 3] = [Self::Through, Self::NoCache, Self::Flushed];
}

/// Where the history's sectors are on the volumes.
fn place(sector: usize) -> Span {
    let volume = VolumeNo(u32::try_from(sector / PER_VOLUME).expect("small"));
    Span { volume, at: (sector % PER_VOLUME * APART) as u64, len: SECTOR as u64 }
}

/// And in the image of all of them, one behind the other.
fn offset(span: Span) -> usize {
    span.volume.0 as usize * PER_VOLUME * APART + usize::try_from(span.at).expect("small")
}

fn written(version: Version) -> Bytes {
    let one = [version.epoch.to_le_bytes(), version.seq.to_le_bytes()].concat();
    one.iter().copied().cycle().take(SECTOR).collect::<Vec<u8>>().into()
}

fn read(bytes: &[u8]) -> Version {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
    Version { epoch: number(0), seq: number(8) }
}

/// Any function will do that both sides use.
fn digest(bytes: &[u8]) -> Digest {
    let mut sums = [0xcbf2_9ce4_8422_2325_u64, 1, 2, 3];
    for word in bytes.chunks_exact(8) {
        let word = u64::from_le_bytes(word.try_into().expect("eight"));
        for (at, sum) in (0_u32..).zip(&mut sums) {
            *sum = (*sum ^ word.rotate_left(7 * at)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Digest(sums.map(u64::to_le_bytes).concat().try_into().expect("four times eight"))
}

/// What is on the disks, and what it is called.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Number of the incarnation.
    pub incarnation: u32,
    pub promised: u64,
    pub consistent: bool,
    sectors: usize,
    data: Disk,
    meta: Disk,
}

impl Replica {
    /// Blank disks. Without volumes a replica is nothing but its name.
    #[must_use]
    pub fn blank(incarnation: u32, sectors: usize, volumes: bool) -> Self {
        let replica = Self {
            incarnation,
            promised: 0,
            consistent: true,
            sectors: if volumes { sectors } else { 0 },
            data: Disk::default(),
            meta: Disk::default(),
        };
        if !volumes {
            return replica;
        }
        let size = PER_VOLUME * APART;
        let geometry = Geometry::new(vec![size as u64; sectors / PER_VOLUME], CHUNK_SHIFT, SLOTS).expect("possible");
        let (_, pages) = Store::format(unclaimed(), name(incarnation), geometry.clone());
        let mut meta = Disk::blank(usize::try_from(geometry.area()).expect("small"));
        for (at, page) in pages {
            meta.write(usize::try_from(at).expect("small"), &page, true);
        }
        Self { data: Disk::blank(size * (sectors / PER_VOLUME)), meta, ..replica }
    }

    /// What a snapshot of the disks would be.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { data: self.data.copy(), meta: self.meta.copy(), ..*self }
    }

    fn recover(&self) -> (Store, Recovery) {
        let page = |at: u64| {
            let at = usize::try_from(at).expect("small");
            (at + PAGE <= self.meta.len()).then(|| Bytes::copy_from_slice(self.meta.read(at..at + PAGE)))
        };
        Store::recover(page).expect("nothing spoils both superblocks")
    }

    /// What is known of it while no process runs.
    fn look(&mut self) {
        if !self.meta.is_empty() {
            let (store, _) = self.recover();
            self.consistent = store.superblock().state == DataState::Whole;
            self.promised = self.promised.max(store.superblock().promised.0);
        }
    }

    /// Each sector as it is read now.
    #[must_use]
    pub fn image(&self) -> Vec<Version> {
        (0..self.sectors).map(|sector| read(self.data.read(bytes_of(sector)))).collect()
    }

    /// Each sector after the worst loss of power.
    #[must_use]
    pub fn sure(&self) -> Vec<Version> {
        (0..self.sectors).map(|sector| read(&self.data.sure(bytes_of(sector)))).collect()
    }

    /// The first byte in which the images differ.
    #[must_use]
    pub fn differs_from(&self, other: &Self) -> Option<usize> {
        let (mine, theirs) = (self.data.read(0..self.data.len()), other.data.read(0..other.data.len()));
        mine.iter().zip(theirs).position(|(mine, theirs)| mine != theirs)
    }

    #[cfg(test)]
    pub(crate) fn set(&mut self, sector: usize, version: Version) {
        self.data.flushed(usize::MAX);
        self.data.write(bytes_of(sector).start, &written(version), true);
    }
}

/// Enough of a sector to tell its version.
fn bytes_of(sector: usize) -> std::ops::Range<usize> {
    let at = offset(place(sector));
    at..at + 16
}

#[must_use]
pub fn name(number: u32) -> Incarnation {
    Incarnation::new(format!("r{number}")).expect("a valid name")
}

#[must_use]
pub fn number_of(incarnation: &Incarnation) -> u32 {
    incarnation.as_str()[1..].parse().expect("r and a number")
}

/// A write of a client.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    sector: usize,
    version: Version,
    submitted: Us,
}

/// What the workload waits for.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Write(Write),
    /// That makes this write durable.
    Flush(Write),
    /// As it starts it reads everything.
    Read {
        sector: usize,
        order: u64,
    },
}

/// A workload that is being started.
#[derive(Debug)]
struct Start {
    order: u64,
    epoch: Epoch,
    /// Nothing more of it comes up before then.
    due: Us,
    /// Once it reads: what it has not read yet.
    unread: Option<usize>,
}

/// The daemon's part: gone with its process.
#[derive(Debug, Default)]
pub struct Volume {
    machine: Option<Machine>,
    bridge: Bridge,
    /// What may be taken, as the node's thread has said; and as the machine has heard.
    admit: Option<Epoch>,
    admitted: Option<Epoch>,
    /// When the last order and the last report arrive; and the reports on their way.
    ordered: Us,
    reported: Us,
    reports: VecDeque<Report>,
    /// The last that was told, heard or not.
    told: Report,
    /// What is at the disks, by number; a flush knows how much it covers.
    jobs: BTreeMap<u64, (Io, Job, usize)>,
    submitted: u64,
    batch: Option<Batch>,
    asks: BTreeMap<RequestId, Asked>,
    asked: u64,
    seq: u64,
    start: Option<Start>,
    open: bool,
    /// The workload has ended; what it wrote has not.
    closing: bool,
    /// For each peer: no attempt to connect before then.
    pub again_at: Vec<Us>,
}

impl Start {
    /// True: it was the last one.
    fn has_read_one_more(&mut self) -> bool {
        let unread = self.unread.as_mut().expect("it reads");
        *unread -= 1;
        *unread == 0
    }
}

impl Volume {
    #[must_use]
    pub fn new(hosts: usize) -> Self {
        Self { again_at: vec![0; hosts], ..Self::default() }
    }

    #[must_use]
    pub fn leads(&self) -> Option<Epoch> {
        self.machine.as_ref().and_then(Machine::leads)
    }

    /// As its node has heard.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        self.bridge.report().consistent
    }

    /// As holder: the other replica holds what this one never had.
    #[must_use]
    pub fn is_diverged_from(&self, other: &Incarnation) -> bool {
        self.leads().is_some() && self.bridge.report().diverged.contains(other)
    }

    /// Whether in this epoch this copy, the holder's, says that the other mirrors it, and the other says that it does.
    #[must_use]
    pub fn is_mirrored_by(&self, epoch: Epoch, other: &Self, name: &Incarnation) -> bool {
        let says = self.leads() == Some(epoch) && self.told.mirrored.contains(name);
        says && other.machine.is_some() && other.told.caught_up == Some(epoch)
    }

    /// Sectors with a write that is not answered.
    #[must_use]
    pub fn unanswered(&self) -> BTreeSet<usize> {
        let sector = |asked: &Asked| match asked {
            Asked::Write(write) => Some(write.sector),
            Asked::Flush(_) | Asked::Read { .. } => None,
        };
        self.asks.values().filter_map(sector).collect()
    }

    /// What it tells of itself where it follows asynchronously: how far it is behind, where it knows.
    #[must_use]
    pub fn lag(&self, now: Moment) -> Option<Millis> {
        let survey = self.machine.as_ref()?.survey();
        survey.lag.at(now).filter(|_| survey.follow == Follow::Async && survey.leads.is_none())
    }

    /// As holder: what that replica lacks, which follows asynchronously; `None`: it does not follow.
    #[must_use]
    pub fn is_ahead_of(&self, other: &Incarnation) -> Option<u64> {
        let survey = self.machine.as_ref().map(Machine::survey)?;
        let follows = |peer: &&PeerSurvey| peer.incarnation == *other && peer.state == PeerState::Following;
        survey.peers.iter().find(follows).map(|peer| peer.behind_bytes)
    }

    /// It has been part of the cluster's data: not blank.
    #[must_use]
    pub fn has_history(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| !machine.store().superblock().generations.is_empty())
    }

    /// The workload is told to end: it begins nothing more.
    pub fn shut(&mut self) {
        self.open = false;
        self.start = None;
    }

    /// Its processes are killed: nobody waits for an answer any more.
    pub fn abandon(&mut self) {
        self.shut();
        self.asks.clear();
        self.closing = false;
    }
}

impl World {
    // --- the process ---------------------------------------------------------------------------------------------

    /// The daemon opens its replica, as standby.
    pub(crate) fn start_volume(&mut self, host: usize) {
        if !self.weather.volumes {
            return;
        }
        let write_through = self.weather.durability == Durability::NoCache;
        let here = &mut self.hosts[host];
        let (mut store, recovery) = here.replica.recover();
        let name = name(here.replica.incarnation);
        if store.superblock().incarnation != name {
            for (at, page) in store.rename(name) {
                here.replica.meta.write(usize::try_from(at).expect("small"), &page, true);
            }
            here.replica.meta.flushed(usize::MAX);
        }
        if self.weather.follower == Some(host) && store.superblock().state == DataState::Whole {
            self.check_prefix(host);
        }
        let here = &mut self.hosts[host];
        let setup = Setup {
            life: Life(here.life),
            write_through,
            follow: if self.weather.follower == Some(host) { Follow::Async } else { Follow::Sync },
            resync: Limits::default(),
            keeps: false,
        };
        here.volume = Volume::new(self.weather.nodes);
        here.volume.machine = Some(Machine::new(setup, store, recovery.is_guess()));
        self.step_volume(host, Event::Tick);
    }

    /// The process is gone. What was on its way to the disks has landed, or not; without power, what was in caches, too.
    pub(crate) fn end_volume(&mut self, host: usize, power: bool) {
        let dice = &mut self.dice;
        let here = &mut self.hosts[host];
        let volume = std::mem::replace(&mut here.volume, Volume::new(self.weather.nodes));
        for (_, job, _) in volume.jobs.into_values() {
            if let Some((at, bytes)) = change(&job) {
                here.replica.data.tear(at, &bytes, dice);
            }
        }
        for (at, page) in volume.batch.into_iter().flat_map(|batch| batch.pages) {
            here.replica.meta.tear(usize::try_from(at).expect("small"), &page, dice);
        }
        if power {
            here.replica.data.lose_power(dice);
            here.replica.meta.lose_power(dice);
        }
        here.replica.look();
    }

    /// At each tick of the daemon.
    pub(crate) fn tend_volume(&mut self, host: usize) {
        self.step_volume(host, Event::Tick);
        self.begin_reading(host);
        self.tend_wires(host);
    }

    // --- the replication's machine ---------------------------------------------------------------------------------

    pub(crate) fn step_volume(&mut self, host: usize, event: Event) {
        let here = &mut self.hosts[host];
        let now = here.clock.read(self.now);
        let life = here.life;
        let volume = &mut here.volume;
        let Some(machine) = &mut volume.machine else { return };
        let mut effects = Vec::new();
        if volume.admitted != volume.admit {
            volume.admitted = volume.admit;
            machine.step(Event::Admit { from: volume.admit }, now, &mut effects);
        }
        machine.step(event, now, &mut effects);
        here.replica.consistent = machine.store().superblock().state == DataState::Whole;
        self.counts.volume_steps += 1;
        self.trace.mark(now.boottime_us, effects.len() as u64);
        for effect in effects {
            if self.hosts[host].life != life || self.crashes_here(host, crate::host::Part::Volume) {
                return;
            }
            self.volume_effect(host, effect);
        }
    }

    fn volume_effect(&mut self, host: usize, effect: Effect) {
        match effect {
            Effect::Submit { io, job } => {
                let here = &mut self.hosts[host];
                here.volume.submitted += 1;
                let (number, mark) = (here.volume.submitted, here.replica.data.mark());
                here.volume.jobs.insert(number, (io, job, mark));
                self.at_disk(host, number);
            }
            Effect::Persist(batch) => {
                self.hosts[host].volume.batch = Some(batch);
                self.at_disk(host, 0);
            }
            Effect::Send { link, frame } => {
                match &frame.message {
                    Word::Resync => {
                        self.counts.resyncs += 1;
                        self.trace.line(self.now, NAMES[host], || "begins a resync".into());
                    }
                    Word::Copy { .. } => self.counts.chunks_copied += 1,
                    Word::Compare { .. } => self.counts.chunks_compared += 1,
                    _ => {}
                }
                self.send_frame(host, link, frame);
            }
            Effect::HangUp { link, why } => {
                self.trace.line(self.now, NAMES[host], || format!("volume hangs up: {why:?}"));
                self.hang_up(host, link);
            }
            Effect::Answer { id, result } => self.volume_answers(host, id, result.ok()),
            Effect::DropKept => {}
            Effect::Tell(notice) => self.noticed(host, &notice),
            Effect::Report(report) => {
                let at = (self.now + self.hold_up()).max(self.hosts[host].volume.reported + 1);
                let here = &mut self.hosts[host];
                here.replica.promised = here.replica.promised.max(report.promised.0);
                here.volume.reported = at;
                here.volume.told = report.clone();
                here.volume.reports.push_back(report);
                let who = Who::Node { host, life: here.life };
                self.queue.push(at, Happening::To { who, what: Message::Reported });
            }
        }
    }

    fn noticed(&mut self, host: usize, notice: &Notice) {
        // Nobody verifies here, and no disk fails to read.
        self.broken("data", format!("{}'s volume says {notice:?}", NAMES[host]));
    }

    /// What a thread takes to come to it; seldom it is held up.
    fn hold_up(&mut self) -> Us {
        if self.dice.below(20) == 0 { self.dice.between(1_000, 100_000) } else { self.dice.between(20, 400) }
    }

    /// After each step of the node's machine, before what follows from it.
    pub(crate) fn follow(&mut self, host: usize) {
        let here = &mut self.hosts[host];
        let Some(node) = here.node.as_ref().filter(|_| here.volume.machine.is_some()) else { return };
        let orders = here.volume.bridge.follow(node);
        here.volume.admit = orders.admit;
        for event in orders.tell {
            self.order_volume(host, event);
        }
    }

    pub(crate) fn order_volume(&mut self, host: usize, event: Event) {
        let at = (self.now + self.hold_up()).max(self.hosts[host].volume.ordered + 1);
        let here = &mut self.hosts[host];
        here.volume.ordered = at;
        let who = Who::Node { host, life: here.life };
        self.queue.push(at, Happening::To { who, what: Message::Ordered(Box::new(event)) });
    }

    pub(crate) fn reported(&mut self, host: usize) {
        let volume = &mut self.hosts[host].volume;
        let Some(report) = volume.reports.pop_front() else { return };
        let heard = volume.bridge.heard(report);
        if let Some(failed) = heard.failed {
            let who = Who::Node { host, life: self.hosts[host].life };
            self.queue.push(self.now, Happening::To { who, what: Message::Event(Box::new(failed)) });
        }
        self.step(host, node::event::Event::Replica(heard.replica));
    }

    // --- the disks -------------------------------------------------------------------------------------------------

    /// Something is at the disks: a job by its number, or 0 for the batch of metadata.
    fn at_disk(&mut self, host: usize, number: u64) {
        let usual = self.weather.disk_us;
        let took = if self.dice.below(40) == 0 {
            self.dice.between(usual, 30_000.max(2 * usual))
        } else {
            self.dice.between(80, usual)
        };
        let here = &self.hosts[host];
        let at = self.now.max(here.stalled_until) + took;
        self.queue.push(at, Happening::Disk { host, life: here.life, number });
    }

    /// The disks answer nothing for so long. A replica whose disks take longer than it waits, by its own clock, gives itself up and is
    /// taken back later: what it had when it was taken in is not what it counts on then.
    pub(crate) fn stall_disks(&mut self, host: usize, span: Us) {
        let here = &mut self.hosts[host];
        here.stalled_until = self.now + span;
        if span >= STALL.0 * 900 {
            here.member_since = None;
        }
    }

    /// The disks answer again, also what waits for them.
    pub(crate) fn heal_disks(&mut self, host: usize) {
        let here = &mut self.hosts[host];
        if here.stalled_until <= self.now {
            return;
        }
        here.stalled_until = 0;
        let batch = here.volume.batch.is_some().then_some(0);
        let waiting: Vec<u64> = here.volume.jobs.keys().copied().chain(batch).collect();
        waiting.into_iter().for_each(|number| self.at_disk(host, number));
    }

    pub(crate) fn disk_done(&mut self, host: usize, life: u64, number: u64) {
        let here = &mut self.hosts[host];
        if here.life != life {
            return;
        }
        if here.stalled_until > self.now {
            self.queue.push(here.stalled_until, Happening::Disk { host, life, number });
            return;
        }
        let event = if number == 0 {
            let Some(batch) = here.volume.batch.take() else { return };
            // One page is written through; several are written and then flushed.
            let alone = batch.pages.len() == 1;
            for (at, page) in &batch.pages {
                here.replica.meta.write(usize::try_from(*at).expect("small"), page, alone);
            }
            if !alone {
                here.replica.meta.flushed(usize::MAX);
            }
            Event::Persisted { batch: batch.number }
        } else {
            let Some((io, job, mark)) = here.volume.jobs.remove(&number) else { return };
            let data = &mut here.replica.data;
            let answer = match &job {
                Job::Read(span) => Answer::Data(Bytes::copy_from_slice(data.read(range(*span)))),
                Job::Digest(span) => Answer::Digest(digest(data.read(range(*span)))),
                Job::Keep { .. } => unreachable!("there is no undo log"),
                Job::Flush => {
                    data.flushed(mark);
                    // Marks of flushes under way count from what is left.
                    here.volume.jobs.values_mut().for_each(|(_, _, other)| *other = other.saturating_sub(mark));
                    Answer::Done
                }
                Job::Write { .. } | Job::Zero { .. } | Job::Trim(_) => {
                    let (at, bytes) = change(&job).expect("it changes data");
                    let sure = matches!(job, Job::Write { fua: true, .. } | Job::Zero { fua: true, .. });
                    data.write(at, &bytes, sure);
                    Answer::Done
                }
            };
            Event::Done { io, answer }
        };
        // What the process does with it waits while it stands still.
        let who = Who::Node { host, life };
        self.queue.push(self.now, Happening::To { who, what: Message::Ordered(Box::new(event)) });
    }

    // --- the workload ----------------------------------------------------------------------------------------------

    /// It is to be started: once its volumes are there, and it has read them.
    pub(crate) fn start_on_volume(&mut self, host: usize, order: u64, epoch: Epoch, due: Us) {
        let volume = &mut self.hosts[host].volume;
        volume.closing = false;
        volume.start = Some(Start { order, epoch, due, unread: None });
    }

    /// After each step of the volume: once it leads, a workload that is to be started reads.
    pub(crate) fn begin_reading(&mut self, host: usize) {
        let here = &mut self.hosts[host];
        let leads = here.volume.leads();
        let Some(start) = here.volume.start.as_mut().filter(|start| Some(start.epoch) == leads) else { return };
        if start.unread.is_some() {
            return;
        }
        start.unread = Some(self.history.len());
        let (order, epoch) = (start.order, start.epoch);
        self.opened(host, epoch.0);
        for sector in 0..self.history.len() {
            self.ask(host, Asked::Read { sector, order }, Ask::Read(place(sector)));
        }
    }

    fn ask(&mut self, host: usize, asked: Asked, ask: Ask) {
        let volume = &mut self.hosts[host].volume;
        volume.asked += 1;
        let id = RequestId(volume.asked);
        volume.asks.insert(id, asked);
        self.step_volume(host, Event::Ask { id, ask });
    }

    /// A write was answered, and now its client wants it durable.
    pub(crate) fn flush(&mut self, host: usize, write: Write) {
        if self.hosts[host].volume.open {
            self.ask(host, Asked::Flush(write), Ask::Flush);
        } else {
            // Nobody waits for it any more.
            self.close_device(host);
        }
    }

    /// The workload writes a sector. False: there is no device to write to.
    pub(crate) fn write(&mut self, host: usize, sector: usize) -> bool {
        let here = &mut self.hosts[host];
        let takes =
            here.volume.machine.as_ref().is_some_and(Machine::takes_requests) && here.volume.asks.len() < IN_FLIGHT;
        let Some(epoch) = here.volume.leads().filter(|_| here.volume.open && takes && !here.is_frozen()) else {
            return false;
        };
        here.volume.seq += 1;
        let version = Version { epoch: epoch.0, seq: here.volume.seq };
        self.history.submitted(sector, version);
        let write = Write { sector, version, submitted: self.now };
        let (span, fua) = (place(sector), self.weather.durability == Durability::Through);
        let ask = Ask::Write { volume: span.volume, at: span.at, data: written(version), fua };
        self.ask(host, Asked::Write(write), ask);
        true
    }

    fn volume_answers(&mut self, host: usize, id: RequestId, answer: Option<Bytes>) {
        let here = &mut self.hosts[host];
        let Some(asked) = here.volume.asks.remove(&id) else { return };
        match (asked, answer) {
            (Asked::Write(write), Some(_)) if self.weather.durability == Durability::Flushed => {
                let at = self.now + self.dice.between(20, 300);
                let who = Who::Node { host, life: self.hosts[host].life };
                self.queue.push(at, Happening::To { who, what: Message::Flush(write) });
                return;
            }
            (Asked::Write(write) | Asked::Flush(write), Some(_)) => {
                here.cache[write.sector] = here.cache[write.sector].max(write.version);
                self.counts.acknowledged += 1;
                self.acknowledged(host, write.sector, write.version, write.submitted);
            }
            (Asked::Read { sector, order }, Some(bytes)) => {
                here.cache[sector] = read(&bytes);
                // One that has been told to end meanwhile does not come up.
                if let Some(start) = here.volume.start.as_mut().filter(|start| start.order == order)
                    && start.has_read_one_more()
                {
                    let (epoch, at) = (start.epoch, start.due.max(self.now));
                    here.volume.start = None;
                    here.volume.open = true;
                    let (power, who) = (here.power, Who::Node { host, life: here.life });
                    self.queue.push(at, Happening::Up { host, power, order, epoch, who });
                }
            }
            // Whether a write was done is unknown. A workload that cannot read does not come up.
            (_, None) => {}
        }
        self.close_device(host);
    }

    /// The workload's processes are gone.
    pub(crate) fn close_soon(&mut self, host: usize) {
        self.hosts[host].volume.closing = true;
        self.close_device(host);
    }

    /// The device closes when nothing that the workload asked is left.
    fn close_device(&mut self, host: usize) {
        let volume = &mut self.hosts[host].volume;
        if volume.closing && volume.asks.is_empty() {
            volume.closing = false;
            self.step(host, node::event::Event::WorkloadDown);
        }
    }

    /// Nothing that was written waits for anything: not for an answer, and not at a disk.
    pub(crate) fn is_quiet(&self, host: usize) -> bool {
        let volume = &self.hosts[host].volume;
        volume.asks.is_empty() && volume.jobs.is_empty() && volume.batch.is_none()
    }
}

fn range(span: Span) -> std::ops::Range<usize> {
    let at = offset(span);
    at..at + usize::try_from(span.len).expect("small")
}

/// Where a job writes what.
fn change(job: &Job) -> Option<(usize, Vec<u8>)> {
    let span = job.span()?;
    match job {
        Job::Write { data, .. } => Some((offset(span), data.to_vec())),
        Job::Zero { .. } | Job::Trim(_) => Some((offset(span), vec![0; usize::try_from(span.len).expect("small")])),
        Job::Read(_) | Job::Digest(_) | Job::Keep { .. } | Job::Flush => None,
    }
}
