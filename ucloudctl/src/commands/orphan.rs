//! `ucloudctl adopt` and `destroy`: what becomes of things that belong to no object. Both say so in an Orphan; the agent of a host,
//! which looks once more whether they belong to somebody, does it.

use std::io::{IsTerminal as _, Write as _, stderr, stdin};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::wait;
use crate::{
    cli::{Adopt, Destroy, Structured},
    ensure::ensure,
    failure::{self, Failure},
    output,
    progress::{self, Progress},
    resource::Resource,
    server::{Form, Server},
    watch::{self, Followed, within},
};

const ORPHANS: &str = "orphans.ucloud.ungleich.ch";

/// Has things destroyed, and waits until they are gone. One that fails does not keep the others from being destroyed.
pub async fn destroy(server: &Server, options: &Destroy) -> anyhow::Result<()> {
    let kind = server.catalog().await?.one(ORPHANS)?;
    let mut doomed = Vec::new();
    for name in &options.orphans {
        let name = name.strip_prefix("orphan/").unwrap_or(name);
        doomed.push(server.get(&kind, "", name, Form::Object).await?);
    }
    if !options.yes && !confirmed(&doomed)? {
        bail!("nothing was destroyed");
    }
    let mut errors = Vec::new();
    for orphan in &doomed {
        errors.extend(destroy_one(server, &kind, orphan, options).await.err());
    }
    match errors.len() {
        0 => Ok(()),
        1 if doomed.len() == 1 => Err(errors.remove(0)),
        failed => {
            errors.iter().for_each(failure::print);
            let code = failure::exit_code(&errors[0]);
            Err(Failure::Some { failed, all: doomed.len(), code }.into())
        }
    }
}

/// Whether the person at the terminal wants that.
fn confirmed(doomed: &[Value]) -> anyhow::Result<bool> {
    if !stdin().is_terminal() {
        bail!("to destroy something cannot be undone: say --yes where nobody can be asked");
    }
    for orphan in doomed {
        eprintln!("{}", output::harmless(&describe(orphan)));
    }
    eprint!("Destroy {}? This cannot be undone [y/N] ", if doomed.len() == 1 { "it" } else { "all of them" });
    stderr().flush()?;
    let mut answer = String::new();
    stdin().read_line(&mut answer).context("cannot read your answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What it is, in one line.
fn describe(orphan: &Value) -> String {
    let (spec, status) = (&orphan["spec"], &orphan["status"]);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let name = text(&orphan["metadata"]["name"]).unwrap_or_default();
    let kind = text(&spec["kind"]).unwrap_or_default().to_lowercase();
    let known = [
        ("", &spec["name"]),
        ("of ", &status["origin"]),
        ("UID ", &spec["uid"]),
        ("in pool ", &spec["pool"]),
        ("on host ", &spec["host"]),
        ("", &status["size"]),
    ];
    let known = known.into_iter().filter_map(|(word, value)| Some(format!(" {word}{}", text(value)?)));
    format!("{name}: {kind}{}", known.collect::<String>())
}

async fn destroy_one(server: &Server, kind: &Resource, orphan: &Value, options: &Destroy) -> anyhow::Result<()> {
    let name = orphan["metadata"]["name"].as_str().unwrap_or_default();
    let uid = orphan["metadata"]["uid"].as_str().unwrap_or_default();
    let shown = kind.display(name);
    let patch = json!({"metadata": {"uid": uid}, "spec": {"destroy": true, "adopt": null}});
    server.change(kind, ("", name), &patch).await.with_context(|| format!("cannot destroy {shown}"))?;
    if !options.wait {
        return output::line(&format!("{shown} destruction requested"));
    }
    let mut progress = Progress::new(shown.clone());
    let followed = Followed::object(server, kind, "", name);
    if within(options.timeout, wait::until_gone(&followed, uid, &mut progress)).await?.is_none() {
        return Err(Failure::TimedOut(format!("{shown} is still there: {}", progress.last())).into());
    }
    drop(progress);
    output::line(&format!("{shown} destroyed"))
}

/// Makes a Volume of a disk, and waits until it is there.
pub async fn adopt(server: &Server, options: &Adopt) -> anyhow::Result<()> {
    let name = options.orphan.strip_prefix("orphan/").unwrap_or(&options.orphan);
    let catalog = server.catalog().await?;
    let (orphans, volumes) = (catalog.one(ORPHANS)?, catalog.one("volumes.ucloud.ungleich.ch")?);
    let shown = orphans.display(name);
    let volume = options.volume.as_deref().unwrap_or(name);
    // what was begun may be at its end by now
    let Some(orphan) = server.find(&orphans, "", name).await? else {
        return match server.find(&volumes, &server.namespace, volume).await? {
            Some(found) if is_of(&found, name) => said(&volumes, &found, options),
            _ => Err(Failure::NotFound(format!("{shown} does not exist")).into()),
        };
    };
    let wanted = json!({
        "apiVersion": volumes.api_version(), "kind": volumes.kind, "metadata": {"name": volume},
        "spec": spec_of(&orphan, &shown)?,
    });
    let is_leaving = |found: &Value| !found["metadata"]["deletionTimestamp"].is_null();
    // The Volume first: what is wrong with it is told before anything is changed
    let made = ensure(server, &volumes, volume, &wanted, is_leaving).await?;
    if !is_of(&made, name) {
        bail!(
            "{} is there already, and is not made of {shown}: choose another name with --as",
            volumes.display(volume)
        );
    }
    let uid = orphan["metadata"]["uid"].as_str().unwrap_or_default();
    let order = json!({"namespace": server.namespace, "volume": volume});
    let patch = json!({"metadata": {"uid": uid}, "spec": {"adopt": order}});
    server.change(&orphans, ("", name), &patch).await.with_context(|| format!("cannot adopt {shown}"))?;
    let mut progress = Progress::new(shown.clone());
    let followed = Followed::object(server, &volumes, &server.namespace, volume);
    let adopted = watch::until(&followed, |found| {
        let Some(found) = found else { return Some(None) };
        progress.show(found);
        (!found["status"]["size"].is_null()).then(|| Some(found.clone()))
    });
    let Some(adopted) = within(Some(options.timeout), adopted).await? else {
        // the Orphan knows better than the Volume what it waits for
        let orphan = server.find(&orphans, "", name).await?.unwrap_or_default();
        let why = progress::state(&orphan);
        return Err(Failure::TimedOut(format!("{shown} was not adopted after {:?}: {why}", options.timeout)).into());
    };
    drop(progress);
    match adopted {
        Some(adopted) => said(&volumes, &adopted, options),
        None => bail!("{} was deleted before it was made of {shown}", volumes.display(volume)),
    }
}

fn said(kind: &Resource, volume: &Value, options: &Adopt) -> anyhow::Result<()> {
    match options.output {
        Some(Structured::Json) => output::document(&format!("{volume:#}\n")),
        None => {
            let name = volume["metadata"]["name"].as_str().unwrap_or_default();
            output::line(&format!(
                "{} is made of {}: `ucloudctl attach VM {name}` gives it to a VM",
                kind.display(name),
                volume["spec"]["source"]["orphan"].as_str().unwrap_or_default()
            ))
        }
    }
}

fn is_of(volume: &Value, orphan: &str) -> bool {
    volume["spec"]["source"]["orphan"] == orphan
}

/// The spec of the Volume that is to be made of the orphan.
fn spec_of(orphan: &Value, shown: &str) -> anyhow::Result<Value> {
    match orphan["spec"]["kind"].as_str() {
        Some("Disk") => {}
        Some("Domain") => bail!(
            "{shown} is a domain, which only a VM can have: destroy it (`ucloudctl destroy`), adopt its disks, which are \
             orphans of their own, and make a VM that has those volumes"
        ),
        _ => bail!("{shown} is no disk: only disks can be adopted; what it holds can be uploaded again"),
    }
    let Some(size) = orphan["status"]["size"].as_str() else {
        bail!(
            "nobody knows yet how large {shown} is: try again in a minute; `ucloudctl describe {shown}` says what keeps it"
        );
    };
    let name = &orphan["metadata"]["name"];
    Ok(json!({"size": size, "pool": orphan["spec"]["pool"], "source": {"orphan": name}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orphan(kind: &str) -> Value {
        json!({
            "metadata": {"name": "disk-1"},
            "spec": {"kind": kind, "uid": "0b4a", "name": "root", "pool": "default", "host": "h1"},
            "status": {"size": "1Gi", "origin": "default/web"},
        })
    }

    #[test]
    fn it_is_said_what_it_is() {
        let line = describe(&orphan("Disk"));
        assert_eq!(line, "disk-1: disk root of default/web UID 0b4a in pool default on host h1 1Gi");
        assert_eq!(
            describe(&json!({"metadata": {"name": "a"}, "spec": {"kind": "Image", "uid": "u"}})),
            "a: image UID u"
        );
    }

    #[test]
    fn only_disks_become_volumes() {
        let spec = spec_of(&orphan("Disk"), "orphan/disk-1").unwrap();
        assert_eq!(spec, json!({"size": "1Gi", "pool": "default", "source": {"orphan": "disk-1"}}));
        let why = spec_of(&orphan("Domain"), "orphan/disk-1").unwrap_err().to_string();
        assert!(why.contains("adopt its disks"), "{why}");
        assert!(spec_of(&orphan("File"), "orphan/disk-1").is_err());
        let mut unknown = orphan("Disk");
        unknown["status"] = json!({});
        assert!(spec_of(&unknown, "orphan/disk-1").unwrap_err().to_string().contains("how large"));
    }
}
