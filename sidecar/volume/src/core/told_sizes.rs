//! Replicas whose volumes have been made larger, one after the other: told by hand.

use super::Event;
use super::rate::Limits;
use super::told::{LINK, Told, name, other, span};
use super::{Follow, Replica, Setup};
use crate::ids::Life;
use crate::ids::{Generation, Sequence, Session};
use crate::metadata::{Geometry, Store, grown};
use crate::wire::{Bye, Frame, Message};
use lease::ids::{Epoch, Lineage};
use std::collections::BTreeSet;

/// Of the others: eight extents.
const SMALL: u64 = 8 << 18;

/// One whose volume was made larger by four extents and a chunk, with everything of before as it is at the other.
fn grown_one() -> Told {
    let geometry = Geometry::new(vec![SMALL], 12, 4).expect("it fits");
    let (mut store, _) = Store::format(Lineage::new("l").expect("a name"), name("me"), geometry);
    let slot = store.slot(&name("other"), |_| false).expect("room");
    store.clear_all(slot);
    store.mark(slot, span(2, 4096));
    let (_, pages) = grown(&store, vec![SMALL + (4 << 18) + 4096]).expect("larger");
    let page = |at: u64| pages.iter().find(|(place, _)| *place == at).map(|(_, page)| page.clone());
    let (store, recovery) = Store::recover(page).expect("an area");
    assert!(!recovery.is_guess(), "{recovery:?}");
    let mut told = Told::standing(4);
    told.machine = Replica::new(
        Setup { life: Life(2), write_through: false, follow: Follow::Sync, resync: Limits::default(), keeps: false },
        store,
        false,
    );
    (told.said, told.hung_up) = (Vec::new(), Vec::new());
    told.step(Event::Tick);
    told
}

fn gained(told: &Told) -> u64 {
    let store = told.machine.store();
    let slot = store.superblock().slot_of(&name("other")).expect("it is known");
    (8..store.geometry().extents()).map(|extent| u64::from(store.marked(slot, extent).count_ones())).sum()
}

#[test]
fn a_standby_with_larger_volumes_follows_and_keeps_marked_what_only_it_has() {
    let mut told = grown_one();
    assert_eq!(gained(&told), 4 * 64 + 1);
    told.step(Event::Admit { from: Some(Epoch(0)) });
    let say = |told: &mut Told, at: u64, message| {
        let frame = Frame { epoch: Epoch(2), session: Session(2), sequence: Sequence(at), message };
        told.step(Event::Received { link: LINK, frame });
    };
    say(&mut told, 0, Message::Hello(other()));
    say(&mut told, 0, Message::Generations(Vec::new()));
    say(&mut told, 0, Message::Promise);
    let words = told.said.iter().find_map(|message| match message {
        Message::Bitmap { words, .. } => Some(words.clone()),
        _ => None,
    });
    assert_eq!(words, Some(vec![(2, 1)]), "nothing of what the other does not have");
    let state = Message::State { generation: Generation { epoch: Epoch(2), turn: 0 }, companions: Vec::new() };
    say(&mut told, 1, state);
    say(&mut told, 2, Message::CaughtUp);
    told.disk();
    assert_eq!((told.report.caught_up, told.report.consistent), (Some(Epoch(2)), true));
    assert_eq!(gained(&told), 4 * 64 + 1, "nobody has compared it");
    let slot = told.machine.store().superblock().slot_of(&name("other")).expect("it is known");
    assert_eq!(told.machine.store().marks(slot), 4 * 64 + 1, "of the rest it has everything");
}

#[test]
fn who_leads_takes_larger_ones_and_nobody_who_is_too_small() {
    for (bytes, taken) in [(SMALL, true), (SMALL + 4096, true), (SMALL - 4096, false)] {
        let mut told = Told::leading(8, BTreeSet::new());
        told.step(Event::Connected { link: LINK });
        let mut caps = other();
        caps.volumes = vec![bytes];
        let frame = Frame { epoch: Epoch(1), session: Session(1), sequence: Sequence(0), message: Message::Caps(caps) };
        told.step(Event::Received { link: LINK, frame });
        assert_eq!((told.said.contains(&Message::Promise), told.hung_up.is_empty()), (taken, taken), "{bytes}");
    }
}

#[test]
fn who_is_smaller_than_the_primary_does_not_follow_it() {
    let mut told = Told::standing(4);
    told.step(Event::Admit { from: Some(Epoch(0)) });
    let mut hello = other();
    hello.volumes = vec![SMALL + 4096];
    let frame = Frame { epoch: Epoch(3), session: Session(3), sequence: Sequence(0), message: Message::Hello(hello) };
    told.step(Event::Received { link: LINK, frame });
    assert_eq!(told.hung_up, [Bye::Stranger]);
}
