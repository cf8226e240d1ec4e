//! Interfaces of running VMs come and go as their spec says, and the others do not notice.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use ucloud_e2e::{Guest, eventually, installation::SOON};

use crate::{
    Test, World,
    guests::{HOSTS, RED, global_addresses, network, pings_begin, pings_end, shells},
    types::ping,
};

pub const TESTS: &[Test] =
    &[("hotplug::an_interface_comes_and_goes_while_its_vm_runs", an_interface_comes_and_goes_while_its_vm_runs)];

/// The card that the guests get besides those that they have.
const CARD: &str = "eth3";

fn an_interface_comes_and_goes_while_its_vm_runs(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.lab.ucloud;
    let mut guests = shells(world, RED)?;
    let first = global_addresses(&mut guests[1], "eth0")?.pop().context("no address")?;
    let before = [taps(world, HOSTS[0])?, taps(world, HOSTS[1])?];
    let booted = booted(&mut guests)?;
    pings_begin(&mut guests[0], &first)?;

    ucloud
        .apply(&format!(
            "apiVersion: ucloud.ungleich.ch/v1alpha1\nkind: Network\nmetadata: {{name: more, namespace: {RED}}}\n\
             spec: {{ipam: Automatic}}\n"
        ))?
        .ok()?;
    change(world, r#"{"op":"add","path":"/spec/networks/3","value":{"name":"more","network":"more"}}"#)?;
    let prefix: ucloud_types::Ipv6Prefix = network(world, RED, "more", "prefix")?.parse()?;
    for guest in &mut guests {
        // the guest brings up by itself what is plugged in
        eventually(&format!("{CARD} has an address in {prefix}"), SOON, || {
            if !guest.succeeds(&format!("test -e /sys/class/net/{CARD}"))? {
                return Ok(Err("there is no such card".to_owned()));
            }
            let found = global_addresses(guest, CARD)?;
            let inside = found.iter().any(|address| address.parse().is_ok_and(|address| prefix.contains(address)));
            Ok(if inside { Ok(()) } else { Err(format!("{found:?}")) })
        })?;
    }
    let far = global_addresses(&mut guests[1], CARD)?.pop().context("no address")?;
    ping(&mut guests[0], &far)?;
    for (host, before) in HOSTS.into_iter().zip(&before) {
        let now = taps(world, host)?;
        ensure!(now.is_superset(before) && now.len() == before.len() + 1, "{host} had {before:?} and has {now:?}");
        // by itself, the kernel gives the host an address on each
        eventually(&format!("{host} has no address on its taps"), SOON, || {
            let said = world.lab.exec(host, &["ip", "-6", "-oneline", "address"])?.ok()?.stdout;
            let found: Vec<_> = said.lines().filter(|line| line.contains(" uctp-")).map(str::to_owned).collect();
            Ok(if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) })
        })?;
    }

    change(
        world,
        r#"{"op":"test","path":"/spec/networks/3/name","value":"more"},{"op":"remove","path":"/spec/networks/3"}"#,
    )?;
    for (host, before) in HOSTS.into_iter().zip(&before) {
        eventually(&format!("{host} has the taps of before"), SOON, || {
            let now = taps(world, host)?;
            Ok(if now == *before { Ok(()) } else { Err(format!("{now:?}, and not {before:?}")) })
        })?;
    }
    for guest in &mut guests {
        guest.until("ls /sys/class/net", |said| !said.contains(CARD))?;
    }
    pings_end(&mut guests[0])?;
    ensure!(booted == self::booted(&mut guests)?, "a guest has booted");
    let words = ["delete", "network/more", "-n", RED, "--timeout", "60s"];
    ucloud.ucloudctl(&words)?.ok().map(|_| ())
}

/// A JSON patch of both VMs.
fn change(world: &World, operations: &str) -> anyhow::Result<()> {
    for host in HOSTS {
        let patch = format!("[{operations}]");
        world.lab.ucloud.kubectl(&["patch", "vm", host, "-n", RED, "--type", "json", "-p", &patch])?.ok()?;
    }
    Ok(())
}

/// The names of all taps on a host.
fn taps(world: &World, host: &str) -> anyhow::Result<BTreeSet<String>> {
    let said = world.lab.exec(host, &["ls", "/sys/class/net"])?.ok()?.stdout;
    Ok(said.split_whitespace().filter(|name| name.starts_with("uctp-")).map(str::to_owned).collect())
}

/// What is another after each boot of the guests.
fn booted(guests: &mut [Guest; 2]) -> anyhow::Result<[String; 2]> {
    let [one, two] = guests.each_mut().map(|guest| guest.run("cat /proc/sys/kernel/random/boot_id"));
    Ok([one?, two?])
}
