//! What does Prometheus get?
//!
//! `up --metrics ADDR:PORT` answers `GET /metrics` in Prometheus' text format; `docs/metrics.md` lists what is in it.
//! Nobody is asked who they are: whoever can connect can read.
//!
//! Why not the listener that the exporter brings: it takes any number of connections, and a node's file
//! descriptors are needed for its work.
//!
//! Bounds: [`MAX_CONNECTIONS`], each for one request and [`LIFETIME`] at most; one text for all who ask within [`FRESH`].

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The only path there is.
const PATH: &str = "/metrics";

/// Connections at a time: a few Prometheus servers and a person. More wait in the system's queue.
const MAX_CONNECTIONS: usize = 16;

/// How long a connection may live, which carries one request: some hundred kilobytes over a slow line. Whoever asks or
/// reads more slowly gives up the place.
const LIFETIME: Duration = Duration::from_secs(10);

/// How long a text serves all who ask. The node brings its metrics up to date once a second.
const FRESH: Duration = Duration::from_millis(500);

/// Between two tries to accept where the system has no file descriptor left.
const NO_DESCRIPTOR: Duration = Duration::from_millis(500);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// An endpoint that listens and does not answer yet.
pub(crate) struct Endpoint {
    listener: TcpListener,
    addr: SocketAddr,
    pages: Arc<Pages>,
}

/// An endpoint that answers, as long as this lives.
pub(crate) struct Served(tokio::task::JoinHandle<()>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Endpoint {
    /// Listens at `addr`, and records metrics from now on. To be called before the node starts.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub(crate) fn bind(addr: SocketAddr) -> anyhow::Result<Self> {
        let cannot = || format!("cannot listen on {addr} for --metrics");
        let listener = TcpListener::bind(addr)
            .map_err(|error| anyhow!("{}: {error}; give --metrics another port", cannot()))?;
        listener.set_nonblocking(true).with_context(cannot)?;
        let addr = listener.local_addr().with_context(cannot)?;
        let recorder = PrometheusBuilder::new().build_recorder();
        let pages = Arc::new(Pages { handle: recorder.handle(), last: Mutex::new(None) });
        metrics::set_global_recorder(recorder).map_err(|error| anyhow!("cannot record metrics: {error}"))?;
        Ok(Self { listener, addr, pages })
    }

    /// Starts to answer.
    ///
    /// # Errors
    /// If the listener cannot be used.
    pub(crate) fn serve(self) -> anyhow::Result<Served> {
        let listener =
            tokio::net::TcpListener::from_std(self.listener).context("the listener of --metrics")?;
        tracing::info!(url = format!("http://{}{PATH}", self.addr), "metrics");
        Ok(Served(tokio::spawn(accept(listener, self.pages))))
    }
}

async fn accept(listener: tokio::net::TcpListener, pages: Arc<Pages>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropped with this task, and with it all that are connected.
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let pages = Arc::clone(&pages);
                connections.spawn(async move {
                    let _place = place;
                    let _ = tokio::time::timeout(LIFETIME, answer(stream, pages)).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection to the metrics is not accepted");
                tokio::time::sleep(NO_DESCRIPTOR).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, pages: Arc<Pages>) {
    let service = service_fn(|request| {
        let response = pages.answer(&request);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    // A connection that breaks off is its client's business.
    let _ = connection.await;
}

/// What is answered.
struct Pages {
    handle: PrometheusHandle,
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Pages {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, text) = if request.uri().path() != PATH {
            (StatusCode::NOT_FOUND, Bytes::from_static(b"there is nothing but /metrics\n"))
        } else if ![Method::GET, Method::HEAD].contains(request.method()) {
            (StatusCode::METHOD_NOT_ALLOWED, Bytes::from_static(b"metrics can only be read\n"))
        } else {
            (StatusCode::OK, self.text())
        };
        let mut response = Response::new(Full::new(text));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, TEXT);
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }

    fn text(&self) -> Bytes {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, text)) = &*last
            && at.elapsed() < FRESH
        {
            return text.clone();
        }
        let text = Bytes::from(self.handle.render());
        *last = Some((Instant::now(), text.clone()));
        text
    }
}
