//! What Prometheus' client libraries tell of a process, read from `/proc` when it is asked for.

use std::fs;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The process' own metrics.
pub(super) struct Process {
    cpu_seconds: Counter<f64, AtomicU64>,
    resident: Gauge,
    virtual_size: Gauge,
    open_files: Gauge,
    max_files: Gauge,
    start: Gauge<f64, AtomicU64>,
}

impl Process {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let process = Self {
            cpu_seconds: Counter::default(),
            resident: Gauge::default(),
            virtual_size: Gauge::default(),
            open_files: Gauge::default(),
            max_files: Gauge::default(),
            start: Gauge::default(),
        };
        registry.register("process_cpu_seconds", "User and system time spent", process.cpu_seconds.clone());
        registry.register("process_resident_memory_bytes", "Resident memory", process.resident.clone());
        registry.register("process_virtual_memory_bytes", "Virtual memory", process.virtual_size.clone());
        registry.register("process_open_fds", "Open file descriptors", process.open_files.clone());
        registry.register("process_max_fds", "File descriptors that may be open", process.max_files.clone());
        registry.register("process_start_time_seconds", "Start, since the epoch", process.start.clone());
        process
    }

    /// Reads what the kernel tells. What cannot be read stays as it was.
    pub(super) fn update(&self) {
        if let Ok(stat) = fs::read_to_string("/proc/self/stat")
            && let Some(stat) = Stat::parse(&stat)
        {
            let ticks = rustix::param::clock_ticks_per_second();
            let before = self.cpu_seconds.get();
            self.cpu_seconds.inc_by((seconds(stat.cpu_ticks, ticks) - before).max(0.0));
            let page = u64::try_from(rustix::param::page_size()).unwrap_or(u64::MAX);
            self.resident.set(signed(stat.resident_pages.saturating_mul(page)));
            self.virtual_size.set(signed(stat.virtual_bytes));
            if let Some(boot) = boot_time() {
                self.start.set(boot + seconds(stat.start_ticks, ticks));
            }
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            self.open_files.set(signed(files.count() as u64));
        }
        if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            self.max_files.set(signed(limit));
        }
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "ticks stay far below 2^53")]
fn seconds(ticks: u64, per_second: u64) -> f64 {
    ticks as f64 / per_second as f64
}

/// When the machine was started, in seconds since the epoch.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// What is of interest in `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // the second field is the name in brackets, and may hold anything
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // fields are counted from 1, and the first one here is the third
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 30 12 0 0 20 0 4 0 5000 123456 789 0 0";
        let expected = Stat { cpu_ticks: 42, start_ticks: 5000, virtual_bytes: 123_456, resident_pages: 789 };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }
}
