//! Who may do what. Identities come from client certificates, rules are code: there are four roles, and each has a file
//! where it has rules.
//!
//! - administrators (group `system:masters`): everything;
//! - the controllers: read everything, write what controllers write ([`controllers`]);
//! - the agent of a host: what concerns its own host and the VMs bound to it ([`agent`]);
//! - everybody else who has a certificate: discovery.
//!
//! A request is judged twice: by its verb and its names before its body is read, and again with the objects before and
//! after, where a rule is about what changes in them.

mod agent;
mod change;
mod controllers;
mod listing;
mod volume;

use serde_json::Value;
use ucloud_machinery::{
    auth::{Attributes, Authorizer, Decision, Rules, UserInfo},
    strategy::Lister,
};
use ucloud_types::meta::{ADMIN_GROUP, AGENT_USER_PREFIX, CONTROLLERS_GROUP};

use crate::protection;

/// The questions that everybody may ask of themselves.
const SELF_REVIEWS: [(&str, &str); 3] = [
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
];

/// The rules of all roles.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoleAuthorizer;

/// Why a request is refused. The machinery says itself who cannot do what; this is what there is to say beyond that.
type Refusal = String;

/// There is nothing more to say than that no rule allows it.
const NO_RULE: Refusal = String::new();

/// What the caller is to ucloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role<'a> {
    Administrator,
    Controllers,
    /// The agent of the host with this name.
    Agent(&'a str),
    Stranger,
}

fn role(user: &UserInfo) -> Role<'_> {
    if user.in_group(ADMIN_GROUP) {
        return Role::Administrator;
    }
    if user.in_group(CONTROLLERS_GROUP) {
        return Role::Controllers;
    }
    match user.name.strip_prefix(AGENT_USER_PREFIX) {
        Some(host) if agent::is_one(user) && !host.is_empty() => Role::Agent(host),
        _ => Role::Stranger,
    }
}

impl Authorizer for RoleAuthorizer {
    fn authorize(&self, attributes: &Attributes<'_>, lister: &dyn Lister) -> Decision {
        let role = role(attributes.user);
        decision(match role {
            Role::Administrator => Ok(()),
            _ if asks_about_itself(attributes) => Ok(()),
            _ if !attributes.is_resource() => authorize_path(attributes),
            Role::Controllers => controllers::authorize(attributes, lister),
            Role::Agent(host) => agent::authorize(host, attributes, lister),
            Role::Stranger => Err(NO_RULE),
        })
    }

    fn authorize_object(
        &self,
        attributes: &Attributes<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
        lister: &dyn Lister,
    ) -> Decision {
        let answer = match role(attributes.user) {
            Role::Administrator => Ok(()),
            Role::Controllers => controllers::authorize_object(attributes, old, new, lister),
            Role::Agent(host) => agent::authorize_object(host, attributes, old, new, lister),
            Role::Stranger => Err(NO_RULE),
        };
        match (answer, old, new) {
            (Ok(()), Some(old), None) => decision(protection::check_namespace(attributes, old)),
            (answer, _, _) => decision(answer),
        }
    }

    fn rules(&self, user: &UserInfo, namespace: &str) -> Rules {
        listing::rules(role(user), namespace)
    }
}

/// Who am I, and what may I do? Everybody may ask that of themselves (Kubernetes' role `system:basic-user`).
fn asks_about_itself(attributes: &Attributes<'_>) -> bool {
    SELF_REVIEWS.contains(&(attributes.group, attributes.resource))
        && attributes.subresource.is_empty()
        && attributes.verb == "create"
}

/// Paths that are no resource: discovery, as Kubernetes' role `system:discovery` allows it to all who are known.
fn authorize_path(attributes: &Attributes<'_>) -> Result<(), Refusal> {
    let root = attributes.path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let readable = matches!(attributes.verb, "get" | "head") && matches!(root, "api" | "apis" | "openapi");
    if readable { Ok(()) } else { Err(NO_RULE) }
}

fn decision(answer: Result<(), Refusal>) -> Decision {
    answer.map_or_else(Decision::Deny, |()| Decision::Allow)
}

#[cfg(test)]
pub(crate) mod test_support;
#[cfg(test)]
mod tests {
    use serde_json::json;
    use ucloud_types::meta::AGENTS_GROUP;

    use super::{
        test_support::{Objects, Request, user},
        *,
    };

    #[test]
    fn an_administrator_may_do_everything() {
        let admin = user("root", &[ADMIN_GROUP]);
        for verb in ["get", "create", "deletecollection"] {
            assert_eq!(Request::new(&admin, verb, "vms").decide(), Decision::Allow);
        }
        assert_eq!(Request::path(&admin, "get", "/metrics").decide(), Decision::Allow);
    }

    #[test]
    fn a_stranger_may_discover_and_no_more() {
        for stranger in [user("somebody", &[]), user("ucloud:agent:h1", &[]), user("ucloud:agent:", &[AGENTS_GROUP])] {
            for path in ["/api", "/apis/ucloud.ungleich.ch/v1alpha1", "/openapi/v3"] {
                assert_eq!(Request::path(&stranger, "get", path).decide(), Decision::Allow, "{path}");
            }
            for path in ["/metrics", "/apix", "/"] {
                assert_ne!(Request::path(&stranger, "get", path).decide(), Decision::Allow, "{path}");
            }
            assert_ne!(Request::path(&stranger, "post", "/apis").decide(), Decision::Allow);
            for (group, resource) in SELF_REVIEWS {
                let ask = Request::new(&stranger, "create", resource).group(group);
                assert_eq!(ask.decide(), Decision::Allow, "{resource}");
                assert_ne!(Request::new(&stranger, "get", resource).group(group).decide(), Decision::Allow);
            }
            let of_others = Request::new(&stranger, "create", "subjectaccessreviews").group("authorization.k8s.io");
            assert_ne!(of_others.decide(), Decision::Allow);
            for verb in ["get", "list", "watch", "create", "update", "patch", "delete"] {
                for resource in ["vms", "hosts", "events", "namespaces"] {
                    assert_ne!(Request::new(&stranger, verb, resource).decide(), Decision::Allow, "{verb} {resource}");
                }
            }
        }
    }

    #[test]
    fn what_is_needed_is_protected_from_administrators_too() {
        let admin = user("root", &[ADMIN_GROUP]);
        let namespace = json!({"metadata": {"name": "default"}});
        let request = Request::new(&admin, "delete", "namespaces").group("").name("default");
        assert_ne!(request.judge(Some(&namespace), None, &Objects::default()), Decision::Allow);
    }
}
