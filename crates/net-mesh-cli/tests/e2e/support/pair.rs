//! Two nodes on loopback, joined by a ticket, and a stream of events from one to the other.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::node::{Home, Node};
use super::process::{Running, free_port};

/// How long two nodes on loopback may take to find each other.
pub(crate) const MEET_LIMIT: Duration = Duration::from_secs(20);

/// Homes of two members of one mesh, and the addresses they will listen on.
pub(crate) struct Pair {
    pub(crate) homes: [Home; 2],
    pub(crate) addrs: [SocketAddr; 2],
}

impl Pair {
    pub(crate) fn new() -> Self {
        let homes = [Home::here(), Home::here()];
        let addrs = [0, 1].map(|_| SocketAddr::from(([127, 0, 0, 1], free_port())));
        homes[0].init("one");
        homes[1].join(&homes[0].invite(&addrs[..1]), "two");
        Self { homes, addrs }
    }

    /// Starts both nodes and waits until each sees the other.
    pub(crate) fn up(&self) -> [Node<'_>; 2] {
        let nodes = [0, 1].map(|n| self.homes[n].up(&["--listen", &self.addrs[n].to_string()]));
        nodes[0].wait_for_direct_peers(&["two"], MEET_LIMIT);
        nodes[1].wait_for_direct_peers(&["one"], MEET_LIMIT);
        nodes
    }
}

/// `subscribe --json` in the background, read line by line.
pub(crate) struct Subscriber {
    process: Running,
    lines: BufReader<ChildStdout>,
    line: String,
}

impl Subscriber {
    /// Subscribes, and returns once an event of `publisher` has come through.
    pub(crate) fn ready(home: &Home, publisher: &Home, channel: &str) -> Self {
        let mut process = home.background(&["subscribe", channel, "--json"], Stdio::null(), Stdio::piped());
        let stdout = process.child().stdout.take().unwrap();
        let mut subscriber =
            Self { process, lines: BufReader::with_capacity(1 << 20, stdout), line: String::new() };
        // What was published before the publisher knew of the subscription went to nobody. So say
        // something until it is heard, and a last word after which all that follows counts.
        let heard = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let start = Instant::now();
                while !heard.load(Ordering::Relaxed) && start.elapsed() < MEET_LIMIT {
                    publisher.ok(&["publish", channel, "anyone?"]);
                    thread::sleep(Duration::from_millis(50));
                }
            });
            assert!(subscriber.next_line().contains("anyone?"), "the first event is a wrong one");
            heard.store(true, Ordering::Relaxed);
        });
        publisher.ok(&["publish", channel, "ready"]);
        while !subscriber.next_line().contains(r#""payload":"ready""#) {}
        subscriber
    }

    /// The next event, as it was printed.
    pub(crate) fn next_line(&mut self) -> &str {
        self.line.clear();
        let read = self.lines.read_line(&mut self.line).unwrap();
        assert!(read > 0, "`subscribe` ended:\n{}", self.process.log());
        self.line.trim_end()
    }

    /// Fails unless the next event has this payload, which must need no escaping in JSON, and follows
    /// the one before without a gap.
    pub(crate) fn expect(&mut self, payload: &str) {
        let line = self.next_line();
        let (_, rest) = line.split_once(r#""payload":""#).unwrap_or_else(|| panic!("no payload: {line}"));
        let shown = &rest[..rest.len().min(200)];
        assert_eq!(rest.strip_prefix(payload), Some("\"}"), "instead of {:.80}: {shown}", payload);
    }
}

/// Publishes lines through the standard input of `publish`, in the background.
pub(crate) fn publish<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    home: &'scope Home,
    channel: &'scope str,
    lines: impl Iterator<Item = String> + Send + 'scope,
) {
    scope.spawn(move || {
        let mut process = home.background(&["publish", channel], Stdio::piped(), Stdio::null());
        let mut stdin = std::io::BufWriter::with_capacity(1 << 20, process.child().stdin.take().unwrap());
        for line in lines {
            stdin.write_all(line.as_bytes()).unwrap();
            stdin.write_all(b"\n").unwrap();
        }
        stdin.flush().unwrap();
        drop(stdin);
        let status = process.wait(Duration::from_secs(60));
        assert_eq!(status.and_then(|status| status.code()), Some(0), "publish:\n{}", process.log());
    });
}
