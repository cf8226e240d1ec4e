//! The host's own part in routing: it forwards between its interfaces, and still takes router advertisements where it did.
//!
//! The kernel forwards IPv6 only where `net.ipv6.conf.all.forwarding` is set; the setting of a single interface decides
//! no more than whether it acts as a router towards its neighbours. Where it is switched on, interfaces with
//! `accept_ra=1` stop to take advertisements, and the default routes that came by them are removed at once; with
//! `accept_ra=2` they go on (`Documentation/networking/ip-sysctl.rst`). So whoever has 1 gets 2 before.
//!
//! All of that only where an uplink was named: a machine becomes a router between its networks because somebody wants it to.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::names::is_ours;

const CONF: &str = "/proc/sys/net/ipv6/conf";

/// Has the kernel forward. Nothing is written where it does. `uplink` takes advertisements in any case, unless its
/// administrator has switched them off (`accept_ra=0`).
pub(crate) fn ensure_forwarding(uplink: &str) -> io::Result<()> {
    let conf = Path::new(CONF);
    keep_advertisements(&conf.join(uplink))?;
    let all = conf.join("all/forwarding");
    if read(&all)? != "0" {
        return Ok(());
    }
    for entry in std::fs::read_dir(conf)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name != "all" && name != "lo" && !is_ours(&name, None) {
            match keep_advertisements(&conf.join(&*name)) {
                // an interface that is gone since
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                kept => kept?,
            }
        }
    }
    tracing::info!("switching IPv6 forwarding on: this host routes networks");
    write(&all, "1")
}

/// Has an interface that takes advertisements go on to, although the host forwards.
fn keep_advertisements(interface: &Path) -> io::Result<()> {
    let setting = interface.join("accept_ra");
    if read(&setting)? == "1" { write(&setting, "2") } else { Ok(()) }
}

fn read(path: &PathBuf) -> io::Result<String> {
    Ok(std::fs::read_to_string(path)?.trim().to_owned())
}

fn write(path: &PathBuf, value: &str) -> io::Result<()> {
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}
