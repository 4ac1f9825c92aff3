//! What is asked of the holder, and what is made of its answers.

use super::disk::SECTOR;
use super::ledger::Outcome;
use super::world::{Asked, CLIENTS, World, tagged};
use crate::core::{Ask, Event, Refusal, RequestId};
use crate::ids::{Span, VolumeNo};
use bytes::Bytes;

impl World {
    pub(super) fn client(&mut self) -> Outcome {
        let node = self.row.holder;
        let here = &self.nodes[node];
        if here.leads != Some(self.row.epoch) || here.replica.is_none() || self.asked.len() >= CLIENTS {
            return Ok(());
        }
        if self.quiet || self.calm && self.dice.below(20) != 0 {
            return Ok(());
        }
        // Most of it in a few places, so that writes meet.
        let near = self.dice.below(2) == 0;
        let volume = self.dice.below(if near { self.volumes.len().min(3) } else { self.volumes.len() });
        let sectors = self.volumes[volume] / SECTOR;
        let first = self.dice.below(if near { 12 } else { sectors });
        let len = (1 + self.dice.below(12)).min(sectors - first);
        let volume = VolumeNo(u32::try_from(volume).expect("small"));
        let span = Span { volume, at: (first * SECTOR) as u64, len: (len * SECTOR) as u64 };
        let fua = self.dice.below(8) == 0;
        self.next_id += 1;
        let tag = self.next_id;
        let ask = match self.dice.below(20) {
            0..=5 => Ask::Read(span),
            6 => Ask::Flush,
            7 => Ask::Zero { span, fua },
            8 => Ask::Trim { span, fua },
            _ => Ask::Write { volume, at: span.at, data: tagged(tag, len * SECTOR), fua },
        };
        match ask {
            Ask::Write { .. } => self.ledger.asked(self.sectors(span), tag, false),
            Ask::Zero { .. } | Ask::Trim { .. } => self.ledger.asked(self.sectors(span), tag, true),
            Ask::Read(_) | Ask::Flush => {}
        }
        let (id, covers) = (RequestId(tag), self.ledger.unflushed());
        self.asked.insert(id, Asked { node, ask: ask.clone(), tag, covers });
        self.step_replica(node, Event::Ask { id, ask })
    }

    pub(super) fn told(&mut self, node: usize, id: RequestId, result: Result<Bytes, Refusal>) -> Outcome {
        let Some(asked) = self.asked.remove(&id) else { return Ok(()) };
        let Ok(data) = result else { return Ok(()) };
        self.met.answered += 1;
        let serves = node == self.row.holder && self.nodes[node].leads == Some(self.row.epoch);
        let (span, fua) = match asked.ask {
            Ask::Read(span) => {
                // The lease keeps a deposed holder's reads from the clients; nothing here does.
                return if serves { self.read(node, span, &data) } else { Ok(()) };
            }
            Ask::Flush => {
                for sectors in self.ledger.flushed(&asked.covers, self.now) {
                    self.check_members(sectors, true)?;
                }
                return Ok(());
            }
            Ask::Write { volume, at, data, fua } => (Span { volume, at, len: data.len() as u64 }, fua),
            Ask::Zero { span, fua } | Ask::Trim { span, fua } => (span, fua),
        };
        let durable = fua || self.weather.write_through;
        // With a volatile cache, what a deposed holder still answers may be gone with the new one's power.
        if durable || serves {
            self.ledger.done(self.sectors(span), asked.tag, durable, self.now);
            self.check_members(self.sectors(span), durable)?;
        }
        Ok(())
    }

    fn read(&mut self, node: usize, span: Span, data: &[u8]) -> Outcome {
        let first = self.sectors(span).start;
        for (number, sector) in data.chunks(SECTOR).enumerate() {
            self.ledger.saw(first + number, sector, &format!("n{node} reads"))?;
        }
        // What was read must outlive this node.
        self.check_members(self.sectors(span), false)
    }
}
