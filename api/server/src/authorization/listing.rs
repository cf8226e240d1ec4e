//! What each role may do, for people to read (`kubectl auth can-i --list`). The rules themselves are code; where they depend
//! on the objects, what stands here is what a request passes before its objects are looked at.

use ucloud_machinery::auth::{Rule, Rules};
use ucloud_types::{GROUP, meta::HOSTS_NAMESPACE};

use super::{Role, SELF_REVIEWS, controllers};

pub fn rules(role: Role<'_>, namespace: &str) -> Rules {
    let (mut rules, incomplete) = match role {
        Role::Administrator => {
            let paths = Rule::Paths { verbs: texts(&["*"]), paths: texts(&["*"]) };
            return Rules { rules: vec![resources(&["*"], "*", &["*"], &[]), paths], incomplete: false };
        }
        Role::Controllers => (controllers::rules(), true),
        Role::Agent(host) => (agent(host, namespace), true),
        Role::Stranger => (Vec::new(), false),
    };
    rules.extend(SELF_REVIEWS.map(|(group, resource)| resources(&["create"], group, &[resource], &[])));
    rules.push(Rule::Paths {
        verbs: texts(&["get"]),
        paths: texts(&["/api", "/api/*", "/apis", "/apis/*", "/openapi/*"]),
    });
    Rules { rules, incomplete }
}

fn agent(host: &str, namespace: &str) -> Vec<Rule> {
    let reads: [&str; 3] = ["get", "list", "watch"];
    let mut rules = vec![
        resources(
            &["get", "list", "watch", "update", "patch"],
            GROUP,
            &["vms", "vms/status", "files", "files/status", "volumes", "volumes/status"],
            &[],
        ),
        resources(&["list", "watch"], GROUP, &["snapshots"], &[]),
        resources(&reads, GROUP, &["orphans"], &[]),
        resources(&["create"], GROUP, &["hosts/owners"], &[host]),
        resources(&["get", "update", "patch"], GROUP, &["snapshots/status"], &[]),
        resources(&["get"], GROUP, &["files/content"], &[]),
        resources(&["get", "list", "watch", "create"], GROUP, &["hosts"], &[host]),
        resources(&["get", "update", "patch"], GROUP, &["hosts/status"], &[host]),
        resources(&reads, GROUP, &["networks", "images", "securitygroups", "storagepools"], &[]),
        resources(&["create", "patch"], "events.k8s.io", &["events"], &[]),
    ];
    if namespace == HOSTS_NAMESPACE {
        rules.push(resources(&["get", "create", "update", "patch"], "coordination.k8s.io", &["leases"], &[host]));
    }
    rules
}

/// A rule about the objects of one group.
pub fn resources(verbs: &[&str], group: &str, resources: &[&str], names: &[&str]) -> Rule {
    Rule::Resources {
        verbs: texts(verbs),
        groups: vec![group.to_owned()],
        resources: texts(resources),
        names: texts(names),
    }
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}
