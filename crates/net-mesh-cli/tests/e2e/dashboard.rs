//! The dashboard over HTTP, as browsers and what is not a browser ask it; `in_a_browser` looks at the page.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::support::node::Home;
use crate::support::pair::{MEET_LIMIT, Pair};
use crate::support::process::free_tcp_port;
use crate::support::wait_until;

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Sends a request head as it is, and reads to the end.
fn ask(addr: SocketAddr, head: &str) -> Answer {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

fn get(addr: SocketAddr, path: &str) -> Answer {
    ask(addr, &format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n"))
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_tcp_port()))
}

#[test]
fn pages_of_others_are_refused_whatever_they_call_the_dashboard() {
    let home = Home::here();
    home.init("one");
    let addr = loopback();
    let node = home.up(&["--listen", "127.0.0.1:0", "--dashboard", &addr.to_string()]);
    let port = addr.port();
    let snapshot = "GET /api/snapshot HTTP/1.1\r\n";
    for (head, status) in [
        (format!("{snapshot}Host: 127.0.0.1:{port}\r\n"), 200),
        (format!("{snapshot}Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\n"), 200),
        (format!("{snapshot}Host: rebound.example:{port}\r\n"), 403),
        (format!("{snapshot}Host: 127.0.0.1\r\n"), 403),
        (format!("{snapshot}Host: [::1]:{port}\r\n"), 403),
        (snapshot.to_owned(), 400),
        ("GET /api/snapshot HTTP/1.0\r\n".to_owned(), 400),
        (format!("{snapshot}Host: 127.0.0.1:{port}\r\nHost: 127.0.0.1:{port}\r\n"), 400),
        (format!("GET http://rebound.example/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"), 403),
        (format!("{snapshot}Host: 127.0.0.1:{port}\r\nOrigin: http://elsewhere.example\r\n"), 403),
        (format!("{snapshot}Host: 127.0.0.1:{port}\r\nOrigin: null\r\n"), 403),
        (
            format!(
                "{snapshot}Host: 127.0.0.1:{port}\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n"
            ),
            403,
        ),
        (format!("POST /api/snapshot HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\n"), 405),
        (format!("OPTIONS / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"), 405),
        (format!("GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"), 404),
    ] {
        let answer = ask(addr, &head);
        assert_eq!(answer.status, status, "{head}{}", answer.body);
        assert_eq!(answer.header("access-control-allow-origin"), None, "{head}");
        let policy = answer.header("content-security-policy").unwrap_or_else(|| panic!("{head}"));
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
        let told = answer.body.contains(&*home.json(&["status", "--json"])["node_id"].to_string());
        assert_eq!(told, status == 200, "{head}");
    }
    node.stop();
}

#[test]
fn every_file_of_the_page_comes_from_the_node_and_names_nobody_else() {
    let home = Home::here();
    home.init("one");
    let addr = loopback();
    let node = home.up(&["--listen", "127.0.0.1:0", "--dashboard", &addr.to_string()]);
    let mut names = vec!["/".to_owned(), "/main.js".into(), "/style.css".into(), "/icon.svg".into()];
    let modules = |text: &str| -> Vec<String> {
        let parts = text.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next());
        parts.map(|name| format!("/{name}")).collect()
    };
    let mut next = 0;
    while let Some(name) = names.get(next).cloned() {
        let answer = get(addr, &name);
        assert_eq!(answer.status, 200, "{name}");
        let kind = answer.header("content-type").unwrap();
        let wanted = match name.rsplit_once('.').map(|(_, end)| end) {
            Some("js") => "text/javascript",
            Some("css") => "text/css",
            Some("svg") => "image/svg+xml",
            _ => "text/html",
        };
        assert!(kind.starts_with(wanted), "{name}: {kind}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{name}");
        let foreign = answer.body.replace("http://www.w3.org/2000/svg", "");
        assert!(!foreign.contains("://") && !foreign.contains("@import"), "{name} names another site");
        for module in modules(&answer.body) {
            if !names.contains(&module) {
                names.push(module);
            }
        }
        next += 1;
    }
    assert!(names.len() > 8, "the modules were not found: {names:?}");
    assert_eq!(get(addr, "/nothing.js").status, 404);
    node.stop();
}

#[test]
fn the_dashboard_says_what_the_admin_api_says() {
    let pair = Pair::new();
    let addr = loopback();
    let listen = |n: usize| pair.addrs[n].to_string();
    let one = pair.homes[0].up(&["--listen", &listen(0), "--dashboard", &addr.to_string()]);
    let two = pair.homes[1].up(&["--listen", &listen(1)]);
    one.wait_for_direct_peers(&["two"], MEET_LIMIT);
    two.wait_for_direct_peers(&["one"], MEET_LIMIT);
    let id = two.status()["node_id"].clone();
    let snapshot = wait_until("two's record tells of its link", MEET_LIMIT, || {
        let snapshot = get(addr, "/api/snapshot").json();
        let two = snapshot["mesh"].as_array()?.iter().find(|member| member["name"] == "two")?;
        (two["links"][0]["node_id"] == snapshot["status"]["node_id"]).then_some(snapshot)
    });
    assert_eq!(snapshot["status"]["name"], "one");
    assert_eq!(snapshot["peers"][0]["node_id"], id);
    assert_eq!(snapshot["peers"][0]["path"]["addr"], listen(1));
    assert_eq!(snapshot["rendezvous"], Value::Array(vec![]), "nobody needs one on loopback");
    assert_eq!(snapshot["mesh"][0]["name"], "one", "this node comes first");
    assert!(snapshot["mesh"][0]["age_ms"].is_null());

    let history = wait_until("a sample of the session", MEET_LIMIT, || {
        let history = get(addr, "/api/history").json();
        (history.as_array()?.last()?["direct"] == 1).then_some(history)
    });
    let sample = history.as_array().unwrap().last().unwrap();
    for (key, what) in
        [("at_ms", "time"), ("tx", "rate"), ("rx", "rate"), ("rtt_ms", "time"), ("rtt_max_ms", "time")]
    {
        assert!(sample[key].is_number(), "{what} {key}: {sample}");
    }
    let why = get(addr, "/api/why/two").json();
    assert!(why["reason"].as_str().is_some_and(|reason| reason.starts_with("direct")), "{why}");
    assert_eq!(get(addr, "/api/why/nobody").status, 404);

    // ... and so does the command, in both forms.
    let mesh = pair.homes[0].json(&["peers", "--mesh", "--json"]);
    assert_eq!(mesh[1]["links"][0]["node_id"], snapshot["status"]["node_id"]);
    let text = pair.homes[0].ok(&["peers", "--mesh"]);
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(rows.len(), 3, "{text}");
    assert!(
        rows[1].starts_with("one") && rows[1].contains("this node") && rows[1].contains("two "),
        "{text}"
    );
    assert!(rows[2].starts_with("two") && rows[2].contains(" ago") && rows[2].contains("one "), "{text}");
    one.stop();
    two.stop();
}

#[test]
fn a_dashboard_is_for_loopback_unless_the_operator_says_otherwise() {
    let home = Home::here();
    home.init("one");
    let everywhere = format!("0.0.0.0:{}", free_tcp_port());
    let done = home.run(&["up", "--dashboard", &everywhere]);
    assert_eq!((done.code, done.stderr.contains("--dashboard-allow-remote")), (Some(2), true), "{done:?}");
    let done = home.run(&["up", "--dashboard-allow-remote"]);
    assert_eq!(done.code, Some(2), "{done:?}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let line = home.run(&["up", "--dashboard", &addr]).failure("a dashboard where another program listens");
    assert!(line.contains(&addr), "{line}");

    let node = home.up(&["--listen", "127.0.0.1:0", "--dashboard", &everywhere, "--dashboard-allow-remote"]);
    let addr: SocketAddr = everywhere.replace("0.0.0.0", "127.0.0.1").parse().unwrap();
    assert_eq!(get(addr, "/").status, 200);
    let rebound = ask(addr, &format!("GET / HTTP/1.1\r\nHost: rebound.example:{}\r\n", addr.port()));
    assert_eq!(rebound.status, 403);
    node.stop();
}

#[test]
fn those_who_connect_and_say_nothing_do_not_keep_the_dashboard_or_the_node() {
    let home = Home::here();
    home.init("one");
    let addr = loopback();
    let node = home.up(&["--listen", "127.0.0.1:0", "--dashboard", &addr.to_string()]);
    // More than may be connected at a time; none of them says anything.
    let silent: Vec<TcpStream> = (0..80).map(|_| TcpStream::connect(addr).unwrap()).collect();
    assert_eq!(node.status()["name"], "one");
    // They are sent away after fifteen seconds.
    let answer = get(addr, "/");
    assert_eq!(answer.status, 200);
    drop(silent);
    node.stop();
}
