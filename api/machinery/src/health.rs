//! Health checks, as Kubernetes has them: `/healthz` and `/livez` say that the process answers, `/readyz` that it can serve,
//! which takes a filled cache, the kinds that are defined, the namespaces that must exist, and a storage that answers.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::kinds::Kinds;
use crate::registry::Store;
use crate::strategy::Lister as _;

/// Storage has to answer within this time.
const STORAGE_TIMEOUT: Duration = Duration::from_secs(2);
/// Its answer counts for so long.
const STORAGE_CACHED: Duration = Duration::from_secs(1);

/// The outcome of the checks.
pub(crate) struct Report {
    pub(crate) healthy: bool,
    checks: Vec<(&'static str, Result<(), String>)>,
}

impl Report {
    fn of(checks: Vec<(&'static str, Result<(), String>)>) -> Self {
        Self { healthy: checks.iter().all(|(_, result)| result.is_ok()), checks }
    }

    /// `ok`, or a line for each check.
    pub(crate) fn text(&self, verbose: bool) -> String {
        if self.healthy && !verbose {
            return "ok".to_owned();
        }
        let line = |(name, result): &(&str, Result<(), String>)| match result {
            Ok(()) => format!("[+]{name} ok\n"),
            Err(problem) => format!("[-]{name} failed: {problem}\n"),
        };
        let verdict = if self.healthy { "check passed\n" } else { "check failed\n" };
        self.checks.iter().map(line).chain([verdict.to_owned()]).collect::<Vec<_>>().concat()
    }
}

/// The checks. Anybody may ask for them: storage is asked once a second at most.
#[derive(Default)]
pub(crate) struct Health {
    /// When storage was asked last, and what it said. Held while it is asked.
    storage: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Health {
    /// Runs the checks of a path; `None` if it is not one of the health checks.
    pub(crate) async fn check(
        &self,
        path: &str,
        store: &Store,
        kinds: &Kinds,
        namespaces: &[String],
    ) -> Option<Report> {
        match path.trim_end_matches('/') {
            "/healthz" | "/livez" => Some(Report::of(vec![("ping", Ok(()))])),
            "/readyz" => Some(Report::of(vec![
                ("ping", Ok(())),
                ("cache", cache(store)),
                ("kinds", defined(kinds)),
                ("namespaces", bootstrapped(store, namespaces)),
                ("storage", self.storage(store).await),
            ])),
            _ => None,
        }
    }

    async fn storage(&self, store: &Store) -> Result<(), String> {
        let mut last = self.storage.lock().await;
        if let Some((asked, answer)) = &*last
            && asked.elapsed() < STORAGE_CACHED
        {
            return answer.clone();
        }
        let answer = storage(store).await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

fn cache(store: &Store) -> Result<(), String> {
    if store.cache.is_synced() { Ok(()) } else { Err("not filled yet".to_owned()) }
}

/// Without the kinds that are defined, clients would take their objects for gone.
fn defined(kinds: &Kinds) -> Result<(), String> {
    if kinds.is_loaded() { Ok(()) } else { Err("the defined kinds are not served yet".to_owned()) }
}

fn bootstrapped(store: &Store, namespaces: &[String]) -> Result<(), String> {
    match namespaces.iter().find(|name| store.get("", "namespaces", None, name).is_none()) {
        None => Ok(()),
        Some(missing) => Err(format!("namespace {missing} does not exist yet")),
    }
}

async fn storage(store: &Store) -> Result<(), String> {
    match tokio::time::timeout(STORAGE_TIMEOUT, store.storage.current_revision()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("no answer within {} s", STORAGE_TIMEOUT.as_secs())),
    }
}
