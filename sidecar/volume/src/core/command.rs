//! What an operator asks of a replica that leads.

use super::peer::Peer;
use super::verify::RATE_LEAST;
use super::{Effect, Replica, Role};
use crate::ids::VolumeNo;
use crate::metadata::Slot;
use crate::wire::Bye;
use lease::ids::Incarnation;
use lease::time::Moment;

/// Said by [`super::Event::Command`]; whether it is done, [`Replica::judge`] tells before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Compare each peer in step with this replica, at most so many bytes of it in a second.
    Verify {
        /// `None`: all of them.
        volume: Option<VolumeNo>,
        bytes_s: u64,
    },
    /// Compare all of this peer's copy with this replica's, and copy over it what differs.
    Resync(Incarnation),
    /// Forget this peer and what it may lack.
    Forget(Incarnation),
}

/// Why a command is not done. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    #[error("this node does not lead its volumes: ask the node that does")]
    NotLeading,
    #[error("the disk of this node failed: it hands over")]
    Failed,
    #[error("no other replica is in step: there is nothing to compare with")]
    NobodyInStep,
    #[error("a verification is under way: `leasehold volume status` shows how far it is; ask again when it has ended")]
    UnderWay,
    #[error("there is no volume {0}")]
    NoVolume(VolumeNo),
    #[error("{asked} bytes a second: at least {RATE_LEAST} are needed, or a verification would never end")]
    TooSlow { asked: u64 },
    #[error("no replica {peer} is known here; known are: {}", list(.known))]
    Unknown { peer: Incarnation, known: Vec<Incarnation> },
    #[error(
        "replica {0} is a member: it is waited for with each write; stop its node, wait until it has left, and ask again"
    )]
    Member(Incarnation),
    #[error("replica {0} is connected, and would be known again at once: stop its node, and ask again")]
    Connected(Incarnation),
}

fn list(names: &[Incarnation]) -> String {
    if names.is_empty() {
        return "none".into();
    }
    names.iter().map(Incarnation::as_str).collect::<Vec<_>>().join(", ")
}

impl Replica {
    /// Whether this would be done now.
    ///
    /// # Errors
    /// [`Objection`], with what to do.
    pub fn judge(&self, command: &Command) -> Result<(), Objection> {
        let Role::Leading(primary) = &self.role else { return Err(Objection::NotLeading) };
        if self.failed {
            return Err(Objection::Failed);
        }
        match command {
            Command::Verify { bytes_s, .. } if *bytes_s < RATE_LEAST => Err(Objection::TooSlow { asked: *bytes_s }),
            Command::Verify { volume: Some(volume), .. }
                if volume.0 as usize >= self.store.geometry().volumes().len() =>
            {
                Err(Objection::NoVolume(*volume))
            }
            Command::Verify { .. } if primary.verify.is_some() => Err(Objection::UnderWay),
            Command::Verify { .. } if !primary.peers.values().any(Peer::is_comparable) => Err(Objection::NobodyInStep),
            Command::Verify { .. } => Ok(()),
            Command::Resync(peer) => self.place_of(peer).map(|_| ()),
            Command::Forget(peer) => match primary.peers.get(&self.place_of(peer)?) {
                Some(known) if primary.requires(known) => Err(Objection::Member(peer.clone())),
                Some(known) if known.dialogue.is_some() => Err(Objection::Connected(peer.clone())),
                _ => Ok(()),
            },
        }
    }

    /// How many verifications were begun: the number of the last.
    #[must_use]
    pub fn verifications(&self) -> u64 {
        self.verifications
    }

    /// Whether it knows of a peer that differs, and nobody has decided.
    #[cfg(test)]
    pub(super) fn has_doubts(&self) -> bool {
        self.store.slots().any(|slot| self.store.is_doubted(slot))
    }

    fn place_of(&self, peer: &Incarnation) -> Result<Slot, Objection> {
        let superblock = self.store.superblock();
        superblock.slot_of(peer).ok_or_else(|| Objection::Unknown {
            peer: peer.clone(),
            known: superblock.peers.iter().flatten().map(|peer| peer.incarnation.clone()).collect(),
        })
    }

    /// Does what was asked, unless there is something against it.
    pub(super) fn command(&mut self, command: Command, now: Moment) {
        if self.judge(&command).is_err() {
            return;
        }
        match command {
            Command::Verify { volume, bytes_s } => self.begin_verify(volume, bytes_s, now),
            Command::Resync(peer) => {
                let Ok(slot) = self.place_of(&peer) else { return };
                let Role::Leading(primary) = &mut self.role else { return };
                primary.peers.entry(slot).or_insert_with(|| Peer::new(peer, None)).resync_asked = true;
                // A member acknowledges until the row says that it is none: nothing waits for the change of the set.
                self.sets_apart(slot);
            }
            Command::Forget(peer) => {
                let Ok(slot) = self.place_of(&peer) else { return };
                let Role::Leading(primary) = &mut self.role else { return };
                if primary.peers.contains_key(&slot) {
                    self.stop_keeping(slot);
                }
                if let Role::Leading(primary) = &mut self.role {
                    primary.peers.remove(&slot);
                }
                self.store.forget(slot);
            }
        }
    }

    /// Begins the resyncs that were asked for, of whoever is no member any more: all of the copy is in question.
    pub(super) fn begin_asked(&mut self) {
        let Role::Leading(primary) = &self.role else { return };
        let due = primary.peers.iter().filter(|(_, peer)| peer.resync_asked && !primary.requires(peer));
        let due: Vec<Slot> = due.map(|(slot, _)| *slot).collect();
        for slot in due {
            let Role::Leading(primary) = &self.role else { return };
            if let Some(link) = primary.peers[&slot].dialogue.as_ref().map(|dialogue| dialogue.link) {
                self.out.push(Effect::HangUp { link, why: Bye::Closing });
                self.lost(link);
            }
            self.stop_keeping(slot);
            self.store.distrust(slot);
            if let Role::Leading(primary) = &mut self.role
                && let Some(peer) = primary.peers.get_mut(&slot)
            {
                (peer.resync_asked, peer.compare) = (false, true);
            }
        }
    }
}
