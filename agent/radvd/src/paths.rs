//! Where radvd's files are, and how it is called.

use std::{
    ffi::OsString,
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// What [`Radvd`](crate::Radvd) has to know of its host.
#[derive(Clone, Debug)]
pub struct Config {
    /// The program, a path or a name to be looked up in `PATH`.
    pub binary: PathBuf,
    /// An absolute path to a directory for radvd's configuration, pid file and log. It is made if it is missing. It
    /// tells one agent's radvd from another's, so it must be this agent's own, and must stay the same. Where
    /// `user` is set, that user needs to search it and the directories above.
    pub directory: PathBuf,
    /// The user that radvd becomes after it has opened its sockets; root if None.
    pub user: Option<String>,
}

impl Config {
    /// radvd as Debian installs it: from `PATH`, as the user `radvd` if there is one.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        const USER: &str = "radvd";
        let exists = matches!(nix::unistd::User::from_name(USER), Ok(Some(_)));
        Self { binary: "radvd".into(), directory: directory.into(), user: exists.then(|| USER.to_owned()) }
    }

    pub(crate) fn configuration(&self) -> PathBuf {
        self.directory.join("radvd.conf")
    }

    /// A configuration that is still to be checked.
    pub(crate) fn candidate(&self) -> PathBuf {
        self.directory.join("radvd.conf.new")
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.directory.join("radvd.pid")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("radvd.log")
    }

    /// The command line of the process, the program first. It is also how the process is recognised.
    pub(crate) fn command_line(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![self.binary.clone().into(), "--nodaemon".into()];
        // radvd opens the log of `-m logfile` only once; what it writes to stderr can be cut short
        words.extend(["--logmethod".into(), "stderr".into()]);
        words.extend(["--pidfile".into(), self.pid_file().into(), "--config".into(), self.configuration().into()]);
        if let Some(user) = &self.user {
            words.extend(["--username".into(), user.into()]);
        }
        words
    }

    /// Makes the directory. Answers one that radvd's user cannot search, if there is such.
    pub(crate) fn prepare_directory(&self) -> io::Result<Option<PathBuf>> {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.directory)?;
        if self.user.is_none() {
            return Ok(None);
        }
        let is_closed = |path: &&Path| std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 == 0);
        Ok(self.directory.ancestors().find(is_closed).map(Path::to_owned))
    }
}
