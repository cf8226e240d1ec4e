//! The VMs that the tests share: in each of two projects one on each compute host, with a leg in each type of network.

use std::{fmt::Write as _, net::Ipv6Addr};

use anyhow::{Context as _, ensure};
use ucloud_e2e::{Guest, VmName};

use crate::World;

pub const RED: &str = "red";
pub const BLUE: &str = "blue";

/// The name of a VM is that of its host.
pub const fn vm<'a>(project: &'a str, host: &'a str) -> VmName<'a> {
    VmName { namespace: project, name: host }
}

/// Resolver and search domain of the network `auto`.
pub const RESOLVER: &str = "2001:db8::53";
pub const SEARCH: &str = "red.example.org";

/// The addresses that the two VMs of a project give themselves in the network `none`: the same in both projects, as are
/// their MAC addresses.
pub const WIRE: [&str; 2] = ["fd00:77::1", "fd00:77::2"];

/// An address that the second VM of red has in `none`, and nobody else.
pub const RED_ALONE: &str = "fd00:77::3";

/// The hosts of a project's two VMs.
pub const HOSTS: [&str; 2] = ["host1", "host2"];

/// A project with some of the three networks, and two VMs in all of them.
pub fn create(world: &World, project: &str, networks: &[&str]) -> anyhow::Result<()> {
    let ucloud = &world.lab.ucloud;
    let mut manifest = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {project}}}\n");
    for &network in networks {
        let spec = match network {
            "auto" => format!("ipam: Automatic\n  dns: {{servers: ['{RESOLVER}'], search: [{SEARCH}]}}"),
            "manual" => "ipam: Manual".to_owned(),
            _ => "ipam: None".to_owned(),
        };
        write!(
            manifest,
            "---\napiVersion: ucloud.ungleich.ch/v1alpha1\nkind: Network\n\
             metadata: {{name: {network}, namespace: {project}}}\nspec:\n  {spec}\n"
        )?;
    }
    ucloud.apply(&manifest)?.ok()?;
    let mut manifest = String::new();
    for (index, host) in HOSTS.into_iter().enumerate() {
        let mut legs = Vec::new();
        for &network in networks {
            legs.push(match network {
                "auto" => "{name: auto, network: auto}".to_owned(),
                "manual" => {
                    let address = &manual_addresses(world, project)?[index];
                    format!("{{name: manual, network: manual, addresses: ['{address}']}}")
                }
                _ => {
                    let more = if (project, index) == (RED, 1) { format!(", '{RED_ALONE}'") } else { String::new() };
                    let (mac, address) = (index + 1, WIRE[index]);
                    format!(
                        "{{name: none, network: none, mac: '02:00:00:00:77:0{mac}', addresses: ['{address}'{more}]}}"
                    )
                }
            });
        }
        write!(
            manifest,
            "---\napiVersion: ucloud.ungleich.ch/v1alpha1\nkind: VM\nmetadata: {{name: {host}, namespace: {project}}}\n\
             spec:\n  cpus: 1\n  memory: 128Mi\n  hostSelector: {{name: {host}}}\n  \
             disks: [{{name: root, image: images/guest}}]\n  networks: [{}]\n",
            legs.join(", ")
        )?;
    }
    ucloud.apply(&manifest)?.ok()?;
    for host in HOSTS {
        let vm = vm(project, host);
        vm.ready(ucloud)?;
        let bound = world.lab.host_of(&vm)?;
        ensure!(bound == host, "{vm:?} runs on {bound}");
    }
    Ok(())
}

/// A word of a network's status, once it is Ready.
pub fn network(world: &World, project: &str, name: &str, field: &str) -> anyhow::Result<String> {
    let what = format!("network/{name}");
    world.lab.ucloud.ucloudctl(&["wait", "--for=condition=Ready", &what, "-n", project, "--timeout", "60s"])?.ok()?;
    let path = format!("jsonpath={{.status.{field}}}");
    Ok(world.lab.ucloud.kubectl(&["get", &what, "-n", project, "-o", &path])?.ok()?.stdout)
}

/// The addresses that the two VMs of a project give themselves in the network `manual`.
pub fn manual_addresses(world: &World, project: &str) -> anyhow::Result<[String; 2]> {
    let prefix: ucloud_types::Ipv6Prefix = network(world, project, "manual", "prefix")?.parse()?;
    Ok([0x11, 0x12].map(|host| Ipv6Addr::from(u128::from(prefix.network()) + host).to_string()))
}

/// The shells of a project's two VMs.
pub fn shells(world: &World, project: &str) -> anyhow::Result<[Guest; 2]> {
    let [one, two] = HOSTS.map(|host| world.lab.guest(&vm(project, host)));
    Ok([one?, two?])
}

/// Gives an interface an address, by hand.
pub fn set_address(guest: &mut Guest, address: &str, card: &str) -> anyhow::Result<()> {
    guest.run(&format!("ip -6 addr replace {address}/64 dev {card}"))?;
    // once the kernel has found out that nobody else has it
    guest
        .until(&format!("ip -6 addr show dev {card}"), |said| said.contains(address) && !said.contains("tentative"))?;
    Ok(())
}

/// The global addresses of an interface.
pub fn global_addresses(guest: &mut Guest, card: &str) -> anyhow::Result<Vec<String>> {
    let said = guest.run(&format!("ip -6 -o addr show dev {card} scope global"))?;
    let words = said.lines().filter_map(|line| line.split_whitespace().skip_while(|&word| word != "inet6").nth(1));
    words.map(|word| Ok(word.split_once('/').context("an address without a length")?.0.to_owned())).collect()
}

/// Has the guest ping an address five times a second, until [`pings_end`].
pub fn pings_begin(guest: &mut Guest, address: &str) -> anyhow::Result<()> {
    guest.run(&format!("(ping -i 0.2 {address} >/tmp/pings 2>&1 &)"))?;
    guest.until("pidof ping", |_| true)?;
    Ok(())
}

/// Ends it, and fails where more than one in ten got no answer: an interruption.
pub fn pings_end(guest: &mut Guest) -> anyhow::Result<()> {
    guest.run("killall -INT ping")?;
    let said = guest.until("tail -n 3 /tmp/pings", |said| said.contains("packet loss"))?;
    let numbers: Vec<u32> = said
        .lines()
        .find(|line| line.contains("packets transmitted"))
        .into_iter()
        .flat_map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()))
        .collect();
    let [sent, answered, ..] = numbers[..] else { anyhow::bail!("no count in {said}") };
    println!("{answered} of {sent} pings were answered");
    // the last may be under way
    ensure!(sent.saturating_sub(answered) <= 1 + sent / 10, "{said}");
    Ok(())
}
