//! What is asked of libvirt about domains, over an open connection. All of it blocks; all of it is idempotent.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt as _, path::Path};

use nix::fcntl::OFlag;
use ucloud_agent_core::{
    HostError,
    hypervisor::{DiskSource, Domain, DomainDisk, DomainSpec},
};
use virt::{
    connect::Connect,
    domain::Domain as Handle,
    error::{Error, ErrorNumber},
    sys,
};

use crate::{
    connection::{CallError, brief},
    disks, interfaces,
    metadata::{self, MetadataError},
    state::domain_state,
    xml::Cache,
};

/// A domain as libvirt shows it.
pub struct Found {
    /// Its name.
    pub name: String,
    uuid: String,
    metadata: Option<String>,
    /// All that it is made of.
    xml: String,
    /// Its state, and the reason for it.
    state: (sys::virDomainState, i32),
}

/// A VM's UID, proven to be what libvirt takes for a domain's UUID: lower-case, with hyphens.
pub fn checked_uid(uid: &str) -> Result<String, HostError> {
    let fits = |(index, byte): (usize, u8)| match index {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    if uid.len() == 36 && uid.bytes().enumerate().all(fits) {
        Ok(uid.to_owned())
    } else {
        let message = format!("{uid:?} is no UID of a VM: 32 hexadecimal digits with hyphens, as the API gives them");
        Err(HostError::terminal("InvalidDomain", message))
    }
}

/// The domain that libvirt found, or None if it is none of ours.
pub fn read(found: Found) -> Result<Option<Domain>, MetadataError> {
    let Some(metadata) = found.metadata else { return Ok(None) };
    let mut spec = metadata::decode(&metadata, &found.uuid)?;
    spec.interfaces = interfaces::present(spec.interfaces, &interfaces::read(&found.xml)?);
    spec.disks = disks::present(spec.disks, &disks::read(&found.xml)?);
    let (state, reason) = found.state;
    let state = domain_state(state, reason, spec.standstill);
    Ok(Some(Domain { spec, state }))
}

/// All domains of the host.
pub fn list(connect: &Connect) -> Result<Vec<Found>, Error> {
    let handles = connect.list_all_domains(0)?;
    // One that vanishes meanwhile is skipped; any other failure fails the whole list, which would else lie.
    handles.iter().filter_map(|handle| present(look_at(handle)).transpose()).collect()
}

/// The domain with this UUID.
pub fn find(connect: &Connect, uid: &str) -> Result<Option<Found>, Error> {
    match handle(connect, uid)? {
        Some(handle) => present(look_at(&handle)),
        None => Ok(None),
    }
}

/// The domain with this UUID, if there is one.
pub fn handle(connect: &Connect, uid: &str) -> Result<Option<Handle>, Error> {
    present(Handle::lookup_by_uuid_string(connect, uid))
}

fn present<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.code() == ErrorNumber::NoDomain => Ok(None),
        Err(error) => Err(error),
    }
}

/// What our element in a domain's metadata holds, if it is there.
pub fn metadata(handle: &Handle) -> Result<Option<String>, Error> {
    match handle.get_metadata(sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed(), Some(metadata::NAMESPACE), 0) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.code() == ErrorNumber::NoDomainMetadata => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts our element into a domain's metadata: into those of the running one, of its definition, or of both.
pub fn set_metadata(handle: &Handle, element: &str, affected: u32) -> Result<(), Error> {
    let kind = sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed();
    let (prefix, namespace) = (Some(metadata::PREFIX), Some(metadata::NAMESPACE));
    handle.set_metadata(kind, Some(element), prefix, namespace, affected).map(drop)
}

fn look_at(handle: &Handle) -> Result<Found, Error> {
    // Before the metadata: a domain is marked before it is suspended, and goes on before it is no longer marked
    let state = handle.get_state()?;
    Ok(Found {
        name: handle.get_name()?,
        uuid: handle.get_uuid_string()?,
        metadata: metadata(handle)?,
        // After the metadata, which lists an interface or a disk before it is plugged
        xml: handle.get_xml_desc(0)?,
        state,
    })
}

/// Defines the domain anew and starts it, unless it runs.
pub fn start(connect: &Connect, uid: &str, xml: &str) -> Result<(), Error> {
    if handle(connect, uid)?.is_some_and(|handle| handle.is_active() == Ok(true)) {
        return Ok(());
    }
    let handle = Handle::define_xml(connect, xml)?;
    if handle.get_autostart()? {
        handle.set_autostart(false)?;
    }
    unless_active(&handle, handle.create().map(drop), true)
}

/// Presses the power button.
pub fn request_shutdown(connect: &Connect, uid: &str) -> Result<(), Error> {
    match handle(connect, uid)? {
        Some(handle) => {
            unless_active(&handle, handle.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN).map(drop), false)
        }
        None => Ok(()),
    }
}

/// Pulls the plug.
pub fn destroy(connect: &Connect, uid: &str) -> Result<(), Error> {
    match handle(connect, uid)? {
        Some(handle) => unless_active(&handle, handle.destroy(), false),
        None => Ok(()),
    }
}

/// Removes the definition. False: it runs, and was left alone.
pub fn undefine(connect: &Connect, uid: &str) -> Result<bool, Error> {
    let Some(handle) = handle(connect, uid)? else { return Ok(true) };
    // libvirt would make a running domain transient, and forget it with its end.
    if present(handle.is_active())? == Some(true) {
        return Ok(false);
    }
    let all = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
    present(handle.undefine_flags(all)).map(|_| true)
}

/// A failure is none if the domain is, by somebody else's doing, what it was to become, or gone.
fn unless_active(handle: &Handle, result: Result<(), Error>, wanted: bool) -> Result<(), Error> {
    let Err(error) = result else { return Ok(()) };
    match present(handle.is_active()) {
        Ok(None) if !wanted => Ok(()),
        Ok(Some(active)) if active == wanted => Ok(()),
        _ => Err(error),
    }
}

/// How the host should cache this disk.
pub fn cache(disk: &DomainDisk) -> Cache {
    // For librbd, writeback is its own cache, which obeys the guest's flushes; without it each small write is a round
    // trip to the OSDs.
    let DiskSource::Overlay { path, .. } = &disk.source else { return Cache::Writeback };
    let direct = OpenOptions::new().read(true).custom_flags((OFlag::O_DIRECT | OFlag::O_NONBLOCK).bits()).open(path);
    if direct.is_ok() { Cache::None } else { Cache::Writeback }
}

/// Why a VM did not start, with what libvirt or QEMU said, in the user's terms.
pub fn not_started(spec: &DomainSpec, consoles: &Path, error: CallError) -> HostError {
    let vm = format!("{}/{}", spec.namespace, spec.name);
    let CallError::Refused(refused) = &error else { return error.reported(&format!("start VM {vm}")) };
    let mut said = refused.message().to_owned();
    for disk in &spec.disks {
        said = in_users_terms(&said, disk);
    }
    said = said.replace(&*consoles.to_string_lossy(), "the folder of consoles");
    HostError::retryable("StartFailed", format!("cannot start VM {vm}: {}", brief(&said))).caused_by(error)
}

/// What libvirt said, with the disk's name instead of paths of the host.
pub fn in_users_terms(said: &str, DomainDisk { name, source, .. }: &DomainDisk) -> String {
    match source {
        DiskSource::Overlay { path, backing } => {
            let said = said.replace(&*path.to_string_lossy(), &format!("disk {name}"));
            match backing {
                Some(backing) => said.replace(&*backing.to_string_lossy(), &format!("the image of disk {name}")),
                None => said,
            }
        }
        DiskSource::Rbd { pool, image, conf, .. } => {
            let said = said.replace(&format!("{pool}/{image}"), &format!("disk {name}"));
            let said = said.replace(image, &format!("disk {name}"));
            said.replace(&*conf.to_string_lossy(), "the configuration of Ceph")
        }
    }
}

/// libvirt's way to write a version: 1,000,000 * major + 1,000 * minor + release.
pub fn version(number: u32) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_readable() {
        assert_eq!(version(9_000_000), "9.0.0");
        assert_eq!(version(7_002_022), "7.2.22");
    }

    #[test]
    fn only_uids_name_domains() {
        assert!(checked_uid("0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11").is_ok());
        for uid in [
            "",
            "web",
            "0B4AE8D6-6D2E-4C3B-9D0A-1F0A5F0C7A11",
            "0b4ae8d66d2e4c3b9d0a1f0a5f0c7a11",
            "../../../../../../../../../../../etc",
            "0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a1\0",
        ] {
            let error = checked_uid(uid).unwrap_err();
            assert!(error.terminal, "{error}");
        }
    }
}
