//! The frame of every page: `magic u32, version u8, kind u8, free u16, body.., CRC32C of all before u32`. Little endian.

use bytes::Bytes;

/// Bytes in a page; what is aligned and written at once.
pub const PAGE: usize = 4096;
/// Where the body begins and ends.
pub(super) const BODY: usize = 8;
pub(super) const END: usize = PAGE - 4;

/// "LHMD", as it stands on the disk.
const MAGIC: [u8; 4] = *b"LHMD";
/// Raised with each change of any page's layout; older ones stay readable.
const VERSION: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Superblock = 1,
    Transaction = 2,
    Bitmap = 3,
    Locator = 4,
}

/// Why a page is not what was looked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageFault {
    #[error("it could not be read")]
    Unreadable,
    #[error("its magic number is {found:02x?}")]
    Magic { found: [u8; 4] },
    #[error("its checksum is {found:#010x}, computed {computed:#010x}")]
    Checksum { computed: u32, found: u32 },
    #[error("its version is {found}, this program reads up to {VERSION}")]
    Version { found: u8 },
    #[error("its kind is {found}")]
    Kind { found: u8 },
    #[error("{what} is malformed")]
    Malformed { what: &'static str },
}

/// A page under construction.
pub(super) struct Draft {
    bytes: Vec<u8>,
}

impl Draft {
    pub(super) fn new(kind: Kind) -> Self {
        let mut bytes = Vec::with_capacity(PAGE);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, kind as u8, 0, 0]);
        Self { bytes }
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }
    pub(super) fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }
    pub(super) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }
    pub(super) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }
    /// At most 64 bytes, by the types of the lease.
    pub(super) fn text(&mut self, text: &str) {
        self.u8(u8::try_from(text.len()).expect("names are at most 64 bytes"));
        self.bytes.extend_from_slice(text.as_bytes());
    }
    /// Zeros up to `at`.
    pub(super) fn fill_to(&mut self, at: usize) {
        assert!(self.bytes.len() <= at, "a page is cut into parts that fit");
        self.bytes.resize(at, 0);
    }

    pub(super) fn seal(mut self) -> Bytes {
        self.fill_to(END);
        let crc = crc32c::crc32c(&self.bytes);
        self.u32(crc);
        self.bytes.into()
    }
}

/// A page that is whole and of the right kind, read from its body on.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn open(page: Option<&'a [u8]>, kind: Kind) -> Result<Self, PageFault> {
        let page = page.filter(|page| page.len() == PAGE).ok_or(PageFault::Unreadable)?;
        let magic = [page[0], page[1], page[2], page[3]];
        if magic != MAGIC {
            return Err(PageFault::Magic { found: magic });
        }
        let computed = crc32c::crc32c(&page[..END]);
        let found = u32::from_le_bytes(page[END..].try_into().expect("four bytes"));
        if computed != found {
            return Err(PageFault::Checksum { computed, found });
        }
        if page[4] != VERSION {
            return Err(PageFault::Version { found: page[4] });
        }
        if page[5] != kind as u8 {
            return Err(PageFault::Kind { found: page[5] });
        }
        Ok(Self { rest: &page[BODY..END] })
    }

    fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], PageFault> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(PageFault::Malformed { what })?;
        self.rest = rest;
        Ok(*head)
    }
    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, PageFault> {
        self.take::<1>(what).map(|bytes| bytes[0])
    }
    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, PageFault> {
        self.take(what).map(u16::from_le_bytes)
    }
    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, PageFault> {
        self.take(what).map(u32::from_le_bytes)
    }
    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, PageFault> {
        self.take(what).map(u64::from_le_bytes)
    }
    pub(super) fn text(&mut self, what: &'static str) -> Result<String, PageFault> {
        let length = usize::from(self.u8(what)?);
        if length > self.rest.len() {
            return Err(PageFault::Malformed { what });
        }
        let (text, rest) = self.rest.split_at(length);
        self.rest = rest;
        String::from_utf8(text.to_vec()).map_err(|_| PageFault::Malformed { what })
    }
    /// Skips to `at`, counted from the page's first byte.
    pub(super) fn skip_to(&mut self, at: usize) {
        let done = END - self.rest.len();
        self.rest = &self.rest[at - done..];
    }
}
