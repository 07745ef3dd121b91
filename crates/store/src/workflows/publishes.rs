//! Makes the jobs to publish for messages of the outbox, with the results of the predecessors as they are stored.

use std::{collections::HashMap, time::SystemTime};

use leveret::{
    NewJob,
    workflow::{
        JobSpec, PredecessorResults, Role, StepEnd, StepOutcome, StepRef,
        engine::{StepState, WorkflowState},
    },
};
use leveret_sql::{
    Result,
    db::{Sql, TimedConnection},
};
use serde_json::json;

use super::{
    json_rows::{number, rows, table, text},
    outbox::{Kind, WorkflowMessage},
    row::json,
};
use crate::open::Store;

/// The jobs or the cancellation to publish for a message.
#[derive(Debug)]
pub enum WorkflowPublishes {
    /// Some jobs of its step, in the order of their members.
    Jobs(Vec<WorkflowPublish>),
    /// The cancellation of the workflow with this id.
    Cancel(String),
    /// The workflow is deleted.
    Nothing,
}

/// One job to publish.
#[derive(Debug)]
pub struct WorkflowPublish {
    /// The job.
    pub job: NewJob,
    /// The queue; `None` if the definition names none, and the catalogue of jobs has to know it.
    pub queue: Option<String>,
    /// The end of the job, to be completed by a program that can never publish it.
    pub end: Box<StepEnd>,
}

impl Store {
    /// Makes what is to be published for messages: for each at most `most` jobs, of its first members that are not published
    /// yet.
    ///
    /// ```
    /// # async fn doc(store: leveret_store::Store) -> leveret_store::Result<()> {
    /// let messages = store.due_workflow_messages(1_800_000_000_000, 100).await?;
    /// for publishes in store.workflow_publishes(&messages, 500).await? {
    ///     println!("{publishes:?}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database).
    pub async fn workflow_publishes(&self, messages: &[WorkflowMessage], most: u32) -> Result<Vec<WorkflowPublishes>> {
        let mut on = self.reader().await?;
        let facts = facts(&mut on, messages).await?;
        let payloads = payloads(&mut on, messages, most).await?;
        let results = results(&mut on, messages, &facts).await?;
        Ok(messages.iter().map(|message| made(message, &facts, &payloads, &results)).collect())
    }
}

/// The step of a message, and its workflow, as stored.
struct Facts {
    state: WorkflowState,
    track: bool,
    on_failure: Option<String>,
    /// The specification without payload, the compensation, and the step.
    step: Option<(String, Option<String>, StepState)>,
}

type Places<T> = HashMap<(i64, i64), T>;

async fn facts(on: &mut TimedConnection, messages: &[WorkflowMessage]) -> Result<Places<Facts>> {
    let wanted: Vec<_> = messages.iter().map(|message| json!([message.workflow, message.step])).collect();
    let dialect = on.dialect();
    let sql = Sql::new(format!(
        "SELECT w.key, {step} AS step, w.state AS workflow_state, w.track, w.on_failure, s.spec, s.compensation, s.state
         FROM {} CROSS JOIN leveret_workflows AS w LEFT JOIN leveret_workflow_steps AS s
             ON s.workflow = w.key AND s.position = {step} WHERE w.key = {}",
        table(dialect),
        number(dialect, 0),
        step = number(dialect, 1)
    ));
    let mut facts = HashMap::new();
    for row in sql.arg(rows(&wanted)).rows(on).await? {
        let spec: Option<String> = row.try_get("spec")?;
        let step = match spec {
            Some(spec) => Some((spec, row.try_get("compensation")?, json(&row, "state")?)),
            None => None,
        };
        let found = Facts {
            state: json(&row, "workflow_state")?,
            track: row.flag("track")?,
            on_failure: row.try_get("on_failure")?,
            step,
        };
        facts.insert((row.try_get("key")?, row.try_get("step")?), found);
    }
    Ok(facts)
}

/// The payloads of members, by the id of the message.
async fn payloads(
    on: &mut TimedConnection,
    messages: &[WorkflowMessage],
    most: u32,
) -> Result<HashMap<i64, Vec<(u32, String)>>> {
    let of_steps = messages.iter().filter(|message| message.kind == Kind::Step);
    let wanted: Vec<_> = of_steps
        .map(|message| {
            let last = message.last.min(message.first.saturating_add(most));
            json!([message.id, message.workflow, message.step, message.first, last])
        })
        .collect();
    let mut payloads: HashMap<i64, Vec<(u32, String)>> = HashMap::new();
    if wanted.is_empty() {
        return Ok(payloads);
    }
    let dialect = on.dialect();
    let number = |column| number(dialect, column);
    let sql = Sql::new(format!(
        "SELECT {} AS message, p.member, p.payload FROM {} CROSS JOIN leveret_workflow_payloads AS p
         WHERE p.workflow = {} AND p.step = {} AND p.member >= {} AND p.member < {}",
        number(0),
        table(dialect),
        number(1),
        number(2),
        number(3),
        number(4)
    ));
    for row in sql.arg(rows(&wanted)).rows(on).await? {
        let payload = (row.number("member")?, row.try_get("payload")?);
        payloads.entry(row.try_get("message")?).or_default().push(payload);
    }
    payloads.values_mut().for_each(|payloads| payloads.sort_unstable_by_key(|(member, _)| *member));
    Ok(payloads)
}

/// A step whose result is read: its state, and the result of its job unless it is a group.
struct Predecessor {
    state: StepState,
    result: Option<String>,
    too_large: Option<u64>,
}

/// The steps whose results are read, by workflow and name.
async fn results(
    on: &mut TimedConnection,
    messages: &[WorkflowMessage],
    facts: &Places<Facts>,
) -> Result<HashMap<(i64, String), Predecessor>> {
    let mut wanted = Vec::new();
    for message in messages {
        let step = facts.get(&(message.workflow, message.step)).and_then(|facts| facts.step.as_ref());
        let Some((.., state)) = step else { continue };
        wanted.extend(read_by(message, state).iter().map(|name| json!([message.workflow, name])));
    }
    let mut found = HashMap::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    let dialect = on.dialect();
    let sql = Sql::new(format!(
        "SELECT s.workflow, s.name, s.state, j.result, j.too_large FROM {} CROSS JOIN leveret_workflow_steps AS s
         LEFT JOIN leveret_workflow_jobs AS j
             ON j.workflow = s.workflow AND j.step = s.position AND j.role = 0 AND j.member = 0
         WHERE s.workflow = {} AND s.name = {}",
        table(dialect),
        number(dialect, 0),
        text(dialect, 1)
    ));
    for row in sql.arg(rows(&wanted)).rows(on).await? {
        let predecessor = Predecessor {
            state: json(&row, "state")?,
            result: row.try_get("result")?,
            too_large: row.maybe_number("too_large")?,
        };
        found.insert((row.try_get("workflow")?, row.try_get("name")?), predecessor);
    }
    Ok(found)
}

fn made(
    message: &WorkflowMessage,
    facts: &Places<Facts>,
    payloads: &HashMap<i64, Vec<(u32, String)>>,
    results: &HashMap<(i64, String), Predecessor>,
) -> WorkflowPublishes {
    let Some(facts) = facts.get(&(message.workflow, message.step)) else { return WorkflowPublishes::Nothing };
    let id = facts.state.id.as_str();
    let at = |step: &str, role| StepRef { role, life: message.life, ..StepRef::step(id, step) };
    let publish = |spec: &str, at: StepRef, results: Option<&PredecessorResults>| {
        let spec: JobSpec = serde_json::from_str(spec).ok()?;
        let origin = &facts.state.origin;
        let job = spec.job(at.clone(), results, origin, facts.track);
        let end = StepEnd {
            of: at,
            origin: origin.clone(),
            attempt: 0,
            started_at: None,
            at: SystemTime::UNIX_EPOCH,
            replayed_at: None,
            worker: None,
            outcome: StepOutcome::Cancelled,
        };
        Some(WorkflowPublish { job, queue: spec.queue().map(str::to_owned), end: Box::new(end) })
    };
    let jobs: Vec<_> = match (message.kind, &facts.step) {
        (Kind::Cancel, _) => return WorkflowPublishes::Cancel(id.to_owned()),
        (Kind::OnFailure, _) => {
            let spec = facts.on_failure.as_deref();
            spec.and_then(|spec| publish(spec, at("", Role::OnFailure), None)).into_iter().collect()
        }
        (Kind::Compensation, Some((_, compensation, state))) => {
            let (spec, results) = (compensation.as_deref(), predecessor_results(message, state, results));
            let at = at(&state.name, Role::Compensation);
            spec.and_then(|spec| publish(spec, at, Some(&results))).into_iter().collect()
        }
        (Kind::Step, Some((spec, _, state))) => {
            let results = predecessor_results(message, state, results);
            let payloads = payloads.get(&message.id).into_iter().flatten();
            let job = |(member, payload): &(u32, String)| {
                let spec = format!("{{\"payload\":{payload},{}", spec.trim_start_matches('{'));
                publish(&spec, state.job(id, *member, message.life), Some(&results))
            };
            payloads.filter_map(job).collect()
        }
        (Kind::Compensation | Kind::Step, None) => Vec::new(),
    };
    if jobs.is_empty() { WorkflowPublishes::Nothing } else { WorkflowPublishes::Jobs(jobs) }
}

/// The steps whose results a job reads: of a step its predecessors, of a compensation the step that it compensates.
fn read_by<'a>(message: &WorkflowMessage, state: &'a StepState) -> &'a [String] {
    match message.kind {
        Kind::Step => &state.after,
        Kind::Compensation => std::slice::from_ref(&state.name),
        Kind::OnFailure | Kind::Cancel => &[],
    }
}

fn predecessor_results(
    message: &WorkflowMessage,
    state: &StepState,
    found: &HashMap<(i64, String), Predecessor>,
) -> PredecessorResults {
    let mut results = PredecessorResults::default();
    for name in read_by(message, state) {
        match found.get(&(message.workflow, name.clone())) {
            None => {}
            Some(Predecessor { state, .. }) if state.is_group => results.add_group(name, state.size),
            Some(Predecessor { state, .. }) if state.is_skipped() => results.add_skipped(name),
            Some(Predecessor { too_large: Some(size), .. }) => results.add_too_large(name, *size),
            Some(Predecessor { result, .. }) => results.add(name, result.as_deref()),
        }
    }
    results
}
