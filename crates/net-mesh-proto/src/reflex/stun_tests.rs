//! The bytes of the STUN messages, pinned.

use std::net::SocketAddr;
use std::string::String;
use std::vec::Vec;

use super::*;

const TXID: u128 = 0x0102_0304_0506_0708_090a_0b0c;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| std::format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn probe() -> Probe {
    Probe { token: ProbeToken(0x1112_1314_1516_1718), slot: 9 }
}

fn request(probe: Option<Probe>, has_fingerprint: bool) -> Message {
    Message::BindingRequest(BindingRequest {
        check: None,
        txid: TXID,
        probe,
        has_fingerprint,
        unknown_required: Vec::new(),
    })
}

/// Each message with its meaning: header (type, length, cookie, transaction), then one attribute a line.
fn examples() -> Vec<(Vec<u8>, &'static str, Message)> {
    let v4: SocketAddr = "198.51.100.7:40000".parse().unwrap();
    let v6: SocketAddr = "[2001:db8::7]:40000".parse().unwrap();
    [
        (
            binding_request(TXID, None),
            "000100202112a4420102030405060708090a0b0c
             ce7100140000000000000000000000000000000000000000
             80280004aa0af91f",
            request(None, true),
        ),
        (
            binding_request(TXID, Some(probe())),
            "000100442112a4420102030405060708090a0b0c
             ce700009111213141516171809000000
             ce71002800000000000000000000000000000000000000000000000000000000000000000000000000000000
             802800047887f1ba",
            request(Some(probe()), true),
        ),
        (
            binding_response(TXID, v4, false),
            "0101000c2112a4420102030405060708090a0b0c
             002000080001bd52e721c045",
            Message::BindingResponse { txid: TXID, mapped: v4 },
        ),
        (
            binding_response(TXID, v6, true),
            "010100202112a4420102030405060708090a0b0c
             002000140002bd520113a9fa0102030405060708090a0b0b
             802800049e1fd4e8",
            Message::BindingResponse { txid: TXID, mapped: v6 },
        ),
        (
            unknown_attributes(TXID, &[0x0003], false),
            "011100102112a4420102030405060708090a0b0c
             0009000400000414
             000a000200030000",
            Message::BindingError { txid: TXID, code: 420 },
        ),
        (
            probe_indication(TXID, probe()),
            "001100102112a4420102030405060708090a0b0c
             ce700009111213141516171809000000",
            Message::ProbeIndication(probe()),
        ),
    ]
    .into()
}

const NAME: CheckName = CheckName { attempt: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff, by_seeker: true };

/// A check and its answers: header, then USERNAME or XOR-MAPPED-ADDRESS, MESSAGE-INTEGRITY-SHA256, FINGERPRINT.
fn checks() -> Vec<(Vec<u8>, &'static str, Message)> {
    let key = [7; 32];
    let v4: SocketAddr = "198.51.100.7:40000".parse().unwrap();
    let v6: SocketAddr = "[2001:db8::7]:40000".parse().unwrap();
    let check = BindingRequest {
        check: Some(NAME),
        txid: TXID,
        probe: None,
        has_fingerprint: true,
        unknown_required: Vec::new(),
    };
    [
        (
            check_request(TXID, NAME, &key),
            "000100542112a4420102030405060708090a0b0c
             0006002230303131323233333434353536363737383839396161626263636464656566663a730000
             001c0020109c82f49f0bc32ab57428a92da2f37aaa8c6e62334c5feb6d2b32e0d0698bed
             80280004001bcc63",
            Message::BindingRequest(check),
        ),
        (
            check_response(TXID, v4, &key),
            "010100382112a4420102030405060708090a0b0c
             002000080001bd52e721c045
             001c0020333d0b215ae96b6553e03642e9cd13b5418a60d16722747b5913599004100de5
             80280004b2c896b6",
            Message::BindingResponse { txid: TXID, mapped: v4 },
        ),
        (
            check_response(TXID, v6, &key),
            "010100442112a4420102030405060708090a0b0c
             002000140002bd520113a9fa0102030405060708090a0b0b
             001c00203d7c756fc9c2a9d22b44ed05114d4b63d34ba4425e8d473b1fa19af866e16b6a
             802800044eafd49e",
            Message::BindingResponse { txid: TXID, mapped: v6 },
        ),
    ]
    .into()
}

#[test]
fn a_check_and_its_answer_have_these_bytes_and_are_signed() {
    for (bytes, golden, meaning) in checks() {
        assert_eq!(hex(&bytes), hex(&unhex(golden)), "{meaning:?}");
        assert_eq!(Message::parse(&bytes), Ok(meaning));
        assert!(is_signed(&bytes, &[7; 32]));
        assert!(!is_signed(&bytes, &[8; 32]), "another key");
    }
}

#[test]
fn no_bit_of_a_check_can_be_changed_without_breaking_it() {
    for (bytes, _, meaning) in checks() {
        // The fingerprint is not signed, and says nothing.
        for bit in 0..(bytes.len() - 8) * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let believed = Message::parse(&changed).is_ok() && is_signed(&changed, &[7; 32]);
            assert!(!believed, "bit {bit} of {meaning:?}");
        }
        for cut in 0..bytes.len() {
            assert_eq!(Message::parse(&bytes[..cut]), Err(DropReason::MalformedStun));
            assert!(!is_signed(&bytes[..cut], &[7; 32]), "cut at {cut}");
        }
    }
}

#[test]
fn what_is_not_signed_at_all_or_by_an_older_method_is_no_check() {
    let key = [7; 32];
    assert!(!is_signed(&binding_request(TXID, None), &key));
    let mut old = start(MessageClass::Request, TXID);
    old.push_attribute_unchecked(&RawAttribute::new(Username::TYPE, NAME.text().as_bytes()));
    old.add_message_integrity(&credentials(&key), IntegrityAlgorithm::Sha1).unwrap();
    assert!(!is_signed(&old.finish(), &key));
}

#[test]
fn the_answer_to_a_check_is_never_longer() {
    let lengths: Vec<usize> = checks().iter().map(|(bytes, ..)| bytes.len()).collect();
    assert!(lengths[0] >= lengths[1] && lengths[0] >= lengths[2], "{lengths:?}");
}

#[test]
fn another_agents_username_is_no_check_and_no_fault() {
    let named = |name: &[u8]| {
        let mut message = start(MessageClass::Request, TXID);
        message.push_attribute_unchecked(&RawAttribute::new(Username::TYPE, name));
        Message::parse(&message.finish())
    };
    let own = NAME.text();
    assert!(matches!(named(own.as_bytes()), Ok(Message::BindingRequest(r)) if r.check == Some(NAME)));
    let upper = own.to_uppercase();
    let signed = std::format!("+{}", &own[1..]);
    for other in ["evtj:h6vY", "", ":", &own[1..], &upper, &signed, &own[..33], &std::format!("{own}x")] {
        let read = named(other.as_bytes());
        assert!(matches!(read, Ok(Message::BindingRequest(r)) if r.check.is_none()), "{other}");
    }
    assert_eq!(named(&[0xff; 34]), Ok(request(None, false)), "not even UTF-8");
}

#[test]
fn every_message_has_these_bytes_and_reads_back() {
    for (bytes, golden, meaning) in examples() {
        assert_eq!(hex(&bytes), hex(&unhex(golden)), "{meaning:?}");
        assert_eq!(Message::parse(&bytes), Ok(meaning));
    }
}

#[test]
fn a_message_cut_anywhere_or_continued_is_malformed() {
    for (mut bytes, _, meaning) in examples() {
        for cut in 0..bytes.len() {
            assert_eq!(Message::parse(&bytes[..cut]), Err(DropReason::MalformedStun), "{meaning:?} at {cut}");
        }
        bytes.extend([0; 4]);
        assert_eq!(Message::parse(&bytes), Err(DropReason::MalformedStun));
    }
}

#[test]
fn a_request_of_any_other_client_is_understood() {
    let bare = unhex("000100002112a4420102030405060708090a0b0c");
    assert_eq!(Message::parse(&bare), Ok(request(None, false)));
    // SOFTWARE "x", MESSAGE-INTEGRITY and USERNAME are no reason to refuse.
    let chatty = unhex(
        "000100302112a4420102030405060708090a0b0c 8022000178000000 0006000178000000
         000800140000000000000000000000000000000000000000 0003000400000000",
    );
    assert_eq!(Message::parse(&chatty), Ok(request(None, false)), "what follows the integrity is ignored");
    let nat_discovery = unhex("000100082112a4420102030405060708090a0b0c 0003000400000006");
    let Ok(Message::BindingRequest(found)) = Message::parse(&nat_discovery) else { panic!() };
    assert_eq!(found.unknown_required, [3]);
}

#[test]
fn an_old_servers_plain_address_is_taken_where_there_is_no_other() {
    let plain = "000100080001 9c40 c6336407";
    let old = unhex(&std::format!("0101000c2112a4420102030405060708090a0b0c {plain}"));
    let mapped = "198.51.100.7:40000".parse().unwrap();
    assert_eq!(Message::parse(&old), Ok(Message::BindingResponse { txid: TXID, mapped }));
    // With both, the XOR one counts, whatever the order: the plain one may have been rewritten on its way.
    let both = unhex(
        "010100182112a4420102030405060708090a0b0c 00010008 0001 0001 01010101 002000080001bd52e721c045",
    );
    assert_eq!(Message::parse(&both), Ok(Message::BindingResponse { txid: TXID, mapped }));
}

#[test]
fn the_answer_that_coturn_gives_to_our_request_is_understood() {
    // Recorded from coturn 4.6.1; both addresses, RESPONSE-ORIGIN, SOFTWARE, FINGERPRINT.
    let recorded = unhex(
        "010100442112a4420102030405060708090a0b0c 002000080001aab85e12a443 0001000800018baa7f000001
         802b0008000187e77f000001 80220014436f7475726e2d342e362e312027476f72737427 80280004e090b282",
    );
    let mapped = "127.0.0.1:35754".parse().unwrap();
    assert_eq!(Message::parse(&recorded), Ok(Message::BindingResponse { txid: TXID, mapped }));
}

#[test]
fn what_is_not_stun_or_not_ours_is_refused_by_its_name() {
    let no_cookie = unhex("000100002112a4430102030405060708090a0b0c");
    assert_eq!(Message::parse(&no_cookie), Err(DropReason::MalformedStun));
    let allocate = unhex("000300002112a4420102030405060708090a0b0c");
    assert_eq!(Message::parse(&allocate), Err(DropReason::UnsupportedStun));
    let keepalive = unhex("001100002112a4420102030405060708090a0b0c");
    assert_eq!(Message::parse(&keepalive), Err(DropReason::UnsupportedStun));
    let no_address = unhex("010100002112a4420102030405060708090a0b0c");
    assert_eq!(Message::parse(&no_address), Err(DropReason::MalformedStun));
    let mut wrong_fingerprint = binding_request(TXID, None);
    wrong_fingerprint[30] ^= 1;
    assert_eq!(Message::parse(&wrong_fingerprint), Err(DropReason::MalformedStun));
    let probe_too_long = unhex("0011000c2112a4420102030405060708090a0b0c ce70000411121314 00000000");
    assert_eq!(Message::parse(&probe_too_long), Err(DropReason::MalformedStun));
    assert_eq!(Message::parse(&[0; 2000]), Err(DropReason::MalformedStun));
}

#[test]
fn an_ipv4_mapped_address_is_given_back_as_ipv4() {
    let mapped: SocketAddr = "[::ffff:198.51.100.7]:40000".parse().unwrap();
    assert_eq!(binding_response(TXID, mapped, false).len(), 32);
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        like_stun in proptest::prelude::any::<bool>(),
    ) {
        if like_stun && bytes.len() >= 20 {
            let length = u16::try_from(bytes.len() - 20).unwrap();
            bytes[0] &= 1;
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            bytes[4..8].copy_from_slice(&0x2112_a442_u32.to_be_bytes());
        }
        if let Ok(Message::BindingRequest(request)) = Message::parse(&bytes) {
            proptest::prop_assert!(request.unknown_required.len() <= 16);
        }
    }
}
