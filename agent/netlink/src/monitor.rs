//! Tells when a device of ours appears, changes or vanishes.

use std::time::Duration;

use futures::StreamExt as _;
use rtnetlink::{
    MulticastGroup,
    packet_core::NetlinkPayload,
    packet_route::{RouteNetlinkMessage, link::LinkMessage},
};

use crate::{changes::Changes, link::Link, names::is_ours, task::Task};

/// How long to wait before the kernel is asked again for notifications that it stopped or refused to send.
const PAUSE: Duration = Duration::from_secs(1);

/// Ticks `changes` for each notification about a device of ours or the underlay interface, and whenever
/// notifications may have been lost. Never ends.
pub(crate) async fn monitor(changes: Changes, underlay: String) {
    loop {
        match rtnetlink::new_multicast_connection(&[MulticastGroup::Link]) {
            Ok((connection, _handle, mut notifications)) => {
                let _connection = Task::spawn(connection);
                // what happened before the subscription went unheard
                changes.tick();
                while let Some((notification, _)) = notifications.next().await {
                    match notification.payload {
                        NetlinkPayload::InnerMessage(
                            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
                        ) if concerns_us(&link, &underlay) => changes.tick(),
                        // the socket's buffer was full
                        NetlinkPayload::Overrun(_) => changes.tick(),
                        _ => {}
                    }
                }
                tracing::warn!("the kernel's notifications about links ended; subscribing again");
            }
            Err(error) => tracing::warn!(%error, "cannot subscribe to the kernel's notifications about links"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn concerns_us(message: &LinkMessage, underlay: &str) -> bool {
    let link = Link::from(message);
    link.name == underlay || is_ours(&link.name, link.alias.as_deref())
}
