//! Reflex against a STUN client and a STUN server that nobody here wrote, both coturn's.

use std::fs::File;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::node::Home;
use crate::support::process::{Place, Running, free_port, program, run};
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_foreign_client_learns_its_address_from_a_node() {
    let client = program("turnutils_stunclient", "coturn");
    let home = Home::here();
    home.init("node");
    let port = free_port();
    let node = home.up(&["--listen", &format!("127.0.0.1:{port}")]);

    let mut command = Command::new(client);
    command.args(["-p", &port.to_string(), "-L", "127.0.0.1", "127.0.0.1"]);
    let done = run(&Place::Here, command);
    let told = format!("{}{}", done.stdout, done.stderr);
    assert_eq!(done.code, Some(0), "{told}");
    // "0: IPv4. UDP reflexive addr: 127.0.0.1:48012"
    let line = told.lines().find(|line| line.contains("reflexive addr")).unwrap_or_else(|| panic!("{told}"));
    let addr = line.rsplit_once(' ').unwrap().1;
    let addr: std::net::SocketAddr = addr.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(addr.ip().is_loopback() && addr.port() != 0 && addr.port() != port, "{line}");
    node.stop();
}

#[test]
fn a_node_learns_its_address_from_a_foreign_server() {
    let (server_port, node_port) = (free_port(), free_port());
    let home = Home::here();
    let server = start_coturn(&home, server_port);

    home.init("node");
    let own = format!("127.0.0.1:{node_port}");
    let node = home.up(&["--listen", &own, "--stun", &format!("127.0.0.1:{server_port}")]);
    node.wait_for_status("the address the server told", LIMIT, |status| {
        status["reflexive"].as_array().is_some_and(|all| all.iter().any(|addr| *addr == *own))
    });
    node.stop();
    drop(server);
}

/// coturn's server, STUN only, on loopback, writing nothing outside the home's directory.
fn start_coturn(home: &Home, port: u16) -> Running {
    let (log, none, pid) = (home.beside("coturn.log"), home.beside("none.conf"), home.beside("coturn.pid"));
    File::create(&none).unwrap();
    let mut command = Command::new(program("turnserver", "coturn"));
    command.arg("-c").arg(&none).arg("--pidfile").arg(&pid);
    command.args(["--stun-only", "--no-auth", "--no-cli", "--no-tls", "--no-dtls", "--no-tcp"]);
    command.args(["--listening-ip", "127.0.0.1", "--listening-port", &port.to_string()]);
    command.args(["--log-file", "stdout", "--simple-log"]);
    command.arg("--userdb").arg(home.beside("turn.db"));
    let out = File::create(&log).unwrap();
    command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
    let mut server = Running::start(&Place::Here, command, log);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    wait_until("coturn answers", LIMIT, || {
        assert!(server.is_running(), "coturn ended:\n{}", server.log());
        // A bare Binding request (RFC 8489 §5).
        let request = b"\x00\x01\x00\x00\x21\x12\xa4\x42twelve bytes";
        socket.send_to(request, ("127.0.0.1", port)).unwrap();
        socket.recv(&mut [0; 512]).ok()
    });
    server
}
