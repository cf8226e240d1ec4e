//! Why a request is not answered as it should be.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use ucloud_agent_core::HostError;

use crate::files;

/// Why a request is not answered as it should be.
#[derive(Debug)]
pub struct Refusal {
    pub code: StatusCode,
    pub message: String,
    /// What would be right.
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), header: None }
    }

    pub fn with(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some((name, value)), ..self }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.code, self.message).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
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
