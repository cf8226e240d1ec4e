//! How interfaces are plugged into domains and unplugged, over an open connection. All of it blocks; all of it is
//! idempotent, and may be interrupted between any two calls: what a domain has is read from the domain.

use virt::{connect::Connect, domain::Domain as Handle, error::Error, sys};

use crate::{
    domains,
    interfaces::{self, Found},
    metadata::{self, MetadataError},
};

/// What QEMU says of a device that the guest was asked to let go of a moment ago.
const BEING_UNPLUGGED: &str = "already in the process of unplug";

/// The interface with this tap, in what the domain is made of (`flags` 0: as it runs; else see libvirt).
fn find(handle: &Handle, flags: u32, tap: &str) -> Result<Result<Option<Found>, MetadataError>, Error> {
    let xml = handle.get_xml_desc(flags)?;
    Ok(interfaces::read(&xml).map(|found| found.into_iter().find(|found| found.tap == tap)))
}

/// Plugs the interface with this tap and this XML into a domain that runs, and puts it into its definition. `spec` is
/// what its metadata is to say from now on.
///
/// The metadata comes first. An interface that is listed there and not plugged is none; one that was plugged and not listed
/// would never be found again.
pub fn plug(
    connect: &Connect,
    uid: &str,
    spec: &str,
    tap: &str,
    xml: &str,
) -> Result<Result<(), MetadataError>, Error> {
    let handle = Handle::lookup_by_uuid_string(connect, uid)?;
    handle.set_metadata(
        sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed(),
        Some(spec),
        Some(metadata::PREFIX),
        Some(metadata::NAMESPACE),
        sys::VIR_DOMAIN_AFFECT_LIVE | sys::VIR_DOMAIN_AFFECT_CONFIG,
    )?;
    for (seen, affected) in
        [(sys::VIR_DOMAIN_XML_INACTIVE, sys::VIR_DOMAIN_AFFECT_CONFIG), (0, sys::VIR_DOMAIN_AFFECT_LIVE)]
    {
        match find(&handle, seen, tap)? {
            Ok(Some(_)) => {}
            Ok(None) => drop(handle.attach_device_flags(xml, affected)?),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(()))
}

/// Takes the interface with this tap out of the domain's definition, and asks the guest of one that runs to let go of
/// it. libvirt waits for the guest for some seconds, and then no longer: it goes when the guest has answered.
pub fn unplug(connect: &Connect, uid: &str, tap: &str) -> Result<Result<(), MetadataError>, Error> {
    let Some(handle) = domains::handle(connect, uid)? else { return Ok(Ok(())) };
    match find(&handle, sys::VIR_DOMAIN_XML_INACTIVE, tap)? {
        Ok(Some(found)) => drop(handle.detach_device_flags(&found.xml, sys::VIR_DOMAIN_AFFECT_CONFIG)?),
        Ok(None) => {}
        Err(error) => return Ok(Err(error)),
    }
    if !handle.is_active()? {
        return Ok(Ok(()));
    }
    match find(&handle, 0, tap)? {
        Ok(Some(found)) => match handle.detach_device_flags(&found.xml, sys::VIR_DOMAIN_AFFECT_LIVE) {
            Err(error) if !error.message().contains(BEING_UNPLUGGED) => Err(error),
            _ => Ok(Ok(())),
        },
        Ok(None) => Ok(Ok(())),
        Err(error) => Ok(Err(error)),
    }
}
