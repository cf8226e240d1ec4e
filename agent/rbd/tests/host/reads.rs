//! Images and disks are read, and nobody notices.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use tokio::sync::mpsc;
use ucloud_agent_core::{
    BlockStore as _, HostError,
    block_store::{Content, DiskId, DiskRequest, Readable},
};

use crate::lab::{Lab, MIB, lab, run};

async fn read(lab: &Lab, what: &Readable, range: std::ops::Range<u64>) -> Result<Vec<u8>, HostError> {
    let (sender, mut pieces) = mpsc::channel::<Bytes>(2);
    let pool = lab.pool();
    let take = async {
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.recv().await {
            bytes.extend_from_slice(&piece);
        }
        bytes
    };
    let (read, taken) = tokio::join!(lab.rbd.read(&pool, what, range, sender), take);
    read.map(|()| taken)
}

async fn all(lab: &Lab, what: &Readable) -> Result<Vec<u8>> {
    let size = lab.rbd.size(&lab.pool(), what).await?.context("it is not there")?;
    Ok(read(lab, what, 0..size).await?)
}

#[test]
fn what_is_read_is_what_ceph_exports() -> Result<()> {
    lab(async |lab| {
        let pool = lab.pool();
        lab.raw("raw", 9, b"mark")?;
        lab.import("a", "raw").await?;
        lab.rbd.ensure_disk(&lab.disk("vm-1", "a", Some("12Mi"))?).await?;
        let (image, name) = (Readable::Image("a".into()), "ucloud.disk.vm-1.root");
        let disk = Readable::Disk(DiskId { owner_uid: "vm-1".into(), name: "root".into() });
        let file = format!("rbd:vms/{name}:id=ucloud:conf={}", lab.conf().display());
        run("qemu-io", &["-f", "raw", "-c", "write -P 5 3M 2M", "-c", "write -z 0 1M", &file])?;
        assert_eq!(lab.rbd.size(&pool, &disk).await?, Some(12 * MIB));
        let bytes = all(&lab, &disk).await?;
        assert!(bytes == lab.bytes(name)?, "rbd export reads something else");
        let before = all(&lab, &image).await?;
        ensure!(before.len() as u64 == 9 * MIB && before.starts_with(b"mark") && before.ends_with(b"mark"));
        assert!(bytes.starts_with(&[0; 4]) && bytes[usize::try_from(4 * MIB)?] == 5, "nothing was written");
        for (first, end) in [(0, 1), (4 * MIB - 1, 4 * MIB + 1), (12 * MIB - 3, 12 * MIB), (3, 3)] {
            let part = read(&lab, &disk, first..end).await?;
            assert!(part == bytes[usize::try_from(first)?..usize::try_from(end)?], "{first}..{end}");
        }
        Ok(())
    })
}

#[test]
fn readers_keep_nobody_from_anything() -> Result<()> {
    lab(async |lab| {
        let pool = lab.pool();
        let request = DiskRequest {
            id: DiskId::of_volume("v"),
            pool: pool.clone(),
            content: Content::Empty,
            size: Some("1Gi".parse()?),
        };
        let disk = Readable::Disk(request.id.clone());
        for what in [&disk, &Readable::Image("a".into())] {
            assert_eq!(lab.rbd.size(&pool, what).await?, None);
            assert_eq!(read(&lab, what, 0..1).await.unwrap_err().reason, "DiskMissing");
        }
        lab.rbd.ensure_disk(&request).await?;

        // While somebody reads, and does not go on, it grows and goes
        let (sender, mut pieces) = mpsc::channel(1);
        let work = async {
            pieces.recv().await.context("nothing came")?;
            assert_eq!(lab.ceph("rbd", &["--pool", "vms", "lock", "ls", "ucloud.disk.v.volume"])?, "");
            let larger = DiskRequest { size: Some("2Gi".parse()?), ..request.clone() };
            assert_eq!(lab.rbd.ensure_disk(&larger).await?.size.bytes(), 2 << 30);
            lab.rbd.remove_disk(&pool, &request.id).await?;
            pieces.close();
            anyhow::Ok(())
        };
        let (read, worked) = tokio::join!(lab.rbd.read(&pool, &disk, 0..1 << 30, sender), work);
        worked?;
        read?;
        assert_eq!(lab.contents()?, [""; 0]);
        lab.no_objects().await
    })
}
