//! The world of one run: who is in it, and what happens next.

use super::Dice;
use super::disk::{Disk, SECTOR};
use super::ledger::{Ledger, Outcome};
use super::weather::Weather;
use crate::core::follower::Lag;
use crate::core::survey::PeerState;
use crate::core::{Answer, Ask, Effect, Event, Follow, Io, Job, Link, Replica, Report, RequestId};
use crate::ids::{Digest, Generation, Sequence, Session, Span};
use crate::metadata::{Batch, Geometry, PAGE, Recovery, Store};
use crate::wire::{Frame, Message};
use bytes::Bytes;
use lease::ids::{Epoch, Incarnation, Lineage};
use lease::time::Moment;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

/// Requests of clients at once.
pub(super) const CLIENTS: usize = 8;
/// Steps between two looks at all disks, on average.
const AUDIT: usize = 60;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: Incarnation,
    /// How it follows, in the configuration; a change is taken in by a restart.
    pub(super) follow: Follow,
    pub(super) data: Disk,
    pub(super) meta: Disk,
    /// The undo log: under which number, where, and what was there. In order, and for good.
    pub(super) kept: Vec<(u64, Range<usize>, Vec<u8>)>,
    /// What a start now would find in the metadata; forgotten with each write to it.
    pub(super) found: Option<(Store, Recovery)>,
    /// `None`: down.
    pub(super) replica: Option<Replica>,
    pub(super) life: u64,
    pub(super) jobs: Vec<(Io, Job, usize)>,
    pub(super) batch: Option<Batch>,
    /// Told by the replica, not yet read by the node; the last that was; and the last that was told.
    pub(super) reports: VecDeque<Report>,
    pub(super) report: Report,
    pub(super) told: Report,
    /// The epoch that this process took and has not yet begun to lead, and who stays a member.
    pub(super) taken: Option<Epoch>,
    pub(super) leads: Option<Epoch>,
    /// It is about to take an epoch, as soon as its replica has said by this number that it is closed.
    pub(super) closing: Option<u64>,
    pub(super) closings: u64,
    /// Said to the volume, on its way.
    pub(super) orders: VecDeque<Event>,
    pub(super) growing: Option<Incarnation>,
    /// The highest promise that anybody was told.
    pub(super) promised: Epoch,
    /// The epoch whose holder was the last to tell it how far it lags.
    pub(super) lag_of: Epoch,
    /// Generations that it was told in the present session, with their places.
    pub(super) states: Vec<(Session, Sequence, Generation)>,
    /// It has lost its cache, and has not been told since that it has everything.
    pub(super) hazy: bool,
    pub(super) frozen: bool,
    /// Until this step: hears nothing, does nothing on the disk.
    pub(super) deaf: usize,
    pub(super) slow: usize,
    /// The data, or the metadata, stands still for ever.
    pub(super) stalled: [bool; 2],
    /// The next write or flush, or the next read, fails; a flush has failed.
    pub(super) sick: bool,
    pub(super) unreadable: bool,
    pub(super) spoilt: bool,
    /// Sectors that cannot be read until they are written; and those that have changed by themselves, with what was there.
    pub(super) bad: BTreeSet<usize>,
    pub(super) rotten: BTreeMap<usize, Rotten>,
    /// A verification has found it to differ, at this step, and nobody has decided since.
    pub(super) differs: Option<usize>,
    /// Somebody has decided that it is to be resynced, and it has not been taken in since.
    pub(super) decided: bool,
    /// Its flushes do not end.
    pub(super) never_flushes: bool,
}

/// What was in a sector before it changed by itself, and when it did.
#[derive(Debug)]
pub(super) struct Rotten {
    pub(super) was: Vec<u8>,
    pub(super) at: Moment,
}

#[derive(Debug)]
pub(super) struct Wire {
    pub(super) ends: [(usize, Link); 2],
    /// To the first, to the second.
    pub(super) frames: [VecDeque<Frame>; 2],
    /// Until this step nothing is delivered this way.
    pub(super) lag: [usize; 2],
    pub(super) mute: bool,
}

/// The row.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) epoch: Epoch,
    pub(super) holder: usize,
    pub(super) in_sync: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) node: usize,
    pub(super) ask: Ask,
    pub(super) tag: u64,
    /// Tags acknowledged when a flush was asked.
    pub(super) covers: BTreeSet<u64>,
}

/// How often what was met.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Met {
    pub(super) answered: usize,
    pub(super) failovers: usize,
    pub(super) handovers: usize,
    pub(super) grown: usize,
    pub(super) shrunk: usize,
    pub(super) freezes: usize,
    pub(super) failed: usize,
    pub(super) verified: usize,
    pub(super) found: usize,
    pub(super) served: usize,
    pub(super) repaired: usize,
    pub(super) kept: usize,
    pub(super) not_kept: usize,
    pub(super) rolled_back: usize,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) weather: Weather,
    pub(super) volumes: Vec<usize>,
    pub(super) dice: Dice,
    pub(super) now: Moment,
    pub(super) at: usize,
    pub(super) nodes: Vec<Node>,
    pub(super) wires: Vec<Wire>,
    pub(super) row: Row,
    /// When the row was changed from each epoch to the next.
    pub(super) ended: BTreeMap<Epoch, Moment>,
    pub(super) next_link: u64,
    pub(super) next_id: u64,
    pub(super) asked: BTreeMap<RequestId, Asked>,
    pub(super) ledger: Ledger,
    pub(super) met: Met,
    pub(super) calm: bool,
    pub(super) quiet: bool,
    /// Who has taken in events from which nothing has followed yet.
    taken_in: Option<BTreeSet<usize>>,
    log: Vec<String>,
}

/// Followers that lack nothing.
fn even_followers(replica: &Replica) -> usize {
    let peers = replica.survey().peers;
    peers.iter().filter(|peer| peer.state == PeerState::Following && peer.lag == Lag::Nothing).count()
}

pub(super) fn tagged(tag: u64, len: usize) -> Bytes {
    tag.to_le_bytes().iter().copied().cycle().take(len).collect::<Vec<u8>>().into()
}

pub(super) fn digest(bytes: &[u8]) -> Digest {
    let mut sums = [0xcbf2_9ce4_8422_2325_u64, 1, 2, 3];
    for word in bytes.chunks_exact(8) {
        let word = u64::from_le_bytes(word.try_into().expect("eight"));
        for (at, sum) in sums.iter_mut().enumerate() {
            *sum = (*sum ^ word.rotate_left(u32::try_from(at * 7).expect("small"))).wrapping_mul(0x0100_0000_01b3);
        }
    }
    let mut digest = [0; 32];
    sums.iter().zip(digest.chunks_mut(8)).for_each(|(sum, out)| out.copy_from_slice(&sum.to_le_bytes()));
    Digest(digest)
}

pub(super) fn recover(meta: &[u8]) -> Result<(Store, Recovery), String> {
    let page = |at: u64| {
        let at = usize::try_from(at).expect("small");
        meta.get(at..at + PAGE).map(Bytes::copy_from_slice)
    };
    Store::recover(page).map_err(|refused| refused.to_string())
}

impl World {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        let (volumes, slots) = weather.layout.shape();
        let sizes: Vec<u64> = volumes.iter().map(|size| *size as u64).collect();
        let geometry = Geometry::new(sizes, 12, slots).expect("possible");
        let size: usize = volumes.iter().sum();
        let count = weather.nodes.unwrap_or(if seed.is_multiple_of(3) { 2 } else { 3 });
        let node = |number: usize| {
            let name = Incarnation::new(format!("r{number}")).expect("a name");
            let lineage = Lineage::new("l").expect("a name");
            let (_, pages) = Store::format(lineage, name.clone(), geometry.clone());
            let mut meta = Disk::new(usize::try_from(geometry.area()).expect("small"));
            for (at, page) in pages {
                meta.write(usize::try_from(at).expect("small"), &page, true);
            }
            meta.flushed(usize::MAX);
            Node {
                name,
                follow: if weather.follows && number > 0 && number + 1 == count { Follow::Async } else { Follow::Sync },
                data: Disk::new(size),
                meta,
                kept: Vec::new(),
                found: None,
                replica: None,
                life: 0,
                jobs: Vec::new(),
                batch: None,
                reports: VecDeque::new(),
                report: Report::default(),
                told: Report::default(),
                closing: None,
                closings: 0,
                taken: None,
                leads: None,
                orders: VecDeque::new(),
                growing: None,
                promised: Epoch(0),
                lag_of: Epoch(0),
                states: Vec::new(),
                hazy: false,
                frozen: false,
                deaf: 0,
                slow: 0,
                stalled: [false; 2],
                sick: false,
                unreadable: false,
                spoilt: false,
                bad: BTreeSet::new(),
                rotten: BTreeMap::new(),
                differs: None,
                decided: false,
                never_flushes: false,
            }
        };
        Self {
            nodes: (0..count).map(node).collect(),
            weather,
            volumes,
            dice: Dice::new(seed),
            now: Moment::default(),
            at: 0,
            wires: Vec::new(),
            row: Row { epoch: Epoch(0), holder: 0, in_sync: [0].into() },
            ended: BTreeMap::new(),
            next_link: 0,
            next_id: 0,
            asked: BTreeMap::new(),
            ledger: Ledger::new(size / SECTOR),
            met: Met::default(),
            calm: false,
            quiet: false,
            taken_in: None,
            log: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.log.len() > 400 {
            self.log.drain(..200);
        }
        self.log.push(format!("{:>6} ms {}", self.now.boottime_us / 1000, text()));
    }

    pub(super) fn story(&self) -> String {
        self.log.join("\n")
    }

    /// Bytes of this range in the image of the whole group.
    pub(super) fn place(&self, span: Span) -> Range<usize> {
        let base: usize = self.volumes[..span.volume.0 as usize].iter().sum();
        let from = base + usize::try_from(span.at).expect("small");
        from..from + usize::try_from(span.len).expect("small")
    }

    pub(super) fn sectors(&self, span: Span) -> Range<usize> {
        let place = self.place(span);
        place.start / SECTOR..place.end / SECTOR
    }

    /// Where a job writes what.
    pub(super) fn bytes_of(&self, job: &Job) -> Option<(usize, Vec<u8>)> {
        let span = job.span()?;
        let at = self.place(span).start;
        match job {
            Job::Write { data, .. } => Some((at, data.to_vec())),
            Job::Zero { .. } | Job::Trim(_) => Some((at, vec![0; usize::try_from(span.len).expect("small")])),
            Job::Read(_) | Job::Digest(_) | Job::Keep { .. } | Job::Flush => None,
        }
    }

    // --- running -------------------------------------------------------------------------------------------------

    pub(super) fn run(&mut self) -> Outcome {
        for _ in 0..self.weather.steps {
            self.step()?;
        }
        if self.dice.below(2) == 0 {
            for node in 0..self.nodes.len() {
                let power = self.dice.below(2) == 0;
                self.crash(node, power);
            }
            self.audit()?;
        }
        self.calm_down();
        for left in (0..60_000).rev() {
            // The clients' last requests, so that everything can come to an end.
            self.quiet = left < 30_000;
            self.step()?;
            if self.is_quiet() {
                return self.check_equal();
            }
        }
        let nodes: Vec<String> = self
            .nodes
            .iter()
            .map(|node| format!("{:?} {:?} {:?}", node.orders, node.told, node.replica))
            .map(|text| text.replace("\\0", "").chars().take(9_000).collect())
            .collect();
        Err(format!("it does not get quiet: {:?} {:?}\n{}", self.row, self.asked.len(), nodes.join("\n\n")))
    }

    /// Nodes that are to be in the set: the holder, and who follows synchronously.
    fn members(&self) -> usize {
        let member = |(number, node): &(usize, &Node)| *number == self.row.holder || node.follow == Follow::Sync;
        self.nodes.iter().enumerate().filter(member).count()
    }

    fn is_quiet(&self) -> bool {
        let holder = &self.nodes[self.row.holder];
        let members = self.members();
        self.row.in_sync.len() == members
            && self.asked.is_empty()
            && self.wires.iter().all(|wire| wire.frames.iter().all(VecDeque::is_empty))
            && self.nodes.iter().all(|node| node.jobs.is_empty() && node.orders.is_empty() && node.reports.is_empty())
            && self.nodes[self.row.holder].leads == Some(self.row.epoch)
            // Met, too: who is a member since a hand-over may still hold a write that nobody was told of.
            && holder.told.mirrored.len() == members - 1
            && holder.replica.as_ref().map_or(0, even_followers) == self.nodes.len() - members
            && self.nodes.iter().all(|node| node.rotten.is_empty())
    }

    pub(super) fn step(&mut self) -> Outcome {
        self.at += 1;
        let us = (50 + self.dice.below(600) as u64) * self.weather.pace;
        self.now = Moment { boottime_us: self.now.boottime_us + us, monotonic_raw_us: self.now.monotonic_raw_us + us };
        if self.dice.below(AUDIT) == 0 {
            self.audit()?;
        }
        let node = self.dice.below(self.nodes.len());
        if !self.calm && self.dice.below(self.weather.calm_steps) == 0 {
            self.fault()?;
        }
        match self.dice.below(1000) {
            0..=9 => self.fail_over(node),
            10..=19 if !self.calm => self.hand_over(node),
            20..=49 => self.restart(node),
            50..=79 => self.connect(node),
            80..=84 if self.weather.verifies => self.operate(),
            90..=139 => self.decide(node),
            140..=199 => self.step_replica(node, Event::Tick),
            200..=299 => self.order(node),
            300..=419 => self.client(),
            420..=499 => self.together(node),
            500..=699 => (0..3).try_for_each(|_| self.deliver()),
            _ => (0..3).try_for_each(|_| self.work(node)),
        }
    }

    /// What comes together is taken in together.
    fn together(&mut self, node: usize) -> Outcome {
        self.taken_in = Some(BTreeSet::new());
        for _ in 0..=self.dice.below(8) {
            match self.dice.below(4) {
                0 => self.client(),
                1 => self.work(node),
                _ => self.deliver(),
            }?;
        }
        let nodes = self.taken_in.take().unwrap_or_default();
        nodes.into_iter().try_for_each(|node| self.conclude(node))
    }

    pub(super) fn step_replica(&mut self, node: usize, event: Event) -> Outcome {
        let now = self.now;
        let Some(replica) = &mut self.nodes[node].replica else { return Ok(()) };
        replica.take_in(event, now);
        match &mut self.taken_in {
            Some(nodes) => nodes.extend([node]),
            None => self.conclude(node)?,
        }
        Ok(())
    }

    fn conclude(&mut self, node: usize) -> Outcome {
        let mut out = Vec::new();
        let now = self.now;
        let Some(replica) = &mut self.nodes[node].replica else { return Ok(()) };
        replica.conclude(now, &mut out);
        if let Some((what, found, bound)) = replica.sizes(CLIENTS).into_iter().find(|(_, found, bound)| found > bound) {
            return Err(format!("n{node} keeps {found} {what}, more than {bound}"));
        }
        for effect in out {
            self.check_effect(node, &effect)?;
            self.effect(node, effect)?;
        }
        Ok(())
    }

    fn effect(&mut self, node: usize, effect: Effect) -> Outcome {
        match effect {
            Effect::Submit { io, job } => {
                let mark = self.nodes[node].data.mark();
                self.nodes[node].jobs.push((io, job, mark));
            }
            Effect::Persist(batch) => self.nodes[node].batch = Some(batch),
            Effect::Send { link, frame } => {
                if let Some(wire) = self.wires.iter_mut().find(|wire| wire.ends.contains(&(node, link))) {
                    let to = usize::from(wire.ends[0] == (node, link));
                    wire.frames[to].push_back(frame);
                }
            }
            Effect::HangUp { link, why } => {
                self.note(|| format!("n{node} hangs up: {why:?}"));
                if let Some(at) = self.wires.iter().position(|wire| wire.ends.contains(&(node, link))) {
                    let wire = self.wires.swap_remove(at);
                    let other = wire.ends[usize::from(wire.ends[0] == (node, link))];
                    self.nodes[other.0].orders.push_back(Event::Disconnected { link: other.1 });
                }
            }
            Effect::Answer { id, result } => self.told(node, id, result)?,
            Effect::DropKept => self.nodes[node].kept.clear(),
            Effect::Tell(notice) => self.noticed(node, notice)?,
            Effect::Report(report) => {
                if report.caught_up.is_some() && report.caught_up != self.nodes[node].told.caught_up {
                    self.nodes[node].hazy = false;
                }
                self.nodes[node].told = report.clone();
                self.nodes[node].reports.push_back(report);
            }
        }
        Ok(())
    }

    fn connect(&mut self, node: usize) -> Outcome {
        let other = self.dice.below(self.nodes.len());
        let joined = |wire: &Wire| wire.ends.iter().all(|end| end.0 == node || end.0 == other);
        let up = self.nodes[node].replica.is_some() && self.nodes[other].replica.is_some();
        if node == other || !up || self.nodes[node].leads.is_none() || self.wires.iter().any(joined) {
            return Ok(());
        }
        self.next_link += 2;
        let (near, far) = (Link(self.next_link), Link(self.next_link + 1));
        let frames = [VecDeque::new(), VecDeque::new()];
        self.wires.push(Wire { ends: [(node, near), (other, far)], frames, lag: [0; 2], mute: false });
        self.step_replica(node, Event::Connected { link: near })
    }

    fn deliver(&mut self) -> Outcome {
        if self.wires.is_empty() {
            return Ok(());
        }
        let (at, way) = (self.dice.below(self.wires.len()), self.dice.below(2));
        let wire = &mut self.wires[at];
        if wire.lag[way] > self.at {
            return Ok(());
        }
        let Some(frame) = wire.frames[way].pop_front() else { return Ok(()) };
        if wire.mute {
            return Ok(());
        }
        let (node, link) = wire.ends[way];
        if let Message::Lag { .. } = frame.message {
            self.nodes[node].lag_of = frame.epoch;
        }
        if let Message::State { generation, .. } = frame.message {
            let states = &mut self.nodes[node].states;
            states.retain(|(session, _, told)| (*session, told.epoch) == (frame.session, frame.epoch));
            states.push((frame.session, frame.sequence, generation));
        }
        self.step_replica(node, Event::Received { link, frame })
    }

    /// A disk does something.
    fn work(&mut self, node: usize) -> Outcome {
        let here = &mut self.nodes[node];
        if here.replica.is_none() || here.slow > self.at {
            return Ok(());
        }
        if self.dice.below(3) == 0
            && !here.stalled[1]
            && let Some(batch) = here.batch.take()
        {
            // One page is written through; several are written and then flushed.
            let alone = batch.pages.len() == 1;
            for (at, page) in &batch.pages {
                here.meta.write(usize::try_from(*at).expect("small"), page, alone);
            }
            if !alone {
                here.meta.flushed(usize::MAX);
            }
            here.found = None;
            return self.step_replica(node, Event::Persisted { batch: batch.number });
        }
        if here.jobs.is_empty() || here.stalled[0] {
            return Ok(());
        }
        let at = self.dice.below(here.jobs.len());
        if here.never_flushes && here.jobs[at].1 == Job::Flush {
            return Ok(());
        }
        let (io, job, mark) = here.jobs.swap_remove(at);
        let answer = self.do_job(node, &job, mark);
        self.step_replica(node, Event::Done { io, answer })
    }

    pub(super) fn keep(&mut self, node: usize, number: u64, range: Range<usize>) {
        let bytes = self.as_written(node, range.clone(), &self.nodes[node].data.bytes[range.clone()]).into_owned();
        self.nodes[node].kept.push((number, range, bytes));
    }

    fn do_job(&mut self, node: usize, job: &Job, mark: usize) -> Answer {
        let (range, change) = (job.span().map(|span| self.place(span)), self.bytes_of(job));
        let sectors = job.span().map_or(0..0, |span| self.sectors(span));
        let here = &mut self.nodes[node];
        let reads = matches!(job, Job::Read(_) | Job::Digest(_) | Job::Keep { .. });
        if reads && std::mem::take(&mut here.unreadable) {
            here.bad.insert(sectors.start);
        }
        if reads && here.bad.range(sectors.clone()).next().is_some() {
            return Answer::Failed;
        }
        if !reads && std::mem::take(&mut here.sick) {
            here.spoilt |= *job == Job::Flush;
            if let Some((at, bytes)) = &change {
                here.data.tear(*at, bytes, &mut self.dice);
            }
            self.note(|| format!("n{node}: {job:?} fails"));
            return Answer::Failed;
        }
        match job {
            Job::Read(_) => return Answer::Data(Bytes::copy_from_slice(&here.data.bytes[range.expect("it has one")])),
            // Full.
            Job::Keep { .. } if self.dice.below(200) == 0 => return Answer::Failed,
            Job::Keep { number, .. } => {
                self.met.kept += 1;
                self.keep(node, *number, range.expect("it has one"));
            }
            Job::Digest(_) => return Answer::Digest(digest(&here.data.bytes[range.expect("it has one")])),
            Job::Flush => {
                here.data.flushed(mark);
                // Marks of flushes under way count from what is left.
                here.jobs.iter_mut().for_each(|(_, _, other)| *other = other.saturating_sub(mark));
            }
            Job::Write { .. } | Job::Zero { .. } | Job::Trim(_) => {
                let (at, bytes) = change.expect("it changes data");
                let sticky = matches!(job, Job::Write { fua: true, .. } | Job::Zero { fua: true, .. });
                here.data.write(at, &bytes, sticky);
                here.bad.retain(|sector| !sectors.contains(sector));
                here.rotten.retain(|sector, _| !sectors.contains(sector));
            }
        }
        Answer::Done
    }
}
