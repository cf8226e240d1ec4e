//! The bytes of Files: in pieces, across restarts, and whatever goes wrong.

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use ucloud_agent_core::{
    FileStore as _, HostError,
    file_store::{AppendError, FileRequest, Stored},
};
use ucloud_agent_files::{Files, Uploads};
use ucloud_agent_import::{ImportConfig, Importer, Kept, OpenUpload, Uploaded};
use ucloud_types::image::{ImageFormat, ImageSource, Sha256, UploadSource};

use crate::pool::{Lab, MIB, Tmpfs, sha256};

const SIZE: u64 = 3 * MIB + 7;

struct Source {
    lab: Lab,
    bytes: Vec<u8>,
    sha256: Sha256,
}

impl Source {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let bytes: Vec<u8> = (0..SIZE).map(|n| u8::try_from(n * 7 % 251).unwrap_or_default()).collect();
        fs::write(lab.source("bytes"), &bytes)?;
        let sha256 = sha256(&lab.source("bytes"))?;
        Ok(Self { lab, bytes, sha256 })
    }

    fn request(&self) -> FileRequest {
        FileRequest {
            uid: "file-1".into(),
            namespace: "demo".into(),
            name: "iso".into(),
            pool: self.lab.pool(),
            size: SIZE,
            sha256: Some(self.sha256.clone()),
        }
    }

    fn piece(&self, from: u64, to: u64) -> &[u8] {
        let place = |at: u64| usize::try_from(at).unwrap();
        &self.bytes[place(from)..place(to)]
    }
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

#[tokio::test]
async fn a_file_comes_in_pieces_and_is_complete_with_its_last_byte() -> Result<()> {
    let source = Source::new()?;
    let (file, mut store) = (source.request(), Uploads::default());
    assert_eq!(store.stored(&file).await?, Stored::Partial(0));
    let mut offset = 0;
    for to in [0, 1, 65_536, 2_000_000, SIZE - 1] {
        assert_eq!(send(&store, &file, offset, source.piece(offset, to)).await?, Stored::Partial(to));
        offset = to;
        assert_eq!(store.stored(&file).await?, Stored::Partial(to));
        assert!(store.open(&file).await.unwrap_err().message.contains("not complete"));
        if to == 2_000_000 {
            // the agent ends and begins anew: what it knew of the checksum is gone
            store = Uploads::default();
        }
    }
    let complete = Stored::Complete(source.sha256.clone());
    assert_eq!(send(&store, &file, offset, source.piece(offset, SIZE)).await?, complete);
    assert_eq!(source.lab.contents()?, [format!("files/file-1.{}", source.sha256.hex())]);
    assert_eq!(send(&store, &file, SIZE, &[]).await?, complete, "who did not hear it may ask again");
    assert!(matches!(send(&store, &file, SIZE, b"x").await, Err(AppendError::TooMany(_))));
    assert!(matches!(send(&store, &file, 0, b"x").await, Err(AppendError::WrongOffset { next: SIZE })));

    let mut opened = store.open(&file).await?.context("no file")?;
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut opened, &mut read)?;
    assert!(read == source.bytes);
    let (into, mut pieces) = mpsc::channel::<Bytes>(1);
    let collect = async {
        let mut all = Vec::new();
        while let Some(piece) = pieces.recv().await {
            all.extend_from_slice(&piece);
        }
        all
    };
    let (read, part) = tokio::join!(store.read(&file, 5..SIZE - 3, into), collect);
    read?;
    assert!(part == source.piece(5, SIZE - 3));
    assert_eq!(store.files(&file.pool).await?.into_iter().collect::<Vec<_>>(), [(file.uid.clone(), complete)]);
    store.remove(&file.pool, &file.uid).await?;
    store.remove(&file.pool, &file.uid).await?;
    assert_eq!(source.lab.contents()?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn only_the_next_byte_is_taken() -> Result<()> {
    let source = Source::new()?;
    let (file, store) = (source.request(), Uploads::default());
    send(&store, &file, 0, source.piece(0, 1000)).await?;
    for offset in [0, 999, 1001, SIZE] {
        let refused = send(&store, &file, offset, b"x").await;
        assert!(matches!(refused, Err(AppendError::WrongOffset { next: 1000 })), "{offset}: {refused:?}");
    }
    assert_eq!(store.stored(&file).await?, Stored::Partial(1000));
    Ok(())
}

#[tokio::test]
async fn more_bytes_than_its_size_are_never_kept() -> Result<()> {
    let source = Source::new()?;
    let (file, store) = (source.request(), Uploads::default());
    let mut more = source.bytes.clone();
    more.push(0);
    assert!(matches!(send(&store, &file, 0, &more).await, Err(AppendError::TooMany(_))));
    let Stored::Partial(kept) = store.stored(&file).await? else { anyhow::bail!("it is complete") };
    assert!(kept < SIZE, "{kept}");
    let complete = send(&store, &file, kept, source.piece(kept, SIZE)).await?;
    assert_eq!(complete, Stored::Complete(source.sha256.clone()));
    Ok(())
}

#[tokio::test]
async fn bytes_with_another_checksum_are_thrown_away() -> Result<()> {
    let source = Source::new()?;
    let (file, store) = (source.request(), Uploads::default());
    let mut wrong = source.bytes.clone();
    wrong[12_345] ^= 1;
    match send(&store, &file, 0, &wrong).await {
        Err(AppendError::Checksum { claimed, found }) => assert!(claimed == source.sha256 && found != claimed),
        other => anyhow::bail!("{other:?}"),
    }
    assert_eq!(source.lab.contents()?, [""; 0]);
    assert_eq!(send(&store, &file, 0, &source.bytes).await?, Stored::Complete(source.sha256.clone()));
    Ok(())
}

#[tokio::test]
async fn of_two_who_send_at_once_one_is_refused() -> Result<()> {
    let source = Source::new()?;
    let (file, store) = (source.request(), Uploads::default());
    let (sender, receiver) = mpsc::channel(1);
    let second = async {
        sender.send(Bytes::from_static(b"x")).await?;
        // until the first is at it
        while store.stored(&file).await? == Stored::Partial(0) {
            tokio::task::yield_now().await;
        }
        let refused = send(&store, &file, 1, b"y").await;
        assert!(matches!(refused, Err(AppendError::Busy)), "{refused:?}");
        drop(sender);
        anyhow::Ok(())
    };
    let (first, second) = tokio::join!(store.append(&file, 0, receiver), second);
    second?;
    assert_eq!(first?, Stored::Partial(1));
    assert_eq!(send(&store, &file, 1, b"y").await?, Stored::Partial(2));
    Ok(())
}

#[tokio::test]
async fn what_came_before_a_pool_was_full_is_kept() -> Result<()> {
    let source = Source::new()?;
    let _small = Tmpfs::mount(&source.lab.pool_dir(), "4m")?;
    let filler = source.lab.pool_dir().join("filler");
    fs::write(&filler, vec![0; 2 << 20])?;
    let (file, store) = (source.request(), Uploads::default());
    match send(&store, &file, 0, &source.bytes).await {
        Err(AppendError::Host(error)) => assert_eq!((error.reason, error.terminal), ("StorageFull", false), "{error}"),
        other => anyhow::bail!("{other:?}"),
    }
    let Stored::Partial(kept) = store.stored(&file).await? else { anyhow::bail!("it is complete") };
    assert!(kept > MIB && kept < SIZE, "{kept}");
    fs::remove_file(filler)?;
    assert_eq!(send(&store, &file, kept, source.piece(kept, SIZE)).await?, Stored::Complete(source.sha256.clone()));
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_removed_meanwhile_does_not_come_back() -> Result<()> {
    let source = Source::new()?;
    let (file, store) = (source.request(), Uploads::default());
    let (sender, receiver) = mpsc::channel(1);
    let removal = async {
        sender.send(Bytes::copy_from_slice(&source.bytes)).await?;
        while store.stored(&file).await? == Stored::Partial(0) {
            tokio::task::yield_now().await;
        }
        store.remove(&file.pool, &file.uid).await?;
        drop(sender);
        anyhow::Ok(())
    };
    let (appended, removed) = tokio::join!(store.append(&file, 0, receiver), removal);
    removed?;
    appended.err().context("it was kept")?;
    assert_eq!(source.lab.contents()?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn no_uid_is_a_path() -> Result<()> {
    let source = Source::new()?;
    let store = Uploads::default();
    for uid in ["", "..", "../file-1", "a/b", "file-1.part"] {
        let file = FileRequest { uid: uid.into(), ..source.request() };
        assert_eq!(store.stored(&file).await.unwrap_err().reason, "InvalidName");
        assert!(send(&store, &file, 0, b"x").await.is_err());
        assert!(store.remove(&file.pool, uid).await.is_err());
    }
    Ok(())
}

/// Files that are complete, in this folder, and one that is not.
struct Folder(PathBuf);

#[async_trait]
impl OpenUpload for Folder {
    async fn open(&self, namespace: &str, file: &str) -> Result<Uploaded, HostError> {
        if file == "incomplete" {
            return Err(HostError::retryable("FileIncomplete", "upload the rest of it"));
        }
        let path = self.0.join(namespace).join(file);
        let size = fs::metadata(&path).unwrap().len();
        // One that goes while it is read
        let sha256 = if file == "gone" { Sha256::from([0; 32]) } else { sha256(&path).unwrap() };
        Ok(Uploaded { size, sha256, bytes: Box::new(tokio::fs::File::open(path).await.unwrap()) })
    }

    async fn kept(&self, _: &str, _: &str) -> Result<Option<Kept>, HostError> {
        Ok(None)
    }
}

#[tokio::test]
async fn an_image_is_made_of_what_was_uploaded_and_checked_as_any_other() -> Result<()> {
    let mut lab = Lab::new()?;
    let source = lab.qcow2("disk", 2, b"boot sector")?;
    fs::write(lab.source("text"), "no image")?;
    fs::copy(&source, lab.source("gone"))?;
    let uploads = Arc::new(Folder(lab.dir.path().join("import")));
    lab.files = Files::new(Arc::new(Importer::new(ImportConfig::default())?.with_uploads(uploads)));
    let request = |file: &str| {
        let upload = Some(UploadSource { file: file.into() });
        lab.request("image-1", ImageSource { upload, ..ImageSource::default() }, ImageFormat::Qcow2)
    };
    assert_eq!(lab.import(&request("incomplete")).await.unwrap_err().reason, "FileIncomplete");
    assert_eq!(lab.import(&request("text")).await.unwrap_err().reason, "FormatMismatch");
    let gone = lab.import(&request("gone")).await.unwrap_err();
    assert!(gone.reason == "DownloadFailed" && gone.message.contains("other bytes") && !gone.terminal, "{gone}");
    let stored = lab.import(&request("disk")).await?;
    assert_eq!((stored.sha256, stored.virtual_size.bytes()), (sha256(&source)?, 2 * MIB));
    Ok(())
}
