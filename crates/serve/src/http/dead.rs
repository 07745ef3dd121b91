//! `/api/dead`: dead letters, looked at, replayed, edited, purged and restored, exported and imported. See `crate::dead`.

mod chosen;
mod replays;
mod shown;

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::TryStreamExt;
use leveret_store::{By, Cursor, Page};
use serde_json::json;
use tokio_util::io::StreamReader;

use self::{
    chosen::{Body as Chosen, FILTERS, filter},
    shown::{entry, group, letter, whole},
};
use super::{Problem, access::Caller, body, json as answer, query::Query};
use crate::{
    dead::{Error, edit::CheckedAgainst, transfer},
    services::Services,
    time::now_ms,
};

const NDJSON: &str = "application/x-ndjson";
/// What clients call a file of whose type they know nothing.
const BYTES: &str = "application/octet-stream";
/// What a selection may have: a hundred thousand ids.
const LONGEST_SELECTION: usize = 1 << 20;

/// The number in a path. One that is no number fits no dead letter.
type Id = Result<Path<i64>, PathRejection>;

pub(super) fn routes() -> Router<Services> {
    Router::new()
        .route("/api/dead", get(list))
        .route("/api/dead/groups", get(groups))
        .route("/api/dead/export", get(export))
        .route("/api/dead/import", post(import))
        .route("/api/dead/replay", post(replays::start))
        .route("/api/dead/replays", get(replays::list))
        .route("/api/dead/replays/{id}", get(replays::show))
        .route("/api/dead/replays/{id}/resume", post(replays::resume))
        .route("/api/dead/replays/{id}/stop", post(replays::stop))
        .route("/api/dead/purge", post(purge))
        .route("/api/dead/restore", post(restore))
        .route("/api/dead/{id}", get(show))
        .route("/api/dead/{id}/payload", get(payload).put(edit).delete(revert))
}

async fn list(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Response, Problem> {
    let query = Query::read(&uri, &[&FILTERS[..], &["state", "after", "limit"]].concat())?;
    let (filter, after) = (filter(&query, &caller)?, query.parsed::<Cursor>("after")?);
    let Page { items, next } = services.store.dead_letters(&filter, after.as_ref(), query.limit()?).await?;
    let letters: Vec<_> = items.iter().map(letter).collect();
    Ok(answer(StatusCode::OK, &json!({ "dead_letters": letters, "next": next })))
}

async fn groups(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Response, Problem> {
    let query = Query::read(&uri, &[&FILTERS[..], &["state", "limit"]].concat())?;
    let groups = services.store.groups(&filter(&query, &caller)?, query.limit()?).await?;
    Ok(answer(StatusCode::OK, &json!({ "groups": groups.iter().map(group).collect::<Vec<_>>() })))
}

async fn show(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    id: Id,
) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let id = known(id)?;
    let found = services.store.letter(id).await?.ok_or(Error::NoLetter(id))?;
    let history = services.store.history(id).await?;
    let history: Vec<_> = history.iter().map(entry).collect();
    Ok(answer(StatusCode::OK, &whole(&found, history, &services.redact, &caller)))
}

/// A GET that takes an operator, as the export does.
async fn payload(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    id: Id,
) -> Result<Response, Problem> {
    let query = Query::read(&uri, &["original"])?;
    caller.must_be_operator()?;
    let id = known(id)?;
    let found = services.store.letter(id).await?.ok_or(Error::NoLetter(id))?;
    let original = query.parsed::<bool>("original")? == Some(true);
    let payload = if original { found.original.unwrap_or(found.payload) } else { found.payload };
    Ok(([(CONTENT_TYPE, BYTES)], payload).into_response())
}

async fn revert(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    id: Id,
) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let id = known(id)?;
    services.dead.revert(id, caller.actor()).await?;
    Ok(answer(StatusCode::OK, &json!({ "id": id })))
}

async fn edit(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    id: Id,
    request: Request,
) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let id = known(id)?;
    let payload = body::read(request, services.broker.config().payload_limit).await?;
    body::json(&payload)?;
    let checked: CheckedAgainst = services.dead.edit(id, &payload, caller.actor()).await?;
    Ok(answer(StatusCode::OK, &json!({ "id": id, "checked": checked })))
}

async fn purge(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    request: Request,
) -> Result<Response, Problem> {
    let query = Query::read(&uri, &["yes"])?;
    let selection = Chosen::read(request).await?.selection()?;
    if query.parsed::<bool>("yes")? != Some(true) {
        return Err(chosen::invalid("nothing was done: purging takes ?yes=true"));
    }
    let purged = services.store.purge(&selection, By { actor: caller.actor(), at: now_ms() }).await?;
    Ok(answer(StatusCode::OK, &json!({ "purged": purged })))
}

async fn restore(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    request: Request,
) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let selection = Chosen::read(request).await?.selection()?;
    let restored = services.store.restore(&selection, By { actor: caller.actor(), at: now_ms() }).await?;
    Ok(answer(StatusCode::OK, &json!({ "restored": restored })))
}

/// A GET that takes an operator all the same, because it shows payloads as they are.
async fn export(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Response, Problem> {
    let query = Query::read(&uri, &[&FILTERS[..], &["state"]].concat())?;
    caller.must_be_operator()?;
    let filter = filter(&query, &caller)?;
    // Before the answer begins, because an error can be told no more then.
    services.store.count_dead(&filter).await?;
    let lines = transfer::lines(services.store, filter).map_err(std::io::Error::other);
    Ok(([(CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response())
}

async fn import(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    request: Request,
) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if ![NDJSON, BYTES].contains(&kind.split(';').next().unwrap_or_default().trim()) {
        let detail = format!("the body must be {NDJSON} or {BYTES}");
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail));
    }
    let lines = request.into_body().into_data_stream().map_err(std::io::Error::other);
    let imported = transfer::import(&services.store, StreamReader::new(lines), caller.actor()).await?;
    Ok(answer(StatusCode::OK, &imported))
}

fn known(id: Id) -> Result<i64, Problem> {
    let unreadable =
        |_| Problem::new(StatusCode::NOT_FOUND, "not-found", "dead letters and replays have whole numbers");
    id.map(|Path(id)| id).map_err(unreadable)
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::NoLetter(_) | Error::NoReplay(_) => Self::new(StatusCode::NOT_FOUND, "not-found", detail),
            Error::Running(_) | Error::Ended(_) | Error::NotEdited(_) => {
                Self::new(StatusCode::CONFLICT, "conflict", detail)
            }
            Error::Payload { field_errors, .. } => {
                let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail);
                problem.with("errors", serde_json::to_value(field_errors).unwrap_or_default())
            }
            Error::Options(_) => chosen::invalid(&detail),
            Error::Interrupted { .. } => Self::unavailable("broker-unavailable", detail),
            Error::Store(error) => error.into(),
            Error::Io(_) => Self::new(StatusCode::BAD_REQUEST, "bad-request", "the body ended before its time"),
        }
    }
}
