//! `/api/jobs`: the jobs that can be submitted.

use axum::{Json, extract::State};
use leveret::{
    catalogue::CatalogueEntry,
    time::{millis, unix_ms},
};
use leveret_store::time::to_rfc3339;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    extract::{NoQuery, Query},
    problem::Problem,
};
use crate::services::Services;

#[derive(Serialize, ToSchema)]
pub(super) struct JobList {
    jobs: Vec<JobItem>,
}

/// A job that workers can run.
#[derive(Serialize, ToSchema)]
#[schema(as = Job)]
pub(super) struct JobItem {
    job: String,
    queue: String,
    /// The JSON Schema of its payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<serde_json::Value>,
    timeout_ms: u64,
    max_attempts: u32,
    #[schema(format = DateTime)]
    announced_at: String,
}

/// List the jobs that workers can run
///
/// As the workers themselves announced them.
#[utoipa::path(
    get, path = "/api/jobs", operation_id = "listJobs", tag = "jobs",
    responses((status = 200, description = "The catalogue.", body = JobList))
)]
pub(super) async fn jobs(State(services): State<Services>, _: Query<NoQuery>) -> Result<Json<JobList>, Problem> {
    let jobs = services.catalogue.entries();
    let jobs = jobs.iter().filter(|entry| !entry.event).map(|entry| JobItem::from(&**entry)).collect();
    Ok(Json(JobList { jobs }))
}

impl From<&CatalogueEntry> for JobItem {
    fn from(entry: &CatalogueEntry) -> Self {
        Self {
            job: entry.job.clone(),
            queue: entry.queue.clone(),
            schema: entry.schema.clone(),
            timeout_ms: millis(entry.timeout),
            max_attempts: entry.max_attempts,
            announced_at: to_rfc3339(unix_ms(entry.announced_at)),
        }
    }
}
