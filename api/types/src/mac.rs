//! MAC addresses of VMs' interfaces.

use std::{fmt, hash::Hasher as _, net::Ipv6Addr, str::FromStr};

use fnv::FnvHasher;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::Ipv6Prefix;

/// A unicast MAC address, written as six lower-case hexadecimal bytes with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr([u8; 6]);

/// Why a text is not a [`MacAddr`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseMacError {
    /// It has not the form of a MAC address.
    #[error("{0:?} is not a MAC address such as 02:00:5e:10:00:01")]
    Malformed(String),
    /// The group bit is set, or all bits are zero: no interface can have it.
    #[error("{0} is not the address of one interface (multicast or zero)")]
    NotUnicast(String),
}

impl MacAddr {
    /// The six bytes, if they are a unicast address.
    pub fn new(bytes: [u8; 6]) -> Option<Self> {
        (bytes[0] & 1 == 0 && bytes != [0; 6]).then_some(Self(bytes))
    }

    /// The address of the interface `name` of the VM with this UID: locally administered, unicast, and the
    /// same wherever and whenever it is computed (FNV-1a, 64 bits, of both texts; 46 of its bits are used).
    pub fn derive(vm_uid: &str, interface: &str) -> Self {
        let mut hasher = FnvHasher::default();
        for part in [vm_uid.as_bytes(), &[0], interface.as_bytes()] {
            hasher.write(part);
        }
        let hash = hasher.finish();
        let [_, _, a, b, c, d, e, f] = (hash ^ (hash >> 48)).to_be_bytes();
        Self([(a & 0xfc) | 0x02, b, c, d, e, f])
    }

    /// The six bytes.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The address that stateless autoconfiguration forms from this MAC in `prefix`: a modified EUI-64
    /// interface identifier (RFC 4291, appendix A). None where the prefix is not a /64.
    pub fn slaac(self, prefix: Ipv6Prefix) -> Option<Ipv6Addr> {
        let [a, b, c, d, e, f] = self.0;
        let id = u64::from_be_bytes([a ^ 0x02, b, c, 0xff, 0xfe, d, e, f]);
        (prefix.length() == 64).then(|| Ipv6Addr::from_bits(prefix.network().to_bits() | u128::from(id)))
    }
}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseMacError::Malformed(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(malformed)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
        }
        if parts.next().is_some() {
            return Err(malformed());
        }
        Self::new(bytes).ok_or_else(|| ParseMacError::NotUnicast(text.to_owned()))
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for MacAddr {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MacAddr".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_address_is_stable_local_and_unicast() {
        let mac = MacAddr::derive("0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11", "eth0");
        assert_eq!(mac, MacAddr::derive("0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11", "eth0"));
        assert_ne!(mac, MacAddr::derive("0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11", "eth1"));
        assert_eq!(mac.octets()[0] & 0b11, 0b10);
        assert_eq!(mac.to_string().parse(), Ok(mac));
    }

    #[test]
    fn slaac_is_eui64() {
        let mac: MacAddr = "52:54:00:12:34:56".parse().unwrap();
        let prefix: Ipv6Prefix = "2001:db8:1:2::/64".parse().unwrap();
        assert_eq!(mac.slaac(prefix), Some("2001:db8:1:2:5054:ff:fe12:3456".parse().unwrap()));
        assert_eq!(mac.slaac("2001:db8::/48".parse().unwrap()), None);
    }

    #[test]
    fn refuses_what_no_interface_can_have() {
        for text in
            ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "0g:00:00:00:00:01", "+2:00:00:00:00:01"]
        {
            assert_eq!(text.parse::<MacAddr>(), Err(ParseMacError::Malformed(text.into())));
        }
        for text in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            assert_eq!(text.parse::<MacAddr>(), Err(ParseMacError::NotUnicast(text.into())));
        }
    }
}
