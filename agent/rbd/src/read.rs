//! Reading what images and disks hold.
//!
//! They are opened for reading alone: nobody can tell that they are read, and so nobody waits for the reader, who leaves nothing
//! behind. Of one that is removed meanwhile zeros are read.

use std::ops::Range;

use bytes::Bytes;
use tokio::sync::mpsc;
use ucloud_agent_core::block_store::{Readable, pieces};

use crate::{error::RbdError, image::Image, names};

/// The name of what is to be read.
pub fn name(what: &Readable) -> String {
    match what {
        Readable::Image(uid) => names::image(uid),
        Readable::Disk(disk) => names::disk(disk),
    }
}

/// Reads until all is read, or nobody takes it any more.
pub fn read(image: &Image<'_>, range: Range<u64>, into: &mpsc::Sender<Bytes>) -> Result<(), RbdError> {
    for (at, length) in pieces(range) {
        let mut piece = vec![0; length];
        let read = image.read(at, &mut piece)?;
        piece.truncate(read);
        if into.blocking_send(piece.into()).is_err() {
            break;
        }
    }
    Ok(())
}
