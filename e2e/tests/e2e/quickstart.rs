//! One command from nothing to a running VM, and one back.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use nix::unistd::Pid;
use serde_json::Value;
use ucloud_e2e::{Installation, installation::ping, machine::Traces};

use crate::{Test, World};

pub const TESTS: &[Test] = &[
    ("quickstart::up_ends_with_a_ping", up_ends_with_a_ping),
    ("quickstart::up_again_changes_nothing", up_again_changes_nothing),
    ("quickstart::down_keeps_the_data_and_up_goes_on", down_keeps_the_data_and_up_goes_on),
];

/// After all other tests of the installation.
pub const LAST: &[Test] = &[("quickstart::purge_leaves_nothing", purge_leaves_nothing)];

fn up_ends_with_a_ping(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let run = ucloud.up()?;
    let address = ucloud.answering_address("hello")?;
    ensure!(run.stdout.contains(&format!("the guest answers on {address}")), "{}", run.stdout);
    let prefix = ucloud.word("network/lan", "/status/prefix")?;
    let prefix: ucloud_types::Ipv6Prefix = prefix.parse()?;
    ensure!(prefix.contains(address.parse()?), "{address} is not in the network's {prefix}");
    let mac: ucloud_types::MacAddr = ucloud.word("vm/hello", "/status/interfaces/0/mac")?.parse()?;
    ensure!(
        mac.slaac(prefix).map(|a| a.to_string()).as_deref() == Some(&*address),
        "{address} is not the SLAAC address of {mac}"
    );
    Ok(())
}

/// What must not change when `hack/up` runs again: the programs, and each object's resource version.
fn state(ucloud: &Installation) -> anyhow::Result<(Vec<Pid>, BTreeMap<String, String>)> {
    let programs = ["etcd", "ucloud-api", "ucloud-controllers", "ucloud-agent"];
    let mut pids = programs.iter().map(|program| ucloud.pid(program)).collect::<anyhow::Result<Vec<_>>>()?;
    pids.push(ucloud.qemu("hello")?);
    // a StoragePool's free space is that of the machine, which others use too
    let kinds = "vms,networks,images,networkpools,networkallocations,namespaces";
    let run = ucloud.ucloudctl(&["get", kinds, "-o", "json"])?.ok()?;
    let list: Value = serde_json::from_str(&run.stdout)?;
    let items = list["items"].as_array().context("no items")?;
    let versions = items.iter().map(|item| {
        let word = |pointer: &str| item.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (format!("{}/{}", word("/kind"), word("/metadata/name")), word("/metadata/resourceVersion"))
    });
    Ok((pids, versions.collect()))
}

fn up_again_changes_nothing(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let before = state(ucloud)?;
    ensure!(before.1.len() >= 6, "the quickstart's objects are there: {:?}", before.1);
    let run = ucloud.up()?;
    ensure!(run.stdout.contains("vm.ucloud.ungleich.ch/hello unchanged"), "{}", run.stdout);
    ensure!(state(ucloud)? == before, "{before:?}\n{:?}", state(ucloud)?);
    Ok(())
}

fn down_keeps_the_data_and_up_goes_on(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let (uid, address) = (ucloud.uid("vm/hello")?, ucloud.answering_address("hello")?);
    ucloud.down(&[])?;
    ensure!(!ping(&address)?, "{address} still answers");
    ensure!(ucloud.data.join("etcd").is_dir(), "the data is gone");
    let left = Traces::now()?;
    ensure!(left.programs == world.before.programs, "{:?} run", left.programs);
    ensure!(left.devices == world.before.devices, "{:?} are there", left.devices);
    ucloud.up()?;
    ensure!(ucloud.uid("vm/hello")? == uid, "it is another VM");
    ensure!(ucloud.answering_address("hello")? == address, "it has another address");
    Ok(())
}

fn purge_leaves_nothing(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    ucloud.down(&["--purge"])?;
    ensure!(!ucloud.data.exists(), "{} is there", ucloud.data.display());
    let after = Traces::now()?;
    ensure!(after == world.before, "before: {:?}\nafter: {after:?}", world.before);
    ucloud.down(&["--purge"]).context("purging nothing is fine")?;
    Ok(())
}
