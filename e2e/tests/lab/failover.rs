//! The gateway of a network goes to another router when its own dies or is drained, and guests keep their way out.

use std::time::Instant;

use anyhow::ensure;
use ucloud_e2e::{Guest, eventually, installation::SOON};

use crate::{
    Test, World,
    guests::{RED, network, pings_begin, pings_end, shells},
    types::ping,
    uplink::{INTERNET, upstream_knows},
};

pub const TESTS: &[Test] = &[
    ("failover::a_router_that_dies_is_replaced_and_comes_back_quietly", a_router_that_dies_is_replaced),
    ("failover::a_router_that_is_drained_hands_over", a_router_that_is_drained_hands_over),
    ("failover::guests_hear_that_there_is_no_router_any_more", guests_hear_that_there_is_no_router),
];

fn a_router_that_dies_is_replaced(world: &World) -> anyhow::Result<()> {
    let lab = &world.lab;
    // a console has one reader, so a test has its guests from one place
    let mut guests = shells(world, RED)?;
    let old = network(world, RED, "auto", "router")?;
    ping(&mut guests[0], INTERNET)?;
    let began = Instant::now();
    lab.run(&["kill", &old])?.ok()?;
    // Once it is dead, no answer can have come through it. `until` bounds the wait; how long it was is for people to read.
    guests[0].until(&format!("ping -c 1 -W 1 {INTERNET}"), |_| true)?;
    println!("the guest reaches the uplink {:?} after {old} was killed", began.elapsed());
    let new = moved_from(world, &old)?;
    has_default_route(&mut guests)?;

    // it comes back, while the guest goes on
    pings_begin(&mut guests[0], INTERNET)?;
    lab.run(&["start", &old])?.ok()?;
    lab.ucloud.ready(&format!("host/{old}"))?;
    pings_end(&mut guests[0])?;
    let router = network(world, RED, "auto", "router")?;
    ensure!(router == new, "the network has moved from {new} to {router}");
    has_no_gateway(world, &old)?;
    upstream_knows(world, &new)
}

fn a_router_that_is_drained_hands_over(world: &World) -> anyhow::Result<()> {
    for router in ["router1", "router2"] {
        speaks_to_upstream(world, router)?;
    }
    let mut guests = shells(world, RED)?;
    let old = network(world, RED, "auto", "router")?;
    ping(&mut guests[0], INTERNET)?;
    pings_begin(&mut guests[0], INTERNET)?;
    unschedulable(world, &old, true)?;
    let new = moved_from(world, &old)?;
    has_no_gateway(world, &old)?;
    upstream_knows(world, &new)?;
    // had the old router said that it is none any more, the route would be gone: both are fe80::1
    has_default_route(&mut guests)?;
    pings_end(&mut guests[0])?;
    unschedulable(world, &old, false)
}

/// The last advertisement, with a lifetime of zero, takes the default route away at once; by itself it would stay for half an
/// hour.
fn guests_hear_that_there_is_no_router(world: &World) -> anyhow::Result<()> {
    let change = |spec: &str| {
        let patch = format!("{{\"spec\":{spec}}}");
        world.lab.ucloud.kubectl(&["patch", "network/auto", "-n", RED, "--type", "merge", "-p", &patch])?.ok()
    };
    let object = world.lab.ucloud.kubectl(&["get", "network/auto", "-n", RED, "-o", "json"])?.ok()?.stdout;
    let dns = serde_json::from_str::<serde_json::Value>(&object)?["spec"]["dns"].clone();
    change(r#"{"ipam":"Manual","dns":null}"#)?;
    let mut guests = shells(world, RED)?;
    for guest in &mut guests {
        guest.until("ip -6 route show default", |said| said.trim().is_empty())?;
    }
    change(&format!(r#"{{"ipam":"Automatic","dns":{dns}}}"#))?;
    has_default_route(&mut guests)?;
    for guest in &mut guests {
        ping(guest, INTERNET)?;
    }
    Ok(())
}

/// Waits until the router's bird has its session with upstream: what the guests send comes back no other way.
fn speaks_to_upstream(world: &World, router: &str) -> anyhow::Result<()> {
    eventually(&format!("{router} speaks BGP with upstream"), SOON, || {
        let said = world.lab.exec(router, &["birdc", "show", "protocols", "upstream"])?.ok()?.stdout;
        Ok(if said.contains("Established") { Ok(()) } else { Err(said) })
    })
}

/// Waits until red's network `auto` is routed by another host than this one, and tells which.
fn moved_from(world: &World, old: &str) -> anyhow::Result<String> {
    eventually(&format!("another router than {old} has the network"), SOON, || {
        let router = network(world, RED, "auto", "router")?;
        Ok(if router == old { Err(format!("{old} has it")) } else { Ok(router) })
    })?;
    let words = ["wait", "--for=condition=Routed", "network/auto", "-n", RED, "--timeout", "60s"];
    world.lab.ucloud.ucloudctl(&words)?.ok()?;
    network(world, RED, "auto", "router")
}

/// Waits until this host has no address of red's network `auto`.
fn has_no_gateway(world: &World, host: &str) -> anyhow::Result<()> {
    let gateway = network(world, RED, "auto", "gateway")?;
    eventually(&format!("{host} has no {gateway}"), SOON, || {
        let found = world.lab.exec(host, &["ip", "-6", "-brief", "address", "show", "to", &gateway])?.ok()?.stdout;
        Ok(if found.trim().is_empty() { Ok(()) } else { Err(found) })
    })
}

fn has_default_route(guests: &mut [Guest; 2]) -> anyhow::Result<()> {
    for guest in guests {
        let routes = guest.until("ip -6 route show default", |said| said.contains("via fe80::1 dev eth0"))?;
        ensure!(routes.lines().count() == 1, "{routes}");
    }
    Ok(())
}

fn unschedulable(world: &World, host: &str, is: bool) -> anyhow::Result<()> {
    let patch = format!(r#"{{"spec":{{"unschedulable":{is}}}}}"#);
    world.lab.ucloud.kubectl(&["patch", "host", host, "--type", "merge", "-p", &patch])?.ok().map(|_| ())
}
