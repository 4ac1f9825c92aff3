//! What people are shown of a replica. Nothing is decided by it.

use super::follower::{Follow, Lag};
use super::peer::{Peer, Stage};
use super::verify::Verification;
use super::{Replica, Role, Tally};
use crate::metadata::Slot;
use lease::ids::{Epoch, Incarnation};
use std::fmt;

/// A replica, as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The epoch in which its devices take requests.
    pub leads: Option<Epoch>,
    /// A whole image, on a disk that works.
    pub consistent: bool,
    /// As standby: the holder streams to it, or copies to it.
    pub follows: bool,
    /// How it follows whoever leads; and as asynchronous standby, how far it is behind.
    pub follow: Follow,
    pub lag: Lag,
    /// In the middle of a resync: the image of before can be had again, from the undo log.
    pub keeps: bool,
    pub failed: bool,
    pub stranger: bool,
    /// Of each volume, in order.
    pub sizes_bytes: Vec<u64>,
    /// As holder.
    pub peers: Vec<PeerSurvey>,
    /// The last one here, under way or over.
    pub verification: Option<Verification>,
    pub tally: Tally,
    /// Filled in by whoever moves it.
    pub sent: Sent,
}

/// Data that were sent to other replicas since the process began: writes, copies, and what they fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// As the volumes hold them.
    pub data_bytes: u64,
    /// As they travelled: fewer, where they are compressed.
    pub wire_bytes: u64,
}

/// What a holder knows of another replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSurvey {
    pub incarnation: Incarnation,
    pub state: PeerState,
    /// What it may lack at the most: whole chunks, also where a single byte differs.
    pub behind_bytes: u64,
    /// How it follows, as far as it was met in this epoch; and, if asynchronously, how far it is behind.
    pub follow: Option<Follow>,
    pub lag: Lag,
    /// What it lacks less each second, while it is copied to; filled in by whoever asks again and again.
    pub copied_bytes_s: Option<u64>,
    /// What it is held to while it is copied to, for the sake of the writes or by the configuration; all that are copied to together.
    pub held_to_bytes_s: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// No connection. What it misses is remembered.
    Away,
    /// It is being asked what it has.
    Meeting,
    Copying,
    InStep,
    /// It follows asynchronously: it is an earlier image than this one, and whole.
    Following,
    /// It followed, and more was to be kept for it than may be: it stays as it is for a while, and is copied to then.
    Behind,
    /// A verification found that it differs: it takes what is written, as long as it stays connected, and is not failed over to.
    /// Somebody must decide.
    Differs,
    /// It holds completed writes that this one does not have, and lacks others: somebody must decide.
    Diverged,
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Away => "away",
            Self::Meeting => "meeting",
            Self::Copying => "copying",
            Self::InStep => "in step",
            Self::Following => "following",
            Self::Behind => "behind",
            Self::Differs => "differs",
            Self::Diverged => "diverged",
        })
    }
}

impl Replica {
    /// What people are shown.
    #[must_use]
    pub fn survey(&self) -> Survey {
        let superblock = self.store.superblock();
        let chunk_bytes = 1 << superblock.geometry.chunk_shift();
        let mut survey = Survey {
            leads: self.leads(),
            consistent: self.is_whole(),
            follow: self.setup.follow,
            keeps: superblock.undo.is_some(),
            failed: self.failed,
            stranger: self.stranger,
            sizes_bytes: superblock.geometry.volumes().to_vec(),
            verification: self.verification.clone(),
            tally: self.tally,
            ..Survey::default()
        };
        match &self.role {
            Role::Standby(standby) => (survey.follows, survey.lag) = (standby.session.is_some(), standby.lag),
            Role::Leading(primary) => {
                let known = self.store.slots().filter_map(|slot| Some((slot, superblock.peers[slot].as_ref()?)));
                survey.peers = known
                    .map(|(slot, known): (Slot, _)| PeerSurvey {
                        incarnation: known.incarnation.clone(),
                        state: if primary.diverged.contains(&known.incarnation) {
                            PeerState::Diverged
                        } else if self.store.is_doubted(slot) {
                            PeerState::Differs
                        } else {
                            primary.peers.get(&slot).map_or(PeerState::Away, state)
                        },
                        behind_bytes: match primary.peers.get(&slot) {
                            Some(peer) if peer.follows && peer.whole.is_some() => primary.kept_bytes(slot),
                            _ => self.store.marks(slot) * chunk_bytes,
                        },
                        follow: primary
                            .peers
                            .get(&slot)
                            .filter(|peer| peer.is_met())
                            .map(|peer| if peer.follows { Follow::Async } else { Follow::Sync }),
                        lag: match primary.peers.get(&slot) {
                            Some(peer) if peer.follows => primary.lag(slot),
                            _ => Lag::Unknown,
                        },
                        copied_bytes_s: None,
                        held_to_bytes_s: primary
                            .peers
                            .get(&slot)
                            .filter(|peer| peer.is_copied_to())
                            .and_then(|_| primary.rate.limit()),
                    })
                    .collect();
            }
        }
        survey
    }
}

fn state(peer: &Peer) -> PeerState {
    match peer.dialogue.as_ref().map(|dialogue| &dialogue.stage) {
        None if peer.rests_since.is_some() => PeerState::Behind,
        None => PeerState::Away,
        Some(Stage::Following) => PeerState::Following,
        Some(Stage::Promising) => PeerState::Meeting,
        Some(Stage::Resyncing | Stage::Ending(_)) => PeerState::Copying,
        Some(Stage::InSync) => PeerState::InStep,
        Some(Stage::Differing | Stage::Withheld) => PeerState::Differs,
    }
}
