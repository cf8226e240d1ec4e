//! A small safe layer over librados: a connection to a cluster, and a pool of it. All calls block; none of them
//! blocks for longer than the timeout that the connection was made with.
//!
//! The functions are described in `rados/librados.h` of Ceph.

use std::{
    ffi::{CString, c_char, c_int},
    path::Path,
    ptr,
    sync::Arc,
    time::Duration,
};

use nix::errno::Errno;

use crate::error::CephError;

/// A connection to a cluster. It is closed when it is dropped.
pub struct Cluster {
    handle: rados_sys::rados_t,
    name: String,
}

// SAFETY: librados' handles may be used by any thread, and by several at once (librados.h, "thread safe").
unsafe impl Send for Cluster {}
// SAFETY: as above.
unsafe impl Sync for Cluster {}

/// A pool of a cluster.
pub struct IoCtx {
    handle: rados_sys::rados_ioctx_t,
    pool: String,
    // Dropped after the handle was destroyed, which needs the connection.
    cluster: Arc<Cluster>,
}

/// `result` of an operation: negative numbers are errors.
pub fn judged(operation: &'static str, object: impl FnOnce() -> String, result: c_int) -> Result<c_int, CephError> {
    if result >= 0 {
        Ok(result)
    } else {
        Err(CephError { operation, object: object(), errno: Errno::from_raw(-result) })
    }
}

/// A text for C.
pub fn c_text(operation: &'static str, text: &str) -> Result<CString, CephError> {
    CString::new(text).map_err(|_| CephError { operation, object: format!("{text:?}"), errno: Errno::EINVAL })
}

impl Cluster {
    /// Connects as `client.USER` to the cluster that the configuration describes. No call, this one included, waits
    /// longer than about `timeout` for the cluster.
    pub fn connect(user: &str, conf: &Path, timeout: Duration) -> Result<Self, CephError> {
        let cluster = Self::configured(user, conf)?;
        let seconds = timeout.as_secs().max(1).to_string();
        for option in ["rados_osd_op_timeout", "rados_mon_op_timeout", "client_mount_timeout"] {
            cluster.set(option, &seconds)?;
        }
        // With a cache, a flush tells of a write that has failed only while others are on their way: here each tells by itself
        cluster.set("rbd_cache", "false")?;
        // SAFETY: the handle is valid, configured and not connected yet.
        let connected = unsafe { rados_sys::rados_connect(cluster.handle) };
        judged("connect to", || cluster.name.clone(), connected)?;
        Ok(cluster)
    }

    /// A client that has read its configuration, and is not connected.
    pub fn configured(user: &str, conf: &Path) -> Result<Self, CephError> {
        const CONNECT: &str = "connect to";
        let name = format!("the cluster of {} as client.{user}", conf.display());
        let object = || name.clone();
        let cluster_name = c_text(CONNECT, "ceph")?;
        let user = c_text(CONNECT, &format!("client.{user}"))?;
        let conf = c_text(CONNECT, &conf.to_string_lossy())?;
        let mut handle = ptr::null_mut();
        // SAFETY: the pointers are valid for the call; the handle is set if it succeeds.
        let made = unsafe { rados_sys::rados_create2(&raw mut handle, cluster_name.as_ptr(), user.as_ptr(), 0) };
        judged("make a client of", object, made)?;
        // From here on the handle is given back whatever happens. rados_shutdown takes one that never connected too.
        let cluster = Self { handle, name: name.clone() };
        // SAFETY: the handle is valid, and not connected yet.
        let read = unsafe { rados_sys::rados_conf_read_file(handle, conf.as_ptr()) };
        judged("read the configuration of", object, read)?;
        Ok(cluster)
    }

    /// The value of an option, with its variables filled in.
    pub fn option(&self, option: &'static str) -> Result<String, CephError> {
        let key = c_text("read", option)?;
        let mut value = vec![0_u8; 8192];
        // SAFETY: both texts are valid for the call, and the buffer has the length that is given.
        let read = unsafe {
            rados_sys::rados_conf_get(self.handle, key.as_ptr(), value.as_mut_ptr().cast::<c_char>(), value.len())
        };
        judged("read", || format!("{option} of {}", self.name), read)?;
        value.truncate(value.iter().position(|byte| *byte == 0).unwrap_or(value.len()));
        Ok(String::from_utf8_lossy(&value).into_owned())
    }

    fn set(&self, option: &'static str, value: &str) -> Result<(), CephError> {
        let (key, value) = (c_text("set", option)?, c_text("set", value)?);
        // SAFETY: the handle and both texts are valid for the call.
        let set = unsafe { rados_sys::rados_conf_set(self.handle, key.as_ptr(), value.as_ptr()) };
        judged("set", || format!("{option} for {}", self.name), set).map(drop)
    }

    /// Asks the monitors. `command` is JSON, and so is the answer.
    pub fn ask(&self, operation: &'static str, command: &str) -> Result<Vec<u8>, CephError> {
        let command = c_text(operation, command)?;
        let mut commands = [command.as_ptr()];
        let (mut answer, mut length) = (ptr::null_mut::<c_char>(), 0_usize);
        let (mut status, mut status_length) = (ptr::null_mut::<c_char>(), 0_usize);
        // SAFETY: one command is passed and the array has one; the out pointers are valid for the call.
        let asked = unsafe {
            rados_sys::rados_mon_command(
                self.handle,
                commands.as_mut_ptr(),
                commands.len(),
                ptr::null(),
                0,
                &raw mut answer,
                &raw mut length,
                &raw mut status,
                &raw mut status_length,
            )
        };
        let mut bytes = Vec::new();
        if !answer.is_null() {
            // SAFETY: librados has set the pointer to a buffer of that length.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(answer.cast::<u8>(), length) });
        }
        for buffer in [answer, status] {
            if !buffer.is_null() {
                // SAFETY: the buffer comes from librados, and nothing refers to it any more.
                unsafe { rados_sys::rados_buffer_free(buffer) };
            }
        }
        judged(operation, || self.name.clone(), asked)?;
        Ok(bytes)
    }

    /// Puts a client's address on the blocklist, for so many seconds.
    pub fn blocklist(&self, address: &str, seconds: u32) -> Result<(), CephError> {
        let text = c_text("blocklist", address)?;
        // SAFETY: the text is valid for the call, and is only read although the header says otherwise.
        let added = unsafe { rados_sys::rados_blocklist_add(self.handle, text.as_ptr().cast_mut(), seconds) };
        judged("blocklist", || format!("{address} in {}", self.name), added).map(drop)
    }

    /// Opens a pool.
    pub fn pool(self: &Arc<Self>, pool: &str) -> Result<IoCtx, CephError> {
        let name = c_text("open", pool)?;
        let mut handle = ptr::null_mut();
        // SAFETY: the pointers are valid for the call; the handle is set if it succeeds.
        let opened = unsafe { rados_sys::rados_ioctx_create(self.handle, name.as_ptr(), &raw mut handle) };
        judged("open", || format!("pool {pool} in {}", self.name), opened)?;
        Ok(IoCtx { handle, pool: pool.to_owned(), cluster: Arc::clone(self) })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SAFETY: the handle is valid, and nobody uses it after this.
        unsafe { rados_sys::rados_shutdown(self.handle) };
    }
}

impl IoCtx {
    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.pool
    }

    /// The pool's cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The handle, for librbd.
    pub(crate) fn handle(&self) -> rbd_sys::rados_ioctx_t {
        self.handle
    }
}

// SAFETY: as for the cluster. No function is called that changes the state of an IoCtx (namespace, snapshot, key).
unsafe impl Send for IoCtx {}
// SAFETY: as above.
unsafe impl Sync for IoCtx {}

impl Drop for IoCtx {
    fn drop(&mut self) {
        // SAFETY: the handle is valid, and nobody uses it after this: images borrow the pool.
        unsafe { rados_sys::rados_ioctx_destroy(self.handle) };
    }
}
