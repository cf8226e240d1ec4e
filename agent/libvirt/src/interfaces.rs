//! The interfaces that a domain has, as its XML tells. The metadata says what each is for; whether it is there, in
//! which bridge and with which address, libvirt alone knows: a guest lets go of an interface when it likes.

use quick_xml::{
    Reader,
    escape::unescape,
    events::{BytesStart, Event},
};
use ucloud_agent_core::hypervisor::DomainInterface;
use ucloud_types::MacAddr;

use crate::metadata::MetadataError;

/// An interface in a bridge, as the domain's XML tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The tap on the host.
    pub tap: String,
    bridge: String,
    mac: MacAddr,
    /// All that the XML says of it: enough to tell it from all others.
    pub xml: String,
}

/// The interfaces in the XML of a domain. Those that are not in a bridge, or have no name for their tap, are none of
/// ours and left out.
pub fn read(domain_xml: &str) -> Result<Vec<Found>, MetadataError> {
    let mut reader = Reader::from_str(domain_xml);
    let mut path: Vec<String> = Vec::new();
    let mut found = Vec::new();
    loop {
        match reader.read_event()? {
            Event::Start(start) if start.name().as_ref() == "interface" && path == ["domain", "devices"] => {
                let content = reader.read_text(start.to_end().name())?;
                if attribute(&start, "type")?.as_deref() == Some("bridge") {
                    found.extend(interface(&content)?);
                }
            }
            Event::Start(start) => path.push(start.name().as_ref().to_owned()),
            Event::End(_) => drop(path.pop()),
            Event::Eof => return Ok(found),
            _ => {}
        }
    }
}

fn interface(content: &str) -> Result<Option<Found>, MetadataError> {
    let mut reader = Reader::from_str(content);
    let (mut tap, mut bridge, mut mac) = (None, None, None);
    loop {
        match reader.read_event()? {
            Event::Empty(element) | Event::Start(element) => match element.name().as_ref() {
                "target" => tap = attribute(&element, "dev")?,
                "source" => bridge = attribute(&element, "bridge")?,
                "mac" => mac = attribute(&element, "address")?.and_then(|mac| mac.parse().ok()),
                _ => {}
            },
            Event::Eof => break,
            _ => {}
        }
    }
    let xml = format!("<interface type='bridge'>{content}</interface>");
    Ok(tap.zip(bridge).zip(mac).map(|((tap, bridge), mac)| Found { tap, bridge, mac, xml }))
}

/// An attribute of an element, unescaped.
pub fn attribute(element: &BytesStart<'_>, name: &str) -> Result<Option<String>, MetadataError> {
    let Some(attribute) = element.try_get_attribute(name).map_err(quick_xml::Error::from)? else { return Ok(None) };
    Ok(Some(unescape(&attribute.value)?.into_owned()))
}

/// The interfaces that the metadata lists, as far as the domain has them, and as it has them.
pub fn present(listed: Vec<DomainInterface>, found: &[Found]) -> Vec<DomainInterface> {
    let is = |interface: DomainInterface| {
        let found = found.iter().find(|found| found.tap == interface.tap)?;
        Some(DomainInterface { bridge: found.bridge.clone(), mac: found.mac, ..interface })
    };
    listed.into_iter().filter_map(is).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain type='qemu' id='1'>
      <metadata><ucloud:vm xmlns:ucloud='x'>{}</ucloud:vm><devices><interface type='bridge'>
        <mac address='02:00:00:00:00:66'/><source bridge='evil'/><target dev='uctp-1'/></interface></devices></metadata>
      <devices>
        <interface type='bridge'>
          <mac address='02:00:00:00:00:01'/>
          <source bridge='br&amp;1'/>
          <target dev='uctp-1'/>
          <alias name='net0'/>
          <address type='pci' domain='0x0000' bus='0x02' slot='0x00' function='0x0'/>
        </interface>
        <interface type='user'><mac address='02:00:00:00:00:02'/></interface>
        <interface type='bridge'><mac address='02:00:00:00:00:03'/><source bridge='br0'/></interface>
      </devices>
    </domain>";

    fn listed(name: &str, tap: &str) -> DomainInterface {
        DomainInterface {
            name: name.into(),
            mac: "02:00:00:00:00:09".parse().unwrap(),
            bridge: "ucbr-9".into(),
            tap: tap.into(),
            mtu: 1430,
        }
    }

    #[test]
    fn only_the_domains_own_interfaces_in_bridges_are_found() {
        let [found] = read(XML).unwrap().try_into().unwrap();
        assert_eq!((found.tap.as_str(), found.bridge.as_str()), ("uctp-1", "br&1"));
        assert!(found.xml.contains("<address type='pci'") && found.xml.ends_with("</interface>"), "{}", found.xml);
        assert!(read("<domain><devices><interface").is_err());
    }

    #[test]
    fn what_is_there_counts_and_as_it_is_there() {
        let found = read(XML).unwrap();
        let [there] = present(vec![listed("eth0", "uctp-1"), listed("eth1", "uctp-2")], &found).try_into().unwrap();
        assert_eq!((there.name.as_str(), there.bridge.as_str(), there.mtu), ("eth0", "br&1", 1430));
        assert_eq!(there.mac, "02:00:00:00:00:01".parse().unwrap());
    }
}
