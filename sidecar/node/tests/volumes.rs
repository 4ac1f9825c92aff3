//! What a node with replicated volumes does only when its replication says so. Proves: half an image is never made the
//! holder, an epoch is activated only once older writes are fenced durably, nobody is taken in before nothing is completed
//! without it, and the node's data knows of a row that went back when the process does not.

mod world;

use lease::ids::{Epoch, Incarnation, Lineage, Rev};
use lease::record::Row;
use lease::rules::Rule;
use lease::time::{Millis, Moment};
use node::Node;
use node::effect::{Effect, Note};
use node::event::{Event, Outcome, Replica};
use std::collections::BTreeSet;
use world::World;

fn replica(consistent: bool, promised: u64, caught_up: Option<u64>, mirrored: &[&str]) -> Replica {
    let mirrored: BTreeSet<_> =
        mirrored.iter().map(|name| Incarnation::new(format!("inc-{name}")).expect("valid")).collect();
    Replica { consistent, promised: Epoch(promised), caught_up: caught_up.map(Epoch), mirrored, ..Replica::default() }
}

/// Two nodes with whole, empty volumes that nobody has written to; nothing is promised yet.
fn new_pair() -> World {
    let mut world = World::with_volumes(&["a", "b"]);
    for name in ["a", "b"] {
        world.tell_replica(name, replica(true, 0, None, &[]));
    }
    world
}

fn serving_pair() -> World {
    let mut world = new_pair();
    world.run(1_000);
    world.tell_replica("a", replica(true, 1, None, &[]));
    world.run_until(5_000, |world| world.serving_now() == Some("a"));
    world
}

fn protected_pair() -> World {
    let mut world = serving_pair();
    world.tell_replica("b", replica(true, 1, Some(1), &[]));
    world.tell_replica("a", replica(true, 1, None, &["b"]));
    world.run_until(5_000, |world| world.in_sync() == 2);
    world
}

#[test]
fn nobody_founds_on_half_an_image_and_then_the_whole_one_serves() {
    let mut world = World::with_volumes(&["a", "b"]);
    world.run(5_000);
    assert_eq!(world.epoch(), 0, "nobody has said that there is data");
    world.tell_replica("a", replica(true, 0, None, &[]));
    world.run_until(5_000, |world| world.promised("a") == Some(1));
    world.tell_replica("a", replica(true, 1, None, &[]));
    world.run_until(5_000, |world| world.serving_now() == Some("a"));
}

#[test]
fn an_epoch_is_not_activated_before_it_is_promised_durably() {
    let mut world = new_pair();
    world.run(5_000);
    assert_eq!((world.epoch(), world.serving_now()), (1, None));
    assert_eq!(world.promised("a"), Some(1), "it was asked for");
    world.tell_replica("a", replica(true, 1, None, &[]));
    world.run_until(1_000, |world| world.serving_now() == Some("a"));
}

#[test]
fn nobody_is_taken_in_on_one_side_s_word() {
    for (standby, holder) in [(Some(1), &[][..]), (None, &["b"][..])] {
        let mut world = serving_pair();
        world.tell_replica("b", replica(true, 1, standby, &[]));
        world.tell_replica("a", replica(true, 1, None, holder));
        world.run(5_000);
        assert_eq!(world.in_sync(), 1, "b says {standby:?}, a says {holder:?}");
    }
    assert_eq!(protected_pair().in_sync(), 2);
}

#[test]
fn a_copy_that_caught_up_with_an_earlier_epoch_is_not_ready() {
    let mut world = protected_pair();
    world.kill_daemon("a");
    world.boot("a");
    world.tell_replica("a", replica(true, 1, None, &[]));
    world.run(1_000);
    assert_eq!((world.epoch(), world.promised("a")), (2, Some(2)));
    world.tell_replica("a", replica(true, 2, None, &["b"]));
    world.run(5_000);
    assert_eq!((world.serving_now(), world.in_sync()), (Some("a"), 1), "b was handshaken in epoch 1 only");
}

#[test]
fn a_standby_in_a_resync_does_not_accept() {
    let mut world = protected_pair();
    world.tell_replica("b", replica(false, 1, None, &[]));
    world.power_off("a");
    world.run(15_000);
    assert_eq!((world.epoch(), world.serving_now()), (1, None));
    world.tell_replica("b", replica(true, 1, None, &[]));
    world.run_until(8_000, |world| world.promised("b") == Some(2));
    world.tell_replica("b", replica(true, 2, None, &[]));
    world.run_until(8_000, |world| world.serving_now() == Some("b"));
}

#[test]
fn data_of_a_later_epoch_than_the_row_s_keeps_a_new_process_out() {
    let mut world = protected_pair();
    world.power_off("a");
    world.kill_daemon("b");
    world.boot("b");
    // The row was put back to an older state while nobody ran: the data knows of epoch 7.
    world.tell_replica("b", replica(true, 7, None, &[]));
    world.run(20_000);
    assert_eq!((world.epoch(), world.serving_now()), (1, None));
}

/// The link between the copies is cut, the nodes' own is not: without this every write would wait for ever.
#[test]
fn a_member_whose_copy_is_out_of_reach_is_taken_out_although_its_node_answers() {
    let mut world = protected_pair();
    let missing =
        |names: &[&str]| Replica { missing: replica(true, 1, None, names).mirrored, ..replica(true, 1, None, &[]) };
    // A link that comes back at once costs nobody the membership.
    world.tell_replica("a", missing(&["b"]));
    world.run(300);
    world.tell_replica("a", replica(true, 1, None, &["b"]));
    world.run(5_000);
    assert_eq!(world.in_sync(), 2);
    world.tell_replica("a", missing(&["b"]));
    world.run_until(3_000, |world| world.in_sync() == 1);
    assert_eq!(world.serving_now(), Some("a"));
}

/// The way to a write that is acknowledged in an ended epoch, as the model found it: nominated, acceptance sent, crash, start,
/// the row read as it was, and only then the acceptance lands.
#[test]
fn a_nominee_that_starts_anew_takes_no_writes_before_the_row_has_moved() {
    let mut world = protected_pair();
    let takes = |world: &World| world.hosts["b"].node.as_ref().is_some_and(|node| node.takes_writes_of(Epoch(1)));
    assert!(takes(&world));
    world.kill_daemon("b");
    world.nominate("b", Rule::R210, None);
    world.boot("b");
    world.tell_replica("b", replica(true, 1, Some(1), &[]));
    world.run(60);
    assert_eq!(world.view("b").role, "nominated", "the row was read with the nomination alive");
    assert!(!takes(&world));
    world.run_until(4_000, takes);
}

/// A read is answered late, and what the data has promised meanwhile is newer: nobody is to be called for that.
#[test]
fn a_row_asked_for_before_the_data_promised_more_is_old_and_not_gone_back() {
    let world = protected_pair();
    let row = world.row.clone().expect("a row");
    let mut node = world.hosts["b"].node.clone().expect("running");
    let at = |ms: u64| Moment::default().after(Millis(100_000_000 + ms));
    let alarm = |effects: &[Effect]| {
        effects.iter().any(
            |effect| matches!(effect, Effect::Note(Note::Trouble { what, .. }) if what.contains("not what it was")),
        )
    };
    let mut read = |asked, then| {
        let effects = node.step(Event::Replica(replica(true, 2, None, &[])), at(10));
        assert!(!alarm(&effects));
        node.step(Event::RowRead { asked: at(asked), row: Some(Box::new(row.clone())) }, at(then))
    };
    assert!(!alarm(&read(0, 20)), "asked before");
    assert!(alarm(&read(30, 40)), "asked since");
}

/// A holder's new process reads a row that was put back to an old state, and then the row as it was: it holds an epoch there that
/// an earlier process has led. Found by the simulator once it ran the real replication, seeds 3375 and 103624: the new process went
/// on in that epoch; or it took the founding of another cluster for its own, for ever.
#[test]
fn no_row_is_believed_before_the_data_has_said_what_it_was_promised_to() {
    let other = Lineage::new("another").expect("valid");
    for lineage in [None, Some(other)] {
        let mut world = protected_pair();
        let row = world.row.clone().expect("a row");
        world.kill_daemon("a");
        let lineage = lineage.unwrap_or_else(|| row.lineage.clone());
        let old = Row { epoch: Epoch(0), rev: Rev(1), holder: None, activated: false, lineage, ..row.clone() };
        world.row = Some(old);
        world.boot("a");
        world.run(2_000);
        assert_eq!(world.view("a").role, "starting", "what its data was promised to, nobody knows");
        world.tell_replica("a", replica(true, 1, None, &[]));
        world.run(1_000);
        assert_eq!(world.view("a").role, "starting", "its data is of a later epoch");
        world.row = Some(row);
        world.run_until(8_000, |world| world.epoch() == 2);
        world.tell_replica("a", replica(true, 2, None, &[]));
        world.run_until(5_000, |world| world.serving_now() == Some("a"));
        assert_eq!(world.in_sync(), 1);
    }
}

/// The simulator's way to a holder that served nothing and held its lease for ever, seed 204240: alone in the set, its disk stood still
/// until its volumes had ended, and came back.
#[test]
fn a_holder_alone_whose_disk_is_well_again_goes_on_in_a_new_epoch() {
    let mut world = serving_pair();
    let ended = |consistent| Replica { ended: Some(Epoch(1)), ..replica(consistent, 1, None, &[]) };
    world.tell_replica("a", ended(false));
    world.run(5_000);
    assert_eq!((world.epoch(), world.view("a").role), (1, "active"), "nobody else can serve");
    world.tell_replica("a", ended(true));
    world.run_until(8_000, |world| world.promised("a") == Some(2));
    world.tell_replica("a", Replica { promised: Epoch(2), ..ended(true) });
    world.run_until(5_000, |world| world.epoch() == 2 && world.serving_now() == Some("a"));
}

/// A resync that begins just before a standby accepts: what was said of its image before is not true any more.
#[test]
fn nobody_accepts_on_a_word_that_is_older_than_the_end_of_what_it_takes() {
    let mut world = protected_pair();
    world.never_closed.insert("b");
    world.power_off("a");
    world.run_until(8_000, |world| world.view("b").role == "nominated");
    world.run(8_000);
    assert_eq!(world.epoch(), 1, "its replication has not said that it takes nothing more");
    let machine = |world: &World| world.hosts["b"].node.clone().expect("running");
    let number = machine(&world).closing().expect("it is asked to");
    assert_eq!(machine(&world).takes_writes_from(), None);
    world.tell_replica("b", Replica { closed: Some(number - 1), ..replica(true, 1, Some(1), &[]) });
    world.run(2_000);
    assert_eq!(world.epoch(), 1, "what it said when it was asked earlier counts no more");
    world.tell_replica("b", Replica { closed: Some(number), ..replica(false, 1, None, &[]) });
    world.run(8_000);
    assert_eq!(world.epoch(), 1, "half an image");
    assert_eq!(machine(&world).closing(), None, "so it may be copied to again");
    world.never_closed.clear();
    world.tell_replica("b", replica(true, 1, Some(1), &[]));
    world.run_until(4_000, |world| world.epoch() == 2);
}

/// The simulator's way to an epoch that two held: a holder's new process asks for the next epoch without an answer, another node
/// takes that epoch, and the table is restored to where the request is legal once more.
#[test]
fn nobody_asks_for_an_epoch_that_its_data_has_promised_to_another() {
    let world = protected_pair();
    let mut row = world.row.clone().expect("a row");
    row.holder = Some(world.holder("b"));
    let now = |ms: u64| Moment::default().after(Millis(100_000_000 + ms));
    let writes = |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::Write { .. })).count();
    for promised in [1, 2] {
        let mut node = world.machine("b", now(0));
        let closed = |node: &Node| Replica { closed: node.closing(), ..replica(true, 1, None, &[]) };
        node.step(Event::Replica(closed(&node)), now(0));
        node.step(Event::RowRead { asked: now(1), row: Some(Box::new(row.clone())) }, now(2));
        let effects = node.step(Event::Replica(closed(&node)), now(3));
        let ticket = effects.iter().find_map(|effect| match effect {
            Effect::Write { ticket, .. } => Some(*ticket),
            _ => None,
        });
        let outcome = Outcome::Unknown { problem: "no answer".into() };
        node.step(Event::Written { ticket: ticket.expect("it restarts into a new epoch"), outcome }, now(500));
        let again: usize = (6..30)
            .map(|tenths| {
                let word = Replica { closed: node.closing(), ..replica(true, promised, None, &[]) };
                node.step(Event::Replica(word), now(tenths * 100))
            })
            .map(|effects| writes(&effects))
            .sum();
        assert_eq!(again, usize::from(promised == 1), "the data has promised epoch {promised}");
    }
}
