//! Which of a group's versions clients should prefer: Kubernetes' order of version names. Stable versions come before
//! betas, betas before alphas, higher numbers before lower ones; other names follow in the order of the alphabet.

use std::cmp::Ordering;

/// Sorts the version to prefer first.
pub(crate) fn by_priority(a: &str, b: &str) -> Ordering {
    match (rank(a), rank(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// The stability (2 for stable, 1 for beta, 0 for alpha), the major number, and the number of the beta or the alpha.
fn rank(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, rest) = rest.split_at(digits);
    let (stability, minor) = if rest.is_empty() {
        (2, "0")
    } else if let Some(minor) = rest.strip_prefix("beta") {
        (1, minor)
    } else {
        (0, rest.strip_prefix("alpha")?)
    };
    let number = |text: &str| if text.starts_with('+') { None } else { text.parse().ok() };
    Some((stability, number(major)?, number(minor)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_kubernetes() {
        let expected =
            ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"];
        let mut versions = expected;
        versions.reverse();
        versions.sort_by(|a, b| by_priority(a, b));
        assert_eq!(versions, expected);
    }
}
