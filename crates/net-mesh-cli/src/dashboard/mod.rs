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

use anyhow::{Context as _, bail};
use net_mesh::Mesh;

/// A dashboard that listens and does not answer yet.
pub(crate) struct Dashboard {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Dashboard {
    /// Listens at `addr`; elsewhere than on loopback only with `allow_remote`.
    ///
    /// # Errors
    /// If the address is not on loopback and must be, or cannot be listened on.
    pub(crate) fn bind(addr: SocketAddr, allow_remote: bool) -> anyhow::Result<Self> {
        if !addr.ip().to_canonical().is_loopback() && !allow_remote {
            bail!(
                "the dashboard has no password, and {addr} is not on loopback: use 127.0.0.1 and an SSH tunnel, \
                 or say --dashboard-allow-remote"
            );
        }
        let listener =
            TcpListener::bind(addr).with_context(|| format!("the dashboard cannot listen on {addr}"))?;
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
