//! Every error as `application/problem+json` (RFC 9457).

use axum::{
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

/// An answer that is an error. The type is `urn:leveret:problem:<kind>`, for programs; the detail is for people.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    more: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, detail: detail.into(), more: Map::new(), headers: Vec::new() }
    }

    /// What cannot be had now, but may be later: clients are told to try again.
    pub(crate) fn unavailable(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, detail).retry_after(2)
    }

    /// What is this server's own fault; what it is stands in the log alone.
    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(error = leveret_store::chain(error), "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the server failed; its log says why")
    }

    /// Adds a member.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    /// Tells clients to try again in so many seconds.
    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.headers.push((RETRY_AFTER, seconds.into()));
        self
    }

    /// What stands in the answer.
    pub(crate) fn body(&self) -> Value {
        let Self { status, kind, detail, more, .. } = self;
        let title = status.canonical_reason().unwrap_or_default();
        let kind = format!("urn:leveret:problem:{kind}");
        let mut body = json!({ "type": kind, "title": title, "status": status.as_u16(), "detail": detail });
        if let Value::Object(members) = &mut body {
            members.extend(more.clone());
        }
        body
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = self.body().to_string();
        let mut response = (self.status, [(CONTENT_TYPE, "application/problem+json")], body).into_response();
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<leveret_store::Error> for Problem {
    fn from(error: leveret_store::Error) -> Self {
        if error.is_unavailable() {
            tracing::warn!(error = leveret_store::chain(&error), "the store is away");
            return Self::unavailable("store-unavailable", "the store is away: try again");
        }
        Self::internal(&error)
    }
}
