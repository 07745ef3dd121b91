//! Makes the jobs to publish for messages of the outbox, with the results of the predecessors as they are stored.

use std::{
    collections::{BTreeSet, HashMap},
    time::SystemTime,
};

use leveret::{
    NewJob,
    workflow::{
        JobSpec, PredecessorResults, Role, StepEnd, StepOutcome, StepRef,
        engine::{StepState, Stop, WorkflowState},
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

/// The most bytes of payloads in memory at a time, beyond one payload.
const PAYLOAD_BYTES: u64 = 8 * 1024 * 1024;
/// The most ends of one message at a time.
const MOST_ENDS: u32 = 500;

/// The jobs or the cancellation to publish for a message.
#[derive(Debug)]
pub enum WorkflowPublishes {
    /// Jobs of the step, in the order of the group. Empty if the messages before it used up the memory limit of this
    /// call.
    Jobs(Vec<WorkflowPublish>),
    /// The ends of some jobs that were never published, because the workflow has failed or is cancelled.
    Ends(Vec<StepEnd>),
    /// The jobs cannot be read, for this reason. A newer version may have stored them.
    Unreadable(String),
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
    /// True if the jobs of the workflow are cancelled. This job may have been published before, so that only a worker
    /// knows its end.
    pub is_cancelled: bool,
    /// The end to record if the job can never be published. Its outcome is `Cancelled` unless the server sets a
    /// failure.
    pub end: Box<StepEnd>,
}

impl Store {
    /// Makes the jobs to publish for messages: for each message the next jobs of its group, at most `most`. The
    /// payloads of all messages together have about 8 MiB.
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
        let mut on = self.reader().await?.begin_reads().await?;
        let facts = facts(&mut on, messages).await?;
        let payloads = payloads(&mut on, messages, &facts, most).await?;
        let results = results(&mut on, messages, &facts).await?;
        on.end_reads().await?;
        let made = messages.iter().enumerate().map(|(at, message)| {
            made(message, &facts, &payloads, &results).unwrap_or_else(WorkflowPublishes::Unreadable).or_nothing(at == 0)
        });
        Ok(made.collect())
    }
}

impl WorkflowPublishes {
    /// The first message always gets a payload. If there is none, it has been deleted.
    fn or_nothing(self, is_first: bool) -> Self {
        match self {
            Self::Jobs(jobs) if jobs.is_empty() && is_first => Self::Nothing,
            other => other,
        }
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
             ON s.workflow = {workflow} AND s.position = {step} WHERE w.key = {workflow}",
        table(dialect),
        // PostgreSQL uses the whole key of the steps only if both columns come from one table.
        workflow = number(dialect, 0),
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
    facts: &Places<Facts>,
    most: u32,
) -> Result<HashMap<i64, Vec<(u32, String)>>> {
    let of_steps = messages.iter().filter(|message| message.kind == Kind::Step && !message.ends_unpublished(facts));
    let wanted: Vec<_> = of_steps
        .enumerate()
        .map(|(at, message)| {
            let last = message.last.min(message.first.saturating_add(most));
            json!([message.id, message.workflow, message.step, message.first, last, at])
        })
        .collect();
    let mut payloads: HashMap<i64, Vec<(u32, String)>> = HashMap::new();
    if wanted.is_empty() {
        return Ok(payloads);
    }
    let dialect = on.dialect();
    let number = |column| number(dialect, column);
    let order = format!("OVER (ORDER BY {}, p.member)", number(5));
    let sql = Sql::new(format!(
        "SELECT message, member, payload FROM (
             SELECT {} AS message, p.member, p.payload, sum(length(p.payload)) {order} AS bytes, row_number() {order} AS place
             FROM {} CROSS JOIN leveret_workflow_payloads AS p
             WHERE p.workflow = {} AND p.step = {} AND p.member >= {} AND p.member < {}) AS sized
         WHERE place = 1 OR bytes <= $2",
        number(0),
        table(dialect),
        number(1),
        number(2),
        number(3),
        number(4)
    ));
    for row in sql.arg(rows(&wanted)).arg(PAYLOAD_BYTES).rows(on).await? {
        let payload = (row.number("member")?, row.try_get("payload")?);
        payloads.entry(row.try_get("message")?).or_default().push(payload);
    }
    payloads.values_mut().for_each(|payloads| payloads.sort_unstable_by_key(|(member, _)| *member));
    Ok(payloads)
}

impl WorkflowMessage {
    /// Returns whether its jobs end without being published, because the workflow stops. Its compensations wait for them.
    /// After a failure, an operator may still retry jobs.
    fn ends_unpublished(&self, facts: &Places<Facts>) -> bool {
        let facts = facts.get(&(self.workflow, self.step));
        let ends = |facts: &Facts| facts.is_cancelled() || (facts.state.stop == Some(Stop::Failed) && self.life == 1);
        self.is_unpublished() && facts.is_some_and(ends)
    }
}

impl Facts {
    fn is_cancelled(&self) -> bool {
        matches!(self.state.stop, Some(Stop::Cancelled | Stop::FailedForGood))
    }
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
    // One predecessor may have thousands of successors in one call.
    let mut names = BTreeSet::new();
    for message in messages {
        let step = facts.get(&(message.workflow, message.step)).and_then(|facts| facts.step.as_ref());
        let Some((.., state)) = step else { continue };
        names.extend(read_by(message, state).iter().map(|name| (message.workflow, name.as_str())));
    }
    let wanted: Vec<_> = names.into_iter().map(|(workflow, name)| json!([workflow, name])).collect();
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

/// Makes the jobs to publish for one message. The error is the reason why its rows cannot be read.
fn made(
    message: &WorkflowMessage,
    facts: &Places<Facts>,
    payloads: &HashMap<i64, Vec<(u32, String)>>,
    results: &HashMap<(i64, String), Predecessor>,
) -> std::result::Result<WorkflowPublishes, String> {
    let Some(of) = facts.get(&(message.workflow, message.step)) else { return Ok(WorkflowPublishes::Nothing) };
    let id = of.state.id.as_str();
    let at = |step: &str, role| StepRef { role, life: message.life, ..StepRef::step(id, step) };
    let end = |at: StepRef| StepEnd {
        of: at,
        origin: of.state.origin.clone(),
        attempt: 0,
        started_at: None,
        at: SystemTime::UNIX_EPOCH,
        replayed_at: None,
        worker: None,
        outcome: StepOutcome::Cancelled,
    };
    let is_cancelled = message.kind == Kind::Step && of.is_cancelled();
    let publish = |spec: &str, at: StepRef, results: Option<&PredecessorResults>| {
        let spec: JobSpec = serde_json::from_str(spec).map_err(|error| format!("the job of {at}: {error}"))?;
        let job = spec.job(at.clone(), results, &of.state.origin, of.track);
        Ok::<_, String>(WorkflowPublish {
            job,
            queue: spec.queue().map(str::to_owned),
            is_cancelled,
            end: Box::new(end(at)),
        })
    };
    let jobs = match (message.kind, &of.step) {
        (Kind::Cancel, _) => return Ok(WorkflowPublishes::Cancel(id.to_owned())),
        (Kind::OnFailure, _) => {
            let spec = of.on_failure.as_deref().ok_or("the workflow has no job for its failure")?;
            vec![publish(spec, at("", Role::OnFailure), None)?]
        }
        (Kind::Compensation, Some((_, compensation, state))) => {
            let spec = compensation.as_deref().ok_or_else(|| format!("step {:?} has no compensation", state.name))?;
            let results = predecessor_results(message, state, results);
            vec![publish(spec, at(&state.name, Role::Compensation), Some(&results))?]
        }
        (Kind::Step, Some((_, _, state))) if message.ends_unpublished(facts) => {
            let members = message.first..message.last.min(message.first.saturating_add(MOST_ENDS));
            let ends = members.map(|member| end(state.job(id, member, message.life)));
            return Ok(WorkflowPublishes::Ends(ends.collect()));
        }
        (Kind::Step, Some((spec, _, state))) => {
            let results = predecessor_results(message, state, results);
            let payloads = payloads.get(&message.id).into_iter().flatten();
            let job = |(member, payload): &(u32, String)| {
                let spec = format!("{{\"payload\":{payload},{}", spec.trim_start_matches('{'));
                publish(&spec, state.job(id, *member, message.life), Some(&results))
            };
            payloads.map(job).collect::<std::result::Result<_, _>>()?
        }
        (Kind::Compensation | Kind::Step, None) => return Ok(WorkflowPublishes::Nothing),
    };
    Ok(WorkflowPublishes::Jobs(jobs))
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
