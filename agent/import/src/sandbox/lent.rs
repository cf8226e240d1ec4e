//! Files that a program in the sandbox may use: they belong to its user for as long as it runs.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;
use tokio::task::spawn_blocking;

/// What may be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It is read.
    Read,
    /// It is read and written.
    Write,
}

impl Access {
    /// bwrap's word for it.
    pub fn bind(self) -> &'static str {
        match self {
            Self::Read => "--ro-bind",
            Self::Write => "--bind",
        }
    }
}

/// A file that was lent. Dropped, it belongs again to whom it was before.
#[derive(Debug)]
pub struct Lent {
    path: PathBuf,
    name: &'static str,
    access: Access,
    given: Option<Given>,
}

/// That a file was given to the sandbox's user.
#[derive(Debug)]
struct Given {
    file: File,
    owner: (u32, u32),
    user: u32,
}

impl Lent {
    /// Lends the file at `path` to `user`, who sees it as `name`.
    pub async fn new(path: &Path, name: &'static str, access: Access, user: u32) -> io::Result<Self> {
        let path = path.to_owned();
        spawn_blocking(move || Self::lend(path, name, access, user)).await.map_err(io::Error::other)?
    }

    /// Shows a file that everybody may read, and that stays whose it is.
    pub fn shared(path: &Path, name: &'static str) -> Self {
        Self { path: path.to_owned(), name, access: Access::Read, given: None }
    }

    fn lend(path: PathBuf, name: &'static str, access: Access, user: u32) -> io::Result<Self> {
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("no regular file is to be lent to qemu-img"));
        }
        fchown(&file, Some(user), Some(user))?;
        let given = Given { file, owner: (metadata.uid(), metadata.gid()), user };
        Ok(Self { path, name, access, given: Some(given) })
    }

    /// Takes all of them back.
    pub async fn take_back(lent: Vec<Self>) {
        let _ = spawn_blocking(move || drop(lent)).await;
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the program sees it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What the program may do with it.
    pub fn access(&self) -> Access {
        self.access
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(Given { file, owner, user }) = &self.given else { return };
        // libvirt may have given it to somebody meanwhile, who keeps it.
        let still = file.metadata().is_ok_and(|metadata| metadata.uid() == *user);
        if still && let Err(error) = fchown(file, Some(owner.0), Some(owner.1)) {
            tracing::warn!(file = %self.path.display(), %error, "a file still belongs to a user of the sandbox");
        }
    }
}
