//! The schema of a definition, for the API's document. `leveret` itself reads definitions.

use utoipa::ToSchema;

/// A workflow to start.
#[derive(ToSchema)]
#[schema(as = WorkflowDefinition)]
#[expect(dead_code, reason = "leveret reads definitions; this is their schema")]
pub(super) struct Definition {
    /// The kind of workflow: 1 to 128 of the characters A-Z, a-z, 0-9, _, . and -.
    #[schema(min_length = 1, max_length = 128)]
    name: String,
    /// The workflow's id, without / and :. A second start under the same id is the same workflow. Made up unless set.
    #[schema(min_length = 1, max_length = 128)]
    id: Option<String>,
    /// The steps by name: 1 to 64 of the same characters.
    #[schema(value_type = std::collections::HashMap<String, StepDefinition>)]
    steps: (),
    on_failure: Option<JobDefinition>,
    /// Seconds, or a text such as "1h": the workflow fails if it has not ended so long after its start.
    #[schema(value_type = Option<serde_json::Value>)]
    deadline: (),
    /// Texts that tools show, at most 32.
    #[schema(value_type = Option<std::collections::HashMap<String, String>>)]
    labels: (),
    /// False: workers publish no status updates of the steps.
    track: Option<bool>,
}

/// A step: one job, or with `each` a group of jobs. It may have further options of a job, such as `delay` and `priority`.
#[derive(ToSchema)]
#[schema(as = StepDefinition)]
#[expect(dead_code, reason = "leveret reads definitions; this is their schema")]
struct StepDefinition {
    /// The job's name.
    job: String,
    /// The queue; the one that the job's workers announced unless set. The step waits until it exists.
    queue: Option<String>,
    /// Any JSON that fits the schema of the job. Not together with `each`.
    #[schema(value_type = Option<serde_json::Value>)]
    payload: (),
    /// The payloads of a group.
    #[schema(value_type = Option<Vec<serde_json::Value>>)]
    each: (),
    /// The steps that must have ended before this one starts.
    after: Option<Vec<String>>,
    compensate: Option<JobDefinition>,
    /// `fail`, `skip` or `wait`.
    if_failed: Option<String>,
}

/// A job of a workflow.
#[derive(ToSchema)]
#[schema(as = JobDefinition)]
#[expect(dead_code, reason = "leveret reads definitions; this is their schema")]
struct JobDefinition {
    /// The job's name.
    job: String,
    /// The queue; the one that the job's workers announced unless set.
    queue: Option<String>,
    #[schema(value_type = Option<serde_json::Value>)]
    payload: (),
}
