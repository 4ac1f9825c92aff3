//! The standby's half: takes the primary's stream in order, answers what is written and what is durable.
//!
//! ```text
//!  (no session) ──HELLO──▶ CAPS ──PROMISE──▶ promising: older work drained, superblock durable ──PROMISED──▶ streaming
//!                                                                                                 │
//!         any frame of a lower epoch: FENCED                     a hold: RESYNC, STATE, BARRIER, CAUGHT_UP (see `Hold`)
//! ```

use super::asked::Asked;
use super::follower::Lag;
use super::rules::{is_fenced, is_heard};
use super::{Effect, Guard, Job, Link, Owner, Replica, Role, verdict};
use crate::ids::{Generation, PEERS_MAX, Sequence, Session, Span};
use crate::metadata::{DataState, Geometry, Slot};
use crate::wire::{BITMAP_WORDS_MAX, Bye, Frame, Introduction, Message, ROUNDS, Refusal, Verdict, WRITTEN_RANGES_MAX};
use lease::ids::{Epoch, Incarnation};
use lease::time::{Millis, Moment};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Frames that wait behind a hold: more than a primary keeps unanswered in one session, or the connection is given up.
const QUEUE_MAX: usize = 65_536;
/// Flushes that are asked for and have not begun: one covers all that has ended, so what is asked beyond these waits with the last.
pub(super) const FLUSHES_WANTED: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Standby {
    pub(super) session: Option<Standing>,
    pub(super) caught_up: Option<Epoch>,
    /// As follower: in which round of which epoch this image is, if that is known; and how far it is behind (see `follower`).
    pub(super) reached: Option<(Epoch, u64)>,
    pub(super) lag: Lag,
}

/// One session, seen from the standby.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) link: Link,
    pub(super) epoch: Epoch,
    session: Session,
    /// The primary's place in this replica's superblock.
    primary: Option<Slot>,
    /// Of the primary's volumes: this replica's may be larger. Nothing is said of what lies behind.
    sizes: Vec<u64>,
    stage: Stage,
    /// The primary's history, adopted with its image.
    history: Vec<Generation>,
    /// The last place in the stream that was taken.
    taken: Sequence,
    /// Taken and not ended.
    pub(super) open: BTreeSet<Sequence>,
    /// Ended and not yet told.
    pub(super) ended: Vec<Sequence>,
    hold: Option<Hold>,
    pub(super) queue: VecDeque<Frame>,
    /// Places up to which the stream is to be made durable, in order.
    pub(super) flushes_wanted: VecDeque<Sequence>,
    flush_running: bool,
    durable: Sequence,
    /// Changes that are not known to be durable everywhere: claimed in the log; marked for everybody if the session ends.
    pub(super) unsettled: VecDeque<(Sequence, Span, Vec<u32>)>,
    /// Other replicas that get the same stream.
    companions: Vec<Slot>,
    /// Once all of the stream up to there is durable everywhere, these have what this replica has: their marks can go.
    pub(super) equal: Option<(Sequence, Vec<Slot>)>,
    /// It was told in this session that it has everything.
    pub(super) in_sync: bool,
    /// Something was left out of the stream: nothing may change behind it before RESYNC.
    gap: bool,
    /// What the primary found at ranges that are being read here.
    pub(super) digests: BTreeMap<Sequence, Asked>,
    /// As follower: the last answer to a sign of life, and when those were given that nothing was heard of.
    pub(super) probe: Sequence,
    pub(super) probes: VecDeque<(Sequence, Moment)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// CAPS was sent.
    Introduced,
    /// Asked to promise; answered once durable and drained.
    Promising,
    Streaming,
}

/// What the rest of the stream waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// This version of the superblock.
    Saving { at: Sequence, version: u64, then: Then },
    /// Everything before is ended and durable.
    Flushing { at: Sequence, then: Flushed },
}

/// What comes of a flush that the rest of the stream waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flushed {
    Barrier,
    /// The next round of a follower.
    Round(u64),
    /// The superblock says that the image is whole.
    CaughtUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Written,
    InSync,
}

impl Standing {
    pub(super) fn frame(&self, sequence: Sequence, message: Message) -> Frame {
        Frame { epoch: self.epoch, session: self.session, sequence, message }
    }

    /// Everything up to here has ended.
    fn ended_up_to(&self) -> Sequence {
        self.open.first().map_or(self.taken, |first| Sequence(first.0 - 1))
    }

    /// All up to there is to be made durable as soon as it has ended, whatever is asked for behind it.
    fn want_flush(&mut self, up_to: Sequence) {
        if self.flushes_wanted.back().is_some_and(|last| *last >= up_to) {
            return;
        }
        if self.flushes_wanted.len() == FLUSHES_WANTED {
            self.flushes_wanted.pop_back();
        }
        self.flushes_wanted.push_back(up_to);
    }
}

impl Replica {
    pub(super) fn standing(&mut self) -> Option<&mut Standing> {
        match &mut self.role {
            Role::Standby(standby) => standby.session.as_mut(),
            Role::Leading(_) => None,
        }
    }

    /// From which epoch on frames are taken. A session of an epoch that is not any more has ended: what it has sent and was not
    /// started yet would change the image behind what the node was told of it.
    pub(super) fn admit(&mut self, from: Option<Epoch>) {
        self.admitted = from;
        let over = self.standing().is_some_and(|standing| from.is_none_or(|from| standing.epoch < from));
        if over {
            self.refuse(Bye::NotNow);
        }
    }

    /// A frame from a primary, or from who believes to be one.
    pub(super) fn take(&mut self, link: Link, frame: Frame) {
        let superblock = self.store.superblock();
        let (promised, completed) = (superblock.promised, superblock.completed);
        if is_fenced(promised, frame.epoch) && !self.omits(Guard::RefuseOlder) {
            let fenced = Frame { epoch: promised, sequence: Sequence(0), message: Message::Fenced, ..frame };
            self.out.push(Effect::Send { link, frame: fenced });
            return;
        }
        if let Message::Hello(introduction) = &frame.message {
            let mine = self.store.geometry().volumes();
            let why = if !self.is_kin(introduction) || !Self::holds_all_of(mine, &introduction.volumes) {
                Some(Bye::Stranger)
            } else if self.failed {
                Some(Bye::DiskFailed)
            } else if self.admitted.is_none_or(|from| frame.epoch < from) || self.is_over(frame.epoch) {
                Some(Bye::NotNow)
            } else {
                None
            };
            match why {
                Some(why) => self.out.push(Effect::HangUp { link, why }),
                // It would send no rounds, and wait for this one.
                None if self.is_follower() && introduction.features & ROUNDS == 0 => {
                    self.out.push(Effect::HangUp { link, why: Bye::NotNow });
                }
                None => self.meet(link, &frame, introduction),
            }
            return;
        }
        let admitted = self.admitted.is_some_and(|from| frame.epoch >= from);
        let Some(standing) = self.standing() else { return };
        let heard = is_heard((standing.epoch, standing.session), (frame.epoch, frame.session));
        if standing.link != link || !heard || !admitted {
            return;
        }
        match frame.message {
            Message::Generations(history) => standing.history = history,
            Message::Promise if standing.stage == Stage::Introduced => {
                standing.stage = Stage::Promising;
                let epoch = frame.epoch;
                if epoch > promised {
                    self.promise_version = self.store.change(|superblock| superblock.promised = epoch);
                }
            }
            Message::Verdict(theirs) => {
                let mine = verdict(&standing.history, completed);
                if mine != theirs || mine == Verdict::Diverged {
                    self.refuse(Bye::Diverged);
                }
            }
            Message::Bye(_) => self.end_session(),
            _ if standing.stage != Stage::Streaming => self.refuse(Bye::Confused),
            _ if standing.queue.len() >= QUEUE_MAX => self.refuse(Bye::Confused),
            _ => {
                standing.queue.push_back(frame);
            }
        }
    }

    /// Whether this replica still leads, and hears by another's frame that its epoch is over: it is told to be fenced in a moment.
    /// Until then it answers nothing more, and can not be a standby.
    fn is_over(&mut self, newer: Epoch) -> bool {
        let Role::Leading(primary) = &mut self.role else { return false };
        if newer > primary.epoch {
            primary.fenced_by = Some(newer);
        }
        true
    }

    /// Hangs up on the primary.
    fn refuse(&mut self, why: Bye) {
        let Some(standing) = self.standing() else { return };
        let link = standing.link;
        self.out.push(Effect::HangUp { link, why });
        self.end_session();
    }

    /// A primary says who it is: whatever came of another session ends.
    fn meet(&mut self, link: Link, frame: &Frame, introduction: &Introduction) {
        if let Some(old) = self.standing().map(|standing| standing.link) {
            self.out.push(Effect::HangUp { link: old, why: Bye::Closing });
            self.end_session();
        }
        let primary = self.store.slot(&introduction.incarnation, |_| false);
        let caps = Message::Caps(self.introduction());
        let standing = Standing {
            link,
            epoch: frame.epoch,
            session: frame.session,
            primary,
            sizes: introduction.volumes.clone(),
            stage: Stage::Introduced,
            history: Vec::new(),
            taken: Sequence(0),
            open: BTreeSet::new(),
            ended: Vec::new(),
            hold: None,
            queue: VecDeque::new(),
            flushes_wanted: VecDeque::new(),
            flush_running: false,
            durable: Sequence(0),
            unsettled: VecDeque::new(),
            companions: Vec::new(),
            equal: None,
            in_sync: false,
            gap: false,
            digests: BTreeMap::new(),
            probe: Sequence(0),
            probes: VecDeque::new(),
        };
        self.out.push(Effect::Send { link, frame: standing.frame(Sequence(0), caps) });
        if let Role::Standby(standby) = &mut self.role {
            standby.reached.take_if(|(epoch, _)| *epoch != standing.epoch);
            standby.session = Some(standing);
        }
    }

    /// The session is over: what has not started is dropped, and what was taken and is not known to be durable everywhere is
    /// marked for everybody. Its claims go: the marks are saved before the extents can leave the log.
    pub(super) fn end_session(&mut self) {
        let Role::Standby(standby) = &mut self.role else { return };
        let Some(standing) = standby.session.take() else { return };
        for (_, span, extents) in &standing.unsettled {
            if !self.omits(Guard::MarkUnsettled) {
                for slot in self.store.slots() {
                    self.store.mark(slot, *span);
                }
            }
            self.store.release(extents);
        }
        self.works.abandon(Owner::Orphan);
        self.forget_keeping();
    }

    /// What is due: the promise, held frames, flushes, answers.
    pub(super) fn settle_standby(&mut self) {
        self.settle_undo();
        self.answer_promise();
        while self.advance_hold() || self.take_next() {}
        self.flush_when_wanted();
        self.tell_written();
        if self.store.is_full() {
            self.relieve();
        }
    }

    /// The log is full of claims that only the primary can end, and it may wait for what waits here for the log. So what has
    /// ended is marked for everybody instead: the log of a standby never waits for anybody else.
    fn relieve(&mut self) {
        let Some(standing) = self.standing() else { return };
        standing.equal = None;
        let open = &standing.open;
        let (kept, relieved): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut standing.unsettled).into_iter().partition(|(at, _, _)| open.contains(at));
        standing.unsettled = kept;
        for (_, span, extents) in relieved {
            for slot in self.store.slots() {
                self.store.mark(slot, span);
            }
            self.store.release(&extents);
        }
    }

    fn answer_promise(&mut self) {
        let ready = self.is_promised();
        let completed = self.store.superblock().completed;
        let Some(standing) = self.standing() else { return };
        if standing.stage != Stage::Promising || !ready {
            return;
        }
        standing.stage = Stage::Streaming;
        let (link, primary, sizes) = (standing.link, standing.primary, standing.sizes.clone());
        let epoch = standing.epoch;
        let mut say = vec![Message::Generations(completed.into_iter().collect())];
        if let Some(round) = self.reached_of(epoch).filter(|_| self.is_follower()) {
            say.push(Message::Reached { round });
        }
        if let Some(slot) = primary {
            let next = |from| self.store.next_marked(slot, from);
            let mine = self.store.geometry();
            // By the primary's numbers.
            let theirs = Geometry::new(sizes, mine.chunk_shift(), mine.slots()).ok();
            let words: Vec<(u32, u64)> = std::iter::successors(next(0), |extent| next(extent + 1))
                .filter_map(|extent| Some((mine.extent_in(extent, theirs.as_ref()?)?, self.store.marked(slot, extent))))
                .collect();
            let count = words.len().div_ceil(BITMAP_WORDS_MAX);
            for (number, words) in words.chunks(BITMAP_WORDS_MAX).enumerate() {
                say.push(Message::Bitmap { all: false, words: words.to_vec(), last: number + 1 == count });
            }
        } else {
            say.push(Message::Bitmap { all: true, words: Vec::new(), last: true });
        }
        say.push(Message::Promised);
        for message in say {
            let Some(frame) = self.standing().map(|standing| standing.frame(Sequence(0), message)) else { return };
            self.out.push(Effect::Send { link, frame });
        }
    }

    // --- the stream ----------------------------------------------------------------------------------------------

    /// Takes the next frame. False: there is none, or it has to wait.
    fn take_next(&mut self) -> bool {
        if self.gives_up() {
            return false;
        }
        let Some(standing) = self.standing() else { return false };
        if standing.hold.is_some() {
            return false;
        }
        let Some(frame) = standing.queue.pop_front() else { return false };
        if frame.message.in_stream() {
            if frame.sequence != standing.taken.next() {
                self.refuse(Bye::Confused);
                return false;
            }
            standing.taken = frame.sequence;
        }
        let at = frame.sequence;
        let continues = matches!(
            frame.message,
            Message::Write { .. }
                | Message::Zero { .. }
                | Message::Trim { .. }
                | Message::Copy { .. }
                | Message::CaughtUp
        );
        if standing.gap && continues {
            self.refuse(Bye::Confused);
            return false;
        }
        match frame.message {
            Message::Write { volume, at: offset, data, fua } => {
                self.apply(at, Job::Write { volume, at: offset, data, fua })
            }
            Message::Copy { volume, at: offset, data } => {
                self.apply(at, Job::Write { volume, at: offset, data, fua: false });
            }
            Message::Zero { span, fua } => self.apply(at, Job::Zero { span, fua }),
            Message::Trim { span } => self.apply(at, Job::Trim(span)),
            Message::Compare { span, digest } => self.compare(at, Asked { span, digest, verifies: false }),
            Message::Verify { span, digest } => self.compare(at, Asked { span, digest, verifies: true }),
            Message::Fetch { span } => self.read_for_primary(at, span),
            Message::OutOfSync { span } => self.left_out(at, span),
            Message::Flush => {
                self.ended(at);
                if let Some(standing) = self.standing() {
                    standing.want_flush(at);
                }
            }
            Message::Barrier => self.hold(Hold::Flushing { at, then: Flushed::Barrier }),
            Message::Round { round } => self.hold(Hold::Flushing { at, then: Flushed::Round(round) }),
            Message::CaughtUp => self.hold(Hold::Flushing { at, then: Flushed::CaughtUp }),
            Message::Resync => self.resync(at),
            Message::State { generation, companions } => self.state(at, generation, &companions),
            Message::Ping { settled } => self.settled(settled),
            Message::Lag { lag_ms } => self.lags(at, Millis(lag_ms)),
            _ => self.refuse(Bye::Confused),
        }
        true
    }

    /// What follows waits; and what is at this place has not ended.
    fn hold(&mut self, hold: Hold) {
        let (Hold::Saving { at, .. } | Hold::Flushing { at, .. }) = hold;
        let open = !self.omits(Guard::SaveBeforeEnd);
        if let Some(standing) = self.standing() {
            if open {
                standing.open.insert(at);
            }
            standing.hold = Some(hold);
        }
    }

    /// This range has changed and is not sent: the image stays what it was, and is not the primary's any more.
    fn left_out(&mut self, at: Sequence, span: Span) {
        self.forgets_reached();
        if !self.store.geometry().holds(span) {
            self.nack(at);
            return;
        }
        for slot in self.store.slots() {
            self.store.mark(slot, span);
        }
        if let Role::Standby(standby) = &mut self.role {
            standby.caught_up = None;
            self.intact = false;
            if let Some(standing) = &mut standby.session {
                (standing.gap, standing.in_sync, standing.equal) = (true, false, None);
            }
        }
        self.ended(at);
    }

    /// What follows makes the image neither old nor new.
    fn resync(&mut self, at: Sequence) {
        self.intact = false;
        self.forgets_reached();
        if let Role::Standby(standby) = &mut self.role {
            standby.caught_up = None;
            standby.session.iter_mut().for_each(|standing| (standing.gap, standing.in_sync) = (false, false));
        }
        if self.omits(Guard::MarkInconsistent) {
            self.ended(at);
            return;
        }
        self.begin_undo();
        let version = self.store.change(|superblock| superblock.state = DataState::Inconsistent);
        self.hold(Hold::Saving { at, version, then: Then::Written });
    }

    pub(super) fn nack(&mut self, at: Sequence) -> bool {
        if let Some(standing) = self.standing() {
            let (link, frame) = (standing.link, standing.frame(at, Message::Nack(Refusal::Range)));
            self.out.push(Effect::Send { link, frame });
        }
        self.refuse(Bye::Confused);
        false
    }

    /// A change of the data: in order where ranges meet, hot before it starts.
    fn apply(&mut self, at: Sequence, job: Job) {
        let span = job.span().expect("a change has a range");
        if !self.store.geometry().holds(span) {
            self.nack(at);
            return;
        }
        self.keep(span);
        let ordered = !self.omits(Guard::OrderMeeting);
        self.works.add(Owner::Stream(at), job, &self.store, ordered, 0);
        if let Some(standing) = self.standing() {
            standing.open.insert(at);
        }
    }

    /// A change starts now: its extents are claimed until it is settled. Who does not get this stream is marked at once.
    pub(super) fn standby_starts(&mut self, at: Sequence, job: &Job) {
        if !job.changes() {
            return;
        }
        let span = job.span().expect("a change has a range");
        let extents: Vec<u32> = self.store.geometry().touched(span).map(|(extent, _)| extent).collect();
        let Some(standing) = self.standing() else { return };
        let gets =
            |slot: Slot, standing: &Standing| standing.primary == Some(slot) || standing.companions.contains(&slot);
        let absent: Vec<Slot> = (0..PEERS_MAX).filter(|slot| !gets(*slot, standing)).collect();
        let place = standing.unsettled.partition_point(|(other, _, _)| *other < at);
        standing.unsettled.insert(place, (at, span, extents));
        for slot in self.store.slots().filter(|slot| absent.contains(slot)) {
            self.store.mark(slot, span);
        }
    }

    /// What the primary knows to be durable on itself and on all companions needs no claim any more.
    fn settled(&mut self, up_to: Sequence) {
        while let Some(standing) = self.standing()
            && standing.unsettled.front().is_some_and(|(at, _, _)| *at <= up_to.min(standing.durable))
        {
            let (_, _, extents) = standing.unsettled.pop_front().expect("there is one");
            self.store.release(&extents);
        }
        let equal = |standing: &mut Standing| standing.equal.take_if(|(at, _)| *at <= up_to);
        if let Some((_, slots)) = self.standing().and_then(equal) {
            slots.into_iter().for_each(|slot| self.has_all_of_primary(slot));
        }
        let probe = self.probe();
        if let Some(standing) = self.standing() {
            let (link, frame) = (standing.link, standing.frame(probe, Message::Pong));
            self.out.push(Effect::Send { link, frame });
        }
    }

    fn state(&mut self, at: Sequence, generation: Generation, companions: &[Incarnation]) {
        let mut slots: Vec<Slot> = Vec::new();
        for companion in companions {
            let primary = self.standing().and_then(|standing| standing.primary);
            let used = |slot| primary == Some(slot) || slots.contains(&slot);
            let slot = self.store.slot(companion, used);
            slots.extend(slot);
        }
        let Some(standing) = self.standing() else { return };
        let gone: Vec<Slot> = standing.companions.iter().filter(|slot| !slots.contains(slot)).copied().collect();
        let spans: Vec<Span> = standing.unsettled.iter().map(|(_, span, _)| *span).collect();
        if standing.in_sync {
            standing.equal = Some((at, slots.clone()));
        } else if let Some((_, equal)) = &mut standing.equal {
            equal.retain(|slot| slots.contains(slot));
        }
        standing.companions = slots;
        for slot in gone {
            spans.iter().for_each(|span| self.store.mark(slot, *span));
        }
        let version = self.store.change(|superblock| superblock.begin(generation));
        self.hold(Hold::Saving { at, version, then: Then::Written });
    }

    /// Carries the hold on. True: it has ended.
    fn advance_hold(&mut self) -> bool {
        let saved = self.store.saved();
        let (premature, hurries) = (self.omits(Guard::FlushBeforeWhole), self.omits(Guard::RoundsInOrder));
        let Some(standing) = self.standing() else { return false };
        match standing.hold {
            None => false,
            Some(Hold::Saving { at, version, then }) => {
                if saved < version {
                    return false;
                }
                standing.hold = None;
                match then {
                    Then::Written => self.ended(at),
                    Then::InSync => self.in_sync(at),
                }
                true
            }
            Some(Hold::Flushing { at, then }) => {
                let before = Sequence(at.0 - 1);
                let early = match then {
                    Flushed::Barrier => false,
                    Flushed::Round(_) => hurries,
                    Flushed::CaughtUp => premature,
                };
                if standing.durable < before && !early {
                    standing.want_flush(before);
                    return false;
                }
                standing.hold = None;
                let epoch = standing.epoch;
                match then {
                    Flushed::CaughtUp => self.whole(at),
                    Flushed::Barrier => self.ended(at),
                    Flushed::Round(round) => {
                        self.reaches(epoch, round);
                        self.ended(at);
                    }
                }
                true
            }
        }
    }

    /// All that may have differed is here and durable.
    fn whole(&mut self, at: Sequence) {
        let Some(standing) = self.standing() else { return };
        let history = std::mem::take(&mut standing.history);
        // The companions may still lack what came before this session, and was copied here.
        standing.equal = Some((at, standing.companions.clone()));
        let primary = standing.primary;
        // A follower is told of no generation in its session: an older one that it knows may be another's.
        let follows = self.is_follower();
        let version = self.store.change(|superblock| {
            superblock.state = DataState::Whole;
            superblock.undo = None;
            let latest = superblock.generations.last().copied().filter(|_| !follows);
            superblock.generations.clear();
            history.into_iter().chain(latest).for_each(|generation| superblock.begin(generation));
        });
        primary.into_iter().for_each(|slot| self.has_all_of_primary(slot));
        if self.omits(Guard::KeepForCompanions) {
            let companions = self.standing().map(|standing| standing.companions.clone());
            companions.into_iter().flatten().for_each(|slot| self.has_all_of_primary(slot));
        }
        if let Some(standing) = self.standing() {
            standing.hold = Some(Hold::Saving { at, version, then: Then::InSync });
        }
        self.whole_version = version;
    }

    /// This one has what this replica has, and the primary; of what only larger volumes have nobody has said anything.
    fn has_all_of_primary(&mut self, slot: Slot) {
        let Some(sizes) = self.standing().map(|standing| standing.sizes.clone()) else { return };
        self.store.clear_within(slot, &sizes);
    }

    /// Whole, durably: say so to the primary, and to the node.
    fn in_sync(&mut self, at: Sequence) {
        let follows = self.is_follower();
        self.drop_kept();
        let Role::Standby(standby) = &mut self.role else { return };
        let Some(standing) = &mut standby.session else { return };
        if !follows {
            standing.in_sync = true;
            standby.caught_up = Some(standing.epoch);
            self.intact = true;
        }
        let (link, frame) = (standing.link, standing.frame(at, Message::InSync));
        self.out.push(Effect::Send { link, frame });
        self.ended(at);
    }

    /// The frame at this place is done.
    pub(super) fn ended(&mut self, at: Sequence) {
        if let Some(standing) = self.standing() {
            standing.open.remove(&at);
            standing.ended.push(at);
        }
    }

    pub(super) fn stream_done(&mut self, at: Sequence) {
        self.ended(at);
    }

    fn flush_when_wanted(&mut self) {
        let Some(standing) = self.standing() else { return };
        let (durable, up_to) = (standing.durable, standing.ended_up_to());
        standing.flushes_wanted.retain(|wanted| *wanted > durable);
        if standing.flush_running || standing.flushes_wanted.front().is_none_or(|first| up_to < *first) {
            return;
        }
        standing.flush_running = true;
        self.works.add(Owner::StreamFlush(up_to), Job::Flush, &self.store, false, 0);
    }

    pub(super) fn stream_flushed(&mut self, up_to: Sequence) {
        let Some(standing) = self.standing() else { return };
        standing.flush_running = false;
        standing.durable = up_to;
        // First what is written: nothing is durable that was not.
        self.tell_written();
        if let Some(standing) = self.standing() {
            let (link, frame) = (standing.link, standing.frame(up_to, Message::Durable));
            self.out.push(Effect::Send { link, frame });
        }
    }

    /// One answer for all that has ended since the last.
    fn tell_written(&mut self) {
        let Some(standing) = self.standing() else { return };
        if standing.ended.is_empty() {
            return;
        }
        let mut ended = std::mem::take(&mut standing.ended);
        ended.sort_unstable();
        let mut ranges: Vec<(Sequence, Sequence)> = Vec::new();
        for at in ended {
            match ranges.last_mut() {
                Some((_, last)) if last.next() == at => *last = at,
                _ => ranges.push((at, at)),
            }
        }
        let link = standing.link;
        let frames: Vec<Frame> = ranges
            .chunks(WRITTEN_RANGES_MAX)
            .map(|ranges| standing.frame(Sequence(0), Message::Written { ranges: ranges.to_vec() }))
            .collect();
        self.out.extend(frames.into_iter().map(|frame| Effect::Send { link, frame }));
    }
}
