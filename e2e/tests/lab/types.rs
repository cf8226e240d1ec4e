//! The three types of network, each between two hosts: what guests get of addresses, and that they reach each other.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use ucloud_e2e::Guest;

use crate::{
    Test, World,
    guests::{
        HOSTS, RED, RESOLVER, SEARCH, WIRE, create, global_addresses, manual_addresses, network, set_address, shells,
        vm,
    },
};

pub const TESTS: &[Test] = &[
    ("types::guests_of_two_hosts_boot_with_a_leg_in_each_type", guests_of_two_hosts_boot_with_a_leg_in_each_type),
    ("types::automatic_gives_address_route_and_resolver", automatic_gives_address_route_and_resolver),
    ("types::manual_and_none_give_nothing", manual_and_none_give_nothing),
    ("types::guests_reach_each_other_in_automatic", guests_reach_each_other_in_automatic),
    ("types::guests_reach_each_other_in_manual", guests_reach_each_other_in_manual),
    ("types::guests_reach_each_other_in_none", guests_reach_each_other_in_none),
];

/// What is sent in bulk: the boot partition, 24 MiB, of which no two pieces are the same, so that it is seen if one is lost or
/// out of order. It is the same in all guests.
const BULK: &str = "cat /dev/vda1";
const PORT: u16 = 5000;

fn guests_of_two_hosts_boot_with_a_leg_in_each_type(world: &World) -> anyhow::Result<()> {
    create(world, RED, &["auto", "manual", "none"])?;
    for guest in &mut shells(world, RED)? {
        guest.run("ip link show eth2")?;
    }
    Ok(())
}

fn automatic_gives_address_route_and_resolver(world: &World) -> anyhow::Result<()> {
    let prefix: ucloud_types::Ipv6Prefix = network(world, RED, "auto", "prefix")?.parse()?;
    for (host, mut guest) in HOSTS.into_iter().zip(shells(world, RED)?) {
        let mac: ucloud_types::MacAddr = guest.run("cat /sys/class/net/eth0/address")?.trim().parse()?;
        let address = mac.slaac(prefix).context("no SLAAC address")?.to_string();
        guest.until("ip -6 -o addr show dev eth0 scope global", |said| said.contains(&format!(" {address}/64 ")))?;
        let routes = guest.run("ip -6 route show default")?;
        ensure!(routes.lines().count() == 1 && routes.contains("via fe80::1 dev eth0"), "{host} has {routes}");
        let resolvers = guest.until("cat /etc/resolv.conf", |said| said.contains(RESOLVER))?;
        ensure!(resolvers.contains(SEARCH), "{host} has {resolvers}");
        // and ucloud tells which it is
        let vm = vm(RED, host).get(&world.lab.ucloud)?;
        ensure!(vm["status"]["interfaces"][0]["addresses"].to_string().contains(&address), "{}", vm["status"]);
    }
    Ok(())
}

fn manual_and_none_give_nothing(world: &World) -> anyhow::Result<()> {
    for mut guest in shells(world, RED)? {
        for card in ["eth1", "eth2"] {
            // it has asked for a router long since, at the same time as the interface that has got an answer
            let found = global_addresses(&mut guest, card)?;
            ensure!(found.is_empty(), "{card} has {found:?}");
            let routes = guest.run(&format!("ip -6 route show default dev {card}"))?;
            ensure!(routes.is_empty(), "{card} has {routes}");
        }
        let resolvers = guest.run("grep nameserver /etc/resolv.conf")?;
        ensure!(resolvers.lines().count() == 1, "there are {resolvers}");
    }
    Ok(())
}

fn guests_reach_each_other_in_automatic(world: &World) -> anyhow::Result<()> {
    let mut guests = shells(world, RED)?;
    let address = global_addresses(&mut guests[1], "eth0")?.pop().context("no address")?;
    reach(&mut guests, &address)
}

fn guests_reach_each_other_in_manual(world: &World) -> anyhow::Result<()> {
    let gateway = network(world, RED, "manual", "gateway")?;
    let addresses = manual_addresses(world, RED)?;
    let mut guests = shells(world, RED)?;
    for (guest, address) in guests.iter_mut().zip(&addresses) {
        set_address(guest, address, "eth1")?;
        ping(guest, &gateway)?;
    }
    reach(&mut guests, &addresses[1])
}

fn guests_reach_each_other_in_none(world: &World) -> anyhow::Result<()> {
    let mut guests = shells(world, RED)?;
    for (guest, address) in guests.iter_mut().zip(WIRE) {
        set_address(guest, address, "eth2")?;
    }
    reach(&mut guests, WIRE[1])
}

pub fn ping(guest: &mut Guest, address: &str) -> anyhow::Result<()> {
    // the first may be lost while neighbours are found
    guest.until(&format!("ping -c 3 -i 0.2 -W 2 {address}"), |said| said.contains(" 0% packet loss"))?;
    Ok(())
}

/// A ping and a bulk transfer between two guests, of which the second has this address.
fn reach([near, far]: &mut [Guest; 2], address: &str) -> anyhow::Result<()> {
    ping(near, address)?;
    let sent = near.run(&format!("{BULK} | md5sum"))?;
    far.run(&format!("({BULK} | nc -l -p {PORT} >/dev/null &)"))?;
    far.until("netstat -tln", |said| said.contains(&format!(":{PORT} ")))?;
    let began = Instant::now();
    // an input that never ends: where it ends, busybox' nc closes, and the sender's nc ends as soon as it sees that
    let received = near.run(&format!("mkfifo /tmp/open 2>/dev/null; nc {address} {PORT} <>/tmp/open | md5sum"))?;
    println!("24 MiB in {:?}", began.elapsed());
    ensure!(received.trim() == sent.trim(), "{received} was received and {sent} sent");
    Ok(())
}
