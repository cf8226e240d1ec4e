//! `ucloudctl attach` and `detach`: give a VM a volume, and take it back. Both change the VM's spec; the agent of its host, which
//! sees that one VM at a time has the volume, does the rest.

use anyhow::bail;
use serde_json::{Value, json};
use ucloud_types::meta::DEFAULT_POOL;

use crate::{
    cli::{Attach, Detach},
    failure, output,
    server::{Form, Server},
};

/// How often a change is tried on a VM that others change at the same time.
const ATTEMPTS: usize = 10;

/// Has the VM have the volume.
pub async fn attach(server: &Server, options: &Attach) -> anyhow::Result<()> {
    let (vm, volume) = names(&options.vm, &options.volume);
    let disk = match &options.disk {
        Some(disk) => disk,
        None if is_disk_name(volume) => volume,
        None => bail!("a disk cannot have the name of volume {volume:?}: name the disk with --disk NAME"),
    };
    let catalog = server.catalog().await?;
    let kind = catalog.one("volumes.ucloud.ungleich.ch")?;
    let found = server.get(&kind, &server.namespace, volume, Form::Object).await?;
    if !found["metadata"]["deletionTimestamp"].is_null() {
        bail!("volume {volume:?} is being deleted: make another one");
    }
    let holder = found["status"]["attachment"]["vm"].as_str().filter(|holder| *holder != vm);
    if let Some(holder) = holder {
        failure::note(&format!(
            "VM {holder} has volume {volume}; VM {vm} gets it when that has given it back (ucloudctl detach {holder} {volume})"
        ));
    }
    let host = only_host(server, &found).await?;
    let said = change(server, vm, |object| {
        check_place(object, vm, volume, host.as_deref())?;
        with_volume(object, vm, volume, disk)
    })
    .await?;
    output::line(&said)
}

/// The host that alone has the bytes of the volume.
async fn only_host(server: &Server, volume: &Value) -> anyhow::Result<Option<String>> {
    let Some(host) = volume["status"]["host"].as_str() else { return Ok(None) };
    let kind = server.catalog().await?.one("storagepools.ucloud.ungleich.ch")?;
    let pool = server.find(&kind, "", volume["spec"]["pool"].as_str().unwrap_or(DEFAULT_POOL)).await?;
    let shared = pool.is_some_and(|pool| pool["spec"]["rbd"].is_object());
    Ok((!shared).then(|| host.to_owned()))
}

/// A VM that has a host stays there, and so does a volume in a pool that hosts do not share.
fn check_place(object: &Value, vm: &str, volume: &str, host: Option<&str>) -> anyhow::Result<()> {
    match (object["status"]["binding"]["host"].as_str(), host) {
        (Some(bound), Some(host)) if bound != host => bail!(
            "VM {vm} is on host {bound}, and volume {volume} on host {host}, in a pool that hosts do not share: \
             a VM that names the volume when it is created goes there"
        ),
        _ => Ok(()),
    }
}

/// Has the VM give the volume back.
pub async fn detach(server: &Server, options: &Detach) -> anyhow::Result<()> {
    let (vm, volume) = names(&options.vm, &options.volume);
    let said = change(server, vm, |object| without_volume(object, vm, volume)).await?;
    output::line(&said)
}

fn names<'a>(vm: &'a str, volume: &'a str) -> (&'a str, &'a str) {
    (vm.strip_prefix("vm/").unwrap_or(vm), volume.strip_prefix("volume/").unwrap_or(volume))
}

/// Whether a disk can have this name.
fn is_disk_name(name: &str) -> bool {
    let fits = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    fits && (1..=32).contains(&name.len()) && !name.starts_with('-') && !name.ends_with('-')
}

/// What is to become of a VM's disks, and what there is to say then.
#[derive(Debug, PartialEq)]
struct Change {
    /// All of them; none if they stay.
    disks: Option<Vec<Value>>,
    said: String,
}

/// Changes the disks of the VM; on a newer version of it, when others were faster.
async fn change(server: &Server, vm: &str, plan: impl Fn(&Value) -> anyhow::Result<Change>) -> anyhow::Result<String> {
    let kind = server.catalog().await?.one("vms.ucloud.ungleich.ch")?;
    let mut attempt = 1;
    loop {
        let object = server.get(&kind, &server.namespace, vm, Form::Object).await?;
        let Change { disks, said } = plan(&object)?;
        let said = format!("{} {said}", kind.display(vm));
        let Some(disks) = disks else { return Ok(said) };
        let meta = &object["metadata"];
        let patch = json!({
            "metadata": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}, "spec": {"disks": disks},
        });
        match server.change(&kind, (&server.namespace, vm), &patch).await {
            Ok(_) => return Ok(said),
            Err(error) if failure::is_conflict(&error) && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

fn disks(vm: &Value) -> Vec<Value> {
    vm["spec"]["disks"].as_array().cloned().unwrap_or_default()
}

fn text<'a>(disk: &'a Value, field: &str) -> &'a str {
    disk[field].as_str().unwrap_or_default()
}

fn with_volume(object: &Value, vm: &str, volume: &str, disk: &str) -> anyhow::Result<Change> {
    let mut disks = disks(object);
    if let Some(has) = disks.iter().find(|disk| disk["volume"] == volume) {
        let said = format!("has volume {volume} already, as disk {}", text(has, "name"));
        return Ok(Change { disks: None, said });
    }
    if let Some(taken) = disks.iter().find(|taken| taken["name"] == disk) {
        let what = match taken["volume"].as_str() {
            Some(volume) => format!("volume {volume}"),
            None => format!("a clone of image {}", text(taken, "image")),
        };
        bail!("VM {vm} has a disk {disk:?} already, which is {what}: choose another name with --disk NAME");
    }
    disks.push(json!({"name": disk, "volume": volume}));
    Ok(Change { disks: Some(disks), said: format!("is to have volume {volume}, as disk {disk}") })
}

fn without_volume(object: &Value, vm: &str, volume: &str) -> anyhow::Result<Change> {
    let mut disks = disks(object);
    match disks.iter().position(|disk| disk["volume"] == volume) {
        None => Ok(Change { disks: None, said: format!("does not have volume {volume}") }),
        Some(0) => bail!(
            "VM {vm} boots from volume {volume}, its first disk, which cannot be detached: delete the VM; \
             what becomes of the volume then is its spec.reclaimPolicy"
        ),
        Some(place) => {
            disks.remove(place);
            Ok(Change { disks: Some(disks), said: format!("is to give volume {volume} back") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm() -> Value {
        json!({"spec": {"disks": [{"name": "root", "volume": "boot"}, {"name": "logs", "image": "empty"},
            {"name": "d", "volume": "data"}]}})
    }

    #[test]
    fn a_volume_is_attached_once() {
        let change = with_volume(&vm(), "web", "more", "more").unwrap();
        assert_eq!(change.said, "is to have volume more, as disk more");
        let disks = change.disks.unwrap();
        assert_eq!(
            (disks.len(), &disks[..3], &disks[3]),
            (4, &vm()["spec"]["disks"].as_array().unwrap()[..], &json!({"name": "more", "volume": "more"}))
        );
        let again = with_volume(&vm(), "web", "data", "other").unwrap();
        assert_eq!((again.disks, again.said.as_str()), (None, "has volume data already, as disk d"));
        for (disk, what) in [("logs", "a clone of image empty"), ("d", "volume data")] {
            let error = with_volume(&vm(), "web", "more", disk).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("--disk NAME"), "{error}");
        }
    }

    #[test]
    fn a_vm_and_a_volume_that_are_apart_stay_apart() {
        let bound = json!({"status": {"binding": {"host": "h1"}}});
        let error = check_place(&bound, "web", "data", Some("h2")).unwrap_err().to_string();
        assert!(error.starts_with("VM web is on host h1, and volume data on host h2"), "{error}");
        for (object, host) in [(&bound, Some("h1")), (&bound, None), (&vm(), Some("h2"))] {
            assert!(check_place(object, "web", "data", host).is_ok());
        }
    }

    #[test]
    fn a_volume_is_detached_once_and_never_the_first_disk() {
        let change = without_volume(&vm(), "web", "data").unwrap();
        assert_eq!(change.disks.unwrap(), vm()["spec"]["disks"].as_array().unwrap()[..2]);
        let again = without_volume(&vm(), "web", "more").unwrap();
        assert_eq!((again.disks, again.said.as_str()), (None, "does not have volume more"));
        let error = without_volume(&vm(), "web", "boot").unwrap_err().to_string();
        assert!(error.contains("boots from volume boot") && error.contains("spec.reclaimPolicy"), "{error}");
    }

    #[test]
    fn not_every_volume_can_lend_a_disk_its_name() {
        for (name, can) in [("data", true), ("a-1", true), ("a.b", false), ("-a", false), ("a-", false), ("", false)] {
            assert_eq!(is_disk_name(name), can, "{name:?}");
        }
        assert!(is_disk_name(&"a".repeat(32)) && !is_disk_name(&"a".repeat(33)));
        assert_eq!(names("vm/web", "volume/data"), ("web", "data"));
    }
}
