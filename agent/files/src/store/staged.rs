//! Files in the making: locked while somebody makes them, and named only when they are whole and on the disk.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg, OFlag},
    unistd::{getegid, geteuid},
};

use super::{DISK_MODE, Lock, Store, StoreError, doing, names, remove, sync};

/// A file in the making. Dropped before it was [published](Self::publish), it is gone.
pub struct Staged {
    path: PathBuf,
    /// Locked for as long as somebody makes it, so that nobody sweeps it away.
    file: Flock<File>,
}

impl Staged {
    /// An empty file.
    pub fn new(store: &Store, what: &str) -> Result<Self, StoreError> {
        loop {
            let path = store.tmp().join(format!("{what}-{}", uuid::Uuid::new_v4()));
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(DISK_MODE).open(&path);
            let file = doing("make a file", file)?;
            // Between the two calls a sweeper may take the file for left over; then there is another one.
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) if path.exists() => return Ok(Self { path, file }),
                Ok(_) => {}
                Err((_, errno)) if errno == Errno::EWOULDBLOCK => {}
                Err((_, errno)) => return doing("lock a file", Err(errno.into())),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It, opened.
    pub fn file(&self) -> Result<tokio::fs::File, StoreError> {
        doing("open a file", self.file.try_clone()).map(tokio::fs::File::from_std)
    }

    /// Takes it back from whomever libvirt has given it to.
    pub fn own(&self) -> Result<(), StoreError> {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        doing("take a file back", fchown(&*self.file, Some(user), Some(group)))
    }

    /// Gives it its name and its mode once all of it is on the disk.
    pub fn publish(self, to: &Path, mode: u32, _: &Lock) -> Result<(), StoreError> {
        doing("set a file's mode", self.file.set_permissions(Permissions::from_mode(mode)))?;
        doing("write out a file", self.file.sync_all())?;
        doing("name a file", fs::rename(&self.path, to))?;
        match to.parent() {
            Some(folder) => sync(folder),
            None => Ok(()),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After publishing there is nothing under this name.
        if let Err(error) = remove(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "a file in the making stays until the next sweep");
        }
    }
}

impl Store {
    /// Removes what an interrupted process has left in the making. What a living one makes is locked by it.
    pub fn sweep_tmp(&self, _: &Lock) -> Result<(), StoreError> {
        for name in names(&self.tmp())? {
            let path = self.tmp().join(&name);
            // Links are made under the lock that is held here, so that this one is left over.
            let left_over = match OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path) {
                Ok(file) => Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok(),
                Err(error) => error.raw_os_error() == Some(Errno::ELOOP as i32),
            };
            if left_over {
                tracing::info!(file = %path.display(), "removing what an interrupted import has left");
                remove(&path)?;
            }
        }
        Ok(())
    }
}
