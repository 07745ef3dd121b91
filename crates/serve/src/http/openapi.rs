//! The OpenAPI document, written by hand: it is what clients are promised, and tests hold the routes to it.

mod audit;
mod dead;
mod paths;
mod schemas;

use axum::{
    http::{StatusCode, Uri},
    response::Response,
};
use serde_json::{Map, Value, json};

use super::{Problem, query::Query};

pub(super) async fn document(uri: Uri) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    Ok(super::json(StatusCode::OK, &openapi()))
}

/// The whole document.
pub(super) fn openapi() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Leveret job API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Submit jobs to workers, see what becomes of them, cancel and retry them. \
                Every error is an `application/problem+json` (RFC 9457); every answer has an `x-request-id`, \
                the client's own if it sent one.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        // None is needed on a loopback address without tokens.
        "security": [{}, { "bearer": [] }],
        "paths": merged(merged(paths::paths(), dead::paths()), audit::paths()),
        "components": {
            "schemas": merged(schemas::schemas(), dead::schemas().into_iter().collect()),
            "securitySchemes": { "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "A viewer's token allows GET; an operator's all.",
            } },
        },
    })
}

fn merged(mut all: Value, more: Value) -> Value {
    if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
        all.extend(more);
    }
    all
}

/// One operation, with the answers that each may give beside its own.
pub(super) fn operation(id: &str, tag: &str, summary: &str, description: &str) -> Operation {
    let shown = json!({ "operationId": id, "tags": [tag], "summary": summary, "description": description });
    let shown = if let Value::Object(shown) = shown { shown } else { Map::new() };
    let operation = Operation { shown, parameters: Vec::new(), responses: Map::new() };
    operation.problems(&[401, 403, 422, 500])
}

/// An operation in the making.
pub(super) struct Operation {
    shown: Map<String, Value>,
    parameters: Vec<Value>,
    responses: Map<String, Value>,
}

impl Operation {
    pub(super) fn parameter(mut self, place: &str, name: &str, description: &str, schema: &Value) -> Self {
        let required = place == "path";
        let parameter =
            json!({ "in": place, "name": name, "required": required, "description": description, "schema": schema });
        self.parameters.push(parameter);
        self
    }

    pub(super) fn body(mut self, schema: &Value, examples: &Value) -> Self {
        let content = json!({ "application/json": { "schema": schema, "examples": examples } });
        self.shown.insert("requestBody".to_owned(), json!({ "required": true, "content": content }));
        self.problems(&[400, 408, 413, 415])
    }

    /// A body that is not JSON.
    pub(super) fn body_of(mut self, media: [&str; 2], schema: &Value) -> Self {
        let content: Map<_, _> =
            media.map(|media| (media.to_owned(), json!({ "schema": schema }))).into_iter().collect();
        self.shown.insert("requestBody".to_owned(), json!({ "required": true, "content": content }));
        self.problems(&[400, 415])
    }

    /// An answer without a body.
    pub(super) fn empty(mut self, status: u16, description: &str) -> Self {
        let response = json!({ "description": description, "headers": headers(status) });
        self.responses.insert(status.to_string(), response);
        self
    }

    /// An answer that is no problem.
    pub(super) fn answer(mut self, status: u16, description: &str, media: &str, schema: &Value) -> Self {
        let content = json!({ media: { "schema": schema } });
        let response = json!({ "description": description, "headers": headers(status), "content": content });
        self.responses.insert(status.to_string(), response);
        self
    }

    pub(super) fn header(mut self, status: u16, name: &str, description: &str) -> Self {
        let header = json!({ "description": description, "schema": { "type": "string" } });
        self.responses[&status.to_string()]["headers"][name] = header;
        self
    }

    pub(super) fn problems(mut self, statuses: &[u16]) -> Self {
        for status in statuses {
            let description = problem(*status);
            let content = json!({ "application/problem+json": { "schema": schema("Problem") } });
            let response = json!({ "description": description, "headers": headers(*status), "content": content });
            self.responses.insert(status.to_string(), response);
        }
        self
    }

    pub(super) fn done(self) -> Value {
        let Self { mut shown, parameters, responses } = self;
        if !parameters.is_empty() {
            shown.insert("parameters".to_owned(), parameters.into());
        }
        shown.insert("responses".to_owned(), responses.into());
        shown.into()
    }
}

pub(super) fn schema(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn headers(status: u16) -> Value {
    let mut headers = json!({
        "x-request-id": { "description": "Stands in the server's log.", "required": true, "schema": { "type": "string" } },
    });
    if status == 503 || status == 429 {
        let required = json!({ "required": true, "description": "In seconds.", "schema": { "type": "string" } });
        headers["Retry-After"] = required;
    }
    if status == 401 {
        let required = json!({ "required": true, "description": "Bearer.", "schema": { "type": "string" } });
        headers["WWW-Authenticate"] = required;
    }
    headers
}

fn problem(status: u16) -> &'static str {
    match status {
        400 => "Not JSON.",
        401 => "No valid bearer token; there are tokens on this server.",
        403 => "The token is a viewer's; or, without tokens, the request is not from this machine itself.",
        404 => {
            "Not known here: a tracked job that was not submitted through this API is known once a worker has received it."
        }
        408 => "The body took too long to come.",
        409 => "Not in this state; or the idempotency key was used for another request, or is in use.",
        413 => "The body or a payload is too large.",
        415 => "Not of the type that is expected.",
        422 => "Not valid; `errors` says what and where.",
        429 => "Too many wait.",
        503 => "The broker is away or blocked, or the store is away. Nothing was done, but for the kind `uncertain`.",
        _ => "The server failed.",
    }
}
