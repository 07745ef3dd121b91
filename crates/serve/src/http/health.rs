//! `/metrics`, `/livez` and `/readyz`, the same as a worker's.

use std::time::Duration;

use axum::{
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use tokio::time::timeout;

use super::{problem::Problem, trace::Trace};
use crate::services::Services;

const PING_WITHIN: Duration = Duration::from_secs(2);

pub(super) fn metrics(State(services): State<Services>, trace: &Trace) -> Response {
    let text = services.broker.metrics_text() + &trace.text() + &services.workflow_metrics.text();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Returns whether the process is alive. A restart repairs neither a broker nor a store, so neither is checked.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Returns whether jobs can be submitted.
pub(super) async fn readyz(State(services): State<Services>) -> Result<&'static str, Problem> {
    if let Some(trouble) = services.broker.trouble() {
        return Err(Problem::unavailable("broker-unavailable", trouble));
    }
    if !services.is_prepared() {
        return Err(Problem::unavailable("starting", "the server is starting"));
    }
    match timeout(PING_WITHIN, services.store.ping()).await {
        Ok(Ok(())) => Ok("ok\n"),
        Ok(Err(_)) | Err(_) => Err(Problem::unavailable("store-unavailable", "the store is unreachable")),
    }
}
