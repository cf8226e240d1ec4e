//! The bytes of Files as sources of images: from the disk where this host keeps them, else from the host that does, by way
//! of the API server.

use std::{io, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, future, stream};
use http_body_util::{BodyExt as _, Collected};
use kube::{Api, Client, client::Body};
use tokio::{io::AsyncRead, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use ucloud_agent_core::{
    FileStore, HostError,
    file::wanted,
    file_store::{FileRequest, Stored},
};
use ucloud_agent_import::{Kept, OpenUpload, Uploaded};
use ucloud_types::{File, GROUP, StoragePool, VERSION, image::Sha256};

/// Pieces that were read and wait to be taken.
const PIECES: usize = 2;

/// Opens Files for the importer.
pub struct FileSource {
    client: Client,
    files: Arc<dyn FileStore>,
}

impl FileSource {
    /// Of those that this host keeps in `files`, and of those that others keep.
    pub fn new(client: Client, files: Arc<dyn FileStore>) -> Self {
        Self { client, files }
    }

    /// The File, if this host keeps it. The API server shows an agent no other.
    async fn local(&self, namespace: &str, name: &str) -> Result<Option<FileRequest>, HostError> {
        let file: File = match Api::namespaced(self.client.clone(), namespace).get(name).await {
            Ok(file) => file,
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => return Ok(None),
            Err(error) => return Err(unreadable(namespace, name, error)),
        };
        let pool: StoragePool = Api::all(self.client.clone())
            .get(file.spec.effective_pool())
            .await
            .map_err(|error| unreadable(namespace, name, error))?;
        wanted(&file, &[&pool]).map_err(|blocker| HostError::retryable(blocker.reason, blocker.message))
    }

    async fn remote(&self, namespace: &str, name: &str) -> Result<Uploaded, HostError> {
        let path = format!("/apis/{GROUP}/{VERSION}/namespaces/{namespace}/files/{name}/content");
        let request = http::Request::get(path).body(Body::empty());
        let request = request.map_err(|error| unreadable(namespace, name, error))?;
        let answer = self.client.send(request).await.map_err(|error| unreadable(namespace, name, error))?;
        let code = answer.status();
        if !code.is_success() {
            let told = answer.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
            let status = serde_json::from_slice::<kube::core::Status>(&told).unwrap_or_default();
            let message = format!("file {namespace}/{name} cannot be had ({code}): {}", status.message);
            return Err(HostError::retryable("SourceUnreadable", message));
        }
        let length = answer.headers().get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let size = length.and_then(|text| text.parse().ok()).ok_or_else(|| {
            let message = format!("file {namespace}/{name} came without its size: update the API server");
            HostError::retryable("SourceUnreadable", message)
        })?;
        let tag = answer.headers().get(http::header::ETAG).and_then(|value| value.to_str().ok());
        let sha256 = tag.and_then(|tag| Sha256::try_from(tag.trim_matches('"').to_owned()).ok()).ok_or_else(|| {
            let message = format!("file {namespace}/{name} came without its checksum: update the host that keeps it");
            HostError::retryable("SourceUnreadable", message)
        })?;
        let bytes = answer.into_body().into_data_stream().map_err(io::Error::other);
        Ok(Uploaded { size, sha256, bytes: Box::new(StreamReader::new(bytes)) })
    }
}

fn unreadable(namespace: &str, name: &str, error: impl std::error::Error + Send + Sync + 'static) -> HostError {
    let message = format!("file {namespace}/{name} cannot be read from the API server; it is tried again");
    HostError::retryable("SourceUnreadable", message).caused_by(error)
}

/// The bytes of a File that is complete, as they are read from its pool.
fn stream(files: Arc<dyn FileStore>, file: FileRequest) -> impl Stream<Item = io::Result<Bytes>> + Unpin {
    let (sender, pieces) = mpsc::channel(PIECES);
    let reading = tokio::spawn(async move { files.read(&file, 0..file.size, sender).await });
    // What breaks off is told behind the last piece
    let end = stream::once(async move {
        match reading.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Err(io::Error::other(error))),
            Err(error) => Some(Err(io::Error::other(error))),
        }
    });
    Box::pin(ReceiverStream::new(pieces).map(|piece| Some(Ok(piece))).chain(end).filter_map(future::ready))
}

#[async_trait]
impl OpenUpload for FileSource {
    async fn open(&self, namespace: &str, file: &str) -> Result<Uploaded, HostError> {
        match self.local(namespace, file).await? {
            Some(request) => {
                let size = request.size;
                let Stored::Complete(sha256) = self.files.stored(&request).await? else {
                    return Err(request.incomplete());
                };
                let bytes: Box<dyn AsyncRead + Send + Unpin> = match self.files.open(&request).await? {
                    Some(file) => Box::new(tokio::fs::File::from_std(file)),
                    None => Box::new(StreamReader::new(stream(Arc::clone(&self.files), request))),
                };
                Ok(Uploaded { size, sha256, bytes })
            }
            None => self.remote(namespace, file).await,
        }
    }

    async fn kept(&self, namespace: &str, file: &str) -> Result<Option<Kept>, HostError> {
        let Some(request) = self.local(namespace, file).await? else { return Ok(None) };
        Ok(Some(match self.files.open(&request).await? {
            Some(file) => Kept::Here(file),
            None => Kept::InPool(request),
        }))
    }
}
