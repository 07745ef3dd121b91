//! Reads JSON bodies: of the right type, not too large, not too slow.

use std::time::Duration;

use axum::{
    body::{Bytes, to_bytes},
    extract::Request,
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
    },
};
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::Problem;

const READ_WITHIN: Duration = Duration::from_secs(30);

/// The body of a request, if it may be JSON.
pub(crate) async fn read(request: Request, limit: usize) -> Result<Bytes, Problem> {
    let headers = request.headers();
    check_type(headers)?;
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    let slow = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body took too long to come");
    let body = timeout(READ_WITHIN, to_bytes(request.into_body(), limit)).await.map_err(slow)?;
    body.map_err(|error| {
        let over_limit = std::error::Error::source(&error).is_some_and(|source| source.to_string().contains("limit"));
        let broken = || Problem::new(StatusCode::BAD_REQUEST, "bad-request", "the body ended before its time");
        if over_limit { too_large(limit) } else { broken() }
    })
}

/// Any JSON at all.
pub(crate) fn json(body: &[u8]) -> Result<&RawValue, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "syntax", format!("the body is not JSON: {error}")))
}

pub(crate) fn too_large(limit: usize) -> Problem {
    let detail = format!("the limit is {limit} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail).with("limit", limit)
}

fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let kind = text(CONTENT_TYPE).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    let is_plain = text(CONTENT_ENCODING).is_none_or(|encoding| encoding.eq_ignore_ascii_case("identity"));
    if is_json && is_plain {
        return Ok(());
    }
    let detail = "the body must be application/json, without a content encoding";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail))
}
