//! Network: what cannot be changed once networks have VNIs and prefixes, or are in use; and name resolution that guests
//! can hear of.

use std::net::Ipv6Addr;

use serde_json::Value;
use ucloud_machinery::{
    meta,
    status::{FieldError, FieldPath},
    strategy::{Context, Lister, Strategy},
};
use ucloud_types::{
    GROUP, Network, NetworkAllocationSpec, NetworkPool, NetworkPoolSpec,
    network::{Ipam, NetworkDns},
};

use super::{check_immutable, check_name, field::Field, network_pool::unusable, status_errors, typed};

const ADVICE: &str = "make a new network instead";

/// The rules of Networks.
pub struct NetworkStrategy;

impl Strategy for NetworkStrategy {
    fn validate_create(&self, ctx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        match typed(object) {
            Ok(network) => {
                let mut errors = validate(&network);
                check_pool(ctx, &network, &mut errors);
                errors
            }
            Err(error) => vec![error],
        }
    }

    fn validate_update(&self, ctx: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        match (typed::<Network>(new), typed::<Network>(old)) {
            (Ok(new), Ok(old)) => {
                let mut errors = validate(&new);
                let (old, new) = (&old.spec, &new.spec);
                if new.effective_ipam() == Ipam::None && old.effective_ipam() != Ipam::None {
                    check_undeclared(ctx.lister, ctx.namespace, ctx.name, &mut errors);
                }
                check_immutable("spec.pool", &old.effective_pool(), &new.effective_pool(), ADVICE, &mut errors);
                check_immutable("spec.prefix", &old.prefix, &new.prefix, ADVICE, &mut errors);
                errors
            }
            (Err(error), _) | (_, Err(error)) => vec![error],
        }
    }

    fn validate_status_update(&self, _: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        status_errors::<Network>(new)
    }
}

fn validate(network: &Network) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(pool) = &network.spec.pool {
        check_name(FieldPath::new("spec.pool"), pool, &mut errors);
    }
    if let Some(prefix) = network.spec.prefix {
        let mut refuse = |rule: &str| {
            errors.push(FieldError::invalid(FieldPath::new("spec.prefix"), prefix.to_string(), rule));
        };
        if prefix.length() != NetworkPoolSpec::NETWORK_PREFIX_LENGTH {
            refuse("must be a /64");
        } else if let Some(special) = unusable().into_iter().find(|special| special.overlaps(prefix)) {
            refuse(&format!("overlaps with {special}, which networks cannot use"));
        }
    }
    if let Some(dns) = &network.spec.dns {
        check_dns(network.spec.effective_ipam(), dns, &mut errors);
    }
    errors
}

/// A network that is to be layer 2 alone must not be one in which VMs declare addresses of its prefix: they would keep
/// them, and nothing of what was promised for them would hold.
///
/// Every other change of the type is possible at any time: VNI, prefix and gateway stay the network's own.
fn check_undeclared(lister: &dyn Lister, namespace: Option<&str>, network: &str, errors: &mut Vec<FieldError>) {
    let declares = |vm: &Value| {
        Field::spec(vm).child("networks").items().any(|interface| {
            interface.child("network").text() == Some(network) && interface.child("addresses").items().next().is_some()
        })
    };
    let vms = lister.list(GROUP, "vms", namespace);
    let mut names: Vec<&str> = vms.iter().filter(|vm| declares(vm)).map(|vm| meta::text(vm, "name")).collect();
    names.sort_unstable();
    if let Some((first, others)) = names.split_first() {
        let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
        let why = format!(
            "VM {first}{more} declares addresses in this network, and a network with ipam None has none: take \
             spec.networks[].addresses out of those VMs first"
        );
        errors.push(FieldError::forbidden(FieldPath::new("spec.ipam"), &why));
    }
}

/// Whether the pool is the project's to take from, and lets it bring its prefix. A pool that is not there yet, or lets
/// projects in later, is waited for: then the network's controller decides, by the same rules.
fn check_pool(ctx: &Context<'_>, network: &Network, errors: &mut Vec<FieldError>) {
    let (namespace, name) = (ctx.namespace.unwrap_or_default(), network.spec.effective_pool());
    let pool = ctx.lister.get(GROUP, "networkpools", None, name);
    let Some(pool) = pool.and_then(|pool| typed::<NetworkPool>(&pool).ok()) else { return };
    if !pool.spec.admits(namespace) {
        let why = format!("NetworkPool {name} is not for project {namespace}: name another, or ask its operator");
        errors.push(FieldError::forbidden(FieldPath::new("spec.pool"), &why));
    }
    let Some(prefix) = network.spec.prefix else { return };
    let path = FieldPath::new("spec.prefix");
    if !pool.spec.permits(namespace, prefix) {
        let why = format!("NetworkPool {name} does not let project {namespace} bring {prefix} along: ask its operator");
        errors.push(FieldError::forbidden(path, &why));
    } else if ctx.lister.get(GROUP, "networkallocations", None, &NetworkAllocationSpec::claim_name(prefix)).is_some() {
        errors.push(FieldError::invalid(path, prefix.to_string(), "another network has it"));
    }
}

fn check_dns(ipam: Ipam, dns: &NetworkDns, errors: &mut Vec<FieldError>) {
    let path = FieldPath::new("spec.dns");
    if ipam != Ipam::Automatic {
        let why =
            "guests hear of name resolution by router advertisements, which only a network with ipam Automatic has";
        errors.push(FieldError::forbidden(path.clone(), why));
    }
    let servers = path.child("servers");
    for (index, server) in dns.servers.iter().enumerate() {
        let here = servers.index(index);
        if dns.servers[..index].contains(server) {
            errors.push(FieldError::duplicate(here, server.to_string()));
        } else if !may_serve(*server) {
            errors.push(FieldError::invalid(here, server.to_string(), "is not an address that guests can ask"));
        }
    }
    for (index, domain) in dns.search.iter().enumerate() {
        if dns.search[..index].contains(domain) {
            errors.push(FieldError::duplicate(path.child("search").index(index), domain.as_str()));
        }
    }
}

/// Whether a resolver can have this address. Link-local ones may be announced (RFC 8106, 5.1).
fn may_serve(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(spec: &Value) -> Vec<String> {
        let object = json!({"apiVersion": "x", "kind": "Network", "metadata": {"name": "n"}, "spec": spec});
        let errors = validate(&typed(&object).unwrap());
        errors.iter().map(|error| error.field.to_string()).collect()
    }

    /// A namespace with these VMs.
    struct Vms(Vec<Value>);

    impl Lister for Vms {
        fn get(&self, _: &str, _: &str, _: Option<&str>, _: &str) -> Option<Value> {
            None
        }

        fn list(&self, _: &str, resource: &str, _: Option<&str>) -> Vec<Value> {
            assert_eq!(resource, "vms");
            self.0.clone()
        }
    }

    #[test]
    fn layer_2_alone_is_refused_while_vms_declare_addresses() {
        let vm = |name: &str, network: &str, addresses: &[&str]| json!({"metadata": {"name": name}, "spec": {"networks": [{"network": network, "addresses": addresses}]}});
        let refused = |vms: &[Value]| {
            let mut errors = Vec::new();
            check_undeclared(&Vms(vms.to_vec()), Some("p"), "lan", &mut errors);
            errors.into_iter().map(|error| (error.field.to_string(), error.detail)).next()
        };
        let without = json!({"metadata": {"name": "c"}, "spec": {"networks": [{"network": "lan"}]}});
        assert_eq!(refused(&[vm("a", "lan", &[]), vm("b", "other", &["fd00::2"]), without]), None);
        let (field, why) = refused(&[vm("z", "lan", &["fd00::3"]), vm("a", "lan", &["fd00::2"])]).unwrap();
        assert_eq!(field, "spec.ipam");
        assert!(why.starts_with("VM a and 1 more declares addresses in this network"), "{why}");
    }

    #[test]
    fn every_wrong_field_is_named() {
        assert_eq!(paths(&json!({})), [""; 0]);
        assert_eq!(paths(&json!({"dns": {"servers": ["2001:db8::53", "fe80::1"], "search": ["a.example"]}})), [""; 0]);
        assert_eq!(
            paths(&json!({"ipam": "Manual", "pool": "../x", "prefix": "fe80::/64",
                "dns": {"servers": ["::1", "fd00::1", "fd00::1"], "search": ["a", "a"]}})),
            [
                "spec.pool",
                "spec.prefix",
                "spec.dns",
                "spec.dns.servers[0]",
                "spec.dns.servers[2]",
                "spec.dns.search[1]"
            ]
        );
    }
}
