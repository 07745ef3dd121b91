//! Commands on a workflow.

use axum::{Json as JsonResponse, extract::State, http::StatusCode, response::IntoResponse};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::WorkflowId;
use crate::{
    http::{
        access::Caller,
        extract::{NoQuery, Path, Query, text},
        problem::Problem,
    },
    services::Services,
    workflows::Command,
};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct StepQuery {
    /// Only the failed jobs of this step; of all steps unless set.
    #[serde(default, deserialize_with = "text")]
    step: Option<String>,
}

pub(super) fn routes() -> OpenApiRouter<Services> {
    OpenApiRouter::new()
        .routes(routes!(cancel))
        .routes(routes!(retry))
        .routes(routes!(skip))
        .routes(routes!(pause))
        .routes(routes!(resume))
}

/// Cancel a workflow
///
/// Steps that wait do not start, running handlers are notified, and what has succeeded is compensated.
#[utoipa::path(
    post, path = "/api/workflows/{id}/cancel", operation_id = "cancelWorkflow", tag = "workflows",
    params(("id" = String, Path, description = "The workflow's id.")),
    responses(
        (status = 202, description = "The workflow is cancelled.", body = WorkflowId),
        (status = 404),
        (status = 409),
        (status = 503),
    )
)]
async fn cancel(
    State(services): State<Services>,
    caller: Caller,
    _: Query<NoQuery>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    command(&services, id, Command::Cancel, &caller).await
}

/// Retry failed steps
///
/// Starts the failed jobs of a workflow or of one step once more. If a compensation has failed, it is that one.
#[utoipa::path(
    post, path = "/api/workflows/{id}/retry", operation_id = "retryWorkflow", tag = "workflows",
    params(("id" = String, Path, description = "The workflow's id."), StepQuery),
    responses(
        (status = 202, description = "The jobs will run again.", body = WorkflowId),
        (status = 404),
        (status = 409),
        (status = 503),
    )
)]
async fn retry(
    State(services): State<Services>,
    caller: Caller,
    Query(query): Query<StepQuery>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    command(&services, id, Command::Retry(query.step), &caller).await
}

/// Skip failed steps
///
/// Lets a workflow go on without its failed jobs, or without those of one step.
#[utoipa::path(
    post, path = "/api/workflows/{id}/skip", operation_id = "skipWorkflow", tag = "workflows",
    params(("id" = String, Path, description = "The workflow's id."), StepQuery),
    responses(
        (status = 202, description = "The workflow goes on.", body = WorkflowId),
        (status = 404),
        (status = 409),
        (status = 503),
    )
)]
async fn skip(
    State(services): State<Services>,
    caller: Caller,
    Query(query): Query<StepQuery>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    command(&services, id, Command::Skip(query.step), &caller).await
}

/// Pause a workflow
///
/// Running steps end, and no other starts until the workflow is resumed.
#[utoipa::path(
    post, path = "/api/workflows/{id}/pause", operation_id = "pauseWorkflow", tag = "workflows",
    params(("id" = String, Path, description = "The workflow's id.")),
    responses(
        (status = 202, description = "The workflow is paused.", body = WorkflowId),
        (status = 404),
        (status = 409),
        (status = 503),
    )
)]
async fn pause(
    State(services): State<Services>,
    caller: Caller,
    _: Query<NoQuery>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    command(&services, id, Command::Pause, &caller).await
}

/// Resume a workflow
#[utoipa::path(
    post, path = "/api/workflows/{id}/resume", operation_id = "resumeWorkflow", tag = "workflows",
    params(("id" = String, Path, description = "The workflow's id.")),
    responses(
        (status = 202, description = "Steps start again.", body = WorkflowId),
        (status = 404),
        (status = 409),
        (status = 503),
    )
)]
async fn resume(
    State(services): State<Services>,
    caller: Caller,
    _: Query<NoQuery>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    command(&services, id, Command::Resume, &caller).await
}

async fn command(
    services: &Services,
    workflow_id: String,
    command: Command,
    caller: &Caller,
) -> Result<(StatusCode, JsonResponse<WorkflowId>), Problem> {
    services.command_workflow(&workflow_id, command, caller.actor()).await?;
    Ok((StatusCode::ACCEPTED, JsonResponse(WorkflowId { workflow_id })))
}
