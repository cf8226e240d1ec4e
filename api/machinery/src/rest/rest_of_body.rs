//! What is left of a request's body when it was answered: a client that is still sending when the connection is closed would
//! never see the answer.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

/// No more than this is thrown away, and not for longer.
const MAX_DISCARDED: usize = 16 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// A body that more than one can read.
pub(super) struct RestOfBody<B>(Arc<Mutex<B>>);

impl<B> Clone for RestOfBody<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> RestOfBody<B> {
    pub(super) fn new(body: B) -> Self {
        Self(Arc::new(Mutex::new(body)))
    }

    fn body(&self) -> MutexGuard<'_, B> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Body<Data = Bytes> + Unpin> RestOfBody<B> {
    /// Throws away what is left.
    pub(super) async fn discard(mut self) {
        let read = async {
            let mut discarded = 0;
            while let Some(Ok(frame)) = self.frame().await {
                discarded += frame.data_ref().map_or(0, Bytes::len);
                if discarded > MAX_DISCARDED {
                    return;
                }
            }
        };
        // whether it was all read or not, the answer is the same
        let _ = tokio::time::timeout(DISCARD_TIME, read).await;
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for RestOfBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut *self.body()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body().size_hint()
    }
}
