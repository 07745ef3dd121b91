//! Which dead letters: as parameters, and as the body of what is done to them.

use axum::{extract::Request, http::StatusCode};
use leveret_store::{DeadFilter, DeadState, Selection};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::LONGEST_SELECTION;
use crate::{
    http::{Problem, access::Caller, body, query::Query},
    time::from_rfc3339,
};

pub(super) const FILTERS: [&str; 8] = ["queue", "job", "job_id", "kind", "text", "group", "since", "until"];

/// The filter that parameters say; without a state, those that lie there. A viewer searches errors alone: a payload that
/// can be searched can be read, letter by letter, secrets and all.
pub(super) fn filter(query: &Query, caller: &Caller) -> Result<DeadFilter, Problem> {
    let text = query.text("text");
    let (text, error) = if caller.is_operator() { (text, None) } else { (None, text) };
    Ok(DeadFilter {
        text,
        error,
        states: vec![query.parsed("state")?.unwrap_or(DeadState::Dead)],
        queue: query.text("queue"),
        job: query.text("job"),
        job_id: query.text("job_id"),
        kind: query.text("kind"),
        fingerprint: query.text("group"),
        failed_from: query.with("since", from_rfc3339)?,
        failed_until: query.with("until", from_rfc3339)?,
    })
}

/// The body of a request that does something: one of these.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Body {
    pub(super) ids: Option<Vec<i64>>,
    pub(super) filter: Option<Filter>,
    pub(super) all: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Filter {
    queue: Option<String>,
    job: Option<String>,
    job_id: Option<String>,
    kind: Option<String>,
    text: Option<String>,
    group: Option<String>,
    since: Option<String>,
    until: Option<String>,
}

impl Body {
    pub(super) async fn read(request: Request) -> Result<Self, Problem> {
        read(request).await
    }

    pub(super) fn selection(self) -> Result<Selection, Problem> {
        match (self.ids, self.filter, self.all) {
            (Some(ids), None, false) => Ok(Selection::Ids(ids)),
            (None, Some(filter), false) => Ok(Selection::Filter(filter.dead()?)),
            (None, None, true) => Ok(Selection::Filter(DeadFilter::default())),
            _ => Err(invalid("say which: one of \"ids\", \"filter\" and \"all\": true")),
        }
    }
}

impl Filter {
    fn dead(self) -> Result<DeadFilter, Problem> {
        let texts = [&self.queue, &self.job, &self.job_id, &self.kind, &self.text, &self.group];
        if texts.into_iter().flatten().any(|text| text.contains('\0')) {
            return Err(invalid("a text may not contain U+0000"));
        }
        let time = |text: Option<String>| text.map(|text| from_rfc3339(&text)).transpose();
        let filter = DeadFilter {
            failed_from: time(self.since).map_err(|error| invalid(&error))?,
            failed_until: time(self.until).map_err(|error| invalid(&error))?,
            queue: self.queue,
            job: self.job,
            job_id: self.job_id,
            kind: self.kind,
            text: self.text,
            fingerprint: self.group,
            ..DeadFilter::default()
        };
        if filter == DeadFilter::default() {
            Err(invalid("the filter is empty: use \"all\": true"))
        } else {
            Ok(filter)
        }
    }
}

pub(super) async fn read<T: DeserializeOwned>(request: Request) -> Result<T, Problem> {
    let bytes = body::read(request, LONGEST_SELECTION).await?;
    let text = body::json(&bytes)?.get();
    // Types would also be read from arrays.
    let value: Value = serde_json::from_str(text).map_err(|error| invalid(&error.to_string()))?;
    if !value.is_object() || value.get("filter").is_some_and(|filter| !filter.is_object() && !filter.is_null()) {
        return Err(invalid("the body and its \"filter\" must be objects"));
    }
    serde_json::from_str(text).map_err(|error| invalid(&error.to_string()))
}

pub(super) fn invalid(detail: &str) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail).with("errors", json!([{ "detail": detail }]))
}
