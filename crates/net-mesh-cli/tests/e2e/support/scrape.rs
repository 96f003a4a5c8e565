//! Metrics as whoever scrapes them gets them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The head and the body of an HTTP answer.
pub(crate) fn http(addr: SocketAddr, method: &str, path: &str) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    Ok((head.to_owned(), body.to_owned()))
}

/// One scrape.
pub(crate) struct Scrape {
    pub(crate) text: String,
}

impl Scrape {
    pub(crate) fn of(addr: SocketAddr) -> Self {
        let (head, text) = http(addr, "GET", "/metrics").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        Self { text }
    }

    /// The values of the series of a metric that have these labels, written as in `path="direct"`.
    pub(crate) fn values(&self, name: &str, labels: &[&str]) -> Vec<f64> {
        let series = self.text.lines().filter_map(|line| line.rsplit_once(' '));
        series
            .filter(|(series, _)| {
                let rest = series.strip_prefix(name);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
                    && labels.iter().all(|label| series.contains(label))
            })
            .map(|(_, value)| value.parse().unwrap())
            .collect()
    }

    /// Their sum; fails if there are none.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let values = self.values(name, labels);
        assert!(!values.is_empty(), "no {name} with {labels:?}:\n{}", self.text);
        values.iter().sum()
    }
}
