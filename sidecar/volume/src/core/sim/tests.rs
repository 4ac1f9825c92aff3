//! Runs of the small world, and the mistakes that it must find.

use super::world::{Weather, World};
use crate::core::Guard;

fn weather(seed: u64, without: Option<Guard>) -> Weather {
    Weather {
        nodes: if seed.is_multiple_of(3) { 3 } else { 2 },
        steps: 12_000,
        calm_steps: if seed.is_multiple_of(5) { 150 } else { 600 },
        write_through: seed.is_multiple_of(2),
        without,
    }
}

#[test]
fn nothing_is_lost_and_it_gets_quiet() {
    let (mut answered, mut failovers, mut resyncs) = (0, 0, 0);
    for seed in 0..24 {
        let mut world = World::new(seed, weather(seed, None));
        if let Err(problem) = world.run() {
            panic!("seed {seed}: {problem}\n{}", world.story());
        }
        answered += world.answered;
        failovers += world.failovers;
        resyncs += world.resyncs;
    }
    eprintln!("{answered} answers, {failovers} failovers, {resyncs} members taken in");
    assert!(answered > 10_000 && failovers > 10 && resyncs > 30, "{answered} {failovers} {resyncs}");
}

/// Left out one at a time; what is left out breaks the invariant that the guard's own words name, and some run shows it.
fn is_found(guard: Guard) {
    let run = |seed: u64| {
        let run = || World::new(seed, weather(seed, Some(guard))).run();
        std::panic::catch_unwind(run).unwrap_or(Ok(())).err()
    };
    let found = (0..40).find_map(|seed| run(seed).map(|problem| (seed, problem)));
    let (seed, problem) = found.unwrap_or_else(|| panic!("{guard:?} was left out and nobody noticed"));
    eprintln!("without {guard:?}, seed {seed}: {problem}");
}

macro_rules! left_out {
    ($($(#[$attribute:meta])* $name:ident $guard:ident;)*) => {
        $(#[test]
        $(#[$attribute])*
        fn $name() {
            is_found(Guard::$guard);
        })*
    };
}

left_out! {
    an_ack_without_all_members_is_found AckOfAll;
    clean_before_it_is_durable_is_found CleanWhenDurable;
    an_absent_peer_without_marks_is_found MarkAbsent;
    disorder_where_writes_meet_is_found OrderMeeting;
}

// Not shown to be found: about a minute of seeds each did not meet the few steps in which they matter, or another guard covers
// them. Each wants weather of its own before it may count; until then nothing here proves that these guards are tested.
left_out! {
    #[ignore = "not found yet"]
    completing_before_the_node_knows_is_found UnsaidFirst;
    #[ignore = "not found yet"]
    data_before_its_extent_is_hot_is_found HotFirst;
    #[ignore = "not found yet"]
    forgetting_what_is_only_written_is_found KeepUntilDurable;
    #[ignore = "not found yet"]
    a_new_primary_without_marks_is_found MarkUnsettled;
    #[ignore = "not found yet"]
    ignoring_the_standby_s_marks_is_found UnionOfMarks;
    #[ignore = "not found yet"]
    taking_frames_of_older_epochs_is_found RefuseOlder;
    #[ignore = "not found yet"]
    a_promise_before_it_is_durable_is_found PersistPromise;
    #[ignore = "not found yet"]
    a_promise_before_the_queue_is_drained_is_found DrainOlder;
    #[ignore = "not found yet"]
    a_resync_that_does_not_mark_the_image_is_found MarkInconsistent;
    #[ignore = "not found yet"]
    whole_before_it_is_durable_is_found FlushBeforeWhole;
    #[ignore = "not found yet"]
    a_flush_on_one_side_is_found FlushAll;
    #[ignore = "not found yet"]
    a_read_of_what_is_not_answered_is_found ReadAfterWrites;
}
