//! Figures: of one seed, and of all of them.

use crate::trace::Us;
use crate::weather::Kind;
use serde_json::{Value, json};

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub simulated: Us,
    pub events: u64,
    pub steps: u64,
    /// Epochs taken by a nominee, given away by a holder, taken anew by the same node.
    pub failovers: u64,
    pub hand_overs: u64,
    pub restarts: u64,
    pub activations: u64,
    pub lossy: u64,
    pub acknowledged: u64,
    pub reads: u64,
    pub answered: u64,
    pub unanswered: u64,
    pub resyncs: u64,
    pub reboots: u64,
    pub routes: u64,
    pub runs: u64,
    pub runs_killed: u64,
    pub runs_frozen: u64,
    pub late_calls: u64,
    pub unanswered_calls: u64,
    pub requests_lost: u64,
    pub answers_lost: u64,
    pub messages_lost: u64,
    pub events_lost: u64,
    pub events_doubled: u64,
    pub events_late: u64,
    /// The longest time from the end of faults to whole service.
    pub longest_heal: Us,
    /// The most requests that one node sent to the table within a second.
    pub busiest: u64,
    pub faults: PerKind,
}

/// How often each kind of fault was injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerKind(pub [u64; Kind::ALL.len()]);

impl Default for PerKind {
    fn default() -> Self {
        Self([0; Kind::ALL.len()])
    }
}

impl Counts {
    pub fn fault(&mut self, kind: Kind) {
        self.faults.0[kind as usize] += 1;
    }

    pub fn add(&mut self, other: &Self) {
        macro_rules! sum { ($($field:ident),*) => { $(self.$field += other.$field;)* } }
        sum!(
            simulated,
            events,
            steps,
            failovers,
            hand_overs,
            restarts,
            activations,
            lossy,
            acknowledged,
            reads,
            answered,
            unanswered,
            resyncs,
            reboots,
            routes,
            runs,
            runs_killed,
            runs_frozen,
            late_calls,
            unanswered_calls,
            requests_lost,
            answers_lost,
            messages_lost,
            events_lost,
            events_doubled,
            events_late
        );
        self.longest_heal = self.longest_heal.max(other.longest_heal);
        self.busiest = self.busiest.max(other.busiest);
        for (mine, theirs) in self.faults.0.iter_mut().zip(other.faults.0) {
            *mine += theirs;
        }
    }

    #[must_use]
    pub fn all_faults(&self) -> u64 {
        let noise = self.requests_lost + self.answers_lost + self.messages_lost + self.events_lost;
        let more = self.events_doubled + self.events_late + self.unanswered_calls + self.runs_killed + self.runs_frozen;
        self.faults.0.iter().sum::<u64>() + noise + more
    }

    #[must_use]
    pub fn hours(&self) -> f64 {
        self.simulated as f64 / 3.6e9
    }

    #[must_use]
    pub fn json(&self) -> Value {
        let faults = Kind::ALL.iter().map(|kind| (kind.name().to_owned(), json!(self.faults.0[*kind as usize])));
        json!({
            "simulated_hours": (self.hours() * 1e3).round() / 1e3, "events": self.events, "machine_steps": self.steps,
            "failovers": self.failovers, "hand_overs": self.hand_overs, "restarts": self.restarts, "lossy": self.lossy,
            "writes_acknowledged": self.acknowledged, "reads": self.reads, "resyncs": self.resyncs,
            "function_runs": self.runs, "routes_moved": self.routes, "reboots": self.reboots,
            "most_requests_a_second": self.busiest, "longest_heal_s": self.longest_heal as f64 / 1e6, "faults_total": self.all_faults(),
            "noise": {
                "requests lost": self.requests_lost, "answers lost or late": self.answers_lost,
                "messages lost": self.messages_lost, "events lost": self.events_lost,
                "events doubled": self.events_doubled, "events late": self.events_late,
                "EC2 calls unanswered": self.unanswered_calls, "EC2 calls applied late": self.late_calls,
                "functions killed": self.runs_killed, "functions frozen": self.runs_frozen,
            },
            "faults": Value::Object(faults.collect()),
        })
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut faults: Vec<_> = Kind::ALL.iter().map(|kind| (self.faults.0[*kind as usize], kind.name())).collect();
        faults.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        let faults: Vec<_> = faults.iter().map(|(count, name)| format!("  {count:>9}  {name}")).collect();
        let noise = format!(
            "  {:>9}  requests lost\n  {:>9}  answers lost or late\n  {:>9}  messages between nodes lost\n  {:>9}  events lost, doubled or late\n  \
             {:>9}  EC2 calls unanswered, {} of them applied late\n  {:>9}  functions killed or frozen",
            self.requests_lost,
            self.answers_lost,
            self.messages_lost,
            self.events_lost + self.events_doubled + self.events_late,
            self.unanswered_calls,
            self.late_calls,
            self.runs_killed + self.runs_frozen
        );
        format!(
            "{:.1} simulated hours, {} events, {} steps of machines\n{} failovers ({} with loss accepted), {} hand-overs, \
             {} restarts of a holder, {} function runs, {} routes moved\n{} writes acknowledged, {} reads checked, {} resyncs; \
             longest way back to whole service {:.1} s; at most {} requests of a node to the table in a second\nfaults injected:\n{}\nand on the way:\n{}",
            self.hours(),
            self.events,
            self.steps,
            self.failovers,
            self.lossy,
            self.hand_overs,
            self.restarts,
            self.runs,
            self.routes,
            self.acknowledged,
            self.reads,
            self.resyncs,
            self.longest_heal as f64 / 1e6,
            self.busiest,
            faults.join("\n"),
            noise
        )
    }
}
