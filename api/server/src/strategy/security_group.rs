//! SecurityGroup: rules that say one thing.

use serde_json::Value;
use ucloud_machinery::{
    status::{FieldError, FieldPath},
    strategy::{Context, Strategy},
};
use ucloud_types::{
    SecurityGroup,
    security_group::{Peer, PortRange, Protocol},
};

use super::{check_name, status_errors, typed};

/// The rules of SecurityGroups.
pub struct SecurityGroupStrategy;

impl Strategy for SecurityGroupStrategy {
    fn validate_create(&self, _: &Context<'_>, object: &Value) -> Vec<FieldError> {
        typed(object).map_or_else(|error| vec![error], |group| validate(&group))
    }

    fn validate_update(&self, ctx: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        self.validate_create(ctx, new)
    }

    fn validate_status_update(&self, _: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        status_errors::<SecurityGroup>(new)
    }
}

fn validate(group: &SecurityGroup) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = FieldPath::new("spec");
    for (index, rule) in group.spec.ingress.iter().enumerate() {
        let here = spec.child("ingress").index(index);
        check_peers(&here.child("from"), &rule.from, &mut errors);
        check_ports(&here.child("ports"), rule.protocol, &rule.ports, &mut errors);
    }
    for (index, rule) in group.spec.egress.iter().enumerate() {
        let here = spec.child("egress").index(index);
        check_peers(&here.child("to"), &rule.to, &mut errors);
        check_ports(&here.child("ports"), rule.protocol, &rule.ports, &mut errors);
    }
    errors
}

fn check_peers(path: &FieldPath, peers: &[Peer], errors: &mut Vec<FieldError>) {
    for (index, peer) in peers.iter().enumerate() {
        let here = path.index(index);
        match (&peer.prefix, &peer.group) {
            (Some(_), None) => {}
            (None, Some(name)) => check_name(here.child("group"), name, errors),
            (None, None) => {
                errors.push(FieldError::required(here, "name a prefix or a group; leave the list out for anybody"));
            }
            (Some(_), Some(_)) => {
                errors
                    .push(FieldError::forbidden(here.child("group"), "a peer is a prefix or a group: write two peers"));
            }
        }
    }
}

fn check_ports(path: &FieldPath, protocol: Option<Protocol>, ports: &[PortRange], errors: &mut Vec<FieldError>) {
    if !ports.is_empty() && !matches!(protocol, Some(Protocol::TCP | Protocol::UDP)) {
        errors.push(FieldError::forbidden(path.clone(), "only TCP and UDP have ports: say which in protocol"));
    }
    for (index, range) in ports.iter().enumerate() {
        let here = path.index(index);
        if range.port == 0 {
            errors.push(FieldError::invalid(here.child("port"), range.port, "must be at least 1"));
        }
        if let Some(end) = range.end_port.filter(|end| *end < range.port) {
            errors.push(FieldError::invalid(here.child("endPort"), end, "must not be less than port"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(spec: &Value) -> Vec<String> {
        let object = json!({"apiVersion": "x", "kind": "SecurityGroup", "metadata": {"name": "web"}, "spec": spec});
        validate(&typed(&object).unwrap()).iter().map(|error| error.field.to_string()).collect()
    }

    #[test]
    fn every_wrong_field_is_named() {
        let sound = json!({
            "ingress": [{"from": [{"prefix": "2001:db8::/32"}, {"group": "web"}], "protocol": "TCP",
                "ports": [{"port": 80}, {"port": 8000, "endPort": 8010}]}, {"protocol": "ICMPv6"}, {}],
            "egress": [{"to": [{"group": "db"}], "protocol": "UDP"}]
        });
        assert_eq!(paths(&sound), [""; 0]);
        let wrong = json!({
            "ingress": [{"from": [{}, {"prefix": "::/0", "group": "a"}, {"group": "../x"}], "ports": [{"port": 80}]}],
            "egress": [{"protocol": "TCP", "ports": [{"port": 80, "endPort": 79}, {"port": 0}]}]
        });
        assert_eq!(
            paths(&wrong),
            [
                "spec.ingress[0].from[0]",
                "spec.ingress[0].from[1].group",
                "spec.ingress[0].from[2].group",
                "spec.ingress[0].ports",
                "spec.egress[0].ports[0].endPort",
                "spec.egress[0].ports[1].port"
            ]
        );
    }
}
