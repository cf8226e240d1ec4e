//! Room for request bodies while they are decoded and written: values take many times the bytes that they came as, so
//! the bodies that are in work at one moment are bounded together, however many clients write.

use std::ops::Deref;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::body::MAX_BODY;
use crate::status::ApiError;

/// Room is counted in pieces of this size; the smallest body takes one.
const UNIT: usize = 1024;
/// All bodies in work together, in units: enough for thousands of usual objects, and for a few of the largest.
const UNITS: usize = 8 * 1024;
/// How long a request waits for room before it is sent away.
const PATIENCE: Duration = Duration::from_secs(5);

/// What there is room for.
pub(crate) struct Room {
    units: Semaphore,
}

/// A body, and the room that it takes until it is dropped.
pub(super) struct Body<'a> {
    bytes: Bytes,
    _room: SemaphorePermit<'a>,
}

impl Deref for Body<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Room {
    pub(crate) fn new() -> Self {
        Self { units: Semaphore::new(UNITS) }
    }

    /// Takes the body in as soon as there is room for it.
    ///
    /// # Errors
    /// 429 if there is none in time: the client may send it again.
    pub(super) async fn take(&self, bytes: Bytes) -> Result<Body<'_>, ApiError> {
        let units = u32::try_from(bytes.len().min(MAX_BODY).div_ceil(UNIT)).unwrap_or(u32::MAX);
        match tokio::time::timeout(PATIENCE, self.units.acquire_many(units)).await {
            Ok(Ok(room)) => Ok(Body { bytes, _room: room }),
            Ok(Err(_)) | Err(_) => {
                Err(ApiError::too_many_requests("too many writes are in work at present, please try again later"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_bodies_in_work_are_bounded_together() {
        let room = Room::new();
        let largest = || Bytes::from(vec![0; MAX_BODY]);
        let first = room.take(largest()).await.unwrap();
        let second = room.take(largest()).await.unwrap();
        let error = room.take(largest()).await.map(drop).unwrap_err();
        assert_eq!((error.code(), error.retry_after_seconds()), (429, Some(1)));
        let small = room.take(Bytes::from_static(b"{}")).await.unwrap();
        assert_eq!(&*small, b"{}", "what is small finds room beside the large ones");

        let (third, ()) = tokio::join!(room.take(largest()), async { drop(first) });
        third.expect("one that waits gets the room of one that ends");
        drop(second);
    }
}
