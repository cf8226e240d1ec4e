//! Running qemu-img, always in the [sandbox](crate::sandbox): what it reads comes from strangers. It is told the format
//! of every file, and sees files under names of its own, so that what it says names none of the host's.

mod verdict;

use std::{
    fs::Metadata,
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use command_fds::{CommandFdExt as _, FdMapping};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    time::{interval, timeout},
};
use ucloud_types::{Quantity, image::ImageFormat};

use crate::sandbox::{self, Access, Lent, Limits, Running};
use verdict::{FILE_TOO_LARGE, judge};

/// The file that is read.
const SOURCE: &str = "/source";
/// The backing file of the one that is read.
const BACKING: &str = "/backing";
/// The file that is written.
const TARGET: &str = "/target";
/// For what only looks at a header, or writes one.
const QUICK: Duration = Duration::from_secs(30);
/// For what reads all tables of an image.
const CHECK: Duration = Duration::from_mins(5);
/// How long a conversion may use a processor, and how long it may take, however large the image is.
const CONVERT_CPU: Duration = Duration::from_hours(4);
const CONVERT: Duration = Duration::from_hours(12);
/// How long a conversion may get no further.
const STALL: Duration = Duration::from_mins(2);
/// How often a conversion is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Longest output that is kept.
const OUTPUT: u64 = 1 << 20;
/// Where qemu-img finds the sockets of what it reads and writes.
const SOURCE_SOCKET: i32 = 3;
const TARGET_SOCKET: i32 = 4;
/// Fewer zeros than these in a row are written as other bytes are: to leave them out would cost more than it saves.
const SPARSE: &str = "64k";
/// What a qcow2 file may have besides its data: tables, and what is rounded up.
const TABLES: u64 = 64 << 20;

/// Why qemu-img did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum QemuImgError {
    /// It cannot be run.
    #[error("qemu-img cannot be run on this host")]
    Unrunnable(#[from] io::Error),
    /// Its sandbox cannot be set up, and without it it is not run.
    #[error("the sandbox for qemu-img cannot be set up on this host (operator guide, \"Sandbox for images\"): {0}")]
    Sandbox(String),
    /// It took too long, or too much of the host.
    #[error("qemu-img came to its limits ({0})")]
    Limits(&'static str),
    /// It was not done in time.
    #[error("qemu-img came to its limits (it took too long)")]
    TooSlow,
    /// The disk holds more than is imported.
    #[error("the disk holds more than {0} of data, the most that is imported")]
    TooMuchData(Quantity),
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

/// What qemu-img reads.
#[derive(Debug)]
pub enum Source<'a> {
    /// The file.
    File(&'a Path),
    /// The file that somebody [serves](crate::nbd::serve) through this socket; none of a format that may consist of several.
    Socket(OwnedFd),
}

/// Where a conversion writes to.
#[derive(Debug)]
pub enum Target<'a> {
    /// To the file, which must be there, a disk of this format: raw or qcow2.
    File(&'a Path, ImageFormat),
    /// To a raw disk that holds nothing but zeros.
    Socket(Socket),
}

/// A connection to somebody who [serves](crate::nbd::serve) a disk.
#[derive(Debug)]
pub struct Socket {
    /// qemu-img's end of it. The other one sees the end when qemu-img has gone.
    pub connection: OwnedFd,
    /// How many bytes were moved so far, as the other end counts them.
    pub moved: Arc<AtomicU64>,
}

/// A conversion.
#[derive(Debug)]
pub struct Conversion<'a> {
    /// What is read.
    pub from: Source<'a>,
    /// Its format.
    pub format: ImageFormat,
    /// What it is a clone of: a qcow2 file that everybody may read, which is no clone itself. Only of a file that is qcow2; where
    /// there is none, one that the file may name is looked for in vain.
    pub backing: Option<&'a Path>,
    /// What is written.
    pub to: Target<'a>,
    /// The size of the disk that is in both.
    pub virtual_size: u64,
    /// The most data that the disk may hold. Of a socket, whoever is at its other end sees to that.
    pub max_data: Quantity,
}

/// qemu-img.
#[derive(Clone, Debug)]
pub struct QemuImg(pub PathBuf);

impl QemuImg {
    /// What the source is.
    pub async fn info(&self, source: Source<'_>, format: ImageFormat) -> Result<Info, QemuImgError> {
        let said = self.read(source, format, QUICK, &["info", "--output=json"]).await?;
        serde_json::from_slice(&said).map_err(|error| QemuImgError::Failed(error.to_string()))
    }

    /// Whether all tables of a source are consistent, and point into the file. Clusters that nothing uses (leaks) are
    /// no harm.
    pub async fn check(&self, source: Source<'_>, format: ImageFormat) -> Result<(), QemuImgError> {
        self.read(source, format, CHECK, &["check", "-q"]).await.map(drop)
    }

    /// Copies a disk. `percent` is told how far it is.
    pub async fn convert(&self, conversion: Conversion<'_>, mut percent: impl FnMut(u8)) -> Result<(), QemuImgError> {
        let Conversion { from, format, backing, to, virtual_size, max_data } = conversion;
        let user = sandbox::stranger();
        let source = from.arguments(format);
        let (mut lent, mut sockets) = from.give(user).await?;
        lent.extend(backing.map(|backing| Lent::shared(backing, BACKING)));
        let file_size = match &to {
            Target::File(_, ImageFormat::Raw) => virtual_size,
            Target::File(..) => max_data.bytes().saturating_add(virtual_size / 1024).saturating_add(TABLES),
            Target::Socket(_) => 0,
        };
        if let Target::File(to, _) = to {
            lent.push(Lent::new(to, TARGET, Access::Write, user).await?);
        }
        let mut command = sandbox::command(&self.0, user, &lent, Limits { cpu: CONVERT_CPU, file_size })?;
        command.args(["convert", "-p"]);
        match to {
            Target::File(_, into) => command.args(["-O", into.as_str()]),
            Target::Socket(_) => command.args(["-n", "--target-is-zero", "-S", SPARSE, "-O", "raw"]),
        };
        match backing {
            // Whatever the file itself says that it is a clone of
            Some(_) => command.arg(clone_of_backing()),
            None => command.args(source),
        };
        let written = match to {
            Target::File(to, _) => {
                command.arg(TARGET);
                Written::File(to, max_data)
            }
            Target::Socket(Socket { connection, moved }) => {
                command.arg(behind_socket(ImageFormat::Raw, TARGET_SOCKET));
                sockets.push(FdMapping { parent_fd: connection, child_fd: TARGET_SOCKET });
                Written::Socket(moved)
            }
        };
        command.fd_mappings(sockets).map_err(io::Error::other)?;
        let mut qemu_img = spawn(&mut command)?;
        // It has our copy of the socket
        drop(command);
        let (stdout, stderr) = qemu_img.output();
        let reached = AtomicU8::new(0);
        let mut progress = |now| {
            reached.store(now, Ordering::Relaxed);
            percent(now);
        };
        let work = async { tokio::try_join!(follow(stdout, &mut progress), gather(stderr), qemu_img.wait()) };
        let ended = tokio::select! {
            ended = timeout(CONVERT, work) => match ended {
                Ok(ended) => ended.map_err(Into::into).and_then(|((), said, status)| judge(status, &said)),
                Err(_) => Err(QemuImgError::TooSlow),
            },
            error = watch(&written, &reached) => Err(error),
        };
        let ended = match ended {
            // It may have been done before anybody looked.
            Ok(()) => written.look().await.map(drop),
            error => error,
        };
        if ended.is_err() {
            // It may be at work still
            qemu_img.kill().await?;
        }
        Lent::take_back(lent).await;
        match ended {
            Err(QemuImgError::Limits(FILE_TOO_LARGE)) => Err(QemuImgError::TooMuchData(max_data)),
            ended => ended,
        }
    }

    /// Makes `file`, which is there and empty, an empty qcow2 file of `size` bytes.
    pub async fn create(&self, file: &Path, size: u64) -> Result<(), QemuImgError> {
        self.write(file, &["create", "-q", "-f", "qcow2", TARGET, &size.to_string()]).await
    }

    /// Makes `file`, which is there and empty, a clone, of `size` bytes, of the qcow2 file with the name `backing`, seen
    /// from `file`. That one is not looked at.
    pub async fn create_clone(&self, file: &Path, backing: &str, size: u64) -> Result<(), QemuImgError> {
        let size = size.to_string();
        self.write(file, &["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, TARGET, &size]).await
    }

    /// Grows a qcow2 file that no VM uses.
    pub async fn grow(&self, file: &Path, size: u64) -> Result<(), QemuImgError> {
        // Its backing file is not needed for that, and not there.
        let alone =
            format!(r#"json:{{"driver":"qcow2","backing":null,"file":{{"driver":"file","filename":"{TARGET}"}}}}"#);
        self.write(file, &["resize", "-q", &alone, &size.to_string()]).await
    }

    async fn read(
        &self,
        source: Source<'_>,
        format: ImageFormat,
        patience: Duration,
        arguments: &[&str],
    ) -> Result<Vec<u8>, QemuImgError> {
        let user = sandbox::stranger();
        let named = source.arguments(format);
        let (lent, sockets) = source.give(user).await?;
        let mut command = sandbox::command(&self.0, user, &lent, Limits { cpu: patience, file_size: 0 })?;
        // Each table has a way to go from a pool
        let patience = if sockets.is_empty() { patience } else { patience * 6 };
        command.args(arguments).args(named).fd_mappings(sockets).map_err(io::Error::other)?;
        run(command, lent, patience).await
    }

    async fn write(&self, file: &Path, arguments: &[&str]) -> Result<(), QemuImgError> {
        let length = tokio::fs::metadata(file).await?.len();
        // The tables of the largest disk.
        let limits = Limits { cpu: QUICK, file_size: length.saturating_add(16 * TABLES) };
        let user = sandbox::stranger();
        let lent = vec![Lent::new(file, TARGET, Access::Write, user).await?];
        let mut command = sandbox::command(&self.0, user, &lent, limits)?;
        command.args(arguments);
        run(command, lent, limits.cpu).await.map(drop)
    }
}

impl Source<'_> {
    /// The words for it.
    fn arguments(&self, format: ImageFormat) -> Vec<String> {
        match self {
            Self::File(_) => ["-f", format.as_str(), SOURCE].map(str::to_owned).to_vec(),
            Self::Socket(_) => vec![behind_socket(format, SOURCE_SOCKET)],
        }
    }

    /// Gives it to the user in the sandbox.
    async fn give(self, user: u32) -> io::Result<(Vec<Lent>, Vec<FdMapping>)> {
        Ok(match self {
            Self::File(path) => (vec![Lent::new(path, SOURCE, Access::Read, user).await?], Vec::new()),
            Self::Socket(socket) => (Vec::new(), vec![FdMapping { parent_fd: socket, child_fd: SOURCE_SOCKET }]),
        })
    }
}

/// The clone that is read with its backing file, in words that leave nothing to be read in the file's own header.
fn clone_of_backing() -> String {
    let file = |name| format!(r#""file":{{"driver":"file","filename":"{name}"}}"#);
    let backing = format!(r#"{{"driver":"qcow2","backing":null,{}}}"#, file(BACKING));
    format!(r#"json:{{"driver":"qcow2","backing":{backing},{}}}"#, file(SOURCE))
}

/// What is of this format behind the socket.
fn behind_socket(format: ImageFormat, socket: i32) -> String {
    let file = format!(r#"{{"driver":"nbd","server":{{"type":"fd","str":"{socket}"}}}}"#);
    format!(r#"json:{{"driver":"{}","file":{file}}}"#, format.as_str())
}

fn spawn(command: &mut Command) -> Result<Running, QemuImgError> {
    Running::start(command).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            QemuImgError::Sandbox("bwrap is missing; install Debian's package bubblewrap".to_owned())
        }
        _ => error.into(),
    })
}

async fn run(mut command: Command, lent: Vec<Lent>, patience: Duration) -> Result<Vec<u8>, QemuImgError> {
    let ended = wait(&mut command, patience).await;
    Lent::take_back(lent).await;
    let (status, stdout, stderr) = ended?;
    judge(status, &stderr).map(|()| stdout)
}

async fn wait(command: &mut Command, patience: Duration) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), QemuImgError> {
    let mut qemu_img = spawn(command)?;
    let (stdout, stderr) = qemu_img.output();
    let ended = timeout(patience, async { tokio::try_join!(qemu_img.wait(), gather(stdout), gather(stderr)) }).await;
    let Ok(ended) = ended else {
        qemu_img.kill().await?;
        return Err(QemuImgError::TooSlow);
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

/// What is written, as it can be seen from here.
enum Written<'a> {
    /// A file, and how much it may hold.
    File(&'a Path, Quantity),
    /// How much was written to a socket.
    Socket(Arc<AtomicU64>),
}

impl Written<'_> {
    /// What changes when something is written.
    async fn look(&self) -> Result<[i128; 4], QemuImgError> {
        match self {
            Self::File(file, max_data) => {
                let file = tokio::fs::metadata(file).await?;
                check_data(&file, *max_data)?;
                Ok([file.len().into(), file.blocks().into(), file.mtime().into(), file.mtime_nsec().into()])
            }
            Self::Socket(moved) => Ok([moved.load(Ordering::Relaxed).into(), 0, 0, 0]),
        }
    }
}

/// Ends when too much was written, or when for [`STALL`] nothing was written, and the percentage did not grow
/// either. (One percent of a large image may take longer than that, and of one that is empty nothing is written at all.)
async fn watch(written: &Written<'_>, reached: &AtomicU8) -> QemuImgError {
    let mut ticks = interval(LOOK);
    let (mut last, mut idle) = (None, Duration::ZERO);
    while idle <= STALL {
        ticks.tick().await;
        let looked = match written.look().await {
            Ok(looked) => Some(looked),
            Err(error @ QemuImgError::TooMuchData(_)) => return error,
            Err(_) => None,
        };
        let now = Some((reached.load(Ordering::Relaxed), looked));
        idle = if now == last { idle + LOOK } else { Duration::ZERO };
        last = now;
    }
    QemuImgError::Limits("it got no further for two minutes")
}

/// Whether a file, raw or qcow2, holds no more data than it may.
fn check_data(file: &Metadata, max_data: Quantity) -> Result<(), QemuImgError> {
    let most = max_data.bytes().saturating_add(TABLES);
    if file.blocks().saturating_mul(512) > most { Err(QemuImgError::TooMuchData(max_data)) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
