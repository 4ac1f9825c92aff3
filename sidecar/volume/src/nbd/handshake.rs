//! The handshake: fixed newstyle, as the server sees it. Pure: bytes in, bytes out, and what to do next.
//!
//! ```text
//!   greeting ──▶ client flags ──▶ option ◀──▶ reply ... ──▶ EXPORT_NAME or GO ──▶ transmission
//!                                   └── STARTTLS ──▶ (all state forgotten) ──▶ option ...
//! ```
//!
//! A client's mistake inside an option is answered with the error that the specification names, and haggling goes on; what
//! leaves the stream without a meaning closes the connection.

use super::spec::{self, Reader, can, info, option, reply};
use crate::request::Geometry;

/// Longest option that is looked at: every option a client can reasonably send, several names of 4096 bytes among them.
pub const OPTION_MAX_BYTES: usize = 32 * 1024;
/// Longest option that is read past and answered "too big". A longer one is no client's; the connection is closed.
const OPTION_SKIPPED_MAX_BYTES: usize = 1 << 20;
const OPTION_HEADER_BYTES: usize = 16;
/// After the answer to EXPORT_NAME, for clients from before NO_ZEROES.
const PADDING_BYTES: usize = 124;

/// What is on offer: one export.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The export's name. The empty name, which means "the default one", finds it too.
    pub name: String,
    /// For people.
    pub description: String,
    pub geometry: Geometry,
}

/// How this connection stands to TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// The server has no certificate: NOTLS of the specification.
    Unavailable,
    /// Nothing is said about the export before TLS: FORCEDTLS.
    Required,
    /// The connection runs over TLS.
    Established,
}

/// What both sides hold to in transmission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Reads are answered with structured replies.
    pub structured: bool,
    /// BLOCK_STATUS may be asked, about `base:allocation`.
    pub block_status: bool,
}

/// What to do after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing complete is in the input: read more. All of the input is kept by the caller.
    Wait,
    /// Send what was put out, then step again.
    Haggle,
    /// Send what was put out, then begin TLS. Input that is left over was sent before its sender could have had the answer:
    /// it is to be refused with the connection.
    StartTls,
    /// Send what was put out; what is left of the input belongs to transmission.
    Transmit(Agreed),
    /// Send what was put out, then close.
    Close(Closed),
}

/// Why a handshake came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    #[error("the client ended it")]
    Aborted,
    #[error("client flags {0:#x} are not known")]
    UnknownFlags(u32),
    #[error("an option begins with {0:#x}")]
    BadMagic(u64),
    #[error("option {option} of {len} bytes")]
    Oversized { option: u32, len: u32 },
    #[error("EXPORT_NAME for an export that does not exist")]
    UnknownExport,
    #[error("EXPORT_NAME in the clear where TLS is required")]
    TlsRequired,
}

/// The server's side of one handshake.
#[derive(Debug)]
pub struct Handshake {
    offer: Offer,
    encryption: Encryption,
    phase: Phase,
    /// The client skips the padding after EXPORT_NAME.
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was chosen.
    context_of: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    ClientFlags,
    Options,
    /// An option that is too long is being read past.
    Skipping {
        option: u32,
        left: usize,
    },
}

/// An option's error reply: its number and a word for people.
type Error = (u32, &'static str);

const MALFORMED: Error = (reply::ERR_INVALID, "the option's data is malformed");
const NO_DATA: Error = (reply::ERR_INVALID, "this option has no data");
const NAME_TOO_LONG: Error = (reply::ERR_TOO_BIG, "names have at most 4096 bytes");

impl Handshake {
    #[must_use]
    pub fn new(offer: Offer, encryption: Encryption) -> Handshake {
        let phase = Phase::ClientFlags;
        Handshake { offer, encryption, phase, no_zeroes: false, structured: false, context_of: None }
    }

    /// What the server says first.
    #[must_use]
    pub fn greeting() -> [u8; 18] {
        let mut greeting = [0; 18];
        greeting[..8].copy_from_slice(&spec::GREETING_MAGIC.to_be_bytes());
        greeting[8..16].copy_from_slice(&spec::OPTION_MAGIC.to_be_bytes());
        greeting[16..].copy_from_slice(&(spec::FIXED_NEWSTYLE | spec::NO_ZEROES).to_be_bytes());
        greeting
    }

    /// TLS stands. Nothing that was agreed in the clear counts any more.
    #[must_use]
    pub fn secured(self) -> Handshake {
        let encryption = Encryption::Established;
        Handshake { encryption, phase: Phase::Options, structured: false, context_of: None, ..self }
    }

    /// Takes at most one message off the input's front. Gives how many bytes it took, and what to do next; replies are
    /// appended to `out`.
    ///
    /// The caller must be able to hold [`OPTION_MAX_BYTES`] and a header of input; it may give them in any pieces.
    pub fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Next) {
        match self.phase {
            Phase::ClientFlags => {
                let Some(flags) = Reader(input).u32() else { return (0, Next::Wait) };
                if flags & !u32::from(spec::FIXED_NEWSTYLE | spec::NO_ZEROES) != 0 {
                    return (4, Next::Close(Closed::UnknownFlags(flags)));
                }
                self.no_zeroes = flags & u32::from(spec::NO_ZEROES) != 0;
                self.phase = Phase::Options;
                (4, Next::Haggle)
            }
            Phase::Skipping { option, left } => {
                let taken = left.min(input.len());
                if taken < left {
                    self.phase = Phase::Skipping { option, left: left - taken };
                    return (taken, Next::Wait);
                }
                self.phase = Phase::Options;
                put(out, option, reply::ERR_TOO_BIG, &[b"the option is too long"]);
                (taken, Next::Haggle)
            }
            Phase::Options => self.option(input, out),
        }
    }

    fn option(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Next) {
        let mut reader = Reader(input);
        let (Some(magic), Some(option), Some(len)) = (reader.u64(), reader.u32(), reader.u32()) else {
            return (0, Next::Wait);
        };
        if magic != spec::OPTION_MAGIC {
            return (OPTION_HEADER_BYTES, Next::Close(Closed::BadMagic(magic)));
        }
        let oversized = Next::Close(Closed::Oversized { option, len });
        let Ok(data_bytes) = usize::try_from(len) else { return (OPTION_HEADER_BYTES, oversized) };
        if option == option::EXPORT_NAME && data_bytes > spec::STRING_MAX_BYTES || data_bytes > OPTION_SKIPPED_MAX_BYTES
        {
            return (OPTION_HEADER_BYTES, oversized);
        }
        if data_bytes > OPTION_MAX_BYTES {
            self.phase = Phase::Skipping { option, left: data_bytes };
            return (OPTION_HEADER_BYTES, Next::Haggle);
        }
        let Some(data) = reader.bytes(data_bytes) else { return (0, Next::Wait) };
        let next = match self.haggle(option, data, out) {
            Ok(next) => next,
            Err((error, message)) => {
                put(out, option, error, &[message.as_bytes()]);
                Next::Haggle
            }
        };
        (OPTION_HEADER_BYTES + data_bytes, next)
    }

    fn haggle(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Result<Next, Error> {
        if self.encryption == Encryption::Required && !matches!(option, option::STARTTLS | option::ABORT) {
            if option == option::EXPORT_NAME {
                return Ok(Next::Close(Closed::TlsRequired));
            }
            return Err((reply::ERR_TLS_REQD, "this server wants TLS first"));
        }
        match option {
            option::EXPORT_NAME => return Ok(self.export_name(data, out)),
            option::ABORT => {
                put(out, option, reply::ACK, &[]);
                return Ok(Next::Close(Closed::Aborted));
            }
            option::STARTTLS => {
                match self.encryption {
                    _ if !data.is_empty() => return Err(NO_DATA),
                    Encryption::Unavailable => return Err((reply::ERR_POLICY, "this server has no certificate")),
                    Encryption::Established => return Err((reply::ERR_INVALID, "this connection has TLS already")),
                    Encryption::Required => {}
                }
                put(out, option, reply::ACK, &[]);
                return Ok(Next::StartTls);
            }
            option::LIST => {
                if !data.is_empty() {
                    return Err(NO_DATA);
                }
                let name = self.offer.name.as_bytes();
                put(out, option, reply::SERVER, &[&len32(name), name]);
            }
            option::INFO | option::GO => {
                let asked = Wanted::parse(data)?;
                self.describe(option, &asked, out)?;
                if option == option::GO {
                    put(out, option, reply::ACK, &[]);
                    return Ok(Next::Transmit(self.agreed(asked.name)));
                }
            }
            option::STRUCTURED_REPLY => {
                if !data.is_empty() {
                    return Err(NO_DATA);
                }
                self.structured = true;
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(option, data, out)?,
            _ => return Err((reply::ERR_UNSUP, "this option is not known here")),
        }
        put(out, option, reply::ACK, &[]);
        Ok(Next::Haggle)
    }

    fn export_name(&self, name: &[u8], out: &mut Vec<u8>) -> Next {
        if !self.is_offered(name) {
            return Next::Close(Closed::UnknownExport);
        }
        out.extend_from_slice(&self.offer.geometry.size_bytes.to_be_bytes());
        out.extend_from_slice(&self.transmission_flags().to_be_bytes());
        if !self.no_zeroes {
            out.resize(out.len() + PADDING_BYTES, 0);
        }
        Next::Transmit(self.agreed(name))
    }

    fn describe(&self, option: u32, asked: &Wanted<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        if !self.is_offered(asked.name) {
            return Err((reply::ERR_UNKNOWN, "there is no such export"));
        }
        let Geometry { size_bytes, block_bytes, .. } = self.offer.geometry;
        let mut tell = |kind: u16, parts: [&[u8]; 3]| {
            put(out, option, reply::INFO, &[&kind.to_be_bytes(), parts[0], parts[1], parts[2]]);
        };
        tell(info::EXPORT, [&size_bytes.to_be_bytes(), &self.transmission_flags().to_be_bytes(), &[]]);
        if asked.wants(info::NAME) {
            tell(info::NAME, [self.offer.name.as_bytes(), &[], &[]]);
        }
        if asked.wants(info::DESCRIPTION) {
            tell(info::DESCRIPTION, [self.offer.description.as_bytes(), &[], &[]]);
        }
        if asked.wants(info::BLOCK_SIZE) {
            // Every byte can be addressed; whole blocks are quicker.
            let preferred = block_bytes.max(4096);
            let largest = spec::PAYLOAD_MAX_BYTES;
            tell(info::BLOCK_SIZE, [&1u32.to_be_bytes(), &preferred.to_be_bytes(), &largest.to_be_bytes()]);
        }
        Ok(())
    }

    fn contexts(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let setting = option == option::SET_META_CONTEXT;
        if setting {
            // Whatever comes of it, it replaces what was chosen before.
            self.context_of = None;
        }
        if !self.structured {
            return Err((reply::ERR_INVALID, "structured replies come first"));
        }
        let mut reader = Reader(data);
        let name = string(&mut reader)?;
        let queries = reader.u32().ok_or(MALFORMED)?;
        let mut chosen = queries == 0 && !setting;
        for _ in 0..queries {
            // Each takes four bytes at least of a bounded option, so a wrong count ends here soon.
            let query = string(&mut reader)?;
            chosen |= query == spec::BASE_ALLOCATION.as_bytes() || !setting && query == b"base:";
        }
        if !reader.0.is_empty() {
            return Err(MALFORMED);
        }
        if !self.is_offered(name) {
            return Err((reply::ERR_UNKNOWN, "there is no such export"));
        }
        if chosen {
            let id = if setting { spec::BASE_ALLOCATION_ID } else { 0 };
            put(out, option, reply::META_CONTEXT, &[&id.to_be_bytes(), spec::BASE_ALLOCATION.as_bytes()]);
            if setting {
                self.context_of = Some(name.to_vec());
            }
        }
        Ok(())
    }

    fn is_offered(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.offer.name.as_bytes()
    }

    fn agreed(&self, name: &[u8]) -> Agreed {
        let block_status = self.structured && self.context_of.as_deref() == Some(name);
        Agreed { structured: self.structured, block_status }
    }

    fn transmission_flags(&self) -> u16 {
        let mut flags = can::HAS_FLAGS | can::SEND_FLUSH | can::SEND_FUA | can::CAN_MULTI_CONN | can::SEND_CACHE;
        flags |= if self.offer.geometry.read_only {
            can::READ_ONLY
        } else {
            can::SEND_TRIM | can::SEND_WRITE_ZEROES | can::SEND_FAST_ZERO
        };
        if self.structured {
            flags |= can::SEND_DF;
        }
        flags
    }
}

/// What an INFO or GO asks for.
struct Wanted<'a> {
    name: &'a [u8],
    kinds: &'a [u8],
}

impl<'a> Wanted<'a> {
    fn parse(data: &'a [u8]) -> Result<Wanted<'a>, Error> {
        let mut reader = Reader(data);
        let name = string(&mut reader)?;
        let count = reader.u16().ok_or(MALFORMED)?;
        if reader.0.len() != 2 * usize::from(count) {
            return Err(MALFORMED);
        }
        Ok(Wanted { name, kinds: reader.0 })
    }

    fn wants(&self, kind: u16) -> bool {
        self.kinds.chunks_exact(2).any(|asked| asked == kind.to_be_bytes())
    }
}

/// A string behind its length.
fn string<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Error> {
    let len = usize::try_from(reader.u32().ok_or(MALFORMED)?).map_err(|_| MALFORMED)?;
    let string = reader.bytes(len).ok_or(MALFORMED)?;
    if len > spec::STRING_MAX_BYTES {
        return Err(NAME_TOO_LONG);
    }
    if string.contains(&0) || std::str::from_utf8(string).is_err() {
        return Err(MALFORMED);
    }
    Ok(string)
}

fn len32(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("a reply is shorter than 4 GiB").to_be_bytes()
}

/// Appends one option reply.
fn put(out: &mut Vec<u8>, option: u32, kind: u32, parts: &[&[u8]]) {
    out.extend_from_slice(&spec::OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&u32::try_from(len).expect("a reply is shorter than 4 GiB").to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
