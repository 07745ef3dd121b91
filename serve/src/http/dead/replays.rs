//! Replays: started here, carried out beside the requests, and looked at.

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Uri, header::LOCATION},
    response::Response,
};
use leveret_store::{By, Replay};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    Id,
    chosen::{self, Body, Filter},
    known, shown,
};
use crate::{
    Services,
    desk::{Error, replay::Options},
    http::{Problem, access::Caller, json as answer, query::Query},
    time::now_ms,
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
    if wanted.rate.is_some_and(|rate| rate <= 0.0) {
        return Err(chosen::invalid("rate: must be above zero"));
    }
    if wanted.canary.is_some_and(|canary| canary > MOST_CANARIES) {
        return Err(chosen::invalid("canary: must be at most 1000"));
    }
    if wanted.canary_timeout.is_some_and(|timeout| timeout > LONGEST_TIMEOUT) {
        return Err(chosen::invalid("canary_timeout: must be at most 86400"));
    }
    let options = Options {
        rate: wanted.rate,
        canary: wanted.canary,
        canary_timeout: wanted.canary_timeout.unwrap_or(Options::default().canary_timeout),
        queue: wanted.to,
        track: wanted.track,
    };
    if let Some(payload) = &wanted.payload {
        let Some([id]) = wanted.ids.as_deref() else { return Err(chosen::invalid("payload: for one of \"ids\"")) };
        services.desk.edit(*id, payload.get().as_bytes(), caller.actor()).await?;
    }
    let selection = Body { ids: wanted.ids, filter: wanted.filter, all: wanted.all }.selection()?;
    let kept = serde_json::to_value(&options).unwrap_or_default();
    let by = By { actor: caller.actor(), at: now_ms() };
    let replay = services.store.start_replay(&selection, &kept, by).await?;
    Ok(run(services, replay, caller))
}

pub(super) async fn resume(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    id: Id,
) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let id = known(id)?;
    let replay = services.desk.open_replay(id).await?;
    if services.desk.is_running(id) {
        return Err(Error::Running(id).into());
    }
    Ok(run(services, replay, caller))
}

/// If this process ends meanwhile, the replay is open and can be resumed.
fn run(services: Services, replay: Replay, caller: Caller) -> Response {
    let location = HeaderValue::from_str(&format!("/api/dead/replays/{}", replay.id));
    let mut response = answer(StatusCode::ACCEPTED, &shown::replay(&replay));
    if let Ok(location) = location {
        response.headers_mut().insert(LOCATION, location);
    }
    tokio::spawn(async move {
        match services.desk.go_on(&replay, caller.actor(), |_| ()).await {
            Ok(summary) => tracing::info!(replay = replay.id, outcome = summary.outcome, "replayed"),
            Err(error) => tracing::warn!(replay = replay.id, ?error, "a replay is interrupted, and can be resumed"),
        }
    });
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
