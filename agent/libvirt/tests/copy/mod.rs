//! Disks of VMs that run are copied.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::time::{sleep, timeout};
use ucloud_agent_core::{
    Hypervisor as _,
    hypervisor::{Consistency, Copying, DiskCopy, DiskSource, DomainDisk, DomainSpec},
};
use ucloud_agent_libvirt::Libvirt;

use crate::{
    lab::{Lab, Shell, small, volume},
    run, with_guest,
};

/// An empty file for a copy of a disk of this size, as a pool makes it.
fn target(lab: &Lab, disk: &str, size: &str) -> Result<DiskCopy> {
    let path = lab.path(&format!("{disk}-{}.copy", uuid::Uuid::new_v4()));
    run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg(size))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(DiskCopy { disk: disk.into(), path })
}

/// How the copying ends.
async fn end(libvirt: &Libvirt, vm: &DomainSpec) -> Result<Copying> {
    let ended = timeout(Duration::from_mins(1), async {
        loop {
            match libvirt.copying(&vm.uid).await? {
                Copying::Running(percent) => ensure!(percent <= 100),
                ended => return anyhow::Ok(ended),
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    ended.await.context("it has not ended for a minute")?
}

/// The number that the guest has written at the beginning of a disk.
fn number(lab: &Lab, disk: &Path) -> Result<u64> {
    let sector = lab.path("sector");
    let argument = |key: &str, path: &Path| format!("{key}={}", path.display());
    run(Command::new("qemu-img")
        .args(["dd", "-f", "qcow2", "-O", "raw", "bs=512", "count=1"])
        .args([argument("if", disk), argument("of", &sector)]))?;
    Ok(String::from_utf8(fs::read(&sector)?)?.trim().parse()?)
}

fn path(disk: &DomainDisk) -> Result<PathBuf> {
    match &disk.source {
        DiskSource::Overlay { path, .. } => Ok(path.clone()),
        DiskSource::Rbd { .. } => anyhow::bail!("no file"),
    }
}

#[tokio::test]
async fn disks_are_copied_as_they_are_at_one_moment_while_their_guest_writes() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let vm = with_guest(&lab)?;
    let (first, second) = (volume(&lab, "first", "768M")?, volume(&lab, "second", "16M")?);
    let vm = DomainSpec { disks: vec![vm.disks[0].clone(), first.clone(), second.clone()], ..vm };
    libvirt.start(&vm).await?;
    let mut shell = Shell::of(&lab, &vm).await?;
    // Each number is on the first disk before it is on the second
    let write = "w() { printf %-512s $1 | dd of=/dev/$2 bs=512 oflag=direct 2>/tmp/dd; }; w 1 vdb; w 1 vdc; \
        (i=1; while i=$((i+1)); do w $i vdb; w $i vdc; echo $i >/tmp/n; done) &";
    shell.succeeds(&format!("{{ {write} }}")).await?;
    shell.succeeds("[ $(cat /tmp/n) -gt 5 ]").await?;

    let mut reached = 0;
    for stands_still in [false, true] {
        let copies = [target(&lab, "first", "768M")?, target(&lab, "second", "16M")?];
        if stands_still {
            assert_eq!(libvirt.stand_still(&vm.uid).await?, Consistency::Crash);
        }
        libvirt.begin_copy(&vm.uid, &copies).await?;
        if stands_still {
            libvirt.resume(&vm.uid).await?;
        }
        // The agent dies, the next one asks
        let successor = lab.connect().await?;
        shell.succeeds("{ n=$(cat /tmp/n); sleep 1; [ $(cat /tmp/n) -gt $((n+2)) ]; }").await?;
        assert_eq!(end(&successor, &vm).await?, Copying::Done);
        assert_eq!(libvirt.copying(&vm.uid).await?, Copying::Done);
        for copy in &copies {
            let metadata = copy.path.metadata()?;
            assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o777), (0, 0, 0o600), "{copy:?}");
            run(Command::new("qemu-img").args(["check", "-q", "-f", "qcow2"]).arg(&copy.path))?;
        }
        let numbers = (number(&lab, &copies[0].path)?, number(&lab, &copies[1].path)?);
        ensure!(numbers.0 == numbers.1 || numbers.0 == numbers.1 + 1, "of two moments: {numbers:?}");
        ensure!(numbers.1 > reached, "{numbers:?} after {reached}");
        reached = numbers.0;
    }
    libvirt.destroy(&vm.uid).await?;
    assert_eq!(libvirt.copying(&vm.uid).await?, Copying::Done, "it was done before the VM ended");
    ensure!(number(&lab, &path(&first)?)? > reached + 2, "the guest has not gone on");
    Ok(())
}

#[tokio::test]
async fn a_copying_that_breaks_off_is_told_from_one_that_is_done() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let data = volume(&lab, "data", "768M")?;
    let vm = DomainSpec { disks: vec![data, volume(&lab, "other", "1M")?], ..small() };
    let failed = |why: &str| Copying::Failed(why.to_owned());
    let refused = libvirt.begin_copy(&vm.uid, &[target(&lab, "data", "768M")?]).await.unwrap_err();
    assert_eq!(refused.reason, "DomainOff");
    assert_eq!(libvirt.copying(&vm.uid).await?, failed("the VM has stopped"));
    libvirt.end_copy(&vm.uid).await?;
    libvirt.start(&vm).await?;
    assert_eq!(libvirt.copying(&vm.uid).await?, Copying::None);
    libvirt.end_copy(&vm.uid).await?;
    let refused = libvirt.begin_copy(&vm.uid, &[target(&lab, "absent", "1M")?]).await.unwrap_err();
    assert_eq!((refused.reason, refused.terminal), ("CopyFailed", false), "{refused}");

    // Begun anew, given up, and what was done before that is forgotten
    for _ in 0..2 {
        libvirt.begin_copy(&vm.uid, &[target(&lab, "data", "768M")?]).await?;
        assert!(matches!(libvirt.copying(&vm.uid).await?, Copying::Running(_)));
    }
    for _ in 0..2 {
        libvirt.end_copy(&vm.uid).await?;
        assert_eq!(libvirt.copying(&vm.uid).await?, failed("it was given up"));
    }
    let small_copy = target(&lab, "other", "1M")?;
    libvirt.begin_copy(&vm.uid, std::slice::from_ref(&small_copy)).await?;
    assert_eq!(end(&libvirt, &vm).await?, Copying::Done);
    let nowhere = DiskCopy { path: lab.path("nowhere"), ..small_copy };
    let refused = libvirt.begin_copy(&vm.uid, &[nowhere]).await.unwrap_err();
    assert!(
        !refused.message.contains(lab.path("").to_str().context("path")?),
        "it names a path of the host: {refused}"
    );
    assert_eq!(libvirt.copying(&vm.uid).await?, Copying::None);

    // libvirtd starts anew: QEMU goes on, and libvirtd finds out how it ended also if that was meanwhile
    libvirt.begin_copy(&vm.uid, &[target(&lab, "data", "768M")?]).await?;
    lab.run("kill $(cat /run/libvirtd.pid) && while [ -e /run/libvirtd.pid ]; do sleep 0.1; done; libvirtd --daemon")?;
    let successor = lab.connect().await?;
    assert_eq!(end(&successor, &vm).await?, Copying::Done);

    // There is no room for the copy
    let full = lab.path("full");
    lab.run(&format!("mkdir {0} && mount -t tmpfs -o size=4m,mode=755 tmpfs {0}", full.display()))?;
    let copy = DiskCopy { disk: "data".into(), path: full.join("copy") };
    lab.run(&format!("qemu-img create -q -f qcow2 {} 768M", copy.path.display()))?;
    successor.begin_copy(&vm.uid, &[copy]).await?;
    let Copying::Failed(why) = end(&successor, &vm).await? else { anyhow::bail!("it is done") };
    ensure!(why.contains("No space left"), "{why}");

    // The VM ends
    successor.begin_copy(&vm.uid, &[target(&lab, "data", "768M")?]).await?;
    successor.destroy(&vm.uid).await?;
    assert_eq!(end(&successor, &vm).await?, failed("the VM has stopped"));
    // and starts again
    successor.start(&vm).await?;
    assert!(matches!(successor.copying(&vm.uid).await?, Copying::Failed(_)));
    Ok(())
}
