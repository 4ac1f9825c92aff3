//! The node's machine: pure. Events come in with the moment of their arrival, effects come out; nothing else happens.
//!
//! ```text
//!  Starting ──first row──▶ Standby ──nominated, may accept, CAS──▶ Holding (see `tenure`)
//!                            ▲ │  ──row names me (hand-over)─────▶   │
//!                            │ │  ──row still names me: Restart──▶   │ authority ended, fenced, row moved
//!                            │ └──shut down──▶ Gone                  ▼
//!                            └────────workload down────────────── Demoting ──will not end──▶ Halted (reboot)
//! ```
//!
//! Each step ends with the same checks ([`Node::check`]): a broken one is a bug, and a node with a bug in here stops.

mod desk;
pub mod effect;
pub mod event;
mod holder;
mod links;
pub mod rules;
mod standby;
pub mod tenure;
pub mod view;

use desk::Desk;
use effect::{Effect, Note};
use event::{Event, Outcome, Replica, Ticket};
use lease::accept::Vigil;
use lease::authority::Standing;
use lease::change::{Change, Expect, Refusal, Terms, Write};
use lease::config::Member;
use lease::events::{self, EVENT_VERSION};
use lease::ids::{ClusterId, Epoch, Incarnation, NodeId, Rev};
use lease::policy::Policy;
use lease::record::{Holder, Row};
use lease::rules::Rule;
use lease::time::{Millis, Moment};
use links::Links;
use rules::Sequel;
use std::collections::BTreeMap;
use tenure::{Tenure, Workload};

/// The machine must see a `Tick` at least this often: half the smallest margin that it acts within.
pub const TICK: Millis = Millis(50);
/// Pause between two tries of a write or read that got no answer.
const RETRY: Millis = Millis(250);
/// A hint that matters is repeated this often: events may be lost, and nothing else is.
const REPEAT: Millis = Millis(2_000);
/// A hint that only informs (the holder is cut off from the table, no row yet) is repeated this often.
const REMIND: Millis = Millis(30_000);

/// What a node knows before it has read anything.
#[derive(Clone, Debug)]
pub struct Setup {
    pub cluster: ClusterId,
    pub me: Holder,
    pub members: Vec<Member>,
    pub policy: Policy,
    /// Data is replicated: this node takes an epoch, serves and stands ready only as `Event::Replica` allows.
    pub volumes: bool,
    /// Random, new for each process; letters, digits and '-', at most 40.
    pub nonce_prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Role {
    Starting,
    Standby,
    Holding(Box<Tenure>),
    /// The workload is being killed; until it is, this node takes part in nothing.
    Demoting {
        epoch: Epoch,
        why: String,
    },
    /// A reboot was asked for.
    Halted {
        why: String,
    },
    Gone,
}

/// One node of one cluster. Owns all its state.
#[derive(Clone, Debug)]
pub struct Node {
    setup: Setup,
    role: Role,
    /// The latest row seen, and when.
    row: Option<Row>,
    row_at: Moment,
    vigil: Vigil,
    links: Links,
    desk: Desk,
    /// The data, as the replication core last told, and whether it has. Without volumes nobody asks.
    replica: Replica,
    replica_told: bool,
    /// When its promise last rose: a row that was asked for before may well be older.
    promised_at: Moment,
    /// Since when the copies of these members are out of reach.
    missing_since: BTreeMap<Incarnation, Moment>,
    /// The highest epoch that this node held, in this process or an earlier one: never resumed.
    past: Option<Epoch>,
    /// The version of the row that an earlier process may have accepted without this one's knowing.
    claim: Option<Rev>,
    /// Set while an epoch is about to be asked for: by which number the replication is to say that it takes nothing more.
    closing: Option<u64>,
    closings: u64,
    wants_closed: bool,
    /// Asked to end, since then.
    ending: Option<Moment>,
    /// The last suspicion told: of which (epoch, beat), whether the peer link worked, when.
    told: Option<standby::Told>,
    /// The row that this node belongs to is gone, or another lineage stands in its place: nothing is wanted until it is back.
    barred: bool,
    /// When the last `Node Joined` went out while the cluster had no row.
    joined_at: Option<Moment>,
    out: Vec<Effect>,
}

impl Node {
    #[must_use]
    pub fn new(setup: Setup, now: Moment) -> Self {
        let peers = setup.members.iter().map(|member| member.name.clone()).filter(|name| *name != setup.me.node);
        Self {
            links: Links::to(peers),
            desk: Desk::new(setup.nonce_prefix.clone()),
            setup,
            role: Role::Starting,
            row: None,
            row_at: now,
            replica: Replica::default(),
            replica_told: false,
            promised_at: now,
            missing_since: BTreeMap::new(),
            vigil: Vigil::started(now),
            past: None,
            claim: None,
            closing: None,
            closings: 0,
            wants_closed: false,
            ending: None,
            told: None,
            joined_at: None,
            barred: false,
            out: Vec::new(),
        }
    }

    /// Takes one event in and gives out what it causes, in order.
    pub fn step(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        // Whatever the event: a right that has run out is gone before anything is decided on it.
        self.close_gate_when_due(now);
        match event {
            Event::Tick => {}
            Event::RowRead { asked, row } => self.row_read(asked, row.map(|row| *row), now),
            Event::RowUnreadable { problem } => {
                self.desk.reading = None;
                self.desk.failed_at = Some(now);
                self.row_trouble("cannot read the lease row", &problem);
            }
            Event::Written { ticket, outcome } => self.written(ticket, outcome, now),
            Event::Pinged { from, ping } => self.pinged(&from, &ping, now),
            Event::Ponged { from, pong } => self.ponged(&from, &pong, now),
            Event::Nudged { .. } => self.desk.read_wanted = true,
            Event::LinkLost { node } => self.links.lost(&node),
            Event::WorkloadUp { epoch } => self.workload_up(epoch),
            Event::WorkloadDown => self.workload_down(now),
            Event::WorkloadStuck { problem } => self.halt(format!("the workload does not end: {problem}")),
            Event::ResourceFailed { epoch, resource, reason } => self.resource_failed(epoch, resource, reason, now),
            Event::Replica(replica) => {
                if replica.promised > self.replica.promised {
                    self.promised_at = now;
                }
                self.missing_since.retain(|member, _| replica.missing.contains(member));
                for member in &replica.missing {
                    self.missing_since.entry(member.clone()).or_insert(now);
                }
                if !std::mem::replace(&mut self.replica_told, true) {
                    self.desk.read_wanted = true;
                }
                self.replica = replica;
            }
            Event::ShutDown => {
                self.ending.get_or_insert(now);
            }
        }
        self.carry_on(now);
        self.check(now);
        std::mem::take(&mut self.out)
    }

    /// What is due at `now`, whatever happened.
    fn carry_on(&mut self, now: Moment) {
        self.resend_when_due(now);
        self.wants_closed = false;
        match &self.role {
            Role::Holding(_) => self.hold(now),
            Role::Starting | Role::Standby => self.stand_by(now),
            Role::Demoting { .. } | Role::Halted { .. } | Role::Gone => {}
        }
        if !self.wants_closed {
            self.closing = None;
        } else if self.closing.is_none() {
            self.closings += 1;
            self.closing = Some(self.closings);
        }
        self.read_when_due(now);
    }

    // --- the row -----------------------------------------------------------------------------------------------

    fn row_read(&mut self, asked: Moment, row: Option<Row>, now: Moment) {
        self.desk.reading = None;
        self.desk.read_at = Some(asked);
        self.desk.failed_at = None;
        self.desk.problem = None;
        match row {
            Some(row) => {
                // A row of an earlier process's write that only now shows: what is pending is settled by it, if it can be.
                if let Some(applied) = self.desk.settled_by(&row) {
                    let pending = self.desk.pending.take().expect("something pending was settled");
                    self.settled(pending.change, pending.sent, applied, row, now);
                } else if self.row.as_ref().is_some_and(|known| row.rev < known.rev)
                    && asked.monotonic_raw_us > self.row_at.monotonic_raw_us
                {
                    // Reads are strongly consistent: what was asked for after the newer one was seen cannot be older.
                    self.gone_back(format!("its rev is {} again", row.rev));
                } else {
                    self.adopt(row, asked, now);
                }
            }
            None if self.row.is_some() => self.lost_row(now),
            None => self.join(now),
        }
    }

    fn written(&mut self, ticket: Ticket, outcome: Outcome, now: Moment) {
        let Some(mut pending) = self.desk.pending.take_if(|pending| pending.ticket == ticket) else { return };
        match outcome {
            Outcome::Applied(row) => self.settled(pending.change, pending.sent, true, *row, now),
            Outcome::Superseded { found } | Outcome::Refused { found: Some(found) } => {
                let applied = rules::is_in(&pending.write, &found);
                self.settled(pending.change, pending.sent, applied, *found, now);
            }
            Outcome::Refused { found: None } => self.lost_row(now),
            // Certain of this try only: an earlier one that went unanswered may still land.
            Outcome::NotApplied { problem } if !pending.unanswered => {
                self.row_trouble("the lease row was not written", &problem);
                self.desk.denied_at = Some(now);
                self.desk.read_wanted = true;
            }
            Outcome::NotApplied { problem } | Outcome::Unknown { problem } => {
                pending.unanswered = true;
                pending.in_flight = false;
                pending.idle_since = now;
                self.desk.pending = Some(pending);
                self.row_trouble("no answer to a write of the lease row", &problem);
            }
        }
    }

    /// A write of this node is settled: applied, or never to be applied any more. `row` is the row as it is.
    fn settled(&mut self, change: Change, sent: Moment, applied: bool, row: Row, now: Moment) {
        self.desk.problem = None;
        if !applied {
            let older = self.row.as_ref().is_some_and(|known| row.rev < known.rev);
            if older {
                // Either this answer was overtaken by a read, or the row went back: a new read tells which.
                self.desk.read_wanted = true;
                self.desk.denied_at = Some(now);
            } else if let Role::Holding(tenure) = &mut self.role {
                tenure.beat_due = true;
            }
            self.adopt(row, sent, now);
            return;
        }
        match (Sequel::of(&change), change) {
            (Sequel::Holds, _) => {
                let before = self.row.clone();
                self.take_over(row, before.as_ref(), Some(sent), now);
            }
            (Sequel::StandsBy, Change::HandOver { to, .. }) => {
                self.remember(row, now);
                self.become_standby(format!("handed over to {}", to.node));
                self.out.push(Effect::Nudge { to: to.node });
            }
            (Sequel::StandsBy, _) => {
                let epoch = row.epoch;
                self.remember(row, now);
                self.become_standby("released the lease".into());
                self.emit(events::Event::HandoverRequested(events::HandoverRequested {
                    v: EVENT_VERSION,
                    cluster: self.setup.cluster.clone(),
                    node: self.setup.me.node.clone(),
                    epoch,
                    released: true,
                    reason: "this node stops in order and no peer was ready".into(),
                }));
                for to in self.links.names() {
                    self.out.push(Effect::Nudge { to });
                }
            }
            (Sequel::HoldsOn | Sequel::Nothing, change) => {
                self.remember(row, now);
                self.renewed(&change, sent, now);
            }
        }
    }

    /// A row that this node did not write. It was asked for at `asked`, and shows the table at some time since.
    fn adopt(&mut self, row: Row, asked: Moment, now: Moment) {
        if self.setup.volumes && !self.replica_told {
            // What the data was promised to says whether this row is the cluster's at all. It is read again then.
            return;
        }
        if let Some(known) = &self.row {
            if known.lineage != row.lineage {
                let why = format!("its lineage changed from {} to {}", known.lineage, row.lineage);
                self.gone_back(why);
                return;
            }
            if row.rev < known.rev {
                return;
            }
            if row.epoch < known.epoch {
                let why = format!("its epoch went from {} to {}", known.epoch, row.epoch);
                self.gone_back(why);
                return;
            }
        }
        if self.setup.volumes && row.epoch < self.replica.promised {
            if asked.monotonic_raw_us < self.promised_at.monotonic_raw_us {
                // This answer was overtaken by the new holder's first word to the data, or the row went back: a new read tells which.
                self.desk.read_wanted = true;
                return;
            }
            let why = format!("it is at epoch {}, this node's data at {}", row.epoch, self.replica.promised);
            self.gone_back(why);
            return;
        }
        let starting = self.role == Role::Starting;
        let before = self.row.clone();
        self.remember(row, now);
        let row = self.row.as_ref().expect("it was just remembered");
        let (epoch, mine) = (row.epoch, row.is_held_by(&self.setup.me));
        match &self.role {
            Role::Starting => {
                // Whatever epoch the row gives this node belongs to an earlier process.
                self.past = mine.then_some(epoch);
                // Nominated: an earlier process may have sent an acceptance of exactly this version, which may still land.
                self.claim = rules::claim_on(row, &self.setup.me.node);
                self.role = Role::Standby;
                self.became("starting", epoch, "the row was read".into());
                self.announce();
            }
            Role::Holding(tenure) if tenure.epoch != epoch || !mine => {
                let holder = row.holder.as_ref().map_or("nobody", |holder| holder.node.as_str());
                let why = format!("epoch {epoch} is held by {holder}");
                self.demote(why);
            }
            _ => {}
        }
        let past = self.past.max(self.setup.volumes.then_some(self.replica.promised));
        let handed_over = self.row.as_ref().is_some_and(|row| rules::is_handed_over(row, &self.setup.me, past));
        if !starting && self.role == Role::Standby && handed_over {
            // No earlier process can have held an epoch that began while this one watched, and that no data here was promised to.
            let row = self.row.clone().expect("it was just remembered");
            self.take_over(row, before.as_ref(), None, now);
        }
    }

    /// It is the row that this node belongs to, as it stands.
    fn remember(&mut self, row: Row, now: Moment) {
        self.barred = false;
        self.row_at = now;
        self.vigil.saw(row.epoch, row.beat, now);
        self.row = Some(row);
    }

    /// The row is not the one that this node has taken part in, or an older state of it. Epochs of it may be given twice.
    fn gone_back(&mut self, why: String) {
        self.trouble(format!(
            "the row is not what it was ({why}): the table was restored or the cluster made anew; this node takes no part"
        ));
        self.barred = true;
        self.demote(format!("the row is not what it was: {why}"));
    }

    fn lost_row(&mut self, _now: Moment) {
        self.trouble(
            "the cluster's lease row is gone: somebody deleted it; restore it or found the cluster anew".into(),
        );
        self.barred = true;
        self.demote("the lease row is gone".into());
    }

    /// Proposes a change on the row as this node knows it. False: something else is pending, or it is not legal.
    fn propose(&mut self, change: Change, now: Moment) -> bool {
        let denied = self.desk.denied_at.is_some_and(|at| now.longest_since(at) < RETRY);
        if self.desk.pending.is_some() || denied {
            return false;
        }
        let Some(row) = &self.row else { return false };
        let nonce = self.desk.nonce();
        match change.on(row, nonce) {
            Ok(write) if self.is_overtaken(&write) => {
                self.desk.denied_at = Some(now);
                self.desk.read_wanted = true;
                false
            }
            Ok(write) => {
                let ticket = self.desk.take(change, write.clone(), now);
                self.out.push(Effect::Write { ticket, write: Box::new(write) });
                true
            }
            Err(refusal) => {
                self.refused(&refusal);
                false
            }
        }
    }

    /// What this node wanted is not legal on the row it knows: the row it knows is old, or there is nothing to do.
    fn refused(&mut self, refusal: &Refusal) {
        self.trouble(format!("not done: {refusal}"));
        self.desk.read_wanted = true;
    }

    fn resend_when_due(&mut self, now: Moment) {
        let due = self
            .desk
            .pending
            .as_ref()
            .is_some_and(|pending| !pending.in_flight && now.longest_since(pending.idle_since) >= RETRY);
        // On a row that went back, or is put back, an old write of this node's might be legal again.
        let overtaken = self.desk.pending.as_ref().is_some_and(|pending| self.is_overtaken(&pending.write));
        if due && (self.barred || overtaken) {
            // A read tells whether an earlier try was applied. This one could be only if the row went back to where it was legal.
            if let Some(pending) = &mut self.desk.pending {
                pending.idle_since = now;
            }
            self.desk.read_wanted = true;
            return;
        }
        if due && let Some((ticket, write)) = self.desk.again() {
            self.out.push(Effect::Write { ticket, write: Box::new(write) });
            // The read settles what the write alone might not: whether the row has moved.
            self.desk.read_wanted = true;
        }
    }

    /// Whether this write would take an epoch that somebody else is known to hold or to have held: by this node's data, which
    /// promised it, or by a ping. Nothing that leads there is legal any more, whatever row a restored table may show.
    fn is_overtaken(&self, write: &Write) -> bool {
        let takes = matches!(&write.expect, Expect::Version(seen) if write.row.epoch > seen.epoch);
        let promised = self.setup.volumes && self.replica.promised >= write.row.epoch;
        takes && (promised || self.vigil.latest().is_some_and(|(epoch, _)| epoch >= write.row.epoch))
    }

    fn read_when_due(&mut self, now: Moment) {
        if self.desk.reading.is_some() {
            return;
        }
        let since_failure = self.desk.failed_at.map(|at| now.longest_since(at));
        if since_failure.is_some_and(|since| since < RETRY) {
            return;
        }
        let since_read = self.desk.read_at.map(|at| now.longest_since(at));
        let due = self.desk.read_wanted
            || since_read.is_none_or(|since| self.reads_every(now).is_some_and(|every| since >= every));
        if due {
            self.desk.reading = Some(now);
            self.desk.read_wanted = false;
            self.out.push(Effect::Read);
        }
    }

    // --- roles -------------------------------------------------------------------------------------------------

    fn become_standby(&mut self, why: String) {
        let from = self.role_name();
        self.past = self.past.max(self.held_epoch());
        self.role = Role::Standby;
        self.became(from, self.epoch(), why);
        self.out.push(Effect::Heartbeat);
        // Nothing that was read before counts any more.
        self.desk.read_at = None;
        self.desk.read_wanted = true;
    }

    /// This node holds `row`'s epoch. `sent`: when its own write that took it was sent; `None`: it was handed over.
    fn take_over(&mut self, row: Row, before: Option<&Row>, sent: Option<Moment>, now: Moment) {
        let from = self.role_name();
        let rule = self.rule_of_taking(before, &row);
        let others = row.in_sync.iter().filter(|member| **member != self.setup.me.incarnation).cloned();
        let mut tenure = Tenure::new(row.epoch, rule, others.clone(), now);
        if let Some(sent) = sent {
            tenure.authority.renewed(sent, row.ttl_ms);
            tenure.authority.proven(others, row.lossy_ok);
        }
        self.past = self.past.max(Some(row.epoch));
        self.links.new_epoch();
        // Said of an earlier epoch.
        self.replica.mirrored.clear();
        self.replica.missing.clear();
        self.missing_since.clear();
        if self.setup.volumes {
            self.out.push(Effect::Promise { epoch: row.epoch });
        }
        self.told = None;
        let asked = row.done_intent().map_or_else(String::new, |intent| format!(" ({})", intent.reason));
        let why = format!("holds epoch {}, {rule}: {}{asked}", row.epoch, rule.says());
        self.role = Role::Holding(Box::new(tenure));
        let epoch = row.epoch;
        self.remember(row, now);
        self.became(from, epoch, why);
        self.out.push(Effect::Heartbeat);
    }

    fn rule_of_taking(&self, before: Option<&Row>, row: &Row) -> Rule {
        // A hand-over leaves its request in the row until this node is active, however often it restarts before.
        if let Some(intent) = row.done_intent() {
            return intent.rule;
        }
        let by_me = self.past.is_some() && before.is_some_and(|before| before.is_held_by(&self.setup.me));
        if by_me && row.is_held_by(&self.setup.me) {
            return Rule::R120;
        }
        let nominated =
            before.and_then(|before| before.nominee.as_ref()).filter(|nominee| nominee.node == self.setup.me.node);
        let asked = before.and_then(|before| before.intent.as_ref()).filter(|intent| intent.to == self.setup.me.node);
        nominated.map(|nominee| nominee.rule).or(asked.map(|intent| intent.rule)).unwrap_or(Rule::R300)
    }

    /// The node stops serving for good in this epoch: addresses off, workload killed, nothing resumed.
    fn demote(&mut self, why: String) {
        if !matches!(self.role, Role::Holding(_)) {
            return;
        }
        let from = self.role_name();
        let epoch = self.held_epoch().expect("it was holding");
        self.past = self.past.max(Some(epoch));
        self.role = Role::Demoting { epoch, why: why.clone() };
        // Nothing is wanted in this epoch any more; a write still on its way meets the next one at the row's rev.
        self.desk.pending = None;
        self.out.push(Effect::DropAddress);
        self.out.push(Effect::KillWorkload);
        self.became(from, epoch, why);
        self.out.push(Effect::Heartbeat);
    }

    fn halt(&mut self, why: String) {
        let from = self.role_name();
        let epoch = self.epoch();
        self.past = self.past.max(self.held_epoch());
        self.role = Role::Halted { why: why.clone() };
        self.out.push(Effect::DropAddress);
        self.became(from, epoch, why.clone());
        self.out.push(Effect::Reboot { reason: why });
    }

    fn workload_down(&mut self, now: Moment) {
        match &mut self.role {
            Role::Demoting { why, .. } => {
                let why = format!("workload ended after: {why}");
                self.become_standby(why);
            }
            Role::Holding(tenure) => {
                tenure.workload = Workload::Down;
                self.drained(now);
            }
            Role::Starting | Role::Standby | Role::Halted { .. } | Role::Gone => {}
        }
    }

    // --- the gate ----------------------------------------------------------------------------------------------

    /// Closes by itself, asking nobody: freeze within the margin before the deadline, demote at it.
    fn close_gate_when_due(&mut self, now: Moment) {
        let margin = self.setup.policy.freeze_margin_ms;
        let Role::Holding(tenure) = &mut self.role else { return };
        if !tenure.serves() {
            return;
        }
        match tenure.authority.standing(now) {
            Standing::None => self.demote("the lease ran out and not all peers promise".into()),
            Standing::For(left) if left <= margin => {
                if !tenure.frozen {
                    tenure.frozen = true;
                    tenure.held_at = None;
                    self.out.push(Effect::DropAddress);
                    self.trouble(format!("authority ends in {left}: frozen"));
                }
            }
            Standing::For(_) | Standing::Alone => {
                if tenure.frozen && !tenure.is_drained() {
                    tenure.frozen = false;
                    self.trouble("authority is back: serving again".into());
                }
            }
        }
    }

    // --- small things ------------------------------------------------------------------------------------------

    fn join(&mut self, now: Moment) {
        if self.joined_at.is_none_or(|at| now.longest_since(at) >= REPEAT) {
            self.joined_at = Some(now);
            self.announce();
        }
    }

    fn announce(&mut self) {
        self.out.push(Effect::Heartbeat);
        self.emit(events::Event::NodeJoined(events::NodeJoined {
            v: EVENT_VERSION,
            cluster: self.setup.cluster.clone(),
            node: self.setup.me.node.clone(),
            instance: self.setup.me.instance.clone(),
            incarnation: self.setup.me.incarnation.clone(),
        }));
    }

    fn emit(&mut self, event: events::Event) {
        self.out.push(Effect::Emit(event));
    }

    /// What the row says may be old from here on, until it is read or written again.
    fn row_trouble(&mut self, what: &str, problem: &str) {
        let told = format!("{what}: {problem}");
        self.desk.problem = Some(told.clone());
        self.trouble(told);
    }

    fn trouble(&mut self, what: String) {
        let epoch = self.epoch();
        self.out.push(Effect::Note(Note::Trouble { epoch, what }));
    }

    fn became(&mut self, from: &'static str, epoch: Epoch, why: String) {
        let to = self.role_name();
        self.out.push(Effect::Note(Note::Became { from, to, epoch, why }));
    }

    fn terms(&self) -> Terms {
        Terms { ttl_ms: self.setup.policy.ttl_ms, lossy_ok: self.setup.policy.lossy_lag_limit_ms.is_some() }
    }

    fn held_epoch(&self) -> Option<Epoch> {
        match &self.role {
            Role::Holding(tenure) => Some(tenure.epoch),
            Role::Demoting { epoch, .. } => Some(*epoch),
            Role::Starting | Role::Standby | Role::Halted { .. } | Role::Gone => None,
        }
    }

    fn epoch(&self) -> Epoch {
        self.held_epoch().or(self.row.as_ref().map(|row| row.epoch)).unwrap_or_default()
    }

    fn holder(&self) -> Option<&NodeId> {
        self.row.as_ref()?.holder.as_ref().map(|holder| &holder.node)
    }

    /// What must hold after every step. A violation is a bug, and going on with it could lose writes.
    fn check(&self, now: Moment) {
        let Role::Holding(tenure) = &self.role else { return };
        let row = self.row.as_ref().expect("a holder has seen its row");
        // I2: the row's in-sync set is within need and myself.
        let needed = |member: &lease::ids::Incarnation| {
            *member == self.setup.me.incarnation || tenure.authority.need().any(|need| need == member)
        };
        assert!(row.epoch != tenure.epoch || row.in_sync.iter().all(needed), "I2: in_sync outgrew need");
        // I6: whoever may be reached has the right to serve.
        if tenure.serves() && !tenure.frozen {
            assert!(tenure.authority.standing(now) != Standing::None, "I6: serving without authority");
        }
        assert!(
            row.is_held_by(&self.setup.me) && row.epoch == tenure.epoch,
            "I1: holding an epoch that the row does not give"
        );
    }
}
