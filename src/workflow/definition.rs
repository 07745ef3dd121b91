//! A workflow as data, and its form in JSON.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
    ser::Error as _,
};
use serde_json::value::RawValue;

use crate::{
    message::{
        LONGEST_NAME,
        step::{StepHeaders, StepRef},
        truncated,
    },
    publish::{new_job::NewJob, options::JobOptions, step::StepParts},
    time::wire_span,
    workflow::{WorkflowError, check::JOBS_LIMIT, results::PredecessorResults},
};

/// A workflow: steps, their order, and what happens if one fails.
///
/// Each step is a job. It is published once all steps that it comes [`after`](Self::after) have ended. The server
/// (`leveret serve`) runs workflows; [`Publisher::start`](crate::Publisher::start) needs the broker alone.
///
/// ```
/// use leveret::workflow::{IfFailed, Workflow};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "charge", queue = "money")] struct Charge { cents: u64 }
/// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "refund", queue = "money")] struct Refund { cents: u64 }
/// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "label", queue = "labels")] struct Label { parcel: u32 }
/// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "ship", queue = "parcels")] struct Ship;
/// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "mail", queue = "mail")] struct Apologise;
///
/// let workflow = Workflow::new("order")
///     .id("order-17")
///     .step("charge", &Charge { cents: 500 }).compensate(&Refund { cents: 500 })
///     .steps("label", (0..3).map(|parcel| Label { parcel })).after("charge").if_failed(IfFailed::Wait)
///     .step("ship", &Ship).after(["charge", "label"])
///     .on_failure(&Apologise);
/// workflow.check()?;
/// let json = serde_json::to_string(&workflow)?;
/// assert_eq!(serde_json::from_str::<Workflow>(&json)?.step_list().len(), 3);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// # Form in JSON
///
/// | member | meaning |
/// |---|---|
/// | `name` | the kind of workflow, 1 to 128 of the characters A-Z, a-z, 0-9, `_`, `.` and `-` |
/// | `id` | the workflow's id, 1 to 128 bytes, without `/`, `:` and control characters |
/// | `steps` | an object: the steps by name, which has 1 to 64 of the same characters |
/// | `on_failure` | a job that runs once the workflow has failed |
/// | `deadline` | seconds, or a text such as `"1h"`: the workflow fails if it has not ended so long after its start |
/// | `labels` | an object of texts that tools show, at most 32 |
/// | `track` | false: workers publish no status updates of the steps |
///
/// A step has `job`, `queue` (unless the catalogue of jobs knows it), `payload` or `each` (a list of payloads: a group),
/// `after` (a list of names), `compensate` (a job), `if_failed` (`"fail"`, `"skip"` or `"wait"`), and any of the
/// [`JobOptions`](crate::JobOptions). A job has `job`, `queue`, `payload` and options. Unknown members are errors.
///
/// ```
/// use leveret::workflow::Workflow;
///
/// let workflow: Workflow = serde_json::from_str(r#"{"name": "order", "steps": {
///     "a": {"job": "demo.task", "queue": "demo", "payload": {"seconds": 1}},
///     "b": {"job": "demo.task", "queue": "demo", "after": ["a"], "delay": "5m"},
///     "c": {"job": "demo.task", "queue": "demo", "after": ["a"], "each": [{"seconds": 1}, {"seconds": 2}]},
///     "d": {"job": "demo.task", "queue": "demo", "after": ["b", "c"]}
/// }}"#)?;
/// assert_eq!(workflow.check(), Ok(()));
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use = "a workflow is started by a publisher"]
pub struct Workflow {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    pub(super) steps: Steps,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) on_failure: Option<JobSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "wire_span")]
    pub(super) deadline: Option<Duration>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub(super) track: bool,
}

/// Reads a payload that is present. A present `null` is a payload too.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(from).map(Some)
}

fn members<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Box<RawValue>>>, D::Error> {
    Ok(Option::<Members>::deserialize(from)?.map(|Members(payloads)| payloads))
}

/// The payloads of a group. Reading stops at the first payload over the limit.
struct Members(Vec<Box<RawValue>>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of payloads")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut payloads: A) -> Result<Members, A::Error> {
        let mut members = Vec::new();
        while let Some(payload) = payloads.next_element()? {
            if members.len() == JOBS_LIMIT {
                return Err(A::Error::custom(format_args!("a group has at most {JOBS_LIMIT} jobs")));
            }
            members.push(payload);
        }
        Ok(Members(members))
    }
}

fn yes() -> bool {
    true
}

/// Steps by name: of a workflow, or those that a running step adds ([`Context::add_steps`](crate::Context::add_steps)).
///
/// ```
/// use leveret::{NewJob, workflow::Steps};
///
/// let steps = Steps::new().step("weigh", NewJob::raw("weigh", "parcels", "{}")).before("ship");
/// assert_eq!(serde_json::to_string(&steps)?, r#"{"weigh":{"job":"weigh","queue":"parcels","payload":{},"before":["ship"]}}"#);
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "steps are part of a workflow, or added by a running step"]
pub struct Steps {
    pub(super) list: Vec<(String, Step)>,
    /// The first mistake of the code that built them.
    pub(super) fault: Option<WorkflowError>,
}

/// The effect on the workflow of a step that ends without success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfFailed {
    /// The workflow fails: no further step starts, and the steps that have succeeded are compensated.
    #[default]
    Fail,
    /// The workflow goes on without the step. It has no result for its successors.
    Skip,
    /// The steps after it wait until an operator retries or skips the step.
    Wait,
}

impl IfFailed {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// One step of a workflow: its job or its group of jobs, its place, and what happens if it fails.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub(super) job: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub(super) payload: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "members")]
    pub(super) each: Option<Vec<Box<RawValue>>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) after: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) before: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) compensate: Option<Box<JobSpec>>,
    #[serde(default, skip_serializing_if = "IfFailed::is_default")]
    pub(super) if_failed: IfFailed,
    #[serde(flatten)]
    pub(super) options: JobOptions,
}

/// A job of a workflow, as data: its name, queue, payload and options.
///
/// ```
/// use leveret::workflow::{JobSpec, StepRef};
///
/// let spec: JobSpec = serde_json::from_str(r#"{"job": "refund", "queue": "money", "payload": {"cents": 5}}"#)?;
/// let job = spec.job(StepRef::step("order-17", "refund"), None, "6f1c", true);
/// assert_eq!(job.name(), "refund");
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    pub(super) job: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<String>,
    #[serde(default = "null")]
    pub(super) payload: Box<RawValue>,
    #[serde(flatten)]
    pub(super) options: JobOptions,
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

impl JobSpec {
    /// Returns the job's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.job
    }

    /// Returns the queue; `None` if the catalogue of jobs has to know it.
    #[must_use]
    pub fn queue(&self) -> Option<&str> {
        self.queue.as_deref()
    }

    /// Returns the payload, as JSON.
    #[must_use]
    pub fn payload(&self) -> &str {
        self.payload.get()
    }

    /// Returns the job to publish for a step.
    ///
    /// `results` has the results of the step's direct predecessors. `origin` is a random value that the workflow's jobs
    /// share. The server accepts the end of a step only with this origin. So a publisher that knows only an id cannot
    /// forge an end.
    pub fn job(&self, at: StepRef, results: Option<&PredecessorResults>, origin: &str, track: bool) -> NewJob {
        let parts = StepParts {
            name: self.job.clone(),
            queue: self.queue.clone().unwrap_or_default(),
            payload: self.payload.get().as_bytes().to_vec(),
            options: self.options.clone(),
        };
        let results = results.filter(|results| !results.is_empty()).map(PredecessorResults::to_header);
        NewJob::of_step(parts, StepHeaders { at, results }, origin, track)
    }
}

impl Step {
    /// Returns the names of the steps that must have ended before this step starts.
    #[must_use]
    pub fn predecessors(&self) -> &[String] {
        &self.after
    }

    /// Returns the names of the steps that wait for this added step.
    #[must_use]
    pub fn successors(&self) -> &[String] {
        &self.before
    }

    /// Returns how many jobs the step has, if it is a group.
    #[must_use]
    pub fn group_size(&self) -> Option<usize> {
        self.each.as_ref().map(Vec::len)
    }

    /// Returns the job of the step with its payload, or one job for each payload of a group.
    ///
    /// For a store: `JobSpec` serialises to JSON, and the jobs of a group differ in their payload alone.
    pub fn jobs(&self) -> impl Iterator<Item = JobSpec> + '_ {
        let spec = |payload: &RawValue| JobSpec {
            job: self.job.clone(),
            queue: self.queue.clone(),
            payload: payload.to_owned(),
            options: self.options.clone(),
        };
        let single = self.payload.as_deref().unwrap_or(RawValue::NULL);
        let single = self.each.is_none().then(|| spec(single));
        single.into_iter().chain(self.each.iter().flatten().map(move |payload| spec(payload)))
    }

    /// Returns the job that compensates the step.
    #[must_use]
    pub fn compensation(&self) -> Option<&JobSpec> {
        self.compensate.as_deref()
    }

    /// Returns what happens if the step fails.
    #[must_use]
    pub fn failure_mode(&self) -> IfFailed {
        self.if_failed
    }
}

impl fmt::Debug for Step {
    /// Shows no payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("job", &self.job).field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl fmt::Debug for JobSpec {
    /// Shows no payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobSpec").field("job", &self.job).field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Serialize for Steps {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.fault {
            Some(fault) => Err(S::Error::custom(fault)),
            None => to.collect_map(self.list.iter().map(|(name, step)| (name, step))),
        }
    }
}

impl<'de> Deserialize<'de> for Steps {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(StepsVisitor)
    }
}

/// Reads steps in their order. It refuses two steps of one name, and stops at the first step over the limit of jobs.
struct StepsVisitor;

impl<'de> Visitor<'de> for StepsVisitor {
    type Value = Steps;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of steps by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Steps, A::Error> {
        let (mut list, mut names, mut jobs) = (Vec::new(), std::collections::HashSet::new(), 0);
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                let step = truncated(&name, LONGEST_NAME).to_owned();
                return Err(A::Error::custom(WorkflowError::TwoOfOneName { step }));
            }
            let step: Step = map.next_value()?;
            jobs += step.job_count();
            list.push((name, step));
            if jobs > JOBS_LIMIT {
                return Err(A::Error::custom(format_args!("more than {JOBS_LIMIT} jobs: start several workflows")));
            }
        }
        Ok(Steps { list, fault: None })
    }
}
