//! Two projects with the same addresses, IP and MAC, on the same hosts, do not see each other.

use anyhow::ensure;
use ucloud_e2e::Guest;

use crate::{
    Test, World,
    guests::{BLUE, RED, RED_ALONE, WIRE, create, set_address, shells},
    types::ping,
};

pub const TESTS: &[Test] =
    &[("tenants::two_projects_with_the_same_addresses_do_not_meet", two_projects_with_the_same_addresses_do_not_meet)];

fn two_projects_with_the_same_addresses_do_not_meet(world: &World) -> anyhow::Result<()> {
    create(world, BLUE, &["none"])?;
    let (mut red, mut blue) = (shells(world, RED)?, shells(world, BLUE)?);
    for (guest, address) in blue.iter_mut().zip(WIRE) {
        set_address(guest, address, "eth0")?;
    }
    set_address(&mut red[1], RED_ALONE, "eth2")?;
    let far = WIRE[1];
    let says = |guest: &mut Guest, project: &str| {
        guest.run(&format!("mkdir -p /tmp/www && echo {project} >/tmp/www/project && httpd -p 80 -h /tmp/www"))
    };
    says(&mut red[1], RED)?;
    says(&mut blue[1], BLUE)?;
    for (project, guest) in [(RED, &mut red[0]), (BLUE, &mut blue[0])] {
        for _ in 0..3 {
            let said = guest.run(&format!("wget -q -O - 'http://[{far}]/project'"))?;
            ensure!(said.trim() == project, "a guest of {project} has reached {said}");
        }
    }
    ping(&mut red[0], RED_ALONE)?;
    ensure!(!blue[0].succeeds(&format!("ping -c 3 -i 0.2 -W 1 {RED_ALONE}"))?, "blue reaches red's {RED_ALONE}");
    // nor has any of red's frames come: with these MAC addresses, its neighbour table would tell
    let neighbours = blue[0].run("ip -6 neigh show")?;
    ensure!(!neighbours.lines().any(|line| line.starts_with(RED_ALONE) && line.contains("lladdr")), "{neighbours}");
    Ok(())
}
