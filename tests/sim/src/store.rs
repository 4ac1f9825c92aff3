//! The table as DynamoDB keeps it: one row with exact conditional writes and strong reads, heartbeat items, history. And
//! the way there, as `lease::table` goes it: tries within a budget, of which any may be lost, answered in vain, or land late.
//!
//! No read of the table is stale here, because none that ships may be: `lease::table` asks for consistent reads in `get`, by
//! which the row, configurations and heartbeats are read, and in `history`. What may be out of date are EC2's descriptions.

use crate::dice::Dice;
use crate::report::outcome;
use crate::trace::Us;
use crate::weather::Noise;
use crate::world::{Happening, Message, Who, World};
use lease::change::{Expect, Write};
use lease::heartbeat::Heartbeat;
use lease::outcome::Outcome;
use lease::record::Row;
use lease::time::Moment;
use node::event::{Event, Ticket};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// `lease::table`'s pace: pauses between tries, and the shortest try that is worth its price.
const FIRST_PAUSE: Us = 25_000;
const LONGEST_PAUSE: Us = 400_000;
const SHORTEST_TRY: Us = 40_000;
const SHORTEST_LIMIT: Us = 300_000;
/// How long after its time-out a request may still be applied. Nothing in DynamoDB's documentation bounds it.
const LATEST: Us = 20_000_000;

/// What is wrong between one client and the table. Counters: faults overlap.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path {
    pub cut: u32,
    pub mute: u32,
    pub throttled: u32,
    /// Every request is refused at once, for good.
    pub denied: u32,
    /// Each way takes up to this much longer.
    pub slow: Us,
}

#[derive(Debug, Default)]
pub struct Store {
    pub row: Option<Arc<Row>>,
    pub heartbeats: Vec<Option<(u64, Arc<Heartbeat>)>>,
    pub history: Vec<(String, String, Value)>,
    /// A copy that somebody has made of the row.
    pub backup: Option<Arc<Row>>,
    /// The row, while another or none stands in its place.
    pub away: Option<Arc<Row>>,
    pub away_since: Us,
    /// Whoever says from now on that the row is not what it was, may be right.
    pub tampered: bool,
    /// One for each node, and the last one for the functions.
    pub paths: Vec<Path>,
    writes: BTreeMap<u64, RowWrite>,
    count: u64,
    pub reads: u64,
    pub applied: u64,
    pub refused: u64,
}

impl Store {
    #[must_use]
    pub fn new(hosts: usize) -> Self {
        Self { heartbeats: vec![None; hosts], paths: vec![Path::default(); hosts + 1], ..Self::default() }
    }
}

/// A write under way, as its client sees it.
#[derive(Debug)]
struct RowWrite {
    who: Who,
    want: Want,
    write: Arc<Write>,
    budget: Us,
    deadline: Us,
    pause: Us,
    tries: u32,
    unanswered: bool,
}

/// What the client does with the answer.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    Ticket(Ticket),
    Asked(Moment),
    /// A call of a function's run.
    Call(u32),
}

/// How one try was answered.
#[derive(Clone, Debug)]
pub enum Tried {
    Applied,
    Conflict(Option<Arc<Row>>),
    TurnedAway,
    Denied,
}

/// A request on its way to the table, or what the client learns of it.
#[derive(Clone, Debug)]
pub enum AtTable {
    /// `late`: when its answer comes, nobody waits for it any more.
    Write {
        id: u64,
        who: Who,
        tries: u32,
        write: Arc<Write>,
        sent: Us,
        back: Option<Us>,
        late: bool,
    },
    Read {
        who: Who,
        want: Want,
        back: Option<Us>,
    },
    Heartbeat {
        host: usize,
        seq: u64,
        heartbeat: Arc<Heartbeat>,
    },
}

enum Fate {
    Answered { there: Us, back: Us },
    AnswerLost { there: Us },
    Never,
    TurnedAway { after: Us },
    Denied { after: Us },
}

/// A few milliseconds, now and then a tail.
fn way(dice: &mut Dice) -> Us {
    if dice.below(50) == 0 { dice.between(10_000, 120_000) } else { dice.between(1_500, 6_000) }
}

impl Path {
    fn fate(self, noise: &Noise, dice: &mut Dice) -> Fate {
        if self.cut > 0 {
            // What a connection has taken may still come through, when nobody waits for it any more.
            let queued = dice.below(3) == 0;
            return if queued { Fate::AnswerLost { there: dice.skewed(300_000, LATEST) } } else { Fate::Never };
        }
        if self.denied > 0 {
            return Fate::Denied { after: way(dice) };
        }
        if self.throttled > 0 && dice.below(4) != 0 {
            return Fate::TurnedAway { after: way(dice) };
        }
        let slow = |dice: &mut Dice| way(dice) + if self.slow > 0 { dice.below(self.slow) } else { 0 };
        let there = slow(dice);
        if self.mute > 0 {
            return Fate::AnswerLost { there };
        }
        if dice.happens(noise.table) {
            return match dice.below(8) {
                0 => Fate::Never,
                1 => Fate::AnswerLost { there },
                // Lands long after everybody has stopped waiting.
                2 | 3 => Fate::AnswerLost { there: dice.skewed(200_000, LATEST) },
                4 => Fate::TurnedAway { after: there },
                _ => Fate::Answered { there, back: dice.skewed(50_000, 700_000) },
            };
        }
        Fate::Answered { there, back: slow(dice) }
    }
}

impl World {
    pub(crate) fn path(&self, who: &Who) -> Path {
        self.store.paths[match who {
            Who::Node { host, .. } => *host,
            Who::Run { .. } => self.hosts.len(),
        }]
    }

    pub(crate) fn row_write(&mut self, who: Who, want: Want, write: Arc<Write>, budget_ms: u64) {
        self.store.count += 1;
        let id = self.store.count;
        let budget = budget_ms * 1_000;
        let deadline = self.now + budget;
        let call = RowWrite { who, want, write, budget, deadline, pause: FIRST_PAUSE, tries: 0, unanswered: false };
        self.store.writes.insert(id, call);
        self.row_try(id);
    }

    pub(crate) fn row_try(&mut self, id: u64) {
        if let Some(Who::Node { host, .. }) = self.store.writes.get(&id).map(|call| call.who) {
            self.asks_table(host);
        }
        let Some(call) = self.store.writes.get_mut(&id) else { return };
        call.tries += 1;
        let (who, tries, write) = (call.who, call.tries, Arc::clone(&call.write));
        let left = call.deadline.saturating_sub(self.now);
        let limit = left.min((call.budget / 3).max(SHORTEST_LIMIT)).max(SHORTEST_TRY);
        let fate = match self.crossing.late.take_if(|_| tries == 1) {
            Some(there) => Fate::AnswerLost { there },
            None if matches!((self.crossing.muted, who), (Some((muted, until)), Who::Node { host, .. }) if host == muted && self.now < until) => {
                Fate::Never
            }
            None => self.path(&who).fate(&self.weather.noise, &mut self.dice),
        };
        let now = self.now;
        match fate {
            Fate::Denied { after } => {
                let what = Message::RowTried { id, tries, result: Tried::Denied };
                self.queue.push(now + after, Happening::To { who, what });
            }
            Fate::Never => {
                self.counts.requests_lost += 1;
                self.counts.outcomes.one(outcome(false, false));
            }
            Fate::TurnedAway { after } => {
                if after > limit {
                    self.counts.outcomes.one(outcome(false, true));
                }
                let what = Message::RowTried { id, tries, result: Tried::TurnedAway };
                self.queue.push(now + after, Happening::To { who, what });
            }
            Fate::Answered { there, back } => {
                let late = there + back > limit;
                let at = AtTable::Write { id, who, tries, write, sent: now, back: Some(back), late };
                self.queue.push(now + there, Happening::AtTable(at));
            }
            Fate::AnswerLost { there } => {
                self.counts.answers_lost += 1;
                let at = AtTable::Write { id, who, tries, write, sent: now, back: None, late: false };
                self.queue.push_late(now + there, Happening::AtTable(at));
            }
        }
        self.queue.push(now + limit, Happening::To { who, what: Message::RowLimit { id, tries } });
    }

    pub(crate) fn row_read(&mut self, who: Who, want: Want, patience_ms: u64) {
        if let Who::Node { host, .. } = who {
            self.asks_table(host);
        }
        let fate = self.path(&who).fate(&self.weather.noise, &mut self.dice);
        match fate {
            Fate::Answered { there, back } => {
                self.queue.push(self.now + there, Happening::AtTable(AtTable::Read { who, want, back: Some(back) }));
            }
            Fate::Denied { after } => {
                self.queue.push(self.now + after, Happening::To { who, what: Message::RowRead { want, row: None } });
            }
            // Reads are tried again within the patience; here a lost one uses it up.
            Fate::AnswerLost { .. } | Fate::Never | Fate::TurnedAway { .. } => {
                let what = Message::RowRead { want, row: None };
                self.queue.push(self.now + patience_ms * 1_000, Happening::To { who, what });
            }
        }
    }

    pub(crate) fn at_table(&mut self, what: AtTable) {
        match what {
            AtTable::Write { id, who, tries, write, sent, back, late } => {
                // Restoring a table takes minutes: no request of before is still on its way.
                if self.store.away.is_some() && sent < self.store.away_since {
                    self.counts.outcomes.one(outcome(false, false));
                    return;
                }
                let result = self.apply(&write, who);
                let applied = matches!(result, Tried::Applied);
                self.trace.mark(self.now, id * 2 + u64::from(applied));
                if late || back.is_none() {
                    self.counts.outcomes.one(outcome(applied, late));
                }
                if let Some(back) = back {
                    let what = Message::RowTried { id, tries, result };
                    self.queue.push(self.now + back, Happening::To { who, what });
                }
            }
            AtTable::Read { who, want, back } => {
                self.store.reads += 1;
                let row = Some(self.store.row.clone());
                if let Some(back) = back {
                    self.queue.push(self.now + back, Happening::To { who, what: Message::RowRead { want, row } });
                }
            }
            AtTable::Heartbeat { host, seq, heartbeat } => {
                let item = &mut self.store.heartbeats[host];
                *item = Some((seq, heartbeat));
            }
        }
    }

    /// One conditional write, exactly as DynamoDB does it.
    fn apply(&mut self, write: &Write, who: Who) -> Tried {
        let matches = match (&write.expect, &self.store.row) {
            (Expect::Absent, None) => true,
            (Expect::Version(seen), Some(row)) => seen.rev == row.rev && seen.nonce == row.nonce,
            _ => false,
        };
        if !matches {
            self.store.refused += 1;
            return Tried::Conflict(self.store.row.clone());
        }
        self.store.applied += 1;
        let before = self.store.row.replace(Arc::new(write.row.clone()));
        self.row_changed(before.as_deref(), who);
        Tried::Applied
    }

    /// One try of a write has an answer for its client.
    pub(crate) fn row_tried(&mut self, id: u64, tries: u32, result: Tried) {
        let Some(call) = self.store.writes.get(&id).filter(|call| call.tries == tries) else { return };
        let outcome = match result {
            Tried::Applied => Outcome::Applied(Box::new(call.write.row.clone())),
            Tried::Conflict(found) => {
                let found = found.map(|row| Box::new(Row::clone(&row)));
                Outcome::of_conflict(&call.write, found, call.unanswered)
            }
            Tried::TurnedAway => return self.row_again(id, "throttled"),
            // As `lease::table`: what no second try helps is told at once.
            Tried::Denied => {
                let problem = "access denied".to_owned();
                if call.unanswered { Outcome::Unknown { problem } } else { Outcome::NotApplied { problem } }
            }
        };
        self.row_settled(id, outcome);
    }

    /// One try has taken too long.
    pub(crate) fn row_limit(&mut self, id: u64, tries: u32) {
        let Some(call) = self.store.writes.get_mut(&id).filter(|call| call.tries == tries) else { return };
        call.unanswered = true;
        self.row_again(id, "no answer");
    }

    fn row_again(&mut self, id: u64, problem: &str) {
        let Some(call) = self.store.writes.get_mut(&id) else { return };
        let pause = self.dice.below(call.pause + 1);
        call.pause = (call.pause * 2).min(LONGEST_PAUSE);
        if call.deadline.saturating_sub(self.now) < pause + SHORTEST_TRY {
            let problem = problem.to_owned();
            let outcome = if call.unanswered { Outcome::Unknown { problem } } else { Outcome::NotApplied { problem } };
            return self.row_settled(id, outcome);
        }
        // The answer of a try that was given up comes to nobody.
        call.tries += 1;
        let who = call.who;
        self.queue.push(self.now + pause, Happening::To { who, what: Message::RowAgain { id } });
    }

    fn row_settled(&mut self, id: u64, outcome: Outcome) {
        let Some(call) = self.store.writes.remove(&id) else { return };
        match (call.who, call.want) {
            (Who::Node { host, .. }, Want::Ticket(ticket)) => self.step(host, Event::Written { ticket, outcome }),
            (Who::Run { run }, Want::Call(call)) => self.answer(run, call, crate::cloud::Answer::Written(outcome)),
            _ => unreachable!("nodes write with tickets, functions by calls"),
        }
    }

    /// A process is gone, and its requests with it; what they have sent is on its way all the same.
    pub(crate) fn forget_writes(&mut self, gone: Who) {
        self.store.writes.retain(|_, call| call.who != gone);
    }
}
