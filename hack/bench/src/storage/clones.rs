//! Root disks: one after the other beside `rbd clone`, then many at once.

use std::{sync::Arc, time::Instant};

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use ucloud_agent_core::{
    BlockStore as _,
    block_store::{Content, DiskId, DiskRequest, Pool},
};
use ucloud_agent_rbd::{Cluster, Rbd};
use ucloud_types::image::ImageFormat;

use super::{
    PATIENCE, StorageArgs,
    ceph::{Ceph, timed},
    report::{Better, Report, Row, Unit},
    uploads,
};

/// How much longer than `rbd clone` a root disk may take.
const TARGET: f64 = 1.5;
/// The UID of the image.
const IMAGE: &str = "parent";
/// The snapshot of an image's bytes that disks are clones of.
const SNAPSHOT: &str = "ucloud";

pub async fn measure(rbd: &Rbd, ceph: &Ceph, arguments: &StorageArgs, report: &mut Report) -> anyhow::Result<()> {
    let pool = ceph.as_pool();
    // What a pool has from its first use on is no remainder.
    rbd.usage(&pool).await?;
    uploads::import(rbd, ceph, IMAGE, ImageFormat::Raw).await?;
    let images = ceph.images()?;
    let parent = images.iter().find(|name| name.starts_with("ucloud.content.")).context("there is no content")?;
    one_by_one(rbd, ceph, parent, arguments.disks, report).await?;
    at_once(rbd, ceph, parent, arguments.at_once, report).await?;
    rbd.remove_image(&pool, IMAGE).await?;
    ceph.cleared().await
}

fn disk(pool: &Pool, index: u32) -> DiskRequest {
    DiskRequest {
        id: DiskId { owner_uid: format!("vm-{index}"), name: "root".to_owned() },
        pool: pool.clone(),
        content: Content::Image(IMAGE.to_owned()),
        size: None,
    }
}

fn by_program(ceph: &Ceph, parent: &str, index: u32) -> anyhow::Result<()> {
    let (parent, child) = (format!("{parent}@{SNAPSHOT}"), format!("{}/program-{index}", ceph.pool));
    ceph.ask("rbd", &["clone", "--rbd-default-clone-format", "2", &parent, &child]).map(drop)
}

async fn one_by_one(rbd: &Rbd, ceph: &Ceph, parent: &str, disks: u32, report: &mut Report) -> anyhow::Result<()> {
    report.step("root disks one by one");
    let pool = ceph.as_pool();
    let bare = Arc::new(Cluster::connect(&ceph.user, &ceph.conf, PATIENCE)?).pool(&ceph.pool)?;
    let (mut ours, mut program, mut call) = (Vec::new(), Vec::new(), Vec::new());
    // The first is not counted: it connects.
    for index in 0..=disks {
        let request = disk(&pool, index);
        let began = Instant::now();
        rbd.ensure_disk(&request).await?;
        let our = began.elapsed();
        let by_program = timed(|| by_program(ceph, parent, index))?.1;
        let name = format!("call-{index}");
        let called = timed(|| Ok(bare.clone_image(parent, SNAPSHOT, &name)?))?.1;
        if index > 0 {
            ours.push(our.as_secs_f64() * 1e3);
            program.push(by_program.as_secs_f64() * 1e3);
            call.push(called.as_secs_f64() * 1e3);
        }
        rbd.remove_disk(&pool, &request.id).await?;
        bare.remove(&name)?;
        ceph.ask("rbd", &["rm", "--no-progress", &format!("program-{index}")])?;
    }
    let better = Better::Less(Some(TARGET));
    report.add(Row::of_medians("root disk ready, beside rbd clone", &ours, &program, Unit::Milliseconds, better));
    report.add(Row::of_worst("  the worst of them", &ours, &program, Unit::Milliseconds));
    let no_target = Better::Less(None);
    report.add(Row::of_medians("  beside librbd's call alone", &ours, &call, Unit::Milliseconds, no_target));
    Ok(())
}

async fn at_once(rbd: &Rbd, ceph: &Ceph, parent: &str, disks: u32, report: &mut Report) -> anyhow::Result<()> {
    report.step(&format!("{disks} root disks at once"));
    let pool = ceph.as_pool();
    let before = (ceph.images()?, ceph.objects()?);
    let requests: Vec<_> = (0..disks).map(|index| disk(&pool, index)).collect();
    let began = Instant::now();
    try_join_all(requests.iter().map(|request| rbd.ensure_disk(request))).await?;
    let made = began.elapsed().as_secs_f64();
    let found = rbd.disks(&pool).await?.len();
    ensure!(found == requests.len(), "{found} disks are there instead of {disks}");
    let one_after_the_other = timed(|| (0..disks).try_for_each(|index| by_program(ceph, parent, index)))?.1;

    let began = Instant::now();
    try_join_all(requests.iter().map(|request| rbd.remove_disk(&pool, &request.id))).await?;
    let removed = began.elapsed().as_secs_f64();
    let remove = |index| ceph.ask("rbd", &["rm", "--no-progress", &format!("program-{index}")]).map(drop);
    let by_program = timed(|| (0..disks).try_for_each(remove))?.1.as_secs_f64();
    let after = (ceph.images()?, ceph.objects()?);
    ensure!(after == before, "left behind: {after:?} instead of {before:?}");

    let yardstick = one_after_the_other.as_secs_f64();
    let no_target = Better::Less(None);
    let row = |what: String, ours, yardstick, unit| Row::of_medians(&what, &[ours], &[yardstick], unit, no_target);
    report.add(row(
        format!("{disks} root disks at once, beside as many rbd clone in turn"),
        made,
        yardstick,
        Unit::Seconds,
    ));
    let each = 1e3 / f64::from(disks);
    report.add(row("  for each of them".to_owned(), made * each, yardstick * each, Unit::Milliseconds));
    report.add(row("  removing them at once, beside rbd rm in turn".to_owned(), removed, by_program, Unit::Seconds));
    report.note(format!(
        "After the removal the pool holds the same {} images and {} objects as before: nothing is left.",
        before.0.len(),
        before.1.len()
    ));
    Ok(())
}
