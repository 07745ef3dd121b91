//! What is asked for: one job, as JSON describes it.

use std::{collections::BTreeMap, time::Duration};

use serde_json::value::{RawValue, Value};

use crate::{
    field_error::FieldError,
    json::{self, Visit},
    time::{from_rfc3339, now_ms},
};

const FIELDS: [&str; 8] = ["name", "job", "payload", "queue", "priority", "delay", "run_at", "expires_in"];
const LONGEST_NAME: usize = 1024;
const HIGHEST_PRIORITY: u64 = 31;
/// The broker's ladder ends there.
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
    /// A text to be shown with it; the job's name if there is none.
    pub name: Option<String>,
    /// The job that runs; the server's default job if there is none.
    pub job: Option<String>,
    /// Its payload as JSON, published byte for byte; `{}` if there is none.
    pub payload: Option<Box<RawValue>>,
    /// Its queue; the one that its workers announced if there is none.
    pub queue: Option<String>,
    /// From 0 to 31.
    pub priority: Option<u8>,
    /// When it is to run.
    pub due: Due,
    /// After how long it is given up if it has not started.
    pub expires_in: Option<Duration>,
}

/// When a job is to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Due {
    /// At once.
    #[default]
    Now,
    /// After this time.
    After(Duration),
    /// Then, in milliseconds since the epoch.
    At(u64),
}

impl Submission {
    /// Reads a JSON object.
    ///
    /// # Errors
    ///
    /// All that is wrong with it.
    pub fn parse(json: &str) -> Result<Self, Vec<FieldError>> {
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(json)
            .map_err(|_| vec![FieldError::new("", format!("must be an object with any of {}", FIELDS.join(", ")))])?;
        let mut read = Reader { field_errors: Vec::new(), submission: Self::default() };
        for (name, value) in &fields {
            read.field(name, value);
        }
        read.field_errors.extend(repeated(json));
        if fields.contains_key("delay") && fields.contains_key("run_at") {
            read.field_errors.push(FieldError::new("/run_at", "either delay or run_at, not both"));
        }
        read.field_errors.extend(read.submission.born_expired());
        if read.field_errors.is_empty() { Ok(read.submission) } else { Err(read.field_errors) }
    }
}

impl Submission {
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

struct Reader {
    field_errors: Vec<FieldError>,
    submission: Submission,
}

impl Reader {
    fn field(&mut self, name: &str, raw: &RawValue) {
        if name == "payload" {
            self.submission.payload = Some(raw.to_owned());
            return;
        }
        if !FIELDS.contains(&name) {
            self.field_errors.push(FieldError::unknown(pointer(name), "no such field:", name, FIELDS.into_iter()));
            return;
        }
        // What is null is as good as absent.
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
        let submission = &mut self.submission;
        match name {
            "name" => submission.name = Some(text(value, LONGEST_NAME)?),
            "job" => submission.job = Some(text(value, 128)?),
            "queue" => submission.queue = Some(text(value, 255)?),
            "priority" => submission.priority = Some(priority(value)?),
            "delay" => submission.due = Due::After(duration(value)?),
            "run_at" => submission.due = Due::At(time(value)?),
            _ => submission.expires_in = Some(duration(value)?),
        }
        Ok(())
    }
}

/// The fields that are given twice: which of the two is meant, nobody can tell.
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
        Value::String(text) => leveret::duration(text)?,
        other => Duration::from_secs(other.as_u64().ok_or("must be a duration such as \"30s\", or whole seconds")?),
    };
    if parsed < LONGEST { Ok(parsed) } else { Err("must be less than ten years".to_owned()) }
}

fn time(value: &Value) -> Result<u64, String> {
    let at = from_rfc3339(value.as_str().ok_or("must be a time such as \"2026-11-21T15:00:00Z\"")?)?;
    let furthest = now_ms().saturating_add(crate::time::millis(LONGEST));
    if at < furthest { Ok(at) } else { Err("must be less than ten years ahead".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_that_would_expire_before_it_can_run_is_refused_with_both_values() {
        let tomorrow = crate::time::rfc3339(now_ms() + 24 * 3_600_000);
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
