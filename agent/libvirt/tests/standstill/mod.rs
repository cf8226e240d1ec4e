//! VMs stand still and go on, whatever dies meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ucloud_agent_core::{
    HostError, Hypervisor as _,
    hypervisor::{Consistency, DiskSource, Domain, DomainDisk, DomainSpec, DomainState, StopReason},
};

use crate::{
    lab::{Lab, Shell, becomes, running, small},
    with_guest,
};

/// What the domain is as long as it stands still.
fn still(vm: &DomainSpec) -> Domain {
    running(&DomainSpec { standstill: true, ..vm.clone() })
}

fn state(lab: &Lab, vm: &DomainSpec) -> Result<String> {
    Ok(lab.run(&format!("virsh domstate --reason ucloud-{}", vm.uid))?.trim().to_owned())
}

fn is_marked(lab: &Lab, vm: &DomainSpec) -> Result<bool> {
    let definition = lab.run(&format!("virsh dumpxml --inactive ucloud-{}", vm.uid))?;
    Ok(definition.contains("standstill"))
}

fn virsh(lab: &Lab, command: &str, vm: &DomainSpec) -> Result<()> {
    lab.run(&format!("virsh {command} ucloud-{}", vm.uid)).map(drop)
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, HostError>, reason: &str) {
    let error = result.unwrap_err();
    assert_eq!((error.reason, error.terminal), (reason, false), "{error}");
}

#[tokio::test]
async fn a_vm_without_an_agent_is_suspended_and_goes_on() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let vm = small();
    assert_refused(libvirt.stand_still(&vm.uid).await, "DomainOff");
    libvirt.resume(&vm.uid).await?;
    libvirt.start(&vm).await?;
    libvirt.resume(&vm.uid).await?;
    let begun = Instant::now();
    for _ in 0..2 {
        assert_eq!(libvirt.stand_still(&vm.uid).await?, Consistency::Crash);
        assert_eq!(state(&lab, &vm)?, "paused (user)");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "it waits for an agent that is not there");
    assert_eq!(libvirt.domain(&vm.uid).await?, Some(still(&vm)));
    ensure!(is_marked(&lab, &vm)?, "its definition says nothing");

    // The agent dies, and libvirtd starts anew: the next agent finds it, and lets it go on
    drop(libvirt);
    lab.run("kill $(cat /run/libvirtd.pid) && while [ -e /run/libvirtd.pid ]; do sleep 0.1; done; libvirtd --daemon")?;
    let successor = lab.connect().await?;
    becomes(&successor, &vm.uid, DomainState::Running).await?;
    assert_eq!(successor.domains().await?, [still(&vm)]);
    for _ in 0..2 {
        successor.resume(&vm.uid).await?;
        assert_eq!(successor.domains().await?, [running(&vm)]);
        assert!(state(&lab, &vm)?.starts_with("running"));
        ensure!(!is_marked(&lab, &vm)?);
    }

    // It died after the mark was made, or before it was taken away
    successor.stand_still(&vm.uid).await?;
    virsh(&lab, "resume", &vm)?;
    assert_eq!(successor.domain(&vm.uid).await?, Some(still(&vm)));
    successor.resume(&vm.uid).await?;
    assert_eq!(successor.domain(&vm.uid).await?, Some(running(&vm)));

    // What an operator has suspended is his
    virsh(&lab, "suspend", &vm)?;
    let paused = Some(Domain { state: DomainState::Paused, ..running(&vm) });
    assert_refused(successor.stand_still(&vm.uid).await, "DomainPaused");
    successor.resume(&vm.uid).await?;
    assert_eq!(successor.domain(&vm.uid).await?, paused);
    virsh(&lab, "resume", &vm)?;

    // One that ends while it stands still has nothing to go on with
    successor.stand_still(&vm.uid).await?;
    successor.destroy(&vm.uid).await?;
    becomes(&successor, &vm.uid, DomainState::Off(StopReason::Destroyed)).await?;
    assert_refused(successor.stand_still(&vm.uid).await, "DomainOff");
    successor.resume(&vm.uid).await?;
    ensure!(!is_marked(&lab, &vm)?);
    Ok(())
}

#[tokio::test]
async fn a_guest_whose_agent_answers_is_frozen_and_thawed() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let vm = with_guest(&lab)?;
    libvirt.start(&vm).await?;
    let mut shell = Shell::of(&lab, &vm).await?;
    shell.succeeds("(/etc/rc.agent & echo $! >/tmp/agent); sleep 1; kill -0 $(cat /tmp/agent)").await?;
    let connected = || lab.run(&format!("virsh dumpxml ucloud-{} | grep state=.connected", vm.uid)).is_ok();
    ensure!(connected(), "the agent has not opened its channel");

    assert_eq!(libvirt.stand_still(&vm.uid).await?, Consistency::Filesystems);
    assert!(state(&lab, &vm)?.starts_with("running"), "its guest runs on");
    assert_eq!(libvirt.domain(&vm.uid).await?, Some(still(&vm)));
    // What the guest writes now waits
    shell.succeeds("{ (echo x >/data/new; sync; echo >/tmp/written) & sleep 2; ! [ -e /tmp/written ]; }").await?;
    // Whoever does not know that it is frozen makes sure that it stands still
    assert_eq!(libvirt.stand_still(&vm.uid).await?, Consistency::Crash);
    assert_eq!(state(&lab, &vm)?, "paused (user)");
    let successor = lab.connect().await?;
    for _ in 0..2 {
        successor.resume(&vm.uid).await?;
    }
    shell.succeeds("[ -e /tmp/written ]").await?;
    assert_eq!(successor.domain(&vm.uid).await?, Some(running(&vm)));
    // It is frozen again, and thawed by itself
    assert_eq!(libvirt.stand_still(&vm.uid).await?, Consistency::Filesystems);
    libvirt.resume(&vm.uid).await?;
    shell.succeeds("{ echo y >/data/new && sync; }").await?;

    // One that has its channel open and says nothing holds nobody up for long
    shell.succeeds("kill -STOP $(cat /tmp/agent)").await?;
    let begun = Instant::now();
    assert_eq!(libvirt.stand_still(&vm.uid).await?, Consistency::Crash);
    libvirt.resume(&vm.uid).await?;
    assert!(begun.elapsed() < Duration::from_secs(30), "took {:?}", begun.elapsed());
    assert_eq!(libvirt.domain(&vm.uid).await?, Some(running(&vm)));
    // One that is gone is not asked
    shell.succeeds("{ kill -9 $(cat /tmp/agent); ! kill -0 $(cat /tmp/agent); }").await?;
    let begun = Instant::now();
    assert_eq!(libvirt.stand_still(&vm.uid).await?, Consistency::Crash);
    libvirt.resume(&vm.uid).await?;
    assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
    Ok(())
}

/// The pool is full: QEMU pauses the guest at the first write that fails.
#[tokio::test]
async fn a_vm_that_an_error_has_paused_is_not_woken() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let vm = with_guest(&lab)?;
    libvirt.start(&vm).await?;
    let mut shell = Shell::of(&lab, &vm).await?;
    let (full, path) = (lab.path("full"), lab.path("full/data.qcow2"));
    lab.run(&format!(
        "mkdir {0} && mount -t tmpfs -o size=4m tmpfs {0} && qemu-img create -q -f qcow2 {1} 64M && fallocate -l 2M {0}/filler",
        full.display(),
        path.display()
    ))?;
    let source = DiskSource::Overlay { path, backing: None };
    let disk = DomainDisk { name: "data".into(), volume: Some("uid-of-data".into()), limits: None, source };
    libvirt.plug_disk(&vm.uid, &disk).await?;
    shell.succeeds("[ -e /dev/vdb ]").await?;
    libvirt.stand_still(&vm.uid).await?;
    virsh(&lab, "resume", &vm)?;
    // It is paused before it could say that it has written
    let written = shell.succeeds("dd if=/dev/urandom of=/dev/vdb bs=1M count=8");
    let paused = async {
        becomes(&libvirt, &vm.uid, DomainState::Paused).await?;
        assert_eq!(state(&lab, &vm)?, "paused (I/O error)");
        assert_refused(libvirt.resume(&vm.uid).await, "DomainPaused");
        assert_refused(libvirt.stand_still(&vm.uid).await, "DomainPaused");
        assert_eq!(state(&lab, &vm)?, "paused (I/O error)");
        let domain = libvirt.domain(&vm.uid).await?.context("no domain")?;
        ensure!(domain.spec.standstill && domain.state == DomainState::Paused, "{domain:?}");
        // An operator makes room
        lab.run(&format!("mount -o remount,size=64m {}", full.display()))?;
        virsh(&lab, "resume", &vm)?;
        libvirt.resume(&vm.uid).await?;
        anyhow::Ok(())
    };
    tokio::try_join!(written, paused)?;
    let domain = libvirt.domain(&vm.uid).await?.context("no domain")?;
    ensure!(!domain.spec.standstill && domain.state == DomainState::Running, "{domain:?}");
    Ok(())
}
