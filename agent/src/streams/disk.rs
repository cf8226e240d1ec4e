//! `/images/UID` and `/volumes/UID`: GET gives the bytes of an Image or a Volume, as a guest sees them; HEAD tells how many there
//! are.
//!
//! Nobody waits for a reader: neither a VM that is to have the volume, nor whoever deletes it. Instead it is asked before the
//! last byte of each answer whether the object is as it was when that began: then all that was read was of one state. Where
//! it is not, the answer breaks off, and who asks for the rest of it is told why.

use std::{fmt::Debug, io, ops::Range, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode},
    response::Response,
    routing::get,
};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{Resource, ResourceExt as _, core::NamespaceResourceScope};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};
use ucloud_agent_core::{
    block_store::Pool,
    export::{self, Export},
    reason,
    vm::Blocker,
};
use ucloud_types::{Image, Volume};

use super::{STALL, awaited, part::Part, refusal::Refusal};
use crate::{
    api::ApiError,
    cache::{Cache, Caches},
    limit::limited,
    shared::Shared,
    vm::revision,
};

/// Pieces that were read and wait to be sent.
const PIECES: usize = 2;

pub fn router() -> Router<Arc<Shared>> {
    Router::new().route("/images/{uid}", get(give::<Image>)).route("/volumes/{uid}", get(give::<Volume>))
}

/// A kind whose objects have bytes to be given.
trait Exported:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    /// Those that the host knows.
    fn cache(caches: &Caches) -> &Cache<Self>;

    /// The bytes, or why they are not to be had from this host.
    fn export(&self, host: &str) -> Result<Export, Blocker>;
}

impl Exported for Image {
    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.images
    }

    fn export(&self, _: &str) -> Result<Export, Blocker> {
        export::of_image(self)
    }
}

impl Exported for Volume {
    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.volumes
    }

    fn export(&self, host: &str) -> Result<Export, Blocker> {
        export::of_volume(self, host)
    }
}

async fn give<K: Exported>(
    State(shared): State<Arc<Shared>>,
    Path(uid): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let cache = K::cache(&shared.caches);
    let known = || cache.all().into_iter().find(|object| object.meta().uid.as_ref() == Some(&uid));
    let known = awaited(cache.changes(), known).await.ok_or_else(gone)?;
    let begun = Begun::of(&shared, &*known).await?;
    let Export { tag, pool, what } = begun.export.clone();
    let pool = shared.pool(&pool)?;
    let limit = shared.config.timing.step;
    let size = limited(limit, "measure a disk", shared.machine.store.size(&pool, &what)).await?;
    let size = size.ok_or_else(|| {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("its bytes are not in StoragePool {}", pool.name))
    })?;
    let part = Part::asked(&headers, size, &tag)?;
    if method == Method::HEAD {
        return Ok(part.answer(Body::empty()));
    }
    let range = part.range();
    let (sender, mut pieces) = mpsc::channel(1);
    tokio::spawn(async move { send(&shared, &begun, &pool, range, &sender).await });
    // What fails at once is said; later there is nothing but to break off
    let first = limited(limit, "read a disk", async { Ok(pieces.recv().await) }).await?.transpose()?;
    let rest = ReceiverStream::new(pieces).map_err(|refusal| io::Error::other(refusal.message));
    Ok(part.answer(Body::from_stream(stream::iter(first.map(Ok)).chain(rest))))
}

/// An object whose bytes were begun to be read.
struct Begun<K> {
    /// As it was then.
    object: K,
    export: Export,
}

impl<K: Exported> Begun<K> {
    /// The object as the API server has it now.
    async fn of(shared: &Shared, known: &K) -> Result<Self, Refusal> {
        let api = shared.api.namespaced::<K>(&known.namespace().unwrap_or_default());
        let object = match shared.api.call(api.get(&known.name_any())).await {
            Ok(object) => object,
            Err(ApiError::Gone) => return Err(gone()),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "cannot ask whether it may be read");
                let message = "the host cannot ask the API server whether it may be read: try again";
                return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message));
            }
        };
        let export = judge(shared, known, &object)?;
        Ok(Self { object, export })
    }

    /// Whether it is the same now, by the API server's word.
    async fn confirm(&self, shared: &Shared) -> Result<(), Refusal> {
        self.compare(&Self::of(shared, &self.object).await?.export)
    }

    /// Whether nothing else was heard of it since.
    fn look(&self, shared: &Shared) -> Result<(), Refusal> {
        let namespace = self.object.namespace();
        let heard = K::cache(&shared.caches).get(namespace.as_deref(), &self.object.name_any()).ok_or_else(gone)?;
        if revision(&*heard) <= revision(&self.object) {
            return Ok(());
        }
        self.compare(&judge(shared, &self.object, &*heard)?)
    }

    fn compare(&self, now: &Export) -> Result<(), Refusal> {
        if *now == self.export {
            return Ok(());
        }
        Err(Refusal::new(StatusCode::PRECONDITION_FAILED, "it has changed meanwhile"))
    }
}

/// The bytes of `object`, if it is the one that was `known`.
fn judge<K: Exported>(shared: &Shared, known: &K, object: &K) -> Result<Export, Refusal> {
    if object.meta().uid != known.meta().uid {
        return Err(gone());
    }
    object.export(&shared.config.host).map_err(|blocker| {
        let code = match blocker.reason {
            // by now the API server knows where
            reason::VOLUME_ELSEWHERE => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::CONFLICT,
        };
        Refusal::new(code, blocker.message)
    })
}

fn gone() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "it does not exist any more")
}

/// Reads and sends, until all is sent, nobody takes it any more, or it is not what it was.
async fn send<K: Exported>(
    shared: &Shared,
    begun: &Begun<K>,
    pool: &Pool,
    range: Range<u64>,
    sender: &mpsc::Sender<Result<Bytes, Refusal>>,
) {
    let (into, mut pieces) = mpsc::channel::<Bytes>(PIECES);
    let mut left = range.end - range.start;
    let reading = shared.machine.store.read(pool, &begun.export.what, range, into);
    // With it the pieces go, and then nobody reads any more
    let sending = async move {
        loop {
            let piece = tokio::select! {
                piece = pieces.recv() => piece,
                () = sender.closed() => None,
            };
            let Some(piece) = piece else { return Ok::<_, Refusal>(()) };
            left -= piece.len() as u64;
            if left == 0 {
                begun.confirm(shared).await?;
            } else {
                begun.look(shared)?;
            }
            if sender.send_timeout(Ok(piece), STALL).await.is_err() {
                return Ok(());
            }
        }
    };
    let (read, sent) = tokio::join!(reading, sending);
    let name = begun.object.name_any();
    let refusal = match (read, sent) {
        (Err(error), _) => {
            warn!(name, error = &error as &dyn std::error::Error, "a download broke off");
            error.into()
        }
        (Ok(()), Err(refusal)) => {
            info!(name, why = refusal.message, "a download was broken off");
            refusal
        }
        (Ok(()), Ok(())) => return,
    };
    // What comes too short is no whole answer
    let _ = sender.send_timeout(Err(refusal), STALL).await;
}
