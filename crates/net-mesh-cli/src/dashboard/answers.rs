//! The page's files and its JSON.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use net_mesh::Mesh;
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use super::guard::Guard;
use super::samples::{EVERY, Sample, Samples};
use crate::admin::server::MAX_RENDEZVOUS;
use crate::json::{ErrorJson, MemberJson, PeerJson, RendezvousJson, StatusJson, WhyJson};

/// For how long one snapshot serves all who look, so that many open pages cost the node what one does.
pub(super) const FRESH: Duration = Duration::from_millis(500);

/// The page may load and ask what this node serves, and nothing else; nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// Sent with every answer, refusals too.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

macro_rules! page {
    ($($file:literal: $kind:literal,)+) => {
        /// The files of the page: name, media type, content.
        const PAGE: &[(&str, &str, &str)] =
            &[$((concat!("/", $file), $kind, include_str!(concat!("page/", $file))),)+];
    };
}

page! {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "main.js": "text/javascript; charset=utf-8",
    "model.js": "text/javascript; charset=utf-8",
    "format.js": "text/javascript; charset=utf-8",
    "layout.js": "text/javascript; charset=utf-8",
    "picture.js": "text/javascript; charset=utf-8",
    "chart.js": "text/javascript; charset=utf-8",
    "table.js": "text/javascript; charset=utf-8",
    "parts.js": "text/javascript; charset=utf-8",
    "detail.js": "text/javascript; charset=utf-8",
}

/// What the answers are made from.
struct Source {
    mesh: Mesh,
    samples: Mutex<Samples>,
    snapshot: Mutex<Option<(Instant, Bytes)>>,
}

/// All that a page needs to draw itself, `GET /api/snapshot`.
#[derive(Serialize)]
struct SnapshotJson {
    status: StatusJson,
    peers: Vec<PeerJson>,
    mesh: Vec<MemberJson>,
    rendezvous: Vec<RendezvousJson>,
    sample: Option<Sample>,
}

/// Ends the task with whoever owns it.
struct Sampler(tokio::task::JoinHandle<()>);

impl Drop for Sampler {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Clone)]
struct Shared {
    source: Arc<Source>,
    _sampler: Arc<Sampler>,
}

pub(super) fn router(mesh: Mesh, guard: Guard) -> Router {
    let source = Arc::new(Source { mesh, samples: Mutex::default(), snapshot: Mutex::default() });
    let sampler = Sampler(tokio::spawn(sample(Arc::clone(&source))));
    let mut router = Router::new()
        .route("/api/snapshot", get(snapshot))
        .route("/api/history", get(history))
        .route("/api/why/{peer}", get(why))
        .with_state(Shared { source, _sampler: Arc::new(sampler) });
    for (path, kind, content) in PAGE {
        let file = get(async || ([(header::CONTENT_TYPE, *kind)], *content));
        if *path == "/index.html" {
            router = router.route("/", file.clone());
        }
        router = router.route(path, file);
    }
    router
        .fallback(async || failure(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .layer(from_fn_with_state(guard, guarded))
}

async fn guarded(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut response = match guard.check(request.method(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => failure(refusal.status(), refusal),
    };
    let headers: &mut HeaderMap = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn sample(source: Arc<Source>) {
    let began = tokio::time::Instant::now();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let peers = source.mesh.peers();
        source.samples.lock().unwrap_or_else(PoisonError::into_inner).take(began.elapsed(), &peers);
    }
}

impl Source {
    /// The mesh as it is, or was a moment ago.
    fn snapshot(&self) -> Result<Bytes, serde_json::Error> {
        let mut kept = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = kept.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(bytes.clone());
        }
        let mesh = &self.mesh;
        let bytes = Bytes::from(serde_json::to_vec(&SnapshotJson {
            status: StatusJson::of(mesh),
            peers: mesh.peers().into_iter().map(|peer| PeerJson::of(mesh, peer)).collect(),
            mesh: mesh.members().into_iter().map(MemberJson::from).collect(),
            rendezvous: RendezvousJson::latest(mesh, MAX_RENDEZVOUS),
            sample: self.samples.lock().unwrap_or_else(PoisonError::into_inner).last().cloned(),
        })?);
        *kept = Some((Instant::now(), bytes.clone()));
        Ok(bytes)
    }
}

async fn snapshot(State(shared): State<Shared>) -> Response {
    match shared.source.snapshot() {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

async fn history(State(shared): State<Shared>) -> Response {
    let samples = shared.source.samples.lock().unwrap_or_else(PoisonError::into_inner);
    Json(samples.all().collect::<Vec<_>>()).into_response()
}

async fn why(State(shared): State<Shared>, peer: Result<Path<String>, PathRejection>) -> Response {
    let mesh = &shared.source.mesh;
    let peer = match peer {
        Ok(Path(peer)) => peer,
        Err(error) => return failure(error.status(), error),
    };
    let why = mesh.resolve(&peer).map_err(|error| error.to_string());
    match why.and_then(|peer| mesh.why(peer).map_err(|error| error.to_string())) {
        Ok(why) => Json(WhyJson::of(mesh, why)).into_response(),
        Err(error) => failure(StatusCode::NOT_FOUND, error),
    }
}

fn failure(status: StatusCode, error: impl ToString) -> Response {
    (status, Json(ErrorJson { error: error.to_string(), accepted: None })).into_response()
}
