//! The last advertisement of a router: that it is none any more (RFC 4861, section 6.2.5).
//!
//! radvd says it on all of its interfaces when it is told to end, and on none when an interface leaves its configuration.
//! Neither is right here: a network that has moved has the same router's address elsewhere, which must not be withdrawn,
//! and one that has none any more must hear so while radvd goes on for others.

use std::{
    io,
    net::{Ipv6Addr, SocketAddrV6},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

/// A router advertisement with a lifetime of zero, and without options. The kernel fills in the checksum.
const LAST_ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// How often it is said, as a frame may get lost, and the pause in between.
const TIMES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(50);

/// Tells the guests on these interfaces that there is no router, from the interfaces' own link-local addresses. An
/// interface that cannot tell them has no guests any more, or its router's address was taken from it already.
pub(crate) async fn say(interfaces: &[String]) {
    for time in 0..TIMES {
        if time > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        for interface in interfaces {
            if let Err(error) = say_once(interface) {
                tracing::debug!(interface, %error, "cannot tell guests that there is no router any more");
            }
        }
    }
}

fn say_once(interface: &str) -> io::Result<()> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking().cloexec(), Some(Protocol::ICMPV6))?;
    socket.set_multicast_if_v6(index)?;
    // whoever hears it accepts no other (RFC 4861, section 6.1.2)
    socket.set_multicast_hops_v6(255)?;
    socket.send_to(&LAST_ADVERTISEMENT, &SocketAddrV6::new(ALL_NODES, 0, 0, index).into()).map(drop)
}
