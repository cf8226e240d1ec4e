//! The gateway moves from host to host, and guests and the upstream router follow it.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ucloud_agent_core::net::NetworkRequest;

use crate::lab::{Advertiser, Guest, Host, Namespace, Routers, request, routed, wait_until};

const UID: &str = "0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11";
const PREFIX: &str = "fd00:1234:0:5::/64";
const GATEWAY: &str = "fd00:1234:0:5::1";

/// The MAC that the guest has found behind the address.
fn neighbour(guest: &Guest, address: &str) -> Result<String> {
    let entry = guest.namespace.run(&format!("ip -6 neigh show {address} dev eth0"))?;
    Ok(entry.split("lladdr ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default().to_owned())
}

fn mac(host: &Host, bridge: &str) -> Result<String> {
    Ok(host.namespace.run(&format!("cat /sys/class/net/{bridge}/address"))?.trim().to_owned())
}

/// Whether the guest has this host behind both addresses of its router.
fn follows(guest: &Guest, mac: &str) -> bool {
    ["fe80::1", GATEWAY].iter().all(|address| neighbour(guest, address).is_ok_and(|found| found == mac))
}

/// Has the guest know both addresses of its router.
async fn meets_router(guest: &Guest, what: &str) -> Result<()> {
    wait_until(what, || guest.pings(GATEWAY) && guest.pings("fe80::1%eth0")).await
}

fn default_route(guest: &Guest) -> String {
    guest.namespace.run("ip -6 route show default").unwrap_or_default()
}

#[tokio::test]
async fn guests_follow_their_router_from_host_to_host() -> Result<()> {
    let lab = Host::routers().await?;
    let bridge = lab.one.ensure(&routed(UID, 100, PREFIX)).await?;
    lab.other.ensure(&request(UID, 100)).await?;
    let advertiser = Advertiser::start(&lab.one, &bridge, PREFIX)?;
    // one beside its router, and one elsewhere
    let guests = [lab.one.guest(&bridge, 1)?, lab.other.guest(&bridge, 2)?];
    for guest in &guests {
        wait_until("the guest has a default route", || default_route(guest).contains("via fe80::1")).await?;
        meets_router(guest, "the guest knows its router").await?;
        ensure!(follows(guest, &mac(&lab.one, &bridge)?));
    }

    // the new router first, as when a router is drained
    lab.two.ensure(&routed(UID, 100, PREFIX)).await?;
    let _advertiser = Advertiser::start(&lab.two, &bridge, PREFIX)?;
    let two = mac(&lab.two, &bridge)?;
    for guest in &guests {
        // the guests send nothing: they were told
        wait_until("the guest has heard of the new router", || follows(guest, &two)).await?;
    }
    drop(advertiser);
    lab.one.ensure(&request(UID, 100)).await?;
    for guest in &guests {
        meets_router(guest, "the guest reaches the new router").await?;
        ensure!(follows(guest, &two) && default_route(guest).contains("via fe80::1"), "{}", default_route(guest));
    }
    assert!(lab.two.networks().await?[0].routes && !lab.one.networks().await?[0].routes);
    Ok(())
}

/// The next advertisement may be far away when a host comes to a network.
#[tokio::test]
async fn a_host_that_is_new_to_a_network_asks_its_router_to_advertise() -> Result<()> {
    let lab = Host::routers().await?;
    lab.one.ensure(&routed(UID, 100, PREFIX)).await?;
    let asked = || -> Result<u64> {
        let counters = lab.one.namespace.run("cat /proc/net/snmp6")?;
        let counter = counters.lines().find_map(|line| line.strip_prefix("Icmp6InRouterSolicits"));
        Ok(counter.context("no such counter")?.trim().parse()?)
    };
    lab.two.ensure(&request(UID, 100)).await?;
    let before = asked()?;
    lab.other.ensure(&NetworkRequest { advertised: true, ..request(UID, 100) }).await?;
    wait_until("the router was asked", || asked().is_ok_and(|count| count > before)).await?;
    assert_eq!(before, 0, "where nobody advertises, nobody is asked");
    Ok(())
}

#[tokio::test]
async fn guests_find_the_router_after_the_old_one_is_gone() -> Result<()> {
    let lab = Host::routers().await?;
    let bridge = lab.one.ensure(&routed(UID, 100, PREFIX)).await?;
    lab.other.ensure(&request(UID, 100)).await?;
    let guest = lab.other.guest(&bridge, 1)?;
    guest.add("fd00:1234:0:5::9")?;
    meets_router(&guest, "the guest knows its router").await?;
    // its cable is pulled: it withdraws nothing
    lab.one.namespace.run("ip link set up0 down")?;
    lab.two.ensure(&routed(UID, 100, PREFIX)).await?;
    let two = mac(&lab.two, &bridge)?;
    wait_until("the guest has heard of the new router", || follows(&guest, &two)).await?;
    meets_router(&guest, "the guest reaches the new router").await
}

/// A router that was cut off comes back, with the gateway still up; and guests may have heard it.
#[tokio::test]
async fn a_router_that_comes_back_sends_guests_to_the_one_that_took_over() -> Result<()> {
    let lab = Host::routers().await?;
    let bridge = lab.one.ensure(&routed(UID, 100, PREFIX)).await?;
    lab.two.ensure(&routed(UID, 100, PREFIX)).await?;
    // quietly, so that nothing but what the old router does tells the guests
    let (one, two) = (mac(&lab.one, &bridge)?, mac(&lab.two, &bridge)?);
    let guests = [lab.one.guest(&bridge, 1)?, lab.two.guest(&bridge, 2)?];
    for guest in &guests {
        for address in ["fe80::1", GATEWAY] {
            guest.namespace.run(&format!("ip -6 neigh replace {address} lladdr {one} dev eth0 nud reachable"))?;
        }
    }
    // what the second host said when it came is over; it says no more by itself
    lab.two.ensure(&routed(UID, 100, PREFIX)).await?;
    lab.one.ensure(&request(UID, 100)).await?;
    for guest in &guests {
        wait_until("the guest has heard of the router that is", || follows(guest, &two)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_router_forwards_and_keeps_its_own_default_route() -> Result<()> {
    let lab = Host::routers().await?;
    let host = &lab.one.namespace;
    let directory = tempfile::tempdir()?;
    let _advertiser = advertise_upstream(&lab, directory.path())?;
    let has_route = || host.run("ip -6 route show default").is_ok_and(|route| route.contains("dev up1"));
    wait_until("the router has a default route of its own", has_route).await?;
    let setting = |key: &str| host.run(&format!("sysctl -n net.ipv6.conf.{key}")).map(|value| value.trim().to_owned());
    lab.one.ensure(&request("another", 101)).await?;
    assert_eq!(setting("all.forwarding")?, "0", "a host that routes nothing forwards nothing");
    lab.other.ensure(&routed("without an uplink", 102, "fd00:1234:0:6::/64")).await?;
    assert_eq!(lab.other.namespace.run("sysctl -n net.ipv6.conf.all.forwarding")?.trim(), "0");

    let bridge = lab.one.ensure(&routed(UID, 100, PREFIX)).await?;
    assert_eq!(setting("all.forwarding")?, "1");
    assert_eq!((setting("up1.accept_ra")?, setting("up0.accept_ra")?), ("2".into(), "2".into()));
    assert_eq!(setting(&format!("{bridge}.accept_ra"))?, "0");
    ensure!(has_route(), "its default route is gone");

    let guest = lab.one.guest(&bridge, 1)?;
    guest.add("fd00:1234:0:5::9")?;
    guest.namespace.run("ip -6 route add default via fe80::1 dev eth0")?;
    lab.upstream.run(&format!("ip -6 route add {PREFIX} via fd98::1"))?;
    wait_until("the guest reaches what is upstream", || guest.pings("fd98::ff")).await
}

/// The upstream router advertises itself to the uplinks.
fn advertise_upstream(lab: &Routers, directory: &Path) -> Result<tokio::process::Child> {
    use std::os::unix::fs::PermissionsExt as _;
    let configuration = directory.join("radvd.conf");
    std::fs::write(&configuration, "interface lan0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; };")?;
    std::fs::set_permissions(&configuration, std::fs::Permissions::from_mode(0o600))?;
    let directory = directory.display();
    lab.upstream.start(&format!("radvd -n -m none -C {directory}/radvd.conf -p {directory}/pid"))
}

/// The configuration that the operator guide has routers use.
const ROUTER_CONFIGURATION: &str = include_str!("../../../../manifests/bird/router.conf");

/// One for the router with this number.
fn router_configuration(number: u32) -> Result<String> {
    let mut text = ROUTER_CONFIGURATION.to_owned();
    for (of_the_guide, here) in [
        ("router id 0.0.0.1;", &*format!("router id 0.0.0.{number};")),
        ("define POOL = 2001:db8:1000::/48;", "define POOL = fd00:1234::/48;"),
        ("define OWN_ADDRESS = 2001:db8::1;", &*format!("define OWN_ADDRESS = fd98::{number};")),
        ("define UPSTREAM_ADDRESS = 2001:db8::ff;", "define UPSTREAM_ADDRESS = fd98::ff;"),
    ] {
        ensure!(text.contains(of_the_guide), "{of_the_guide:?} is not in router.conf");
        text = text.replace(of_the_guide, here);
    }
    Ok(text)
}

const UPSTREAM_CONFIGURATION: &str = "
router id 0.0.0.255;
protocol device { }
protocol bfd { }
protocol kernel { ipv6 { import none; export all; }; }
template bgp host {
    local fd98::ff as 65000;
    connect delay time 1;
    bfd on;
    ipv6 { import all; export none; };
}
protocol bgp router1 from host { neighbor fd98::1 as 65001; }
protocol bgp router2 from host { neighbor fd98::2 as 65001; }
";

/// A bird, until it is dropped.
struct Bird {
    _process: tokio::process::Child,
}

impl Bird {
    fn start(namespace: &Namespace, directory: &Path, name: &str, configuration: &str) -> Result<Self> {
        let file = |kind: &str| directory.join(format!("{name}.{kind}")).display().to_string();
        std::fs::write(file("conf"), configuration)?;
        namespace.run(&format!("bird -p -c {}", file("conf"))).context("bird refuses its configuration")?;
        let process =
            namespace.start(&format!("bird -f -c {} -s {} -P {}", file("conf"), file("sock"), file("pid")))?;
        Ok(Self { _process: process })
    }
}

#[tokio::test]
async fn upstream_learns_by_bgp_which_host_routes_a_network() -> Result<()> {
    let lab = Host::routers().await?;
    let directory = tempfile::tempdir()?;
    let _upstream = Bird::start(&lab.upstream, directory.path(), "upstream", UPSTREAM_CONFIGURATION)?;
    let _one = Bird::start(&lab.one.namespace, directory.path(), "one", &router_configuration(1)?)?;
    let _two = Bird::start(&lab.two.namespace, directory.path(), "two", &router_configuration(2)?)?;
    let route = || lab.upstream.run(&format!("ip -6 route show {PREFIX}")).unwrap_or_default();

    let bridge = lab.one.ensure(&routed(UID, 100, PREFIX)).await?;
    lab.other.ensure(&request(UID, 100)).await?;
    wait_until("the route leads to the first router", || route().contains("via fd98::1 ")).await?;
    let whole = lab.upstream.run("ip -6 route show proto bird")?;
    assert_eq!(whole.lines().count(), 1, "networks are announced, and nothing else: {whole}");

    let guest = lab.other.guest(&bridge, 1)?;
    guest.add("fd00:1234:0:5::9")?;
    guest.namespace.run("ip -6 route add default via fe80::1 dev eth0")?;
    for host in [&lab.one, &lab.two] {
        host.namespace.run("ip -6 route add default via fd98::ff")?;
    }
    wait_until("the guest reaches what is upstream", || guest.pings("fd98::ff")).await?;

    // it moves: for a moment both have it
    lab.two.ensure(&routed(UID, 100, PREFIX)).await?;
    lab.one.ensure(&request(UID, 100)).await?;
    wait_until("the route leads to the second router", || route().contains("via fd98::2 ")).await?;
    wait_until("the guest reaches what is upstream", || guest.pings("fd98::ff")).await?;

    // and goes
    lab.two.remove(UID).await?;
    wait_until("the route is gone", || route().is_empty()).await
}

/// A router dies without a word: BFD tells its neighbour, long before BGP would.
#[tokio::test]
async fn upstream_loses_the_routes_of_a_router_that_is_cut_off() -> Result<()> {
    let lab = Host::routers().await?;
    let directory = tempfile::tempdir()?;
    let _upstream = Bird::start(&lab.upstream, directory.path(), "upstream", UPSTREAM_CONFIGURATION)?;
    let _one = Bird::start(&lab.one.namespace, directory.path(), "one", &router_configuration(1)?)?;
    let route = || lab.upstream.run(&format!("ip -6 route show {PREFIX}")).unwrap_or_default();
    lab.one.ensure(&routed(UID, 100, PREFIX)).await?;
    wait_until("the route leads to the router", || route().contains("via fd98::1 ")).await?;
    // its frames vanish behind its port, whose link stays up
    lab.upstream.run("ip link set down1 nomaster")?;
    wait_until("the route is gone", || route().is_empty()).await
}
