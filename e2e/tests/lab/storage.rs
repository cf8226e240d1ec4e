//! Disks that two hosts see, in one cluster of Ceph.

use std::{fmt::Write as _, net::Ipv6Addr};

use anyhow::{Context as _, ensure};
use ucloud_e2e::{Ceph, Lab, VmName, eventually, installation::BOOT};

use crate::{Test, World, guests::HOSTS};

pub const TESTS: &[Test] =
    &[("storage::an_image_and_a_volume_are_the_same_on_two_hosts", an_image_and_a_volume_are_the_same_on_two_hosts)];

const PROJECT: &str = "green";

fn an_image_and_a_volume_are_the_same_on_two_hosts(world: &World) -> anyhow::Result<()> {
    let (lab, ucloud) = (&world.lab, &world.lab.ucloud);
    let ceph = Ceph::start(ucloud, lab.folder().join("ceph"), outside(lab)?)?;
    ucloud.apply(&ceph.storage_pool("ceph", "ucloud"))?.ok()?;
    ucloud.ready("storagepool/ceph")?;
    let mut manifest = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {PROJECT}}}}}\n---\n\
         apiVersion: ucloud.ungleich.ch/v1alpha1\nkind: Image\nmetadata: {{name: afloat, namespace: images}}\n\
         spec: {{format: qcow2, source: {{file: {{name: guest.qcow2}}}}, pool: ceph}}\n---\n\
         apiVersion: ucloud.ungleich.ch/v1alpha1\nkind: Volume\nmetadata: {{name: luggage, namespace: {PROJECT}}}\n\
         spec: {{size: 64Mi, pool: ceph}}\n"
    );
    for host in HOSTS {
        write!(
            manifest,
            "---\napiVersion: ucloud.ungleich.ch/v1alpha1\nkind: VM\nmetadata: {{name: {host}, namespace: {PROJECT}}}\n\
             spec:\n  cpus: 1\n  memory: 128Mi\n  hostSelector: {{name: {host}}}\n  \
             disks: [{{name: root, image: images/afloat, pool: ceph}}]\n"
        )?;
    }
    ucloud.apply(&manifest)?.ok()?;
    let vms = HOSTS.map(|name| VmName { namespace: PROJECT, name });
    for vm in &vms {
        vm.ready(ucloud)?;
    }
    let found = ceph.images()?;
    let count = |what: &str| found.iter().filter(|name| name.starts_with(&format!("ucloud.{what}."))).count();
    ensure!((count("content"), count("image"), count("disk")) == (1, 1, 2), "it was imported twice: {found:?}");

    // What one host's guest has written, the other's reads, and never both have it
    let [mut one, mut two] = [lab.guest(&vms[0])?, lab.guest(&vms[1])?];
    let on_volume = |command: &str, host: &str| ucloud.ucloudctl(&[command, host, "luggage", "-n", PROJECT]);
    on_volume("attach", HOSTS[0])?.ok()?;
    let disk = one.disk("luggage")?;
    one.run(&format!("head -c 4194304 /dev/urandom >/dev/{disk} && sync"))?;
    let written = one.sum(&disk)?;
    on_volume("attach", HOSTS[1])?.ok()?;
    eventually("the other VM waits for it", BOOT, || {
        let conditions = vms[1].get(ucloud)?["status"]["conditions"].clone();
        let waits = conditions.as_array().into_iter().flatten().any(|condition| condition["reason"] == "VolumeInUse");
        Ok(if waits { Ok(()) } else { Err(conditions.to_string()) })
    })?;
    ensure!(!two.succeeds("grep -q luggage /sys/block/vd*/serial")?, "two VMs have it");
    on_volume("detach", HOSTS[0])?.ok()?;
    let disk = two.disk("luggage")?;
    ensure!(two.sum(&disk)? == written, "the other host's guest reads something else");

    ucloud.ucloudctl(&["delete", "namespace", PROJECT, "--timeout", "120s"])?.ok()?;
    ucloud.ucloudctl(&["delete", "image", "afloat", "-n", "images", "--timeout", "60s"])?.ok()?;
    eventually("nothing is left in the pool", BOOT, || {
        let found = ceph.images()?;
        Ok(if found.is_empty() { Ok(()) } else { Err(format!("left: {found:?}")) })
    })?;
    ucloud.ucloudctl(&["delete", "storagepool", "ceph", "--timeout", "60s"])?.ok().map(|_| ())
}

/// The address by which the lab's machines reach this one.
fn outside(lab: &Lab) -> anyhow::Result<Ipv6Addr> {
    let host: Ipv6Addr = lab.ucloud.word("host/host1", "/status/addresses/0")?.parse().context("no address")?;
    let [a, b, c, d, ..] = host.segments();
    Ok(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0xffff))
}
