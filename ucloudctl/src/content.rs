//! The bytes of a File, as the API server takes and gives them.

use anyhow::Context as _;
use http::{
    HeaderMap, Method,
    header::{ETAG, RANGE},
};
use kube::client::Body;
use ucloud_types::{
    image::Sha256,
    meta::{UPLOAD_LENGTH, UPLOAD_OFFSET},
};

use crate::{resource::Resource, server::Server};

/// The bytes of one File.
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
    /// The checksum of all of them, once they are there.
    pub sha256: Option<Sha256>,
}

impl<'a> Content<'a> {
    /// Those of the File of this name.
    pub fn new(server: &'a Server, kind: &Resource, namespace: &str, name: &str) -> Self {
        Self { server, path: format!("{}/content", kind.object_path(namespace, name)) }
    }

    /// What there is.
    pub async fn state(&self) -> anyhow::Result<State> {
        match self.server.exchange(Method::HEAD, &self.path, &[], Vec::new()).await {
            Ok(answer) => state(answer.headers()),
            // an answer to HEAD has no body that could say what is wrong
            Err(error) => {
                match self.server.exchange(Method::GET, &self.path, &[(RANGE, "bytes=0-0")], Vec::new()).await {
                    Ok(_) => Err(error),
                    Err(told) => Err(told),
                }
            }
        }
    }

    /// Adds bytes behind the first `offset` ones.
    pub async fn append(&self, offset: u64, bytes: Vec<u8>) -> anyhow::Result<State> {
        let header = http::HeaderName::from_static(UPLOAD_OFFSET);
        let answer = self.server.exchange(Method::PUT, &self.path, &[(header, &offset.to_string())], bytes).await?;
        state(answer.headers())
    }

    /// All bytes from `offset` on.
    pub async fn read(&self, offset: u64) -> anyhow::Result<Body> {
        let range = format!("bytes={offset}-");
        Ok(self.server.exchange(Method::GET, &self.path, &[(RANGE, &range)], Vec::new()).await?.into_body())
    }
}

fn state(headers: &HeaderMap) -> anyhow::Result<State> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let number = |name: &str| -> anyhow::Result<u64> {
        let value =
            text(name).with_context(|| format!("the server's answer lacks {name}; is it of another version?"))?;
        value.parse().with_context(|| format!("the server's answer has {name} {value:?}"))
    };
    let tag = text(ETAG.as_str()).map(|tag| Sha256::try_from(tag.trim_matches('"').to_owned()));
    Ok(State { offset: number(UPLOAD_OFFSET)?, size: number(UPLOAD_LENGTH)?, sha256: tag.transpose()? })
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
        assert_eq!((part.offset, part.size, part.sha256), (5, 9, None));
        let sum = format!("\"sha256:{}\"", "0a".repeat(32));
        let whole = state(&headers(&[(UPLOAD_OFFSET, "9"), (UPLOAD_LENGTH, "9"), ("etag", &sum)])).unwrap();
        assert_eq!(whole.sha256, Some(Sha256::from([10; 32])));
        assert!(state(&headers(&[(UPLOAD_OFFSET, "x"), (UPLOAD_LENGTH, "9")])).is_err());
        assert!(state(&HeaderMap::new()).is_err());
    }
}
