//! What clients were told, sector by sector. Each write carries (epoch, sequence) and is unlike every other; within one
//! history they are ordered, so the check takes linear time: a read returns the last acknowledged write or a later one
//! whose outcome is not known, never an older one; and what was once read stays.

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
    /// Read last.
    read: Version,
    /// The last one that was ever submitted.
    submitted: Version,
}

#[derive(Clone, Debug)]
pub struct History {
    sectors: Vec<Sector>,
}

/// A read that no history of a single disk explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Older than a write that had been acknowledged.
    LostWrite { read: Version, acknowledged: Version },
    /// Older than what was read before.
    Reverted { read: Version, before: Version },
    /// Nobody wrote that.
    Invented { read: Version },
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LostWrite { read, acknowledged } => {
                write!(f, "{read} was read after {acknowledged} was acknowledged")
            }
            Self::Reverted { read, before } => write!(f, "{read} was read after {before} had been read"),
            Self::Invented { read } => write!(f, "{read} was read, and never written"),
        }
    }
}

impl History {
    #[must_use]
    pub fn new(sectors: usize) -> Self {
        Self { sectors: vec![Sector::default(); sectors] }
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
        let sector = &mut self.sectors[sector];
        sector.submitted = sector.submitted.max(version);
    }

    pub fn acknowledged(&mut self, sector: usize, version: Version) {
        let sector = &mut self.sectors[sector];
        sector.acknowledged = sector.acknowledged.max(version);
    }

    /// The last acknowledged write of a sector.
    #[must_use]
    pub fn last(&self, sector: usize) -> Version {
        self.sectors[sector].acknowledged
    }

    /// A client reads `read`, with everything before it told.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn read(&mut self, sector: usize, read: Version) -> Result<(), Wrong> {
        let sector = &mut self.sectors[sector];
        if read < sector.acknowledged {
            return Err(Wrong::LostWrite { read, acknowledged: sector.acknowledged });
        }
        if read < sector.read {
            return Err(Wrong::Reverted { read, before: sector.read });
        }
        if read > sector.submitted {
            return Err(Wrong::Invented { read });
        }
        sector.read = read;
        Ok(())
    }

    /// An operator accepted the loss of data: from here on this is what everybody was told, and nothing newer of the past.
    pub fn begin_again(&mut self, contents: &[Version]) {
        for (sector, content) in self.sectors.iter_mut().zip(contents) {
            sector.acknowledged = *content;
            sector.read = *content;
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
        for seq in 1..=3 {
            history.submitted(0, v(1, seq));
        }
        history.acknowledged(0, v(1, 2));
        history
    }

    #[test]
    fn the_last_acknowledged_or_a_later_unknown_one_is_right() {
        assert_eq!(written().read(0, v(1, 2)), Ok(()));
        assert_eq!(written().read(0, v(1, 3)), Ok(()));
    }

    #[test]
    fn a_lost_write_a_reverted_read_and_an_invented_one_are_wrong() {
        assert_eq!(written().read(0, v(1, 1)), Err(Wrong::LostWrite { read: v(1, 1), acknowledged: v(1, 2) }));
        let mut history = written();
        history.read(0, v(1, 3)).expect("unknown, and may be read");
        assert_eq!(history.read(0, v(1, 2)), Err(Wrong::Reverted { read: v(1, 2), before: v(1, 3) }));
        assert_eq!(written().read(0, v(2, 1)), Err(Wrong::Invented { read: v(2, 1) }));
    }

    #[test]
    fn accepted_loss_begins_anew_and_then_counts_again() {
        let mut history = written();
        history.begin_again(&[v(1, 1)]);
        assert_eq!(history.read(0, v(1, 1)), Ok(()));
        history.submitted(0, v(2, 1));
        history.acknowledged(0, v(2, 1));
        assert!(history.read(0, v(1, 1)).is_err());
    }
}
