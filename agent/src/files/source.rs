//! The bytes of Files as sources of images: from the disk where this host keeps them, else from the host that does, by way
//! of the API server.

use std::{io, sync::Arc};

use async_trait::async_trait;
use futures::TryStreamExt as _;
use http_body_util::{BodyExt as _, Collected};
use kube::{Api, Client, client::Body};
use tokio_util::io::StreamReader;
use ucloud_agent_core::{FileStore, HostError, file::wanted, file_store::FileRequest};
use ucloud_agent_import::{OpenUpload, Uploaded};
use ucloud_types::{File, GROUP, StoragePool, VERSION};

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
        let bytes = answer.into_body().into_data_stream().map_err(io::Error::other);
        Ok(Uploaded { size, bytes: Box::new(StreamReader::new(bytes)) })
    }
}

fn unreadable(namespace: &str, name: &str, error: impl std::error::Error + Send + Sync + 'static) -> HostError {
    let message = format!("file {namespace}/{name} cannot be read from the API server; it is tried again");
    HostError::retryable("SourceUnreadable", message).caused_by(error)
}

#[async_trait]
impl OpenUpload for FileSource {
    async fn open(&self, namespace: &str, file: &str) -> Result<Uploaded, HostError> {
        match self.local(namespace, file).await? {
            Some(request) => {
                let bytes = self.files.open(&request).await?;
                Ok(Uploaded { size: request.size, bytes: Box::new(bytes) })
            }
            None => self.remote(namespace, file).await,
        }
    }

    async fn kept(&self, namespace: &str, file: &str) -> Result<Option<std::fs::File>, HostError> {
        let Some(request) = self.local(namespace, file).await? else { return Ok(None) };
        Ok(Some(self.files.open(&request).await?.into_std().await))
    }
}
