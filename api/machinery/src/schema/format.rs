//! The formats of strings and integers that are checked. Others are ignored, as Kubernetes ignores them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use serde_json::Value;

/// A format that is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    DateTime,
    Date,
    Ipv4,
    Ipv6,
    Cidr,
    Mac,
    Uuid,
    Byte,
    Int32,
    Int64,
    /// An unsigned integer of so many bits.
    Unsigned(u32),
}

impl Format {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "date-time" | "partial-date-time" => Self::DateTime,
            "date" => Self::Date,
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            "cidr" => Self::Cidr,
            "mac" => Self::Mac,
            "uuid" => Self::Uuid,
            "byte" => Self::Byte,
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            "uint8" => Self::Unsigned(8),
            "uint16" => Self::Unsigned(16),
            "uint32" => Self::Unsigned(32),
            "uint64" | "uint" => Self::Unsigned(64),
            _ => return None,
        })
    }

    /// The format's name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DateTime => "date-time",
            Self::Date => "date",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Cidr => "cidr",
            Self::Mac => "mac",
            Self::Uuid => "uuid",
            Self::Byte => "byte",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Unsigned(8) => "uint8",
            Self::Unsigned(16) => "uint16",
            Self::Unsigned(32) => "uint32",
            Self::Unsigned(_) => "uint64",
        }
    }

    /// Whether the value has the format. Values of other types than the format's are not judged here.
    pub(super) fn accepts(self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.accepts_text(text),
            Value::Number(number) => match self {
                Self::Int32 => number.as_i64().is_none_or(|integer| i32::try_from(integer).is_ok()),
                Self::Int64 => number.is_i64() || number.is_f64(),
                Self::Unsigned(bits) => {
                    number.is_f64() || number.as_u64().is_some_and(|integer| bits >= 64 || integer < 1 << bits)
                }
                _ => true,
            },
            _ => true,
        }
    }

    fn accepts_text(self, text: &str) -> bool {
        match self {
            Self::DateTime => is_rfc3339(text) && text.parse::<jiff::Timestamp>().is_ok(),
            Self::Date => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
            Self::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Self::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Self::Cidr => is_cidr(text),
            Self::Mac => is_mac(text),
            Self::Uuid => uuid::Uuid::try_parse(text).is_ok(),
            Self::Byte => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
            Self::Int32 | Self::Int64 | Self::Unsigned(_) => true,
        }
    }
}

/// `2026-01-02T03:04:05Z`, with any fraction of a second and any offset (RFC 3339, 5.6, in upper case as Kubernetes reads
/// it). The parser takes more: what other clients cannot read must not be stored.
fn is_rfc3339(text: &str) -> bool {
    // where digits must be, and what is between them
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    let fits = |given: &[u8], shape: &[u8]| {
        given.len() == shape.len()
            && given
                .iter()
                .zip(shape)
                .all(|(byte, want)| if *want == b'0' { byte.is_ascii_digit() } else { byte == want })
    };
    let Some((head, rest)) = text.as_bytes().split_at_checked(SHAPE.len()) else { return false };
    let zone = match rest {
        [b'.', fraction @ ..] => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 {
                return false;
            }
            &fraction[digits..]
        }
        other => other,
    };
    // no leap seconds: few clients can read them
    fits(head, SHAPE) && !head.ends_with(b"60") && (zone == b"Z" || fits(zone, b"+00:00") || fits(zone, b"-00:00"))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    match (address.parse::<IpAddr>(), length.parse::<u8>()) {
        (Ok(IpAddr::V4(_)), Ok(length)) => length <= 32,
        (Ok(IpAddr::V6(_)), Ok(length)) => length <= 128,
        _ => false,
    }
}

fn is_mac(text: &str) -> bool {
    let mut parts = 0;
    for part in text.split(':') {
        if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return false;
        }
        parts += 1;
    }
    parts == 6
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn formats() {
        for (format, good, bad) in [
            ("date-time", json!("2026-01-02T03:04:05.123456Z"), json!("yesterday")),
            ("ipv6", json!("fd00::1"), json!("1.2.3.4")),
            ("cidr", json!("fd00::/64"), json!("fd00::/129")),
            ("mac", json!("02:00:00:00:00:01"), json!("02:00:00:00:00")),
            ("int32", json!(5), json!(3_000_000_000_u64)),
            ("uint16", json!(65535), json!(65536)),
            ("uint32", json!(0), json!(-1)),
            ("byte", json!("aGk="), json!("a b")),
        ] {
            let format = Format::named(format).unwrap();
            assert!(format.accepts(&good), "{good}");
            assert!(!format.accepts(&bad), "{bad}");
        }
        assert_eq!(Format::named("no-such-format"), None);
    }

    #[test]
    fn a_date_and_time_is_that_of_rfc_3339() {
        for good in [
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05.1Z",
            "2026-01-02T03:04:05.123456789Z",
            "2026-01-02T03:04:05+02:00",
            "2024-02-29T23:59:59.5-11:30",
        ] {
            assert!(Format::DateTime.accepts(&json!(good)), "{good}");
        }
        for bad in [
            "",
            "2026-01-02",
            "2026-01-02T03:04:05",
            "2026-01-02 03:04:05Z",
            "2026-01-02t03:04:05z",
            "2026-01-02T03:04Z",
            "20260102T030405Z",
            "2026-01-02T03:04:05.Z",
            "2026-01-02T03:04:05,5Z",
            "2026-01-02T03:04:05+0200",
            "2026-01-02T03:04:05+02",
            "2026-01-02T03:04:05Z[Europe/Zurich]",
            "2026-01-02T03:04:60Z",
            "2026-02-30T03:04:05Z",
            "2026-01-02T25:04:05Z",
            "+002026-01-02T03:04:05Z",
        ] {
            assert!(!Format::DateTime.accepts(&json!(bad)), "{bad}");
        }
    }
}
