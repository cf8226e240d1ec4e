//! From a file on a laptop to a running VM.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ucloud_e2e::{Run, eventually, guest::Guest, installation::SOON, manifest::Vm};

use crate::{Test, World};

pub const TESTS: &[Test] = &[
    ("uploads::an_image_is_uploaded_across_a_kill_of_the_agent", an_image_is_uploaded_across_a_kill_of_the_agent),
    ("uploads::an_image_that_is_made_anew_is_of_the_new_bytes", an_image_that_is_made_anew_is_of_the_new_bytes),
    ("uploads::a_file_comes_back_as_it_was", a_file_comes_back_as_it_was),
    ("uploads::what_is_dropped_into_a_folder_becomes_files", what_is_dropped_into_a_folder_becomes_files),
    ("uploads::every_command_of_the_user_guide_works", every_command_of_the_user_guide_works),
];

/// What is on the laptop.
fn laptop(world: &World) -> anyhow::Result<PathBuf> {
    let folder = world.installation.data.join("laptop");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn guest_image(world: &World) -> PathBuf {
    world.installation.data.join("import/default/guest.qcow2")
}

/// What has come of a File so far, on the disk of its host.
fn arrived(world: &World, uid: &str) -> u64 {
    let part = world.installation.data.join(format!("pool/files/{uid}.part"));
    fs::metadata(part).map_or(0, |metadata| metadata.len())
}

fn an_image_is_uploaded_across_a_kill_of_the_agent(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let path = laptop(world)?.join("large.qcow2");
    // with every byte of a larger disk written out, so that the upload takes its time
    let larger = laptop(world)?.join("larger.qcow2");
    fs::copy(guest_image(world), &larger)?;
    Run::of(ucloud.command("qemu-img").args(["resize", "-q"]).arg(&larger).arg("512M"), "")?.ok()?;
    let convert = ["convert", "-O", "qcow2", "-o", "preallocation=full"];
    Run::of(ucloud.command("qemu-img").args(convert).arg(&larger).arg(&path), "")?.ok()?;
    let mut upload = ucloud.command("ucloudctl");
    upload.args(["image", "upload", "mine"]).arg(&path).stdout(Stdio::piped()).stderr(Stdio::piped());
    let upload = upload.spawn()?;
    let uid =
        eventually("the File is there", SOON, || Ok(ucloud.uid("file/mine").map_err(|error| format!("{error}"))))?;
    eventually("something has come", SOON, || {
        Ok(if arrived(world, &uid) > 0 { Ok(()) } else { Err("nothing".to_owned()) })
    })?;
    ucloud.kill("ucloud-agent", Signal::SIGKILL)?;
    let (kept, size) = (arrived(world, &uid), fs::metadata(&path)?.len());
    ensure!(kept > 0 && kept < size, "{kept} of {size} bytes had come: it was not half way");
    ucloud.up()?;
    let output = upload.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the upload did not go on: {said}");
    ensure!(said.contains("trying again"), "it noticed nothing: {said}");

    ucloud.apply(&Vm { name: "mine", image: "mine", ..Vm::default() }.yaml())?.ok()?;
    ucloud.ready("vm/mine")?;
    let socket = ucloud.data.join(format!("agent/console/{}.sock", ucloud.uid("vm/mine")?));
    let release = Guest::on(&socket)?.run("uname -r")?;
    ensure!(!release.trim().is_empty(), "the guest says nothing");

    ucloud.delete(&["vm", "mine"])?;
    ucloud.delete(&["image", "mine"])?;
    eventually("the File goes with its Image", SOON, || {
        Ok(if ucloud.get("file/mine").is_err() { Ok(()) } else { Err("it is there".to_owned()) })
    })?;
    ucloud.nothing_left_of(&uid)
}

fn sum(path: &Path) -> anyhow::Result<String> {
    let said = Run::of(std::process::Command::new("sha256sum").arg(path), "")?.ok()?.stdout;
    said.split(' ').next().map(str::to_owned).context("no checksum")
}

/// The File of the one before may still be there, complete, when its successor is made.
fn an_image_that_is_made_anew_is_of_the_new_bytes(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let [old, new] = ["old.raw", "new.raw"].map(|name| Ok::<_, anyhow::Error>(laptop(world)?.join(name)));
    let (old, new) = (old?, new?);
    fs::write(&old, vec![1; 1 << 20])?;
    fs::write(&new, vec![2; 1 << 20])?;
    let upload =
        |path: &PathBuf| ucloud.ucloudctl(&["image", "upload", "anew", &path.to_string_lossy(), "--format", "raw"]);
    upload(&old)?.ok()?;
    upload(&new)?.failed(1, &["anew", "choose another name"])?;
    ucloud.kubectl(&["delete", "image/anew", "--wait=false"])?.ok()?;
    upload(&new)?.ok()?;
    let image = ucloud.get("image/anew")?;
    ensure!(image["status"]["sha256"] == format!("sha256:{}", sum(&new)?), "{image}");
    ucloud.delete(&["image", "anew"])
}

fn a_file_comes_back_as_it_was(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let (path, copy) = (laptop(world)?.join("file"), laptop(world)?.join("copy"));
    fs::copy(guest_image(world), &path)?;
    let (from, to) = (path.to_string_lossy().into_owned(), copy.to_string_lossy().into_owned());
    ucloud.ucloudctl(&["file", "upload", "notes", &from])?.ok()?;
    let again = ucloud.ucloudctl(&["file", "upload", "notes", &from, "-o", "json"])?.ok()?;
    let file: serde_json::Value = serde_json::from_str(&again.stdout)?;
    ensure!(file["status"]["sha256"] == format!("sha256:{}", sum(&path)?), "{file}");
    fs::write(laptop(world)?.join("copy.part"), &fs::read(&path)?[..1000])?;
    ucloud.ucloudctl(&["file", "download", "notes", &to])?.ok()?;
    ensure!(sum(&path)? == sum(&copy)?, "the copy differs");
    fs::write(laptop(world)?.join("copy.part"), "other bytes")?;
    ucloud.ucloudctl(&["file", "download", "notes", &to])?.failed(1, &["thrown away"])?;
    ucloud.ucloudctl(&["file", "download", "absent", &to])?.failed(3, &["absent"])?;

    fs::write(&path, "other bytes")?;
    ucloud.ucloudctl(&["file", "upload", "notes", &from])?.failed(1, &["for other bytes", "choose another name"])?;
    ucloud.ucloudctl(&["file", "upload", "../notes", &from])?.failed(1, &["metadata.name"])?;
    ucloud.delete(&["file", "notes"])
}

fn what_is_dropped_into_a_folder_becomes_files(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let folder = ucloud.data.join("drop");
    let root = folder.to_string_lossy().into_owned();
    for namespace in ["default", "nowhere"] {
        fs::create_dir_all(folder.join(namespace))?;
    }
    let good = folder.join("default/dropped.qcow2");
    fs::copy(guest_image(world), &good)?;
    fs::write(folder.join("default/half.iso.part"), "half")?;
    let bad =
        [("default/Bad Name.iso", "rename it, such as to bad-name.iso"), ("nowhere/a.iso", "\"nowhere\" not found")];
    for (path, _) in bad {
        fs::write(folder.join(path), "bytes")?;
    }
    symlink(&good, folder.join("default/link"))?;
    let once: [&str; 6] = ["file", "scan", &root, "--once", "--settle", "1s"];
    let said = ucloud.ucloudctl(&once)?.failed(1, &["3 of 4 were not uploaded"])?.stdout;
    for told in bad.map(|(_, told)| told).iter().chain(&["is a link", "dropped.qcow2: is file/dropped.qcow2"]) {
        ensure!(said.contains(told), "{told:?} is not in {said}");
    }
    ensure!(!said.contains("half"), "a temporary name is nobody's business: {said}");
    let file = ucloud.get("file/dropped.qcow2")?;
    ensure!(file["status"]["sha256"] == format!("sha256:{}", sum(&good)?), "{file}");

    for (path, _) in bad.iter().chain(&[("default/link", "")]) {
        fs::remove_file(folder.join(path))?;
    }
    ucloud.ucloudctl(&once)?.ok()?;
    let json = ucloud.ucloudctl(&[&once[..], &["-o", "json"][..]].concat())?.ok()?.stdout;
    let last: serde_json::Value = serde_json::from_str(json.lines().last().unwrap_or_default())?;
    ensure!(last["state"] == "Uploaded", "{json}");
    fs::write(&good, "other bytes")?;
    let said = ucloud.ucloudctl(&once)?.failed(1, &["1 of 1 were not uploaded"])?.stdout;
    ensure!(said.contains("for other bytes"), "{said}");
    ensure!(ucloud.get("file/dropped.qcow2")?["spec"] == file["spec"], "a File is never replaced");
    fs::remove_file(&good)?;

    // while it runs: a file that is written in two goes is one File, with all of it
    let mut scan = ucloud.command("ucloudctl");
    scan.args(["file", "scan", &root, "--settle", "3s"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let scan = scan.spawn()?;
    let (slow, image) = (folder.join("default/slow.qcow2"), fs::read(guest_image(world))?);
    let (first, second) = image.split_at(image.len() / 2);
    let mut writer = fs::File::create(&slow)?;
    writer.write_all(first)?;
    std::thread::sleep(Duration::from_secs(1));
    writer.write_all(second)?;
    drop(writer);
    let file =
        eventually("the File is there", SOON, || Ok(ucloud.uid("file/slow.qcow2").map_err(|error| format!("{error}"))))
            .and_then(|_| ucloud.ready("file/slow.qcow2"))
            .and_then(|()| ucloud.get("file/slow.qcow2"));
    kill(Pid::from_raw(i32::try_from(scan.id())?), Signal::SIGINT)?;
    let file = file?;
    ensure!(file["status"]["sha256"] == format!("sha256:{}", sum(&slow)?), "{file}");
    let ended = scan.wait_with_output()?;
    ensure!(ended.status.code() == Some(130), "it ended with {:?}", ended.status);
    ensure!(slow.exists(), "what was dropped stays where it is");
    ucloud.delete(&["file", "dropped.qcow2"])?;
    ucloud.delete(&["file", "slow.qcow2"])?;
    fs::remove_dir_all(folder)?;
    Ok(())
}

/// The commands of all `sh` blocks in the section on uploads, with the guest's image as the one on the laptop.
fn every_command_of_the_user_guide_works(world: &World) -> anyhow::Result<()> {
    const TITLE: &str = "From a file on your laptop to a running VM";
    let ucloud = &world.installation;
    let guide = fs::read_to_string(ucloud.root().join("docs/user-guide.md"))?;
    let section = guide.split("\n## ").find(|section| section.starts_with(TITLE));
    let section = section.with_context(|| format!("no section {TITLE:?}"))?;
    let blocks: Vec<_> = section.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let commands = blocks.concat();
    ensure!(
        commands.contains("image upload") && commands.contains("delete"),
        "not from a file to nothing:\n{commands}"
    );
    let folder = laptop(world)?;
    fs::copy(guest_image(world), folder.join("debian-12.qcow2"))?;
    let mut shell = ucloud.command("bash");
    Run::of(shell.args(["-xeuo", "pipefail", "-c", &commands]).current_dir(&folder), "")?.ok()?;
    ensure!(sum(&folder.join("debian-12.qcow2"))? == sum(&folder.join("copy.qcow2"))?, "the copy differs");
    fs::remove_dir_all(folder)?;
    Ok(())
}
