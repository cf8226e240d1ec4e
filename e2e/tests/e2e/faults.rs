//! Faults: each program killed and started again, deletion in the middle of a start, a disk that is full. VMs
//! run on, everything converges when the cause is gone, and nothing is lost or left over.

use std::{fs, process::Command};

use anyhow::ensure;
use nix::sys::signal::Signal;
use ucloud_e2e::{
    Run, eventually,
    installation::{BOOT, SOON, ping},
    manifest::{self, Vm},
};

use crate::{Test, World, volumes};

pub const TESTS: &[Test] = &[
    ("faults::deletion_while_starting", deletion_while_starting),
    ("faults::etcd_killed_and_started_again", etcd_killed_and_started_again),
    ("faults::api_server_killed_and_started_again", api_server_killed_and_started_again),
    ("faults::agent_killed", agent_killed),
    ("faults::deletion_while_the_agent_is_away", deletion_while_the_agent_is_away),
    ("faults::what_has_lost_its_object_is_destroyed_or_adopted", orphans),
    ("faults::libvirtd_killed_and_started_again", libvirtd_killed_and_started_again),
    ("faults::controllers_killed", controllers_killed),
    ("faults::disk_full_while_importing", disk_full_while_importing),
];

fn deletion_while_starting(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    // at once, and at whatever stage each of the phases is first seen
    for phase in [None, Some("Provisioning"), Some("Starting"), Some("Running")] {
        ucloud.apply(&Vm { name: "brief", network: Some("lan"), ..Vm::default() }.yaml())?.ok()?;
        if let Some(phase) = phase {
            eventually("brief comes to life", SOON, || {
                let now = ucloud.word("vm/brief", "/status/phase")?;
                Ok(if now == phase || now == "Running" { Ok(()) } else { Err(now) })
            })?;
        }
        let uid = ucloud.uid("vm/brief")?;
        ucloud.delete(&["vm", "brief"])?;
        ucloud.nothing_left_of(&uid)?;
    }
    Ok(())
}

/// Kills a program while a VM runs; what users then ask for fails clearly, the VM runs on, and everything works
/// again when the program is back.
fn killed_and_started_again(world: &World, program: &str, said: &str) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let (address, qemu) = (ucloud.answering_address("hello")?, ucloud.qemu("hello")?);
    ucloud.kill(program, Signal::SIGKILL)?;
    let run = ucloud.apply(&Vm { name: "after", ..Vm::default() }.yaml())?;
    ensure!(run.code == 1 && run.stderr.contains(said), "no clear error: {run:?}");
    ensure!(ping(&address)?, "the VM no longer answers");
    ucloud.up()?;
    ensure!(ucloud.qemu("hello")? == qemu, "the VM was restarted");
    ucloud.apply(&Vm { name: "after", network: Some("lan"), ..Vm::default() }.yaml())?.ok()?;
    ucloud.ready("vm/after")?;
    ucloud.answering_address("after")?;
    ucloud.delete(&["vm", "after"])
}

fn etcd_killed_and_started_again(world: &World) -> anyhow::Result<()> {
    killed_and_started_again(world, "etcd", "etcd")
}

fn api_server_killed_and_started_again(world: &World) -> anyhow::Result<()> {
    killed_and_started_again(world, "ucloud-api", "cannot reach the API server")
}

fn controllers_killed(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    ucloud.kill("ucloud-controllers", Signal::SIGKILL)?;
    ucloud.apply(&Vm { name: "waiting", ..Vm::default() }.yaml())?.ok()?;
    ucloud.up()?;
    ucloud.ready("vm/waiting")?;
    ucloud.delete(&["vm", "waiting"])
}

fn agent_killed(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let (address, qemu) = (ucloud.answering_address("hello")?, ucloud.qemu("hello")?);
    let restarts = ucloud.get("vm/hello")?["status"]["restarts"].clone();
    ucloud.kill("ucloud-agent", Signal::SIGKILL)?;
    ensure!(ping(&address)?, "the VM no longer answers");
    ucloud.up()?;
    ensure!(ucloud.qemu("hello")? == qemu, "the VM was not adopted");
    let vm = ucloud.get("vm/hello")?;
    ensure!(vm["status"]["restarts"] == restarts, "a restart was counted: {}", vm["status"]);
    ensure!(ucloud.answering_address("hello")? == address, "the address was lost");
    Ok(())
}

fn deletion_while_the_agent_is_away(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    ucloud.apply(&Vm { name: "orphan", network: Some("lan"), ..Vm::default() }.yaml())?.ok()?;
    ucloud.ready("vm/orphan")?;
    let uid = ucloud.uid("vm/orphan")?;
    ucloud.kill("ucloud-agent", Signal::SIGKILL)?;
    ucloud.ucloudctl(&["delete", "vm", "orphan", "--timeout", "1s"])?.failed(4, &["ucloud.ungleich.ch/agent"])?;
    ucloud.up()?;
    ucloud.ucloudctl(&["wait", "--for=delete", "vm/orphan", "--timeout", "60s"])?.ok()?;
    ucloud.nothing_left_of(&uid)
}

/// Somebody takes the finalizer from a VM while its agent is away: the domain is destroyed, and the disk becomes a Volume.
fn orphans(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    ucloud.apply(&Vm { name: "lost", ..Vm::default() }.yaml())?.ok()?;
    let mut guest = volumes::guest(ucloud, "lost")?;
    guest.run("echo precious >/data/kept && sync")?;
    let uid = ucloud.uid("vm/lost")?;
    ucloud.kill("ucloud-agent", Signal::SIGKILL)?;
    ucloud.ucloudctl(&["delete", "vm", "lost", "--wait=false"])?.ok()?;
    ucloud.kubectl(&["patch", "vm", "lost", "--type", "merge", "-p", r#"{"metadata": {"finalizers": null}}"#])?.ok()?;
    ucloud.up()?;
    let find = |kind: &str| {
        eventually(&format!("the {kind} is found"), BOOT, || {
            let all = ucloud.get("orphans")?["items"].clone();
            let mut all = all.as_array().into_iter().flatten();
            let found = all.find(|orphan| orphan["spec"]["uid"] == *uid && orphan["spec"]["kind"] == *kind);
            let name = found.and_then(|orphan| orphan["metadata"]["name"].as_str().map(str::to_owned));
            Ok(name.ok_or_else(|| "it is not".to_owned()))
        })
    };
    let (domain, disk) = (find("Domain")?, find("Disk")?);
    ucloud.ucloudctl(&["adopt", &domain, "--as", "rescued"])?.failed(1, &["ucloudctl destroy"])?;
    ucloud.ucloudctl(&["destroy", &domain, "--yes", "--timeout", "2m"])?.ok()?;
    ucloud.ucloudctl(&["adopt", &disk, "--as", "rescued"])?.ok()?;
    ucloud.ready("volume/rescued")?;
    eventually("what was adopted is no orphan any more", SOON, || {
        Ok(if ucloud.get(&format!("orphan/{disk}")).is_err() { Ok(()) } else { Err("it is".to_owned()) })
    })?;

    let root = r#"[{"op": "replace", "path": "/spec/disks", "value": [{"name": "root", "volume": "rescued"}]}]"#;
    ucloud.apply(&Vm { name: "heir", run_strategy: "Halted", ..Vm::default() }.yaml())?.ok()?;
    ucloud.kubectl(&["patch", "vm", "heir", "--type", "json", "-p", root])?.ok()?;
    ucloud.ucloudctl(&["start", "heir"])?.ok()?;
    ensure!(volumes::guest(ucloud, "heir")?.run("cat /data/kept")?.trim() == "precious", "it is another disk");
    ucloud.delete(&["vm", "heir"])?;
    ucloud.delete(&["volume", "rescued"])?;
    ucloud.nothing_left_of(&uid)
}

fn libvirtd_killed_and_started_again(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let (address, qemu) = (ucloud.answering_address("hello")?, ucloud.qemu("hello")?);
    let host = fs::read_to_string(ucloud.data.join("host-name"))?;
    ucloud.kill("libvirtd", Signal::SIGKILL)?;
    ucloud.condition(&format!("host/{}", host.trim()), "Ready", "False", "HypervisorUnavailable", &["libvirt"])?;
    ensure!(ping(&address)?, "the VM no longer answers");
    ucloud.up()?;
    ensure!(ucloud.qemu("hello")? == qemu, "the VM was restarted");
    ucloud.apply(&Vm { name: "after", ..Vm::default() }.yaml())?.ok()?;
    ucloud.ready("vm/after")?;
    ucloud.delete(&["vm", "after"])
}

fn disk_full_while_importing(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let path = ucloud.data.join("small");
    fs::create_dir(&path)?;
    let mount = |options: &str| {
        Run::of(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path), "")?.ok()
    };
    mount("size=4m,mode=711")?;
    let pool = format!(
        "apiVersion: ucloud.ungleich.ch/v1alpha1\nkind: StoragePool\nmetadata: {{name: small}}\nspec: {{directory: {{path: {}}}}}\n",
        path.display()
    );
    let result = (|| {
        ucloud.apply(&pool)?.ok()?;
        ucloud.apply(&manifest::image("squeezed", "guest.qcow2", "  pool: small\n"))?.ok()?;
        ucloud.condition("image/squeezed", "Ready", "False", "StorageFull", &["small"])?;
        let mut left = ucloud_e2e::machine::files_below(&path)?;
        // by which those who write into the pool take turns
        left.retain(|file| *file != path.join("lock"));
        ensure!(left.is_empty(), "half an image is left: {left:?}");
        mount("remount,size=256m")?;
        ucloud.ready("image/squeezed")?;
        ucloud.delete(&["image", "squeezed"])?;
        ucloud.delete(&["storagepool", "small"])
    })();
    Run::of(Command::new("umount").arg(&path), "")?.ok()?;
    fs::remove_dir(&path)?;
    result
}
