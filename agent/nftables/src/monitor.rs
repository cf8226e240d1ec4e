//! The kernel's notifications about changes of tables.

use std::{io, os::fd::AsRawFd as _, time::Duration};

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
};

use crate::render::TABLE;

/// How long to wait before the kernel is asked again for notifications that it stopped or refused to send.
const PAUSE: Duration = Duration::from_secs(1);

/// The group of notifications about nftables: `1 << (NFNLGRP_NFTABLES - 1)` (`linux/netfilter/nfnetlink.h`).
const GROUP: u32 = 1 << 6;

/// Ticks `changes` for each notification that names a table of ours, and whenever some may have been lost. Never ends.
pub(crate) async fn monitor(changes: watch::Sender<u64>) {
    loop {
        match listen(&changes).await {
            Ok(never) => match never {},
            Err(error) => tracing::warn!(%error, "cannot hear of changes of the packet filter; trying again"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen(changes: &watch::Sender<u64>) -> io::Result<std::convert::Infallible> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
    // SAFETY: the descriptor is owned, and nothing takes it out of the AsyncFd or replaces it
    let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
    // what happened before the subscription went unheard
    changes.send_modify(|count| *count += 1);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let received = socket
            .async_io(Interest::READABLE, |socket| Ok(recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?))
            .await;
        match received {
            Ok(length) if !names_our_table(&buffer[..length]) => {}
            Ok(_) => changes.send_modify(|count| *count += 1),
            // the socket's buffer was full
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => changes.send_modify(|count| *count += 1),
            Err(error) => return Err(error),
        }
    }
}

/// Every message names its table, as a text that ends with a zero.
fn names_our_table(messages: &[u8]) -> bool {
    let name = [TABLE.as_bytes(), &[0]].concat();
    messages.windows(name.len()).any(|window| window == name)
}
