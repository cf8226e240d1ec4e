//! SecurityGroup: what VMs' interfaces may receive and send.

use std::net::Ipv6Addr;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Ipv6Prefix, condition::Condition};

/// What the interfaces that name this group may receive and send.
///
/// An interface that is in groups receives what one of their rules lets in, and nothing else. It sends anything, until
/// one of its groups has a rule about egress: then it sends what some rule lets out. Answers pass by themselves, as do
/// neighbour discovery and multicast listener discovery.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ucloud.ungleich.ch",
    version = "v1alpha1",
    kind = "SecurityGroup",
    plural = "securitygroups",
    singular = "securitygroup",
    shortname = "sg",
    namespaced,
    status = "SecurityGroupStatus",
    derive = "PartialEq",
    category = "ucloud",
    doc = "What the interfaces of VMs that name this group may receive and send.",
    printcolumn(name = "Members", type_ = "integer", json_path = ".status.members"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroupSpec {
    /// What members may receive. Nothing, if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ingress: Vec<IngressRule>,

    /// What members may send. Anything, if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub egress: Vec<EgressRule>,
}

/// Lets in what comes from one of `from`, by this protocol and to one of these ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressRule {
    /// Where it may come from; anywhere, if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub from: Vec<Peer>,

    /// The protocol; any by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,

    /// The members' ports, for TCP and UDP; any, if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub ports: Vec<PortRange>,
}

/// Lets out what goes to one of `to`, by this protocol and to one of these ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressRule {
    /// Where it may go; anywhere, if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub to: Vec<Peer>,

    /// The protocol; any by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,

    /// The receiver's ports, for TCP and UDP; any, if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub ports: Vec<PortRange>,
}

/// The other side of a connection: a prefix, or the members of a group. One of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Addresses in this prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Ipv6Prefix>,

    /// The members of the SecurityGroup of this name in the same namespace. It may be the group itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// A protocol above IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// TCP.
    TCP,
    /// UDP.
    UDP,
    /// ICMPv6: pings. (Neighbour discovery and errors pass without a rule.)
    ICMPv6,
}

/// One port, or all from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortRange {
    /// The port, or the first of a range.
    #[schemars(range(min = 1))]
    pub port: u16,

    /// The last port of a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub end_port: Option<u16>,
}

impl PortRange {
    /// The first port and the last.
    pub fn bounds(self) -> (u16, u16) {
        (self.port, self.end_port.unwrap_or(self.port))
    }
}

/// What is known of a security group. Written by the security group controller alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroupStatus {
    /// How many interfaces of VMs are in the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<u32>,

    /// The addresses that the members use, sorted. Hosts let in by them what a rule lets in from this group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Ipv6Addr>,

    /// The generation of the spec that the controller has acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
