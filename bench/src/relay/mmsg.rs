//! `recvmmsg` and `sendmmsg` with GRO and GSO, and no more of them than the benchmark needs.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd as _, RawFd};

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};

/// Room for one control message with an `int` in it, aligned as `cmsghdr` must be.
type Control = [u64; 4];

/// A bound IPv4 UDP socket with buffers of 4 MiB, as net-mesh's.
pub fn socket() -> Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    let _ = socket.set_recv_buffer_size(4 << 20);
    let _ = socket.set_send_buffer_size(4 << 20);
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    Ok(socket.into())
}

fn set_udp_option(socket: &UdpSocket, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let (pointer, size) = ((&raw const value).cast(), size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the pointer is to an int that outlives the call, and the size is its.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, option, pointer, size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the kernel hand over runs of equal datagrams as one buffer.
pub fn receive_runs(socket: &UdpSocket) -> io::Result<()> {
    set_udp_option(socket, libc::UDP_GRO, 1)
}

/// Cuts what is sent into datagrams of `size` bytes.
pub fn cut_into(socket: &UdpSocket, size: usize) -> io::Result<()> {
    set_udp_option(socket, libc::UDP_SEGMENT, size as libc::c_int)
}

/// Buffers and headers for some messages.
pub struct Messages {
    size: usize,
    space: Vec<u8>,
    names: Vec<libc::sockaddr_in>,
    controls: Vec<Control>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Messages {
    /// `count` messages of at most `size` bytes.
    pub fn new(count: usize, size: usize) -> Self {
        // SAFETY: all of these are plain C structures for which zero bytes are a valid value.
        let (name, vector, header) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            size,
            space: vec![0; count * size],
            names: vec![name; count],
            controls: vec![[0; 4]; count],
            vectors: vec![vector; count],
            headers: vec![header; count],
        }
    }

    /// Receives messages without waiting if `now`, else waits for one. With `lengths_only` their bytes are
    /// not copied. Returns how many came.
    pub fn receive(&mut self, fd: RawFd, now: bool, lengths_only: bool) -> io::Result<usize> {
        for i in 0..self.headers.len() {
            self.vectors[i].iov_base = self.space[i * self.size..].as_mut_ptr().cast();
            self.vectors[i].iov_len = if lengths_only { 1 } else { self.size };
            let header = &mut self.headers[i].msg_hdr;
            header.msg_name = (&raw mut self.names[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            header.msg_iov = &raw mut self.vectors[i];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut self.controls[i]).cast();
            header.msg_controllen = size_of::<Control>() as _;
        }
        let mut flags = if now { libc::MSG_DONTWAIT } else { libc::MSG_WAITFORONE };
        if lengths_only {
            flags |= libc::MSG_TRUNC;
        }
        let count = self.headers.len() as libc::c_uint;
        // SAFETY: every header points to a name, a vector and a control buffer of this struct, each as long
        // as the header says, and none of them is touched elsewhere during the call.
        let received =
            unsafe { libc::recvmmsg(fd, self.headers.as_mut_ptr(), count, flags, std::ptr::null_mut()) };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// How long the `i`-th message is, and the datagrams in it.
    pub fn length(&self, i: usize) -> (usize, usize) {
        let length = self.headers[i].msg_len as usize;
        (length, self.segment(i).filter(|s| *s > 0).unwrap_or(length))
    }

    pub fn bytes(&mut self, i: usize) -> &mut [u8] {
        let length = self.headers[i].msg_len as usize;
        &mut self.space[i * self.size..][..length]
    }

    fn segment(&self, i: usize) -> Option<usize> {
        let header = &self.headers[i].msg_hdr;
        // SAFETY: after a receive the kernel has filled the control buffer and set its length; the macros
        // walk no further than that, and UDP_GRO carries an int.
        unsafe {
            let control = libc::CMSG_FIRSTHDR(header);
            if control.is_null() || (*control).cmsg_type != libc::UDP_GRO {
                return None;
            }
            usize::try_from(libc::CMSG_DATA(control).cast::<libc::c_int>().read_unaligned()).ok()
        }
    }

    /// Makes the `i`-th message one to `to`, cut into datagrams of `segment` bytes.
    pub fn address(&mut self, i: usize, to: SocketAddrV4, segment: usize) {
        let length = self.headers[i].msg_len as usize;
        self.names[i].sin_family = libc::AF_INET as libc::sa_family_t;
        self.names[i].sin_port = to.port().to_be();
        self.names[i].sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
        self.vectors[i].iov_len = length;
        let header = &mut self.headers[i].msg_hdr;
        if segment >= length {
            header.msg_control = std::ptr::null_mut();
            header.msg_controllen = 0;
            return;
        }
        header.msg_control = (&raw mut self.controls[i]).cast();
        // SAFETY: the control buffer has room for a header and two bytes, and is aligned for both.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(2) as _;
            let control = libc::CMSG_FIRSTHDR(header);
            (*control).cmsg_level = libc::SOL_UDP;
            (*control).cmsg_type = libc::UDP_SEGMENT;
            (*control).cmsg_len = libc::CMSG_LEN(2) as _;
            libc::CMSG_DATA(control).cast::<u16>().write_unaligned(segment as u16);
        }
    }

    /// Fills all messages with `bytes`, for a connected socket.
    pub fn fill(&mut self, bytes: &[u8]) {
        for i in 0..self.headers.len() {
            self.space[i * self.size..][..bytes.len()].copy_from_slice(bytes);
            self.vectors[i].iov_base = self.space[i * self.size..].as_mut_ptr().cast();
            self.vectors[i].iov_len = bytes.len();
            self.headers[i].msg_hdr.msg_iov = &raw mut self.vectors[i];
            self.headers[i].msg_hdr.msg_iovlen = 1;
        }
    }

    /// Sends the first `count` messages. Returns how many the kernel took.
    pub fn send(&mut self, fd: RawFd, count: usize) -> io::Result<usize> {
        let count = count.min(self.headers.len()) as libc::c_uint;
        // SAFETY: as for receiving; the kernel only reads them.
        let sent = unsafe { libc::sendmmsg(fd, self.headers.as_mut_ptr(), count, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}
