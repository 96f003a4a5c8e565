//! The commands' end of the admin API: one connection per request.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use futures_util::Stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::{FRAMES, LINES, socket};
use crate::home::Home;
use crate::json::doctor::{AdviceJson, DoctorJson};
use crate::json::{
    ErrorJson, MemberJson, PeerJson, PingJson, PingRequest, PublishedJson, StatusJson, WhyJson,
};

/// The largest answer that is read whole, in bytes. A peer takes about 400.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// How long a node may take from its lock to its socket: far longer than reading its files does, and no longer than a person
/// waits for a node that hangs.
const STARTING: Duration = Duration::from_secs(2);

/// How long a node that a script has just started may take to its lock. Every command waits that long where no node runs.
const FORKED: Duration = Duration::from_millis(300);

/// Between two looks for the socket.
const AGAIN: Duration = Duration::from_millis(20);

type Body = BoxBody<Bytes, std::io::Error>;

/// The node answered that it could not do it.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Refused {
    /// The HTTP status.
    pub status: StatusCode,
    /// The node's words.
    pub error: String,
}

/// No node runs in this home.
#[derive(Debug, thiserror::Error)]
#[error("no node is running in {}: start one with `{start}`", .dir.display())]
pub(crate) struct Nobody {
    dir: PathBuf,
    start: String,
}

/// What the running node of a home can be asked.
pub(crate) struct Client<'a> {
    home: &'a Home,
}

impl<'a> Client<'a> {
    pub(crate) fn new(home: &'a Home) -> Self {
        Self { home }
    }

    /// `GET /v1/status`.
    pub(crate) async fn status(&self) -> anyhow::Result<StatusJson> {
        whole(self.send(Method::GET, "/v1/status", None, empty()).await?).await
    }

    /// `GET /v1/peers`.
    pub(crate) async fn peers(&self) -> anyhow::Result<Vec<PeerJson>> {
        whole(self.send(Method::GET, "/v1/peers", None, empty()).await?).await
    }

    /// `GET /v1/mesh`.
    pub(crate) async fn members(&self) -> anyhow::Result<Vec<MemberJson>> {
        whole(self.send(Method::GET, "/v1/mesh", None, empty()).await?).await
    }

    /// `GET /v1/why/{peer}`.
    pub(crate) async fn why(&self, peer: &str) -> anyhow::Result<WhyJson> {
        let path = format!("/v1/why/{}", utf8_percent_encode(peer, NON_ALPHANUMERIC));
        whole(self.send(Method::GET, &path, None, empty()).await?).await
    }

    /// `GET /v1/doctor`.
    pub(crate) async fn doctor(&self) -> anyhow::Result<DoctorJson> {
        whole(self.send(Method::GET, "/v1/doctor", None, empty()).await?).await
    }

    /// `GET /v1/doctor/mesh`.
    pub(crate) async fn advice(&self) -> anyhow::Result<AdviceJson> {
        whole(self.send(Method::GET, "/v1/doctor/mesh", None, empty()).await?).await
    }

    /// `GET /v1/why/{peer}?half=own`: without asking the peer.
    pub(crate) async fn why_here(&self, peer: &str) -> anyhow::Result<WhyJson> {
        let path = format!("/v1/why/{}?half=own", utf8_percent_encode(peer, NON_ALPHANUMERIC));
        whole(self.send(Method::GET, &path, None, empty()).await?).await
    }

    /// `POST /v1/ping`.
    pub(crate) async fn ping(&self, peer: &str) -> anyhow::Result<PingJson> {
        let body = json(&PingRequest { peer: peer.to_owned() })?;
        whole(self.send(Method::POST, "/v1/ping", Some("application/json"), body).await?).await
    }

    /// Publishes one event.
    pub(crate) async fn publish(&self, channel: &str, payload: Bytes) -> anyhow::Result<PublishedJson> {
        let body = Full::new(payload).map_err(|never| match never {}).boxed();
        let path = channel_path(channel);
        whole(self.send(Method::POST, &path, Some("application/octet-stream"), body).await?).await
    }

    /// Publishes one event a line of `pieces`, at the pace the node takes them.
    pub(crate) async fn publish_lines(
        &self,
        channel: &str,
        pieces: impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
    ) -> anyhow::Result<PublishedJson> {
        use futures_util::TryStreamExt as _;
        let body = StreamBody::new(pieces.map_ok(Frame::data)).boxed();
        whole(self.send(Method::POST, &channel_path(channel), Some(LINES), body).await?).await
    }

    /// Subscribes; the events are [`frames`](super::frames), or JSON, one object a line.
    pub(crate) async fn subscribe(&self, channel: &str, json: bool) -> anyhow::Result<Incoming> {
        let format = if json { "json" } else { "frames" };
        let path = format!("{}?format={format}", channel_path(channel));
        let response = self.send(Method::GET, &path, None, empty()).await?;
        if !json && response.headers().get(header::CONTENT_TYPE).is_none_or(|kind| kind != FRAMES) {
            bail!("the node in {} is of another version: restart it", self.home.dir().display());
        }
        Ok(response.into_body())
    }

    /// A connection to the node, also to one that is about to open its socket.
    async fn connect(&self) -> anyhow::Result<UnixStream> {
        let began = Instant::now();
        loop {
            if let Some(stream) = socket::connect(self.home.dir()).await? {
                return Ok(stream);
            }
            let patience = if self.home.is_locked() { STARTING } else { FORKED };
            if began.elapsed() >= patience {
                return Err(Nobody { dir: self.home.dir().to_owned(), start: self.home.command("up") }.into());
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        kind: Option<&str>,
        body: Body,
    ) -> anyhow::Result<Response<Incoming>> {
        self.home.require()?;
        let stream = self.connect().await?;
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "net-mesh");
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let request = request.body(body).context("cannot form the request")?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let error = match whole::<ErrorJson>(response).await {
            Ok(ErrorJson { error, accepted: None | Some(0) }) => error,
            Ok(ErrorJson { error, accepted: Some(accepted) }) => {
                format!("{error} ({} published)", before(accepted))
            }
            Err(_) => format!("the node answered {status}"),
        };
        Err(Refused { status, error }.into())
    }
}

fn before(accepted: u64) -> String {
    if accepted == 1 {
        "the event before it was".to_owned()
    } else {
        format!("the {accepted} events before it were")
    }
}

fn broken(error: hyper::Error) -> anyhow::Error {
    anyhow::Error::new(error).context("the node went away before it answered")
}

fn channel_path(channel: &str) -> String {
    format!("/v1/channels/{}", utf8_percent_encode(channel, NON_ALPHANUMERIC))
}

fn empty() -> Body {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed()
}

fn json(value: &impl Serialize) -> anyhow::Result<Body> {
    let bytes = Bytes::from(serde_json::to_vec(value)?);
    Ok(Full::new(bytes).map_err(|never| match never {}).boxed())
}

async fn whole<T: DeserializeOwned>(response: Response<Incoming>) -> anyhow::Result<T> {
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| anyhow!("the node's answer broke off: {error}"))?;
    serde_json::from_slice(&body.to_bytes())
        .context("the node's answer makes no sense: is it of another version?")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A home that has a node, as far as a command can see.
    fn home(dir: &std::path::Path) -> Home {
        std::fs::write(dir.join("node.key"), "").unwrap();
        Home::locate(Some(dir), None).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_about_to_open_its_socket_is_waited_for() {
        let tmp = tempfile::tempdir().unwrap();
        let home = home(tmp.path());
        let _lock = home.lock().unwrap();
        let opening = async {
            tokio::time::sleep(STARTING * 3 / 4).await;
            socket::listen(tmp.path()).unwrap()
        };
        let client = Client::new(&home);
        let (connected, _listener) = tokio::join!(client.connect(), opening);
        connected.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_does_not_run_is_given_up_soon_and_one_that_hangs_a_little_later() {
        let tmp = tempfile::tempdir().unwrap();
        let home = home(tmp.path());
        let began = Instant::now();
        let error = Client::new(&home).connect().await.unwrap_err();
        assert!(error.is::<Nobody>() && began.elapsed() < FORKED + 2 * AGAIN, "{:?}", began.elapsed());
        let start = format!("`net-mesh --home {} up`", tmp.path().display());
        assert!(error.to_string().contains(&start), "{error}");

        let _lock = home.lock().unwrap();
        let began = Instant::now();
        assert!(Client::new(&home).connect().await.unwrap_err().is::<Nobody>());
        assert!((STARTING..STARTING + 2 * AGAIN).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[test]
    fn what_was_published_before_a_failure_is_one_event_or_several() {
        assert_eq!(before(1), "the event before it was");
        assert_eq!(before(2), "the 2 events before it were");
    }
}
