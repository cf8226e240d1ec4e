//! Names that more than one component must agree on: the API group, finalizers, well-known objects.

/// The API group of all kinds.
pub const GROUP: &str = "ucloud.ungleich.ch";
/// The API version of all kinds.
pub const VERSION: &str = "v1alpha1";

/// Held by the agent of the host to which a VM is bound, until its domain, taps and disks are gone. The API
/// server adds it in the same write that binds the VM. A File and a Volume have it too, until a host has removed their
/// bytes; their controllers add it before there are any.
pub const AGENT_FINALIZER: &str = "ucloud.ungleich.ch/agent";
/// Held by the network controller, until no host uses the network and its allocation is released.
pub const NETWORK_FINALIZER: &str = "ucloud.ungleich.ch/network";
/// Held by the image controller, until no host keeps the image.
pub const IMAGE_FINALIZER: &str = "ucloud.ungleich.ch/image";

/// Held by the snapshot controller, until no host is taking the snapshot any more.
pub const SNAPSHOT_FINALIZER: &str = "ucloud.ungleich.ch/snapshot";

/// The label of a Snapshot that a SnapshotSchedule made: the schedule's name, for people to select by.
pub const SCHEDULE_LABEL: &str = "ucloud.ungleich.ch/snapshot-schedule";
/// The label by which a SnapshotSchedule knows its Snapshots: its UID. A Snapshot without it is never deleted by the schedule.
pub const SCHEDULE_UID_LABEL: &str = "ucloud.ungleich.ch/snapshot-schedule-uid";

/// The namespace whose images every project may use, as `images/NAME`.
pub const IMAGES_NAMESPACE: &str = "images";
/// The namespace of the hosts' heartbeat Leases; each is named as its host.
pub const HOSTS_NAMESPACE: &str = "ucloud-hosts";
/// The namespace of the controllers' leader election.
pub const SYSTEM_NAMESPACE: &str = "ucloud-system";
/// The label of a Namespace by which an operator lets its VMs have interfaces with `portSecurity: false`. Its value is
/// `true`.
pub const PORT_SECURITY_LABEL: &str = "ucloud.ungleich.ch/may-disable-port-security";
/// The pool that is meant where an object names none.
pub const DEFAULT_POOL: &str = "default";

/// A host renews its Lease this often, in seconds.
pub const HOST_LEASE_RENEW_SECONDS: u32 = 10;
/// A host whose Lease was not renewed for this long, in seconds, is not Ready.
pub const HOST_LEASE_DURATION_SECONDS: u32 = 40;
/// A host with the role router renews its Lease this often, in seconds: networks wait for it.
pub const ROUTER_LEASE_RENEW_SECONDS: u32 = 2;
/// What the Lease of a host with the role router says: other routers take over its networks when it was not renewed for
/// this long, in seconds.
pub const ROUTER_LEASE_DURATION_SECONDS: u32 = 6;

/// The group of identities that may do everything, as in Kubernetes.
pub const ADMIN_GROUP: &str = "system:masters";
/// The group of the controllers' identity.
pub const CONTROLLERS_GROUP: &str = "ucloud:controllers";
/// The group of agents whose hosts may have no role.
pub const AGENTS_GROUP: &str = "ucloud:agents";
/// An agent whose host may have roles is in a group of this prefix and the roles instead, such as
/// `ucloud:agents:compute,router`.
pub const AGENTS_WITH_ROLES_PREFIX: &str = "ucloud:agents:";
/// The user that the API server is to the agents of hosts.
pub const API_USER: &str = "ucloud:api";
/// The DNS name in an agent's certificate, by which the API server knows whom it has reached, is its host's name and this.
/// No client reaches an API server by such a name, so an agent cannot pass for one.
pub const AGENT_DOMAIN: &str = ".agents.ucloud";
/// The header that says how many bytes of a File are there, or come before those in the request (as in tus 1.0).
pub const UPLOAD_OFFSET: &str = "upload-offset";
/// The header that says how many bytes a File has (as in tus 1.0).
pub const UPLOAD_LENGTH: &str = "upload-length";
/// The header that says which checksum all the bytes of a File have, where its spec does not: it comes with the last ones.
pub const UPLOAD_SHA256: &str = "upload-sha256";
/// An agent's user name is this prefix and the name of its host.
pub const AGENT_USER_PREFIX: &str = "ucloud:agent:";
