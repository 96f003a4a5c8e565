//! What does the mesh look like right now, in a browser?
//!
//! `up --dashboard ADDR:PORT` serves a page and the JSON it draws; nothing on it changes anything. The page is
//! part of the program, asks nobody but this node, and looks once a second.
//!
//! | file | what |
//! |---|---|
//! | `guard` | who may ask: pages of others may not, whatever name they give this address |
//! | `serve` | the listener, and how many may be connected |
//! | `samples` | the last minutes in figures, one sample a second |
//! | `answers` | the page's files, and its JSON |
//! | `page/` | the page: HTML, CSS and ES modules, as they are served |
//!
//! Bounds: [`serve::MAX_CONNECTIONS`] connections, [`samples::KEPT`] samples, one snapshot for all who look
//! within [`answers::FRESH`]. Whoever can connect can read: the listener is for loopback, unless the operator
//! says otherwise.

mod answers;
mod guard;
mod samples;
mod serve;

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context as _, anyhow};
use net_mesh::Mesh;

/// A dashboard that listens and does not answer yet.
pub(crate) struct Dashboard {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Dashboard {
    /// Whether whoever listens at `addr` is seen by this host alone.
    pub(crate) fn is_private(addr: SocketAddr) -> bool {
        addr.ip().to_canonical().is_loopback()
    }

    /// Listens at `addr`.
    ///
    /// # Errors
    /// If it cannot be listened on.
    pub(crate) fn bind(addr: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(addr).map_err(|error| {
            anyhow!("the dashboard cannot listen on {addr}: {error}; give --dashboard another port")
        })?;
        listener.set_nonblocking(true).context("the dashboard's listener")?;
        let addr = listener.local_addr().context("the dashboard's listener")?;
        Ok(Self { listener, addr })
    }

    /// Where it is to be opened.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.addr)
    }

    /// Answers until it is dropped.
    ///
    /// # Errors
    /// If the listener cannot be used.
    pub(crate) async fn run(self, mesh: Mesh) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let router = answers::router(mesh, guard::Guard::new(self.addr));
        serve::run(listener, router).await
    }
}
