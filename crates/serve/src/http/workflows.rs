//! `/api/workflows`: start, find, follow, cancel, retry, skip, pause, resume.

mod commands;
mod definition;

use std::{convert::Infallible, time::Duration};

use axum::{
    Json as JsonResponse,
    extract::State,
    http::{HeaderMap, StatusCode, header::LOCATION},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{Stream, stream};
use leveret::workflow::DEFINITION_LIMIT;
use leveret_store::{Cursor, Page, WorkflowFilter};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::definition::Definition;
use super::{
    extract::{BodyLimit, Json, NoQuery, PageQuery, Path, Queries, Query, WaitQuery, parsed, text},
    idempotency::IdempotencyKey,
    problem::Problem,
};
use crate::{
    services::Services,
    workflows::{FollowingWorkflow, JobResult, WorkflowStatus, WorkflowView},
};

const KEEP_ALIVE: Duration = Duration::from_secs(15);

struct OneWorkflow;

impl BodyLimit for OneWorkflow {
    fn bytes(_: &leveret::Config) -> usize {
        DEFINITION_LIMIT
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WorkflowQuery {
    /// Only workflows with this status.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<WorkflowStatus>)]
    status: Option<WorkflowStatus>,
    /// Only workflows with exactly this name.
    #[serde(default, deserialize_with = "text")]
    name: Option<String>,
    /// Only workflows with this label, as NAME=TEXT.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<String>)]
    label: Option<Label>,
}

/// A label's name and its text.
struct Label(String, String);

impl std::str::FromStr for Label {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, text) = text.split_once('=').ok_or("label: must have the form NAME=TEXT")?;
        Ok(Self(name.to_owned(), text.to_owned()))
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct WorkflowId {
    pub(super) workflow_id: String,
}

#[derive(Serialize, ToSchema)]
struct WorkflowPage {
    workflows: Vec<WorkflowView>,
    /// The value of `after` for the next page; null on the last page.
    #[schema(required, value_type = Option<String>)]
    next: Option<Cursor>,
}

#[derive(Serialize, ToSchema)]
struct ResultPage {
    results: Vec<JobResult>,
    /// The value of `after` for the next page; null on the last page.
    #[schema(required, value_type = Option<String>)]
    next: Option<Cursor>,
}

/// An event of a workflow's stream.
#[derive(ToSchema)]
#[expect(dead_code, reason = "axum writes events; this is their schema")]
struct WorkflowEvent {
    /// `status`.
    event: String,
    id: Option<String>,
    /// A workflow as JSON.
    #[schema(content_media_type = "application/json")]
    data: String,
}

pub(super) fn routes() -> OpenApiRouter<Services> {
    OpenApiRouter::new()
        .routes(routes!(list, start))
        .routes(routes!(show))
        .routes(routes!(events))
        .routes(routes!(results))
        .merge(commands::routes())
}

/// Start a workflow
///
/// 202 means that the store has the workflow: it will run. The same definition under the same id is the same workflow.
#[utoipa::path(
    post, path = "/api/workflows", operation_id = "startWorkflow", tag = "workflows",
    params(IdempotencyKey),
    request_body(content = Definition, examples(
        ("chain, group and join" = (value = json!({ "name": "order", "steps": {
            "a": { "job": "demo.task", "payload": {} },
            "b": { "job": "demo.task", "after": ["a"] },
            "c": { "job": "demo.task", "after": ["a"], "each": [{}, {}] },
            "d": { "job": "demo.task", "after": ["b", "c"] },
        } }))),
    )),
    responses(
        (status = 202, description = "The workflow's id.", body = WorkflowId, headers(
            ("Location" = String, description = "The address of the workflow."),
        )),
        (status = 409),
        (status = 503),
    )
)]
async fn start(
    State(services): State<Services>,
    _: Query<NoQuery>,
    key: IdempotencyKey,
    body: Json<Box<RawValue>, OneWorkflow>,
) -> Result<impl IntoResponse, Problem> {
    let workflow_id = services.start_workflow(body.value.get().to_owned(), key.of("workflow", &body.bytes)).await?;
    let location = [(LOCATION, format!("/api/workflows/{}", encoded(&workflow_id)))];
    Ok((StatusCode::ACCEPTED, location, JsonResponse(WorkflowId { workflow_id })))
}

/// List workflows
///
/// The newest first, without steps.
#[utoipa::path(
    get, path = "/api/workflows", operation_id = "listWorkflows", tag = "workflows",
    params(WorkflowQuery, PageQuery),
    responses((status = 200, description = "A page.", body = WorkflowPage), (status = 503))
)]
async fn list(
    State(services): State<Services>,
    Queries(query, page): Queries<WorkflowQuery, PageQuery>,
) -> Result<JsonResponse<WorkflowPage>, Problem> {
    let filter = WorkflowFilter {
        status: query.status.map(|status| status.to_string()),
        name: query.name,
        label: query.label.map(|Label(name, text)| (name, text)),
    };
    let Page { items, next } = services.workflows(&filter, page.after.as_ref(), page.limit).await?;
    Ok(JsonResponse(WorkflowPage { workflows: items, next }))
}

/// Show a workflow
///
/// With its first 1000 steps and their results. The results of a group come in pages.
#[utoipa::path(
    get, path = "/api/workflows/{id}", operation_id = "showWorkflow", tag = "workflows",
    params(("id" = String, Path, description = "The workflow's id."), WaitQuery),
    responses(
        (status = 200, description = "The workflow.", body = WorkflowView),
        (status = 404),
        (status = 429),
        (status = 503),
    )
)]
async fn show(
    State(services): State<Services>,
    Query(query): Query<WaitQuery>,
    Path(id): Path<String>,
) -> Result<JsonResponse<WorkflowView>, Problem> {
    Ok(JsonResponse(match query.wait {
        Some(wait) => services.wait_for_workflow(&id, wait).await?,
        None => services.workflow(&id).await?,
    }))
}

/// Follow a workflow
///
/// Server-sent events, as of a task: first the workflow as it is, then after each change until it ends.
#[utoipa::path(
    get, path = "/api/workflows/{id}/events", operation_id = "followWorkflow", tag = "workflows",
    params(
        ("id" = String, Path, description = "The workflow's id."),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that the client has."),
    ),
    responses(
        (status = 200, description = "The events.", body = WorkflowEvent, content_type = "text/event-stream"),
        (status = 204, description = "The workflow has ended, and the client has its last event."),
        (status = 404),
        (status = 429),
        (status = 503),
    )
)]
async fn events(
    State(services): State<Services>,
    _: Query<NoQuery>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let following = services.follow_workflow(&id, last).await?;
    if following.is_over() {
        // Only this keeps an EventSource from reconnecting.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(([("x-accel-buffering", "no")], Sse::new(stream_of(following)).keep_alive(alive)).into_response())
}

/// List the results of a step
///
/// In the order of the group, of the jobs that have ended. A page has about 1 MiB.
#[utoipa::path(
    get, path = "/api/workflows/{id}/steps/{step}/results", operation_id = "listWorkflowResults", tag = "workflows",
    params(
        ("id" = String, Path, description = "The workflow's id."),
        ("step" = String, Path, description = "The step's name."),
        PageQuery,
    ),
    responses((status = 200, description = "A page.", body = ResultPage), (status = 404), (status = 503))
)]
async fn results(
    State(services): State<Services>,
    Query(page): Query<PageQuery>,
    Path((id, step)): Path<(String, String)>,
) -> Result<JsonResponse<ResultPage>, Problem> {
    let Page { items, next } = services.workflow_results(&id, &step, page.after.as_ref(), page.limit).await?;
    Ok(JsonResponse(ResultPage { results: items, next }))
}

/// An id as a segment of a path.
fn encoded(id: &str) -> String {
    form_urlencoded::byte_serialize(id.as_bytes()).collect::<String>().replace('+', "%20")
}

fn stream_of(following: FollowingWorkflow) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(following, async |mut following| {
        let workflow = following.next().await?;
        let data = serde_json::to_string(&workflow).unwrap_or_default();
        Some((Ok(Event::default().event("status").id(workflow.version()).data(data)), following))
    })
}
