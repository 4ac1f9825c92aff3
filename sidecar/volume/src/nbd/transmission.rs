//! Transmission: requests off the wire, replies onto it. Pure.
//!
//! [`Decoder`] cuts a stream into [`Event`]s. It allocates nothing: a write's payload goes into a buffer that the caller
//! provides once the header has been found good, and a caller that reads from a socket can have the socket fill it
//! ([`Decoder::wanted`]), so that large payloads are never copied.

use super::handshake::Agreed;
use super::spec::{self, Reader, chunk, command, flag, status};
use crate::request::{Answer, Geometry, Refusal, Reply, Request};
use bytes::{BufMut as _, Bytes, BytesMut};

pub const REQUEST_BYTES: usize = 28;

/// What holds for all requests of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub geometry: Geometry,
    pub agreed: Agreed,
}

/// A request's header that was found good.
#[derive(Clone, Debug)]
pub enum Command {
    /// Everything but a write.
    Ask(Request),
    /// A write, whose payload follows.
    Write { at: u64, len: u32, fua: bool },
    /// Finish what is outstanding, then close.
    Disconnect,
}

/// What the answer to a request needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The client's name for the request.
    pub cookie: u64,
    pub at: u64,
    /// Bytes of data that a good answer has: of a read, all of them.
    pub data_len: u32,
    /// Answered by chunks rather than by a simple reply.
    pub chunks: bool,
}

/// What the decoder found.
#[derive(Debug)]
pub enum Event<B> {
    /// To be served.
    Ask {
        asked: Asked,
        request: Request,
    },
    /// A good header of a write: [`Decoder::provide`] a buffer of `len` bytes before anything else.
    Payload {
        len: u32,
    },
    /// A write with its payload.
    Write {
        asked: Asked,
        at: u64,
        fua: bool,
        data: B,
    },
    /// To be refused; a payload, if there was one, has been read past.
    Refuse {
        asked: Asked,
        refusal: Refusal,
    },
    Disconnect,
}

/// The stream has no meaning any more: a request begins with this instead of its magic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request begins with {0:#x}")]
pub struct BadMagic(pub u32);

/// Cuts a stream into events.
#[derive(Debug)]
pub struct Decoder<B> {
    terms: Terms,
    state: State<B>,
}

#[derive(Debug)]
enum State<B> {
    Header,
    /// The caller owes a buffer.
    Unprovided {
        write: Write,
        len: u32,
    },
    Payload {
        write: Write,
        data: B,
        filled: usize,
    },
    /// The payload of a write that is refused.
    Skipping {
        asked: Asked,
        refusal: Refusal,
        left: u32,
    },
    Disconnected,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    asked: Asked,
    at: u64,
    fua: bool,
}

impl<B: AsMut<[u8]>> Decoder<B> {
    #[must_use]
    pub fn new(terms: Terms) -> Decoder<B> {
        Decoder { terms, state: State::Header }
    }

    /// Takes what it can off the input's front and gives the next event, or `None` where it needs more input (or a
    /// buffer). The caller keeps what is left of the input, less than [`REQUEST_BYTES`], for the next call.
    ///
    /// # Errors
    /// Where a request does not begin as one: the connection must be closed.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Event<B>>, BadMagic> {
        match &mut self.state {
            State::Header => self.header(input),
            State::Unprovided { .. } | State::Disconnected => Ok(None),
            State::Payload { data, filled, .. } => {
                let hole = &mut data.as_mut()[*filled..];
                let taken = hole.len().min(input.len());
                hole[..taken].copy_from_slice(&input[..taken]);
                *input = &input[taken..];
                self.filled(taken);
                Ok(self.complete())
            }
            State::Skipping { asked, refusal, left } => {
                let taken = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *input = &input[taken..];
                *left -= u32::try_from(taken).expect("at most what is left");
                if *left > 0 {
                    return Ok(None);
                }
                let event = Event::Refuse { asked: *asked, refusal: *refusal };
                self.state = State::Header;
                Ok(Some(event))
            }
        }
    }

    /// The buffer for the payload that [`Event::Payload`] announced.
    ///
    /// # Panics
    /// Where none was announced, or its length is another.
    pub fn provide(&mut self, mut buffer: B) {
        let State::Unprovided { write, len } = self.state else { panic!("no payload is due") };
        assert_eq!(u32::try_from(buffer.as_mut().len()), Ok(len), "the buffer has the payload's length");
        self.state = State::Payload { write, data: buffer, filled: 0 };
    }

    /// The part of a payload that is still to come, for a socket to be read into; then tell [`Decoder::filled`].
    pub fn wanted(&mut self) -> Option<&mut [u8]> {
        match &mut self.state {
            State::Payload { data, filled, .. } => Some(&mut data.as_mut()[*filled..]),
            _ => None,
        }
    }

    /// So many bytes were put into what [`Decoder::wanted`] gave.
    pub fn filled(&mut self, bytes: usize) {
        if let State::Payload { filled, .. } = &mut self.state {
            *filled += bytes;
        }
    }

    /// In the middle of a request that the client has begun.
    #[must_use]
    pub fn is_amid(&self) -> bool {
        matches!(self.state, State::Payload { .. } | State::Skipping { .. })
    }

    fn complete(&mut self) -> Option<Event<B>> {
        if let State::Payload { data, filled, .. } = &mut self.state
            && *filled < data.as_mut().len()
        {
            return None;
        }
        match std::mem::replace(&mut self.state, State::Header) {
            State::Payload { write: Write { asked, at, fua }, data, .. } => Some(Event::Write { asked, at, fua, data }),
            other => {
                self.state = other;
                None
            }
        }
    }

    fn header(&mut self, input: &mut &[u8]) -> Result<Option<Event<B>>, BadMagic> {
        let Some((bytes, rest)) = input.split_first_chunk::<REQUEST_BYTES>() else { return Ok(None) };
        let header = Header::parse(bytes)?;
        *input = rest;
        let chunks = self.terms.agreed.structured && matches!(header.kind, command::READ | command::BLOCK_STATUS);
        let data_len = if header.kind == command::READ { header.len } else { 0 };
        let asked = Asked { cookie: header.cookie, at: header.at, data_len, chunks };
        Ok(Some(match header.judge(&self.terms) {
            Ok(Command::Ask(request)) => Event::Ask { asked, request },
            Ok(Command::Write { at, len, fua }) => {
                self.state = State::Unprovided { write: Write { asked, at, fua }, len };
                Event::Payload { len }
            }
            Ok(Command::Disconnect) => {
                self.state = State::Disconnected;
                Event::Disconnect
            }
            // A refused write has sent its payload all the same.
            Err(refusal) if header.kind == command::WRITE && header.len > 0 => {
                self.state = State::Skipping { asked, refusal, left: header.len };
                return self.next(input);
            }
            Err(refusal) => Event::Refuse { asked, refusal },
        }))
    }
}

/// A request's header as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub flags: u16,
    pub kind: u16,
    pub cookie: u64,
    pub at: u64,
    pub len: u32,
}

impl Header {
    fn parse(bytes: &[u8; REQUEST_BYTES]) -> Result<Header, BadMagic> {
        const LENGTH: &str = "the array has all fields";
        let mut reader = Reader(bytes);
        let magic = reader.u32().expect(LENGTH);
        if magic != spec::REQUEST_MAGIC {
            return Err(BadMagic(magic));
        }
        Ok(Header {
            flags: reader.u16().expect(LENGTH),
            kind: reader.u16().expect(LENGTH),
            cookie: reader.u64().expect(LENGTH),
            at: reader.u64().expect(LENGTH),
            len: reader.u32().expect(LENGTH),
        })
    }

    /// What the request asks for, or the error that the specification names for it.
    ///
    /// # Errors
    /// In this order: an unknown command or a flag that is not this command's: invalid; a change of a read-only volume: not
    /// permitted; more payload than is allowed: too large for a structured read, else invalid; a range beyond the end: no
    /// space for what writes, else invalid.
    pub fn judge(self, terms: &Terms) -> Result<Command, Refusal> {
        let Header { flags, kind, at, len, .. } = self;
        let is_set = |bit: u16| flags & bit != 0;
        let allowed = match kind {
            command::READ if terms.agreed.structured => flag::DF,
            command::READ | command::WRITE | command::FLUSH | command::TRIM | command::CACHE => 0,
            command::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
            command::BLOCK_STATUS if terms.agreed.block_status => flag::REQ_ONE,
            // Whatever else it says: the client goes.
            command::DISC => return Ok(Command::Disconnect),
            _ => return Err(Refusal::Invalid),
        };
        // FUA is legal on everything.
        if flags & !(allowed | flag::FUA) != 0 {
            return Err(Refusal::Invalid);
        }
        let changes = matches!(kind, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        if changes && terms.geometry.read_only {
            return Err(Refusal::NotPermitted);
        }
        if len > spec::PAYLOAD_MAX_BYTES && matches!(kind, command::READ | command::WRITE) {
            let structured = kind == command::READ && terms.agreed.structured;
            return Err(if structured { Refusal::TooLarge } else { Refusal::Invalid });
        }
        if at.checked_add(u64::from(len)).is_none_or(|end| end > terms.geometry.size_bytes) {
            let writes = matches!(kind, command::WRITE | command::WRITE_ZEROES);
            return Err(if writes { Refusal::NoSpace } else { Refusal::Invalid });
        }
        let fua = is_set(flag::FUA);
        Ok(Command::Ask(match kind {
            command::READ => Request::Read { at, len },
            command::WRITE => return Ok(Command::Write { at, len, fua }),
            // Both are reserved and must be zero.
            command::FLUSH if at != 0 || len != 0 => return Err(Refusal::Invalid),
            command::FLUSH => Request::Flush,
            command::TRIM => Request::Trim { at, len, fua },
            command::CACHE => Request::Cache { at, len },
            command::WRITE_ZEROES => Request::WriteZeroes {
                at,
                len,
                fua,
                may_unmap: !is_set(flag::NO_HOLE),
                fast_only: is_set(flag::FAST_ZERO),
            },
            // There is no answer about nothing: every descriptor has a length.
            _ if len == 0 => return Err(Refusal::Invalid),
            _ => Request::Status { at, len, one: is_set(flag::REQ_ONE) },
        }))
    }
}

/// A reply, ready for the wire: a short head and, for some, a body that is sent from where it lies.
#[derive(Clone, Debug)]
pub struct Encoded {
    head: [u8; Encoded::HEAD_MAX_BYTES],
    head_bytes: u8,
    pub body: Bytes,
}

impl Encoded {
    /// A chunk's header, and the offset before its data.
    const HEAD_MAX_BYTES: usize = 28;

    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.head_bytes)]
    }

    /// Bytes on the wire.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head().len() + self.body.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn new(fields: &[&[u8]], body: Bytes) -> Encoded {
        let mut head = [0; Encoded::HEAD_MAX_BYTES];
        let mut end = 0;
        for field in fields {
            head[end..end + field.len()].copy_from_slice(field);
            end += field.len();
        }
        Encoded { head, head_bytes: u8::try_from(end).expect("a head is short"), body }
    }

    fn simple(cookie: u64, error: u32, body: Bytes) -> Encoded {
        Encoded::new(&[&spec::SIMPLE_REPLY_MAGIC.to_be_bytes(), &error.to_be_bytes(), &cookie.to_be_bytes()], body)
    }

    /// The only chunk of its reply.
    fn chunk(cookie: u64, kind: u16, fields: &[u8], body: Bytes) -> Encoded {
        let len = u32::try_from(fields.len() + body.len()).expect("a payload is bounded");
        Encoded::new(
            &[
                &spec::STRUCTURED_REPLY_MAGIC.to_be_bytes(),
                &chunk::DONE.to_be_bytes(),
                &kind.to_be_bytes(),
                &cookie.to_be_bytes(),
                &len.to_be_bytes(),
                fields,
            ],
            body,
        )
    }

    /// The reply to a request, as the connection's terms want it. Data of a wrong length, which would leave the stream
    /// without a meaning, is an error like any other.
    #[must_use]
    pub fn reply(asked: Asked, answer: Answer) -> Encoded {
        let cookie = asked.cookie;
        let data_len = if let Ok(Reply::Data(data)) = &answer { data.len() } else { 0 };
        let answer =
            if answer.is_ok() && u32::try_from(data_len) != Ok(asked.data_len) { Err(Refusal::Io) } else { answer };
        match (answer, asked.chunks) {
            (Ok(Reply::Data(data)), true) if !data.is_empty() => {
                Encoded::chunk(cookie, chunk::OFFSET_DATA, &asked.at.to_be_bytes(), data)
            }
            (Ok(Reply::Data(data)), false) => Encoded::simple(cookie, 0, data),
            (Ok(Reply::Extents(extents)), true) => {
                let mut body = BytesMut::with_capacity(4 + 8 * extents.len());
                body.put_u32(spec::BASE_ALLOCATION_ID);
                for extent in extents {
                    body.put_u32(extent.len);
                    body.put_u32(u32::from(extent.hole) * status::HOLE + u32::from(extent.zero) * status::ZERO);
                }
                Encoded::chunk(cookie, chunk::BLOCK_STATUS, &[], body.freeze())
            }
            (Ok(_), true) => Encoded::chunk(cookie, chunk::NONE, &[], Bytes::new()),
            (Ok(_), false) => Encoded::simple(cookie, 0, Bytes::new()),
            (Err(refusal), true) => {
                let mut body = BytesMut::with_capacity(6);
                body.put_u32(spec::error_number(refusal));
                body.put_u16(0);
                Encoded::chunk(cookie, chunk::ERROR, &[], body.freeze())
            }
            (Err(refusal), false) => Encoded::simple(cookie, spec::error_number(refusal), Bytes::new()),
        }
    }
}

#[cfg(test)]
#[path = "transmission_tests.rs"]
mod tests;
