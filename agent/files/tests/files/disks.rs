//! Disks, and a pool that is full, with the real qemu-img.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use crate::pool::{Lab, MIB, Tmpfs, qemu_img};
use anyhow::{Context as _, Result};
use ucloud_agent_core::{
    BlockStore as _, HostError,
    block_store::{Content, DiskId, DiskRequest},
    hypervisor::DiskSource,
};
use ucloud_types::{Quantity, image::ImageFormat};

#[tokio::test]
async fn a_disk_is_a_clone_that_grows_and_never_shrinks() -> Result<()> {
    let lab = Lab::new()?;
    lab.raw("disk", 2, b"boot sector")?;
    let image = lab.import_file("a", "disk", ImageFormat::Raw).await?;
    let disk = lab.files.ensure_disk(&lab.disk("a", None)?).await?;
    let DiskSource::Overlay { path, backing: Some(backing) } = &disk.source else { panic!("no file") };
    assert_eq!(disk.size.bytes(), 2 * MIB);
    assert_eq!(path.metadata()?.permissions().mode() & 0o777, 0o600);
    assert_eq!(*backing, lab.pool_dir().join(format!("images/sha256/{}.qcow2", image.sha256.hex())));
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2"], &[&lab.source("disk"), path])?;
    let chain = qemu_img(&["info", "--backing-chain", "-f", "qcow2"], &[path])?;
    let name = backing.file_name().unwrap().to_str().unwrap();
    assert!(
        chain.contains(&format!("backing file: ../images/sha256/{name}"))
            && chain.contains("backing file format: qcow2"),
        "{chain}"
    );

    assert_eq!(lab.files.ensure_disk(&lab.disk("a", None)?).await?, disk);
    let grown = lab.files.ensure_disk(&lab.disk("a", Some("5Mi"))?).await?;
    assert_eq!((grown.size.bytes(), &grown.source), (5 * MIB, &disk.source));
    for size in [Some("3Mi"), Some("1Mi"), None] {
        assert_eq!(lab.files.ensure_disk(&lab.disk("a", size)?).await?, grown);
    }
    assert_eq!(lab.files.disks(&lab.pool()).await?, [lab.disk("a", None)?.id]);
    for _ in 0..2 {
        lab.files.remove_disk(&lab.pool(), &lab.disk("a", None)?.id).await?;
        assert_eq!(lab.files.disks(&lab.pool()).await?, []);
    }
    Ok(())
}

#[tokio::test]
async fn a_disk_gets_another_owner_once_and_keeps_its_image() -> Result<()> {
    let lab = Lab::new()?;
    let pool = lab.pool();
    lab.raw("disk", 2, b"boot sector")?;
    lab.import_file("a", "disk", ImageFormat::Raw).await?;
    let made = lab.disk("a", Some("4Mi"))?;
    lab.files.ensure_disk(&made).await?;
    assert_eq!(lab.files.disk_size(&pool, &made.id).await?.map(Quantity::bytes), Some(4 * MIB));
    let volume = DiskId::of_volume("0b4a-volume");
    assert_eq!(lab.files.disk_size(&pool, &volume).await?, None);
    for _ in 0..2 {
        // whoever does not know whether it was done does it again
        assert_eq!(lab.files.rename_disk(&pool, &made.id, &volume).await?.bytes(), 4 * MIB);
        assert_eq!(lab.files.disks(&pool).await?, std::slice::from_ref(&volume));
    }
    lab.files.remove_image(&pool, "a").await?;
    let kept = DiskRequest { id: volume.clone(), pool: pool.clone(), content: Content::Kept, size: "5Mi".parse().ok() };
    let disk = lab.files.ensure_disk(&kept).await?;
    let DiskSource::Overlay { path, backing: Some(_) } = &disk.source else { panic!("{disk:?}") };
    assert_eq!(disk.size.bytes(), 5 * MIB);
    let copy = path.with_extension("raw");
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw"], &[path, &copy])?;
    assert!(fs::read(&copy)?.starts_with(b"boot sector"));
    let absent = DiskRequest { id: DiskId::of_volume("absent"), ..kept };
    assert_eq!(lab.files.ensure_disk(&absent).await.unwrap_err().reason, "DiskMissing");
    assert_eq!(lab.files.rename_disk(&pool, &absent.id, &made.id).await.unwrap_err().reason, "DiskMissing");
    fs::copy(path, path.with_file_name("0b4a-other.root.qcow2"))?;
    let other = DiskId { owner_uid: "0b4a-other".into(), name: "root".into() };
    let refused = lab.files.rename_disk(&pool, &other, &volume).await.unwrap_err();
    assert_eq!((refused.reason, refused.terminal), ("DiskMismatch", true));
    assert_eq!(lab.files.disks(&pool).await?.len(), 2, "both are there");
    Ok(())
}

#[tokio::test]
async fn a_disk_that_cannot_be_made_says_why() -> Result<()> {
    let lab = Lab::with(|config| config.max_disk = "1Gi".parse().unwrap())?;
    let check = |result: Result<_, HostError>, reason, terminal| {
        let error = result.map(|_: ucloud_agent_core::block_store::Disk| ()).unwrap_err();
        assert_eq!((error.reason, error.terminal), (reason, terminal), "{error}");
    };
    check(lab.files.ensure_disk(&lab.disk("a", None)?).await, "ImageMissing", false);
    lab.raw("disk", 2, b"x")?;
    lab.raw("other", 2, b"y")?;
    lab.import_file("a", "disk", ImageFormat::Raw).await?;
    lab.import_file("b", "other", ImageFormat::Raw).await?;
    check(lab.files.ensure_disk(&lab.disk("a", Some("1Mi"))?).await, "SizeTooSmall", true);
    check(lab.files.ensure_disk(&lab.disk("a", Some("15Ei"))?).await, "SizeTooLarge", true);
    let nowhere = DiskId { owner_uid: "../a".into(), name: "root".into() };
    check(lab.files.ensure_disk(&DiskRequest { id: nowhere, ..lab.disk("a", None)? }).await, "InvalidName", true);
    assert_eq!(lab.files.disks(&lab.pool()).await?, []);

    let disk = lab.files.ensure_disk(&lab.disk("a", None)?).await?;
    check(lab.files.ensure_disk(&lab.disk("b", None)?).await, "DiskMismatch", true);
    check(lab.files.ensure_disk(&lab.disk("a", Some("2Gi"))?).await, "SizeTooLarge", true);
    // A QEMU that a guest has taken over may write anything into its own disk's header.
    let DiskSource::Overlay { path, .. } = disk.source else { panic!("no file") };
    qemu_img(&["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow"], &[&path])?;
    check(lab.files.ensure_disk(&lab.disk("a", Some("3Mi"))?).await, "DiskMismatch", true);
    fs::write(&path, "no header")?;
    check(lab.files.ensure_disk(&lab.disk("a", None)?).await, "DiskRefused", true);
    lab.files.remove_disk(&lab.pool(), &lab.disk("a", None)?.id).await?;
    lab.files.ensure_disk(&lab.disk("a", None)?).await?;
    Ok(())
}

#[tokio::test]
async fn an_images_bytes_stay_while_a_disk_needs_them() -> Result<()> {
    let lab = Lab::new()?;
    lab.raw("disk", 1, b"x")?;
    lab.import_file("a", "disk", ImageFormat::Raw).await?;
    let request = lab.disk("a", None)?;
    let disk = lab.files.ensure_disk(&request).await?;
    lab.files.remove_image(&lab.pool(), "a").await?;
    assert_eq!(lab.files.images(&lab.pool()).await?, [""; 0]);
    assert_eq!(lab.files.image(&lab.pool(), "a").await?, None);
    // The disk is whole, and still ours.
    let DiskSource::Overlay { path, .. } = &disk.source else { panic!("no file") };
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2"], &[&lab.source("disk"), path])?;
    assert_eq!(lab.files.ensure_disk(&request).await?, disk);
    lab.files.remove_disk(&lab.pool(), &request.id).await?;
    assert_eq!(lab.contents()?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn making_disks_and_removing_their_image_at_once_breaks_no_disk() -> Result<()> {
    let lab = Arc::new(Lab::new()?);
    lab.raw("disk", 1, b"x")?;
    for round in 0..5 {
        lab.import_file("a", "disk", ImageFormat::Raw).await?;
        let makers: Vec<_> = (0..4)
            .map(|index| {
                let lab = Arc::clone(&lab);
                tokio::spawn(async move {
                    let id = DiskId { owner_uid: format!("vm-{round}-{index}"), name: "root".into() };
                    lab.files.ensure_disk(&DiskRequest { id, ..lab.disk("a", None).unwrap() }).await
                })
            })
            .collect();
        lab.files.remove_image(&lab.pool(), "a").await?;
        for maker in makers {
            match maker.await? {
                Ok(disk) => {
                    let DiskSource::Overlay { path, .. } = &disk.source else { panic!("no file") };
                    qemu_img(&["compare", "-f", "raw", "-F", "qcow2"], &[&lab.source("disk"), path])?;
                }
                Err(error) => assert_eq!(error.reason, "ImageMissing", "{error}"),
            }
        }
        for disk in lab.files.disks(&lab.pool()).await? {
            lab.files.remove_disk(&lab.pool(), &disk).await?;
        }
        assert_eq!(lab.contents()?, [""; 0]);
    }
    Ok(())
}

#[tokio::test]
async fn a_disk_in_use_does_not_grow() -> Result<()> {
    let lab = Lab::new()?;
    lab.raw("disk", 1, b"x")?;
    lab.import_file("a", "disk", ImageFormat::Raw).await?;
    let disk = lab.files.ensure_disk(&lab.disk("a", None)?).await?;
    let DiskSource::Overlay { path, .. } = &disk.source else { panic!("no file") };
    let mut holder =
        Command::new("qemu-io").args(["-f", "qcow2"]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    // It prompts once it holds the disk.
    let mut prompt = [0; 8];
    holder.stdout.take().context("no pipe")?.read_exact(&mut prompt)?;
    assert_eq!(&prompt, b"qemu-io>");
    let error = lab.files.ensure_disk(&lab.disk("a", Some("2Mi"))?).await.unwrap_err();
    drop(holder.stdin.take());
    holder.wait()?;
    assert_eq!((error.reason, error.terminal), ("DiskInUse", false), "{error}");
    assert_eq!(lab.files.ensure_disk(&lab.disk("a", Some("2Mi"))?).await?.size.bytes(), 2 * MIB);
    Ok(())
}

#[tokio::test]
async fn a_full_pool_is_said_to_be_full_and_stays_clean() -> Result<()> {
    let lab = Lab::new()?;
    let _small = Tmpfs::mount(&lab.pool_dir(), "8m")?;
    fs::write(lab.source("large"), vec![b'x'; 12 << 20])?;
    let full = |error: HostError| assert_eq!((error.reason, error.terminal), ("StorageFull", false), "{error}");
    // No room for the source.
    full(lab.import_file("a", "large", ImageFormat::Raw).await.unwrap_err());
    assert_eq!(lab.contents()?, [""; 0]);
    // Room for the source, and not for the copy.
    fs::write(lab.source("medium"), vec![b'x'; 5 << 20])?;
    full(lab.import_file("a", "medium", ImageFormat::Raw).await.unwrap_err());
    assert_eq!(lab.contents()?, [""; 0]);
    // It recovers when there is room, which there is once the mounts of the sandbox are gone.
    lab.raw("small", 1, b"x")?;
    let recovered = tokio::time::timeout(Duration::from_secs(30), async {
        while let Err(error) = lab.import_file("a", "small", ImageFormat::Raw).await {
            full(error);
        }
    });
    recovered.await.context("the pool stays full")?;
    Ok(())
}

#[tokio::test]
async fn a_disk_waits_for_room() -> Result<()> {
    let lab = Lab::new()?;
    let pool = lab.pool();
    let _small = Tmpfs::mount(&lab.pool_dir(), "4m")?;
    lab.raw("small", 1, b"x")?;
    lab.import_file("a", "small", ImageFormat::Raw).await?;
    let filler = lab.pool_dir().join("filler");
    let filled = fs::write(&filler, vec![0; 5 << 20]).unwrap_err();
    assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);
    let error = lab.files.ensure_disk(&lab.disk("a", None)?).await.unwrap_err();
    assert_eq!((error.reason, error.terminal), ("StorageFull", false), "{error}");
    assert_eq!(lab.files.disks(&pool).await?, []);
    fs::remove_file(filler)?;
    lab.files.ensure_disk(&lab.disk("a", None)?).await?;
    Ok(())
}

#[tokio::test]
async fn a_volume_is_empty_grows_and_keeps_no_image() -> Result<()> {
    let lab = Lab::new()?;
    lab.raw("disk", 2, b"boot sector")?;
    lab.import_file("a", "disk", ImageFormat::Raw).await?;
    let volume = |size: &str| -> Result<DiskRequest> {
        let size = Some(size.parse()?);
        Ok(DiskRequest { id: DiskId::of_volume("v"), pool: lab.pool(), content: Content::Empty, size })
    };
    let made = lab.files.ensure_disk(&volume("1Mi")?).await?;
    let DiskSource::Overlay { path, backing: None } = &made.source else { panic!("{:?}", made.source) };
    assert_eq!((made.size.bytes(), lab.files.disks(&lab.pool()).await?), (MIB, vec![DiskId::of_volume("v")]));
    qemu_img(&["bench", "-q", "-w", "-c", "1", "-s", "4096", "--pattern", "7", "-f", "qcow2"], &[path])?;
    let grown = lab.files.ensure_disk(&volume("3Mi")?).await?;
    assert_eq!((grown.size.bytes(), &grown.source), (3 * MIB, &made.source));
    assert_eq!(lab.files.ensure_disk(&volume("1Mi")?).await?, grown, "it never shrinks");
    let found = qemu_img(&["map", "-f", "qcow2", "--output=json"], &[path])?;
    assert!(found.contains(r#""data": true"#), "what was written is gone: {found}");
    // one of an image has its name, and is another
    let clone = DiskRequest { content: Content::Image("a".into()), ..volume("3Mi")? };
    assert_eq!(lab.files.ensure_disk(&clone).await.unwrap_err().reason, "DiskMismatch");
    let unsized_volume = DiskRequest { id: DiskId::of_volume("w"), size: None, ..volume("1Mi")? };
    assert_eq!(lab.files.ensure_disk(&unsized_volume).await.unwrap_err().reason, "SizeMissing");

    lab.files.remove_image(&lab.pool(), "a").await?;
    let contents = fs::read_dir(lab.pool_dir().join("images/sha256"))?.count();
    assert_eq!(contents, 0, "a volume that is a clone of nothing keeps no image");
    for _ in 0..2 {
        lab.files.remove_disk(&lab.pool(), &DiskId::of_volume("v")).await?;
    }
    assert_eq!(lab.files.disks(&lab.pool()).await?, []);
    Ok(())
}
