//! What was asked of the API server, as it counts itself, and what this process took.

use std::{collections::BTreeMap, fmt::Write as _, io::Write as _};

use ucloud_machinery::storage::Storage as _;

use crate::installation::Installation;

/// Counts since the API server started, or between two moments.
pub struct Costs {
    /// Requests by verb, resource and code; watches, which last, aside.
    answered: BTreeMap<String, u64>,
    /// Writes to the storage.
    pub stored: u64,
}

impl Costs {
    pub async fn now(installation: &Installation) -> Self {
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let text = installation.admin.request_text(request).await.unwrap();
        let mut answered = BTreeMap::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("apiserver_request_total{")) {
            let (labels, count) = line.split_once("} ").unwrap();
            let label = |name: &str| {
                let at = labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix('='));
                at.unwrap_or_default().trim_matches('"').to_owned()
            };
            if label("verb") != "WATCH" {
                let resource = [label("resource"), label("subresource")].join("/");
                let key = format!("{} {} {}", label("verb"), resource.trim_end_matches('/'), label("code"));
                *answered.entry(key).or_default() += count.parse::<u64>().unwrap();
            }
        }
        let stored = installation.api.storage().current_revision().await.unwrap().0;
        Self { answered, stored }
    }

    pub fn since(self, before: &Self) -> Self {
        let earlier = |key: &String| before.answered.get(key).copied().unwrap_or(0);
        let counts = self.answered.into_iter().map(|(key, count)| (count - earlier(&key), key));
        let answered = counts.filter(|(count, _)| *count > 0).map(|(count, key)| (key, count)).collect();
        Self { answered, stored: self.stored - before.stored }
    }

    /// All requests.
    pub fn requests(&self) -> u64 {
        self.answered.values().sum()
    }

    /// Whatever was to change a VM: its creation, its binding, its status.
    pub fn vm_writes(&self) -> u64 {
        let writes = self.answered.iter().filter(|(key, _)| !key.starts_with("GET") && !key.starts_with("LIST"));
        writes.filter(|(key, _)| key.contains(" vms")).map(|(_, count)| count).sum()
    }

    pub fn listed(&self) -> String {
        let mut lines = "requests:".to_owned();
        for (key, count) in &self.answered {
            write!(lines, "\n  {count:>7} {key}").unwrap();
        }
        lines
    }
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
pub fn ratio(count: u64, of: usize) -> f64 {
    count as f64 / of as f64
}

/// The most memory that this process had at once.
pub fn peak_rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Past the test harness, which keeps what tests that succeed print.
pub fn tell(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}
