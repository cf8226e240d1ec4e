//! Amounts of bytes as Kubernetes writes them: `512Mi`, `4Gi`, `1.5G`, `1073741824`.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An amount of bytes. Written with the largest binary unit that divides it.
///
/// Units as in Kubernetes' `resource.Quantity`: Ki Mi Gi Ti Pi Ei (powers of 1024), k M G T P E (powers of
/// 1000), or none. Fractions are rounded up to a whole byte. Negative amounts, milli-units and exponents are
/// refused: no amount of memory or disk is written so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(u64);

/// Why a text is not a [`Quantity`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseQuantityError {
    /// It has not the form number and unit.
    #[error("{0:?} is not an amount of bytes; write a number and a unit, such as 512Mi or 4Gi")]
    Malformed(String),
    /// It is more than 2^64-1 bytes.
    #[error("{0:?} is more than 16Ei")]
    TooLarge(String),
}

const UNITS: [(&str, u64); 12] = [
    ("Ei", 1 << 60),
    ("Pi", 1 << 50),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("E", 1_000_000_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
];

impl Quantity {
    /// This many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The amount in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The amount in KiB, rounded up: the unit of libvirt's memory elements.
    pub const fn kib(self) -> u64 {
        self.0.div_ceil(1024)
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseQuantityError::Malformed(text.to_owned());
        let too_large = || ParseQuantityError::TooLarge(text.to_owned());
        let (digits, unit) = UNITS
            .iter()
            .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|digits| (digits, *unit)))
            .unwrap_or((text, 1));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then_some(()).ok_or_else(malformed);
        number(whole)?;
        number(fraction)?;
        if whole.is_empty() || digits.ends_with('.') || fraction.len() > 18 {
            return Err(malformed());
        }
        let whole: u128 = whole.parse().map_err(|_| too_large())?;
        let mut bytes = whole.checked_mul(u128::from(unit)).ok_or_else(too_large)?;
        if !fraction.is_empty() {
            let parts: u128 = fraction.parse().map_err(|_| malformed())?;
            let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| malformed())?);
            bytes = bytes.checked_add((parts * u128::from(unit)).div_ceil(scale)).ok_or_else(too_large)?;
        }
        u64::try_from(bytes).map(Self).map_err(|_| too_large())
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS[..6].iter().find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit)) {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of bytes, such as 512Mi")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Quantity, E> {
                Ok(Quantity(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Quantity, E> {
                u64::try_from(bytes).map(Quantity).map_err(|_| E::custom("an amount of bytes is not negative"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_kubernetes_writes() {
        for (text, bytes) in
            [("0", 0), ("1", 1), ("4Gi", 4 << 30), ("1.5Ki", 1536), ("1.5G", 1_500_000_000), ("0.1", 1), ("16Ei", 0)]
        {
            match text.parse::<Quantity>() {
                Ok(q) => assert_eq!(q.bytes(), bytes, "{text}"),
                Err(e) => assert_eq!((text, e), ("16Ei", ParseQuantityError::TooLarge("16Ei".into()))),
            }
        }
    }

    #[test]
    fn refuses_what_is_no_amount() {
        for text in ["", "Gi", "-1", "1e3", "100m", "1.", ".5", "4 Gi", "4gi", "1.2.3", "٣"] {
            assert!(text.parse::<Quantity>().is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(bytes: u64) {
            let q = Quantity::from_bytes(bytes);
            prop_assert_eq!(q.to_string().parse::<Quantity>().unwrap(), q);
            prop_assert_eq!(serde_json::from_str::<Quantity>(&serde_json::to_string(&q).unwrap()).unwrap(), q);
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = text.parse::<Quantity>();
        }
    }
}
