//! What a write costs the machines, without disks and sockets: `cargo test --release -p volume pace -- --ignored --nocapture`.

use super::rate::Limits;
use super::{Answer, Ask, Effect, Event, Follow, Job, Link, Replica, RequestId, Setup};
use crate::ids::{Life, Span, VolumeNo};
use crate::metadata::{Geometry, Store};
use bytes::Bytes;
use lease::ids::{Epoch, Incarnation, Lineage};
use lease::time::{Millis, Moment};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

struct Side {
    machine: Replica,
    events: VecDeque<Event>,
    spent: Duration,
    steps: u32,
}

struct Pair {
    /// The primary, and its standby.
    sides: [Side; 2],
    now: Moment,
    size: u64,
    answered: usize,
    mirrored: bool,
}

fn side(name: &str, size: u64) -> Side {
    let geometry = Geometry::new(vec![size], 16, 4096).expect("it fits");
    let name = Incarnation::new(name).expect("a name");
    let (store, _) = Store::format(Lineage::new("l").expect("a name"), name, geometry);
    let machine = Replica::new(
        Setup { life: Life(1), write_through: true, follow: Follow::Sync, resync: Limits::default(), keeps: false },
        store,
        false,
    );
    Side { machine, events: VecDeque::new(), spent: Duration::ZERO, steps: 0 }
}

impl Pair {
    #[expect(clippy::disallowed_methods, reason = "it is the time of this program that is measured")]
    fn step(&mut self, at: usize) {
        let Some(event) = self.sides[at].events.pop_front() else { return };
        let mut out = Vec::with_capacity(8);
        let side = &mut self.sides[at];
        let began = Instant::now();
        side.machine.step(event, self.now, &mut out);
        side.spent += began.elapsed();
        side.steps += 1;
        for effect in out {
            let (to, event) = match effect {
                Effect::Submit { io, job: Job::Read(span) } => {
                    let data = Bytes::from(vec![0; usize::try_from(span.len).expect("small")]);
                    (at, Event::Done { io, answer: Answer::Data(data) })
                }
                Effect::Submit { io, .. } => (at, Event::Done { io, answer: Answer::Done }),
                Effect::Persist(batch) => (at, Event::Persisted { batch: batch.number }),
                Effect::Send { link, frame } => (1 - at, Event::Received { link, frame }),
                Effect::Answer { .. } => {
                    self.answered += 1;
                    continue;
                }
                Effect::Report(report) if at == 0 => {
                    self.mirrored = !report.mirrored.is_empty();
                    let need = report.mirrored;
                    (at, Event::Need { epoch: Epoch(1), need, seen: report.number })
                }
                Effect::Report(_) | Effect::HangUp { .. } | Effect::DropKept | Effect::Tell(_) => continue,
            };
            self.sides[to].events.push_back(event);
        }
    }

    fn run(&mut self) {
        while self.sides.iter().any(|side| !side.events.is_empty()) {
            (0..2).for_each(|at| self.step(at));
        }
    }

    fn in_sync(size: u64) -> Self {
        let sides = [side("a", size), side("b", size)];
        let mut pair = Self { sides, now: Moment::default(), size, answered: 0, mirrored: false };
        pair.sides[1].events.push_back(Event::Admit { from: Some(Epoch(0)) });
        pair.sides[0].events.push_back(Event::Promise { epoch: Epoch(1) });
        pair.run();
        pair.sides[0].events.push_back(Event::Lead { epoch: Epoch(1), need: [].into() });
        pair.sides[0].events.push_back(Event::Connected { link: Link(1) });
        pair.run();
        assert!(pair.mirrored, "the standby is taken in");
        pair
    }

    /// So many writes of 4 KiB at random places, so many at a time: nanoseconds of each machine for one.
    fn writes(&mut self, depth: usize, count: usize) -> [u128; 2] {
        let (mut asked, mut place, data) = (0, 1_u64, Bytes::from(vec![7; 4096]));
        self.answered = 0;
        self.sides.iter_mut().for_each(|side| (side.spent, side.steps) = (Duration::ZERO, 0));
        while self.answered < count {
            while asked < count && asked - self.answered < depth && self.sides[0].machine.takes_requests() {
                asked += 1;
                place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (place >> 20) % (self.size / 4096) * 4096;
                let span = Span { volume: VolumeNo(0), at, len: 4096 };
                let ask = Ask::Write { volume: span.volume, at: span.at, data: data.clone(), fua: false };
                self.sides[0].events.push_back(Event::Ask { id: RequestId(asked as u64), ask });
            }
            (0..2).for_each(|at| self.step(at));
            if asked.is_multiple_of(5_000) {
                self.now = self.now.after(Millis(1));
                self.sides[0].events.push_back(Event::Tick);
            }
        }
        self.run();
        self.sides.each_ref().map(|side| side.spent.as_nanos() / count as u128)
    }
}

#[test]
#[ignore = "a measurement: make bench-volume-core"]
fn pace() {
    // All of it hot; and four times what the log holds.
    for gib in [1, 64] {
        let mut pair = Pair::in_sync(gib << 30);
        pair.writes(32, 50_000);
        for depth in [1, 32, 128, 1024] {
            let [primary, standby] = pair.writes(depth, 100_000);
            eprintln!("{gib:>2} GiB, {depth:>5} at a time: {primary} ns at the primary, {standby} ns at the standby");
        }
    }
}
