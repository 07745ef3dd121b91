//! Submissions: one job to run, read from JSON.

use std::{collections::BTreeMap, time::Duration};

use leveret::time::{millis, now_ms};
use leveret_store::time::from_rfc3339;
use serde_json::value::{RawValue, Value};
use utoipa::{
    ToSchema, openapi,
    openapi::schema::{ObjectBuilder, SchemaType, Type},
};

use crate::{
    field_error::FieldError,
    json::{self, Visit},
};

const FIELDS: [&str; 8] = ["name", "job", "payload", "queue", "priority", "delay", "run_at", "expires_in"];
const LONGEST_NAME: usize = 1024;
const HIGHEST_PRIORITY: u64 = 31;
/// The greatest delay of the broker's delay queues.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// A job to be submitted. The default is the server's default job, now.
///
/// ```
/// use leveret_serve::jobs::Submission;
///
/// let submission = Submission::parse(r#"{"name": "Important Task", "priority": 1, "delay": "5m"}"#)?;
/// assert_eq!(submission.name.as_deref(), Some("Important Task"));
/// let field_errors = Submission::parse(r#"{"priorty": 1}"#).unwrap_err();
/// assert_eq!(field_errors[0].nearest.as_deref(), Some("priority"));
/// # Ok::<_, Vec<leveret_serve::jobs::FieldError>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Submission {
    /// A text to show with the task; the job's name if none.
    pub name: Option<String>,
    /// The job to run; the server's default job if none.
    pub job: Option<String>,
    /// The payload as JSON, published byte for byte; `{}` if none.
    pub payload: Option<Box<RawValue>>,
    /// The queue; the one that the job's workers announced if none.
    pub queue: Option<String>,
    /// The priority, from 0 to 31.
    pub priority: Option<u8>,
    /// The time when the job runs.
    pub due: Due,
    /// Fails the job if it has not started within this time.
    pub expires_in: Option<Duration>,
}

/// The time when a job runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Due {
    /// Immediately.
    #[default]
    Now,
    /// After this time.
    After(Duration),
    /// At this time, in milliseconds since the epoch.
    At(u64),
}

/// A job to submit. All fields may be absent or null.
#[derive(Default, ToSchema)]
#[schema(as = Submission)]
#[serde(deny_unknown_fields)]
pub(crate) struct SubmissionFields {
    /// A text to show with the task, at most 1024 bytes; the job's name unless set.
    #[schema(min_length = 1, max_length = 1024)]
    name: Option<String>,
    /// The job to run, one of GET /api/jobs; the server's default job unless set.
    #[schema(min_length = 1, max_length = 128)]
    job: Option<String>,
    /// Any JSON that fits the schema of the job; {} unless set.
    #[schema(value_type = Option<Value>)]
    payload: Option<Box<RawValue>>,
    /// Another queue than the job's own. A worker must have announced the job for it.
    #[schema(min_length = 1, max_length = 255)]
    queue: Option<String>,
    /// Higher priorities run first; 4 unless set. The version of the broker decides which levels it distinguishes.
    #[schema(maximum = 31)]
    priority: Option<u8>,
    #[schema(schema_with = delay_schema)]
    delay: Option<Duration>,
    /// The time when the job runs (RFC 3339); at once if that has passed. Not together with delay.
    #[schema(value_type = Option<String>, format = DateTime)]
    run_at: Option<u64>,
    #[schema(schema_with = expires_in_schema)]
    expires_in: Option<Duration>,
}

fn delay_schema() -> openapi::Object {
    duration_schema("Runs the job after this time")
}

fn expires_in_schema() -> openapi::Object {
    duration_schema("Fails the job if it has not started within this time, which must be longer than the delay")
}

fn duration_schema(effect: &str) -> openapi::Object {
    let types = [Type::String, Type::Integer, Type::Null];
    let object = ObjectBuilder::new().schema_type(SchemaType::from_iter(types)).minimum(Some(0));
    let description = format!("{effect}: a number and us, ms, s, m or h; or whole seconds. Less than ten years.");
    object.pattern(Some("^[0-9]+(us|ms|s|m|h)?$")).description(Some(description)).build()
}

impl Submission {
    /// Reads a JSON object.
    ///
    /// # Errors
    ///
    /// Every field that is not valid.
    pub fn parse(json: &str) -> Result<Self, Vec<FieldError>> {
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(json)
            .map_err(|_| vec![FieldError::new("", format!("must be an object with any of {}", FIELDS.join(", ")))])?;
        let mut read = Reader::default();
        for (name, value) in &fields {
            read.field(name, value);
        }
        let Reader { mut field_errors, fields: read } = read;
        field_errors.extend(repeated(json));
        if fields.contains_key("delay") && fields.contains_key("run_at") {
            field_errors.push(FieldError::new("/run_at", "either delay or run_at, not both"));
        }
        let submission = Self::from(read);
        field_errors.extend(submission.born_expired());
        if field_errors.is_empty() { Ok(submission) } else { Err(field_errors) }
    }

    fn born_expired(&self) -> Option<FieldError> {
        let delay = match self.due {
            Due::Now => Duration::ZERO,
            Due::After(delay) => delay,
            Due::At(at) => Duration::from_millis(at.saturating_sub(now_ms())),
        };
        let expires_in = self.expires_in.filter(|expires_in| *expires_in <= delay)?;
        let detail = format!(
            "must be longer than the delay, or the job expires before it can run: it is {expires_in:?}, and the delay is {delay:?}"
        );
        Some(FieldError::new("/expires_in", detail))
    }
}

impl From<SubmissionFields> for Submission {
    fn from(fields: SubmissionFields) -> Self {
        let due = match (fields.delay, fields.run_at) {
            (_, Some(at)) => Due::At(at),
            (Some(delay), None) => Due::After(delay),
            (None, None) => Due::Now,
        };
        Self {
            name: fields.name,
            job: fields.job,
            payload: fields.payload,
            queue: fields.queue,
            priority: fields.priority,
            due,
            expires_in: fields.expires_in,
        }
    }
}

/// Reads field by field, so that a client sees every error at once.
#[derive(Default)]
struct Reader {
    field_errors: Vec<FieldError>,
    fields: SubmissionFields,
}

impl Reader {
    fn field(&mut self, name: &str, raw: &RawValue) {
        if name == "payload" {
            self.fields.payload = Some(raw.to_owned());
            return;
        }
        if !FIELDS.contains(&name) {
            self.field_errors.push(FieldError::unknown(pointer(name), "no such field:", name, FIELDS.into_iter()));
            return;
        }
        // Null counts as absent.
        let value = match serde_json::from_str(raw.get()) {
            Ok(Value::Null) => return,
            Ok(value) => value,
            Err(error) => return self.field_errors.push(FieldError::new(pointer(name), error.to_string())),
        };
        if let Err(detail) = self.set(name, &value) {
            self.field_errors.push(FieldError::new(pointer(name), detail));
        }
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), String> {
        let fields = &mut self.fields;
        match name {
            "name" => fields.name = Some(text(value, LONGEST_NAME)?),
            "job" => fields.job = Some(text(value, 128)?),
            "queue" => fields.queue = Some(text(value, 255)?),
            "priority" => fields.priority = Some(priority(value)?),
            "delay" => fields.delay = Some(duration(value)?),
            "run_at" => fields.run_at = Some(time(value)?),
            _ => fields.expires_in = Some(duration(value)?),
        }
        Ok(())
    }
}

/// Returns an error for each repeated field, because the intended value is unknown.
fn repeated(json: &str) -> Vec<FieldError> {
    let mut field_errors = Vec::new();
    json::visit(json, |place| {
        if place.is_twice {
            field_errors.push(FieldError::new(place.pointer, "is given twice"));
        }
        if place.pointer.is_empty() { Visit::Enter } else { Visit::Skip }
    });
    field_errors
}

/// The JSON pointer of a member.
pub(super) fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

fn text(value: &Value, longest: usize) -> Result<String, String> {
    let text = value.as_str().ok_or("must be a string")?;
    if text.is_empty() || text.len() > longest || text.contains('\0') {
        return Err(format!("must have 1 to {longest} bytes, none of them NUL"));
    }
    Ok(text.to_owned())
}

fn priority(value: &Value) -> Result<u8, String> {
    let priority = value.as_u64().filter(|priority| *priority <= HIGHEST_PRIORITY);
    priority
        .and_then(|priority| priority.try_into().ok())
        .ok_or(format!("must be a whole number from 0 to {HIGHEST_PRIORITY}"))
}

fn duration(value: &Value) -> Result<Duration, String> {
    let parsed = match value {
        Value::String(text) => leveret::duration(text).map_err(|error| error.to_string())?,
        other => Duration::from_secs(other.as_u64().ok_or("must be a duration such as \"30s\", or whole seconds")?),
    };
    if parsed < LONGEST { Ok(parsed) } else { Err("must be less than ten years".to_owned()) }
}

fn time(value: &Value) -> Result<u64, String> {
    let at = from_rfc3339(value.as_str().ok_or("must be a time such as \"2026-11-21T15:00:00Z\"")?)?;
    let furthest = now_ms().saturating_add(millis(LONGEST));
    if at < furthest { Ok(at) } else { Err("must be less than ten years ahead".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_that_would_expire_before_it_can_run_is_refused_with_both_values() {
        let tomorrow = leveret_store::time::to_rfc3339(now_ms() + 24 * 3_600_000);
        let at_a_time = format!(r#"{{"run_at": "{tomorrow}", "expires_in": "1h"}}"#);
        for json in [
            r#"{"delay": "3s", "expires_in": "1s"}"#,
            r#"{"delay": 3, "expires_in": 3}"#,
            at_a_time.as_str(),
            r#"{"expires_in": 0}"#,
        ] {
            let field_errors = Submission::parse(json).unwrap_err();
            assert_eq!((field_errors.len(), field_errors[0].pointer.as_str()), (1, "/expires_in"), "{json}");
        }
        let field_error = Submission::parse(r#"{"delay": "3s", "expires_in": "1s"}"#).unwrap_err().remove(0);
        assert!(field_error.detail.contains("it is 1s, and the delay is 3s"), "{field_error:?}");
        Submission::parse(r#"{"delay": "1s", "expires_in": "3s"}"#).unwrap();
        Submission::parse(r#"{"run_at": "2020-01-01T00:00:00Z", "expires_in": "3s"}"#).unwrap();
    }
}
