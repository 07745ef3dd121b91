//! Access to the API.
//!
//! With tokens, each request requires one, except for probes and the API document. Without tokens, every process on this
//! machine may do everything, but no web page: a page in a browser could send requests here under its own host name (DNS
//! rebinding), or as cross-site requests.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{
        HeaderMap, Method, StatusCode, Uri,
        header::{AUTHORIZATION, ORIGIN, WWW_AUTHENTICATE},
        request::Parts,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::problem::Problem;
use crate::tokens::{Holder, Role, Tokens};

const PUBLIC: [&str; 4] = ["/livez", "/readyz", "/api", "/api/openapi.json"];

/// The files of the page `/api`.
const PUBLIC_FILES: &str = "/api/ui/";

/// The client of a request: its role, and its name in the audit log.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    role: Option<Role>,
    actor: String,
}

impl Caller {
    /// Returns whether the client may do everything.
    pub(crate) fn is_operator(&self) -> bool {
        self.role != Some(Role::Viewer)
    }

    fn into_operator(self) -> Result<Operator, Problem> {
        let refused = || Problem::new(StatusCode::FORBIDDEN, "forbidden", "this requires an operator's token");
        if self.is_operator() { Ok(Operator(self)) } else { Err(refused()) }
    }

    /// The client's name in the audit log.
    pub(crate) fn actor(&self) -> &str {
        &self.actor
    }

    fn with(holder: &Holder) -> Self {
        let actor = match (&holder.name, holder.role) {
            (Some(name), _) => format!("api:{name}"),
            (None, Role::Operator) => "api:operator".to_owned(),
            (None, Role::Viewer) => "api:viewer".to_owned(),
        };
        Self { role: Some(holder.role), actor }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let missing = || Problem::internal(&std::io::Error::other("a request that was not checked for access"));
        parts.extensions.get::<Self>().cloned().ok_or_else(missing)
    }
}

/// A client that may do everything. A GET that shows secrets requires it.
#[derive(Debug)]
pub(crate) struct Operator(pub(crate) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Caller::from_request_parts(parts, state).await?.into_operator()
    }
}

#[derive(Debug)]
pub(crate) struct Access {
    tokens: Tokens,
}

impl Access {
    pub(crate) fn new(tokens: Tokens) -> Self {
        Self { tokens }
    }

    fn admit(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Caller, Problem> {
        if self.tokens.is_empty() {
            return local(uri, headers).map(|()| Caller { role: None, actor: "api:local".to_owned() });
        }
        if PUBLIC.contains(&uri.path()) || uri.path().starts_with(PUBLIC_FILES) {
            return Ok(Caller { role: Some(Role::Viewer), actor: "api:public".to_owned() });
        }
        let holder = bearer(headers).and_then(|token| self.tokens.holder(token));
        let Some(holder) = holder else {
            let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "a valid bearer token is required");
            return Err(problem.header(WWW_AUTHENTICATE, "Bearer realm=\"leveret\""));
        };
        let caller = Caller::with(holder);
        if needed(method) == Role::Operator {
            caller.into_operator().map(|Operator(caller)| caller)
        } else {
            Ok(caller)
        }
    }
}

pub(crate) async fn check(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    match access.admit(request.method(), request.uri(), request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn needed(method: &Method) -> Role {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) { Role::Viewer } else { Role::Operator }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn local(uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let refuse = |detail| Err(Problem::new(StatusCode::FORBIDDEN, "foreign-host", detail));
    let Some(host) = leveret::http::host(uri, headers) else { return refuse("the header Host is missing") };
    if !leveret::http::is_local(host) {
        return refuse("without tokens this server answers to localhost, 127.0.0.1 and [::1] only");
    }
    match headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or_default()) {
        Some(origin) if origin.split_once("://").is_none_or(|(_, authority)| !authority.eq_ignore_ascii_case(host)) => {
            refuse("other web pages may not use this server")
        }
        _ => Ok(()),
    }
}
