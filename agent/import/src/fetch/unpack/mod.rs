//! Unpacking what is compressed while it is fetched, with bounded memory, and for as long as the result is not too large.

use std::io;

use async_compression::{
    codecs::zstd::params::DParameter,
    tokio::bufread::{GzipDecoder, XzDecoder, ZstdDecoder},
};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt as _, BufReader};
use ucloud_types::image::Compression;

use super::{
    FetchError,
    target::{Target, TargetError},
};
use crate::format;

/// What a decoder may need for its window, as a power of two: enough for `xz -9` and `zstd --ultra -22 --long=27`.
const WINDOW_LOG: u32 = 27;
const BUFFER: usize = 128 << 10;

/// Writes what `packed` unpacks to, which is one or more gzip members, xz streams or Zstandard frames and nothing else.
pub async fn unpack(
    mut packed: impl AsyncRead + Send + Unpin,
    compression: Compression,
    target: &mut Target,
) -> Result<(), FetchError> {
    let broken = |source| FetchError::Unpack { compression: compression.as_str(), source };
    let mut head = Vec::with_capacity(format::COMPRESSION_HEAD);
    (&mut packed).take(format::COMPRESSION_HEAD as u64).read_to_end(&mut head).await.map_err(broken)?;
    if format::compression(&head) != Some(compression) {
        let found = format::detect(&head, &[]);
        return Err(FetchError::Compression { claimed: compression.as_str(), found });
    }
    let packed = BufReader::with_capacity(BUFFER, io::Cursor::new(head).chain(packed));
    let mut unpacked = decoder(packed, compression);
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = unpacked.read(&mut buffer).await.map_err(broken)?;
        if read == 0 {
            return Ok(());
        }
        target.write(&buffer[..read]).await.map_err(|error| match error {
            TargetError::TooLarge(limit) => FetchError::UnpackedTooLarge(limit),
            TargetError::Store(error) => error.into(),
        })?;
    }
}

fn decoder<'a>(
    packed: impl AsyncBufRead + Send + Unpin + 'a,
    compression: Compression,
) -> Box<dyn AsyncRead + Send + Unpin + 'a> {
    match compression {
        Compression::Gz => {
            let mut decoder = GzipDecoder::new(packed);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        Compression::Xz => {
            let mut decoder = XzDecoder::with_mem_limit(packed, 1 << WINDOW_LOG);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        Compression::Zst => {
            let mut decoder = ZstdDecoder::with_params(packed, &[DParameter::window_log_max(WINDOW_LOG)]);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
    }
}

#[cfg(test)]
mod tests;
