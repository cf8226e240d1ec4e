//! `/files/UID`: HEAD tells how many bytes there are, PATCH adds some at the end, GET gives them.

use std::{io, ops::Range, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{
        HeaderMap, HeaderName, StatusCode,
        header::{CONTENT_LENGTH, ETAG},
    },
    response::{IntoResponse as _, Response},
    routing::head,
};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tracing::warn;
use ucloud_agent_core::{
    file::wanted,
    file_store::{AppendError, FileRequest, Stored},
};
use ucloud_types::{
    File, Quantity, StoragePool,
    image::Sha256,
    meta::{UPLOAD_LENGTH, UPLOAD_OFFSET, UPLOAD_SHA256},
};

use super::{
    STALL, awaited,
    part::{Part, quoted},
    refusal::Refusal,
};
use crate::{files, shared::Shared};

/// Pieces that wait to be written or sent.
const PIECES: usize = 4;
/// So many bytes are handed on at once: to wake somebody for each record of TLS (16 KiB) would cost more than to copy it.
const PIECE: usize = 256 << 10;
/// Of a sender who is slow, less is handed on after this time.
const HELD: Duration = Duration::from_secs(1);
/// Of a body that is refused, so much more is thrown away before the answer: a sender that is still at it when the
/// connection is closed would never see the answer.
const MAX_DISCARDED: usize = 16 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(1);

pub fn router() -> Router<Arc<Shared>> {
    Router::new().route("/files/{uid}", head(tell).get(give).patch(take))
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        let message = error.to_string();
        match error {
            AppendError::WrongOffset { next } => {
                Self::new(StatusCode::CONFLICT, message).with(HeaderName::from_static(UPLOAD_OFFSET), next.into())
            }
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
    let file = awaited(shared.caches.files.changes(), || known(shared, uid)).await;
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
    // the checksum is what tells one content from another
    if let Stored::Complete(sha256) = stored
        && let Ok(tag) = quoted(&sha256.to_string()).parse()
    {
        headers.insert(ETAG, tag);
    }
    response
}

/// The File with the checksum that its spec promises, or else the sender.
fn promised(request: FileRequest, headers: &HeaderMap) -> Result<FileRequest, Refusal> {
    let (None, Some(promise)) = (&request.sha256, headers.get(UPLOAD_SHA256)) else { return Ok(request) };
    let promise = promise.to_str().ok().and_then(|text| Sha256::try_from(text.to_owned()).ok()).ok_or_else(|| {
        let message = "the header Upload-Sha256 must be sha256: and 64 hexadecimal digits";
        Refusal::new(StatusCode::BAD_REQUEST, message)
    })?;
    Ok(FileRequest { sha256: Some(promise), ..request })
}

fn received(request: &FileRequest, stored: &Stored) -> u64 {
    match stored {
        Stored::Partial(size) => *size,
        Stored::Complete(_) => request.size,
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
    let request = promised(find(shared, uid).await?, headers)?;
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
        let mut piece = Vec::new();
        let ended = self.gather(shared, request, &sender, &mut piece).await;
        // Also of what breaks off all that has come is kept
        if !piece.is_empty() && sender.send(piece.into()).await.is_err() {
            return Ok(());
        }
        ended
    }

    /// Hands on whole pieces. What is left in `piece` is the beginning of the next one.
    async fn gather(
        &mut self,
        shared: &Shared,
        request: &FileRequest,
        sender: &mpsc::Sender<Bytes>,
        piece: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let broken = |why: &str| Refusal::new(StatusCode::BAD_REQUEST, format!("{why}: go on with the rest"));
        let mut changes = shared.caches.files.changes();
        let mut deadline = Instant::now() + STALL;
        let mut handed_on = Instant::now();
        loop {
            if !files::is_wanted(shared, request) {
                return Err(Refusal::new(StatusCode::NOT_FOUND, "the file is being deleted"));
            }
            let due = if piece.is_empty() { deadline } else { deadline.min(handed_on + HELD) };
            let next = tokio::select! {
                next = timeout_at(due, self.0.next()) => next,
                // a File that goes does not wait for bytes that may never come
                Ok(()) = changes.changed() => continue,
            };
            match next {
                Err(_) if Instant::now() >= deadline => return Err(broken("nothing came any more")),
                Err(_) => {}
                Ok(Some(Err(_))) => return Err(broken("the upload broke off")),
                Ok(None) => return Ok(()),
                Ok(Some(Ok(bytes))) => {
                    shared.files.changed();
                    deadline = Instant::now() + STALL;
                    piece.extend_from_slice(&bytes);
                    if piece.len() < PIECE && Instant::now() < handed_on + HELD {
                        continue;
                    }
                }
            }
            let whole = std::mem::replace(piece, Vec::with_capacity(PIECE));
            if sender.send(whole.into()).await.is_err() {
                return Ok(());
            }
            handed_on = Instant::now();
            // It may have waited for somebody to take it
            deadline = handed_on + STALL;
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
    let Stored::Complete(sha256) = shared.machine.files.stored(&request).await? else {
        return Err(request.incomplete().into());
    };
    let tag = sha256.to_string();
    let part = Part::asked(&headers, request.size, &tag)?;
    let range = part.range();
    let (sender, pieces) = mpsc::channel(1);
    tokio::spawn(async move { send(&shared, &request, range, sender).await });
    Ok(part.answer(Body::from_stream(ReceiverStream::new(pieces))))
}

/// Reads and sends, until all is sent or nobody takes it any more.
async fn send(shared: &Shared, request: &FileRequest, range: Range<u64>, sender: mpsc::Sender<io::Result<Bytes>>) {
    let (into, mut pieces) = mpsc::channel(PIECES);
    let sending = async {
        while let Some(piece) = pieces.recv().await {
            if sender.send_timeout(Ok(piece), STALL).await.is_err() {
                // With its end the pieces have no taker, and then nobody reads any more
                pieces.close();
                return;
            }
        }
    };
    let (read, ()) = tokio::join!(shared.machine.files.read(request, range, into), sending);
    if let Err(error) = read {
        warn!(name = request.name, error = &error as &dyn std::error::Error, "a download broke off");
        // What comes too short is no whole answer
        let _ = sender.send_timeout(Err(io::Error::other(error.message)), STALL).await;
    }
}
