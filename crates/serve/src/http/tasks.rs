//! `/api/tasks`: submit, find, follow, cancel, retry.

use std::{convert::Infallible, time::Duration};

use axum::{
    Extension, Router,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header::LOCATION},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post},
};
use futures_util::{Stream, stream};
use leveret::PublishError;
use leveret_store::{Cursor, Filter, Page};
use serde_json::{Value, json, value::RawValue};
use sha2::{Digest, Sha256};

use super::{Problem, access::Caller, body, json as answer, query::Query};
use crate::{
    jobs::{Error, FieldError, Following, Idempotency, MOST_AT_ONCE, Status, Submission},
    services::Services,
    time::now_ms,
};

const LONGEST_WAIT: Duration = Duration::from_secs(60);
const LONGEST_KEY: usize = 255;
/// What a submission may have beside its payload.
const AROUND_PAYLOAD: usize = 16 * 1024;
/// A batch may have so many payloads of the greatest size.
const BATCH_FACTOR: usize = 4;
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const FILTERS: [&str; 6] = ["status", "job", "queue", "label", "after", "limit"];

/// The id in a path. One that is no text fits no task.
type Id = Result<Path<String>, PathRejection>;

pub(super) fn routes() -> Router<Services> {
    Router::new()
        .route("/api/tasks", get(list).post(submit))
        .route("/api/tasks/batch", post(submit_batch))
        .route("/api/tasks/{id}", get(show).delete(cancel))
        .route("/api/tasks/{id}/events", get(events))
        .route("/api/tasks/{id}/retry", post(retry))
}

async fn submit(State(services): State<Services>, uri: Uri, request: Request) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let limit = services.broker.config().payload_limit + AROUND_PAYLOAD;
    let key = key(request.headers())?;
    let bytes = body::read(request, limit).await?;
    let submission =
        Submission::parse(body::json(&bytes)?.get()).map_err(|field_errors| Error::Invalid { field_errors })?;
    let id = services.submit(submission, idempotency(key, "task", &bytes)).await?;
    let mut response = answer(StatusCode::ACCEPTED, &json!({ "task_id": id }));
    if let Ok(location) = HeaderValue::from_str(&format!("/api/tasks/{id}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

async fn submit_batch(State(services): State<Services>, uri: Uri, request: Request) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let limit = BATCH_FACTOR * services.broker.config().payload_limit + AROUND_PAYLOAD;
    let key = key(request.headers())?;
    let bytes = body::read(request, limit).await?;
    let submissions = batch(body::json(&bytes)?)?;
    let fates = services.submit_all(submissions, idempotency(key, "batch", &bytes)).await?;
    let ids: Option<Vec<_>> = fates.iter().map(|fate| fate.as_ref().ok()).collect();
    if let Some(ids) = ids {
        return Ok(answer(StatusCode::ACCEPTED, &ids));
    }
    if fates.iter().all(Result::is_err) {
        let first = fates.into_iter().find_map(Result::err);
        return Err(first.unwrap_or(PublishError::Closed).into());
    }
    Ok(answer(StatusCode::MULTI_STATUS, &fates_of(fates)))
}

async fn list(State(services): State<Services>, uri: Uri) -> Result<Response, Problem> {
    let query = Query::read(&uri, &FILTERS)?;
    let status: Option<Status> = query.parsed("status")?;
    let filter = Filter {
        job: query.text("job"),
        queue: query.text("queue"),
        label: query.text("label"),
        ..status.map(|status| status.filter(now_ms())).unwrap_or_default()
    };
    let after: Option<Cursor> = query.parsed("after")?;
    let Page { items, next } = services.tasks(&filter, after.as_ref(), query.limit()?).await?;
    Ok(answer(StatusCode::OK, &json!({ "tasks": items, "next": next })))
}

async fn show(State(services): State<Services>, uri: Uri, id: Id) -> Result<Response, Problem> {
    let query = Query::read(&uri, &["wait"])?;
    let wait = query.with("wait", |text| {
        let wait = leveret::duration(text)?;
        if wait > LONGEST_WAIT { Err("must be at most 60s".to_owned()) } else { Ok(wait) }
    })?;
    let id = known(id)?;
    let task = match wait {
        Some(wait) => services.wait(&id, wait).await?,
        None => services.task(&id).await?,
    };
    Ok(answer(StatusCode::OK, &task))
}

async fn events(State(services): State<Services>, uri: Uri, id: Id, headers: HeaderMap) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let following = services.follow(&known(id)?, last).await?;
    if following.is_over() {
        // This alone keeps an EventSource from coming back.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(([("x-accel-buffering", "no")], Sse::new(stream_of(following)).keep_alive(alive)).into_response())
}

async fn cancel(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    id: Id,
) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let id = known(id)?;
    let was = services.cancel(&id, caller.actor()).await?;
    Ok(answer(StatusCode::ACCEPTED, &json!({ "task_id": id, "was": was })))
}

async fn retry(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    id: Id,
) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let id = known(id)?;
    services.retry(&id, caller.actor()).await?;
    Ok(answer(StatusCode::ACCEPTED, &json!({ "task_id": id })))
}

fn known(id: Id) -> Result<String, Problem> {
    let unreadable = |_| Problem::new(StatusCode::NOT_FOUND, "not-found", "no task has an id that is not UTF-8");
    id.map(|Path(id)| id).map_err(unreadable)
}

/// Each item, and all field errors of all items.
fn batch(json: &RawValue) -> Result<Vec<Submission>, Error> {
    let items: Result<Vec<&RawValue>, _> = serde_json::from_str(json.get());
    let Ok(items) = items else { return Err(Error::invalid(FieldError::new("", "must be an array of submissions"))) };
    if items.len() > MOST_AT_ONCE {
        return Err(Error::invalid(FieldError::new("", format!("must have at most {MOST_AT_ONCE} items"))));
    }
    let (mut submissions, mut field_errors) = (Vec::with_capacity(items.len()), Vec::new());
    for (index, item) in items.into_iter().enumerate() {
        match Submission::parse(item.get()) {
            Ok(submission) => submissions.push(submission),
            Err(found) => field_errors
                .extend(found.into_iter().map(|field_error| FieldError { index: Some(index), ..field_error })),
        }
    }
    if field_errors.is_empty() { Ok(submissions) } else { Err(Error::Invalid { field_errors }) }
}

fn fates_of(fates: Vec<Result<String, PublishError>>) -> Vec<Value> {
    let fate = |fate| match fate {
        Ok(id) => json!({ "task_id": id }),
        Err(error) => json!({ "error": Problem::from(Error::Publish(error)).body() }),
    };
    fates.into_iter().map(fate).collect()
}

fn stream_of(following: Following) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(following, async |mut following| {
        let task = following.next().await?;
        let data = serde_json::to_string(&task).unwrap_or_default();
        Some((Ok(Event::default().event("status").id(task.version()).data(data)), following))
    })
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let is_usable =
        |key: &&str| (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    let usable = key.to_str().ok().filter(is_usable);
    let Some(key) = usable else {
        let detail = format!("Idempotency-Key: must have 1 to {LONGEST_KEY} visible ASCII characters");
        return Err(Error::invalid(FieldError::new("", detail)).into());
    };
    Ok(Some(key.to_owned()))
}

fn idempotency(key: Option<String>, kind: &str, body: &[u8]) -> Option<Idempotency> {
    let hash = Sha256::new().chain_update(kind).chain_update([0]).chain_update(body).finalize();
    let body_hash = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    key.map(|key| Idempotency { key, body_hash })
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        let conflict = |kind| Self::new(StatusCode::CONFLICT, kind, detail.as_str());
        match error {
            Error::Invalid { field_errors } => {
                let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail);
                problem.with("errors", serde_json::to_value(field_errors).unwrap_or_default())
            }
            Error::KeyReused => conflict("idempotency-key-reused"),
            Error::KeyInFlight => conflict("idempotency-key-in-flight").retry_after(1),
            Error::NotFound { .. } => Self::new(StatusCode::NOT_FOUND, "not-found", detail),
            Error::Conflict { status, .. } => conflict("conflict").with("task_status", status.to_string()),
            Error::NoLetter => conflict("no-dead-letter").retry_after(2),
            Error::TooManyWait => Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-wait", detail).retry_after(5),
            Error::Unprepared { .. } => Self::unavailable("starting", detail),
            Error::StoreAway => Self::unavailable("store-unavailable", detail),
            Error::Store(error) => error.into(),
            Error::Publish(error) => error.into(),
        }
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        let detail = error.to_string();
        match error {
            PublishError::Uncertain { id } => Self::unavailable("uncertain", detail).with("task_id", id.as_str()),
            PublishError::Blocked { .. } => Self::unavailable("broker-blocked", detail),
            PublishError::Unavailable { .. } | PublishError::Closed => Self::unavailable("broker-unavailable", detail),
            PublishError::Unroutable { .. } | PublishError::Nacked { .. } => {
                Self::unavailable("queue-unavailable", detail)
            }
            PublishError::TooLarge { limit, .. } => body::too_large(limit),
            PublishError::Invalid { .. } => Error::invalid(FieldError::new("", detail)).into(),
            other => Self::internal(&other),
        }
    }
}
