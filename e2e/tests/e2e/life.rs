//! The life of a VM: start, stop, restart, crash, run strategies, disks that persist.

use anyhow::ensure;
use nix::sys::signal::{self, Signal};
use ucloud_e2e::{
    eventually,
    installation::{BOOT, SOON},
    manifest::Vm,
};

use crate::{Test, World};

pub const TESTS: &[Test] = &[
    ("life::stop_start_and_restart", stop_start_and_restart),
    ("life::a_domain_that_dies_is_started_again", a_domain_that_dies_is_started_again),
    ("life::a_manual_vm_starts_when_told_to", a_manual_vm_starts_when_told_to),
];

fn console(world: &World, vm: &str) -> anyhow::Result<String> {
    Ok(world.installation.ucloudctl(&["console", vm, "--log", "--lines", "400"])?.ok()?.stdout)
}

fn stop_start_and_restart(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let address = ucloud.answering_address("hello")?;
    let first = ucloud.qemu("hello")?;
    ucloud.ucloudctl(&["stop", "hello"])?.ok()?;
    ucloud.phase("hello", "Stopped")?;
    ensure!(ucloud.qemu("hello").is_err(), "QEMU still runs");
    // the guest was asked, and took part: its console shows the end of its shutdown
    let log = console(world, "hello")?;
    ensure!(log.contains("reboot: Power down"), "the guest did not shut down by itself:\n{log}");
    ucloud.ucloudctl(&["start", "hello"])?.ok()?;
    ucloud.ready("vm/hello")?;
    let second = ucloud.qemu("hello")?;
    ensure!(first != second, "it is the same process");
    ensure!(ucloud.answering_address("hello")? == address, "the address has changed");
    ucloud.ucloudctl(&["restart", "hello"])?.ok()?;
    eventually("hello runs in a new process", BOOT, || {
        Ok(match ucloud.qemu("hello") {
            Ok(pid) if pid != second => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })?;
    ensure!(ucloud.answering_address("hello")? == address, "the address has changed");
    // the second disk partition counts boots: it is the same disk
    let log = console(world, "hello")?;
    ensure!(log.contains("boots: 3") || log.contains("boots: 4"), "the disk did not persist:\n{log}");
    Ok(())
}

fn a_domain_that_dies_is_started_again(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let address = ucloud.answering_address("hello")?;
    let before = ucloud.qemu("hello")?;
    signal::kill(before, Signal::SIGKILL)?;
    eventually("hello runs in a new process", BOOT, || {
        Ok(match ucloud.qemu("hello") {
            Ok(pid) if pid != before => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })?;
    ensure!(ucloud.answering_address("hello")? == address, "the address has changed");
    let vm = ucloud.get("vm/hello")?;
    ensure!(vm["status"]["restarts"].as_u64() >= Some(1), "the restart was not counted: {}", vm["status"]);
    Ok(())
}

fn a_manual_vm_starts_when_told_to(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    ucloud.apply(&Vm { name: "manual", run_strategy: "Manual", ..Vm::default() }.yaml())?.ok()?;
    ucloud.phase("manual", "Stopped")?;
    ucloud.ucloudctl(&["start", "manual"])?.ok()?;
    ucloud.phase("manual", "Running")?;
    let pid = ucloud.qemu("manual")?;
    signal::kill(pid, Signal::SIGKILL)?;
    ucloud.phase("manual", "Stopped")?;
    ucloud.delete(&["vm", "manual"])?;
    eventually("its QEMU is gone", SOON, || {
        Ok(if ucloud_e2e::installation::runs(pid) { Err("it runs".to_owned()) } else { Ok(()) })
    })
}
