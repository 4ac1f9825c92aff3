//! A calm world is whole, random ones hold, a seed is one run; and each check is shown to see what it is for, on a world
//! that somebody has tampered with.

use crate::checks::{i1, i3, i4};
use crate::data::name;
use crate::dice::Dice;
use crate::history::Version;
use crate::stories::Story;
use crate::weather::{Kind, Weather};
use crate::world::{Who, World, holder};
use crate::{run, run_in};
use lease::ids::{Beat, Epoch, Lineage};
use lease::record::{DeadState, Nominee, ProofOfDeath, Row};
use lease::rules::Rule;
use std::collections::BTreeMap;
use std::sync::Arc;

const BY: Who = Who::Run { run: 0 };

/// Two nodes, `a` serving and `b` in sync, some writes made.
fn serving() -> World {
    let mut weather = Weather::calm(2);
    weather.length = 3_600_000_000;
    let mut world = World::new(1, weather, Dice::of(1), true);
    world.run_until(15_000_000);
    assert_eq!(world.violation, None, "{}", world.trace.text());
    let row = world.store.row.as_ref().expect("a row");
    assert!(row.activated && row.in_sync.len() == 2 && world.history.last(0) > Version::default());
    world
}

fn broken(world: &World) -> &'static str {
    world.violation.as_ref().map_or("nothing", |violation| violation.invariant)
}

/// Puts `change` into the row as a write that nobody would make.
fn tamper(world: &mut World, change: impl FnOnce(&mut Row)) {
    let before = world.store.row.clone().expect("a row");
    let mut row = Row::clone(&before);
    row.rev = row.rev.next();
    change(&mut row);
    world.store.row = Some(Arc::new(row));
    world.row_changed(Some(&before), BY);
}

/// `b`, nominated for the row as it is.
fn nominee(row: &Row, proof: Option<ProofOfDeath>) -> Nominee {
    Nominee {
        node: holder(1).node,
        incarnation: name(2),
        epoch: row.epoch,
        beat: row.beat,
        rule: Rule::R200,
        reason: "an event".into(),
        proof,
        lossy: false,
    }
}

#[test]
fn a_calm_world_comes_to_its_end_with_two_and_with_three() {
    for nodes in [2, 3] {
        let outcome = run_in(1, Weather::calm(nodes), Dice::of(1), true);
        assert_eq!(outcome.violation, None, "{}", outcome.trace);
        let counts = &outcome.counts;
        let epochs = (counts.foundings, counts.failovers, counts.hand_overs, counts.restarts, counts.after_release);
        assert_eq!(epochs, (1, 0, 0, 0, 0), "founded, and never moved");
        assert!(outcome.counts.acknowledged > 100 && outcome.counts.runs < 30, "{}", outcome.counts.text());
    }
}

#[test]
fn a_holder_lost_is_one_failover_and_a_move_that_was_asked_for_is_none() {
    for (story, moved) in [(Story::HolderIsolated, (1, 0)), (Story::Switchover, (0, 1))] {
        let outcome = run_in(3, Weather::told(story, &Weather::calm(2)), Dice::of(3), true);
        assert_eq!(outcome.violation, None, "{}", outcome.trace);
        let counts = outcome.counts;
        assert_eq!((counts.foundings, (counts.failovers, counts.hand_overs)), (1, moved), "{story:?}");
    }
}

#[test]
fn a_cluster_without_volumes_founds_serves_and_moves() {
    for story in [Story::HolderStopped, Story::HolderIsolated, Story::HolderRestarts, Story::TableAwayForAll] {
        let mut like = Weather::calm(3);
        like.volumes = false;
        let outcome = run_in(5, Weather::told(story, &like), Dice::of(5), true);
        assert_eq!(outcome.violation, None, "{}", outcome.trace);
        let counts = outcome.counts;
        assert_eq!((counts.without_volumes, counts.acknowledged, counts.resyncs), (1, 0, 0), "nothing is replicated");
        assert!(counts.answered > 300, "{story:?}: {}", counts.text());
    }
}

#[test]
fn some_seeds_hold_and_do_much() {
    let mut failovers = 0;
    let mut faults = 0;
    for seed in 1..=60 {
        let outcome = run(seed, false);
        assert_eq!(outcome.violation, None, "replay: make sim SEEDS=1 SEED={seed}");
        failovers += outcome.counts.failovers;
        faults += outcome.counts.all_faults();
    }
    assert!(failovers > 60 && faults > 600, "{failovers} failovers, {faults} faults in 60 seeds: too tame");
}

#[test]
fn a_seed_is_one_run_and_another_is_another() {
    let hash = |seed, keep| run(seed, keep).hash;
    assert_eq!(hash(7, false), hash(7, true), "and keeping the trace changes nothing");
    assert_ne!(hash(7, false), hash(8, false));
}

#[test]
fn every_kind_of_fault_can_be_drawn_and_is_counted_under_its_own_name() {
    let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
    for (at, kind) in Kind::ALL.iter().enumerate() {
        assert_eq!(*kind as usize, at);
    }
    let mut drawn = std::collections::BTreeSet::new();
    for seed in 0..200 {
        drawn.extend(Weather::of(&mut Dice::of(seed)).kinds());
    }
    assert_eq!(drawn.len(), Kind::ALL.len());
}

#[test]
fn i1_sees_epochs_and_revs_that_go_wrong() {
    let world = serving();
    let before = Row::clone(world.store.row.as_ref().expect("a row"));
    let next = |change: fn(&mut Row)| {
        let mut row = before.clone();
        row.rev = row.rev.next();
        change(&mut row);
        let mut holders = BTreeMap::from([(before.epoch.0, holder(0))]);
        i1(Some(&before), &row, &mut holders)
    };
    assert_eq!(next(|row| row.beat = row.beat.next()), Ok(()));
    for wrong in [
        (|row: &mut Row| row.rev = row.rev.next()) as fn(&mut Row),
        |row| row.epoch = Epoch(row.epoch.0 + 2),
        |row| row.epoch = Epoch(0),
        |row| row.beat = Beat(0),
        |row| row.lineage = Lineage::new("another").expect("a name"),
        |row| row.holder = Some(holder(1)),
    ] {
        assert!(next(wrong).is_err());
    }
}

#[test]
fn i2_sees_a_member_that_nobody_waits_for() {
    let mut world = serving();
    tamper(&mut world, |row| {
        row.in_sync.insert(name(9));
    });
    assert_eq!(broken(&world), "I2");
}

#[test]
fn i3_sees_a_member_that_lacks_an_acknowledged_write() {
    let mut world = serving();
    world.check_members();
    assert_eq!(broken(&world), "nothing");
    world.hosts[1].replica.set(0, Version::default());
    world.check_members();
    assert_eq!(broken(&world), "I3");
    let v = |seq| Version { epoch: 1, seq };
    assert_eq!(i3([v(3), v(4)].into_iter(), &[v(3), v(5)]), None);
    assert_eq!(i3([v(3), v(4)].into_iter(), &[v(3), v(2)]), Some((1, v(4), v(2))));
}

#[test]
fn i4_sees_an_old_epoch_s_late_write() {
    let begun = BTreeMap::from([(1, 10), (2, 500)]);
    assert_eq!(i4(1, 499, &begun), None, "submitted before");
    assert_eq!(i4(1, 500, &begun), Some(2));
    assert_eq!(i4(2, 900, &begun), None);
    let mut world = serving();
    world.god.set_begun(9, 0);
    let last = world.history.last(0);
    let now = world.now;
    world.acknowledged(0, 0, last, now);
    assert_eq!(broken(&world), "I4");
}

#[test]
fn i5_sees_an_outsider_and_half_an_image() {
    let mut world = serving();
    tamper(&mut world, |row| {
        row.in_sync.remove(&name(2));
    });
    assert_eq!(broken(&world), "nothing", "{:?}", world.violation);
    tamper(&mut world, |row| {
        row.epoch = row.epoch.next();
        row.beat = Beat(0);
        row.holder = Some(holder(1));
        row.in_sync = [name(2)].into();
    });
    assert_eq!(broken(&world), "I5");

    let mut world = serving();
    world.hosts[1].replica.consistent = false;
    world.check_members();
    assert_eq!(broken(&world), "I5");
}

#[test]
fn i6_sees_two_that_answer_and_two_that_believe() {
    let mut world = serving();
    world.hosts[1].running = true;
    world.hosts[1].address_until = world.now + 1_000_000;
    world.check_serving(1);
    assert_eq!(broken(&world), "I6");

    let mut world = serving();
    world.hosts[1].node = world.hosts[0].node.clone();
    world.hosts[1].clock = world.hosts[0].clock.clone();
    world.check_windows(1);
    assert_eq!(broken(&world), "I6");
}

#[test]
fn i6_sees_a_beginning_beside_an_open_gate_and_a_false_proof_of_death() {
    let mut world = serving();
    let (old, clock, then) = (world.hosts[0].node.clone(), world.hosts[0].clock.clone(), world.now);
    world.functions.down = 0;
    world.power_off(0, false);
    world.run_until(40_000_000);
    assert_eq!(broken(&world), "nothing");
    world.check_beginning(1);
    assert_eq!(broken(&world), "nothing");
    let now = world.now;
    let one = &mut world.hosts[0];
    (one.node, one.clock, one.on) = (old, clock, true);
    one.clock.stood_still(then, now);
    world.check_beginning(1);
    assert_eq!(broken(&world), "I6");

    let mut world = serving();
    tamper(&mut world, |row| {
        let proof = ProofOfDeath { instance: holder(0).instance, state: DeadState::Stopped };
        row.nominee = Some(nominee(row, Some(proof)));
    });
    assert_eq!(broken(&world), "nothing");
    tamper(&mut world, |row| {
        row.epoch = row.epoch.next();
        row.beat = Beat(0);
        row.holder = Some(holder(1));
        row.nominee = None;
        row.in_sync = [name(2)].into();
    });
    assert_eq!(broken(&world), "I6");
}

#[test]
fn l1_sees_a_false_alarm_a_storm_and_a_set_that_flaps() {
    for (tampered, expected) in [(false, "L1"), (true, "nothing")] {
        let mut world = serving();
        world.store.tampered = tampered;
        // Nobody knows of it but the store.
        world.store.row = None;
        world.run_until(20_000_000);
        assert_eq!(broken(&world), expected);
    }
    let mut world = serving();
    for _ in 0..60 {
        world.asks_table(0);
    }
    assert_eq!(broken(&world), "L1");
    let mut world = serving();
    world.weather.story = Some(Story::StandbyFlaps);
    world.gaps.changes = 5;
    world.judge_story();
    assert_eq!(broken(&world), "L1");
}

#[test]
fn i7_sees_a_read_before_activation_and_the_history_an_old_one() {
    let mut world = serving();
    assert!(world.check_answer(0));
    assert_eq!(broken(&world), "nothing");
    world.god.forget_activations();
    world.check_answer(0);
    assert_eq!(broken(&world), "I7");

    let mut world = serving();
    let asked = world.history.asks(0);
    world.check_read(0, asked, Version::default());
    assert_eq!(broken(&world), "history");
}

#[test]
fn i6_sees_an_answer_of_an_epoch_that_is_over() {
    let mut world = serving();
    world.hosts[0].workload_epoch = 9;
    world.check_answer(0);
    world.hosts[0].workload_epoch = 8;
    world.hosts[0].tainted_until = world.now + 1;
    assert!(!world.check_answer(0), "after its clocks stood still it is excused for a moment");
    assert_eq!(broken(&world), "nothing");
    world.hosts[0].tainted_until = 0;
    world.check_answer(0);
    assert_eq!(broken(&world), "I6");
}

#[test]
fn i3_sees_at_rest_whatever_differs_and_what_nobody_wrote() {
    let newest = Version { epoch: 1, seq: 1_000_000 };
    for (written, changed, falls) in [
        (true, vec![], "nothing"),
        (true, vec![0, 1], "nothing"),
        // Newer than what was acknowledged: no member is behind, and they differ all the same.
        (true, vec![1], "I3"),
        (true, vec![0], "I3"),
        (false, vec![0, 1], "history"),
    ] {
        let mut world = serving();
        world.healing.end_clients(world.now);
        world.run_until(17_000_000);
        if written {
            world.history.submitted(2, newest);
        }
        for host in &changed {
            world.hosts[*host].replica.set(2, newest);
        }
        world.check_members();
        assert_eq!(broken(&world), "nothing");
        world.check_equal();
        assert_eq!(broken(&world), falls, "{written}, {changed:?}: {:?}", world.violation);
    }
}

#[test]
fn a_disk_is_lost_by_the_holder_and_by_a_nominee_and_never_by_the_last_that_has_all() {
    let mut world = serving();
    assert!(world.replace_replica(Kind::Wipe, 0), "the holder");
    assert!(!world.hosts[0].running && world.hosts[0].node.is_none());
    assert!(!world.replace_replica(Kind::Wipe, 1), "nobody else has what is acknowledged");
    world.run_until(60_000_000);
    assert_eq!(world.violation, None, "{}", world.trace.text());
    let row = world.store.row.clone().expect("a row");
    let holder = row.holder.as_ref().expect("a holder");
    assert_eq!((holder.node.as_str(), world.counts.failovers), ("b", 1));
    assert!(row.in_sync.contains(&name(3)) && row.in_sync.contains(&name(2)), "back under a new name");

    let mut world = serving();
    tamper(&mut world, |row| row.nominee = Some(nominee(row, None)));
    while !world.replace_replica(Kind::Restore, 0) || world.counts.disks.0[1] == 0 {
        assert_eq!(world.counts.disks.0[1], 0);
        world.hosts[0].replica.incarnation = 1;
        world.hosts[0].replica.consistent = true;
    }
    assert_eq!(world.hosts[1].replica.incarnation, world.incarnations);
}

/// Seed 30005111: the disk of a holder that is alone stands still as its epoch begins, until it counts as failed. It comes back, and the
/// order to lead met a volume that was failed still: the holder served nothing, and held its lease.
#[test]
fn a_disk_that_stands_still_as_an_epoch_begins_ends_in_service() {
    let mut world = serving();
    world.power_off(1, false);
    world.run_until(25_000_000);
    world.kill_daemon(0, "killed");
    world.start_daemon(0);
    let held = |world: &World| world.hosts[0].node.as_ref().is_some_and(|node| node.holding().is_some());
    let mut begun = world.now;
    while !held(&world) {
        begun += 200;
        world.run_until(begun);
    }
    world.hosts[0].stalled_until = begun + 16_000_000;
    world.run_until(begun + 15_000_000);
    assert!(!world.hosts[0].serves(world.now));
    world.run_until(begun + 30_000_000);
    assert_eq!(world.violation, None, "{}", world.trace.text());
    assert!(world.hosts[0].serves(world.now), "{}", world.trace.text());
}

/// The disk of who is handed over to fails for good as its epoch begins: what must be durable first never is. It renewed its lease and
/// served nothing, and who had handed over, a member like itself, waited for it.
#[test]
fn a_disk_that_fails_for_good_as_an_epoch_begins_lets_the_other_member_serve() {
    let held = |world: &World| world.hosts[1].node.as_ref().is_some_and(|node| node.holding().is_some());
    let mut world = serving();
    let asked = world.now;
    world.operate(Kind::Switchover, 0);
    let mut begun = asked;
    while !held(&world) {
        assert!(begun < asked + 20_000_000, "{}", world.trace.text());
        begun += 200;
        world.run_until(begun);
    }
    world.hosts[1].stalled_until = begun + 70_000_000;
    world.run_until(begun + 60_000_000);
    assert_eq!(world.violation, None, "{}", world.trace.text());
    assert!(world.hosts[0].serves(world.now), "{}", world.trace.text());
    // Nobody expected it back.
    world.run_until(begun + 120_000_000);
    assert_eq!(world.violation, None, "{}", world.trace.text());
    let row = world.store.row.as_ref().expect("a row");
    assert!(world.hosts[0].serves(world.now) && row.in_sync.len() == 2, "its disk is well again: {row:?}");
}

#[test]
fn every_part_of_a_configuration_changes_and_a_node_comes_back() {
    let mut weather = Weather::calm(3);
    (weather.length, weather.lossy) = (3_600_000_000, true);
    let mut world = World::new(1, weather, Dice::of(1), true);
    world.run_until(15_000_000);
    while world.counts.deployed.0.contains(&0) {
        world.reconfigure(5_000_000);
    }
    let out = world.deployed.out.expect("one is out");
    assert_eq!(world.config.nodes.len(), 2);
    world.run_until(19_000_000);
    assert!(world.hosts[out].node.is_none(), "it has ended");
    world.start_daemon(out);
    assert!(world.hosts[out].node.is_none(), "and does not start");
    world.run_until(60_000_000);
    assert_eq!(world.violation, None, "{}", world.trace.text());
    assert_eq!((world.deployed.out, world.config.nodes.len()), (None, 3));
    assert_eq!(world.store.row.as_ref().map(|row| row.in_sync.len()), Some(3), "{}", world.trace.text());
}

#[test]
fn an_unanswered_write_is_one_of_four() {
    let mut told = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let mut weather = Weather::calm(2);
        weather.noise.table = 400_000;
        let outcome = run_in(seed, weather, Dice::of(seed), false);
        assert_eq!(outcome.violation, None, "seed {seed}");
        told.extend((0..4).filter(|which| outcome.counts.outcomes.0[*which] > 0));
    }
    assert_eq!(told.len(), 4, "{told:?}");
}

#[test]
fn i8_sees_routes_that_stay_wrong_and_nobody_who_serves() {
    for worse in [
        (|world: &mut World| {
            // Somebody changes a route and no function ever runs again.
            world.functions.down = u32::MAX;
            world.set_route(0, Some(1), "");
        }) as fn(&mut World),
        |world| {
            world.functions.down = u32::MAX;
            world.power_off(0, false);
        },
    ] {
        let mut world = serving();
        worse(&mut world);
        world.heal();
        world.run();
        assert_eq!(broken(&world), "liveness");
        assert!(world.now < 15_000_000 + world.bound() + 1_000_000);
    }
}

#[test]
fn a_panic_is_told_with_its_words() {
    let mut weather = Weather::calm(2);
    // A workload that comes up after the end of time.
    weather.start_us = u64::MAX;
    let outcome = run_in(1, weather, Dice::of(1), false);
    assert_eq!(outcome.violation.map(|violation| violation.invariant), Some("panic"));
}

/// Seed 10301: the disks of a holder stand still until it gives them up, and it hands over. It is a member of the new epoch, and is
/// copied to with an image that counts for nothing meanwhile: as a member whose process has ended.
#[test]
fn a_member_that_gave_its_disks_up_is_copied_to_and_the_copy_ends() {
    let (mut handed_over, mut torn) = (0, 0);
    for span in (10_200_000..12_400_000).step_by(50_000) {
        let mut world = serving();
        world.run_until(25_000_000);
        world.stall_disks(0, span);
        for until in (35_000_000..45_000_000).step_by(2_000) {
            world.run_until(until);
            world.check_members();
            let row = world.store.row.as_ref().expect("a row");
            torn += u64::from(row.in_sync.contains(&name(1)) && !world.hosts[0].replica.consistent);
        }
        handed_over += world.counts.hand_overs;
        assert_eq!(world.violation, None, "{span}: {}", world.trace.text());
        assert!(world.hosts[0].replica.consistent, "{span}: {}", world.trace.text());
    }
    assert!(handed_over > 0 && torn > 0, "{handed_over} hand-overs, {torn} looks at a member with half an image");
}

/// Seed 30007618: what waits for a disk is answered once the disk is well again, and not when its standstill would have ended.
#[test]
fn a_disk_that_is_healed_answers_what_waits_for_it() {
    let mut world = serving();
    world.run_until(25_000_000);
    world.stall_disks(1, 60_000_000);
    world.run_until(27_000_000);
    assert!(!world.is_quiet(1), "writes wait for it");
    world.heal_disks(1);
    world.run_until(30_000_000);
    assert_eq!(world.violation, None, "{}", world.trace.text());
    assert!(world.store.row.as_ref().expect("a row").in_sync.contains(&name(2)), "{}", world.trace.text());
    assert_eq!(world.counts.hand_overs + world.counts.failovers, 0);
}
