//! Importing images with the real qemu-img.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::pool::{Lab, MIB, file, qemu_img, sha256};
use anyhow::Result;
use tokio::sync::watch;
use ucloud_agent_core::{BlockStore as _, HostError};
use ucloud_types::image::{ImageFormat, Sha256};

#[tokio::test]
async fn a_raw_and_a_qcow2_file_become_images() -> Result<()> {
    let lab = Lab::new()?;
    let raw = lab.raw("disk.raw", 3, b"boot sector")?;
    let qcow2 = lab.qcow2("disk.qcow2", 3, b"boot sector")?;
    let percent = watch::Sender::new(7);
    let image = lab.files.import_image(&lab.request("a", file("disk.raw"), ImageFormat::Raw), &percent).await?;
    assert_eq!((image.sha256.clone(), image.virtual_size.bytes()), (sha256(&raw)?, 3 * MIB));
    assert_eq!(*percent.borrow(), 100);
    let other = lab.import_file("b", "disk.qcow2", ImageFormat::Qcow2).await?;
    assert_eq!((other.sha256, other.virtual_size.bytes()), (sha256(&qcow2)?, 3 * MIB));

    assert_eq!(lab.files.image(&lab.pool(), "a").await?, Some(image.clone()));
    assert_eq!(lab.files.image(&lab.pool(), "c").await?, None);
    assert_eq!(lab.files.images(&lab.pool()).await?, ["a", "b"]);
    // What lies there is of our own making, complete, holds the same bytes, and is read-only.
    let content = lab.pool_dir().join(format!("images/sha256/{}.qcow2", image.sha256.hex()));
    assert_eq!(content.metadata()?.permissions().mode() & 0o777, 0o444);
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2"], &[&raw, &content])?;
    for folder in ["", "images", "images/sha256", "disks"] {
        assert_eq!(lab.pool_dir().join(folder).metadata()?.permissions().mode() & 0o777, 0o711, "{folder}");
    }
    // Nothing is left in the making, and nothing is done twice.
    assert_eq!(lab.contents()?.len(), 4);
    fs::remove_file(raw)?;
    assert_eq!(lab.import_file("a", "disk.raw", ImageFormat::Raw).await?, image);
    Ok(())
}

#[tokio::test]
async fn the_same_bytes_are_kept_once_and_as_long_as_an_image_has_them() -> Result<()> {
    let lab = Lab::new()?;
    lab.raw("disk", 1, b"x")?;
    let image = lab.import_file("a", "disk", ImageFormat::Raw).await?;
    assert_eq!(lab.import_file("b", "disk", ImageFormat::Raw).await?, image);
    let content = format!("images/sha256/{}.qcow2", image.sha256.hex());
    assert_eq!(lab.contents()?, ["images/by-uid/a", "images/by-uid/b", &content]);
    lab.files.remove_image(&lab.pool(), "a").await?;
    assert_eq!(lab.contents()?, ["images/by-uid/b", &content]);
    lab.files.remove_image(&lab.pool(), "a").await?;
    lab.files.remove_image(&lab.pool(), "b").await?;
    assert_eq!(lab.contents()?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_claimed_checksum_must_be_true() -> Result<()> {
    let lab = Lab::new()?;
    let raw = lab.raw("disk", 1, b"x")?;
    let mut request = lab.request("a", file("disk"), ImageFormat::Raw);
    request.checksum = Some(Sha256::from([7; 32]));
    let error = lab.import(&request).await.unwrap_err();
    assert_refused(&error, "ChecksumMismatch", "demo/image");
    assert!(error.message.contains(sha256(&raw)?.hex()), "{error}");
    assert_eq!(lab.contents()?, [""; 0]);
    request.checksum = Some(sha256(&raw)?);
    lab.import(&request).await?;
    // Also against what is there already.
    request.checksum = Some(Sha256::from([7; 32]));
    assert_refused(&lab.import(&request).await.unwrap_err(), "ChecksumMismatch", "demo/image");
    Ok(())
}

#[tokio::test]
async fn limits_are_kept() -> Result<()> {
    let lab = Lab::with(|config| {
        config.max_source = "2Mi".parse().unwrap();
        config.max_disk = "8Mi".parse().unwrap();
    })?;
    lab.raw("three", 3, b"x")?;
    lab.qcow2("nine", 9, b"x")?;
    let error = lab.import_file("a", "three", ImageFormat::Raw).await.unwrap_err();
    assert_refused(&error, "ImageTooLarge", "2Mi");
    let error = lab.import_file("a", "nine", ImageFormat::Qcow2).await.unwrap_err();
    assert_refused(&error, "ImageRefused", "9437184");
    assert_eq!(lab.contents()?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn only_the_namespaces_own_files_are_imported() -> Result<()> {
    let lab = Lab::new()?;
    fs::create_dir(lab.dir.path().join("import/other"))?;
    fs::write(lab.dir.path().join("import/other/private"), "private")?;
    std::os::unix::fs::symlink("../other/private", lab.source("link"))?;
    for name in ["link", "../other/private", "..", "/etc/passwd"] {
        let error = lab.import_file("a", name, ImageFormat::Raw).await.unwrap_err();
        assert_refused(&error, "SourceRefused", "import folder");
    }
    // A file that is not there may still be put there.
    let error = lab.import_file("a", "absent", ImageFormat::Raw).await.unwrap_err();
    assert_eq!((error.reason, error.terminal), ("SourceNotFound", false));
    lab.raw("absent", 1, b"x")?;
    lab.import_file("a", "absent", ImageFormat::Raw).await?;
    for uid in ["../a", "", "a/b"] {
        assert!(lab.import_file(uid, "absent", ImageFormat::Raw).await.unwrap_err().terminal);
    }
    Ok(())
}

#[tokio::test]
async fn what_a_crash_left_in_the_making_is_cleared_away() -> Result<()> {
    let lab = Lab::new()?;
    let usage = lab.files.usage(&lab.pool()).await?;
    assert!(usage.capacity >= usage.available && usage.available.bytes() > 0);
    fs::write(lab.pool_dir().join("tmp/source-left-over"), "bytes")?;
    // A crash between unlinking an image and removing its content leaves this.
    fs::write(lab.pool_dir().join(format!("images/sha256/{}.qcow2", "ab".repeat(32))), "bytes")?;
    lab.files.usage(&lab.pool()).await?;
    lab.files.remove_image(&lab.pool(), "absent").await?;
    assert_eq!(lab.contents()?, [""; 0]);
    Ok(())
}

#[track_caller]
pub fn assert_refused(error: &HostError, reason: &str, word: &str) {
    assert_eq!((error.reason, error.terminal), (reason, true), "{error}");
    assert!(error.message.contains(word), "{error}");
}
