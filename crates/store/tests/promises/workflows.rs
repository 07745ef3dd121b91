//! Workflows in the store: each promise on both databases.

mod course;
mod ends;
mod outbox;

use leveret::{
    NewJob,
    time::at_unix_ms,
    workflow::{
        IfFailed, Role, StepEnd, StepOutcome, StepRef, Steps, Workflow,
        engine::{Input, MemberEnd, Refusal, Status, StepPhase, Waiting, Which},
    },
};
use leveret_store::{
    AppliedWorkflows, AuditStamp, BlockedMessage, DeadFilter, DeadSource, InputOutcome, NewDead, NewWorkflow,
    Retention, Store, WorkflowFilter, WorkflowInput, WorkflowMessage, WorkflowPublishes, WorkflowSums,
};

use crate::database::{DAY, Database, NOW, OpenStore};

fn job() -> NewJob {
    NewJob::raw("task", "tasks", r#"{"n":1}"#)
}

fn start(workflow: Workflow) -> WorkflowInput {
    WorkflowInput::Start(Box::new(NewWorkflow::new(workflow)))
}

fn input(workflow: &str, input: Input) -> WorkflowInput {
    WorkflowInput::Input { workflow: workflow.into(), input: Box::new(input) }
}

/// The ends of jobs of one workflow, which carry its origin.
struct Ends {
    origin: String,
}

impl Ends {
    async fn of(store: &Store, id: &str) -> Self {
        Self { origin: store.workflow(id).await.unwrap().unwrap().state.origin }
    }

    fn end(&self, of: &StepRef, outcome: StepOutcome) -> WorkflowInput {
        let end = StepEnd {
            of: of.clone(),
            origin: self.origin.clone(),
            attempt: 1,
            started_at: Some(at_unix_ms(NOW - 5)),
            at: at_unix_ms(NOW),
            replayed_at: None,
            worker: Some("host:7".into()),
            outcome,
        };
        input(&of.workflow, Input::End(end))
    }

    fn done(&self, of: &StepRef, result: &str) -> WorkflowInput {
        let result = serde_json::value::RawValue::from_string(result.to_owned()).unwrap();
        let outcome = StepOutcome::Completed { result: Some(result), too_large: None, add: Default::default() };
        self.end(of, outcome)
    }
}

async fn apply(store: &Store, inputs: Vec<WorkflowInput>) -> AppliedWorkflows {
    store.apply_workflows(inputs, NOW).await.unwrap()
}

/// Publishes messages as a server does, and returns the ids of the jobs and their headers of results.
async fn publish(store: &Store, messages: Vec<WorkflowMessage>) -> Vec<String> {
    let mut ids = Vec::new();
    for (message, content) in messages.clone().into_iter().zip(store.workflow_publishes(&messages, 500).await.unwrap())
    {
        match content {
            WorkflowPublishes::Jobs(jobs) => ids.extend(jobs.iter().map(|job| job.end.of.to_string())),
            WorkflowPublishes::Cancel(id) => ids.push(format!("cancel {id}")),
            WorkflowPublishes::Ends(ends) => ids.extend(ends.iter().map(|end| format!("end {}", end.of))),
            WorkflowPublishes::Unreadable(reason) => panic!("{reason}"),
            WorkflowPublishes::Nothing => {}
        }
        let jobs = message.jobs();
        store.workflow_published(&[(message, jobs)], NOW).await.unwrap();
    }
    ids
}

/// Records that the queue `absent` does not exist.
async fn block(store: &Store, message: &WorkflowMessage, due_at: u64) {
    let (queue, error) = (Some("absent".to_owned()), "no such queue".to_owned());
    store.workflows_blocked(&[BlockedMessage { message: message.clone(), queue, error, due_at }]).await.unwrap();
}

async fn status(store: &Store, id: &str) -> Status {
    store.workflow(id).await.unwrap().unwrap().status()
}
