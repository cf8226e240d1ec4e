//! Keeps one radvd running, with the configuration that it should have.

use std::{io, path::Path, process::Stdio, sync::Arc, time::Duration};

use rustix::process::{Pid, Signal};
use tokio::{
    process::Command,
    sync::{Mutex, watch},
    time::{Instant, interval, sleep, timeout},
};

use crate::{
    farewell,
    files::{limit_file, read_file, remove_file, write_file},
    paths::Config,
    process::{Identity, Process, catches_hangup},
    render::interfaces,
};

/// How long radvd may take to start.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pauses before radvd is started again: from the first to the second, doubled each time that it dies within the third.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const STEADY: Duration = Duration::from_mins(1);

/// radvd logs a line for each odd packet that a guest sends it. The log is cut when it is larger than this many bytes.
const LOG_LIMIT: u64 = 1 << 20;
const LOG_CHECK: Duration = Duration::from_mins(1);

/// Why radvd does not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RadvdError {
    #[error("cannot read or write its files")]
    Files(#[source] io::Error),
    #[error("cannot run it; is the package radvd installed?")]
    Run(#[source] io::Error),
    #[error("it refuses its configuration: {0}")]
    Refused(String),
    #[error("it ended at once: {0}")]
    Ended(String),
    #[error("it is not ready after {PATIENCE:?}")]
    NotReady,
    #[error("cannot reach its process")]
    Process(#[source] io::Error),
    #[error("its user cannot search the directory {0}; set mode 755")]
    Directory(String),
}

impl RadvdError {
    /// What the system said, where that is not in the message already.
    pub fn into_cause(self) -> Option<io::Error> {
        match self {
            Self::Files(cause) | Self::Run(cause) | Self::Process(cause) => Some(cause),
            Self::Refused(_) | Self::Ended(_) | Self::NotReady | Self::Directory(_) => None,
        }
    }
}

/// The one process, and the files that it reads.
#[derive(Debug)]
pub(crate) struct Keeper {
    config: Config,
    identity: Identity,
    /// Held while the process or the configuration is changed.
    changing: Mutex<()>,
    /// The process that should be running; None where nothing is to be advertised, and before the first
    /// call. It may have died.
    running: watch::Sender<Option<Arc<Process>>>,
}

impl Keeper {
    pub fn new(config: Config) -> Self {
        let identity = Identity { command_line: config.command_line(), configuration: config.configuration() };
        Self { config, identity, changing: Mutex::default(), running: watch::Sender::new(None) }
    }

    /// Has radvd run with this configuration, or not run at all. Guests on interfaces that are in it no more are told that
    /// there is no router, except on those that are `handed_over`.
    pub async fn ensure(&self, configuration: Option<&str>, handed_over: &[String]) -> Result<(), RadvdError> {
        let _changing = self.changing.lock().await;
        let before = read_file(&self.config.configuration()).map_err(RadvdError::Files)?;
        let now = interfaces(configuration.unwrap_or_default());
        let is_left = |name: &&str| !now.contains(name) && !handed_over.iter().any(|other| other == name);
        let left: Vec<_> = interfaces(&before).into_iter().filter(is_left).map(str::to_owned).collect();
        match configuration {
            Some(text) => self.ensure_advertised(text, text != before).await?,
            None => self.ensure_silent().await?,
        }
        farewell::say(&left).await;
        Ok(())
    }

    async fn ensure_advertised(&self, text: &str, changed: bool) -> Result<(), RadvdError> {
        if let Some(closed) = self.config.prepare_directory().map_err(RadvdError::Files)? {
            return Err(RadvdError::Directory(closed.display().to_string()));
        }
        let configuration = self.config.configuration();
        if changed {
            let candidate = self.config.candidate();
            write_file(&candidate, text).map_err(RadvdError::Files)?;
            self.check(&candidate).await?;
            std::fs::rename(&candidate, &configuration).map_err(RadvdError::Files)?;
        }
        match self.current() {
            Some(process) if changed => process.signal(Signal::HUP).map_err(RadvdError::Process),
            Some(_) => Ok(()),
            None => self.revive().await,
        }
    }

    /// Has a radvd run where none is known to.
    async fn revive(&self) -> Result<(), RadvdError> {
        let Some(process) = self.adopt().await? else { return self.start().await };
        tracing::info!(pid = %process.pid, "adopting radvd");
        // an agent may have ended after it wrote the configuration and before it said so
        process.signal(Signal::HUP).map_err(RadvdError::Process)?;
        self.running.send_replace(Some(process));
        Ok(())
    }

    async fn ensure_silent(&self) -> Result<(), RadvdError> {
        let process = match self.current() {
            Some(process) => Some(process),
            None => self.adopt().await?,
        };
        // first, or it would be taken for one that died
        self.running.send_replace(None);
        if let Some(process) = process {
            tracing::info!(pid = %process.pid, "stopping radvd: there is nothing to advertise");
            // told to end, it would withdraw the routers of networks that have moved
            process.signal(Signal::KILL).map_err(RadvdError::Process)?;
            process.exited().await;
        }
        for file in [self.config.configuration(), self.config.candidate(), self.config.pid_file()] {
            remove_file(&file).map_err(RadvdError::Files)?;
        }
        Ok(())
    }

    /// The process that this keeper knows of, if it is running.
    fn current(&self) -> Option<Arc<Process>> {
        self.running.borrow().clone().filter(|process| self.identity.matches(process.pid))
    }

    /// The radvd that an earlier agent started. Whatever else has our configuration is ended: without last advertisements,
    /// as they would withdraw what goes on to be advertised.
    async fn adopt(&self) -> Result<Option<Arc<Process>>, RadvdError> {
        let noted = std::fs::read_to_string(self.config.pid_file()).unwrap_or_default();
        let noted = noted.trim().parse().ok().and_then(Pid::from_raw);
        let adopted =
            noted.and_then(|pid| Process::open(pid).ok()).filter(|process| self.identity.matches(process.pid));
        let main = adopted.as_ref().map(|process| process.pid);
        let identity = self.identity.clone();
        let others = tokio::task::spawn_blocking(move || identity.others(main)).await;
        for pid in others.unwrap_or_else(|stopped| Err(io::Error::other(stopped))).map_err(RadvdError::Process)? {
            tracing::warn!(%pid, "ending a radvd that is not known");
            // one that has exited since cannot be opened
            if let Ok(process) = Process::open(pid) {
                process.signal(Signal::KILL).map_err(RadvdError::Process)?;
                process.exited().await;
            }
        }
        Ok(adopted.map(Arc::new))
    }

    /// Has radvd itself read a configuration.
    async fn check(&self, configuration: &Path) -> Result<(), RadvdError> {
        let mut command = Command::new(&self.config.binary);
        command.args(["--configtest", "--logmethod", "stderr", "--config"]).arg(configuration).stdin(Stdio::null());
        let output = command.kill_on_drop(true).output();
        let output = timeout(PATIENCE, output).await.map_err(|_| RadvdError::NotReady)?.map_err(RadvdError::Run)?;
        if output.status.success() {
            Ok(())
        } else {
            Err(RadvdError::Refused(last_lines(&String::from_utf8_lossy(&output.stderr))))
        }
    }

    /// Starts radvd, and waits until it has taken its configuration and can be told of another.
    async fn start(&self) -> Result<(), RadvdError> {
        remove_file(&self.config.pid_file()).map_err(RadvdError::Files)?;
        // for appending, so that the file can be cut while radvd writes into it
        let mut log_options = std::fs::OpenOptions::new();
        let log = log_options.create(true).append(true).open(self.config.log()).map_err(RadvdError::Files)?;
        let began = log.metadata().map_err(RadvdError::Files)?.len();

        let words = self.config.command_line();
        let mut command = Command::new(&self.config.binary);
        command.args(words.iter().skip(1)).current_dir("/").stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(RadvdError::Files)?).stderr(log);
        // SAFETY: between fork and exec only setsid is called, which is async-signal-safe
        unsafe {
            command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
        }
        let mut child = command.spawn().map_err(RadvdError::Run)?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let opened = pid.ok_or_else(|| io::Error::other("it has no number")).and_then(Process::open);
        let process = Arc::new(opened.map_err(RadvdError::Process)?);
        // it is waited for by its pidfd like one that was adopted; this only clears it away
        tokio::spawn(async move { child.wait().await });

        tracing::info!(pid = %process.pid, "started radvd");
        self.running.send_replace(Some(process.clone()));
        let ready = async {
            while !catches_hangup(process.pid) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = ready => Ok(()),
            () = process.exited() => Err(RadvdError::Ended(self.log_since(began))),
            () = sleep(PATIENCE) => {
                process.signal(Signal::KILL).map_err(RadvdError::Process)?;
                Err(RadvdError::NotReady)
            }
        }
    }

    /// What radvd wrote into its log since the log had this length.
    fn log_since(&self, length: u64) -> String {
        let log = std::fs::read(self.config.log()).unwrap_or_default();
        let from = usize::try_from(length).unwrap_or(usize::MAX).min(log.len());
        last_lines(&String::from_utf8_lossy(log.get(from..).unwrap_or_default()))
    }

    /// Starts radvd again whenever it dies, and keeps its log short. Never ends.
    pub async fn supervise(self: Arc<Self>) {
        let mut running = self.running.subscribe();
        let mut log_check = interval(LOG_CHECK);
        let mut pause = FIRST_PAUSE;
        let mut since = Instant::now();
        loop {
            let process = running.borrow().clone();
            let died = async {
                match &process {
                    Some(process) => process.exited().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // in this order: one that was stopped on purpose did not die
                biased;
                _ = running.changed() => {
                    since = Instant::now();
                    continue;
                }
                () = died => {}
                _ = log_check.tick() => {
                    self.limit_log();
                    continue;
                }
            }
            pause = if since.elapsed() > STEADY { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            tracing::warn!(?pause, "radvd ended; starting it again");
            sleep(pause).await;

            let _changing = self.changing.lock().await;
            // it may have been started again, or not be wanted any more
            if self.running.borrow().is_some()
                && self.current().is_none()
                && let Err(error) = self.revive().await
            {
                tracing::warn!(%error, "cannot start radvd; trying again");
            }
        }
    }

    fn limit_log(&self) {
        if let Err(error) = limit_file(&self.config.log(), LOG_LIMIT) {
            tracing::warn!(%error, "cannot cut radvd's log");
        }
    }
}

/// The end of what radvd said, in one line.
fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join("; ")
}
