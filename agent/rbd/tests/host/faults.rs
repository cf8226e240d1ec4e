//! What happens when something is interrupted, refused or does not answer.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use tokio::sync::watch;
use ucloud_agent_core::BlockStore as _;
use ucloud_types::image::ImageFormat;

use crate::lab::{content, lab, run};

#[test]
fn what_was_interrupted_between_any_two_steps_is_completed_or_removed() -> Result<()> {
    lab(async |lab| {
        let pool = lab.pool();
        let rbd = |arguments: &[&str]| lab.ceph("rbd", &[&["--pool", "vms"], arguments].concat());
        lab.raw("raw", 5, b"mark")?;
        let first = lab.import("a", "raw").await?;
        let content = content(&first.sha256);
        let published = format!("vms/{content}@ucloud");
        let link = "ucloud.image.a";
        let disk = "ucloud.disk.vm-1.root";
        lab.rbd.remove_image(&pool, "a").await?;
        assert_eq!(lab.contents()?, [""; 0]);

        // Died while the content was written: made, with a part of the bytes, without its snapshot.
        let half = || rbd(&["create", "--size", "5", &content]);
        half()?;
        assert_eq!(lab.rbd.image(&pool, "a").await?, None);
        assert_eq!(lab.import("a", "raw").await?, first);
        assert_eq!(&lab.bytes(&content)?[..4], b"mark");
        lab.rbd.remove_image(&pool, "a").await?;
        half()?;
        lab.rbd.usage(&pool).await?;
        assert_eq!(lab.contents()?, [""; 0], "what is left over is swept");

        // Died while the content was made: its header is missing.
        lab.half_made(&content)?;
        assert_eq!(lab.import("a", "raw").await?, first);

        // Died before the Image was marked as whole, or after it was there alone.
        rbd(&["image-meta", "remove", link, "ucloud.content"])?;
        assert_eq!(lab.rbd.image(&pool, "a").await?, None);
        assert_eq!(lab.rbd.images(&pool).await?, [""; 0]);
        assert_eq!(lab.import("a", "raw").await?, first);
        assert_eq!(lab.rbd.image(&pool, "a").await?, Some(first.clone()));
        // Died before the Image was made.
        rbd(&["rm", "--no-progress", link])?;
        assert_eq!(lab.import("a", "raw").await?, first);

        // Died while a disk was made: cloned, and not grown or marked. It holds no guest's data yet.
        rbd(&["clone", "--rbd-default-clone-format", "2", &published, "vms/ucloud.disk.vm-1.root"])?;
        let made = lab.rbd.ensure_disk(&lab.disk("vm-1", "a", Some("8Mi"))?).await?;
        assert_eq!(made.size.bytes(), 8 << 20);
        // One that was flattened by an operator is still that disk.
        rbd(&["flatten", "--no-progress", disk])?;
        assert_eq!(lab.rbd.ensure_disk(&lab.disk("vm-1", "a", None)?).await?, made);
        rbd(&["clone", "--rbd-default-clone-format", "2", &published, "vms/ucloud.disk.vm-2.root"])?;
        for vm in ["vm-1", "vm-2"] {
            lab.rbd.remove_disk(&pool, &lab.disk(vm, "a", None)?.id).await?;
        }

        // Died while a content was removed: in the trash, with and without its snapshot.
        let trash = || rbd(&["trash", "mv", &content]);
        rbd(&["rm", "--no-progress", link])?;
        trash()?;
        lab.rbd.usage(&pool).await?;
        assert_eq!(lab.contents()?, [""; 0]);
        half()?;
        trash()?;
        lab.rbd.usage(&pool).await?;
        assert_eq!(lab.contents()?, [""; 0]);
        // In the trash, and cloned at the last moment: it is given back.
        lab.import("a", "raw").await?;
        trash()?;
        lab.rbd.usage(&pool).await?;
        assert_eq!(lab.contents()?, [content.clone(), link.to_owned()]);
        lab.rbd.remove_image(&pool, "a").await?;
        assert_eq!(lab.objects()?, [""; 0], "not one object is left");
        Ok(())
    })
}

#[test]
fn what_ceph_refuses_or_does_not_answer_is_said_and_nothing_hangs() -> Result<()> {
    lab(async |lab| {
        let pool = lab.pool();
        lab.raw("raw", 5, b"mark")?;
        lab.import("a", "raw").await?;

        // A user without the rights, one whose rights lack the blocklist, and one who does not exist.
        let keyring = |user: &str, mon: &str, osd: &str| -> Result<()> {
            let file = lab.conf().with_file_name(format!("ceph.client.{user}.keyring"));
            let client = format!("client.{user}");
            lab.ceph(
                "ceph",
                &["auth", "get-or-create", &client, "mon", mon, "osd", osd, "-o", file.to_str().unwrap()],
            )?;
            Ok(())
        };
        keyring("reader", "profile rbd", "profile rbd-read-only pool=vms")?;
        keyring("unfenced", "allow r", "profile rbd pool=vms")?;
        for (user, operation) in [("reader", "create"), ("unfenced", "blocklist")] {
            let error = lab.rbd.usage(&lab.pool_of(user)).await.unwrap_err();
            assert_eq!(error.reason, "StoragePermission", "{user}: {error}");
            assert!(error.message.contains(operation) && error.message.contains("profile rbd"), "{user}: {error}");
        }
        let error = lab.rbd.usage(&lab.pool_of("nobody")).await.unwrap_err();
        assert_eq!(error.reason, "StorageKey", "{error}");
        assert!(!error.terminal && error.message.contains("client.nobody"), "{error}");

        // A cluster without room: the OSD holds more than it may.
        let filler = lab.conf().with_file_name("filler");
        std::fs::File::create(&filler)?.set_len(64 << 20)?;
        lab.ceph("rados", &["--pool", "vms", "put", "filler", filler.to_str().unwrap()])?;
        let ratios = async |near: &str, full: &str, is_full: bool| -> Result<()> {
            for (which, ratio) in [("nearfull", near), ("backfillfull", near), ("full", full)] {
                lab.ceph("ceph", &["osd", &format!("set-{which}-ratio"), ratio])?;
            }
            loop {
                let dump = lab.ceph("ceph", &["osd", "dump"])?;
                let flags = dump.lines().find(|line| line.starts_with("pool ")).unwrap_or_default();
                if flags.contains(",full") == is_full {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        ratios("0.005", "0.006", true).await?;
        let error = lab.rbd.ensure_disk(&lab.disk("vm-1", "a", None)?).await.unwrap_err();
        assert_eq!((error.reason, error.terminal), ("StorageFull", false), "{error}");
        ratios("0.9", "0.95", false).await?;
        lab.rbd.ensure_disk(&lab.disk("vm-1", "a", None)?).await?;

        // An OSD that does not answer: every call ends with an error.
        lab.signal_osd(Signal::SIGSTOP)?;
        for error in [
            lab.rbd.image(&pool, "a").await.unwrap_err(),
            lab.rbd.ensure_disk(&lab.disk("vm-2", "a", None)?).await.unwrap_err(),
            lab.rbd.remove_disk(&pool, &lab.disk("vm-1", "a", None)?.id).await.unwrap_err(),
        ] {
            assert_eq!((error.reason, error.terminal), ("StorageTimeout", false), "{error}");
        }
        // And goes on when it answers again.
        lab.signal_osd(Signal::SIGCONT)?;
        lab.rbd.ensure_disk(&lab.disk("vm-2", "a", None)?).await?;
        for vm in ["vm-1", "vm-2"] {
            lab.rbd.remove_disk(&pool, &lab.disk(vm, "a", None)?.id).await?;
        }
        lab.rbd.remove_image(&pool, "a").await?;
        assert_eq!(lab.contents()?, [""; 0]);
        Ok(())
    })
}

#[test]
fn an_import_that_nobody_waits_for_is_broken_off_and_leaves_nothing() -> Result<()> {
    lab(async |lab| {
        let raw = lab.raw("raw", 256, b"mark")?;
        std::fs::write(&raw, vec![7; 256 << 20])?;
        let qcow2 = raw.with_file_name("qcow2");
        run("qemu-img", &["convert", "-O", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()])?;
        for (name, format) in [("raw", ImageFormat::Raw), ("qcow2", ImageFormat::Qcow2)] {
            let (percent, mut told) = watch::channel(0);
            let request = lab.request("a", name, format);
            tokio::select! {
                // from 80 % on it is written to the pool
                result = lab.rbd.import_image(&request, &percent) => panic!("it is there already: {result:?}"),
                seen = told.wait_for(|percent| *percent > 83) => drop(seen?),
            }
            drop(told);
            // waits until the thread that writes has ended
            lab.rbd.remove_image(&lab.pool(), "a").await?;
            assert_eq!(lab.contents()?, [""; 0], "{name}");
        }
        Ok(())
    })
}

#[test]
fn what_ceph_did_not_write_while_an_image_was_imported_is_not_taken_for_written() -> Result<()> {
    lab(async |lab| {
        let raw = lab.raw("raw", 256, b"mark")?;
        let disk = b"0123456789abcdef".repeat(256 << 16);
        std::fs::write(&raw, &disk)?;
        let qcow2 = raw.with_file_name("qcow2");
        run("qemu-img", &["convert", "-O", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()])?;
        let (percent, mut told) = watch::channel(0);
        let request = lab.request("a", "qcow2", ImageFormat::Qcow2);
        let stand_still = async {
            told.wait_for(|percent| *percent > 85).await?;
            lab.signal_osd(Signal::SIGSTOP)?;
            // Longer than Ceph may take to answer
            tokio::time::sleep(Duration::from_secs(5)).await;
            lab.signal_osd(Signal::SIGCONT)
        };
        let (mut made, stood) = tokio::join!(lab.rbd.import_image(&request, &percent), stand_still);
        stood?;
        while let Err(error) = made {
            assert!(!error.terminal, "{error}");
            tokio::time::sleep(Duration::from_secs(1)).await;
            made = lab.rbd.import_image(&request, &percent).await;
        }
        assert!(lab.bytes("ucloud.image.a")? == disk, "a part of it was never written");
        Ok(())
    })
}

/// Another cluster has come in the place of the first, at its address and with the same names of users.
#[test]
fn a_connection_that_leads_nowhere_is_made_anew() -> Result<()> {
    lab(async |mut lab| {
        let pool = lab.pool();
        lab.raw("raw", 5, b"mark")?;
        lab.import("a", "raw").await?;
        assert_eq!(lab.rbd.images(&pool).await?, ["a"]);
        lab.remake()?;
        let lost = lab.rbd.images(&pool).await.unwrap_err();
        assert!(!lost.terminal, "{lost}");
        assert_eq!(lab.rbd.images(&pool).await?, [""; 0]);
        lab.import("a", "raw").await?;
        assert_eq!(&lab.bytes("ucloud.image.a")?[..4], b"mark");
        Ok(())
    })
}
