//! The last page of a backing that holds its metadata at its own end: where that begins.

use super::page::{Draft, Kind, PageFault, Reader};
use bytes::Bytes;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locator {
    /// Byte offset of the metadata area, and the end of the volume.
    pub area_at: u64,
}

impl Locator {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut draft = Draft::new(Kind::Locator);
        draft.u64(self.area_at);
        draft.seal()
    }

    /// # Errors
    /// [`PageFault`]: this backing holds no metadata at its end.
    pub fn decode(page: Option<&[u8]>) -> Result<Self, PageFault> {
        let mut read = Reader::open(page, Kind::Locator)?;
        Ok(Self { area_at: read.u64("area")? })
    }
}

#[cfg(test)]
mod tests {
    use super::Locator;
    use crate::metadata::PAGE;

    #[test]
    fn it_is_read_as_it_was_written_and_only_then() {
        let page = Locator { area_at: 1 << 30 }.encode();
        assert_eq!(page.len(), PAGE);
        assert_eq!(Locator::decode(Some(&page)), Ok(Locator { area_at: 1 << 30 }));
        let mut torn = page.to_vec();
        torn[9] ^= 1;
        assert!(Locator::decode(Some(&torn)).is_err());
        assert!(Locator::decode(None).is_err());
    }
}
