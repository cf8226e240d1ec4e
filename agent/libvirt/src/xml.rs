//! The domain XML: what libvirt is told about a VM, as a pure function of the VM's [`DomainSpec`].
//!
//! Every value is escaped by the writer; what XML cannot carry at all (control characters, text that is not
//! UTF-8) is refused. Element reference: <https://libvirt.org/formatdomain.html>.

use std::{
    ffi::CString,
    io,
    path::{Path, PathBuf},
};

use quick_xml::{Writer, escape::escape, events::BytesText, writer::ElementWriter};
use ucloud_agent_core::hypervisor::{DiskSource, DomainDisk, DomainInterface, DomainSpec};
use ucloud_types::{host::Accelerator, vm::DiskLimits};

use crate::{metadata, standstill::AGENT};

/// What the XML says besides the spec: facts of the host.
#[derive(Clone, Debug)]
pub struct Layout {
    /// How guests' code is run.
    pub accelerator: Accelerator,
    /// QEMU's program.
    pub qemu: PathBuf,
    /// The folder of the serial consoles' sockets and logs.
    pub consoles: PathBuf,
    /// For each disk of the spec, in order, how the host caches it.
    pub caches: Vec<Cache>,
}

/// How the host caches a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Not at all (O_DIRECT): the guest's flushes are the disk's, and no page is held twice.
    None,
    /// In the page cache, with the guest's flushes obeyed: for file systems without O_DIRECT.
    Writeback,
}

impl Cache {
    const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Writeback => "writeback",
        }
    }
}

/// Why a spec has no XML.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    /// A value holds what XML cannot carry.
    #[error("{field} {value:?} holds characters that libvirt's XML cannot carry")]
    Unrepresentable {
        /// What the value is.
        field: &'static str,
        /// The value, lossily.
        value: String,
    },
    /// The spec cannot be written as JSON.
    #[error("the domain's metadata cannot be written")]
    Metadata(#[from] serde_json::Error),
    /// Writing to memory failed.
    #[error("the domain's XML cannot be written")]
    Write(#[from] io::Error),
}

/// As many interfaces as a VM may have: the schema of VMs says so.
const MAX_INTERFACES: usize = 16;
/// As many disks as a VM may have: the schema of VMs says so.
const MAX_DISKS: usize = 16;
/// The devices with ports of their own that every domain has: random numbers, the balloon, and the controller of the guest
/// agent's channel, which libvirt adds.
const FIXED_DEVICES: usize = 3;

type Xml = Writer<Vec<u8>>;

/// The name of a VM's domain.
pub fn domain_name(vm_uid: &str) -> String {
    format!("ucloud-{vm_uid}")
}

/// The socket on which a VM's serial console listens.
pub fn console_socket(consoles: &Path, vm_uid: &str) -> PathBuf {
    consoles.join(format!("{vm_uid}.sock"))
}

/// What a VM's serial console has said. virtlogd appends to it and rotates it (`.log.0`, ...).
pub fn console_log(consoles: &Path, vm_uid: &str) -> PathBuf {
    consoles.join(format!("{vm_uid}.log"))
}

/// The XML of a domain.
pub fn domain_xml(spec: &DomainSpec, layout: &Layout) -> Result<String, XmlError> {
    let kind = match layout.accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "qemu",
    };
    let checked = Checked::new(spec, layout)?;
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.create_element("domain").with_attribute(("type", kind)).write_inner_content(|w| {
        text(w, "name", &domain_name(&spec.uid))?;
        text(w, "uuid", &spec.uid)?;
        w.create_element("metadata").write_inner_content(|w| {
            let root = w.create_element(metadata::ELEMENT).with_attribute((metadata::XMLNS, metadata::NAMESPACE));
            root.write_text_content(BytesText::new(&checked.metadata)).map(drop)
        })?;
        element(w, "memory", &[("unit", "KiB")]).write_text_content(BytesText::new(&spec.memory.kib().to_string()))?;
        element(w, "vcpu", &[("placement", "static")]).write_text_content(BytesText::new(&spec.cpus.to_string()))?;
        w.create_element("os").write_inner_content(|w| {
            // A small guest boots in 3.5 s on q35 and in 5.3 s on pc (TCG).
            element(w, "type", &[("arch", "x86_64"), ("machine", "q35")])
                .write_text_content(BytesText::new("hvm"))
                .map(drop)
        })?;
        w.create_element("features").write_inner_content(|w| {
            empty(w, "acpi", &[])?;
            empty(w, "apic", &[])
        })?;
        match layout.accelerator {
            // The named model nearest to the host's processor, with all that it adds to it.
            Accelerator::Kvm => empty(w, "cpu", &[("mode", "host-model")])?,
            // All that the translator can do.
            Accelerator::Tcg => empty(w, "cpu", &[("mode", "maximum")])?,
        }
        empty(w, "clock", &[("offset", "utc")])?;
        text(w, "on_poweroff", "destroy")?;
        text(w, "on_reboot", "restart")?;
        text(w, "on_crash", "destroy")?;
        // A guest that sleeps would be one that runs and cannot be woken.
        w.create_element("pm").write_inner_content(|w| {
            empty(w, "suspend-to-mem", &[("enabled", "no")])?;
            empty(w, "suspend-to-disk", &[("enabled", "no")])
        })?;
        w.create_element("devices").write_inner_content(|w| devices(w, spec, &checked)).map(drop)
    })?;
    let mut xml = String::from_utf8(writer.into_inner()).map_err(io::Error::other)?;
    xml.push('\n');
    Ok(xml)
}

/// The XML of one interface, to be plugged in.
pub fn interface_xml(interface: &DomainInterface) -> Result<String, XmlError> {
    check_interface(interface)?;
    let mut writer = Writer::new(Vec::new());
    write_interface(&mut writer, interface)?;
    Ok(String::from_utf8(writer.into_inner()).map_err(io::Error::other)?)
}

/// The XML of one disk, to be plugged in as `device` (such as vdb).
pub fn disk_xml(disk: &DomainDisk, device: &str, cache: Cache) -> Result<String, XmlError> {
    let mut writer = Writer::new(Vec::new());
    write_disk(&mut writer, device, &CheckedDisk::new(disk, cache)?, None)?;
    Ok(String::from_utf8(writer.into_inner()).map_err(io::Error::other)?)
}

/// The XML of the secret with this name, which holds the key of a Ceph user: in libvirt's memory alone, and not to be read
/// back.
pub fn secret_xml(name: &str) -> String {
    let name = escape(name);
    format!("<secret ephemeral='yes' private='yes'><usage type='ceph'><name>{name}</name></usage></secret>")
}

/// The XML of a backup: of all disks of a domain, by the names that libvirt knows them by, the files that they are copied to,
/// or that they are left out.
pub fn backup_xml(disks: &[(&str, Option<&Path>)]) -> Result<CString, XmlError> {
    let mut writer = Writer::new(Vec::new());
    let targets: Vec<_> = disks
        .iter()
        .map(|(device, to)| Ok((*device, to.map(|to| representable_path("file to copy to", to)).transpose()?)))
        .collect::<Result<_, XmlError>>()?;
    element(&mut writer, "domainbackup", &[("mode", "push")]).write_inner_content(|w| {
        w.create_element("disks").write_inner_content(|w| {
            targets.iter().try_for_each(|(device, to)| {
                let Some(to) = to else { return empty(w, "disk", &[("name", device), ("backup", "no")]) };
                let attributes = [("name", *device), ("backup", "yes"), ("type", "file")];
                element(w, "disk", &attributes).write_inner_content(|w| {
                    empty(w, "driver", &[("type", "qcow2")])?;
                    empty(w, "target", &[("file", to)])
                })?;
                Ok(())
            })
        })?;
        Ok(())
    })?;
    Ok(CString::new(writer.into_inner()).map_err(io::Error::other)?)
}

/// The values of a spec that are paths or free text, proven to be representable.
struct Checked<'a> {
    metadata: String,
    qemu: &'a str,
    disks: Vec<CheckedDisk<'a>>,
    console_socket: String,
    console_log: String,
}

struct CheckedDisk<'a> {
    source: CheckedSource<'a>,
    name: &'a str,
    cache: Cache,
    limits: DiskLimits,
}

impl<'a> CheckedDisk<'a> {
    fn new(disk: &'a DomainDisk, cache: Cache) -> Result<Self, XmlError> {
        let name = representable("disk's name", &disk.name)?;
        let limits = disk.limits.unwrap_or_default();
        Ok(Self { source: CheckedSource::new(&disk.source)?, name, cache, limits })
    }
}

enum CheckedSource<'a> {
    Overlay { path: &'a str, backing: Option<&'a str> },
    Rbd { image: String, user: &'a str, conf: &'a str, secret: String },
}

impl<'a> CheckedSource<'a> {
    fn new(source: &'a DiskSource) -> Result<Self, XmlError> {
        Ok(match source {
            DiskSource::Overlay { path, backing } => Self::Overlay {
                path: representable_path("disk's file", path)?,
                backing: backing.as_deref().map(|backing| representable_path("image's file", backing)).transpose()?,
            },
            DiskSource::Rbd { pool, image, user, conf } => {
                let conf = representable_path("Ceph configuration", conf)?;
                let user = representable("Ceph user", user)?;
                let image = representable("disk's image", image)?;
                let image = format!("{}/{image}", representable("Ceph pool", pool)?);
                Self::Rbd { image, user, conf, secret: secret_name(user, Path::new(conf)) }
            }
        })
    }
}

/// The name by which disks refer to the secret that holds the key of a Ceph user (its "usage").
pub fn secret_name(user: &str, conf: &Path) -> String {
    format!("ucloud client.{user} {}", conf.display())
}

impl<'a> Checked<'a> {
    fn new(spec: &'a DomainSpec, layout: &'a Layout) -> Result<Self, XmlError> {
        representable("VM's UID", &spec.uid)?;
        spec.interfaces.iter().try_for_each(check_interface)?;
        let caches = layout.caches.iter().copied().chain(std::iter::repeat(Cache::Writeback));
        let disks = spec.disks.iter().zip(caches).map(|(disk, cache)| CheckedDisk::new(disk, cache));
        Ok(Self {
            metadata: metadata::encode(spec)?,
            qemu: representable_path("QEMU's program", &layout.qemu)?,
            disks: disks.collect::<Result<_, XmlError>>()?,
            console_socket: representable_path("console", &console_socket(&layout.consoles, &spec.uid))?.to_owned(),
            console_log: representable_path("console", &console_log(&layout.consoles, &spec.uid))?.to_owned(),
        })
    }
}

fn check_interface(interface: &DomainInterface) -> Result<(), XmlError> {
    representable("bridge", &interface.bridge)?;
    representable("tap device", &interface.tap).map(drop)
}

/// XML 1.0's production Char, less the white space that a reader may change.
fn representable<'a>(field: &'static str, value: &'a str) -> Result<&'a str, XmlError> {
    let fine = |c: char| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}');
    if value.chars().all(fine) { Ok(value) } else { Err(XmlError::Unrepresentable { field, value: value.to_owned() }) }
}

fn representable_path<'a>(field: &'static str, path: &'a Path) -> Result<&'a str, XmlError> {
    let unrepresentable = || XmlError::Unrepresentable { field, value: path.to_string_lossy().into_owned() };
    representable(field, path.to_str().ok_or_else(unrepresentable)?)
}

fn devices(w: &mut Xml, spec: &DomainSpec, checked: &Checked<'_>) -> io::Result<()> {
    text(w, "emulator", checked.qemu)?;
    for (index, disk) in checked.disks.iter().enumerate() {
        write_disk(w, &device(index), disk, (index == 0).then_some(1))?;
    }
    for interface in &spec.interfaces {
        write_interface(w, interface)?;
    }
    // Each device behind PCI Express has a port of its own, and ports cannot be plugged: those for interfaces and disks
    // that may come have to be there from the beginning.
    let devices = MAX_DISKS.max(spec.disks.len()) + FIXED_DEVICES + MAX_INTERFACES.max(spec.interfaces.len());
    empty(w, "controller", &[("type", "pci"), ("index", "0"), ("model", "pcie-root")])?;
    for _ in 0..devices {
        empty(w, "controller", &[("type", "pci"), ("model", "pcie-root-port")])?;
    }
    empty(w, "controller", &[("type", "usb"), ("model", "none")])?;
    element(w, "serial", &[("type", "unix")]).write_inner_content(|w| {
        empty(w, "source", &[("mode", "bind"), ("path", &checked.console_socket)])?;
        empty(w, "log", &[("file", &checked.console_log), ("append", "on")])?;
        empty(w, "target", &[("type", "isa-serial"), ("port", "0")])
    })?;
    // libvirt makes the socket, and speaks with the guest's agent by itself
    element(w, "channel", &[("type", "unix")])
        .write_inner_content(|w| empty(w, "target", &[("type", "virtio"), ("name", AGENT)]))?;
    element(w, "rng", &[("model", "virtio")]).write_inner_content(|w| {
        element(w, "backend", &[("model", "random")]).write_text_content(BytesText::new("/dev/urandom")).map(drop)
    })?;
    empty(w, "memballoon", &[("model", "virtio")])
}

fn write_disk(w: &mut Xml, device: &str, disk: &CheckedDisk<'_>, boot: Option<u32>) -> io::Result<()> {
    let (kind, format) = match disk.source {
        CheckedSource::Overlay { .. } => ("file", "qcow2"),
        CheckedSource::Rbd { .. } => ("network", "raw"),
    };
    element(w, "disk", &[("type", kind), ("device", "disk")]).write_inner_content(|w| {
        let driver = [("name", "qemu"), ("type", format), ("cache", disk.cache.as_str()), ("discard", "unmap")];
        empty(w, "driver", &driver)?;
        match &disk.source {
            CheckedSource::Overlay { path, backing } => write_overlay(w, path, *backing)?,
            CheckedSource::Rbd { image, user, conf, secret } => {
                // libvirt has the key, so that it stands in no file that QEMU reads, and in no command line.
                element(w, "auth", &[("username", user)])
                    .write_inner_content(|w| empty(w, "secret", &[("type", "ceph"), ("usage", secret)]))?;
                // The monitors are those that the configuration names.
                element(w, "source", &[("protocol", "rbd"), ("name", image)])
                    .write_inner_content(|w| empty(w, "config", &[("file", conf)]))?;
            }
        }
        empty(w, "target", &[("dev", device), ("bus", "virtio")])?;
        text(w, "serial", disk.name)?;
        write_limits(w, disk.limits)?;
        if let Some(order) = boot {
            empty(w, "boot", &[("order", &order.to_string())])?;
        }
        Ok(())
    })?;
    Ok(())
}

fn write_limits(w: &mut Xml, limits: DiskLimits) -> io::Result<()> {
    if limits == DiskLimits::default() {
        return Ok(());
    }
    w.create_element("iotune").write_inner_content(|w| {
        if let Some(bandwidth) = limits.bandwidth {
            text(w, "total_bytes_sec", &bandwidth.bytes().to_string())?;
        }
        match limits.iops {
            Some(iops) => text(w, "total_iops_sec", &iops.to_string()),
            None => Ok(()),
        }
    })?;
    Ok(())
}

fn write_overlay(w: &mut Xml, path: &str, backing: Option<&str>) -> io::Result<()> {
    empty(w, "source", &[("file", path)])?;
    let Some(backing) = backing else { return empty(w, "backingStore", &[]) };
    // The whole chain is spelled out, so that nothing is found out by looking into files that a guest wrote.
    element(w, "backingStore", &[("type", "file")]).write_inner_content(|w| {
        empty(w, "format", &[("type", "qcow2")])?;
        element(w, "source", &[("file", backing)]).write_inner_content(|w| {
            // The image is shared: it must not come to belong to the user that one VM's QEMU runs as.
            empty(w, "seclabel", &[("model", "dac"), ("relabel", "no")])
        })?;
        empty(w, "backingStore", &[])
    })?;
    Ok(())
}

fn write_interface(w: &mut Xml, interface: &DomainInterface) -> io::Result<()> {
    element(w, "interface", &[("type", "bridge")]).write_inner_content(|w| {
        empty(w, "mac", &[("address", &interface.mac.to_string())])?;
        empty(w, "source", &[("bridge", &interface.bridge)])?;
        empty(w, "target", &[("dev", &interface.tap)])?;
        empty(w, "model", &[("type", "virtio")])?;
        empty(w, "mtu", &[("size", &interface.mtu.to_string())])
    })?;
    Ok(())
}

/// The name of the disk with this index: vda to vdz, vdaa and so on. libvirt orders the disks by it.
pub fn device(index: usize) -> String {
    let mut letters = Vec::new();
    let mut rest = index + 1;
    while rest > 0 {
        rest -= 1;
        letters.push(char::from(b'a' + u8::try_from(rest % 26).unwrap_or_default()));
        rest /= 26;
    }
    std::iter::once("vd".to_owned()).chain(letters.iter().rev().map(ToString::to_string)).collect()
}

fn element<'a>(w: &'a mut Xml, name: &'a str, attributes: &[(&str, &str)]) -> ElementWriter<'a, Vec<u8>> {
    attributes.iter().fold(w.create_element(name), |element, attribute| element.with_attribute(*attribute))
}

fn empty(w: &mut Xml, name: &str, attributes: &[(&str, &str)]) -> io::Result<()> {
    element(w, name, attributes).write_empty().map(drop)
}

fn text(w: &mut Xml, name: &str, content: &str) -> io::Result<()> {
    w.create_element(name).write_text_content(BytesText::new(content)).map(drop)
}

#[cfg(test)]
mod tests {
    use ucloud_agent_core::hypervisor::DomainDisk;

    use super::*;

    fn layout(accelerator: Accelerator) -> Layout {
        Layout {
            accelerator,
            qemu: "/usr/bin/qemu-system-x86_64".into(),
            consoles: "/run/ucloud/console".into(),
            caches: vec![Cache::None],
        }
    }

    fn spec() -> DomainSpec {
        DomainSpec {
            uid: "0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11".into(),
            namespace: "demo".into(),
            name: "web".into(),
            epoch: 3,
            power_request: 2,
            cpus: 2,
            memory: "512Mi".parse().unwrap(),
            disks: vec![disk("root", "/pool/disks/a.root.qcow2"), disk("data", "/pool/disks/a.data.qcow2")],
            interfaces: vec![DomainInterface {
                name: "eth0".into(),
                mac: "02:00:5e:10:00:01".parse().unwrap(),
                bridge: "ucbr-0123456789".into(),
                tap: "uctp-0123456789".into(),
                mtu: 1430,
            }],
            standstill: false,
        }
    }

    fn disk(name: &str, path: &str) -> DomainDisk {
        let source = DiskSource::Overlay { path: path.into(), backing: Some("/pool/images/sha256/ab.qcow2".into()) };
        DomainDisk { name: name.into(), volume: None, limits: None, source }
    }

    #[test]
    fn a_disk_in_ceph_names_its_secret_and_not_the_key() {
        let source = DiskSource::Rbd {
            pool: "vms".into(),
            image: "ucloud.disk.a.root".into(),
            user: "ucloud".into(),
            conf: "/etc/ceph/ceph.conf".into(),
        };
        let spec = DomainSpec {
            disks: vec![DomainDisk { name: "root".into(), volume: None, limits: None, source }],
            ..spec()
        };
        let layout = Layout { caches: vec![Cache::Writeback], ..layout(Accelerator::Kvm) };
        let xml = domain_xml(&spec, &layout).unwrap();
        let disk = &xml[xml.find("<disk ").unwrap()..xml.find("</disk>").unwrap()];
        let lines: Vec<_> = disk.lines().map(str::trim).collect();
        assert_eq!(
            lines,
            [
                r#"<disk type="network" device="disk">"#,
                r#"<driver name="qemu" type="raw" cache="writeback" discard="unmap"/>"#,
                r#"<auth username="ucloud">"#,
                r#"<secret type="ceph" usage="ucloud client.ucloud /etc/ceph/ceph.conf"/>"#,
                "</auth>",
                r#"<source protocol="rbd" name="vms/ucloud.disk.a.root">"#,
                r#"<config file="/etc/ceph/ceph.conf"/>"#,
                "</source>",
                r#"<target dev="vda" bus="virtio"/>"#,
                "<serial>root</serial>",
                r#"<boot order="1"/>"#,
                "",
            ]
        );
    }

    #[test]
    fn limits_are_those_of_reading_and_writing_together() {
        let limits = Some(DiskLimits { iops: Some(500), bandwidth: "10Mi".parse().ok() });
        let limited = DomainDisk { limits, ..disk("data", "/pool/data") };
        let xml = disk_xml(&limited, "vdb", Cache::None).unwrap();
        let iotune = "<iotune><total_bytes_sec>10485760</total_bytes_sec><total_iops_sec>500</total_iops_sec></iotune>";
        assert!(xml.contains(iotune), "{xml}");
        assert!(!disk_xml(&disk("data", "/pool/data"), "vdb", Cache::None).unwrap().contains("iotune"));
    }

    #[test]
    fn a_domain_run_by_kvm() {
        insta::assert_snapshot!(domain_xml(&spec(), &layout(Accelerator::Kvm)).unwrap());
    }

    #[test]
    fn a_domain_run_by_the_translator_without_interfaces() {
        let spec = DomainSpec { interfaces: Vec::new(), disks: Vec::new(), ..spec() };
        insta::assert_snapshot!(domain_xml(&spec, &layout(Accelerator::Tcg)).unwrap());
    }

    #[test]
    fn hostile_names_stay_values() {
        let mut spec = spec();
        spec.name = r#"</ucloud:vm></metadata><os/>"'&amp;]]>"#.into();
        spec.namespace = "\u{7}\u{fffe}\u{1f600}\r\n".into();
        spec.disks = vec![disk(r#""/><evil a='"#, r#"/pool/a b'"<>&;$(x).qcow2"#)];
        spec.interfaces[0].bridge = r#"br'"/><script path="/bin/sh"/>"#.into();
        let xml = domain_xml(&spec, &layout(Accelerator::Tcg)).unwrap();
        assert!(xml.is_ascii());
        insta::assert_snapshot!(xml);
    }

    #[test]
    fn what_xml_cannot_carry_is_refused() {
        for path in ["/pool/a\u{1}", "/pool/a\nb", "/pool/\u{ffff}"] {
            let spec = DomainSpec { disks: vec![disk("root", path)], ..spec() };
            let error = domain_xml(&spec, &layout(Accelerator::Tcg)).unwrap_err();
            assert!(matches!(error, XmlError::Unrepresentable { field: "disk's file", .. }), "{error}");
        }
    }

    #[test]
    fn disks_are_named_beyond_z() {
        let names: Vec<_> = [0, 25, 26, 27, 701, 702].into_iter().map(device).collect();
        assert_eq!(names, ["vda", "vdz", "vdaa", "vdab", "vdzz", "vdaaa"]);
    }
}
