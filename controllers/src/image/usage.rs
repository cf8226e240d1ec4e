//! Who keeps an image that is being deleted. Pure.

use std::sync::Arc;

use kube::ResourceExt as _;
use ucloud_types::{Host, Image, VM, Volume, condition::COPIES_REMAIN};

use crate::runtime::{name_of, uid_of};

/// How many holders a message names.
const NAMED: usize = 3;

/// What keeps an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// VMs have disks that are, or will be, clones of it.
    Vms(Vec<String>),
    /// Volumes are yet to be made of it.
    Volumes(Vec<String>),
    /// Hosts have copies of it.
    Hosts(Vec<String>),
}

impl Holder {
    /// The reason for the condition Terminating.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Vms(_) | Self::Volumes(_) => "InUse",
            Self::Hosts(_) => COPIES_REMAIN,
        }
    }

    /// The message for the condition Terminating.
    pub fn message(&self) -> String {
        let (names, before, after) = match self {
            Self::Vms(names) => (names, "disks are clones of it: delete VM", ""),
            Self::Volumes(names) => (names, "volumes are to be clones of it: delete Volume", ""),
            Self::Hosts(names) => {
                (names, "waiting until its copy is gone from host", "; if that host never returns, delete the Host")
            }
        };
        let named = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        match names.len().saturating_sub(NAMED) {
            0 => format!("{before} {named}{after}"),
            more => format!("{before} {named} and {more} more{after}"),
        }
    }
}

/// Whether a disk of the VM is a clone of the image with this namespace and name, or is about to be restored from it.
pub fn uses(vm: &VM, namespace: &str, name: &str, uid: &str) -> bool {
    let from = vm.namespace().unwrap_or_default();
    vm.spec.disks.iter().any(|disk| disk.is_clone_of(&from, (namespace, name))) || vm.awaits_image(uid)
}

/// Whether the volume was not made yet. Once it is, it does without the image.
pub fn is_to_be_made(volume: &Volume) -> bool {
    volume.status.as_ref().is_none_or(|status| status.size.is_none())
}

/// Whether the volume is yet to be made of the image with this namespace and name.
fn awaits(volume: &Volume, namespace: &str, name: &str) -> bool {
    let from = volume.namespace().unwrap_or_default();
    is_to_be_made(volume) && volume.image().is_some_and(|image| image.resolve(&from) == (namespace, name))
}

/// Who keeps the image: VMs first, then volumes, then hosts.
pub fn holder(image: &Image, vms: &[Arc<VM>], volumes: &[Arc<Volume>], hosts: &[Arc<Host>]) -> Option<Holder> {
    let (namespace, name) = (image.namespace().unwrap_or_default(), image.name_any());
    let mut users: Vec<_> =
        vms.iter().filter(|vm| uses(vm, &namespace, &name, uid_of(image))).map(|vm| name_of(&**vm)).collect();
    if !users.is_empty() {
        users.sort();
        return Some(Holder::Vms(users));
    }
    let mut waiting: Vec<_> =
        volumes.iter().filter(|volume| awaits(volume, &namespace, &name)).map(|volume| name_of(&**volume)).collect();
    if !waiting.is_empty() {
        waiting.sort();
        return Some(Holder::Volumes(waiting));
    }
    let has_copy = |host: &&Arc<Host>| {
        let images = host.status.iter().flat_map(|status| &status.images);
        images.into_iter().any(|entry| entry.uid == uid_of(image))
    };
    let mut hosts: Vec<_> = hosts.iter().filter(has_copy).map(|host| host.name_any()).collect();
    hosts.sort();
    (!hosts.is_empty()).then_some(Holder::Hosts(hosts))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::image::testing::{host, image, vm, volume};

    #[test]
    fn vms_of_all_projects_hold_a_shared_image() {
        let shared = image("debian", "images");
        let copies = [Arc::new(host("h1", json!([{"uid": "uid-debian", "phase": "Ready"}])))];
        let vms: Vec<_> = [("p", "images/debian"), ("q", "images/debian"), ("images", "debian"), ("p", "debian")]
            .iter()
            .map(|(namespace, image)| Arc::new(vm(namespace, image)))
            .collect();
        let held = holder(&shared, &vms, &[], &copies).unwrap();
        assert_eq!(held.message(), "disks are clones of it: delete VM images/vm, p/vm, q/vm");
        let held = holder(&shared, &vms[3..], &[], &copies).unwrap();
        assert_eq!(held, Holder::Hosts(vec!["h1".into()]), "p has an image of the same name, which is another");
        assert_eq!(holder(&shared, &[], &[], &[]), None);
        assert_eq!(holder(&image("debian", "p"), &vms[..3], &[], &[]), None);
    }

    #[test]
    fn volumes_hold_an_image_until_they_are_made() {
        let shared = image("debian", "images");
        let volumes = |size| [Arc::new(volume("p", "images/debian", size)), Arc::new(volume("q", "debian", None))];
        let held = holder(&shared, &[], &volumes(None), &[]).unwrap();
        assert_eq!(
            (held.reason(), held.message().as_str()),
            ("InUse", "volumes are to be clones of it: delete Volume p/data")
        );
        assert_eq!(holder(&shared, &[], &volumes(Some("1Gi")), &[]), None);
        assert!(holder(&image("debian", "q"), &[], &volumes(None), &[]).is_some());
    }
}
