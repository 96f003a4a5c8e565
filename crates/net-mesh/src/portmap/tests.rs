//! Routers of all kinds, scripted, each at a loopback address of its own.
//!
//! Whatever they say, a request ends within its limit, with the right failure, and little is remembered of it.
#![allow(clippy::unwrap_used, reason = "test code outside of test functions")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use net_mesh_proto::portmap::{Answer, Failure, Granted, Protocol, Request};

use super::router::{Place, Router, limit};

mod end;
mod search;

/// Far above what any request may take: only a hang reaches it.
const HANG: Duration = Duration::from_secs(30);

/// How late the end of a request may be noticed where the machine has much to do.
const SLACK: Duration = Duration::from_secs(1);

/// A loopback address that no other test has, in this process or in another one that runs meanwhile.
fn address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + high % 128, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

fn map(protocol: Protocol) -> Request {
    Request::Map { protocol, internal: 7000, external: 40_000, lease: Duration::from_secs(3600) }
}

fn release(protocol: Protocol, gateway: Ipv4Addr) -> Request {
    let (gateway, host) = (gateway.into(), Ipv4Addr::LOCALHOST.into());
    Request::Release { protocol, gateway, host, internal: 7000, external: 40_000 }
}

/// Asks the router at `gateway`, whose SSDP is at `ssdp`.
fn ask_at(gateway: Ipv4Addr, ssdp: SocketAddr, request: Request) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut router = Router::new(Place { gateway: Some(gateway), ssdp }, [7; 32]);
    runtime.block_on(ask(&mut router, request))
}

/// Asks `router`, which must answer within its limit.
async fn ask(router: &mut Router, request: Request) -> Answer {
    let began = Instant::now();
    let answer = tokio::time::timeout(HANG, router.carry_out(request)).await.expect("a request hangs");
    let (took, limit) = (began.elapsed(), limit(&request));
    assert!(took <= limit + SLACK, "{request:?} took {took:?} of {limit:?}: {answer:?}");
    answer
}

fn failure(answer: &Answer) -> Option<Failure> {
    match answer {
        Answer::Failed { failure, detail } => {
            assert!(detail.len() <= 200 && !detail.chars().any(char::is_control), "{detail:?}");
            Some(*failure)
        }
        Answer::Mapped(_) | Answer::Released => None,
    }
}

mod by_datagram {
    use super::*;

    /// A router that says `answer(request)` to each datagram; `None` is silence.
    fn router(answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> Ipv4Addr {
        let ip = address();
        let socket = UdpSocket::bind((ip, 5351)).unwrap();
        socket.set_read_timeout(Some(HANG)).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if let Some(answer) = answer(&buffer[..length]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        ip
    }

    fn ask(gateway: Ipv4Addr, request: Request) -> Answer {
        ask_at(gateway, (gateway, 1).into(), request)
    }

    /// What a right PCP router says (RFC 6887 §7.2, §11.1), with the result, lease, epoch, port and address given.
    fn pcp(request: &[u8], result: u8, lease: u32, port: u16) -> Vec<u8> {
        let mut answer = vec![2, 0x81, 0, result];
        answer.extend(lease.to_be_bytes());
        answer.extend(77_u32.to_be_bytes());
        answer.extend([0; 12]);
        answer.extend(&request[24..42]);
        answer.extend(port.to_be_bytes());
        answer.extend(Ipv4Addr::new(198, 51, 100, 9).to_ipv6_mapped().octets());
        answer
    }

    /// What a right NAT-PMP router says (RFC 6886 §3.2, §3.3).
    fn nat_pmp(request: &[u8], result: u16, lease: u32, port: u16) -> Vec<u8> {
        let mut answer = vec![0, 0x80 | request[1]];
        answer.extend(result.to_be_bytes());
        answer.extend(77_u32.to_be_bytes());
        if request[1] == 0 {
            answer.extend([198, 51, 100, 9]);
        } else {
            answer.extend(&request[4..6]);
            answer.extend(port.to_be_bytes());
            answer.extend(lease.to_be_bytes());
        }
        answer
    }

    #[test]
    fn right_answers_are_taken_in_both_protocols() {
        let gateway = router(|request| {
            Some(if request[0] == 2 {
                pcp(request, 0, 1800, 40_000)
            } else {
                nat_pmp(request, 0, 1800, 40_000)
            })
        });
        for protocol in [Protocol::Pcp, Protocol::NatPmp] {
            let granted = Granted {
                gateway: gateway.into(),
                host: Ipv4Addr::LOCALHOST.into(),
                external: "198.51.100.9:40000".parse().unwrap(),
                lease: Some(Duration::from_secs(1800)),
                epoch: Some(77),
            };
            assert_eq!(ask(gateway, map(protocol)), Answer::Mapped(granted), "{protocol}");
        }
    }

    #[test]
    fn a_deletion_is_a_request_for_no_time() {
        let gateway = router(|request| {
            Some(if request[0] == 2 { pcp(request, 0, 0, 0) } else { nat_pmp(request, 0, 0, 0) })
        });
        for protocol in [Protocol::Pcp, Protocol::NatPmp] {
            assert_eq!(ask(gateway, release(protocol, gateway)), Answer::Released, "{protocol}");
            // What another router granted, or for another address of this host, is not this one's to delete.
            let Request::Release { gateway: by, host, internal, external, .. } = release(protocol, gateway)
            else {
                unreachable!()
            };
            let other = "192.0.2.1".parse().unwrap();
            for (by, host) in [(other, host), (by, other)] {
                let elsewhere = Request::Release { protocol, gateway: by, host, internal, external };
                assert_eq!(failure(&ask(gateway, elsewhere)), Some(Failure::NoRouter), "{protocol}");
            }
        }
    }

    #[test]
    fn silence_and_a_closed_port_are_no_router() {
        let silent = router(|_| None);
        let closed = address();
        for protocol in [Protocol::Pcp, Protocol::NatPmp] {
            for gateway in [silent, closed] {
                assert_eq!(failure(&ask(gateway, map(protocol))), Some(Failure::NoRouter), "{protocol}");
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_broken() {
        type Say = fn(&[u8]) -> Vec<u8>;
        let sayings: [(&str, Say); 7] = [
            ("nothing", |_| vec![]),
            ("a byte", |_| vec![2]),
            ("an echo", |request| request.to_vec()),
            ("noise", |_| (0..60u8).map(|n| n.wrapping_mul(37) ^ 0xa5).collect()),
            ("a thousand bytes", |_| vec![0x80; 1000]),
            ("sixty thousand", |_| vec![0x80; 60_000]),
            ("half an answer", |request| {
                let mut whole = match request[0] {
                    2 => pcp(request, 0, 1800, 40_000),
                    _ => nat_pmp(request, 0, 1800, 40_000),
                };
                whole.truncate(whole.len() / 2);
                whole
            }),
        ];
        for (what, say) in sayings {
            let gateway = router(move |request| Some(say(request)));
            for protocol in [Protocol::Pcp, Protocol::NatPmp] {
                let failed = failure(&ask(gateway, map(protocol)));
                let fits = matches!(failed, Some(Failure::Broken | Failure::Unsupported));
                assert!(fits, "{what} in {protocol}: {failed:?}");
            }
        }
    }

    #[test]
    fn an_answer_to_somebody_else_is_not_taken() {
        let gateway = router(|request| {
            let mut answer = pcp(request, 0, 1800, 40_000);
            // Another nonce: another client's mapping (RFC 6887 §11.4).
            answer[24] ^= 1;
            Some(answer)
        });
        assert!(failure(&ask(gateway, map(Protocol::Pcp))).is_some());
    }

    #[test]
    fn an_answer_from_another_address_is_not_heard() {
        let gateway = address();
        let liar = UdpSocket::bind((address(), 5351)).unwrap();
        let socket = UdpSocket::bind((gateway, 5351)).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = liar.send_to(&pcp(&buffer[..length], 0, 1800, 40_000), from);
            }
        });
        assert_eq!(failure(&ask(gateway, map(Protocol::Pcp))), Some(Failure::NoRouter));
    }

    #[test]
    fn codes_have_their_meaning() {
        for (code, meaning) in [
            (1, Failure::Unsupported),
            (2, Failure::Refused),
            (4, Failure::Unsupported),
            (8, Failure::Exhausted),
            (10, Failure::Exhausted),
            (11, Failure::Conflict),
            (12, Failure::Refused),
        ] {
            let gateway = router(move |request| Some(pcp(request, code, 30, 0)));
            assert_eq!(failure(&ask(gateway, map(Protocol::Pcp))), Some(meaning), "PCP result {code}");
        }
        for (code, meaning) in [
            (1, Failure::Unsupported),
            (2, Failure::Refused),
            (3, Failure::Exhausted),
            (4, Failure::Exhausted),
            (5, Failure::Unsupported),
        ] {
            let gateway = router(move |request| Some(nat_pmp(request, code, 0, 0)));
            assert_eq!(failure(&ask(gateway, map(Protocol::NatPmp))), Some(meaning), "NAT-PMP result {code}");
        }
    }

    #[test]
    fn a_port_of_zero_is_broken() {
        let gateway = router(|request| {
            Some(if request[0] == 2 { pcp(request, 0, 1800, 0) } else { nat_pmp(request, 0, 1800, 0) })
        });
        for protocol in [Protocol::Pcp, Protocol::NatPmp] {
            assert_eq!(failure(&ask(gateway, map(protocol))), Some(Failure::Broken), "{protocol}");
        }
    }
}

mod by_http {
    use super::*;

    const SOAP: &str =
        "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>";
    const END: &str = "</s:Body></s:Envelope>";

    /// What a router's HTTP server says to each request.
    pub(super) type Page = Arc<dyn Fn(&str, &mut TcpStream) + Send + Sync>;

    /// A router that answers a search with `location`, and requests with `page`. Counts connections.
    pub(super) struct Upnp {
        pub(super) ip: Ipv4Addr,
        pub(super) ssdp: SocketAddr,
        pub(super) http: SocketAddr,
        pub(super) connections: Arc<AtomicUsize>,
        /// Datagrams of searches.
        pub(super) searches: Arc<AtomicUsize>,
    }

    /// What a device at `location` says to a search.
    pub(super) fn found(location: &str) -> String {
        format!(
            "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\
             LOCATION: {location}\r\nUSN: uuid:1::urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
        )
    }

    pub(super) fn upnp(
        page: Page,
        answers: usize,
        location: impl Fn(SocketAddr) -> String + Send + 'static,
    ) -> Upnp {
        upnp_at((address(), 0), page, answers, location)
    }

    pub(super) fn upnp_at(
        (ip, port): (Ipv4Addr, u16),
        page: Page,
        answers: usize,
        location: impl Fn(SocketAddr) -> String + Send + 'static,
    ) -> Upnp {
        let socket = UdpSocket::bind((ip, port)).unwrap();
        let server = TcpListener::bind((ip, 0)).unwrap();
        let (ssdp, http) = (socket.local_addr().unwrap(), server.local_addr().unwrap());
        let (connections, searches) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&searches);
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                count.fetch_add(1, Ordering::Relaxed);
                let answer = found(&location(http));
                for _ in 0..answers {
                    let _ = socket.send_to(answer.as_bytes(), from);
                }
            }
        });
        let count = Arc::clone(&connections);
        thread::spawn(move || {
            for stream in server.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                let page = Arc::clone(&page);
                thread::spawn(move || serve(stream, &*page));
            }
        });
        Upnp { ip, ssdp, http, connections, searches }
    }

    fn serve(mut stream: TcpStream, page: &(dyn Fn(&str, &mut TcpStream) + Send + Sync)) {
        let _ = stream.set_read_timeout(Some(HANG));
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let whole = String::from_utf8_lossy(&text).into_owned();
            if let Some((head, body)) = whole.split_once("\r\n\r\n") {
                let length = head.to_ascii_lowercase();
                let length = length.lines().find_map(|line| line.strip_prefix("content-length:"));
                if body.len() >= length.and_then(|l| l.trim().parse().ok()).unwrap_or(0) {
                    page(&whole, &mut stream);
                    return;
                }
            }
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(length) => text.extend(&buffer[..length]),
            }
        }
    }

    pub(super) fn say(stream: &mut TcpStream, status: &str, body: &str) {
        let length = body.len();
        let _ = write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: text/xml\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
    }

    pub(super) fn description(control: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?><root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device>\
             <deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><deviceList><device>\
             <deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><deviceList><device>\
             <deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><serviceList><service>\
             <serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
             <serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId><SCPDURL>/scpd.xml</SCPDURL>\
             <controlURL>{control}</controlURL><eventSubURL>/evt</eventSubURL></service></serviceList></device></deviceList>\
             </device></deviceList></device></root>"
        )
    }

    fn scpd() -> String {
        let action = |name: &str, arguments: &[&str]| {
            let argument =
                |n: &&str| format!("<argument><name>{n}</name><direction>in</direction></argument>");
            let arguments: String = arguments.iter().map(argument).collect();
            format!("<action><name>{name}</name><argumentList>{arguments}</argumentList></action>")
        };
        let add = action(
            "AddPortMapping",
            &[
                "NewRemoteHost",
                "NewExternalPort",
                "NewProtocol",
                "NewInternalPort",
                "NewInternalClient",
                "NewEnabled",
                "NewPortMappingDescription",
                "NewLeaseDuration",
            ],
        );
        let delete = action("DeletePortMapping", &["NewRemoteHost", "NewExternalPort", "NewProtocol"]);
        format!(
            "<?xml version=\"1.0\"?><scpd xmlns=\"urn:schemas-upnp-org:service-1-0\"><actionList>{add}{delete}</actionList></scpd>"
        )
    }

    fn error(code: u16) -> String {
        format!(
            "{SOAP}<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>\
             <UPnPError xmlns=\"urn:schemas-upnp-org:control-1-0\"><errorCode>{code}</errorCode>\
             <errorDescription>so</errorDescription></UPnPError></detail></s:Fault>{END}"
        )
    }

    /// A router that does as it should, but for what `odd` says instead (to requests it has an answer for).
    pub(super) fn decent(odd: impl Fn(&str, &mut TcpStream) -> bool + Send + Sync + 'static) -> Page {
        Arc::new(move |request, stream| {
            if odd(request, stream) {
                return;
            }
            let answer = |name: &str, inner: &str| {
                format!(
                    "{SOAP}<u:{name} xmlns:u=\"urn:schemas-upnp-org:service:WANIPConnection:1\">{inner}</u:{name}>{END}"
                )
            };
            if request.starts_with("GET /root") {
                say(stream, "200 OK", &description("/ctl"));
            } else if request.starts_with("GET /scpd") {
                say(stream, "200 OK", &scpd());
            } else if request.contains("GetExternalIPAddress") {
                let ip = "<NewExternalIPAddress>198.51.100.9</NewExternalIPAddress>";
                say(stream, "200 OK", &answer("GetExternalIPAddressResponse", ip));
            } else if request.contains("AddPortMapping") {
                say(stream, "200 OK", &answer("AddPortMappingResponse", ""));
            } else {
                say(stream, "200 OK", &answer("DeletePortMappingResponse", ""));
            }
        })
    }

    pub(super) fn here(http: SocketAddr) -> String {
        format!("http://{http}/root.xml")
    }

    fn ask(upnp: &Upnp, request: Request) -> Answer {
        ask_at(upnp.ip, upnp.ssdp, request)
    }

    #[test]
    fn a_right_device_maps_and_deletes() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let said = Arc::clone(&seen);
        let device = upnp(
            decent(move |request, _| {
                said.lock().unwrap().push(request.to_owned());
                false
            }),
            1,
            here,
        );
        let Answer::Mapped(granted) = ask(&device, map(Protocol::UpnpIgd)) else { panic!("not mapped") };
        assert_eq!(granted.external, "198.51.100.9:40000".parse().unwrap());
        assert_eq!((granted.lease, granted.epoch), (Some(Duration::from_secs(3600)), None));
        let add = seen.lock().unwrap().iter().find(|r| r.contains("AddPortMapping")).unwrap().clone();
        for part in ["<NewInternalPort>7000<", "<NewProtocol>UDP<", "<NewLeaseDuration>3600<", "net-mesh"] {
            assert!(add.contains(part), "{part}: {add}");
        }
        assert_eq!(ask(&device, release(Protocol::UpnpIgd, device.ip)), Answer::Released);
    }

    #[test]
    fn error_codes_have_their_meaning() {
        for (code, meaning) in [
            (718, Failure::Conflict),
            (725, Failure::PermanentOnly),
            (724, Failure::SamePort),
            (606, Failure::Refused),
            (401, Failure::Unsupported),
            (501, Failure::Exhausted),
            (999, Failure::Refused),
        ] {
            let device = upnp(
                decent(move |request, stream| {
                    let add = request.contains("AddPortMapping");
                    if add {
                        say(stream, "500 Internal Server Error", &error(code));
                    }
                    add
                }),
                1,
                here,
            );
            assert_eq!(failure(&ask(&device, map(Protocol::UpnpIgd))), Some(meaning), "error {code}");
        }
    }

    #[test]
    fn silence_is_no_router() {
        let ip = address();
        let mute = UdpSocket::bind((ip, 0)).unwrap();
        let answer = ask_at(ip, mute.local_addr().unwrap(), map(Protocol::UpnpIgd));
        assert_eq!(failure(&answer), Some(Failure::NoRouter));
    }

    /// Neither the search's answer nor the description may lead to another machine.
    #[test]
    fn nobody_else_is_asked_on_the_word_of_a_device() {
        let victim = upnp(decent(|_, _| false), 1, here);
        let elsewhere = victim.http;
        let lying = upnp(decent(|_, _| false), 1, move |_| here(elsewhere));
        assert_eq!(failure(&ask(&lying, map(Protocol::UpnpIgd))), Some(Failure::NoRouter));
        let control = format!("http://{elsewhere}/ctl");
        let page = decent(move |request, stream| {
            let root = request.starts_with("GET /root");
            if root {
                say(stream, "200 OK", &description(&control));
            }
            root
        });
        let sly = upnp(page, 1, here);
        assert!(failure(&ask(&sly, map(Protocol::UpnpIgd))).is_some());
        assert_eq!(victim.connections.load(Ordering::Relaxed), 0, "somebody else was asked");
    }

    #[test]
    fn pages_that_make_no_sense_or_never_end_are_given_up() {
        type Odd = fn(&mut TcpStream);
        let endless: Odd = |stream| {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n<root>");
            while stream.write_all(&[b'a'; 65_536]).is_ok() {}
        };
        let odd: [(&str, Odd); 8] = [
            ("nothing", |_| {}),
            ("noise", |stream| _ = stream.write_all(&[0xa5; 5000])),
            ("no XML", |stream| say(stream, "200 OK", "this is no XML at all")),
            ("an empty page", |stream| say(stream, "200 OK", "")),
            ("an endless page", endless),
            ("an endless head", |stream| {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\n");
                while stream.write_all(b"X-Much: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n").is_ok()
                {
                }
            }),
            ("silence", |stream| {
                let _ = stream.set_read_timeout(Some(HANG));
                let _ = stream.read(&mut [0; 1]);
            }),
            ("many laughs", |stream| {
                let level = |n: u32| format!("<!ENTITY l{} \"{}\">", n + 1, format!("&l{n};").repeat(10));
                let levels: String = (0..9).map(level).collect();
                let bomb = format!(
                    "<?xml version=\"1.0\"?><!DOCTYPE x [<!ENTITY l0 \"ha\">{levels}]><root>&l9;</root>"
                );
                say(stream, "200 OK", &bomb);
            }),
        ];
        let run = |(what, odd): (&'static str, Odd)| {
            thread::spawn(move || {
                let device = upnp(
                    decent(move |_, stream| {
                        odd(stream);
                        true
                    }),
                    1,
                    here,
                );
                (what, failure(&ask(&device, map(Protocol::UpnpIgd))))
            })
        };
        let runs: Vec<_> = odd.into_iter().map(run).collect();
        for run in runs {
            let (what, failed) = run.join().unwrap();
            assert!(failed.is_some(), "{what} was taken for an answer");
        }
    }

    #[test]
    fn a_flood_of_answers_to_the_search_changes_nothing() {
        let device = upnp(decent(|_, _| false), 5_000, here);
        assert!(matches!(ask(&device, map(Protocol::UpnpIgd)), Answer::Mapped(_)));
        let none = upnp(decent(|_, _| false), 5_000, |_| "http://192.0.2.1/root.xml".to_owned());
        assert_eq!(failure(&ask(&none, map(Protocol::UpnpIgd))), Some(Failure::NoRouter));
    }
}
