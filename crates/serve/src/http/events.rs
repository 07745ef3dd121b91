//! `/api/events`: emit.

use axum::{Json as JsonResponse, extract::State, http::StatusCode, response::IntoResponse};
use leveret::names;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{
    extract::{BodyLimit, Json, NoQuery, Object, Query},
    problem::Problem,
};
use crate::{field_error::FieldError, services::Services};

/// The bytes that a request may have beside its payload.
const AROUND_PAYLOAD: usize = 16 * 1024;

pub(super) struct OneEvent;

impl BodyLimit for OneEvent {
    fn bytes(config: &leveret::Config) -> usize {
        config.payload_limit + AROUND_PAYLOAD
    }
}

/// An event to emit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Emission)]
pub(super) struct EmissionBody {
    /// Words of a-z, A-Z, 0-9, _ and - that single dots separate. Topics that start with `leveret.` are reserved.
    #[schema(min_length = 1, max_length = 255, example = "order.placed")]
    topic: String,
    /// Any JSON.
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    /// A UUIDv7 unless set. After the error `uncertain`, emit again with the same id.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 128)]
    id: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Emitted {
    event_id: String,
}

/// Emit an event
///
/// 202 means that the queue of each subscription has its copy. An event without a subscription is dropped, which is no
/// error.
#[utoipa::path(
    post, path = "/api/events", operation_id = "emitEvent", tag = "events",
    request_body(content = EmissionBody, examples(
        ("an order" = (value = json!({ "topic": "order.placed", "payload": { "order": "17" } }))),
    )),
    responses((status = 202, description = "The event's id.", body = Emitted), (status = 503))
)]
pub(super) async fn emit(
    State(services): State<Services>,
    _: Query<NoQuery>,
    body: Json<Object<EmissionBody>, OneEvent>,
) -> Result<impl IntoResponse, Problem> {
    let EmissionBody { topic, payload, id } = body.value.0;
    let wrong = |pointer: &str, rule: &str| Err(Problem::invalid_field(FieldError::new(pointer, rule)));
    if let Err(rule) = names::topic(&topic) {
        return wrong("/topic", rule);
    }
    if let Some(Err(rule)) = id.as_deref().map(names::event_id) {
        return wrong("/id", rule);
    }
    let emit = services.publisher.emit_raw(topic, payload.get());
    let emit = id.into_iter().fold(emit, |emit, id| emit.id(id));
    let id = emit.await?;
    Ok((StatusCode::ACCEPTED, JsonResponse(Emitted { event_id: id.as_str().to_owned() })))
}
