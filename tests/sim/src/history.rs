//! What clients were told, sector by sector. Each write carries (epoch, sequence) and is unlike every other; within one
//! history they are ordered, so the check takes linear time.
//!
//! A read lasts from the client's question to the answer. It returns the last write that had been acknowledged when it was
//! asked for, or a later one that somebody has submitted before the answer: of those that are completed or given up while it
//! lasts it may see each or none. Never one that nobody submitted; and what an earlier read had returned stays.

use std::collections::{BTreeMap, BTreeSet};

/// One write: the epoch it was made in, and its number there. The zero version is the formatted disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub epoch: u64,
    pub seq: u64,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
    }
}

#[derive(Clone, Debug, Default)]
struct Sector {
    /// Acknowledged last.
    acknowledged: Version,
    /// The newest that a read has returned.
    read: Version,
    /// All that were ever submitted, without those that were given up.
    submitted: BTreeSet<Version>,
    given_up: BTreeSet<Version>,
    /// What was acknowledged here, by the number of the acknowledgement among all.
    order: Vec<(usize, Version)>,
}

impl Sector {
    /// What was given up is there again; what nobody wrote is not.
    fn take_back(&mut self, content: Version) {
        if self.given_up.remove(&content) {
            self.submitted.insert(content);
        }
    }
}

#[derive(Clone, Debug)]
pub struct History {
    sectors: Vec<Sector>,
    /// How often an operator has accepted the loss of data.
    losses: u32,
    acknowledgements: usize,
    /// How many of them each write had before it when it was submitted.
    floors: BTreeMap<Version, usize>,
}

/// A read under way: what had been told when it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub sector: usize,
    acknowledged: Version,
    read: Version,
    losses: u32,
}

/// A read that no history of a single disk explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Older than a write that had been acknowledged.
    LostWrite { read: Version, acknowledged: Version },
    /// Older than what was read before.
    Reverted { read: Version, before: Version },
    /// Nobody wrote that, or it was given up.
    Invented { read: Version },
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LostWrite { read, acknowledged } => {
                write!(f, "{read} was read after {acknowledged} was acknowledged")
            }
            Self::Reverted { read, before } => write!(f, "{read} was read after {before} had been read"),
            Self::Invented { read } => write!(f, "{read} was read, and nobody wrote it, or it was given up"),
        }
    }
}

impl History {
    #[must_use]
    pub fn new(sectors: usize) -> Self {
        Self { sectors: vec![Sector::default(); sectors], losses: 0, acknowledgements: 0, floors: BTreeMap::new() }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.sectors.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sectors.is_empty()
    }

    pub fn submitted(&mut self, sector: usize, version: Version) {
        self.sectors[sector].submitted.insert(version);
        self.floors.insert(version, self.acknowledgements);
    }

    pub fn acknowledged(&mut self, sector: usize, version: Version) {
        let sector = &mut self.sectors[sector];
        sector.acknowledged = sector.acknowledged.max(version);
        self.acknowledgements += 1;
        sector.order.push((self.acknowledgements, sector.acknowledged));
    }

    /// Whether these contents are an image that a holder had at some moment: who shows a write also shows what had been acknowledged
    /// before that was submitted. Told is the first sector that does not, with what it lacks. Says nothing where loss was accepted
    /// before: then there are several histories.
    ///
    /// # Errors
    /// The sector, and what should be there at the least.
    pub fn is_image(&self, contents: &[Version]) -> Result<(), (usize, Version)> {
        if self.losses > 0 {
            return Ok(());
        }
        let floor = contents.iter().filter_map(|version| self.floors.get(version)).max().copied().unwrap_or(0);
        for (number, (sector, content)) in self.sectors.iter().zip(contents).enumerate() {
            let before = sector.order.partition_point(|(place, _)| *place <= floor);
            let least = before.checked_sub(1).map_or(Version::default(), |last| sector.order[last].1);
            if *content < least {
                return Err((number, least));
            }
        }
        Ok(())
    }

    /// The last acknowledged write of a sector.
    #[must_use]
    pub fn last(&self, sector: usize) -> Version {
        self.sectors[sector].acknowledged
    }

    /// A client asks for a sector.
    #[must_use]
    pub fn asks(&self, sector: usize) -> Asked {
        let Sector { acknowledged, read, .. } = self.sectors[sector];
        Asked { sector, acknowledged, read, losses: self.losses }
    }

    /// The client has its answer.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn answered(&mut self, asked: Asked, read: Version) -> Result<(), Wrong> {
        // What it was to return was given up meanwhile.
        if asked.losses != self.losses {
            return Ok(());
        }
        let sector = &mut self.sectors[asked.sector];
        if read < asked.acknowledged {
            return Err(Wrong::LostWrite { read, acknowledged: asked.acknowledged });
        }
        if read < asked.read {
            return Err(Wrong::Reverted { read, before: asked.read });
        }
        if read != Version::default() && !sector.submitted.contains(&read) {
            return Err(Wrong::Invented { read });
        }
        sector.read = sector.read.max(read);
        Ok(())
    }

    /// An operator accepted the loss of data: from here on this is what everybody was told, also what an earlier loss gave up.
    pub fn begin_again(&mut self, contents: &[Version]) {
        self.losses += 1;
        for (sector, content) in self.sectors.iter_mut().zip(contents) {
            sector.acknowledged = *content;
            sector.read = *content;
            sector.take_back(*content);
        }
    }

    /// The loss is final: `epoch` opens with these contents, and whatever is newer and of an older epoch is given up. They may be
    /// newer than what was sure when the loss was accepted, and what an earlier loss gave up.
    pub fn given_up(&mut self, contents: &[Version], epoch: u64) {
        for (sector, content) in self.sectors.iter_mut().zip(contents) {
            sector.take_back(*content);
            let newer = sector.submitted.iter().filter(|version| *version > content && version.epoch < epoch);
            sector.given_up.extend(newer.copied().collect::<Vec<_>>());
            sector.submitted.retain(|version| version <= content || version.epoch >= epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(epoch: u64, seq: u64) -> Version {
        Version { epoch, seq }
    }

    fn written() -> History {
        let mut history = History::new(1);
        for seq in [1, 3, 5] {
            history.submitted(0, v(1, seq));
        }
        history.acknowledged(0, v(1, 3));
        history
    }

    /// Asked and answered in one moment.
    fn read(history: &mut History, version: Version) -> Result<(), Wrong> {
        let asked = history.asks(0);
        history.answered(asked, version)
    }

    #[test]
    fn the_last_acknowledged_or_a_later_unknown_one_is_right() {
        assert_eq!(read(&mut written(), v(1, 3)), Ok(()));
        assert_eq!(read(&mut written(), v(1, 5)), Ok(()));
    }

    #[test]
    fn a_lost_write_a_reverted_read_and_an_invented_one_are_wrong() {
        assert_eq!(read(&mut written(), v(1, 1)), Err(Wrong::LostWrite { read: v(1, 1), acknowledged: v(1, 3) }));
        let mut history = written();
        read(&mut history, v(1, 5)).expect("unknown, and may be read");
        assert_eq!(read(&mut history, v(1, 3)), Err(Wrong::Reverted { read: v(1, 3), before: v(1, 5) }));
        assert_eq!(read(&mut written(), v(2, 1)), Err(Wrong::Invented { read: v(2, 1) }));
        assert_eq!(read(&mut written(), v(1, 4)), Err(Wrong::Invented { read: v(1, 4) }), "between two that are");
    }

    #[test]
    fn what_is_completed_while_a_read_lasts_may_be_seen_or_not() {
        let mut history = written();
        let (one, other) = (history.asks(0), history.asks(0));
        history.acknowledged(0, v(1, 5));
        assert_eq!(history.answered(one, v(1, 5)), Ok(()));
        assert_eq!(history.answered(other, v(1, 3)), Ok(()), "asked before either was told");
        assert!(read(&mut history, v(1, 3)).is_err(), "asked afterwards");
    }

    #[test]
    fn an_image_shows_what_was_acknowledged_before_what_it_shows() {
        let mut history = History::new(2);
        history.submitted(0, v(1, 1));
        history.acknowledged(0, v(1, 1));
        history.submitted(1, v(1, 2));
        assert_eq!(history.is_image(&[v(0, 0), v(0, 0)]), Ok(()), "old, and whole");
        assert_eq!(history.is_image(&[v(1, 1), v(0, 0)]), Ok(()));
        assert_eq!(history.is_image(&[v(1, 1), v(1, 2)]), Ok(()));
        assert_eq!(history.is_image(&[v(0, 0), v(1, 2)]), Err((0, v(1, 1))), "the later one without the earlier one");
    }

    #[test]
    fn accepted_loss_begins_anew_and_then_counts_again() {
        let mut history = written();
        let asked = history.asks(0);
        history.begin_again(&[v(1, 1)]);
        assert_eq!(history.answered(asked, v(1, 1)), Ok(()), "asked before");
        assert_eq!(read(&mut history, v(1, 1)), Ok(()));
        history.given_up(&[v(1, 1)], 2);
        assert_eq!(read(&mut history, v(1, 5)), Err(Wrong::Invented { read: v(1, 5) }));
        let mut other = history.clone();
        other.begin_again(&[v(1, 5)]);
        assert_eq!(read(&mut other, v(1, 5)), Ok(()), "given up, and now what there is");
        other.begin_again(&[v(1, 4)]);
        assert_eq!(
            read(&mut other, v(1, 4)),
            Err(Wrong::Invented { read: v(1, 4) }),
            "not even an operator makes it up"
        );
        history.submitted(0, v(2, 1));
        history.acknowledged(0, v(2, 1));
        assert!(read(&mut history, v(1, 1)).is_err());
        assert_eq!(read(&mut history, v(2, 1)), Ok(()));
    }
}
