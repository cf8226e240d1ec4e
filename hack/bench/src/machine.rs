//! What /proc tells: of the machine, and of what processes take of it.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

/// The machine that figures were measured on.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
}

impl Machine {
    pub fn here() -> anyhow::Result<Self> {
        let cpus = read("/proc/cpuinfo")?;
        let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        Ok(Self {
            cpu: cpu.trim_start_matches([':', ' ', '\t']).to_owned(),
            cores: std::thread::available_parallelism().context("cannot tell the number of cores")?.get(),
            memory_mib: kibibytes(&read("/proc/meminfo")?, "MemTotal:").unwrap_or_default() / 1024,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        })
    }
}

/// A process that is watched while it is under load.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    pub pid: u32,
}

impl Process {
    /// This program.
    pub fn own() -> Self {
        Self { pid: std::process::id() }
    }

    /// The CPU time that it has taken so far, in user and kernel mode.
    pub fn cpu(self) -> anyhow::Result<Duration> {
        let stat = read(&format!("/proc/{}/stat", self.pid))?;
        cpu_of_stat(&stat).with_context(|| format!("cannot read /proc/{}/stat", self.pid))
    }

    /// Its memory, in MiB.
    pub fn memory(self) -> anyhow::Result<f64> {
        self.status("VmRSS:")
    }

    /// The most memory that it had since [`Self::forget_peak`], in MiB.
    pub fn peak(self) -> anyhow::Result<f64> {
        self.status("VmHWM:")
    }

    /// Lets the peak begin anew. proc(5), clear_refs.
    pub fn forget_peak(self) -> anyhow::Result<()> {
        let file = format!("/proc/{}/clear_refs", self.pid);
        fs::write(&file, "5").with_context(|| format!("cannot write {file}"))
    }

    fn status(self, field: &str) -> anyhow::Result<f64> {
        let status = read(&format!("/proc/{}/status", self.pid))?;
        let kib = kibibytes(&status, field).with_context(|| format!("/proc/{}/status has no {field}", self.pid))?;
        Ok(mebibytes(kib))
    }
}

#[expect(clippy::cast_precision_loss, reason = "memory in KiB is far from 2^52")]
fn mebibytes(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// The CPU time that the whole machine was busy so far, summed over its cores.
pub fn busy() -> anyhow::Result<Duration> {
    busy_of_stat(&read("/proc/stat")?).context("cannot read /proc/stat")
}

fn read(file: &str) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {file}"))
}

fn kibibytes(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 1000 / rustix::param::clock_ticks_per_second())
}

/// Fields 14 and 15 of proc(5)'s stat; the second one is the program's name, which may hold anything.
fn cpu_of_stat(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let [user, system] = [fields.get(11)?, fields.get(12)?].map(|field| field.parse::<u64>().ok());
    Some(ticks(user? + system?))
}

/// user, nice and system, irq, softirq; neither idle nor waiting for a disk.
fn busy_of_stat(stat: &str) -> Option<Duration> {
    let fields: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let (running, interrupts) = (fields.get(..3)?, fields.get(5..7)?);
    Some(ticks(running.iter().sum::<u64>() + interrupts.iter().sum::<u64>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_program_name() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 9 9 20 0 1 0 5 6 7";
        assert_eq!(cpu_of_stat(stat), Some(ticks(200)));
        assert_eq!(cpu_of_stat("7 (a) S 1"), None);
    }

    #[test]
    fn idle_time_is_not_busy() {
        assert_eq!(busy_of_stat("cpu  10 20 30 4000 500 6 7 8 0 0\ncpu0 1 1 1"), Some(ticks(73)));
    }

    #[test]
    fn this_process_and_machine_can_be_read() {
        assert!(Process::own().memory().unwrap() > 1.0);
        assert!(Machine::here().unwrap().cores > 0);
    }
}
