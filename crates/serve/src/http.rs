//! The HTTP API: what stands in the OpenAPI document, and nothing else.
//!
//! In the order in which a request passes: `trace` (request ids, counts, panics), `access` (who may), then the routes:
//! `tasks`, `dead`, `audit`, `catalogue`, `health`, `openapi` and `page`. `body` and `query` read what clients send, `problem` is what
//! they are told when it cannot be done.

mod access;
mod audit;
mod body;
mod catalogue;
mod dead;
mod health;
mod openapi;
mod page;
mod problem;
mod query;
mod tasks;
mod trace;

use std::sync::Arc;

use axum::{
    Router,
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

pub(crate) use self::problem::Problem;
use self::{access::Access, trace::Trace};
use crate::{services::Services, tokens::Tokens};

/// All routes, and what stands before them.
pub(crate) fn routes(services: &Services, tokens: Tokens) -> Result<Router, prometheus::Error> {
    let trace = Arc::new(Trace::new()?);
    let (access, counted) = (Arc::new(Access::new(tokens)), Arc::clone(&trace));
    let router = Router::new()
        .merge(tasks::routes())
        .merge(dead::routes())
        .route("/api/audit", get(audit::list))
        .route("/api/jobs", get(catalogue::jobs))
        .route("/api/openapi.json", get(openapi::document))
        .route("/api", get(page::page))
        .route("/metrics", get(async move |services| health::metrics(services, &counted)))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn_with_state(access, access::check))
        .layer(from_fn_with_state(trace, trace::trace));
    // Last, because it sees what all others answer.
    Ok(router.layer(from_fn(trace::harden)).with_state(services.clone()))
}

async fn unknown(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not-found", format!("nothing is at {}; see /api", uri.path()))
}

/// The header `Allow` is the router's to add.
async fn not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "this path does not take this method; see /api")
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(text) => (status, [(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => Problem::internal(&error).into_response(),
    }
}
