//! What is beyond the routers is reached through a network's router, which upstream knows by BGP.

use anyhow::{Context as _, ensure};
use ucloud_e2e::{eventually, installation::SOON};

use crate::{
    Test, World,
    guests::{RED, global_addresses, network, shells},
    types::ping,
};

pub const TESTS: &[Test] = &[("uplink::guests_reach_the_internet_through_their_router", guests_reach_the_internet)];

/// What stands for the Internet (see hack/lib/lab.sh).
pub const INTERNET: &str = "2001:db8::1";

fn guests_reach_the_internet(world: &World) -> anyhow::Result<()> {
    upstream_knows(world, &network(world, RED, "auto", "router")?)?;
    for mut guest in shells(world, RED)? {
        ping(&mut guest, INTERNET)?;
        let address = global_addresses(&mut guest, "eth0")?.pop().context("no address")?;
        // and the other way, with one hop between
        let run = world.lab.exec("upstream", &["ping", "-c", "1", "-W", "5", &address])?.ok()?;
        ensure!(run.stdout.contains("ttl=63"), "{}", run.stdout);
    }
    Ok(())
}

/// Waits until upstream sends what is for red's network `auto` to this router.
pub fn upstream_knows(world: &World, router: &str) -> anyhow::Result<()> {
    let lab = &world.lab;
    let prefix = network(world, RED, "auto", "prefix")?;
    let uplink =
        lab.exec(router, &["ip", "-6", "-brief", "address", "show", "uplink", "scope", "global"])?.ok()?.stdout;
    let uplink = uplink.split_whitespace().nth(2).and_then(|word| word.split_once('/')).context("no address")?.0;
    eventually(&format!("upstream sends {prefix} to {router}"), SOON, || {
        let route = lab.exec("upstream", &["ip", "-6", "route", "show", &prefix, "proto", "bird"])?.ok()?.stdout;
        Ok(if route.contains(&format!("via {uplink} ")) {
            Ok(())
        } else {
            Err(format!("{uplink} is not in {route:?}"))
        })
    })
}
