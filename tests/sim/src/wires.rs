//! Connections between the nodes' volumes: in order, until either side ends them. Where the way is cut, what is sent waits as
//! TCP lets it wait, and goes out when the cut is healed; nobody is told of a peer that has lost its power.

use crate::trace::Us;
use crate::world::{Happening, Message, Who, World};
use std::collections::VecDeque;
use volume::core::{Event, Link};
use volume::wire::Frame;

/// Between two attempts to reach a peer.
const AGAIN: Us = 200_000;

/// What travels.
#[derive(Clone, Debug)]
pub enum Parcel {
    Frame(Box<Frame>),
    /// The other side has closed, or is not there any more.
    End,
}

#[derive(Debug)]
struct End {
    host: usize,
    life: u64,
    link: Link,
    open: bool,
    /// To the other end: when the last parcel arrives, and what waits for a cut to heal.
    last: Us,
    held: VecDeque<Parcel>,
}

/// One connection; the first end is who opened it.
#[derive(Debug)]
pub struct Wire {
    number: u64,
    ends: [End; 2],
}

#[derive(Debug, Default)]
pub struct Wires {
    all: Vec<Wire>,
    made: u64,
}

impl Wires {
    fn get(&mut self, number: u64) -> Option<&mut Wire> {
        self.all.iter_mut().find(|wire| wire.number == number)
    }

    /// The connection that this host knows by this link, and which end of it is its own.
    fn of(&self, host: usize, link: Link) -> Option<(u64, usize)> {
        let end = |wire: &Wire| wire.ends.iter().position(|end| end.host == host && end.link == link && end.open);
        self.all.iter().find_map(|wire| Some((wire.number, end(wire)?)))
    }
}

impl World {
    /// A connection to this peer, if it can be reached.
    fn connect(&mut self, host: usize, peer: usize) {
        let reached = self.network.link(host, peer).cut == 0 && self.network.link(peer, host).cut == 0;
        if !reached || self.hosts[peer].node.is_none() {
            return;
        }
        self.wires.made += 1;
        let number = self.wires.made;
        let end = |host: usize, link: u64| End {
            host,
            life: self.hosts[host].life,
            link: Link(link),
            open: true,
            last: self.now,
            held: VecDeque::new(),
        };
        let ends = [end(host, 2 * number), end(peer, 2 * number + 1)];
        let lives: Vec<u64> = self.hosts.iter().map(|host| host.life).collect();
        self.wires.all.retain(|wire| wire.ends.iter().any(|end| end.open && end.life == lives[end.host]));
        self.wires.all.push(Wire { number, ends });
        self.counts.connections += 1;
        self.step_volume(host, Event::Connected { link: Link(2 * number) });
    }

    /// At each tick of a daemon: peers are connected to while its volume leads, and what a cut has held up goes out.
    pub(crate) fn tend_wires(&mut self, host: usize) {
        if self.hosts[host].volume.leads().is_some() {
            for peer in (0..self.hosts.len()).filter(|peer| *peer != host) {
                let life = self.hosts[host].life;
                let mine = |wire: &Wire| {
                    let [one, other] = &wire.ends;
                    (one.host, one.life, one.open, other.host) == (host, life, true, peer)
                };
                if self.hosts[host].volume.again_at[peer] <= self.now && !self.wires.all.iter().any(mine) {
                    self.hosts[host].volume.again_at[peer] = self.now + AGAIN;
                    self.connect(host, peer);
                }
            }
        }
        let held = |wire: &Wire| {
            let end = wire.ends.iter().position(|end| end.host == host && !end.held.is_empty())?;
            Some((wire.number, end, wire.ends[1 - end].host))
        };
        let waiting: Vec<_> = self.wires.all.iter().filter_map(held).collect();
        for (number, end, peer) in waiting {
            if self.network.link(host, peer).cut == 0 {
                let wire = self.wires.get(number).expect("it is listed");
                for parcel in std::mem::take(&mut wire.ends[end].held) {
                    self.put_parcel(number, end, parcel);
                }
            }
        }
    }

    pub(crate) fn send_frame(&mut self, host: usize, link: Link, frame: Frame) {
        if let Some((number, end)) = self.wires.of(host, link) {
            self.put_parcel(number, end, Parcel::Frame(Box::new(frame)));
        }
    }

    /// This side ends a connection.
    pub(crate) fn hang_up(&mut self, host: usize, link: Link) {
        if let Some((number, end)) = self.wires.of(host, link) {
            self.put_parcel(number, end, Parcel::End);
            self.wires.get(number).expect("it is there").ends[end].open = false;
        }
    }

    fn put_parcel(&mut self, number: u64, from: usize, parcel: Parcel) {
        let Some(wire) = self.wires.get(number) else { return };
        let (host, peer, life) = (wire.ends[from].host, wire.ends[1 - from].host, wire.ends[1 - from].life);
        self.network.sent += 1;
        let (link, back) = (*self.network.link(host, peer), self.network.link(peer, host).cut);
        let held = &mut self.wires.get(number).expect("it is there").ends[from].held;
        if link.cut > 0 || !held.is_empty() {
            held.push_back(parcel);
            return;
        }
        let mut at =
            self.now + self.dice.between(150, 700) + if link.slow > 0 { self.dice.below(link.slow) } else { 0 };
        if self.hosts[peer].life != life {
            // Whoever is there now knows nothing of it, and says so.
            if self.hosts[peer].on && back == 0 {
                self.arrive(at, number, from, Parcel::End);
            }
            return;
        }
        if !self.healed && self.dice.happens(self.weather.noise.link / 20) {
            // Lost and sent again.
            self.counts.messages_late += 1;
            at += self.dice.skewed(1_000, 800_000);
        }
        let last = &mut self.wires.get(number).expect("it is there").ends[from].last;
        *last = at.max(*last + 1);
        let at = *last;
        self.arrive(at, number, 1 - from, parcel);
    }

    fn arrive(&mut self, at: Us, wire: u64, end: usize, what: Parcel) {
        let here = &self.wires.get(wire).expect("it is there").ends[end];
        let who = Who::Node { host: here.host, life: here.life };
        self.trace.mark(at, wire * 2 + end as u64);
        self.queue.push(at, Happening::To { who, what: Message::Parcel { wire, end, what } });
    }

    pub(crate) fn parcel(&mut self, host: usize, wire: u64, end: usize, what: Parcel) {
        let Some(here) = self.wires.get(wire).map(|wire| &mut wire.ends[end]).filter(|end| end.open) else { return };
        let link = here.link;
        match what {
            Parcel::Frame(frame) => self.step_volume(host, Event::Received { link, frame: *frame }),
            Parcel::End => {
                here.open = false;
                self.step_volume(host, Event::Disconnected { link });
            }
        }
    }

    /// The process of `gone` ended: its kernel closes its connections, and the peers see that unless they are cut off.
    pub(crate) fn close_wires(&mut self, gone: usize) {
        let now = self.hosts[gone].life;
        let dead = |wire: &Wire| {
            let end = wire.ends.iter().position(|end| end.host == gone && end.life != now && end.open)?;
            Some((wire.number, end))
        };
        let dead: Vec<_> = self.wires.all.iter().filter_map(dead).collect();
        for (number, end) in dead {
            self.put_parcel(number, end, Parcel::End);
            let end = &mut self.wires.get(number).expect("it is listed").ends[end];
            end.open = false;
            end.held.clear();
        }
    }
}
