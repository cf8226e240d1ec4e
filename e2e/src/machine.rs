//! Looks at the machine itself: what runs on it, its network devices, its files.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its command line.
    pub arguments: Vec<String>,
}

/// All processes but the kernel's own.
pub fn processes() -> anyhow::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // it may have ended since
        let Ok(bytes) = fs::read(entry.path().join("cmdline")) else { continue };
        let arguments: Vec<_> = bytes.split(|&b| b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
        if arguments.first().is_some_and(|a| !a.is_empty()) {
            found.push(Process { pid, arguments });
        }
    }
    Ok(found)
}

/// What an installation leaves on a machine outside its own directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    /// The programs that run, of those that an installation may start.
    pub programs: BTreeSet<String>,
    /// The network devices.
    pub devices: BTreeSet<String>,
    /// libvirt's files on domains.
    pub domains: BTreeSet<PathBuf>,
}

/// The programs that an installation may start.
const PROGRAMS: [&str; 8] =
    ["etcd", "ucloud-api", "ucloud-controllers", "ucloud-agent", "libvirtd", "virtlogd", "radvd", "qemu-system-x86_64"];

impl Traces {
    /// What there is now.
    pub fn now() -> anyhow::Result<Self> {
        let programs = processes()?.into_iter().filter_map(|process| {
            let name = process.arguments[0].rsplit('/').next()?.to_owned();
            PROGRAMS.contains(&name.as_str()).then(|| format!("{name} ({})", process.pid))
        });
        let devices = fs::read_dir("/sys/class/net")?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
        let mut domains = BTreeSet::new();
        for folder in ["/etc/libvirt/qemu", "/run/libvirt/qemu", "/var/lib/libvirt/qemu", "/var/log/libvirt/qemu"] {
            domains.extend(
                files_below(Path::new(folder))?.into_iter().filter(|p| p.to_string_lossy().contains("ucloud-")),
            );
        }
        Ok(Self { programs: programs.collect(), devices: devices.collect::<std::io::Result<_>>()?, domains })
    }
}

/// All files below a folder; none if there is no such folder.
pub fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}
