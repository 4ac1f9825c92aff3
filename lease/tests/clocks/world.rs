//! One holder `a`, one watcher `b`, one table, in simulated time. What decides is the crate's own code; the rest here is
//! weather. Everything follows from the seed.
//!
//! With `lossy`, a third node `c` is the in-sync member that promises, and `b` is an asynchronous nominee.

use lease::accept::Vigil;
use lease::authority::{Authority, Standing};
use lease::change::{Change, Expect, Terms, Write};
use lease::ids::{Beat, Epoch, Incarnation, Nonce, Rev};
use lease::outcome::Outcome;
use lease::policy::Policy;
use lease::record::{Holder, Nominee, Row};
use lease::rules::Rule;
use lease::time::{Millis, Moment};
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    LeaseFromAnswer,
    PromiseFromAnswer,
    PromiseInFull,
    WaitOnlyTtl,
    WaitFromAsking,
    PromiseWhileAccepting,
    AcceptDespitePromise,
    HolderIgnoresSuspension,
    /// The acceptance of an earlier process of `b` was applied late, after this process had promised.
    ServeDespitePromise,
    PromisesThoughLossy,
}

const STEP_US: u64 = 5_000;
const STEPS: u64 = 5_000;
/// Before it, clocks already run: a process start is not the beginning of time.
const ORIGIN_US: u64 = 100_000_000;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A node's two clocks, each at a rate of its own within the policy's bound.
struct Clock {
    boottime_ppm: u64,
    raw_ppm: u64,
    /// While the machine is suspended, the raw clock stands.
    suspended: Option<(u64, u64)>,
}

impl Clock {
    /// Mostly at the limits, where mistakes show.
    fn new(dice: &mut Dice, suspended: Option<(u64, u64)>) -> Self {
        let mut rate =
            || [900_000, 1_100_000, 900_000 + dice.below(200_001)][usize::try_from(dice.below(3)).expect("small")];
        Self { boottime_ppm: rate(), raw_ppm: rate(), suspended }
    }

    fn read(&self, now: u64) -> Moment {
        let stood = self.suspended.map_or(0, |(from, to)| now.clamp(from, to) - from);
        Moment {
            boottime_us: ORIGIN_US + now * self.boottime_ppm / 1_000_000,
            monotonic_raw_us: ORIGIN_US + (now - stood) * self.raw_ppm / 1_000_000,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    A,
    B,
    C,
    Table,
}

enum Message {
    Write(Box<Write>),
    /// The answer to the write with this mark: `None` applied, else what was found.
    Wrote(Nonce, Option<Box<Row>>),
    Read {
        asked: Moment,
    },
    Row {
        asked: Moment,
        row: Box<Row>,
    },
    Ping {
        sent: Moment,
        epoch: Epoch,
        beat: Beat,
    },
    Pong {
        sent: Moment,
        from: Incarnation,
    },
}

struct Letter {
    at: u64,
    from: Place,
    to: Place,
    /// The process of `b` that it came from or answers: answers to an earlier one find nobody.
    process: u64,
    message: Message,
}

/// A write that is not settled.
struct Pending {
    write: Box<Write>,
    sent: Moment,
    last_try: Moment,
    unanswered: bool,
}

struct HolderNode {
    clock: Clock,
    authority: Authority,
    row: Row,
    pending: Option<Pending>,
    beat_sent: Moment,
    pinged: Moment,
    demoted: bool,
}

struct Watcher {
    clock: Clock,
    process: u64,
    vigil: Vigil,
    row: Option<Row>,
    pending: Option<Pending>,
    read_sent: Option<Moment>,
    /// The row names this node; whether it serves is another matter.
    holds: bool,
    /// By a write of this very process, which has promised nothing since it was sent.
    by_own_write: bool,
    serves: bool,
}

/// From when to when something does not work, in real time.
type Spell = (u64, u64);

pub(crate) struct World {
    dice: Dice,
    mistake: Option<Mistake>,
    policy: Policy,
    now: u64,
    marks: u64,
    table: Row,
    post: Vec<Letter>,
    a: HolderNode,
    b: Watcher,
    lossy: bool,
    cuts: [(Place, Place, Spell); 4],
    pauses: [(Place, Spell); 2],
    restart_of_b: Option<u64>,
    /// The first acceptance meets a slow network, and its sender a crash.
    slow_acceptance: bool,
    crash_in_acceptance: bool,
    /// The control plane nominates at any time, in one of this many steps.
    nominates_one_in: u64,
}

fn holder(name: &str) -> Holder {
    Holder {
        node: name.parse().expect("a valid name"),
        incarnation: Incarnation::new(format!("{name}-1")).expect("a valid name"),
        instance: format!("i-0{name}").parse().expect("a valid id"),
        boot: "boot-1".parse().expect("a valid id"),
        launched: "2026-01-31T23:59:59Z".into(),
    }
}

/// What the holder's activation has proven.
fn authority(member: &str, lossy_ok: bool) -> Authority {
    let mut authority = Authority::of_new_epoch([holder(member).incarnation]);
    authority.proven([holder(member).incarnation], lossy_ok);
    authority
}

fn in_spell(spell: Spell, now: u64) -> bool {
    (spell.0..spell.1).contains(&now)
}

impl World {
    pub(crate) fn new(seed: u64, mistake: Option<Mistake>) -> Self {
        let mut dice = Dice(seed);
        let length = STEPS * STEP_US;
        let spell = |dice: &mut Dice, longest: u64| {
            let from = dice.below(length);
            if dice.one_in(2) { (from, from + dice.below(longest)) } else { (0, 0) }
        };
        let suspension = spell(&mut dice, 6_000_000);
        let lossy = dice.one_in(3);
        let member = if lossy { "c" } else { "b" };
        let policy = Policy::default();
        let a = holder("a");
        let table = Row {
            cluster: "web".parse().expect("a valid name"),
            rev: Rev(10),
            lineage: "line-1".parse().expect("a valid name"),
            epoch: Epoch(5),
            holder: Some(a.clone()),
            beat: Beat(0),
            in_sync: BTreeSet::from([a.incarnation, holder(member).incarnation]),
            activated: true,
            nominee: None,
            intent: None,
            paused: None,
            ttl_ms: policy.ttl_ms,
            lossy_ok: lossy,
            nonce: "start".parse().expect("a valid nonce"),
        };
        let asleep = dice.one_in(2).then_some(suspension);
        let clock = Clock::new(&mut dice, asleep);
        let began = clock.read(0);
        let a = HolderNode {
            authority: authority(member, lossy && mistake != Some(Mistake::PromisesThoughLossy)),
            row: table.clone(),
            pending: None,
            beat_sent: began,
            pinged: began,
            demoted: false,
            clock,
        };
        let clock = Clock::new(&mut dice, None);
        let b = Watcher {
            process: 0,
            vigil: Vigil::started(Moment::default()),
            row: None,
            pending: None,
            read_sent: None,
            holds: false,
            by_own_write: false,
            serves: false,
            clock,
        };
        let cuts = [(Place::A, Place::Table), (Place::B, Place::Table), (Place::A, Place::B), (Place::A, Place::C)]
            .map(|(one, other)| (one, other, spell(&mut dice, 20_000_000)));
        let pauses = [(Place::A, suspension), (Place::B, spell(&mut dice, 8_000_000))];
        let restart_of_b = dice.one_in(2).then(|| dice.below(length));
        let nominates_one_in = [20, 200, 600][usize::try_from(dice.below(3)).expect("small")];
        Self {
            mistake,
            policy,
            now: 0,
            marks: 0,
            table,
            post: Vec::new(),
            a,
            b,
            lossy,
            cuts,
            pauses,
            restart_of_b,
            slow_acceptance: dice.one_in(3),
            crash_in_acceptance: dice.one_in(2),
            dice,
            nominates_one_in,
        }
    }

    pub(crate) fn watcher_served(&self) -> bool {
        self.b.serves
    }

    /// Runs to the end, or to the moment when both serve.
    pub(crate) fn run(&mut self) -> Option<String> {
        for _ in 0..STEPS {
            self.now += STEP_US;
            self.nominate();
            self.deliver();
            if self.restart_of_b.is_some_and(|at| at <= self.now) {
                self.restart();
            }
            if self.awake(Place::A) {
                self.hold();
            }
            if self.awake(Place::B) {
                self.watch();
            }
            if self.b.serves && self.holder_may_serve() {
                return Some(format!("both serve at {} ms; the row: {:?}", self.now / 1_000, self.table));
            }
        }
        None
    }

    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn holder_may_serve(&self) -> bool {
        !self.a.demoted && self.a.authority.standing(self.a_now()) != Standing::None
    }

    fn a_now(&self) -> Moment {
        let now = self.a.clock.read(self.now);
        if self.is(Mistake::HolderIgnoresSuspension) {
            return Moment { boottime_us: now.monotonic_raw_us, ..now };
        }
        now
    }

    fn b_now(&self) -> Moment {
        self.b.clock.read(self.now)
    }

    fn mark(&mut self) -> Nonce {
        self.marks += 1;
        Nonce::new(format!("m{}", self.marks)).expect("a valid nonce")
    }

    // --- weather -------------------------------------------------------------------------------------------------

    fn awake(&self, place: Place) -> bool {
        !self.pauses.iter().any(|(who, spell)| *who == place && in_spell(*spell, self.now))
    }

    fn send(&mut self, from: Place, to: Place, message: Message) {
        self.send_to_process(self.b.process, from, to, message);
    }

    fn send_to_process(&mut self, process: u64, from: Place, to: Place, message: Message) {
        let mut delay = 1_000 + self.dice.below(15_000);
        if self.dice.one_in(40) {
            delay += self.dice.below(9_000_000);
        }
        let cut = self.cuts.iter().find(|(one, other, spell)| {
            ((*one, *other) == (from, to) || (*other, *one) == (from, to)) && in_spell(*spell, self.now)
        });
        if let Some((_, _, spell)) = cut {
            if !self.dice.one_in(3) {
                return;
            }
            // Kept on the way until the link is back.
            delay += spell.1 - self.now;
        }
        self.post.push(Letter { at: self.now + delay, from, to, process, message });
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (mut due, later): (Vec<Letter>, Vec<Letter>) =
            std::mem::take(&mut self.post).into_iter().partition(|letter| letter.at <= now);
        self.post = later;
        due.sort_by_key(|letter| letter.at);
        for letter in due {
            if !self.awake(letter.to) {
                // It is read when the reader runs again.
                self.post.push(letter);
                continue;
            }
            match letter.to {
                Place::Table => self.table_gets(letter.from, letter.process, letter.message),
                Place::A => self.a_gets(letter.message),
                Place::B => self.b_gets(letter.process, letter.message),
                Place::C => self.c_gets(letter.message),
            }
        }
    }

    fn nominate(&mut self) {
        let held = self.table.holder.as_ref().is_some_and(|holder| holder.node.as_str() == "a");
        if !held || self.table.live_nominee().is_some() || !self.dice.one_in(self.nominates_one_in) {
            return;
        }
        let b = holder("b");
        let nominee = Nominee {
            node: b.node,
            incarnation: b.incarnation,
            epoch: self.table.epoch,
            beat: self.table.beat,
            rule: if self.lossy { Rule::R240 } else { Rule::R210 },
            reason: "silent".into(),
            proof: None,
            lossy: self.lossy,
        };
        let mark = self.mark();
        self.table = Change::Nominate(nominee).on(&self.table, mark).expect("a legal nomination").row;
    }

    fn table_gets(&mut self, from: Place, process: u64, message: Message) {
        let answer = match message {
            Message::Write(write) => {
                let Expect::Version(expected) = &write.expect else { panic!("nobody founds here") };
                let mark = write.row.nonce.clone();
                if (self.table.rev, &self.table.nonce) == (expected.rev, &expected.nonce) {
                    self.table = write.row;
                    Message::Wrote(mark, None)
                } else {
                    Message::Wrote(mark, Some(Box::new(self.table.clone())))
                }
            }
            Message::Read { asked } => Message::Row { asked, row: Box::new(self.table.clone()) },
            _ => panic!("the table gets reads and writes"),
        };
        self.send_to_process(process, Place::Table, from, answer);
    }

    // --- the holder ----------------------------------------------------------------------------------------------

    fn hold(&mut self) {
        if self.a.demoted {
            return;
        }
        let now = self.a_now();
        if now.longest_since(self.a.pinged) >= self.policy.ping_ms {
            self.a.pinged = now;
            let to = if self.lossy { Place::C } else { Place::B };
            let (epoch, beat) = (self.a.row.epoch, self.a.row.beat);
            self.send(Place::A, to, Message::Ping { sent: now, epoch, beat });
            if self.lossy {
                self.send(Place::A, Place::B, Message::Ping { sent: now, epoch, beat });
            }
        }
        match &mut self.a.pending {
            Some(pending) if now.longest_since(pending.last_try) >= Millis(1_000) => {
                (pending.last_try, pending.unanswered) = (now, true);
                let write = pending.write.clone();
                self.send(Place::A, Place::Table, Message::Write(write));
            }
            Some(_) => {}
            None if now.longest_since(self.a.beat_sent) >= self.policy.beat_ms => {
                self.a.beat_sent = now;
                let change = Change::Renew { me: holder("a"), epoch: self.a.row.epoch };
                let mark = self.mark();
                let write = Box::new(change.on(&self.a.row, mark).expect("a holder may renew"));
                self.a.pending = Some(Pending { write: write.clone(), sent: now, last_try: now, unanswered: false });
                self.send(Place::A, Place::Table, Message::Write(write));
            }
            None => {}
        }
    }

    fn a_gets(&mut self, message: Message) {
        let now = self.a_now();
        match message {
            Message::Pong { sent, from } => {
                let sent = if self.is(Mistake::PromiseFromAnswer) { now } else { sent };
                let mut policy = self.policy.clone();
                if self.is(Mistake::PromiseInFull) {
                    policy.clock_rate_bound_ppm = 0;
                }
                self.a.authority.promised(&from, sent, policy.promise_ms, &policy);
            }
            Message::Wrote(mark, found) => {
                let Some(pending) = self.a.pending.take_if(|pending| pending.write.row.nonce == mark) else { return };
                let outcome = match found {
                    None => Outcome::Applied(Box::new(pending.write.row.clone())),
                    Some(found) => Outcome::of_conflict(&pending.write, Some(found), pending.unanswered),
                };
                match outcome {
                    Outcome::Applied(row) => {
                        let sent = if self.is(Mistake::LeaseFromAnswer) { now } else { pending.sent };
                        self.a.authority.renewed(sent, row.ttl_ms);
                        let others = row.in_sync.iter().filter(|member| member.as_str() != "a-1").cloned();
                        let lossy_ok = row.lossy_ok && !self.is(Mistake::PromisesThoughLossy);
                        self.a.authority.proven(others, lossy_ok);
                        self.a.row = *row;
                    }
                    Outcome::Refused { found: Some(row) } | Outcome::Superseded { found: row } => {
                        self.a.demoted = row.epoch != self.a.row.epoch;
                        self.a.row = *row;
                        // Renew at once on what was found.
                        self.a.beat_sent = Moment::default();
                    }
                    _ => panic!("the row never goes away here"),
                }
            }
            _ => {}
        }
    }

    // --- the standbys --------------------------------------------------------------------------------------------

    fn c_gets(&mut self, message: Message) {
        // An in-sync member that is never nominated: its word is always good.
        if let Message::Ping { sent, .. } = message {
            self.send(Place::C, Place::A, Message::Pong { sent, from: holder("c").incarnation });
        }
    }

    fn restart(&mut self) {
        self.restart_of_b = None;
        // Its promises are forgotten; but it has seen nothing either, and the wait is never shorter than a promise.
        self.b.process += 1;
        self.b.vigil = Vigil::started(self.b_now());
        (self.b.row, self.b.pending, self.b.read_sent) = (None, None, None);
        (self.b.holds, self.b.by_own_write, self.b.serves) = (false, false, false);
    }

    fn watch(&mut self) {
        let now = self.b_now();
        if self.b.holds {
            // Whoever has promised keeps its word, even if the row is its own already: by a write of an earlier process.
            let free = self.b.by_own_write || self.b.vigil.promise_left(now) == Millis::ZERO;
            self.b.serves |= free || self.is(Mistake::ServeDespitePromise);
            return;
        }
        if self.b.read_sent.is_none_or(|asked| now.longest_since(asked) >= Millis(400)) {
            self.b.read_sent = Some(now);
            self.send(Place::B, Place::Table, Message::Read { asked: now });
        }
        if let Some(pending) = &mut self.b.pending {
            if now.longest_since(pending.last_try) >= Millis(1_000) {
                (pending.last_try, pending.unanswered) = (now, true);
                let write = pending.write.clone();
                self.send(Place::B, Place::Table, Message::Write(write));
            }
            return;
        }
        let Some(row) = &self.b.row else { return };
        let mut policy = self.policy.clone();
        if self.is(Mistake::WaitOnlyTtl) {
            policy.clock_rate_bound_ppm = 0;
            policy.wait_ms = row.ttl_ms;
        }
        let me = holder("b");
        let mut vigil = self.b.vigil.clone();
        if self.is(Mistake::AcceptDespitePromise) {
            vigil = Vigil::started(Moment::default());
            if let (Some((epoch, beat)), silence) = (self.b.vigil.latest(), self.b.vigil.silence(now)) {
                let us = silence.0 * 1_000;
                let at = Moment { boottime_us: now.boottime_us - us, monotonic_raw_us: now.monotonic_raw_us - us };
                vigil.saw(epoch, beat, at);
            }
        }
        if vigil.may_accept(row, &me, true, &policy, now).is_ok() {
            let terms = Terms { ttl_ms: row.ttl_ms, lossy_ok: row.lossy_ok };
            let change = Change::Accept { me, terms };
            let row = row.clone();
            let mark = self.mark();
            let write = Box::new(change.on(&row, mark).expect("who may accept is nominated"));
            self.b.pending = Some(Pending { write: write.clone(), sent: now, last_try: now, unanswered: false });
            if !std::mem::take(&mut self.slow_acceptance) {
                self.send(Place::B, Place::Table, Message::Write(write));
                return;
            }
            let at = self.now + self.dice.below(8_000_000);
            let message = Message::Write(write);
            self.post.push(Letter { at, from: Place::B, to: Place::Table, process: self.b.process, message });
            if self.crash_in_acceptance {
                self.restart_of_b = Some(self.now + self.dice.below(500_000));
            }
        }
    }

    fn b_gets(&mut self, process: u64, message: Message) {
        let now = self.b_now();
        match message {
            Message::Ping { sent, epoch, beat } => {
                let known = self.b.row.as_ref().map_or(Epoch(0), |row| row.epoch);
                if self.b.holds || epoch < known {
                    return;
                }
                self.b.vigil.saw(epoch, beat, now);
                if self.b.pending.is_some() && !self.is(Mistake::PromiseWhileAccepting) {
                    return;
                }
                if self.lossy {
                    // It hears the holder, but its links are one-way: it never promises.
                    return;
                }
                self.b.vigil.promised(now, self.policy.promise_ms);
                self.send(Place::B, Place::A, Message::Pong { sent, from: holder("b").incarnation });
            }
            _ if process != self.b.process => {}
            Message::Row { asked, row } => {
                let at = if self.is(Mistake::WaitFromAsking) { asked } else { now };
                self.b_sees(*row, at);
            }
            Message::Wrote(mark, found) => {
                let Some(pending) = self.b.pending.take_if(|pending| pending.write.row.nonce == mark) else { return };
                let row = found.map_or_else(|| pending.write.row.clone(), |found| *found);
                self.b.pending = Some(pending);
                self.b_sees(row, now);
            }
            _ => {}
        }
    }

    fn b_sees(&mut self, row: Row, at: Moment) {
        if self.b.row.as_ref().is_some_and(|known| known.rev > row.rev) {
            return;
        }
        self.b.vigil.saw(row.epoch, row.beat, at);
        self.b.holds = row.is_held_by(&holder("b"));
        let own = self.b.pending.as_ref().is_some_and(|pending| pending.write.row.nonce == row.nonce);
        self.b.by_own_write |= own && self.b.holds;
        // Applied, or never to be: the row has moved.
        self.b.pending.take_if(|pending| pending.write.row.rev <= row.rev);
        self.b.row = Some(row);
    }
}
