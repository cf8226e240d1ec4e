//! Volumes in real guests: what one has written another reads, and whoever downloads it, and it grows while it is used.

use std::{fs, os::unix::fs::MetadataExt as _};

use anyhow::ensure;
use ucloud_e2e::{
    Installation, Run, eventually,
    guest::Guest,
    installation::{BOOT, SOON},
    manifest::Vm,
};

use crate::{Test, World};

pub const TESTS: &[Test] = &[("volumes::a_volume_goes_from_guest_to_guest", in_the_default_pool)];

fn in_the_default_pool(world: &World) -> anyhow::Result<()> {
    from_guest_to_guest(&world.installation, "guest", None)
}

fn volume(name: &str, spec: &str) -> String {
    format!("apiVersion: ucloud.ungleich.ch/v1alpha1\nkind: Volume\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

/// A shell in the guest of this VM.
pub fn guest(ucloud: &Installation, vm: &str) -> anyhow::Result<Guest> {
    ucloud.ready(&format!("vm/{vm}"))?;
    Guest::on(&ucloud.data.join(format!("agent/console/{}.sock", ucloud.uid(&format!("vm/{vm}"))?)))
}

/// What a guest has written to a volume that no VM has is in what is downloaded, and what it has not takes no room.
fn downloaded(ucloud: &Installation, written: &str) -> anyhow::Result<()> {
    let path = ucloud.data.join("data.raw");
    let to = path.to_string_lossy();
    ucloud.ucloudctl(&["volume", "download", "data", &to])?.ok()?;
    let (size, room) = fs::metadata(&path).map(|file| (file.len(), file.blocks() * 512))?;
    ensure!(size == 128 << 20 && room < size / 2, "{size} bytes take {room}");
    let words = ["-c", "head -c 4194304 \"$0\" | sha256sum", &to];
    let found = Run::of(ucloud.command("sh").args(words), "")?.ok()?.stdout;
    fs::remove_file(&path)?;
    ensure!(found.trim() == written, "what was downloaded is something else: {found}");
    Ok(())
}

/// A volume's whole life, with VMs of this image in this pool.
pub fn from_guest_to_guest(ucloud: &Installation, image: &str, pool: Option<&str>) -> anyhow::Result<()> {
    let in_pool = pool.map_or(String::new(), |pool| format!(", pool: {pool}"));
    ucloud.apply(&volume("data", &format!("size: 64Mi{in_pool}")))?.ok()?;
    ucloud.condition("volume/data", "Ready", "False", "Pending", &["first VM"])?;
    ucloud.ucloudctl(&["volume", "download", "data", "-"])?.failed(1, &["the first VM"])?;
    ucloud.apply(&Vm { name: "writer", image, pool, ..Vm::default() }.yaml())?.ok()?;
    let mut writer = guest(ucloud, "writer")?;
    ucloud.ucloudctl(&["attach", "writer", "data"])?.ok()?;
    ucloud.ucloudctl(&["attach", "writer", "data"])?.ok()?;
    let disk = writer.disk("data")?;
    writer.run(&format!("head -c 4194304 /dev/urandom >/dev/{disk} && sync"))?;
    let written = writer.sum(&disk)?;

    // the guest sees it grow, and keeps what it has
    let grow = ["patch", "volume", "data", "--type", "merge", "-p", r#"{"spec": {"size": "128Mi"}}"#];
    ucloud.kubectl(&grow)?.ok()?;
    writer.until(&format!("cat /sys/block/{disk}/size"), |size| size.trim() == "262144")?;
    let shrink = ["patch", "volume", "data", "--type", "merge", "-p", r#"{"spec": {"size": "64Mi"}}"#];
    ucloud.kubectl(&shrink)?.failed(1, &["spec.size", "128Mi"])?;

    // another VM waits for it, and has it as soon as the first lets go
    ucloud.apply(&Vm { name: "reader", image, pool, ..Vm::default() }.yaml())?.ok()?;
    let mut reader = guest(ucloud, "reader")?;
    ucloud.ucloudctl(&["attach", "reader", "data"])?.ok()?;
    ucloud.condition(
        "vm/reader",
        "DisksReady",
        "False",
        "VolumeInUse",
        &["VM writer", "ucloudctl detach writer data"],
    )?;
    ucloud.ucloudctl(&["detach", "writer", "data"])?.ok()?;
    writer.until("cat /sys/block/vd*/serial", |serials| serials.trim() == "root")?;
    let disk = reader.disk("data")?;
    ensure!(reader.sum(&disk)? == written, "the reader reads something else");

    // it survives the VM that has it, and comes to the next one at its start
    ucloud.delete(&["vm", "reader"])?;
    eventually("nobody has it", SOON, || {
        Ok(if ucloud.word("volume/data", "/status/phase")? == "Available" {
            Ok(())
        } else {
            Err("somebody has".to_owned())
        })
    })?;
    downloaded(ucloud, &written)?;
    let runs = |strategy: &str| {
        let patch = format!("{{\"spec\": {{\"runStrategy\": \"{strategy}\"}}}}");
        ucloud.kubectl(&["patch", "vm", "writer", "--type", "merge", "-p", &patch])?.ok()
    };
    runs("Halted")?;
    ucloud.phase("writer", "Stopped")?;
    ucloud.ucloudctl(&["attach", "writer", "data"])?.ok()?;
    runs("Always")?;
    let mut writer = guest(ucloud, "writer")?;
    let disk = writer.disk("data")?;
    ensure!(writer.sum(&disk)? == written, "the writer reads something else");
    let refused = ucloud.ucloudctl(&["volume", "download", "data", "-"])?;
    refused.failed(1, &["VM writer has the volume", "ucloudctl snapshot volume/data"])?;

    // what a VM has is not deleted, and says for whom it waits; what is left of it goes with it
    let uid = ucloud.uid("volume/data")?;
    ucloud.ucloudctl(&["delete", "volume", "data", "--wait=false"])?.ok()?;
    ucloud.condition("volume/data", "Terminating", "True", "Attached", &["VM writer"])?;
    ucloud.ucloudctl(&["detach", "writer", "data"])?.ok()?;
    eventually("the volume is gone", BOOT, || {
        Ok(if ucloud.get("volume/data").is_err() { Ok(()) } else { Err("it is there".to_owned()) })
    })?;
    ucloud.delete(&["vm", "writer"])?;
    ucloud.nothing_left_of(&uid)
}
