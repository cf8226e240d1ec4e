//! `manifests/crds`: the kinds as CustomResourceDefinitions, one file each.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context as _;

const FOLDER: &str = "manifests/crds";

/// The files as they should be: by name, their content.
fn render() -> anyhow::Result<BTreeMap<String, String>> {
    ucloud_types::definitions()
        .into_iter()
        .map(|crd| {
            let yaml = serde_saphyr::to_string(&crd).context("cannot write a definition as YAML")?;
            Ok((
                format!("{}.yaml", crd.spec.names.plural),
                format!("# Generated from api/types by `cargo xtask generate`.\n{yaml}"),
            ))
        })
        .collect()
}

/// Writes all files and removes those of kinds that are no more.
pub fn generate(root: &Path) -> anyhow::Result<()> {
    let folder = root.join(FOLDER);
    fs::create_dir_all(&folder)?;
    let wanted = render()?;
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        if !wanted.contains_key(&*entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    for (name, content) in &wanted {
        fs::write(folder.join(name), content).with_context(|| format!("cannot write {FOLDER}/{name}"))?;
    }
    println!("{FOLDER}: {} files", wanted.len());
    Ok(())
}

/// What differs between the files and the kinds.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut wanted = render()?;
    let mut findings = Vec::new();
    for entry in fs::read_dir(root.join(FOLDER)).with_context(|| format!("cannot read {FOLDER}"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match wanted.remove(&name) {
            None => findings.push(format!("{FOLDER}/{name}: no kind has this file; run `cargo xtask generate`")),
            Some(content) if content != fs::read_to_string(entry.path())? => {
                findings.push(format!("{FOLDER}/{name}: differs from the kind; run `cargo xtask generate`"));
            }
            Some(_) => {}
        }
    }
    findings.extend(wanted.keys().map(|name| format!("{FOLDER}/{name}: is missing; run `cargo xtask generate`")));
    Ok(findings)
}
