//! Images on their way into the pool: imported from a file of the host, and uploaded by a user, each beside `qemu-img
//! convert` of the same file to the same pool.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::sync::watch;
use ucloud_agent_core::{BlockStore as _, block_store::ImageRequest};
use ucloud_agent_rbd::Rbd;
use ucloud_types::image::{FileSource, ImageFormat, ImageSource};

use super::{
    StorageArgs,
    ceph::{Ceph, run, timed},
    report::{Better, Report, Row, Unit},
};
use crate::machine::{Process, busy};

/// The least part of `qemu-img convert`'s throughput.
const TARGET: f64 = 0.8;
/// The namespace of the images, and the folder that they are in.
const NAMESPACE: &str = "bench";
const FORMATS: [ImageFormat; 2] = [ImageFormat::Qcow2, ImageFormat::Raw];

pub async fn measure(rbd: &Rbd, ceph: &Ceph, arguments: &StorageArgs, report: &mut Report) -> anyhow::Result<()> {
    for format in FORMATS {
        imports(rbd, ceph, format, arguments, report).await?;
    }
    for format in FORMATS {
        uploads(ceph, format, arguments, report).await?;
    }
    Ok(())
}

fn name(format: ImageFormat) -> String {
    format!("image.{}", format.as_str())
}

fn file(arguments: &StorageArgs, format: ImageFormat) -> PathBuf {
    arguments.folder.join("import").join(NAMESPACE).join(name(format))
}

/// The size of the disk in bytes.
fn size(arguments: &StorageArgs) -> anyhow::Result<u64> {
    let raw = file(arguments, ImageFormat::Raw);
    Ok(raw.metadata().with_context(|| format!("there is no {}", raw.display()))?.len())
}

/// Imports an image from the import folder, as an agent does.
pub async fn import(rbd: &Rbd, ceph: &Ceph, uid: &str, format: ImageFormat) -> anyhow::Result<Duration> {
    let request = ImageRequest {
        uid: uid.to_owned(),
        namespace: NAMESPACE.to_owned(),
        name: "image".to_owned(),
        pool: ceph.as_pool(),
        source: ImageSource { file: Some(FileSource { name: name(format) }), ..ImageSource::default() },
        format,
        compression: None,
        checksum: None,
    };
    // Somebody listens, or the import is given up.
    let (percent, _listener) = watch::channel(0);
    let began = Instant::now();
    rbd.import_image(&request, &percent).await?;
    Ok(began.elapsed())
}

/// Lets what was written before reach the disk, so that nobody waits for another one's bytes.
fn settle() {
    nix::unistd::sync();
}

#[expect(clippy::cast_precision_loss, reason = "sizes are far from 2^52")]
fn throughput(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / f64::from(1 << 20) / took.as_secs_f64()
}

async fn imports(
    rbd: &Rbd,
    ceph: &Ceph,
    format: ImageFormat,
    arguments: &StorageArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (bytes, path, own) = (size(arguments)?, file(arguments, format), Process::own());
    let (mut ours, mut yardstick, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..arguments.rounds {
        report.step(&format!("import of {}, round {} of {}", format.as_str(), round + 1, arguments.rounds));
        for ours_now in order(round) {
            settle();
            if ours_now {
                let before = forget_peak(own)?;
                let took = import(rbd, ceph, "imported", format).await?;
                peaks.push((before, own.peak()?));
                ours.push(throughput(bytes, took));
                rbd.remove_image(&ceph.as_pool(), "imported").await?;
            } else {
                yardstick.push(throughput(bytes, ceph.convert(&path, format, bytes)?));
            }
            ceph.cleared().await?;
        }
    }
    let what = format!("import of {}, beside qemu-img convert", format.as_str());
    report.add(Row::of_medians(&what, &ours, &yardstick, Unit::Throughput, Better::More(TARGET)));
    report.memory(&format!("of this program, the adapter in it, while it imports {}", format.as_str()), &peaks);
    Ok(())
}

async fn uploads(ceph: &Ceph, format: ImageFormat, arguments: &StorageArgs, report: &mut Report) -> anyhow::Result<()> {
    let [storage_pool, pool] = arguments.upload_to.as_slice() else { anyhow::bail!("--upload-to is missing") };
    let ceph = Ceph { pool: pool.clone(), ..ceph.clone() };
    let (bytes, path) = (size(arguments)?, file(arguments, format));
    let agent = Process { pid: arguments.agent_pid };
    let (mut ours, mut yardstick, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    let (mut our_busy, mut yardstick_busy) = (Vec::new(), Vec::new());
    for round in 0..arguments.rounds {
        report.step(&format!("upload of {}, round {} of {}", format.as_str(), round + 1, arguments.rounds));
        for ours_now in order(round) {
            settle();
            if ours_now {
                let name = format!("bench-{}-{round}", format.as_str());
                let mut upload = Command::new(&arguments.ucloudctl);
                upload.args(["image", "upload", &name]).arg(&path).args(["--pool", storage_pool]);
                let (before, began) = (forget_peak(agent)?, busy()?);
                let took = timed(|| run(&mut upload))?.1;
                our_busy.push(busy()?.saturating_sub(began).as_secs_f64());
                peaks.push((before, agent.peak()?));
                ours.push(throughput(bytes, took));
                run(Command::new(&arguments.ucloudctl).args(["delete", "image", &name]))?;
            } else {
                let began = busy()?;
                yardstick.push(throughput(bytes, ceph.convert(&path, format, bytes)?));
                yardstick_busy.push(busy()?.saturating_sub(began).as_secs_f64());
            }
            ceph.cleared().await?;
        }
    }
    let what = format!("upload of {} until Ready, beside qemu-img convert", format.as_str());
    report.add(Row::of_medians(&what, &ours, &yardstick, Unit::Throughput, Better::More(TARGET)));
    let what = format!("processor time of the machine, Ceph's too, for an upload of {}", format.as_str());
    report.add(Row::of_medians(&what, &our_busy, &yardstick_busy, Unit::Seconds, Better::Less(None)));
    report.memory(&format!("of the agent while {} is uploaded", format.as_str()), &peaks);
    Ok(())
}

/// Lets the peak of a process's memory begin anew, and tells what it has now, in MiB.
fn forget_peak(process: Process) -> anyhow::Result<f64> {
    process.forget_peak()?;
    process.memory()
}

/// Whose turn it is, by turns: true for ours. Each goes first in half of the rounds.
fn order(round: u32) -> [bool; 2] {
    if round.is_multiple_of(2) { [false, true] } else { [true, false] }
}
