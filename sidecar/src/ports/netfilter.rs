//! The few messages to nftables that opening and closing ports needs, in one transaction each. The kernel answers while it is sent to, in
//! microseconds, so nothing here waits; a program of its own (`nft`) several times a second would cost more than all the rest.
//!
//! ```text
//!  batch begin | delete set elements (all) | new set elements (port, time-out)… | batch end       answers: one for each message
//!  message: length u32 | type u16 | flags u16 | sequence u32 | port u32 | family u8 | version u8 | resource u16 | attributes
//!  attribute: length u16 | type u16 | value, padded to 4
//! ```
//! Source of the numbers: include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h. Headers are of the machine's byte order, values of
//! the network's.

use lease::time::Millis;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const SUBSYSTEM: u16 = 10;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_ELEMENTS: u16 = SUBSYSTEM << 8 | 12;
const DELETE_ELEMENTS: u16 = SUBSYSTEM << 8 | 14;
const FAMILY_INET: u8 = 1;
const TABLE_NAME: u16 = 1;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_TIMEOUT: u16 = 4;
const DATA_VALUE: u16 = 1;
const NESTED: u16 = 0x8000;
const HEADER: usize = 16;

/// What is done together, or not at all.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    messages: u32,
}

impl Batch {
    pub(super) fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), messages: 0 };
        batch.message(BATCH_BEGIN, 0, 0, SUBSYSTEM, &[]);
        batch
    }

    pub(super) fn delete_table(mut self, table: &str) -> Self {
        self.message(DELETE_TABLE, NLM_F_ACK, FAMILY_INET, 0, &text(TABLE_NAME, table));
        self
    }

    /// Takes all elements out of a set.
    pub(super) fn empty_set(mut self, table: &str, set: &str) -> Self {
        let attributes = [text(ELEMENTS_TABLE, table), text(ELEMENTS_SET, set)].concat();
        self.message(DELETE_ELEMENTS, NLM_F_ACK, FAMILY_INET, 0, &attributes);
        self
    }

    /// Puts ports into a set, each for so long.
    pub(super) fn fill_set(mut self, table: &str, set: &str, ports: &BTreeSet<u16>, lifetime: Millis) -> Self {
        let element = |port: &u16| {
            let key = attribute(ELEMENT_KEY | NESTED, &attribute(DATA_VALUE, &port.to_be_bytes()));
            let timeout = attribute(ELEMENT_TIMEOUT, &lifetime.0.to_be_bytes());
            attribute(LIST_ELEMENT | NESTED, &[key, timeout].concat())
        };
        let elements: Vec<u8> = ports.iter().flat_map(element).collect();
        if !elements.is_empty() {
            let attributes =
                [text(ELEMENTS_TABLE, table), text(ELEMENTS_SET, set), attribute(ELEMENTS | NESTED, &elements)]
                    .concat();
            self.message(NEW_ELEMENTS, NLM_F_ACK | NLM_F_CREATE, FAMILY_INET, 0, &attributes);
        }
        self
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) {
        let length = u32::try_from(HEADER + 4 + attributes.len()).expect("a few ports");
        self.messages += 1;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend(self.messages.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(attributes);
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a few ports");
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

/// A socket of the namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Netfilter(OwnedFd);

impl Netfilter {
    pub(super) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(NETFILTER))?))
    }

    /// # Errors
    /// The first that the kernel gives; nothing was done then.
    pub(super) fn send(&self, mut batch: Batch) -> io::Result<()> {
        let asked = batch.messages - 1;
        batch.message(BATCH_END, 0, 0, SUBSYSTEM, &[]);
        sendto(&self.0, &batch.bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answers = 0;
        let mut first = Ok(());
        let mut buffer = vec![0; 16 << 10];
        loop {
            let length = match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for error in errors(&buffer[..length]) {
                answers += 1;
                if error != 0 && first.is_ok() {
                    first = Err(io::Error::from_raw_os_error(-error));
                }
            }
        }
        if first.is_ok() && answers != asked {
            return Err(io::Error::other(format!("the kernel answered {answers} of {asked} messages")));
        }
        first
    }
}

/// The error numbers, 0 for none, of the answers in a datagram.
fn errors(mut datagram: &[u8]) -> Vec<i32> {
    let mut found = Vec::new();
    while let Some((header, rest)) = datagram.split_first_chunk::<HEADER>() {
        let length = u32::from_ne_bytes(header[..4].try_into().expect("four")) as usize;
        let kind = u16::from_ne_bytes(header[4..6].try_into().expect("two"));
        if let (NLMSG_ERROR, Some(error)) = (kind, rest.first_chunk::<4>()) {
            found.push(i32::from_ne_bytes(*error));
        }
        if length < HEADER {
            break;
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_to_the_end_of_the_datagram_and_not_beyond() {
        let answer = |error: i32| {
            let mut bytes = Vec::new();
            bytes.extend(36_u32.to_ne_bytes());
            bytes.extend(NLMSG_ERROR.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(error.to_ne_bytes());
            bytes.extend([0; 16]);
            bytes
        };
        assert_eq!(errors(&[answer(0), answer(-2)].concat()), [0, -2]);
        assert_eq!(errors(&answer(-1)[..20]), [-1]);
        assert!(errors(&answer(-1)[..19]).is_empty());
        assert!(errors(&[0; 40]).is_empty());
    }
}
