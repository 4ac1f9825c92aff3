//! What goes over a peer link: frames of JSON, each behind its length in four bytes, most significant first.
//!
//! ```text
//!   dialling node ── Hello{v, cluster, who, nonce D} ──▶ ◀── Hello{v, cluster, who, nonce L} ── listening node
//!                 ── {session L, sequence 1, Ping} ───▶ ◀── {session D, sequence 1, Pong} ──
//!   either side   ── {Refused{cause, message}} ──▶ and closes
//! ```
//!
//! Each frame names the receiver's nonce as its session and the next number as its sequence, so that nothing that was
//! recorded, on this connection or on another, is ever taken for something new.

use super::refusal::Refusal;
use crate::node::event::{Ping, Pong};
use lease::ids::{ClusterId, Lineage};
use lease::record::Holder;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Version of this protocol.
pub const PROTOCOL: u64 = 1;
/// The largest frame: a hundred times the largest message there is.
pub const FRAME_MAX_BYTES: usize = 64 * 1024;

/// The first frame of each side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub v: u64,
    pub cluster: ClusterId,
    /// Of the row, once the sender has read it: a cluster that was deleted and made again is another one.
    #[serde(default)]
    pub lineage: Option<Lineage>,
    pub me: Holder,
    /// Random, new for each connection.
    pub nonce: String,
}

/// What peers tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Message {
    Ping(Ping),
    Pong(Pong),
    Nudge,
}

/// One frame after the hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    pub session: String,
    pub sequence: u64,
    pub message: Message,
}

/// Any frame, as it is on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frame {
    Hello(Hello),
    Sealed(Sealed),
    Refused { cause: String, message: String },
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the peer closed the connection")]
    Closed,
    #[error("{what} took longer than {limit}")]
    TooSlow { what: &'static str, limit: lease::time::Millis },
}

/// Reads one frame. Not to be given up half way: what was read of the frame would be lost.
///
/// # Errors
/// [`LinkError::Closed`] at the end; [`Refusal::Oversize`], [`Refusal::Malformed`] for what is no frame;
/// [`Refusal::ByPeer`] where the peer says why it closes.
pub async fn read(reader: &mut (impl AsyncRead + Unpin)) -> Result<Frame, LinkError> {
    let mut length = [0; 4];
    match reader.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(LinkError::Closed),
        Err(error) => return Err(error.into()),
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > FRAME_MAX_BYTES {
        return Err(Refusal::Oversize { found_bytes: length, allowed_bytes: FRAME_MAX_BYTES }.into());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    parse(&body)
}

fn parse(body: &[u8]) -> Result<Frame, LinkError> {
    let malformed = |error: serde_json::Error| Refusal::Malformed { problem: error.to_string() };
    let value: serde_json::Value = serde_json::from_slice(body).map_err(malformed)?;
    // The version is looked at first: another version's hello may have any other layout.
    if let Some(found) = value.pointer("/hello/v").and_then(serde_json::Value::as_u64) {
        if found < PROTOCOL {
            return Err(Refusal::OlderProtocol { found, mine: PROTOCOL }.into());
        }
        if found > PROTOCOL {
            return Err(Refusal::NewerProtocol { found, mine: PROTOCOL }.into());
        }
    }
    match serde_json::from_value(value).map_err(malformed)? {
        Frame::Refused { cause, message } => Err(Refusal::ByPeer { cause, message }.into()),
        frame => Ok(frame),
    }
}

/// Writes one frame.
///
/// # Errors
/// The connection's.
pub async fn write(writer: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> std::io::Result<()> {
    let body = serde_json::to_vec(frame).expect("frames have string keys only, so they always serialise");
    let length = u32::try_from(body.len()).expect("no message comes near the frame's limit");
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.extend(length.to_be_bytes());
    bytes.extend(body);
    // One write: a length alone in a packet would cost a round trip.
    writer.write_all(&bytes).await?;
    writer.flush().await
}

/// The receiving end of one connection: what may come next.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// The nonce of this side's hello.
    session: String,
    last: u64,
}

impl Inbound {
    #[must_use]
    pub fn new(session: String) -> Self {
        Self { session, last: 0 }
    }

    /// The message of a frame, if the frame may come now.
    ///
    /// # Errors
    /// [`Refusal`]: another session's, one that was there before, or no message at all.
    pub fn open(&mut self, frame: Frame) -> Result<Message, Refusal> {
        let Frame::Sealed(sealed) = frame else {
            return Err(Refusal::Malformed { problem: "a second hello".into() });
        };
        if sealed.session != self.session {
            return Err(Refusal::AnotherSession { found: sealed.session, mine: self.session.clone() });
        }
        if sealed.sequence <= self.last {
            return Err(Refusal::Replayed { found: sealed.sequence, last: self.last });
        }
        self.last = sealed.sequence;
        Ok(sealed.message)
    }
}

/// The sending end of one connection.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// The nonce of the peer's hello.
    session: String,
    last: u64,
}

impl Outbound {
    #[must_use]
    pub fn new(session: String) -> Self {
        Self { session, last: 0 }
    }

    pub fn seal(&mut self, message: Message) -> Frame {
        self.last += 1;
        Frame::Sealed(Sealed { session: self.session.clone(), sequence: self.last, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lease::ids::{Beat, Epoch};

    fn ping(number: u64) -> Message {
        Message::Ping(Ping { number, epoch: Epoch(3), beat: Beat(4), answered: 0 })
    }

    #[tokio::test]
    async fn a_frame_survives_the_wire() {
        let frame = Outbound::new("s".into()).seal(ping(1));
        let mut wire = Vec::new();
        write(&mut wire, &frame).await.expect("a vector takes all");
        assert_eq!(read(&mut wire.as_slice()).await.expect("a frame"), frame);
        assert!(matches!(read(&mut &[][..]).await, Err(LinkError::Closed)));
    }

    #[test]
    fn only_rising_sequences_of_this_session_are_taken() {
        let (mut outbound, mut inbound) = (Outbound::new("s".into()), Inbound::new("s".into()));
        let (first, second) = (outbound.seal(ping(1)), outbound.seal(ping(2)));
        assert_eq!(inbound.open(first.clone()), Ok(ping(1)));
        assert_eq!(inbound.open(first.clone()), Err(Refusal::Replayed { found: 1, last: 1 }));
        assert_eq!(inbound.open(second), Ok(ping(2)));
        assert_eq!(inbound.open(first), Err(Refusal::Replayed { found: 1, last: 2 }));
        let foreign = Outbound::new("t".into()).seal(ping(9));
        assert_eq!(inbound.open(foreign), Err(Refusal::AnotherSession { found: "t".into(), mine: "s".into() }));
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused_before_it_is_read() {
        let mut huge = u32::MAX.to_be_bytes().to_vec();
        huge.push(b'{');
        let error = read(&mut huge.as_slice()).await.expect_err("too large");
        assert!(matches!(error, LinkError::Refused(Refusal::Oversize { .. })), "{error}");
        for body in [
            "nonsense",
            "{}",
            r#"{"hello":{"v":1}}"#,
            r#"{"sealed":{"session":"s","sequence":1,"message":{"kind":"obey"}}}"#,
        ] {
            let error = parse(body.as_bytes()).expect_err("no frame");
            assert!(matches!(error, LinkError::Refused(Refusal::Malformed { .. })), "{body}: {error}");
        }
    }

    #[test]
    fn another_version_is_recognised_whatever_its_layout() {
        let older = parse(br#"{"hello":{"v":0,"who":"me"}}"#).expect_err("older");
        assert!(matches!(older, LinkError::Refused(Refusal::OlderProtocol { found: 0, .. })), "{older}");
        let newer = parse(br#"{"hello":{"v":7}}"#).expect_err("newer");
        assert!(matches!(newer, LinkError::Refused(Refusal::NewerProtocol { found: 7, .. })), "{newer}");
    }
}
