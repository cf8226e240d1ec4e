//! Images and disks in a real Ceph: a monitor and an OSD on this machine.

use std::net::Ipv6Addr;

use anyhow::ensure;
use nix::sys::signal::Signal;
use ucloud_e2e::{
    Ceph, Installation, eventually,
    guest::Guest,
    installation::BOOT,
    manifest::{self, Vm},
};

use crate::{Test, World, volumes};

pub const TESTS: &[Test] = &[("ceph::vms_live_on_disks_in_ceph", vms_live_on_disks_in_ceph)];

const VMS: [&str; 2] = ["afloat", "adrift"];

fn vms_live_on_disks_in_ceph(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let ceph = Ceph::start(ucloud, ucloud.data.join("ceph"), Ipv6Addr::LOCALHOST)?;
    ucloud.apply(&ceph.storage_pool("keyless", "nobody"))?.ok()?;
    ucloud.condition("storagepool/keyless", "Ready", "False", "HostsFailing", &["client.nobody", "ceph auth get"])?;
    ucloud.apply(&ceph.storage_pool("ceph", "ucloud"))?.failed(1, &["spec.rbd.pool", "keyless"])?;
    ucloud.delete(&["storagepool", "keyless"])?;
    ucloud.apply(&ceph.storage_pool("ceph", "ucloud"))?.ok()?;
    ucloud.ready("storagepool/ceph")?;

    ucloud.apply(&manifest::image("afloat", "guest.qcow2", "  pool: ceph\n"))?.ok()?;
    volumes::from_guest_to_guest(ucloud, "afloat", Some("ceph"))?;
    let mut expected = vec![format!("ucloud.image.{}", ucloud.uid("image/afloat")?)];
    for name in VMS {
        ucloud.apply(&Vm { name, image: "afloat", pool: Some("ceph"), ..Vm::default() }.yaml())?.ok()?;
        ucloud.ready(&format!("vm/{name}"))?;
        // one after the other: a guest that is emulated waits for each read in a loop, and two leave nothing of two processors
        boots(ucloud, name, 1)?;
        expected.push(format!("ucloud.disk.{}.root", ucloud.uid(&format!("vm/{name}"))?));
    }
    let mut found = ceph.images()?;
    found.retain(|name| !name.starts_with("ucloud.content."));
    found.sort();
    expected.sort();
    ensure!(found == expected, "{found:?}");

    outages(ucloud, &ceph)?;

    // libvirtd forgets the key of Ceph with its death, and QEMU does not need it any more
    let qemu = ucloud.qemu(VMS[0])?;
    ucloud.kill("libvirtd", Signal::SIGKILL)?;
    ucloud.up()?;
    ensure!(ucloud.qemu(VMS[0])? == qemu, "the VM was restarted");
    ucloud.ucloudctl(&["stop", VMS[0]])?.ok()?;
    ucloud.phase(VMS[0], "Stopped")?;
    ucloud.ucloudctl(&["start", VMS[0]])?.ok()?;
    ucloud.ready(&format!("vm/{}", VMS[0]))?;
    boots(ucloud, VMS[0], 2)?;

    // the image goes after the last VM, and its bytes with it
    ucloud.ucloudctl(&["delete", "image", "afloat", "--wait=false"])?.ok()?;
    ucloud.condition("image/afloat", "Terminating", "True", "InUse", &[VMS[0]])?;
    for name in VMS {
        let uid = ucloud.uid(&format!("vm/{name}"))?;
        ucloud.delete(&["vm", name])?;
        ucloud.nothing_left_of(&uid)?;
    }
    ucloud.ucloudctl(&["wait", "--for=delete", "image/afloat", "--timeout", "60s"])?.ok()?;
    let found = ceph.images()?;
    ensure!(found.is_empty(), "left behind: {found:?}");

    crate::snapshots::life_of_an_image(ucloud, Some("ceph"))?;
    let gone = || ceph.images().map(|found| if found.is_empty() { Ok(()) } else { Err(format!("left: {found:?}")) });
    eventually("nothing is left in the pool", BOOT, gone)?;
    ucloud.delete(&["storagepool", "ceph"])
}

/// Ceph has no monitor, and hangs, while a VM runs on it: the guest waits and loses nothing, VMs elsewhere do not notice,
/// what cannot be done meanwhile says why, and an agent that dies meanwhile leaves nothing behind.
fn outages(ucloud: &Installation, ceph: &Ceph) -> anyhow::Result<()> {
    let mut guest = volumes::guest(ucloud, VMS[0])?;
    let write = |guest: &mut Guest, name: &str| {
        let write =
            format!("head -c 262144 /dev/urandom >/tmp/{name}; cp /tmp/{name} /data; sync; touch /tmp/{name}.done");
        guest.run(&format!("(({write}) </dev/null >/dev/null 2>&1 &)"))
    };
    let written = |guest: &mut Guest, name: &str| {
        guest.until(&format!("ls /tmp/{name}.done"), |_| true)?;
        guest.run(&format!("echo 3 >/proc/sys/vm/drop_caches; cmp /tmp/{name} /data/{name} && rm /data/{name}"))
    };

    // It takes Ceph's own patience
    let says = |vm: &str, type_: &str, reason: &str| {
        eventually(&format!("VM {vm} says why it waits"), BOOT, || {
            let conditions = ucloud.get(&format!("vm/{vm}"))?["status"]["conditions"].clone();
            let mut conditions = conditions.as_array().into_iter().flatten();
            let told = conditions.find(|condition| condition["type"] == type_ && condition["reason"] == reason);
            Ok(told.map(|_| ()).ok_or_else(|| "it does not".to_owned()))
        })
    };

    ceph.signal("mon", Signal::SIGSTOP)?;
    write(&mut guest, "alone")?;
    written(&mut guest, "alone")?;
    ceph.signal("mon", Signal::SIGCONT)?;

    ceph.signal("osd", Signal::SIGSTOP)?;
    write(&mut guest, "hung")?;
    ucloud.apply(&Vm { name: "hung", image: "afloat", pool: Some("ceph"), ..Vm::default() }.yaml())?.ok()?;
    ucloud.apply(&Vm { name: "ashore", ..Vm::default() }.yaml())?.ok()?;
    ucloud.ready("vm/ashore")?;
    // it may have left a disk in any pool
    ucloud.ucloudctl(&["delete", "vm", "ashore", "--wait=false"])?.ok()?;
    says("ashore", "Terminating", "StorageTimeout")?;
    says("hung", "Ready", "StorageTimeout")?;
    ensure!(!guest.succeeds("ls /tmp/hung.done")?, "the guest has not waited");
    // The agent dies while it waits for Ceph, for the one's disks and for the other's
    ucloud.kill("ucloud-agent", Signal::SIGKILL)?;
    ceph.signal("osd", Signal::SIGCONT)?;
    ucloud.up()?;
    written(&mut guest, "hung")?;
    ucloud.ucloudctl(&["wait", "--for=delete", "vm/ashore", "--timeout", "120s"])?.ok()?;
    ucloud.ready("vm/hung")?;
    let uid = ucloud.uid("vm/hung")?;
    ucloud.delete(&["vm", "hung"])?;
    ucloud.nothing_left_of(&uid)
}

/// Waits until the guest has counted, on its disk, that it has booted so many times.
fn boots(ucloud: &Installation, vm: &str, times: u8) -> anyhow::Result<()> {
    eventually(&format!("{vm} has booted {times} times from its disk"), BOOT, || {
        let log = ucloud.ucloudctl(&["console", vm, "--log", "--lines", "400"])?.ok()?.stdout;
        Ok(if log.contains(&format!("boots: {times}")) { Ok(()) } else { Err(log) })
    })
}
