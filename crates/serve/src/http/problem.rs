//! Error responses: `application/problem+json` (RFC 9457).

use axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use leveret::PublishError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    dead,
    field_error::FieldError,
    jobs::{self, Status},
    workflows::{self, WorkflowStatus},
};

/// An error response. The body's type is for programs, its detail for people.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    body: Box<ProblemBody>,
    headers: HeaderMap,
}

/// An error (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// `urn:leveret:problem:KIND`.
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Vec<FieldError>>,
    /// The id of a job that may have been published (kind `uncertain`).
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow_status: Option<WorkflowStatus>,
    /// The size limit in bytes that the request exceeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &str, detail: impl Into<String>) -> Self {
        let body = ProblemBody {
            kind: format!("urn:leveret:problem:{kind}"),
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: None,
            task_id: None,
            task_status: None,
            workflow_status: None,
            limit: None,
        };
        Self { status, body: Box::new(body), headers: HeaderMap::new() }
    }

    /// A request whose fields are not valid.
    pub(crate) fn invalid(detail: impl Into<String>, errors: Vec<FieldError>) -> Self {
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail);
        problem.body.errors = Some(errors);
        problem
    }

    pub(crate) fn invalid_field(error: FieldError) -> Self {
        Self::invalid(error.detail.clone(), vec![error])
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let detail = format!("the limit is {limit} bytes");
        let mut problem = Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail);
        problem.body.limit = Some(limit);
        problem
    }

    pub(crate) fn unsupported_media_type(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)
    }

    /// Returns the error of a request that may succeed later: the response asks the client to retry.
    pub(crate) fn unavailable(kind: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, detail).retry_after(2)
    }

    /// A fault of the server. Only the log has its cause.
    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(error = leveret::text::error_chain(error), "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the server failed; its log has the cause")
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }

    /// Sets the seconds after which the client may retry.
    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.headers.insert(RETRY_AFTER, seconds.into());
        self
    }

    /// The body alone, for one item of a batch.
    pub(crate) fn into_body(self) -> ProblemBody {
        *self.body
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.headers, Json(self.body)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

/// A path parameter that cannot be decoded identifies nothing that exists.
impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid_field(FieldError::new("", reason(&rejection)))
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        match &rejection {
            JsonRejection::JsonDataError(_) => Self::invalid_field(FieldError::new("", reason(&rejection))),
            JsonRejection::JsonSyntaxError(_) => {
                let detail = format!("the body is not JSON: {}", reason(&rejection));
                Self::new(StatusCode::BAD_REQUEST, "syntax", detail)
            }
            _ => Self::new(rejection.status(), "bad-request", rejection.body_text()),
        }
    }
}

/// The cause that axum's own text repeats after a general phrase.
fn reason(rejection: &dyn std::error::Error) -> String {
    rejection.source().map_or_else(|| rejection.to_string(), ToString::to_string)
}

impl From<leveret_store::Error> for Problem {
    fn from(error: leveret_store::Error) -> Self {
        if error.is_unavailable() {
            tracing::warn!(error = leveret::text::error_chain(&error), "the store is unreachable");
            return Self::unavailable("store-unavailable", "the store is unreachable: retry");
        }
        Self::internal(&error)
    }
}

impl From<jobs::Error> for Problem {
    fn from(error: jobs::Error) -> Self {
        use jobs::Error;
        let detail = error.to_string();
        let conflict = |kind| Self::new(StatusCode::CONFLICT, kind, detail.as_str());
        match error {
            Error::Invalid { field_errors } => Self::invalid(detail, field_errors),
            Error::KeyReused => conflict("idempotency-key-reused"),
            Error::KeyInFlight => conflict("idempotency-key-in-flight").retry_after(1),
            Error::NotFound { .. } => Self::new(StatusCode::NOT_FOUND, "not-found", detail),
            Error::Conflict { status, .. } => {
                let mut problem = conflict("conflict");
                problem.body.task_status = Some(status);
                problem
            }
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
            PublishError::Uncertain { id } => {
                let mut problem = Self::unavailable("uncertain", detail);
                problem.body.task_id = Some(id.as_str().to_owned());
                problem
            }
            PublishError::Blocked { .. } => Self::unavailable("broker-blocked", detail),
            PublishError::Unavailable { .. } | PublishError::Closed => Self::unavailable("broker-unavailable", detail),
            PublishError::Unroutable { .. } | PublishError::Nacked { .. } => {
                Self::unavailable("queue-unavailable", detail)
            }
            PublishError::TooLarge { limit, .. } => Self::too_large(limit),
            PublishError::Invalid { .. } => Self::invalid_field(FieldError::new("", detail)),
            other => Self::internal(&other),
        }
    }
}

impl From<dead::Error> for Problem {
    fn from(error: dead::Error) -> Self {
        use dead::Error;
        let detail = error.to_string();
        match error {
            Error::NoLetter(_) | Error::NoReplay(_) => Self::new(StatusCode::NOT_FOUND, "not-found", detail),
            Error::Running(_) | Error::Ended(_) | Error::NotEdited(_) | Error::NotDead { .. } => {
                Self::new(StatusCode::CONFLICT, "conflict", detail)
            }
            Error::Payload { field_errors, .. } => Self::invalid(detail, field_errors),
            Error::Options(_) => Self::invalid_field(FieldError::new("", detail)),
            Error::Interrupted { .. } => Self::unavailable("broker-unavailable", detail),
            Error::Reader(error) => Self::internal(&error),
            Error::Store(error) => error.into(),
            Error::Io(_) => Self::new(StatusCode::BAD_REQUEST, "bad-request", "the body ended before its time"),
        }
    }
}

impl From<workflows::Error> for Problem {
    fn from(error: workflows::Error) -> Self {
        use workflows::Error;
        let detail = error.to_string();
        let conflict = |kind| Self::new(StatusCode::CONFLICT, kind, detail.as_str());
        match error {
            Error::Invalid { field_errors } => Self::invalid(detail, field_errors),
            Error::Different { .. } => conflict("workflow-differs"),
            Error::KeyReused => conflict("idempotency-key-reused"),
            Error::KeyInFlight => conflict("idempotency-key-in-flight").retry_after(1),
            Error::NotFound { .. } | Error::NoStep { .. } => Self::new(StatusCode::NOT_FOUND, "not-found", detail),
            Error::Conflict { status, .. } => {
                let mut problem = conflict("conflict");
                problem.body.workflow_status = Some(status);
                problem
            }
            Error::TooManyWait => Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-wait", detail).retry_after(5),
            Error::Unprepared { .. } => Self::unavailable("starting", detail),
            Error::Store(error) => error.into(),
        }
    }
}
