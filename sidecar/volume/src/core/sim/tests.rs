//! Runs of the small world, and the mistakes that it must find.

use super::weather::{Fault, Weather};
use super::world::{Met, World};
use crate::core::Guard;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How a run ended.
enum End {
    Well(Met),
    /// A check failed.
    Wrong(String),
    /// The machine itself gave up.
    Panic(String),
}

fn run(seed: u64, weather: Weather) -> End {
    let mut world = World::new(seed, weather);
    match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(Ok(())) => End::Well(world.met),
        Ok(Err(problem)) => End::Wrong(format!("{problem}\n{}", world.story())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            End::Panic(format!("{}\n{}", text.unwrap_or_default(), world.story()))
        }
    }
}

/// The whole core in this weather: what it met.
fn holds(seed: u64, weather: Weather) -> Met {
    match run(seed, weather) {
        End::Well(met) => met,
        End::Wrong(problem) => panic!("seed {seed}: {problem}"),
        End::Panic(problem) => panic!("seed {seed} panics: {problem}"),
    }
}

fn sum(seeds: std::ops::Range<u64>, weather: impl Fn(u64) -> Weather) -> Met {
    let mut all = Met::default();
    for seed in seeds {
        let met = holds(seed, weather(seed));
        all.answered += met.answered;
        all.failovers += met.failovers;
        all.handovers += met.handovers;
        all.grown += met.grown;
        all.shrunk += met.shrunk;
        all.freezes += met.freezes;
        all.failed += met.failed;
        all.verified += met.verified;
        all.found += met.found;
        all.served += met.served;
        all.repaired += met.repaired;
        all.kept += met.kept;
        all.not_kept += met.not_kept;
        all.rolled_back += met.rolled_back;
    }
    all
}

#[test]
fn nothing_is_lost_and_it_gets_quiet() {
    let met = sum(0..40, Weather::mixed);
    eprintln!("{met:?}");
    assert!(met.verified > 24 && met.served > 0 && met.repaired > 0, "{met:?}");
}

/// Standbys whose bytes change by themselves, while writes go on: each run ends when all of it was found and mended.
#[test]
fn what_rots_on_a_standby_is_found_and_mended_when_somebody_says_so() {
    const FAULTS: &[(usize, Fault)] = &[(4, Fault::BitRot), (2, Fault::Lag), (1, Fault::Cut), (1, Fault::Freeze)];
    let met = sum(0..24, |_| Weather::of(FAULTS).verified());
    eprintln!("{met:?}");
    assert!(met.found > 24, "{met:?}");
}

/// A node that follows asynchronously, on links that lag and break: it is whole all the time, and has what is said of it.
#[test]
fn who_follows_holds_nobody_up_and_is_always_whole() {
    const FAULTS: &[(usize, Fault)] =
        &[(3, Fault::Lag), (2, Fault::Cut), (2, Fault::Crash), (1, Fault::Blink), (1, Fault::Slow)];
    let met = sum(0..12, |_| Weather::of(FAULTS).followed());
    eprintln!("{met:?}");
    let cached = sum(12..24, |_| Weather::of(FAULTS).followed().cached());
    eprintln!("{cached:?}");
}

/// Standbys that die and are cut off, again and again in the middle of a resync: what it has overwritten can be put back.
#[test]
fn an_interrupted_resync_can_be_rolled_back() {
    const FAULTS: &[(usize, Fault)] = &[(3, Fault::Crash), (3, Fault::Cut), (1, Fault::Lag), (1, Fault::Unreadable)];
    let met = sum(0..12, |_| Weather::of(FAULTS).keeping());
    eprintln!("{met:?}");
    let others = sum(12..24, |_| Weather::of(FAULTS).keeping().cached().unruly());
    eprintln!("{others:?}");
    assert!(met.kept > 200 && met.not_kept > 2 && met.rolled_back > 100, "{met:?}");
}

/// A holder whose disk fails many reads, with writes that meet them.
#[test]
fn what_the_holder_cannot_read_is_served_and_repaired() {
    const FAULTS: &[(usize, Fault)] = &[(8, Fault::Unreadable), (2, Fault::Lag)];
    let met = sum(0..12, |_| Weather::of(FAULTS).verified());
    eprintln!("{met:?}");
    assert!(met.served > 8 && met.repaired > 4, "{met:?}");
}

/// `SEEDS=100-200 cargo test --release -p volume sweep -- --ignored --nocapture`
#[test]
#[ignore = "as long as one likes: make sim-volume"]
#[expect(clippy::disallowed_methods, reason = "whoever hunts says where")]
fn sweep() {
    let seeds = std::env::var("SEEDS").unwrap_or_else(|_| "0-200".into());
    let (from, to) = seeds.split_once('-').expect("from-to");
    let (from, to): (u64, u64) = (from.parse().expect("a number"), to.parse().expect("a number"));
    let mut bad = 0;
    for seed in from..to {
        let (what, problem) = match run(seed, Weather::mixed(seed)) {
            End::Well(_) => continue,
            End::Wrong(problem) => ("", problem),
            End::Panic(problem) => (" panics", problem),
        };
        bad += 1;
        // All of it when it is one seed that is looked at.
        let lines = if to == from + 1 { usize::MAX } else { 1 };
        let problem: Vec<&str> = problem.lines().take(lines).collect();
        eprintln!("seed {seed}{what}: {}", problem.join("\n"));
    }
    assert_eq!(bad, 0, "of {from}..{to}");
}

/// Seeds in which a mistake must show; the first few do for most.
const SEEDS: u64 = 60;

/// Left out one at a time, each in weather in which it matters: a check fails. The whole core stands the same seeds.
fn is_found(guard: Guard, weather: Weather) {
    let mut panics = 0;
    for seed in 0..SEEDS {
        holds(seed, weather);
        match run(seed, Weather { without: Some(guard), ..weather }) {
            End::Well(_) => {}
            End::Wrong(problem) => {
                let problem = problem.lines().next().unwrap_or_default();
                eprintln!("without {guard:?}, seed {seed}, after {panics} panics: {problem}");
                return;
            }
            End::Panic(_) => panics += 1,
        }
    }
    panic!("{guard:?} was left out and no check failed; {panics} panics");
}

const ROTTEN: Weather = Weather::of(&[(1, Fault::BitRot), (1, Fault::Cut)]).verified();

macro_rules! left_out {
    ($($name:ident $guard:ident $weather:expr;)*) => {
        $(#[test]
        fn $name() {
            is_found(Guard::$guard, $weather);
        })*
    };
}

left_out! {
    an_ack_without_all_members_is_found AckOfAll Weather::of(&[(1, Fault::Lag)]);
    completing_before_the_node_knows_is_found UnsaidFirst Weather::of(&[(3, Fault::Cut), (2, Fault::Deaf)]);
    data_before_its_extent_is_hot_is_found HotFirst Weather::of(&[(1, Fault::Crash)]);
    forgetting_what_is_only_written_is_found KeepUntilDurable Weather::of(&[(3, Fault::Blink), (1, Fault::Cut)]).cached();
    clean_before_it_is_durable_is_found CleanWhenDurable Weather::of(&[(1, Fault::Crash)]);
    an_absent_peer_without_marks_is_found MarkAbsent Weather::of(&[(1, Fault::Cut)]);
    a_new_primary_without_marks_is_found MarkUnsettled Weather::of(&[(1, Fault::Lag)]).three().unruly();
    ignoring_the_standby_s_marks_is_found UnionOfMarks Weather::of(&[(1, Fault::Lag)]).unruly();
    taking_frames_of_older_epochs_is_found RefuseOlder Weather::of(&[(1, Fault::Deaf), (1, Fault::Cut)]).three().unruly();
    a_promise_before_it_is_durable_is_found PersistPromise Weather::of(&[(1, Fault::Crash)]);
    a_promise_before_the_queue_is_drained_is_found DrainOlder Weather::of(&[(2, Fault::Slow), (1, Fault::Cut)]).unruly();
    a_resync_that_does_not_mark_the_image_is_found MarkInconsistent Weather::of(&[(1, Fault::Crash)]);
    who_left_while_it_was_copied_to_is_found TearWhoLeft Weather::of(&[(1, Fault::Lag), (1, Fault::Slow)]).three().fickle();
    whole_before_it_is_durable_is_found FlushBeforeWhole Weather::of(&[(1, Fault::Cut)]);
    a_flush_on_one_side_is_found FlushAll Weather::of(&[(1, Fault::Cut)]).cached();
    disorder_where_writes_meet_is_found OrderMeeting Weather::of(&[(1, Fault::Lag)]);
    a_read_of_what_is_not_answered_is_found ReadAfterWrites Weather::of(&[(1, Fault::Lag)]);
    relying_on_what_is_only_cached_is_found SureFirst Weather::of(&[(1, Fault::Crash)]).rough();
    reading_behind_a_closed_gate_is_found GateReads Weather::of(&[(1, Fault::Freeze)]);
    a_generation_before_it_is_durable_is_found SaveBeforeEnd Weather::of(&[(1, Fault::Cut)]).three();
    letting_go_without_a_turn_is_found TurnOnLetGo Weather::of(&[(1, Fault::Cut), (1, Fault::Deaf)]);
    a_half_image_that_knows_too_much_is_found ResyncFirst Weather::of(&[(1, Fault::Cut)]);
    a_member_that_is_known_to_differ_is_found SetApart ROTTEN;
    copying_over_what_differs_unasked_is_found AskFirst ROTTEN;
    rounds_that_overtake_each_other_are_found RoundsInOrder Weather::of(&[(1, Fault::Crash), (1, Fault::Lag)]).followed();
    sending_again_what_was_reached_is_found SendUnreached Weather::of(&[(1, Fault::Cut), (2, Fault::Lag), (1, Fault::Crash)]).followed();
    a_follower_that_knows_too_much_is_found FollowerUnknowing Weather::of(&[(1, Fault::Cut), (1, Fault::Lag)]).followed();
    a_lag_that_is_told_small_is_found LagFromProbe Weather::of(&[(3, Fault::Lag), (1, Fault::Cut)]).followed();
    overwriting_what_is_not_kept_is_found KeepFirst Weather::of(&[(1, Fault::Crash), (1, Fault::Cut)]).keeping();
    an_undo_log_that_lacks_something_is_found GiveUpFirst Weather::of(&[(2, Fault::Unreadable), (1, Fault::Crash), (1, Fault::Cut)]).keeping();
    writing_back_what_is_old_is_found RepairUndone Weather::of(&[(8, Fault::Unreadable), (2, Fault::Lag)]).verified();
}
