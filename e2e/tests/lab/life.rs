//! The lab itself: made by one command, and removed by one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, ensure};
use ucloud_e2e::{Run, eventually, installation::SOON};

use crate::{HOSTS, ROUTERS, Test, World};

pub const TESTS: &[Test] = &[
    ("life::up_makes_every_host_ready", up_makes_every_host_ready),
    ("life::there_is_no_ipv4", there_is_no_ipv4),
    ("life::up_again_changes_nothing", up_again_changes_nothing),
    ("life::a_host_that_is_cut_is_alone_until_it_is_healed", a_host_that_is_cut_is_alone_until_it_is_healed),
];

/// After all other tests.
pub const LAST: &[Test] = &[("life::down_leaves_nothing", down_leaves_nothing)];

const MACHINES: [&str; 6] = ["control", "upstream", "host1", "host2", "router1", "router2"];

fn up_makes_every_host_ready(world: &World) -> anyhow::Result<()> {
    let lab = &world.lab;
    lab.up(HOSTS, ROUTERS)?;
    for host in &MACHINES[2..] {
        lab.ucloud.ready(&format!("host/{host}"))?;
        // by which the tests choose where a VM runs
        lab.ucloud.kubectl(&["label", "host", host, &format!("name={host}")])?.ok()?;
    }
    Ok(())
}

fn there_is_no_ipv4(world: &World) -> anyhow::Result<()> {
    for machine in MACHINES {
        let run = world.lab.exec(machine, &["ip", "-4", "-brief", "address"])?.ok()?;
        ensure!(run.stdout.trim().is_empty(), "{machine} has {}", run.stdout);
    }
    Ok(())
}

/// The pid files of all machines and programs.
fn programs(world: &World) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let files = ucloud_e2e::machine::files_below(&world.lab.folder())?.into_iter();
    let pids = files.filter(|file| file.extension().is_some_and(|extension| extension == "pid"));
    let own = pids.filter(|file| file.parent().is_some_and(|folder| folder.ends_with("run")));
    own.map(|file| Ok((file.clone(), fs::read_to_string(file)?))).collect()
}

fn up_again_changes_nothing(world: &World) -> anyhow::Result<()> {
    let before = programs(world)?;
    // the switch and six machines; three programs of the control plane, three on each of four hosts, and bird on the
    // routers and upstream
    ensure!(before.len() == 7 + 3 + 4 * 3 + 3, "{before:?}");
    world.lab.up(HOSTS, ROUTERS)?;
    ensure!(programs(world)? == before, "before: {before:?}\nafter: {:?}", programs(world)?);
    Ok(())
}

fn a_host_that_is_cut_is_alone_until_it_is_healed(world: &World) -> anyhow::Result<()> {
    let lab = &world.lab;
    let address = lab.exec("host2", &["sh", "-c", "ip -6 -brief address show underlay | grep -o 'fd99[^/]*'"])?.ok()?;
    let reaches =
        |limit: &str| Ok(lab.exec("host1", &["ping", "-c", "1", "-W", limit, address.stdout.trim()])?.code == 0);
    let answers =
        || eventually("host2 answers host1", SOON, || reaches("1").map(|it| it.then_some(()).ok_or_else(String::new)));
    answers()?;
    lab.run(&["cut", "host2"])?.ok()?;
    ensure!(!reaches("1")?, "host1 reaches host2 all the same");
    ensure!(lab.run(&["status"])?.ok()?.stdout.lines().any(|line| line.starts_with("host2") && line.contains(" cut ")));
    lab.run(&["heal", "host2"])?.ok()?;
    answers()
}

/// The network namespaces of all processes.
fn namespaces() -> anyhow::Result<BTreeSet<PathBuf>> {
    let processes = ucloud_e2e::machine::processes()?.into_iter();
    // one that has ended meanwhile has none
    Ok(processes.filter_map(|process| fs::read_link(format!("/proc/{}/ns/net", process.pid)).ok()).collect())
}

fn down_leaves_nothing(world: &World) -> anyhow::Result<()> {
    let lab = &world.lab;
    let own: Vec<_> = MACHINES
        .iter()
        .map(|machine| {
            let pid = fs::read_to_string(lab.folder().join("run").join(format!("{machine}.pid")))?;
            let pid = pid.lines().next().context("an empty pid file")?;
            Ok(fs::read_link(format!("/proc/{pid}/ns/net"))?)
        })
        .collect::<anyhow::Result<_>>()?;
    ensure!(own.iter().all(|namespace| namespaces().is_ok_and(|all| all.contains(namespace))));
    lab.run(&["down"])?.ok()?;
    ensure!(!lab.folder().exists(), "{} is there", lab.folder().display());
    let left: Vec<_> = namespaces()?.into_iter().filter(|namespace| own.contains(namespace)).collect();
    ensure!(left.is_empty(), "processes are left in {left:?}");
    let folder = lab.folder().display().to_string();
    let processes = ucloud_e2e::machine::processes()?.into_iter();
    let left: Vec<_> = processes.filter(|process| process.arguments.join(" ").contains(&folder)).collect();
    ensure!(left.is_empty(), "processes are left: {left:?}");
    ensure!(!fs::read_to_string("/proc/self/mounts")?.contains(&folder), "mounts are left");
    let devices = Run::of(Command::new("ip").args(["-d", "link"]), "")?.ok()?.stdout;
    ensure!(!devices.contains(&folder), "a device is left: {devices}");
    lab.run(&["down"])?.ok()?;
    Ok(())
}
