//! One connection to a peer: handshake, then messages both ways until it ends.

use super::Local;
use super::board::{Board, Way};
use super::frame::{self, Frame, Hello, Inbound, LinkError, Message, Outbound, PROTOCOL};
use super::refusal::Refusal;
use super::tls::refusal_in;
use crate::identity::{fingerprint, random_hex};
use crate::mailbox::Mailbox;
use crate::node::event::Event;
use lease::ids::NodeId;
use lease::record::Holder;
use lease::time::Millis;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsStream;

/// How long a handshake may take, of TLS and of ours each.
pub(super) const HANDSHAKE_LIMIT: Millis = Millis(2_000);
/// The kernel ends a connection on which nothing is acknowledged for this long.
const SILENCE_LIMIT: Millis = Millis(3_000);
/// How long a refusal may take on its way out.
const LAST_WORDS_LIMIT: Millis = Millis(500);

pub(super) type Stream = TlsStream<TcpStream>;

/// Sets what every peer connection needs: small messages at once, and an end when the other side is gone.
///
/// # Errors
/// The kernel's.
pub(super) fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &2)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &1)?;
    setsockopt(stream, sockopt::TcpKeepCount, &3)?;
    let limit = u32::try_from(SILENCE_LIMIT.0).expect("seconds fit");
    setsockopt(stream, sockopt::TcpUserTimeout, &limit)?;
    Ok(())
}

/// `future`, for at most `limit`.
///
/// # Errors
/// [`LinkError::TooSlow`].
pub(super) async fn within<T>(
    what: &'static str,
    limit: Millis,
    future: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    tokio::time::timeout(limit.into(), future).await.unwrap_or(Err(LinkError::TooSlow { what, limit }))
}

/// What a failed TLS handshake or transfer means in our words.
#[must_use]
pub(super) fn explain(error: std::io::Error) -> LinkError {
    if let Some(refusal) = refusal_in(&error) {
        return refusal.into();
    }
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::AlertReceived(_)) | None => error.into(),
        Some(inner) => Refusal::Malformed { problem: format!("TLS 1.3: {inner}") }.into(),
    }
}

/// A connection whose two sides know each other.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) peer: Holder,
    inbound: Inbound,
    outbound: Outbound,
}

/// Exchanges hellos. A refusal is told to the peer before it is returned.
///
/// # Errors
/// [`LinkError`].
pub(super) async fn greet(stream: &mut Stream, local: &Local) -> Result<Session, LinkError> {
    let greeted = within("the hello", HANDSHAKE_LIMIT, exchange_hellos(stream, local)).await;
    if let Err(LinkError::Refused(refusal)) = &greeted {
        let words = last_words(refusal);
        let _ = tokio::time::timeout(LAST_WORDS_LIMIT.into(), async {
            if let Some(words) = words {
                frame::write(stream, &words).await?;
            }
            stream.shutdown().await
        })
        .await;
    }
    greeted
}

/// What the peer is told of a refusal; nothing where it is the peer's own.
fn last_words(refusal: &Refusal) -> Option<Frame> {
    match refusal {
        Refusal::ByPeer { .. } => None,
        refusal => Some(Frame::Refused { cause: refusal.cause().into(), message: refusal.to_string() }),
    }
}

async fn exchange_hellos(stream: &mut Stream, local: &Local) -> Result<Session, LinkError> {
    let nonce = random_hex(16);
    let mine = Hello {
        v: PROTOCOL,
        cluster: local.cluster.clone(),
        lineage: local.lineage.borrow().clone(),
        me: local.me.clone(),
        nonce: nonce.clone(),
    };
    frame::write(stream, &Frame::Hello(mine)).await.map_err(explain)?;
    let theirs = match frame::read(stream).await {
        Ok(Frame::Hello(hello)) => hello,
        Ok(_) => return Err(Refusal::Malformed { problem: "the first frame is no hello".into() }.into()),
        Err(LinkError::Io(error)) => return Err(explain(error)),
        Err(error) => return Err(error),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let shown = certificate.map(|certificate| fingerprint(certificate)).unwrap_or_default();
    judge(&theirs, &shown, local)?;
    Ok(Session { peer: theirs.me, inbound: Inbound::new(nonce), outbound: Outbound::new(theirs.nonce) })
}

/// Whether the hello may come from who holds the key.
fn judge(hello: &Hello, shown: &str, local: &Local) -> Result<(), Refusal> {
    if hello.cluster != local.cluster {
        return Err(Refusal::AnotherCluster { mine: local.cluster.clone(), found: hello.cluster.clone() });
    }
    if let (Some(mine), Some(found)) = (&*local.lineage.borrow(), &hello.lineage)
        && mine != found
    {
        return Err(Refusal::AnotherLineage { mine: mine.clone(), found: found.clone() });
    }
    match local.pins.owner(shown) {
        None => Err(Refusal::UnpinnedKey { fingerprint: shown.into() }),
        Some(owner) if owner != hello.me.node => {
            Err(Refusal::KeyOfAnother { fingerprint: shown.into(), owner, claimed: hello.me.node.clone() })
        }
        Some(_) => Ok(()),
    }
}

/// Carries messages both ways until the connection ends. `outgoing`: this side dialled, so it asks and the peer answers.
pub(super) async fn carry(
    stream: Stream,
    session: Session,
    mailbox: &Mailbox<Message>,
    way: Way,
    local: &Local,
) -> LinkError {
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|key| fingerprint(key));
    let Session { peer, mut inbound, outbound } = session;
    let (mut reader, writer) = tokio::io::split(stream);
    let (say_last, last) = oneshot::channel();
    let writing = send(writer, outbound, mailbox, last, local);
    tokio::pin!(writing);
    let ended = tokio::select! {
        error = receive(&mut reader, &mut inbound, &peer, way, local) => error,
        error = &mut writing => return error,
        refusal = unpinned(&peer.node, shown.unwrap_or_default(), local) => refusal.into(),
    };
    if let LinkError::Refused(refusal) = &ended {
        let _ = say_last.send(last_words(refusal));
        let _ = tokio::time::timeout(LAST_WORDS_LIMIT.into(), writing).await;
    }
    ended
}

/// Returns once the peer's pin is no longer the key that it showed.
async fn unpinned(node: &NodeId, shown: String, local: &Local) -> Refusal {
    let mut changes = local.pins.changes();
    loop {
        if local.pins.of(node).is_none_or(|pin| pin.fingerprint != shown) {
            return Refusal::UnpinnedKey { fingerprint: shown };
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn send(
    mut writer: WriteHalf<Stream>,
    mut outbound: Outbound,
    mailbox: &Mailbox<Message>,
    mut last: oneshot::Receiver<Option<Frame>>,
    local: &Local,
) -> LinkError {
    loop {
        // Only the waiting is given up here, never half a frame.
        let message = tokio::select! {
            biased;
            words = &mut last => {
                if let Ok(Some(words)) = words {
                    let _ = frame::write(&mut writer, &words).await;
                }
                let _ = writer.shutdown().await;
                return LinkError::Closed;
            }
            message = mailbox.next() => message,
        };
        if let Err(error) = frame::write(&mut writer, &outbound.seal(message)).await {
            return explain(error);
        }
        Board::count(&local.board.frames_sent);
    }
}

async fn receive(
    reader: &mut ReadHalf<Stream>,
    inbound: &mut Inbound,
    peer: &Holder,
    way: Way,
    local: &Local,
) -> LinkError {
    loop {
        let frame = match frame::read(reader).await {
            Ok(frame) => frame,
            Err(LinkError::Io(error)) => return explain(error),
            Err(error) => return error,
        };
        let message = match inbound.open(frame) {
            Ok(message) => message,
            Err(refusal) => return refusal.into(),
        };
        Board::count(&local.board.frames_received);
        let event = match (way, message) {
            (Way::Outgoing, Message::Pong(pong)) => Event::Ponged { from: peer.clone(), pong },
            (Way::Incoming, Message::Ping(ping)) => Event::Pinged { from: peer.clone(), ping },
            (Way::Incoming, Message::Nudge) => Event::Nudged { from: peer.node.clone() },
            (Way::Outgoing, _) => {
                return Refusal::Malformed { problem: "a question where answers belong".into() }.into();
            }
            (Way::Incoming, _) => {
                return Refusal::Malformed { problem: "an answer where questions belong".into() }.into();
            }
        };
        // A core that is behind must not be given more: the peer asks again.
        if local.events.try_send(event).is_err() {
            Board::count(&local.board.frames_dropped);
        }
    }
}
