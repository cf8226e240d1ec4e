//! VM: sizes, names, and MAC and IPv6 addresses that no two interfaces of one network share.

use std::collections::BTreeMap;

use serde::Deserialize as _;
use serde_json::{Value, json};
use ucloud_machinery::{
    meta::{self, names},
    quantity::Quantity as Amount,
    status::{FieldError, FieldPath},
    strategy::{Context, Lister, Strategy, Usage},
};
use ucloud_types::{
    GROUP, MacAddr, Quantity, VM,
    meta::PORT_SECURITY_LABEL,
    vm::{ImageRef, VMSpec},
};

use super::{address, check_name, field::Field, status_errors};

/// No guest is smaller.
const MIN_MEMORY: Quantity = Quantity::from_bytes(16 << 20);

/// The fields of the status that only subresources write: binding; start, stop and restart; and restore.
const SUBRESOURCE_FIELDS: [&str; 3] = ["binding", "powerRequest", "restoreRequest"];

/// The rules of VMs.
pub struct VmStrategy;

impl Strategy for VmStrategy {
    fn prepare_for_create(&self, _: &Context<'_>, object: &mut Value) {
        object["status"] = json!({"phase": "Pending"});
    }

    fn usage(&self, object: &Value) -> Vec<Usage> {
        // what is no VM was refused, or comes from another version, whose amounts nobody knows
        let Ok(spec) = VMSpec::deserialize(&object["spec"]) else { return Vec::new() };
        let requests = spec.requests();
        let known = |resource, amount| Usage { resource, amount, unknown: Vec::new() };
        let unsized_disks = requests.unsized_disks.iter().map(|index| format!("spec.disks[{index}].size"));
        vec![
            known("requests.cpu", Amount::count(requests.cpus.into())),
            known("requests.memory", Amount::bytes(requests.memory.bytes())),
            Usage {
                resource: "requests.storage",
                amount: Amount::bytes(requests.storage.bytes()),
                unknown: unsized_disks.collect(),
            },
        ]
    }

    fn protected_status(&self) -> &'static [&'static str] {
        &SUBRESOURCE_FIELDS
    }

    fn validate_create(&self, ctx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        validate(ctx, object, None)
    }

    fn validate_update(&self, ctx: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        validate(ctx, new, Some(old))
    }

    fn validate_status_update(&self, _: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        status_errors::<VM>(new)
    }
}

fn validate(ctx: &Context<'_>, vm: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Field::spec(vm);
    let memory = spec.child("memory");
    if memory.read::<Quantity>(&mut errors).is_some_and(|amount| amount < MIN_MEMORY) {
        errors.push(memory.invalid(&format!("must be at least {MIN_MEMORY}")));
    }
    for disk in spec.child("disks").items() {
        check_disk(&disk, &mut errors);
    }
    check_volumes(&spec, &mut errors);
    for interface in spec.child("networks").items() {
        let network = interface.child("network");
        check_name(network.path(), network.text().unwrap_or_default(), &mut errors);
        for group in interface.child("securityGroups").items() {
            check_name(group.path(), group.text().unwrap_or_default(), &mut errors);
        }
    }
    for (key, value) in spec.child("hostSelector").entries() {
        let rules = [names::qualified_name(key), names::label_value(value.text().unwrap_or_default())];
        errors.extend(rules.into_iter().filter_map(Result::err).map(|rule| value.invalid(&rule)));
    }
    check_macs(ctx, vm, old, &mut errors);
    check_port_security(ctx, vm, old, &mut errors);
    address::check(ctx, vm, old, &mut errors);
    if errors.is_empty() {
        errors = status_errors::<VM>(vm);
    }
    errors
}

fn check_disk(disk: &Field<'_>, errors: &mut Vec<FieldError>) {
    let size = disk.child("size");
    if size.read::<Quantity>(errors).is_some_and(|amount| amount.bytes() == 0) {
        errors.push(size.invalid("must be greater than zero; leave it out for the size of the image"));
    }
    let image = disk.child("image");
    if let Some(reference) = image.read::<ImageRef>(errors) {
        // the namespace does not matter here: the name is the same in all
        check_name(image.path(), reference.resolve("").1, errors);
    }
    let pool = disk.child("pool");
    if let Some(name) = pool.text() {
        check_name(pool.path(), name, errors);
    }
    check_limits(&disk.child("limits"), errors);
}

/// QEMU takes a limit of zero for none.
pub(super) fn check_limits(limits: &Field<'_>, errors: &mut Vec<FieldError>) {
    let bandwidth = limits.child("bandwidth");
    if bandwidth.read::<Quantity>(errors).is_some_and(|amount| amount.bytes() == 0) {
        errors.push(bandwidth.invalid("must be greater than zero bytes per second; leave it out for no limit"));
    }
}

/// No disk is the volume that another disk is, and what a volume is stands in the Volume.
fn check_volumes(spec: &Field<'_>, errors: &mut Vec<FieldError>) {
    let mut seen: BTreeMap<String, FieldPath> = BTreeMap::new();
    for disk in spec.child("disks").items() {
        let field = disk.child("volume");
        // by its type, which null is not: the schema lets it pass, and the disk would be nothing at all
        let Some(volume) = field.read::<String>(errors) else { continue };
        check_name(field.path(), &volume, errors);
        for name in ["size", "pool", "limits"] {
            let own = disk.child(name);
            if own.is_given() {
                let is = if name == "limits" { "are" } else { "is" };
                errors.push(own.forbidden(&format!("the disk is a volume: its {name} {is} in Volume {volume:?}")));
            }
        }
        match seen.get(&volume) {
            Some(first) => errors.push(field.duplicate(&format!("{first} is this volume already"))),
            None => drop(seen.insert(volume, field.path())),
        }
    }
}

/// An interface's place on the wire: two that share it cannot both be reached.
type Port = (String, MacAddr);

/// Each interface of a VM with its port and the field that decides it. Addresses that cannot be read are left out.
fn ports<'a>(vm: &'a Value, errors: &mut Vec<FieldError>) -> Vec<(Port, Field<'a>)> {
    let uid = meta::text(vm, "uid");
    let interfaces: Vec<Field<'_>> = Field::spec(vm).child("networks").items().collect();
    let mut ports = Vec::with_capacity(interfaces.len());
    for interface in interfaces {
        let mac = interface.child("mac");
        let before = errors.len();
        let given = mac.read::<MacAddr>(errors);
        if errors.len() == before
            && let (Some(network), Some(name)) = (interface.child("network").text(), interface.child("name").text())
        {
            ports.push(((network.to_owned(), given.unwrap_or_else(|| MacAddr::derive(uid, name))), mac));
        }
    }
    ports
}

fn check_macs(ctx: &Context<'_>, vm: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let own = ports(vm, errors);
    let mut seen: BTreeMap<&Port, &Field<'_>> = BTreeMap::new();
    for (port, field) in &own {
        if let Some(first) = seen.get(port) {
            errors.push(field.duplicate(&format!("{} has it on the same network", first.path())));
        } else {
            seen.insert(port, field);
        }
    }
    // Derived addresses are hashes of UIDs and meet nobody: a VM without addresses of its own costs no look at the
    // others. Addresses that it had before are the scheduler's affair: they must not block other changes.
    let before: Vec<Port> =
        old.map(|old| ports(old, &mut Vec::new())).unwrap_or_default().into_iter().map(|(port, _)| port).collect();
    let new: Vec<&(Port, Field<'_>)> =
        own.iter().filter(|(port, field)| field.text().is_some() && !before.contains(port)).collect();
    if new.is_empty() {
        return;
    }
    let taken = taken_ports(ctx.lister, ctx.namespace, meta::text(vm, "uid"));
    for (port, field) in new {
        if let Some(holder) = taken.get(port) {
            errors.push(field.duplicate(&format!("VM {holder:?} has it on network {:?}", port.0)));
        }
    }
}

/// The ports of the namespace's other VMs, with the names of those.
fn taken_ports(lister: &dyn Lister, namespace: Option<&str>, own_uid: &str) -> BTreeMap<Port, String> {
    let vms = lister.list(GROUP, "vms", namespace);
    let others = vms.iter().filter(|other| meta::text(other, "uid") != own_uid);
    others
        .flat_map(|other| {
            let name = meta::text(other, "name");
            ports(other, &mut Vec::new()).into_iter().map(move |(port, _)| (port, name.to_owned()))
        })
        .collect()
}

/// An interface may be without port security only in a project that an operator has allowed it. Those that were so before
/// stay so: a permission that is taken back must not block other changes.
fn check_port_security(ctx: &Context<'_>, vm: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let off = |vm: &Value| -> Vec<(String, FieldPath)> {
        let interfaces = Field::spec(vm).child("networks");
        interfaces
            .items()
            .filter(|interface| interface.child("portSecurity").flag() == Some(false))
            .map(|interface| {
                (interface.child("name").text().unwrap_or_default().to_owned(), interface.child("portSecurity").path())
            })
            .collect()
    };
    let before = old.map(off).unwrap_or_default();
    let new: Vec<_> = off(vm).into_iter().filter(|(name, _)| !before.iter().any(|(old, _)| old == name)).collect();
    if new.is_empty() || may_disable_port_security(ctx) {
        return;
    }
    let why = format!(
        "this project must not have interfaces without port security: an operator allows it by the label \
         {PORT_SECURITY_LABEL}=true of the Namespace"
    );
    errors.extend(new.into_iter().map(|(_, path)| FieldError::forbidden(path, &why)));
}

fn may_disable_port_security(ctx: &Context<'_>) -> bool {
    let namespace = ctx.namespace.and_then(|name| ctx.lister.get("", "namespaces", None, name));
    namespace.is_some_and(|namespace| namespace["metadata"]["labels"][PORT_SECURITY_LABEL] == "true")
}
