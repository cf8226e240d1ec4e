//! Disks are kept as images, by qemu-img or by whoever runs them.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use ucloud_agent_core::{
    BlockStore as _, HostError,
    block_store::{Content, CopyTarget, DiskId, DiskRequest, SnapshotRequest, StoredImage},
    hypervisor::DiskSource,
};
use ucloud_types::image::ImageFormat;

use crate::pool::{Lab, MIB, qemu_img};

fn request(lab: &Lab, image_uid: &str) -> SnapshotRequest {
    let disk = DiskId { owner_uid: "vm-1".into(), name: "root".into() };
    SnapshotRequest { pool: lab.pool(), disk, image_uid: image_uid.into() }
}

async fn snapshot(lab: &Lab, image_uid: &str) -> Result<StoredImage, HostError> {
    lab.files.snapshot(&request(lab, image_uid)).await
}

/// An image `base` of 2 MiB, and a disk of it of 3 MiB whose second mebibyte is written.
async fn with_disk(lab: &Lab) -> Result<PathBuf> {
    lab.raw("disk", 2, b"boot sector")?;
    lab.import_file("base", "disk", ImageFormat::Raw).await?;
    let disk = lab.files.ensure_disk(&lab.disk("base", Some("3Mi"))?).await?;
    let DiskSource::Overlay { path, .. } = disk.source else { anyhow::bail!("no file") };
    write(&path, 1)?;
    Ok(path)
}

/// Fills the second mebibyte with this byte.
fn write(disk: &Path, byte: u8) -> Result<()> {
    qemu_io(disk, &format!("write -P {byte} 1M 1M"))
}

/// Whether the first mebibyte is the image's, and the second one filled with this byte.
fn holds(disk: &Path, byte: u8) -> Result<()> {
    qemu_io(disk, "read -P 98 0 1")?;
    qemu_io(disk, &format!("read -P {byte} 1M 1M"))?;
    qemu_io(disk, "read -P 0 2M 1M")
}

fn qemu_io(disk: &Path, command: &str) -> Result<()> {
    let output = Command::new("qemu-io").args(["-f", "qcow2", "-c", command]).arg(disk).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && !said.contains("failed"), "{command}: {said}");
    Ok(())
}

fn content(lab: &Lab, image: &StoredImage) -> PathBuf {
    lab.pool_dir().join(format!("images/sha256/{}.qcow2", image.sha256.hex()))
}

/// A QEMU that has the disk open.
fn hold(disk: &Path) -> Result<Child> {
    let mut holder =
        Command::new("qemu-io").args(["-f", "qcow2"]).arg(disk).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    // It prompts once it holds the disk.
    holder.stdout.as_mut().context("no pipe")?.read_exact(&mut [0; 8])?;
    Ok(holder)
}

fn release(mut holder: Child) -> Result<()> {
    drop(holder.stdin.take());
    ensure!(holder.wait()?.success());
    Ok(())
}

#[track_caller]
fn assert_refused<T>(result: Result<T, HostError>, reason: &str, terminal: bool) {
    let error = result.map(|_| ()).unwrap_err();
    assert_eq!((error.reason, error.terminal), (reason, terminal), "{error}");
}

#[tokio::test]
async fn a_disk_that_nobody_uses_is_kept_whole() -> Result<()> {
    let lab = Lab::new()?;
    assert_refused(snapshot(&lab, "a").await, "DiskMissing", false);
    let disk = with_disk(&lab).await?;
    let base = lab.files.image(&lab.pool(), "base").await?.context("no image")?;
    let owner = content(&lab, &base).metadata()?.uid();

    let holder = hold(&disk)?;
    assert_refused(snapshot(&lab, "a").await, "DiskInUse", false);
    release(holder)?;
    assert_eq!(lab.files.image(&lab.pool(), "a").await?, None);

    // Two at once, of which each is kept once
    let (first, second) = (request(&lab, "a"), request(&lab, "b"));
    let (kept, other, again) =
        tokio::try_join!(lab.files.snapshot(&first), lab.files.snapshot(&second), lab.files.snapshot(&first))?;
    assert_eq!(kept.virtual_size.bytes(), 3 * MIB);
    assert_eq!(kept, again);
    assert_ne!(kept.sha256, other.sha256);
    write(&disk, 2)?;
    assert_eq!(snapshot(&lab, "a").await?, kept);
    let file = content(&lab, &kept);
    let info = qemu_img(&["info", "-f", "qcow2"], &[&file])?;
    ensure!(!info.contains("backing"), "{info}");
    assert_eq!((file.metadata()?.permissions().mode() & 0o777, file.metadata()?.uid()), (0o444, 0));
    assert_eq!(content(&lab, &base).metadata()?.uid(), owner, "the image that is shared was given away");
    assert_eq!((disk.metadata()?.permissions().mode() & 0o777, disk.metadata()?.uid()), (0o600, 0));
    holds(&file, 1)?;

    // It outlives the disk and what that was a clone of
    let id = DiskId { owner_uid: "vm-2".into(), name: "root".into() };
    let made = lab.files.ensure_disk(&DiskRequest { id: id.clone(), ..lab.disk("a", None)? }).await?;
    let DiskSource::Overlay { path, .. } = &made.source else { panic!("no file") };
    lab.files.remove_disk(&lab.pool(), &request(&lab, "a").disk).await?;
    lab.files.remove_image(&lab.pool(), "base").await?;
    lab.files.remove_image(&lab.pool(), "a").await?;
    lab.files.usage(&lab.pool()).await?;
    holds(path, 1)?;
    lab.files.remove_disk(&lab.pool(), &id).await?;
    lab.files.remove_image(&lab.pool(), "b").await?;
    assert_eq!(lab.contents()?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_volume_is_kept_too() -> Result<()> {
    let lab = Lab::new()?;
    let id = DiskId::of_volume("v");
    let volume = DiskRequest { id: id.clone(), pool: lab.pool(), content: Content::Empty, size: Some("2Mi".parse()?) };
    let made = lab.files.ensure_disk(&volume).await?;
    let DiskSource::Overlay { path, .. } = &made.source else { panic!("no file") };
    write(path, 7)?;
    let kept = lab.files.snapshot(&SnapshotRequest { disk: id, ..request(&lab, "a") }).await?;
    qemu_img(&["compare", "-f", "qcow2", "-F", "qcow2"], &[path, &content(&lab, &kept)])?;
    Ok(())
}

#[tokio::test]
async fn what_a_guest_may_have_done_to_its_disk_reaches_nothing_else() -> Result<()> {
    let lab = Lab::with(|config| config.max_source = "4Mi".parse().unwrap())?;
    let disk = with_disk(&lab).await?;
    let whole = fs::read(&disk)?;
    let secret = lab.dir.path().join("secret");
    fs::write(&secret, vec![b's'; 1 << 20])?;
    qemu_img(&["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", secret.to_str().unwrap()], &[&disk])?;
    assert_refused(snapshot(&lab, "a").await, "DiskRefused", true);
    assert_refused(snapshot(&lab, "../a").await, "InvalidName", true);
    // What says that it is no clone is none, and holds what it holds alone
    qemu_img(&["rebase", "-u", "-f", "qcow2", "-b", ""], &[&disk])?;
    let alone = snapshot(&lab, "alone").await?;
    qemu_io(&content(&lab, &alone), "read -P 0 0 1M")?;
    // An external data file
    let data = lab.dir.path().join("data");
    let option = format!("data_file={}", data.display());
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &option], &[&disk, Path::new("1M")])?;
    assert_refused(snapshot(&lab, "a").await, "DiskRefused", true);
    fs::write(&disk, "no header")?;
    assert_refused(snapshot(&lab, "a").await, "DiskRefused", true);
    // A table at a place where none can be
    let mut broken = whole.clone();
    let l1 = usize::try_from(u64::from_be_bytes(broken[40..48].try_into()?))?;
    broken[l1..l1 + 8].copy_from_slice(&0x8000_0000_0005_0200_u64.to_be_bytes());
    fs::write(&disk, &broken)?;
    assert_refused(snapshot(&lab, "a").await, "DiskRefused", true);
    fs::write(&disk, &whole)?;
    assert_eq!(lab.files.images(&lab.pool()).await?, ["alone", "base"]);
    lab.files.remove_image(&lab.pool(), "alone").await?;

    // More data than is imported
    let large = lab.files.ensure_disk(&DiskRequest { size: Some("200Mi".parse()?), ..lab.disk("base", None)? }).await?;
    assert_eq!(large.size.bytes(), 200 * MIB);
    qemu_io(&disk, "write -P 3 0 150M")?;
    assert_refused(snapshot(&lab, "a").await, "ImageTooLarge", true);
    assert_eq!(lab.files.images(&lab.pool()).await?, ["base"]);
    let left = fs::read_dir(lab.pool_dir().join("tmp"))?.count();
    assert_eq!(left, 0, "something is left in the making");
    Ok(())
}

/// The copy of a disk, as a hypervisor makes it: it is given to QEMU's user meanwhile.
fn copy(disk: &Path, target: &CopyTarget) -> Result<()> {
    qemu_img(&["convert", "-n", "-U", "-f", "qcow2", "-O", "qcow2"], &[disk, &target.path])?;
    chown(&target.path, Some(12345), Some(12345))?;
    Ok(())
}

#[tokio::test]
async fn a_disk_that_runs_is_kept_by_its_copy() -> Result<()> {
    let lab = Lab::new()?;
    assert_refused(lab.files.copy_target(&request(&lab, "a")).await, "DiskMissing", false);
    let disk = with_disk(&lab).await?;
    let holder = hold(&disk)?;
    let target = lab.files.copy_target(&request(&lab, "a")).await?.context("no target")?;
    assert_eq!(target.path.parent(), Some(&*lab.pool_dir().join("tmp")));
    let info = qemu_img(&["info", "-f", "qcow2"], &[&target.path])?;
    ensure!(info.contains("3145728") && !info.contains("backing"), "{info}");
    // It stays while it is copied to
    lab.files.usage(&lab.pool()).await?;
    copy(&disk, &target)?;
    let kept = lab.files.keep_copy(&request(&lab, "a"), target).await?;
    release(holder)?;
    let file = content(&lab, &kept);
    let metadata = file.metadata()?;
    assert_eq!((metadata.uid(), metadata.gid(), metadata.permissions().mode() & 0o777), (0, 0, 0o444));
    assert_eq!(kept.virtual_size.bytes(), 3 * MIB);
    holds(&file, 1)?;
    assert_eq!(snapshot(&lab, "a").await?, kept, "it is there already");
    assert_eq!(lab.files.image(&lab.pool(), "a").await?, Some(kept.clone()));

    // What comes late, and what is not wanted any more, goes
    let late = lab.files.copy_target(&request(&lab, "a")).await?.context("no target")?;
    assert_eq!(lab.files.keep_copy(&request(&lab, "a"), late).await?, kept);
    drop(lab.files.copy_target(&request(&lab, "b")).await?);
    assert_eq!(fs::read_dir(lab.pool_dir().join("tmp"))?.count(), 0);
    Ok(())
}

/// Makes a copy one that is none.
type Spoil = dyn Fn(&Path) -> Result<()>;

#[tokio::test]
async fn a_copy_that_is_none_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    let disk = with_disk(&lab).await?;
    let backing = |path: &Path| {
        qemu_img(&["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "../disks/vm-1.root.qcow2"], &[path]).map(drop)
    };
    let other_size = |path: &Path| qemu_img(&["resize", "-q", "-f", "qcow2"], &[path, Path::new("1G")]).map(drop);
    let smaller =
        |path: &Path| qemu_img(&["resize", "-q", "--shrink", "-f", "qcow2"], &[path, Path::new("1M")]).map(drop);
    let empty = |path: &Path| Ok(fs::write(path, "")?);
    let cut_off = |path: &Path| Ok(fs::File::options().write(true).open(path)?.set_len(100_000)?);
    let spoils: [&Spoil; 5] = [&backing, &other_size, &smaller, &empty, &cut_off];
    for spoil in spoils {
        let target = lab.files.copy_target(&request(&lab, "a")).await?.context("no target")?;
        copy(&disk, &target)?;
        spoil(&target.path)?;
        assert_refused(lab.files.keep_copy(&request(&lab, "a"), target).await, "CopyRefused", false);
    }
    // Somebody has it open still
    let target = lab.files.copy_target(&request(&lab, "a")).await?.context("no target")?;
    let holder = hold(&target.path)?;
    assert_refused(lab.files.keep_copy(&request(&lab, "a"), target).await, "DiskInUse", false);
    release(holder)?;
    let foreign = CopyTarget { path: disk.clone(), keeper: Box::new(()) };
    assert_refused(lab.files.keep_copy(&request(&lab, "a"), foreign).await, "CopyRefused", false);
    assert_eq!(lab.files.images(&lab.pool()).await?, ["base"]);
    assert_eq!(fs::read_dir(lab.pool_dir().join("tmp"))?.count(), 0);
    Ok(())
}

#[tokio::test]
async fn what_an_interrupted_snapshot_has_left_is_of_no_use() -> Result<()> {
    let lab = Lab::new()?;
    let disk = with_disk(&lab).await?;
    let kept = snapshot(&lab, "a").await?;
    let link = lab.pool_dir().join("images/by-uid/a");
    // Died before the image was linked: what is there is of another moment
    fs::remove_file(&link)?;
    write(&disk, 2)?;
    assert_eq!(lab.files.image(&lab.pool(), "a").await?, None);
    assert_eq!(snapshot(&lab, "a").await?, kept);
    holds(&content(&lab, &kept), 2)?;
    // Nobody tries again
    fs::remove_file(&link)?;
    lab.files.remove_image(&lab.pool(), "a").await?;
    ensure!(!content(&lab, &kept).exists());
    // A disk is a clone of it: it stays as it is
    snapshot(&lab, "a").await?;
    let id = DiskId { owner_uid: "vm-2".into(), name: "root".into() };
    lab.files.ensure_disk(&DiskRequest { id, ..lab.disk("a", None)? }).await?;
    lab.files.remove_image(&lab.pool(), "a").await?;
    write(&disk, 3)?;
    assert_eq!(snapshot(&lab, "a").await?, kept);
    holds(&content(&lab, &kept), 2)?;
    Ok(())
}
