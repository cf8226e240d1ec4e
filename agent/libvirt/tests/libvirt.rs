//! The adapter against a real libvirtd and real QEMUs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod copy;
mod hotplug;
mod lab;
mod standstill;

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lab::{Lab, becomes, disk, eventually, interface, running, small};
use ucloud_agent_core::{
    HostError, Hypervisor as _,
    hypervisor::{DomainSpec, DomainState, StopReason},
};
use ucloud_types::host::Accelerator;

#[tokio::test]
async fn a_vm_lives_from_start_to_undefine() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let vm = small();
    assert_eq!(libvirt.domains().await?, []);
    libvirt.start(&vm).await?;
    assert_eq!(libvirt.domains().await?, [running(&vm)]);
    let qemu = lab.qemu(&vm.uid)?;

    // A domain that runs is left alone, whatever the spec says now.
    libvirt.start(&DomainSpec { cpus: 2, ..vm.clone() }).await?;
    assert_eq!(lab.qemu(&vm.uid)?, qemu);
    assert_eq!(libvirt.domain(&vm.uid).await?, Some(running(&vm)));
    assert_eq!(libvirt.undefine(&vm.uid).await.unwrap_err().reason, "DomainRunning");

    // The console is there, and nobody but its owner comes near it.
    let console = lab.path("console");
    assert!(console.join(format!("{}.sock", vm.uid)).symlink_metadata()?.file_type().is_socket());
    assert!(console.join(format!("{}.log", vm.uid)).is_file());
    assert_eq!(console.metadata()?.mode() & 0o777, 0o700);
    // QEMU is unprivileged and confined (Seccomp: 2 is a filter).
    let status = lab.run(&format!("cat /proc/{qemu}/status"))?;
    assert!(status.contains("Seccomp:\t2") && status.contains("CapEff:\t0000000000000000"), "{status}");

    // An agent that starts finds it.
    let successor = lab.connect().await?;
    drop(libvirt);
    assert_eq!(successor.domains().await?, [running(&vm)]);
    successor.destroy(&vm.uid).await?;
    becomes(&successor, &vm.uid, DomainState::Off(StopReason::Destroyed)).await?;
    successor.destroy(&vm.uid).await?;
    successor.request_shutdown(&vm.uid).await?;

    // It is defined anew when it starts again.
    let grown = DomainSpec { cpus: 2, epoch: 2, ..vm.clone() };
    successor.start(&grown).await?;
    assert_eq!(successor.domains().await?, [running(&grown)]);
    successor.destroy(&vm.uid).await?;
    for _ in 0..2 {
        successor.undefine(&vm.uid).await?;
        assert_eq!(successor.domain(&vm.uid).await?, None);
    }
    successor.destroy(&vm.uid).await?;
    successor.request_shutdown(&vm.uid).await?;
    // What it said can be read until the VM is forgotten.
    assert_eq!(lab.consoles()?, [format!("{}.log", vm.uid)]);
    for _ in 0..2 {
        successor.forget(&vm.uid).await?;
    }
    assert_eq!(lab.consoles()?, [""; 0]);
    Ok(())
}

/// A VM with the test's guest on its disk.
fn with_guest(lab: &Lab) -> Result<DomainSpec> {
    let (image, overlay) = (lab.path("image.qcow2"), lab.path("root.qcow2"));
    run(Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hack/guest-image")).arg(&image))?;
    run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(&image).arg(&overlay))?;
    Ok(DomainSpec { memory: "128Mi".parse()?, disks: vec![disk(&overlay, &image)], ..small() })
}

#[tokio::test]
async fn a_guest_boots_talks_and_shuts_down_when_asked() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let vm = DomainSpec { interfaces: vec![interface()?], ..with_guest(&lab)? };
    let image = lab.path("image.qcow2");
    let owner = (image.metadata()?.uid(), image.metadata()?.mode());
    libvirt.start(&vm).await?;
    let log = lab.path("console").join(format!("{}.log", vm.uid));
    eventually("the guest is up", async || fs::read_to_string(&log).is_ok_and(|said| said.contains("guest: ready")))
        .await?;

    // The tap is on the bridge, under the name we gave it; the image still belongs to root.
    let tap = lab.run("ip -o link show uctp-test")?;
    assert!(tap.contains("mtu 1430") && tap.contains("master ucbr-test"), "{tap}");
    assert_eq!((image.metadata()?.uid(), image.metadata()?.mode()), owner);
    let disks = lab.run(&format!("tr '\\0' '\\n' </proc/{}/cmdline", lab.qemu(&vm.uid)?))?;
    assert!(disks.contains(r#""driver":"qcow2""#) && disks.contains(r#""serial":"root""#), "{disks}");

    // A guest that does not listen yet misses the button: it is pressed again.
    let off = becomes(&libvirt, &vm.uid, DomainState::Off(StopReason::Shutdown));
    let press = async {
        loop {
            libvirt.request_shutdown(&vm.uid).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        off = off => off?,
        Err::<(), HostError>(error) = press => return Err(error.into()),
    }
    assert!(lab.run("ip link show uctp-test").is_err(), "the tap is left over");

    // It starts again from the same disk.
    libvirt.start(&vm).await?;
    eventually("the guest is up again", async || {
        fs::read_to_string(&log).is_ok_and(|said| said.contains("guest: boots: 2"))
    })
    .await?;
    libvirt.destroy(&vm.uid).await?;
    libvirt.undefine(&vm.uid).await?;
    libvirt.forget(&vm.uid).await?;
    assert_eq!(lab.consoles()?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_killed_qemu_is_a_crash() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let vm = small();
    libvirt.start(&vm).await?;
    lab.run(&format!("kill -9 {}", lab.qemu(&vm.uid)?))?;
    becomes(&libvirt, &vm.uid, DomainState::Off(StopReason::Crashed)).await?;
    libvirt.start(&vm).await?;
    assert_eq!(libvirt.domains().await?, [running(&vm)]);
    Ok(())
}

#[tokio::test]
async fn libvirtd_may_restart() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let vm = small();
    libvirt.start(&vm).await?;
    let qemu = lab.qemu(&vm.uid)?;
    let mut changes = libvirt.changes();
    changes.mark_unchanged();

    lab.run("kill $(cat /run/libvirtd.pid) && while [ -e /run/libvirtd.pid ]; do sleep 0.1; done")?;
    changes.changed().await?;
    let begun = Instant::now();
    for error in [
        libvirt.domains().await.unwrap_err(),
        libvirt.start(&vm).await.unwrap_err(),
        libvirt.destroy(&vm.uid).await.unwrap_err(),
        libvirt.undefine(&vm.uid).await.unwrap_err(),
    ] {
        assert_eq!((error.reason, error.terminal), ("HypervisorUnavailable", false), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "calls do not fail at once while libvirtd is away");
    // Another agent may start meanwhile.
    let successor = lab.connect().await?;
    assert_eq!(successor.domains().await.unwrap_err().reason, "HypervisorUnavailable");

    lab.run("libvirtd --daemon")?;
    for libvirt in [&libvirt, &successor] {
        becomes(libvirt, &vm.uid, DomainState::Running).await?;
    }
    assert_eq!(lab.qemu(&vm.uid)?, qemu, "the VM was not left alone");
    // Events come again. libvirt reports a domain as soon as it knows of it, and looks at its QEMU a moment later.
    lab.run(&format!("virsh dommemstat ucloud-{}", vm.uid))?;
    lab.run(&format!("kill -9 {qemu}"))?;
    becomes(&libvirt, &vm.uid, DomainState::Off(StopReason::Crashed)).await
}

#[tokio::test]
async fn a_libvirtd_that_hangs_is_noticed() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let vm = small();
    libvirt.start(&vm).await?;
    lab.run("kill -STOP $(cat /run/libvirtd.pid)")?;
    let error = libvirt.domains().await.unwrap_err();
    assert_eq!(error.reason, "HypervisorUnavailable", "{error}");
    let begun = Instant::now();
    assert_eq!(libvirt.domains().await.unwrap_err().reason, "HypervisorUnavailable");
    assert!(begun.elapsed() < Duration::from_secs(10), "calls wait for a libvirtd that is known to hang");
    lab.run("kill -CONT $(cat /run/libvirtd.pid)")?;
    becomes(&libvirt, &vm.uid, DomainState::Running).await
}

#[tokio::test]
async fn hostile_names_come_back_as_they_were() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    for name in ["</ucloud:vm></metadata>", "]]>&amp;<!--", "\u{0}\u{fffe}\u{85}\u{1f600}\r\n\t\"'\\"] {
        let vm = DomainSpec { name: name.into(), namespace: name.into(), ..small() };
        libvirt.start(&vm).await?;
        assert_eq!(libvirt.domain(&vm.uid).await?, Some(running(&vm)));
        libvirt.destroy(&vm.uid).await?;
        libvirt.undefine(&vm.uid).await?;
    }
    Ok(())
}

#[tokio::test]
async fn other_domains_are_none_of_ours() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let define = |name: &str, uuid: &str, metadata: &str| -> Result<()> {
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><metadata>{metadata}</metadata>\
             <memory>65536</memory><os><type>hvm</type></os></domain>"
        );
        fs::write(lab.path("other.xml"), xml)?;
        lab.run(&format!("virsh define {}", lab.path("other.xml").display()))?;
        Ok(())
    };
    let uid = "0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11";
    let ours = "xmlns:ucloud='https://ucloud.ungleich.ch/xmlns/vm/1'";
    define("operators-own", "00000000-0000-4000-8000-000000000001", "")?;
    define(&format!("ucloud-{uid}"), uid, &format!("<ucloud:vm {ours}>{{}}</ucloud:vm>"))?;
    define(
        "clone",
        "00000000-0000-4000-8000-000000000002",
        &format!("<x:vm xmlns:x='https://example.org'>{uid}</x:vm>"),
    )?;
    let vm = small();
    libvirt.start(&vm).await?;
    assert_eq!(libvirt.domains().await?, [running(&vm)]);
    assert_eq!(libvirt.domain(uid).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_start_that_fails_says_why_and_can_be_tried_again() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let (image, overlay) = (lab.path("image.qcow2"), lab.path("root.qcow2"));
    let vm = DomainSpec { disks: vec![disk(&overlay, &image)], ..small() };
    let error = libvirt.start(&vm).await.unwrap_err();
    assert_eq!((error.reason, error.terminal), ("StartFailed", false));
    assert!(error.message.contains("demo/small") && error.message.contains("disk root"), "{error}");
    assert!(!error.message.contains(lab.path("").to_str().unwrap()), "it names a path of the host: {error}");
    assert!(matches!(libvirt.domain(&vm.uid).await?.map(|domain| domain.state), Some(DomainState::Off(_))));

    run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("1M"))?;
    run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(&image).arg(&overlay))?;
    libvirt.start(&vm).await?;
    assert_eq!(libvirt.domains().await?, [running(&vm)]);

    let nowhere = DomainSpec { interfaces: vec![interface()?], ..small() };
    lab.run("ip link del ucbr-test")?;
    let error = libvirt.start(&nowhere).await.unwrap_err();
    assert!(error.message.contains("ucbr-test"), "{error}");
    Ok(())
}

#[tokio::test]
async fn the_hypervisor_says_what_it_is() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = lab.connect().await?;
    let facts = libvirt.facts().await?;
    assert!(facts.libvirt.split('.').count() == 3 && facts.qemu.split('.').count() == 3, "{facts:?}");
    // Why KVM runs no guests is said in QEMU's words where it is QEMU that fails, and they differ from machine to machine.
    assert_eq!(facts.accelerator_message.is_empty(), facts.accelerator == Accelerator::Kvm, "{facts:?}");
    Ok(())
}

#[tokio::test]
async fn many_calls_at_once_are_answered() -> Result<()> {
    let lab = Lab::start()?;
    let libvirt = std::sync::Arc::new(lab.connect().await?);
    let calls: Vec<_> = (0..500)
        .map(|_| {
            let libvirt = std::sync::Arc::clone(&libvirt);
            tokio::spawn(async move { libvirt.domains().await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await??, []);
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    ensure!(command.status()?.success(), "{command:?} failed");
    Ok(())
}
