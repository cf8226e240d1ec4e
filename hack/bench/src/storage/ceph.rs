//! Ceph's and QEMU's own programs, as an operator would run them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use ucloud_agent_core::block_store::{Pool, PoolBackend, RbdPool};
use ucloud_types::image::ImageFormat;

/// A pool of a cluster.
#[derive(Clone)]
pub struct Ceph {
    pub conf: PathBuf,
    pub user: String,
    pub pool: String,
}

/// How long Ceph may take to remove what images were made of.
const CLEARING: Duration = Duration::from_mins(2);

impl Ceph {
    /// The pool as agents know it.
    pub fn as_pool(&self) -> Pool {
        let Self { conf, user, pool } = self.clone();
        Pool { name: "bench".to_owned(), backend: PoolBackend::Rbd(RbdPool { pool, user, conf }) }
    }

    /// What `rbd` or `rados` says to these words.
    pub fn ask(&self, program: &str, words: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(program);
        command.arg("--conf").arg(&self.conf).args(["--id", &self.user, "--pool", &self.pool]).args(words);
        run(&mut command)
    }

    /// The names of all images, and of those in the trash.
    pub fn images(&self) -> anyhow::Result<Vec<String>> {
        let listed = [self.ask("rbd", &["ls"])?, self.ask("rbd", &["trash", "ls"])?].concat();
        let mut names: Vec<String> = listed.lines().map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// All objects of the pool, whatever they are for.
    pub fn objects(&self) -> anyhow::Result<Vec<String>> {
        let mut names: Vec<String> = self.ask("rados", &["ls"])?.lines().map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// Waits until no image has bytes in the pool. The OSD removes those of snapshots in its own time.
    pub async fn cleared(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + CLEARING;
        while self.objects()?.iter().any(|name| name.starts_with("rbd_data.")) {
            ensure!(Instant::now() < deadline, "images that were removed still have bytes in pool {}", self.pool);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// How long `qemu-img convert` takes to copy an image to one that is made for it before, and is removed after.
    pub fn convert(&self, file: &Path, format: ImageFormat, bytes: u64) -> anyhow::Result<Duration> {
        const NAME: &str = "yardstick";
        self.ask("rbd", &["create", "--size", &format!("{bytes}B"), NAME])?;
        let target = format!("rbd:{}/{NAME}:id={}:conf={}", self.pool, self.user, self.conf.display());
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-n", "-f", format.as_str(), "-O", "raw"]).arg(file).arg(target);
        let took = timed(|| run(&mut command))?.1;
        self.ask("rbd", &["rm", "--no-progress", NAME])?;
        Ok(took)
    }
}

/// What a program says that succeeds.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} has failed: {said}");
    String::from_utf8(output.stdout).with_context(|| format!("{program} says what is no text"))
}

/// What something gives, and how long it takes.
pub fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Duration)> {
    let began = Instant::now();
    let value = work()?;
    Ok((value, began.elapsed()))
}
