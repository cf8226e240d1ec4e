//! The domain's metadata: the whole [`DomainSpec`], as JSON in an element of our own namespace. libvirt keeps
//! it with the domain, so that an agent that starts needs no database to know what runs and for whom.

use quick_xml::{
    Reader,
    escape::{escape, unescape},
    events::Event,
};
use ucloud_agent_core::hypervisor::DomainSpec;

/// The namespace of our element.
pub const NAMESPACE: &str = "https://ucloud.ungleich.ch/xmlns/vm/1";
/// The prefix that is bound to the namespace.
pub const PREFIX: &str = "ucloud";
/// Our element, with that prefix.
pub const ELEMENT: &str = "ucloud:vm";
/// The attribute that binds the prefix.
pub const XMLNS: &str = "xmlns:ucloud";

/// Why metadata cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// It is not the XML that it should be.
    #[error("the domain's XML cannot be read")]
    Xml(#[from] quick_xml::Error),
    /// It holds an entity that XML does not know.
    #[error("the metadata's text is not properly escaped")]
    Escape(#[from] quick_xml::escape::EscapeError),
    /// The text is not a spec.
    #[error("the metadata is not a domain's spec")]
    Json(#[from] serde_json::Error),
    /// The spec is of another VM than the domain.
    #[error("the metadata is of VM {claimed}, the domain's UUID is {domain}")]
    OtherVm {
        /// The UID in the metadata.
        claimed: String,
        /// The domain's UUID.
        domain: String,
    },
}

/// The spec as JSON in ASCII alone: XML 1.0 has no way at all to write some characters that a JSON text may hold.
pub fn encode(spec: &DomainSpec) -> Result<String, serde_json::Error> {
    use std::fmt::Write as _;
    let json = serde_json::to_string(spec)?;
    Ok(json.chars().fold(String::with_capacity(json.len()), |mut ascii, c| {
        // Outside of strings, JSON is ASCII; so this is inside of one, where \u escapes are understood.
        if c.is_ascii() && c != '\u{7f}' {
            ascii.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
        ascii
    }))
}

/// Our element without its prefix, which libvirt adds where metadata is changed.
pub fn element(spec: &DomainSpec) -> Result<String, serde_json::Error> {
    Ok(format!("<vm>{}</vm>", escape(encode(spec)?)))
}

/// The spec in the metadata of the domain with this UUID, as libvirt hands it out: our element with its text.
pub fn decode(xml: &str, domain_uuid: &str) -> Result<DomainSpec, MetadataError> {
    let mut reader = Reader::from_str(xml);
    let json = loop {
        match reader.read_event()? {
            Event::Start(start) => break unescape(&reader.read_text(start.to_end().name())?)?.into_owned(),
            Event::Eof => break String::new(),
            _ => {}
        }
    };
    let spec: DomainSpec = serde_json::from_str(&json)?;
    if spec.uid == domain_uuid {
        Ok(spec)
    } else {
        Err(MetadataError::OtherVm { claimed: spec.uid, domain: domain_uuid.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11";

    fn spec(name: &str) -> DomainSpec {
        DomainSpec {
            uid: UID.into(),
            namespace: "demo".into(),
            name: name.into(),
            epoch: 1,
            power_request: 0,
            cpus: 1,
            memory: "64Mi".parse().unwrap(),
            disks: Vec::new(),
            interfaces: Vec::new(),
            standstill: false,
        }
    }

    #[test]
    fn any_name_comes_back() {
        for name in ["web", "</vm>", "a&lt;b]]>", "\u{0}\u{7f}\u{85}\u{fffe}\u{1f600}\r\n\t\"\\"] {
            let spec = spec(name);
            let xml = format!("<vm>{}</vm>\n", escape(encode(&spec).unwrap()));
            assert!(xml.is_ascii());
            assert_eq!(decode(&xml, UID).unwrap(), spec);
        }
    }

    #[test]
    fn what_is_not_ours_is_no_spec() {
        for xml in ["", "text", "<vm/>", "<vm>{}</vm>", "<vm>{", "<vm>&nope;</vm>"] {
            assert!(decode(xml, UID).is_err(), "{xml}");
        }
        let xml = format!("<vm>{}</vm>", escape(encode(&spec("web")).unwrap()));
        let error = decode(&xml, "00000000-0000-4000-8000-000000000000").unwrap_err();
        assert!(matches!(error, MetadataError::OtherVm { .. }), "{error}");
    }
}
