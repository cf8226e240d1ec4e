//! Writes that are on their way, several of them at once.

use std::{
    ffi::{c_char, c_int},
    ptr,
};

use super::Image;
use crate::error::CephError;

impl Image<'_> {
    /// Begins to write these bytes at this place.
    pub fn begin_write(&self, offset: u64, bytes: Vec<u8>) -> Result<Pending<'_>, CephError> {
        let mut completion = ptr::null_mut();
        // SAFETY: nobody is called back, and the pointer is valid for the call.
        let made = unsafe { rbd_sys::rbd_aio_create_completion(ptr::null_mut(), None, &raw mut completion) };
        self.judged("write", made)?;
        let pointer = bytes.as_ptr().cast::<c_char>();
        // SAFETY: the handle is open and the completion made, and both and the bytes stay until that is completed.
        let begun = unsafe { rbd_sys::rbd_aio_write(self.handle, offset, bytes.len(), pointer, completion) };
        if let Err(error) = self.judged("write", begun) {
            // SAFETY: the completion is of nothing that was begun.
            unsafe { rbd_sys::rbd_aio_release(completion) };
            return Err(error);
        }
        Ok(Pending { completion, bytes, image: self })
    }
}

/// A write that was begun. Dropped, it is waited for.
pub struct Pending<'a> {
    completion: rbd_sys::rbd_completion_t,
    bytes: Vec<u8>,
    image: &'a Image<'a>,
}

impl Pending<'_> {
    /// Returns when the bytes are kept, and gives them back.
    pub fn finish(mut self) -> Result<Vec<u8>, CephError> {
        self.wait();
        // SAFETY: the completion is completed.
        let written = unsafe { rbd_sys::rbd_aio_get_return_value(self.completion) };
        self.image.judged("write", c_int::try_from(written).unwrap_or(c_int::MIN))?;
        Ok(std::mem::take(&mut self.bytes))
    }

    fn wait(&self) {
        // SAFETY: the completion is made; to wait for one that is completed returns at once.
        unsafe { rbd_sys::rbd_aio_wait_for_complete(self.completion) };
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.wait();
        // SAFETY: it is completed, and nobody uses it after this.
        unsafe { rbd_sys::rbd_aio_release(self.completion) };
    }
}
