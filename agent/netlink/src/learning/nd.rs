//! Neighbour discovery (RFC 4861), as far as it tells who uses an address. Pure: it reads and writes frames.
//!
//! The frames are a guest's and may hold anything. Those that RFC 4861 (sections 7.1.1 and 7.1.2) says to discard
//! are ignored, and so are those with extension headers: RFC 6980 forbids fragments, and no system sends others.

use std::net::Ipv6Addr;

use ucloud_types::MacAddr;

const ETHERNET: usize = 14;
const IPV6: usize = 40;
/// Type, code, checksum, four reserved bytes or flags, and the target.
const MESSAGE: usize = 24;
const ICMPV6: u8 = 58;
const HOP_LIMIT: u8 = 255;
const ROUTER_SOLICITATION: u8 = 133;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
/// An advertisement's flags: sent by a router, and to replace what is known.
const ROUTER_OVERRIDE: u8 = 0b1010_0000;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// That an interface was seen to use an address, or to be about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub mac: MacAddr,
    pub address: Ipv6Addr,
    pub claim: Claim,
}

/// How sure it is that the interface has the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Duplicate address detection (RFC 4862): it will have the address unless someone objects.
    Probe,
    /// It speaks from the address, or says that it has it.
    Use,
}

/// What an Ethernet frame says about who uses an address.
pub(crate) fn sighting(frame: &[u8]) -> Option<Sighting> {
    let mac = MacAddr::new(frame.get(6..12)?.try_into().ok()?)?;
    if frame.get(12..ETHERNET)? != [0x86, 0xdd] {
        return None;
    }
    let header = frame.get(ETHERNET..ETHERNET + IPV6)?;
    let length = usize::from(u16::from_be_bytes([*header.get(4)?, *header.get(5)?]));
    if header.first()? >> 4 != 6 || *header.get(6)? != ICMPV6 || *header.get(7)? != HOP_LIMIT {
        return None;
    }
    let (source, destination) = (address(header.get(8..24)?)?, address(header.get(24..40)?)?);
    // behind it may come Ethernet's padding
    let message = frame.get(ETHERNET + IPV6..)?.get(..length)?;
    let target = address(message.get(8..MESSAGE)?)?;
    if *message.get(1)? != 0 || target.is_multicast() || checksum(source, destination, message) != 0 {
        return None;
    }
    let has_source_option = options(message.get(MESSAGE..)?)?.contains(&SOURCE_LINK_LAYER_ADDRESS);

    let (address, claim) = match *message.first()? {
        SOLICITATION if source.is_unspecified() => {
            (destination == solicited_node(target) && !has_source_option).then_some((target, Claim::Probe))?
        }
        SOLICITATION => (source, Claim::Use),
        ADVERTISEMENT => (target, Claim::Use),
        _ => return None,
    };
    is_learnable(address).then_some(Sighting { mac, address, claim })
}

/// A frame in which `mac` asks for the link-layer address of `target`.
///
/// Its source is the link-local address formed from `mac`. The unspecified address would make it a duplicate
/// address detection: a guest that is just testing `target` would give it up.
pub(crate) fn solicitation(mac: MacAddr, target: Ipv6Addr) -> Vec<u8> {
    let message = message(SOLICITATION, 0, target, Some((SOURCE_LINK_LAYER_ADDRESS, mac)));
    frame(mac, link_local(mac), solicited_node(target), message)
}

/// A frame in which a router with `mac` tells everybody that it has `target` now (RFC 4861, section 7.2.6).
pub(crate) fn announcement(mac: MacAddr, target: Ipv6Addr) -> Vec<u8> {
    let message = message(ADVERTISEMENT, ROUTER_OVERRIDE, target, Some((TARGET_LINK_LAYER_ADDRESS, mac)));
    frame(mac, target, ALL_NODES, message)
}

/// A frame in which `mac` asks whether somebody has `target`, as in duplicate address detection. Whoever has it answers
/// to all nodes, and so that they replace what they knew (RFC 4861, section 7.2.4).
pub(crate) fn probe(mac: MacAddr, target: Ipv6Addr) -> Vec<u8> {
    frame(mac, Ipv6Addr::UNSPECIFIED, solicited_node(target), message(SOLICITATION, 0, target, None))
}

/// A frame in which `mac`, without an address, asks routers to advertise (RFC 4861, section 4.1). They answer to all nodes.
pub(crate) fn router_solicitation(mac: MacAddr) -> Vec<u8> {
    frame(mac, Ipv6Addr::UNSPECIFIED, ALL_ROUTERS, vec![ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0])
}

/// A message about a target whose checksum is still to come.
fn message(kind: u8, flags: u8, target: Ipv6Addr, option: Option<(u8, MacAddr)>) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    if let Some((kind, mac)) = option {
        message.extend([kind, 1]);
        message.extend(mac.octets());
    }
    message
}

/// The frame from `mac` that carries the message to a multicast address.
fn frame(mac: MacAddr, source: Ipv6Addr, destination: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum(source, destination, &message);
    message.splice(2..4, sum.to_be_bytes());
    let [.., a, b, c, d] = destination.octets();
    let mut frame = vec![0x33, 0x33, a, b, c, d];
    frame.extend(mac.octets());
    frame.extend([0x86, 0xdd]);
    frame.extend([6 << 4, 0, 0, 0]);
    // a message has 32 bytes at most
    frame.extend(u16::try_from(message.len()).unwrap_or_default().to_be_bytes());
    frame.extend([ICMPV6, HOP_LIMIT]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(message);
    frame
}

/// Global unicast and unique local addresses: what else an interface may have is of no use outside its link.
fn is_learnable(address: Ipv6Addr) -> bool {
    address.octets()[0] & 0xe0 == 0x20 || address.is_unique_local()
}

/// The types of the options in this list; None if it is malformed.
fn options(mut list: &[u8]) -> Option<Vec<u8>> {
    let mut types = Vec::new();
    while let [kind, units, ..] = *list {
        // a length of zero would never end
        let length = usize::from(units) * 8;
        list = (length > 0).then(|| list.get(length..)).flatten()?;
        types.push(kind);
    }
    list.is_empty().then_some(types)
}

fn address(bytes: &[u8]) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
}

/// RFC 4291, section 2.7.1.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets();
    let id = u64::from_be_bytes([a ^ 0x02, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from_bits((0xfe80 << 112) | u128::from(id))
}

/// The checksum of an ICMPv6 message (RFC 4443, section 2.3): zero for a message that holds its own, if it is right.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| {
        bytes
            .chunks(2)
            .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
            .sum::<u64>()
    };
    let mut sum = words(&source.octets()) + words(&destination.octets()) + words(message);
    sum += message.len() as u64 + u64::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    fn mac() -> MacAddr {
        MacAddr::new(MAC).unwrap()
    }

    /// A frame with a right checksum, from `source` to `destination`.
    fn frame(source: &str, destination: &str, kind: u8, target: &str, options: &[u8]) -> Vec<u8> {
        let (source, destination): (Ipv6Addr, Ipv6Addr) = (source.parse().unwrap(), destination.parse().unwrap());
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target.parse::<Ipv6Addr>().unwrap().octets());
        message.extend(options);
        let sum = checksum(source, destination, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
        frame.extend(MAC);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend([ICMPV6, HOP_LIMIT]);
        frame.extend(source.octets());
        frame.extend(destination.octets());
        frame.extend(message);
        frame
    }

    fn seen(address: &str, claim: Claim) -> Sighting {
        Sighting { mac: mac(), address: address.parse().unwrap(), claim }
    }

    #[test]
    fn duplicate_address_detection_is_a_probe() {
        let probe = frame("::", "ff02::1:ff00:1", SOLICITATION, "fd00::1", &[]);
        assert_eq!(sighting(&probe), Some(seen("fd00::1", Claim::Probe)));
        // the nonce of RFC 7527
        let with_nonce = frame("::", "ff02::1:ff00:1", SOLICITATION, "fd00::1", &[14, 1, 1, 2, 3, 4, 5, 6]);
        assert_eq!(sighting(&with_nonce), Some(seen("fd00::1", Claim::Probe)));
        let elsewhere = frame("::", "ff02::1", SOLICITATION, "fd00::1", &[]);
        assert_eq!(sighting(&elsewhere), None);
        let with_source = frame("::", "ff02::1:ff00:1", SOLICITATION, "fd00::1", &[1, 1, 0x52, 0x54, 0, 0, 0, 1]);
        assert_eq!(sighting(&with_source), None);
    }

    #[test]
    fn a_sender_and_an_advertiser_use_their_address() {
        let asks = frame("fd00::2", "ff02::1:ff00:1", SOLICITATION, "fd00::1", &[]);
        assert_eq!(sighting(&asks), Some(seen("fd00::2", Claim::Use)));
        let answers =
            frame("fe80::2", "fe80::1", ADVERTISEMENT, "2001:db8::2", &[2, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        assert_eq!(sighting(&answers), Some(seen("2001:db8::2", Claim::Use)));
    }

    #[test]
    fn addresses_that_nobody_can_use_are_not_learnt() {
        for target in ["fe80::1", "::", "::1", "::ffff:10.0.0.1", "64:ff9b::1"] {
            assert_eq!(sighting(&frame("fe80::2", "ff02::1", ADVERTISEMENT, target, &[])), None, "{target}");
        }
        assert_eq!(sighting(&frame("fe80::2", "ff02::1", ADVERTISEMENT, "ff02::1", &[])), None);
        assert_eq!(sighting(&frame("fd00::2", "ff02::1", 133, "fd00::1", &[])), None);
    }

    #[test]
    fn what_the_rfc_says_to_discard_is_discarded() {
        let good = frame("fe80::2", "ff02::1", ADVERTISEMENT, "fd00::2", &[2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(sighting(&good), Some(seen("fd00::2", Claim::Use)));
        // version, next header, hop limit, code, checksum, target, length of an option
        for position in [14, 20, 21, 55, 56, 70, 79] {
            let mut bad = good.clone();
            bad[position] ^= 0x10;
            assert_eq!(sighting(&bad), None, "byte {position}");
        }
        for length in 0..good.len() {
            assert_eq!(sighting(&good[..length]), None, "{length} bytes");
        }
        for options in [&[2, 0, 0, 0, 0, 0, 0, 0][..], &[2, 2, 0, 0, 0, 0, 0, 0], &[2], &[2, 1, 0]] {
            assert_eq!(sighting(&frame("fe80::2", "ff02::1", ADVERTISEMENT, "fd00::2", options)), None);
        }
        let padded = [&good[..], &[0; 10]].concat();
        assert_eq!(sighting(&padded), Some(seen("fd00::2", Claim::Use)));
        let mut multicast_sender = good;
        multicast_sender[6] |= 1;
        assert_eq!(sighting(&multicast_sender), None);
    }

    #[test]
    fn a_solicitation_is_no_duplicate_address_detection() {
        let frame = solicitation(mac(), "fd00::12:3456".parse().unwrap());
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        let source = address(&frame[22..38]).unwrap();
        assert_eq!(source, "fe80::5054:ff:fe12:3456".parse::<Ipv6Addr>().unwrap());
        assert_eq!(address(&frame[38..54]).unwrap(), "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        assert_eq!(checksum(source, "ff02::1:ff12:3456".parse().unwrap(), &frame[54..]), 0);
        // its source is link-local, so whoever hears it learns nothing
        assert_eq!(sighting(&frame), None);
    }

    #[test]
    fn what_a_router_says_is_what_it_should_be() {
        let gateway: Ipv6Addr = "fd00::1".parse().unwrap();
        let told = announcement(mac(), gateway);
        assert_eq!(told, {
            let mut frame = frame("fd00::1", "ff02::1", ADVERTISEMENT, "fd00::1", &[&[2, 1][..], &MAC].concat());
            // the flags, and the checksum over them
            frame[58] = 0xa0;
            frame[56] = 0;
            frame[57] = 0;
            let sum = checksum(gateway, ALL_NODES, &frame[54..]);
            frame[56..58].copy_from_slice(&sum.to_be_bytes());
            frame
        });
        assert_eq!(sighting(&told), Some(seen("fd00::1", Claim::Use)));
        let asked = probe(mac(), gateway);
        let mut expected = frame("::", "ff02::1:ff00:1", SOLICITATION, "fd00::1", &[]);
        expected[..6].copy_from_slice(&[0x33, 0x33, 0xff, 0, 0, 1]);
        assert_eq!(asked, expected);
        assert_eq!(sighting(&asked), Some(seen("fd00::1", Claim::Probe)));
    }

    #[test]
    fn a_router_solicitation_has_neither_an_address_nor_an_option() {
        let frame = router_solicitation(mac());
        assert_eq!(frame[..12], [&[0x33, 0x33, 0, 0, 0, 2][..], &MAC].concat());
        assert_eq!(frame[18..22], [0, 8, ICMPV6, HOP_LIMIT]);
        assert_eq!(address(&frame[22..38]).unwrap(), Ipv6Addr::UNSPECIFIED);
        assert_eq!(frame[54..56], [133, 0]);
        assert_eq!(checksum(Ipv6Addr::UNSPECIFIED, ALL_ROUTERS, &frame[54..]), 0);
        assert_eq!(frame.len(), 62);
        assert_eq!(sighting(&frame), None);
    }

    proptest! {
        #[test]
        fn no_bytes_can_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = sighting(&bytes);
        }

        #[test]
        fn no_damage_can_break_it(position in 0..86_usize, value: u8, length in 0..=86_usize) {
            let mut frame = frame("fd00::2", "ff02::1:ff00:1", SOLICITATION, "fd00::1", &[1, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56]);
            frame[position] = value;
            frame.truncate(length);
            if let Some(sighting) = sighting(&frame) {
                prop_assert!(is_learnable(sighting.address));
            }
        }

        #[test]
        fn any_sound_advertisement_is_understood(target in (0x2000_u16..0x4000, any::<[u16; 7]>())) {
            let (first, [a, b, c, d, e, f, g]) = target;
            let target = Ipv6Addr::new(first, a, b, c, d, e, f, g);
            let frame = frame("fe80::2", "ff02::1", ADVERTISEMENT, &target.to_string(), &[]);
            prop_assert_eq!(sighting(&frame), Some(Sighting { mac: mac(), address: target, claim: Claim::Use }));
        }
    }
}
