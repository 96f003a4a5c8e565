//! Senders and receivers: as much as a relay takes, counted where it arrives.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd as _, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::mmsg::{Messages, cut_into, receive_runs, socket};
use super::relays::v4;

/// System calls' worth of messages on their way at a time, for all pairs together: enough that the relay
/// always finds something, and less than the socket buffers hold.
const WINDOW: usize = 64;

/// Without an arrival for this long, what was on its way is taken for lost.
const PATIENCE: Duration = Duration::from_millis(5);

/// A sender and a receiver.
pub struct Pair {
    pub sender: UdpSocket,
    pub receiver: UdpSocket,
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
}

impl Pair {
    pub fn new() -> Result<Self> {
        let (sender, receiver) = (socket()?, socket()?);
        receive_runs(&receiver)?;
        let (from, to) = (v4(sender.local_addr()?)?, v4(receiver.local_addr()?)?);
        Ok(Self { sender, receiver, from, to })
    }
}

/// What arrived, and what was sent.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    pub sent: u64,
    pub arrived: u64,
}

/// Checks that one datagram gets through each pair, changed as it should be.
pub fn check(pairs: &[Pair], datagrams: &[Vec<u8>], expected: &[Vec<u8>]) -> Result<()> {
    for ((pair, datagram), expected) in pairs.iter().zip(datagrams).zip(expected) {
        pair.sender.send(datagram)?;
        pair.receiver.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut buffer = [0; 2048];
        let length = pair.receiver.recv(&mut buffer)?;
        ensure!(buffer[..length] == expected[..], "the relay changed a datagram in a wrong way");
    }
    Ok(())
}

/// Sends for `time` through all pairs in turn, each its datagram, `batch` in a run.
pub fn run(pairs: &[Pair], datagrams: &[Vec<u8>], batch: usize, time: Duration) -> Result<Counts> {
    let ready = Ready::new(pairs)?;
    let per_call = (WINDOW / 2 / pairs.len()).max(1);
    let mut senders = Vec::new();
    for (pair, datagram) in pairs.iter().zip(datagrams) {
        if batch > 1 {
            cut_into(&pair.sender, datagram.len())?;
        }
        let mut messages = Messages::new(per_call, datagram.len() * batch);
        messages.fill(&datagram.repeat(batch));
        senders.push(messages);
    }
    // Unbatched, a message is one small datagram, and four of them are no more than one run.
    let window = (WINDOW * if batch > 1 { batch } else { 4 }) as u64;
    let mut receive = Messages::new(32, 1);
    let mut counts = Counts::default();
    let (mut lost, mut next) = (0, 0);
    let start = Instant::now();
    let mut heard = start;
    loop {
        let now = Instant::now();
        if now - start >= time {
            return Ok(counts);
        }
        while counts.sent - counts.arrived - lost + (per_call * batch) as u64 <= window {
            let sent = senders[next].send(pairs[next].sender.as_raw_fd(), per_call)?;
            counts.sent += (sent * batch) as u64;
            next = (next + 1) % pairs.len();
        }
        let mut any = false;
        for fd in ready.look()? {
            any |= drain(fd, &mut receive, &mut counts)?;
        }
        if any {
            heard = now;
        } else if now - heard > PATIENCE {
            lost = counts.sent - counts.arrived;
            heard = now;
        }
        // What was taken for lost and came after all.
        lost = lost.min(counts.sent - counts.arrived);
    }
}

fn drain(fd: RawFd, receive: &mut Messages, counts: &mut Counts) -> io::Result<bool> {
    let count = match receive.receive(fd, true, true) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        count => count?,
    };
    for i in 0..count {
        let (length, segment) = receive.length(i);
        counts.arrived += length.div_ceil(segment.max(1)) as u64;
    }
    Ok(count > 0)
}

/// Which receivers have something.
struct Ready {
    epoll: RawFd,
    events: std::cell::RefCell<Vec<libc::epoll_event>>,
}

impl Ready {
    fn new(pairs: &[Pair]) -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        for pair in pairs {
            let fd = pair.receiver.as_raw_fd();
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: fd as u64 };
            // SAFETY: the pointer is to a local that outlives the call.
            if unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; pairs.len()].into();
        Ok(Self { epoll, events })
    }

    fn look(&self) -> io::Result<Vec<RawFd>> {
        let mut events = self.events.borrow_mut();
        let room = events.len() as libc::c_int;
        // SAFETY: the pointer is to `room` events that nobody else touches.
        let count = unsafe { libc::epoll_wait(self.epoll, events.as_mut_ptr(), room, 0) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        Ok(events[..count].iter().map(|e| e.u64 as RawFd).collect())
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this struct's own.
        unsafe { libc::close(self.epoll) };
    }
}
