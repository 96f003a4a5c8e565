//! A steady stream of events from one node to another, and how it fared.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::node::Home;
use super::process::Running;
use super::wait_until;

/// Between two events: 500 a second.
pub(crate) const EVERY: Duration = Duration::from_millis(2);

/// How long the last events may take.
const LAST: Duration = Duration::from_secs(30);

/// How long a subscription may take until the first event arrives.
const FIRST: Duration = Duration::from_secs(40);

/// Events under way.
pub(crate) struct Stream {
    said: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<(Instant, u64)>>>,
    speaking: Option<JoinHandle<()>>,
    publisher: Running,
    _subscriber: Running,
    reading: Option<JoinHandle<()>>,
}

impl Stream {
    /// Starts to publish events of `bytes` bytes from one node to the other.
    pub(crate) fn start(from: &Home, to: &Home, channel: &str, bytes: usize) -> Self {
        let mut subscriber = to.background(&["subscribe", channel], Stdio::null(), Stdio::piped());
        let output = subscriber.child().stdout.take().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&heard);
        let reading = thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let at = Instant::now();
                if let Some(n) = line.split(' ').find_map(|word| word.parse().ok()) {
                    notes.lock().unwrap().push((at, n));
                }
            }
        });
        // Until its node's record names the subscription nobody publishes to it.
        thread::sleep(Duration::from_secs(3));
        let mut publisher = from.background(&["publish", channel], Stdio::piped(), Stdio::null());
        let mut input = publisher.child().stdin.take().unwrap();
        let (said, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, stop) = (Arc::clone(&said), Arc::clone(&over));
        let filling = "x".repeat(bytes.saturating_sub(10));
        let speaking = thread::spawn(move || {
            let start = Instant::now();
            let mut n = 0u32;
            while !stop.load(Ordering::Relaxed) {
                if input.write_all(format!("{n} {filling}\n").as_bytes()).is_err() {
                    return;
                }
                n += 1;
                counter.store(n.into(), Ordering::Relaxed);
                thread::sleep((EVERY * n).saturating_sub(start.elapsed()));
            }
        });
        let stream = Self {
            said,
            over,
            heard,
            speaking: Some(speaking),
            publisher,
            _subscriber: subscriber,
            reading: Some(reading),
        };
        wait_until("the first event", FIRST, || (!stream.heard.lock().unwrap().is_empty()).then_some(()));
        stream
    }

    /// The longest time without an event between two moments, and until the first one after the second.
    pub(crate) fn gap(&self, from: Instant, to: Instant) -> Duration {
        let heard = self.heard.lock().unwrap();
        let before = heard.iter().map(|(at, _)| *at).rfind(|at| *at <= from).unwrap_or(from);
        let mut longest = Duration::ZERO;
        let mut last = before;
        for at in heard.iter().map(|(at, _)| *at).filter(|at| *at > from) {
            longest = longest.max(at - last);
            last = at;
            if at > to {
                return longest;
            }
        }
        longest.max(Instant::now() - last)
    }

    /// Waits for the first event after `since`; how long it took.
    pub(crate) fn next_after(&self, since: Instant, limit: Duration) -> Option<Duration> {
        let deadline = since + limit;
        loop {
            let next = self.heard.lock().unwrap().iter().map(|(at, _)| *at).find(|at| *at > since);
            if let Some(at) = next {
                return Some(at - since);
            }
            if Instant::now() > deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it: every event must have come once and in order. How many there were.
    pub(crate) fn end(mut self) -> Result<u64, String> {
        self.over.store(true, Ordering::Relaxed);
        self.speaking.take().map(JoinHandle::join);
        let ended = self.publisher.wait(LAST).and_then(|status| status.code());
        if ended != Some(0) {
            return Err(format!("publish ended with {ended:?}: {}", self.publisher.log()));
        }
        let said = self.said.load(Ordering::Relaxed);
        let deadline = Instant::now() + LAST;
        while (self.heard.lock().unwrap().len() as u64) < said && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        drop(self._subscriber);
        self.reading.take().map(JoinHandle::join);
        let heard: Vec<u64> = self.heard.lock().unwrap().iter().map(|(_, n)| *n).collect();
        let mut sorted = heard.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let lost = said - sorted.len() as u64;
        let twice = heard.len() - sorted.len();
        let ordered = heard.is_sorted();
        if lost == 0 && twice == 0 && ordered {
            Ok(said)
        } else {
            Err(format!("of {said} events {lost} were lost, {twice} came twice; in order: {ordered}"))
        }
    }
}
