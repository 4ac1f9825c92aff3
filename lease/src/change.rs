//! Every legal change to the row, as data: a precondition on the row that was read, and the row that follows.
//!
//! ```text
//!                    Found              Accept            Activate
//!   (no row) ───────────────▶ released ─────────▶ held ───────────▶ activated ──┐ Renew, Shrink, Grow
//!                                ▲ ▲                ▲ ▲                │  │  │ ◀─┘ (same epoch, beat+1)
//!                                │ └────Release─────┼─┼────────────────┘  │  │
//!                                │                  │ └─────HandOver──────┘  │ (epoch+1, holder = peer)
//!                                │                  └───────Restart──────────┘ (epoch+1, same holder)
//!                             Nominate, Intend, Pause: rev+1, no epoch, no beat; Accept: epoch+1, in_sync = {me}
//! ```
//!
//! Who may apply a change to DynamoDB at all is IAM's matter; whether a node may *want* one (waits, promises) is in
//! [`crate::accept`] and in the node's machine. What is here holds whatever the clocks do.

use crate::ids::{Beat, Epoch, Incarnation, Lineage, NodeId, Nonce, Rev};
use crate::record::{Holder, Intent, Nominee, Pause, Row};
use crate::time::Millis;
use std::collections::BTreeSet;

/// A change that somebody wants to make.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// The holder is alive and its I/O makes progress.
    Renew {
        me: Holder,
        epoch: Epoch,
    },
    /// The holder takes a lost member out. Completions stay frozen until the write is PROVEN applied.
    Shrink {
        me: Holder,
        epoch: Epoch,
        peer: Incarnation,
    },
    /// The holder takes a member in: consistent, caught up and handshaken in this epoch. The holder's `need` includes it
    /// BEFORE this is sent.
    Grow {
        me: Holder,
        epoch: Epoch,
        peer: Incarnation,
    },
    /// The control plane tells a standby to accept if it finds the holder gone. Takes no lease.
    Nominate(Nominee),
    /// The nominee makes itself holder. Its waits and promises are judged in [`crate::accept`].
    Accept {
        me: Holder,
        terms: Terms,
    },
    /// The new holder has drained what older epochs queued and will open its volumes. The request that led to it is done.
    Activate {
        me: Holder,
        epoch: Epoch,
    },
    /// Planned: the holder has stopped the workload, every write is acknowledged everywhere, and `to` continues. A request
    /// to move to `to` stays until it activates: so it knows why it serves, however late it reads the row.
    HandOver {
        me: Holder,
        epoch: Epoch,
        to: Holder,
        terms: Terms,
    },
    /// The holder stops in order and nobody is ready to continue, or the cluster is to rest.
    Release {
        me: Holder,
        epoch: Epoch,
    },
    /// A new process of the holder: never resumes its old epoch, whose messages may still be on their way.
    Restart {
        me: Holder,
        after: Drain,
        terms: Terms,
    },
    /// A standby takes itself out; shrinking who may accept is always safe.
    Leave {
        me: Incarnation,
    },
    /// Asks the holder to hand over.
    Intend(Intent),
    /// The request is done with, given up or overtaken; only the one that was seen is cleared.
    ClearIntent {
        id: Nonce,
    },
    Pause(Pause),
    Resume,
}

/// What an epoch is held under; fixed for the epoch because holder and watchers must agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    pub ttl_ms: Millis,
    pub lossy_ok: bool,
}

/// How the holder's previous process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drain {
    /// Everything acknowledged everywhere before it ended: members stay members.
    Clean,
    /// Unknown: the disk may hold writes that no other member has. They are its own until resynced.
    Crash,
}

/// The first row of a cluster: released, with its first holder nominated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Founding {
    pub cluster: crate::ids::ClusterId,
    pub lineage: Lineage,
    pub terms: Terms,
    /// Bound to epoch 0, beat 0.
    pub nominee: Nominee,
}

/// One conditional write: the version that must be found, and the row to put in its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    pub expect: Expect,
    pub row: Row,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    /// There is no row yet.
    Absent,
    /// Exactly this version, by number and by the mark of its writer. Boxed: the whole row that the writer saw, so that
    /// only the attributes that differ are written.
    Version(Box<Row>),
}

/// Why a change is not legal on the row that was read. Both sides are in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the lease is held by {}, not by {me}", found.as_ref().map_or("nobody", NodeId::as_str))]
    NotHolder { me: NodeId, found: Option<NodeId> },
    #[error("the lease is at epoch {found}, this node held epoch {held}")]
    EpochMoved { held: Epoch, found: Epoch },
    #[error("{member} is not in the in-sync set")]
    NotInSync { member: Incarnation },
    #[error("{member} is in the in-sync set already")]
    AlreadyInSync { member: Incarnation },
    #[error("the holder {member} cannot leave the in-sync set")]
    HolderStays { member: Incarnation },
    #[error("{me} is not nominated for epoch {epoch}, beat {beat}")]
    NotNominated { me: NodeId, epoch: Epoch, beat: Beat },
    #[error("the nomination names epoch {epoch}, beat {beat}; the row is at epoch {found_epoch}, beat {found_beat}")]
    StaleNomination { epoch: Epoch, beat: Beat, found_epoch: Epoch, found_beat: Beat },
    #[error("{member} lacks acknowledged writes and the nomination does not accept their loss")]
    WouldLose { member: Incarnation },
    /// Without proof that the holder's machine is dead, it may go on serving: alone, or on the promises of members that the
    /// nominee is not one of. Only an epoch with `lossy_ok` keeps its holder from that.
    #[error(
        "{member} is not in sync, and the holder {holder} may go on serving without it: prove its death, or allow lossy failover"
    )]
    HolderMayServe { member: Incarnation, holder: NodeId },
    #[error("epoch {epoch} is not activated")]
    NotActivated { epoch: Epoch },
    #[error("epoch {epoch} is activated already")]
    AlreadyActivated { epoch: Epoch },
    #[error("{node} is the holder already")]
    ToItself { node: NodeId },
    #[error("another request to move is under way: {id} to {to}")]
    IntentUnderWay { id: Nonce, to: NodeId },
    #[error("the request {id} is not the row's")]
    NoSuchIntent { id: Nonce },
    #[error("the cluster is paused already: {reason}")]
    AlreadyPaused { reason: String },
    #[error("the cluster is not paused")]
    NotPaused,
}

impl Change {
    /// The one conditional write that makes this change on exactly `row`, marked with `nonce`.
    ///
    /// # Errors
    /// [`Refusal`] where the change is not legal on `row`; nothing is to be written then.
    pub fn on(&self, row: &Row, nonce: Nonce) -> Result<Write, Refusal> {
        let mut next = row.clone();
        next.rev = row.rev.next();
        next.nonce = nonce;
        match self {
            Self::Renew { me, epoch } => held_by(row, me, *epoch)?.beats(&mut next),
            Self::Shrink { me, epoch, peer } => {
                held_by(row, me, *epoch)?.beats(&mut next);
                if *peer == me.incarnation {
                    return Err(Refusal::HolderStays { member: peer.clone() });
                }
                if !next.in_sync.remove(peer) {
                    return Err(Refusal::NotInSync { member: peer.clone() });
                }
            }
            Self::Grow { me, epoch, peer } => {
                held_by(row, me, *epoch)?.beats(&mut next);
                if !row.activated {
                    return Err(Refusal::NotActivated { epoch: *epoch });
                }
                if !next.in_sync.insert(peer.clone()) {
                    return Err(Refusal::AlreadyInSync { member: peer.clone() });
                }
            }
            Self::Nominate(nominee) => {
                if (nominee.epoch, nominee.beat) != (row.epoch, row.beat) {
                    return Err(Refusal::StaleNomination {
                        epoch: nominee.epoch,
                        beat: nominee.beat,
                        found_epoch: row.epoch,
                        found_beat: row.beat,
                    });
                }
                if row.holder.as_ref().is_some_and(|holder| holder.node == nominee.node) {
                    return Err(Refusal::ToItself { node: nominee.node.clone() });
                }
                row.may_be_taken_by(nominee)?;
                next.nominee = Some(nominee.clone());
            }
            Self::Accept { me, terms } => {
                let nominee = row
                    .live_nominee()
                    .filter(|nominee| nominee.node == me.node && nominee.incarnation == me.incarnation)
                    .ok_or_else(|| Refusal::NotNominated { me: me.node.clone(), epoch: row.epoch, beat: row.beat })?;
                row.may_be_taken_by(nominee)?;
                next.takes_epoch(me, *terms);
                next.in_sync = BTreeSet::from([me.incarnation.clone()]);
            }
            Self::Activate { me, epoch } => {
                held_by(row, me, *epoch)?.beats(&mut next);
                if row.activated {
                    return Err(Refusal::AlreadyActivated { epoch: *epoch });
                }
                next.activated = true;
                next.intent = row.open_intent().cloned();
            }
            Self::HandOver { me, epoch, to, terms } => {
                held_by(row, me, *epoch)?;
                if !row.activated {
                    return Err(Refusal::NotActivated { epoch: *epoch });
                }
                if to.node == me.node {
                    return Err(Refusal::ToItself { node: to.node.clone() });
                }
                if !row.in_sync.contains(&to.incarnation) {
                    return Err(Refusal::NotInSync { member: to.incarnation.clone() });
                }
                next.takes_epoch(to, *terms);
                next.intent = row.intent.clone().filter(|intent| intent.to == to.node);
            }
            Self::Release { me, epoch } => {
                held_by(row, me, *epoch)?.beats(&mut next);
                next.holder = None;
                next.activated = false;
                next.intent = None;
            }
            Self::Restart { me, after, terms } => {
                if !row.is_held_by(me) {
                    return Err(not_holder(row, me));
                }
                next.takes_epoch(me, *terms);
                if !row.activated {
                    // Handed over to, and not active yet: why it took over is still to be told.
                    next.intent = row.intent.clone().filter(|intent| intent.to == me.node);
                }
                if *after == Drain::Crash {
                    next.in_sync = BTreeSet::from([me.incarnation.clone()]);
                }
            }
            Self::Leave { me } => {
                if row.holder.as_ref().is_some_and(|holder| holder.incarnation == *me) || row.in_sync.len() == 1 {
                    return Err(Refusal::HolderStays { member: me.clone() });
                }
                if !next.in_sync.remove(me) {
                    return Err(Refusal::NotInSync { member: me.clone() });
                }
                // Whoever is not in sync must not accept on an older nomination.
                if next.nominee.as_ref().is_some_and(|nominee| nominee.incarnation == *me && !nominee.lossy) {
                    next.nominee = None;
                }
            }
            Self::Intend(intent) => {
                match &row.holder {
                    None => return Err(Refusal::NotActivated { epoch: row.epoch }),
                    Some(holder) if holder.node == intent.to => {
                        return Err(Refusal::ToItself { node: intent.to.clone() });
                    }
                    Some(_) => {}
                }
                if let Some(other) = row.open_intent().filter(|other| other.id != intent.id) {
                    return Err(Refusal::IntentUnderWay { id: other.id.clone(), to: other.to.clone() });
                }
                next.intent = Some(intent.clone());
            }
            Self::ClearIntent { id } => {
                if row.intent.as_ref().is_none_or(|intent| intent.id != *id) {
                    return Err(Refusal::NoSuchIntent { id: id.clone() });
                }
                next.intent = None;
            }
            Self::Pause(pause) => {
                if let Some(paused) = &row.paused {
                    return Err(Refusal::AlreadyPaused { reason: paused.reason.clone() });
                }
                next.paused = Some(pause.clone());
                // An automatic nomination that nobody has accepted yet must not fire into the pause.
                next.nominee = row.nominee.clone().filter(|nominee| nominee.rule == crate::rules::Rule::R410);
            }
            Self::Resume => {
                if row.paused.is_none() {
                    return Err(Refusal::NotPaused);
                }
                next.paused = None;
            }
        }
        Ok(Write { expect: Expect::Version(Box::new(row.clone())), row: next })
    }
}

impl Founding {
    /// The write that makes the cluster's row; applied only where there is none.
    #[must_use]
    pub fn write(self, nonce: Nonce) -> Write {
        Write {
            expect: Expect::Absent,
            row: Row {
                cluster: self.cluster,
                rev: Rev(1),
                lineage: self.lineage,
                epoch: Epoch(0),
                holder: None,
                beat: Beat(0),
                in_sync: BTreeSet::from([self.nominee.incarnation.clone()]),
                activated: false,
                nominee: Some(Nominee { epoch: Epoch(0), beat: Beat(0), ..self.nominee }),
                intent: None,
                paused: None,
                ttl_ms: self.terms.ttl_ms,
                lossy_ok: self.terms.lossy_ok,
                nonce,
            },
        }
    }
}

impl Row {
    /// Whether a nomination may lead to an acceptance, whatever the clocks do.
    fn may_be_taken_by(&self, nominee: &Nominee) -> Result<(), Refusal> {
        let member = &nominee.incarnation;
        if self.in_sync.contains(member) {
            return Ok(());
        }
        if !nominee.lossy {
            return Err(Refusal::WouldLose { member: member.clone() });
        }
        match &self.holder {
            Some(holder) if !self.lossy_ok && !nominee.proves_death_of(holder) => {
                Err(Refusal::HolderMayServe { member: member.clone(), holder: holder.node.clone() })
            }
            _ => Ok(()),
        }
    }

    fn takes_epoch(&mut self, holder: &Holder, terms: Terms) {
        self.epoch = self.epoch.next();
        self.beat = Beat(0);
        self.holder = Some(holder.clone());
        self.activated = false;
        self.nominee = None;
        self.intent = None;
        self.ttl_ms = terms.ttl_ms;
        self.lossy_ok = terms.lossy_ok;
    }
}

/// Proof that the row is held by who asks, in the epoch it believes in.
struct Held;

impl Held {
    /// Each write of the holder counts as a renewal, and voids a nomination by moving the beat.
    #[allow(clippy::unused_self, reason = "only who has shown to hold the row may move its beat")]
    fn beats(self, next: &mut Row) {
        next.beat = next.beat.next();
        next.nominee = None;
    }
}

fn held_by(row: &Row, me: &Holder, epoch: Epoch) -> Result<Held, Refusal> {
    if !row.is_held_by(me) {
        return Err(not_holder(row, me));
    }
    if row.epoch != epoch {
        return Err(Refusal::EpochMoved { held: epoch, found: row.epoch });
    }
    Ok(Held)
}

fn not_holder(row: &Row, me: &Holder) -> Refusal {
    Refusal::NotHolder { me: me.node.clone(), found: row.holder.as_ref().map(|holder| holder.node.clone()) }
}
