//! Applies inputs to workflows. The messages that follow are stored in the same transaction.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use leveret::{
    names,
    reader::ERROR_TEXT_LIMIT,
    time::unix_ms,
    workflow::{
        HOPS_PER_LIFE, RESULT_LIMIT, Role, StepEnd, StepOutcome, StepRef,
        engine::{Action, ApplyError, Failure, Input, Load, Refusal, Snapshot, Status},
    },
};
use leveret_sql::{
    Result,
    db::{Dialect, FromRow, Row, Sql, TimedConnection, text_list, without_nul},
};

use super::{
    definition::{NewStep, NewWorkflow, insert_steps, insert_workflows},
    load, outbox,
    outbox::WorkflowMessage,
    row::{StoredWorkflow, WORKFLOW_COLUMNS},
    save,
};
use crate::open::Store;

/// The longest class of an error and name of a worker, in bytes.
const LONGEST_NAME: usize = 255;

/// Something that happens to a workflow.
#[derive(Clone, Debug)]
pub enum WorkflowInput {
    /// The start of a workflow.
    Start(Box<NewWorkflow>),
    /// An input of a workflow that has started.
    Input {
        /// The workflow's id.
        workflow: String,
        /// The input to apply.
        input: Box<Input>,
    },
}

/// The effect of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputOutcome {
    /// It was applied.
    Applied,
    /// The workflow had started before, with the same definition.
    Repeated,
    /// Another definition has started under this id.
    Conflict,
    /// It does not fit the state of the workflow.
    Refused(Refusal),
    /// There is no such workflow.
    Unknown,
}

/// The effect of inputs.
#[derive(Clone, Debug, Default)]
pub struct AppliedWorkflows {
    /// One for each input, in order.
    pub outcomes: Vec<InputOutcome>,
    /// The messages to publish. Their lease is the caller's.
    pub messages: Vec<WorkflowMessage>,
    /// The ids of the workflows that have changed.
    pub changed: Vec<String>,
    /// The ids of the workflows that have ended, and how.
    pub ended: Vec<(String, Status)>,
    /// The ids of the workflows of which a compensation or the job of `on_failure` has failed, with the failure.
    pub alarms: Vec<(String, Failure)>,
    /// Jobs that are retried: each id, and the lowest `hop` of a dead letter of the new run. Dead letters with a lower
    /// `hop` are obsolete.
    pub superseded: Vec<(String, u64)>,
}

/// The facts about the end of a job that the engine does not keep.
#[derive(Clone, Debug, Default)]
pub(super) struct JobEnd {
    pub(super) attempt: u32,
    pub(super) started_at: Option<u64>,
    pub(super) ended_at: u64,
    pub(super) worker: Option<String>,
    pub(super) result: Option<String>,
    pub(super) too_large: Option<u64>,
    /// The outcome of a compensation or of the job of `on_failure`.
    pub(super) outcome: Option<StepOutcome>,
    pub(super) life: u32,
}

/// One workflow in a transaction.
pub(super) struct Work {
    pub(super) key: i64,
    pub(super) digest: String,
    pub(super) snapshot: Snapshot,
    /// The positions of the steps that are in memory, by name.
    pub(super) positions: HashMap<String, i64>,
    /// The position of the next step that is added, once it is known.
    pub(super) next_position: Option<i64>,
    pub(super) ends: HashMap<(String, Role, u32), JobEnd>,
    pub(super) actions: Vec<Action>,
    pub(super) is_changed: bool,
    /// Other definitions under its id that are not counted in its row yet.
    pub(super) conflicts: u32,
    /// The inputs, with their places among the outcomes.
    pub(super) inputs: VecDeque<(usize, WorkflowInput)>,
}

impl Store {
    /// Applies inputs to workflows, in order. The messages that follow are stored in the same transaction.
    ///
    /// Publishes nothing. The caller publishes the messages, or any server does once their lease has ended.
    ///
    /// ```
    /// use leveret::{NewJob, workflow::{Workflow, engine::{Input, Status}}};
    /// use leveret_store::{InputOutcome, NewWorkflow, WorkflowInput};
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = leveret_store::Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// # let now = 1_800_000_000_000;
    /// let workflow = Workflow::new("order").id("order-17").step("charge", NewJob::raw("charge", "money", "{}"));
    /// let start = WorkflowInput::Start(Box::new(NewWorkflow::new(workflow)));
    /// let applied = store.apply_workflows(vec![start.clone(), start], now).await?;
    /// assert_eq!(applied.outcomes, [InputOutcome::Applied, InputOutcome::Repeated]);
    /// assert_eq!(applied.messages.len(), 1);
    /// let cancel = WorkflowInput::Input { workflow: "order-17".into(), input: Box::new(Input::Cancel) };
    /// store.apply_workflows(vec![cancel], now).await?;
    /// assert_eq!(store.workflow("order-17").await?.map(|workflow| workflow.status()), Some(Status::Cancelled));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database). Nothing was written then.
    pub async fn apply_workflows(&self, inputs: Vec<WorkflowInput>, now: u64) -> Result<AppliedWorkflows> {
        let outcomes = vec![InputOutcome::Unknown; inputs.len()];
        let mut applied = AppliedWorkflows { outcomes, ..AppliedWorkflows::default() };
        let mut by_id: BTreeMap<String, VecDeque<(usize, WorkflowInput)>> = BTreeMap::new();
        for (at, mut input) in inputs.into_iter().enumerate() {
            bound(&mut input);
            match readable(&input) {
                Ok(id) => by_id.entry(id.to_owned()).or_default().push_back((at, input)),
                Err(outcome) => applied.outcomes[at] = outcome,
            }
        }
        if by_id.is_empty() {
            return Ok(applied);
        }
        let mut tx = self.writer().await?.begin_by_keys().await?;
        let mut works = begin(&mut tx, by_id, &mut applied, now).await?;
        run(&mut tx, &mut works, &mut applied, now).await?;
        save::save(&mut tx, &mut works, now).await?;
        outbox::decide(&mut tx, &works, &mut applied.messages, now).await?;
        tx.commit().await?;
        for work in works.into_iter().filter(|work| work.is_changed) {
            let id = &work.snapshot.workflow().id;
            applied.superseded.extend(work.actions.iter().flat_map(|action| work.superseded(action)));
            applied.changed.push(id.clone());
            for action in work.actions {
                match action {
                    Action::Ended(status) => applied.ended.push((id.clone(), status)),
                    Action::Alarm(failure) => applied.alarms.push((id.clone(), failure)),
                    _ => {}
                }
            }
        }
        Ok(applied)
    }
}

/// Cuts the texts of a job's end to the length that workers write, because another sender may write longer ones.
fn bound(input: &mut WorkflowInput) {
    let WorkflowInput::Input { input, .. } = input else { return };
    let Input::End(end) = &mut **input else { return };
    if let Some(worker) = &mut end.worker {
        worker.truncate(worker.floor_char_boundary(LONGEST_NAME));
    }
    if let StepOutcome::Failed { kind, error } = &mut end.outcome {
        kind.truncate(kind.floor_char_boundary(LONGEST_NAME));
        error.truncate(error.floor_char_boundary(ERROR_TEXT_LIMIT));
    }
}

/// The id of the workflow, if the input can be looked up: PostgreSQL cannot even be asked for a text with NUL.
fn readable(input: &WorkflowInput) -> std::result::Result<&str, InputOutcome> {
    match input {
        WorkflowInput::Start(new) => Ok(new.id()),
        WorkflowInput::Input { workflow, input } => {
            names::workflow_id(workflow).map_err(|_| InputOutcome::Unknown)?;
            match &**input {
                Input::End(end) if end.of.role != Role::OnFailure && names::step(&end.of.step).is_err() => {
                    Err(InputOutcome::Refused(Refusal::UnknownStep))
                }
                _ => Ok(workflow),
            }
        }
    }
}

/// Inserts the workflows that start, and locks and loads the others.
async fn begin(
    tx: &mut TimedConnection,
    by_id: BTreeMap<String, VecDeque<(usize, WorkflowInput)>>,
    applied: &mut AppliedWorkflows,
    now: u64,
) -> Result<Vec<Work>> {
    let first_starts = by_id.values().filter_map(|inputs| {
        let start = inputs.iter().find_map(|(_, input)| match input {
            WorkflowInput::Start(new) => Some(&**new),
            WorkflowInput::Input { .. } => None,
        })?;
        let (snapshot, actions) = Snapshot::begin(&start.workflow, start.id(), &start.origin);
        Some((start.clone(), snapshot, actions))
    });
    let mut starts: Vec<_> = first_starts.collect();
    let rows: Vec<_> = starts.iter().map(|(new, snapshot, _)| (new, snapshot.workflow())).collect();
    let inserted: HashMap<_, _> =
        insert_workflows(tx, &rows, now).await?.into_iter().map(|(key, id)| (id, key)).collect();
    starts.retain(|(new, ..)| inserted.contains_key(new.id()));
    let mut works = lock(tx, by_id.keys().filter(|id| !inserted.contains_key(*id)).map(String::as_str)).await?;
    let mut by_id = by_id;
    for (new, mut snapshot, actions) in starts {
        let key = inserted[new.id()];
        let states: HashMap<_, _> =
            snapshot.take_changes().steps.into_iter().map(|step| (step.name.clone(), step)).collect();
        let steps = new.workflow.step_list().iter().zip(0i64..);
        let steps: Vec<_> = steps
            .filter_map(|((name, step), position)| {
                Some(NewStep { workflow: key, position, step, state: states.get(name)? })
            })
            .collect();
        insert_steps(tx, &steps, now).await?;
        works.push(Work {
            key,
            digest: new.digest.clone(),
            positions: steps.iter().map(|step| (step.state.name.clone(), step.position)).collect(),
            next_position: Some(steps.len() as i64),
            snapshot,
            ends: HashMap::new(),
            actions,
            is_changed: true,
            conflicts: 0,
            inputs: VecDeque::new(),
        });
        if let Some(inputs) = by_id.get_mut(new.id()) {
            // Inputs before its start find no such workflow.
            while let Some((at, input)) = inputs.pop_front() {
                if matches!(input, WorkflowInput::Start(_)) {
                    applied.outcomes[at] = InputOutcome::Applied;
                    break;
                }
            }
        }
    }
    for work in &mut works {
        work.inputs = by_id.remove(&work.snapshot.workflow().id).unwrap_or_default();
    }
    Ok(works)
}

/// Locks workflows in the order of their ids, so that no two transactions wait for each other.
async fn lock(tx: &mut TimedConnection, ids: impl Iterator<Item = &str>) -> Result<Vec<Work>> {
    let ids: Vec<_> = ids.collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let dialect = tx.dialect();
    let lock = if dialect == Dialect::Postgres { "FOR UPDATE" } else { "" };
    let text = format!(
        "SELECT {WORKFLOW_COLUMNS}, digest FROM leveret_workflows WHERE id IN {} ORDER BY id {lock}",
        dialect.list("$1")
    );
    let rows = Sql::new(text).arg(text_list(ids)).rows(tx).await?;
    let work = |row: &Row| {
        let stored = StoredWorkflow::from_row(row)?;
        Ok(Work {
            key: stored.key,
            digest: row.try_get("digest")?,
            snapshot: Snapshot::new(stored.state),
            positions: HashMap::new(),
            next_position: None,
            ends: HashMap::new(),
            actions: Vec::new(),
            is_changed: false,
            conflicts: 0,
            inputs: VecDeque::new(),
        })
    };
    Ok(rows.iter().map(work).collect::<sqlx::Result<_>>()?)
}

/// Applies all inputs. The rows that the engine asks for are loaded for all workflows at once.
async fn run(tx: &mut TimedConnection, works: &mut [Work], applied: &mut AppliedWorkflows, now: u64) -> Result<()> {
    preload(tx, works).await?;
    loop {
        let mut loads = Vec::new();
        for (at, work) in works.iter_mut().enumerate() {
            let missing = work.advance(&mut applied.outcomes);
            loads.extend(missing.into_iter().map(|load| (at, load)));
        }
        if loads.is_empty() {
            return Ok(());
        }
        if loads.iter().any(|(_, load)| load::is_list(load)) {
            // A list is read from the store, so the changes must be there first.
            save::save(tx, works, now).await?;
        }
        load::answer(tx, works, loads).await?;
    }
}

/// Loads the rows that the ends of jobs name. Otherwise each end of a group would cost statements of its own.
async fn preload(tx: &mut TimedConnection, works: &mut [Work]) -> Result<()> {
    let mut loads = HashSet::new();
    for (at, work) in works.iter().enumerate() {
        for (_, input) in &work.inputs {
            if let WorkflowInput::Input { input, .. } = input
                && let Input::End(end) = &**input
                && end.of.role == Role::Step
            {
                loads.insert((at, Load::Step(end.of.step.clone())));
                loads.insert((at, Load::Member(end.of.step.clone(), end.of.member.unwrap_or(0))));
            }
        }
    }
    load::answer(tx, works, loads.into_iter().collect()).await
}

impl Work {
    /// Returns the jobs that begin another life.
    fn superseded(&self, action: &Action) -> Vec<(String, u64)> {
        let workflow = &self.snapshot.workflow().id;
        let undo = |role, step: &str| vec![StepRef { role, ..StepRef::step(workflow, step) }];
        let (jobs, life) = match action {
            Action::Publish { step, members, life } if *life > 1 => {
                let row = self.snapshot.step(step);
                let jobs = members.clone().filter_map(|member| Some(row?.job(workflow, member, *life)));
                (jobs.collect(), *life)
            }
            Action::Compensate { step, life } if *life > 1 => (undo(Role::Compensation, step), *life),
            Action::OnFailure { life } if *life > 1 => (undo(Role::OnFailure, ""), *life),
            _ => return Vec::new(),
        };
        let copies = u64::from(life - 1) * HOPS_PER_LIFE;
        jobs.into_iter().map(|job| (job.to_string(), copies)).collect()
    }

    /// Applies inputs until one requires rows, which are returned.
    fn advance(&mut self, outcomes: &mut [InputOutcome]) -> Vec<Load> {
        let mut set = |at: usize, outcome| outcomes[at] = outcome;
        while let Some((at, input)) = self.inputs.pop_front() {
            let input = match input {
                WorkflowInput::Start(new) => {
                    let is_same = new.digest == self.digest;
                    self.conflicts += u32::from(!is_same);
                    set(at, if is_same { InputOutcome::Repeated } else { InputOutcome::Conflict });
                    continue;
                }
                WorkflowInput::Input { workflow, input } => (workflow, input),
            };
            match self.snapshot.apply(&input.1) {
                Ok(actions) => {
                    set(at, InputOutcome::Applied);
                    self.is_changed = true;
                    self.actions.extend(actions);
                    if let Input::End(end) = *input.1 {
                        self.note(end);
                    }
                }
                Err(ApplyError::Refused(refusal)) => set(at, InputOutcome::Refused(refusal)),
                Err(ApplyError::Missing(loads)) => {
                    let (workflow, input) = input;
                    self.inputs.push_front((at, WorkflowInput::Input { workflow, input }));
                    return loads;
                }
            }
        }
        Vec::new()
    }

    fn note(&mut self, end: StepEnd) {
        let key = (end.of.step, end.of.role, end.of.member.unwrap_or(0));
        let mut note = JobEnd {
            attempt: end.attempt,
            started_at: end.started_at.map(unix_ms),
            ended_at: unix_ms(end.at),
            worker: end.worker.as_deref().map(without_nul),
            life: end.of.life,
            ..JobEnd::default()
        };
        if let StepOutcome::Completed { result, too_large, .. } = &end.outcome {
            let fits = result.as_ref().filter(|result| result.get().len() <= RESULT_LIMIT);
            note.result = fits.map(|result| result.get().to_owned());
            note.too_large = too_large
                .or_else(|| result.as_ref().filter(|_| fits.is_none()).map(|result| result.get().len() as u64));
        }
        if end.of.role != Role::Step {
            note.outcome = Some(end.outcome);
        }
        self.ends.insert(key, note);
    }
}
