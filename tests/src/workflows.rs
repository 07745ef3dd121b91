//! Random workflows of the fault suite's load, and the audit of what ran: by an interpreter of the definition that knows
//! nothing of the engine.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use leveret::{
    Job, NewJob,
    workflow::{IfFailed, Workflow},
};

use crate::load::{End, Line, Load, What, now_us};

/// The most steps of a workflow, and members of a group.
const MOST_STEPS: usize = 8;
const MOST_MEMBERS: usize = 6;

/// A step of a planned workflow.
#[derive(Clone, Debug)]
struct PlannedStep {
    /// Steps before it.
    after: Vec<usize>,
    is_group: bool,
    /// For each job, how often it fails before its end, and the end.
    jobs: Vec<(u32, End)>,
    /// True if the workflow goes on without it.
    is_skipped: bool,
    is_compensated: bool,
}

/// A workflow whose course is known beforehand.
#[derive(Clone, Debug)]
pub struct PlannedWorkflow {
    id: String,
    steps: Vec<PlannedStep>,
    has_on_failure: bool,
}

/// The runs of the jobs of all workflows, by the files of the workers.
#[derive(Debug, Default)]
pub struct WorkflowRuns {
    runs: BTreeMap<String, Runs>,
}

#[derive(Debug, Default)]
struct Runs {
    first_start: Option<u64>,
    /// The first time at which it was done, or failed for good.
    first_end: Option<(u64, bool)>,
    starts: usize,
    /// Deliveries of the first attempt that are no redeliveries: more than one only if a publish was repeated.
    published: usize,
}

/// The end of a workflow, as the server knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Completed,
    Failed,
}

fn name(step: usize) -> String {
    format!("s{step}")
}

fn job(queue: &str, fails: u32, end: End, work_ms: u64) -> NewJob {
    let load = Load { made_us: now_us(), work_ms, fails, end };
    NewJob::raw(Load::NAME, queue, serde_json::to_string(&load).unwrap())
}

impl PlannedWorkflow {
    /// Draws a workflow.
    #[must_use]
    pub fn random(random: &mut Rng, id: String) -> Self {
        let count = random.usize(1..=MOST_STEPS);
        let steps = (0..count).map(|step| {
            let is_group = random.f64() < 0.3;
            let jobs = if is_group { random.usize(1..=MOST_MEMBERS) } else { 1 };
            PlannedStep {
                after: (0..step).filter(|_| random.f64() < 0.4).collect(),
                is_group,
                jobs: (0..jobs)
                    .map(|_| {
                        let fails = u32::from(random.f64() < 0.1);
                        (fails, if random.f64() < 0.04 { End::GivenUp } else { End::Done })
                    })
                    .collect(),
                is_skipped: random.f64() < 0.25,
                is_compensated: random.f64() < 0.4,
            }
        });
        Self { id, steps: steps.collect(), has_on_failure: random.bool() }
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the definition, whose jobs are for this queue.
    pub fn definition(&self, queue: &str) -> Workflow {
        let mut workflow = Workflow::new("planned").id(self.id.as_str());
        for (at, step) in self.steps.iter().enumerate() {
            let mut jobs = step.jobs.iter().map(|(fails, end)| job(queue, *fails, *end, 3));
            workflow = match jobs.next() {
                Some(first) if !step.is_group => workflow.step(name(at), first),
                first => workflow.steps(name(at), first.into_iter().chain(jobs)),
            };
            workflow = workflow.after(step.after.iter().map(|before| name(*before)).collect::<Vec<_>>());
            if step.is_skipped {
                workflow = workflow.if_failed(IfFailed::Skip);
            }
            if step.is_compensated {
                workflow = workflow.compensate(job(queue, 0, End::Done, 1));
            }
        }
        if self.has_on_failure { workflow.on_failure(job(queue, 0, End::Done, 1)) } else { workflow }
    }

    /// The number of its jobs, without those that undo.
    #[must_use]
    pub fn jobs(&self) -> usize {
        self.steps.iter().map(|step| step.jobs.len()).sum()
    }

    fn ids(&self, step: usize) -> Vec<String> {
        let of = |member: usize| match self.steps[step].is_group {
            true => format!("{}:{}:{member}", self.id, name(step)),
            false => format!("{}:{}", self.id, name(step)),
        };
        (0..self.steps[step].jobs.len()).map(of).collect()
    }

    fn compensation(&self, step: usize) -> String {
        format!("{}:{}:compensation", self.id, name(step))
    }

    fn on_failure(&self) -> String {
        format!("{}::on_failure", self.id)
    }

    /// Returns the faults in the runs of this workflow, which has ended in this way.
    #[must_use]
    pub fn audit(&self, ended: Ended, runs: &WorkflowRuns) -> Vec<String> {
        let mut audit = Audit { plan: self, runs, faults: Vec::new() };
        audit.order();
        let undoing = match ended {
            Ended::Completed => audit.completed(),
            Ended::Failed => audit.failed(),
        };
        audit.strangers(&undoing);
        audit.faults.into_iter().map(|fault| format!("{}: {fault}; {ended:?} {self:?}", self.id)).collect()
    }
}

/// The audit of one workflow.
struct Audit<'a> {
    plan: &'a PlannedWorkflow,
    runs: &'a WorkflowRuns,
    faults: Vec<String>,
}

impl Audit<'_> {
    fn steps(&self) -> std::ops::Range<usize> {
        0..self.plan.steps.len()
    }

    fn start(&self, id: &str) -> Option<u64> {
        self.runs.runs.get(id)?.first_start
    }

    fn end(&self, id: &str) -> Option<(u64, bool)> {
        self.runs.runs.get(id)?.first_end
    }

    /// The time of a step's end, if it ended so that the workflow may go on.
    fn good(&self, step: usize) -> Option<u64> {
        let ends = self.plan.ids(step).iter().map(|id| self.end(id)).collect::<Option<Vec<_>>>()?;
        let is_good = ends.iter().all(|(_, is_done)| *is_done || self.plan.steps[step].is_skipped);
        is_good.then(|| ends.iter().map(|(at, _)| *at).max().unwrap_or(0))
    }

    fn has_end(&self, step: usize, is_done: bool) -> bool {
        self.plan.ids(step).iter().any(|id| self.end(id).is_some_and(|(_, done)| done == is_done))
    }

    fn has_failed(&self) -> bool {
        self.steps().any(|step| !self.plan.steps[step].is_skipped && self.has_end(step, false))
    }

    /// No step runs before its predecessors have ended.
    fn order(&mut self) {
        for step in self.steps() {
            for id in self.plan.ids(step) {
                let Some(started) = self.start(&id) else { continue };
                let early = |before: &&usize| self.good(**before).is_none_or(|ended| ended > started);
                let early = self.plan.steps[step].after.iter().find(early);
                self.faults.extend(early.map(|before| format!("{id} ran before {} had ended", name(*before))));
            }
        }
    }

    fn completed(&mut self) -> BTreeSet<String> {
        if self.has_failed() {
            self.faults.push("a step failed for good".to_owned());
        }
        let open: Vec<_> = self.steps().filter(|step| self.good(*step).is_none()).collect();
        self.faults.extend(open.into_iter().map(|step| format!("{} did not run to its end", name(step))));
        BTreeSet::new()
    }

    /// Returns the jobs that undo.
    fn failed(&mut self) -> BTreeSet<String> {
        if !self.has_failed() {
            self.faults.push("no step failed for good".to_owned());
        }
        let is_undone = |step: &usize| self.plan.steps[*step].is_compensated && self.has_end(*step, true);
        let undone: Vec<_> = self.steps().filter(is_undone).collect();
        let mut undoing: BTreeSet<_> = undone.iter().map(|step| self.plan.compensation(*step)).collect();
        undoing.extend(self.plan.has_on_failure.then(|| self.plan.on_failure()));
        let missing = undoing.iter().filter(|id| !matches!(self.end(id), Some((_, true))));
        let mut faults: Vec<_> = missing.map(|id| format!("{id} did not run")).collect();
        for step in &undone {
            let ended = self.end(&self.plan.compensation(*step)).map(|(ended, _)| ended);
            let is_early = |before: &&usize| {
                let started = self.start(&self.plan.compensation(**before));
                undone.contains(before) && started.zip(ended).is_some_and(|(started, ended)| started < ended)
            };
            let early = self.plan.steps[*step].after.iter().find(is_early);
            faults.extend(early.map(|before| format!("{} was undone before {}", name(*before), name(*step))));
        }
        self.faults.extend(faults);
        undoing
    }

    /// No other job runs.
    fn strangers(&mut self, undoing: &BTreeSet<String>) {
        let of_steps: BTreeSet<_> = self.steps().flat_map(|step| self.plan.ids(step)).collect();
        let ran = self.runs.of(&self.plan.id).map(|(id, _)| id);
        let strangers = ran.filter(|id| !of_steps.contains(*id) && !undoing.contains(*id));
        self.faults.extend(strangers.map(|id| format!("{id} should not have run")));
    }
}

impl WorkflowRuns {
    /// Adds a line of a worker's file.
    pub fn read(&mut self, line: &Line) {
        let runs = self.runs.entry(line.id.clone()).or_default();
        let earlier = |known: Option<u64>| Some(known.map_or(line.at_us, |known| known.min(line.at_us)));
        match line.what {
            What::Start => {
                runs.first_start = earlier(runs.first_start);
                runs.starts += 1;
                runs.published += usize::from(line.attempt == 1 && !line.redelivered);
            }
            What::Done => runs.ends(line.at_us, true),
            // A first failure is planned only for jobs that succeed later.
            What::Fail => runs.ends(line.at_us, false),
            _ => {}
        }
    }

    /// The number of jobs that ran, and of those that ran more than once.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.runs.len(), self.runs.values().filter(|runs| runs.published > 1).count())
    }

    /// The history of a workflow as text.
    #[must_use]
    pub fn history(&self, id: &str) -> String {
        self.of(id).map(|(job, runs)| format!("{job}: {runs:?}\n")).collect()
    }

    /// The jobs of a workflow.
    fn of(&self, id: &str) -> impl Iterator<Item = (&String, &Runs)> {
        let prefix = format!("{id}:");
        self.runs.range(prefix.clone()..).take_while(move |(job, _)| job.starts_with(&prefix))
    }
}

impl Runs {
    /// A success counts rather than the failures before it.
    fn ends(&mut self, at: u64, is_done: bool) {
        let is_first = match self.first_end {
            None => true,
            Some((known, was_done)) => (is_done && !was_done) || (is_done == was_done && at < known),
        };
        if is_first {
            self.first_end = Some((at, is_done));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(jobs: [&[End]; 3], after: [&[usize]; 3]) -> PlannedWorkflow {
        let step = |(ends, after): (&[End], &[usize])| PlannedStep {
            after: after.to_vec(),
            is_group: ends.len() != 1,
            jobs: ends.iter().map(|end| (0, *end)).collect(),
            is_skipped: false,
            is_compensated: true,
        };
        let steps = jobs.into_iter().zip(after).map(step).collect();
        PlannedWorkflow { id: "w".to_owned(), steps, has_on_failure: true }
    }

    fn runs(lines: &[&str]) -> WorkflowRuns {
        let mut runs = WorkflowRuns::default();
        lines.iter().for_each(|line| runs.read(&line.parse().unwrap()));
        runs
    }

    fn faults(plan: &PlannedWorkflow, ended: Ended, lines: &[&str]) -> Vec<String> {
        let faults = plan.audit(ended, &runs(lines));
        faults.iter().map(|fault| fault.split(';').next().unwrap().trim_start_matches("w: ").to_owned()).collect()
    }

    #[test]
    fn a_workflow_that_completed_ran_all_jobs_in_their_order() {
        let plan = plan([&[End::Done], &[End::Done, End::Done], &[End::Done]], [&[], &[0], &[1]]);
        let whole = [
            "1 start 7 1 false 0 w:s0",
            "2 done 7 1 false 0 w:s0",
            "3 start 7 1 false 0 w:s1:0",
            "3 start 8 1 false 0 w:s1:1",
            "4 done 7 1 false 0 w:s1:0",
            "6 done 8 1 false 0 w:s1:1",
            "7 start 7 1 false 0 w:s2",
            "8 done 7 1 false 0 w:s2",
        ];
        assert!(faults(&plan, Ended::Completed, &whole).is_empty());
        assert_eq!(faults(&plan, Ended::Completed, &whole[..7]), ["s2 did not run to its end"]);
        let early = [&whole[..6], &["5 start 7 1 false 0 w:s2", "8 done 7 1 false 0 w:s2"]].concat();
        assert_eq!(faults(&plan, Ended::Completed, &early), ["w:s2 ran before s1 had ended"]);
        let more = [&whole[..], &["9 start 7 1 false 0 w:s0:compensation"]].concat();
        assert_eq!(faults(&plan, Ended::Completed, &more), ["w:s0:compensation should not have run"]);
        assert_eq!(faults(&plan, Ended::Failed, &whole)[0], "no step failed for good");
    }

    #[test]
    fn a_workflow_that_failed_undid_what_had_succeeded_in_reverse() {
        let plan = plan([&[End::Done], &[End::Done], &[End::GivenUp]], [&[], &[0], &[1]]);
        let lines = |first: &str, second: &str| {
            let undo = |at: u32, step: &str| {
                [format!("{at} start 7 1 false 0 {step}"), format!("{} done 7 1 false 0 {step}", at + 1)]
            };
            let steps = [undo(1, "w:s0"), undo(3, "w:s1")].concat();
            let failed = ["5 start 7 1 false 0 w:s2".to_owned(), "6 fail 7 1 false 0 w:s2".to_owned()];
            let undone = [undo(7, first), undo(9, second), undo(11, "w::on_failure")].concat();
            [steps, failed.to_vec(), undone].concat()
        };
        let faults = |lines: Vec<String>| {
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            faults(&plan, Ended::Failed, &lines)
        };
        assert!(faults(lines("w:s1:compensation", "w:s0:compensation")).is_empty());
        assert_eq!(faults(lines("w:s0:compensation", "w:s1:compensation")), ["s0 was undone before s1"]);
        let mut without = lines("w:s1:compensation", "w:s0:compensation");
        without.truncate(10);
        assert_eq!(faults(without), ["w::on_failure did not run"]);
    }
}
