//! gzip for large answers, as Kubernetes does it: from 128 KiB on, at the fastest level, for clients that accept it.
//!
//! Pieces are compressed while they are sent, so that neither form of a long list is ever in memory as a whole.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, VARY};
use http::{HeaderMap, HeaderValue, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;

use super::respond::{self, Body};

/// Smaller answers are sent as they are: on the networks of clusters, compressing them costs more time than it saves.
pub(super) const THRESHOLD: usize = 128 * 1024;
/// No more than this is compressed without giving others their turn.
const STEP: usize = 64 * 1024;

/// Whether the client takes gzip.
pub(super) fn accepted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|text| text.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let refused = |quality: &str| quality.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()) == Some(0.0);
        parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip")) && !parts.any(refused)
    })
}

/// Compresses the answer if it is large. One whose size is not known is a list that has more than a first piece.
pub(super) fn compress(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    let small = body.size_hint().exact().is_some_and(|size| size < THRESHOLD as u64);
    if small || head.headers.contains_key(CONTENT_ENCODING) {
        return Response::from_parts(head, body);
    }
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    let zipper = Zipper { body, piece: Bytes::new(), encoder: GzEncoder::new(Vec::new(), Compression::fast()) };
    let pieces = stream::unfold(Some(zipper), |zipper| async { zipper?.next().await });
    Response::from_parts(head, respond::streamed(pieces))
}

struct Zipper {
    body: Body,
    /// What has yet to be compressed of the piece that came last.
    piece: Bytes,
    encoder: GzEncoder<Vec<u8>>,
}

impl Zipper {
    /// The next compressed piece, and what is needed for those after it.
    async fn next(mut self) -> Option<(Bytes, Option<Self>)> {
        loop {
            while self.piece.is_empty() {
                match self.body.frame().await {
                    Some(Ok(frame)) => self.piece = frame.into_data().unwrap_or_default(),
                    // without gzip's end the client notices
                    Some(Err(_)) => return None,
                    None => return self.encoder.finish().ok().map(|last| (last.into(), None)),
                }
            }
            let step = self.piece.split_to(self.piece.len().min(STEP));
            // writing to memory does not fail
            self.encoder.write_all(&step).ok()?;
            let compressed = std::mem::take(self.encoder.get_mut());
            if !compressed.is_empty() {
                return Some((compressed.into(), Some(self)));
            }
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn who_accepts_it() {
        let accept = |text: &str| accepted(&HeaderMap::from_iter([(ACCEPT_ENCODING, text.parse().unwrap())]));
        assert!(accept("gzip") && accept("deflate, gzip;q=0.5") && accept("br,GZIP"));
        assert!(!accept("identity") && !accept("gzip;q=0") && !accept("gzipped"));
        assert!(!accepted(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn large_answers_come_in_small_pieces() {
        let large: Vec<u8> =
            (0..2_000_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_string().into_bytes()).collect();
        let mut body = compress(Response::new(respond::full(large.clone()))).into_body();
        let mut zipped = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            let piece = frame.into_data().unwrap();
            assert!(piece.len() <= 2 * STEP, "{}", piece.len());
            zipped.extend_from_slice(&piece);
        }
        let mut unzipped = Vec::new();
        GzDecoder::new(&*zipped).read_to_end(&mut unzipped).unwrap();
        assert!(unzipped == large && zipped.len() < large.len() / 2);

        let small = compress(Response::new(respond::full(vec![b'x'; THRESHOLD - 1])));
        assert!(!small.headers().contains_key(CONTENT_ENCODING));
    }
}
