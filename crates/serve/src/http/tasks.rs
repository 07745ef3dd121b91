//! `/api/tasks`: submit, find, follow, cancel, retry.

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
use leveret::{PublishError, time::now_ms};
use leveret_store::{Cursor, JobFilter, Page};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    access::Caller,
    extract::{BodyLimit, Json, NoQuery, PageQuery, Path, Queries, Query, WaitQuery, parsed, text},
    idempotency::IdempotencyKey,
    problem::{Problem, ProblemBody},
};
use crate::{
    field_error::FieldError,
    jobs::{CancelledWhile, Error, Following, MOST_AT_ONCE, Status, Submission, SubmissionFields, Task},
    services::Services,
};

/// The bytes that a submission may have beside its payload.
const AROUND_PAYLOAD: usize = 16 * 1024;
/// The greatest size of a batch, in payloads of the greatest size.
const BATCH_FACTOR: usize = 4;
const KEEP_ALIVE: Duration = Duration::from_secs(15);

struct OneTask;

impl BodyLimit for OneTask {
    fn bytes(config: &leveret::Config) -> usize {
        config.payload_limit + AROUND_PAYLOAD
    }
}

struct Batch;

impl BodyLimit for Batch {
    fn bytes(config: &leveret::Config) -> usize {
        BATCH_FACTOR * config.payload_limit + AROUND_PAYLOAD
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct TaskQuery {
    /// Only tasks with this status.
    #[serde(default, deserialize_with = "parsed")]
    status: Option<Status>,
    /// Only tasks of the job with exactly this name.
    #[serde(default, deserialize_with = "text")]
    job: Option<String>,
    /// Only tasks of exactly this queue.
    #[serde(default, deserialize_with = "text")]
    queue: Option<String>,
    /// Only tasks with this text in the name that they were submitted with.
    #[serde(default, deserialize_with = "text")]
    label: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct TaskId {
    task_id: String,
}

#[derive(Serialize, ToSchema)]
struct TaskPage {
    tasks: Vec<Task>,
    /// The value of `after` for the next page; null on the last page.
    #[schema(required, value_type = Option<String>)]
    next: Option<Cursor>,
}

#[derive(Serialize, ToSchema)]
struct CancelledTask {
    task_id: String,
    was: CancelledWhile,
}

/// One item of a batch that was published in part.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum BatchItem {
    Published(TaskId),
    Failed { error: ProblemBody },
}

/// The jobs of a batch.
#[derive(ToSchema)]
#[schema(max_items = 1000)]
#[expect(dead_code, reason = "items are read one by one, for all errors at once; this is their schema")]
struct Submissions(Vec<SubmissionFields>);

/// An event of a task's stream. Each has the task as its data.
#[derive(ToSchema)]
#[expect(dead_code, reason = "axum writes events; this is their schema")]
struct StatusEvent {
    /// `status`.
    event: String,
    id: Option<String>,
    /// A task as JSON.
    #[schema(content_media_type = "application/json")]
    data: String,
}

pub(super) fn routes() -> OpenApiRouter<Services> {
    OpenApiRouter::new()
        .routes(routes!(list, submit))
        .routes(routes!(submit_batch))
        .routes(routes!(show, cancel))
        .routes(routes!(events))
        .routes(routes!(retry))
}

/// Submit a job
///
/// 202 means that the broker has confirmed the job: it will run.
#[utoipa::path(
    post, path = "/api/tasks", operation_id = "submitTask", tag = "tasks",
    params(IdempotencyKey),
    request_body(content = SubmissionFields, examples(
        ("default job" = (value = json!({ "name": "Important Task", "priority": 1 }))),
        ("a job in an hour" = (value = json!(
            { "job": "email.send", "payload": { "to": "ada@example.com" }, "delay": "1h" }
        ))),
    )),
    responses(
        (status = 202, description = "The task's id.", body = TaskId, headers(
            ("Location" = String, description = "The address of the task."),
        )),
        (status = 409),
        (status = 503),
    )
)]
async fn submit(
    State(services): State<Services>,
    _: Query<NoQuery>,
    key: IdempotencyKey,
    body: Json<Box<RawValue>, OneTask>,
) -> Result<impl IntoResponse, Problem> {
    let submission = Submission::parse(body.value.get()).map_err(|field_errors| Error::Invalid { field_errors })?;
    let task_id = services.submit(submission, key.of("task", &body.bytes)).await?;
    let location = [(LOCATION, format!("/api/tasks/{task_id}"))];
    Ok((StatusCode::ACCEPTED, location, JsonResponse(TaskId { task_id })))
}

/// Submit up to 1000 jobs
///
/// If an item is not valid, none is published: the response is 422 with the index of each error. If the broker fails in
/// the middle, the response is 207 and states for each item whether it was published. With an idempotency key the
/// request can be repeated then.
#[utoipa::path(
    post, path = "/api/tasks/batch", operation_id = "submitTasks", tag = "tasks",
    params(IdempotencyKey),
    request_body(content = Submissions, examples(
        ("two" = (value = json!([{ "name": "first" }, { "name": "second", "priority": 9 }]))),
    )),
    responses(
        (status = 202, description = "The tasks' ids, in order.", body = Vec<String>),
        (status = 207, description = "Some jobs were not published.", body = Vec<BatchItem>),
        (status = 409),
        (status = 503),
    )
)]
async fn submit_batch(
    State(services): State<Services>,
    _: Query<NoQuery>,
    key: IdempotencyKey,
    body: Json<Vec<Box<RawValue>>, Batch>,
) -> Result<Response, Problem> {
    let submissions = batch(&body.value)?;
    let published = services.submit_all(submissions, key.of("batch", &body.bytes)).await?;
    let ids: Option<Vec<_>> = published.iter().map(|id| id.as_ref().ok()).collect();
    if let Some(ids) = ids {
        return Ok((StatusCode::ACCEPTED, JsonResponse(ids)).into_response());
    }
    if published.iter().all(Result::is_err) {
        let first = published.into_iter().find_map(Result::err);
        return Err(first.unwrap_or(PublishError::Closed).into());
    }
    let items: Vec<_> = published.into_iter().map(BatchItem::from).collect();
    Ok((StatusCode::MULTI_STATUS, JsonResponse(items)).into_response())
}

/// List tasks
///
/// The newest first, without results and timelines.
#[utoipa::path(
    get, path = "/api/tasks", operation_id = "listTasks", tag = "tasks",
    params(TaskQuery, PageQuery),
    responses((status = 200, description = "A page.", body = TaskPage), (status = 503))
)]
async fn list(
    State(services): State<Services>,
    Queries(query, page): Queries<TaskQuery, PageQuery>,
) -> Result<JsonResponse<TaskPage>, Problem> {
    let filter = JobFilter {
        job: query.job,
        queue: query.queue,
        label: query.label,
        ..query.status.map(|status| status.filter(now_ms())).unwrap_or_default()
    };
    let Page { items, next } = services.tasks(&filter, page.after.as_ref(), page.limit).await?;
    Ok(JsonResponse(TaskPage { tasks: items, next }))
}

/// Show a task
///
/// With its result and its timeline: of very many copies, the first 50 and the last 50.
#[utoipa::path(
    get, path = "/api/tasks/{id}", operation_id = "showTask", tag = "tasks",
    params(("id" = String, Path, description = "The task's id."), WaitQuery),
    responses(
        (status = 200, description = "The task.", body = Task),
        (status = 404),
        (status = 429),
        (status = 503),
    )
)]
async fn show(
    State(services): State<Services>,
    Query(query): Query<WaitQuery>,
    Path(id): Path<String>,
) -> Result<JsonResponse<Task>, Problem> {
    Ok(JsonResponse(match query.wait {
        Some(wait) => services.wait(&id, wait).await?,
        None => services.task(&id).await?,
    }))
}

/// Follow a task
///
/// Server-sent events: first the task as it is, then after each change until it ends. Each event is of the type `status`
/// and has the task as its data. Changes in quick succession may arrive as one. A client that comes back with
/// `Last-Event-ID` does not receive that event again. After the task's end it receives 204, which ends an `EventSource`.
#[utoipa::path(
    get, path = "/api/tasks/{id}/events", operation_id = "followTask", tag = "tasks",
    params(
        ("id" = String, Path, description = "The task's id."),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that the client has."),
    ),
    responses(
        (status = 200, description = "The events.", body = StatusEvent, content_type = "text/event-stream"),
        (status = 204, description = "The task has ended, and the client has its last event."),
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
    let following = services.follow(&id, last).await?;
    if following.is_over() {
        // Only this keeps an EventSource from reconnecting.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(([("x-accel-buffering", "no")], Sse::new(stream_of(following)).keep_alive(alive)).into_response())
}

/// Cancel a task
///
/// Every worker is notified, also after restarts. A waiting task does not start. A running handler is notified, and the
/// task may still succeed.
#[utoipa::path(
    delete, path = "/api/tasks/{id}", operation_id = "cancelTask", tag = "tasks",
    params(("id" = String, Path, description = "The task's id.")),
    responses(
        (status = 202, description = "The task is cancelled.", body = CancelledTask),
        (status = 404),
        (status = 409),
        (status = 503),
    )
)]
async fn cancel(
    State(services): State<Services>,
    caller: Caller,
    _: Query<NoQuery>,
    Path(task_id): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let was = services.cancel(&task_id, caller.actor()).await?;
    Ok((StatusCode::ACCEPTED, JsonResponse(CancelledTask { task_id, was })))
}

/// Retry a task
///
/// Only a task that has failed. It keeps its id and its payload, and begins with its first attempt.
#[utoipa::path(
    post, path = "/api/tasks/{id}/retry", operation_id = "retryTask", tag = "tasks",
    params(("id" = String, Path, description = "The task's id.")),
    responses(
        (status = 202, description = "The task will run again.", body = TaskId),
        (status = 404),
        (status = 409),
        (status = 503),
    )
)]
async fn retry(
    State(services): State<Services>,
    caller: Caller,
    _: Query<NoQuery>,
    Path(task_id): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    services.retry(&task_id, caller.actor()).await?;
    Ok((StatusCode::ACCEPTED, JsonResponse(TaskId { task_id })))
}

/// The submissions of a batch, or all field errors of all items.
fn batch(items: &[Box<RawValue>]) -> Result<Vec<Submission>, Error> {
    if items.len() > MOST_AT_ONCE {
        return Err(Error::invalid(FieldError::new("", format!("must have at most {MOST_AT_ONCE} items"))));
    }
    let (mut submissions, mut field_errors) = (Vec::with_capacity(items.len()), Vec::new());
    for (index, item) in items.iter().enumerate() {
        match Submission::parse(item.get()) {
            Ok(submission) => submissions.push(submission),
            Err(found) => field_errors.extend(found.into_iter().map(|error| error.of_item(index))),
        }
    }
    if field_errors.is_empty() { Ok(submissions) } else { Err(Error::Invalid { field_errors }) }
}

impl From<Result<String, PublishError>> for BatchItem {
    fn from(published: Result<String, PublishError>) -> Self {
        match published {
            Ok(task_id) => Self::Published(TaskId { task_id }),
            Err(error) => Self::Failed { error: Problem::from(error).into_body() },
        }
    }
}

fn stream_of(following: Following) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(following, async |mut following| {
        let task = following.next().await?;
        let data = serde_json::to_string(&task).unwrap_or_default();
        Some((Ok(Event::default().event("status").id(task.version()).data(data)), following))
    })
}
