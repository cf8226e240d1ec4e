//! Network: what cannot be changed once networks have VNIs and prefixes, and name resolution that guests can hear of.

use std::net::Ipv6Addr;

use serde_json::Value;
use ucloud_machinery::{
    status::{FieldError, FieldPath},
    strategy::{Context, Strategy},
};
use ucloud_types::{
    Network,
    network::{Ipam, NetworkDns},
};

use super::{check_immutable, check_name, status_errors, typed};

const ADVICE: &str = "make a new network instead";

/// The rules of Networks.
pub struct NetworkStrategy;

impl Strategy for NetworkStrategy {
    fn validate_create(&self, _: &Context<'_>, object: &Value) -> Vec<FieldError> {
        typed(object).map_or_else(|error| vec![error], |network| validate(&network))
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        match (typed::<Network>(new), typed::<Network>(old)) {
            (Ok(new), Ok(old)) => {
                let mut errors = validate(&new);
                let (old, new) = (&old.spec, &new.spec);
                check_immutable("spec.ipam", &old.effective_ipam(), &new.effective_ipam(), ADVICE, &mut errors);
                check_immutable("spec.pool", &old.effective_pool(), &new.effective_pool(), ADVICE, &mut errors);
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
    if let Some(dns) = &network.spec.dns {
        check_dns(network.spec.effective_ipam(), dns, &mut errors);
    }
    errors
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

    #[test]
    fn every_wrong_field_is_named() {
        assert_eq!(paths(&json!({})), [""; 0]);
        assert_eq!(paths(&json!({"dns": {"servers": ["2001:db8::53", "fe80::1"], "search": ["a.example"]}})), [""; 0]);
        assert_eq!(
            paths(&json!({"ipam": "Manual", "pool": "../x",
                "dns": {"servers": ["::1", "fd00::1", "fd00::1"], "search": ["a", "a"]}})),
            ["spec.pool", "spec.dns", "spec.dns.servers[0]", "spec.dns.servers[2]", "spec.dns.search[1]"]
        );
    }
}
