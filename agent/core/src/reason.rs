//! The reasons that an agent gives in conditions and Events. Programs rely on them: they are an API.
//!
//! What a host answers carries reasons of its own ([`crate::HostError::reason`]).

/// Ready: the VM runs.
pub const RUNNING: &str = "Running";
/// Ready: the VM is about to be started.
pub const STARTING: &str = "Starting";
/// Ready: the networks and disks of the VM are being made.
pub const PROVISIONING: &str = "Provisioning";
/// Ready: the guest was asked to shut down.
pub const STOPPING: &str = "Stopping";
/// Ready: the VM does not run, as somebody wished.
pub const STOPPED: &str = "Stopped";
/// Ready: the guest shut itself down, and the run strategy lets it.
pub const GUEST_SHUTDOWN: &str = "GuestShutdown";
/// Ready: the hypervisor has paused the VM.
pub const PAUSED: &str = "Paused";
/// Ready: the VM stopped again and again; the next start waits.
pub const CRASH_LOOP_BACK_OFF: &str = "CrashLoopBackOff";
/// Ready: the VM is being deleted.
pub const TERMINATING: &str = "Terminating";
/// Terminating: the guest has time to shut down.
pub const SHUTTING_DOWN: &str = "ShuttingDown";
/// Terminating: the domain, disks and networks are being removed.
pub const REMOVING: &str = "Removing";
/// InterfacesReady, DisksReady: the guest has not let go of an interface or a disk yet.
pub const WAITING_FOR_GUEST: &str = "WaitingForGuest";
/// RestartRequired: the running VM differs from its spec.
pub const SPEC_CHANGED: &str = "SpecChanged";

/// A network that is named does not exist.
pub const NETWORK_NOT_FOUND: &str = "NetworkNotFound";
/// A network that is named is not ready, or is being deleted.
pub const NETWORK_NOT_READY: &str = "NetworkNotReady";
/// A security group that is named does not exist.
pub const SECURITY_GROUP_NOT_FOUND: &str = "SecurityGroupNotFound";
/// An image that is named does not exist.
pub const IMAGE_NOT_FOUND: &str = "ImageNotFound";
/// An image that is named is not on the host, or is being deleted.
pub const IMAGE_NOT_READY: &str = "ImageNotReady";
/// A storage pool that is named does not exist.
pub const STORAGE_POOL_NOT_FOUND: &str = "StoragePoolNotFound";

/// A volume that is named does not exist.
pub const VOLUME_NOT_FOUND: &str = "VolumeNotFound";
/// A volume that is named is new, or is being deleted.
pub const VOLUME_NOT_READY: &str = "VolumeNotReady";
/// A volume that is named is another VM's.
pub const VOLUME_IN_USE: &str = "VolumeInUse";
/// A volume that is named is on another host.
pub const VOLUME_ELSEWHERE: &str = "VolumeElsewhere";

/// A volume or an image whose bytes are asked for is being deleted.
pub const DELETING: &str = "Deleting";
/// Ready: the disks of the VM are being restored from a snapshot.
pub const RESTORING: &str = "Restoring";
/// The disks are being taken for a snapshot.
pub const SNAPSHOT_BEING_TAKEN: &str = "SnapshotBeingTaken";

/// An image stays because disks are clones of it.
pub const IN_USE: &str = "InUse";

/// Ready: not all bytes of the File have come.
pub const RECEIVING: &str = "Receiving";
/// Ready: all bytes of the File are there.
pub const COMPLETE: &str = "Complete";
/// Ready: the bytes of the File were not those that its spec names, and were thrown away.
pub const CHECKSUM_MISMATCH: &str = "ChecksumMismatch";
