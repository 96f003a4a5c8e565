//! The listener: HTTP/1.1, a bounded number of connections, none for ever.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections at a time. A browser opens six for a page; more wait in the system's queue.
pub(super) const MAX_CONNECTIONS: usize = 64;

/// How long a request's head may take to arrive, and a connection may be idle: pages ask once a second.
const HEAD: Duration = Duration::from_secs(15);

/// How long a connection may live. Whoever takes answers too slowly holds a place no longer than this.
const LIFETIME: Duration = Duration::from_secs(300);

/// What is left to a request that is under way at the end of its connection's life.
const LAST_REQUEST: Duration = Duration::from_secs(10);

/// Between two tries to accept where the system has no file descriptor left.
const NO_DESCRIPTOR: Duration = Duration::from_millis(500);

/// Accepts and answers until it is dropped, and then cuts off all who are connected.
pub(super) async fn run(listener: TcpListener, router: Router) -> std::io::Result<()> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                connections.spawn(async move {
                    let _place = place;
                    let Ok(()) = answer(stream, router).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "the dashboard cannot accept a connection");
                tokio::time::sleep(NO_DESCRIPTOR).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, router: Router) -> Result<(), Infallible> {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    if tokio::time::timeout(LIFETIME, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(LAST_REQUEST, connection).await;
    }
    Ok(())
}
