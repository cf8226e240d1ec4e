//! Kubernetes' quantities: `500m`, `4Gi`, `1e3`, `12`. Read in every form that Kubernetes reads, and calculated exactly to a
//! billionth, as Kubernetes does; finer fractions are rounded up.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Neg, Sub};
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
/// No quantity is greater, so that sums of them fit.
const MAX: i128 = (i64::MAX as i128) * NANO;

const DECIMAL: [(&str, i128); 10] = [
    ("E", 1_000_000_000_000_000_000 * NANO),
    ("P", 1_000_000_000_000_000 * NANO),
    ("T", 1_000_000_000_000 * NANO),
    ("G", 1_000_000_000 * NANO),
    ("M", 1_000_000 * NANO),
    ("k", 1_000 * NANO),
    ("", NANO),
    ("m", 1_000_000),
    ("u", 1_000),
    ("n", 1),
];

const BINARY: [(&str, i128); 6] = [
    ("Ei", (1 << 60) * NANO),
    ("Pi", (1 << 50) * NANO),
    ("Ti", (1 << 40) * NANO),
    ("Gi", (1 << 30) * NANO),
    ("Mi", (1 << 20) * NANO),
    ("Ki", (1 << 10) * NANO),
];

/// An amount of something. Two are equal if they are the same amount, however they are written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    /// Written in powers of 1024.
    binary: bool,
}

/// Why a text is no [`Quantity`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    /// It has another form.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Malformed,
    /// It is more than 2^63-1.
    #[error("must be at most 2^63-1")]
    TooLarge,
}

impl Quantity {
    /// So many things.
    pub const fn count(count: i64) -> Self {
        Self { nanos: count as i128 * NANO, binary: false }
    }

    /// So many bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self { nanos: bytes as i128 * NANO, binary: true }
    }

    /// Whether it is less than nothing.
    pub const fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it is more than nothing.
    pub const fn is_positive(self) -> bool {
        self.nanos > 0
    }

    /// Whether it has no fraction.
    pub const fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        use ParseQuantityError::{Malformed, TooLarge};
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(Malformed);
        }
        let (unit, divisor, binary) = unit(suffix)?;
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        let mantissa: i128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| TooLarge)? };
        let scale =
            u32::try_from(fraction.len()).ok().and_then(|places| 10_i128.checked_pow(places)).ok_or(Malformed)?;
        let divisor = scale.checked_mul(divisor).ok_or(Malformed)?;
        let scaled = mantissa.checked_mul(unit).ok_or(TooLarge)?;
        // away from nothing, as Kubernetes rounds
        let nanos = scaled / divisor + i128::from(scaled % divisor != 0);
        if nanos > MAX {
            return Err(TooLarge);
        }
        Ok(Self { nanos: if negative { -nanos } else { nanos }, binary })
    }
}

/// What a suffix multiplies with and divides by, in billionths, and whether it is a power of 1024.
fn unit(suffix: &str) -> Result<(i128, i128, bool), ParseQuantityError> {
    if let Some((_, unit)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Ok((*unit, 1, true));
    }
    if let Some((_, unit)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((*unit, 1, false));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseQuantityError::Malformed)?;
    let exponent: i32 = exponent.parse().map_err(|_| ParseQuantityError::Malformed)?;
    let power = 10_i128.checked_pow(exponent.unsigned_abs()).ok_or(ParseQuantityError::TooLarge)?;
    if exponent < 0 {
        return Ok((NANO, power, false));
    }
    Ok((power.checked_mul(NANO).ok_or(ParseQuantityError::TooLarge)?, 1, false))
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let divides = |(_, unit): &&(&str, i128)| self.nanos % unit == 0;
        let binary = BINARY.iter().filter(|_| self.binary).find(divides);
        let whole_bytes = (self.binary && self.is_whole()).then_some(&("", NANO));
        match binary.or(whole_bytes).or_else(|| DECIMAL.iter().find(divides)) {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.nanos / unit),
            None => write!(f, "{}n", self.nanos),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;

    /// Written as the first of the two is, unless that is nothing.
    fn add(self, other: Self) -> Self {
        let binary = if self.nanos == 0 { other.binary } else { self.binary };
        Self { nanos: self.nanos.saturating_add(other.nanos), binary }
    }
}

impl Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self { nanos: -self.nanos, binary: self.binary }
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn every_form_is_read_and_written_in_the_shortest() {
        for (text, canonical) in [
            ("0", "0"),
            ("5", "5"),
            ("+5", "5"),
            ("-5", "-5"),
            ("1000", "1k"),
            ("1500m", "1500m"),
            ("2000m", "2"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("1e3", "1k"),
            ("1E3", "1k"),
            ("1E", "1E"),
            ("12e-1", "1200m"),
            ("1Gi", "1Gi"),
            ("0.5Gi", "512Mi"),
            ("1000Ki", "1000Ki"),
            ("1024Ki", "1Mi"),
            ("0.1n", "1n"),
            ("100u", "100u"),
        ] {
            assert_eq!(quantity(text).to_string(), canonical, "{text}");
        }
        for bad in
            ["", ".", "-", "1.2.3", "1 Gi", "Gi", "1gi", "1K", "1e", "1e+", "0x1", "1Gi1", "1e99", "99E", "1e-40"]
        {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts_and_not_spellings_are_compared() {
        assert_eq!(quantity("1Gi"), quantity("1073741824"));
        assert!(quantity("500m") < quantity("1"));
        assert_eq!((quantity("1Gi") + quantity("512Mi")).to_string(), "1536Mi");
        assert_eq!((Quantity::default() + Quantity::bytes(1 << 30)).to_string(), "1Gi");
        assert!((quantity("1") - quantity("2")).is_negative());
        assert_eq!(Quantity::bytes(1536).to_string(), "1536");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(count in 0..i64::MAX / 2, binary: bool) {
            let written = if binary { Quantity::bytes(count.unsigned_abs()) } else { Quantity::count(count) };
            prop_assert_eq!(quantity(&written.to_string()), written);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
