//! Which addresses an image may be downloaded from. URLs are users' text: none may lead into the host, the
//! operator's network or a neighbour's. The check is made on the very address that is connected to.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A prefix of addresses, IPv4 or IPv6, written as address/length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPrefix {
    network: IpAddr,
    length: u8,
}

/// Why a text is not an [`IpPrefix`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a prefix such as 2001:db8::/32 or 192.0.2.0/24, with zeros behind the prefix")]
pub struct ParseIpPrefixError(String);

impl IpPrefix {
    /// Whether `address` lies in the prefix.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

impl FromStr for IpPrefix {
    type Err = ParseIpPrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (network, length) = text.split_once('/')?;
            let network: IpAddr = network.parse().ok()?;
            let length: u8 = Some(length).filter(|l| l.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
            let (bits, trailing) = match network {
                IpAddr::V4(network) => (32, network.to_bits().trailing_zeros()),
                IpAddr::V6(network) => (128, network.to_bits().trailing_zeros()),
            };
            (length <= bits && trailing >= u32::from(bits - length)).then_some(Self { network, length })
        };
        parse().ok_or_else(|| ParseIpPrefixError(text.to_owned()))
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

/// An address that nothing is downloaded from.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{address} is {why}, and images are downloaded from public addresses only")]
pub struct Refused {
    /// The address.
    pub address: IpAddr,
    why: &'static str,
}

/// Which addresses may be connected to.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    /// Denied besides those that are never public.
    pub denied: Vec<IpPrefix>,
    /// Allowed although denied.
    pub allowed: Vec<IpPrefix>,
}

const fn v4(a: u8, b: u8, length: u8) -> IpPrefix {
    IpPrefix { network: IpAddr::V4(Ipv4Addr::new(a, b, 0, 0)), length }
}

const fn v6(first: u16, length: u8) -> IpPrefix {
    IpPrefix { network: IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0)), length }
}

/// What the IANA special-purpose registries (RFC 6890 and its updates) say is not to be reached from afar.
const NEVER_PUBLIC: [(IpPrefix, &str); 17] = [
    (v4(0, 0, 8), "unspecified"),
    (v4(10, 0, 8), "private"),
    (v4(100, 64, 10), "shared by a provider's customers"),
    (v4(127, 0, 8), "loopback"),
    (v4(169, 254, 16), "link-local"),
    (v4(172, 16, 12), "private"),
    (v4(192, 0, 24), "reserved"),
    (v4(192, 168, 16), "private"),
    (v4(198, 18, 15), "for benchmarks"),
    (v4(224, 0, 4), "multicast"),
    (v4(240, 0, 4), "reserved"),
    // Among them :: and ::1.
    (v6(0, 96), "loopback, unspecified or obsolete"),
    (v6(0x100, 64), "a black hole"),
    (v6(0xfc00, 7), "private"),
    (v6(0xfe80, 10), "link-local"),
    (v6(0xfec0, 10), "private"),
    (v6(0xff00, 8), "multicast"),
];

impl AddressPolicy {
    /// Whether `address` may be connected to. An IPv4 address in the guise of an IPv6 one (mapped, or behind a
    /// NAT64 or 6to4 gateway) must be allowed in its own right too.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        let address = address.to_canonical();
        if self.allowed.iter().any(|prefix| prefix.contains(address)) {
            return Ok(());
        }
        if self.denied.iter().any(|prefix| prefix.contains(address)) {
            return Err(Refused { address, why: "in the operator's own network" });
        }
        if let Some((_, why)) = NEVER_PUBLIC.iter().find(|(prefix, _)| prefix.contains(address)) {
            return Err(Refused { address, why });
        }
        match embedded(address) {
            Some(embedded) => self.check(embedded.into()),
            None => Ok(()),
        }
    }
}

/// The IPv4 address that an IPv6 address stands for: 64:ff9b::/96 (RFC 6052), 64:ff9b:1::/48 (RFC 8215, its last
/// 32 bits, as translators use it) and 2002::/16 (RFC 3056).
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let [.., high, low] = address.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => Some(join(high, low)),
        [0x2002, high, low, ..] => Some(join(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> IpPrefix {
        text.parse().unwrap()
    }

    #[test]
    fn only_public_addresses_are_reached() {
        let policy = AddressPolicy { denied: vec![prefix("2001:db8:5::/48")], allowed: Vec::new() };
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "127.255.255.254",
            "10.1.2.3",
            "100.64.0.1",
            "169.254.169.254",
            "172.31.255.255",
            "192.168.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::10.0.0.1",
            "2002:7f00:1::1",
            "fc00::1",
            "fd99::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001:db8:5::1",
        ] {
            assert!(policy.check(address.parse().unwrap()).is_err(), "{address}");
        }
        for address in [
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "2a0a:e5c0::1",
            "64:ff9b::808:808",
            "2002:808:808::1",
            "2001:db8:6::1",
        ] {
            assert_eq!(policy.check(address.parse().unwrap()), Ok(()), "{address}");
        }
    }

    #[test]
    fn what_is_allowed_is_reached_although_denied() {
        let policy = AddressPolicy {
            denied: vec![prefix("2001:db8::/32")],
            allowed: vec![prefix("192.168.7.0/24"), prefix("2001:db8:1::/48")],
        };
        for address in ["192.168.7.1", "::ffff:192.168.7.1", "2001:db8:1::1", "64:ff9b::c0a8:701"] {
            assert_eq!(policy.check(address.parse().unwrap()), Ok(()), "{address}");
        }
        assert!(policy.check("192.168.8.1".parse().unwrap()).is_err());
        assert!(policy.check("2001:db8:2::1".parse().unwrap()).is_err());
    }

    #[test]
    fn prefixes_are_parsed_strictly() {
        for text in ["0.0.0.0/0", "::/0", "10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "::1/128"] {
            assert_eq!(prefix(text).to_string(), text);
        }
        assert!(prefix("0.0.0.0/0").contains("255.1.2.3".parse().unwrap()));
        assert!(!prefix("::/0").contains("1.2.3.4".parse().unwrap()));
        for text in ["", "10.0.0.0", "10.0.0.1/8", "10.0.0.0/33", "::/129", "::/+1", "::1/127", "a/b"] {
            assert!(text.parse::<IpPrefix>().is_err(), "{text}");
        }
    }
}
