//! Who may ask for what.
//!
//! With tokens, each request needs one, but for probes and for the document of the API, which are the same for all.
//! Without, everybody on this machine may do everything, but no web page that a browser on it shows: such a page can
//! send requests here under a name of its own (DNS rebinding), or without one's knowledge (cross-site requests).

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, Method, StatusCode, Uri,
        header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::Problem;
use crate::tokens::{Role, Tokens};

const PUBLIC: [&str; 4] = ["/livez", "/readyz", "/api", "/api/openapi.json"];
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Who asks, as an extension of the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    role: Option<Role>,
}

impl Caller {
    /// Whether they may do everything.
    pub(crate) fn is_operator(self) -> bool {
        self.role != Some(Role::Viewer)
    }

    /// As whom the audit log knows them.
    pub(crate) fn actor(self) -> &'static str {
        match self.role {
            Some(Role::Operator) => "api:operator",
            Some(Role::Viewer) => "api:viewer",
            None => "api:local",
        }
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
            return local(uri, headers).map(|()| Caller { role: None });
        }
        if PUBLIC.contains(&uri.path()) {
            return Ok(Caller { role: Some(Role::Viewer) });
        }
        let role = bearer(headers).and_then(|token| self.tokens.role(token));
        let Some(role) = role else {
            let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "a valid bearer token is needed");
            return Err(problem.header(WWW_AUTHENTICATE, "Bearer realm=\"leveret\""));
        };
        if role < needed(method) {
            return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "this needs the token of an operator"));
        }
        Ok(Caller { role: Some(role) })
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
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let Some(host) = host.or(uri.authority().map(Authority::as_str)) else {
        return refuse("the header Host is missing");
    };
    let is_local = |authority: &str| {
        let parsed: Option<Authority> = authority.parse().ok();
        parsed.is_some_and(|authority| LOCAL.iter().any(|local| authority.host().eq_ignore_ascii_case(local)))
    };
    if !is_local(host) {
        return refuse("without tokens this server answers to localhost, 127.0.0.1 and [::1] only");
    }
    match headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or_default()) {
        Some(origin) if origin.split_once("://").is_none_or(|(_, authority)| !authority.eq_ignore_ascii_case(host)) => {
            refuse("other web pages may not use this server")
        }
        _ => Ok(()),
    }
}
