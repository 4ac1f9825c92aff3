//! The words of the kernel's ublk driver (`include/uapi/linux/ublk_cmd.h`), as bytes. Pure.

/// Requests that the kernel hands over at a time; of one queue, as one thread serves all.
pub(super) const DEPTH: u16 = 64;
/// Of one request. Times [`DEPTH`] it bounds what writes hold in memory: 64 MiB.
pub(super) const REQUEST_MAX_BYTES: u32 = 1 << 20;
/// What is discarded or zeroed by one request.
const RANGE_MAX_BYTES: u32 = 1 << 30;
pub(super) const SECTOR_BYTES: u64 = 512;
/// What is read and written at once without reading what is around it, whatever a sector is.
const PAGE_SHIFT: u8 = 12;

/// Which request of a queue's: its tag's place among the descriptors.
pub(super) const DESCRIPTOR_BYTES: usize = 24;
pub(super) const INFO_BYTES: usize = 64;
pub(super) const PARAMS_BYTES: usize = 60;

const fn opcode(direction: u32, number: u32, bytes: u32) -> u32 {
    (direction << 30) | (bytes << 16) | ((b'u' as u32) << 8) | number
}
const fn read(number: u32) -> u32 {
    opcode(2, number, 32)
}
const fn change(number: u32) -> u32 {
    opcode(3, number, 32)
}

pub(super) const ADD: u32 = change(0x04);
pub(super) const START: u32 = change(0x06);
pub(super) const STOP: u32 = change(0x07);
pub(super) const SET_PARAMS: u32 = change(0x08);
pub(super) const START_RECOVERY: u32 = change(0x10);
pub(super) const END_RECOVERY: u32 = change(0x11);
pub(super) const GET_INFO: u32 = read(0x02);
/// Unlike its elder brother it does not wait until nobody has the device open.
pub(super) const DELETE_ASYNC: u32 = read(0x14);
pub(super) const FETCH: u32 = opcode(3, 0x20, 16);
pub(super) const COMMIT_AND_FETCH: u32 = opcode(3, 0x21, 16);

/// A device outlives its server, and requests wait for the next one.
const RECOVERY: u64 = 1 << 3;
/// Those that the dead server had are handed to the next one, instead of failing.
const REISSUE: u64 = 1 << 4;
const IOCTL_ENCODE: u64 = 1 << 6;
/// The server reads and writes the data of requests by `pread` and `pwrite`.
const USER_COPY: u64 = 1 << 7;

/// The server has died, and requests wait.
pub(super) const QUIESCED: u16 = 2;
pub(super) const LIVE: u16 = 1;

/// What a device is, and how it stands with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) number: u32,
    pub(super) state: u16,
    queues: u16,
    depth: u16,
    request_max_bytes: u32,
    flags: u64,
    /// Ours to choose: which device of ours it is.
    pub(super) identity: u64,
}

impl Info {
    /// What is asked for. `waits`: it outlives its server.
    pub(super) fn wanted(identity: u64, waits: bool) -> Info {
        let flags = IOCTL_ENCODE | USER_COPY | if waits { RECOVERY | REISSUE } else { 0 };
        let (queues, depth, request_max_bytes) = (1, DEPTH, REQUEST_MAX_BYTES);
        Info { number: u32::MAX, state: 0, queues, depth, request_max_bytes, flags, identity }
    }

    /// Whether the kernel gave, or has, what is asked for.
    pub(super) fn fits(&self, wanted: &Info) -> bool {
        let shape = |info: &Info| (info.queues, info.depth, info.request_max_bytes, info.identity);
        let flags = RECOVERY | REISSUE | USER_COPY;
        shape(self) == shape(wanted) && self.flags & flags == wanted.flags & flags
    }

    pub(super) fn bytes(&self) -> [u8; INFO_BYTES] {
        let mut bytes = [0; INFO_BYTES];
        let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
        put(0, &self.queues.to_ne_bytes());
        put(2, &self.depth.to_ne_bytes());
        put(4, &self.state.to_ne_bytes());
        put(8, &self.request_max_bytes.to_ne_bytes());
        put(12, &self.number.to_ne_bytes());
        put(24, &self.flags.to_ne_bytes());
        put(32, &self.identity.to_ne_bytes());
        bytes
    }

    pub(super) fn parse(bytes: &[u8; INFO_BYTES]) -> Info {
        Info {
            queues: u16::from_ne_bytes(array(bytes, 0)),
            depth: u16::from_ne_bytes(array(bytes, 2)),
            state: u16::from_ne_bytes(array(bytes, 4)),
            request_max_bytes: u32::from_ne_bytes(array(bytes, 8)),
            number: u32::from_ne_bytes(array(bytes, 12)),
            flags: u64::from_ne_bytes(array(bytes, 24)),
            identity: u64::from_ne_bytes(array(bytes, 32)),
        }
    }
}

/// The device's size and what it can do: a volatile cache with FLUSH and FUA, discards, zeroes.
pub(super) fn params(size_bytes: u64, block_bytes: u32, read_only: bool) -> [u8; PARAMS_BYTES] {
    const BASIC_AND_DISCARD: u32 = 0b11;
    const READ_ONLY: u32 = 1;
    const VOLATILE_CACHE: u32 = 1 << 2;
    const FUA: u32 = 1 << 3;
    let sectors = |bytes: u32| (u64::from(bytes) / SECTOR_BYTES).to_ne_bytes();
    let attributes = VOLATILE_CACHE | FUA | if read_only { READ_ONLY } else { 0 };
    let block_shift = u8::try_from(block_bytes.trailing_zeros()).expect("a shift");
    let mut bytes = [0; PARAMS_BYTES];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    put(0, &u32::try_from(PARAMS_BYTES).expect("few").to_ne_bytes());
    put(4, &BASIC_AND_DISCARD.to_ne_bytes());
    put(8, &attributes.to_ne_bytes());
    // The least that can be addressed, what is best not cut, and what is best of all; at least.
    put(12, &[block_shift, PAGE_SHIFT, PAGE_SHIFT, PAGE_SHIFT]);
    put(16, &u32_of(sectors(REQUEST_MAX_BYTES)));
    put(24, &(size_bytes / SECTOR_BYTES).to_ne_bytes());
    put(44, &(1_u32 << PAGE_SHIFT).to_ne_bytes());
    if !read_only {
        put(48, &u32_of(sectors(RANGE_MAX_BYTES)));
        put(52, &u32_of(sectors(RANGE_MAX_BYTES)));
        put(56, &1_u16.to_ne_bytes());
    }
    bytes
}

/// A command to the driver. `buffer`: where it reads or writes, and how long that is.
pub(super) fn command(device: u32, buffer: (u64, u16), data: u64) -> [u8; 80] {
    let mut bytes = [0; 80];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    put(0, &device.to_ne_bytes());
    // Not to a queue.
    put(4, &u16::MAX.to_ne_bytes());
    put(6, &buffer.1.to_ne_bytes());
    put(8, &buffer.0.to_ne_bytes());
    put(16, &data.to_ne_bytes());
    bytes
}

/// A command to the queue, about one of its requests.
pub(super) fn about(tag: u16, result: i32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[2..4].copy_from_slice(&tag.to_ne_bytes());
    bytes[4..8].copy_from_slice(&result.to_ne_bytes());
    bytes
}

/// Where a request's data is read and written in the queue's character device.
pub(super) fn data_at(tag: u16) -> u64 {
    const DATA: u64 = 0x8000_0000;
    DATA + (u64::from(tag) << 25)
}

/// A request, as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) what: What,
    pub(super) at: u64,
    pub(super) len: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Read,
    Write {
        fua: bool,
    },
    Flush,
    Discard,
    Zero {
        may_unmap: bool,
    },
    /// Nothing that was offered.
    Other(u8),
}

impl Asked {
    pub(super) fn parse(bytes: &[u8; DESCRIPTOR_BYTES]) -> Asked {
        const FUA: u32 = 1 << 13;
        const NO_UNMAP: u32 = 1 << 15;
        let words = u32::from_ne_bytes(array(bytes, 0));
        let sectors = u64::from(u32::from_ne_bytes(array(bytes, 4)));
        let what = match words.to_ne_bytes()[if cfg!(target_endian = "little") { 0 } else { 3 }] {
            0 => What::Read,
            1 => What::Write { fua: words & FUA != 0 },
            2 => What::Flush,
            3 => What::Discard,
            5 => What::Zero { may_unmap: words & NO_UNMAP == 0 },
            other => What::Other(other),
        };
        Asked {
            what,
            at: u64::from_ne_bytes(array(bytes, 8)).saturating_mul(SECTOR_BYTES),
            len: u32::try_from(sectors * SECTOR_BYTES).unwrap_or(u32::MAX),
        }
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("of this length")
}

fn u32_of(bytes: [u8; 8]) -> [u8; 4] {
    u32::try_from(u64::from_ne_bytes(bytes)).expect("a u32 divided").to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_are_the_headers() {
        // _IOWR('u', 0x04, struct ublksrv_ctrl_cmd), _IOR('u', 0x14, ...), _IOWR('u', 0x21, struct ublksrv_io_cmd)
        assert_eq!((ADD, DELETE_ASYNC, COMMIT_AND_FETCH), (0xc020_7504, 0x8020_7514, 0xc010_7521));
    }

    #[test]
    fn what_a_device_is_survives_its_bytes() {
        let wanted = Info::wanted(0x0123_4567_89ab_cdef, true);
        assert_eq!(Info::parse(&wanted.bytes()), wanted);
        let given = Info { number: 3, state: QUIESCED, flags: wanted.flags | 2, ..wanted };
        assert!(given.fits(&wanted));
        for other in [
            Info { depth: 32, ..given },
            Info { identity: 1, ..given },
            Info { flags: wanted.flags & !REISSUE, ..given },
            Info::wanted(given.identity, false),
        ] {
            assert!(!other.fits(&wanted), "{other:?}");
        }
    }

    #[test]
    fn requests_are_read_as_the_kernel_describes_them() {
        let describe = |words: u32, sectors: u32, sector: u64| {
            let mut bytes = [0; DESCRIPTOR_BYTES];
            bytes[..4].copy_from_slice(&words.to_ne_bytes());
            bytes[4..8].copy_from_slice(&sectors.to_ne_bytes());
            bytes[8..16].copy_from_slice(&sector.to_ne_bytes());
            Asked::parse(&bytes)
        };
        let of = |what, at, len| Asked { what, at, len };
        assert_eq!(describe(0, 8, 16), of(What::Read, 8192, 4096));
        assert_eq!(describe(1, 1, 0), of(What::Write { fua: false }, 0, 512));
        assert_eq!(describe(1 | 1 << 13 | 1 << 11, 1, 0), of(What::Write { fua: true }, 0, 512));
        assert_eq!(describe(2, 0, 0), of(What::Flush, 0, 0));
        assert_eq!(describe(3, 8, 0), of(What::Discard, 0, 4096));
        assert_eq!(describe(5, 8, 0), of(What::Zero { may_unmap: true }, 0, 4096));
        assert_eq!(describe(5 | 1 << 15, 8, 0), of(What::Zero { may_unmap: false }, 0, 4096));
        assert_eq!(describe(4, 8, 0), of(What::Other(4), 0, 4096));
        // Nothing that a kernel says, but no panic: it is refused as beyond the end.
        assert_eq!(describe(0, u32::MAX, u64::MAX), of(What::Read, u64::MAX, u32::MAX));
    }

    #[test]
    fn parameters_stand_where_the_header_has_them() {
        let bytes = params(1 << 30, 512, false);
        let word = |at: usize| u32::from_ne_bytes(array(&bytes, at));
        assert_eq!((word(0), word(4), word(8)), (60, 3, 0b1100));
        assert_eq!(bytes[12..16], [9, 12, 12, 12]);
        assert_eq!((word(16), u64::from_ne_bytes(array(&bytes, 24))), (2048, 1 << 21));
        assert_eq!((word(44), word(48), word(52)), (4096, 1 << 21, 1 << 21));
        let read_only = params(1 << 30, 4096, true);
        assert_eq!((read_only[8], read_only[12], &read_only[48..]), (0b1101, 12, &[0; 12][..]));
    }
}
