//! `/api/events`: emit.

use axum::{
    Json as JsonResponse,
    extract::{FromRequest, Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
};
use leveret::{NewEvent, names};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{
    extract::{BodyLimit, Json, NoQuery, Object, Query},
    problem::Problem,
};
use crate::{field_error::FieldError, services::Services};

const CLOUD_EVENT: &str = "application/cloudevents+json";

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

/// A CloudEvent 1.0, which is emitted as it is.
#[derive(ToSchema)]
#[schema(as = CloudEvent)]
#[expect(dead_code, reason = "for the document; `CloudEvent::from_json` reads it")]
pub(super) struct CloudEventBody {
    /// The version of the specification.
    #[schema(pattern = r"^1\.0$", example = "1.0")]
    specversion: String,
    /// Distinguishes events of one source. The id of the event is the source, a space, and this.
    #[schema(min_length = 1)]
    id: String,
    /// A URI reference to what the event happened to.
    #[schema(min_length = 1, example = "/shop")]
    source: String,
    /// The topic, under the rules of `topic`.
    #[schema(rename = "type", min_length = 1, max_length = 255, example = "order.placed")]
    event_type: String,
    /// JSON unless set. Other data than JSON is a text, or Base64 in `data_base64`.
    datacontenttype: Option<String>,
    /// Any JSON.
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<serde_json::Value>,
    /// Instead of `data`.
    data_base64: Option<String>,
}

/// The event of a request, by its content type.
pub(super) struct Emission(NewEvent);

impl FromRequest<Services> for Emission {
    type Rejection = Problem;

    async fn from_request(request: Request, services: &Services) -> Result<Self, Problem> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        let event = if essence.eq_ignore_ascii_case(CLOUD_EVENT) {
            let body = Json::<IgnoredAny, OneEvent>::from_request(request, services).await?;
            let event = NewEvent::from_cloud_event(body.bytes);
            let event = event.map_err(|invalid| wrong(invalid.attribute().unwrap_or_default(), invalid.reason()))?;
            names::topic(event.topic()).map_err(|rule| wrong("type", rule))?;
            event
        } else {
            let body = Json::<Object<EmissionBody>, OneEvent>::from_request(request, services).await?;
            let EmissionBody { topic, payload, id } = body.value.0;
            names::topic(&topic).map_err(|rule| wrong("topic", rule))?;
            id.as_deref().map_or(Ok(()), names::event_id).map_err(|rule| wrong("id", rule))?;
            let event = NewEvent::raw(topic, payload.get());
            id.into_iter().fold(event, NewEvent::id)
        };
        Ok(Self(event))
    }
}

/// The problem of one member, or of the whole if its name is empty.
fn wrong(member: &str, rule: &str) -> Problem {
    let pointer = if member.is_empty() { String::new() } else { format!("/{member}") };
    Problem::invalid_field(FieldError::new(pointer, rule))
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
    request_body(content(
        (EmissionBody = "application/json", examples(
            ("an order" = (value = json!({ "topic": "order.placed", "payload": { "order": "17" } }))),
        )),
        (CloudEventBody = "application/cloudevents+json", examples(
            ("an order" = (value = json!({
                "specversion": "1.0", "id": "17", "source": "/shop", "type": "order.placed", "data": { "order": "17" }
            }))),
        )),
    )),
    responses((status = 202, description = "The event's id.", body = Emitted), (status = 503))
)]
pub(super) async fn emit(
    State(services): State<Services>,
    _: Query<NoQuery>,
    Emission(event): Emission,
) -> Result<impl IntoResponse, Problem> {
    let id = services.publisher.emit(event).await?;
    Ok((StatusCode::ACCEPTED, JsonResponse(Emitted { event_id: id.as_str().to_owned() })))
}
