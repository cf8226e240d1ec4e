//! The life of an image: from a file on a laptop to ten VMs, a snapshot of one that runs, back to a laptop, another made of it,
//! which grows, the first one taken back to it, and the end of all of them. What is written in guests is read in guests.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use ucloud_e2e::{Installation, Run, eventually, guest::Guest, installation::SOON, manifest::Vm};

use crate::{Test, World, volumes};

pub const TESTS: &[Test] = &[
    ("snapshots::ten_vms_of_one_upload_and_one_of_a_snapshot", in_the_default_pool),
    ("snapshots::a_host_that_dies_while_it_takes_one", host_that_dies),
];

/// So much of the image is compared: the partition table, the boot loader, and a part of the kernel, which no guest writes to.
const COMPARED: usize = 8 << 20;
/// What a guest keeps, in the partition that outlives boots.
const PRECIOUS: &str = "/data/precious";

fn in_the_default_pool(world: &World) -> anyhow::Result<()> {
    life_of_an_image(&world.installation, None)
}

/// What the disks of all VMs of the image begin with.
fn expected(ucloud: &Installation) -> anyhow::Result<String> {
    let raw = ucloud.data.join("laptop.raw");
    let image = ucloud.data.join("import/default/guest.qcow2");
    Run::of(ucloud.command("qemu-img").args(["convert", "-O", "raw"]).arg(image).arg(&raw), "")?.ok()?;
    let said = Run::of(ucloud.command("truncate").arg(format!("--size={COMPARED}")).arg(&raw), "")
        .and_then(Run::ok)
        .and_then(|_| Run::of(ucloud.command("sha256sum").arg(&raw), "")?.ok())?;
    fs::remove_file(raw)?;
    said.stdout.split(' ').next().map(str::to_owned).context("no checksum")
}

fn runs(ucloud: &Installation, vm: &str, strategy: &str) -> anyhow::Result<()> {
    let patch = format!("{{\"spec\": {{\"runStrategy\": \"{strategy}\"}}}}");
    ucloud.kubectl(&["patch", "vm", vm, "--type", "merge", "-p", &patch])?.ok().map(drop)
}

fn sum(guest: &mut Guest) -> anyhow::Result<String> {
    let said = guest.run(&format!("echo 3 >/proc/sys/vm/drop_caches; sha256sum {PRECIOUS}"))?;
    said.split_whitespace().next().map(str::to_owned).context("no checksum")
}

/// Agent, libvirtd and QEMU are killed at once, as with the power: at some moment of a snapshot, and of a disk's growth.
fn host_that_dies(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    ucloud.apply(&Vm { name: "mortal", ..Vm::default() }.yaml())?.ok()?;
    let mut guest = volumes::guest(ucloud, "mortal")?;
    guest.run(&format!("head -c 2097152 /dev/urandom >{PRECIOUS} && sync"))?;
    let written = sum(&mut guest)?;
    let dies = || -> anyhow::Result<()> {
        let qemu = ucloud.qemu("mortal")?;
        ucloud.kill("ucloud-agent", Signal::SIGKILL)?;
        ucloud.kill("libvirtd", Signal::SIGKILL)?;
        kill(qemu, Signal::SIGKILL)?;
        ucloud.up()?;
        // what was reported before still stands for a moment
        eventually("it is started again", SOON, || Ok(ucloud.qemu("mortal").map_err(|error| error.to_string())))?;
        ucloud.ready("vm/mortal")
    };
    let moments = [0, 60, 250];
    for (number, pause) in moments.into_iter().enumerate() {
        let kind = "apiVersion: ucloud.ungleich.ch/v1alpha1\nkind: Snapshot\n";
        ucloud.apply(&format!("{kind}metadata: {{name: last-{number}}}\nspec: {{vm: mortal}}\n"))?.ok()?;
        eventually("it is begun", SOON, || {
            let phase = ucloud.get(&format!("snapshot/last-{number}"))?["status"]["phase"].clone();
            Ok(if phase == "Taking" || phase == "Ready" { Ok(()) } else { Err(phase.to_string()) })
        })?;
        std::thread::sleep(Duration::from_millis(pause));
        dies()?;
        ucloud.ready(&format!("snapshot/last-{number}"))?;
    }
    let grow = r#"[{"op": "add", "path": "/spec/disks/0/size", "value": "128Mi"}]"#;
    ucloud.kubectl(&["patch", "vm", "mortal", "--type", "json", "-p", grow])?.ok()?;
    dies()?;
    let mut guest = volumes::guest(ucloud, "mortal")?;
    let disk = guest.disk("root")?;
    guest.until(&format!("cat /sys/block/{disk}/size"), |size| size.trim() == "262144")?;
    ensure!(sum(&mut guest)? == written, "it was lost with the host");

    guest.run(&format!("rm {PRECIOUS} && sync"))?;
    runs(ucloud, "mortal", "Halted")?;
    ucloud.phase("mortal", "Stopped")?;
    for number in 0..moments.len() {
        ucloud.ucloudctl(&["restore", &format!("last-{number}"), "--in-place"])?.ok()?;
        runs(ucloud, "mortal", "Always")?;
        ensure!(sum(&mut volumes::guest(ucloud, "mortal")?)? == written, "snapshot {number} shows something else");
        runs(ucloud, "mortal", "Halted")?;
        ucloud.phase("mortal", "Stopped")?;
        ucloud.delete(&["snapshot", &format!("last-{number}")])?;
    }
    let uid = ucloud.uid("vm/mortal")?;
    ucloud.delete(&["vm", "mortal"])?;
    ucloud.nothing_left_of(&uid)?;
    eventually("no image of a snapshot is left", SOON, || {
        let images = ucloud.get("images")?["items"].clone();
        let names = images.as_array().into_iter().flatten().filter_map(|image| image["metadata"]["name"].as_str());
        let left: Vec<_> = names.filter(|name| name.starts_with("last-")).collect();
        Ok(if left.is_empty() { Ok(()) } else { Err(left.join(", ")) })
    })?;
    Ok(())
}

/// The disk in this image, downloaded as far as it is compared, begins as all of them do.
fn downloaded(ucloud: &Installation, image: &str, expected: &str) -> anyhow::Result<()> {
    let path = ucloud.data.join("downloaded.raw");
    let to = path.to_string_lossy();
    let said = ucloud.ucloudctl(&["image", "download", image, &to, "-o", "json"])?.ok()?.stdout;
    let words = ["-c", &format!("head -c {COMPARED} \"$0\" | sha256sum"), &to];
    let found = Run::of(ucloud.command("sh").args(words), "")?.ok()?.stdout;
    let size = fs::metadata(&path)?.len();
    fs::remove_file(&path)?;
    ensure!(found.starts_with(expected), "image {image} was downloaded as something else: {found}");
    ensure!(said.contains(&format!("\"size\": {size}")), "{size} bytes came: {said}");
    Ok(())
}

/// The whole life, in this pool.
pub fn life_of_an_image(ucloud: &Installation, pool: Option<&str>) -> anyhow::Result<()> {
    let path = ucloud.data.join("import/default/guest.qcow2");
    let path = path.to_str().context("the path is no text")?;
    let mut upload = vec!["image", "upload", "golden", path];
    upload.extend(pool.iter().flat_map(|pool| ["--pool", pool]));
    ucloud.ucloudctl(&upload)?.ok()?;
    let expected = expected(ucloud)?;

    let names: Vec<_> = (0..10).map(|number| format!("clone-{number}")).collect();
    // guests that are emulated and wait for Ceph leave each other nothing of two processors
    for together in names.chunks(if pool.is_some() { 1 } else { 5 }) {
        for name in together {
            ucloud.apply(&Vm { name, image: "golden", pool, ..Vm::default() }.yaml())?.ok()?;
        }
        for name in together {
            let mut guest = volumes::guest(ucloud, name)?;
            let disk = guest.disk("root")?;
            let said = guest.run(&format!("head -c {COMPARED} /dev/{disk} | sha256sum"))?;
            ensure!(said.trim().starts_with(&expected), "the disk of {name} begins with something else: {said}");
            guest.run(&format!("echo {name} >/data/name && sync"))?;
            runs(ucloud, name, "Halted")?;
        }
    }

    // a snapshot of a VM that runs shows what was there, and not what came later
    runs(ucloud, "clone-7", "Always")?;
    let mut guest = volumes::guest(ucloud, "clone-7")?;
    ensure!(guest.run("cat /data/name")?.trim() == "clone-7", "the guest has lost its name");
    guest.run(&format!("head -c 2097152 /dev/urandom >{PRECIOUS} && sync"))?;
    let written = sum(&mut guest)?;
    let said = ucloud.ucloudctl(&["snapshot", "clone-7", "before"])?.ok()?.stdout;
    ensure!(said.contains("image before-root (as after a failure of power)"), "{said}");
    guest.run(&format!("rm {PRECIOUS} && sync"))?;
    // where the guest's agent answers, its file systems are written out first, and go on afterwards
    guest.run("(/etc/rc.agent </dev/null >/dev/null 2>&1 &); sleep 3")?;
    let said = ucloud.ucloudctl(&["snapshot", "clone-7", "quiet"])?.ok()?.stdout;
    ensure!(said.contains("its file systems were written out"), "{said}");
    guest.run("echo on >/data/on && sync")?;
    runs(ucloud, "clone-7", "Halted")?;
    ucloud.phase("clone-7", "Stopped")?;
    // and of one that is off
    ucloud.ucloudctl(&["snapshot", "vm/clone-7", "after"])?.ok()?;
    for image in ["golden", "before-root", "after-root"] {
        downloaded(ucloud, image, &expected)?;
    }

    ucloud.ucloudctl(&["restore", "before", "revived"])?.ok()?;
    let mut guest = volumes::guest(ucloud, "revived")?;
    ensure!(sum(&mut guest)? == written, "what was written before the snapshot is not there");
    ensure!(guest.run("cat /data/name")?.trim() == "clone-7", "it is the disk of another VM");
    let disk = guest.disk("root")?;
    let grow = r#"[{"op": "add", "path": "/spec/disks/0/size", "value": "128Mi"}]"#;
    ucloud.kubectl(&["patch", "vm", "revived", "--type", "json", "-p", grow])?.ok()?;
    guest.until(&format!("cat /sys/block/{disk}/size"), |size| size.trim() == "262144")?;
    ensure!(sum(&mut guest)? == written, "it was lost by growing");

    // the VM itself goes back to it, while it is halted
    ucloud.ucloudctl(&["restore", "before", "--in-place"])?.ok()?;
    runs(ucloud, "clone-7", "Always")?;
    ucloud.ucloudctl(&["restore", "before", "--in-place"])?.failed(1, &["spec.runStrategy is Halted"])?;
    let mut guest = volumes::guest(ucloud, "clone-7")?;
    ensure!(sum(&mut guest)? == written, "what was removed after the snapshot is not there again");
    guest.run("[ ! -e /data/on ]").context("what was written after the snapshot is still there")?;

    // what is made of a snapshot does without it
    ucloud.delete(&["snapshot", "after"])?;
    ucloud.delete(&["snapshot", "quiet"])?;
    ucloud.ucloudctl(&["delete", "snapshot", "before"])?.ok()?;
    ucloud.condition("image/before-root", "Terminating", "True", "InUse", &["revived"])?;
    let mut uids = vec![ucloud.uid("vm/revived")?];
    ucloud.delete(&["vm", "revived"])?;
    for name in &names {
        uids.push(ucloud.uid(&format!("vm/{name}"))?);
        ucloud.delete(&["vm", name])?;
    }
    ucloud.delete(&["image", "golden"])?;
    eventually("the image of the snapshot goes with the last VM of it", SOON, || {
        Ok(if ucloud.get("image/before-root").is_err() { Ok(()) } else { Err("it is there".to_owned()) })
    })?;
    uids.iter().try_for_each(|uid| ucloud.nothing_left_of(uid))?;
    Ok(())
}
