//! Requests to the kernel over rtnetlink that tell "nothing there" from "no answer".
//!
//! rtnetlink's own requests take the end of a dead connection for the end of a list, and for an
//! acknowledgement. Here a list ends only with the kernel's word that it is complete, and a change is made
//! only when the kernel has acknowledged it.

use std::{io, net::IpAddr};

use futures::StreamExt as _;
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkExtentMask, LinkMessage},
    },
};

use crate::{link::Link, task::Task};

/// How often a list is asked for again when links came or went while the kernel wrote it.
const DUMP_ATTEMPTS: u32 = 8;

/// Why the kernel's routing tables could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    #[error("the netlink socket was closed before the kernel answered")]
    Closed,
    #[error("the kernel refused")]
    Refused(#[source] io::Error),
    #[error("links changed each of the {DUMP_ATTEMPTS} times that they were listed")]
    Unstable,
    #[error("the kernel answered with a message of an unexpected kind")]
    Unexpected,
}

impl RouteError {
    /// The kernel's error number, if it refused.
    pub fn errno(&self) -> Option<i32> {
        if let Self::Refused(error) = self { error.raw_os_error() } else { None }
    }
}

/// An address of an interface, with the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InterfaceAddress {
    pub address: IpAddr,
    pub length: u8,
}

/// A netlink connection. It lives for one operation: a socket costs microseconds, and a connection that broke
/// cannot break the next operation.
pub(crate) struct Route {
    handle: Handle,
    _connection: Task,
}

impl Route {
    pub fn open() -> Result<Self, RouteError> {
        // the kernel filters addresses by interface only for those who ask it to check requests strictly
        let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check().map_err(RouteError::Open)?;
        connection.set_forward_done(true);
        connection.set_forward_ack(true);
        Ok(Self { handle, _connection: Task::spawn(connection) })
    }

    /// All links.
    pub async fn links(&self) -> Result<Vec<Link>, RouteError> {
        let links = self
            .dump(RouteNetlinkMessage::GetLink(link_query()), |message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(Link::from(&link)),
                _ => None,
            })
            .await?;
        Ok(links)
    }

    /// The link of this name, if there is one.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, RouteError> {
        let mut query = link_query();
        query.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(query));
        request.header.flags = NLM_F_REQUEST;
        let mut answers = self.handle.clone().request(request).map_err(|_| RouteError::Closed)?;
        match answers.next().await.ok_or(RouteError::Closed)?.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(Some(Link::from(&link))),
            NetlinkPayload::Error(error) if -error.raw_code() == nix::libc::ENODEV => Ok(None),
            NetlinkPayload::Error(error) => Err(RouteError::Refused(error.to_io())),
            _ => Err(RouteError::Unexpected),
        }
    }

    /// The addresses, of every family, of the interface with this index.
    pub async fn addresses(&self, index: u32) -> Result<Vec<InterfaceAddress>, RouteError> {
        let mut query = AddressMessage::default();
        query.header.index = index;
        let dump = self.dump(RouteNetlinkMessage::GetAddress(query), |message| match message {
            RouteNetlinkMessage::NewAddress(address) => Some(address),
            _ => None,
        });
        let addresses = dump.await?.into_iter().filter(|message| message.header.index == index);
        Ok(addresses.filter_map(|message| interface_address(&message)).collect())
    }

    /// Makes a change, and waits for the kernel's acknowledgement. `flags` are added to those of every request.
    pub async fn change(&self, message: RouteNetlinkMessage, flags: u16) -> Result<(), RouteError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self.handle.clone().request(request).map_err(|_| RouteError::Closed)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                return match error.code {
                    None => Ok(()),
                    Some(_) => Err(RouteError::Refused(error.to_io())),
                };
            }
        }
        Err(RouteError::Closed)
    }

    async fn dump<T>(
        &self,
        query: RouteNetlinkMessage,
        keep: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, RouteError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(items) = self.dump_once(query.clone(), &keep).await? {
                return Ok(items);
            }
        }
        Err(RouteError::Unstable)
    }

    /// None if the list is not consistent, as what it lists changed meanwhile.
    async fn dump_once<T>(
        &self,
        query: RouteNetlinkMessage,
        keep: &impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Option<Vec<T>>, RouteError> {
        let mut request = NetlinkMessage::from(query);
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut answers = self.handle.clone().request(request).map_err(|_| RouteError::Closed)?;
        let (mut items, mut consistent) = (Vec::new(), true);
        while let Some(answer) = answers.next().await {
            consistent &= answer.header.flags & NLM_F_DUMP_INTR == 0;
            match answer.payload {
                NetlinkPayload::Done(done) if done.code == 0 => return Ok(consistent.then_some(items)),
                NetlinkPayload::Done(done) => {
                    return Err(RouteError::Refused(io::Error::from_raw_os_error(done.code.saturating_abs())));
                }
                NetlinkPayload::InnerMessage(message) => items.extend(keep(message)),
                NetlinkPayload::Error(error) => return Err(RouteError::Refused(error.to_io())),
                _ => return Err(RouteError::Unexpected),
            }
        }
        Err(RouteError::Closed)
    }
}

/// Links without their counters, which are half of what the kernel would send.
fn link_query() -> LinkMessage {
    let mut query = LinkMessage::default();
    query.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    query
}

fn interface_address(message: &AddressMessage) -> Option<InterfaceAddress> {
    // on point-to-point links, and for IPv4, ADDRESS may be the peer's and LOCAL is the interface's own
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    Some(InterfaceAddress { address: local.or(address)?, length: message.header.prefix_len })
}
