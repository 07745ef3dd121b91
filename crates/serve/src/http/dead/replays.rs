//! Replays: started here, carried out beside the requests, and looked at.

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Uri, header::LOCATION},
    response::Response,
};
use leveret_store::Replay;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    Id,
    chosen::{self, Body, Filter},
    known, shown,
};
use crate::{
    dead::{Error, ReplayLease, replay::ReplayOptions},
    detached::run_detached,
    http::{Problem, access::Caller, json as answer, query::Query},
    services::Services,
};

const MOST_CANARIES: u32 = 1000;
const LONGEST_TIMEOUT: u64 = 86_400;

/// What is to be replayed, and how.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    ids: Option<Vec<i64>>,
    filter: Option<Filter>,
    #[serde(default)]
    all: bool,
    /// For one letter.
    payload: Option<Box<RawValue>>,
    rate: Option<f64>,
    canary: Option<u32>,
    canary_timeout: Option<u64>,
    to: Option<String>,
    #[serde(default)]
    track: bool,
}

pub(super) async fn start(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    request: Request,
) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let wanted: Wanted = chosen::read(request).await?;
    if wanted.canary.is_some_and(|canary| canary > MOST_CANARIES) {
        return Err(chosen::invalid("canary: must be at most 1000"));
    }
    if wanted.canary_timeout.is_some_and(|timeout| timeout > LONGEST_TIMEOUT) {
        return Err(chosen::invalid("canary_timeout: must be at most 86400"));
    }
    let options = ReplayOptions {
        rate: wanted.rate,
        canary: wanted.canary,
        canary_timeout: wanted.canary_timeout.unwrap_or(ReplayOptions::default().canary_timeout),
        queue: wanted.to,
        track: wanted.track,
    };
    options.check()?;
    if let Some(payload) = &wanted.payload {
        let Some([id]) = wanted.ids.as_deref() else { return Err(chosen::invalid("payload: for one of \"ids\"")) };
        services.dead.edit(*id, payload.get().as_bytes(), caller.actor()).await?;
    }
    let selection = Body { ids: wanted.ids, filter: wanted.filter, all: wanted.all }.selection()?;
    // The client may go; what was opened must be run.
    run_detached(async move {
        let held = services.dead.start(&selection, &options, caller.actor()).await?;
        Ok(run(services, held, caller))
    })
    .await
}

pub(super) async fn resume(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    id: Id,
) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let id = known(id)?;
    run_detached(async move {
        let held = services.dead.take(id).await?;
        Ok(run(services, held, caller))
    })
    .await
}

pub(super) async fn stop(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    id: Id,
) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let id = known(id)?;
    run_detached(async move {
        let seized = services.dead.seize(id, caller.actor()).await?;
        let response = accepted(seized.held.replay());
        tokio::spawn(async move {
            if let Err(error) = services.dead.end(seized, caller.actor()).await {
                tracing::warn!(replay = id, error = leveret_store::chain(&error), "a replay could not be stopped");
            }
        });
        Ok(response)
    })
    .await
}

/// If this process ends meanwhile, a server takes the replay up.
fn run(services: Services, held: ReplayLease, caller: Caller) -> Response {
    let response = accepted(held.replay());
    tokio::spawn(async move { held.run(services.dead, caller.actor()).await });
    response
}

pub(super) async fn list(State(services): State<Services>, uri: Uri) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let replays = services.store.open_replays().await?;
    Ok(answer(StatusCode::OK, &json!({ "replays": replays.iter().map(shown::replay).collect::<Vec<_>>() })))
}

pub(super) async fn show(State(services): State<Services>, uri: Uri, id: Id) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let id = known(id)?;
    let replay = services.store.replay(id).await?.ok_or(Error::NoReplay(id))?;
    Ok(answer(StatusCode::OK, &shown::replay(&replay)))
}

/// With the place where it can be followed.
fn accepted(replay: &Replay) -> Response {
    let location = HeaderValue::from_str(&format!("/api/dead/replays/{}", replay.id));
    let mut response = answer(StatusCode::ACCEPTED, &shown::replay(replay));
    if let Ok(location) = location {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}
