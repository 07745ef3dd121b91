//! The engine against an interpreter that computes all anew after each input, over random workflows and inputs. The engine
//! runs twice: with all rows in memory, and with a store that gives it only the rows that it asks for.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use proptest::prelude::*;

use super::{
    Action, ApplyError, Changes, Input, Load, Snapshot, Which,
    model::{Def, Job, Model, State},
};
use crate::{
    NewJob,
    message::step::{Role, StepRef},
    workflow::{IfFailed, StepEnd, StepOutcome, Workflow},
};

#[derive(Clone, Debug)]
enum Op {
    /// One of the running jobs ends: with success, an error, or cancelled.
    End(u16, u8),
    /// The end of a job that has ended comes once more.
    Again(u16, u8),
    /// A dead letter is replayed, and the job ends.
    Replay(u16, u8),
    Pause,
    Resume,
    Cancel,
    Deadline,
    Retry,
    Skip,
}

/// A store of rows, of which each input gets only those that it asks for.
#[derive(Default)]
struct Store {
    workflow: Option<super::WorkflowState>,
    steps: BTreeMap<String, super::StepState>,
    members: HashMap<(String, u32), super::MemberState>,
}

impl Store {
    fn write(&mut self, changes: Changes) {
        self.workflow = changes.workflow.or(self.workflow.take());
        self.steps.extend(changes.steps.into_iter().map(|step| (step.name.clone(), step)));
        self.members.extend(changes.members.into_iter().map(|(step, at, row)| ((step, at), row)));
    }

    fn apply(&mut self, input: &Input) -> Result<Vec<Action>, super::Refusal> {
        let mut snapshot = Snapshot::new(self.workflow.clone().unwrap());
        for _ in 0..50 {
            match snapshot.apply(input) {
                Ok(actions) => {
                    self.write(snapshot.take_changes());
                    return Ok(actions);
                }
                Err(ApplyError::Refused(refusal)) => return Err(refusal),
                Err(ApplyError::Missing(loads)) => loads.iter().for_each(|load| self.load(load, &mut snapshot)),
            }
        }
        panic!("it asks for rows again and again");
    }

    fn load(&self, load: &Load, snapshot: &mut Snapshot) {
        let rows = Changes {
            workflow: None,
            steps: self.steps.values().cloned().collect(),
            members: self.members.iter().map(|((step, at), row)| (step.clone(), *at, row.clone())).collect(),
            added: Vec::new(),
        };
        rows.answer(load, snapshot);
    }
}

fn name(step: usize) -> String {
    format!("s{step}")
}

fn workflow_of(defs: &[Def], on_failure: bool) -> Workflow {
    let job = || NewJob::raw("task", "tasks", "{}");
    let mut workflow = Workflow::new("model");
    for (step, def) in defs.iter().enumerate() {
        workflow = match def.group {
            None => workflow.step(name(step), job()),
            Some(size) => {
                let json: crate::workflow::Steps = serde_json::from_value(serde_json::json!({
                    name(step): {"job": "task", "queue": "tasks", "each": vec![serde_json::json!({}); size as usize]}
                }))
                .unwrap();
                workflow.steps.list.extend(json.list);
                workflow
            }
        };
        workflow =
            workflow.if_failed(def.if_failed).after(def.after.iter().map(|step| name(*step)).collect::<Vec<_>>());
        if def.compensate {
            workflow = workflow.compensate(job());
        }
    }
    if on_failure { workflow.on_failure(job()) } else { workflow }
}

/// The engine twice, with the lives of the jobs.
struct Twice {
    all: Snapshot,
    store: Store,
    lives: HashMap<Job, u32>,
    defs: Vec<Def>,
    clock: u64,
    /// The times of the replays of each job's life.
    replays: HashMap<Job, u64>,
}

impl Twice {
    fn apply(&mut self, input: &Input) -> Result<Vec<Job>, super::Refusal> {
        let actions = self.store.apply(input);
        let same = self.all.apply(input).map_err(|error| match error {
            ApplyError::Refused(refusal) => refusal,
            ApplyError::Missing(loads) => panic!("all rows are in memory, and {loads:?} are missing"),
        });
        assert_eq!(actions, same, "the rows that it asks for are enough");
        actions.map(|actions| self.published(actions))
    }

    fn published(&mut self, actions: Vec<Action>) -> Vec<Job> {
        let mut jobs = Vec::new();
        for action in actions {
            let index = |step: &str| step[1..].parse::<usize>().unwrap();
            let (published, life) = match action {
                Action::Publish { step, members, life } => {
                    (members.map(|member| Job::Step(index(&step), member)).collect(), life)
                }
                Action::Compensate { step, life } => (vec![Job::Undo(index(&step))], life),
                Action::OnFailure { life } => (vec![Job::OnFailure], life),
                Action::CancelJobs | Action::Alarm(_) | Action::Ended(_) => continue,
            };
            for job in published {
                self.lives.insert(job.clone(), life);
                jobs.push(job);
            }
        }
        jobs.sort();
        jobs
    }

    fn end(&self, job: &Job, outcome: u8, replayed_at: Option<u64>) -> Input {
        let (step, member, role) = match job {
            Job::Step(step, member) => (name(*step), self.defs[*step].group.map(|_| *member), Role::Step),
            Job::Undo(step) => (name(*step), None, Role::Compensation),
            Job::OnFailure => (String::new(), None, Role::OnFailure),
        };
        let replayed_at = replayed_at.or(self.replays.get(job).copied());
        Input::End(StepEnd {
            of: StepRef { workflow: "w".into(), step, member, role, life: self.lives[job] },
            origin: "o".into(),
            attempt: 1,
            started_at: None,
            at: SystemTime::UNIX_EPOCH,
            replayed_at: replayed_at.map(|at| SystemTime::UNIX_EPOCH + Duration::from_millis(at)),
            worker: None,
            outcome: match outcome {
                0 => StepOutcome::completed(),
                1 => StepOutcome::failed("error", "no"),
                _ => StepOutcome::Cancelled,
            },
        })
    }
}

/// Applies an input to both, and returns what the interpreter publishes, or `None` if it refuses the input.
fn step(op: &Op, model: &mut Model, engine: &mut Twice) -> Option<(Input, Option<Vec<Job>>)> {
    let pick = |jobs: Vec<Job>, at: u16| (!jobs.is_empty()).then(|| jobs[usize::from(at) % jobs.len()].clone());
    let is_open = !model.ended && model.undone.is_empty();
    let (input, accepted) = match op {
        Op::End(at, outcome) => {
            let job = pick(model.running(), *at)?;
            model.end(&job, *outcome);
            (engine.end(&job, *outcome, None), true)
        }
        Op::Again(at, outcome) => {
            let running = model.running();
            let mut ended: Vec<_> = engine.lives.keys().filter(|job| !running.contains(job)).cloned().collect();
            ended.sort();
            (engine.end(&pick(ended, *at)?, *outcome, None), false)
        }
        Op::Replay(at, outcome) => {
            let job = pick(model.revivable(), *at)?;
            engine.clock += 1;
            engine.replays.insert(job.clone(), engine.clock);
            model.ended = false;
            model.end(&job, *outcome);
            (engine.end(&job, *outcome, Some(engine.clock)), true)
        }
        Op::Pause | Op::Resume => {
            let accepted = !model.ended;
            if accepted {
                model.paused = matches!(op, Op::Pause);
            }
            (if matches!(op, Op::Pause) { Input::Pause } else { Input::Resume }, accepted)
        }
        Op::Cancel => {
            let accepted = model.cancelled || is_open;
            if accepted && !model.cancelled {
                model.cancelled = true;
                model.ended = !model.has_compensations();
            }
            (Input::Cancel, accepted)
        }
        Op::Deadline => {
            if is_open && !model.cancelled && !model.late {
                (model.late, model.paused) = (true, false);
            }
            (Input::DeadlinePassed, is_open)
        }
        Op::Retry | Op::Skip => {
            return Some(command(matches!(op, Op::Retry), model, engine));
        }
    };
    let mut published = model.advance();
    published.sort();
    Some((input, accepted.then_some(published)))
}

/// Applies an operator's retry or skip to both.
fn command(is_retry: bool, model: &mut Model, engine: &mut Twice) -> (Input, Option<Vec<Job>>) {
    let input = if is_retry { Input::Retry(Which::All) } else { Input::Skip(Which::All) };
    if model.alarm {
        model.alarm = false;
        let again = model.undoing.clone().filter(|_| is_retry);
        if again.is_some() {
            return (input, Some(again.into_iter().collect()));
        }
        model.undoing = None;
        return (input, Some(model.advance()));
    }
    let jobs = model.revivable();
    let accepted = !jobs.is_empty();
    for job in &jobs {
        let Job::Step(step, member) = job else { continue };
        engine.replays.remove(job);
        model.members[*step][*member as usize] = if is_retry { State::Running } else { State::Skipped };
        model.ended = false;
    }
    let mut published = if is_retry { jobs } else { Vec::new() };
    published.extend(model.advance());
    published.sort();
    (input, accepted.then_some(published))
}

fn defs() -> impl Strategy<Value = Vec<Def>> {
    let modes = prop_oneof![3 => Just(IfFailed::Fail), 1 => Just(IfFailed::Skip), 1 => Just(IfFailed::Wait)];
    let group = prop_oneof![3 => Just(None), 1 => (0..4_u32).prop_map(Some)];
    let one = (prop::collection::vec(any::<prop::sample::Index>(), 0..3), group, modes, prop::bool::weighted(0.3));
    prop::collection::vec(one, 1..9).prop_map(|steps| {
        let made = steps.into_iter().enumerate().map(|(step, (after, group, if_failed, compensate))| {
            let mut after: Vec<_> = after.iter().filter(|_| step > 0).map(|at| at.index(step)).collect();
            after.sort_unstable();
            after.dedup();
            Def { after, group, if_failed, compensate }
        });
        made.collect()
    })
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let outcome = || prop_oneof![8 => Just(0_u8), 2 => Just(1), 1 => Just(2)];
    let op = prop_oneof![
        20 => (any::<u16>(), outcome()).prop_map(|(at, outcome)| Op::End(at, outcome)),
        3 => (any::<u16>(), outcome()).prop_map(|(at, outcome)| Op::Again(at, outcome)),
        2 => (any::<u16>(), outcome()).prop_map(|(at, outcome)| Op::Replay(at, outcome)),
        1 => Just(Op::Pause),
        2 => Just(Op::Resume),
        1 => Just(Op::Cancel),
        1 => Just(Op::Deadline),
        2 => Just(Op::Retry),
        1 => Just(Op::Skip),
    ];
    prop::collection::vec(op, 0..60)
}

proptest! {
    #[test]
    fn the_engine_does_what_the_definition_says(defs in defs(), on_failure: bool, ops in ops()) {
        let workflow = workflow_of(&defs, on_failure);
        prop_assert_eq!(workflow.check(), Ok(()));
        let mut model = Model::new(defs.clone(), on_failure);
        let (mut all, actions) = Snapshot::begin(&workflow, "w", "o");
        let mut store = Store::default();
        store.write(all.take_changes());
        let (lives, replays) = (HashMap::new(), HashMap::new());
        let mut engine = Twice { all, store, lives, defs, clock: 0, replays };
        let mut expected = model.advance();
        expected.sort();
        prop_assert_eq!(engine.published(actions), expected);
        // After the inputs, all that runs succeeds, and an operator retries what waits: so no workflow stands still.
        let rest = std::iter::once(Op::Resume).chain((0..200).map(|at| if at % 20 == 19 { Op::Retry } else { Op::End(0, 0) }));
        for op in ops.into_iter().chain(rest) {
            let Some((input, expected)) = step(&op, &mut model, &mut engine) else { continue };
            let applied = engine.apply(&input);
            prop_assert_eq!(applied.as_ref().ok(), expected.as_ref(), "{:?}: {:?}", op, applied);
            prop_assert_eq!(engine.all.workflow().status(), model.status(), "{:?}", op);
            prop_assert_eq!(engine.all.workflow().running, model.running().len() as u64, "{:?}", op);
        }
        prop_assert!(model.status().is_end(), "{:?}", model.status());
    }
}
