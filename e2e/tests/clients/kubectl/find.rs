//! Finds every kubectl: on the PATH, where Google's SDK puts its versions, and where `hack/test` has put those that it fetched.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use serde_json::Value;
use ucloud_e2e::Run;

use super::Found;

/// Further folders to look in.
const WELL_KNOWN: [&str; 4] =
    ["/usr/local/bin", "/usr/lib/google-cloud-sdk/bin", "/opt/google-cloud-sdk/bin", "/snap/bin"];

/// One of each version.
pub fn all() -> anyhow::Result<Vec<Found>> {
    let path = env::var_os("PATH").unwrap_or_default();
    let fetched = crate::fetched_folder().join("kubectl");
    let folders = env::split_paths(&path).chain(WELL_KNOWN.iter().map(PathBuf::from)).chain([fetched]);
    let programs: BTreeSet<PathBuf> = folders.flat_map(|folder| programs(&folder)).collect();
    let mut versions = BTreeMap::new();
    for program in programs {
        let found = identify(&program)?;
        versions.entry((found.minor, found.version.clone())).or_insert(found);
    }
    Ok(versions.into_values().collect())
}

/// `kubectl`, `kubectl.1.32` or `kubectl-1.20` in a folder, each by its real path. Plugins (`kubectl-something`) are none.
fn programs(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let is_kubectl = |name: &str| {
        let rest = name.strip_prefix("kubectl");
        rest.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-')))
    };
    let entries = entries.filter_map(Result::ok);
    let named = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_kubectl));
    named.filter_map(|entry| entry.path().canonicalize().ok()).filter(|path| path.is_file()).collect()
}

fn identify(program: &Path) -> anyhow::Result<Found> {
    let run = Run::of(Command::new(program).args(["version", "--client", "-o", "json"]), "")?.ok()?;
    let told: Value = serde_json::from_str(&run.stdout).with_context(|| format!("{} said {}", run.line, run.stdout))?;
    let text = |field: &str| told["clientVersion"][field].as_str().unwrap_or_default().to_owned();
    let minor = text("minor");
    let minor = minor.trim_end_matches(|c: char| !c.is_ascii_digit());
    let minor = minor.parse().with_context(|| format!("{} tells no version: {}", program.display(), run.stdout))?;
    Ok(Found { path: program.to_owned(), version: text("gitVersion"), minor })
}
