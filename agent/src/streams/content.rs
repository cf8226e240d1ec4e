//! `/files/UID`: HEAD tells how many bytes there are, PATCH adds some at the end, GET gives them.

use std::{io::SeekFrom, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{
        HeaderMap, StatusCode,
        header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE},
    },
    response::{IntoResponse, Response},
    routing::head,
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use ucloud_agent_core::{
    HostError,
    file::wanted,
    file_store::{AppendError, FileRequest, Stored},
};
use ucloud_types::{
    File, Quantity, StoragePool,
    image::Sha256,
    meta::{UPLOAD_LENGTH, UPLOAD_OFFSET},
};

use crate::{files, shared::Shared};

/// How long a File that the API server knows already may be unknown here.
const NEWS: Duration = Duration::from_secs(5);
/// How long a sender may send nothing, or a receiver take nothing, before it is given up.
const STALL: Duration = Duration::from_secs(30);
/// Pieces that wait to be written or sent.
const PIECES: usize = 4;
/// The size of those that are sent.
const PIECE: usize = 256 << 10;
/// Of a body that is refused, so much more is thrown away before the answer: a sender that is still at it when the
/// connection is closed would never see the answer.
const MAX_DISCARDED: usize = 16 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(1);

pub fn router(shared: Arc<Shared>) -> Router {
    Router::new().route("/files/{uid}", head(tell).get(give).patch(take)).with_state(shared)
}

/// Why a request is not answered as it should be.
struct Refusal {
    code: StatusCode,
    message: String,
    /// The offset that is right.
    next: Option<u64>,
}

impl Refusal {
    fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), next: None }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.code, self.message).into_response();
        if let Some(next) = self.next {
            response.headers_mut().insert(UPLOAD_OFFSET, next.into());
        }
        response
    }
}

impl From<HostError> for Refusal {
    fn from(error: HostError) -> Self {
        let code = match error.reason {
            "StorageFull" => StatusCode::INSUFFICIENT_STORAGE,
            "FileIncomplete" => StatusCode::CONFLICT,
            files::FILE_GONE => StatusCode::NOT_FOUND,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(code, error.message)
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        let message = error.to_string();
        match error {
            AppendError::WrongOffset { next } => Self { next: Some(next), ..Self::new(StatusCode::CONFLICT, message) },
            AppendError::Busy => Self::new(StatusCode::LOCKED, message),
            AppendError::TooMany(_) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, message),
            AppendError::Checksum { .. } => Self::new(StatusCode::UNPROCESSABLE_ENTITY, message),
            AppendError::Host(error) => error.into(),
        }
    }
}

/// The File with this UID that the host keeps.
fn known(shared: &Shared, uid: &str) -> Option<Arc<File>> {
    shared.caches.files.all().into_iter().find(|file| files::is_live(file, uid))
}

async fn find(shared: &Shared, uid: &str) -> Result<FileRequest, Refusal> {
    let mut changes = shared.caches.files.changes();
    let found = async {
        loop {
            if let Some(file) = known(shared, uid) {
                return Some(file);
            }
            changes.changed().await.ok()?;
        }
    };
    let file = timeout(NEWS, found).await.ok().flatten();
    let file = file.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "the host does not keep this file"))?;
    let pools = shared.caches.pools.all();
    let pools: Vec<&StoragePool> = pools.iter().map(AsRef::as_ref).collect();
    match wanted(&file, &pools) {
        Ok(Some(request)) => Ok(request),
        Ok(None) => Err(Refusal::new(StatusCode::NOT_FOUND, "the host does not keep this file")),
        Err(blocker) => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, blocker.message)),
    }
}

fn state(request: &FileRequest, stored: &Stored) -> Response {
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    headers.insert(UPLOAD_LENGTH, request.size.into());
    headers.insert(UPLOAD_OFFSET, received(request, stored).into());
    if let Stored::Complete(sha256) = stored {
        tag(headers, sha256);
    }
    response
}

fn received(request: &FileRequest, stored: &Stored) -> u64 {
    match stored {
        Stored::Partial(size) => *size,
        Stored::Complete(_) => request.size,
    }
}

/// The checksum is what tells one content from another.
fn tag(headers: &mut HeaderMap, sha256: &Sha256) {
    if let Ok(value) = format!("\"{sha256}\"").parse() {
        headers.insert(ETAG, value);
    }
}

async fn tell(State(shared): State<Arc<Shared>>, Path(uid): Path<String>) -> Result<Response, Refusal> {
    let request = find(&shared, &uid).await?;
    let stored = shared.machine.files.stored(&request).await?;
    Ok(state(&request, &stored))
}

async fn take(
    State(shared): State<Arc<Shared>>,
    Path(uid): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let mut body = Sent(body.into_data_stream());
    let taken = take_sent(&shared, &uid, &headers, &mut body).await;
    if taken.is_err() {
        body.discard().await;
    }
    taken
}

async fn take_sent(shared: &Arc<Shared>, uid: &str, headers: &HeaderMap, body: &mut Sent) -> Result<Response, Refusal> {
    let number =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let offset: u64 = number(UPLOAD_OFFSET).ok_or_else(|| {
        let message = "the header Upload-Offset must say how many bytes come before those of the body";
        Refusal::new(StatusCode::BAD_REQUEST, message)
    })?;
    let request = find(shared, uid).await?;
    let length = number(CONTENT_LENGTH.as_str()).unwrap_or(0);
    if offset.saturating_add(length) > request.size {
        return Err(AppendError::TooMany(Quantity::from_bytes(request.size)).into());
    }
    let (sender, bytes) = mpsc::channel(PIECES);
    // Not dropped with the connection: what has come is to be kept
    let appended = tokio::spawn(files::append(Arc::clone(shared), request.clone(), offset, bytes));
    let sent = body.forward(shared, &request, sender).await;
    let appended = appended
        .await
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("a fault of the agent: {error}")))?;
    // What the store says comes first: where it stops taking bytes, the sender only notices that
    let stored = appended?;
    sent?;
    Ok(state(&request, &stored))
}

/// The body of a request.
struct Sent(axum::body::BodyDataStream);

impl Sent {
    /// Hands on all bytes, as long as the File is there and somebody takes them.
    async fn forward(
        &mut self,
        shared: &Shared,
        request: &FileRequest,
        sender: mpsc::Sender<Bytes>,
    ) -> Result<(), Refusal> {
        let broken = |why: &str| Refusal::new(StatusCode::BAD_REQUEST, format!("{why}: go on with the rest"));
        let mut changes = shared.caches.files.changes();
        let mut deadline = Instant::now() + STALL;
        loop {
            if !files::is_wanted(shared, request) {
                return Err(Refusal::new(StatusCode::NOT_FOUND, "the file is being deleted"));
            }
            let next = tokio::select! {
                next = timeout_at(deadline, self.0.next()) => next,
                // a File that goes does not wait for bytes that may never come
                Ok(()) = changes.changed() => continue,
            };
            match next {
                Err(_) => return Err(broken("nothing came any more")),
                Ok(Some(Err(_))) => return Err(broken("the upload broke off")),
                Ok(None) => return Ok(()),
                Ok(Some(Ok(bytes))) => {
                    shared.files.changed();
                    if sender.send(bytes).await.is_err() {
                        return Ok(());
                    }
                    deadline = Instant::now() + STALL;
                }
            }
        }
    }

    /// Throws some of what is left away.
    async fn discard(&mut self) {
        let read = async {
            let mut discarded = 0;
            while let Some(Ok(bytes)) = self.0.next().await {
                discarded += bytes.len();
                if discarded > MAX_DISCARDED {
                    return;
                }
            }
        };
        // whether it was all read or not, the answer is the same
        let _ = timeout(DISCARD_TIME, read).await;
    }
}

async fn give(
    State(shared): State<Arc<Shared>>,
    Path(uid): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let request = find(&shared, &uid).await?;
    let mut file = shared.machine.files.open(&request).await?;
    let asked = headers.get(RANGE).and_then(|range| range.to_str().ok()).and_then(parse_range);
    let (first, last) = match asked {
        Some((first, _)) if first >= request.size => {
            let size = request.size;
            let mut response =
                Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("the file has {size} bytes")).into_response();
            if let Ok(range) = format!("bytes */{size}").parse() {
                response.headers_mut().insert(CONTENT_RANGE, range);
            }
            return Ok(response);
        }
        Some((first, last)) => (first, last.unwrap_or(u64::MAX).min(request.size - 1)),
        None => (0, request.size - 1),
    };
    let unreadable = |_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the host cannot read the file");
    file.seek(SeekFrom::Start(first)).await.map_err(unreadable)?;
    let (sender, pieces) = mpsc::channel(PIECES);
    tokio::spawn(read_into(file, last + 1 - first, sender));
    let mut response = Body::from_stream(ReceiverStream::new(pieces)).into_response();
    if asked.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    let headers = response.headers_mut();
    if asked.is_some()
        && let Ok(range) = format!("bytes {first}-{last}/{}", request.size).parse()
    {
        headers.insert(CONTENT_RANGE, range);
    }
    headers.insert(CONTENT_LENGTH, (last + 1 - first).into());
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, http::HeaderValue::from_static("bytes"));
    if let Stored::Complete(sha256) = shared.machine.files.stored(&request).await? {
        tag(headers, &sha256);
    }
    Ok(response)
}

/// Reads until all is read, an error was told, or nobody takes it any more.
async fn read_into(file: tokio::fs::File, size: u64, sender: mpsc::Sender<std::io::Result<Bytes>>) {
    let mut file = file.take(size);
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = match file.read_buf(&mut piece).await {
            Ok(0) => return,
            Ok(_) => Ok(piece.freeze()),
            Err(error) => Err(error),
        };
        let failed = read.is_err();
        if sender.send_timeout(read, STALL).await.is_err() || failed {
            return;
        }
    }
}

/// `bytes=FIRST-` or `bytes=FIRST-LAST` (RFC 9110, 14.1.2). Any other range may be ignored, and is.
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    if last.is_empty() {
        return Some((first, None));
    }
    let last = last.parse().ok()?;
    (first <= last).then_some((first, Some(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("bytes=5-"), Some((5, None)));
        assert_eq!(parse_range("bytes=5-5"), Some((5, Some(5))));
        for ignored in ["", "bytes=", "bytes=-5", "bytes=5-4", "bytes=0-1,3-4", "lines=1-2", "bytes=a-"] {
            assert_eq!(parse_range(ignored), None, "{ignored}");
        }
    }
}
