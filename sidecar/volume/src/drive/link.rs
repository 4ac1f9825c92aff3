//! One connection between two replicas: frames in and out, in order, until either side is gone.

use super::{Compress, Driver};
use crate::core::survey::Sent;
use crate::core::{Event, Link};
use crate::ids::{Sequence, Session};
use crate::wire::{Bye, Decoder, Frame, Introduction, Message, UNPACKS};
use bytes::{Buf as _, Bytes, BytesMut};
use lease::ids::Epoch;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Read from a socket at once: sixty writes of 4 KiB at most, and not fewer than three because little room is left.
const INPUT_BYTES: usize = 256 << 10;
const INPUT_LEAST_BYTES: usize = 16 << 10;
/// Parts of frames that one system call sends.
const SLICES_MAX: usize = 128;
/// A dead machine is noticed by the machine's own signs of life; this only frees what hangs on its connections.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// For the last word to a peer that hangs, or is gone without one.
const FAREWELL: Duration = Duration::from_secs(1);
/// What the kernel holds for a peer: about what a link of 10 Gbit/s has on its way within 3 ms.
const BUFFER_BYTES: usize = 4 << 20;

/// Something that carries frames: TCP, or TLS on it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// What is to be sent on one link.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    parts: RefCell<VecDeque<Bytes>>,
    filled: Notify,
    /// Nothing more is put in; what is in is sent, if the peer takes it in time.
    parting: Cell<bool>,
    parted: Notify,
    /// Nothing more is sent.
    closed: Cell<bool>,
    compress: Compress,
    /// The peer has said that it unpacks what is packed.
    unpacks: Cell<bool>,
    /// Of all links together.
    sent: Rc<Cell<Sent>>,
}

impl Outbox {
    pub(super) fn new(compress: Compress, sent: Rc<Cell<Sent>>) -> Self {
        Self { compress, sent, ..Self::default() }
    }

    /// What a peer that introduces itself can read.
    fn hear(&self, message: &Message) {
        if let Message::Hello(peer) | Message::Caps(peer) = message {
            self.unpacks.set(peer.features & UNPACKS != 0);
        }
    }

    pub(super) fn push(&self, frame: &Frame) {
        let introduced = introduced(frame);
        let frame = introduced.as_ref().unwrap_or(frame);
        let packs = self.compress == Compress::Lz4 && self.unpacks.get();
        let (head, data) = if packs { frame.encode_packed() } else { frame.encode() };
        let mut sent = self.sent.get();
        sent.data_bytes += content_bytes(&frame.message);
        sent.wire_bytes += data.len() as u64;
        self.sent.set(sent);
        let mut parts = self.parts.borrow_mut();
        parts.push_back(head.freeze());
        if !data.is_empty() {
            parts.push_back(data);
        }
        self.filled.notify_one();
    }

    /// Says why, and ends once that is sent.
    pub(super) fn part(&self, why: Bye) {
        let message = Message::Bye(why);
        self.push(&Frame { epoch: Epoch(0), session: Session(0), sequence: Sequence(0), message });
        self.parting.set(true);
        self.parted.notify_one();
    }

    pub(super) fn close(&self) {
        self.closed.set(true);
        self.filled.notify_one();
    }
}

/// Who introduces itself says what this program reads, beyond what the machine knows of: nothing else of it depends on that.
fn introduced(frame: &Frame) -> Option<Frame> {
    let features = |introduction: &Introduction| introduction.features | UNPACKS;
    let message = match &frame.message {
        Message::Hello(me) => Message::Hello(Introduction { features: features(me), ..me.clone() }),
        Message::Caps(me) => Message::Caps(Introduction { features: features(me), ..me.clone() }),
        _ => return None,
    };
    Some(Frame { message, ..*frame })
}

fn content_bytes(message: &Message) -> u64 {
    match message {
        Message::Write { data, .. } | Message::Copy { data, .. } | Message::Fetched { data: Some(data) } => {
            data.len() as u64
        }
        _ => 0,
    }
}

/// What both ends of a connection want of TCP.
///
/// # Errors
/// As the kernel told it.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4);
    socket.set_tcp_keepalive(&keepalive)?;
    // The kernel gives less where its limits say so.
    let _ = socket.set_send_buffer_size(BUFFER_BYTES);
    let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
    Ok(())
}

/// Carries frames until the connection ends, from either side. `first`: this side opened it.
pub(super) async fn run(driver: Rc<Driver>, stream: impl Stream, first: bool) {
    let (link, outbox) = driver.open_link();
    let _open = Open { driver: Rc::clone(&driver), link };
    let (read, write) = tokio::io::split(stream);
    if first {
        driver.step(Event::Connected { link });
    }
    let ended = tokio::select! {
        ended = receive(&driver, link, &outbox, read) => ended,
        ended = send(&outbox, write) => ended,
    };
    if let Err(error) = ended {
        tracing::info!(%error, "a link to a peer ended");
    }
}

/// A link that is in use. However its task ends, the machine hears of it.
struct Open {
    driver: Rc<Driver>,
    link: Link,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.close_link(self.link);
    }
}

async fn receive(
    driver: &Rc<Driver>,
    link: Link,
    outbox: &Outbox,
    mut stream: ReadHalf<impl Stream>,
) -> io::Result<()> {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::with_capacity(INPUT_BYTES);
    loop {
        // What was read stays where it is until nobody needs it: room that is left of it is used up before there is new one.
        let missing = decoder.missing(buffer.len());
        if buffer.capacity() - buffer.len() < missing.max(INPUT_LEAST_BYTES) {
            buffer.reserve(missing.max(INPUT_BYTES));
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        while let Some(frame) =
            decoder.next(&mut buffer).map_err(|violation| io::Error::new(io::ErrorKind::InvalidData, violation))?
        {
            if let Message::Bye(why) = &frame.message {
                driver.was_hung_up_on(*why);
            }
            // Before the machine, which answers it with the first data.
            outbox.hear(&frame.message);
            driver.take_in(Event::Received { link, frame });
        }
        driver.kick();
    }
}

/// Sends until the outbox is closed, or until it has parted: from a peer that takes nothing any more, after a while.
async fn send(outbox: &Outbox, stream: WriteHalf<impl Stream>) -> io::Result<()> {
    let late = async {
        outbox.parted.notified().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        sent = pour(outbox, stream) => sent,
        () = late => Ok(()),
    }
}

async fn pour(outbox: &Outbox, mut stream: WriteHalf<impl Stream>) -> io::Result<()> {
    loop {
        outbox.filled.notified().await;
        loop {
            if outbox.closed.get() {
                return Ok(());
            }
            let parts: Vec<Bytes> = outbox.parts.borrow_mut().drain(..).collect();
            if parts.is_empty() {
                break;
            }
            write_all(&mut stream, parts).await?;
        }
        stream.flush().await?;
        if outbox.parting.get() {
            return stream.shutdown().await;
        }
    }
}

async fn write_all(stream: &mut WriteHalf<impl Stream>, parts: Vec<Bytes>) -> io::Result<()> {
    let mut parts = VecDeque::from(parts);
    while !parts.is_empty() {
        let slices: Vec<IoSlice<'_>> = parts.iter().take(SLICES_MAX).map(|part| IoSlice::new(part)).collect();
        let mut written = stream.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(part) = parts.front_mut()
            && written > 0
        {
            let taken = written.min(part.len());
            part.advance(taken);
            written -= taken;
            if part.is_empty() {
                parts.pop_front();
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Outbox, send};
    use crate::drive::Compress;
    use crate::ids::{Life, Sequence, Session, VolumeNo};
    use crate::wire::{Bye, Decoder, FETCHES, Frame, Introduction, Message, UNPACKS};
    use bytes::{Bytes, BytesMut};
    use lease::ids::{Epoch, Incarnation, Lineage};
    use std::rc::Rc;
    use std::time::Duration;

    fn frame(message: Message) -> Frame {
        Frame { epoch: Epoch(1), session: Session(1), sequence: Sequence(1), message }
    }

    fn introduction(features: u64) -> Introduction {
        let (lineage, incarnation) = (Lineage::new("l"), Incarnation::new("r"));
        let (lineage, incarnation) = (lineage.expect("a name"), incarnation.expect("a name"));
        Introduction { lineage, incarnation, life: Life(1), chunk_shift: 16, features, volumes: vec![1 << 20] }
    }

    /// The bytes that have been put in since the last look.
    fn taken(outbox: &Outbox) -> Vec<u8> {
        outbox.parts.borrow_mut().drain(..).flatten().collect()
    }

    #[test]
    fn only_who_says_that_it_can_read_it_is_sent_what_is_packed() {
        let write =
            frame(Message::Write { volume: VolumeNo(0), at: 0, data: Bytes::from(vec![7; 65_536]), fua: false });
        let (plain, packed) = (65_536, 1_000);
        let hello = |features| Message::Hello(introduction(features));
        let caps = |features| Message::Caps(introduction(features));
        for (compress, heard, most) in [
            (Compress::Off, hello(UNPACKS), plain),
            (Compress::Lz4, Message::Pong, plain),
            (Compress::Lz4, hello(!UNPACKS), plain),
            (Compress::Lz4, hello(UNPACKS), packed),
            (Compress::Lz4, caps(FETCHES | UNPACKS), packed),
        ] {
            let sent = Rc::default();
            let outbox = Outbox::new(compress, Rc::clone(&sent));
            outbox.hear(&heard);
            outbox.push(&write);
            let bytes = taken(&outbox);
            let travelled = bytes.len() - crate::wire::HEADER;
            assert!(if most == plain { travelled == plain } else { travelled < packed }, "{compress:?} {heard:?}");
            assert_eq!((sent.get().data_bytes, sent.get().wire_bytes), (65_536, travelled as u64));
            assert_eq!(Decoder::default().next(&mut BytesMut::from(&bytes[..])), Ok(Some(write.clone())));
        }
    }

    #[test]
    fn who_introduces_itself_says_that_it_unpacks_whatever_it_sends() {
        for compress in [Compress::Off, Compress::Lz4] {
            for message in [Message::Hello(introduction(FETCHES)), Message::Caps(introduction(FETCHES))] {
                let outbox = Outbox::new(compress, Rc::default());
                outbox.push(&frame(message));
                let said =
                    Decoder::default().next(&mut BytesMut::from(&taken(&outbox)[..])).expect("right").expect("one");
                let (Message::Hello(said) | Message::Caps(said)) = said.message else { panic!("{said:?}") };
                assert_eq!(said.features, FETCHES | UNPACKS);
            }
        }
    }

    /// A machine that has lost its power acknowledges nothing, and closes nothing: whoever waits to say goodbye to it would not
    /// connect to it when it is back.
    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_parted_from() {
        let (here, _there) = tokio::io::duplex(64);
        let outbox = Outbox::default();
        let message = Message::Write { volume: VolumeNo(0), at: 0, data: Bytes::from(vec![7; 4096]), fua: false };
        outbox.push(&Frame { epoch: Epoch(1), session: Session(1), sequence: Sequence(1), message });
        outbox.part(Bye::Closing);
        let (_, write) = tokio::io::split(here);
        let sent = tokio::time::timeout(Duration::from_secs(30), send(&outbox, write)).await;
        assert!(matches!(sent, Ok(Ok(()))), "{sent:?}");
    }
}
