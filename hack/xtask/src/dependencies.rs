//! Who may depend on whom. Tests may use more than what they test: development dependencies do not count.

use std::{path::Path, process::Command};

use anyhow::Context as _;
use serde::Deserialize;

/// Each package of the workspace, and the other packages of the workspace that it may use.
const RULES: &[(&str, &[&str])] = &[
    ("ucloud-types", &[]),
    ("ucloud-machinery", &[]),
    ("ucloud-api", &["ucloud-types", "ucloud-machinery"]),
    ("ucloud-controllers", &["ucloud-types"]),
    ("ucloud-agent-core", &["ucloud-types"]),
    ("ucloud-agent-libvirt", ADAPTER),
    ("ucloud-agent-import", ADAPTER),
    ("ucloud-agent-files", STORE),
    ("ucloud-agent-rbd", STORE),
    ("ucloud-agent-netlink", ADAPTER),
    ("ucloud-agent-nftables", ADAPTER),
    ("ucloud-agent-radvd", ADAPTER),
    ("ucloud-agent-sim", ADAPTER),
    (
        "ucloud-agent",
        &[
            "ucloud-types",
            "ucloud-agent-core",
            "ucloud-agent-libvirt",
            "ucloud-agent-files",
            "ucloud-agent-import",
            "ucloud-agent-rbd",
            "ucloud-agent-netlink",
            "ucloud-agent-nftables",
            "ucloud-agent-radvd",
        ],
    ),
    ("ucloudctl", &["ucloud-types"]),
    ("ucloud-e2e", &["ucloud-types"]),
    ("xtask", &["ucloud-types"]),
    // it measures the API server from outside, over the wire, and storage by what agents call
    ("ucloud-bench", &["ucloud-agent-core", "ucloud-agent-import", "ucloud-agent-rbd", "ucloud-types"]),
];

const ADAPTER: &[&str] = &["ucloud-agent-core", "ucloud-types"];
/// What keeps images: they are all fetched and inspected in one way.
const STORE: &[&str] = &["ucloud-agent-core", "ucloud-agent-import", "ucloud-types"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<String>,
}

/// The dependencies that the rules do not allow.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    anyhow::ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cannot read cargo metadata")?;
    Ok(metadata.packages.iter().flat_map(findings).collect())
}

fn findings(package: &Package) -> Vec<String> {
    let Some((_, allowed)) = RULES.iter().find(|(name, _)| *name == package.name) else {
        return vec![format!("{}: is not in the dependency rules (hack/xtask/src/dependencies.rs)", package.name)];
    };
    package
        .dependencies
        .iter()
        .filter(|d| d.path.is_some() && d.kind.as_deref() != Some("dev") && !allowed.contains(&d.name.as_str()))
        .map(|d| format!("{} must not depend on {}", package.name, d.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependency: &str, kind: Option<&str>) -> Package {
        Package {
            name: name.into(),
            dependencies: vec![Dependency {
                name: dependency.into(),
                kind: kind.map(str::to_owned),
                path: Some("/somewhere".into()),
            }],
        }
    }

    #[test]
    fn a_forbidden_dependency_is_found_and_a_test_may_use_more() {
        assert_eq!(findings(&package("ucloud-controllers", "ucloud-agent", None)).len(), 1);
        assert_eq!(findings(&package("ucloud-controllers", "ucloud-api", Some("dev"))).len(), 0);
        assert_eq!(findings(&package("ucloud-controllers", "ucloud-types", None)).len(), 0);
        assert_eq!(findings(&package("ucloud-new", "ucloud-types", None)).len(), 1);
    }
}
