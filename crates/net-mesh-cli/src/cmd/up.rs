//! `up`: the node itself, in the foreground.
//!
//! Starts from the addresses of the settings and those of members met before; remembers new ones every few
//! minutes and at the end. Runs until SIGINT or SIGTERM, then says goodbye to the mesh.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use net_mesh::Mesh;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Misused, names};
use crate::admin::server::Server;
use crate::dashboard::Dashboard;
use crate::home::{Config, Home, SOCKET};
use crate::metrics::Endpoint;
use crate::{log, stdout, text};

/// How often members' addresses are written down. Losing one interval costs nothing unless the whole mesh
/// moves in it.
const REMEMBER_EVERY: Duration = Duration::from_secs(180);

/// How long the end may take: all that the node's own end may, of which the longest part is the router that is asked to
/// delete a port; and a margin for requests under way. A service manager waits far longer before it kills.
const GOODBYE: Duration = net_mesh::SHUTDOWN_LIMIT.saturating_add(Duration::from_secs(1));

/// Run the node in the foreground, until SIGINT or SIGTERM
#[derive(Debug, Args)]
pub(super) struct Up {
    /// A local address to listen on [default: any address, the port of the last time if it is free]
    #[arg(long, value_name = "ADDR:PORT", value_parser = text::parse_addr_port)]
    listen: Vec<SocketAddr>,
    /// A STUN server to ask for this node's address, besides the members
    #[arg(long, value_name = "HOST:PORT", value_parser = text::parse_host_port)]
    stun: Vec<String>,
    /// Carry nothing between other members
    #[arg(long)]
    no_relay: bool,
    /// How much to carry between other members at most, in bytes a second
    #[arg(long, value_name = "BYTES", default_value_t = net_mesh::RelayLimits::default().bytes_per_second, conflicts_with = "no_relay")]
    relay_rate: u64,
    /// Show the live picture of the mesh to browsers at this address, which must be on loopback
    #[arg(long, value_name = "ADDR:PORT", value_parser = text::parse_addr_port)]
    dashboard: Option<SocketAddr>,
    /// Let the dashboard's address be any: whoever can connect to it sees the mesh, without a password
    #[arg(long, requires = "dashboard")]
    dashboard_allow_remote: bool,
    /// Ask the router for a port (PCP, NAT-PMP, UPnP-IGD), which changes its state until the node stops
    #[arg(long)]
    port_mapping: bool,
    /// For how long to ask at a time, in seconds
    #[arg(long, value_name = "SECONDS", requires = "port_mapping", default_value_t = 7200, value_parser = clap::value_parser!(u64).range(20..=86_400))]
    port_mapping_lease: u64,
    /// What to log to stderr, as `tracing` filter directives
    #[arg(long, value_name = "FILTER", env = log::VARIABLE, default_value = log::DEFAULT, value_parser = log::parse_filter)]
    log: String,
    /// What a line of the log looks like
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: log::Format,
    /// Answer `GET /metrics` in Prometheus' format here, to whoever can connect
    #[arg(long, value_name = "ADDR:PORT", value_parser = text::parse_addr_port)]
    metrics: Option<SocketAddr>,
}

/// Either of the two signals that ask the node to stop.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

impl Up {
    pub(super) fn run(self, home: &Home) -> anyhow::Result<()> {
        self.check()?;
        if self.port_mapping && !cfg!(feature = "port-mapping") {
            bail!(
                "this program was built without port mapping; build it with `cargo build --release --features port-mapping`"
            );
        }
        log::start(&self.log, self.log_format)?;
        home.require()?;
        let _lock = home.lock()?;
        let identity = home.material()?.identity()?;
        let config = home.config()?;
        // Before the node starts, so that nothing is missed.
        let metrics = self.metrics.map(Endpoint::bind).transpose()?;
        let dashboard = self.dashboard.map(Dashboard::bind).transpose()?;
        super::block_on(async {
            // From here on a signal means a clean end, also while names are looked up.
            let mut signals = StopSignals::new()?;
            // What may fail comes before the node: one that was started has to be shut down.
            let _metrics = metrics.map(Endpoint::serve).transpose()?;
            let server = Server::bind(home.dir())?;
            let remembered = home.remembered();
            let (mesh, found) = tokio::select! {
                started = self.start(identity, &config, home) => started?,
                () = signals.recv() => return Ok(()),
            };
            let _dashboard = dashboard.map(|dashboard| show(dashboard, mesh.clone()));
            let looking = mesh.clone();
            let look = names::keep_looking(&looking, &config.bootstrap, found, &remembered);
            tokio::select! {
                done = serve(server, mesh, home, self.listen.is_empty(), signals) => done,
                never = look => never,
            }
        })
    }

    /// Whether the flags go together.
    fn check(&self) -> Result<(), Misused> {
        let wrong = |why: String| Err(Misused::new("up", why));
        for family in [SocketAddr::is_ipv4, SocketAddr::is_ipv6] {
            if let Some(second) = self.listen.iter().filter(|addr| family(addr)).nth(1) {
                return wrong(format!(
                    "a node listens on at most one IPv4 and one IPv6 address: leave out --listen {second}"
                ));
            }
        }
        if let Some(addr) = self.dashboard
            && !Dashboard::is_private(addr)
            && !self.dashboard_allow_remote
        {
            return wrong(format!(
                "the dashboard has no password, and {addr} is not on loopback: use 127.0.0.1 and an SSH tunnel, \
                 or say --dashboard-allow-remote"
            ));
        }
        Ok(())
    }

    async fn start(
        &self,
        identity: net_mesh::Identity,
        config: &Config,
        home: &Home,
    ) -> anyhow::Result<(Mesh, names::Found)> {
        let mut builder = Mesh::builder(identity).name(&config.name);
        let limits = net_mesh::RelayLimits { bytes_per_second: self.relay_rate, ..Default::default() };
        builder = builder.relay((!self.no_relay).then_some(limits));
        builder = self.ask_router(builder);
        for addr in &self.listen {
            builder = builder.listen(*addr);
        }
        builder = builder.prefer_port(home.port());
        let found = names::look_up(&config.bootstrap).await;
        for addr in names::starts(&found.addrs, &home.remembered()) {
            builder = builder.bootstrap(addr);
        }
        for addr in names::look_up(&self.stun).await.addrs {
            builder = builder.stun_server(addr);
        }
        // Its text names its cause already.
        let mesh = builder.start().await.map_err(|error| anyhow!("{error}"))?;
        Ok((mesh, found))
    }

    #[cfg(feature = "port-mapping")]
    fn ask_router(&self, builder: net_mesh::Builder) -> net_mesh::Builder {
        let lease = Duration::from_secs(self.port_mapping_lease);
        if self.port_mapping { builder.port_mapping(lease) } else { builder }
    }

    #[cfg(not(feature = "port-mapping"))]
    #[allow(clippy::unused_self, reason = "the same form as with the feature")]
    fn ask_router(&self, builder: net_mesh::Builder) -> net_mesh::Builder {
        builder
    }
}

/// A dashboard that is answered by a task of its own, as long as this lives.
struct Shown(tokio::task::JoinHandle<()>);

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn show(dashboard: Dashboard, mesh: Mesh) -> Shown {
    tracing::info!(url = dashboard.url(), "dashboard");
    Shown(tokio::spawn(async move {
        // The node goes on without it.
        if let Err(error) = dashboard.run(mesh).await {
            tracing::error!(%error, "the dashboard failed");
        }
    }))
}

/// `chose` says that the node's port was free to choose.
async fn serve(
    server: Server,
    mesh: Mesh,
    home: &Home,
    chose: bool,
    mut signals: StopSignals,
) -> anyhow::Result<()> {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut serving = tokio::spawn(server.run(mesh.clone(), async {
        // A sender that is gone means the same.
        let _ = stopped.await;
    }));
    announce(&mesh, home);
    if chose {
        keep_port(&mesh, home);
    }

    let failed = tokio::select! {
        () = signals.recv() => None,
        () = keep_remembering(&mesh, home) => None,
        result = &mut serving => Some(result),
    };
    tracing::info!("stopping");
    remember(&mesh, home);
    drop(stop);
    let goodbye = async {
        mesh.shutdown().await;
        if failed.is_none() {
            let _ = serving.await;
        }
    };
    tokio::select! {
        result = tokio::time::timeout(GOODBYE, goodbye) => {
            if result.is_err() {
                tracing::warn!("stopped without waiting any longer for requests and goodbyes");
            }
        }
        () = signals.recv() => tracing::warn!("stopped at once"),
    }
    match failed {
        None => Ok(()),
        Some(Ok(Ok(()))) => {
            Err(anyhow!("the admin socket was closed: see the log, and start the node again"))
        }
        Some(Ok(Err(error))) => Err(error).context("the admin socket failed"),
        Some(Err(error)) => Err(error).context("the admin socket failed"),
    }
}

fn announce(mesh: &Mesh, home: &Home) {
    let listen: Vec<String> = mesh.local_addrs().iter().map(ToString::to_string).collect();
    let line = format!(
        "ready: node {} listening on {}, admin socket {}",
        mesh.node_id(),
        listen.join(", "),
        home.dir().join(SOCKET).display()
    );
    // The node works as well where nobody reads this.
    let _ = stdout::line(&line);
}

/// Firewalls, routers and tickets name the port: the next run has the same.
fn keep_port(mesh: &Mesh, home: &Home) {
    let Some(addr) = mesh.local_addrs().first().copied() else { return };
    if let Err(error) = home.keep_port(addr.port()) {
        tracing::warn!(error = format!("{error:#}"), "cannot remember the port");
    }
}

async fn keep_remembering(mesh: &Mesh, home: &Home) {
    loop {
        tokio::time::sleep(REMEMBER_EVERY).await;
        remember(mesh, home);
    }
}

/// Writes down where members can be reached. A mesh that nobody is in at the moment does not wipe what is
/// known from before.
fn remember(mesh: &Mesh, home: &Home) {
    let addrs = mesh.member_addrs();
    if addrs.is_empty() || addrs == home.remembered() {
        return;
    }
    if let Err(error) = home.remember(&addrs) {
        tracing::warn!(error = format!("{error:#}"), "cannot remember the members' addresses");
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cmd::{Cli, Command};

    fn checked(flags: &[&str]) -> Result<(), String> {
        let cli = Cli::try_parse_from([&["net-mesh", "up"], flags].concat()).unwrap();
        let Command::Up(up) = cli.command else { panic!("another command") };
        up.check().map_err(|error| error.to_string())
    }

    #[test]
    fn a_node_listens_once_in_each_family() {
        let (v4, v6) = (["--listen", "127.0.0.1:1"], ["--listen", "[::1]:1"]);
        assert_eq!(checked(&[v4, v6].concat()), Ok(()));
        let error = checked(&[v4, v6, ["--listen", "127.0.0.2:2"]].concat()).unwrap_err();
        assert!(error.contains("127.0.0.2:2"), "{error}");
    }

    #[test]
    fn a_dashboard_for_everyone_must_be_meant() {
        assert_eq!(checked(&["--dashboard", "127.0.0.1:8080"]), Ok(()));
        let everyone = ["--dashboard", "0.0.0.0:8080"];
        assert!(checked(&everyone).unwrap_err().contains("--dashboard-allow-remote"));
        assert_eq!(checked(&[&everyone[..], &["--dashboard-allow-remote"]].concat()), Ok(()));
    }
}
