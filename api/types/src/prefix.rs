//! IPv6 prefixes.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An IPv6 prefix: a network address whose host bits are zero, and a length from 0 to 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv6Prefix {
    network: Ipv6Addr,
    length: u8,
}

/// Why a text is not an [`Ipv6Prefix`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParsePrefixError {
    /// It has not the form address/length.
    #[error("{0:?} is not an IPv6 prefix such as 2001:db8:1::/48")]
    Malformed(String),
    /// Bits behind the prefix are set.
    #[error("{text} has bits set behind the prefix; write {network}")]
    HostBits {
        /// What was given.
        text: String,
        /// The prefix that was probably meant.
        network: Ipv6Prefix,
    },
}

const fn mask(length: u8) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (128 - length) }
}

impl Ipv6Prefix {
    /// The prefix of this length that holds `address`. None where the length is over 128.
    pub fn containing(address: Ipv6Addr, length: u8) -> Option<Self> {
        (length <= 128).then(|| Self { network: Ipv6Addr::from_bits(address.to_bits() & mask(length)), length })
    }

    /// The first address: all host bits zero.
    pub const fn network(self) -> Ipv6Addr {
        self.network
    }

    /// The number of fixed bits.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether `address` lies in the prefix.
    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.to_bits() & mask(self.length) == self.network.to_bits()
    }

    /// Whether the two share any address.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// The prefix's part of length `length` with this index, counted from zero. None where the prefix has no such part.
    pub fn subnet(self, length: u8, index: u64) -> Option<Self> {
        let bits = length.checked_sub(self.length).filter(|_| length <= 128)?;
        if bits < 64 && index >> bits != 0 {
            return None;
        }
        let offset = if length == 0 { 0 } else { u128::from(index) << (128 - length) };
        Some(Self { network: Ipv6Addr::from_bits(self.network.to_bits() | offset), length })
    }

    /// The gateway's address in a network with this prefix: the first after the network address.
    pub fn gateway(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network.to_bits() | 1)
    }
}

impl FromStr for Ipv6Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParsePrefixError::Malformed(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(malformed)?;
        let address: Ipv6Addr = address.parse().map_err(|_| malformed())?;
        if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        let network = length.parse().ok().and_then(|length| Self::containing(address, length)).ok_or_else(malformed)?;
        if network.network == address {
            Ok(network)
        } else {
            Err(ParsePrefixError::HostBits { text: text.to_owned(), network })
        }
    }
}

impl fmt::Display for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

impl Serialize for Ipv6Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ipv6Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Ipv6Prefix {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ipv6Prefix".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 43, "pattern": "^[0-9a-fA-F:.]+/[0-9]{1,3}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Ipv6Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn parses_and_prints() {
        assert_eq!(prefix("2001:db8::/32").to_string(), "2001:db8::/32");
        assert_eq!(prefix("::/0").to_string(), "::/0");
        assert_eq!(
            "2001:db8::1/64".parse::<Ipv6Prefix>().unwrap_err().to_string(),
            "2001:db8::1/64 has bits set behind the prefix; write 2001:db8::/64"
        );
        for text in ["", "/", "2001:db8::", "2001:db8::/129", "10.0.0.0/8", "2001:db8::/+64", "2001:db8::/64/64"] {
            assert!(text.parse::<Ipv6Prefix>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn subnets_fill_the_prefix_and_no_more() {
        let pool = prefix("fd00:1::/62");
        assert_eq!(pool.subnet(64, 0), Some(prefix("fd00:1::/64")));
        assert_eq!(pool.subnet(64, 3), Some(prefix("fd00:1:0:3::/64")));
        assert_eq!(pool.subnet(64, 4), None);
        assert_eq!(pool.subnet(61, 0), None);
        assert_eq!(prefix("::/0").subnet(64, u64::MAX), Some(prefix("ffff:ffff:ffff:ffff::/64")));
    }

    #[test]
    fn overlap_is_symmetric() {
        for (a, b, expected) in
            [("fd00::/16", "fd00:1::/32", true), ("fd00:1::/64", "fd00:2::/64", false), ("::/0", "fe80::/10", true)]
        {
            assert_eq!(prefix(a).overlaps(prefix(b)), expected);
            assert_eq!(prefix(b).overlaps(prefix(a)), expected);
        }
    }
}
