//! The world of one run.

use super::Dice;
use super::disk::{Disk, SECTOR};
use crate::core::{Answer, Ask, Effect, Event, Guard, Io, Job, Link, Replica, Report, RequestId, Setup};
use crate::ids::{Digest, Life, Span, VolumeNo};
use crate::metadata::{Batch, Geometry, PAGE, Store};
use crate::wire::Frame;
use bytes::Bytes;
use lease::ids::{Epoch, Incarnation, Lineage};
use lease::time::Moment;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Two volumes: three extents of 64 chunks of 4 KiB, with room for two in the log, so that they push each other out.
const VOLUMES: [usize; 2] = [80 * PAGE, 32 * PAGE];

/// What a run meets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) nodes: usize,
    pub(super) steps: usize,
    /// Steps between two faults, on average.
    pub(super) calm_steps: usize,
    pub(super) write_through: bool,
    pub(super) without: Option<Guard>,
}

#[derive(Debug)]
struct Node {
    name: Incarnation,
    data: Disk,
    meta: Disk,
    /// `None`: down.
    replica: Option<Replica>,
    life: u64,
    jobs: Vec<(Io, Job, usize)>,
    batch: Option<Batch>,
    /// Told by the replica, not yet read by the node; and the last that was.
    reports: VecDeque<Report>,
    report: Report,
    /// The epoch that this process took and has not yet begun to lead.
    taken: Option<Epoch>,
    leads: Option<Epoch>,
    /// Said to the volume, on its way.
    orders: VecDeque<Event>,
    need: BTreeSet<Incarnation>,
    growing: Option<Incarnation>,
}

#[derive(Debug)]
struct Wire {
    ends: [(usize, Link); 2],
    /// To the first, to the second.
    frames: [VecDeque<Frame>; 2],
}

/// The row.
#[derive(Debug)]
struct Row {
    epoch: Epoch,
    holder: usize,
    in_sync: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
struct Asked {
    node: usize,
    ask: Ask,
    tag: u64,
    /// Tags acknowledged when a flush was asked.
    covers: BTreeSet<u64>,
}

#[derive(Debug)]
pub(super) struct World {
    weather: Weather,
    dice: Dice,
    now: Moment,
    nodes: Vec<Node>,
    wires: Vec<Wire>,
    row: Row,
    next_link: u64,
    next_id: u64,
    asked: BTreeMap<RequestId, Asked>,
    /// For each sector: the tag that may not be gone back behind, and the one that not even a loss of power may take.
    seen: Vec<u64>,
    durable: Vec<u64>,
    /// What was ever asked to be written there, and what was asked to be zeroed; zeros carry no tag.
    written: Vec<BTreeSet<u64>>,
    zeroed: Vec<BTreeSet<u64>>,
    unflushed: BTreeMap<u64, Span>,
    pub(super) answered: usize,
    pub(super) failovers: usize,
    pub(super) resyncs: usize,
    calm: bool,
    quiet: bool,
    log: Vec<String>,
}

type Outcome = Result<(), String>;

fn sector_of(span: Span, byte: u64) -> usize {
    let base = if span.volume.0 == 0 { 0 } else { VOLUMES[0] };
    (base + usize::try_from(span.at + byte).expect("small")) / SECTOR
}

fn sectors_of(span: Span) -> std::ops::Range<usize> {
    sector_of(span, 0)..sector_of(span, span.len)
}

fn place(span: Span) -> std::ops::Range<usize> {
    let from = sector_of(span, 0) * SECTOR;
    from..from + usize::try_from(span.len).expect("small")
}

fn tagged(tag: u64, len: usize) -> Bytes {
    tag.to_le_bytes().iter().copied().cycle().take(len).collect::<Vec<u8>>().into()
}

fn digest(bytes: &[u8]) -> Digest {
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

fn recover(meta: &Disk) -> Result<(Store, crate::metadata::Recovery), String> {
    let page = |at: u64| {
        let at = usize::try_from(at).expect("small");
        meta.bytes.get(at..at + PAGE).map(Bytes::copy_from_slice)
    };
    Store::recover(page).map_err(|refused| refused.to_string())
}

impl World {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        let geometry = || Geometry::new(VOLUMES.iter().map(|size| *size as u64).collect(), 12, 2).expect("possible");
        let size: usize = VOLUMES.iter().sum();
        let nodes = (0..weather.nodes).map(|number| {
            let name = Incarnation::new(format!("r{number}")).expect("a name");
            let (_, pages) = Store::format(Lineage::new("l").expect("a name"), name.clone(), geometry());
            let mut meta = Disk::new(usize::try_from(geometry().area()).expect("small"));
            for (at, page) in pages {
                meta.write(usize::try_from(at).expect("small"), &page, true);
            }
            meta.flushed(usize::MAX);
            Node {
                name,
                data: Disk::new(size),
                meta,
                replica: None,
                life: 0,
                jobs: Vec::new(),
                batch: None,
                reports: VecDeque::new(),
                report: Report::default(),
                taken: None,
                leads: None,
                orders: VecDeque::new(),
                need: BTreeSet::new(),
                growing: None,
            }
        });
        Self {
            nodes: nodes.collect(),
            weather,
            dice: Dice::new(seed),
            now: Moment::default(),
            wires: Vec::new(),
            row: Row { epoch: Epoch(0), holder: 0, in_sync: [0].into() },
            next_link: 0,
            next_id: 0,
            asked: BTreeMap::new(),
            seen: vec![0; size / SECTOR],
            durable: vec![0; size / SECTOR],
            written: vec![BTreeSet::new(); size / SECTOR],
            zeroed: vec![[0].into(); size / SECTOR],
            unflushed: BTreeMap::new(),
            answered: 0,
            failovers: 0,
            resyncs: 0,
            calm: false,
            quiet: false,
            log: Vec::new(),
        }
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.log.len() > 400 {
            self.log.drain(..200);
        }
        self.log.push(format!("{:>6} ms {}", self.now.boottime_us / 1000, text()));
    }

    pub(super) fn story(&self) -> String {
        self.log.join("\n")
    }

    // --- running -------------------------------------------------------------------------------------------------

    pub(super) fn run(&mut self) -> Outcome {
        for _ in 0..self.weather.steps {
            self.step()?;
        }
        for node in 0..self.nodes.len() {
            let power = self.dice.below(2) == 0;
            self.crash(node, power)?;
        }
        self.check_marks()?;
        self.calm = true;
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
            .map(|node| format!("{:?}", node))
            .map(|text| {
                let at = text.find("replica: ").unwrap_or(0);
                text[at..].replace("\\0", "").chars().take(9_000).collect()
            })
            .collect();
        Err(format!("it does not get quiet: {:?} {:?}\n{}", self.row, self.asked.len(), nodes.join("\n\n")))
    }

    fn is_quiet(&self) -> bool {
        self.row.in_sync.len() == self.nodes.len()
            && self.asked.is_empty()
            && self.wires.iter().all(|wire| wire.frames.iter().all(VecDeque::is_empty))
            && self.nodes.iter().all(|node| node.jobs.is_empty() && node.orders.is_empty() && node.reports.is_empty())
            && self.nodes[self.row.holder].leads == Some(self.row.epoch)
    }

    fn step(&mut self) -> Outcome {
        let us = 50 + self.dice.below(600) as u64;
        self.now = Moment { boottime_us: self.now.boottime_us + us, monotonic_raw_us: self.now.monotonic_raw_us + us };
        let node = self.dice.below(self.nodes.len());
        let chance = self.dice.below(1000);
        let fault = !self.calm && self.dice.below(self.weather.calm_steps) == 0;
        match chance {
            0..=399 if fault => {
                let power = self.dice.below(2) == 0;
                self.crash(node, power)
            }
            400..=699 if fault => self.break_wire(),
            700..=709 if !self.calm => self.fail_over(node),
            10..=49 => self.restart(node),
            50..=79 => self.connect(node),
            90..=139 => self.decide(node),
            140..=199 => self.step_replica(node, Event::Tick),
            200..=299 => self.order(node),
            300..=449 => self.client(),
            450..=699 => (0..3).try_for_each(|_| self.deliver()),
            _ => (0..3).try_for_each(|_| self.work(node)),
        }
    }

    fn step_replica(&mut self, node: usize, event: Event) -> Outcome {
        let mut out = Vec::new();
        let now = self.now;
        let Some(replica) = &mut self.nodes[node].replica else { return Ok(()) };
        replica.step(event, now, &mut out);
        for effect in out {
            self.effect(node, effect)?;
        }
        Ok(())
    }

    fn effect(&mut self, node: usize, effect: Effect) -> Outcome {
        match effect {
            Effect::Submit { io, job } => {
                let mark = self.nodes[node].data.mark();
                if let Some(span) = job.span() {
                    let meets = |(_, other, _): &&(Io, Job, usize)| {
                        other.span().is_some_and(|other| other.overlaps(span)) && (other.changes() || job.changes())
                    };
                    if self.nodes[node].jobs.iter().any(|other| meets(&other)) && self.weather.without.is_none() {
                        return Err(format!("n{node}: {job:?} meets another on the disk"));
                    }
                }
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
            Effect::Report(report) => {
                if !report.diverged.is_empty() {
                    return Err(format!("n{node} finds diverged histories: {:?}", report.diverged));
                }
                self.nodes[node].reports.push_back(report);
            }
        }
        Ok(())
    }

    // --- faults --------------------------------------------------------------------------------------------------

    fn crash(&mut self, node: usize, power: bool) -> Outcome {
        if self.nodes[node].replica.take().is_none() {
            return Ok(());
        }
        self.note(|| format!("n{node} {}", if power { "loses power" } else { "dies" }));
        let dice = &mut self.dice;
        let here = &mut self.nodes[node];
        for (_, job, _) in std::mem::take(&mut here.jobs) {
            if let Some((at, bytes)) = bytes_of(&job) {
                here.data.tear(at, &bytes, dice);
            }
        }
        for (at, page) in here.batch.take().into_iter().flat_map(|batch| batch.pages) {
            here.meta.tear(usize::try_from(at).expect("small"), &page, dice);
        }
        if power {
            here.data.power_lost(dice);
            here.meta.power_lost(dice);
            if !self.weather.write_through {
                // A volatile cache was offered: what no flush covers may be gone.
                self.seen.clone_from(&self.durable);
                self.unflushed.clear();
            }
        }
        here.reports.clear();
        here.report = Report::default();
        here.orders.clear();
        (here.taken, here.leads, here.growing) = (None, None, None);
        here.need.clear();
        self.asked.retain(|_, asked| asked.node != node);
        let gone: Vec<Wire> = self.wires.extract_if(.., |wire| wire.ends.iter().any(|end| end.0 == node)).collect();
        for (other, link) in gone.into_iter().flat_map(|wire| wire.ends).filter(|end| end.0 != node) {
            self.nodes[other].orders.push_back(Event::Disconnected { link });
        }
        Ok(())
    }

    fn restart(&mut self, node: usize) -> Outcome {
        if self.nodes[node].replica.is_some() {
            return Ok(());
        }
        let (store, recovery) = recover(&self.nodes[node].meta)?;
        self.note(|| format!("n{node} starts: {recovery:?}"));
        let here = &mut self.nodes[node];
        here.life += 1;
        let setup = Setup { life: Life(here.life), write_through: self.weather.write_through };
        let mut replica = Replica::new(setup, store, recovery.is_guess());
        replica.without = self.weather.without;
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

    fn break_wire(&mut self) -> Outcome {
        if self.wires.is_empty() {
            return Ok(());
        }
        let at = self.dice.below(self.wires.len());
        let wire = self.wires.swap_remove(at);
        self.note(|| format!("link {:?} breaks", wire.ends));
        for (node, link) in wire.ends {
            self.nodes[node].orders.push_back(Event::Disconnected { link });
        }
        Ok(())
    }

    // --- the arbiter ---------------------------------------------------------------------------------------------

    fn take_epoch(&mut self, node: usize) -> Outcome {
        let epoch = self.row.epoch;
        self.note(|| format!("n{node} holds {epoch:?}"));
        let here = &mut self.nodes[node];
        here.taken = Some(epoch);
        here.need.clear();
        here.growing = None;
        self.step_replica(node, Event::Admit { from: None })?;
        self.step_replica(node, Event::Promise { epoch })
    }

    /// Another member takes over; the holder may be alive, and hears of it later.
    fn fail_over(&mut self, node: usize) -> Outcome {
        let here = &self.nodes[node];
        let dead = self.nodes[self.row.holder].replica.is_none();
        if node == self.row.holder
            || !self.row.in_sync.contains(&node)
            || here.replica.is_none()
            || !here.report.consistent
            || here.leads.is_some()
            || !(dead || self.dice.below(6) == 0)
        {
            return Ok(());
        }
        self.failovers += 1;
        let old = self.row.holder;
        self.row = Row { epoch: self.row.epoch.next(), holder: node, in_sync: [node].into() };
        self.nodes[old].orders.push_back(Event::Fence);
        self.nodes[old].orders.push_back(Event::Admit { from: Some(Epoch(0)) });
        self.nodes[old].taken = None;
        self.take_epoch(node)
    }

    /// The node reads a report and acts on it; it also shrinks and grows.
    fn decide(&mut self, node: usize) -> Outcome {
        if let Some(report) = self.nodes[node].reports.pop_front() {
            self.nodes[node].report = report;
        }
        let (row, here) = (&self.row, &mut self.nodes[node]);
        if row.holder != node || here.replica.is_none() {
            return Ok(());
        }
        if let Some(epoch) = here.taken {
            if here.report.promised == epoch && row.epoch == epoch {
                (here.taken, here.leads) = (None, Some(epoch));
                self.note(|| format!("n{node} leads {epoch:?}"));
                return self.step_replica(node, Event::Lead { epoch, need: BTreeSet::new() });
            }
            return Ok(());
        }
        let Some(epoch) = here.leads.filter(|epoch| *epoch == row.epoch) else { return Ok(()) };
        let members = |row: &Row, nodes: &[Node]| -> BTreeSet<Incarnation> {
            row.in_sync.iter().filter(|one| **one != node).map(|one| nodes[*one].name.clone()).collect()
        };
        let seen = self.nodes[node].report.number;
        if let Some(joining) = self.nodes[node].growing.clone() {
            // Said to the volume; now the row.
            if !self.nodes[node].orders.is_empty() {
                return Ok(());
            }
            let number = self.nodes.iter().position(|other| other.name == joining).expect("it is known");
            self.row.in_sync.insert(number);
            self.nodes[node].growing = None;
            self.note(|| format!("n{number} is in sync"));
            return Ok(());
        }
        let missing = self.nodes[node].report.missing.clone();
        let out = self.row.in_sync.iter().copied().find(|one| missing.contains(&self.nodes[*one].name));
        let joining =
            self.nodes[node].report.mirrored.iter().find(|one| !members(&self.row, &self.nodes).contains(*one));
        if let Some(out) = out.filter(|_| self.dice.below(3) == 0) {
            self.row.in_sync.remove(&out);
            self.note(|| format!("n{out} is shrunk out"));
        } else if let Some(joining) = joining.cloned() {
            self.resyncs += 1;
            self.nodes[node].need.insert(joining.clone());
            self.nodes[node].growing = Some(joining);
        } else if self.dice.below(2) == 0 {
            return Ok(());
        }
        let mut need = members(&self.row, &self.nodes);
        need.extend(self.nodes[node].growing.clone());
        self.nodes[node].need.clone_from(&need);
        self.nodes[node].orders.push_back(Event::Need { epoch, need, seen });
        Ok(())
    }

    /// What was said to a volume reaches it.
    fn order(&mut self, node: usize) -> Outcome {
        let Some(event) = self.nodes[node].orders.pop_front() else { return Ok(()) };
        if event == Event::Fence {
            self.nodes[node].leads = None;
        }
        self.step_replica(node, event)
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
        self.wires.push(Wire { ends: [(node, near), (other, far)], frames: [VecDeque::new(), VecDeque::new()] });
        self.step_replica(node, Event::Connected { link: near })
    }

    fn deliver(&mut self) -> Outcome {
        if self.wires.is_empty() {
            return Ok(());
        }
        let (at, way) = (self.dice.below(self.wires.len()), self.dice.below(2));
        let wire = &mut self.wires[at];
        let Some(frame) = wire.frames[way].pop_front() else { return Ok(()) };
        let (node, link) = wire.ends[way];
        self.step_replica(node, Event::Received { link, frame })
    }

    /// A disk does something.
    fn work(&mut self, node: usize) -> Outcome {
        if self.nodes[node].replica.is_none() {
            return Ok(());
        }
        let here = &mut self.nodes[node];
        if self.dice.below(3) == 0
            && let Some(batch) = here.batch.take()
        {
            for (at, page) in &batch.pages {
                here.meta.write(usize::try_from(*at).expect("small"), page, false);
            }
            here.meta.flushed(usize::MAX);
            return self.step_replica(node, Event::Persisted { batch: batch.number });
        }
        if here.jobs.is_empty() {
            return Ok(());
        }
        let at = self.dice.below(here.jobs.len());
        let (io, job, mark) = here.jobs.swap_remove(at);
        let answer = match &job {
            Job::Read(span) => Answer::Data(Bytes::copy_from_slice(&here.data.bytes[place(*span)])),
            Job::Digest(span) => Answer::Digest(digest(&here.data.bytes[place(*span)])),
            Job::Flush => {
                here.data.flushed(mark);
                // Marks of flushes under way count from what is left.
                here.jobs.iter_mut().for_each(|(_, _, other)| *other = other.saturating_sub(mark));
                Answer::Done
            }
            Job::Write { fua, .. } | Job::Zero { fua, .. } => {
                let (at, bytes) = bytes_of(&job).expect("it changes data");
                here.data.write(at, &bytes, *fua);
                Answer::Done
            }
            Job::Trim(_) => {
                let (at, bytes) = bytes_of(&job).expect("it changes data");
                here.data.write(at, &bytes, false);
                Answer::Done
            }
        };
        self.step_replica(node, Event::Done { io, answer })
    }

    // --- clients -------------------------------------------------------------------------------------------------

    fn client(&mut self) -> Outcome {
        let node = self.row.holder;
        if self.nodes[node].leads != Some(self.row.epoch)
            || self.asked.len() >= 8
            || self.calm && self.dice.below(20) != 0
        {
            return Ok(());
        }
        let volume = self.dice.below(VOLUMES.len());
        // Most of it in a few places, so that writes meet.
        let sectors = VOLUMES[volume] / SECTOR;
        let first = if self.dice.below(2) == 0 { self.dice.below(24) } else { self.dice.below(sectors) };
        let len = (1 + self.dice.below(12)).min(sectors - first);
        let volume = VolumeNo(u32::try_from(volume).expect("small"));
        let span = Span { volume, at: (first * SECTOR) as u64, len: (len * SECTOR) as u64 };
        let fua = self.dice.below(8) == 0;
        self.next_id += 1;
        let tag = self.next_id;
        let ask = match self.dice.below(20) {
            0..=5 => Ask::Read(span),
            6 => Ask::Flush,
            7 => Ask::Zero { span, fua },
            8 => Ask::Trim { span, fua },
            _ => Ask::Write { volume, at: span.at, data: tagged(tag, len * SECTOR), fua },
        };
        let covers = self.unflushed.keys().copied().collect();
        let asked = match ask {
            Ask::Write { .. } => Some(&mut self.written),
            Ask::Zero { .. } | Ask::Trim { .. } => Some(&mut self.zeroed),
            Ask::Read(_) | Ask::Flush => None,
        };
        if let Some(asked) = asked {
            sectors_of(span).for_each(|sector| {
                asked[sector].insert(tag);
            });
        }
        let id = RequestId(tag);
        self.asked.insert(id, Asked { node, ask: ask.clone(), tag, covers });
        self.step_replica(node, Event::Ask { id, ask })
    }

    fn told(&mut self, node: usize, id: RequestId, result: Result<Bytes, crate::core::Refusal>) -> Outcome {
        let Some(asked) = self.asked.remove(&id) else { return Ok(()) };
        let Ok(data) = result else { return Ok(()) };
        self.answered += 1;
        match asked.ask {
            Ask::Read(span) => {
                if node != self.row.holder || self.nodes[node].leads != Some(self.row.epoch) {
                    // The lease keeps this from the clients; nothing here does.
                    return Ok(());
                }
                for (number, sector) in data.chunks(SECTOR).enumerate() {
                    self.saw(sector_of(span, (number * SECTOR) as u64), sector, &format!("n{node} reads"))?;
                }
            }
            Ask::Flush => {
                for tag in asked.covers {
                    if let Some(span) = self.unflushed.remove(&tag) {
                        self.acknowledged(span, tag, true);
                    }
                }
            }
            Ask::Write { volume, at, data, fua } => {
                self.acknowledged(Span { volume, at, len: data.len() as u64 }, asked.tag, fua);
            }
            Ask::Zero { span, fua } | Ask::Trim { span, fua } => self.acknowledged(span, asked.tag, fua),
        }
        Ok(())
    }

    fn acknowledged(&mut self, span: Span, tag: u64, durable: bool) {
        for sector in sectors_of(span) {
            self.seen[sector] = self.seen[sector].max(tag);
            if durable {
                self.durable[sector] = self.durable[sector].max(tag);
            }
        }
        if !durable {
            self.unflushed.insert(tag, span);
        }
    }

    /// Somebody saw this in a sector: it is there for good.
    fn saw(&mut self, sector: usize, bytes: &[u8], who: &str) -> Outcome {
        let tag = u64::from_le_bytes(bytes[..8].try_into().expect("eight"));
        if bytes.chunks(8).any(|word| word != tag.to_le_bytes()) {
            return Err(format!("{who} a torn sector {sector}"));
        }
        let seen = self.seen[sector];
        // Of several times that zeros were written, the first that is possible.
        let at = if tag == 0 {
            self.zeroed[sector].range(seen..).next().copied()
        } else {
            self.written[sector].range(seen..).find(|one| **one == tag).copied()
        };
        let Some(at) = at else { return Err(format!("{who} {tag} in sector {sector} after {seen}")) };
        self.seen[sector] = at;
        Ok(())
    }

    // --- checks --------------------------------------------------------------------------------------------------

    /// With everything down: whatever differs between two replicas is marked by one of them.
    fn check_marks(&mut self) -> Outcome {
        for a in 0..self.nodes.len() {
            for b in a + 1..self.nodes.len() {
                let (one, other) = (&self.nodes[a], &self.nodes[b]);
                let ((mine, _), (theirs, _)) = (recover(&one.meta)?, recover(&other.meta)?);
                let (here, there) = (mine.superblock().slot_of(&other.name), theirs.superblock().slot_of(&one.name));
                let (Some(here), Some(there)) = (here, there) else { continue };
                for extent in 0..mine.geometry().extents() {
                    let marked = mine.marked(here, extent) | theirs.marked(there, extent);
                    let chunks = mine.geometry().full(extent);
                    for bit in (0..64).filter(|bit| chunks & 1 << bit != 0 && marked & 1 << bit == 0) {
                        let range = place(mine.geometry().chunk(extent, bit));
                        if one.data.bytes[range.clone()] != other.data.bytes[range] {
                            return Err(format!("chunk {extent}.{bit} of n{a} and n{b} differs and is not marked"));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn check_equal(&mut self) -> Outcome {
        let holder = self.nodes[self.row.holder].data.bytes.clone();
        for node in 0..self.nodes.len() {
            if self.nodes[node].data.bytes != holder {
                return Err(format!("n{node} differs from the holder when all is quiet"));
            }
        }
        for (sector, bytes) in holder.chunks(SECTOR).enumerate() {
            self.saw(sector, bytes, "in the end there is")?;
        }
        Ok(())
    }
}

/// Where a job writes what.
fn bytes_of(job: &Job) -> Option<(usize, Vec<u8>)> {
    let span = job.span()?;
    let at = place(span).start;
    match job {
        Job::Write { data, .. } => Some((at, data.to_vec())),
        Job::Zero { .. } | Job::Trim(_) => Some((at, vec![0; usize::try_from(span.len).expect("small")])),
        Job::Read(_) | Job::Digest(_) | Job::Flush => None,
    }
}
