//! The HTTP API: the operations of the OpenAPI document, its page, and the probes.
//!
//! In the order in which a request passes: `trace` (request ids, counts, panics), `access` (tokens and roles), then the
//! handlers in `tasks`, `workflows`, `events`, `dead`, `audit`, `catalogue`, `health` and `page`. `extract` reads
//! requests, `problem` is every error response. `openapi` completes the document, which comes from the handlers and
//! their types.

#![allow(unused_qualifications, reason = "utoipa's macros write paths in full")]

mod access;
mod audit;
mod catalogue;
mod dead;
mod events;
mod extract;
mod health;
mod idempotency;
mod openapi;
mod page;
mod problem;
mod tasks;
mod trace;
mod workflows;

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    middleware::{from_fn, from_fn_with_state},
    routing::get,
};
use utoipa::{Modify, OpenApi};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    access::Access,
    extract::{NoQuery, Query},
    openapi::{Conventions, Document},
    problem::Problem,
    trace::Trace,
};
use crate::{services::Services, tokens::Tokens};

/// All routes, with their layers.
pub(crate) fn routes(services: &Services, tokens: Tokens) -> Result<Router, prometheus::Error> {
    let trace = Arc::new(Trace::new()?);
    let (access, counted) = (Arc::new(Access::new(tokens)), Arc::clone(&trace));
    let (api, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .merge(tasks::routes())
        .merge(workflows::routes())
        .merge(dead::routes())
        .routes(routes!(events::emit))
        .routes(routes!(audit::list))
        .routes(routes!(catalogue::jobs))
        .split_for_parts();
    Conventions.modify(&mut document);
    let document = Bytes::from(serde_json::to_vec(&document).unwrap_or_default());
    let document = async move |_: Query<NoQuery>| ([(CONTENT_TYPE, "application/json")], document.clone());
    let router = api
        .route("/api/openapi.json", get(document))
        .route("/api", get(page::page))
        .route("/api/ui/{file}", get(page::asset))
        .route("/metrics", get(async move |services| health::metrics(services, &counted)))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn_with_state(access, access::check))
        .layer(from_fn_with_state(trace, trace::trace));
    // The last layer sees every response.
    Ok(router.layer(from_fn(trace::harden)).with_state(services.clone()))
}

async fn unknown(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not-found", format!("nothing is at {}; see /api", uri.path()))
}

/// The router adds the header `Allow`.
async fn not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "this path does not take this method; see /api")
}
