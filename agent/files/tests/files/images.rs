//! Importing images, good and hostile, with the real qemu-img.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

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
async fn hostile_sources_are_refused_and_leave_nothing() -> Result<()> {
    use ImageFormat::{Qcow2, Raw};
    let lab = Lab::new()?;
    let secret = lab.dir.path().join("secret");
    fs::write(&secret, vec![b's'; 4096])?;
    let source = |name: &str| lab.source(name);
    let with = |options: &[&str], name: &str| {
        qemu_img(&[&["create", "-q", "-f", "qcow2"], options].concat(), &[&source(name), Path::new("1M")])
    };
    let secret_path = secret.to_str().unwrap();
    with(&["-F", "raw", "-b", secret_path], "backing")?;
    with(&["-o", &format!("data_file={},data_file_raw=on", source("data").display())], "data-file")?;
    lab.qcow2("good", 1, b"x")?;
    lab.raw("raw", 1, b"x")?;
    for format in ["vmdk", "vdi", "vhdx", "vpc", "qed", "parallels"] {
        qemu_img(&["convert", "-f", "raw", "-O", format], &[&source("raw"), &source(format)])?;
    }
    fs::write(source("monolithic-flat"), format!("# Disk DescriptorFile\nRW 8 FLAT \"{secret_path}\" 0\n"))?;
    fs::write(source("gzip"), [&[0x1f, 0x8b, 8, 0], &[0; 600][..]].concat())?;
    fs::write(source("empty"), "")?;
    let good = fs::read(source("good"))?;
    fs::write(source("truncated"), &good[..good.len() - 65536])?;
    fs::write(source("stump"), &good[..100])?;
    let patched = |name: &str, at: usize, bytes: &[u8]| {
        let mut image = good.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(source(name), image)
    };
    patched("l1-bomb", 36, &u32::MAX.to_be_bytes())?;
    patched("size-bomb", 24, &(1u64 << 60).to_be_bytes())?;
    patched("snapshots-bomb", 60, &u32::MAX.to_be_bytes())?;
    patched("unknown-feature", 72, &(1u64 << 9).to_be_bytes())?;
    patched("corrupt", 72, &2u64.to_be_bytes())?;
    // An L1 entry that points far behind the end: only qemu-img check sees it.
    let l1 = usize::try_from(u64::from_be_bytes(good[40..48].try_into()?))?;
    patched("wild-l1", l1, &(1u64 << 63 | 1 << 40).to_be_bytes())?;

    for (name, format, reason, word) in [
        ("backing", Qcow2, "ImageRefused", "backing file"),
        ("data-file", Qcow2, "ImageRefused", "external file"),
        ("good", Raw, "FormatMismatch", "is qcow2"),
        ("backing", Raw, "FormatMismatch", "is qcow2"),
        ("raw", Qcow2, "FormatMismatch", "is raw"),
        ("vmdk", Qcow2, "FormatMismatch", "is vmdk"),
        ("vmdk", Raw, "FormatMismatch", "is vmdk"),
        ("vdi", Raw, "FormatMismatch", "is vdi"),
        ("vhdx", Raw, "FormatMismatch", "is vhdx"),
        ("vpc", Raw, "FormatMismatch", "is vhd"),
        ("qed", Raw, "FormatMismatch", "is qed"),
        ("parallels", Raw, "FormatMismatch", "is parallels"),
        ("monolithic-flat", Raw, "FormatMismatch", "is vmdk"),
        ("gzip", Raw, "FormatMismatch", "is gzip"),
        ("gzip", Qcow2, "FormatMismatch", "is gzip"),
        ("empty", Raw, "ImageRefused", "empty"),
        ("truncated", Qcow2, "ImageRefused", "cut off"),
        ("stump", Qcow2, "ImageRefused", "cut off"),
        ("l1-bomb", Qcow2, "ImageRefused", "L1 table"),
        ("size-bomb", Qcow2, "ImageRefused", "bytes"),
        ("snapshots-bomb", Qcow2, "ImageRefused", "snapshots"),
        ("unknown-feature", Qcow2, "ImageRefused", "features"),
        ("corrupt", Qcow2, "ImageRefused", "corrupt"),
        ("wild-l1", Qcow2, "ImageRefused", "broken"),
    ] {
        let error = lab.import_file("a", name, format).await.expect_err(name);
        assert_refused(&error, reason, word);
        assert!(!error.message.contains(lab.dir.path().to_str().unwrap()), "{name}: a path of the host: {error}");
        assert_eq!(lab.contents()?, [""; 0], "{name}");
    }
    assert_eq!(fs::read(&secret)?, vec![b's'; 4096]);
    // And the good ones are good.
    lab.import_file("a", "good", Qcow2).await?;
    lab.import_file("b", "raw", Raw).await?;
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
fn assert_refused(error: &HostError, reason: &str, word: &str) {
    assert_eq!((error.reason, error.terminal), (reason, true), "{error}");
    assert!(error.message.contains(word), "{error}");
}
