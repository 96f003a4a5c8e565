//! The node's end of the admin API.
//!
//! Bounds: a request that is not a stream of events is read up to [`MAX_REQUEST`] bytes or one event; a
//! stream is never held beyond one line, and published at the pace the mesh takes it. Every failure is
//! answered with its status and `{"error": ...}`.

use std::future::Future;
use std::path::{Path as FsPath, PathBuf};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use net_mesh::{Event, Mesh, NodeId, PeerError, PublishError, Publisher, ResolveError, SubscribeError};
use serde::Deserialize;

use super::batches::Batches;
use super::lines::{Lines, TooLong};
use super::{FRAMES, JSON_LINES, LINES, frames, socket};
use crate::doctor::Report;
use crate::json::doctor::{AdviceJson, DoctorJson};
use crate::json::{
    ErrorJson, EventJson, MemberJson, PeerJson, PingJson, PingRequest, PublishedJson, RendezvousJson,
    StatusJson, WhyJson,
};
use crate::text::millis;

/// The largest request that is not an event, in bytes. A peer's name or id is far shorter.
const MAX_REQUEST: usize = 4 * 1024;

/// Attempts in one answer: what an operator reads of.
pub(crate) const MAX_RENDEZVOUS: usize = 50;

/// How long a refused stream is read on and thrown away. A client that is still sending would otherwise
/// meet a closed connection before it has read why.
const LINGER: Duration = Duration::from_secs(2);

/// The socket, until it is dropped. Who connects before it is run waits.
pub(crate) struct Server {
    listener: tokio::net::UnixListener,
    cleanup: Cleanup,
}

struct Cleanup(PathBuf);

impl Drop for Cleanup {
    fn drop(&mut self) {
        socket::remove(&self.0);
    }
}

impl Server {
    /// Opens the socket in `dir`. The caller holds the home's lock.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn bind(dir: &FsPath) -> anyhow::Result<Self> {
        Ok(Self { listener: socket::listen(dir)?, cleanup: Cleanup(dir.to_owned()) })
    }

    /// Answers until `stop`, then finishes what is under way.
    ///
    /// # Errors
    /// If the socket fails.
    pub(crate) async fn run(
        self,
        mesh: Mesh,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let _cleanup = self.cleanup;
        axum::serve(self.listener, router(mesh)).with_graceful_shutdown(stop).await
    }
}

fn router(mesh: Mesh) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/peers", get(peers))
        .route("/v1/mesh", get(members))
        .route("/v1/rendezvous", get(rendezvous))
        .route("/v1/why/{peer}", get(why))
        .route("/v1/doctor", get(doctor))
        .route("/v1/doctor/mesh", get(advice))
        .route("/v1/ping", post(ping))
        .route("/v1/channels/{channel}", get(subscribe).post(publish))
        .fallback(async || Failure::new(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
        })
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(mesh)
}

async fn status(State(mesh): State<Mesh>) -> Json<StatusJson> {
    Json(StatusJson::of(&mesh))
}

async fn peers(State(mesh): State<Mesh>) -> Json<Vec<PeerJson>> {
    Json(mesh.peers().into_iter().map(|peer| PeerJson::of(&mesh, peer)).collect())
}

async fn members(State(mesh): State<Mesh>) -> Json<Vec<MemberJson>> {
    Json(mesh.members().into_iter().map(MemberJson::from).collect())
}

async fn rendezvous(State(mesh): State<Mesh>) -> Json<Vec<RendezvousJson>> {
    Json(RendezvousJson::latest(&mesh, MAX_RENDEZVOUS))
}

/// Whose half of a decision record is wanted.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Half {
    #[default]
    Both,
    Own,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asking {
    #[serde(default)]
    half: Half,
}

async fn why(
    State(mesh): State<Mesh>,
    peer: Result<Path<String>, PathRejection>,
    query: Result<Query<Asking>, QueryRejection>,
) -> Result<Json<WhyJson>, Failure> {
    let (peer, query) = (other(&mesh, &peer?.0)?, query?.0);
    let why = match query.half {
        Half::Both => mesh.why_from_both(peer).await,
        Half::Own => mesh.why(peer),
    };
    Ok(Json(WhyJson::of(&mesh, why.map_err(|error| about(&mesh, peer, error))?)))
}

async fn doctor(State(mesh): State<Mesh>) -> Json<DoctorJson> {
    Json(concluded(DoctorJson::of(&mesh)))
}

async fn advice(State(mesh): State<Mesh>) -> Json<AdviceJson> {
    Json(concluded(AdviceJson::of(&mesh)))
}

fn concluded<R: Report>(mut report: R) -> R {
    report.conclude();
    report
}

/// The member that `text` names, which is to be another one than this node.
fn other(mesh: &Mesh, text: &str) -> Result<NodeId, Failure> {
    let peer = mesh.resolve(text)?;
    if peer == mesh.node_id() {
        return Err(Failure::new(StatusCode::NOT_FOUND, format!("{text} is this node: name another member")));
    }
    Ok(peer)
}

/// What failed with `peer`, which is called by its name.
fn about(mesh: &Mesh, peer: NodeId, error: PeerError) -> Failure {
    let name = mesh.member_name(&peer).unwrap_or_else(|| peer.short());
    let failure = Failure::from(error);
    Failure { error: failure.error.replace(&peer.to_string(), &name), ..failure }
}

async fn ping(
    State(mesh): State<Mesh>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<PingJson>, Failure> {
    let request: PingRequest = serde_json::from_slice(&body?)
        .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, format!("not a ping request: {error}")))?;
    let peer = other(&mesh, &request.peer)?;
    let failed = |error| about(&mesh, peer, error);
    mesh.discover(peer).map_err(failed)?;
    let pong = mesh.ping(peer).await.map_err(failed)?;
    Ok(Json(PingJson {
        node_id: peer.to_string(),
        name: mesh.member_name(&peer).unwrap_or_else(|| peer.short()),
        path: crate::json::PathJson::of(&mesh, &pong.path),
        rtt_ms: millis(pong.rtt),
    }))
}

async fn publish(
    State(mesh): State<Mesh>,
    channel: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<PublishedJson>, Failure> {
    let publisher = mesh.publisher(&channel?.0)?;
    let accepted = if headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == LINES) {
        publish_lines(&publisher, body).await?
    } else {
        let limited = Limited::new(body, net_mesh::MAX_EVENT);
        let payload = limited.collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { too_large() } else { Failure::unread(&error) }
        })?;
        publisher.publish(payload.to_bytes()).await?;
        1
    };
    Ok(Json(PublishedJson { accepted }))
}

async fn publish_lines(publisher: &Publisher, body: Body) -> Result<u64, Failure> {
    let mut body = body.into_data_stream();
    let mut accepted = 0;
    match publish_each_line(publisher, &mut body, &mut accepted).await {
        Ok(()) => Ok(accepted),
        Err(failure) => {
            tokio::spawn(tokio::time::timeout(LINGER, body.for_each(async |_| {})));
            Err(Failure { accepted: Some(accepted), ..failure })
        }
    }
}

async fn publish_each_line(
    publisher: &Publisher,
    body: &mut BodyDataStream,
    accepted: &mut u64,
) -> Result<(), Failure> {
    let mut lines = Lines::new(net_mesh::MAX_EVENT);
    while let Some(piece) = body.next().await {
        // A body that breaks off ends in a piece of a line, which is not an event.
        lines.push(piece.map_err(|error| Failure::unread(&error))?);
        while let Some(line) = lines.next()? {
            publisher.publish(line).await?;
            *accepted += 1;
            // Events that are taken at once would otherwise keep the node from everything else.
            tokio::task::coop::consume_budget().await;
        }
    }
    if let Some(line) = lines.finish() {
        publisher.publish(line).await?;
        *accepted += 1;
    }
    Ok(())
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Json,
    Frames,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subscribing {
    #[serde(default)]
    format: Format,
}

async fn subscribe(
    State(mesh): State<Mesh>,
    channel: Result<Path<String>, PathRejection>,
    query: Result<Query<Subscribing>, QueryRejection>,
) -> Result<Response, Failure> {
    let (channel, query) = (channel?.0, query?.0);
    let events = mesh.subscribe(&channel)?;
    let (kind, write): (_, fn(&Event, &mut BytesMut)) = match query.format {
        Format::Json => (JSON_LINES, write_json),
        Format::Frames => (FRAMES, write_frame),
    };
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(Batches::new(events, write))).into_response())
}

fn write_json(event: &Event, out: &mut BytesMut) {
    // Neither half can fail: the writer grows, and nothing in an event has no form in JSON.
    let _ = serde_json::to_writer(out.writer(), &EventJson::of(event));
    out.put_u8(b'\n');
}

fn write_frame(event: &Event, out: &mut BytesMut) {
    frames::encode(&event.payload, event.missed, event.restarted, out);
}

/// Why a request failed, as the client is told.
struct Failure {
    status: StatusCode,
    error: String,
    accepted: Option<u64>,
}

impl Failure {
    fn new(status: StatusCode, error: impl ToString) -> Self {
        Self { status, error: error.to_string(), accepted: None }
    }

    fn unread(error: &impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, format!("the request broke off: {}", error.to_string()))
    }
}

fn too_large() -> Failure {
    let limit = net_mesh::MAX_EVENT;
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, format!("an event has at most {limit} bytes: split it"))
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorJson { error: self.error, accepted: self.accepted })).into_response()
    }
}

impl From<TooLong> for Failure {
    fn from(_: TooLong) -> Self {
        let limit = net_mesh::MAX_EVENT;
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a line is longer than the {limit} bytes an event may have: split it"),
        )
    }
}

macro_rules! failures {
    ($($error:ty => $status:expr,)+) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                let status: fn(&$error) -> StatusCode = $status;
                Self::new(status(&error), error)
            }
        })+
    };
}

failures! {
    PathRejection => PathRejection::status,
    QueryRejection => QueryRejection::status,
    BytesRejection => BytesRejection::status,
    PublishError => |_| StatusCode::BAD_REQUEST,
    SubscribeError => |_| StatusCode::BAD_REQUEST,
    ResolveError => |_| StatusCode::NOT_FOUND,
    PeerError => |error| match error {
        PeerError::Unknown(_) => StatusCode::NOT_FOUND,
        PeerError::ShutDown => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::GATEWAY_TIMEOUT,
    },
}
