//! Request ids, metrics, and a response even if a handler panics.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{
        HeaderName, HeaderValue, Method,
        header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use prometheus::{Encoder, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use tracing::Instrument;
use uuid::Uuid;

use super::problem::Problem;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LONGEST_ID: usize = 128;
const BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// The metrics of requests.
#[derive(Debug)]
pub(crate) struct Trace {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
}

impl Trace {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("leveret_http".to_owned()), None)?;
        let opts = Opts::new("requests_total", "Requests answered, by route and status");
        let requests = IntCounterVec::new(opts, &["method", "route", "status"])?;
        let opts = HistogramOpts::new("request_seconds", "Time to the head of the answer").buckets(BUCKETS.to_vec());
        let seconds = HistogramVec::new(opts, &["method", "route"])?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self { registry, requests, seconds })
    }

    pub(crate) fn text(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }

    fn count(&self, method: &str, route: &str, response: &Response, took: Duration) {
        let status = response.status();
        self.requests.with_label_values(&[method, route, status.as_str()]).inc();
        self.seconds.with_label_values(&[method, route]).observe(took.as_secs_f64());
        tracing::debug!(method, route, status = status.as_u16(), duration_ms = took.as_millis(), "answered");
    }
}

/// Counts requests and gives them ids. The log has only the pattern of the route, without paths, queries and bodies.
pub(crate) async fn trace(State(trace): State<Arc<Trace>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(&request);
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let method = method(request.method());
    let span = tracing::info_span!("request", id = %id.to_str().unwrap_or_default());
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
    let mut response =
        answer.unwrap_or_else(|_| Problem::internal(&std::io::Error::other("a handler panicked")).into_response());
    span.in_scope(|| trace.count(method, &route, &response, started.elapsed()));
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Forbids caching and content sniffing of all responses.
pub(crate) async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The client's own id if it is short and plain, because the log has it.
fn request_id(request: &Request) -> HeaderValue {
    let plain = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
        (1..=LONGEST_ID).contains(&bytes.len()) && bytes.iter().all(allowed)
    };
    if let Some(id) = request.headers().get(REQUEST_ID).filter(plain) {
        return id.clone();
    }
    HeaderValue::from_str(&Uuid::now_v7().to_string()).unwrap_or(HeaderValue::from_static("none"))
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
