//! The kernel's NBD client as it is set up: the generic netlink family `nbd` (`linux/nbd-netlink.h`). Requests are built and
//! answers read here; each call waits for the kernel's answer and belongs on a thread that may.

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, sendto, socket_with,
};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A call that takes longer has gone wrong: what it waits for is at most a request's time-out.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// The longest answer is the list of all devices; those that are read here are short.
const ANSWER_BYTES: usize = 16 << 10;

/// `linux/netlink.h`.
const HEADER_BYTES: usize = 16;
const FLAG_REQUEST: u16 = 1;
const FLAG_ACK: u16 = 4;
const TYPE_ERROR: u16 = 2;
const NESTED: u16 = 1 << 15;
const TYPE_MASK: u16 = !(3 << 14);

/// `linux/genetlink.h`.
const GENERIC_HEADER_BYTES: usize = 4;
const CONTROL: u16 = 0x10;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;

/// `linux/nbd-netlink.h`.
const VERSION: u8 = 1;
const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;
const RECONFIGURE: u8 = 3;
const INDEX: u16 = 1;
const SIZE_BYTES: u16 = 2;
const BLOCK_SIZE_BYTES: u16 = 3;
const TIMEOUT: u16 = 4;
const SERVER_FLAGS: u16 = 5;
const SOCKETS: u16 = 7;
const DEAD_CONN_TIMEOUT: u16 = 8;
const BACKEND_IDENTIFIER: u16 = 10;
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;

/// Why the kernel did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("this kernel has no nbd driver")]
    NoDriver,
    #[error("generic netlink: {0}")]
    Socket(Errno),
    #[error("the kernel refuses to {what}: {error}")]
    Refused { what: &'static str, error: Errno },
    #[error("the kernel's answer makes no sense")]
    Garbled,
}

/// A device that is to be.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) size_bytes: u64,
    /// A power of two from 512 to the page size.
    pub(super) block_bytes: u32,
    /// NBD's transmission flags.
    pub(super) flags: u16,
    /// After it, a request without an answer has its socket closed and is sent by another.
    pub(super) timeout: Duration,
    /// How long requests wait while there is no socket at all; after it, they fail.
    pub(super) dead_timeout: Duration,
    /// Whose device it is: `/sys/block/nbdN/backend`.
    pub(super) identifier: &'a str,
}

/// A conversation with the kernel's NBD client.
#[derive(Debug)]
pub(super) struct Nbd {
    socket: OwnedFd,
    family: u16,
    sequence: u32,
}

impl Nbd {
    /// # Errors
    /// [`NetlinkError::NoDriver`]: neither built in nor loaded, and the kernel could not load it by itself.
    pub(super) fn open() -> Result<Nbd, NetlinkError> {
        let kinds = (AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC);
        let socket = socket_with(kinds.0, kinds.1, kinds.2, Some(netlink::GENERIC)).map_err(NetlinkError::Socket)?;
        bind(&socket, &netlink::SocketAddrNetlink::new(0, 0)).map_err(NetlinkError::Socket)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_MAX)).map_err(NetlinkError::Socket)?;
        let mut nbd = Nbd { socket, family: CONTROL, sequence: 0 };
        let mut name = Attributes::default();
        name.text(CONTROL_FAMILY_NAME, "nbd");
        let answer = nbd.call("find its nbd driver", CONTROL_GET_FAMILY, &name).map_err(|error| match error {
            NetlinkError::Refused { error: Errno::NOENT, .. } => NetlinkError::NoDriver,
            error => error,
        })?;
        let id = find(&answer, CONTROL_FAMILY_ID).and_then(|bytes| bytes.try_into().ok());
        nbd.family = u16::from_ne_bytes(id.ok_or(NetlinkError::Garbled)?);
        Ok(nbd)
    }

    /// Makes a device of any free number and gives the number. The kernel holds the sockets itself from then on.
    ///
    /// # Errors
    /// [`NetlinkError`]: there is no new device.
    pub(super) fn connect(&mut self, wanted: &Wanted<'_>, sockets: &[BorrowedFd<'_>]) -> Result<u32, NetlinkError> {
        let mut attributes = Attributes::default();
        attributes.u64(SIZE_BYTES, wanted.size_bytes);
        attributes.u64(BLOCK_SIZE_BYTES, u64::from(wanted.block_bytes));
        attributes.u64(TIMEOUT, wanted.timeout.as_secs());
        attributes.u64(SERVER_FLAGS, u64::from(wanted.flags));
        attributes.u64(DEAD_CONN_TIMEOUT, wanted.dead_timeout.as_secs());
        attributes.text(BACKEND_IDENTIFIER, wanted.identifier);
        attributes.sockets(sockets);
        let answer = self.call("make an nbd device", CONNECT, &attributes)?;
        let index = find(&answer, INDEX).and_then(|bytes| bytes.try_into().ok());
        Ok(u32::from_ne_bytes(index.ok_or(NetlinkError::Garbled)?))
    }

    /// Gives a device sockets in the place of those that are dead. One that finds no such place is closed by the kernel, and no
    /// error is told.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] with `EINVAL`: it is not connected any more, or its identifier is another.
    pub(super) fn reconfigure(
        &mut self,
        index: u32,
        identifier: &str,
        timeouts: Option<(Duration, Duration)>,
        sockets: &[BorrowedFd<'_>],
    ) -> Result<(), NetlinkError> {
        let mut attributes = Attributes::default();
        attributes.u32(INDEX, index);
        attributes.text(BACKEND_IDENTIFIER, identifier);
        if let Some((timeout, dead_timeout)) = timeouts {
            attributes.u64(TIMEOUT, timeout.as_secs());
            attributes.u64(DEAD_CONN_TIMEOUT, dead_timeout.as_secs());
        }
        attributes.sockets(sockets);
        self.call("give an nbd device new sockets", RECONFIGURE, &attributes).map(drop)
    }

    /// Ends a device: what is outstanding fails, and whatever is asked of it by those who still have it open. The kernel does not
    /// look whose it is: the caller does.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`].
    pub(super) fn disconnect(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut attributes = Attributes::default();
        attributes.u32(INDEX, index);
        self.call("disconnect an nbd device", DISCONNECT, &attributes).map(drop)
    }

    /// The attributes of the answer, without those of the acknowledgement that ends it.
    fn call(&mut self, what: &'static str, command: u8, attributes: &Attributes) -> Result<Vec<u8>, NetlinkError> {
        self.sequence += 1;
        let message = message(self.family, self.sequence, command, attributes);
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, &message, SendFlags::empty(), &kernel).map_err(NetlinkError::Socket)?;
        let mut answer = Vec::new();
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let (len, _) =
                recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty()).map_err(NetlinkError::Socket)?;
            let mut rest = &buffer[..len];
            while !rest.is_empty() {
                let (kind, sequence, payload);
                (kind, sequence, payload, rest) = cut(rest).ok_or(NetlinkError::Garbled)?;
                if sequence != self.sequence {
                    continue;
                }
                if kind != TYPE_ERROR {
                    answer.extend_from_slice(payload.get(GENERIC_HEADER_BYTES..).ok_or(NetlinkError::Garbled)?);
                    continue;
                }
                let code = payload.first_chunk::<4>().ok_or(NetlinkError::Garbled)?;
                return match i32::from_ne_bytes(*code) {
                    0 => Ok(answer),
                    code => Err(NetlinkError::Refused { what, error: Errno::from_raw_os_error(-code) }),
                };
            }
        }
    }
}

/// What a request says, as it is on the wire.
#[derive(Debug, Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn put(&mut self, kind: u16, payload: &[u8]) {
        let len = u16::try_from(4 + payload.len()).expect("names and numbers are short");
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(payload);
        self.0.resize(aligned(self.0.len()), 0);
    }

    fn u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    fn u64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// With the zero at its end, which the kernel wants.
    fn text(&mut self, kind: u16, text: &str) {
        self.put(kind, &[text.as_bytes(), &[0]].concat());
    }

    fn sockets(&mut self, sockets: &[BorrowedFd<'_>]) {
        let mut items = Attributes::default();
        for socket in sockets {
            let mut item = Attributes::default();
            item.put(SOCK_FD, &socket.as_raw_fd().to_ne_bytes());
            items.put(SOCK_ITEM | NESTED, &item.0);
        }
        self.put(SOCKETS | NESTED, &items.0);
    }
}

fn message(family: u16, sequence: u32, command: u8, attributes: &Attributes) -> Vec<u8> {
    let len = HEADER_BYTES + GENERIC_HEADER_BYTES + attributes.0.len();
    let mut message = Vec::with_capacity(len);
    message.extend_from_slice(&u32::try_from(len).expect("a request is short").to_ne_bytes());
    message.extend_from_slice(&family.to_ne_bytes());
    message.extend_from_slice(&(FLAG_REQUEST | FLAG_ACK).to_ne_bytes());
    message.extend_from_slice(&sequence.to_ne_bytes());
    // The sender's port: the kernel knows it.
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&[command, VERSION, 0, 0]);
    message.extend_from_slice(&attributes.0);
    message
}

/// The first message of a datagram (its type, its sequence number, its payload) and what is behind it.
fn cut(datagram: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let number = |at: usize| datagram.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let len = usize::try_from(number(0)?).ok()?;
    let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
    let payload = datagram.get(HEADER_BYTES..len)?;
    Some((kind, number(8)?, payload, &datagram[aligned(len).min(datagram.len())..]))
}

/// The payload of the first attribute of this kind.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let (len, rest) = attributes.split_first_chunk::<2>()?;
        let (found, _) = rest.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_ne_bytes(*len));
        let payload = attributes.get(4..len)?;
        if u16::from_ne_bytes(*found) & TYPE_MASK == kind {
            return Some(payload);
        }
        attributes = &attributes[aligned(len).min(attributes.len())..];
    }
}

const fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::{Attributes, CONNECT, NESTED, SOCKETS, cut, find, message};
    use std::os::fd::{AsFd as _, AsRawFd as _};

    #[test]
    fn a_request_is_what_the_kernel_expects() {
        let mut attributes = Attributes::default();
        attributes.u32(1, 7);
        attributes.text(10, "ab");
        let message = message(0x1b, 9, CONNECT, &attributes);
        let expected = [
            &36_u32.to_ne_bytes()[..],
            &0x1b_u16.to_ne_bytes(),
            &5_u16.to_ne_bytes(),
            &9_u32.to_ne_bytes(),
            &[0; 4],
            &[1, 1, 0, 0],
            &8_u16.to_ne_bytes(),
            &1_u16.to_ne_bytes(),
            &7_u32.to_ne_bytes(),
            // The text's length counts its zero, not the padding.
            &7_u16.to_ne_bytes(),
            &10_u16.to_ne_bytes(),
            b"ab\0\0",
        ]
        .concat();
        assert_eq!(message, expected);
        assert_eq!(message.len(), 36);
    }

    #[test]
    fn sockets_are_a_list_of_items() {
        let (one, two) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let mut attributes = Attributes::default();
        attributes.u32(1, 7);
        attributes.sockets(&[one.as_fd(), two.as_fd()]);
        let list = find(&attributes.0, SOCKETS).expect("found though it is marked as nested");
        let item = |fd: &std::os::unix::net::UnixStream| {
            [
                &12_u16.to_ne_bytes()[..],
                &(1 | NESTED).to_ne_bytes(),
                &8_u16.to_ne_bytes(),
                &1_u16.to_ne_bytes(),
                &fd.as_raw_fd().to_ne_bytes(),
            ]
            .concat()
        };
        assert_eq!(list, [item(&one), item(&two)].concat());
    }

    #[test]
    fn answers_are_cut_within_their_bounds() {
        let mut attributes = Attributes::default();
        attributes.text(2, "nbd");
        attributes.put(1, &27_u16.to_ne_bytes());
        let first = message(16, 3, 1, &attributes);
        let both = [first.clone(), message(2, 4, 0, &Attributes::default())].concat();
        let (kind, sequence, payload, rest) = cut(&both).expect("whole");
        assert_eq!((kind, sequence), (16, 3));
        assert_eq!(find(&payload[4..], 1), Some(&27_u16.to_ne_bytes()[..]));
        assert_eq!(find(&payload[4..], 9), None);
        assert_eq!(cut(rest).map(|(kind, sequence, ..)| (kind, sequence)), Some((2, 4)));
        for short in 0..first.len() {
            assert!(cut(&first[..short]).is_none(), "{short}");
        }
        // Lengths that lie: no attribute, no panic.
        for len in [0_u16, 1, 3, 200] {
            let mut bytes = attributes.0.clone();
            bytes[..2].copy_from_slice(&len.to_ne_bytes());
            let _ = find(&bytes, 1);
        }
    }
}
