use super::*;
use crate::request::Extent;
use proptest::prelude::*;

const GEOMETRY: Geometry = Geometry { size_bytes: 1 << 20, block_bytes: 512, read_only: false };
const PLAIN: Terms = Terms { geometry: GEOMETRY, agreed: Agreed { structured: false, block_status: false } };
const STRUCTURED: Terms = Terms { geometry: GEOMETRY, agreed: Agreed { structured: true, block_status: true } };

fn header(flags: u16, kind: u16, cookie: u64, at: u64, len: u32) -> Vec<u8> {
    let mut bytes = spec::REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(at.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

fn judge(terms: &Terms, flags: u16, kind: u16, at: u64, len: u32) -> Result<Command, Refusal> {
    Header { flags, kind, cookie: 0, at, len }.judge(terms)
}

/// Every event as text, and how the stream ended.
fn events(terms: Terms, input: &[u8], cuts: &[usize]) -> Vec<String> {
    let mut decoder: Decoder<Vec<u8>> = Decoder::new(terms);
    let (mut found, mut held, mut given) = (Vec::new(), Vec::new(), 0);
    let mut cuts = cuts.iter().cycle();
    while given < input.len() {
        let cut = (*cuts.next().unwrap()).min(input.len() - given);
        held.extend_from_slice(&input[given..given + cut]);
        given += cut;
        loop {
            // As a socket would do it, now and then.
            if cut.is_multiple_of(3)
                && let Some(wanted) = decoder.wanted()
            {
                let taken = wanted.len().min(held.len());
                wanted[..taken].copy_from_slice(&held[..taken]);
                decoder.filled(taken);
                held.drain(..taken);
            }
            let mut rest = held.as_slice();
            let event = decoder.next(&mut rest);
            let used = held.len() - rest.len();
            held.drain(..used);
            match event {
                Err(BadMagic(magic)) => {
                    found.push(format!("{magic:#x}"));
                    return found;
                }
                Ok(None) => break,
                Ok(Some(Event::Payload { len })) => {
                    assert!(len <= spec::PAYLOAD_MAX_BYTES);
                    decoder.provide(vec![0; len as usize]);
                }
                Ok(Some(event)) => found.push(format!("{event:?}")),
            }
        }
        assert!(
            held.len() < REQUEST_BYTES || matches!(decoder.state, State::Disconnected),
            "no more is kept than a header"
        );
    }
    found
}

#[test]
fn errors_are_those_that_the_specification_names() {
    let size = GEOMETRY.size_bytes;
    let read_only = Terms { geometry: Geometry { read_only: true, ..GEOMETRY }, ..STRUCTURED };
    let refused = |terms: &Terms, flags, kind, at, len| judge(terms, flags, kind, at, len).unwrap_err();
    // Unknown commands and flags.
    for kind in [8, 9, 99, u16::MAX] {
        assert_eq!(refused(&STRUCTURED, 0, kind, 0, 1), Refusal::Invalid);
    }
    for (kind, bits) in [
        (command::READ, flag::NO_HOLE | flag::REQ_ONE | flag::FAST_ZERO),
        (command::WRITE, flag::NO_HOLE | flag::DF | flag::REQ_ONE | flag::FAST_ZERO),
        (command::FLUSH, flag::NO_HOLE | flag::DF | flag::REQ_ONE | flag::FAST_ZERO),
        (command::TRIM, flag::NO_HOLE | flag::DF | flag::REQ_ONE | flag::FAST_ZERO),
        (command::CACHE, flag::NO_HOLE | flag::DF | flag::REQ_ONE | flag::FAST_ZERO),
        (command::WRITE_ZEROES, flag::DF | flag::REQ_ONE),
        (command::BLOCK_STATUS, flag::NO_HOLE | flag::DF | flag::FAST_ZERO),
    ] {
        let len = if kind == command::FLUSH { 0 } else { 512 };
        for bit in (0..16).map(|bit| 1 << bit) {
            let judged = judge(&STRUCTURED, bit, kind, 0, len);
            assert_eq!(judged.is_err(), bits & bit != 0 || bit > flag::FAST_ZERO, "command {kind}, flag {bit:#x}");
            // FUA is legal on everything, with everything.
            assert_eq!(judge(&STRUCTURED, bit | flag::FUA, kind, 0, len).is_err(), judged.is_err());
        }
    }
    assert_eq!(refused(&PLAIN, flag::DF, command::READ, 0, 1), Refusal::Invalid);
    assert_eq!(refused(&PLAIN, 0, command::BLOCK_STATUS, 0, 1), Refusal::Invalid);
    let no_context = Terms { agreed: Agreed { structured: true, block_status: false }, ..STRUCTURED };
    assert_eq!(refused(&no_context, 0, command::BLOCK_STATUS, 0, 1), Refusal::Invalid);
    // Beyond the end, also where the sum wraps.
    for (at, len) in [(size, 1), (size - 1, 2), (u64::MAX, 1), (u64::MAX - 10, 100), (0, 1 + (1 << 20))] {
        assert_eq!(refused(&PLAIN, 0, command::READ, at, len), Refusal::Invalid);
        assert_eq!(refused(&PLAIN, 0, command::TRIM, at, len), Refusal::Invalid);
        assert_eq!(refused(&PLAIN, 0, command::CACHE, at, len), Refusal::Invalid);
        assert_eq!(refused(&STRUCTURED, 0, command::BLOCK_STATUS, at, len), Refusal::Invalid);
        assert_eq!(refused(&PLAIN, 0, command::WRITE, at, len), Refusal::NoSpace);
        assert_eq!(refused(&PLAIN, 0, command::WRITE_ZEROES, at, len), Refusal::NoSpace);
    }
    // Read-only, before anything about the range.
    for kind in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
        assert_eq!(refused(&read_only, 0, kind, 0, 1), Refusal::NotPermitted);
        assert_eq!(refused(&read_only, 0, kind, size, 1), Refusal::NotPermitted);
    }
    // More than a payload may be.
    let large = Geometry { size_bytes: 1 << 40, ..GEOMETRY };
    let (plain, structured) = (Terms { geometry: large, ..PLAIN }, Terms { geometry: large, ..STRUCTURED });
    for len in [spec::PAYLOAD_MAX_BYTES + 1, u32::MAX] {
        assert_eq!(refused(&plain, 0, command::READ, 0, len), Refusal::Invalid);
        assert_eq!(refused(&structured, 0, command::READ, 0, len), Refusal::TooLarge);
        assert_eq!(refused(&structured, 0, command::WRITE, 0, len), Refusal::Invalid);
        // Without a payload there is no such limit.
        assert!(judge(&plain, 0, command::TRIM, 0, len).is_ok());
        assert!(judge(&plain, 0, command::WRITE_ZEROES, 0, len).is_ok());
        assert!(judge(&structured, 0, command::BLOCK_STATUS, 0, len).is_ok());
    }
    assert!(judge(&plain, 0, command::READ, 0, spec::PAYLOAD_MAX_BYTES).is_ok());
    // Reserved fields, and a question about nothing.
    assert_eq!(refused(&PLAIN, 0, command::FLUSH, 1, 0), Refusal::Invalid);
    assert_eq!(refused(&PLAIN, 0, command::FLUSH, 0, 1), Refusal::Invalid);
    assert_eq!(refused(&STRUCTURED, 0, command::BLOCK_STATUS, 0, 0), Refusal::Invalid);
    // Of no length, at the very end: fine.
    assert!(judge(&PLAIN, 0, command::READ, size, 0).is_ok());
    assert!(judge(&PLAIN, 0, command::WRITE, size, 0).is_ok());
}

#[test]
fn zeroes_are_what_the_flags_say() {
    let judged = judge(&PLAIN, flag::NO_HOLE | flag::FAST_ZERO | flag::FUA, command::WRITE_ZEROES, 5, 6).unwrap();
    assert!(matches!(
        judged,
        Command::Ask(Request::WriteZeroes { at: 5, len: 6, fua: true, may_unmap: false, fast_only: true })
    ));
    let judged = judge(&PLAIN, 0, command::WRITE_ZEROES, 5, 6).unwrap();
    assert!(matches!(
        judged,
        Command::Ask(Request::WriteZeroes { at: 5, len: 6, fua: false, may_unmap: true, fast_only: false })
    ));
}

/// A write that is refused has a payload all the same: nothing of it is taken for a request.
#[test]
fn a_refused_payload_is_read_past() {
    let read = header(0, command::READ, 2, 0, 512);
    let input = [header(0, command::WRITE, 1, 1 << 20, 600), [read.clone(), vec![7; 572]].concat(), read].concat();
    let found = events(PLAIN, &input, &[9]);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("Refuse") && found[0].contains("NoSpace"), "{}", found[0]);
    assert!(found[1].starts_with("Ask"), "{}", found[1]);
}

/// CVE-2005-3534 and its like: the length is the client's, the memory is ours.
#[test]
fn a_huge_write_takes_no_memory() {
    let mut decoder: Decoder<Vec<u8>> = Decoder::new(PLAIN);
    let request = header(0, command::WRITE, 1, 0, u32::MAX);
    assert!(decoder.next(&mut request.as_slice()).unwrap().is_none());
    assert!(decoder.is_amid());
    let payload = vec![0; 65_535];
    for _ in 0..u32::MAX / 65_535 - 1 {
        assert!(decoder.next(&mut payload.as_slice()).unwrap().is_none());
    }
    let event = decoder.next(&mut payload.as_slice()).unwrap();
    assert!(matches!(event, Some(Event::Refuse { refusal: Refusal::Invalid, .. })));
}

#[test]
fn nothing_is_read_after_goodbye_or_nonsense() {
    let found =
        events(PLAIN, &[header(0xffff, command::DISC, 1, 9, 9), header(0, command::READ, 2, 0, 1)].concat(), &[500]);
    assert_eq!(found, ["Disconnect"]);
    let found = events(PLAIN, &[vec![1, 2, 3, 4], header(0, command::READ, 2, 0, 1)].concat(), &[500]);
    assert_eq!(found, ["0x1020304"]);
}

fn asked(data_len: u32, chunks: bool) -> Asked {
    Asked { cookie: 0x1122_3344_5566_7788, at: 0x10_0000_0000, data_len, chunks }
}

fn wire(asked: Asked, answer: Answer) -> Vec<u8> {
    let reply = Encoded::reply(asked, answer);
    let bytes = [reply.head(), &reply.body].concat();
    assert_eq!(bytes.len(), reply.len());
    bytes
}

#[test]
fn replies_on_the_wire() {
    let cookie = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
    let data = || Ok(Reply::Data(Bytes::from_static(b"abc")));
    let simple = |error: u8| [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, error], &cookie[..]].concat();
    let chunk =
        |kind: [u8; 2], len: u8| [&[0x66, 0x8e, 0x33, 0xef, 0, 1], &kind[..], &cookie[..], &[0, 0, 0, len]].concat();
    assert_eq!(wire(asked(3, false), data()), [simple(0), b"abc".to_vec()].concat());
    let offset = 0x10_0000_0000u64.to_be_bytes().to_vec();
    assert_eq!(wire(asked(3, true), data()), [chunk([0, 1], 11), offset, b"abc".to_vec()].concat());
    assert_eq!(wire(asked(0, false), Ok(Reply::Done)), simple(0));
    assert_eq!(wire(asked(0, true), Ok(Reply::Data(Bytes::new()))), chunk([0, 0], 0));
    assert_eq!(wire(asked(3, false), Err(Refusal::NoSpace)), simple(28));
    assert_eq!(wire(asked(3, true), Err(Refusal::Io)), [chunk([0x80, 1], 6), vec![0, 0, 0, 5, 0, 0]].concat());
    let extents = vec![Extent { len: 512, hole: false, zero: false }, Extent { len: 7, hole: true, zero: true }];
    let body = vec![0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 3];
    assert_eq!(wire(asked(0, true), Ok(Reply::Extents(extents))), [chunk([0, 5], 20), body].concat());
}

/// A device that answers with too much or too little would make nonsense of the stream.
#[test]
fn data_of_a_wrong_length_is_an_error() {
    for chunks in [false, true] {
        for answer in [Ok(Reply::Done), Ok(Reply::Data(Bytes::from_static(b"abcd")))] {
            assert_eq!(wire(asked(3, chunks), answer), wire(asked(3, chunks), Err(Refusal::Io)));
        }
        assert_eq!(
            wire(asked(0, chunks), Ok(Reply::Data(Bytes::from_static(b"a")))),
            wire(asked(0, chunks), Err(Refusal::Io))
        );
    }
}

fn some_request() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![0u32..2000, any::<u32>()];
    let at = prop_oneof![0u64..(1 << 20), any::<u64>()];
    let flags = prop_oneof![3 => Just(0u16), 1 => any::<u16>()];
    prop_oneof![
        (flags.clone(), 0u16..9, any::<u64>(), at.clone(), len).prop_filter_map(
            "a write brings its payload",
            |fields| {
                let (flags, kind, cookie, at, len) = fields;
                (kind != command::WRITE).then(|| header(flags, kind, cookie, at, len))
            }
        ),
        (flags, any::<u64>(), at, prop::collection::vec(any::<u8>(), 0..3000)).prop_map(|(flags, cookie, at, data)| {
            let len = u32::try_from(data.len()).unwrap();
            [header(flags, command::WRITE, cookie, at, len), data].concat()
        }),
    ]
}

proptest! {
    #[test]
    fn pieces_make_no_difference(
        requests in prop::collection::vec(some_request(), 0..12),
        garbage in prop::collection::vec(any::<u8>(), 0..60),
        cuts in prop::collection::vec(1usize..700, 1..20),
        structured in any::<bool>(),
    ) {
        let terms = if structured { STRUCTURED } else { PLAIN };
        let input = [requests.concat(), garbage].concat();
        let whole = events(terms, &input, &[usize::MAX]);
        prop_assert_eq!(events(terms, &input, &cuts), whole.clone());
        prop_assert_eq!(events(terms, &input, &[1]), whole);
    }

    #[test]
    fn arbitrary_bytes_never_panic(input in prop::collection::vec(any::<u8>(), 0..4000), cuts in prop::collection::vec(1usize..99, 1..5)) {
        events(STRUCTURED, &input, &cuts);
        let with_magic = [&spec::REQUEST_MAGIC.to_be_bytes()[..], &input].concat();
        events(STRUCTURED, &with_magic, &cuts);
    }
}
