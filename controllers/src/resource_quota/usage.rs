//! What is used in a namespace, counted on the server.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ResourceQuota, apimachinery::pkg::api::resource::Quantity};
use kube::{
    Api, Client,
    api::ListParams,
    core::{DynamicObject, PartialObjectMeta},
    discovery::{ApiResource, Discovery},
};
use ucloud_types::{File, Quantity as Bytes, VM, Volume};

use crate::runtime::{Failure, objects};

/// Kinds that can be named without `count/`.
const PLAIN_COUNTS: [&str; 3] = ["configmaps", "resourcequotas", "secrets"];

/// Whether the quota limits how many quotas there are, which the server does not keep.
pub fn counts_quotas(quota: &ResourceQuota) -> bool {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    hard.is_some_and(|hard| ["resourcequotas", "count/resourcequotas"].iter().any(|name| hard.contains_key(*name)))
}

/// What is used of each of these. What no kind here takes, such as `pods`, is used by nobody.
pub async fn count(
    client: &Client,
    namespace: &str,
    names: impl Iterator<Item = &String>,
) -> Result<BTreeMap<String, Quantity>, Failure> {
    let mut used = BTreeMap::new();
    let (mut requests, mut discovery) = (None, None);
    for name in names {
        let amount = if let Some(counted) = counted_kind(name) {
            if discovery.is_none() {
                let discovered = Discovery::new(client.clone()).run_aggregated().await;
                discovery = Some(discovered.map_err(|e| Failure::api("cannot tell which kinds there are", e))?);
            }
            let served = discovery.as_ref().and_then(|discovery| find(discovery, counted));
            match served {
                Some(resource) => count_objects(client, namespace, &resource).await?.to_string(),
                None => "0".to_owned(),
            }
        } else if let Some(part) = Requested::named(name) {
            if requests.is_none() {
                let vms = objects::list::<VM>(client, Some(namespace), None).await?;
                let files = objects::list::<File>(client, Some(namespace), None).await?;
                let volumes = objects::list::<Volume>(client, Some(namespace), None).await?;
                requests = Some(Requests::of(&vms, &files, &volumes));
            }
            requests.as_ref().map_or_else(|| "0".to_owned(), |requests| requests.shown(part))
        } else {
            "0".to_owned()
        };
        used.insert(name.clone(), Quantity(amount));
    }
    Ok(used)
}

/// The plural and the group of a kind whose objects are counted under this name.
fn counted_kind(name: &str) -> Option<(&str, &str)> {
    if PLAIN_COUNTS.contains(&name) {
        return Some((name, ""));
    }
    let counted = name.strip_prefix("count/")?;
    Some(counted.split_once('.').unwrap_or((counted, "")))
}

fn find(discovery: &Discovery, (plural, group): (&str, &str)) -> Option<ApiResource> {
    let group = discovery.groups().find(|known| known.name() == group)?;
    group.recommended_resources().into_iter().map(|(resource, _)| resource).find(|resource| resource.plural == plural)
}

async fn count_objects(client: &Client, namespace: &str, resource: &ApiResource) -> Result<usize, Failure> {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::namespaced_with(client.clone(), namespace, resource);
    let list = api.list_metadata(&ListParams::default()).await;
    let list = list.map_err(|error| Failure::api(format!("cannot list {} in {namespace}", resource.plural), error))?;
    Ok(list.items.len())
}

#[derive(Clone, Copy)]
enum Requested {
    Cpu,
    Memory,
    Storage,
}

impl Requested {
    fn named(name: &str) -> Option<Self> {
        match name {
            "requests.cpu" | "cpu" => Some(Self::Cpu),
            "requests.memory" | "memory" => Some(Self::Memory),
            "requests.storage" => Some(Self::Storage),
            _ => None,
        }
    }
}

/// What the VMs, Files and Volumes of a namespace take together.
struct Requests {
    cpus: u64,
    memory: u64,
    storage: u64,
}

impl Requests {
    fn of(vms: &[VM], files: &[File], volumes: &[Volume]) -> Self {
        let mut sum = Self { cpus: 0, memory: 0, storage: 0 };
        for requests in vms.iter().map(|vm| vm.spec.requests()) {
            sum.cpus = sum.cpus.saturating_add(requests.cpus.into());
            sum.memory = sum.memory.saturating_add(requests.memory.bytes());
            sum.storage = sum.storage.saturating_add(requests.storage.bytes());
        }
        let sizes = files.iter().map(|file| file.spec.size).chain(volumes.iter().map(|volume| volume.spec.size));
        for size in sizes {
            sum.storage = sum.storage.saturating_add(size.bytes());
        }
        sum
    }

    fn shown(&self, part: Requested) -> String {
        match part {
            Requested::Cpu => self.cpus.to_string(),
            Requested::Memory => Bytes::from_bytes(self.memory).to_string(),
            Requested::Storage => Bytes::from_bytes(self.storage).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_is_counted() {
        assert_eq!(counted_kind("count/vms.ucloud.ungleich.ch"), Some(("vms", "ucloud.ungleich.ch")));
        assert_eq!(counted_kind("count/secrets"), Some(("secrets", "")));
        assert_eq!(counted_kind("secrets"), Some(("secrets", "")));
        assert_eq!(counted_kind("pods"), None);
        assert_eq!(counted_kind("requests.cpu"), None);
    }
}
