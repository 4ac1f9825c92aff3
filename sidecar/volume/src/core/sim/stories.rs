//! Single stories in the small world: the few steps in which one guard matters, or one end that must be reached.

use super::ledger::Outcome;
use super::weather::{Fault, Weather};
use super::world::{Asked, World, tagged};
use crate::core::{Ask, Event, Guard, RequestId};
use crate::ids::{Span, VolumeNo};
use std::collections::BTreeSet;

/// No faults but those that a story plants.
const NONE: &[(usize, Fault)] = &[(1, Fault::Lag)];

impl World {
    /// So many nodes in sync, with some history, and nothing under way.
    fn settled(nodes: usize, cached: bool, without: Option<Guard>) -> Result<Self, String> {
        let weather = Weather { calm_steps: usize::MAX, takeover: 0, nodes: Some(nodes), without, ..Weather::of(NONE) };
        let mut world = Self::new(1, Weather { write_through: !cached, ..weather });
        world.until("all are in sync", |world| world.row.in_sync.len() == nodes && world.met.answered > 100)?;
        world.quiet = true;
        world.until("nothing is asked", |world| world.asked.is_empty())?;
        // Longer than it takes until everything is flushed, and known to be.
        world.walk(9_000)?;
        Ok(world)
    }

    fn walk(&mut self, steps: usize) -> Outcome {
        (0..steps).try_for_each(|_| self.step())
    }

    fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) -> Outcome {
        for _ in 0..60_000 {
            if is_so(self) {
                return Ok(());
            }
            self.step()?;
        }
        Err(format!("it never comes to be that {what}"))
    }

    /// A write of one sector at the holder; returns its tag.
    fn write(&mut self, volume: u32, sector: u64, fua: bool) -> Result<u64, String> {
        let (node, volume) = (self.row.holder, VolumeNo(volume));
        self.next_id += 1;
        let tag = self.next_id;
        let span = Span { volume, at: sector * 512, len: 512 };
        self.ledger.asked(self.sectors(span), tag, false);
        let ask = Ask::Write { volume, at: span.at, data: tagged(tag, 512), fua };
        let asked = Asked { node, ask: ask.clone(), tag, covers: BTreeSet::new() };
        self.asked.insert(RequestId(tag), asked);
        self.step_replica(node, Event::Ask { id: RequestId(tag), ask })?;
        Ok(tag)
    }

    fn is_answered(&self, tag: u64) -> bool {
        !self.asked.contains_key(&RequestId(tag))
    }

    fn shows(&self, node: usize, volume: u32, sector: u64, tag: u64) -> bool {
        let place = self.place(Span { volume: VolumeNo(volume), at: sector * 512, len: 512 });
        self.nodes[node].data.bytes[place] == tagged(tag, 512)[..]
    }

    /// Nothing gets through from one to the other, until it is said.
    fn hold(&mut self, from: usize, to: usize, held: bool) {
        for wire in &mut self.wires {
            let way = usize::from(wire.ends[1].0 == to);
            if wire.ends[way].0 == to && wire.ends[1 - way].0 == from {
                wire.lag[way] = if held { usize::MAX } else { 0 };
            }
        }
    }

    fn cut_between(&mut self, a: usize, b: usize) {
        let ends = |at: usize| self.wires[at].ends.map(|end| end.0);
        let Some(at) = (0..self.wires.len()).find(|at| ends(*at) == [a, b] || ends(*at) == [b, a]) else { return };
        for (node, link) in self.wires.swap_remove(at).ends {
            self.nodes[node].orders.push_back(Event::Disconnected { link });
        }
    }

    /// Steps, each looked at as if it were the last.
    fn walk_watched(&mut self, steps: usize) -> Outcome {
        for _ in 0..steps {
            self.step()?;
            self.audit()?;
        }
        Ok(())
    }
}

/// One standby has a write that another lacks; its link breaks and comes back; the primary dies.
fn a_companion_lags(before: usize, after: usize, without: Option<Guard>) -> Outcome {
    let mut world = World::settled(3, false, without)?;
    let holder = world.row.holder;
    let (ahead, behind) = ((holder + 1) % 3, (holder + 2) % 3);
    world.hold(holder, behind, true);
    // Its node does not shrink anybody out meanwhile.
    world.nodes[holder].deaf = usize::MAX;
    let tag = world.write(7, 3, false)?;
    world.until("one has it", |world| world.shows(ahead, 7, 3, tag))?;
    world.walk(before)?;
    world.cut_between(holder, ahead);
    world.walk(40)?;
    world.until("its link is back", |world| {
        world.nodes[holder].told.mirrored.contains(&world.nodes[ahead].name)
            && world.nodes[ahead].told.caught_up == Some(world.row.epoch)
    })?;
    world.walk(after)?;
    assert!(!world.shows(behind, 7, 3, tag) && world.row.in_sync.len() == 3, "the other is a member and lacks it");
    world.crash(holder, false);
    world.row.in_sync.remove(&holder);
    world.take_over(ahead)?;
    world.until("the other is taken in", |world| world.row.in_sync.contains(&behind))?;
    world.check_mirrors()
}

/// A standby loses power with a write in its cache, and a newer one there that was durable; it is sent both again.
fn a_standby_comes_back(without: Option<Guard>) -> Outcome {
    let mut world = World::settled(2, true, without)?;
    let standby = 1 - world.row.holder;
    let older = world.write(5, 2, false)?;
    world.until("it is answered", |world| world.is_answered(older))?;
    let newer = world.write(5, 2, true)?;
    world.until("it is answered", |world| world.is_answered(newer))?;
    world.crash(standby, true);
    world.restart(standby)?;
    world.walk_watched(1_500)?;
    assert!(world.nodes[standby].told.caught_up.is_some(), "it is back");
    Ok(())
}

/// A new primary holds what it has never flushed, and a standby that has lost it comes.
fn a_new_primary_has_a_cache(without: Option<Guard>) -> Outcome {
    let mut world = World::settled(2, true, without)?;
    let (old, new) = (world.row.holder, 1 - world.row.holder);
    world.nodes[new].never_flushes = true;
    let tag = world.write(6, 1, false)?;
    world.until("it is answered", |world| world.is_answered(tag))?;
    world.crash(old, false);
    world.take_over(new)?;
    world.until("it leads", |world| world.nodes[new].leads.is_some())?;
    world.until("the other runs", |world| world.nodes[old].replica.is_some())?;
    world.walk(700)?;
    // Push the write's extent out of the log.
    for volume in [1, 2, 3] {
        world.write(volume, 0, false)?;
        world.walk(120)?;
    }
    world.walk_watched(300)
}

impl World {
    /// This member is made holder.
    fn take_over(&mut self, node: usize) -> Outcome {
        self.row.epoch = self.row.epoch.next();
        (self.row.holder, self.row.in_sync) = (node, [node].into());
        self.take_epoch(node)
    }
}

fn tells(story: fn(Option<Guard>) -> Outcome, guards: &[Guard]) {
    story(None).expect("the whole core stands it");
    for guard in guards {
        let Err(problem) = story(Some(*guard)) else { panic!("{guard:?} was left out and no check failed") };
        assert!(!problem.contains("never comes to be"), "{problem}");
        eprintln!("without {guard:?}: {problem}");
    }
}

#[test]
fn what_a_companion_lacks_stays_marked() {
    // The link breaks when the write is acknowledged, and a flush covers what was said since; or when it is durable.
    tells(|without| a_companion_lags(200, 4_000, without), &[Guard::SettleElders]);
    tells(|without| a_companion_lags(3_700, 400, without), &[Guard::KeepForCompanions]);
}

#[test]
fn a_standby_that_may_have_lost_writes_is_marked_while_they_are_sent_again() {
    tells(a_standby_comes_back, &[Guard::MarkResent]);
}

#[test]
fn what_a_new_primary_has_not_flushed_is_not_copied() {
    tells(a_new_primary_has_a_cache, &[Guard::FlushFirst]);
}

/// An operator makes somebody holder who lacks acknowledged writes: both sides are kept, and nobody overwrites the other.
#[test]
fn two_histories_are_both_kept() {
    let mut world = World::settled(2, false, None).expect("it settles");
    let (old, new) = (world.row.holder, 1 - world.row.holder);
    world.crash(new, false);
    let lost = world.write(4, 4, false).expect("it is taken");
    for _ in 0..60_000 {
        // Who is back before it was shrunk out is sent it.
        world.crash(new, false);
        if world.is_answered(lost) {
            break;
        }
        world.step().expect("nothing is wrong");
    }
    assert!(world.is_answered(lost), "it is shrunk out");
    world.crash(old, false);
    world.until("both run", |world| world.nodes.iter().all(|node| node.replica.is_some())).expect("they start");
    world.crash(old, false);
    let kept = world.nodes[old].data.bytes.clone();
    world.ledger.forgive();
    world.take_over(new).expect("it is ordered");
    let found = world.until("it is over", |_| false).expect_err("it is told");
    assert!(found.contains("diverged"), "{found}");
    assert_eq!(world.nodes[old].data.bytes, kept, "what only it has is still there");
    assert!(world.shows(old, 4, 4, lost) && !world.shows(new, 4, 4, lost));
}
