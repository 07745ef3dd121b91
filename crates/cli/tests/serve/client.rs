//! A plain HTTP client of the server.

use std::time::Duration;

use serde_json::Value;
use ureq::{Agent, Body, http::Response};

/// Longer than any answer but one that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes requests, one at a time.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    agent: Agent,
    base: String,
}

impl Client {
    pub(crate) fn new(address: &str) -> Self {
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        Self { agent: config.build().into(), base: format!("http://{address}") }
    }

    /// Status and JSON of the answer, `None` without an answer.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let request = self.agent.post(format!("{}{path}", self.base)).header("content-type", "application/json");
        answer(request.send(body.to_string()))
    }

    /// As [`post`](Self::post).
    pub(crate) fn get(&self, path: &str) -> Option<(u16, Value)> {
        answer(self.agent.get(format!("{}{path}", self.base)).call())
    }

    /// As [`post`](Self::post).
    pub(crate) fn delete(&self, path: &str) -> Option<(u16, Value)> {
        answer(self.agent.delete(format!("{}{path}", self.base)).call())
    }
}

fn answer(answered: Result<Response<Body>, ureq::Error>) -> Option<(u16, Value)> {
    let mut response = answered.ok()?;
    let text = response.body_mut().read_to_string().ok()?;
    Some((response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text))))
}
