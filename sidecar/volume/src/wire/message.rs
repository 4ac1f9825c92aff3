//! What is said, and its bytes. `tests/wire.golden` holds one of each; a change of the bytes shows in its diff.

use super::header::{FUA, Header, LAST, MANDATORY, MAX_CONTROL, MAX_DATA, MAX_SPAN, PACKED};
use super::{Frame, HEADER, Violation, pack};
use crate::ids::{Digest, GENERATIONS_MAX, Generation, Life, PEERS_MAX, Sequence, Span, VOLUMES_MAX, VolumeNo};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use lease::ids::{Epoch, Incarnation, Lineage};

/// Ranges in one `WRITTEN`: what one turn of the disk queue completes; what is left goes into the next.
pub const WRITTEN_RANGES_MAX: usize = 256;
/// Words in one `BITMAP`, 12 bytes each: fits [`MAX_CONTROL`].
pub const BITMAP_WORDS_MAX: usize = 4096;

/// In [`Introduction::features`]: this replica answers `FETCH`.
pub const FETCHES: u64 = 1;
/// This replica follows whoever leads asynchronously: it is sent rounds, and is never waited for.
pub const FOLLOWS: u64 = 2;
/// This program knows what a replica is that [`FOLLOWS`]: only such a primary may send to one.
pub const ROUNDS: u64 = 4;
/// And: this process has seen its image have everything, and nothing has come between since. Said anew in each session.
pub const INTACT: u64 = 8;
/// This program knows [`PACKED`]: only to such a one may data be sent so. Said by who carries the frames, not by the machines.
pub const UNPACKS: u64 = 16;

/// Who speaks and about what; checked against one's own before anything else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Of the cluster.
    pub lineage: Lineage,
    /// Of the speaker's replica.
    pub incarnation: Incarnation,
    /// The speaker's process.
    pub life: Life,
    /// log2 of the bytes that one bit of the bitmap stands for.
    pub chunk_shift: u8,
    /// Bit set of what the speaker can do beyond version 1, or is: [`FETCHES`], [`FOLLOWS`], [`ROUNDS`], [`INTACT`],
    /// [`UNPACKS`]. Unknown ones are ignored.
    pub features: u64,
    /// Size of each volume in bytes.
    pub volumes: Vec<u64>,
}

/// What two histories say of each other; see [`Verdict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Everything that was ever completed at the standby is at the primary.
    Descends,
    /// The standby has completed writes that the primary does not know: refuse, keep both, ask.
    Diverged,
}

/// Why one side hangs up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bye {
    /// In order: the process ends, or the role does.
    Closing,
    /// Another cluster, other volumes, or other chunks.
    Stranger,
    /// The node's machine does not let writes of this epoch in at present.
    NotNow,
    /// The two histories have diverged, or the two sides judge them differently.
    Diverged,
    /// The disk failed.
    DiskFailed,
    /// A frame did not fit the dialogue.
    Confused,
}

/// Why a standby could not do what a frame said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Its disk failed: it drops out.
    Io,
    /// The range is not on the volume, or not of whole sectors.
    Range,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Hello(Introduction),
    Caps(Introduction),
    /// Refuse what is older than this epoch from now on.
    Promise,
    /// Durable: older epochs are refused, and nothing that was taken of them is still on its way to the disk.
    Promised,
    /// The epoch is over: another was promised.
    Fenced,
    /// Oldest first.
    Generations(Vec<Generation>),
    Verdict(Verdict),
    /// What may differ from the receiver: extents by number in the group, each with a bit per chunk. `all`: everything.
    Bitmap {
        all: bool,
        words: Vec<(u32, u64)>,
        last: bool,
    },
    /// In the stream: from here on under this generation, and what follows also goes to these replicas, which are in sync.
    State {
        generation: Generation,
        companions: Vec<Incarnation>,
    },
    /// A sign of life; all of the stream up to `settled` is durable on the primary and on all companions.
    Ping {
        settled: Sequence,
    },
    /// The answer. A replica that [`FOLLOWS`] numbers its own by the frame's sequence, for the next `Lag`.
    Pong,
    Bye(Bye),

    Write {
        volume: VolumeNo,
        at: u64,
        data: Bytes,
        fua: bool,
    },
    Zero {
        span: Span,
        fua: bool,
    },
    Trim {
        span: Span,
    },
    /// What follows goes to the disk only after what came before is durable.
    Barrier,
    /// Make durable what came before; what follows need not wait.
    Flush,
    /// This range was changed and is not sent.
    OutOfSync {
        span: Span,
    },

    /// What follows makes the image neither old nor new: mark it durably before the first byte of it.
    Resync,
    /// A chunk as it is at the primary, at this place of the stream.
    Copy {
        volume: VolumeNo,
        at: u64,
        data: Bytes,
    },
    /// Is this range the same, at this place of the stream?
    Compare {
        span: Span,
        digest: Digest,
    },
    /// As `Compare`, for the operator's verification: a difference is reported and marked, nothing is resolved.
    Verify {
        span: Span,
        digest: Digest,
    },
    /// What does this range hold, at this place of the stream? The primary's disk cannot read it. Only to who says [`FETCHES`].
    Fetch {
        span: Span,
    },
    /// All that may have differed has been sent: make everything durable, then be whole.
    CaughtUp,

    /// Written: would survive the end of the process, or of the machine where it was FUA.
    Written {
        ranges: Vec<(Sequence, Sequence)>,
    },
    /// All of the stream up to here is durable.
    Durable,
    Nack(Refusal),
    Same,
    /// `found`: what a range of `Verify` holds here; `None`: it cannot be read, or only `Compare` asked.
    Differs {
        found: Option<Digest>,
    },
    InSync,
    /// What a range of `Fetch` holds, all of it; `None`: it cannot be read here either.
    Fetched {
        data: Option<Bytes>,
    },

    /// In the stream of a replica that [`FOLLOWS`]: what came before is made durable before anything that follows goes to the
    /// disk, and what follows is of this round of the primary's epoch.
    Round {
        round: u64,
    },
    /// Of a replica that [`FOLLOWS`], before `Promised`: of the frame's epoch it has all rounds before this one, durably, and
    /// nothing of those behind it.
    Reached {
        round: u64,
    },
    /// To a replica that [`FOLLOWS`] and has had everything before: when the primary had heard its `Pong` of the frame's
    /// sequence, what was completed `lag_ms` before that and earlier was durable there.
    Lag {
        lag_ms: u64,
    },
}

/// How a kind may look: its flags, the payload's limit, and whether it has a range of `count` bytes at `offset`.
struct Shape {
    flags: u16,
    limit: u32,
    span: bool,
}

macro_rules! kinds {
    ($($number:literal $name:ident $($flag:ident)* [$limit:expr] $span:literal;)*) => {
        $(const $name: u8 = $number;)*
        fn shape(kind: u8) -> Option<Shape> {
            match kind {
                $($name => Some(Shape { flags: 0 $(| $flag)*, limit: $limit, span: $span }),)*
                _ => None,
            }
        }
    };
}

// Kind, the flags that it must or may carry, the limit of its payload, whether it has a range without payload.
kinds! {
    1 HELLO MANDATORY [MAX_CONTROL] false;
    2 CAPS MANDATORY [MAX_CONTROL] false;
    3 PROMISE MANDATORY [0] false;
    4 PROMISED MANDATORY [0] false;
    5 FENCED MANDATORY [0] false;
    6 GENERATIONS MANDATORY [MAX_CONTROL] false;
    7 VERDICT MANDATORY [1] false;
    8 BITMAP MANDATORY LAST [MAX_CONTROL] false;
    9 STATE MANDATORY [MAX_CONTROL] false;
    10 PING [0] false;
    11 PONG [0] false;
    12 BYE MANDATORY [1] false;
    32 WRITE MANDATORY FUA PACKED [MAX_DATA] false;
    33 ZERO MANDATORY FUA [0] true;
    34 TRIM MANDATORY [0] true;
    35 BARRIER MANDATORY [0] false;
    36 FLUSH MANDATORY [0] false;
    37 OUT_OF_SYNC MANDATORY [0] true;
    48 RESYNC MANDATORY [0] false;
    49 COPY MANDATORY PACKED [MAX_DATA] false;
    50 COMPARE MANDATORY [32] true;
    51 CAUGHT_UP MANDATORY [0] false;
    52 VERIFY MANDATORY [32] true;
    53 FETCH MANDATORY [0] true;
    64 WRITTEN MANDATORY [MAX_CONTROL] false;
    65 DURABLE MANDATORY [0] false;
    66 NACK MANDATORY [1] false;
    67 SAME MANDATORY [0] false;
    68 DIFFERS MANDATORY [32] false;
    69 IN_SYNC MANDATORY [0] false;
    70 FETCHED MANDATORY PACKED [MAX_DATA] false;
    96 ROUND MANDATORY [8] false;
    97 REACHED [8] false;
    98 LAG [8] false;
}

impl Message {
    /// Whether this kind is known; an error if it is and the header does not fit it.
    pub(super) fn check(header: &Header) -> Result<bool, Violation> {
        let kind = header.kind;
        let Some(shape) = shape(kind) else { return Ok(false) };
        let required = shape.flags & MANDATORY;
        if header.flags & !shape.flags != 0 || header.flags & MANDATORY != required {
            return Err(Violation::Flags { kind, flags: header.flags });
        }
        if header.length > shape.limit {
            return Err(Violation::TooLong { kind, length: header.length, limit: shape.limit });
        }
        let (offset, count) = (header.offset, header.count);
        let carries = matches!(kind, WRITE | COPY);
        let fits = count > 0 && count <= MAX_SPAN && offset.checked_add(count).is_some();
        let agrees = match header.flags & PACKED {
            0 => !carries || count == u64::from(header.length),
            _ => pack::is_possible(header.length, count),
        };
        if (shape.span || carries) && !fits || !agrees {
            return Err(Violation::Range { kind, offset, count });
        }
        Ok(true)
    }

    /// Whether this has a place in the session's stream.
    #[must_use]
    pub fn in_stream(&self) -> bool {
        match self {
            Self::Write { .. }
            | Self::Zero { .. }
            | Self::Trim { .. }
            | Self::Barrier
            | Self::Flush
            | Self::OutOfSync { .. }
            | Self::Resync
            | Self::Copy { .. }
            | Self::Compare { .. }
            | Self::Verify { .. }
            | Self::Fetch { .. }
            | Self::CaughtUp
            | Self::Round { .. }
            | Self::State { .. } => true,
            Self::Hello(_)
            | Self::Caps(_)
            | Self::Promise
            | Self::Promised
            | Self::Fenced
            | Self::Generations(_)
            | Self::Verdict(_)
            | Self::Bitmap { .. }
            | Self::Ping { .. }
            | Self::Pong
            | Self::Bye(_)
            | Self::Written { .. }
            | Self::Durable
            | Self::Nack(_)
            | Self::Same
            | Self::Differs { .. }
            | Self::InSync
            | Self::Fetched { .. }
            | Self::Reached { .. }
            | Self::Lag { .. } => false,
        }
    }

    pub(super) fn decode(header: &Header, payload: Bytes) -> Result<Self, Violation> {
        let kind = header.kind;
        let payload = if header.flags & PACKED == 0 { payload } else { pack::unpack(kind, &payload, header.count)? };
        let volume = VolumeNo(header.volume);
        let span = Span { volume, at: header.offset, len: header.count };
        let fua = header.flags & FUA != 0;
        let mut fields = Fields { kind, rest: payload };
        let message = match kind {
            HELLO => Self::Hello(fields.introduction()?),
            CAPS => Self::Caps(fields.introduction()?),
            PROMISE => Self::Promise,
            PROMISED => Self::Promised,
            FENCED => Self::Fenced,
            GENERATIONS => Self::Generations(fields.list(GENERATIONS_MAX, "generations", Fields::generation)?),
            VERDICT => Self::Verdict(match fields.u8("verdict")? {
                0 => Verdict::Descends,
                1 => Verdict::Diverged,
                _ => return Err(fields.malformed("verdict")),
            }),
            BITMAP => {
                let all = fields.u8("all")? != 0;
                let words = fields
                    .list(BITMAP_WORDS_MAX, "words", |fields| Ok((fields.u32("extent")?, fields.u64("bits")?)))?;
                Self::Bitmap { all, words, last: header.flags & LAST != 0 }
            }
            STATE => {
                let generation = fields.generation()?;
                Self::State { generation, companions: fields.list(PEERS_MAX, "companions", Fields::name)? }
            }
            PING => Self::Ping { settled: header.sequence },
            PONG => Self::Pong,
            BYE => Self::Bye(match fields.u8("reason")? {
                0 => Bye::Closing,
                1 => Bye::Stranger,
                2 => Bye::NotNow,
                3 => Bye::Diverged,
                4 => Bye::DiskFailed,
                5 => Bye::Confused,
                _ => return Err(fields.malformed("reason")),
            }),
            WRITE => Self::Write { volume, at: header.offset, data: fields.all(), fua },
            ZERO => Self::Zero { span, fua },
            TRIM => Self::Trim { span },
            BARRIER => Self::Barrier,
            FLUSH => Self::Flush,
            OUT_OF_SYNC => Self::OutOfSync { span },
            RESYNC => Self::Resync,
            COPY => Self::Copy { volume, at: header.offset, data: fields.all() },
            COMPARE => Self::Compare { span, digest: fields.digest()? },
            VERIFY => Self::Verify { span, digest: fields.digest()? },
            FETCH => Self::Fetch { span },
            CAUGHT_UP => Self::CaughtUp,
            WRITTEN => {
                let ranges = fields.list(WRITTEN_RANGES_MAX, "ranges", |fields| {
                    let (first, last) = (Sequence(fields.u64("first")?), Sequence(fields.u64("last")?));
                    if first <= last { Ok((first, last)) } else { Err(fields.malformed("range")) }
                })?;
                Self::Written { ranges }
            }
            DURABLE => Self::Durable,
            NACK => Self::Nack(match fields.u8("refusal")? {
                0 => Refusal::Io,
                1 => Refusal::Range,
                _ => return Err(fields.malformed("refusal")),
            }),
            SAME => Self::Same,
            DIFFERS if fields.rest.is_empty() => Self::Differs { found: None },
            DIFFERS => Self::Differs { found: Some(fields.digest()?) },
            IN_SYNC => Self::InSync,
            FETCHED => Self::Fetched { data: Some(fields.all()).filter(|data| !data.is_empty()) },
            ROUND => Self::Round { round: fields.u64("round")? },
            REACHED => Self::Reached { round: fields.u64("round")? },
            LAG => Self::Lag { lag_ms: fields.u64("lag")? },
            _ => return Err(Violation::Unknown { kind }),
        };
        if fields.rest.is_empty() { Ok(message) } else { Err(fields.malformed("end")) }
    }
}

impl Frame {
    /// The frame's bytes: header with small payload, and the data that follows it, which is not copied.
    ///
    /// # Panics
    /// On a message that no receiver would take: a list or a range beyond its limit. The machines keep to the limits.
    #[must_use]
    pub fn encode(&self) -> (BytesMut, Bytes) {
        self.bytes(false)
    }

    /// The same, with data packed where that makes them shorter: for who says that it [`UNPACKS`].
    ///
    /// # Panics
    /// As [`Self::encode`].
    #[must_use]
    pub fn encode_packed(&self) -> (BytesMut, Bytes) {
        self.bytes(true)
    }

    fn bytes(&self, may_pack: bool) -> (BytesMut, Bytes) {
        let mut out = BytesMut::with_capacity(HEADER);
        out.put_bytes(0, HEADER);
        let mut data = Bytes::new();
        let (mut flags, mut volume, mut offset, mut count) = (MANDATORY, 0, 0, 0);
        let mut sequence = self.sequence;
        let mut ranged = |span: &Span| (volume, offset, count) = (span.volume.0, span.at, span.len);
        let kind = match &self.message {
            Message::Hello(introduction) => {
                put_introduction(&mut out, introduction);
                HELLO
            }
            Message::Caps(introduction) => {
                put_introduction(&mut out, introduction);
                CAPS
            }
            Message::Promise => PROMISE,
            Message::Promised => PROMISED,
            Message::Fenced => FENCED,
            Message::Generations(generations) => {
                put_list(&mut out, GENERATIONS_MAX, generations, put_generation);
                GENERATIONS
            }
            Message::Verdict(verdict) => {
                out.put_u8(*verdict as u8);
                VERDICT
            }
            Message::Bitmap { all, words, last } => {
                out.put_u8(u8::from(*all));
                put_list(&mut out, BITMAP_WORDS_MAX, words, |out, (extent, bits)| {
                    out.put_u32_le(*extent);
                    out.put_u64_le(*bits);
                });
                flags |= if *last { LAST } else { 0 };
                BITMAP
            }
            Message::State { generation, companions } => {
                put_generation(&mut out, generation);
                put_list(&mut out, PEERS_MAX, companions, |out, name| put_text(out, name.as_str()));
                STATE
            }
            Message::Ping { settled } => {
                (flags, sequence) = (0, *settled);
                PING
            }
            Message::Pong => {
                flags = 0;
                PONG
            }
            Message::Bye(reason) => {
                out.put_u8(*reason as u8);
                BYE
            }
            Message::Write { volume, at, data: bytes, fua } => {
                ranged(&Span { volume: *volume, at: *at, len: bytes.len() as u64 });
                data = bytes.clone();
                flags |= if *fua { FUA } else { 0 };
                WRITE
            }
            Message::Zero { span, fua } => {
                ranged(span);
                flags |= if *fua { FUA } else { 0 };
                ZERO
            }
            Message::Trim { span } => {
                ranged(span);
                TRIM
            }
            Message::Barrier => BARRIER,
            Message::Flush => FLUSH,
            Message::OutOfSync { span } => {
                ranged(span);
                OUT_OF_SYNC
            }
            Message::Resync => RESYNC,
            Message::Copy { volume, at, data: bytes } => {
                ranged(&Span { volume: *volume, at: *at, len: bytes.len() as u64 });
                data = bytes.clone();
                COPY
            }
            Message::Compare { span, digest } => {
                ranged(span);
                out.put_slice(&digest.0);
                COMPARE
            }
            Message::Verify { span, digest } => {
                ranged(span);
                out.put_slice(&digest.0);
                VERIFY
            }
            Message::Fetch { span } => {
                ranged(span);
                FETCH
            }
            Message::CaughtUp => CAUGHT_UP,
            Message::Written { ranges } => {
                put_list(&mut out, WRITTEN_RANGES_MAX, ranges, |out, (first, last)| {
                    out.put_u64_le(first.0);
                    out.put_u64_le(last.0);
                });
                WRITTEN
            }
            Message::Durable => DURABLE,
            Message::Nack(refusal) => {
                out.put_u8(*refusal as u8);
                NACK
            }
            Message::Same => SAME,
            Message::Differs { found } => {
                found.iter().for_each(|digest| out.put_slice(&digest.0));
                DIFFERS
            }
            Message::InSync => IN_SYNC,
            Message::Fetched { data: bytes } => {
                data = bytes.clone().unwrap_or_default();
                assert!(data.len() <= MAX_DATA as usize, "a range of {} bytes is never fetched", data.len());
                FETCHED
            }
            Message::Round { round } => {
                out.put_u64_le(*round);
                ROUND
            }
            Message::Reached { round } => {
                flags = 0;
                out.put_u64_le(*round);
                REACHED
            }
            Message::Lag { lag_ms } => {
                flags = 0;
                out.put_u64_le(*lag_ms);
                LAG
            }
        };
        assert!(count <= MAX_SPAN, "a range of {count} bytes is never sent");
        if may_pack && let Some(packed) = pack::pack(&data) {
            (flags, count) = (flags | PACKED, data.len() as u64);
            data = packed;
        }
        let payload_crc = crc32c::crc32c_append(crc32c::crc32c(&out[HEADER..]), &data);
        let length = u32::try_from(out.len() - HEADER + data.len()).expect("bounded by the assertions");
        let (epoch, session) = (self.epoch, self.session);
        let header = Header { kind, flags, length, volume, epoch, session, sequence, offset, count, payload_crc };
        out[..HEADER].copy_from_slice(&header.encode());
        (out, data)
    }
}

fn put_introduction(out: &mut BytesMut, introduction: &Introduction) {
    put_text(out, introduction.lineage.as_str());
    put_text(out, introduction.incarnation.as_str());
    out.put_u64_le(introduction.life.0);
    out.put_u8(introduction.chunk_shift);
    out.put_u64_le(introduction.features);
    put_list(out, VOLUMES_MAX, &introduction.volumes, |out, size| out.put_u64_le(*size));
}

fn put_generation(out: &mut BytesMut, generation: &Generation) {
    out.put_u64_le(generation.epoch.0);
    out.put_u32_le(generation.turn);
}

/// A name of the lease, at most 64 bytes by its type.
fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u8(u8::try_from(text.len()).expect("names are at most 64 bytes"));
    out.put_slice(text.as_bytes());
}

fn put_list<T>(out: &mut BytesMut, max: usize, list: &[T], mut put: impl FnMut(&mut BytesMut, &T)) {
    assert!(list.len() <= max, "a list of {} is never sent: at most {max}", list.len());
    out.put_u16_le(u16::try_from(list.len()).expect("all limits are below 2^16"));
    for one in list {
        put(out, one);
    }
}

/// What is left of a payload.
struct Fields {
    kind: u8,
    rest: Bytes,
}

impl Fields {
    fn malformed(&self, what: &'static str) -> Violation {
        Violation::Malformed { kind: self.kind, what }
    }

    fn has(&self, bytes: usize, what: &'static str) -> Result<(), Violation> {
        if self.rest.len() >= bytes { Ok(()) } else { Err(self.malformed(what)) }
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, Violation> {
        self.has(1, what).map(|()| self.rest.get_u8())
    }
    fn u16(&mut self, what: &'static str) -> Result<u16, Violation> {
        self.has(2, what).map(|()| self.rest.get_u16_le())
    }
    fn u32(&mut self, what: &'static str) -> Result<u32, Violation> {
        self.has(4, what).map(|()| self.rest.get_u32_le())
    }
    fn u64(&mut self, what: &'static str) -> Result<u64, Violation> {
        self.has(8, what).map(|()| self.rest.get_u64_le())
    }

    fn all(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    fn text(&mut self, what: &'static str) -> Result<String, Violation> {
        let length = usize::from(self.u8(what)?);
        self.has(length, what)?;
        String::from_utf8(self.rest.split_to(length).to_vec()).map_err(|_| self.malformed(what))
    }

    fn name(&mut self) -> Result<Incarnation, Violation> {
        let text = self.text("incarnation")?;
        Incarnation::new(text).map_err(|_| self.malformed("incarnation"))
    }

    fn digest(&mut self) -> Result<Digest, Violation> {
        self.has(32, "digest")?;
        let mut digest = [0; 32];
        self.rest.copy_to_slice(&mut digest);
        Ok(Digest(digest))
    }

    fn generation(&mut self) -> Result<Generation, Violation> {
        Ok(Generation { epoch: Epoch(self.u64("epoch")?), turn: self.u32("turn")? })
    }

    fn introduction(&mut self) -> Result<Introduction, Violation> {
        let lineage = self.text("lineage")?;
        Ok(Introduction {
            lineage: Lineage::new(lineage).map_err(|_| self.malformed("lineage"))?,
            incarnation: self.name()?,
            life: Life(self.u64("life")?),
            chunk_shift: self.u8("chunk shift")?,
            features: self.u64("features")?,
            volumes: self.list(VOLUMES_MAX, "volumes", |fields| fields.u64("size"))?,
        })
    }

    /// A list with its length before it. Nothing is allocated beyond `max`, nor beyond what the payload can hold.
    fn list<T>(
        &mut self,
        max: usize,
        what: &'static str,
        mut one: impl FnMut(&mut Self) -> Result<T, Violation>,
    ) -> Result<Vec<T>, Violation> {
        let length = usize::from(self.u16(what)?);
        if length > max || length > self.rest.len() {
            return Err(self.malformed(what));
        }
        let mut list = Vec::with_capacity(length);
        for _ in 0..length {
            list.push(one(self)?);
        }
        Ok(list)
    }
}
