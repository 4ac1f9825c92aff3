//! The bytes of every kind are pinned; whatever else arrives is refused or read as what was sent, and nothing in between.

use super::*;
use crate::ids::{Digest, Generation, Life, Span, VolumeNo};
use bytes::{Bytes, BytesMut};
use lease::ids::{Incarnation, Lineage};
use proptest::prelude::*;

fn introduction() -> Introduction {
    Introduction {
        lineage: Lineage::new("l-1").expect("a name"),
        incarnation: Incarnation::new("r7").expect("a name"),
        life: Life(99),
        chunk_shift: 16,
        features: 0,
        volumes: vec![1 << 40, 8 << 20],
    }
}

/// One of each kind, and both values of each flag.
fn samples() -> Vec<Message> {
    let span = Span { volume: VolumeNo(1), at: 0x12_3000, len: 0x1000 };
    let (volume, at, data) = (VolumeNo(1), 0x12_3000, Bytes::from_static(b"sixteen bytes..!"));
    let digest = Digest([7; 32]);
    let generation = |epoch, turn| Generation { epoch: Epoch(epoch), turn };
    vec![
        Message::Hello(introduction()),
        Message::Caps(introduction()),
        Message::Promise,
        Message::Promised,
        Message::Fenced,
        Message::Generations(vec![generation(4, 0), generation(4, 1)]),
        Message::Verdict(Verdict::Diverged),
        Message::Bitmap { all: false, words: vec![(3, 1), (9, u64::MAX)], last: true },
        Message::Bitmap { all: true, words: vec![], last: false },
        Message::State { generation: generation(5, 2), companions: vec![Incarnation::new("r8").expect("a name")] },
        Message::Ping { settled: Sequence(5) },
        Message::Pong,
        Message::Bye(Bye::NotNow),
        Message::Write { volume, at, data: data.clone(), fua: true },
        Message::Write { volume, at, data: data.clone(), fua: false },
        Message::Zero { span, fua: true },
        Message::Trim { span },
        Message::Barrier,
        Message::Flush,
        Message::OutOfSync { span },
        Message::Resync,
        Message::Copy { volume, at, data },
        Message::Compare { span, digest },
        Message::Verify { span, digest },
        Message::CaughtUp,
        Message::Written { ranges: vec![(Sequence(1), Sequence(4)), (Sequence(6), Sequence(6))] },
        Message::Durable,
        Message::Nack(Refusal::Range),
        Message::Same,
        Message::Differs { found: None },
        Message::InSync,
        Message::Fetch { span },
        Message::Differs { found: Some(digest) },
        Message::Fetched { data: Some(Bytes::from_static(b"sixteen bytes..!")) },
        Message::Fetched { data: None },
        Message::Round { round: 0x0708 },
        Message::Reached { round: 0x0708 },
        Message::Lag { lag_ms: 0x0708 },
    ]
}

fn frame(message: Message) -> Frame {
    Frame { epoch: Epoch(0x0102), session: Session(0x0304), sequence: Sequence(5), message }
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let (head, data) = frame.encode();
    [&head[..], &data[..]].concat()
}

fn read(bytes: &[u8]) -> Result<Option<Frame>, Violation> {
    Decoder::default().next(&mut BytesMut::from(bytes))
}

#[test]
fn the_bytes_are_those_that_were_released() {
    let mut text = String::new();
    for message in samples() {
        let name = format!("{message:?}");
        let name = name.split([' ', '(', '{']).next().unwrap_or_default();
        text += name;
        for (at, byte) in bytes_of(&frame(message)).iter().enumerate() {
            text += if at % 32 == 0 { "\n  " } else { "" };
            text += &format!("{byte:02x}");
        }
        text += "\n";
    }
    let released = include_str!("../../tests/wire.golden");
    assert!(text == released, "the wire has changed; if that is meant, raise VERSION and write this:\n{text}");
}

#[test]
fn every_message_is_read_as_it_was_sent() {
    for message in samples() {
        let sent = frame(message);
        assert_eq!(read(&bytes_of(&sent)), Ok(Some(sent)));
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for message in samples() {
        let bytes = bytes_of(&frame(message));
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&broken).is_err(), "bit {bit} of {:?}", read(&bytes));
        }
    }
}

fn raw(kind: u8, flags: u16, length: u32, count: u64) -> Vec<u8> {
    let payload = vec![0; length.min(4096) as usize];
    let header = Header {
        kind,
        flags,
        length,
        volume: 0,
        epoch: Epoch(1),
        session: Session(1),
        sequence: Sequence(1),
        offset: 0,
        count,
        payload_crc: crc32c::crc32c(&payload),
    };
    [&header.encode()[..], &payload].concat()
}

/// Data that shrink, and some that do not.
fn data_of_each_kind(content: &Bytes) -> [Message; 3] {
    let (volume, at) = (VolumeNo(1), 0x12_3000);
    [
        Message::Write { volume, at, data: content.clone(), fua: true },
        Message::Copy { volume, at, data: content.clone() },
        Message::Fetched { data: Some(content.clone()) },
    ]
}

#[test]
fn packed_data_are_read_as_they_were_and_only_data_are_packed() {
    let content = Bytes::from(b"a row of a table, ".repeat(3_641));
    for message in data_of_each_kind(&content) {
        let sent = frame(message);
        let (head, data) = sent.encode_packed();
        assert!(data.len() < content.len() / 10, "{} bytes travel", data.len());
        let bytes = [&head[..], &data[..]].concat();
        assert_eq!(read(&bytes), Ok(Some(sent)));
        let header = Header::decode(bytes.first_chunk().expect("a header")).expect("a right one");
        assert_eq!((header.flags & PACKED, header.count), (PACKED, content.len() as u64));
    }
    for message in samples() {
        let sent = frame(message);
        assert_eq!(sent.encode_packed(), sent.encode(), "{sent:?}");
    }
}

#[test]
fn every_flipped_bit_of_a_packed_frame_is_noticed() {
    for message in data_of_each_kind(&Bytes::from(vec![7; 4096])) {
        let (head, data) = frame(message).encode_packed();
        let bytes = [&head[..], &data[..]].concat();
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&broken).is_err(), "bit {bit} of kind {}", bytes[5]);
        }
    }
}

/// By the header alone: nothing is received, nor allocated, for a block that cannot hold what it says.
#[test]
fn what_says_to_be_packed_and_cannot_be_is_refused_by_its_header_alone() {
    for (kind, length, count) in
        [(32, 100, u64::from(MAX_DATA)), (49, 100, 96 * 255 + 1), (70, 100, 1 << 40), (70, 512, 512), (32, 0, 512)]
    {
        let bytes = raw(kind, MANDATORY | PACKED, length, count);
        assert!(matches!(read(&bytes[..HEADER]), Err(Violation::Range { .. })), "{length} bytes of {count}");
    }
    assert!(matches!(read(&raw(33, MANDATORY | PACKED, 0, 512)), Err(Violation::Flags { .. })), "it carries none");
    let packed = raw(32, MANDATORY | PACKED, 100, 512);
    assert!(matches!(read(&packed), Err(Violation::Malformed { what: "packed data", .. })), "zeroes are no such block");
}

#[test]
fn an_unknown_kind_is_skipped_unless_it_must_be_understood() {
    let ping = frame(Message::Pong);
    let mut stream = BytesMut::from(&[raw(200, 0, 300, 0), bytes_of(&ping)].concat()[..]);
    assert_eq!(Decoder::default().next(&mut stream), Ok(Some(ping)));
    assert_eq!(read(&raw(200, MANDATORY, 300, 0)), Err(Violation::Unknown { kind: 200 }));
}

#[test]
fn what_is_too_long_is_refused_by_its_header_alone() {
    let limit = |length, limit| Err(Violation::TooLong { kind: 32, length, limit });
    assert_eq!(read(&raw(32, MANDATORY, MAX_DATA + 1, 1)), limit(MAX_DATA + 1, MAX_DATA));
    let long_hello = raw(1, MANDATORY, MAX_CONTROL + 1, 0);
    assert!(matches!(read(&long_hello[..HEADER]), Err(Violation::TooLong { kind: 1, .. })));
    for ranged in [33, 53] {
        assert!(matches!(read(&raw(ranged, MANDATORY, 0, MAX_SPAN + 1)), Err(Violation::Range { .. })));
        assert!(matches!(read(&raw(ranged, MANDATORY, 1, 512)), Err(Violation::TooLong { .. })));
    }
    assert!(matches!(read(&raw(70, MANDATORY, MAX_DATA + 1, 0)), Err(Violation::TooLong { .. })));
    assert!(matches!(read(&raw(68, MANDATORY, 33, 0)), Err(Violation::TooLong { limit: 32, .. })));
    for length in [1, 31] {
        assert!(read(&raw(68, MANDATORY, length, 0)).is_err(), "half a digest is none: {length} bytes");
    }
    assert!(matches!(read(&raw(33, MANDATORY, 0, 0)), Err(Violation::Range { .. })));
    assert!(matches!(read(&raw(32, MANDATORY, 512, 1024)), Err(Violation::Range { .. })), "says more than it carries");
    assert!(matches!(read(&raw(33, MANDATORY | LAST, 0, 512)), Err(Violation::Flags { .. })));
    assert!(matches!(read(&raw(33, 0, 0, 512)), Err(Violation::Flags { .. })), "it must be mandatory");
}

proptest! {
    #[test]
    fn whatever_arrives_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        let mut decoder = Decoder::default();
        while let Ok(Some(_)) = decoder.next(&mut buffer) {}
        prop_assert!(decoder.missing(buffer.len()) <= MAX_DATA as usize + HEADER);
    }

    /// Under a right checksum, so that the payload's own rules are what refuses.
    #[test]
    fn whatever_a_peer_says_is_read_or_refused(
        kind in 0..104_u8,
        flags in 0..16_u16,
        count in prop_oneof![0..9_u64, any::<u64>()],
        offset in any::<u64>(),
        payload in proptest::collection::vec(prop_oneof![0..4_u8, any::<u8>()], 0..200),
    ) {
        let header = Header {
            kind,
            flags,
            length: u32::try_from(payload.len()).expect("short"),
            volume: 1,
            epoch: Epoch(1),
            session: Session(1),
            sequence: Sequence(1),
            offset,
            count,
            payload_crc: crc32c::crc32c(&payload),
        };
        let bytes = [&header.encode()[..], &payload].concat();
        if let Ok(Some(frame)) = read(&bytes) {
            prop_assert_eq!(read(&bytes_of(&frame)), Ok(Some(frame)), "what was read can be said again");
        }
    }

    #[test]
    fn the_cuts_between_packets_do_not_matter(
        order in proptest::collection::vec(0..samples().len(), 1..8),
        cuts in proptest::collection::vec(1..90_usize, 1..40),
    ) {
        let all = samples();
        let sent: Vec<Frame> = order.iter().map(|at| frame(all[*at].clone())).collect();
        let mut stream: Vec<u8> = sent.iter().flat_map(bytes_of).collect();
        let (mut decoder, mut buffer, mut got) = (Decoder::default(), BytesMut::new(), Vec::new());
        for cut in cuts.iter().cycle() {
            if stream.is_empty() {
                break;
            }
            let rest = stream.split_off((*cut).min(stream.len()));
            buffer.extend_from_slice(&stream);
            stream = rest;
            while let Some(frame) = decoder.next(&mut buffer).expect("a right stream") {
                got.push(frame);
            }
        }
        prop_assert_eq!(got, sent);
    }
}
