//! Carries out what the machine says, and tells it what came of it.

use super::area::Area;
use super::clock;
use super::complaints::Complaints;
use super::compress::Compress;
use super::link::Outbox;
use super::log::Log;
use super::undo::UndoLog;
use super::vigil::Vigil;
use crate::by_number::ByNumber;
use crate::core::survey::{Sent, Survey};
use crate::core::{Answer, Ask, Effect, Event, Io, Job, Link, Refusal, Replica, Report, RequestId};
use crate::ids::{Digest, Span};
use crate::metadata::Batch;
use crate::request::{self, Device, Done, Mailbox, Reply, Request};
use crate::wire::Bye;
use bytes::Bytes;
use lease::ids::Epoch;
use lease::time::Moment;
use sha2::{Digest as _, Sha256};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc};

/// What the disks have answered, from whatever thread.
#[derive(Default)]
struct Inbox {
    contents: Mutex<Contents>,
    filled: Notify,
}

#[derive(Default)]
struct Contents {
    answers: Vec<(u64, request::Answer)>,
    /// The driver is at it, and looks once more before it goes: nobody has to wake it.
    awake: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mailbox for Inbox {
    fn deliver(&self, tag: u64, answer: request::Answer) {
        let mut contents = self.lock();
        contents.answers.push((tag, answer));
        let wakes = !std::mem::replace(&mut contents.awake, true);
        drop(contents);
        if wakes {
            self.filled.notify_one();
        }
    }
}

/// What an answer of a disk is to.
#[derive(Clone, Copy, Debug)]
enum Pending {
    Job(Io),
    Digest(Io),
    /// A chunk that is to be kept.
    Kept(Io, Span, u64),
    /// One disk's part of a flush of all of them.
    Flush(Io),
    /// A part of the batch of metadata that is under way.
    Page,
}

/// Parts of one work that several answers end.
#[derive(Clone, Copy, Debug)]
struct Parts {
    left: usize,
    failed: bool,
}

/// One replica with everything that it moves. Lives on one thread.
pub struct Driver {
    state: RefCell<State>,
    inbox: Arc<Inbox>,
    /// `None`: there is a single processor.
    vigil: Option<RefCell<Vigil>>,
    looks: Notify,
    compress: Compress,
    sent: Rc<Cell<Sent>>,
}

struct State {
    machine: Replica,
    disks: Vec<Box<dyn Device>>,
    area: Area,
    undo: Option<UndoLog>,
    pending: Slab<Pending>,
    flushes: HashMap<Io, Parts>,
    /// The batch that is being written, and, once its pages are, being made durable.
    batch: Option<(u64, Parts, bool)>,
    asks: ByNumber<u64, Done>,
    asked: u64,
    /// Asked, while the machine takes nothing: bounded by the front end's budget.
    waiting: VecDeque<(Ask, Done)>,
    outboxes: ByNumber<Link, Rc<Outbox>>,
    links: u64,
    complaints: Complaints,
    /// Of what is taken in; `None`: all that was taken in is concluded.
    now: Option<Moment>,
    /// Both kept for their memory.
    effects: Vec<Effect>,
    answers: Vec<(u64, request::Answer)>,
    reports: mpsc::UnboundedSender<Report>,
    admission: Arc<Admission>,
    admitted: Option<Epoch>,
    log: Log,
}

/// From which epoch on frames may be taken, said by the node's thread and looked at with each frame: once it has been said,
/// nothing older is taken, however busy this thread is.
#[derive(Debug)]
pub struct Admission(AtomicU64);

impl Admission {
    /// None at first.
    #[must_use]
    pub fn closed() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(u64::MAX)))
    }

    pub fn set(&self, from: Option<Epoch>) {
        self.0.store(from.map_or(u64::MAX, |epoch| epoch.0), Ordering::SeqCst);
    }

    fn get(&self) -> Option<Epoch> {
        Some(self.0.load(Ordering::SeqCst)).filter(|epoch| *epoch != u64::MAX).map(Epoch)
    }
}

/// Where a replica keeps what it has.
pub(super) struct Places {
    /// One for each volume of the group, in its order.
    pub(super) disks: Vec<Box<dyn Device>>,
    pub(super) area: Area,
    pub(super) undo: Option<UndoLog>,
}

impl Driver {
    #[must_use]
    pub(super) fn new(
        machine: Replica,
        places: Places,
        compress: Compress,
        reports: mpsc::UnboundedSender<Report>,
        admission: Arc<Admission>,
        log: Log,
    ) -> Rc<Self> {
        let Places { disks, area, undo } = places;
        let state = State {
            machine,
            disks,
            area,
            undo,
            pending: Slab::new(),
            flushes: HashMap::new(),
            batch: None,
            asks: ByNumber::default(),
            asked: 0,
            waiting: VecDeque::new(),
            outboxes: ByNumber::default(),
            links: 0,
            complaints: Complaints::default(),
            now: None,
            effects: Vec::new(),
            answers: Vec::new(),
            reports,
            admission,
            admitted: None,
            log,
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let vigil = (processors > 1).then(RefCell::default);
        let (inbox, looks) = (Arc::default(), Notify::new());
        Rc::new(Self { state: RefCell::new(state), inbox, vigil, looks, compress, sent: Rc::default() })
    }

    /// Tells the machine, and does what it says.
    pub fn step(&self, event: Event) {
        self.take_in(event);
        self.kick();
    }

    /// Tells the machine one of several things that came together. Whoever does so kicks after the last of them, before anybody else
    /// has this thread.
    pub(super) fn take_in(&self, event: Event) {
        self.state.borrow_mut().take_in(event);
    }

    /// Asks at the next [`Self::kick`].
    pub fn ask(&self, ask: Ask, done: Done) {
        self.state.borrow_mut().waiting.push_back((ask, done));
    }

    /// Does what follows from all that was told and asked, and takes in what the disks have answered.
    pub fn kick(&self) {
        let came = self.state.borrow_mut().turn(&self.inbox);
        if let (Some(now), Some(vigil)) = (came, &self.vigil)
            && vigil.borrow_mut().came(now)
        {
            self.looks.notify_one();
        }
    }

    /// What the machine may need to be asked about by hand.
    pub fn look<T>(&self, at: impl FnOnce(&Replica) -> T) -> T {
        at(&self.state.borrow().machine)
    }

    /// What people are shown.
    pub(super) fn survey(&self) -> Survey {
        Survey { sent: self.sent.get(), ..self.look(Replica::survey) }
    }

    /// A new connection, by whoever opened it; its frames come by [`Event::Received`].
    pub(super) fn open_link(&self) -> (Link, Rc<Outbox>) {
        let mut state = self.state.borrow_mut();
        state.links += 1;
        let (link, outbox) = (Link(state.links), Rc::new(Outbox::new(self.compress, Rc::clone(&self.sent))));
        state.outboxes.insert(link, Rc::clone(&outbox));
        (link, outbox)
    }

    /// The other side says that it ends a connection.
    pub(super) fn was_hung_up_on(&self, why: Bye) {
        self.state.borrow_mut().complaints.was_hung_up_on(why);
    }

    /// The connection is gone.
    pub(super) fn close_link(&self, link: Link) {
        let known = self.state.borrow_mut().outboxes.remove(&link);
        if let Some(outbox) = known {
            outbox.close();
            self.step(Event::Disconnected { link });
        }
    }

    /// Takes in what the disks answer, for ever.
    pub(super) async fn hear_disks(self: Rc<Self>) {
        loop {
            self.inbox.filled.notified().await;
            self.kick();
        }
    }

    /// Keeps this thread awake while the next thing is about to come, for ever.
    pub(super) async fn keep_vigil(self: Rc<Self>) {
        let Some(vigil) = &self.vigil else { return };
        loop {
            self.looks.notified().await;
            while vigil.borrow_mut().goes_on(clock::now()) {
                std::thread::yield_now();
                // Looks what sockets and disks have.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Lets the machine see that time passes, and others that this thread turns, for ever.
    pub(super) async fn tick(self: Rc<Self>, turns: Arc<AtomicU64>) {
        let mut ticks = tokio::time::interval(crate::core::TICK.into());
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.step(Event::Tick);
            turns.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl State {
    /// The clock is read once for all that comes together.
    fn take_in(&mut self, event: Event) {
        let now = *self.now.get_or_insert_with(clock::now);
        let admitted = self.admission.get();
        if admitted != self.admitted {
            self.admitted = admitted;
            self.machine.take_in(Event::Admit { from: admitted }, now);
        }
        self.machine.take_in(event, now);
    }

    /// Asks what waits, as long as the machine takes it.
    fn admit(&mut self) {
        while self.machine.takes_requests()
            && let Some((ask, done)) = self.waiting.pop_front()
        {
            self.asked += 1;
            let id = RequestId(self.asked);
            self.asks.insert(self.asked, done);
            self.take_in(Event::Ask { id, ask });
        }
    }

    /// Goes on until there is nothing more: what the machine says makes disks answer. Returns when something was taken in, if
    /// anything was.
    fn turn(&mut self, inbox: &Arc<Inbox>) -> Option<Moment> {
        let mut came = None;
        loop {
            let mut answers = std::mem::take(&mut self.answers);
            {
                let mut contents = inbox.lock();
                contents.awake = true;
                std::mem::swap(&mut contents.answers, &mut answers);
            }
            for (tag, answer) in answers.drain(..) {
                self.answered(tag, answer, inbox);
            }
            self.answers = answers;
            self.admit();
            if let Some(now) = self.now.take() {
                came = Some(now);
                let mut effects = std::mem::take(&mut self.effects);
                self.machine.conclude(now, &mut effects);
                for effect in effects.drain(..) {
                    self.carry_out(effect, inbox);
                }
                self.effects = effects;
                continue;
            }
            self.disks.iter().for_each(|disk| disk.kick());
            self.area.kick();
            let mut contents = inbox.lock();
            if contents.answers.is_empty() {
                contents.awake = false;
                return came;
            }
        }
    }

    fn carry_out(&mut self, effect: Effect, inbox: &Arc<Inbox>) {
        match effect {
            Effect::Submit { io, job } => self.submit(io, job, inbox),
            Effect::Persist(batch) => self.persist(batch, inbox),
            Effect::Send { link, frame } => {
                if let Some(outbox) = self.outboxes.get(&link) {
                    outbox.push(&frame);
                }
            }
            Effect::HangUp { link, why } => {
                if let Some(outbox) = self.outboxes.remove(&link) {
                    self.complaints.hung_up(why);
                    outbox.part(why);
                }
            }
            Effect::Answer { id, result } => {
                if let Some(done) = self.asks.remove(&id.0) {
                    done.answer(reply(result));
                }
            }
            // Nobody there to hear it: the group is being taken down.
            Effect::Report(report) => drop(self.reports.send(report)),
            Effect::DropKept => self.undo.iter().for_each(UndoLog::drop_kept),
            Effect::Tell(notice) => self.log.tell(notice),
        }
    }

    fn done(&mut self, pending: Pending, inbox: &Arc<Inbox>) -> Done {
        let tag = u64::try_from(self.pending.insert(pending)).expect("a usize fits a u64");
        Done::new(Arc::clone(inbox) as Arc<dyn Mailbox>, tag)
    }

    fn submit(&mut self, io: Io, job: Job, inbox: &Arc<Inbox>) {
        let pending = match job {
            Job::Digest(_) => Pending::Digest(io),
            Job::Keep { span, number } => Pending::Kept(io, span, number),
            _ => Pending::Job(io),
        };
        let (volume, request) = match job {
            Job::Read(span) | Job::Digest(span) | Job::Keep { span, .. } => {
                (span.volume, Request::Read { at: span.at, len: len(span) })
            }
            Job::Write { volume, at, data, fua } => (volume, Request::Write { at, data, fua }),
            Job::Zero { span, fua } => (span.volume, zeroes(span, fua, false)),
            Job::Trim(span) => (span.volume, zeroes(span, false, true)),
            Job::Flush => {
                self.flushes.insert(io, Parts { left: self.disks.len(), failed: false });
                for disk in 0..self.disks.len() {
                    let done = self.done(Pending::Flush(io), inbox);
                    self.disks[disk].submit(Request::Flush, done);
                }
                return;
            }
        };
        let done = self.done(pending, inbox);
        self.disks[volume.0 as usize].submit(request, done);
    }

    /// One page is written through; several are written and then flushed.
    fn persist(&mut self, batch: Batch, inbox: &Arc<Inbox>) {
        let alone = batch.pages.len() == 1;
        self.batch = Some((batch.number, Parts { left: batch.pages.len(), failed: false }, alone));
        for (at, page) in batch.pages {
            let done = self.done(Pending::Page, inbox);
            self.area.write(at, page, alone, done);
        }
    }

    fn answered(&mut self, tag: u64, answer: request::Answer, inbox: &Arc<Inbox>) {
        let pending = self.pending.remove(usize::try_from(tag).expect("a key of `pending`"));
        let event = match pending {
            Pending::Job(io) => Event::Done { io, answer: told(answer) },
            Pending::Kept(io, span, number) => {
                let done = self.done(Pending::Job(io), inbox);
                match (answer, &self.undo) {
                    (Ok(Reply::Data(data)), Some(undo)) => undo.keep(number, span, data, done),
                    // It failed: so does who asked.
                    _ => done.answer(Err(request::Refusal::Io)),
                }
                return;
            }
            Pending::Digest(io) => {
                let answer = match answer {
                    Ok(Reply::Data(data)) => Answer::Digest(Digest(Sha256::digest(&data).into())),
                    _ => Answer::Failed,
                };
                Event::Done { io, answer }
            }
            Pending::Flush(io) => {
                let parts = self.flushes.get_mut(&io).expect("a flush that is under way");
                parts.left -= 1;
                parts.failed |= answer.is_err();
                if parts.left > 0 {
                    return;
                }
                let failed = parts.failed;
                self.flushes.remove(&io);
                Event::Done { io, answer: if failed { Answer::Failed } else { Answer::Done } }
            }
            Pending::Page => {
                let (number, parts, durable) = self.batch.as_mut().expect("a batch that is under way");
                parts.left -= 1;
                parts.failed |= answer.is_err();
                if parts.left > 0 {
                    return;
                }
                let (number, failed) = (*number, parts.failed);
                if !failed && !*durable {
                    (*parts, *durable) = (Parts { left: 1, failed: false }, true);
                    let done = self.done(Pending::Page, inbox);
                    self.area.flush(done);
                    return;
                }
                self.batch = None;
                if failed { Event::MetadataFailed } else { Event::Persisted { batch: number } }
            }
        };
        self.take_in(event);
    }
}

fn len(span: Span) -> u32 {
    u32::try_from(span.len).expect("a range is bounded by the wire's MAX_SPAN")
}

fn zeroes(span: Span, fua: bool, may_unmap: bool) -> Request {
    Request::WriteZeroes { at: span.at, len: len(span), fua, may_unmap, fast_only: false }
}

fn told(answer: request::Answer) -> Answer {
    match answer {
        Ok(Reply::Data(data)) => Answer::Data(data),
        Ok(_) => Answer::Done,
        Err(_) => Answer::Failed,
    }
}

fn reply(result: Result<Bytes, Refusal>) -> request::Answer {
    match result {
        Ok(data) if data.is_empty() => Ok(Reply::Done),
        Ok(data) => Ok(Reply::Data(data)),
        Err(Refusal::NotServing | Refusal::Io) => Err(request::Refusal::Io),
        Err(Refusal::Invalid) => Err(request::Refusal::Invalid),
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}
