//! What the machine has to tell an operator, in the log. A disk that fails each read does not fill it.

use super::clock;
use crate::core::Notice;
use crate::core::verify::{Compared, Extent, Verification};
use crate::ids::{Digest, Span};
use lease::time::{Millis, Moment};
use std::fmt::Write as _;

/// A read error is told at once, and those that follow within so long are counted in the next line.
const QUIET: Millis = Millis(10_000);

#[derive(Debug)]
pub(super) struct Log {
    /// Of the volumes, in order.
    names: Vec<String>,
    served: Told,
    unreadable: Told,
}

/// When a line was told last, and how many were not since.
#[derive(Debug, Default)]
struct Told {
    at: Option<Moment>,
    untold: u64,
}

impl Told {
    /// How many were not told before this one, if it is time for it.
    fn is_due(&mut self, now: Moment) -> Option<u64> {
        if self.at.is_some_and(|told| now.longest_since(told) < QUIET) {
            self.untold += 1;
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

impl Log {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self { names, served: Told::default(), unreadable: Told::default() }
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
                if let Some(untold) = self.served.is_due(clock::now()) {
                    let volume = self.name(span);
                    tracing::warn!(volume, offset = span.at, bytes = span.len, peer = %by, untold,
                        "the local disk could not read: a peer's copy was answered, and is written back; replace the disk if this goes on");
                }
            }
            Notice::Repaired { span } => {
                tracing::debug!(
                    volume = self.name(span),
                    offset = span.at,
                    bytes = span.len,
                    "what could not be read was written anew"
                );
            }
            Notice::NotKept => tracing::warn!(
                "the undo log is full, or failed: the resync goes on without, and if the leader is lost before it ends there is no whole image here; give it more room ([volumes].undo_mib, --undo-limit)"
            ),
            Notice::Unreadable { span } => {
                if let Some(untold) = self.unreadable.is_due(clock::now()) {
                    let volume = self.name(span);
                    tracing::error!(
                        volume,
                        offset = span.at,
                        bytes = span.len,
                        untold,
                        "the local disk could not read, and no replica in step could: the error went to whoever asked; replace the disk"
                    );
                }
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fails_each_read_is_told_of_now_and_then() {
        let (mut told, begin) = (Told::default(), Moment::default());
        let lines: Vec<u64> =
            (0..30_000).step_by(1_000).filter_map(|ms| told.is_due(begin.after(Millis(ms)))).collect();
        assert_eq!(lines, [0, 9, 9]);
    }
}
