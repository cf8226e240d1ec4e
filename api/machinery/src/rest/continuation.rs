//! The token by which a client asks for the next page of a list.
//!
//! It says at which revision the list is read and behind which object the page begins; nothing that the client does not
//! know, and nothing that gives it anything: what a page shows is decided anew by path, selectors and authorization.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::status::ApiError;
use crate::storage::Revision;

/// The form of the token. Another one gets another name, so that servers of two versions do not misread each other's.
const VERSION: &str = "v1";

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Continuation {
    /// The revision of the first page; without, the objects are shown as they are now.
    pub(super) at: Option<Revision>,
    /// The last object of the page before, below the path that is listed: `NAME`, or `NAMESPACE/NAME`.
    pub(super) after: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: String,
    /// -1 stands for "as they are now", as in Kubernetes' tokens.
    rv: i64,
    start: String,
}

impl Continuation {
    pub(super) fn encode(&self) -> String {
        let revision = self.at.and_then(|at| i64::try_from(at.0).ok()).unwrap_or(-1);
        let wire = Wire { v: VERSION.to_owned(), rv: revision, start: self.after.clone() };
        // text and a number always become JSON
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wire).unwrap_or_default())
    }

    pub(super) fn decode(token: &str) -> Result<Self, ApiError> {
        let invalid = |why: &str| ApiError::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|error| invalid(&error.to_string()))?;
        let wire: Wire = serde_json::from_slice(&bytes).map_err(|error| invalid(&error.to_string()))?;
        if wire.v != VERSION {
            return Err(invalid(&format!("server does not recognize this encoded version {:?}", wire.v)));
        }
        let at = match wire.rv {
            -1 => None,
            revision => match u64::try_from(revision) {
                Ok(revision) if revision > 0 => Some(Revision(revision)),
                _ => return Err(invalid("incorrect encoded start resourceVersion")),
            },
        };
        if wire.start.is_empty() {
            return Err(invalid("encoded start key empty"));
        }
        Ok(Self { at, after: wire.start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_out_is_understood() {
        for at in [Some(Revision(42)), None] {
            let continuation = Continuation { at, after: "ns/a".to_owned() };
            assert_eq!(Continuation::decode(&continuation.encode()).unwrap(), continuation);
        }
    }

    #[test]
    fn what_was_not_is_refused() {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        for bad in [
            "%".to_owned(),
            encode("x"),
            encode(r#"{"v":"v2","rv":1,"start":"a"}"#),
            encode(r#"{"v":"v1","rv":0,"start":"a"}"#),
            encode(r#"{"v":"v1","rv":-2,"start":"a"}"#),
            encode(r#"{"v":"v1","rv":99999999999999999999,"start":"a"}"#),
            encode(r#"{"v":"v1","rv":1,"start":""}"#),
            encode(r#"{"v":"v1","rv":1}"#),
        ] {
            assert_eq!(Continuation::decode(&bad).unwrap_err().code(), 400, "{bad}");
        }
    }
}
