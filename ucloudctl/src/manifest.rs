//! Reads objects from files, folders and standard input: YAML or JSON, several documents to a file.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::Deserialize as _;
use serde_json::Value;

/// An object as a file describes it.
#[derive(Debug)]
pub struct Manifest {
    /// Where it stands, for messages.
    pub origin: String,
    pub api_version: String,
    pub kind: String,
    pub name: String,
    /// The namespace, if it names one.
    pub namespace: Option<String>,
    /// All of it.
    pub object: Value,
}

/// The objects of all files, in the order of the command line; those of a folder in the order of their names.
pub fn read(paths: &[PathBuf], recursive: bool) -> anyhow::Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            manifests.extend(parse("standard input", &text)?);
        } else if path.is_dir() {
            read_folder(path, recursive, &mut manifests)?;
        } else {
            manifests.extend(read_file(path)?);
        }
    }
    if manifests.is_empty() {
        bail!("no objects in {}", paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "));
    }
    Ok(manifests)
}

fn read_folder(folder: &Path, recursive: bool, manifests: &mut Vec<Manifest>) -> anyhow::Result<()> {
    let context = || format!("cannot read {}", folder.display());
    let entries = fs::read_dir(folder).with_context(context)?;
    let mut paths = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().with_context(context)?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if recursive {
                read_folder(&path, recursive, manifests)?;
            }
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            manifests.extend(read_file(&path)?);
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> anyhow::Result<Vec<Manifest>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&path.display().to_string(), &text)
}

/// The objects in a text; a `List` is taken apart. Empty documents are passed over.
fn parse(origin: &str, text: &str) -> anyhow::Result<Vec<Manifest>> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).with_context(|| format!("{origin} is neither YAML nor JSON"))?;
    let several = documents.len() > 1;
    let mut manifests = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        let origin = if several { format!("{origin}, document {}", index + 1) } else { origin.to_owned() };
        flatten(&origin, document, &mut manifests)?;
    }
    Ok(manifests)
}

fn flatten(origin: &str, document: Value, manifests: &mut Vec<Manifest>) -> anyhow::Result<()> {
    if document.is_null() {
        return Ok(());
    }
    if document["kind"].as_str().is_some_and(|kind| kind.ends_with("List"))
        && let Some(items) = document["items"].as_array()
    {
        for (index, item) in items.iter().enumerate() {
            flatten(&format!("{origin}, item {}", index + 1), item.clone(), manifests)?;
        }
        return Ok(());
    }
    let word =
        |pointer: &str| document.pointer(pointer).and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned);
    let needed = |pointer: &str, field: &str, example: &str| {
        word(pointer).with_context(|| format!("{origin}: {field} is missing; write for example {example}"))
    };
    manifests.push(Manifest {
        origin: origin.to_owned(),
        api_version: needed("/apiVersion", "apiVersion", "apiVersion: ucloud.ungleich.ch/v1alpha1")?,
        kind: needed("/kind", "kind", "kind: VM")?,
        name: needed("/metadata/name", "metadata.name", "metadata: {name: web}")?,
        namespace: word("/metadata/namespace"),
        object: Value::deserialize(document)?,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_lists_and_empty_documents() {
        let text = "---\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n\
                    apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: b}}\n";
        let names: Vec<_> = parse("f.yaml", text).unwrap().into_iter().map(|m| m.name).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn errors_name_the_file_and_the_field() {
        let error = parse("f.yaml", "kind: VM\nmetadata: {name: a}").unwrap_err().to_string();
        assert_eq!(error, "f.yaml: apiVersion is missing; write for example apiVersion: ucloud.ungleich.ch/v1alpha1");
        assert!(parse("f.yaml", "a: [").unwrap_err().to_string().starts_with("f.yaml is neither YAML nor JSON"));
        assert!(parse("f.yaml", "a: 1\na: 2").is_err(), "a key given twice is a mistake");
    }

    #[test]
    fn folders_are_read_in_the_order_of_names() {
        let folder = tempfile::tempdir().unwrap();
        let object = |name: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
        fs::write(folder.path().join("2.yaml"), object("second")).unwrap();
        fs::write(
            folder.path().join("1.json"),
            r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"first"}}"#,
        )
        .unwrap();
        fs::write(folder.path().join("notes.txt"), "not an object").unwrap();
        fs::create_dir(folder.path().join("3")).unwrap();
        fs::write(folder.path().join("3/x.yml"), object("third")).unwrap();
        let names = |recursive| -> Vec<String> {
            read(&[folder.path().to_owned()], recursive).unwrap().into_iter().map(|m| m.name).collect()
        };
        assert_eq!(names(false), ["first", "second"]);
        assert_eq!(names(true), ["first", "second", "third"]);
    }
}
