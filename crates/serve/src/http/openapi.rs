//! The OpenAPI document: the declarations of the handlers and their types, and the rules of all operations.

use utoipa::{
    Modify, OpenApi,
    openapi::{
        Content, Header, Object, Ref, RefOr, Response,
        path::Operation,
        schema::{SchemaType, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::problem::ProblemBody;

/// The document without its paths, which the router adds.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Leveret job API",
        description = "Submit jobs to workers, follow, cancel and retry them. Every error is an \
            `application/problem+json` (RFC 9457). Every response has an `x-request-id`: the client's own if it sent one."
    ),
    servers((url = "/")),
    // A server without tokens on a loopback address requires none.
    security((), ("bearer" = [])),
    components(schemas(ProblemBody))
)]
pub(super) struct Document;

/// The errors and headers that all operations share.
pub(super) struct Conventions;

impl Modify for Conventions {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A viewer's token allows GET, an operator's token every request."));
        if let Some(components) = &mut document.components {
            components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
        }
        for item in document.paths.paths.values_mut() {
            let methods = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
            methods.into_iter().flatten().for_each(complete);
        }
    }
}

fn complete(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    for status in [401, 403, 422, 500] {
        responses.entry(status.to_string()).or_insert_with(|| Response::default().into());
    }
    if operation.request_body.is_some() {
        for status in [400, 408, 413, 415] {
            responses.entry(status.to_string()).or_insert_with(|| Response::default().into());
        }
    }
    for (status, response) in responses {
        let RefOr::T(response) = response else { continue };
        response.headers.insert("x-request-id".to_owned(), header("The id of the request in the server's log."));
        let Some(description) = description(status) else { continue };
        response.description = description.to_owned();
        let problem = Content::new(Some(Ref::from_schema_name("Problem")));
        response.content.insert("application/problem+json".to_owned(), problem.into());
        if matches!(status.as_str(), "429" | "503") {
            response.headers.insert("Retry-After".to_owned(), header("In seconds."));
        }
        if status == "401" {
            response.headers.insert("WWW-Authenticate".to_owned(), header("Bearer."));
        }
    }
}

fn header(description: &str) -> RefOr<Header> {
    let mut header = Header::new(Object::with_type(SchemaType::Type(Type::String)));
    header.description = Some(description.to_owned());
    header.into()
}

/// The description of an error; none for a success.
fn description(status: &str) -> Option<&'static str> {
    Some(match status {
        "400" => "The body is not JSON, or ended early.",
        "401" => "The server has tokens, and the request has no valid bearer token.",
        "403" => "The token is a viewer's. On a server without tokens: the request is not from this machine itself.",
        "404" => {
            "No such task, workflow, step, dead letter or replay is known here. A tracked job that was not submitted \
             through this API is known once a worker has received it, and a workflow that was not started through it \
             once a server has read it from the broker."
        }
        "408" => "The body took too long to arrive.",
        "409" => "Not possible in this state, or the idempotency key belongs to another request or one under way.",
        "413" => "The body or a payload is too large.",
        "415" => "The body is not of the expected type.",
        "422" => "Not valid: `errors` has each place and reason.",
        "429" => "Too many clients wait for tasks or workflows.",
        "500" => "The server failed.",
        "503" => {
            "The broker is unreachable or blocked, or the store is unreachable. Nothing was done, except for the kind \
             `uncertain`."
        }
        _ => return None,
    })
}

/// The schema of a text that is one of these.
pub(super) fn one_of(values: &[&'static str], description: &str) -> Object {
    let mut object = Object::with_type(SchemaType::Type(Type::String));
    object.description = Some(description.to_owned());
    object.enum_values = Some(values.iter().copied().map(Into::into).collect());
    object
}
