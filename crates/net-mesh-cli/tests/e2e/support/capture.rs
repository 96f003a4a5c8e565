//! Every packet that a router sees, as a capture on its interfaces shows it (packet(7)).

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use patchbay::Router;
use socket2::{Domain, Protocol, Socket, Type};

/// All protocols (`ETH_P_ALL`), in network order.
const ALL: i32 = 0x0003_u16.to_be() as i32;

/// How long a look for a packet lasts, so that the thread notices the end.
const LOOK: Duration = Duration::from_millis(50);

/// A capture under way.
pub(crate) struct Capture {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u16>>,
}

impl Capture {
    /// Captures in the namespace of a router, on all its interfaces.
    pub(crate) fn at(router: &Router) -> Self {
        let socket = router
            .run_sync(|| Ok(Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ALL)))?))
            .expect("a packet socket");
        socket.set_read_timeout(Some(LOOK)).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut ports = Vec::new();
            let mut frame = [0; 2048];
            while !ends.load(Ordering::Relaxed) {
                if let Ok(length) = (&socket).read(&mut frame) {
                    ports.extend(udp_destination(&frame[..length]));
                }
            }
            ports
        });
        Self { over, thread }
    }

    /// Ends it: the destination ports of all UDP packets over IPv4 or IPv6, in order.
    pub(crate) fn end(self) -> Vec<u16> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The destination port of a UDP packet in an Ethernet frame.
fn udp_destination(frame: &[u8]) -> Option<u16> {
    let ethertype = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    let packet = frame.get(14..)?;
    let udp = match ethertype {
        0x0800 if *packet.get(9)? == 17 => packet.get(usize::from(packet[0] & 0xf) * 4..)?,
        0x86dd if *packet.get(6)? == 17 => packet.get(40..)?,
        _ => return None,
    };
    Some(u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]))
}
