//! Between the nodes: each direction of each link is cut, lossy, slow or well on its own.

use crate::trace::Us;
use crate::world::{Happening, Message, Who, World};
use lease::ids::NodeId;
use lease::record::Holder;
use node::event::{Event, Ping, Pong};

#[derive(Clone, Debug)]
pub enum PeerMessage {
    Ping(Holder, Ping),
    Pong(Holder, Pong),
    Nudge(NodeId),
}

impl PeerMessage {
    /// As the machine sees it.
    #[must_use]
    pub fn event(self) -> Event {
        match self {
            Self::Ping(from, ping) => Event::Pinged { from, ping },
            Self::Pong(from, pong) => Event::Ponged { from, pong },
            Self::Nudge(from) => Event::Nudged { from },
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    pub cut: u32,
    /// Slowed by this much, each a fault.
    pub slow: Us,
}

#[derive(Debug)]
pub struct Network {
    links: Vec<Vec<Link>>,
    pub sent: u64,
}

impl Network {
    #[must_use]
    pub fn new(hosts: usize) -> Self {
        Self { links: vec![vec![Link::default(); hosts]; hosts], sent: 0 }
    }

    pub fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from][to]
    }
}

impl World {
    /// Sends to the peer's process of this moment: a connection does not outlive it.
    pub(crate) fn send(&mut self, from: usize, to: usize, message: PeerMessage) {
        self.network.sent += 1;
        let noise = self.weather.noise.link;
        let link = &mut self.network.links[from][to];
        if link.cut > 0 {
            self.counts.messages_lost += 1;
            return;
        }
        let mut at =
            self.now + self.dice.between(150, 700) + if link.slow > 0 { self.dice.below(link.slow) } else { 0 };
        let mut copies = 1;
        if !self.healed && self.dice.happens(noise) {
            match self.dice.below(3) {
                0 => {
                    self.counts.messages_lost += 1;
                    return;
                }
                1 => {
                    self.counts.messages_doubled += 1;
                    copies = 2;
                }
                _ => {
                    self.counts.messages_late += 1;
                    at += self.dice.skewed(1_000, 800_000);
                }
            }
        }
        let who = Who::Node { host: to, life: self.hosts[to].life };
        self.trace.mark(at, ((from * 8 + to) * 8) as u64 + copies);
        for copy in 0..copies {
            let what = Message::Peer(Box::new(message.clone()));
            self.queue.push(at + copy * 900, Happening::To { who, what });
        }
    }

    /// The process of `gone` ended: its kernel closes the connections, and the peers see that unless they are cut off.
    pub(crate) fn close_connections(&mut self, gone: usize) {
        self.close_wires(gone);
        for peer in 0..self.hosts.len() {
            if peer != gone && self.network.links[gone][peer].cut == 0 {
                let who = Who::Node { host: peer, life: self.hosts[peer].life };
                let at = self.now + self.dice.between(150, 700);
                self.queue.push(at, Happening::To { who, what: Message::LinkLost { peer: gone } });
            }
        }
    }
}
