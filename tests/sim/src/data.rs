//! The data path, as a model of the rules that the replication core must keep; that core replaces it once it exists.
//!
//! Each node has one durable replica. The holder writes locally and to its peers in order, and acknowledges a write once it
//! is durable here and on every member of the machine's own `need`, each acknowledgement naming epoch and incarnation, with
//! the gate open. A standby refuses what is of a lower epoch than promised, and makes a higher one durable first.
//!
//! ```text
//!  holder                                      standby
//!    hello(session, epoch) ───────────────────▶ promise it durably
//!    ◀─────────────────────────────── welcome(incarnation)
//!    member:    what is unacknowledged again ─▶ in order, durable, acknowledged
//!    no member: start ────────────────────────▶ marks itself inconsistent first
//!               copy of each sector, writes ──▶
//!               done (waited for from here) ──▶ consistent, caught up in this epoch
//! ```
//! Simplified: a sector is written whole or not at all, a resync copies everything, and disks do not fail.

use crate::history::Version;
use crate::network::PeerMessage;
use crate::trace::Us;
use crate::world::{Happening, Message, NAMES, Who, World};
use lease::authority::Standing;
use lease::ids::{Epoch, Incarnation};
use node::Node;
use node::event::{Event, Replica as Told};
use node::tenure::Phase;
use std::collections::{BTreeSet, VecDeque};

/// A session without progress for this long is given up, and begun again a little later.
const SILENCE: Us = 1_000_000;
const AGAIN: Us = 200_000;
/// An idle session is asked for a sign of life this often.
const KEEPALIVE: Us = 400_000;

/// What is on the disk.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Number of the incarnation.
    pub incarnation: u32,
    pub promised: u64,
    pub consistent: bool,
    pub sectors: Vec<Version>,
}

/// What waits for the disk, in order.
#[derive(Clone, Debug)]
enum Op {
    /// The holder's own write.
    Own { sector: usize, version: Version },
    /// A standby's: acknowledged once durable.
    Frame { from: usize, session: u64, seq: u64, epoch: u64, what: Frame },
    /// Everything taken before is durable now.
    Promise { epoch: u64 },
}

/// Each submitter has a queue of its own at the disk; only within one is the order kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The volume's own writes.
    Own = 0,
    /// What peers sent.
    Peers = 1,
}

#[derive(Debug, Default)]
pub struct Disk {
    queues: [VecDeque<Op>; 2],
    busy_until: [Us; 2],
    pub stalled_until: Us,
    /// Raised when the queue is lost.
    generation: u64,
}

#[derive(Clone, Copy, Debug)]
pub enum Frame {
    /// You are a member: this is the handshake of this epoch.
    Member,
    Start,
    Copy {
        sector: usize,
        version: Version,
    },
    Write {
        sector: usize,
        version: Version,
    },
    Done,
    KeepAlive,
}

#[derive(Clone, Debug)]
pub enum DataMessage {
    Hello { session: u64, epoch: u64 },
    Welcome { session: u64, incarnation: u32 },
    Frame { session: u64, seq: u64, epoch: u64, what: Frame },
    Ack { session: u64, seq: u64, epoch: u64, incarnation: u32, what: Frame },
}

/// A write of the holder that is not acknowledged.
#[derive(Clone, Debug)]
struct InFlight {
    sector: usize,
    version: Version,
    submitted: Us,
    durable_here: bool,
    /// Incarnations, by number.
    durable_at: u64,
}

/// The holder's end of a session.
#[derive(Clone, Debug)]
struct Session {
    number: u64,
    /// After the welcome.
    incarnation: Option<u32>,
    sent: u64,
    acked: u64,
    progress: Us,
    /// How many sectors are copied; all of them for a member.
    copied: usize,
    /// Writes up to this number are in what is copied, and are not sent by themselves.
    covered: u64,
    /// Nothing is completed without this peer.
    waited_for: bool,
    /// It has everything that was ever completed.
    mirrored: bool,
}

/// The daemon's part: gone with its process.
#[derive(Debug, Default)]
pub struct Volume {
    epoch: u64,
    pub open: bool,
    /// The workload has ended; what it wrote has not.
    pub closing: bool,
    seq: u64,
    latest: Vec<Version>,
    in_flight: VecDeque<InFlight>,
    sessions: Vec<Option<Session>>,
    again_at: Vec<Us>,
    /// As standby: for each peer its session and the next number in it.
    incoming: Vec<Option<(u64, u64)>>,
    caught_up: Option<u64>,
    /// What the machine has asked it to close by, and by what it has.
    asked_to_close: Option<u64>,
    closed: Option<u64>,
}

impl Volume {
    #[must_use]
    pub fn new(hosts: usize) -> Self {
        Self { sessions: vec![None; hosts], again_at: vec![0; hosts], incoming: vec![None; hosts], ..Self::default() }
    }

    /// The device is gone: what was under way ends in error, here.
    pub fn drop_device(&mut self) {
        self.open = false;
        self.closing = false;
        self.in_flight.clear();
        self.sessions.fill(None);
    }
}

#[must_use]
pub fn incarnation(number: u32) -> Incarnation {
    Incarnation::new(format!("r{number}")).expect("a valid name")
}

#[must_use]
pub fn number_of(incarnation: &Incarnation) -> u32 {
    incarnation.as_str()[1..].parse().expect("r and a number")
}

fn bit(incarnation: u32) -> u64 {
    1 << (incarnation % 64)
}

impl World {
    /// What the replication tells the machine.
    fn told(&self, host: usize) -> Told {
        let here = &self.hosts[host];
        let mirrored: BTreeSet<Incarnation> = here
            .volume
            .sessions
            .iter()
            .flatten()
            .filter(|session| session.mirrored)
            .filter_map(|session| session.incarnation.map(incarnation))
            .collect();
        Told {
            consistent: here.replica.consistent,
            promised: Epoch(here.replica.promised),
            caught_up: here.volume.caught_up.map(Epoch),
            mirrored,
            // Here a peer's data and its node share each link: one that is out of reach does not answer.
            missing: BTreeSet::new(),
            closed: here.volume.closed,
        }
    }

    /// What the replication has to say comes a moment later: it runs beside the machine, and may be held up.
    fn tell_soon(&mut self, host: usize, closed: Option<u64>) {
        let delay =
            if self.dice.below(20) == 0 { self.dice.between(1_000, 100_000) } else { self.dice.between(20, 400) };
        let who = Who::Node { host, life: self.hosts[host].life };
        self.queue.push(self.now + delay, Happening::To { who, what: Message::VolumeSays { closed } });
    }

    /// What it says is as it is now; and that it has closed only where it is closed now.
    pub(crate) fn volume_says(&mut self, host: usize, closed: Option<u64>) {
        let here = &mut self.hosts[host];
        let shut = here.node.as_ref().is_some_and(|node| node.takes_writes_from().is_none());
        if closed.is_some() && shut {
            here.volume.closed = closed;
            here.volume.incoming.fill(None);
        }
        self.tell_machine(host);
    }

    /// After each step of the machine.
    pub(crate) fn close_volume(&mut self, host: usize) {
        let here = &mut self.hosts[host];
        let Some(closing) = here.node.as_ref().and_then(Node::closing) else { return };
        if here.volume.asked_to_close.replace(closing) != Some(closing) {
            self.tell_soon(host, Some(closing));
        }
    }

    /// Says it, where there are volumes to say anything of.
    pub(crate) fn tell_machine(&mut self, host: usize) {
        if self.weather.volumes {
            let told = self.told(host);
            self.step(host, Event::Replica(told));
        }
    }

    // --- the disk ------------------------------------------------------------------------------------------------

    fn submit(&mut self, host: usize, op: Op) {
        let took = if self.dice.below(40) == 0 { self.dice.between(1_000, 30_000) } else { self.dice.between(80, 500) };
        let disk = &mut self.hosts[host].disk;
        let lane = if matches!(op, Op::Own { .. }) { Lane::Own } else { Lane::Peers };
        let done = disk.busy_until[lane as usize].max(self.now).max(disk.stalled_until) + took;
        disk.busy_until[lane as usize] = done;
        disk.queues[lane as usize].push_back(op);
        let generation = disk.generation;
        self.queue.push(done, Happening::Disk { host, generation, lane });
    }

    pub(crate) fn disk_done(&mut self, host: usize, generation: u64, lane: Lane) {
        let here = &mut self.hosts[host];
        if here.disk.generation != generation {
            return;
        }
        if here.disk.stalled_until > self.now {
            self.queue.push(here.disk.stalled_until, Happening::Disk { host, generation, lane });
            return;
        }
        let promise = matches!(here.disk.queues[lane as usize].front(), Some(Op::Promise { .. }));
        if promise && !here.disk.queues[Lane::Own as usize].is_empty() {
            // It is a barrier for both.
            self.queue.push(self.now + 1_000, Happening::Disk { host, generation, lane });
            return;
        }
        let Some(op) = here.disk.queues[lane as usize].pop_front() else { return };
        match op {
            Op::Own { sector, version } => {
                here.replica.sectors[sector] = version;
                if let Some(write) = here.volume.in_flight.iter_mut().find(|write| write.version == version) {
                    write.durable_here = true;
                }
                if here.is_frozen() {
                    return;
                }
                self.complete(host);
            }
            Op::Frame { from, session, seq, epoch, what } => {
                here.replica.apply(&what);
                let incarnation = here.replica.incarnation;
                let ended = matches!(what, Frame::Done | Frame::Member);
                if ended {
                    here.replica.consistent = true;
                    here.volume.caught_up = Some(epoch);
                }
                let ack = DataMessage::Ack { session, seq, epoch, incarnation, what };
                let who = Who::Node { host, life: here.life };
                let message = Message::Durable { to: from, ack, told: ended };
                // What the process does with it waits while it stands still.
                self.queue.push(self.now, Happening::To { who, what: message });
            }
            Op::Promise { epoch } => {
                here.replica.promised = here.replica.promised.max(epoch);
                let who = Who::Node { host, life: here.life };
                self.queue.push(self.now, Happening::To { who, what: Message::Promised });
            }
        }
    }

    pub(crate) fn durable(&mut self, host: usize, to: usize, ack: DataMessage, told: bool) {
        if told {
            self.tell_machine(host);
        }
        self.send(host, to, PeerMessage::Data(host, ack));
    }

    /// The process is gone; the kernel or the disk may have got to some of what waited.
    pub(crate) fn lose_queue(&mut self, host: usize) {
        let here = &mut self.hosts[host];
        here.disk.generation += 1;
        here.disk.busy_until = [0; 2];
        for op in std::mem::take(&mut here.disk.queues).into_iter().flatten() {
            let landed = self.dice.below(2) == 0;
            match op {
                Op::Own { sector, version } if landed => here.replica.sectors[sector] = version,
                Op::Frame { what: what @ (Frame::Copy { .. } | Frame::Write { .. }), .. } if landed => {
                    here.replica.apply(&what);
                }
                _ => {}
            }
        }
        here.volume = Volume::new(self.weather.nodes);
    }

    // --- the machine's orders ------------------------------------------------------------------------------------

    pub(crate) fn promise(&mut self, host: usize, epoch: u64) {
        self.submit(host, Op::Promise { epoch });
    }

    /// The volumes open; what the replica holds is what there is to read.
    pub(crate) fn open_volume(&mut self, host: usize, epoch: u64) {
        let here = &mut self.hosts[host];
        if here.volume.epoch != epoch {
            let sectors = here.replica.sectors.clone();
            let hosts = here.volume.sessions.len();
            here.volume = Volume { epoch, latest: sectors.clone(), ..Volume::new(hosts) };
            here.cache = sectors;
        }
        here.volume.open = true;
        here.volume.closing = false;
        self.opened(host, epoch);
    }

    /// Nothing that was written waits for anything: not at a disk, and not for an acknowledgement.
    pub(crate) fn is_quiet(&self, host: usize) -> bool {
        let here = &self.hosts[host];
        here.volume.in_flight.is_empty() && here.disk.queues.iter().all(VecDeque::is_empty)
    }

    /// After each step of the machine: a device belongs to one unbroken tenure.
    pub(crate) fn sync_volume(&mut self, host: usize) {
        let here = &mut self.hosts[host];
        let held = here.node.as_ref().and_then(|node| node.holding()).map(|tenure| tenure.epoch.0);
        if here.volume.epoch != 0 && held != Some(here.volume.epoch) {
            here.volume.drop_device();
            here.volume.epoch = 0;
        }
        if here.volume.closing || !here.volume.in_flight.is_empty() {
            self.complete(host);
        }
    }

    // --- the holder ----------------------------------------------------------------------------------------------

    /// The workload writes a sector. False: there is no device to write to, or the gate is closed.
    pub(crate) fn write(&mut self, host: usize, sector: usize) -> bool {
        let moment = self.hosts[host].clock.read(self.now);
        let here = &mut self.hosts[host];
        let serves = here.node.as_ref().is_some_and(|node| node.serves(moment));
        if !serves || !here.volume.open || here.is_frozen() {
            return false;
        }
        here.volume.seq += 1;
        let version = Version { epoch: here.volume.epoch, seq: here.volume.seq };
        here.volume.latest[sector] = version;
        let submitted = self.now;
        here.volume.in_flight.push_back(InFlight { sector, version, submitted, durable_here: false, durable_at: 0 });
        self.history.submitted(sector, version);
        self.submit(host, Op::Own { sector, version });
        for peer in 0..self.hosts.len() {
            if self.hosts[host].volume.sessions[peer].as_ref().is_some_and(|session| session.incarnation.is_some()) {
                self.frame(host, peer, Frame::Write { sector, version });
            }
        }
        true
    }

    fn frame(&mut self, host: usize, peer: usize, what: Frame) {
        let volume = &mut self.hosts[host].volume;
        let epoch = volume.epoch;
        let Some(session) = &mut volume.sessions[peer] else { return };
        if session.acked == session.sent {
            session.progress = self.now;
        }
        session.sent += 1;
        let message = DataMessage::Frame { session: session.number, seq: session.sent, epoch, what };
        self.send(host, peer, PeerMessage::Data(host, message));
    }

    /// Whether this node may acknowledge anything at this moment.
    fn may_acknowledge(&self, host: usize) -> bool {
        let here = &self.hosts[host];
        let Some(tenure) = here.node.as_ref().and_then(|node| node.holding()) else { return false };
        tenure.phase != Phase::Activating
            && !tenure.frozen
            && tenure.authority.standing(here.clock.read(self.now)) != Standing::None
    }

    /// Acknowledges what is durable everywhere that it must be, in order; closes the volume once nothing is left.
    pub(crate) fn complete(&mut self, host: usize) {
        while self.violation.is_none() && self.complete_next(host) {}
        let here = &mut self.hosts[host];
        let drained = here.disk.queues[Lane::Own as usize].is_empty();
        let volume = &mut here.volume;
        if volume.closing && volume.in_flight.is_empty() && drained {
            volume.closing = false;
            self.step(host, Event::WorkloadDown);
        }
    }

    fn complete_next(&mut self, host: usize) -> bool {
        if self.hosts[host].volume.in_flight.is_empty() || !self.may_acknowledge(host) {
            return false;
        }
        let here = &mut self.hosts[host];
        let Some(tenure) = here.node.as_ref().and_then(|node| node.holding()) else { return false };
        let members = tenure.authority.need().map(number_of);
        let waited = here.volume.sessions.iter().flatten().filter(|session| session.waited_for);
        let joining = waited.filter_map(|session| session.incarnation);
        let need = members.chain(joining).fold(0, |all, one| all | bit(one));
        let done = |write: &mut InFlight| write.durable_here && write.durable_at & need == need;
        let Some(write) = here.volume.in_flight.pop_front_if(done) else { return false };
        here.cache[write.sector] = here.cache[write.sector].max(write.version);
        self.counts.acknowledged += 1;
        self.acknowledged(host, write.sector, write.version, write.submitted);
        true
    }

    /// The holder's sessions: begin, keep alive, give up.
    pub(crate) fn tend_sessions(&mut self, host: usize) {
        if !self.hosts[host].volume.open && !self.hosts[host].volume.closing {
            return;
        }
        for peer in 0..self.hosts.len() {
            if peer == host {
                continue;
            }
            let volume = &mut self.hosts[host].volume;
            match &volume.sessions[peer] {
                None if volume.again_at[peer] <= self.now => {
                    self.sessions += 1;
                    let number = self.sessions;
                    let epoch = volume.epoch;
                    volume.sessions[peer] = Some(Session {
                        number,
                        incarnation: None,
                        sent: 0,
                        acked: 0,
                        progress: self.now,
                        copied: 0,
                        covered: 0,
                        waited_for: false,
                        mirrored: false,
                    });
                    self.send(host, peer, PeerMessage::Data(host, DataMessage::Hello { session: number, epoch }));
                }
                Some(session)
                    if (session.incarnation.is_none() || session.acked < session.sent)
                        && self.now - session.progress > SILENCE =>
                {
                    self.break_session(host, peer);
                }
                Some(session)
                    if session.incarnation.is_some()
                        && session.acked == session.sent
                        && self.now - session.progress > KEEPALIVE =>
                {
                    self.frame(host, peer, Frame::KeepAlive);
                }
                _ => {}
            }
        }
    }

    pub(crate) fn break_session(&mut self, host: usize, peer: usize) {
        let volume = &mut self.hosts[host].volume;
        let Some(session) = volume.sessions[peer].take() else { return };
        volume.again_at[peer] = self.now + AGAIN;
        // The machine hears it before anything is completed without that peer.
        if session.mirrored {
            self.tell_machine(host);
        }
        self.complete(host);
    }

    fn welcomed(&mut self, host: usize, peer: usize, number: u64, incarnation: u32) {
        let here = &mut self.hosts[host];
        let tenure = here.node.as_ref().and_then(|node| node.holding());
        let member = tenure.is_some_and(|tenure| tenure.authority.need().any(|one| number_of(one) == incarnation));
        let Some(session) = here.volume.sessions[peer].as_mut().filter(|session| session.number == number) else {
            return;
        };
        if session.incarnation.is_some() {
            return;
        }
        session.incarnation = Some(incarnation);
        session.progress = self.now;
        if member {
            session.waited_for = true;
            session.copied = here.replica.sectors.len();
            let missing: Vec<_> = here
                .volume
                .in_flight
                .iter()
                .filter(|write| write.durable_at & bit(incarnation) == 0)
                .map(|write| Frame::Write { sector: write.sector, version: write.version })
                .collect();
            self.frame(host, peer, Frame::Member);
            for write in missing {
                self.frame(host, peer, write);
            }
        } else {
            session.covered = here.volume.seq;
            self.counts.resyncs += 1;
            self.trace.line(self.now, NAMES[host], || format!("resyncs {}", NAMES[peer]));
            self.frame(host, peer, Frame::Start);
            self.copy_next(host, peer, number);
        }
    }

    pub(crate) fn copy_next(&mut self, host: usize, peer: usize, number: u64) {
        let copy_us = self.weather.copy_us;
        let volume = &mut self.hosts[host].volume;
        let Some(session) = volume.sessions[peer].as_mut().filter(|session| session.number == number) else { return };
        let sector = session.copied;
        if sector < volume.latest.len() {
            session.copied += 1;
            let version = volume.latest[sector];
            self.frame(host, peer, Frame::Copy { sector, version });
            let who = Who::Node { host, life: self.hosts[host].life };
            let at = self.now + self.dice.between(copy_us / 2, copy_us);
            self.queue.push(at, Happening::To { who, what: Message::CopyNext { peer, session: number } });
        } else {
            // From here on nothing is completed without it: once it has this frame it has everything.
            session.waited_for = true;
            self.frame(host, peer, Frame::Done);
        }
    }

    fn acked(&mut self, host: usize, peer: usize, ack: &DataMessage) {
        let DataMessage::Ack { session: number, seq, epoch, incarnation, what } = ack else { return };
        let volume = &mut self.hosts[host].volume;
        if volume.epoch != *epoch {
            return;
        }
        let Some(session) = volume.sessions[peer].as_mut().filter(|session| session.number == *number) else { return };
        if session.incarnation != Some(*incarnation) || *seq != session.acked + 1 {
            return;
        }
        session.acked = *seq;
        session.progress = self.now;
        match what {
            Frame::Write { version, .. } => {
                for write in volume.in_flight.iter_mut().filter(|write| write.version == *version) {
                    write.durable_at |= bit(*incarnation);
                }
                self.complete(host);
            }
            Frame::Done | Frame::Member => {
                session.mirrored = true;
                let covered = session.covered;
                for write in volume.in_flight.iter_mut().filter(|write| write.version.seq <= covered) {
                    write.durable_at |= bit(*incarnation);
                }
                self.tell_machine(host);
                self.complete(host);
            }
            Frame::Start | Frame::Copy { .. } | Frame::KeepAlive => {}
        }
    }

    // --- the standby ---------------------------------------------------------------------------------------------

    pub(crate) fn data_message(&mut self, host: usize, from: usize, message: DataMessage) {
        match message {
            DataMessage::Welcome { session, incarnation } => self.welcomed(host, from, session, incarnation),
            DataMessage::Ack { .. } => self.acked(host, from, &message),
            DataMessage::Hello { session, epoch } => {
                if !self.takes(host, epoch) {
                    return;
                }
                let here = &mut self.hosts[host];
                // Durable before it is answered.
                here.replica.promised = epoch;
                here.volume.incoming.fill(None);
                here.volume.incoming[from] = Some((session, 1));
                let welcome = DataMessage::Welcome { session, incarnation: here.replica.incarnation };
                self.send(host, from, PeerMessage::Data(host, welcome));
            }
            DataMessage::Frame { session, seq, epoch, what } => {
                if !self.takes(host, epoch) {
                    return;
                }
                let here = &mut self.hosts[host];
                if here.replica.promised != epoch || here.volume.incoming[from] != Some((session, seq)) {
                    return;
                }
                here.volume.incoming[from] = Some((session, seq + 1));
                if matches!(what, Frame::Start) {
                    // Durable before the first byte changes.
                    here.replica.consistent = false;
                    here.volume.caught_up = None;
                    self.tell_soon(host, None);
                }
                self.submit(host, Op::Frame { from, session, seq, epoch, what });
            }
        }
    }

    /// Check and submission to the disk are one: nothing comes between them here.
    fn takes(&self, host: usize, epoch: u64) -> bool {
        let here = &self.hosts[host];
        epoch >= here.replica.promised && here.node.as_ref().is_some_and(|node| node.takes_writes_of(Epoch(epoch)))
    }
}

impl Replica {
    fn apply(&mut self, what: &Frame) {
        match what {
            Frame::Copy { sector, version } | Frame::Write { sector, version } => self.sectors[*sector] = *version,
            Frame::Member | Frame::Start | Frame::Done | Frame::KeepAlive => {}
        }
    }
}
