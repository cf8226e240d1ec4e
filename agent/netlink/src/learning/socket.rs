//! A packet socket (packet(7)) on a bridge that hears neighbour discovery and nothing else.
//!
//! The bridge hands up to its host what it floods: every multicast frame (its multicast snooping is off), so each
//! duplicate address detection, and each solicitation. Answers to our own solicitations are addressed to the
//! bridge. That is all that is needed: no promiscuous mode, which would bring every frame between guests up to the
//! host. It works with IPv6 disabled on the bridge, as packet sockets come before IPv6.

use std::io::{self, Read as _};

use nix::libc;
use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

const ETH_P_IPV6: u16 = 0x86dd;

/// BPF: an ICMPv6 neighbour solicitation or advertisement with hop limit 255, right behind the IPv6 header.
/// Guests' traffic is dropped here, in the kernel, before it costs anything.
const NEIGHBOUR_DISCOVERY: [SockFilter; 9] = [
    load_byte(20), // next header
    skip_unless(58, 6),
    load_byte(21), // hop limit
    skip_unless(255, 4),
    load_byte(54), // ICMPv6 type
    skip_if(135, 1),
    skip_unless(136, 1),
    SockFilter::new(RETURN, 0, 0, u32::MAX), // keep all of the frame
    SockFilter::new(RETURN, 0, 0, 0),        // drop it
];

const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Room for a frame. Neighbour discovery fits into 1280 bytes (RFC 6980).
const FRAME: usize = 2048;

const fn load_byte(offset: u32) -> SockFilter {
    SockFilter::new(LOAD_BYTE, 0, 0, offset)
}

const fn skip_if(value: u32, instructions: u8) -> SockFilter {
    SockFilter::new(JUMP_IF_EQUAL, instructions, 0, value)
}

const fn skip_unless(value: u32, instructions: u8) -> SockFilter {
    SockFilter::new(JUMP_IF_EQUAL, 0, instructions, value)
}

/// A socket that hears neighbour discovery on one bridge, and can send there.
#[derive(Debug)]
pub(crate) struct DiscoverySocket(AsyncFd<Socket>);

impl DiscoverySocket {
    /// Opens it on the bridge with this interface index.
    pub fn open(index: u32) -> io::Result<Self> {
        // with no protocol yet, the socket receives nothing before its filter is in place
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        socket.attach_filter(&NEIGHBOUR_DISCOVERY)?;
        socket.bind(&link_address(index)?)?;
        // SAFETY: the socket owns its descriptor, and nothing takes the socket out of the AsyncFd or replaces it
        Ok(Self(unsafe { AsyncFd::register(socket) }?))
    }

    /// The next frame, written into `buffer`.
    pub async fn receive<'a>(&self, buffer: &'a mut [u8; FRAME]) -> io::Result<&'a [u8]> {
        let length = self.0.async_io(Interest::READABLE, |mut socket| socket.read(buffer)).await?;
        Ok(buffer.get(..length).unwrap_or_default())
    }

    /// Sends a frame out of the bridge, to all of its ports if it is multicast.
    pub async fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.async_io(Interest::WRITABLE, |socket| socket.send(frame)).await.map(drop)
    }
}

/// A buffer for [`DiscoverySocket::receive`].
pub(crate) fn frame_buffer() -> Box<[u8; FRAME]> {
    Box::new([0; FRAME])
}

/// All of IPv6 on the interface with this index.
fn link_address(index: u32) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the socket addresses, and so fits into the storage and may be all zero
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = ETH_P_IPV6.to_be();
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: the storage holds a sockaddr_ll, of this length
    Ok(unsafe { SockAddr::new(storage, length) })
}
