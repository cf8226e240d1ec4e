//! What images and disks are in the pool.

use std::os::unix::fs::FileExt as _;

use anyhow::Result;
use tokio::sync::watch;
use ucloud_agent_core::{
    BlockStore as _,
    block_store::{Content, Disk, DiskId, DiskRequest, ImageRequest},
    hypervisor::DiskSource,
};
use ucloud_types::image::{ImageFormat, ImageSource, Sha256, UploadSource};

use crate::lab::{MIB, content, lab, run};

#[test]
fn images_are_kept_once_and_disks_are_clones_that_keep_them_alive() -> Result<()> {
    lab(async |lab| {
        let pool = lab.pool();
        lab.rbd.usage(&pool).await?;
        assert_eq!(lab.contents()?, [""; 0], "the check that the first look at a pool makes leaves nothing");

        // Raw and qcow2, with the same bytes in them, are two contents; two Images of one source are one.
        let raw = lab.raw("raw", 9, b"mark")?;
        let qcow2 = raw.with_file_name("qcow2");
        run("qemu-img", &["convert", "-O", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()])?;
        let first = lab.import("a", "raw").await?;
        assert_eq!(first.virtual_size.bytes(), 9 * MIB);
        let (percent, told) = watch::channel(0);
        let other = lab.other_host()?;
        let again = other.import_image(&lab.request("b", "raw", ImageFormat::Raw), &percent).await?;
        assert_eq!((&again, *told.borrow()), (&first, 100));
        let converted = other.import_image(&lab.request("c", "qcow2", ImageFormat::Qcow2), &percent).await?;
        assert_ne!(converted.sha256, first.sha256);
        let contents = [content(&first.sha256), content(&converted.sha256)];
        let mut expected: Vec<_> =
            contents.iter().cloned().chain(["a", "b", "c"].map(|uid| format!("ucloud.image.{uid}"))).collect();
        expected.sort();
        assert_eq!(lab.contents()?, expected);
        for content in &contents {
            let bytes = lab.bytes(content)?;
            assert_eq!(
                (bytes.len() as u64, &bytes[..4], &bytes[bytes.len() - 4..]),
                (9 * MIB, &b"mark"[..], &b"mark"[..])
            );
        }
        // Every host sees them.
        assert_eq!(lab.rbd.image(&pool, "c").await?, Some(converted));
        let mut uids = lab.rbd.images(&pool).await?;
        uids.sort();
        assert_eq!(uids, ["a", "b", "c"]);

        // Disks: made once, grown, never shrunk, never smaller than their image.
        let disk = lab.rbd.ensure_disk(&lab.disk("vm-1", "a", None)?).await?;
        let DiskSource::Rbd { image, .. } = &disk.source else { panic!("{disk:?}") };
        assert_eq!((image.as_str(), disk.size.bytes()), ("ucloud.disk.vm-1.root", 9 * MIB));
        assert_eq!(lab.bytes(image)?, lab.bytes(&contents[0])?);
        let grown = other.ensure_disk(&lab.disk("vm-1", "a", Some("12Mi"))?).await?;
        assert_eq!(grown.size.bytes(), 12 * MIB);
        assert_eq!(lab.rbd.ensure_disk(&lab.disk("vm-1", "a", Some("10Mi"))?).await?.size, grown.size);
        let refused = lab.rbd.ensure_disk(&lab.disk("vm-2", "a", Some("1Mi"))?).await.unwrap_err();
        assert_eq!((refused.reason, refused.terminal), ("SizeTooSmall", true));
        let refused = lab.rbd.ensure_disk(&lab.disk("vm-1", "c", None)?).await.unwrap_err();
        assert_eq!((refused.reason, refused.terminal), ("DiskMismatch", true));
        let refused = lab.rbd.ensure_disk(&lab.disk("vm-2", "absent", None)?).await.unwrap_err();
        assert_eq!((refused.reason, refused.terminal), ("ImageMissing", false));
        assert_eq!(lab.rbd.disks(&pool).await?, [lab.disk("vm-1", "a", None)?.id]);

        // Volumes: empty, made once, grown, never taken for another one; what was left half made is made anew.
        let empty = |size: &str| -> Result<DiskRequest> {
            let size = Some(size.parse()?);
            Ok(DiskRequest { id: DiskId::of_volume("v"), pool: pool.clone(), content: Content::Empty, size })
        };
        lab.ceph("rbd", &["--pool", "vms", "create", "--size", "1", "ucloud.disk.v.volume"])?;
        let made = lab.rbd.ensure_disk(&empty("4Mi")?).await?;
        assert_eq!(made.size.bytes(), 4 * MIB);
        let write = ["--pool", "vms", "bench", "--io-type", "write", "--io-size", "4K", "--io-total", "4K"];
        lab.ceph("rbd", &[&write[..], &["ucloud.disk.v.volume"]].concat())?;
        let written = lab.bytes("ucloud.disk.v.volume")?;
        let volume = other.ensure_disk(&empty("8Mi")?).await?;
        assert_eq!((volume.size.bytes(), &volume.source), (8 * MIB, &made.source));
        assert_eq!(lab.rbd.ensure_disk(&empty("4Mi")?).await?, volume, "it never shrinks");
        assert!(lab.bytes("ucloud.disk.v.volume")?.starts_with(&written), "what was written is gone");
        let clone = DiskRequest { content: Content::Image("a".into()), ..empty("9Mi")? };
        assert_eq!(lab.rbd.ensure_disk(&clone).await.unwrap_err().reason, "DiskMismatch");
        let gone = DiskRequest { content: Content::Image("gone".into()), ..empty("8Mi")? };
        assert_eq!(lab.rbd.ensure_disk(&gone).await?, volume, "it is kept, whatever became of the image");
        for _ in 0..2 {
            lab.rbd.remove_disk(&pool, &DiskId::of_volume("v")).await?;
        }

        // A disk gets another owner, also where one who did that died between two of Ceph's steps.
        let (root, adopted) = (lab.disk("vm-1", "a", None)?.id, DiskId::of_volume("w"));
        let (old, new) = ("rbd_id.ucloud.disk.vm-1.root", "rbd_id.ucloud.disk.w.volume");
        assert_eq!(lab.rbd.disk_size(&pool, &root).await?, Some(grown.size));
        lab.ceph("rados", &["--pool", "vms", "cp", old, new])?;
        let bytes = lab.bytes(image)?;
        assert_eq!(lab.rbd.rename_disk(&pool, &root, &adopted).await?, grown.size);
        assert_eq!(lab.rbd.disks(&pool).await?, std::slice::from_ref(&adopted));
        assert_eq!(lab.rbd.disk_size(&pool, &root).await?, None);
        lab.ceph("rados", &["--pool", "vms", "cp", new, old])?;
        assert_eq!(other.rename_disk(&pool, &root, &adopted).await?, grown.size);
        assert!(!lab.objects()?.contains(&old.to_owned()), "the name that was left over is gone");
        assert_eq!(lab.bytes("ucloud.disk.w.volume")?, bytes);
        let kept = DiskRequest { id: adopted.clone(), content: Content::Kept, ..empty("13Mi")? };
        assert_eq!(lab.rbd.ensure_disk(&kept).await?.size.bytes(), 13 * MIB);
        let absent = DiskRequest { id: root.clone(), ..kept };
        assert_eq!(lab.rbd.ensure_disk(&absent).await.unwrap_err().reason, "DiskMissing");
        assert_eq!(lab.rbd.rename_disk(&pool, &DiskId::of_volume("x"), &root).await.unwrap_err().reason, "DiskMissing");
        let grown = Disk { size: lab.rbd.rename_disk(&pool, &adopted, &root).await?, ..grown };

        // A foreign image in the pool is nobody's business.
        lab.ceph("rbd", &["--pool", "vms", "create", "--size", "1", "foreign"])?;

        // Images go, and what a disk needs stays until the disk goes.
        for uid in ["a", "a", "b", "c"] {
            lab.rbd.remove_image(&pool, uid).await?;
        }
        assert_eq!(lab.rbd.images(&pool).await?, [""; 0]);
        assert_eq!(lab.contents()?, ["foreign".to_owned(), contents[0].clone(), image.clone()]);
        assert_eq!(lab.rbd.ensure_disk(&lab.disk("vm-1", "a", None)?).await?.size, grown.size);
        // It is imported again while its content is kept by a disk alone.
        assert_eq!(lab.import("d", "raw").await?, first);
        other.remove_image(&pool, "d").await?;
        for _ in 0..2 {
            lab.rbd.remove_disk(&pool, &lab.disk("vm-1", "a", None)?.id).await?;
        }
        assert_eq!(lab.contents()?, ["foreign"]);
        lab.ceph("rbd", &["--pool", "vms", "rm", "--no-progress", "foreign"])?;
        assert_eq!(lab.objects()?, [""; 0], "not one object is left");
        Ok(())
    })
}

#[test]
fn what_is_in_an_image_of_any_format_is_written_as_it_is_read() -> Result<()> {
    lab(async |lab| {
        // Data at the ends, across the borders of objects, and parts of all lengths with zeros between them
        let raw = lab.raw("raw", 33, b"mark")?;
        let file = std::fs::OpenOptions::new().write(true).open(&raw)?;
        for n in 1..=60_u64 {
            let part: Vec<u8> = (0..n * 1777).map(|at| u8::try_from((at * n) % 251).unwrap_or_default()).collect();
            file.write_all_at(&part, n * 555_555 - part.len() as u64 / 2)?;
        }
        let expected = std::fs::read(&raw)?;
        for (uid, format, options) in [
            ("qcow2", ImageFormat::Qcow2, &[][..]),
            ("compressed", ImageFormat::Qcow2, &["-c", "-o", "cluster_size=4k"]),
            ("vmdk", ImageFormat::Vmdk, &["-o", "subformat=streamOptimized"]),
            ("vhdx", ImageFormat::Vhdx, &[]),
            ("vdi", ImageFormat::Vdi, &[]),
        ] {
            let packed = raw.with_file_name(uid);
            let into = [&["convert", "-f", "raw", "-O", format.as_str()], options].concat();
            run("qemu-img", &[&into[..], &[raw.to_str().unwrap(), packed.to_str().unwrap()]].concat())?;
            let image = lab.rbd.import_image(&lab.request(uid, uid, format), &watch::channel(0).0).await?;
            assert_eq!(image.virtual_size.bytes(), 33 * MIB, "{uid}");
            assert!(lab.bytes(&format!("ucloud.image.{uid}"))? == expected, "{uid} has other bytes");
            // The check of the tables sees nothing wrong in this: it is broken when it is read
            if uid == "compressed" {
                let mut bytes = std::fs::read(&packed)?;
                let last = bytes.len() - 100_000;
                bytes[last..].fill(0xff);
                std::fs::write(&packed, bytes)?;
                let broken = lab.rbd.import_image(&lab.request("broken", uid, format), &watch::channel(0).0).await;
                let broken = broken.unwrap_err();
                assert_eq!((broken.reason, broken.terminal), ("ImageRefused", true), "{broken:?}");
            }
            lab.rbd.remove_image(&lab.pool(), uid).await?;
            assert_eq!(lab.contents()?, [""; 0], "{uid}");
        }
        Ok(())
    })
}

#[test]
fn a_raw_file_of_this_host_is_written_to_the_pool_without_being_fetched() -> Result<()> {
    lab(async |lab| {
        let raw = lab.raw("raw", 9, b"mark")?;
        let qcow2 = raw.with_file_name("qcow2");
        run("qemu-img", &["convert", "-O", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()])?;
        let upload = |uid: &str, file: &str, format| {
            let upload = Some(UploadSource { file: file.into() });
            ImageRequest { source: ImageSource { upload, ..ImageSource::default() }, ..lab.request(uid, file, format) }
        };
        let import = async |request: &ImageRequest| {
            lab.rbd.import_image(request, &watch::channel(0).0).await.map_err(|error| error.reason)
        };
        let claims = ImageRequest { checksum: Some(Sha256::from([8; 32])), ..upload("a", "raw", ImageFormat::Raw) };
        assert_eq!(import(&claims).await, Err("ChecksumMismatch"));
        assert_eq!(import(&upload("a", "qcow2", ImageFormat::Raw)).await, Err("FormatMismatch"));
        // Others are fetched to be read in the sandbox, or because another host has them
        assert_eq!(import(&upload("a", "qcow2", ImageFormat::Qcow2)).await, Err("Fetched"));
        assert_eq!(import(&upload("a", "elsewhere", ImageFormat::Raw)).await, Err("Fetched"));
        assert_eq!(lab.contents()?, [""; 0]);

        let made = import(&upload("a", "raw", ImageFormat::Raw)).await.unwrap();
        assert_eq!(made.virtual_size.bytes(), 9 * MIB);
        assert_eq!(lab.import("b", "raw").await?, made, "they are the same bytes, and are there once");
        assert!(lab.bytes("ucloud.image.a")? == std::fs::read(&raw)?, "other bytes");
        Ok(())
    })
}
