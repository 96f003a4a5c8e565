//! Whatever is wrong, the program says so in one line or counts it, goes on where it can, and nothing is
//! lost for anyone else.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::node::{Home, Node, net_mesh};
use crate::support::pair::{Pair, Subscriber, publish};
use crate::support::process::{Place, free_port, program, run};

const LIMIT: Duration = Duration::from_secs(20);

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// Every file of a home and its content.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeMap::new() };
    let paths = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    paths
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect()
}

#[test]
fn init_refuses_to_overwrite_and_changes_nothing() {
    let home = Home::here();
    home.init("first");
    let before = files(&home.path());
    let line = home.run(&["init", "--name", "second"]).failure("a second init");
    assert!(line.contains(&*home.path().to_string_lossy()), "{line}");
    assert_eq!(files(&home.path()), before);
}

#[test]
fn keys_are_for_their_owner_only() {
    let (home, other) = (Home::here(), Home::here());
    home.init("first");
    other.join(&home.invite(&[loopback()]), "second");
    for dir in [home.path(), other.path()] {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700, "{}", dir.display());
        assert!(!files(&dir).is_empty());
        for name in files(&dir).keys() {
            assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
        }
    }
}

#[test]
fn a_damaged_ticket_is_refused_wherever_the_damage_is() {
    let home = Home::here();
    home.init("first");
    let ticket = home.invite(&[loopback()]);
    let joining = Home::here();
    for at in (0..ticket.len()).step_by(7) {
        let mut damaged = ticket.clone().into_bytes();
        damaged[at] = if damaged[at] == b'q' { b'r' } else { b'q' };
        let damaged = String::from_utf8(damaged).unwrap();
        let line = joining.run(&["join", &damaged, "--name", "second"]).failure("a damaged ticket");
        assert!(line.contains("ticket"), "{line}");
    }
    for cut in [1, ticket.len() / 2, ticket.len() - 1] {
        joining.run(&["join", &ticket[..cut], "--name", "second"]).failure("a cut ticket");
    }
    assert!(files(&joining.path()).is_empty(), "a refused ticket left files behind");
    joining.join(&ticket, "second");
}

#[test]
fn a_member_of_another_mesh_is_refused_and_disturbs_nobody() {
    let pair = Pair::new();
    let nodes = pair.up();
    let mut subscriber = Subscriber::ready(&pair.homes[1], &pair.homes[0], "news");

    // A genuine ticket of its own mesh, which names the address of a node of ours.
    let (founder, stranger_home) = (Home::here(), Home::here());
    founder.init("founder");
    stranger_home.join(&founder.invite(&[pair.addrs[0]]), "stranger");
    let stranger_addr = loopback();
    let mut stranger = stranger_home.up(&["--listen", &stranger_addr.to_string()]);

    let count = 2_000;
    thread::scope(|scope| {
        publish(scope, &pair.homes[0], "news", (0..count).map(|n| format!("item {n}")));
        for n in 0..count {
            subscriber.expect(&format!("item {n}"));
        }
    });
    // Long enough for a handshake on loopback many times over.
    thread::sleep(Duration::from_secs(2));
    for (node, peers) in [(&nodes[0], ["two"]), (&nodes[1], ["one"])] {
        let names: Vec<_> = node.peers().iter().map(|peer| peer["name"].clone()).collect();
        assert_eq!(names, peers, "only members of the mesh are peers");
    }
    assert!(stranger.process.is_running());
    assert!(stranger.peers().iter().all(|peer| peer["path"]["kind"] == "none"), "{:?}", stranger.peers());
    stranger.stop();
    drop(subscriber);
    for node in nodes {
        node.stop();
    }
}

#[test]
fn a_busy_port_is_named() {
    let home = Home::here();
    home.init("node");
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let line = home.run(&["up", "--listen", &addr]).failure("a busy port");
    assert!(line.contains(&addr), "{line}");
}

#[test]
fn a_second_up_in_one_home_is_refused_and_the_first_goes_on() {
    let home = Home::here();
    home.init("node");
    let first = home.up(&["--listen", &loopback().to_string()]);
    let id = first.status()["node_id"].clone();
    home.run(&["up", "--listen", &loopback().to_string()]).failure("a second up");
    assert_eq!(first.status()["node_id"], id);
    first.stop();
    // And the home is free again.
    home.up(&["--listen", &loopback().to_string()]).stop();
}

#[test]
fn a_node_that_was_killed_leaves_a_home_that_starts_again() {
    let home = Home::here();
    home.init("node");
    let mut node = home.up(&["--listen", &loopback().to_string()]);
    node.process.signal("KILL");
    assert!(node.process.wait(LIMIT).is_some());
    home.run(&["status"]).failure("status of a killed node");
    home.up(&["--listen", &loopback().to_string()]).stop();
}

#[test]
fn a_missing_home_and_a_node_that_does_not_run_are_told_apart() {
    let home = Home::here();
    let commands: [&[&str]; 7] = [
        &["up"],
        &["invite"],
        &["status", "--json"],
        &["peers"],
        &["ping", "someone"],
        &["publish", "news", "hello"],
        &["subscribe", "news"],
    ];
    for command in commands {
        let line = home.run(command).failure("a missing home");
        assert!(line.contains("init") && line.contains("join"), "{command:?}: {line}");
    }
    home.init("node");
    for command in &commands[2..] {
        let line = home.run(command).failure("no running node");
        let start = format!("`net-mesh --home {} up`", home.path().display());
        assert!(line.contains(&start), "{command:?}: {line}");
    }
}

#[test]
fn a_command_right_after_the_start_waits_for_the_node() {
    let home = Home::here();
    home.init("node");
    let node = home.start(&["--listen", &loopback().to_string()]);
    home.ok(&["status", "--json"]);
    node.stop();
}

#[test]
fn wrong_usage_ends_with_two_and_a_hint() {
    let home = Home::here();
    let many: Vec<String> = (1..=9).map(|n| format!("--addr=203.0.113.{n}:4433")).collect();
    let many: Vec<&str> = std::iter::once("invite").chain(many.iter().map(String::as_str)).collect();
    let wrong: [&[&str]; 21] = [
        &[],
        &["fly"],
        &["join"],
        &["init", "--no-such-option"],
        &["up", "--listen", "nowhere"],
        &["subscribe", "news", "-n", "some"],
        &["ping", "someone", "-c", "-1"],
        &["lab", "--seed", "seven"],
        &["up", "--log", "inof"],
        &["up", "--log", ""],
        &["up", "--listen", "localhost:5000"],
        &["up", "--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0"],
        &["invite", "--addr", "0.0.0.0:4433"],
        &["invite", "--addr", "203.0.113.7:0"],
        &many,
        &["publish", "", "x"],
        &["publish", &"x".repeat(256), "x"],
        &["subscribe", ""],
        &["why", ""],
        &["ping", ""],
        &["up", "--dashboard", "0.0.0.0:0"],
    ];
    for arguments in wrong {
        let done = home.run(arguments);
        assert_eq!(done.code, Some(2), "{arguments:?}: {done:?}");
        let hint = done.stderr.contains("Usage") || done.stderr.contains("--help");
        assert!(hint && done.stdout.is_empty(), "{arguments:?}: {done:?}");
    }
    assert!(!home.path().exists());
}

/// In a file system of a few pages, made for this test alone, `init` fails at every stage of being full
/// without leaving half a home, and works as soon as there is room.
#[test]
fn init_on_a_full_disk_leaves_nothing_and_works_once_there_is_room() {
    program("unshare", "util-linux");
    let home = Home::here();
    let mount = home.beside("disk");
    fs::create_dir(&mount).unwrap();
    let script = r#"
        set -eu
        mount -t tmpfs -o size=128k tmpfs "$1"
        cat /dev/zero > "$1/filler" 2>/dev/null && exit 9
        size=$(stat -c %s "$1/filler")
        free=0
        while [ "$free" -le 16 ]; do
            truncate -s $((size - free * 4096)) "$1/filler"
            code=0
            said=$("$2" --home "$1/home" init --name node 2>&1) || code=$?
            echo "$free $code $(ls -A "$1/home" 2>/dev/null | tr '\n' ',') $said" | tr '\n' ' '
            echo
            [ "$code" = 0 ] && exit 0
            free=$((free + 1))
        done
        exit 8"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(&mount);
    command.arg(net_mesh(&home.path()).get_program());
    let done = run(&Place::Here, command);
    assert_eq!(done.code, Some(0), "{done:?}");
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert!(lines.len() > 1, "the disk was never full: {done:?}");
    for line in &lines[..lines.len() - 1] {
        let [_, code, files, said] = line.splitn(4, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert_eq!(code, "1", "{line}");
        assert!(said.contains("net-mesh: ") && said.contains("space"), "{line}");
        assert!(!files.contains("node.key") && !files.contains("mesh.secret"), "half a home: {line}");
    }
}

/// Datagrams that no peer would send: every first byte, every length class, truncated QUIC and STUN.
fn garbage() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![Vec::new()];
    let mut noise: u32 = 0x9e37_79b9;
    let mut byte = || {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        noise.to_be_bytes()[0]
    };
    for first in 0..=255u8 {
        for length in [1, 2, 7, 20, 33, 200, 1_199, 1_200, 1_452] {
            let mut datagram: Vec<u8> = (0..length).map(|_| byte()).collect();
            datagram[0] = first;
            all.push(datagram);
        }
    }
    // QUIC version 1 Initials (RFC 9000 §17.2.2) that stop early, or are whole and cannot be decrypted.
    let mut initial = vec![0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0x9e];
    initial.resize(1_200, 0x5a);
    all.extend([1, 5, 6, 13, 14, 17, 18, 40, 600, 1_199, 1_200].map(|cut| initial[..cut].to_vec()));
    // STUN Binding requests (RFC 8489 §5) that stop early or claim another length.
    let request = b"\x00\x01\x00\x00\x21\x12\xa4\x42twelve bytes".to_vec();
    all.extend((1..request.len()).map(|cut| request[..cut].to_vec()));
    for claimed in [1, 4, 255] {
        let mut wrong = request.clone();
        wrong[3] = claimed;
        all.push(wrong);
    }
    all
}

#[test]
fn garbage_at_the_sockets_is_counted_and_no_event_is_lost() {
    let pair = Pair::new();
    let nodes = pair.up();
    let mut subscriber = Subscriber::ready(&pair.homes[1], &pair.homes[0], "news");
    let count = 20_000;
    thread::scope(|scope| {
        publish(scope, &pair.homes[0], "news", (0..count).map(|n| format!("item {n}")));
        scope.spawn(|| {
            let from = UdpSocket::bind("127.0.0.1:0").unwrap();
            for datagram in garbage() {
                for to in pair.addrs {
                    from.send_to(&datagram, to).unwrap();
                }
                // Fast, but not so fast that the kernel drops what the nodes are to count.
                thread::sleep(Duration::from_micros(200));
            }
        });
        for n in 0..count {
            subscriber.expect(&format!("item {n}"));
        }
    });
    for node in &nodes {
        let counted = |status: &serde_json::Value| {
            let drops = &status["drops"];
            ["empty", "unknown-first-byte", "malformed-stun", "short-initial"]
                .iter()
                .all(|reason| drops[reason].as_u64().is_some_and(|count| count > 0))
        };
        node.wait_for_status("the drops are counted", LIMIT, counted);
    }
    drop(subscriber);
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn a_reader_that_leaves_early_does_not_disturb_the_node() {
    let pair = Pair::new();
    let nodes = pair.up();
    let mut stays = Subscriber::ready(&pair.homes[1], &pair.homes[0], "news");
    let leaves = pair.homes[1].background(&["subscribe", "news"], Stdio::null(), Stdio::null());
    let count = 5_000;
    thread::scope(|scope| {
        publish(scope, &pair.homes[0], "news", (0..count).map(|n| format!("item {n}")));
        let mut leaves = Some(leaves);
        for n in 0..count {
            stays.expect(&format!("item {n}"));
            if n == count / 4 {
                leaves.take();
            }
        }
    });
    drop(stays);
    nodes.into_iter().for_each(Node::stop);
}
