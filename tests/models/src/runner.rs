//! Runs models: exhausts the real ones, hunts the mutants, and keeps the figures.
//!
//! A model is a [`stateright::Model`] whose `Always` properties are the invariants and whose `Sometimes` properties are
//! the reachability checks: what must be seen to happen, or the invariants would hold of nothing. It says each of its
//! steps in words ([`Told`]), so that a trace reads like a log.
//!
//! A model's module gives two lists. [`Exhaustive`]: the real rules, searched to the end; a violated invariant, a check
//! that is not reached and a search that is not exhausted are failures. [`Mutant`]: the same model with one rule left
//! out (the trap it stands for has a number); one that violates nothing is a failure, because then the search proves nothing
//! about that rule. So is one that falls where the whole rules, within the same bounds and as many steps, fall as well: then
//! it may not be what was left out that made it fall.
//!
//! ```text
//! pub fn exhaustive(size: Size) -> Vec<Exhaustive> {
//!     vec![Exhaustive::new("a9", "2 nodes, rev <= 6", move || A9::real(2, 6), Limits::none())]
//! }
//! pub fn mutants() -> Vec<Mutant> {
//!     let whole = || A9::real(2, 6);
//!     vec![Mutant::new("a9", "late-executor", 30, "writes without reading again", whole, || A9::with(Rule::ReadAgain))]
//! }
//! ```

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path, Property};
use std::fmt::{self, Debug};
use std::hash::Hash;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How far to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Seconds: for `cargo test`. The smallest bounds that still reach every check.
    Test,
    /// The bounds that the claims name; minutes.
    Ci,
    /// Larger ones, nightly; need not be exhausted.
    Big,
}

/// When to give a search up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Unfinished after this long: not complete.
    pub time: Option<Duration>,
    /// Unfinished after this many generated states: not complete.
    pub generated: Option<usize>,
    /// A search that is cut short is a failure, too. False only for sizes beyond what the claims name.
    pub must_complete: bool,
}

impl Limits {
    /// Search to the end.
    #[must_use]
    pub const fn none() -> Self {
        Self { time: None, generated: None, must_complete: true }
    }

    /// Search as far as `minutes` or `generated` states allow.
    #[must_use]
    pub const fn at_most(minutes: u64, generated: usize) -> Self {
        Self { time: Some(Duration::from_secs(minutes * 60)), generated: Some(generated), must_complete: false }
    }
}

/// A model that can say its steps in words.
pub trait Told: Model {
    /// What `action` does in `before`, leading to `after`: one line.
    fn tell(&self, before: &Self::State, action: &Self::Action, after: &Self::State) -> String;
}

/// A search of the real rules.
pub struct Exhaustive {
    pub model: &'static str,
    pub what: String,
    run: Box<dyn Fn() -> Report + Send + Sync>,
}

/// A search of the rules with one left out.
pub struct Mutant {
    pub model: &'static str,
    /// Its name on the command line.
    pub name: &'static str,
    /// Its number in the list of traps; 0: none, the guard has a reason of its own.
    pub trap: u8,
    /// What is left out, in a few words.
    pub left_out: &'static str,
    hunt: Box<dyn Fn() -> Option<Killed> + Send + Sync>,
}

/// What a search of the real rules found.
#[derive(Clone, Debug)]
pub struct Report {
    pub model: &'static str,
    pub what: String,
    /// Different states.
    pub states: u64,
    /// States with repetitions.
    pub generated: u64,
    pub seconds: f64,
    /// Steps of the longest shortest way to a state.
    pub depth: usize,
    /// Every state within the bounds was seen.
    pub complete: bool,
    /// It had to be.
    pub must_complete: bool,
    /// Each reachability check, and whether it was reached.
    pub reached: Vec<(&'static str, bool)>,
    pub violation: Option<Violation>,
}

/// An invariant that does not hold, and how.
#[derive(Clone, Debug)]
pub struct Violation {
    pub property: &'static str,
    pub trace: Vec<String>,
}

/// A mutant that was found out.
#[derive(Clone, Debug)]
pub struct Killed {
    pub model: &'static str,
    pub mutant: &'static str,
    pub trap: u8,
    /// The invariant that fell.
    pub property: &'static str,
    pub steps: usize,
    pub states: u64,
    pub seconds: f64,
    pub trace: Vec<String>,
    /// The same bounds with no rule left out, searched as deep: different states, and what fell there, if anything did.
    pub sound: (u64, Option<&'static str>),
}

/// A mutant that takes longer to find is as good as not found.
const KILL_LIMIT_SECONDS: f64 = 60.0;

impl Killed {
    /// It was found in time, and what was left out is what made it fall.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.seconds <= KILL_LIMIT_SECONDS && self.sound.1.is_none()
    }
}

impl Report {
    /// Nothing is wrong.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.violation.is_none()
            && (self.complete || !self.must_complete)
            && self.reached.iter().all(|(_, reached)| *reached)
    }
}

impl fmt::Debug for Exhaustive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.model, self.what)
    }
}

impl fmt::Debug for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.model, self.name, self.left_out)
    }
}

impl Exhaustive {
    #[must_use]
    pub fn new<M>(
        model: &'static str,
        what: impl Into<String>,
        make: impl Fn() -> M + Send + Sync + 'static,
        limits: Limits,
    ) -> Self
    where
        M: Told + Send + Sync + 'static,
        M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
        M::Action: Clone + Debug + PartialEq + Send + Sync,
    {
        let what = what.into();
        let name = what.clone();
        Self { model, what, run: Box::new(move || exhaust(model, name.clone(), make(), limits)) }
    }

    /// Searches on all cores.
    #[must_use]
    pub fn run(&self) -> Report {
        (self.run)()
    }
}

impl Mutant {
    /// `mutated`: the rules with one left out; `whole`: the same bounds and all the rules, in which nothing may fall as soon.
    #[must_use]
    pub fn new<M>(
        model: &'static str,
        name: &'static str,
        trap: u8,
        left_out: &'static str,
        whole: impl Fn() -> M + Send + Sync + 'static,
        mutated: impl Fn() -> M + Send + Sync + 'static,
    ) -> Self
    where
        M: Told + Send + Sync + 'static,
        M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
        M::Action: Clone + Debug + PartialEq + Send + Sync,
    {
        let hunt = move || {
            let from = stopwatch();
            // One thread: breadth first is only then strictly by depth, and the trace the shortest.
            let found = search(mutated(), 1, None, Limits::none());
            let seconds = from.elapsed().as_secs_f64();
            found.violation.map(|violation| {
                let steps = violation.trace.len();
                let sound = search(whole(), 1, Some(steps), Limits::none());
                Killed {
                    model,
                    mutant: name,
                    trap,
                    property: violation.property,
                    steps,
                    states: found.states,
                    seconds,
                    trace: violation.trace,
                    sound: (sound.states, sound.violation.map(|violation| violation.property)),
                }
            })
        };
        Self { model, name, trap, left_out, hunt: Box::new(hunt) }
    }

    /// `None`: it violates nothing, so nothing here watches over what it leaves out.
    #[must_use]
    pub fn hunt(&self) -> Option<Killed> {
        (self.hunt)()
    }
}

/// Hunts all of `mutants`, as many at a time as there are cores; each with what became of it, in the order given.
/// `told` hears of each when it is done.
pub fn hunt_all(mutants: &[Mutant], told: impl Fn(&Mutant, Option<&Killed>) + Sync) -> Vec<Option<Killed>> {
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<Killed>>> = mutants.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(|| {
                while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let killed = mutant.hunt();
                    told(mutant, killed.as_ref());
                    let at = mutants.iter().position(|other| std::ptr::eq(other, mutant)).expect("it is one of them");
                    *done[at].lock().expect("nobody panics with it") = killed;
                }
            });
        }
    });
    done.into_iter().map(|killed| killed.into_inner().expect("nobody panics with it")).collect()
}

struct Found {
    states: u64,
    generated: u64,
    depth: usize,
    complete: bool,
    reached: Vec<(&'static str, bool)>,
    violation: Option<Violation>,
}

fn exhaust<M>(name: &'static str, what: String, model: M, limits: Limits) -> Report
where
    M: Told + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let from = stopwatch();
    let found = search(model, cores(), None, limits);
    Report {
        model: name,
        what,
        states: found.states,
        generated: found.generated,
        seconds: from.elapsed().as_secs_f64(),
        depth: found.depth,
        complete: found.complete,
        must_complete: limits.must_complete,
        reached: found.reached,
        violation: found.violation,
    }
}

/// `steps`: no further than this from the start.
fn search<M>(model: M, threads: usize, steps: Option<usize>, limits: Limits) -> Found
where
    M: Told + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let from = stopwatch();
    let mut checker = Watched::new(model).checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    if let Some(time) = limits.time {
        checker = checker.timeout(time);
    }
    if let Some(steps) = steps {
        // The checker counts the first state as one, and looks at none that is as deep as it is told.
        checker = checker.target_max_depth(steps + 2);
    }
    if let Some(generated) = limits.generated {
        checker = checker.target_state_count(generated);
    }
    let checker = checker.spawn_bfs().join();
    let out_of_time = limits.time.is_some_and(|time| from.elapsed() >= time);
    let out_of_states = limits.generated.is_some_and(|generated| checker.state_count() >= generated);
    let watched = checker.model();
    let violation = checker.discovery(HOLDS).map(|path| {
        let fallen = watched.fallen(path.last_state()).expect("the search says so");
        Violation { property: fallen, trace: tell(&watched.model, path) }
    });
    let reached = watched.reachable.iter().zip(&watched.reached);
    let reached = reached.map(|(check, reached)| (check.name, reached.load(Ordering::Relaxed))).collect();
    Found {
        states: checker.unique_state_count() as u64,
        generated: checker.state_count() as u64,
        depth: checker.max_depth(),
        complete: violation.is_none() && !out_of_time && !out_of_states,
        reached,
        violation,
    }
}

const HOLDS: &str = "every invariant holds";

/// A model under search, with all its invariants as one property: the checker's own book-keeping costs more for each
/// property of each state than the property does, and it goes on with a reachability check long after it was reached.
struct Watched<M: Model> {
    model: M,
    invariants: Vec<Property<M>>,
    reachable: Vec<Property<M>>,
    reached: Vec<AtomicBool>,
}

impl<M: Model> Watched<M> {
    fn new(model: M) -> Self {
        let (mut invariants, mut reachable) = (Vec::new(), Vec::new());
        for property in model.properties() {
            match property.expectation {
                Expectation::Always => invariants.push(property),
                Expectation::Sometimes => reachable.push(property),
                Expectation::Eventually => {
                    panic!("{}: the checker does not find all that violates this", property.name)
                }
            }
        }
        let reached = reachable.iter().map(|_| AtomicBool::new(false)).collect();
        Self { model, invariants, reachable, reached }
    }

    fn fallen(&self, state: &M::State) -> Option<&'static str> {
        let fallen = self.invariants.iter().find(|property| !(property.condition)(&self.model, state));
        fallen.map(|property| property.name)
    }

    fn look_at(&self, state: &M::State) -> bool {
        for (property, reached) in self.reachable.iter().zip(&self.reached) {
            if !reached.load(Ordering::Relaxed) && (property.condition)(&self.model, state) {
                reached.store(true, Ordering::Relaxed);
            }
        }
        self.fallen(state).is_none()
    }
}

impl<M: Model> Model for Watched<M> {
    type State = M::State;
    type Action = M::Action;

    fn init_states(&self) -> Vec<M::State> {
        self.model.init_states()
    }

    fn actions(&self, state: &M::State, actions: &mut Vec<M::Action>) {
        self.model.actions(state, actions);
    }

    fn next_state(&self, state: &M::State, action: M::Action) -> Option<M::State> {
        self.model.next_state(state, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(HOLDS, Self::look_at)]
    }

    fn within_boundary(&self, state: &M::State) -> bool {
        self.model.within_boundary(state)
    }
}

fn tell<M: Told>(model: &M, path: Path<M::State, M::Action>) -> Vec<String>
where
    M::State: PartialEq,
    M::Action: PartialEq,
{
    let steps = path.into_vec();
    steps
        .windows(2)
        .map(|pair| match &pair[0].1 {
            Some(action) => model.tell(&pair[0].0, action, &pair[1].0),
            None => unreachable!("only the last state of a path has no action"),
        })
        .collect()
}

/// How long a search took is measured, and decides nothing in it.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "models have no clock of their own; this one is for the figures")]
pub fn stopwatch() -> Instant {
    Instant::now()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts up by one; a planted mistake makes it skip.
    #[derive(Clone, Copy)]
    struct Counter {
        skips: bool,
        reaches: u8,
    }

    impl Model for Counter {
        type State = u8;
        type Action = u8;

        fn init_states(&self) -> Vec<u8> {
            vec![0]
        }

        fn actions(&self, state: &u8, actions: &mut Vec<u8>) {
            actions.push(if self.skips && *state == 4 { 2 } else { 1 });
        }

        fn next_state(&self, state: &u8, by: u8) -> Option<u8> {
            (*state < 9).then(|| state + by)
        }

        fn properties(&self) -> Vec<Property<Self>> {
            vec![
                Property::always("never six before five", |counter: &Self, state| !counter.skips || *state != 6),
                Property::sometimes("it gets there", |counter: &Self, state| *state == counter.reaches),
            ]
        }
    }

    impl Told for Counter {
        fn tell(&self, before: &u8, by: &u8, after: &u8) -> String {
            format!("{before} and {by} is {after}")
        }
    }

    fn report(skips: bool, reaches: u8, limits: Limits) -> Report {
        Exhaustive::new("test", "a counter", move || Counter { skips, reaches }, limits).run()
    }

    #[test]
    fn a_model_that_holds_is_exhausted_and_one_that_does_not_is_told_step_by_step() {
        let good = report(false, 9, Limits::none());
        assert!(good.holds() && good.complete && good.states == 10, "{good:?}");
        let bad = report(true, 9, Limits::none());
        let violation = bad.violation.as_ref().expect("it skips five");
        assert!(!bad.holds());
        assert_eq!((violation.property, violation.trace.len()), ("never six before five", 5));
        assert_eq!(violation.trace[4], "4 and 2 is 6");
    }

    #[test]
    fn what_is_never_reached_and_what_is_cut_short_do_not_hold() {
        assert!(!report(false, 77, Limits::none()).holds(), "77 is never reached");
        let short = Limits { generated: Some(1), ..Limits::none() };
        assert!(!report(false, 0, short).complete && !report(false, 0, short).holds());
    }

    #[test]
    fn a_mutant_that_violates_nothing_survives() {
        let counter = |skips| move || Counter { skips, reaches: 0 };
        let mutants = [true, false]
            .map(|skips| Mutant::new("test", "skips", 1, "counting by one", counter(false), counter(skips)));
        let hunted = hunt_all(&mutants, |_, _| {});
        let killed = hunted[0].as_ref().expect("it skips five");
        assert_eq!((killed.steps, killed.property), (5, "never six before five"));
        assert!(killed.counts() && killed.sound.1.is_none(), "{killed:?}");
        assert!(hunted[1].is_none(), "the counter that counts by one violates nothing");
    }

    #[test]
    fn a_mutant_of_rules_that_fall_without_it_does_not_count() {
        let broken = || Counter { skips: true, reaches: 0 };
        let killed = Mutant::new("test", "skips", 1, "nothing", broken, broken).hunt().expect("it skips five");
        assert!(!killed.counts(), "{killed:?}");
        let slow = Killed { seconds: 61.0, sound: (1, None), ..killed };
        assert!(!slow.counts());
    }
}
