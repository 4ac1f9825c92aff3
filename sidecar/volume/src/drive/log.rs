//! What the machine has to tell an operator, in the log. A disk that fails each read does not fill it.

use super::clock;
use crate::core::Notice;
use crate::core::verify::{Compared, Extent, Verification};
use crate::ids::{Digest, Span};
use lease::time::{Millis, Moment};
use std::fmt::Write as _;

/// Read errors are told at once, and then in one line for so long.
const QUIET: Millis = Millis(10_000);

#[derive(Debug)]
pub(super) struct Log {
    /// Of the volumes, in order.
    names: Vec<String>,
    reads_told: Option<Moment>,
    untold: u64,
}

impl Log {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self { names, reads_told: None, untold: 0 }
    }

    pub(super) fn tell(&mut self, notice: Notice) {
        match notice {
            Notice::Differs(difference) => {
                let volume = self.name(difference.span);
                let (offset, bytes) = (difference.span.at, difference.span.len);
                let there = difference.there.map_or_else(|| "unreadable".to_owned(), hex);
                tracing::error!(volume, offset, bytes, peer = %difference.peer, here = hex(difference.here), there,
                    "a replica in step differs: it leaves the set and nothing is copied over it; decide which copy is right (leasehold volume resync)");
            }
            Notice::Verified(verification) => self.verified(&verification),
            Notice::Served { span, by } => {
                if self.is_due() {
                    let (volume, untold) = (self.name(span), std::mem::take(&mut self.untold));
                    tracing::warn!(volume, offset = span.at, bytes = span.len, peer = %by, untold,
                        "the local disk could not read: a peer's copy was answered, and is written back; replace the disk if this goes on");
                }
            }
            Notice::Repaired { span } => {
                tracing::info!(volume = self.name(span), offset = span.at, bytes = span.len, "what could not be read was written anew");
            }
            Notice::Unreadable { span } => {
                if self.is_due() {
                    let (volume, untold) = (self.name(span), std::mem::take(&mut self.untold));
                    tracing::error!(volume, offset = span.at, bytes = span.len, untold,
                        "the local disk could not read, and no replica in step could: the error went to whoever asked; replace the disk");
                }
            }
        }
    }

    fn is_due(&mut self) -> bool {
        let now = clock::now();
        let due = self.reads_told.is_none_or(|told| now.longest_since(told) >= QUIET);
        if due {
            self.reads_told = Some(now);
        } else {
            self.untold += 1;
        }
        due
    }

    fn name(&self, span: Span) -> String {
        let number = span.volume.0 as usize;
        self.names.get(number).filter(|name| !name.is_empty()).cloned().unwrap_or_else(|| number.to_string())
    }

    fn verified(&self, verification: &Verification) {
        let with = verification.peers.iter().map(line).collect::<Vec<_>>().join("; ");
        let names = verification.volumes.iter().map(|volume| self.name(Span { volume: *volume, at: 0, len: 0 }));
        let volumes = names.collect::<Vec<_>>().join(", ");
        let unreadable_chunks = verification.unreadable_chunks;
        if verification.is_well() {
            tracing::info!(volumes, with, "a verification ended: all copies are the same");
        } else if verification.differing_chunks() > 0 {
            tracing::error!(volumes, with, unreadable_chunks, "a verification ended: copies differ");
        } else {
            tracing::warn!(volumes, with, unreadable_chunks, "a verification ended: not all was compared");
        }
    }
}

fn line(compared: &Compared) -> String {
    let how = match compared.extent {
        Extent::Whole => "all",
        Extent::CutOff => "cut off",
        Extent::UnderWay => "under way",
    };
    let Compared { peer, compared_bytes, differing_chunks, .. } = compared;
    format!("{peer}: {how}, {compared_bytes} bytes compared, {differing_chunks} chunks differ")
}

/// As sha256sum writes it.
#[must_use]
pub fn hex(digest: Digest) -> String {
    digest.0.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
