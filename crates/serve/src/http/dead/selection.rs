//! Selections of dead letters, as a query and as a body.

use leveret_store::{DeadFilter, DeadState, Selection, time::from_rfc3339};
use serde::{Deserialize, Deserializer, de::Error as _};
use utoipa::{IntoParams, ToSchema};

use crate::{
    field_error::FieldError,
    http::{
        access::Caller,
        extract::{BodyLimit, Object, parsed, text},
        openapi::one_of,
    },
};

/// A selection may have about a hundred thousand ids.
pub(super) struct SelectionLimit;

impl BodyLimit for SelectionLimit {
    fn bytes(_: &leveret::Config) -> usize {
        1 << 20
    }
}

/// Dead letters that match all of these.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FilterQuery {
    /// Only in this state; `dead` unless set.
    #[serde(default, deserialize_with = "parsed")]
    #[param(schema_with = states)]
    state: Option<DeadState>,
    /// Only of exactly this job queue.
    #[serde(default, deserialize_with = "text")]
    queue: Option<String>,
    /// Only of the job with exactly this name.
    #[serde(default, deserialize_with = "text")]
    job: Option<String>,
    /// Only of the job with this id.
    #[serde(default, deserialize_with = "text")]
    job_id: Option<String>,
    /// Only with an error of this class.
    #[serde(default, deserialize_with = "text")]
    kind: Option<String>,
    /// Only with this text in the error or the payload. For viewers: in the error.
    #[serde(default, deserialize_with = "text")]
    text: Option<String>,
    /// Only of this group.
    #[serde(default, deserialize_with = "text")]
    group: Option<String>,
    /// Only those dead-lettered then or later (RFC 3339).
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<u64>,
    /// Only those dead-lettered before then (RFC 3339).
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<u64>,
}

impl FilterQuery {
    /// The filter of the store. A viewer searches errors only: a payload that can be searched can be read, letter by letter,
    /// with its secrets.
    pub(super) fn for_caller(self, caller: &Caller) -> DeadFilter {
        let (text, error) = if caller.is_operator() { (self.text, None) } else { (None, self.text) };
        DeadFilter {
            text,
            error,
            states: vec![self.state.unwrap_or(DeadState::Dead)],
            queue: self.queue,
            job: self.job,
            job_id: self.job_id,
            kind: self.kind,
            fingerprint: self.group,
            failed_from: self.since,
            failed_until: self.until,
        }
    }
}

/// Exactly one of `ids`, `filter` and `"all": true`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Selection)]
#[serde(deny_unknown_fields)]
pub(super) struct SelectionBody {
    pub(super) ids: Option<Vec<i64>>,
    #[schema(value_type = Option<Filter>)]
    pub(super) filter: Option<Object<Filter>>,
    #[serde(default)]
    pub(super) all: bool,
}

/// Dead letters that match all of these.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = DeadFilter)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Exactly this job queue.
    queue: Option<String>,
    /// The job with exactly this name.
    job: Option<String>,
    /// The job with this id.
    job_id: Option<String>,
    /// This class of errors.
    kind: Option<String>,
    /// Somewhere in the error or the payload.
    text: Option<String>,
    /// This group.
    group: Option<String>,
    /// Dead-lettered then or later.
    #[serde(default, deserialize_with = "time")]
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<u64>,
    /// Dead-lettered before then.
    #[serde(default, deserialize_with = "time")]
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<u64>,
}

impl SelectionBody {
    pub(super) fn selection(self) -> Result<Selection, FieldError> {
        match (self.ids, self.filter, self.all) {
            (Some(ids), None, false) => Ok(Selection::Ids(ids)),
            (None, Some(Object(filter)), false) => Ok(Selection::Filter(filter.dead()?)),
            (None, None, true) => Ok(Selection::Filter(DeadFilter::default())),
            _ => Err(FieldError::new("", "name the letters: one of \"ids\", \"filter\" and \"all\": true")),
        }
    }
}

impl Filter {
    fn dead(self) -> Result<DeadFilter, FieldError> {
        let texts = [&self.queue, &self.job, &self.job_id, &self.kind, &self.text, &self.group];
        if texts.into_iter().flatten().any(|text| text.contains('\0')) {
            return Err(FieldError::new("/filter", "a text may not contain U+0000"));
        }
        let filter = DeadFilter {
            failed_from: self.since,
            failed_until: self.until,
            queue: self.queue,
            job: self.job,
            job_id: self.job_id,
            kind: self.kind,
            text: self.text,
            fingerprint: self.group,
            ..DeadFilter::default()
        };
        if filter == DeadFilter::default() {
            Err(FieldError::new("/filter", "the filter is empty: use \"all\": true"))
        } else {
            Ok(filter)
        }
    }
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| from_rfc3339(&text)).transpose().map_err(D::Error::custom)
}

pub(super) fn states() -> utoipa::openapi::Object {
    one_of(&["dead", "replaying", "replayed", "purged"], "The state of a dead letter; of a query, `dead` unless set.")
}
