//! What is wanted of a VM: its spec, binding and power request, validated once, with defaults in force.

use std::net::Ipv6Addr;

use jiff::SignedDuration;
use kube::ResourceExt as _;
use ucloud_types::{
    MacAddr, Quantity, VM,
    meta::AGENT_FINALIZER,
    vm::{DiskLimits, DiskStatus, PowerRequest, RestoreRequest, RunStrategy, VMPhase},
};

use crate::{
    hypervisor::{DomainDisk, DomainInterface, DomainSpec},
    net::{NetworkDevices, tap_name},
};

use super::Provisioned;

/// What is wanted of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The VM's UID.
    pub uid: String,
    /// The VM's namespace.
    pub namespace: String,
    /// The VM's name.
    pub name: String,
    /// The generation of its spec.
    pub generation: Option<i64>,
    /// This host.
    pub host: String,
    /// The epoch of its binding to this host.
    pub epoch: u64,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether this host's agent still holds the VM back from going.
    pub held: bool,
    /// The run strategy in force.
    pub strategy: RunStrategy,
    /// How long the guest may take to shut down.
    pub grace: SignedDuration,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory.
    pub memory: Quantity,
    /// Disks, in order.
    pub disks: Vec<WantedDisk>,
    /// Interfaces, in order.
    pub interfaces: Vec<WantedInterface>,
    /// The last power request.
    pub request: Option<PowerRequest>,
    /// The id of the last power request that was carried out; 0 if none was.
    pub observed_request: u64,
    /// The restore that was not carried out yet.
    pub restore: Option<RestoreRequest>,
    /// The phase that was last reported.
    pub phase: Option<VMPhase>,
    /// The disks that were last reported.
    pub reported_disks: Vec<DiskStatus>,
}

/// A disk that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedDisk {
    /// Its name.
    pub name: String,
    /// What it is.
    pub source: WantedSource,
}

/// What a disk is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedSource {
    /// A disk of the VM's own: a clone of an image.
    Clone {
        /// The namespace of its image.
        namespace: String,
        /// The name of its image.
        image: String,
        /// The name of its pool.
        pool: String,
        /// Its size; the image's own where there is none.
        size: Option<Quantity>,
        /// How much the guest may ask of it.
        limits: Option<DiskLimits>,
    },
    /// The Volume with this name, in the VM's namespace.
    Volume(String),
}

impl WantedDisk {
    /// The name of the Volume that it is to be.
    pub fn volume(&self) -> Option<&str> {
        match &self.source {
            WantedSource::Clone { .. } => None,
            WantedSource::Volume(name) => Some(name),
        }
    }
}

/// An interface that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedInterface {
    /// Its name.
    pub name: String,
    /// The name of its network, in the VM's namespace.
    pub network: String,
    /// Its MAC address.
    pub mac: MacAddr,
    /// The addresses that the guest is to use.
    pub addresses: Vec<Ipv6Addr>,
    /// Whether the guest is held to its own addresses.
    pub port_security: bool,
    /// The names of its security groups, in the VM's namespace.
    pub security_groups: Vec<String>,
}

/// Why a VM is none of this host's business.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotOurs {
    /// It has no UID, namespace or name, or a disk that is nothing: it did not come from an API server.
    #[error("the VM has no {0}")]
    Incomplete(&'static str),
    /// It is bound to no host, or to another.
    #[error("VM {namespace}/{name} is not bound to host {host}")]
    NotBound {
        /// The VM's namespace.
        namespace: String,
        /// The VM's name.
        name: String,
        /// This host.
        host: String,
    },
}

impl Desired {
    /// What `vm` asks of the host named `host`.
    pub fn of(vm: &VM, host: &str) -> Result<Self, NotOurs> {
        let uid = vm.uid().ok_or(NotOurs::Incomplete("UID"))?;
        let namespace = vm.namespace().ok_or(NotOurs::Incomplete("namespace"))?;
        let name = vm.metadata.name.clone().ok_or(NotOurs::Incomplete("name"))?;
        let status = vm.status.as_ref();
        let Some(binding) = status.and_then(|s| s.binding.as_ref()).filter(|b| b.host == host) else {
            return Err(NotOurs::NotBound { namespace, name, host: host.to_owned() });
        };
        let disk = |disk: &ucloud_types::vm::DiskSpec| {
            let source = match (&disk.image, &disk.volume) {
                (Some(image), None) => {
                    let (image_namespace, image) = image.resolve(&namespace);
                    WantedSource::Clone {
                        namespace: image_namespace.to_owned(),
                        image: image.to_owned(),
                        pool: disk.effective_pool().unwrap_or_default().to_owned(),
                        size: disk.size,
                        limits: disk.limits,
                    }
                }
                (None, Some(volume)) => WantedSource::Volume(volume.clone()),
                _ => return None,
            };
            Some(WantedDisk { name: disk.name.clone(), source })
        };
        let disks = vm.spec.disks.iter().map(disk).collect::<Option<_>>().ok_or(NotOurs::Incomplete("disk"))?;
        let interface = |interface: &ucloud_types::vm::InterfaceSpec| WantedInterface {
            name: interface.name.clone(),
            network: interface.network.clone(),
            mac: interface.effective_mac(&uid),
            addresses: interface.addresses.clone(),
            port_security: interface.effective_port_security(),
            security_groups: interface.security_groups.clone(),
        };
        Ok(Self {
            generation: vm.metadata.generation,
            host: host.to_owned(),
            epoch: binding.epoch,
            deleting: vm.metadata.deletion_timestamp.is_some(),
            held: vm.finalizers().iter().any(|f| f == AGENT_FINALIZER),
            strategy: vm.spec.effective_run_strategy(),
            grace: SignedDuration::from_secs(vm.spec.effective_grace_seconds().into()),
            cpus: vm.spec.cpus,
            memory: vm.spec.memory,
            disks,
            interfaces: vm.spec.networks.iter().map(interface).collect(),
            request: status.and_then(|s| s.power_request.clone()),
            observed_request: status.and_then(|s| s.observed_power_request).unwrap_or(0),
            restore: vm.pending_restore().cloned(),
            phase: status.and_then(|s| s.phase),
            reported_disks: status.map(|s| s.disks.clone()).unwrap_or_default(),
            uid,
            namespace,
            name,
        })
    }

    /// The interface that `wanted` is, in the network with these devices.
    pub fn interface(&self, wanted: &WantedInterface, devices: &NetworkDevices) -> DomainInterface {
        DomainInterface {
            name: wanted.name.clone(),
            mac: wanted.mac,
            bridge: devices.bridge.clone(),
            tap: tap_name(&self.uid, &wanted.name),
            mtu: devices.mtu,
        }
    }

    /// The domain that this VM is, on what was provided for it. None while something that it needs is missing there.
    pub fn domain(&self, provisioned: &Provisioned) -> Option<DomainSpec> {
        let disks = self
            .disks
            .iter()
            .map(|wanted| {
                let (_, made) = provisioned.disks.iter().find(|(name, _)| *name == wanted.name)?;
                Some(DomainDisk {
                    name: wanted.name.clone(),
                    volume: made.volume.clone(),
                    limits: made.limits,
                    source: made.disk.source.clone(),
                })
            })
            .collect::<Option<_>>()?;
        let interfaces = self
            .interfaces
            .iter()
            .map(|wanted| {
                let (_, devices) = provisioned.interfaces.iter().find(|(name, _)| *name == wanted.name)?;
                Some(self.interface(wanted, devices))
            })
            .collect::<Option<_>>()?;
        Some(DomainSpec {
            uid: self.uid.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            epoch: self.epoch,
            power_request: self.request.as_ref().map_or(0, |request| request.id),
            cpus: self.cpus,
            memory: self.memory,
            disks,
            interfaces,
            standstill: false,
        })
    }
}
