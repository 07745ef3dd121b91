//! `/api/dead`: dead letters listed, shown, edited, purged and restored, exported and imported. See `crate::dead`.

mod replays;
mod selection;
mod view;

use axum::{
    Json as JsonResponse,
    body::Body,
    extract::{Request, State},
    http::header::CONTENT_TYPE,
    response::IntoResponse,
};
use futures_util::TryStreamExt;
use leveret::time::now_ms;
use leveret_store::{AuditStamp, Cursor, Page};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::io::StreamReader;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    selection::{FilterQuery, SelectionBody, SelectionLimit},
    view::{GroupView, LetterView},
};
use super::{
    access::{Caller, Operator},
    extract::{BodyLimit, Json, NoQuery, Object, PageQuery, Path, Queries, Query, default_page_limit, page_limit},
    problem::Problem,
};
use crate::{
    dead::{
        Error,
        edit::CheckedAgainst,
        transfer::{self, Imported},
    },
    field_error::FieldError,
    services::Services,
};

const NDJSON: &str = "application/x-ndjson";
/// The type that clients give a file of an unknown kind.
const BYTES: &str = "application/octet-stream";

struct Payload;

impl BodyLimit for Payload {
    fn bytes(config: &leveret::Config) -> usize {
        config.payload_limit
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LimitQuery {
    /// The greatest number of groups; 100 unless set.
    #[serde(default = "default_page_limit", deserialize_with = "page_limit")]
    #[param(minimum = 1, maximum = 1000)]
    limit: u32,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PayloadQuery {
    /// The original payload, if the letter was edited.
    #[serde(default)]
    original: bool,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PurgeQuery {
    /// Confirms the purge: without it, nothing is done.
    #[serde(default)]
    yes: bool,
}

#[derive(Serialize, ToSchema)]
struct LetterPage {
    dead_letters: Vec<LetterView>,
    /// The value of `after` for the next page; null on the last page.
    #[schema(required, value_type = Option<String>)]
    next: Option<Cursor>,
}

#[derive(Serialize, ToSchema)]
struct Groups {
    groups: Vec<GroupView>,
}

#[derive(Serialize, ToSchema)]
struct Reverted {
    id: i64,
}

#[derive(Serialize, ToSchema)]
struct Edited {
    id: i64,
    checked: CheckedAgainst,
}

#[derive(Serialize, ToSchema)]
struct Purged {
    purged: u64,
}

#[derive(Serialize, ToSchema)]
struct Restored {
    restored: u64,
}

pub(super) fn routes() -> OpenApiRouter<Services> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(groups))
        .routes(routes!(export))
        .routes(routes!(import))
        .routes(routes!(purge))
        .routes(routes!(restore))
        .routes(routes!(show))
        .routes(routes!(payload, edit, revert))
        .merge(replays::routes())
}

/// List dead letters
///
/// The last ingested first, without their messages.
#[utoipa::path(
    get, path = "/api/dead", operation_id = "listDeadLetters", tag = "dead letters",
    params(FilterQuery, PageQuery),
    responses((status = 200, description = "A page.", body = LetterPage), (status = 503))
)]
async fn list(
    State(services): State<Services>,
    caller: Caller,
    Queries(filter, page): Queries<FilterQuery, PageQuery>,
) -> Result<JsonResponse<LetterPage>, Problem> {
    let filter = filter.for_caller(&caller);
    let Page { items, next } = services.store.dead_letters(&filter, page.after.as_ref(), page.limit).await?;
    Ok(JsonResponse(LetterPage { dead_letters: items.into_iter().map(LetterView::from).collect(), next }))
}

/// Group dead letters by error
///
/// A group has the same job, class of error and error, apart from numbers and ids. The largest groups first.
#[utoipa::path(
    get, path = "/api/dead/groups", operation_id = "groupDeadLetters", tag = "dead letters",
    params(FilterQuery, LimitQuery),
    responses((status = 200, description = "The groups.", body = Groups), (status = 503))
)]
async fn groups(
    State(services): State<Services>,
    caller: Caller,
    Queries(filter, page): Queries<FilterQuery, LimitQuery>,
) -> Result<JsonResponse<Groups>, Problem> {
    let groups = services.store.groups(&filter.for_caller(&caller), page.limit).await?;
    Ok(JsonResponse(Groups { groups: groups.into_iter().map(GroupView::from).collect() }))
}

/// Show a dead letter
///
/// With its headers, its history and its payload, in which values that look like secrets are `***`.
#[utoipa::path(
    get, path = "/api/dead/{id}", operation_id = "showDeadLetter", tag = "dead letters",
    params(("id" = u64, Path, description = "The letter's number.")),
    responses((status = 200, description = "The dead letter.", body = LetterView), (status = 404), (status = 503))
)]
async fn show(
    State(services): State<Services>,
    caller: Caller,
    _: Query<NoQuery>,
    Path(id): Path<i64>,
) -> Result<JsonResponse<LetterView>, Problem> {
    let found = services.store.letter(id).await?.ok_or(Error::NoLetter(id))?;
    let history = services.store.history(id).await?;
    Ok(JsonResponse(LetterView::whole(found, history, &services.redact, &caller)))
}

/// Get the payload of a dead letter
///
/// Byte for byte, with all secrets: edit this text. Requires an operator's token.
#[utoipa::path(
    get, path = "/api/dead/{id}/payload", operation_id = "showPayload", tag = "dead letters",
    params(("id" = u64, Path, description = "The letter's number."), PayloadQuery),
    responses(
        (status = 200, description = "The bytes.", content(("application/octet-stream"))),
        (status = 404),
        (status = 503),
    )
)]
async fn payload(
    State(services): State<Services>,
    _: Operator,
    Query(query): Query<PayloadQuery>,
    Path(id): Path<i64>,
) -> Result<impl IntoResponse, Problem> {
    let found = services.store.letter(id).await?.ok_or(Error::NoLetter(id))?;
    let payload = if query.original { found.original.unwrap_or(found.payload) } else { found.payload };
    Ok(([(CONTENT_TYPE, BYTES)], payload))
}

/// Revert an edited dead letter
///
/// The letter has its original payload again. The edited payload is deleted.
#[utoipa::path(
    delete, path = "/api/dead/{id}/payload", operation_id = "revertDeadLetter", tag = "dead letters",
    params(("id" = u64, Path, description = "The letter's number.")),
    responses(
        (status = 200, description = "The letter has its original payload.", body = Reverted),
        (status = 404),
        (status = 409),
        (status = 503),
    )
)]
async fn revert(
    State(services): State<Services>,
    caller: Caller,
    _: Query<NoQuery>,
    Path(id): Path<i64>,
) -> Result<JsonResponse<Reverted>, Problem> {
    services.dead.revert(id, caller.actor()).await?;
    Ok(JsonResponse(Reverted { id }))
}

/// Edit the payload of a dead letter
///
/// The new payload is checked against the schema of its job, and published byte for byte. The original payload is kept.
/// Where a value was shown as `***`, the body must have the value itself.
#[utoipa::path(
    put, path = "/api/dead/{id}/payload", operation_id = "editDeadLetter", tag = "dead letters",
    params(("id" = u64, Path, description = "The letter's number.")),
    request_body(content = serde_json::Value, description = "Any JSON that fits the schema of the job."),
    responses(
        (status = 200, description = "The letter has the payload.", body = Edited),
        (status = 404),
        (status = 409),
        (status = 503),
    )
)]
async fn edit(
    State(services): State<Services>,
    caller: Caller,
    _: Query<NoQuery>,
    Path(id): Path<i64>,
    body: Json<Box<RawValue>, Payload>,
) -> Result<JsonResponse<Edited>, Problem> {
    let checked = services.dead.edit(id, &body.bytes, caller.actor()).await?;
    Ok(JsonResponse(Edited { id, checked }))
}

/// Purge dead letters
///
/// They can be restored until retention ends.
#[utoipa::path(
    post, path = "/api/dead/purge", operation_id = "purgeDeadLetters", tag = "dead letters",
    params(PurgeQuery),
    request_body(content = SelectionBody, examples(("all" = (value = json!({ "all": true }))))),
    responses((status = 200, description = "They are purged.", body = Purged), (status = 503))
)]
async fn purge(
    State(services): State<Services>,
    caller: Caller,
    Query(query): Query<PurgeQuery>,
    body: Json<Object<SelectionBody>, SelectionLimit>,
) -> Result<JsonResponse<Purged>, Problem> {
    let selection = body.value.0.selection().map_err(Problem::invalid_field)?;
    if !query.yes {
        return Err(Problem::invalid_field(FieldError::new("", "nothing was done: purging takes ?yes=true")));
    }
    let purged = services.store.purge(&selection, AuditStamp { actor: caller.actor(), at: now_ms() }).await?;
    Ok(JsonResponse(Purged { purged }))
}

/// Restore purged dead letters
///
/// Those of the selection that were purged.
#[utoipa::path(
    post, path = "/api/dead/restore", operation_id = "restoreDeadLetters", tag = "dead letters",
    request_body(content = SelectionBody, examples(("two" = (value = json!({ "ids": [17, 18] }))))),
    responses((status = 200, description = "They are restored.", body = Restored), (status = 503))
)]
async fn restore(
    State(services): State<Services>,
    caller: Caller,
    _: Query<NoQuery>,
    body: Json<Object<SelectionBody>, SelectionLimit>,
) -> Result<JsonResponse<Restored>, Problem> {
    let selection = body.value.0.selection().map_err(Problem::invalid_field)?;
    let restored = services.store.restore(&selection, AuditStamp { actor: caller.actor(), at: now_ms() }).await?;
    Ok(JsonResponse(Restored { restored }))
}

/// Export dead letters
///
/// One line of JSON each, with its message byte for byte in base64. Payloads are shown with their secrets, so an
/// operator's token is required.
#[utoipa::path(
    get, path = "/api/dead/export", operation_id = "exportDeadLetters", tag = "dead letters",
    params(FilterQuery),
    responses(
        (status = 200, description = "The lines.", body = String, content_type = "application/x-ndjson"),
        (status = 503),
    )
)]
async fn export(
    State(services): State<Services>,
    Operator(caller): Operator,
    Query(filter): Query<FilterQuery>,
) -> Result<impl IntoResponse, Problem> {
    let filter = filter.for_caller(&caller);
    // Before the response begins, because an error cannot be reported after that.
    services.store.count_dead(&filter).await?;
    let lines = transfer::lines(services.store, filter).map_err(std::io::Error::other);
    Ok(([(CONTENT_TYPE, NDJSON)], Body::from_stream(lines)))
}

/// Import dead letters
///
/// The lines of an export. Lines that are not dead letters are reported by number, and the others imported.
#[utoipa::path(
    post, path = "/api/dead/import", operation_id = "importDeadLetters", tag = "dead letters",
    request_body(content((String = "application/x-ndjson"), (String = "application/octet-stream"))),
    responses((status = 200, description = "The result.", body = Imported), (status = 503))
)]
async fn import(
    State(services): State<Services>,
    caller: Caller,
    _: Query<NoQuery>,
    request: Request,
) -> Result<JsonResponse<Imported>, Problem> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if ![NDJSON, BYTES].contains(&kind.split(';').next().unwrap_or_default().trim()) {
        return Err(Problem::unsupported_media_type(format!("the body must be {NDJSON} or {BYTES}")));
    }
    let lines = request.into_body().into_data_stream().map_err(std::io::Error::other);
    Ok(JsonResponse(transfer::import(&services.store, StreamReader::new(lines), caller.actor()).await?))
}
