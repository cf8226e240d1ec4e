//! What is beyond the routers is reached through a network's router.

use anyhow::{Context as _, ensure};

use crate::{
    Test, World,
    guests::{RED, global_addresses, network, shells},
    types::ping,
};

pub const TESTS: &[Test] = &[("uplink::guests_reach_the_internet_through_their_router", guests_reach_the_internet)];

/// What stands for the Internet (see hack/lib/lab.sh).
const INTERNET: &str = "2001:db8::1";

fn guests_reach_the_internet(world: &World) -> anyhow::Result<()> {
    let lab = &world.lab;
    let (router, prefix) = (network(world, RED, "auto", "router")?, network(world, RED, "auto", "prefix")?);
    let uplink =
        lab.exec(&router, &["ip", "-6", "-brief", "address", "show", "uplink", "scope", "global"])?.ok()?.stdout;
    let uplink =
        uplink.split_whitespace().nth(2).and_then(|word| word.split_once('/')).context("no address")?.0.to_owned();
    // as an operator would without BGP
    lab.exec("upstream", &["ip", "-6", "route", "replace", &prefix, "via", &uplink])?.ok()?;
    for mut guest in shells(world, RED)? {
        ping(&mut guest, INTERNET)?;
        let address = global_addresses(&mut guest, "eth0")?.pop().context("no address")?;
        // and the other way, with one hop between
        let run = lab.exec("upstream", &["ping", "-c", "1", "-W", "5", &address])?.ok()?;
        ensure!(run.stdout.contains("ttl=63"), "{}", run.stdout);
    }
    Ok(())
}
