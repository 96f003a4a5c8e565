//! Which device is found, and for how long it is remembered.

use super::by_http::{decent, found, here, say, upnp, upnp_at};
use super::*;

const WANTED: Request = Request::Map {
    protocol: Protocol::UpnpIgd,
    internal: 7000,
    external: 40_000,
    lease: Duration::from_secs(3600),
};

fn router(gateway: Ipv4Addr, ssdp: SocketAddr) -> Router {
    Router::new(Place { gateway: Some(gateway), ssdp }, [7; 32])
}

/// Waits for the first search at `socket`, for the address to answer to.
fn searched(socket: &UdpSocket) -> SocketAddr {
    socket.set_read_timeout(Some(HANG)).unwrap();
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    let text = std::str::from_utf8(&buffer[..length]).unwrap().to_owned();
    let host = format!("Host:{}\r\n", socket.local_addr().unwrap());
    assert!(text.starts_with("M-SEARCH") && text.contains(&host), "{text}");
    from
}

#[tokio::test]
async fn a_gateway_that_answers_for_itself_is_found_without_asking_everybody() {
    let device = upnp_at((address(), 1900), decent(|_, _| false), 1, here);
    let everybody = UdpSocket::bind((address(), 0)).unwrap();
    let mut router = router(device.ip, everybody.local_addr().unwrap());
    assert!(matches!(ask(&mut router, WANTED).await, Answer::Mapped(_)));
    everybody.set_nonblocking(true).unwrap();
    assert!(everybody.recv_from(&mut [0; 10]).is_err(), "everybody was asked");
}

/// Another device answers first and often, and serves no page to its end; the gateway's answer comes two seconds later.
#[tokio::test]
async fn another_device_is_never_asked_however_early_it_answers() {
    let page = decent(|_, stream| {
        let _ = stream.set_read_timeout(Some(HANG));
        let _ = stream.read(&mut [0; 1]);
        true
    });
    let foreign = upnp(page, 1, here);
    let misled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&misled);
    let page = decent(move |request, _| {
        count.fetch_add(usize::from(request.contains("?mine")), Ordering::Relaxed);
        false
    });
    let own = upnp(page, 1, here);
    let everybody = UdpSocket::bind((foreign.ip, 0)).unwrap();
    let ssdp = everybody.local_addr().unwrap();
    let (theirs, ours, gateway) = (here(foreign.http), here(own.http), own.ip);
    thread::spawn(move || {
        let from = searched(&everybody);
        for _ in 0..200 {
            everybody.send_to(found(&theirs).as_bytes(), from).unwrap();
            // It may also point to the gateway, at a page of its own choosing.
            everybody.send_to(found(&format!("{ours}?mine")).as_bytes(), from).unwrap();
        }
        thread::sleep(Duration::from_secs(2));
        let late = UdpSocket::bind((gateway, 0)).unwrap();
        late.send_to(found(&ours).as_bytes(), from).unwrap();
    });
    let Answer::Mapped(granted) = ask(&mut router(gateway, ssdp), WANTED).await else { panic!("not mapped") };
    assert_eq!(granted.gateway, gateway);
    assert_eq!(foreign.connections.load(Ordering::Relaxed), 0, "another device was asked");
    assert_eq!(misled.load(Ordering::Relaxed), 0, "its word was taken");
}

#[tokio::test]
async fn what_others_say_of_the_gateway_is_not_followed() {
    let own = upnp(decent(|_, _| false), 1, here);
    let everybody = UdpSocket::bind((address(), 0)).unwrap();
    let mut router = router(own.ip, everybody.local_addr().unwrap());
    let location = here(own.http);
    thread::spawn(move || {
        let from = searched(&everybody);
        everybody.send_to(found(&location).as_bytes(), from).unwrap();
    });
    assert_eq!(failure(&ask(&mut router, WANTED).await), Some(Failure::NoRouter));
    assert_eq!(own.connections.load(Ordering::Relaxed), 0);
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[tokio::test]
async fn where_there_is_no_default_route_nobody_is_searched_for() {
    let device = upnp(decent(|_, _| false), 1, here);
    let mut upnp = crate::portmap::upnp::Upnp::new(device.ssdp);
    let lease = Duration::from_secs(3600);
    let refused = upnp.map(None, device.ip, (7000, 40_000), lease).await.unwrap_err();
    assert!(format!("{refused:?}").contains("NoRouter"), "{refused:?}");
    assert!(upnp.release(None, device.ip, 40_000).await.is_err());
    assert_eq!(device.searches.load(Ordering::Relaxed), 0);
}

/// A device that answers well until `odd` has been set to 1, and then does not map; at 2 it does again.
fn fickle(odd: &Arc<AtomicU8>, how: fn(&mut TcpStream)) -> (super::by_http::Upnp, Arc<AtomicUsize>) {
    let (odd, deleted) = (Arc::clone(odd), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&deleted);
    let page = decent(move |request, stream| {
        if request.contains("DeletePortMapping") && request.starts_with("POST") {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let fails = request.contains("GetExternalIPAddress") && odd.load(Ordering::Relaxed) == 1;
        if fails {
            how(stream);
        }
        fails
    });
    (upnp(page, 1, here), deleted)
}

#[tokio::test]
async fn a_release_after_a_failed_renewal_reaches_the_router_without_a_search() {
    type How = fn(&mut TcpStream);
    let ways: [(&str, How); 3] = [
        ("says nothing", |_| {}),
        ("refuses", |stream| say(stream, "500 Internal Server Error", "")),
        ("makes no sense", |stream| say(stream, "200 OK", "this is no XML at all")),
    ];
    for (what, how) in ways {
        let odd = Arc::new(AtomicU8::new(0));
        let (device, deleted) = fickle(&odd, how);
        let mut router = router(device.ip, device.ssdp);
        assert!(matches!(ask(&mut router, WANTED).await, Answer::Mapped(_)), "{what}");
        odd.store(1, Ordering::Relaxed);
        assert!(failure(&ask(&mut router, WANTED).await).is_some(), "{what}");
        let searches = device.searches.load(Ordering::Relaxed);
        assert_eq!(ask(&mut router, release(Protocol::UpnpIgd, device.ip)).await, Answer::Released, "{what}");
        assert_eq!(deleted.load(Ordering::Relaxed), 1, "{what}");
        assert_eq!(device.searches.load(Ordering::Relaxed), searches, "{what}: searched again");
    }
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_any_more_does_not_cost_the_device() {
    let odd = Arc::new(AtomicU8::new(1));
    let (device, deleted) = fickle(&odd, |stream| {
        let _ = stream.set_read_timeout(Some(HANG));
        let _ = stream.read(&mut [0; 1]);
    });
    let mut router = router(device.ip, device.ssdp);
    // Long enough for the search, and the first request stays without an answer.
    let cut = tokio::time::timeout(Duration::from_secs(2), router.carry_out(WANTED)).await;
    assert!(cut.is_err(), "{cut:?}");
    let searches = device.searches.load(Ordering::Relaxed);
    assert!(searches > 0);
    assert_eq!(ask(&mut router, release(Protocol::UpnpIgd, device.ip)).await, Answer::Released);
    assert_eq!((deleted.load(Ordering::Relaxed), device.searches.load(Ordering::Relaxed)), (1, searches));
}

#[tokio::test]
async fn a_device_that_did_not_answer_is_searched_anew_when_a_port_is_wanted() {
    let odd = Arc::new(AtomicU8::new(0));
    let (device, _) = fickle(&odd, |_| {});
    let mut router = router(device.ip, device.ssdp);
    let searches = || device.searches.load(Ordering::Relaxed);
    assert!(matches!(ask(&mut router, WANTED).await, Answer::Mapped(_)));
    let first = searches();
    assert!(matches!(ask(&mut router, WANTED).await, Answer::Mapped(_)));
    assert_eq!(searches(), first, "what works is not searched again");
    odd.store(1, Ordering::Relaxed);
    assert!(failure(&ask(&mut router, WANTED).await).is_some());
    odd.store(2, Ordering::Relaxed);
    assert!(matches!(ask(&mut router, WANTED).await, Answer::Mapped(_)));
    assert!(searches() > first);
}

/// A router that has restarted listens at another port; the search finds it within the time for a release.
#[tokio::test]
async fn a_device_that_has_moved_is_still_asked_to_delete() {
    let ip = address();
    let old = upnp_at((ip, 0), decent(|_, _| false), 1, here);
    let (ssdp, at) = (old.ssdp, Arc::new(Mutex::new(None::<SocketAddr>)));
    let moved = Arc::clone(&at);
    let deaf = TcpListener::bind((ip, 0)).unwrap();
    let gone = deaf.local_addr().unwrap();
    let page = decent(move |request, stream| {
        // The control address of the first description is one where nobody listens any more.
        let root = request.starts_with("GET /root") && moved.lock().unwrap().is_none();
        if root {
            *moved.lock().unwrap() = Some(gone);
            say(stream, "200 OK", &super::by_http::description(&format!("http://{gone}/ctl")));
        }
        root
    });
    drop((old, deaf));
    let device = upnp_at((ip, 1900), page, 1, here);
    let mut router = router(ip, ssdp);
    assert_eq!(failure(&ask(&mut router, WANTED).await), Some(Failure::NoRouter));
    assert_eq!(ask(&mut router, release(Protocol::UpnpIgd, device.ip)).await, Answer::Released);
    assert!(device.searches.load(Ordering::Relaxed) > 0 && at.lock().unwrap().is_some());
}
