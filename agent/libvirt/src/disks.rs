//! The disks that a domain has, as its XML tells. The metadata says what each is for; whether it is there, libvirt alone
//! knows: a guest lets go of a disk when it likes. A disk is known by its serial number, which is its name in the spec.

use quick_xml::{
    Reader,
    escape::unescape,
    events::{BytesStart, Event},
};
use ucloud_agent_core::hypervisor::DomainDisk;

use crate::{interfaces::attribute, metadata::MetadataError};

/// A disk, as the domain's XML tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its serial number. None if it has none, and so is none of ours.
    pub serial: Option<String>,
    /// The name that libvirt knows it by, such as vda.
    pub device: String,
    /// All that the XML says of it: enough to tell it from all others.
    pub xml: String,
}

/// The disks in the XML of a domain.
pub fn read(domain_xml: &str) -> Result<Vec<Found>, MetadataError> {
    let mut reader = Reader::from_str(domain_xml);
    let mut path: Vec<String> = Vec::new();
    let mut found = Vec::new();
    loop {
        match reader.read_event()? {
            Event::Start(start) if start.name().as_ref() == "disk" && path == ["domain", "devices"] => {
                let content = reader.read_text(start.to_end().name())?;
                found.extend(disk(&start, &content)?);
            }
            Event::Start(start) => path.push(start.name().as_ref().to_owned()),
            Event::End(_) => drop(path.pop()),
            Event::Eof => return Ok(found),
            _ => {}
        }
    }
}

fn disk(start: &BytesStart<'_>, content: &str) -> Result<Option<Found>, MetadataError> {
    let mut reader = Reader::from_str(content);
    let (mut device, mut serial, mut depth) = (None, None, 0u32);
    loop {
        match reader.read_event()? {
            Event::Empty(element) if depth == 0 && element.name().as_ref() == "target" => {
                device = attribute(&element, "dev")?;
            }
            Event::Start(element) if depth == 0 && element.name().as_ref() == "serial" => {
                serial = Some(unescape(&reader.read_text(element.to_end().name())?)?.into_owned());
            }
            Event::Start(_) => depth += 1,
            Event::End(_) => depth = depth.saturating_sub(1),
            Event::Eof => break,
            _ => {}
        }
    }
    let kind = attribute(start, "type")?.unwrap_or_default();
    let xml = format!("<disk type='{kind}' device='disk'>{content}</disk>");
    Ok(device.map(|device| Found { serial, device, xml }))
}

/// The disks that the metadata lists, as far as the domain has them.
pub fn present(listed: Vec<DomainDisk>, found: &[Found]) -> Vec<DomainDisk> {
    let is_there = |disk: &DomainDisk| found.iter().any(|found| found.serial.as_ref() == Some(&disk.name));
    listed.into_iter().filter(is_there).collect()
}

#[cfg(test)]
mod tests {
    use ucloud_agent_core::hypervisor::DiskSource;

    use super::*;

    const XML: &str = "<domain type='qemu' id='1'>
      <metadata><devices><disk type='file' device='disk'><target dev='vdz'/><serial>evil</serial></disk></devices></metadata>
      <devices>
        <disk type='file' device='disk'>
          <driver name='qemu' type='qcow2'/>
          <source file='/pool/a'/>
          <backingStore type='file'><serial>inner</serial><target dev='x'/></backingStore>
          <target dev='vda' bus='virtio'/>
          <serial>root</serial>
          <address type='pci' domain='0x0000' bus='0x02' slot='0x00' function='0x0'/>
        </disk>
        <disk type='network' device='disk'>
          <source protocol='rbd' name='vms/b'/><target dev='vdb'/><serial>a&amp;b</serial>
        </disk>
        <disk type='file' device='cdrom'><target dev='sda'/></disk>
      </devices>
    </domain>";

    fn listed(name: &str) -> DomainDisk {
        let source = DiskSource::Overlay { path: "/pool/a".into(), backing: None };
        DomainDisk { name: name.into(), volume: None, limits: None, source }
    }

    #[test]
    fn the_domains_own_disks_are_found_by_their_serial_numbers() {
        let found = read(XML).unwrap();
        let names: Vec<_> = found.iter().map(|disk| (disk.serial.as_deref(), disk.device.as_str())).collect();
        assert_eq!(names, [(Some("root"), "vda"), (Some("a&b"), "vdb"), (None, "sda")]);
        assert!(found[1].xml.starts_with("<disk type='network' device='disk'>"), "{}", found[1].xml);
        assert!(read("<domain><devices><disk").is_err());
    }

    #[test]
    fn what_is_there_counts() {
        let found = read(XML).unwrap();
        let there = present(vec![listed("root"), listed("gone"), listed("evil"), listed("inner")], &found);
        assert_eq!(there, [listed("root")]);
    }
}
