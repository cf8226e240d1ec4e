//! Disks are kept as Images.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use ucloud_agent_core::{
    BlockStore as _, HostError,
    block_store::{Content, CopyTarget, DiskId, DiskRequest, SnapshotRequest, StoredImage},
};
use ucloud_types::image::ImageFormat;

use crate::lab::{Lab, MIB, content, lab};

/// A QEMU that has a disk open and writes to it, as a VM's does.
struct Writer {
    qemu_io: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Writer {
    fn open(lab: &Lab, disk: &str) -> Result<Self> {
        let file = format!("rbd:vms/{disk}:id=ucloud:conf={}", lab.conf().display());
        let mut qemu_io = Command::new("qemu-io")
            .args(["-f", "raw", "-t", "writeback", &file])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (stdin, stdout) = (qemu_io.stdin.take().context("no pipe")?, qemu_io.stdout.take().context("no pipe")?);
        Ok(Self { qemu_io, stdin, stdout: BufReader::new(stdout) })
    }

    /// Writes 4 KiB of this byte at the beginning of the disk. It may be in a cache when this returns.
    fn write(&mut self, byte: u8) -> Result<()> {
        writeln!(self.stdin, "write -P {byte} 0 4k")?;
        let mut line = String::new();
        while !line.contains("wrote 4096/4096 bytes") {
            line.clear();
            ensure!(self.stdout.read_line(&mut line)? > 0, "qemu-io has ended");
        }
        Ok(())
    }

    fn close(mut self) -> Result<()> {
        drop(self.stdin);
        ensure!(self.qemu_io.wait()?.success(), "qemu-io failed");
        Ok(())
    }
}

fn write(lab: &Lab, disk: &str, byte: u8) -> Result<()> {
    let mut writer = Writer::open(lab, disk)?;
    writer.write(byte)?;
    writer.close()
}

fn disk(vm: &str) -> DiskId {
    DiskId { owner_uid: vm.into(), name: "root".into() }
}

fn name(vm: &str) -> String {
    format!("ucloud.disk.{vm}.root")
}

fn request(lab: &Lab, vm: &str, image_uid: &str) -> SnapshotRequest {
    SnapshotRequest { pool: lab.pool(), disk: disk(vm), image_uid: image_uid.into() }
}

async fn snapshot(lab: &Lab, vm: &str, image_uid: &str) -> Result<StoredImage, HostError> {
    lab.rbd.snapshot(&request(lab, vm, image_uid)).await
}

async fn remove_disk(lab: &Lab, vm: &str) -> Result<(), HostError> {
    lab.rbd.remove_disk(&lab.pool(), &disk(vm)).await
}

/// The first byte of what an image holds.
fn first(lab: &Lab, image: &str) -> Result<u8> {
    Ok(lab.bytes(image)?[0])
}

/// An Image `base` and a disk of it, which holds ones.
async fn with_disk(lab: &Lab) -> Result<()> {
    lab.raw("raw", 5, b"mark")?;
    lab.import("base", "raw").await?;
    lab.rbd.ensure_disk(&lab.disk("vm-1", "base", Some("8Mi"))?).await?;
    write(lab, &name("vm-1"), 1)
}

#[test]
fn a_disk_is_kept_as_it_is_while_it_is_written() -> Result<()> {
    lab(async |lab| {
        let pool = lab.pool();
        with_disk(&lab).await?;
        for (vm, reason) in [("absent", "DiskMissing"), ("vm-2", "DiskMissing")] {
            lab.ceph("rbd", &["--pool", "vms", "create", "--size", "1", &name("vm-2")])?;
            let error = snapshot(&lab, vm, "a").await.unwrap_err();
            assert_eq!((error.reason, error.terminal), (reason, false), "{error}");
            lab.ceph("rbd", &["--pool", "vms", "rm", "--no-progress", &name("vm-2")])?;
        }
        let mut writer = Writer::open(&lab, &name("vm-1"))?;
        // What the writer's cache alone may have is kept too
        writer.write(2)?;
        let kept = snapshot(&lab, "vm-1", "a").await?;
        assert_eq!(kept.virtual_size.bytes(), 8 * MIB);
        writer.write(3)?;
        assert_eq!(snapshot(&lab, "vm-1", "a").await?, kept, "it is kept once");
        assert_eq!(lab.other_host()?.snapshot(&request(&lab, "vm-1", "a")).await?, kept);
        assert_eq!(lab.rbd.image(&pool, "a").await?, Some(kept.clone()));
        let other = snapshot(&lab, "vm-1", "b").await?;
        assert_ne!(other.sha256, kept.sha256);
        writer.write(4)?;
        writer.close()?;
        let base = lab.rbd.image(&pool, "base").await?.context("no image")?;
        let mut names = vec![
            content(&base.sha256),
            content(&kept.sha256),
            content(&other.sha256),
            name("vm-1"),
            "ucloud.image.a".into(),
            "ucloud.image.b".into(),
            "ucloud.image.base".into(),
        ];
        names.sort();
        assert_eq!(lab.contents()?, names, "no record is left");
        assert_eq!(lab.ceph("rbd", &["--pool", "vms", "snap", "ls", &name("vm-1")])?, "", "no snapshot has a name");

        // Clones hold what the disk held then, and grow, and are disks of that Image alone
        let made = lab.rbd.ensure_disk(&lab.disk("vm-2", "a", Some("9Mi"))?).await?;
        assert_eq!(made.size.bytes(), 9 * MIB);
        assert_eq!(
            (first(&lab, &name("vm-2"))?, first(&lab, "ucloud.image.b")?, first(&lab, &name("vm-1"))?),
            (2, 3, 4)
        );
        let error = lab.rbd.ensure_disk(&lab.disk("vm-2", "b", None)?).await.unwrap_err();
        assert_eq!(error.reason, "DiskMismatch");
        let error = lab.rbd.ensure_disk(&lab.disk("vm-1", "a", None)?).await.unwrap_err();
        assert_eq!(error.reason, "DiskMismatch");
        lab.rbd.ensure_disk(&lab.disk("vm-1", "base", None)?).await?;

        // A volume, which was empty in the beginning, is kept as well
        let volume = DiskRequest {
            id: DiskId::of_volume("v"),
            pool: pool.clone(),
            content: Content::Empty,
            size: Some("1Mi".parse()?),
        };
        lab.rbd.ensure_disk(&volume).await?;
        let of_volume = SnapshotRequest { disk: volume.id.clone(), ..request(&lab, "", "c") };
        assert_eq!(lab.rbd.snapshot(&of_volume).await?.virtual_size.bytes(), MIB);

        // No copy is needed, and none taken
        assert!(lab.rbd.copy_target(&of_volume).await?.is_none());
        let copy = CopyTarget { path: lab.conf(), keeper: Box::new(()) };
        assert!(lab.rbd.keep_copy(&of_volume, copy).await.unwrap_err().terminal);

        // The disk goes, and its snapshots live on
        let mut writer = Writer::open(&lab, &name("vm-1"))?;
        writer.write(5)?;
        assert_eq!(remove_disk(&lab, "vm-1").await.unwrap_err().reason, "DiskInUse");
        writer.close()?;
        for _ in 0..2 {
            remove_disk(&lab, "vm-1").await?;
        }
        assert_eq!(lab.rbd.disks(&pool).await?, [volume.id.clone(), disk("vm-2")]);
        lab.rbd.usage(&pool).await?;
        assert_eq!((first(&lab, &name("vm-2"))?, first(&lab, "ucloud.image.a")?), (2, 2));
        // Its name is free
        lab.rbd.ensure_disk(&lab.disk("vm-1", "b", None)?).await?;
        assert_eq!(first(&lab, &name("vm-1"))?, 3);

        for uid in ["a", "b", "c", "base"] {
            lab.rbd.remove_image(&pool, uid).await?;
        }
        assert_eq!(first(&lab, &name("vm-2"))?, 2);
        remove_disk(&lab, "vm-2").await?;
        lab.rbd.remove_disk(&pool, &volume.id).await?;
        remove_disk(&lab, "vm-1").await?;
        assert_eq!(lab.contents()?, [""; 0]);
        lab.no_objects().await?;
        Ok(())
    })
}

#[test]
fn of_chains_of_snapshots_and_clones_nothing_is_left_whatever_goes_first() -> Result<()> {
    lab(async |lab| {
        let pool = lab.pool();
        // Disks 1 to 4, each but the first a clone of a snapshot of the one before
        for order in [[1, 2, 3, 4], [4, 3, 2, 1], [3, 1, 4, 2]] {
            with_disk(&lab).await?;
            for generation in 1..4_u8 {
                let (vm, uid) = (format!("vm-{generation}"), format!("image-{generation}"));
                write(&lab, &name(&vm), generation)?;
                snapshot(&lab, &vm, &uid).await?;
                write(&lab, &name(&vm), 100 + generation)?;
                lab.rbd.ensure_disk(&lab.disk(&format!("vm-{}", generation + 1), &uid, None)?).await?;
            }
            for generation in 2..=4_u8 {
                let byte = first(&lab, &name(&format!("vm-{generation}")))?;
                assert_eq!(byte, if generation == 4 { 3 } else { 100 + generation });
            }
            // A foreign image in the trash is nobody's business
            lab.ceph("rbd", &["--pool", "vms", "create", "--size", "1", "foreign"])?;
            lab.ceph("rbd", &["--pool", "vms", "trash", "mv", "foreign"])?;
            for generation in order {
                remove_disk(&lab, &format!("vm-{generation}")).await?;
                lab.rbd.remove_image(&pool, &format!("image-{generation}")).await?;
            }
            lab.rbd.remove_image(&pool, "base").await?;
            let left = lab.contents()?;
            ensure!(left.len() == 1 && left[0].ends_with(" foreign"), "{order:?}: {left:?}");
            let id = left[0].split(' ').nth(1).context("no id")?;
            lab.ceph("rbd", &["--pool", "vms", "trash", "rm", "--no-progress", id])?;
            lab.no_objects().await?;
        }
        Ok(())
    })
}

#[test]
fn a_snapshot_that_was_interrupted_between_any_two_steps_is_taken_anew() -> Result<()> {
    lab(|lab| interrupted(lab, true))
}

#[test]
fn a_snapshot_that_was_interrupted_between_any_two_steps_is_removed() -> Result<()> {
    lab(|lab| interrupted(lab, false))
}

async fn interrupted(lab: Lab, is_repeated: bool) -> Result<()> {
    let pool = lab.pool();
    with_disk(&lab).await?;
    let rbd = |arguments: &[&str]| lab.ceph("rbd", &[&["--pool", "vms"], arguments].concat());
    let clone = |of: &str, to: &str| rbd(&["clone", "--rbd-default-clone-format", "2", of, &format!("vms/{to}")]);
    let (disk, record, image) = (name("vm-1"), "ucloud.snapshot.a", "ucloud.image.a");
    let of_disk = format!("vms/{disk}@{record}");
    let kept = snapshot(&lab, "vm-1", "a").await?;
    let content = content(&kept.sha256);
    let published = format!("vms/{content}@ucloud");
    lab.rbd.remove_image(&pool, "a").await?;
    let before = lab.contents()?;

    // Each of these is one step further than the one before
    let steps: [&dyn Fn() -> Result<String>; 9] = [
        &|| rbd(&["create", "--size", "0", record]),
        &|| rbd(&["image-meta", "set", record, "ucloud.disk", &disk]),
        &|| rbd(&["snap", "create", "--no-progress", &format!("{disk}@{record}")]),
        &|| clone(&of_disk, &content),
        &|| rbd(&["snap", "rm", "--no-progress", &format!("{disk}@{record}")]),
        &|| rbd(&["image-meta", "remove", &content, "ucloud.content"]),
        &|| rbd(&["snap", "create", "--no-progress", &format!("{content}@ucloud")]),
        &|| clone(&published, image),
        &|| rbd(&["image-meta", "set", image, "ucloud.content", &kept.sha256.to_string()]),
    ];
    // The disk holds a one, and another number after each attempt was interrupted
    let mut holds = 1;
    for done in 1..=steps.len() {
        steps[..done].iter().try_for_each(|step| step().map(drop))?;
        let is_whole = done == steps.len();
        assert_eq!(lab.rbd.image(&pool, "a").await?, is_whole.then(|| kept.clone()), "after {done}");
        if is_repeated {
            write(&lab, &disk, holds + 1)?;
            assert_eq!(snapshot(&lab, "vm-1", "a").await?, kept);
            assert_eq!(first(&lab, image)?, if is_whole { holds } else { holds + 1 }, "after {done}");
            holds += 1;
        }
        // Nobody tries again: what is removed is the Image
        lab.rbd.remove_image(&pool, "a").await?;
        assert_eq!(lab.contents()?, before, "after {done}");
        assert_eq!(rbd(&["snap", "ls", "--all", &disk])?, "", "after {done}");
    }
    // The disk was removed before anybody has taken away its snapshot; or there is no header of the record
    steps[..4].iter().try_for_each(|step| step().map(drop))?;
    remove_disk(&lab, "vm-1").await?;
    rbd(&["create", "--size", "0", "ucloud.snapshot.b"])?;
    let info = rbd(&["info", "--format", "json", "ucloud.snapshot.b"])?;
    let id = info.split_once("\"id\":\"").and_then(|(_, rest)| rest.split_once('"')).context("no id")?.0;
    lab.ceph("rados", &["--pool", "vms", "rm", &format!("rbd_header.{id}")])?;
    lab.rbd.remove_image(&pool, "base").await?;
    assert_eq!(lab.contents()?, [""; 0]);
    lab.no_objects().await?;
    Ok(())
}

#[test]
fn what_another_host_is_at_is_left_to_it() -> Result<()> {
    lab(async |lab| {
        let pool = lab.pool();
        with_disk(&lab).await?;
        lab.ceph("rbd", &["--pool", "vms", "create", "--size", "1", "ucloud.snapshot.a"])?;
        let mut other = Writer::open(&lab, "ucloud.snapshot.a")?;
        other.write(1)?;
        let error = snapshot(&lab, "vm-1", "a").await.unwrap_err();
        assert_eq!((error.reason, error.terminal), ("SnapshotElsewhere", false), "{error}");
        lab.rbd.usage(&pool).await?;
        ensure!(lab.contents()?.contains(&"ucloud.snapshot.a".to_owned()), "it was swept away");
        other.close()?;
        snapshot(&lab, "vm-1", "a").await?;

        // Many at once, of one and of several Images, make each once
        let (first, second) = (request(&lab, "vm-1", "b"), request(&lab, "vm-1", "c"));
        let all = tokio::try_join!(lab.rbd.snapshot(&first), lab.rbd.snapshot(&second), lab.rbd.snapshot(&first))?;
        assert_eq!(all.0, all.2);
        // A disk of a snapshot's clone whose Image is gone, and comes again, is of the same content
        lab.rbd.ensure_disk(&lab.disk("vm-2", "b", None)?).await?;
        lab.rbd.remove_image(&pool, "b").await?;
        assert_eq!(lab.rbd.snapshot(&first).await?, all.0);
        lab.rbd.ensure_disk(&lab.disk("vm-2", "b", None)?).await?;
        let (percent, _listener) = tokio::sync::watch::channel(0);
        lab.rbd.import_image(&lab.request("d", "raw", ImageFormat::Raw), &percent).await?;
        Ok(())
    })
}
