//! Definitions from clients, checked against the catalogue of jobs.

use leveret::{
    catalogue::Catalogue,
    workflow::{JobSpec, Workflow, WorkflowError},
};

use super::error::Error;
use crate::{
    field_error::FieldError,
    json,
    schema::{CheckBudget, SchemaCheck, Schemas, checked},
    services::Services,
};

/// Reads a definition. Its jobs and its order are not checked: see [`check`].
///
/// # Errors
///
/// [`Error::Invalid`] for a text that is not a definition, and for each repeated member outside payloads.
pub fn read(text: &str) -> Result<Workflow, Error> {
    let repeated = repeated(text);
    if !repeated.is_empty() {
        return Err(Error::Invalid { field_errors: repeated });
    }
    serde_json::from_str(text).map_err(|error| {
        let place = format!("line {} column {}", error.line(), error.column());
        Error::Invalid { field_errors: vec![FieldError::new("", shortened(&error.to_string(), &place))] }
    })
}

/// Checks a definition with its jobs and their payloads against a catalogue that was read. A job without a queue must
/// be in the catalogue. A named queue may not exist yet.
///
/// # Errors
///
/// [`Error::Invalid`], or [`Error::Unprepared`] if the machine has no thread left.
pub async fn check(catalogue: &Catalogue, workflow: &Workflow) -> Result<(), Error> {
    let (catalogue, workflow) = (catalogue.clone(), workflow.clone());
    let check = move || Checker { catalogue: &catalogue, schemas: &Schemas::default() }.check(&workflow);
    checked(check).await.ok_or_else(|| Error::Unprepared { reason: "no thread for checks".to_owned() })?
}

impl Services {
    /// Reads a definition, and checks it.
    pub(super) fn read_workflow(&self, text: &str) -> Result<Workflow, Error> {
        let workflow = read(text)?;
        Checker { catalogue: &self.catalogue, schemas: &self.schemas }.check(&workflow)?;
        Ok(workflow)
    }
}

struct Checker<'a> {
    catalogue: &'a Catalogue,
    schemas: &'a Schemas,
}

impl Checker<'_> {
    fn check(&self, workflow: &Workflow) -> Result<(), Error> {
        let invalid = |field_errors| Error::Invalid { field_errors };
        // The stored definition has no queues from the catalogue, so that the same text is the same workflow after a
        // job has moved.
        let mut filled = workflow.clone();
        filled.fill_queues(|job| self.catalogue.find(job).map(|entry| entry.queue.clone()));
        let mut field_errors: Vec<_> = filled.check().err().map(|error| field_error(&error)).into_iter().collect();
        let mut budget = CheckBudget::default();
        for (name, step) in filled.step_list().iter() {
            let place = format!("/steps/{}", escaped(name));
            let is_group = step.group_size().is_some();
            for (member, job) in step.jobs().enumerate() {
                let of_payload = if is_group { format!("/each/{member}") } else { "/payload".to_owned() };
                field_errors.extend(self.check_job(&job, &place, &of_payload, &mut budget));
                if field_errors.len() >= MOST_ERRORS {
                    return Err(invalid(field_errors));
                }
            }
            if let Some(job) = step.compensation() {
                field_errors.extend(self.check_job(job, &format!("{place}/compensate"), "/payload", &mut budget));
            }
        }
        if let Some(job) = filled.failure_job() {
            field_errors.extend(self.check_job(job, "/on_failure", "/payload", &mut budget));
        }
        if field_errors.is_empty() { Ok(()) } else { Err(invalid(field_errors)) }
    }

    /// The errors of one job, whose specification is at `place`.
    fn check_job(&self, job: &JobSpec, place: &str, payload: &str, budget: &mut CheckBudget) -> Vec<FieldError> {
        let entries = self.catalogue.entries();
        let known = entries.iter().find(|entry| {
            entry.job == job.name() && !entry.event && job.queue().is_none_or(|queue| queue == entry.queue)
        });
        let Some(entry) = known else {
            let names = entries.iter().filter(|entry| !entry.event).map(|entry| entry.job.as_str());
            let unknown = || FieldError::unknown(format!("{place}/job"), "no worker runs a job", job.name(), names);
            // A job with a queue is published as soon as the queue exists.
            return if job.queue().is_none() { vec![unknown()] } else { Vec::new() };
        };
        match self.schemas.check(entry, job.payload(), budget) {
            SchemaCheck::Valid | SchemaCheck::Unchecked => Vec::new(),
            SchemaCheck::Invalid(found) => found.into_iter().map(|error| moved(error, place, payload)).collect(),
        }
    }
}

/// The most errors of one response.
const MOST_ERRORS: usize = 100;

/// An error of a payload, whose place begins with `/payload`.
fn moved(error: FieldError, place: &str, payload: &str) -> FieldError {
    let inner = error.pointer.strip_prefix("/payload").unwrap_or(&error.pointer);
    FieldError { pointer: format!("{place}{payload}{inner}"), ..error }
}

/// The text of an error of serde, with the place once.
fn shortened(text: &str, place: &str) -> String {
    let message = text.split(" at line ").next().unwrap_or(text);
    format!("{message} ({place})")
}

fn field_error(error: &WorkflowError) -> FieldError {
    let of_step = |step: &str, member: &str| {
        if step == "on_failure" { "/on_failure".to_owned() } else { format!("/steps/{}{member}", escaped(step)) }
    };
    let pointer = match error {
        WorkflowError::Id { .. } => "/id".to_owned(),
        WorkflowError::Empty | WorkflowError::TooLarge { .. } => "/steps".to_owned(),
        WorkflowError::Name { what, name, .. } if *what == "a step" => of_step(name, ""),
        WorkflowError::Name { .. } => "/name".to_owned(),
        WorkflowError::Deadline { .. } => "/deadline".to_owned(),
        WorkflowError::Label { name } => format!("/labels/{}", escaped(name)),
        WorkflowError::UnknownStep { step, .. } => of_step(step, "/after"),
        WorkflowError::Cycle { steps } => of_step(steps.first().map_or("", String::as_str), "/after"),
        WorkflowError::PayloadAndEach { step } => of_step(step, "/each"),
        WorkflowError::BeforeInWorkflow { step } => of_step(step, "/before"),
        WorkflowError::Job { step, .. } | WorkflowError::NoQueue { step, .. } => of_step(step, ""),
        _ => String::new(),
    };
    FieldError::new(pointer, error.to_string())
}

/// A name as a part of a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Returns an error for each repeated member outside payloads, because the intended value is unknown.
fn repeated(text: &str) -> Vec<FieldError> {
    let mut field_errors = Vec::new();
    if json::text(text.as_bytes()).is_err() {
        return field_errors;
    }
    json::visit(text, |place| {
        if place.is_twice {
            field_errors.push(FieldError::new(place.pointer, "is given twice"));
        }
        let is_payload = matches!(place.key, Some("payload" | "each"));
        if is_payload && place.pointer.matches('/').count() > 1 { json::Visit::Skip } else { json::Visit::Enter }
    });
    field_errors
}

#[cfg(test)]
mod tests {
    use leveret::{Broker, Context, Job, JobResult, Worker, testing};
    use serde::{Deserialize, Serialize};
    use serde_json::{Value, json};

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Charge {
        cents: u64,
    }

    impl Job for Charge {
        const NAME: &'static str = "charge";
        const QUEUE: &'static str = "money";

        fn schema() -> Option<Value> {
            Some(json!({ "required": ["cents"], "properties": { "cents": { "type": "integer" } } }))
        }
    }

    async fn charge(_: Charge, _: Context<()>) -> JobResult {
        Ok(())
    }

    /// The places of the errors.
    async fn places(catalogue: &Catalogue, steps: &str) -> Vec<String> {
        let text = format!(r#"{{"name": "order", "steps": {steps}}}"#);
        let checked = match read(&text) {
            Ok(workflow) => check(catalogue, &workflow).await,
            Err(error) => Err(error),
        };
        match checked {
            Ok(()) => Vec::new(),
            Err(Error::Invalid { field_errors }) => field_errors.into_iter().map(|error| error.pointer).collect(),
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn a_definition_is_checked_against_the_catalogue_without_a_store() {
        let broker = Broker::memory();
        let catalogue = Catalogue::follow(&broker);
        let running = testing::start(Worker::new(()).handle(charge), &broker).await.unwrap();
        catalogue.wait_for("charge").await;
        for (steps, faults) in [
            (r#"{"a": {"job": "charge", "payload": {"cents": "1"}}}"#, &["/steps/a/payload/cents"][..]),
            (r#"{"a": {"job": "charge", "payload": {"cents": 1}}}"#, &[]),
            (r#"{"a": {"job": "later", "queue": "late", "payload": {"n": 1, "n": 2}}}"#, &[]),
            (r#"{"a": {"job": "charge", "payload": {"cents": 1, "cents": 2}}}"#, &["/steps/a/payload/cents"]),
            (r#"{"a": {"job": "charge", "each": [{"cents": 1}, {}]}}"#, &["/steps/a/each/1"]),
            (
                r#"{"a": {"job": "charge", "payload": {"cents": 1}, "compensate": {"job": "charge", "payload": {}}}}"#,
                &["/steps/a/compensate/payload"],
            ),
            (r#"{"a": {"job": "wrok"}, "b": {"job": "wrok"}}"#, &["/steps/a/job", "/steps/b/job"]),
            (r#"{"a": {"job": "later", "queue": "late", "job": "charge"}}"#, &["/steps/a/job"]),
            (r#"{"a": {"job": "later", "queue": "late", "after": ["b"]}}"#, &["/steps/a/after"]),
            (r#"{"a": {"jod": "charge"}}"#, &[""]),
        ] {
            assert_eq!(places(&catalogue, steps).await, faults, "{steps}");
        }
        running.stop().await.unwrap();
    }
}
