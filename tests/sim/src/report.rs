//! Figures: of one seed, and of all of them; and what a run of CI's size must have met.

use crate::stories::Story;
use crate::weather::Kind;
use serde_json::{Map, Value, json};

/// How often each of `N` things happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally<const N: usize>(pub [u64; N]);

impl<const N: usize> Default for Tally<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> Tally<N> {
    pub fn one(&mut self, which: usize) {
        self.0[which] += 1;
    }

    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    fn sum(&self) -> u64 {
        self.0.iter().sum()
    }

    fn named<'a>(&self, names: impl Iterator<Item = &'a str>) -> Vec<(String, u64)> {
        names.map(String::from).zip(self.0).collect()
    }
}

/// What became of a try to write the row that its client had no answer to in time; see [`outcome`].
const OUTCOMES: [&str; 4] = [
    "not applied, never answered",
    "not applied, answered too late",
    "applied, never answered",
    "applied, answered too late",
];

/// Which of [`OUTCOMES`].
#[must_use]
pub fn outcome(applied: bool, answered: bool) -> usize {
    usize::from(applied) * 2 + usize::from(answered)
}

/// What was deployed anew.
const DEPLOYED: [&str; 3] = ["timers deployed", "loss allowed, limited or forbidden", "members deployed"];
/// Whose disk was lost.
const DISKS: [&str; 3] = ["disk of a holder lost", "disk of a nominee lost", "disk of another lost"];

macro_rules! counts {
    ($($(#[$doc:meta])* $field:ident),* $(,)?) => {
        /// What was counted.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $field: u64,)*
            /// Most of all seeds: requests that one node sent to the table within a second.
            pub busiest: u64,
            /// Of each seed with faults in crowds: from their end to whole service, in milliseconds.
            pub recoveries: Vec<u64>,
            /// The most of its bound that a seed took for that, in thousandths.
            pub nearest: u64,
            /// Kinds of faults that were injected.
            pub faults: Tally<{ Kind::ALL.len() }>,
            /// Stories that were told.
            pub stories: Tally<{ Story::ALL.len() }>,
            pub outcomes: Tally<4>,
            pub deployed: Tally<3>,
            pub disks: Tally<3>,
        }

        impl Counts {
            pub fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
                self.busiest = self.busiest.max(other.busiest);
                self.recoveries.extend(&other.recoveries);
                self.nearest = self.nearest.max(other.nearest);
                self.faults.add(&other.faults);
                self.stories.add(&other.stories);
                self.outcomes.add(&other.outcomes);
                self.deployed.add(&other.deployed);
                self.disks.add(&other.disks);
            }
        }
    };
}

counts! {
    simulated,
    /// Clusters in which no volumes are configured.
    without_volumes,
    events,
    steps,
    /// Epochs by how they began: the first one; taken by a nominee from another node; after a release; given away by the
    /// holder; taken anew by the same node.
    foundings,
    failovers,
    after_release,
    hand_overs,
    restarts,
    activations,
    /// With loss accepted, of all.
    lossy,
    acknowledged,
    reads,
    answered,
    unanswered,
    resyncs,
    chunks_copied,
    /// Replicas that an operator made anew because they held what the holder lacked.
    decided,
    chunks_compared,
    connections,
    /// Of the replication's machines.
    volume_steps,
    reboots,
    routes,
    runs,
    runs_killed,
    runs_frozen,
    late_calls,
    unanswered_calls,
    /// Descriptions by EC2 that were not of the moment.
    old_descriptions,
    requests_lost,
    answers_lost,
    messages_lost,
    messages_doubled,
    messages_late,
    events_lost,
    events_doubled,
    events_late,
}

impl Counts {
    pub fn fault(&mut self, kind: Kind) {
        self.faults.one(kind as usize);
    }

    /// Faults that were injected. What single messages met on the way is not among them.
    #[must_use]
    pub fn all_faults(&self) -> u64 {
        self.faults.sum() + self.stories.sum()
    }

    #[must_use]
    pub fn hours(&self) -> f64 {
        self.simulated as f64 / 3.6e9
    }

    /// What single messages, calls and functions met without a fault of its own.
    fn noise(&self) -> Vec<(String, u64)> {
        [
            ("requests to the table lost", self.requests_lost),
            ("answers of the table lost", self.answers_lost),
            ("messages between nodes lost", self.messages_lost),
            ("messages between nodes doubled", self.messages_doubled),
            ("messages between nodes late", self.messages_late),
            ("events lost", self.events_lost),
            ("events doubled", self.events_doubled),
            ("events late", self.events_late),
            ("EC2 calls unanswered", self.unanswered_calls),
            ("EC2 calls applied late", self.late_calls),
            ("EC2 descriptions out of date", self.old_descriptions),
            ("functions killed", self.runs_killed),
            ("functions frozen", self.runs_frozen),
        ]
        .map(|(name, count)| (name.to_owned(), count))
        .into()
    }

    fn kinds(&self) -> Vec<(String, u64)> {
        self.faults.named(Kind::ALL.iter().map(|kind| kind.name()))
    }

    fn told(&self) -> Vec<(String, u64)> {
        let names: Vec<_> = Story::ALL.iter().map(|story| format!("{story:?}")).collect();
        self.stories.named(names.iter().map(String::as_str))
    }

    /// What never happened, of all that a run of CI's size is to meet: it has shown nothing about that.
    #[must_use]
    pub fn never(&self) -> Vec<String> {
        let unanswered = self.outcomes.named(OUTCOMES.into_iter()).into_iter();
        let unanswered = unanswered.map(|(name, count)| (format!("write of the row {name}"), count));
        let epochs = [
            ("founding", self.foundings),
            ("failover", self.failovers),
            ("hand-over", self.hand_overs),
            ("epoch after a release", self.after_release),
            ("restart of a holder", self.restarts),
            ("loss accepted", self.lossy),
            ("cluster without volumes", self.without_volumes),
        ];
        let epochs = epochs.map(|(name, count)| (name.to_owned(), count));
        let all = self.kinds().into_iter().chain(self.told()).chain(self.noise()).chain(unanswered).chain(epochs);
        let all = all.chain(self.deployed.named(DEPLOYED.into_iter())).chain(self.disks.named(DISKS.into_iter()));
        all.filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }

    /// The recovery times at this share of the seeds, in seconds.
    fn recovery(&self, share: f64) -> f64 {
        let mut all = self.recoveries.clone();
        all.sort_unstable();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into as many")]
        let at = (share * all.len().saturating_sub(1) as f64).ceil() as usize;
        all.get(at).map_or(0.0, |ms| *ms as f64 / 1e3)
    }

    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "simulated_hours": (self.hours() * 1e3).round() / 1e3, "events": self.events, "machine_steps": self.steps,
            "without_volumes": self.without_volumes,
            "foundings": self.foundings, "failovers": self.failovers, "after_release": self.after_release,
            "hand_overs": self.hand_overs, "restarts": self.restarts, "lossy": self.lossy,
            "writes_acknowledged": self.acknowledged, "reads": self.reads, "resyncs": self.resyncs,
            "function_runs": self.runs, "routes_moved": self.routes, "reboots": self.reboots,
            "most_requests_a_second": self.busiest,
            "recovery_s": {
                "p50": self.recovery(0.5), "p99": self.recovery(0.99), "max": self.recovery(1.0),
                "most_of_its_bound": self.nearest as f64 / 1e3,
            },
            "unanswered_writes": object(self.outcomes.named(OUTCOMES.into_iter())),
            "deployed": object(self.deployed.named(DEPLOYED.into_iter())),
            "disks": object(self.disks.named(DISKS.into_iter())),
            "faults_total": self.all_faults(),
            "faults": object(self.kinds()), "stories": object(self.told()), "noise": object(self.noise()),
        })
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{:.1} simulated hours, {} events, {} steps of machines; {} of the clusters without volumes\n\
             {} failovers and {} foundings, {} after a release, {} hand-overs, {} restarts of a holder; {} epochs with loss accepted\n\
             {} writes acknowledged, {} reads checked, {} resyncs; {} function runs, {} routes moved\n\
             from the end of the faults to whole service: p50 {:.1} s, p99 {:.1} s, at most {:.1} s, never more than {:.0} % of the bound\n\
             at most {} requests of a node to the table in a second\n\
             {} faults injected, {} of them as a story of their own:\n{}\n\
             stories:\n{}\nwrites of the row that went unanswered:\n{}\ndeployed, and disks:\n{}\nand on the way:\n{}",
            self.hours(),
            self.events,
            self.steps,
            self.without_volumes,
            self.failovers,
            self.foundings,
            self.after_release,
            self.hand_overs,
            self.restarts,
            self.lossy,
            self.acknowledged,
            self.reads,
            self.resyncs,
            self.runs,
            self.routes,
            self.recovery(0.5),
            self.recovery(0.99),
            self.recovery(1.0),
            self.nearest as f64 / 10.0,
            self.busiest,
            self.all_faults(),
            self.stories.sum(),
            listed(self.kinds()),
            listed(self.told()),
            listed(self.outcomes.named(OUTCOMES.into_iter())),
            listed([self.deployed.named(DEPLOYED.into_iter()), self.disks.named(DISKS.into_iter())].concat()),
            listed(self.noise())
        )
    }
}

fn object(named: Vec<(String, u64)>) -> Value {
    Value::Object(named.into_iter().map(|(name, count)| (name, json!(count))).collect::<Map<_, _>>())
}

/// The most first.
fn listed(mut named: Vec<(String, u64)>) -> String {
    named.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let lines: Vec<_> = named.iter().map(|(name, count)| format!("  {count:>9}  {name}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_is_named() {
        let mut counts = Counts::default();
        counts.fault(Kind::Wipe);
        counts.outcomes.one(outcome(true, false));
        let never = counts.never();
        for missing in ["table outage", "HolderUnheard", "failover", "write of the row applied, answered too late"] {
            assert!(never.iter().any(|name| name == missing), "{missing} is not in {never:?}");
        }
        for met in ["replica wiped", "write of the row applied, never answered"] {
            assert!(never.iter().all(|name| name != met), "{met} is in {never:?}");
        }
    }

    #[test]
    fn the_sum_of_faults_counts_each_once_and_no_message() {
        let mut one = Counts { messages_lost: 50, runs_frozen: 3, ..Counts::default() };
        one.fault(Kind::Wipe);
        one.fault(Kind::KillRun);
        one.stories.one(0);
        let mut both = one.clone();
        both.add(&one);
        assert_eq!((one.all_faults(), both.all_faults()), (3, 6));
    }

    #[test]
    fn recoveries_are_told_by_their_rank() {
        let counts = Counts { recoveries: (1..=101).rev().map(|second| second * 1_000).collect(), ..Counts::default() };
        assert_eq!([0.5, 0.99, 1.0].map(|share| counts.recovery(share)), [51.0, 100.0, 101.0]);
        assert_eq!(Counts::default().recovery(0.5), 0.0);
    }
}
