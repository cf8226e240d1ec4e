//! Running qemu-img, always with limits: what it reads comes from strangers. It has no network, 2 GiB of address
//! space, a processor for a limited time, and is told the format of every file.

use std::{
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    time::{interval, timeout},
};
use ucloud_types::image::ImageFormat;

const ADDRESS_SPACE: u64 = 2 << 30;
/// For what only looks at a header, or writes one.
const QUICK: Duration = Duration::from_secs(30);
/// For what reads all tables of an image.
const CHECK: Duration = Duration::from_mins(5);
/// How long a conversion may get no further.
const STALL: Duration = Duration::from_mins(2);
/// Longest output that is kept.
const OUTPUT: u64 = 1 << 20;

/// Why qemu-img did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum QemuImgError {
    /// It cannot be run.
    #[error("qemu-img cannot be run on this host")]
    Unrunnable(#[from] io::Error),
    /// It took too long, or too much of the host.
    #[error("qemu-img came to its limits ({0})")]
    Limits(&'static str),
    /// There is no room.
    #[error("the pool is full")]
    Full,
    /// A running VM holds the file.
    #[error("the file is in use")]
    InUse,
    /// It cannot read the image's data.
    #[error("the image's data cannot be read: {0}")]
    Unreadable(String),
    /// It says no.
    #[error("qemu-img says: {0}")]
    Failed(String),
}

/// What qemu-img says of a file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Info {
    /// The size of the disk that it holds, in bytes.
    pub virtual_size: u64,
    /// The name of its backing file.
    pub backing_filename: Option<String>,
}

/// qemu-img.
#[derive(Clone, Debug)]
pub struct QemuImg(pub PathBuf);

impl QemuImg {
    /// What the file is.
    pub async fn info(&self, file: &Path, format: ImageFormat) -> Result<Info, QemuImgError> {
        let mut command = self.command(QUICK);
        command.args(["info", "--output=json", "-f", format.as_str()]).arg(file);
        let said = finish(command, QUICK).await?;
        serde_json::from_slice(&said).map_err(|error| QemuImgError::Failed(error.to_string()))
    }

    /// Whether all tables of a qcow2 file are consistent, and point into the file. Clusters that nothing uses
    /// (leaks) are no harm.
    pub async fn check(&self, file: &Path) -> Result<(), QemuImgError> {
        const LEAKS: i32 = 3;
        let mut command = self.command(CHECK);
        command.args(["check", "-q", "-f", "qcow2"]).arg(file);
        let (status, _, said) = run(command, CHECK).await?;
        if status.code() == Some(LEAKS) { Ok(()) } else { judge(status, &said) }
    }

    /// Copies `from` into the file `to`, of format `into`. `percent` is told how far it is.
    pub async fn convert(
        &self,
        from: &Path,
        format: ImageFormat,
        into: ImageFormat,
        to: &Path,
        mut percent: impl FnMut(u8),
    ) -> Result<(), QemuImgError> {
        // Converting takes as long as the image is large; what ends it is that it gets no further.
        let mut command = self.limited(None);
        command.args(["convert", "-p", "-f", format.as_str(), "-O", into.as_str()]).arg(from).arg(to);
        let mut qemu_img = command.spawn()?;
        let (stdout, stderr) = (qemu_img.stdout.take(), qemu_img.stderr.take());
        let reached = AtomicU8::new(0);
        let mut progress = |now| {
            reached.store(now, Ordering::Relaxed);
            percent(now);
        };
        let work = async { tokio::try_join!(follow(stdout, &mut progress), gather(stderr), qemu_img.wait()) };
        tokio::select! {
            ended = work => {
                let ((), said, status) = ended?;
                judge(status, &said)
            }
            () = stalls(to, &reached) => Err(QemuImgError::Limits("it got no further for two minutes")),
        }
    }

    /// Makes `file` an empty qcow2 file of `size` bytes.
    pub async fn create(&self, file: &Path, size: u64) -> Result<(), QemuImgError> {
        let mut command = self.command(QUICK);
        command.args(["create", "-q", "-f", "qcow2"]).arg(file).arg(size.to_string());
        finish(command, QUICK).await.map(drop)
    }

    /// Makes `file` a clone, of `size` bytes, of the qcow2 file with the name `backing`, seen from `file`.
    pub async fn create_clone(&self, file: &Path, backing: &str, size: u64) -> Result<(), QemuImgError> {
        let mut command = self.command(QUICK);
        command.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing]).arg(file).arg(size.to_string());
        finish(command, QUICK).await.map(drop)
    }

    /// Grows a qcow2 file that no VM uses.
    pub async fn grow(&self, file: &Path, size: u64) -> Result<(), QemuImgError> {
        let mut command = self.command(QUICK);
        command.args(["resize", "-q", "-f", "qcow2"]).arg(file).arg(size.to_string());
        finish(command, QUICK).await.map(drop)
    }

    fn command(&self, cpu: Duration) -> Command {
        self.limited(Some(cpu))
    }

    fn limited(&self, cpu: Option<Duration>) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "prlimit", &format!("--as={ADDRESS_SPACE}"), "--core=0"]);
        if let Some(cpu) = cpu {
            command.arg(format!("--cpu={}", cpu.as_secs()));
        }
        command
            .arg("--")
            .arg(&self.0)
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

async fn finish(command: Command, patience: Duration) -> Result<Vec<u8>, QemuImgError> {
    let (status, stdout, stderr) = run(command, patience).await?;
    judge(status, &stderr)?;
    Ok(stdout)
}

async fn run(mut command: Command, patience: Duration) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), QemuImgError> {
    let mut child = command.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ended = timeout(patience, async { tokio::try_join!(child.wait(), gather(stdout), gather(stderr)) }).await;
    let Ok(ended) = ended else {
        child.kill().await?;
        return Err(QemuImgError::Limits("it took too long"));
    };
    Ok(ended?)
}

async fn gather(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut output = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(OUTPUT).read_to_end(&mut output).await?;
    }
    Ok(output)
}

/// Reads qemu-img's progress: `    (12.34/100%)\r`, again and again.
async fn follow(pipe: Option<impl AsyncRead + Unpin>, percent: &mut impl FnMut(u8)) -> io::Result<()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut buffer = [0; 1024];
    loop {
        let read = pipe.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        if let Some(now) = last_percent(&buffer[..read]) {
            percent(now);
        }
    }
}

fn last_percent(said: &[u8]) -> Option<u8> {
    let said = std::str::from_utf8(said).ok()?;
    let (_, number) = said.get(..said.rfind('/')?)?.rsplit_once('(')?;
    number.split('.').next()?.parse().ok().filter(|percent| *percent <= 100)
}

/// Ends when for [`STALL`] nothing was written to the file, and the percentage did not grow either. (One percent
/// of a large image may take longer than that, and of one that is empty nothing is written at all.)
async fn stalls(file: &Path, reached: &AtomicU8) {
    use std::os::unix::fs::MetadataExt as _;
    const LOOKS: u32 = 12;
    let mut ticks = interval(STALL / LOOKS);
    let (mut last, mut idle) = (None, 0);
    while idle <= LOOKS {
        ticks.tick().await;
        let metadata = tokio::fs::metadata(file).await.ok();
        let written = metadata.map(|file| (file.len(), file.blocks(), file.mtime(), file.mtime_nsec()));
        let now = Some((reached.load(Ordering::Relaxed), written));
        idle = if now == last { idle + 1 } else { 0 };
        last = now;
    }
}

/// What an end means.
fn judge(status: ExitStatus, stderr: &[u8]) -> Result<(), QemuImgError> {
    use std::os::unix::process::ExitStatusExt as _;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(stderr);
    let said = brief(&said);
    Err(if status.signal().is_some() {
        QemuImgError::Limits("it was ended by a signal")
    } else if said.contains("No space left on device") || said.contains("Disk quota exceeded") {
        QemuImgError::Full
    } else if said.contains("Failed to get") && said.contains("lock") {
        QemuImgError::InUse
    } else if said.contains("Cannot allocate memory") {
        QemuImgError::Limits("it needs too much memory")
    } else if said.contains("error while reading") {
        QemuImgError::Unreadable(said)
    } else {
        QemuImgError::Failed(said)
    })
}

/// What it said, without the paths of the host, on one short line.
fn brief(said: &str) -> String {
    let is_path = |word: &&str| word.trim_start_matches(['\'', '"']).starts_with('/');
    let words = said.split_whitespace().map(|word| if is_path(&word) { "(file)" } else { word });
    let line = words.skip_while(|word| *word == "qemu-img:").collect::<Vec<_>>().join(" ");
    line.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn progress_is_read() {
        assert_eq!(last_percent(b"    (0.00/100%)\r"), Some(0));
        assert_eq!(last_percent(b"    (1.00/100%)\r    (57.31/100%)\r"), Some(57));
        assert_eq!(last_percent(b"    (100.00/100%)\r\n"), Some(100));
        assert_eq!(last_percent(b"    (57."), None);
        assert_eq!(last_percent(b""), None);
    }

    #[test]
    fn messages_name_no_path_of_the_host() {
        let said = "qemu-img: Could not open '/pool/tmp/source-1': Image is corrupt\n";
        assert_eq!(brief(said), "Could not open (file) Image is corrupt");
    }

    /// A qemu-img that does what the script says.
    fn qemu_img(script: &str) -> (QemuImg, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("qemu-img");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        (QemuImg(program), dir)
    }

    #[tokio::test]
    async fn it_is_run_within_limits_and_without_a_network() {
        let limits = r#"[ "$(ulimit -v)" = 2097152 ] && [ "$(ulimit -t)" = 30 ] && [ "$(ls /sys/class/net)" != "" ] || exit 1
            [ "$(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ')" = lo ] || exit 1"#;
        let (qemu_img, dir) = qemu_img(limits);
        qemu_img.grow(dir.path(), 1).await.unwrap();
    }

    #[tokio::test]
    async fn its_ends_are_told_apart() {
        for (script, expected) in [
            ("echo 'qemu-img: error while writing at byte 0: No space left on device' >&2; exit 1", "the pool is full"),
            (
                "echo \"qemu-img: Could not open '/x': Failed to get \\\"write\\\" lock\" >&2; exit 1",
                "the file is in use",
            ),
            ("kill -9 $$", "qemu-img came to its limits (it was ended by a signal)"),
            ("echo 'qemu-img: nonsense' >&2; exit 1", "qemu-img says: nonsense"),
        ] {
            let (qemu_img, dir) = qemu_img(script);
            assert_eq!(qemu_img.grow(dir.path(), 1).await.unwrap_err().to_string(), expected);
        }
        let error = QemuImg("/nonexistent".into()).grow(Path::new("/"), 1).await.unwrap_err();
        assert!(matches!(error, QemuImgError::Failed(_)), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_conversion_that_gets_no_further_is_ended() {
        let (qemu_img, dir) = qemu_img("exec sleep 1000000");
        let to = dir.path().join("to");
        let error = qemu_img.convert(dir.path(), ImageFormat::Raw, ImageFormat::Qcow2, &to, |_| {}).await.unwrap_err();
        assert!(matches!(error, QemuImgError::Limits(_)), "{error:?}");
    }
}
