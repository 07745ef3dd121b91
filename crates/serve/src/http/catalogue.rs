//! The jobs that can be submitted.

use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use leveret::catalogue::Entry;
use serde::Serialize;

use super::{Problem, json, query::Query};
use crate::{services::Services, time::rfc3339};

#[derive(Serialize)]
struct Shown<'a> {
    job: &'a str,
    queue: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<&'a serde_json::Value>,
    timeout_ms: u64,
    max_attempts: u32,
    announced_at: String,
}

pub(super) async fn jobs(State(services): State<Services>, uri: Uri) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let entries = services.catalogue.entries();
    let shown = |entry: &Entry| -> serde_json::Value {
        let shown = Shown {
            job: &entry.job,
            queue: &entry.queue,
            schema: entry.schema.as_ref(),
            timeout_ms: entry.timeout_ms,
            max_attempts: entry.max_attempts,
            announced_at: rfc3339(entry.announced_at),
        };
        serde_json::to_value(shown).unwrap_or_default()
    };
    let jobs: Vec<_> = entries.iter().map(|entry| shown(entry)).collect();
    Ok(json(StatusCode::OK, &serde_json::json!({ "jobs": jobs })))
}
