//! What must hold, and when it is looked at.
//!
//! - with each effect: data only where it is durably hot, promises only when durable and drained, no answers while frozen, no
//!   word below a promise ([`World::check_effect`]);
//! - with each answer: every member holds it ([`World::check_members`]);
//! - with each member that is taken in: it equals the holder ([`World::check_mirrors`]);
//! - again and again, as if all power were lost just now: what differs is claimed, what is called whole is an image that a
//!   primary had, and no member lacks what was acknowledged ([`World::audit`]).

use super::disk::{SECTOR, torn};
use super::ledger::Outcome;
use super::world::{World, recover};
use crate::core::follower::Lag;
use crate::core::survey::PeerState;
use crate::core::{Effect, Follow, Guard, Job};
use crate::ids::{Generation, Sequence, Session};
use crate::metadata::{DataState, Recovery, Store};
use crate::wire::{Frame, Message};
use std::collections::BTreeSet;
use std::ops::Range;

impl World {
    /// What the node's metadata would say after a start.
    fn found(&mut self, node: usize) -> Result<&(Store, Recovery), String> {
        let here = &mut self.nodes[node];
        if here.found.is_none() {
            here.found = Some(recover(&here.meta.bytes)?);
        }
        Ok(here.found.as_ref().expect("it was just set"))
    }

    pub(super) fn check_effect(&mut self, node: usize, effect: &Effect) -> Outcome {
        match effect {
            Effect::Submit { job, .. } => self.check_submit(node, job),
            Effect::Persist(_) if self.nodes[node].batch.is_some() => Err(format!("n{node}: two batches at once")),
            Effect::Report(report) => {
                if !report.diverged.is_empty() {
                    return Err(format!("n{node} finds diverged histories: {:?}", report.diverged));
                }
                if report.consistent && self.found(node)?.0.superblock().state != DataState::Whole {
                    return Err(format!("n{node} says that it is consistent, and its superblock does not"));
                }
                if report.promised > self.nodes[node].told.promised {
                    self.check_promise(node, report.promised)?;
                }
                Ok(())
            }
            Effect::Send { link, frame } => {
                let answers = matches!(
                    frame.message,
                    Message::Caps(_)
                        | Message::Promised
                        | Message::Written { .. }
                        | Message::Durable
                        | Message::Same
                        | Message::Differs { .. }
                        | Message::InSync
                        | Message::Fetched { .. }
                );
                if answers && frame.epoch < self.nodes[node].promised {
                    return Err(format!("n{node} answers a frame below its promise: {:?}", frame.message));
                }
                match &frame.message {
                    Message::Resync | Message::Copy { .. } => self.check_copied(node, *link),
                    Message::Promised => self.check_promise(node, frame.epoch),
                    Message::Durable => self.check_states(node, frame, &[(Sequence(1), frame.sequence)]),
                    Message::Written { ranges } => self.check_states(node, frame, ranges),
                    _ => Ok(()),
                }
            }
            Effect::Answer { result: Ok(_), .. } => {
                let here = &self.nodes[node];
                if here.frozen {
                    return Err(format!("n{node} answers behind a closed gate"));
                }
                if here.told.failed || here.told.fenced_by.is_some() {
                    return Err(format!("n{node} answers after it has failed or was fenced"));
                }
                Ok(())
            }
            Effect::Persist(_) | Effect::HangUp { .. } | Effect::Answer { .. } | Effect::DropKept | Effect::Tell(_) => {
                Ok(())
            }
        }
    }

    fn check_submit(&mut self, node: usize, job: &Job) -> Outcome {
        let Some(span) = job.span() else { return Ok(()) };
        let meets =
            |other: &Job| other.span().is_some_and(|other| other.overlaps(span)) && (other.changes() || job.changes());
        // What comes of it is seen without this, too.
        let looks = self.weather.without != Some(Guard::OrderMeeting);
        if looks && self.nodes[node].jobs.iter().any(|(_, other, _)| meets(other)) {
            return Err(format!("n{node}: {job:?} meets another on the disk"));
        }
        if job.changes() {
            let (store, recovery) = self.found(node)?;
            let claimed = |extent: u32, chunks: u64| {
                store.is_hot(extent) || store.slots().all(|slot| store.marked(slot, extent) & chunks == chunks)
            };
            let extents = store.geometry().touched(span);
            if !recovery.log_lost && !extents.clone().all(|(extent, chunks)| claimed(extent, chunks)) {
                return Err(format!("n{node}: {job:?} where it is not hot"));
            }
        }
        Ok(())
    }

    /// Durable, and nothing of older epochs on its way to the disk.
    fn check_promise(&mut self, node: usize, epoch: lease::ids::Epoch) -> Outcome {
        let here = &mut self.nodes[node];
        here.promised = here.promised.max(epoch);
        if here.jobs.iter().any(|(_, job, _)| job.changes()) {
            return Err(format!("n{node} promises {epoch:?} with older writes on their way to the disk"));
        }
        if self.found(node)?.0.superblock().promised < epoch {
            return Err(format!("n{node} promises {epoch:?}, and its superblock does not"));
        }
        Ok(())
    }

    /// A generation whose place is said to be done is durable.
    fn check_states(&mut self, node: usize, frame: &Frame, ranges: &[(Sequence, Sequence)]) -> Outcome {
        let within = |at: &Sequence| ranges.iter().any(|(first, last)| first <= at && at <= last);
        // Numbers of sessions begin anew with each epoch; a generation names its own.
        let this =
            |session: Session, generation: Generation| (session, generation.epoch) == (frame.session, frame.epoch);
        let told = self.nodes[node].states.iter();
        let told = told.filter(|(session, at, generation)| this(*session, *generation) && within(at));
        let Some(last) = told.map(|(_, _, generation)| *generation).max() else { return Ok(()) };
        if !knows(&self.found(node)?.0, last) {
            return Err(format!("n{node} says that it has {last:?}, and its superblock does not"));
        }
        Ok(())
    }

    /// What was acknowledged, or read, is on every member.
    pub(super) fn check_members(&mut self, sectors: Range<usize>, durable: bool) -> Outcome {
        let bytes = sectors.start * SECTOR..sectors.end * SECTOR;
        for member in self.row.in_sync.clone() {
            let here = &self.nodes[member];
            let who = format!("member n{member} has");
            if !here.hazy {
                let found = self.as_written(member, bytes.clone(), &here.data.bytes[bytes.clone()]);
                self.ledger.has_all(sectors.start, &found, false, &who)?;
            }
            if durable {
                let sure = here.data.sure(bytes.clone());
                let found = self.as_written(member, bytes.clone(), &sure);
                self.ledger.has_all(sectors.start, &found, true, &format!("{who} for sure"))?;
            }
        }
        Ok(())
    }

    /// Who is mirrored equals the holder, but for what is not answered yet.
    pub(super) fn check_mirrors(&mut self) -> Outcome {
        let holder = self.row.holder;
        let here = &self.nodes[holder];
        if here.leads != Some(self.row.epoch) || here.replica.is_none() {
            return Ok(());
        }
        let asked = self.asked.values().filter_map(|asked| asked.ask.changes());
        let open: BTreeSet<usize> = asked.flat_map(|span| self.sectors(span)).collect();
        for (number, other) in self.nodes.iter().enumerate() {
            let mirrors = here.told.mirrored.contains(&other.name) && other.told.caught_up == Some(self.row.epoch);
            if !mirrors || other.replica.is_none() {
                continue;
            }
            let pairs = here.data.bytes.chunks(SECTOR).zip(other.data.bytes.chunks(SECTOR)).enumerate();
            for (sector, (mine, theirs)) in pairs {
                if mine != theirs && !open.contains(&sector) && !other.rotten.contains_key(&sector) {
                    return Err(format!("n{number} mirrors n{holder} and differs in sector {sector}"));
                }
            }
        }
        Ok(())
    }

    /// As if everything stopped just now.
    pub(super) fn audit(&mut self) -> Outcome {
        self.check_mirrors()?;
        self.check_apart()?;
        let power = self.dice.below(2) == 0;
        let mut left = Vec::new();
        for node in 0..self.nodes.len() {
            let changes: Vec<_> = self.nodes[node].jobs.iter().filter_map(|(_, job, _)| self.bytes_of(job)).collect();
            let here = &self.nodes[node];
            let data = if power { here.data.after_power_loss(&mut self.dice) } else { here.data.bytes.clone() };
            let mut data = self.as_written(node, 0..data.len(), &data).into_owned();
            let (here, dice) = (&self.nodes[node], &mut self.dice);
            let mut meta = if power { here.meta.after_power_loss(dice) } else { here.meta.bytes.clone() };
            for (at, bytes) in &changes {
                for (at, sector) in torn(*at, bytes, dice) {
                    data[at..at + sector.len()].copy_from_slice(sector);
                }
            }
            for (at, page) in here.batch.iter().flat_map(|batch| &batch.pages) {
                for (at, sector) in torn(usize::try_from(*at).expect("small"), page, dice) {
                    meta[at..at + sector.len()].copy_from_slice(sector);
                }
            }
            left.push((data, recover(&meta)?.0));
        }
        for a in 0..left.len() {
            for b in a + 1..left.len() {
                self.check_claims(a, &left[a], b, &left[b])?;
            }
        }
        // Of all who ever led: what was completed in it, or before, is all that was acknowledged.
        let completed = left.iter().filter_map(|(_, store)| store.superblock().completed).max();
        for (node, (data, store)) in left.iter().enumerate() {
            let here = &self.nodes[node];
            if store.superblock().promised < here.promised {
                return Err(format!("n{node} has forgotten its promise"));
            }
            if store.superblock().state != DataState::Whole {
                self.check_kept(node, data, store, completed)?;
                continue;
            }
            self.ledger.is_prefix(data, &format!("n{node} is whole and has"))?;
            self.check_follower(node, data)?;
            if completed.is_some_and(|completed| knows(store, completed)) {
                // Nobody would see that it is another history.
                self.ledger.has_all(0, data, true, &format!("n{node} knows the generation, is whole and has"))?;
            }
            if self.row.in_sync.contains(&node) {
                let who = format!("member n{node} would have");
                self.ledger.has_all(0, data, true, &who)?;
                if !power && !here.hazy {
                    self.ledger.has_all(0, data, false, &who)?;
                }
            }
        }
        Ok(())
    }

    /// What an interrupted resync has overwritten can be put back: then the image is what it was.
    fn check_kept(&mut self, node: usize, data: &[u8], store: &Store, completed: Option<Generation>) -> Outcome {
        let Some(undo) = &store.superblock().undo else { return Ok(()) };
        let mut data = data.to_vec();
        let of_this = |(number, range, bytes): &'_ (u64, Range<usize>, Vec<u8>)| {
            (*number == undo.number).then(|| (range.clone(), bytes.clone()))
        };
        // The first of several counts.
        for (range, bytes) in self.nodes[node].kept.iter().rev().filter_map(of_this) {
            data[range].copy_from_slice(&bytes);
        }
        self.ledger.is_prefix(&data, &format!("n{node}, rolled back, has"))?;
        let known =
            |last: Generation| undo.generations.iter().any(|one| one.epoch == last.epoch && one.turn >= last.turn);
        if completed.is_some_and(known) {
            self.ledger.has_all(0, &data, true, &format!("n{node}, rolled back, knows the generation and has"))?;
        }
        self.met.rolled_back += 1;
        Ok(())
    }

    /// Who follows has, for good, what it says of itself, and what is said of it.
    fn check_follower(&self, node: usize, data: &[u8]) -> Outcome {
        let here = &self.nodes[node];
        if here.follow == Follow::Sync {
            return Ok(());
        }
        if let Some(Lag::Since(since)) = here.replica.as_ref().map(|replica| replica.survey().lag) {
            // Who was deposed and does not know says nothing of what was completed since. A lease, which closes its gate before, this
            // world has none of.
            let ended = self.ended.get(&here.lag_of).copied().filter(|ended| ended.boottime_us < since.boottime_us);
            let since = ended.unwrap_or(since);
            self.ledger.has_until(
                since,
                data,
                &format!("n{node} says that it lacks nothing since {since:?} and has"),
            )?;
        }
        let holder = &self.nodes[self.row.holder];
        let Some(holder) = holder.replica.as_ref().filter(|_| holder.leads == Some(self.row.epoch)) else {
            return Ok(());
        };
        let peers = holder.survey().peers;
        match peers
            .iter()
            .find(|peer| peer.incarnation == here.name && peer.state == PeerState::Following)
            .map(|peer| peer.lag)
        {
            Some(Lag::Nothing) => {
                self.ledger.has_until(self.now, data, &format!("n{node} is said to lack nothing and has"))
            }
            Some(Lag::Since(since)) => {
                self.ledger.has_until(since, data, &format!("n{node} is said to lack nothing since {since:?} and has"))
            }
            Some(Lag::Unknown) | None => Ok(()),
        }
    }

    /// Whatever differs between two replicas is marked by one of them.
    fn check_claims(&self, a: usize, mine: &(Vec<u8>, Store), b: usize, theirs: &(Vec<u8>, Store)) -> Outcome {
        let ((here, one), (there, other)) = (mine, theirs);
        let names = (&self.nodes[a].name, &self.nodes[b].name);
        let (Some(of_b), Some(of_a)) = (one.superblock().slot_of(names.1), other.superblock().slot_of(names.0)) else {
            return Ok(());
        };
        for extent in 0..one.geometry().extents() {
            let marked = one.marked(of_b, extent) | other.marked(of_a, extent);
            let chunks = one.geometry().full(extent);
            for bit in (0..64).filter(|bit| chunks & 1 << bit != 0 && marked & 1 << bit == 0) {
                let range = self.place(one.geometry().chunk(extent, bit));
                if here[range.clone()] != there[range] {
                    return Err(format!("chunk {extent}.{bit} of n{a} and n{b} differs and is not marked"));
                }
            }
        }
        Ok(())
    }

    pub(super) fn check_equal(&mut self) -> Outcome {
        let holder = self.nodes[self.row.holder].data.bytes.clone();
        for node in 0..self.nodes.len() {
            if self.nodes[node].data.bytes != holder {
                return Err(format!("n{node} differs from the holder when all is quiet"));
            }
        }
        for (sector, bytes) in holder.chunks(SECTOR).enumerate() {
            self.ledger.saw(sector, bytes, "in the end there is")?;
        }
        Ok(())
    }
}

/// Whether this replica counts as one that has what was completed in this generation.
fn knows(store: &Store, generation: Generation) -> bool {
    store.superblock().generations.iter().any(|one| one.epoch == generation.epoch && one.turn >= generation.turn)
}
