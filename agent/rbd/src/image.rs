//! A small safe layer over librbd: the images of a pool. All calls block.
//!
//! The functions are described in `rbd/librbd.h` of Ceph.

mod pending;

use std::{
    ffi::{CStr, c_char, c_int},
    ptr,
};

use nix::errno::Errno;

use crate::{
    cluster::{IoCtx, c_text, judged},
    error::CephError,
};

pub use pending::Pending;

/// An open image. It is closed when it is dropped.
pub struct Image<'a> {
    handle: rbd_sys::rbd_image_t,
    name: String,
    pool: &'a IoCtx,
}

/// How an image is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading alone: nobody can tell that it is open.
    Read,
    /// For writing: as long as it is open and its opener lives, it has a watcher and cannot be removed. Watches of the
    /// dead end after half a minute.
    Write,
}

/// An image in the trash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trashed {
    /// Its id, by which it is still opened.
    pub id: String,
    /// The name that it had.
    pub name: String,
}

/// The clones are of format 2: their parent's snapshot needs no protection, and Ceph counts them itself.
const CLONE_FORMAT: u64 = 2;

/// Results that are "not there" as None.
pub fn present<T>(result: Result<T, CephError>) -> Result<Option<T>, CephError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.errno == Errno::ENOENT => Ok(None),
        Err(error) => Err(error),
    }
}

/// A text that C has written.
///
/// # Safety
/// The pointer is null, or points to a text that ends with a zero.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// Calls a list function with room for more entries until they fit. `call` gets the room and says how many there
/// are, or that they do not fit and how many they are.
fn listed<T: Copy>(
    empty: T,
    operation: &'static str,
    object: impl Fn() -> String,
    mut call: impl FnMut(*mut T, &mut usize) -> c_int,
) -> Result<Vec<T>, CephError> {
    let mut room = 64;
    loop {
        let mut entries = vec![empty; room];
        let mut count = room;
        let result = call(entries.as_mut_ptr(), &mut count);
        if result == -(Errno::ERANGE as c_int) {
            room = count.max(room * 2);
            continue;
        }
        judged(operation, &object, result)?;
        entries.truncate(count);
        return Ok(entries);
    }
}

impl IoCtx {
    fn image_named(&self, name: &str) -> String {
        format!("image {name} in pool {}", self.name())
    }

    /// The names of all images, in the trash or not made whole excepted.
    pub fn images(&self) -> Result<Vec<String>, CephError> {
        let empty = rbd_sys::rbd_image_spec_t { id: ptr::null_mut(), name: ptr::null_mut() };
        let object = || format!("the images in pool {}", self.name());
        // SAFETY: the array has room for as many as is said.
        let mut specs =
            listed(empty, "list", object, |specs, count| unsafe { rbd_sys::rbd_list2(self.handle(), specs, count) })?;
        // SAFETY: librbd has filled in the entries.
        let names = specs.iter().map(|spec| unsafe { text(spec.name) }).collect();
        // SAFETY: the entries come from librbd, and nothing refers to them any more.
        unsafe { rbd_sys::rbd_image_spec_list_cleanup(specs.as_mut_ptr(), specs.len()) };
        Ok(names)
    }

    /// Makes an image of so many bytes that reads as zeros.
    pub fn create(&self, name: &str, size: u64) -> Result<(), CephError> {
        let c_name = c_text("create", name)?;
        let options = Options::new();
        // SAFETY: all pointers are valid for the call.
        let created = unsafe { rbd_sys::rbd_create4(self.handle(), c_name.as_ptr(), size, options.0) };
        judged("create", || self.image_named(name), created).map(drop)
    }

    /// Makes an image as a clone of a snapshot of another one.
    pub fn clone_image(&self, parent: &str, snapshot: &str, child: &str) -> Result<(), CephError> {
        const CLONE: &str = "clone";
        let (c_parent, c_snapshot) = (c_text(CLONE, parent)?, c_text(CLONE, snapshot)?);
        let c_child = c_text(CLONE, child)?;
        let object = || format!("image {parent} as {child} in pool {}", self.name());
        let options = Options::new();
        options.set(rbd_sys::RBD_IMAGE_OPTION_CLONE_FORMAT, CLONE_FORMAT, object)?;
        // SAFETY: all pointers are valid for the call.
        let cloned = unsafe {
            rbd_sys::rbd_clone3(
                self.handle(),
                c_parent.as_ptr(),
                c_snapshot.as_ptr(),
                self.handle(),
                c_child.as_ptr(),
                options.0,
            )
        };
        judged(CLONE, object, cloned).map(drop)
    }

    /// Removes an image, whole or half made.
    pub fn remove(&self, name: &str) -> Result<(), CephError> {
        let c_name = c_text("remove", name)?;
        // SAFETY: the name is valid for the call.
        let removed = unsafe { rbd_sys::rbd_remove(self.handle(), c_name.as_ptr()) };
        judged("remove", || self.image_named(name), removed).map(drop)
    }

    /// Gives an image another name.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), CephError> {
        const RENAME: &str = "rename";
        let (c_from, c_to) = (c_text(RENAME, from)?, c_text(RENAME, to)?);
        // SAFETY: both names are valid for the call.
        let renamed = unsafe { rbd_sys::rbd_rename(self.handle(), c_from.as_ptr(), c_to.as_ptr()) };
        judged(RENAME, || format!("image {from} as {to} in pool {}", self.name()), renamed).map(drop)
    }

    /// Removes what leads from a name to an image, and leaves the image alone. Only of a name that the pool's directory does not
    /// have: what is left of an interrupted rename.
    pub fn forget_name(&self, name: &str) -> Result<(), CephError> {
        const FORGET: &str = "remove the name of";
        let object = c_text(FORGET, &format!("rbd_id.{name}"))?;
        // SAFETY: the name is valid for the call.
        let removed = unsafe { rados_sys::rados_remove(self.handle(), object.as_ptr()) };
        present(judged(FORGET, || self.image_named(name), removed)).map(drop)
    }

    /// Takes an image's name from it, unless somebody has it open for writing. Its id and bytes stay.
    pub fn trash(&self, name: &str) -> Result<(), CephError> {
        const TRASH: &str = "move to the trash";
        let c_name = c_text(TRASH, name)?;
        // SAFETY: the name is valid for the call.
        let moved = unsafe { rbd_sys::rbd_trash_move(self.handle(), c_name.as_ptr(), 0) };
        judged(TRASH, || self.image_named(name), moved).map(drop)
    }

    /// All that is in the trash.
    pub fn trashed(&self) -> Result<Vec<Trashed>, CephError> {
        // SAFETY: all fields are numbers and pointers, for which zeros are valid.
        let empty: rbd_sys::rbd_trash_image_info_t = unsafe { std::mem::zeroed() };
        let object = || format!("the trash of pool {}", self.name());
        // SAFETY: the array has room for as many as is said.
        let mut entries = listed(empty, "list", object, |entries, count| unsafe {
            rbd_sys::rbd_trash_list(self.handle(), entries, count)
        })?;
        // SAFETY: librbd has filled in the entries.
        let trashed = entries.iter().map(|entry| unsafe { Trashed { id: text(entry.id), name: text(entry.name) } });
        let trashed = trashed.collect();
        // SAFETY: the entries come from librbd, and nothing refers to them any more.
        unsafe { rbd_sys::rbd_trash_list_cleanup(entries.as_mut_ptr(), entries.len()) };
        Ok(trashed)
    }

    /// Gives an image in the trash its name again.
    pub fn restore(&self, trashed: &Trashed) -> Result<(), CephError> {
        const RESTORE: &str = "restore from the trash";
        let (id, name) = (c_text(RESTORE, &trashed.id)?, c_text(RESTORE, &trashed.name)?);
        // SAFETY: both texts are valid for the call.
        let restored = unsafe { rbd_sys::rbd_trash_restore(self.handle(), id.as_ptr(), name.as_ptr()) };
        judged(RESTORE, || self.image_named(&trashed.name), restored).map(drop)
    }

    /// Removes an image that is in the trash.
    pub fn remove_trashed(&self, trashed: &Trashed) -> Result<(), CephError> {
        const REMOVE: &str = "remove from the trash";
        let id = c_text(REMOVE, &trashed.id)?;
        // SAFETY: the id is valid for the call.
        let removed = unsafe { rbd_sys::rbd_trash_remove(self.handle(), id.as_ptr(), true) };
        judged(REMOVE, || self.image_named(&trashed.name), removed).map(drop)
    }

    /// Opens an image.
    pub fn open(&self, name: &str, access: Access) -> Result<Image<'_>, CephError> {
        let c_name = c_text("open", name)?;
        let mut handle = ptr::null_mut();
        let (pool, image) = (self.handle(), &raw mut handle);
        let opened = match access {
            // SAFETY: all pointers are valid for the call; the handle is set if it succeeds.
            Access::Read => unsafe { rbd_sys::rbd_open_read_only(pool, c_name.as_ptr(), image, ptr::null()) },
            // SAFETY: as above.
            Access::Write => unsafe { rbd_sys::rbd_open(pool, c_name.as_ptr(), image, ptr::null()) },
        };
        judged("open", || self.image_named(name), opened)?;
        Ok(Image { handle, name: name.to_owned(), pool: self })
    }

    /// Opens an image in the trash.
    pub fn open_trashed(&self, trashed: &Trashed) -> Result<Image<'_>, CephError> {
        let id = c_text("open", &trashed.id)?;
        let mut handle = ptr::null_mut();
        // SAFETY: all pointers are valid for the call; the handle is set if it succeeds.
        let opened = unsafe { rbd_sys::rbd_open_by_id(self.handle(), id.as_ptr(), &raw mut handle, ptr::null()) };
        judged("open", || self.image_named(&trashed.name), opened)?;
        Ok(Image { handle, name: trashed.name.clone(), pool: self })
    }
}

impl Image<'_> {
    fn judged(&self, operation: &'static str, result: c_int) -> Result<c_int, CephError> {
        judged(operation, || self.pool.image_named(&self.name), result)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its size in bytes.
    pub fn size(&self) -> Result<u64, CephError> {
        let mut size = 0;
        // SAFETY: the handle is open, and the pointer valid for the call.
        self.judged("measure", unsafe { rbd_sys::rbd_get_size(self.handle, &raw mut size) })?;
        Ok(size)
    }

    /// Gives it so many bytes.
    pub fn resize(&self, size: u64) -> Result<(), CephError> {
        // SAFETY: the handle is open.
        self.judged("resize", unsafe { rbd_sys::rbd_resize(self.handle, size) }).map(drop)
    }

    /// Writes these bytes at this place.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), CephError> {
        // SAFETY: the handle is open, and the buffer has as many bytes as is said.
        let written = unsafe { rbd_sys::rbd_write(self.handle, offset, bytes.len(), bytes.as_ptr().cast::<c_char>()) };
        let written = c_int::try_from(written).unwrap_or(c_int::MAX);
        self.judged("write", written).map(drop)
    }

    /// Reads from this place on, as much as the buffer holds or the image has: tells how much that was.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, CephError> {
        let pointer = buffer.as_mut_ptr().cast::<c_char>();
        // SAFETY: the handle is open, and the buffer has as many bytes as is said.
        let read = unsafe { rbd_sys::rbd_read(self.handle, offset, buffer.len(), pointer) };
        let length = usize::try_from(read).unwrap_or_default();
        self.judged("read", c_int::try_from(read).unwrap_or(c_int::MAX)).map(|_| length)
    }

    /// Returns when all that was written is kept.
    pub fn flush(&self) -> Result<(), CephError> {
        // SAFETY: the handle is open.
        self.judged("flush", unsafe { rbd_sys::rbd_flush(self.handle) }).map(drop)
    }

    /// Makes a snapshot.
    pub fn snapshot(&self, snapshot: &str) -> Result<(), CephError> {
        let name = c_text("snapshot", snapshot)?;
        // SAFETY: the handle is open, and the name valid for the call.
        self.judged("snapshot", unsafe { rbd_sys::rbd_snap_create(self.handle, name.as_ptr()) }).map(drop)
    }

    /// Whether there is this snapshot.
    pub fn has_snapshot(&self, snapshot: &str) -> Result<bool, CephError> {
        let name = c_text("look for a snapshot of", snapshot)?;
        let mut exists = false;
        // SAFETY: the handle is open, and the pointers valid for the call.
        let looked = unsafe { rbd_sys::rbd_snap_exists(self.handle, name.as_ptr(), &raw mut exists) };
        self.judged("look for a snapshot of", looked)?;
        Ok(exists)
    }

    /// Removes a snapshot. One that has clones loses its name, and goes with the last of them.
    pub fn remove_snapshot(&self, snapshot: &str) -> Result<(), CephError> {
        let name = c_text("remove a snapshot of", snapshot)?;
        // SAFETY: the handle is open, and the name valid for the call.
        let removed = unsafe { rbd_sys::rbd_snap_remove(self.handle, name.as_ptr()) };
        self.judged("remove a snapshot of", removed).map(drop)
    }

    /// Removes all snapshots, those without a name too.
    pub fn remove_snapshots(&self) -> Result<(), CephError> {
        for id in self.snapshots()? {
            // SAFETY: the handle is open.
            let removed = unsafe { rbd_sys::rbd_snap_remove_by_id(self.handle, id) };
            present(self.judged("remove a snapshot of", removed))?;
        }
        Ok(())
    }

    /// The ids of its snapshots, those without a name too.
    fn snapshots(&self) -> Result<Vec<u64>, CephError> {
        let empty = rbd_sys::rbd_snap_info_t { id: 0, size: 0, name: ptr::null() };
        let object = || format!("the snapshots of {}", self.pool.image_named(&self.name));
        let mut snapshots = listed(empty, "list", object, |snapshots, count| {
            let mut room = c_int::try_from(*count).unwrap_or(c_int::MAX);
            // SAFETY: the handle is open, and the array has room for as many as is said.
            let found = unsafe { rbd_sys::rbd_snap_list(self.handle, snapshots, &raw mut room) };
            *count = usize::try_from(if found < 0 { room } else { found }).unwrap_or_default();
            found
        })?;
        let ids = snapshots.iter().map(|snapshot| snapshot.id).collect();
        if !snapshots.is_empty() {
            // librbd goes by the entry without a name behind the last one
            snapshots.push(empty);
            // SAFETY: the entries come from librbd, and nothing refers to them any more.
            unsafe { rbd_sys::rbd_snap_list_end(snapshots.as_mut_ptr()) };
        }
        Ok(ids)
    }

    /// How many clones its snapshots have, in any pool, also in the trash.
    pub fn clones(&self) -> Result<usize, CephError> {
        // SAFETY: all fields are numbers, pointers and a boolean, for which zeros are valid.
        let empty: rbd_sys::rbd_linked_image_spec_t = unsafe { std::mem::zeroed() };
        let object = || format!("the clones of {}", self.pool.image_named(&self.name));
        // SAFETY: the handle is open, and the array has room for as many as is said.
        let mut clones = listed(empty, "list", object, |clones, count| unsafe {
            rbd_sys::rbd_list_children3(self.handle, clones, count)
        })?;
        let count = clones.len();
        // SAFETY: the entries come from librbd, and nothing refers to them any more.
        unsafe { rbd_sys::rbd_linked_image_spec_list_cleanup(clones.as_mut_ptr(), count) };
        Ok(count)
    }

    /// The name of the image that it is a clone of; none if it is no clone.
    pub fn parent(&self) -> Result<Option<String>, CephError> {
        // SAFETY: all fields are numbers, pointers and a boolean, for which zeros are valid.
        let mut image: rbd_sys::rbd_linked_image_spec_t = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut snapshot: rbd_sys::rbd_snap_spec_t = unsafe { std::mem::zeroed() };
        // SAFETY: the handle is open, and both are there to be filled in.
        let found = unsafe { rbd_sys::rbd_get_parent(self.handle, &raw mut image, &raw mut snapshot) };
        if present(self.judged("find the parent of", found))?.is_none() {
            return Ok(None);
        }
        // SAFETY: librbd has filled it in.
        let name = unsafe { text(image.image_name) };
        // SAFETY: both come from librbd, and nothing refers to them any more.
        unsafe {
            rbd_sys::rbd_linked_image_spec_cleanup(&raw mut image);
            rbd_sys::rbd_snap_spec_cleanup(&raw mut snapshot);
        }
        Ok(Some(name))
    }

    /// The addresses of those that have it open for writing.
    pub fn watchers(&self) -> Result<Vec<String>, CephError> {
        let empty = rbd_sys::rbd_image_watcher_t { addr: ptr::null_mut(), id: 0, cookie: 0 };
        let object = || format!("the watchers of {}", self.pool.image_named(&self.name));
        // SAFETY: the handle is open, and the array has room for as many as is said.
        let mut watchers = listed(empty, "list", object, |watchers, count| unsafe {
            rbd_sys::rbd_watchers_list(self.handle, watchers, count)
        })?;
        // SAFETY: librbd has filled in the entries.
        let addresses = watchers.iter().map(|watcher| unsafe { text(watcher.addr) }).collect();
        // SAFETY: the entries come from librbd, and nothing refers to them any more.
        unsafe { rbd_sys::rbd_watchers_list_cleanup(watchers.as_mut_ptr(), watchers.len()) };
        Ok(addresses)
    }

    /// A value that was kept with it.
    pub fn metadata(&self, key: &str) -> Result<Option<String>, CephError> {
        const READ: &str = "read metadata of";
        let key = c_text(READ, key)?;
        let mut value = vec![0_u8; 4096];
        let mut length = value.len();
        // SAFETY: the handle is open, and the buffer has as many bytes as is said.
        let read = unsafe {
            let buffer = value.as_mut_ptr().cast::<c_char>();
            rbd_sys::rbd_metadata_get(self.handle, key.as_ptr(), buffer, &raw mut length)
        };
        let read = present(self.judged(READ, read))?;
        Ok(read.map(|_| CStr::from_bytes_until_nul(&value).map(CStr::to_string_lossy).unwrap_or_default().into_owned()))
    }

    /// Forgets a value that was kept with it.
    pub fn remove_metadata(&self, key: &str) -> Result<(), CephError> {
        const REMOVE: &str = "remove metadata of";
        let key = c_text(REMOVE, key)?;
        // SAFETY: the handle is open, and the text valid for the call.
        let removed = unsafe { rbd_sys::rbd_metadata_remove(self.handle, key.as_ptr()) };
        present(self.judged(REMOVE, removed)).map(drop)
    }

    /// Keeps a value with it.
    pub fn set_metadata(&self, key: &str, value: &str) -> Result<(), CephError> {
        const WRITE: &str = "write metadata of";
        let (key, value) = (c_text(WRITE, key)?, c_text(WRITE, value)?);
        // SAFETY: the handle is open, and both texts valid for the call.
        let written = unsafe { rbd_sys::rbd_metadata_set(self.handle, key.as_ptr(), value.as_ptr()) };
        self.judged(WRITE, written).map(drop)
    }
}

impl Drop for Image<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nobody uses it after this.
        let closed = unsafe { rbd_sys::rbd_close(self.handle) };
        if let Err(error) = self.judged("close", closed) {
            tracing::warn!(%error, "an image was not closed properly");
        }
    }
}

/// Options of an image in the making.
struct Options(rbd_sys::rbd_image_options_t);

impl Options {
    fn new() -> Self {
        let mut options = ptr::null_mut();
        // SAFETY: the pointer is valid for the call, which cannot fail.
        unsafe { rbd_sys::rbd_image_options_create(&raw mut options) };
        Self(options)
    }

    fn set(&self, option: u32, value: u64, object: impl FnOnce() -> String) -> Result<(), CephError> {
        let option = c_int::try_from(option).unwrap_or(-1);
        // SAFETY: the options are valid.
        let set = unsafe { rbd_sys::rbd_image_options_set_uint64(self.0, option, value) };
        judged("set the options of", object, set).map(drop)
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: the options are valid, and nobody uses them after this.
        unsafe { rbd_sys::rbd_image_options_destroy(self.0) };
    }
}
