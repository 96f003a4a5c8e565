//! Promises about what counts as a change. The messages are laid out as in rtnetlink(7).

use super::wire::notices;
use super::*;

const NEW_LINK: u16 = 16;
const NEW_ADDR: u16 = 20;
const DEL_ADDR: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
const REPLACE: u16 = 0x100;

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn address(kind: u16, ip: [u8; 4]) -> Vec<u8> {
    let header = [2, 24, 0, 0, 7, 0, 0, 0].to_vec();
    message(kind, 0, &[header, attribute(1, &ip), attribute(2, &ip)].concat())
}

fn address_v6(ip: [u8; 16], flags: u32) -> Vec<u8> {
    let header = [10, 64, 0, 0, 7, 0, 0, 0].to_vec();
    let attributes = [attribute(1, &ip), attribute(8, &flags.to_ne_bytes())].concat();
    message(NEW_ADDR, 0, &[header, attributes].concat())
}

fn link(flags: u32) -> Vec<u8> {
    let index = 7u32.to_ne_bytes();
    message(NEW_LINK, 0, &[[0, 0, 1, 0], index, flags.to_ne_bytes(), [0xff; 4]].concat())
}

/// A route of the main table, over interface 7.
fn route(kind: u16, flags: u16, prefix: u8, protocol: u8, gateway: [u8; 4]) -> Vec<u8> {
    let header = [2, prefix, 0, 0, 254, protocol, 0, 1, 0, 0, 0, 0].to_vec();
    let table = attribute(15, &254u32.to_ne_bytes());
    let way = [attribute(5, &gateway), attribute(4, &7u32.to_ne_bytes())].concat();
    message(kind, flags, &[header, table, way].concat())
}

/// What a host that knows nothing takes from these messages, one after the other.
fn changes(messages: &[Vec<u8>]) -> Vec<Change> {
    let mut known = Known::default();
    notices(&messages.concat()).into_iter().filter_map(|notice| known.learn(notice)).collect()
}

const HERE: [u8; 4] = [192, 168, 7, 9];
const GLOBAL: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const V4_ADDRESS: Change = Change::Address { v6: false };
const V4_DEFAULT: Change = Change::DefaultRoute { v6: false };
const UP: u32 = 0x1 | 0x40 | 0x10000;
const NO_CARRIER: u32 = 0x1;

#[test]
fn the_kernel_s_bytes_for_a_new_address() {
    let bytes = [
        // Length, type and flags, sequence, port.
        [88, 0, 0, 0].as_slice(),
        &[20, 0, 0, 0],
        &[0; 8],
        // Family, prefix, flags, scope; interface.
        &[2, 24, 0x80, 0],
        &[7, 0, 0, 0],
        &[8, 0, 1, 0, 10, 1, 0, 3],
        &[8, 0, 2, 0, 10, 1, 0, 3],
        &[8, 0, 4, 0, 10, 1, 0, 255],
        &[7, 0, 3, 0, b'v', b'a', 0, 0],
        &[8, 0, 8, 0, 0x80, 0, 0, 0],
        &[20, 0, 6, 0],
        &[0xff; 8],
        &[0; 8],
        &[0; 4],
    ]
    .concat();
    if cfg!(target_endian = "little") {
        let ip = IpAddr::from([10, 1, 0, 3]);
        assert_eq!(notices(&bytes), [Notice::Address { index: 7, ip, usable: true }]);
    }
}

#[test]
fn cut_anywhere_or_arbitrary_it_does_no_harm() {
    let whole =
        [address(NEW_ADDR, HERE), link(UP), route(NEW_ROUTE, 0, 0, 4, HERE), address_v6(GLOBAL, 0x80)]
            .concat();
    assert_eq!(notices(&whole).len(), 4);
    for cut in 0..whole.len() {
        assert!(notices(&whole[..cut]).len() < 4, "{cut}");
    }
    for (at, byte) in (0..whole.len()).flat_map(|at| [0, 1, 0x7f, 0xff].map(|byte| (at, byte))) {
        let mut bent = whole.clone();
        bent[at] = byte;
        assert!(notices(&bent).len() <= bent.len() / 16);
    }
}

#[test]
fn an_address_is_news_once_and_again_after_it_went() {
    let seen = changes(&[
        address(NEW_ADDR, HERE),
        address(NEW_ADDR, HERE),
        address(DEL_ADDR, HERE),
        address(NEW_ADDR, HERE),
        address(DEL_ADDR, [10, 0, 0, 1]),
    ]);
    assert_eq!(seen, [V4_ADDRESS; 3]);
}

#[test]
fn an_ipv6_address_is_news_when_it_can_be_used() {
    let (tentative, failed) = (0x40 | 0x80, 0x08 | 0x80);
    assert_eq!(changes(&[address_v6(GLOBAL, tentative)]), []);
    assert_eq!(changes(&[address_v6(GLOBAL, failed)]), []);
    let seen = changes(&[address_v6(GLOBAL, tentative), address_v6(GLOBAL, 0x80), address_v6(GLOBAL, 0)]);
    assert_eq!(seen, [Change::Address { v6: true }]);
}

#[test]
fn addresses_that_nobody_else_can_use_are_no_news() {
    let mut link_local = GLOBAL;
    link_local[..2].copy_from_slice(&[0xfe, 0x80]);
    let seen = changes(&[
        address(NEW_ADDR, [127, 0, 0, 2]),
        address(NEW_ADDR, [169, 254, 1, 1]),
        address_v6(link_local, 0x80),
    ]);
    assert_eq!(seen, []);
}

#[test]
fn a_link_matters_once_it_has_an_address_and_when_it_changes() {
    assert_eq!(changes(&[link(UP), link(NO_CARRIER)]), [], "a container's");
    let seen =
        changes(&[link(UP), address(NEW_ADDR, HERE), link(UP), link(NO_CARRIER), link(NO_CARRIER), link(UP)]);
    assert_eq!(seen, [V4_ADDRESS, Change::Link, Change::Link]);
}

#[test]
fn another_gateway_is_another_default_route() {
    let (one, two) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let replaced = |gateway| route(NEW_ROUTE, REPLACE, 0, 4, gateway);
    assert_eq!(changes(&[replaced(one), replaced(two), replaced(two), replaced(one)]), [V4_DEFAULT; 3]);
}

#[test]
fn a_default_route_said_again_is_no_news_unless_it_may_have_gone() {
    let route = |kind| route(kind, 0, 0, 4, [10, 0, 0, 1]);
    assert_eq!(changes(&[route(NEW_ROUTE), route(NEW_ROUTE)]), [V4_DEFAULT]);
    assert_eq!(changes(&[route(NEW_ROUTE), route(DEL_ROUTE), route(NEW_ROUTE)]), [V4_DEFAULT; 3]);
    assert_eq!(changes(&[route(NEW_ROUTE), link(NO_CARRIER), route(NEW_ROUTE)]), [V4_DEFAULT; 2]);
    assert_eq!(changes(&[route(NEW_ROUTE), address(DEL_ADDR, HERE), route(NEW_ROUTE)]), [V4_DEFAULT; 2]);
}

#[test]
fn half_of_all_addresses_is_as_good_as_a_default_route() {
    assert_eq!(changes(&[route(NEW_ROUTE, 0, 1, 4, HERE)]), [V4_DEFAULT]);
}

#[test]
fn routes_of_containers_and_of_addresses_are_no_news_and_others_are() {
    let by_kernel = 2;
    assert_eq!(changes(&[route(NEW_ROUTE, 0, 24, by_kernel, HERE), route(NEW_ROUTE, 0, 32, 4, HERE)]), []);
    assert_eq!(changes(&[route(NEW_ROUTE, 0, 8, 4, HERE)]), [Change::Route]);
}

#[test]
fn what_is_known_stays_bounded() {
    let mut known = Known::default();
    for n in 0..u32::try_from(MAX_KNOWN).unwrap() + 10 {
        let ip = IpAddr::from(n.to_be_bytes().map(|b| b | 0x40));
        known.learn(Notice::Address { index: n, ip, usable: true });
        known.learn(Notice::Link { index: n, running: true });
        let to = n.to_ne_bytes().to_vec();
        known.learn(Notice::Default(DefaultRoute {
            v6: false,
            rank: to.clone(),
            to,
            added: true,
            replaces: false,
        }));
    }
    assert!(
        known.addrs.len() <= MAX_KNOWN && known.links.len() <= MAX_KNOWN && known.defaults.len() <= MAX_KNOWN
    );
}

#[tokio::test]
async fn the_kernel_lets_itself_be_listened_to() {
    let mut netlink = Netlink::open().unwrap();
    // Whether anything happens on this machine is not for this test to say.
    let change = std::future::poll_fn(|cx| Poll::Ready(netlink.poll_change(cx))).await;
    assert!(!matches!(change, Poll::Ready(Err(_))), "{change:?}");
}
