//! `ucloudctl image upload` and `download`: from a disk image on this machine to an Image that VMs can be made from, and back.

mod guess;

use anyhow::bail;
use serde_json::{Value, json};
use ucloud_types::meta::DEFAULT_POOL;

use super::{
    download,
    file::{
        local::Local,
        upload::{Wanted, is_deleting, prepare, upload},
    },
};
use crate::{
    cli::{ImageCommand, ImageUpload, Structured},
    ensure::ensure,
    failure::Failure,
    output,
    progress::{self, Progress},
    server::Server,
    watch::{self, Followed, within},
};

pub async fn run(server: &Server, command: &ImageCommand) -> anyhow::Result<()> {
    match command {
        ImageCommand::Upload(options) => upload_image(server, options).await,
        ImageCommand::Download(options) => download::run(server, "image", options).await,
    }
}

async fn upload_image(server: &Server, options: &ImageUpload) -> anyhow::Result<()> {
    let name = options.name.strip_prefix("image/").unwrap_or(&options.name);
    let catalog = server.catalog().await?;
    let kind = catalog.one("images.ucloud.ungleich.ch")?;
    if let Some(pool) = &options.pool
        && server.find(&catalog.one("storagepools.ucloud.ungleich.ch")?, "", pool).await?.is_none()
    {
        bail!("StoragePool {pool:?} does not exist: `ucloudctl get storagepools` lists them");
    }
    let mut wanted = Wanted::new(name, Local::open(&options.path)?, options.pool.as_deref());
    let object = object(name, options, &wanted)?;
    let owner =
        |uid: &Value| Some(json!({"apiVersion": kind.api_version(), "kind": kind.kind, "name": name, "uid": uid}));
    let before = server.find(&kind, &server.namespace, name).await?.filter(|image| !is_deleting(image));
    if let Some(image) = &before {
        check(name, image, &object)?;
        check_sum(name, image, &wanted).await?;
    }
    wanted.owner = owner(before.as_ref().map_or(&Value::Null, |image| &image["metadata"]["uid"]));
    prepare(server, &wanted).await?;
    let image = ensure(server, &kind, name, &object, is_deleting).await?;
    check(name, &image, &object)?;
    check_sum(name, &image, &wanted).await?;
    // The Image comes first, so that the File is its own from the beginning and goes with it
    wanted.owner = owner(&image["metadata"]["uid"]);
    upload(server, &wanted).await?;

    let shown = kind.display(name);
    let mut progress = Progress::new(shown.clone());
    let followed = Followed::object(server, &kind, &server.namespace, name);
    let imported = watch::until(&followed, |image| {
        let Some(image) = image else { return Some(Err(format!("{shown} was deleted"))) };
        progress.show(image);
        match image["status"]["phase"].as_str() {
            Some("Ready") => Some(Ok(image.clone())),
            Some("Failed") => Some(Err(format!("{shown} cannot be imported: {}", progress::state(image)))),
            _ => None,
        }
    });
    let Some(imported) = within(Some(options.timeout), imported).await? else {
        let last = progress.last().to_owned();
        return Err(Failure::TimedOut(format!("{shown} is not Ready after {:?}: {last}", options.timeout)).into());
    };
    drop(progress);
    let imported = imported.map_err(anyhow::Error::msg)?;
    check_sum(name, &imported, &wanted).await?;
    match options.output {
        Some(Structured::Json) => output::document(&format!("{imported:#}\n")),
        None => output::line(&format!("{shown} is Ready: VMs can be made from it")),
    }
}

/// The Image as it is to be.
fn object(name: &str, options: &ImageUpload, wanted: &Wanted) -> anyhow::Result<Value> {
    let head = wanted.head(guess::HEAD)?;
    let compression = guess::compression(&head);
    let format = match options.format {
        Some(format) => format.into(),
        None => guess::format(&head, compression, &options.path)?,
    };
    let mut object = json!({
        "apiVersion": format!("{}/{}", ucloud_types::GROUP, ucloud_types::VERSION), "kind": "Image",
        "metadata": {"name": name},
        "spec": {"source": {"upload": {"file": name}}, "format": format},
    });
    if let Some(compression) = compression {
        object["spec"]["compression"] = json!(compression);
    }
    if let Some(pool) = &options.pool {
        object["spec"]["pool"] = json!(pool);
    }
    Ok(object)
}

/// Whether the Image that is there is the one that is to be made.
fn check(name: &str, found: &Value, wanted: &Value) -> anyhow::Result<()> {
    for field in ["source", "format", "compression"] {
        let (found, wanted) = (&found["spec"][field], &wanted["spec"][field]);
        if found != wanted {
            bail!(
                "image {name:?} is there already, with spec.{field} {found} instead of {wanted}: choose another name, or delete it first"
            );
        }
    }
    let pool = |image: &Value| image.pointer("/spec/pool").and_then(Value::as_str).unwrap_or(DEFAULT_POOL).to_owned();
    let (found, asked) = (pool(found), pool(wanted));
    if wanted.pointer("/spec/pool").is_some() && found != asked {
        bail!(
            "image {name:?} is there already, in pool {found} instead of {asked}: choose another name, or delete it first"
        );
    }
    Ok(())
}

/// Whether the Image that is there, and of which the checksum is known, is of the bytes that are to be sent.
async fn check_sum(name: &str, found: &Value, wanted: &Wanted) -> anyhow::Result<()> {
    let known = ["/spec/checksum", "/status/sha256"].iter().find_map(|field| found.pointer(field)?.as_str());
    let Some(known) = known else { return Ok(()) };
    let own = wanted.sha256().await?.to_string();
    if known != own {
        bail!("image {name:?} is there already, of {known} instead of {own}: choose another name, or delete it first");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ucloud_types::image::Sha256;

    use super::*;

    #[tokio::test]
    async fn an_image_of_other_bytes_is_not_taken_for_the_own() {
        let image =
            |format: &str, file: &str| json!({"spec": {"source": {"upload": {"file": file}}, "format": format}});
        assert!(check("a", &image("raw", "a"), &image("raw", "a")).is_ok());
        for other in [image("qcow2", "a"), image("raw", "b")] {
            let error = check("a", &other, &image("raw", "a")).unwrap_err().to_string();
            assert!(error.contains("choose another name"), "{error}");
        }

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, "bytes").unwrap();
        let wanted = Wanted::new("a", Local::open(&path).unwrap(), None);
        let (own, other) = (wanted.sha256().await.unwrap(), Sha256::from([1; 32]));
        for (found, same) in [
            (json!({}), true),
            (json!({"spec": {"checksum": own}}), true),
            (json!({"spec": {}, "status": {"sha256": own}}), true),
            (json!({"spec": {"checksum": other}, "status": {"sha256": own}}), false),
            (json!({"status": {"sha256": other}}), false),
        ] {
            assert_eq!(check_sum("a", &found, &wanted).await.is_ok(), same, "{found}");
        }
    }
}
