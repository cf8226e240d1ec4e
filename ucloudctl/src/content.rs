//! The bytes of a File, an Image or a Volume, as the API server takes and gives them.

use anyhow::Context as _;
use bytes::Bytes;
use futures::future;
use http::{
    HeaderMap, HeaderName, Method, Request, Response,
    header::{CONTENT_LENGTH, ETAG, IF_MATCH, RANGE},
};
use kube::{Client, client::Body};
use ucloud_types::{
    image::Sha256,
    meta::{UPLOAD_LENGTH, UPLOAD_OFFSET, UPLOAD_SHA256},
};

use crate::{resource::Resource, server::Server};

/// The bytes of one object.
pub struct Content<'a> {
    server: &'a Server,
    path: String,
}

/// What there is of them.
pub struct State {
    /// How many are there, from the first on.
    pub offset: u64,
    /// How many there will be.
    pub size: u64,
    /// What tells them from others, once they are all there.
    pub tag: Option<String>,
}

impl State {
    /// The checksum of all of them. None while some are missing, and of a disk, whose bytes nobody has summed.
    pub fn sha256(&self) -> Option<Sha256> {
        Sha256::try_from(self.tag.clone()?).ok()
    }
}

impl<'a> Content<'a> {
    /// Those of the object of this name.
    pub fn new(server: &'a Server, kind: &Resource, namespace: &str, name: &str) -> Self {
        Self { server, path: format!("{}/content", kind.object_path(namespace, name)) }
    }

    /// What there is.
    pub async fn state(&self) -> anyhow::Result<State> {
        match self.server.exchange(Method::HEAD, &self.path, &[], Body::empty()).await {
            Ok(answer) => state(answer.headers()),
            // an answer to HEAD has no body that could say what is wrong
            Err(error) => {
                match self.server.exchange(Method::GET, &self.path, &[(RANGE, "bytes=0-0")], Body::empty()).await {
                    Ok(_) => Err(error),
                    Err(told) => Err(told),
                }
            }
        }
    }

    /// Adds bytes behind the first `offset` ones. With the last of them, all have this checksum, or are thrown away.
    pub async fn append<B>(&self, offset: u64, bytes: B, sha256: Option<&Sha256>) -> anyhow::Result<State>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        let bytes = streamed(bytes).await?;
        let (offset, sha256) = (offset.to_string(), sha256.map(ToString::to_string));
        let headers = [(UPLOAD_OFFSET, Some(offset)), (UPLOAD_SHA256, sha256)];
        let headers =
            headers.iter().filter_map(|(name, value)| Some((HeaderName::from_static(name), value.as_deref()?)));
        let headers: Vec<_> = headers.collect();
        let answer = self.server.exchange(Method::PUT, &self.path, &headers, bytes).await?;
        state(answer.headers())
    }

    /// All bytes from `offset` on, if they are still those with this tag.
    pub async fn read(&self, offset: u64, tag: &str) -> anyhow::Result<Body> {
        let (range, tag) = (format!("bytes={offset}-"), format!("\"{tag}\""));
        let headers = [(RANGE, range.as_str()), (IF_MATCH, tag.as_str())];
        Ok(self.server.exchange(Method::GET, &self.path, &headers, Body::empty()).await?.into_body())
    }
}

/// A body that is made while it is sent. kube makes such of answers alone, and so this is one.
async fn streamed<B>(body: B) -> anyhow::Result<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tower::BoxError>,
{
    let mut body = Some(body);
    let answer = move |_: Request<Body>| future::ready(body.take().map(Response::new).context("it was asked twice"));
    let answered = Client::new(tower::service_fn(answer), "default").send(Request::new(Body::empty())).await?;
    Ok(answered.into_body())
}

/// A File may not be complete, and says in headers of its own how far it is; a disk is.
fn state(headers: &HeaderMap) -> anyhow::Result<State> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let number = |name: &str| -> anyhow::Result<u64> {
        let value =
            text(name).with_context(|| format!("the server's answer lacks {name}; is it of another version?"))?;
        value.parse().with_context(|| format!("the server's answer has {name} {value:?}"))
    };
    let tag = text(ETAG.as_str()).map(|tag| tag.trim_matches('"').to_owned());
    if headers.contains_key(UPLOAD_LENGTH) {
        return Ok(State { offset: number(UPLOAD_OFFSET)?, size: number(UPLOAD_LENGTH)?, tag });
    }
    let size = number(CONTENT_LENGTH.as_str())?;
    Ok(State { offset: size, size, tag })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_what_there_is() {
        let headers = |all: &[(&str, &str)]| -> HeaderMap {
            all.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
        };
        let part = state(&headers(&[(UPLOAD_OFFSET, "5"), (UPLOAD_LENGTH, "9")])).unwrap();
        assert_eq!((part.offset, part.size, part.sha256()), (5, 9, None));
        let sum = format!("\"sha256:{}\"", "0a".repeat(32));
        let whole = state(&headers(&[(UPLOAD_OFFSET, "9"), (UPLOAD_LENGTH, "9"), ("etag", &sum)])).unwrap();
        assert_eq!(whole.sha256(), Some(Sha256::from([10; 32])));
        let disk = state(&headers(&[("content-length", "9"), ("etag", "\"uid.1\"")])).unwrap();
        assert_eq!((disk.offset, disk.size, disk.tag.as_deref(), disk.sha256()), (9, 9, Some("uid.1"), None));
        assert!(state(&headers(&[(UPLOAD_OFFSET, "x"), (UPLOAD_LENGTH, "9")])).is_err());
        assert!(state(&HeaderMap::new()).is_err());
    }
}
