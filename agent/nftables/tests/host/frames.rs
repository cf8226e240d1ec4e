//! Frames, byte by byte.

use std::net::Ipv6Addr;

use ucloud_types::MacAddr;

pub const IPV6: u16 = 0x86dd;
pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;

pub const HOP_BY_HOP: u8 = 0;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const ICMPV6: u8 = 58;
pub const DESTINATION: u8 = 60;

pub fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// An Ethernet frame.
pub fn ethernet(source: MacAddr, destination: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&destination[..], &source.octets(), &kind.to_be_bytes(), payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The frame with a VLAN tag.
pub fn tagged(frame: &[u8], protocol: u16, id: u16) -> Vec<u8> {
    [&frame[..12], &protocol.to_be_bytes(), &id.to_be_bytes(), &frame[12..]].concat()
}

/// The frame in IEEE 802.3 with LLC and SNAP.
pub fn snap(frame: &[u8]) -> Vec<u8> {
    let payload = [&[0xaa, 0xaa, 3, 0, 0, 0], &frame[12..]].concat();
    [&frame[..12], &u16::try_from(payload.len()).unwrap().to_be_bytes(), &payload].concat()
}

/// Where a packet comes from and goes to.
#[derive(Clone, Copy)]
pub struct Path {
    pub mac: MacAddr,
    pub to: [u8; 6],
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
}

impl Path {
    pub fn from(self, source: &str) -> Self {
        Self { source: ip(source), ..self }
    }

    pub fn to(self, destination: &str) -> Self {
        let destination = ip(destination);
        let [.., a, b, c, d] = destination.octets();
        let to = if destination.is_multicast() { [0x33, 0x33, a, b, c, d] } else { self.to };
        Self { to, destination, ..self }
    }

    /// A frame with an IPv6 packet whose first header behind the fixed one is `next`.
    pub fn frame(self, next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
        ethernet(self.mac, self.to, IPV6, &self.packet(next, hop_limit, payload))
    }

    pub fn packet(self, next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [0x60, 0, 0, 0, length[0], length[1], next, hop_limit];
        [&head[..], &self.source.octets(), &self.destination.octets(), payload].concat()
    }

    /// ICMPv6 by itself.
    pub fn icmp(self, kind: u8, body: &[u8]) -> Vec<u8> {
        self.frame(ICMPV6, 255, &self.icmp_message(kind, body))
    }

    /// The ICMPv6 message alone, to be put behind other headers.
    pub fn icmp_message(self, kind: u8, body: &[u8]) -> Vec<u8> {
        self.summed(ICMPV6, &[&[kind, 0, 0, 0], body].concat(), 2)
    }

    pub fn udp(self, source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
        self.frame(UDP, 64, &self.udp_message(source, destination, data))
    }

    pub fn udp_message(self, source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + data.len()).unwrap();
        let head = [source, destination, length, 0].map(u16::to_be_bytes).concat();
        self.summed(UDP, &[&head, data].concat(), 6)
    }

    pub fn tcp(self, source: u16, destination: u16, flags: u8) -> Vec<u8> {
        let ports = [source, destination].map(u16::to_be_bytes).concat();
        let rest = [0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
        self.frame(TCP, 64, &self.summed(TCP, &[&ports[..], &rest].concat(), 16))
    }

    /// With its checksum (RFC 8200, 8.1) at this place.
    fn summed(self, protocol: u8, message: &[u8], place: usize) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let pseudo = [&self.source.octets()[..], &self.destination.octets(), &length, &[0, 0, 0, protocol], message];
        let mut message = message.to_vec();
        message[place..place + 2].copy_from_slice(&checksum(&pseudo.concat()).to_be_bytes());
        message
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// An extension header of 8 bytes with nothing but padding: hop-by-hop or destination options.
pub fn options(next: u8) -> Vec<u8> {
    vec![next, 0, 1, 4, 0, 0, 0, 0]
}

/// An extension header of destination options that claims more bytes than there are here.
pub fn long_options(next: u8, claimed: u8) -> Vec<u8> {
    vec![next, claimed, 1, 4, 0, 0, 0, 0]
}

/// A routing header with no segments left.
pub fn routing(next: u8) -> Vec<u8> {
    vec![next, 0, 0, 0, 0, 0, 0, 0]
}

/// A fragment header: the offset in units of 8 bytes.
pub fn fragment(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    vec![next, 0, high, low, 0, 0, 0, 7]
}

/// The body of a neighbour solicitation or advertisement about this target.
pub fn about(target: &str, options: &[u8]) -> Vec<u8> {
    [&[0; 4], &ip(target).octets()[..], options].concat()
}

/// The option of a link-layer address: 1 for the source's, 2 for the target's.
pub fn link(kind: u8, mac: MacAddr) -> Vec<u8> {
    [&[kind, 1], &mac.octets()[..]].concat()
}

/// An IPv4 packet with UDP.
pub fn ipv4_udp(source: [u8; 4], destination: [u8; 4], ports: [u16; 2], data: &[u8]) -> Vec<u8> {
    let udp_length = u16::try_from(8 + data.len()).unwrap().to_be_bytes();
    let length = u16::try_from(28 + data.len()).unwrap().to_be_bytes();
    let mut head = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, UDP, 0, 0];
    head.extend([source, destination].concat());
    let sum = checksum(&head).to_be_bytes();
    head[10..12].copy_from_slice(&sum);
    [head, ports.map(u16::to_be_bytes).concat(), udp_length.to_vec(), vec![0, 0], data.to_vec()].concat()
}

/// An ARP message: 1 asks, 2 answers.
pub fn arp(operation: u8, sender: (MacAddr, [u8; 4]), target: [u8; 4]) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &sender.0.octets(), &sender.1, &[0; 6], &target].concat()
}
