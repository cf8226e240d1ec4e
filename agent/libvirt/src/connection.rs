//! The connection to libvirt that is always there or on its way back. libvirt's calls block: here alone they
//! are run, on tokio's blocking threads, with a deadline, and never more at a time than [`MAX_CALLS`].
//!
//! ```text
//!   away --connected--> up --closed or silent--> away (reconnects, with growing pauses)
//! ```
//! While libvirt is away, calls fail at once.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::{
    sync::{Notify, Semaphore, oneshot, watch},
    task::{AbortHandle, spawn_blocking},
    time::{Instant, sleep, timeout, timeout_at},
};
use ucloud_agent_core::HostError;
use virt::{connect::Connect, error::Error};

use crate::session::{Session, Signals};

/// Calls that run at one time. More wait; so a libvirtd that hangs cannot take all of tokio's blocking threads.
const MAX_CALLS: usize = 32;
/// How long a new connection is waited for before the caller goes on without it.
const FIRST_ATTEMPT: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Why a call to libvirt has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no connection, or it was lost during the call.
    #[error("libvirt is away: {0}")]
    Away(String),
    /// No answer came in time. What was asked for may still happen.
    #[error("libvirt did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The call was given up because the program ends.
    #[error("the call to libvirt was given up")]
    Abandoned,
    /// libvirt says no.
    #[error("libvirt refused")]
    Refused(#[source] Error),
}

impl CallError {
    /// As an answer to a caller who wanted to `act`, as in "list domains".
    pub fn reported(self, act: &str) -> HostError {
        match &self {
            Self::Away(why) => HostError::retryable(
                "HypervisorUnavailable",
                format!("cannot {act}: libvirt is away ({why}); running VMs go on. Is libvirtd running on the host?"),
            ),
            Self::TimedOut(deadline) => HostError::retryable(
                "HypervisorUnavailable",
                format!(
                    "cannot {act}: libvirt did not answer within {} s; running VMs go on. Is libvirtd on the host stuck?",
                    deadline.as_secs()
                ),
            ),
            Self::Abandoned => {
                HostError::retryable("HypervisorUnavailable", format!("cannot {act}: the agent is stopping"))
            }
            Self::Refused(error) => HostError::retryable(
                "HypervisorError",
                format!("cannot {act}: libvirt says: {}", brief(error.message())),
            ),
        }
        .caused_by(self)
    }
}

/// A message of libvirt on one line, no longer than a condition should be.
pub fn brief(message: &str) -> String {
    const LONGEST: usize = 400;
    let mut line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(end);
        line.push_str("...");
    }
    line
}

enum State {
    Away(String),
    Up(Arc<Session>),
}

/// The connection; it is given up when this is dropped.
pub struct Connection {
    state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
    calls: Arc<Semaphore>,
    keeper: AbortHandle,
}

impl Connection {
    /// Begins to keep a connection to `uri`. Returns when the first attempt has succeeded or failed.
    pub async fn keep(uri: String) -> Self {
        let state = Arc::new(Mutex::new(State::Away("not connected yet".to_owned())));
        let changes = watch::Sender::new(0);
        let (attempted, first_attempt) = oneshot::channel();
        let keeper = tokio::spawn(keep(uri, Arc::clone(&state), changes.clone(), attempted)).abort_handle();
        let connection = Self { state, changes, calls: Arc::new(Semaphore::new(MAX_CALLS)), keeper };
        if timeout(FIRST_ATTEMPT, first_attempt).await.is_err() {
            tracing::warn!("libvirt accepts connections and does not answer");
        }
        connection
    }

    /// See [`ucloud_agent_core::Hypervisor::changes`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Runs `f`, which may block, and gives up waiting for it after `deadline`.
    pub async fn call<T, F>(&self, deadline: Duration, f: F) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: FnOnce(&Connect) -> Result<T, Error> + Send + 'static,
    {
        let end = Instant::now() + deadline;
        let timed_out = |_| CallError::TimedOut(deadline);
        let session = match &*lock(&self.state) {
            State::Away(why) => return Err(CallError::Away(why.clone())),
            State::Up(session) => Arc::clone(session),
        };
        let permit = timeout_at(end, Arc::clone(&self.calls).acquire_owned())
            .await
            .map_err(timed_out)?
            .map_err(|_| CallError::Abandoned)?;
        let call = spawn_blocking(move || {
            // Held until libvirt has answered, also when nobody waits any more.
            let _permit = permit;
            f(session.connect()).map_err(|error| {
                if session.is_alive() { CallError::Refused(error) } else { CallError::Away(brief(error.message())) }
            })
        });
        timeout_at(end, call).await.map_err(timed_out)?.map_err(|_| CallError::Abandoned)?
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.keeper.abort();
        let state = std::mem::replace(&mut *lock(&self.state), State::Away("closed".to_owned()));
        close(state);
    }
}

/// Closing asks libvirtd, and so may block.
fn close(state: State) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(state))),
        Err(_) => drop(state),
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn keep(uri: String, state: Arc<Mutex<State>>, changes: watch::Sender<u64>, attempted: oneshot::Sender<()>) {
    let mut attempted = Some(attempted);
    let pauses = ExponentialBuilder::default()
        .with_min_delay(BACKOFF_MIN)
        .with_max_delay(BACKOFF_MAX)
        .with_jitter()
        .without_max_times();
    let mut pause = pauses.build();
    loop {
        let signals = Arc::new(Signals { changes: changes.clone(), closed: Notify::new() });
        match open(uri.clone(), Arc::clone(&signals)).await {
            Ok(session) => {
                tracing::info!(%uri, "connected to libvirt");
                let since = Instant::now();
                set_state(&state, &changes, State::Up(session));
                attempted.take().map(|attempted| attempted.send(()));
                signals.closed.notified().await;
                tracing::warn!(%uri, "the connection to libvirt was lost");
                set_state(&state, &changes, State::Away("the connection was lost".to_owned()));
                // A libvirtd that takes connections only to drop them is not asked in a tight loop.
                if since.elapsed() > BACKOFF_MAX {
                    pause = pauses.build();
                }
            }
            Err(why) => {
                tracing::warn!(%uri, %why, "cannot connect to libvirt");
                *lock(&state) = State::Away(why);
                attempted.take().map(|attempted| attempted.send(()));
            }
        }
        sleep(pause.next().unwrap_or(BACKOFF_MAX)).await;
    }
}

fn set_state(state: &Mutex<State>, changes: &watch::Sender<u64>, new: State) {
    let old = std::mem::replace(&mut *lock(state), new);
    close(old);
    changes.send_modify(|value| *value = value.wrapping_add(1));
}

/// A connection that hangs while it is opened is waited for: a second attempt would hang too.
async fn open(uri: String, signals: Arc<Signals>) -> Result<Arc<Session>, String> {
    match spawn_blocking(move || Session::open(&uri, &signals)).await {
        Ok(Ok(session)) => Ok(Arc::new(session)),
        Ok(Err(error)) => Err(brief(error.message())),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_short_line() {
        assert_eq!(brief("a\n  b\t c\n"), "a b c");
        let long = brief(&"\u{e4}".repeat(1000));
        assert_eq!(long.chars().count(), 403);
    }
}
