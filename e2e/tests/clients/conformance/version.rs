//! "server version should find the server version".

use anyhow::ensure;

use super::wire::Wire;

super::tests!("version": major_and_minor_are_integers);

async fn major_and_minor_are_integers(wire: &Wire) -> anyhow::Result<()> {
    let version = wire.get("/version").await?.ok()?;
    for field in ["major", "minor"] {
        let text = version[field].as_str().unwrap_or_default();
        // a vendor's version may end with +
        let digits = text.trim_end_matches('+');
        ensure!(!digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()), "{field} is {text:?}");
    }
    ensure!(version["gitVersion"].as_str().is_some_and(|version| version.starts_with('v')), "{version}");
    Ok(())
}
