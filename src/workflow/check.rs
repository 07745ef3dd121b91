//! The checks of a workflow before its start, and of the steps that a running step adds.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use crate::{
    message::{COPY_HEADER_LIMIT, LONGEST_NAME, step::StepRef, truncated},
    names,
    workflow::{
        WorkflowError,
        definition::{JobSpec, Step, Steps, Workflow},
        results::RESULTS_LIMIT,
    },
};

/// The largest definition, in bytes of JSON.
pub const DEFINITION_LIMIT: usize = 8 * 1024 * 1024;
/// The most jobs of a definition: its steps, and the members of its groups. Payloads of one byte would otherwise be four
/// million jobs, which no server holds in memory.
pub const JOBS_LIMIT: usize = 100_000;
/// Bytes of headers that are left for what a step's message and its copies carry beside the options of its publisher.
const HEADERS_OF_STEP: usize = RESULTS_LIMIT + 8 * 1024;
const MOST_LABELS: usize = 32;
const LONGEST_DEADLINE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

impl Workflow {
    /// Checks everything that is known before the start: names, order, jobs and their options, sizes. A job without a queue
    /// is no fault; see [`check_queues`](Self::check_queues).
    ///
    /// # Errors
    ///
    /// The first fault, with the step that has it.
    pub fn check(&self) -> Result<(), WorkflowError> {
        named("the workflow", &self.name, names::workflow)?;
        if let Some(id) = &self.id {
            names::workflow_id(id).map_err(|reason| WorkflowError::Id { id: bounded(id), reason })?;
        }
        self.steps.check_each()?;
        if self.steps.is_empty() {
            return Err(WorkflowError::Empty);
        }
        if let Some((step, _)) = self.steps.list.iter().find(|(_, step)| !step.before.is_empty()) {
            return Err(WorkflowError::BeforeInWorkflow { step: step.clone() });
        }
        self.steps.check_order()?;
        if let Some(job) = &self.on_failure {
            job.check("on_failure")?;
        }
        if let Some(deadline) = self.deadline
            && (deadline.is_zero() || deadline >= LONGEST_DEADLINE)
        {
            return Err(WorkflowError::Deadline { seconds: deadline.as_secs() });
        }
        for (count, (name, text)) in self.labels.iter().enumerate() {
            let is_shown = !name.chars().chain(text.chars()).any(char::is_control);
            if count >= MOST_LABELS || text.len() > 255 || name.is_empty() || name.len() > 64 || !is_shown {
                return Err(WorkflowError::Label { name: bounded(name) });
            }
        }
        self.to_json().map(drop)
    }

    /// Checks that each job has a queue, which only a server can add.
    ///
    /// # Errors
    ///
    /// [`WorkflowError::NoQueue`].
    pub fn check_queues(&self) -> Result<(), WorkflowError> {
        let missing = |step: &str, job: &str| WorkflowError::NoQueue { step: step.to_owned(), job: job.to_owned() };
        for (name, step) in self.steps.iter() {
            if step.queue.is_none() {
                return Err(missing(name, &step.job));
            }
            if let Some(job) = step.compensate.as_deref().filter(|job| job.queue.is_none()) {
                return Err(missing(name, &job.job));
            }
        }
        match self.on_failure.as_ref().filter(|job| job.queue.is_none()) {
            Some(job) => Err(missing("on_failure", &job.job)),
            None => Ok(()),
        }
    }

    /// Sets the queue of each job without one to the result of `queue_of` for its name.
    pub fn fill_queues(&mut self, queue_of: impl Fn(&str) -> Option<String>) {
        self.steps.fill_queues(&queue_of);
        self.on_failure.iter_mut().for_each(|job| job.fill_queue(&queue_of));
    }

    /// Returns the definition as JSON, in the form in which it is published.
    ///
    /// # Errors
    ///
    /// [`WorkflowError::TooLarge`], or the mistake of the code that built it.
    pub fn to_json(&self) -> Result<Vec<u8>, WorkflowError> {
        if let Some(fault) = &self.steps.fault {
            return Err(fault.clone());
        }
        // This cannot fail: the fields are texts, and JSON that was parsed before.
        let json = serde_json::to_vec(self).unwrap_or_default();
        if json.len() <= DEFINITION_LIMIT {
            return Ok(json);
        }
        let step = self.steps.largest(Step::payload_size);
        Err(WorkflowError::TooLarge { step, size: json.len(), limit: DEFINITION_LIMIT })
    }

    /// Returns the JSON Schema of a definition (draft 2020-12).
    ///
    /// ```
    /// let schema = leveret::workflow::Workflow::schema();
    /// assert_eq!(schema["required"], serde_json::json!(["name", "steps"]));
    /// ```
    #[must_use]
    pub fn schema() -> serde_json::Value {
        serde_json::from_str(include_str!("schema.json")).unwrap_or_default()
    }

    /// Returns whether both are the same definition, apart from whitespace and the order of members.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        let value = |workflow: &Self| serde_json::to_value(workflow).ok();
        value(self).is_some_and(|this| Some(this) == value(other))
    }
}

impl Steps {
    /// Checks steps that step `adder` adds to a workflow, without those of the workflow.
    ///
    /// # Errors
    ///
    /// The first fault, with the step that has it.
    pub fn check_added_by(&self, adder: &str) -> Result<(), WorkflowError> {
        self.check_each()?;
        let names: HashSet<_> = self.list.iter().map(|(name, _)| name.as_str()).collect();
        for (name, step) in &self.list {
            let is_allowed = |after: &&String| after.as_str() == adder || names.contains(after.as_str());
            if name == adder {
                return Err(WorkflowError::TwoOfOneName { step: name.clone() });
            }
            if let Some(after) = step.after.iter().find(|after| !is_allowed(after)) {
                return Err(WorkflowError::AfterOther { step: name.clone(), after: bounded(after) });
            }
            if let Some(before) = step.before.iter().find(|before| is_allowed(before)) {
                return Err(WorkflowError::BeforeAdded { step: name.clone(), before: before.clone() });
            }
        }
        self.find_cycle(|name| name == adder)
    }

    pub(super) fn fill_queues(&mut self, queue_of: &impl Fn(&str) -> Option<String>) {
        for (_, step) in &mut self.list {
            if step.queue.is_none() {
                step.queue = queue_of(&step.job);
            }
            step.compensate.iter_mut().for_each(|job| job.fill_queue(queue_of));
        }
    }

    /// Checks each step without the others.
    fn check_each(&self) -> Result<(), WorkflowError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let jobs = self.list.iter().map(|(_, step)| step.job_count()).sum();
        if jobs > JOBS_LIMIT {
            return Err(WorkflowError::TooManyJobs { step: self.largest(Step::job_count), jobs, limit: JOBS_LIMIT });
        }
        let mut names = HashSet::new();
        for (name, step) in &self.list {
            named("a step", name, names::step)?;
            if !names.insert(name) {
                return Err(WorkflowError::TwoOfOneName { step: name.clone() });
            }
            if step.payload.is_some() && step.each.is_some() {
                return Err(WorkflowError::PayloadAndEach { step: name.clone() });
            }
            step.sample().check(name)?;
            if let Some(job) = &step.compensate {
                job.check(name)?;
            }
        }
        Ok(())
    }

    /// Returns the name of the step with the greatest `size`.
    fn largest(&self, size: impl Fn(&Step) -> usize) -> String {
        let largest = self.list.iter().max_by_key(|(_, step)| size(step));
        largest.map(|(name, _)| name.clone()).unwrap_or_default()
    }

    fn check_order(&self) -> Result<(), WorkflowError> {
        let names: HashSet<_> = self.list.iter().map(|(name, _)| name.as_str()).collect();
        for (name, step) in &self.list {
            if let Some(unknown) = step.after.iter().find(|after| !names.contains(after.as_str())) {
                let mut known: Vec<_> = self.list.iter().take(20).map(|(name, _)| name.as_str()).collect();
                if self.len() > known.len() {
                    known.push("…");
                }
                let (step, unknown, known) = (name.clone(), bounded(unknown), known.join(", "));
                return Err(WorkflowError::UnknownStep { step, relation: "after", unknown, known });
            }
        }
        self.find_cycle(|_| false)
    }

    /// Returns an error with one cycle, if there is any. Steps for which `has_ended` holds do not count.
    fn find_cycle(&self, has_ended: impl Fn(&str) -> bool) -> Result<(), WorkflowError> {
        let index: HashMap<_, _> = self.list.iter().enumerate().map(|(at, (name, _))| (name.as_str(), at)).collect();
        let after =
            |at: usize| self.list[at].1.after.iter().filter(|name| !has_ended(name)).map(|name| index[name.as_str()]);
        let mut waits: Vec<usize> = (0..self.len()).map(|at| after(at).count()).collect();
        let mut successors = vec![Vec::new(); self.len()];
        for at in 0..self.len() {
            after(at).for_each(|before| successors[before].push(at));
        }
        let mut ready: Vec<usize> = (0..self.len()).filter(|at| waits[*at] == 0).collect();
        while let Some(at) = ready.pop() {
            for next in &successors[at] {
                waits[*next] -= 1;
                if waits[*next] == 0 {
                    ready.push(*next);
                }
            }
        }
        let Some(mut at) = waits.iter().position(|waits| *waits > 0) else { return Ok(()) };
        // Each remaining step waits for another remaining step, so this walk returns to a step that it has visited.
        let (mut path, mut places) = (Vec::new(), vec![None; self.len()]);
        let first = loop {
            if let Some(first) = places[at].replace(path.len()) {
                break first;
            }
            path.push(at);
            at = after(at).find(|before| waits[*before] > 0).unwrap_or(at);
        };
        let steps = path[first..].iter().map(|at| self.list[*at].0.clone()).collect();
        Err(WorkflowError::Cycle { steps })
    }
}

impl Step {
    pub(super) fn job_count(&self) -> usize {
        self.each.as_ref().map_or(1, Vec::len)
    }

    fn payload_size(&self) -> usize {
        let single = self.payload.as_deref().map_or(0, |payload| payload.get().len());
        single + self.each.iter().flatten().map(|payload| payload.get().len()).sum::<usize>()
    }

    /// Returns the job of the step with any payload, for checks.
    #[must_use]
    pub fn sample(&self) -> JobSpec {
        let payload = serde_json::value::RawValue::NULL.to_owned();
        JobSpec { job: self.job.clone(), queue: self.queue.clone(), payload, options: self.options.clone() }
    }
}

impl JobSpec {
    fn fill_queue(&mut self, queue_of: &impl Fn(&str) -> Option<String>) {
        if self.queue.is_none() {
            self.queue = queue_of(&self.job);
        }
    }

    /// Checks the job by the rules of a publish.
    fn check(&self, step: &str) -> Result<(), WorkflowError> {
        if self.options.is_published() {
            let reason = "origin and step are set when the step is published".to_owned();
            return Err(WorkflowError::Job { step: step.to_owned(), reason });
        }
        let mut spec = self.clone();
        spec.queue.get_or_insert_with(|| "unknown".to_owned());
        let job = spec.job(StepRef::step("w", "s"), None, "origin", true);
        let checked = job.check_step(COPY_HEADER_LIMIT - HEADERS_OF_STEP);
        checked.map_err(|error| WorkflowError::job(step, &error))
    }
}

fn named(what: &'static str, name: &str, rule: fn(&str) -> Result<(), &'static str>) -> Result<(), WorkflowError> {
    rule(name).map_err(|reason| WorkflowError::Name { what, name: bounded(name), reason })
}

/// Shortens a name for an error: a name that is not checked yet may have megabytes.
fn bounded(name: &str) -> String {
    truncated(name, LONGEST_NAME).to_owned()
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
