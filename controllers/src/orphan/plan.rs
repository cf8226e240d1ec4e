//! What becomes of an orphan, and what its status is to say. Pure.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use ucloud_types::{
    Host, Orphan, OrphanSpec, OrphanStatus, StoragePool, Volume,
    condition::{Finding, READY, Time, Verdict},
    meta::AGENT_FINALIZER,
    orphan::{HostOrphan, OrphanKind, OrphanPhase},
};

use crate::runtime::{
    is_deleting, name_of,
    report::{find, status_of},
    uid_of,
};

/// What of a host an orphan can depend on: what it reports, and of which pools that is all.
pub fn aspect(host: &Host) -> (Vec<HostOrphan>, Vec<String>) {
    let pools = host.status.iter().flat_map(|status| &status.pools).filter(|pool| pool.surveyed);
    let pools = pools.map(|pool| pool.name.clone()).collect();
    (host.status.as_ref().map(|status| status.orphans.clone()).unwrap_or_default(), pools)
}

/// The Orphan of what a host has found, in a pool that is `shared` or not.
pub fn orphan_of(host: &Host, found: &HostOrphan, shared: bool) -> Orphan {
    let spec = OrphanSpec {
        kind: found.kind,
        uid: found.uid.clone(),
        name: found.name.clone(),
        pool: found.pool.clone(),
        host: (!shared).then(|| host.name_any()),
        destroy: false,
        adopt: None,
    };
    Orphan::new(&spec.object_name(), spec)
}

/// What the host reports of it.
pub fn reported<'a>(host: &'a Host, spec: &OrphanSpec) -> Option<&'a HostOrphan> {
    if spec.host.is_some() && spec.host != host.metadata.name {
        return None;
    }
    host.status.as_ref()?.orphans.iter().find(|found| spec.is(found))
}

/// Whether it is to become this volume.
pub fn is_named(orphan: &Orphan, volume: &Volume) -> bool {
    let name = |field: &Option<String>, wanted: &str| field.as_deref() == Some(wanted);
    let meta = &volume.metadata;
    orphan.spec.adopt.as_ref().is_some_and(|to| name(&meta.namespace, &to.namespace) && name(&meta.name, &to.volume))
}

/// What an orphan depends on.
pub struct Around<'a> {
    /// All hosts.
    pub hosts: &'a [Arc<Host>],
    /// Its StoragePool.
    pub pool: Option<&'a StoragePool>,
    /// The Volume that it is to become.
    pub volume: Option<&'a Volume>,
    /// Whether an object lives that it belongs to.
    pub owned: bool,
    /// When it is destroyed unless somebody adopts it.
    pub destroy_at: Option<Timestamp>,
    /// The time.
    pub now: Timestamp,
}

/// The status of an orphan; none if it is none any more.
pub fn plan(orphan: &Orphan, around: &Around<'_>) -> Option<OrphanStatus> {
    let mut status = status_of(orphan);
    let mut reporters: Vec<_> =
        around.hosts.iter().filter_map(|host| Some((host.name_any(), reported(host, &orphan.spec)?))).collect();
    reporters.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let there = !reporters.is_empty() || is_unknown(&orphan.spec, around) || is_on_its_way(&status, around.volume);
    if around.owned || !there {
        return None;
    }
    let surveyor = around.pool.and_then(|pool| pool.status.as_ref()?.surveyor.clone());
    let preferred = [orphan.spec.host.clone(), surveyor, status.host.clone()];
    let reports = |host: &String| reporters.iter().any(|(name, _)| name == host);
    let by = preferred.into_iter().flatten().find(reports).or_else(|| reporters.first().map(|(name, _)| name.clone()));
    let found = reporters.iter().find(|(name, _)| Some(name) == by.as_ref()).map(|(_, found)| *found);
    if let Some(found) = found {
        status.host = by;
        status.size = found.size.or(status.size);
        status.origin = found.origin.clone().or(status.origin);
    }
    status.destroy_at = around.destroy_at.map(Time);
    status.volume_uid = None;
    let error = found.and_then(|found| found.error.as_deref());
    let host = status.host.clone().unwrap_or_default();
    let finding = |verdict, reason, message: String| Finding::new(READY, verdict, reason, message);
    let due = around.destroy_at.is_some_and(|at| at <= around.now);
    let (phase, ready) = if orphan.spec.adopt.is_some() {
        match adopter(orphan, around.volume) {
            Ok(volume) => {
                status.volume_uid = Some(uid_of(volume).to_owned());
                let ready = if let Some(error) = error {
                    finding(Verdict::False, "AdoptionFailed", error.to_owned())
                } else {
                    let message = format!("host {host} has Volume {} take it over", name_of(volume));
                    finding(Verdict::False, "Adopting", message)
                };
                (OrphanPhase::Adopting, ready)
            }
            Err((reason, message)) => (OrphanPhase::Found, finding(Verdict::False, reason, message)),
        }
    } else if orphan.spec.destroy || due {
        let ready = match error {
            Some(error) => finding(Verdict::False, "DestructionFailed", error.to_owned()),
            None => finding(Verdict::False, "Destroying", format!("host {host} destroys it")),
        };
        (OrphanPhase::Destroying, ready)
    } else {
        (OrphanPhase::Found, finding(Verdict::True, "Found", advice(orphan, around.destroy_at)))
    };
    status.phase = Some(phase);
    find(orphan, &mut status, &ready);
    Some(status)
}

/// In a pool that all hosts share one host looks. Until it has, what nobody reports may be there.
fn is_unknown(spec: &OrphanSpec, around: &Around<'_>) -> bool {
    let Some(pool) = around.pool.filter(|_| spec.host.is_none()) else { return false };
    let surveyor = pool.status.as_ref().and_then(|status| status.surveyor.as_ref());
    let host = around.hosts.iter().find(|host| host.metadata.name.as_ref() == surveyor);
    let parts = host.and_then(|host| host.status.as_ref()).into_iter().flat_map(|status| &status.pools);
    !parts.into_iter().any(|part| part.name == pool.name_any() && part.surveyed)
}

/// Whether its host was told to make this volume of it, and has not said yet that it is made. Its name may be another by now.
fn is_on_its_way(status: &OrphanStatus, volume: Option<&Volume>) -> bool {
    let Some(volume) = volume else { return false };
    let told = status.phase == Some(OrphanPhase::Adopting) && status.volume_uid.as_deref() == Some(uid_of(volume));
    told && !is_made(volume) && !is_deleting(volume)
}

fn is_made(volume: &Volume) -> bool {
    volume.status.as_ref().is_some_and(|status| status.size.is_some())
}

/// The Volume that takes it over; else a reason, and what to do.
fn adopter<'a>(orphan: &Orphan, volume: Option<&'a Volume>) -> Result<&'a Volume, (&'static str, String)> {
    let to = orphan.spec.adopt.as_ref();
    let name = to.map(|to| format!("{}/{}", to.namespace, to.volume)).unwrap_or_default();
    let orphan_name = orphan.name_any();
    let Some(volume) = volume else {
        let message = format!(
            "Volume {name}, which is to take it over, does not exist: create it with spec.source.orphan {orphan_name}, \
             or run `ucloudctl adopt {orphan_name}` again"
        );
        return Err(("VolumeNotFound", message));
    };
    let pool = orphan.spec.pool.as_deref().unwrap_or_default();
    let told = orphan.status.as_ref().and_then(|status| status.volume_uid.as_deref()) == Some(uid_of(volume));
    let why = if volume.spec.orphan() != Some(&orphan_name) {
        format!("is not made of it (spec.source.orphan): adopt it under another name than {name}")
    } else if volume.spec.effective_pool() != pool {
        format!("is in pool {}, and this in pool {pool}: make the volume again there", volume.spec.effective_pool())
    } else if is_deleting(volume) {
        "is being deleted: adopt it again once that is gone".to_owned()
    } else if is_made(volume) && !told {
        "was made already: adopt it under another name".to_owned()
    // Without it, a deletion would leave the bytes behind
    } else if !volume.finalizers().iter().any(|finalizer| finalizer == AGENT_FINALIZER) {
        return Err(("VolumeNotReady", format!("Volume {name} is new, and waits for the volume controller")));
    } else {
        return Ok(volume);
    };
    Err(("VolumeMismatch", format!("Volume {name}, which is to take it over, {why}")))
}

fn advice(orphan: &Orphan, destroy_at: Option<Timestamp>) -> String {
    let (name, spec) = (orphan.name_any(), &orphan.spec);
    let adopt = match spec.kind {
        OrphanKind::Disk => format!("`ucloudctl adopt {name}` makes a Volume of it, "),
        OrphanKind::Domain => "its disks are orphans of their own; ".to_owned(),
        OrphanKind::Image | OrphanKind::File => String::new(),
    };
    let by_itself = match destroy_at {
        Some(at) => format!("; it is destroyed by itself at {at}"),
        None => String::new(),
    };
    format!("no object has the UID {}: {adopt}`ucloudctl destroy {name}` destroys it{by_itself}", spec.uid)
}

#[cfg(test)]
mod tests;
