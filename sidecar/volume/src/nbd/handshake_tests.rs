use super::*;
use crate::request::Geometry;
use proptest::prelude::*;

const GEOMETRY: Geometry = Geometry { size_bytes: 1 << 30, block_bytes: 512, read_only: false };

fn offer() -> Offer {
    Offer { name: "disk".to_owned(), description: "a test".to_owned(), geometry: GEOMETRY }
}

fn client_flags() -> Vec<u8> {
    3u32.to_be_bytes().to_vec()
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    [&spec::OPTION_MAGIC.to_be_bytes(), &number.to_be_bytes()[..], &len32(data), data].concat()
}

fn string(text: &[u8]) -> Vec<u8> {
    [&len32(text), text].concat()
}

fn go(name: &[u8], kinds: &[u16]) -> Vec<u8> {
    let mut data = string(name);
    data.extend(u16::try_from(kinds.len()).unwrap().to_be_bytes());
    data.extend(kinds.iter().flat_map(|kind| kind.to_be_bytes()));
    data
}

fn meta(name: &[u8], queries: &[&[u8]]) -> Vec<u8> {
    let mut data = string(name);
    data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
    data.extend(queries.iter().flat_map(|query| string(query)));
    data
}

/// Feeds an input whole and gives the replies, the last thing to do, and what was left over.
fn run(handshake: &mut Handshake, input: &[u8]) -> (Vec<u8>, Next, usize) {
    let (mut out, mut at) = (Vec::new(), 0);
    loop {
        let (used, next) = handshake.step(&input[at..], &mut out);
        at += used;
        if next != Next::Haggle {
            return (out, next, input.len() - at);
        }
    }
}

/// The kinds of the replies, with their data.
fn replies(mut out: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut found = Vec::new();
    while !out.is_empty() {
        let mut reader = Reader(out);
        assert_eq!(reader.u64(), Some(spec::OPTION_REPLY_MAGIC));
        let _option = reader.u32().unwrap();
        let kind = reader.u32().unwrap();
        let len = reader.u32().unwrap() as usize;
        found.push((kind, reader.bytes(len).unwrap().to_vec()));
        out = reader.0;
    }
    found
}

fn kinds(out: &[u8]) -> Vec<u32> {
    replies(out).into_iter().map(|(kind, _)| kind).collect()
}

/// One option after the flags, its replies and what comes next.
fn ask(encryption: Encryption, options: &[Vec<u8>]) -> (Vec<u32>, Next) {
    let mut handshake = Handshake::new(offer(), encryption);
    let (out, next, _) = run(&mut handshake, &[client_flags(), options.concat()].concat());
    (kinds(&out), next)
}

fn plain(options: &[Vec<u8>]) -> (Vec<u32>, Next) {
    ask(Encryption::Unavailable, options)
}

#[test]
fn the_greeting_is_that_of_fixed_newstyle() {
    assert_eq!(&Handshake::greeting(), b"NBDMAGICIHAVEOPT\x00\x03");
}

#[test]
fn export_name_is_answered_as_windows_wants_it() {
    for (flags, padding) in [(1u32, 124), (3, 0)] {
        let mut handshake = Handshake::new(offer(), Encryption::Unavailable);
        let input = [flags.to_be_bytes().to_vec(), option(1, b"disk"), b"beyond".to_vec()].concat();
        let (out, next, left) = run(&mut handshake, &input);
        assert_eq!(next, Next::Transmit(Agreed::default()));
        assert_eq!(left, 6, "what follows belongs to transmission");
        assert_eq!(out.len(), 10 + padding);
        assert_eq!(out[..8], (1u64 << 30).to_be_bytes());
        let flags = u16::from_be_bytes([out[8], out[9]]);
        assert_eq!(flags & can::SEND_DF, 0, "not without structured replies");
        assert_eq!(flags & (can::CAN_MULTI_CONN | can::SEND_FUA | can::SEND_FLUSH), 0x10c);
        assert!(out[10..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn go_tells_what_was_asked() {
    let mut handshake = Handshake::new(offer(), Encryption::Unavailable);
    let input = [client_flags(), option(8, b""), option(7, &go(b"", &[3, 1, 2, 77]))].concat();
    let (out, next, _) = run(&mut handshake, &input);
    assert_eq!(next, Next::Transmit(Agreed { structured: true, block_status: false }));
    let found = replies(&out);
    let told: Vec<_> = found.iter().map(|(kind, data)| (*kind, data.first_chunk::<2>().copied())).collect();
    let info = |kind: u8| (reply::INFO, Some([0, kind]));
    assert_eq!(told, [(reply::ACK, None), info(0), info(1), info(2), info(3), (reply::ACK, None)]);
    assert_eq!(found[1].1.len(), 12);
    assert_ne!(found[1].1[11] & 0x80, 0, "DF once replies are structured");
    assert_eq!(found[2].1[2..], *b"disk");
    assert_eq!(found[4].1[2..], [0, 0, 0, 1, 0, 0, 0x10, 0, 2, 0, 0, 0]);
}

#[test]
fn a_read_only_export_offers_no_changes() {
    let geometry = Geometry { read_only: true, ..GEOMETRY };
    let mut handshake = Handshake::new(Offer { geometry, ..offer() }, Encryption::Unavailable);
    let (out, _, _) = run(&mut handshake, &[client_flags(), option(7, &go(b"", &[]))].concat());
    let flags = u16::from_be_bytes(*replies(&out)[0].1.last_chunk::<2>().unwrap());
    assert_eq!(
        flags & (can::READ_ONLY | can::SEND_TRIM | can::SEND_WRITE_ZEROES | can::SEND_FAST_ZERO),
        can::READ_ONLY
    );
}

#[test]
fn what_is_not_known_or_not_right_is_refused_and_haggling_goes_on() {
    let wait = |kind| (vec![kind, reply::ACK], Next::Wait);
    let then_fine = |bad: Vec<u8>| plain(&[bad, option(8, b"")]);
    assert_eq!(then_fine(option(4, b"")), wait(reply::ERR_UNSUP));
    assert_eq!(then_fine(option(11, b"")), wait(reply::ERR_UNSUP));
    assert_eq!(then_fine(option(0xffff_ffff, &[9; 5000])), wait(reply::ERR_UNSUP));
    assert_eq!(then_fine(option(3, b"x")), wait(reply::ERR_INVALID));
    assert_eq!(then_fine(option(5, b"x")), wait(reply::ERR_INVALID));
    assert_eq!(then_fine(option(5, b"")), wait(reply::ERR_POLICY));
    assert_eq!(then_fine(option(8, b"x")), wait(reply::ERR_INVALID));
    assert_eq!(then_fine(option(6, &go(b"other", &[]))), wait(reply::ERR_UNKNOWN));
    assert_eq!(then_fine(option(7, &go(b"other", &[]))), wait(reply::ERR_UNKNOWN));
    assert_eq!(then_fine(option(7, &go(b"a\0b", &[]))), wait(reply::ERR_INVALID));
    assert_eq!(then_fine(option(7, &go(b"\xff", &[]))), wait(reply::ERR_INVALID));
    assert_eq!(then_fine(option(10, &meta(b"", &[]))), wait(reply::ERR_INVALID), "before structured replies");
    assert_eq!(then_fine(option(9, &meta(b"", &[]))), wait(reply::ERR_INVALID), "before structured replies");
}

/// The stack smash of CVE-2017-15118, and its like.
#[test]
fn names_of_every_length() {
    for len in [255, 256, 257, 4095, 4096] {
        let name = vec![b'n'; len];
        assert_eq!(plain(&[option(1, &name)]).1, Next::Close(Closed::UnknownExport));
        assert_eq!(plain(&[option(6, &go(&name, &[]))]), (vec![reply::ERR_UNKNOWN], Next::Wait));
        assert_eq!(plain(&[option(7, &go(&name, &[]))]), (vec![reply::ERR_UNKNOWN], Next::Wait));
        let set = plain(&[option(8, b""), option(10, &meta(&name, &[b"base:allocation"]))]);
        assert_eq!(set, (vec![reply::ACK, reply::ERR_UNKNOWN], Next::Wait));
    }
    let name = vec![b'n'; 4097];
    assert_eq!(plain(&[option(1, &name)]).1, Next::Close(Closed::Oversized { option: 1, len: 4097 }));
    assert_eq!(plain(&[option(6, &go(&name, &[]))]), (vec![reply::ERR_TOO_BIG], Next::Wait));
    assert_eq!(plain(&[option(7, &go(&name, &[]))]), (vec![reply::ERR_TOO_BIG], Next::Wait));
    // One of exactly the right name, as long as it may be.
    let long = Offer { name: "n".repeat(4096), ..offer() };
    let mut handshake = Handshake::new(long, Encryption::Unavailable);
    let (_, next, _) = run(&mut handshake, &[client_flags(), option(1, &[b'n'; 4096])].concat());
    assert_eq!(next, Next::Transmit(Agreed::default()));
}

/// CVE-2022-26495 and -26496: lengths inside an option against the option's own.
#[test]
fn lengths_inside_an_option_that_lie() {
    for option_number in [6, 7] {
        for data in [
            vec![],
            vec![0; 3],
            [&u32::MAX.to_be_bytes()[..], b"disk", &[0, 0]].concat(),
            [&5u32.to_be_bytes()[..], b"disk"].concat(),
            [&4u32.to_be_bytes()[..], b"disk"].concat(),
            // More requests for information than there are, and fewer.
            [string(b"disk"), vec![0xff, 0xff]].concat(),
            [string(b"disk"), vec![0, 2, 0, 3]].concat(),
            [string(b"disk"), vec![0, 0, 0, 3]].concat(),
        ] {
            assert_eq!(plain(&[option(option_number, &data)]), (vec![reply::ERR_INVALID], Next::Wait), "{data:?}");
        }
    }
    for option_number in [9, 10] {
        for data in [
            vec![],
            string(b"disk"),
            [string(b"disk"), u32::MAX.to_be_bytes().to_vec()].concat(),
            [string(b"disk"), vec![0, 0, 0, 2], string(b"base:allocation")].concat(),
            [string(b"disk"), vec![0, 0, 0, 1], u32::MAX.to_be_bytes().to_vec()].concat(),
            [string(b"disk"), vec![0, 0, 0, 0, 1]].concat(),
        ] {
            let answered = plain(&[option(8, b""), option(option_number, &data)]);
            assert_eq!(answered, (vec![reply::ACK, reply::ERR_INVALID], Next::Wait), "{data:?}");
        }
    }
}

#[test]
fn options_that_are_too_long() {
    // Read past, in pieces, and answered.
    let (answered, next) = plain(&[option(7, &vec![1; OPTION_MAX_BYTES + 1]), option(8, b"")]);
    assert_eq!((answered, next), (vec![reply::ERR_TOO_BIG, reply::ACK], Next::Wait));
    // Nobody's option: not even its data is waited for.
    for option_number in [1, 6, 7, 10, 99] {
        let header = [&spec::OPTION_MAGIC.to_be_bytes()[..], &u32::to_be_bytes(option_number), &[0xff; 4]].concat();
        let oversized = Closed::Oversized { option: option_number, len: u32::MAX };
        assert_eq!(plain(&[header]).1, Next::Close(oversized));
    }
}

#[test]
fn what_makes_no_sense_closes() {
    let mut handshake = Handshake::new(offer(), Encryption::Unavailable);
    assert_eq!(handshake.step(&[0, 0, 0, 7], &mut Vec::new()), (4, Next::Close(Closed::UnknownFlags(7))));
    assert_eq!(plain(&[vec![0; 16]]).1, Next::Close(Closed::BadMagic(0)));
    assert_eq!(plain(&[option(2, b"whatever")]), (vec![reply::ACK], Next::Close(Closed::Aborted)));
}

#[test]
fn the_list_has_the_one_export() {
    let mut handshake = Handshake::new(offer(), Encryption::Unavailable);
    let (out, _, _) = run(&mut handshake, &[client_flags(), option(3, b"")].concat());
    assert_eq!(replies(&out), [(reply::SERVER, string(b"disk")), (reply::ACK, vec![])]);
}

#[test]
fn the_allocation_context() {
    let list = |queries: &[&[u8]]| plain(&[option(8, b""), option(9, &meta(b"disk", queries))]).0;
    let some = [reply::ACK, reply::META_CONTEXT, reply::ACK];
    let none = [reply::ACK, reply::ACK];
    assert_eq!(list(&[]), some);
    assert_eq!(list(&[b"base:"]), some);
    assert_eq!(list(&[b"qemu:x", b"base:allocation", b"base:allocation"]), some);
    assert_eq!(list(&[b"qemu:", b"x"]), none);
    let set = |before: &[Vec<u8>], queries: &[&[u8]], go_name: &[u8]| {
        let options =
            [&[option(8, b"")], before, &[option(10, &meta(b"disk", queries)), option(7, &go(go_name, &[]))]].concat();
        match plain(&options).1 {
            Next::Transmit(agreed) => agreed.block_status,
            next => panic!("{next:?}"),
        }
    };
    assert!(set(&[], &[b"base:allocation"], b"disk"));
    assert!(!set(&[], &[], b"disk"), "an empty list selects nothing");
    assert!(!set(&[], &[b"base:"], b"disk"), "a wildcard selects nothing");
    assert!(!set(&[], &[b"base:allocation"], b""), "it was set for another name");
    let chosen = option(10, &meta(b"disk", &[b"base:allocation"]));
    assert!(!set(std::slice::from_ref(&chosen), &[b"other:x"], b"disk"), "the last choice counts");
    // A choice that fails is no choice either.
    let options = [option(8, b""), chosen, option(10, b"xx"), option(7, &go(b"disk", &[]))];
    assert_eq!(plain(&options).1, Next::Transmit(Agreed { structured: true, block_status: false }));
}

#[test]
fn before_tls_nothing_is_told() {
    let required = |options: &[Vec<u8>]| ask(Encryption::Required, options);
    for number in [3, 4, 6, 7, 8, 9, 10, 11, 99] {
        assert_eq!(required(&[option(number, b"")]), (vec![reply::ERR_TLS_REQD], Next::Wait), "option {number}");
    }
    assert_eq!(required(&[option(1, b"disk")]), (vec![], Next::Close(Closed::TlsRequired)));
    assert_eq!(required(&[option(2, b"")]), (vec![reply::ACK], Next::Close(Closed::Aborted)));
    assert_eq!(required(&[option(5, b"x")]), (vec![reply::ERR_INVALID], Next::Wait));
    assert_eq!(required(&[option(5, b"")]), (vec![reply::ACK], Next::StartTls));
}

/// CVE-2021-3716: what was injected in the clear survives into TLS.
#[test]
fn tls_forgets_what_was_before() {
    let mut handshake = Handshake::new(offer(), Encryption::Required);
    let injected = [client_flags(), option(5, b""), option(8, b"")].concat();
    let (_, next, left) = run(&mut handshake, &injected);
    assert_eq!((next, left), (Next::StartTls, 16), "nothing after STARTTLS is looked at");
    let mut secured = handshake.secured();
    let (out, next, _) = run(&mut secured, &option(7, &go(b"disk", &[])));
    assert_eq!(next, Next::Transmit(Agreed::default()));
    assert!(!kinds(&out).contains(&reply::ERR_TLS_REQD));
    // Even if something had been agreed before.
    let mut handshake = Handshake::new(offer(), Encryption::Unavailable);
    run(&mut handshake, &[client_flags(), option(8, b""), option(10, &meta(b"", &[b"base:allocation"]))].concat());
    let mut secured = handshake.secured();
    let (_, next, _) = run(&mut secured, &option(7, &go(b"", &[])));
    assert_eq!(next, Next::Transmit(Agreed::default()));
    let mut again = Handshake::new(offer(), Encryption::Required).secured();
    assert_eq!(kinds(&run(&mut again, &option(5, b"")).0), [reply::ERR_INVALID]);
}

fn some_option() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![Just(b"disk".to_vec()), Just(vec![]), prop::collection::vec(any::<u8>(), 0..300)];
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        name.clone().prop_map(|name| go(&name, &[0, 3])),
        name.prop_map(|name| meta(&name, &[b"base:allocation"])),
        Just(vec![]),
        Just(vec![0; OPTION_MAX_BYTES + 7]),
    ];
    (prop_oneof![1u32..12, any::<u32>()], data).prop_map(|(number, data)| option(number, &data))
}

proptest! {
    /// Whatever comes, in whatever pieces: no panic, the same replies, and never more output than a little for each option.
    #[test]
    fn pieces_make_no_difference(
        options in prop::collection::vec(prop_oneof![4 => some_option(), 1 => prop::collection::vec(any::<u8>(), 0..40)], 0..6),
        cuts in prop::collection::vec(1usize..200, 1..20),
        encryption in prop_oneof![Just(Encryption::Unavailable), Just(Encryption::Required)],
    ) {
        let input = [client_flags(), options.concat()].concat();
        let mut whole = Handshake::new(offer(), encryption);
        let (out, next, left) = run(&mut whole, &input);
        prop_assert!(out.len() <= 600 * (options.len() + 1) * 6);
        let mut pieces = Handshake::new(offer(), encryption);
        let (mut out_pieces, mut held, mut given, mut last) = (Vec::new(), Vec::new(), 0, Next::Wait);
        let mut cuts = cuts.iter().cycle();
        'fed: while given < input.len() {
            let cut = (*cuts.next().unwrap()).min(input.len() - given);
            held.extend_from_slice(&input[given..given + cut]);
            given += cut;
            loop {
                let (used, next) = pieces.step(&held, &mut out_pieces);
                held.drain(..used);
                last = next;
                match next {
                    Next::Haggle => {}
                    Next::Wait => break,
                    _ => break 'fed,
                }
            }
            prop_assert!(held.len() <= OPTION_MAX_BYTES + OPTION_HEADER_BYTES);
        }
        prop_assert_eq!(last, next);
        prop_assert_eq!(out_pieces, out);
        prop_assert_eq!(held.len() + input.len() - given, left);
    }
}
