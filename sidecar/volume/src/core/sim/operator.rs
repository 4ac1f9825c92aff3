//! Who verifies, and decides what is found; and what must hold then.

use super::disk::SECTOR;
use super::ledger::Outcome;
use super::world::{Rotten, World};
use crate::core::survey::PeerState;
use crate::core::verify::{Extent, RATE_LEAST, Verification};
use crate::core::{Command, Event, Follow, Link, Notice, Replica};
use lease::ids::Incarnation;
use std::borrow::Cow;
use std::ops::Range;

/// Steps within which a node takes one that differs out of the row.
const SHRUNK_WITHIN: usize = 4_000;
/// And within which one is taken in that was the same when that began.
const TAKEN_IN_WITHIN: usize = 1_500;

impl World {
    /// The operator looks, decides what there is to decide, and verifies now and then.
    pub(super) fn operate(&mut self) -> Outcome {
        let holder = self.row.holder;
        let here = &self.nodes[holder];
        let Some(replica) = here.replica.as_ref().filter(|_| here.leads == Some(self.row.epoch)) else { return Ok(()) };
        let survey = replica.survey();
        let differing = survey.peers.iter().find(|peer| peer.state == PeerState::Differs).map(|peer| &peer.incarnation);
        let command = match differing {
            Some(peer) if self.calm || self.dice.below(4) == 0 => Command::Resync(peer.clone()),
            Some(_) => return Ok(()),
            None if self.quiet && self.nodes.iter().all(|node| node.rotten.is_empty()) => return Ok(()),
            None => Command::Verify { volume: None, bytes_s: RATE_LEAST << self.dice.below(4) },
        };
        if self.nodes[holder].replica.as_ref().is_none_or(|replica| replica.judge(&command).is_err()) {
            return Ok(());
        }
        if let Command::Resync(peer) = &command {
            let number = self.number(peer);
            (self.nodes[number].differs, self.nodes[number].decided) = (None, true);
            self.note(|| format!("n{holder} is asked to resync n{number}"));
        }
        self.step_replica(holder, Event::Command(command))
    }

    fn number(&self, name: &Incarnation) -> usize {
        self.nodes.iter().position(|node| node.name == *name).expect("it is known")
    }

    /// A byte of a standby changes by itself.
    pub(super) fn bit_rot(&mut self, node: usize) {
        if node == self.row.holder {
            return;
        }
        let sector = self.dice.below(self.nodes[node].data.bytes.len() / SECTOR);
        self.spoil(node, sector);
    }

    /// A byte of this sector changes by itself.
    pub(super) fn spoil(&mut self, node: usize, sector: usize) {
        let (at, now) = (sector * SECTOR + self.dice.below(SECTOR), self.now);
        let here = &mut self.nodes[node];
        if here.rotten.contains_key(&sector) {
            return;
        }
        let was = here.data.bytes[sector * SECTOR..(sector + 1) * SECTOR].to_vec();
        let byte = [here.data.bytes[at] ^ 0x10];
        here.data.spoil(at, &byte);
        here.rotten.insert(sector, Rotten { was, at: now });
        self.note(|| format!("n{node}: sector {sector} rots"));
    }

    /// Bytes of a node's disk as they were written: what has rotted is another's business.
    pub(super) fn as_written<'a>(&self, node: usize, range: Range<usize>, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let rotten = &self.nodes[node].rotten;
        let mut bytes = Cow::Borrowed(bytes);
        for (sector, Rotten { was, .. }) in rotten.range(range.start / SECTOR..range.end.div_ceil(SECTOR)) {
            let at = sector * SECTOR - range.start;
            bytes.to_mut()[at..at + SECTOR].copy_from_slice(was);
        }
        bytes
    }

    pub(super) fn noticed(&mut self, node: usize, notice: Notice) -> Outcome {
        match notice {
            Notice::Differs(difference) => {
                let peer = self.number(&difference.peer);
                let sectors = self.sectors(difference.span);
                let rots = |node: usize| self.nodes[node].rotten.range(sectors.clone()).next().is_some();
                if difference.there.is_some() && !rots(peer) && !rots(node) {
                    return Err(format!("n{peer} is said to differ from n{node} in sectors {sectors:?}, and does not"));
                }
                self.met.found += 1;
                // What is found between the decision and what it begins is part of it.
                if !self.nodes[peer].decided {
                    let at = self.at;
                    self.nodes[peer].differs.get_or_insert(at);
                }
            }
            Notice::Verified(verification) => return self.check_verified(node, &verification),
            Notice::Served { .. } => self.met.served += 1,
            Notice::Repaired { .. } => self.met.repaired += 1,
            Notice::NotKept => self.met.not_kept += 1,
            Notice::Unreadable { .. } => {}
        }
        Ok(())
    }

    /// What has rotted on whoever was compared as a whole, and is there still, is marked.
    fn check_verified(&mut self, node: usize, verification: &Verification) -> Outcome {
        self.met.verified += 1;
        let Some(replica) = &self.nodes[node].replica else { return Ok(()) };
        let store = replica.store();
        for compared in verification.peers.iter().filter(|compared| compared.extent == Extent::Whole) {
            let peer = self.number(&compared.peer);
            let slot = store.superblock().slot_of(&compared.peer).expect("it was compared");
            for (extent, bit) in
                (0..store.geometry().extents()).flat_map(|extent| (0..64).map(move |bit| (extent, bit)))
            {
                if store.geometry().full(extent) & 1 << bit == 0 || store.marked(slot, extent) & 1 << bit != 0 {
                    continue;
                }
                let sectors = self.sectors(store.geometry().chunk(extent, bit));
                let old = |rotten: &Rotten| rotten.at.boottime_us < verification.began.boottime_us;
                if let Some((sector, _)) = self.nodes[peer].rotten.range(sectors).find(|(_, rotten)| old(rotten)) {
                    return Err(format!("a verification by n{node} overlooks sector {sector} of n{peer}"));
                }
            }
        }
        Ok(())
    }

    /// Who is known to differ is not taken in before somebody has decided; it may have been about to be as it was found.
    pub(super) fn check_taken_in(&self, node: usize) -> Outcome {
        let other = &self.nodes[node];
        if other.follow == Follow::Async && other.replica.is_some() && other.told.caught_up.is_none() {
            return Err(format!("n{node} follows, and is taken in"));
        }
        match self.nodes[node].differs {
            Some(since) if self.at - since > TAKEN_IN_WITHIN => {
                Err(format!("n{node} is taken in again, was found to differ, and nobody has decided"))
            }
            _ => Ok(()),
        }
    }

    /// Nothing is copied over what is known to differ before somebody has decided.
    pub(super) fn check_copied(&self, node: usize, link: Link) -> Outcome {
        let Some(wire) = self.wires.iter().find(|wire| wire.ends.contains(&(node, link))) else { return Ok(()) };
        let other = wire.ends[usize::from(wire.ends[0] == (node, link))].0;
        let Some(store) = self.nodes[node].replica.as_ref().map(Replica::store) else { return Ok(()) };
        let doubted = store.superblock().slot_of(&self.nodes[other].name).is_some_and(|slot| store.is_doubted(slot));
        if doubted { Err(format!("n{node} copies over n{other}, which it knows to differ")) } else { Ok(()) }
    }

    /// Who is known to differ is no member for long.
    pub(super) fn check_apart(&self) -> Outcome {
        for (number, node) in self.nodes.iter().enumerate() {
            let known = node.differs.is_some_and(|since| self.at - since > SHRUNK_WITHIN);
            if known && self.row.in_sync.contains(&number) && number != self.row.holder {
                return Err(format!("n{number} is known to differ, and is a member still"));
            }
        }
        Ok(())
    }
}
