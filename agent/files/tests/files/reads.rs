//! Images and disks are read as a guest sees them, which is as qemu-img does.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use tokio::sync::mpsc;
use ucloud_agent_core::{
    BlockStore as _, HostError,
    block_store::{Content, DiskId, DiskRequest, PIECE, Readable, SnapshotRequest},
    hypervisor::DiskSource,
};
use ucloud_types::image::ImageFormat;

use crate::pool::{Lab, MIB, qemu_img};

fn image(uid: &str) -> Readable {
    Readable::Image(uid.into())
}

/// All bytes of a range, and the sizes of the pieces in which they came.
async fn read(lab: &Lab, what: &Readable, range: std::ops::Range<u64>) -> Result<(Vec<u8>, Vec<usize>), HostError> {
    let (sender, mut pieces) = mpsc::channel::<Bytes>(2);
    let pool = lab.pool();
    let take = async {
        let (mut bytes, mut sizes) = (Vec::new(), Vec::new());
        while let Some(piece) = pieces.recv().await {
            sizes.push(piece.len());
            bytes.extend_from_slice(&piece);
        }
        (bytes, sizes)
    };
    let (read, taken) = tokio::join!(lab.files.read(&pool, what, range, sender), take);
    read.map(|()| taken)
}

async fn all(lab: &Lab, what: &Readable) -> Result<Vec<u8>> {
    let size = lab.files.size(&lab.pool(), what).await?.context("it is not there")?;
    Ok(read(lab, what, 0..size).await?.0)
}

/// As qemu-img reads it.
fn converted(lab: &Lab, file: &Path) -> Result<Vec<u8>> {
    let raw = lab.dir.path().join("converted.raw");
    qemu_img(&["convert", "-U", "-f", "qcow2", "-O", "raw"], &[file, &raw])?;
    Ok(fs::read(raw)?)
}

fn qemu_io(disk: &Path, commands: &[&str]) -> Result<()> {
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    let output = Command::new("qemu-io").args(["-f", "qcow2", "-d", "unmap"]).args(commands).arg(disk).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && !said.contains("failed"), "{said}");
    Ok(())
}

#[tokio::test]
async fn what_is_read_is_what_qemu_reads() -> Result<()> {
    let lab = Lab::new()?;
    lab.raw("disk", 5, b"boot sector")?;
    lab.import_file("base", "disk", ImageFormat::Raw).await?;
    let made = lab.files.ensure_disk(&lab.disk("base", Some("9Mi"))?).await?;
    let DiskSource::Overlay { path, backing } = made.source else { anyhow::bail!("no file") };
    let disk = Readable::Disk(DiskId { owner_uid: "vm-1".into(), name: "root".into() });
    assert_eq!(lab.files.size(&lab.pool(), &disk).await?, Some(9 * MIB));
    let before = all(&lab, &image("base")).await?;
    ensure!(before.len() as u64 == 5 * MIB && before.starts_with(b"boot sector"));
    assert!(before == converted(&lab, &backing.context("no image")?)?);

    // Data across clusters, zeros over data and over the image's, holes that were data, and the last sector
    qemu_io(
        &path,
        &[
            "write -P 1 1000k 600k",
            "write -P 2 100k 512",
            "write -z 1200k 200k",
            "write -z -u 1M 64k",
            "write -z 0 128k",
            "discard 1408k 128k",
            "write -P 4 9436672 512",
        ],
    )?;
    let bytes = all(&lab, &disk).await?;
    assert!(bytes == converted(&lab, &path)?, "qemu-img reads something else");
    assert!(bytes.starts_with(&[0; 512]) && bytes.ends_with(&[4; 512]));
    assert!(before == all(&lab, &image("base")).await?);

    // Any part, in pieces
    for (first, end) in [(0, 1), (65_535, 65_537), (1_023_999, 3_200_001), (MIB * 9 - 1, MIB * 9), (7, 7)] {
        let (part, sizes) = read(&lab, &disk, first..end).await?;
        assert!(part == bytes[usize::try_from(first)?..usize::try_from(end)?], "{first}..{end}");
        assert!(sizes.iter().all(|size| *size <= PIECE));
    }

    // Also of the copy that a snapshot is
    let id = DiskId { owner_uid: "vm-1".into(), name: "root".into() };
    let request = SnapshotRequest { pool: lab.pool(), disk: id, image_uid: "snapshot".into() };
    lab.files.snapshot(&request).await?;
    assert!(all(&lab, &image("snapshot")).await? == bytes);
    Ok(())
}

#[tokio::test]
async fn an_empty_disk_is_zeros_and_costs_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let id = DiskId::of_volume("v");
    let request =
        DiskRequest { id: id.clone(), pool: lab.pool(), content: Content::Empty, size: Some("64Gi".parse()?) };
    lab.files.ensure_disk(&request).await?;
    let disk = Readable::Disk(id);
    assert_eq!(lab.files.size(&lab.pool(), &disk).await?, Some(64 << 30));
    let (bytes, _) = read(&lab, &disk, (64 << 30) - 3 * MIB..64 << 30).await?;
    ensure!(bytes.len() as u64 == 3 * MIB && bytes.iter().all(|byte| *byte == 0));
    Ok(())
}

#[tokio::test]
async fn who_takes_nothing_any_more_ends_it() -> Result<()> {
    let lab = Lab::new()?;
    let id = DiskId::of_volume("v");
    let request =
        DiskRequest { id: id.clone(), pool: lab.pool(), content: Content::Empty, size: Some("64Gi".parse()?) };
    lab.files.ensure_disk(&request).await?;
    let (sender, mut pieces) = mpsc::channel(1);
    let (disk, pool) = (Readable::Disk(id), lab.pool());
    let reading = lab.files.read(&pool, &disk, 0..64 << 30, sender);
    let leave = async {
        pieces.recv().await.context("nothing came")?;
        drop(pieces);
        anyhow::Ok(())
    };
    let (read, left) = tokio::join!(reading, leave);
    read?;
    left
}

#[tokio::test]
async fn what_is_missing_or_not_sound_is_told() -> Result<()> {
    let lab = Lab::new()?;
    let (pool, disk) = (lab.pool(), Readable::Disk(DiskId::of_volume("v")));
    for what in [&disk, &image("absent")] {
        assert_eq!(lab.files.size(&pool, what).await?, None);
        assert_eq!(read(&lab, what, 0..1).await.unwrap_err().reason, "DiskMissing");
    }
    assert_eq!(lab.files.size(&pool, &image("../../etc")).await.unwrap_err().reason, "InvalidName");

    // A guest that got hold of its QEMU writes what it likes into the header
    let secret = lab.raw("secret", 1, b"secret")?;
    let path = lab.pool_dir().join("disks/v.volume.qcow2");
    let secret = secret.to_str().context("path")?;
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret], &[&path])?;
    let error = lab.files.size(&pool, &disk).await.unwrap_err();
    assert!((error.reason, error.terminal) == ("DiskRefused", true), "{error}");
    fs::remove_file(&path)?;
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "extended_l2=on"], &[&path, Path::new("1M")])?;
    assert_eq!(read(&lab, &disk, 0..1).await.unwrap_err().reason, "DiskRefused");
    fs::write(&path, "not a qcow2 file")?;
    assert_eq!(lab.files.size(&pool, &disk).await.unwrap_err().reason, "DiskRefused");
    Ok(())
}
