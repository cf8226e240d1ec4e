//! VXLAN network identifiers.

use std::{fmt, net::Ipv6Addr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

/// A VXLAN network identifier (RFC 7348): 1 to 16,777,215. Zero is left out, as switches treat it specially.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Vni(u32);

impl Vni {
    /// The largest identifier: 24 bits.
    pub const MAX: u32 = 0x00ff_ffff;

    /// The identifier, if the number is one.
    pub const fn new(number: u32) -> Option<Self> {
        if number >= 1 && number <= Self::MAX { Some(Self(number)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The IPv6 multicast group over which the hosts of this network find each other: `ff05::` (site-local
    /// scope, RFC 4291) with the VNI in the low 24 bits, so VNI 100 is `ff05::64`.
    pub fn multicast_group(self) -> Ipv6Addr {
        let [_, high, mid, low] = self.0.to_be_bytes();
        Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, u16::from(high), u16::from_be_bytes([mid, low]))
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Vni {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(deserializer)?;
        Self::new(number).ok_or_else(|| de::Error::custom(format_args!("{number} is not a VNI (1 to {})", Self::MAX)))
    }
}

impl JsonSchema for Vni {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Vni".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "format": "int32", "minimum": 1, "maximum": Self::MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_distinct_and_documented() {
        assert_eq!(Vni::new(100).unwrap().multicast_group().to_string(), "ff05::64");
        assert_eq!(Vni::new(Vni::MAX).unwrap().multicast_group().to_string(), "ff05::ff:ffff");
        assert!(Vni::new(0).is_none() && Vni::new(Vni::MAX + 1).is_none());
    }
}
