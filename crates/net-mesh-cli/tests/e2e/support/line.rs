//! Access lines with delay and loss, in user space: kernels without `netem` have no other way.
//!
//! A router hands every packet that it forwards to a TUN device. A thread reads it there, holds it or
//! drops it, and writes it back to the same device, from where the router sends it on. Both
//! directions go through the one device, and both are treated alike.
//!
//! Whoever needs a bad line measures it first ([`measure`]): a line that turns out to be perfect proves
//! nothing about the program.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use patchbay::Router;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::net::{Host, ip};
use super::process::Place;

/// What a line does to every packet, in each direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quality {
    /// How long a packet is held: half of what the line adds to a round trip.
    pub(crate) delay: Duration,
    /// The share of packets that are dropped, from 0 to 1.
    pub(crate) loss: f64,
    /// Which ones: the same seed drops the same positions of the sequence of all packets.
    pub(crate) seed: u64,
}

/// A line at work. Dropping it ends the thread; the router forwards nothing from then on.
pub(crate) struct Line {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// The device's name in the router, and the routing table that leads to it.
const DEVICE: &str = "line";
const TABLE: &str = "77";

/// Packets the kernel keeps for the thread. More than a burst of any test, so that nothing is lost but what
/// the line means to lose.
const QUEUE: &str = "20000";

/// Longest packet on the line, in bytes. The devices of a lab carry 1500.
const LONGEST: usize = 2048;

impl Line {
    /// Turns everything that `router` forwards into a line of this quality.
    pub(crate) fn through(router: &Router, quality: Quality) -> Self {
        let device = router.run_sync(|| Ok(open_tun(DEVICE)?)).expect("a TUN device in a namespace");
        let place = Place::Router(router.clone());
        let ip = |arguments: &[&str]| ip(&place, arguments);
        router
            .run_sync(|| {
                // What comes back from the device has its origin on another one, rightly.
                for name in ["all", DEVICE] {
                    std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0")?;
                }
                Ok(())
            })
            .unwrap();
        ip(&["link", "set", DEVICE, "txqueuelen", QUEUE, "up"]);
        ip(&["route", "add", "default", "dev", DEVICE, "table", TABLE]);
        for interface in router.interfaces() {
            ip(&["rule", "add", "iif", interface.name(), "lookup", TABLE]);
        }
        let bridge = bridge_of(router, &place);
        ip(&["rule", "add", "iif", &bridge, "lookup", TABLE]);

        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(forward(device, quality, stopped))
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        drop(self.stop.take());
        let result = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(result, Some(Ok(Ok(())))), "a line broke: {result:?}");
        }
    }
}

/// The interface behind which the router's own network is.
fn bridge_of(router: &Router, place: &Place) -> String {
    let gateway = router.downstream_gw().unwrap();
    let shown = ip(place, &["-o", "-4", "addr", "show", "to", &gateway.to_string()]);
    // "5: br-p3    inet 44.10.1.1/24 ..."
    shown
        .split_whitespace()
        .nth(1)
        .unwrap_or_else(|| panic!("no interface has {gateway}: {shown}"))
        .to_owned()
}

/// Opens a TUN device of the current network namespace, for whole IP packets without any header before them.
#[allow(unsafe_code, reason = "attaching to a TUN device is an ioctl, which std does not offer")]
fn open_tun(name: &str) -> io::Result<File> {
    let device =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: all zeroes are a valid `ifreq`: an empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::try_from(from).map_err(io::Error::other)?;
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, and TUNSETIFF reads and writes one `ifreq`, which lives on.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(device) }
}

#[allow(unsafe_code, reason = "tokio leaves it to us that the descriptor stays the same")]
async fn forward(device: File, quality: Quality, mut stopped: oneshot::Receiver<()>) -> io::Result<()> {
    // SAFETY: a `File` keeps its descriptor until it is dropped, which it is together with the `AsyncFd`.
    let device = unsafe { AsyncFd::register(device) }?;
    let mut dice = Dice(quality.seed);
    // One delay for all: the first in is the first out.
    let mut held: VecDeque<(tokio::time::Instant, Vec<u8>)> = VecDeque::new();
    let mut packet = [0; LONGEST];
    loop {
        let due = held.front().map(|(due, _)| *due);
        tokio::select! {
            _ = &mut stopped => return Ok(()),
            () = async { tokio::time::sleep_until(due.unwrap()).await }, if due.is_some() => {
                let now = tokio::time::Instant::now();
                while held.front().is_some_and(|(due, _)| *due <= now) {
                    let Some((_, packet)) = held.pop_front() else { break };
                    match device.get_ref().write(&packet) {
                        // The kernel refuses what makes no sense to it; a line carries it no further.
                        Ok(_) => {}
                        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            ready = device.readable() => {
                let mut ready = ready?;
                loop {
                    match ready.try_io(|device| device.get_ref().read(&mut packet)) {
                        Ok(Ok(length)) => {
                            if !dice.falls(quality.loss) {
                                let due = tokio::time::Instant::now() + quality.delay;
                                held.push_back((due, packet[..length].to_vec()));
                            }
                        }
                        Ok(Err(error)) => return Err(error),
                        Err(_would_block) => break,
                    }
                }
            }
        }
    }
}

/// SplitMix64: enough for loss, and nothing to depend on.
struct Dice(u64);

impl Dice {
    fn falls(&mut self, share: f64) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
        let unit = (z >> 11) as f64 / (1_u64 << 53) as f64;
        unit < share
    }
}

/// What one host sees of the way to another one and back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// The median of the round trips.
    pub(crate) rtt: Duration,
    /// The share of datagrams lost on the way there, and of the answers lost on the way back.
    pub(crate) lost: [f64; 2],
}

/// Datagrams of a measurement: with a loss of 5 % their count has a standard deviation of 0.4 %.
pub(crate) const DATAGRAMS: u32 = 3_000;

/// Datagrams sent in one go, and the pause after them.
const BURST: u32 = 20;
const PAUSE: Duration = Duration::from_millis(2);

/// How long the last answer is awaited: longer than any round trip here, and time to be scheduled.
const LAST_ANSWER: Duration = Duration::from_millis(1_500);

/// Sends datagrams from one host to another, which answers each, and counts.
pub(crate) fn measure(from: &Host, to: &Host) -> Measured {
    let (here, there) = (from.socket(), to.socket());
    let target = there.local_addr().unwrap();
    await_way(&here, &there, target);

    let echo = std::thread::spawn(move || echo_until_silence(&there));
    let sender = here.try_clone().unwrap();
    let start = Instant::now();
    let sent = std::thread::spawn(move || {
        for n in 0..DATAGRAMS {
            sender.send_to(&stamp(n, start), target).unwrap();
            if (n + 1) % BURST == 0 {
                std::thread::sleep(PAUSE);
            }
        }
    });
    let mut rtts = Vec::new();
    here.set_read_timeout(Some(LAST_ANSWER)).unwrap();
    let mut buffer = [0; 64];
    while let Ok(length) = here.recv(&mut buffer) {
        if let Some(at) = read_stamp(&buffer[..length]) {
            rtts.push(start.elapsed().saturating_sub(at));
        }
    }
    sent.join().unwrap();
    let arrived = echo.join().unwrap();
    rtts.sort_unstable();
    let rtt = *rtts.get(rtts.len() / 2).expect("some answers come back");
    let answers = u32::try_from(rtts.len()).unwrap();
    let share = |arrived: u32, sent: u32| 1.0 - f64::from(arrived) / f64::from(sent);
    Measured { rtt, lost: [share(arrived, DATAGRAMS), share(answers, arrived)] }
}

/// The first datagrams on fresh links wait for address resolution, and would count as lost or slow.
fn await_way(here: &UdpSocket, there: &UdpSocket, target: SocketAddr) {
    for socket in [here, there] {
        socket.set_read_timeout(Some(Duration::from_millis(800))).unwrap();
    }
    let mut buffer = [0; 64];
    for _ in 0..20 {
        here.send_to(b"way?", target).unwrap();
        if let Ok((_, back)) = there.recv_from(&mut buffer) {
            there.send_to(b"way!", back).unwrap();
            if here.recv(&mut buffer).is_ok() {
                return;
            }
        }
    }
    panic!("no way to {target}");
}

fn stamp(n: u32, start: Instant) -> [u8; 12] {
    let mut datagram = [0; 12];
    datagram[..4].copy_from_slice(&n.to_be_bytes());
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap();
    datagram[4..].copy_from_slice(&micros.to_be_bytes());
    datagram
}

fn read_stamp(datagram: &[u8]) -> Option<Duration> {
    let datagram: &[u8; 12] = datagram.try_into().ok()?;
    Some(Duration::from_micros(u64::from_be_bytes(datagram[4..].try_into().unwrap())))
}

/// Answers until nothing has come for a while; how many measuring datagrams came.
fn echo_until_silence(socket: &UdpSocket) -> u32 {
    socket.set_read_timeout(Some(LAST_ANSWER)).unwrap();
    let (mut buffer, mut count) = ([0; 64], 0);
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) if read_stamp(&buffer[..length]).is_some() => {
                count += 1;
                socket.send_to(&buffer[..length], from).unwrap();
            }
            // A late question for the way.
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return count;
            }
            Err(error) => panic!("{error}"),
        }
    }
}
