//! Bad input: each ends in a clear error or condition, changes nothing, and converges when the cause is gone.

use anyhow::ensure;
use ucloud_e2e::{
    Installation,
    manifest::{self, Vm},
};

use crate::{Test, World};

pub const TESTS: &[Test] = &[
    ("bad_input::unknown_field", unknown_field),
    ("bad_input::wrong_type", wrong_type),
    ("bad_input::unknown_kind", unknown_kind),
    ("bad_input::no_cpus", no_cpus),
    ("bad_input::ten_tebibytes_of_memory", ten_tebibytes_of_memory),
    ("bad_input::missing_image", missing_image),
    ("bad_input::wrong_checksum", wrong_checksum),
    ("bad_input::missing_network", missing_network),
    ("bad_input::one_mac_twice", one_mac_twice),
];

/// Fails if there is a VM of this name.
fn absent(ucloud: &Installation, vm: &str) -> anyhow::Result<()> {
    ucloud.ucloudctl(&["get", "vm", vm])?.failed(3, &[]).map(|_| ())
}

fn unknown_field(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let manifest = format!("{}  colour: blue\n", Vm { name: "bad", ..Vm::default() }.yaml());
    ucloud.apply(&manifest)?.failed(1, &["spec.colour", "field not declared in schema", "standard input", "bad"])?;
    absent(ucloud, "bad")
}

fn wrong_type(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let manifest = Vm { name: "bad", cpus: "many", memory: "[]", ..Vm::default() }.yaml();
    // every error at once, each with its path
    ucloud.apply(&manifest)?.failed(1, &["spec.cpus", "spec.memory", "integer"])?;
    absent(ucloud, "bad")
}

fn unknown_kind(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let manifest = "apiVersion: ucloud.ungleich.ch/v1alpha1\nkind: Toaster\nmetadata: {name: bad}\n";
    ucloud.apply(manifest)?.failed(1, &["Toaster", "ucloud.ungleich.ch/v1alpha1", "vms"])?;
    Ok(())
}

fn no_cpus(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    ucloud
        .apply(&Vm { name: "bad", cpus: "0", ..Vm::default() }.yaml())?
        .failed(1, &["spec.cpus", "greater than or equal to 1"])?;
    absent(ucloud, "bad")
}

fn ten_tebibytes_of_memory(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    ucloud.apply(&Vm { name: "huge", memory: "10Ti", ..Vm::default() }.yaml())?.ok()?;
    ucloud.condition(
        "vm/huge",
        "Scheduled",
        "False",
        "Unschedulable",
        &["0/1 hosts fit", "lacks memory", "need 10Ti"],
    )?;
    ucloud.apply(&Vm { name: "huge", ..Vm::default() }.yaml())?.ok()?;
    ucloud.ready("vm/huge")?;
    ucloud.delete(&["vm", "huge"])
}

fn missing_image(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    ucloud.apply(&Vm { name: "imageless", image: "later", ..Vm::default() }.yaml())?.ok()?;
    ucloud.condition("vm/imageless", "Ready", "False", "ImageNotFound", &["later"])?;
    ucloud.apply(&manifest::image("later", "guest.qcow2", ""))?.ok()?;
    ucloud.ready("vm/imageless")?;
    ucloud.delete(&["vm", "imageless"])?;
    ucloud.delete(&["image", "later"])
}

fn wrong_checksum(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let wrong = format!("  checksum: sha256:{}\n", "0".repeat(64));
    ucloud.apply(&manifest::image("checked", "guest.qcow2", &wrong))?.ok()?;
    ucloud.condition("image/checked", "Ready", "False", "ChecksumMismatch", &["sha256:"])?;
    ensure!(ucloud.word("image/checked", "/status/phase")? == "Failed", "the image is not Failed");
    ucloud.apply(&Vm { name: "unchecked", image: "checked", ..Vm::default() }.yaml())?.ok()?;
    ucloud.condition("vm/unchecked", "Ready", "False", "ImageNotReady", &["checked"])?;
    // what an image is made of cannot be changed, only made anew
    let right = format!("  checksum: {}\n", ucloud.word("image/guest", "/status/sha256")?);
    ucloud.apply(&manifest::image("checked", "guest.qcow2", &right))?.failed(1, &["spec.checksum", "immutable"])?;
    ucloud.delete(&["vm", "unchecked"])?;
    ucloud.delete(&["image", "checked"])?;
    ucloud.apply(&manifest::image("checked", "guest.qcow2", &right))?.ok()?;
    ucloud.apply(&Vm { name: "unchecked", image: "checked", ..Vm::default() }.yaml())?.ok()?;
    ucloud.ready("vm/unchecked")?;
    ucloud.delete(&["vm", "unchecked"])?;
    ucloud.delete(&["image", "checked"])
}

fn missing_network(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    ucloud.apply(&Vm { name: "netless", network: Some("later"), ..Vm::default() }.yaml())?.ok()?;
    ucloud.condition("vm/netless", "Ready", "False", "NetworkNotFound", &["later"])?;
    ucloud.apply(&manifest::network("later"))?.ok()?;
    ucloud.ready("vm/netless")?;
    ucloud.answering_address("netless")?;
    ucloud.delete(&["vm", "netless"])?;
    ucloud.delete(&["network", "later"])
}

fn one_mac_twice(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let vm = |name| Vm { name, network: Some("lan"), mac: Some("02:00:5e:10:00:01"), ..Vm::default() }.yaml();
    ucloud.apply(&vm("twin-a"))?.ok()?;
    ucloud.apply(&vm("twin-b"))?.failed(1, &["spec.networks[0].mac", "02:00:5e:10:00:01", "twin-a"])?;
    absent(ucloud, "twin-b")?;
    ucloud.delete(&["vm", "twin-a"])?;
    ucloud.apply(&vm("twin-b"))?.ok()?;
    ucloud.ready("vm/twin-b")?;
    ucloud.delete(&["vm", "twin-b"])
}
