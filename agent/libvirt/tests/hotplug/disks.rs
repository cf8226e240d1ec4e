//! Disks of VMs that run.

use anyhow::{Context as _, Result, ensure};
use ucloud_agent_core::{
    Hypervisor as _,
    hypervisor::{DomainDisk, DomainInterface},
};
use ucloud_types::vm::DiskLimits;

use super::{definition, until};
use crate::{
    lab::{Lab, Shell, interface, small, volume},
    with_guest,
};

#[tokio::test]
async fn a_guest_sees_disks_come_grow_and_go() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let vm = with_guest(&lab)?;
    libvirt.start(&vm).await?;
    let mut shell = Shell::of(&lab, &vm).await?;
    let limits = Some(DiskLimits { iops: Some(2000), bandwidth: "50Mi".parse().ok() });
    let (first, second) = (DomainDisk { limits, ..volume(&lab, "first", "16M")? }, volume(&lab, "second", "16M")?);
    for disk in [&first, &second, &first] {
        libvirt.plug_disk(&vm.uid, disk).await?;
    }
    let domain = libvirt.domain(&vm.uid).await?.context("no domain")?;
    assert_eq!(domain.spec.disks.len(), 3, "{:?}", domain.spec.disks);
    ensure!([&vm.disks[0], &first, &second].iter().all(|disk| domain.spec.disks.contains(disk)));
    // Which of them comes first is the guest's affair
    shell.succeeds("disk() { for d in /sys/block/vd*; do grep -qx $1 $d/serial && echo ${d##*/}; done; }").await?;
    shell.succeeds(r#"[ "$(disk first)" ] && [ "$(disk second)" ]"#).await?;
    shell.succeeds("echo written >/dev/$(disk first)").await?;
    let tuned = lab.run(&format!("virsh blkdeviotune ucloud-{} vdb", vm.uid))?;
    ensure!(tuned.contains("total_bytes_sec: 52428800") && tuned.contains("total_iops_sec : 2000"), "{tuned}");
    // An agent that starts finds them
    let successor = lab.connect().await?;
    assert_eq!(successor.domain(&vm.uid).await?, libvirt.domain(&vm.uid).await?);

    // What is asked for late does not take back what came meanwhile
    for size in ["32Mi", "16Mi"] {
        libvirt.grow_disk(&vm.uid, &first, size.parse()?).await?;
    }
    shell.succeeds("grep 65536 /sys/block/$(disk first)/size").await?;
    shell.succeeds("head -c 7 /dev/$(disk first) | grep written").await?;

    libvirt.unplug_disk(&vm.uid, &first).await?;
    until(&libvirt, &vm.uid, |domain| !domain.disks.contains(&first)).await?;
    shell.succeeds(r#"! [ "$(disk first)" ] && [ "$(disk second)" ]"#).await?;
    ensure!(!definition(&lab, &vm)?.contains("/first.qcow2'"), "it is defined still");
    libvirt.unplug_disk(&vm.uid, &first).await?;
    // It comes back with what was written
    libvirt.plug_disk(&vm.uid, &first).await?;
    shell.succeeds("head -c 7 /dev/$(disk first) | grep written").await?;
    libvirt.destroy(&vm.uid).await?;
    libvirt.undefine(&vm.uid).await.map_err(Into::into)
}

#[tokio::test]
async fn as_many_disks_as_a_vm_may_have_can_be_plugged_beside_its_interfaces() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let vm = small();
    libvirt.start(&vm).await?;
    let disks: Vec<_> = (0..16_u8).map(|number| volume(&lab, &format!("disk{number}"), "1M")).collect::<Result<_>>()?;
    for disk in &disks {
        libvirt.plug_disk(&vm.uid, disk).await?;
    }
    for number in 0..16_u8 {
        let (name, tap) = (format!("eth{number}"), format!("uctp-many{number}"));
        let mac = format!("02:00:5e:10:01:{number:02x}").parse()?;
        libvirt.plug(&vm.uid, &DomainInterface { name, mac, tap, ..interface()? }).await?;
    }
    let domain = libvirt.domain(&vm.uid).await?.context("no domain")?;
    assert_eq!((domain.spec.disks, domain.spec.interfaces.len()), (disks, 16));
    Ok(())
}
