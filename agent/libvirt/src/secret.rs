//! The keys with which QEMU reaches disks in Ceph. libvirt keeps them in its memory alone, and gives them to nobody.

use virt::{
    connect::Connect,
    error::{Error, ErrorNumber},
    secret::Secret as Handle,
    sys,
};

use crate::xml;

/// The key of a Ceph user, as libvirt is to know it.
pub struct Secret {
    /// The name by which disks refer to it.
    pub name: String,
    /// The key, decoded.
    pub key: Vec<u8>,
}

impl Secret {
    /// Has libvirt know it.
    pub fn ensure(&self, connect: &Connect) -> Result<(), Error> {
        let handle = match self.find(connect)? {
            Some(handle) => handle,
            // Another call may be doing the same: then theirs is taken.
            None => match Handle::define_xml(connect, &xml::secret_xml(&self.name), 0) {
                Err(error) => self.find(connect)?.ok_or(error)?,
                Ok(handle) => handle,
            },
        };
        handle.set_value(&self.key, 0)
    }

    fn find(&self, connect: &Connect) -> Result<Option<Handle>, Error> {
        match Handle::lookup_by_usage(connect, sys::VIR_SECRET_USAGE_TYPE_CEPH.cast_signed(), &self.name) {
            Err(error) if error.code() == ErrorNumber::NoSecret => Ok(None),
            found => found.map(Some),
        }
    }
}
