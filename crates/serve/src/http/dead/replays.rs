//! `/api/dead/replay` and `/api/dead/replays`: replays started, shown, resumed and stopped. They run beside the requests.

use axum::{
    Json as JsonResponse,
    extract::State,
    http::{HeaderName, StatusCode, header::LOCATION},
};
use leveret_store::Replay;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    selection::{Filter, SelectionBody, SelectionLimit},
    view::ReplayView,
};
use crate::{
    dead::{Error, LeasedReplay, replay::ReplayOptions},
    detached::run_detached,
    field_error::FieldError,
    http::{
        access::Caller,
        extract::{Json, NoQuery, Object, Path, Query},
        problem::Problem,
    },
    services::Services,
};

const MOST_CANARIES: u32 = 1000;
const LONGEST_TIMEOUT: u64 = 86_400;

/// The letters of a replay, and its settings. Exactly one of `ids`, `filter` and `"all": true`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReplayRequest {
    ids: Option<Vec<i64>>,
    #[schema(value_type = Option<Filter>)]
    filter: Option<Object<Filter>>,
    #[serde(default)]
    all: bool,
    /// Another payload, for one of `ids`; checked against the schema of its job.
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    /// Letters a second.
    #[schema(minimum = 0.001, maximum = 1_000_000)]
    rate: Option<f64>,
    /// The number of letters that are published first, tracked. If one of them fails as before, the others are not
    /// published.
    #[schema(maximum = 1000)]
    canary: Option<u32>,
    /// Time to wait for the outcomes of the first letters, in seconds; 300 unless set.
    #[schema(maximum = 86400)]
    canary_timeout: Option<u64>,
    /// Another queue than the one that each letter came from.
    to: Option<String>,
    /// Makes their jobs tracked.
    #[serde(default)]
    track: bool,
}

#[derive(Serialize, ToSchema)]
struct ReplayList {
    replays: Vec<ReplayView>,
}

/// A replay, with the address where it can be followed.
type Accepted = (StatusCode, [(HeaderName, String); 1], JsonResponse<ReplayView>);

pub(super) fn routes() -> OpenApiRouter<Services> {
    OpenApiRouter::new()
        .routes(routes!(start))
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(resume))
        .routes(routes!(stop))
}

/// Replay dead letters
///
/// Publishes them again. They keep their ids and begin with their first attempt. Each is published and confirmed before
/// it is marked as replayed. The response arrives when the replay has begun; its address shows the progress.
#[utoipa::path(
    post, path = "/api/dead/replay", operation_id = "replayDeadLetters", tag = "dead letters",
    request_body(content = ReplayRequest, examples(
        ("a group, carefully" = (value = json!(
            { "filter": { "group": "5d41402abc4b2a76" }, "canary": 5, "rate": 100 }
        ))),
    )),
    responses(
        (status = 202, description = "The replay has begun.", body = ReplayView, headers(
            ("Location" = String, description = "The address of the replay."),
        )),
        (status = 404),
        (status = 503),
    )
)]
async fn start(
    State(services): State<Services>,
    caller: Caller,
    _: Query<NoQuery>,
    body: Json<Object<ReplayRequest>, SelectionLimit>,
) -> Result<Accepted, Problem> {
    let request = body.value.0;
    let options = request.options().map_err(Problem::invalid_field)?;
    options.check()?;
    if let Some(payload) = &request.payload {
        let Some([id]) = request.ids.as_deref() else {
            return Err(Problem::invalid_field(FieldError::new("/payload", "payload: for one of \"ids\"")));
        };
        services.dead.edit(*id, payload.get().as_bytes(), caller.actor()).await?;
    }
    let selection = SelectionBody { ids: request.ids, filter: request.filter, all: request.all };
    let selection = selection.selection().map_err(Problem::invalid_field)?;
    // The client may disconnect: a replay that was opened must be run.
    run_detached(async move {
        let lease = services.dead.start(&selection, &options, caller.actor()).await?;
        Ok(run(services, lease, caller))
    })
    .await
}

/// Resume a replay
///
/// A replay that was interrupted, because the server ended or the broker was unreachable for long. It continues with its
/// original settings. Servers resume such a replay by themselves, 20 s after its last run.
#[utoipa::path(
    post, path = "/api/dead/replays/{id}/resume", operation_id = "resumeReplay", tag = "dead letters",
    params(("id" = u64, Path, description = "The replay's number.")),
    responses(
        (status = 202, description = "The replay continues.", body = ReplayView, headers(
            ("Location" = String, description = "The address of the replay."),
        )),
        (status = 404),
        (status = 409),
        (status = 503),
    )
)]
async fn resume(
    State(services): State<Services>,
    caller: Caller,
    _: Query<NoQuery>,
    Path(id): Path<i64>,
) -> Result<Accepted, Problem> {
    run_detached(async move {
        let lease = services.dead.lease(id).await?;
        Ok(run(services, lease, caller))
    })
    .await
}

/// Stop a replay
///
/// Letters that are not published by then are dead again. The replay ends some seconds later, when the letters in
/// progress are marked. If the server is killed meanwhile, the replay continues: stop it again.
#[utoipa::path(
    post, path = "/api/dead/replays/{id}/stop", operation_id = "stopReplay", tag = "dead letters",
    params(("id" = u64, Path, description = "The replay's number.")),
    responses(
        (status = 202, description = "The replay is ending.", body = ReplayView, headers(
            ("Location" = String, description = "The address of the replay."),
        )),
        (status = 404),
        (status = 409),
        (status = 503),
    )
)]
async fn stop(
    State(services): State<Services>,
    caller: Caller,
    _: Query<NoQuery>,
    Path(id): Path<i64>,
) -> Result<Accepted, Problem> {
    run_detached(async move {
        let seized = services.dead.lease_to_stop(id, caller.actor()).await?;
        let response = accepted(seized.lease.replay());
        tokio::spawn(async move {
            if let Err(error) = services.dead.end(seized, caller.actor()).await {
                tracing::warn!(replay = id, error = leveret::text::error_chain(&error), "cannot stop a replay");
            }
        });
        Ok(response)
    })
    .await
}

/// List replays that are not finished
///
/// Replays in progress, and interrupted ones.
#[utoipa::path(
    get, path = "/api/dead/replays", operation_id = "listReplays", tag = "dead letters",
    responses((status = 200, description = "The replays.", body = ReplayList), (status = 503))
)]
async fn list(State(services): State<Services>, _: Query<NoQuery>) -> Result<JsonResponse<ReplayList>, Problem> {
    let replays = services.store.open_replays().await?;
    Ok(JsonResponse(ReplayList { replays: replays.iter().map(ReplayView::from).collect() }))
}

/// Show the progress of a replay
#[utoipa::path(
    get, path = "/api/dead/replays/{id}", operation_id = "showReplay", tag = "dead letters",
    params(("id" = u64, Path, description = "The replay's number.")),
    responses((status = 200, description = "The replay.", body = ReplayView), (status = 404), (status = 503))
)]
async fn show(
    State(services): State<Services>,
    _: Query<NoQuery>,
    Path(id): Path<i64>,
) -> Result<JsonResponse<ReplayView>, Problem> {
    let replay = services.store.replay(id).await?.ok_or(Error::NoReplay(id))?;
    Ok(JsonResponse(ReplayView::from(&replay)))
}

impl ReplayRequest {
    fn options(&self) -> Result<ReplayOptions, FieldError> {
        if self.canary.is_some_and(|canary| canary > MOST_CANARIES) {
            return Err(FieldError::new("/canary", "canary: must be at most 1000"));
        }
        if self.canary_timeout.is_some_and(|timeout| timeout > LONGEST_TIMEOUT) {
            return Err(FieldError::new("/canary_timeout", "canary_timeout: must be at most 86400"));
        }
        Ok(ReplayOptions {
            rate: self.rate,
            canary: self.canary,
            canary_timeout: self.canary_timeout.unwrap_or(ReplayOptions::default().canary_timeout),
            queue: self.to.clone(),
            track: self.track,
        })
    }
}

/// Runs a replay beside the request. If this process ends meanwhile, another server resumes the replay.
fn run(services: Services, lease: LeasedReplay, caller: Caller) -> Accepted {
    let response = accepted(lease.replay());
    tokio::spawn(async move { lease.run(services.dead, caller.actor()).await });
    response
}

fn accepted(replay: &Replay) -> Accepted {
    let location = [(LOCATION, format!("/api/dead/replays/{}", replay.id))];
    (StatusCode::ACCEPTED, location, JsonResponse(ReplayView::from(replay)))
}
