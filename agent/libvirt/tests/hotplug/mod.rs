//! Interfaces and disks of VMs that run are plugged and unplugged, and disks grow.

mod disks;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::timeout;
use ucloud_agent_core::{
    Hypervisor as _,
    hypervisor::{DomainInterface, DomainSpec, DomainState, StopReason},
};
use ucloud_agent_libvirt::Libvirt;

use crate::{
    lab::{Lab, Shell, becomes, interface, running, small},
    with_guest,
};

fn second() -> Result<DomainInterface> {
    Ok(DomainInterface {
        name: "eth1".into(),
        mac: "02:00:5e:10:00:02".parse()?,
        tap: "uctp-test1".into(),
        mtu: 1400,
        ..interface()?
    })
}

/// What the domain is defined as, whatever it runs as.
fn definition(lab: &Lab, vm: &DomainSpec) -> Result<String> {
    lab.run(&format!("virsh dumpxml --inactive ucloud-{}", vm.uid))
}

/// Waits for an event until the VM's domain has these interfaces.
async fn has(libvirt: &Libvirt, uid: &str, interfaces: &[DomainInterface]) -> Result<()> {
    until(libvirt, uid, |domain| domain.interfaces == interfaces).await.context("other interfaces")
}

/// Waits for an event until this holds of the VM's domain.
async fn until(libvirt: &Libvirt, uid: &str, is: impl Fn(&DomainSpec) -> bool) -> Result<()> {
    let mut changes = libvirt.changes();
    let waited = timeout(Duration::from_mins(1), async {
        while libvirt.domain(uid).await?.is_none_or(|domain| !is(&domain.spec)) {
            changes.changed().await?;
        }
        anyhow::Ok(())
    });
    waited.await.context("waited for a minute")?
}

#[tokio::test]
async fn a_guest_sees_interfaces_come_and_go() -> Result<()> {
    let lab = Lab::start()?;
    lab.run("ip link add ucbr-other type bridge && ip link set ucbr-other up")?;
    let libvirt = lab.connect().await?;
    let vm = DomainSpec { interfaces: vec![interface()?], ..with_guest(&lab)? };
    libvirt.start(&vm).await?;
    let mut shell = Shell::of(&lab, &vm).await?;

    let (first, second) = (interface()?, second()?);
    libvirt.plug(&vm.uid, &second).await?;
    has(&libvirt, &vm.uid, &[first.clone(), second.clone()]).await?;
    let tap = lab.run("ip -o link show uctp-test1")?;
    ensure!(tap.contains("mtu 1400") && tap.contains("master ucbr-test"), "{tap}");
    shell.succeeds("grep 02:00:5e:10:00:02 /sys/class/net/eth1/address").await?;
    shell.succeeds("grep 1400 /sys/class/net/eth1/mtu").await?;
    ensure!(definition(&lab, &vm)?.contains("dev='uctp-test1'"));
    // An agent that starts finds it
    let successor = lab.connect().await?;
    assert_eq!(successor.domain(&vm.uid).await?, libvirt.domain(&vm.uid).await?);

    // The first goes, the second is not touched
    libvirt.unplug(&vm.uid, &first).await?;
    has(&libvirt, &vm.uid, std::slice::from_ref(&second)).await?;
    ensure!(lab.run("ip link show uctp-test").is_err(), "the tap is left over");
    ensure!(!definition(&lab, &vm)?.contains("dev='uctp-test'"));
    shell.succeeds("grep -c . /sys/class/net/eth1/address && ! [ -e /sys/class/net/eth0 ]").await?;

    // It comes back elsewhere, with the address that it had
    let moved = DomainInterface { bridge: "ucbr-other".into(), ..first };
    libvirt.plug(&vm.uid, &moved).await?;
    has(&libvirt, &vm.uid, &[second.clone(), moved]).await?;
    ensure!(lab.run("ip -o link show uctp-test")?.contains("master ucbr-other"));
    shell.succeeds("grep 02:00:5e:10:00:01 /sys/class/net/eth0/address").await?;
    libvirt.destroy(&vm.uid).await?;
    libvirt.undefine(&vm.uid).await.map_err(Into::into)
}

/// There is nothing in this VM that could answer.
#[tokio::test]
async fn a_guest_that_does_not_answer_keeps_the_interface_until_it_is_off() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let vm = small();
    libvirt.start(&vm).await?;
    let interface = interface()?;
    for _ in 0..2 {
        libvirt.plug(&vm.uid, &interface).await?;
    }
    let with_interface = DomainSpec { interfaces: vec![interface.clone()], ..vm.clone() };
    assert_eq!(libvirt.domains().await?, [running(&with_interface)]);
    // Interrupted between the definition and the domain itself, it is completed
    let detach = format!("virsh detach-interface ucloud-{} bridge --mac {} --config", vm.uid, interface.mac);
    lab.run(&detach)?;
    libvirt.plug(&vm.uid, &interface).await?;
    ensure!(definition(&lab, &vm)?.contains("dev='uctp-test'"));

    for _ in 0..2 {
        libvirt.unplug(&vm.uid, &interface).await?;
        assert_eq!(libvirt.domains().await?, [running(&with_interface)], "the guest has not let go");
    }
    ensure!(!definition(&lab, &vm)?.contains("dev='uctp-test'"));
    libvirt.destroy(&vm.uid).await?;
    becomes(&libvirt, &vm.uid, DomainState::Off(StopReason::Destroyed)).await?;
    assert_eq!(libvirt.domain(&vm.uid).await?.map(|domain| domain.spec), Some(vm.clone()), "it has it no more");
    libvirt.unplug(&vm.uid, &interface).await?;
    let error = libvirt.plug(&vm.uid, &interface).await.unwrap_err();
    assert_eq!((error.reason, error.terminal), ("PlugFailed", false), "{error}");
    libvirt.undefine(&vm.uid).await?;
    libvirt.unplug(&vm.uid, &interface).await?;
    Ok(())
}

#[tokio::test]
async fn as_many_interfaces_as_a_vm_may_have_can_be_plugged() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let vm = small();
    libvirt.start(&vm).await?;
    let interfaces: Vec<_> = (0..16_u8)
        .map(|number| {
            Ok(DomainInterface {
                name: format!("eth{number}"),
                mac: format!("02:00:5e:10:01:{number:02x}").parse()?,
                tap: format!("uctp-many{number}"),
                ..interface()?
            })
        })
        .collect::<Result<_>>()?;
    for interface in &interfaces {
        libvirt.plug(&vm.uid, interface).await?;
    }
    assert_eq!(libvirt.domain(&vm.uid).await?.unwrap().spec.interfaces, interfaces);
    Ok(())
}
