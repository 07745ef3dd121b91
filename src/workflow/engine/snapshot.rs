//! The rows of one workflow that are in memory while inputs are applied.

use std::collections::{HashMap, HashSet};

use super::{
    Action, Load,
    state::{MemberState, Phase, StepState, Undo, WorkflowState},
};
use crate::workflow::definition::{Step, Workflow};

/// The position of a job: its step and its place in the group.
pub(super) type MemberKey = (String, u32);

/// The rows of one workflow that are in memory.
///
/// See the [module](super) for an example.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(super) workflow: WorkflowState,
    /// `None` for a name that no step has.
    pub(super) steps: HashMap<String, Option<StepState>>,
    pub(super) members: HashMap<MemberKey, MemberState>,
    /// The lists that are complete.
    pub(super) lists: HashSet<Load>,
    /// True if all rows of the workflow are in memory, so that a row that is missing does not exist.
    pub(super) is_complete: bool,
    changed: Changed,
}

#[derive(Clone, Debug, Default)]
struct Changed {
    workflow: bool,
    steps: HashSet<String>,
    members: HashSet<MemberKey>,
    added: Vec<(String, Step)>,
}

/// The rows that have changed, to be stored in one transaction.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The workflow's row, if it has changed.
    pub workflow: Option<WorkflowState>,
    /// Steps, new ones among them.
    pub steps: Vec<StepState>,
    /// Jobs by step and position. A job without a row has the default one.
    pub members: Vec<(String, u32, MemberState)>,
    /// The definitions of steps that a running step has added, to be stored beside their rows.
    pub added: Vec<(String, Step)>,
}

impl Changes {
    /// Answers a [`Load`] from these rows, as a store with no others would.
    pub fn answer(&self, load: &Load, snapshot: &mut Snapshot) {
        let steps =
            |holds: &dyn Fn(&StepState) -> bool| self.steps.iter().filter(|step| holds(step)).cloned().collect();
        let put: Vec<StepState> = match load {
            Load::Step(name) => {
                return snapshot.put_step(name, self.steps.iter().find(|step| step.name == *name).cloned());
            }
            Load::Member(step, at) => {
                let found = self.members.iter().find(|(of, place, _)| of == step && place == at);
                return snapshot.put_member(step, *at, found.map(|(.., row)| row.clone()).unwrap_or_default());
            }
            Load::Held => steps(&|step| step.phase == super::StepPhase::Held),
            Load::Compensable => {
                let due = self.steps.iter().filter(|step| step.is_compensable());
                due.max_by_key(|step| step.last_success).cloned().into_iter().collect()
            }
            Load::Failed(of) => {
                let failed = |row: &MemberState| matches!(row.end, Some(super::MemberEnd::Failed { .. }));
                for (step, at, row) in &self.members {
                    if failed(row) && of.as_ref().is_none_or(|of| of == step) {
                        snapshot.put_member(step, *at, row.clone());
                    }
                }
                Vec::new()
            }
        };
        for step in put {
            let name = step.name.clone();
            snapshot.put_step(&name, Some(step));
        }
        snapshot.loaded(load);
    }
}

impl Snapshot {
    /// Begins a workflow that was [checked](Workflow::check), and returns all of it with the first actions.
    ///
    /// `origin` is a random value that all its jobs carry.
    #[must_use]
    pub fn begin(workflow: &Workflow, id: &str, origin: &str) -> (Self, Vec<Action>) {
        let mut steps: HashMap<String, Option<StepState>> = HashMap::with_capacity(workflow.step_list().len());
        for (name, step) in workflow.step_list().iter() {
            steps.insert(name.to_owned(), Some(StepState::new(name, step)));
        }
        for (name, step) in workflow.step_list().iter() {
            for before in &step.after {
                if let Some(Some(before)) = steps.get_mut(before) {
                    before.successors.push(name.to_owned());
                }
            }
        }
        let state = WorkflowState {
            id: id.to_owned(),
            origin: origin.to_owned(),
            phase: Phase::Running,
            paused: false,
            stop: None,
            cause: None,
            unfinished: steps.len() as u64,
            running: 0,
            waiting: 0,
            failed: 0,
            held: 0,
            compensable: 0,
            has_compensations: workflow.step_list().iter().any(|(_, step)| step.compensate.is_some()),
            is_undone: false,
            undoing: None,
            on_failure: if workflow.on_failure.is_some() { Undo::Ready } else { Undo::Absent },
            on_failure_life: 1,
            undo_replayed_at: 0,
            alarm: None,
            next_success: 1,
        };
        let changed = Changed { workflow: true, steps: steps.keys().cloned().collect(), ..Changed::default() };
        let (members, lists) = (HashMap::new(), HashSet::new());
        let mut snapshot = Self { workflow: state, steps, members, lists, is_complete: true, changed };
        let mut actions = Vec::new();
        // In the order of the definition, so that equal workflows have equal actions.
        for (name, step) in workflow.step_list().iter() {
            if step.after.is_empty() {
                snapshot.start_or_hold(name, &mut actions);
            }
        }
        snapshot.settle(&mut actions);
        (snapshot, actions)
    }

    /// Continues a stored workflow. Further rows are put in as [`apply`](Self::apply) asks for them.
    #[must_use]
    pub fn new(workflow: WorkflowState) -> Self {
        Self {
            workflow,
            steps: HashMap::new(),
            members: HashMap::new(),
            lists: HashSet::new(),
            is_complete: false,
            changed: Changed::default(),
        }
    }

    /// Returns the workflow's row.
    #[must_use]
    pub fn workflow(&self) -> &WorkflowState {
        &self.workflow
    }

    /// Returns a step's row, if it is in memory.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<&StepState> {
        self.steps.get(name)?.as_ref()
    }

    /// Returns a job's row, if it is in memory.
    #[must_use]
    pub fn member(&self, step: &str, at: u32) -> Option<&MemberState> {
        self.members.get(&(step.to_owned(), at))
    }

    /// Puts in the row of a step, or notes that there is none. A row that is here already stays.
    pub fn put_step(&mut self, name: &str, row: Option<StepState>) {
        self.steps.entry(name.to_owned()).or_insert(row);
    }

    /// Puts in the row of a job; the default one if the store has none. A row that is here already stays.
    pub fn put_member(&mut self, step: &str, at: u32, row: MemberState) {
        self.members.entry((step.to_owned(), at)).or_insert(row);
    }

    /// Notes that all rows of a list have been put in.
    pub fn loaded(&mut self, list: &Load) {
        self.lists.insert(list.clone());
    }

    /// Takes the rows that have changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        let changed = std::mem::take(&mut self.changed);
        let members = changed.members.into_iter().filter_map(|(step, at)| {
            let row = self.members.get(&(step.clone(), at))?.clone();
            Some((step, at, row))
        });
        let steps = changed.steps.iter().filter_map(|name| self.steps.get(name)?.clone());
        Changes {
            workflow: changed.workflow.then(|| self.workflow.clone()),
            steps: steps.collect(),
            members: members.collect(),
            added: changed.added,
        }
    }

    /// Returns the workflow's row to be changed.
    pub(super) fn edit(&mut self) -> &mut WorkflowState {
        self.changed.workflow = true;
        &mut self.workflow
    }

    /// Returns a step's row to be changed.
    pub(super) fn edit_step(&mut self, name: &str) -> Option<&mut StepState> {
        let row = self.steps.get_mut(name)?.as_mut()?;
        if !self.changed.steps.contains(name) {
            self.changed.steps.insert(name.to_owned());
        }
        Some(row)
    }

    /// Returns a job's row to be changed.
    pub(super) fn edit_member(&mut self, step: &str, at: u32) -> &mut MemberState {
        let key = (step.to_owned(), at);
        self.changed.members.insert(key.clone());
        self.members.entry(key).or_default()
    }

    /// Inserts a step that a running step adds.
    pub(super) fn insert_step(&mut self, row: StepState, step: Step) {
        self.changed.steps.insert(row.name.clone());
        self.changed.added.push((row.name.clone(), step));
        self.steps.insert(row.name.clone(), Some(row));
    }
}
