//! Checksums of bytes that come in order and may break off.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest as _, Sha256 as Hasher};
use ucloud_types::image::Sha256;

/// The checksum of the first bytes of something.
#[derive(Default)]
pub struct Hashed {
    hasher: Hasher,
    size: u64,
}

impl Hashed {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// How many bytes it has taken.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The checksum of all of them.
    pub fn finish(self) -> Sha256 {
        Sha256::from(<[u8; 32]>::from(self.hasher.finalize()))
    }
}

/// How far the checksums of Files that are not complete are computed, by UID. What is not known here is read again.
#[derive(Clone, Default)]
pub struct Hashers(Arc<Mutex<HashMap<String, Hashed>>>);

impl Hashers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Hashed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives that of so many bytes, if it is known.
    pub fn take(&self, uid: &str, size: u64) -> Option<Hashed> {
        self.lock().remove(uid).filter(|hashed| hashed.size == size)
    }

    /// Keeps it for the bytes that follow.
    pub fn keep(&self, uid: &str, hashed: Hashed) {
        self.lock().insert(uid.to_owned(), hashed);
    }

    /// Forgets it.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }
}
