//! How interfaces and disks are plugged into domains and unplugged, and disks grown, over an open connection. All of it
//! blocks; all of it is idempotent, and may be interrupted between any two calls: what a domain has is read from the domain.

use virt::{connect::Connect, domain::Domain as Handle, error::Error, sys};

use crate::{
    disks, domains, interfaces,
    metadata::MetadataError,
    xml::{XmlError, device},
};

/// What QEMU says of a device that the guest was asked to let go of a moment ago.
const BEING_UNPLUGGED: &str = "already in the process of unplug";

/// Why a device cannot be plugged, unplugged or grown, before libvirt was asked for it.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// What the domain is made of cannot be read.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The device cannot be written as XML.
    #[error(transparent)]
    Xml(#[from] XmlError),
}

/// A device of a domain, among those of its kind.
pub enum Device {
    /// The interface with this tap.
    Interface(String),
    /// The disk with this serial number.
    Disk(String),
}

impl Device {
    /// All that the XML of a domain says of it, if the domain has it.
    fn find(&self, domain_xml: &str) -> Result<Option<String>, MetadataError> {
        Ok(match self {
            Self::Interface(tap) => {
                interfaces::read(domain_xml)?.into_iter().find(|found| found.tap == *tap).map(|found| found.xml)
            }
            Self::Disk(serial) => disk(domain_xml, serial)?.map(|found| found.xml),
        })
    }
}

fn disk(domain_xml: &str, serial: &str) -> Result<Option<disks::Found>, MetadataError> {
    Ok(disks::read(domain_xml)?.into_iter().find(|found| found.serial.as_deref() == Some(serial)))
}

/// Plugs a device with this XML into a domain that runs, and puts it into its definition. `spec` is what its metadata is to
/// say from now on.
///
/// The metadata comes first. A device that is listed there and not plugged is none; one that was plugged and not listed
/// would never be found again.
pub fn plug(
    connect: &Connect,
    uid: &str,
    spec: &str,
    device: &Device,
    xml: impl Fn(&str) -> Result<String, DeviceError>,
) -> Result<Result<(), DeviceError>, Error> {
    let handle = Handle::lookup_by_uuid_string(connect, uid)?;
    domains::set_metadata(&handle, spec, sys::VIR_DOMAIN_AFFECT_LIVE | sys::VIR_DOMAIN_AFFECT_CONFIG)?;
    for (seen, affected) in
        [(sys::VIR_DOMAIN_XML_INACTIVE, sys::VIR_DOMAIN_AFFECT_CONFIG), (0, sys::VIR_DOMAIN_AFFECT_LIVE)]
    {
        let domain = handle.get_xml_desc(seen)?;
        let needed = match device.find(&domain) {
            Ok(Some(_)) => Ok(None),
            Ok(None) => xml(&domain).map(Some),
            Err(error) => Err(error.into()),
        };
        match needed {
            Ok(None) => {}
            Ok(Some(xml)) => drop(handle.attach_device_flags(&xml, affected)?),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(()))
}

/// Takes a device out of the domain's definition, and asks the guest of one that runs to let go of it. libvirt waits for
/// the guest for some seconds, and then no longer: it goes when the guest has answered.
pub fn unplug(connect: &Connect, uid: &str, device: &Device) -> Result<Result<(), DeviceError>, Error> {
    let Some(handle) = domains::handle(connect, uid)? else { return Ok(Ok(())) };
    match device.find(&handle.get_xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)?) {
        Ok(Some(xml)) => drop(handle.detach_device_flags(&xml, sys::VIR_DOMAIN_AFFECT_CONFIG)?),
        Ok(None) => {}
        Err(error) => return Ok(Err(error.into())),
    }
    if !handle.is_active()? {
        return Ok(Ok(()));
    }
    match device.find(&handle.get_xml_desc(0)?) {
        Ok(Some(xml)) => match handle.detach_device_flags(&xml, sys::VIR_DOMAIN_AFFECT_LIVE) {
            Err(error) if !error.message().contains(BEING_UNPLUGGED) => Err(error),
            _ => Ok(Ok(())),
        },
        Ok(None) => Ok(Ok(())),
        Err(error) => Ok(Err(error.into())),
    }
}

/// Grows the disk with this serial number of a domain that runs to `bytes`. One that has as many is left alone: this call
/// of libvirt's would shrink it as well.
pub fn grow(connect: &Connect, uid: &str, serial: &str, bytes: u64) -> Result<Result<(), DeviceError>, Error> {
    let handle = Handle::lookup_by_uuid_string(connect, uid)?;
    let found = match disk(&handle.get_xml_desc(0)?, serial) {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Ok(())),
        Err(error) => return Ok(Err(error.into())),
    };
    if handle.get_block_info(&found.device, 0)?.capacity < bytes {
        handle.block_resize(&found.device, bytes, sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES)?;
    }
    Ok(Ok(()))
}

/// The first name that no disk of the domain has.
pub fn free_device(domain_xml: &str) -> Result<String, DeviceError> {
    let taken = disks::read(domain_xml)?;
    let free = |name: &String| taken.iter().all(|disk| disk.device != *name);
    Ok((0..=taken.len()).map(device).find(free).unwrap_or_else(|| device(taken.len())))
}
