//! A host whose power is cut comes back with its VMs.

use anyhow::ensure;
use ucloud_e2e::{eventually, installation::BOOT};

use crate::{
    Test, World,
    guests::{BLUE, RED, WIRE, global_addresses, set_address, shells, vm},
    types::ping,
};

pub const TESTS: &[Test] = &[("reboot::a_host_comes_back_with_its_vms", a_host_comes_back_with_its_vms)];

fn a_host_comes_back_with_its_vms(world: &World) -> anyhow::Result<()> {
    let lab = &world.lab;
    let own = [vm(RED, "host1"), vm(BLUE, "host1")];
    lab.run(&["kill", "host1"])?.ok()?;
    ensure!(lab.exec("host1", &["true"])?.failed(1, &["host1 does not run"]).is_ok());
    lab.run(&["start", "host1"])?.ok()?;
    for vm in own {
        eventually(&format!("{vm:?} runs again"), BOOT, || {
            let status = vm.get(&lab.ucloud)?["status"].clone();
            let domain = lab.exec("host1", &["virsh", "--quiet", "list", "--name"])?.ok()?.stdout;
            let uid = vm.get(&lab.ucloud)?["metadata"]["uid"].as_str().unwrap_or("none").to_owned();
            Ok(if status["phase"] == "Running" && domain.contains(&uid) { Ok(()) } else { Err(status.to_string()) })
        })?;
    }
    let mut red = shells(world, RED)?;
    let address = global_addresses(&mut red[1], "eth0")?.pop();
    ping(&mut red[0], &address.unwrap_or_default())?;
    let mut blue = shells(world, BLUE)?;
    set_address(&mut blue[0], WIRE[0], "eth0")?;
    ping(&mut blue[0], WIRE[1])
}
