//! Files in Ceph: they come in pieces, across restarts and whatever goes wrong, and images are made of them without a copy.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};
use ucloud_agent_core::{
    BlockStore as _, FileStore as _, HostError,
    block_store::{ImageRequest, StoredImage},
    file_store::{AppendError, FileRequest, Stored},
};
use ucloud_agent_import::hashed::Hashed;
use ucloud_agent_rbd::Uploads;
use ucloud_types::image::{ImageFormat, ImageSource, Sha256, UploadSource};

use crate::lab::{FILE_SIZE as SIZE, Lab, MIB, content, lab, run, uploads};

const FILE: &str = "ucloud.file.file-1";

struct Source {
    bytes: Vec<u8>,
    file: FileRequest,
}

impl Source {
    /// Bytes with zeros among them, of which nobody can be sure that they lie between objects.
    fn new(lab: &Lab) -> Self {
        let zeros = 3 * MIB..8 * MIB + 5;
        let byte = |n: u64| if zeros.contains(&n) { 0 } else { u8::try_from(n * 7 % 251).unwrap_or_default() };
        let bytes: Vec<u8> = (0..SIZE).map(byte).collect();
        let file = FileRequest {
            uid: "file-1".into(),
            namespace: "demo".into(),
            name: "disk-1".into(),
            pool: lab.pool(),
            size: SIZE,
            sha256: Some(sum(&bytes)),
        };
        Self { bytes, file }
    }

    fn piece(&self, from: u64, to: u64) -> &[u8] {
        let place = |at: u64| usize::try_from(at).unwrap();
        &self.bytes[place(from)..place(to)]
    }

    fn complete(&self) -> Stored {
        Stored::Complete(sum(&self.bytes))
    }
}

fn sum(bytes: &[u8]) -> Sha256 {
    let mut hashed = Hashed::default();
    hashed.update(bytes);
    hashed.finish()
}

/// Sends the bytes in small pieces, of no whole number of blocks.
async fn send(store: &Uploads, file: &FileRequest, offset: u64, bytes: &[u8]) -> Result<Stored, AppendError> {
    let (sender, receiver) = mpsc::channel(1);
    let pieces: Vec<_> = bytes.chunks(65_537).map(Bytes::copy_from_slice).collect();
    let sending = async move {
        for piece in pieces {
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(store.append(file, offset, receiver), sending).0
}

async fn read(store: &Uploads, file: &FileRequest, range: std::ops::Range<u64>) -> Result<Vec<u8>, HostError> {
    let (into, mut pieces) = mpsc::channel::<Bytes>(1);
    let take = async {
        let mut all = Vec::new();
        while let Some(piece) = pieces.recv().await {
            all.extend_from_slice(&piece);
        }
        all
    };
    let (read, all) = tokio::join!(store.read(file, range, into), take);
    read.map(|()| all)
}

/// The image of what was uploaded as the File of this name.
fn upload(lab: &Lab, uid: &str, file: &str) -> ImageRequest {
    let source = ImageSource { upload: Some(UploadSource { file: file.into() }), ..ImageSource::default() };
    ImageRequest { source, ..lab.request(uid, "", ImageFormat::Raw) }
}

async fn import(lab: &Lab, uid: &str, file: &str) -> Result<StoredImage, HostError> {
    lab.rbd.import_image(&upload(lab, uid, file), &watch::channel(0).0).await
}

#[test]
fn a_file_comes_in_pieces_and_is_complete_with_its_last_byte() -> Result<()> {
    lab(async |lab| {
        let source = Source::new(&lab);
        let (file, mut store) = (&source.file, uploads());
        assert_eq!(store.stored(file).await?, Stored::Partial(0));
        assert_eq!(store.size(&file.pool, &file.uid).await?, None);
        lab.half_made(FILE)?;
        assert_eq!(store.stored(file).await?, Stored::Partial(0));
        let mut offset = 0;
        for to in [0, 1, 65_536, 4 * MIB + 9, SIZE - 1] {
            assert_eq!(send(&store, file, offset, source.piece(offset, to)).await?, Stored::Partial(to));
            offset = to;
            assert_eq!(store.stored(file).await?, Stored::Partial(to));
            assert_eq!(store.files(&file.pool).await?.get("file-1"), Some(&Stored::Partial(to)));
            for other in [0, SIZE].into_iter().filter(|other| *other != to) {
                let refused = send(&store, file, other, b"x").await;
                assert!(matches!(refused, Err(AppendError::WrongOffset { next }) if next == to), "{refused:?}");
            }
            assert!(store.open(file).await.unwrap_err().message.contains("not complete"));
            assert_eq!(import(&lab, "a", "disk-1").await.unwrap_err().reason, "FileIncomplete");
            if to == 4 * MIB + 9 {
                // The agent ended while it wrote: what it knew of the checksum is gone, and more is there than was kept
                store = uploads();
                lab.run_on("qemu-io", FILE, &["-c", "write -P 9 5M 4M"])?;
            }
        }
        assert_eq!(send(&store, file, offset, source.piece(offset, SIZE)).await?, source.complete());
        assert_eq!(send(&store, file, SIZE, &[]).await?, source.complete(), "who did not hear it may ask again");
        assert!(matches!(send(&store, file, SIZE, b"x").await, Err(AppendError::TooMany(_))));
        assert!(matches!(send(&store, file, 0, b"x").await, Err(AppendError::WrongOffset { next: SIZE })));
        assert_eq!(
            store.files(&file.pool).await?.into_iter().collect::<Vec<_>>(),
            [("file-1".into(), source.complete())]
        );
        assert!(read(&store, file, 0..SIZE).await? == source.bytes);
        assert!(read(&store, file, 5..SIZE - 3).await? == source.piece(5, SIZE - 3));
        store.remove(&file.pool, &file.uid).await?;
        store.remove(&file.pool, &file.uid).await?;
        assert!(store.files(&file.pool).await?.is_empty());
        assert_eq!(lab.contents()?, [""; 0]);
        Ok(())
    })
}

#[test]
fn wrong_bytes_too_many_bytes_and_two_senders_are_refused() -> Result<()> {
    lab(async |lab| {
        let source = Source::new(&lab);
        let (file, store) = (&source.file, uploads());
        let mut wrong = source.bytes.clone();
        wrong[12_345] ^= 1;
        match send(&store, file, 0, &wrong).await {
            Err(AppendError::Checksum { found, .. }) => assert_eq!(found, sum(&wrong)),
            other => bail!("{other:?}"),
        }
        assert_eq!(lab.contents()?, [""; 0]);
        // Also where they cannot be removed at once, none of them counts
        let at = usize::try_from(MIB)?;
        send(&store, file, 0, &wrong[..at]).await?;
        let snapshot = format!("vms/{FILE}@somebodys");
        lab.ceph("rbd", &["snap", "create", "--no-progress", &snapshot])?;
        let kept = send(&store, file, MIB, &wrong[at..]).await;
        assert!(matches!(kept, Err(AppendError::Host(_))), "{kept:?}");
        assert_eq!(store.stored(file).await?, Stored::Partial(0));
        lab.ceph("rbd", &["snap", "rm", "--no-progress", &snapshot])?;
        let mut more = source.bytes.clone();
        more.push(0);
        assert!(matches!(send(&store, file, 0, &more).await, Err(AppendError::TooMany(_))));
        let Stored::Partial(kept) = store.stored(file).await? else { bail!("it is complete") };
        assert!(kept > 0 && kept < SIZE, "{kept}");

        // Another is at it, in this agent or in one before it
        let (sender, receiver) = mpsc::channel(1);
        let second = async {
            sender.send(Bytes::copy_from_slice(source.piece(kept, kept + 1))).await?;
            let refused = send(&store, file, kept, b"y").await;
            assert!(matches!(refused, Err(AppendError::Busy)), "{refused:?}");
            let earlier = uploads();
            while !matches!(send(&earlier, file, kept, b"y").await, Err(AppendError::Busy)) {
                tokio::task::yield_now().await;
            }
            drop(sender);
            anyhow::Ok(())
        };
        let (first, second) = tokio::join!(store.append(file, kept, receiver), second);
        second?;
        assert_eq!(first?, Stored::Partial(kept + 1));
        assert_eq!(send(&store, file, kept + 1, source.piece(kept + 1, SIZE)).await?, source.complete());
        Ok(())
    })
}

#[test]
fn what_ceph_did_not_confirm_does_not_count() -> Result<()> {
    lab(async |lab| {
        let source = Source::new(&lab);
        let (file, store) = (&source.file, uploads());
        send(&store, file, 0, source.piece(0, MIB)).await?;
        lab.signal_osd(Signal::SIGSTOP)?;
        let failed = send(&store, file, MIB, source.piece(MIB, SIZE)).await;
        lab.signal_osd(Signal::SIGCONT)?;
        match failed {
            Err(AppendError::Host(error)) => assert_eq!((error.reason, error.terminal), ("StorageTimeout", false)),
            other => bail!("{other:?}"),
        }
        // Until the connection that was given up is gone, it is taken for somebody who is at it
        let kept = loop {
            let Stored::Partial(kept) = store.stored(file).await? else { bail!("it is complete") };
            match send(&store, file, kept, &[]).await {
                Err(AppendError::Busy | AppendError::Host(_)) => {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                other => break other?,
            }
        };
        assert_eq!(kept, Stored::Partial(MIB));
        assert_eq!(send(&store, file, MIB, source.piece(MIB, SIZE)).await?, source.complete());
        assert!(read(&store, file, 0..SIZE).await? == source.bytes);
        Ok(())
    })
}

#[test]
fn an_image_of_a_raw_file_is_a_clone_that_outlives_it() -> Result<()> {
    lab(async |lab| {
        let source = Source::new(&lab);
        let (file, store) = (&source.file, uploads());
        send(&store, file, 0, &source.bytes).await?;
        let data =
            || -> Result<usize> { Ok(lab.objects()?.iter().filter(|name| name.starts_with("rbd_data.")).count()) };
        let before = data()?;
        let image = import(&lab, "a", "disk-1").await?;
        assert_eq!((&image.sha256, image.virtual_size.bytes()), (&sum(&source.bytes), SIZE.next_multiple_of(512)));
        assert_eq!(import(&lab, "b", "disk-1").await?, image);
        assert_eq!(data()?, before, "nothing was copied");
        let mut disk = source.bytes.clone();
        disk.resize(usize::try_from(SIZE.next_multiple_of(512))?, 0);
        assert!(lab.bytes("ucloud.image.a")? == disk);
        assert!(read(&store, file, 0..SIZE).await? == source.bytes);

        // An import that died after it had made the clone
        lab.rbd.remove_image(&lab.pool(), "a").await?;
        lab.rbd.remove_image(&lab.pool(), "b").await?;
        assert_eq!(lab.contents()?, [FILE]);
        let clone = ["--pool", "vms", "clone", "--rbd-default-clone-format", "2", &format!("vms/{FILE}@ucloud")];
        lab.ceph("rbd", &[&clone[..], &["vms/ucloud.image.a"]].concat())?;
        assert_eq!(lab.rbd.image(&lab.pool(), "a").await?, None, "it is not whole");
        assert_eq!(import(&lab, "a", "disk-1").await?, image);

        // The File goes, and image and disks live on
        assert_eq!(lab.rbd.ensure_disk(&lab.disk("vm-1", "a", None)?).await?.size, image.virtual_size);
        store.remove(&file.pool, &file.uid).await?;
        store.remove(&file.pool, &file.uid).await?;
        assert!(store.files(&file.pool).await?.is_empty());
        assert_eq!(lab.contents()?, ["ucloud.content.file-1", "ucloud.disk.vm-1.root", "ucloud.image.a"]);
        lab.rbd.usage(&lab.pool()).await?;
        assert!(lab.bytes("ucloud.disk.vm-1.root")? == disk);
        assert_eq!(lab.rbd.ensure_disk(&lab.disk("vm-2", "a", Some("64Mi"))?).await?.size.to_string(), "64Mi");
        lab.rbd.remove_image(&lab.pool(), "a").await?;
        assert!(lab.bytes("ucloud.disk.vm-1.root")? == disk);
        assert!(lab.bytes("ucloud.disk.vm-2.root")?.starts_with(&disk));
        for vm in ["vm-1", "vm-2"] {
            lab.rbd.remove_disk(&lab.pool(), &lab.disk(vm, "a", None)?.id).await?;
        }
        assert_eq!(lab.contents()?, [""; 0]);
        lab.no_objects().await
    })
}

#[test]
fn files_of_the_same_bytes_go_one_after_the_other() -> Result<()> {
    lab(async |lab| {
        let source = Source::new(&lab);
        let store = uploads();
        let files = ["file-1", "file-2", "file-3"].map(|uid| FileRequest { uid: uid.into(), ..source.file.clone() });
        for file in &files {
            send(&store, file, 0, &source.bytes).await?;
        }
        import(&lab, "a", "disk-1").await?;
        import(&lab, "b", "disk-2").await?;
        store.remove(&lab.pool(), "file-1").await?;
        store.remove(&lab.pool(), "file-2").await?;
        // One that died when the second File had its new name already, and still the old one
        let (old, new) = ("rbd_id.ucloud.file.file-2", "rbd_id.ucloud.content.file-2");
        lab.ceph("rados", &["--pool", "vms", "cp", new, old])?;
        store.remove(&lab.pool(), "file-2").await?;
        assert!(!lab.objects()?.contains(&old.to_owned()), "the name that was left over is gone");
        // Where there is a content of the same bytes, that is used
        std::fs::write(lab.folder().join("import/demo/same"), &source.bytes)?;
        let made = content(&lab.import("c", "same").await?.sha256);
        import(&lab, "d", "disk-3").await?;
        store.remove(&lab.pool(), "file-3").await?;
        let images = ["ucloud.image.a", "ucloud.image.b", "ucloud.image.c", "ucloud.image.d"];
        assert_eq!(lab.contents()?, [&[&made, "ucloud.content.file-1", "ucloud.content.file-2"], &images[..]].concat());
        for (uid, left) in [
            ("b", &[&made, "ucloud.content.file-1", images[0], images[2], images[3]][..]),
            ("c", &[&made, "ucloud.content.file-1", images[0], images[3]]),
            ("a", &[&made, images[3]]),
            ("d", &[]),
        ] {
            lab.rbd.remove_image(&lab.pool(), uid).await?;
            assert_eq!(lab.contents()?, left, "{uid}");
        }
        lab.no_objects().await
    })
}

/// A qcow2 File in which there is a disk of so many MiB, all alike.
async fn packed(lab: &Lab, mebibytes: usize) -> Result<(FileRequest, Vec<u8>)> {
    let folder = lab.folder();
    let [raw, qcow2] = ["raw", "qcow2"].map(|name| folder.join(name));
    let disk = b"0123456789abcdef".repeat(mebibytes << 16);
    std::fs::write(&raw, &disk)?;
    let [from, to] = [&raw, &qcow2].map(|path| path.to_str().unwrap());
    run("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", from, to])?;
    let mut bytes = std::fs::read(&qcow2)?;
    bytes.resize(usize::try_from(SIZE)?, 0);
    let file = FileRequest { sha256: None, ..Source::new(lab).file };
    send(&uploads(), &file, 0, &bytes).await?;
    Ok((file, disk))
}

#[test]
fn an_image_of_a_qcow2_file_is_made_from_where_that_is() -> Result<()> {
    lab(async |lab| {
        let (file, disk) = packed(&lab, 256).await?;
        let request = ImageRequest { format: ImageFormat::Qcow2, ..upload(&lab, "a", "disk-1") };
        let store = uploads();
        let (percent, mut told) = watch::channel(0);
        let meanwhile = async {
            told.wait_for(|percent| *percent > 85).await?;
            // It is being read
            let refused = store.remove(&file.pool, &file.uid).await.unwrap_err();
            assert_eq!((refused.reason, refused.terminal), ("DiskInUse", false), "{refused}");
            anyhow::Ok(())
        };
        let (image, removed) = tokio::join!(lab.rbd.import_image(&request, &percent), meanwhile);
        removed?;
        assert_eq!(image?.virtual_size.bytes(), 256 * MIB);
        assert!(lab.bytes("ucloud.image.a")? == disk);
        let scratch = std::fs::read_dir(lab.folder().join("scratch"))?.count();
        assert_eq!(scratch, 0, "it was fetched");

        // The next one of the same bytes is there already
        let again = ImageRequest { uid: "b".into(), ..request.clone() };
        lab.rbd.import_image(&again, &watch::channel(0).0).await?;
        store.remove(&file.pool, &file.uid).await?;
        for uid in ["a", "b"] {
            lab.rbd.remove_image(&lab.pool(), uid).await?;
        }
        assert_eq!(lab.contents()?, [""; 0]);
        lab.no_objects().await
    })
}

#[test]
fn a_qcow2_file_that_cannot_be_read_is_no_broken_one() -> Result<()> {
    lab(async |lab| {
        let (file, disk) = packed(&lab, 256).await?;
        let request = ImageRequest { format: ImageFormat::Qcow2, ..upload(&lab, "a", "disk-1") };
        let (percent, mut told) = watch::channel(0);
        let stop = async {
            told.wait_for(|percent| *percent > 85).await?;
            lab.signal_osd(Signal::SIGSTOP)
        };
        let (failed, stopped) = tokio::join!(lab.rbd.import_image(&request, &percent), stop);
        lab.signal_osd(Signal::SIGCONT)?;
        stopped?;
        let failed = failed.unwrap_err();
        assert_eq!((failed.reason, failed.terminal), ("StorageTimeout", false), "{failed}");
        // What was written half has a watcher until Ceph has given that up
        let image = loop {
            match lab.rbd.import_image(&request, &watch::channel(0).0).await {
                Err(error) if error.reason == "ImportedElsewhere" => tokio::time::sleep(Duration::from_secs(1)).await,
                made => break made?,
            }
        };
        assert_eq!(image.virtual_size.bytes(), 256 * MIB);
        assert!(lab.bytes("ucloud.image.a")? == disk);

        // And one that is broken is one
        lab.rbd.remove_image(&lab.pool(), "a").await?;
        uploads().remove(&file.pool, &file.uid).await?;
        let mut bytes = std::fs::read(lab.folder().join("qcow2"))?;
        bytes.resize(usize::try_from(SIZE)?, 0);
        // Another format, too large a disk, tables that lead nowhere, and data that cannot be unpacked
        let refused = "ImageRefused";
        for (place, reason) in [(0, "FormatMismatch"), (24, refused), (3 << 16, refused), (900_000, refused)] {
            let mut broken = bytes.clone();
            broken[place..place + 200].fill(0xff);
            send(&uploads(), &file, 0, &broken).await?;
            let error = lab.rbd.import_image(&request, &watch::channel(0).0).await.unwrap_err();
            assert_eq!((error.reason, error.terminal), (reason, true), "{place}: {error}");
            uploads().remove(&file.pool, &file.uid).await?;
        }
        assert_eq!(lab.contents()?, [""; 0]);
        Ok(())
    })
}

#[test]
fn a_file_that_is_no_raw_disk_is_not_taken_for_one() -> Result<()> {
    lab(async |lab| {
        let mut source = Source::new(&lab);
        source.bytes[..4].copy_from_slice(b"QFI\xfb");
        let file = FileRequest { sha256: None, ..source.file.clone() };
        let store = uploads();
        send(&store, &file, 0, &source.bytes).await?;
        let error = import(&lab, "a", "disk-1").await.unwrap_err();
        assert_eq!(error.reason, "FormatMismatch", "{error}");
        assert_eq!(lab.contents()?, [FILE]);
        let request = ImageRequest { checksum: Some(Sha256::from([1; 32])), ..upload(&lab, "a", "disk-1") };
        lab.rbd.import_image(&request, &watch::channel(0).0).await.err().context("it was imported")?;
        Ok(())
    })
}
