//! Many networks on one host.

use std::time::Instant;

use anyhow::{Result, ensure};
use ucloud_agent_core::Net as _;

use crate::lab::{Host, request, routed};

const NETWORKS: u32 = 300;

/// How many links of this kind there are.
fn count(host: &Host, kind: &str) -> Result<usize> {
    Ok(host.namespace.run(&format!("ip -o link show type {kind}"))?.lines().count())
}

/// Of how many networks' multicast groups the underlay interface is a member.
fn groups(host: &Host) -> Result<usize> {
    Ok(host.namespace.run("ip -6 maddr show dev up0")?.lines().filter(|line| line.contains("ff05::")).count())
}

#[tokio::test]
async fn three_hundred_networks_are_made_and_removed() -> Result<()> {
    let mut host = Host::alone().await?;
    let requests: Vec<_> = (1..=NETWORKS)
        .map(|vni| match vni % 3 {
            0 => routed(&format!("network-{vni}"), vni, &format!("fd00:1:0:{vni:x}::/64")),
            _ => request(&format!("network-{vni}"), vni),
        })
        .collect();
    let begun = Instant::now();
    for request in &requests {
        host.ensure(request).await?;
    }
    let (made, expected) = (begun.elapsed(), requests.len());
    assert_eq!((count(&host, "vxlan")?, count(&host, "bridge")?, groups(&host)?), (expected, expected, expected));
    let mut found = host.networks().await?;
    found.sort_by_key(|devices| devices.vni);
    let uids = found.iter().map(|devices| devices.uid.clone());
    ensure!(uids.eq(requests.iter().map(|request| request.uid.clone())), "{found:?}");

    // an agent that starts finds them all, and has nothing to change
    host.restart_agent().await?;
    let begun = Instant::now();
    for request in &requests {
        host.ensure(request).await?;
    }
    eprintln!("{NETWORKS} networks made in {made:?}, looked at in {:?}", begun.elapsed());
    for request in &requests {
        host.remove(&request.uid).await?;
    }
    assert_eq!((count(&host, "vxlan")?, count(&host, "bridge")?, groups(&host)?), (0, 0, 0));
    assert_eq!(host.networks().await?, []);
    Ok(())
}

/// All VXLANs of a host join their groups on one socket of the kernel, whose options `net.core.optmem_max` bounds.
#[tokio::test]
async fn a_host_that_can_join_no_more_groups_says_what_to_raise() -> Result<()> {
    let host = Host::alone().await?;
    if host.namespace.run("sysctl -q -w net.core.optmem_max=1024").is_err() {
        eprintln!("NOT TESTED: before Linux 6.7, net.core.optmem_max is one for all network namespaces");
        return Ok(());
    }
    let mut joined = 0;
    let error = loop {
        joined += 1;
        let request = request(&format!("network-{joined}"), joined);
        match host.on(async move |net| net.ensure_network(&request).await).await {
            Ok(_) if joined < 100 => {}
            Ok(_) => anyhow::bail!("the limit has no effect"),
            Err(error) => break error,
        }
    };
    ensure!(error.message.contains("net.core.optmem_max") && !error.terminal, "{error}");
    ensure!(joined > 10, "{joined} networks do not even fit");
    // it is tried again, and succeeds once there is room
    host.namespace.run("sysctl -q -w net.core.optmem_max=131072")?;
    host.ensure(&request(&format!("network-{joined}"), joined)).await?;
    assert_eq!(groups(&host)?, usize::try_from(joined)?);
    Ok(())
}
