//! Workflows in the store: each promise on both databases.

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

leveret_harness::on_both_databases! {
    a_chain_runs_step_by_step_with_the_result_of_the_step_before,
    the_same_definition_is_the_same_workflow_and_another_one_is_a_conflict,
    the_first_end_of_a_life_wins,
    a_group_is_published_in_pages_and_joined_once,
    of_two_servers_each_end_counts_once_and_each_step_is_published_once,
    a_message_is_leased_and_taken_over_after_its_lease,
    a_queue_that_is_missing_is_shown_until_it_exists,
    a_cancelled_workflow_ends_also_if_its_jobs_were_never_published,
    a_failed_step_is_retried_in_its_next_life,
    a_deadline_passes_once,
    retention_deletes_ended_workflows_alone,
    lists_are_narrowed_and_come_in_pages,
    texts_that_no_database_takes_are_refused_alone,
    a_payload_that_is_json_by_its_grammar_alone_is_published_as_it_is,
    a_cancelled_job_that_may_be_published_is_published_again_for_a_worker_to_end,
    of_two_servers_each_adds_its_steps,
    the_jobs_of_a_large_workflow_are_all_counted,
    the_dead_letters_of_a_former_life_are_purged,
}

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

async fn a_chain_runs_step_by_step_with_the_result_of_the_step_before(database: Database) {
    let store = database.open().await;
    let workflow = Workflow::new("order").id("w").label("tenant", "a").step("a", job()).step("b", job()).after("a");
    let applied = apply(&store, vec![start(workflow)]).await;
    assert_eq!((applied.outcomes.as_slice(), applied.messages.len()), ([InputOutcome::Applied].as_slice(), 1));
    assert_eq!(status(&store, "w").await, Status::Pending);
    assert_eq!(publish(&store, applied.messages).await, ["w:a"]);
    assert_eq!(status(&store, "w").await, Status::Running);
    let ends = Ends::of(&store, "w").await;
    let applied = apply(&store, vec![ends.done(&StepRef::step("w", "a"), r#"{"receipt":17}"#)]).await;
    let WorkflowPublishes::Jobs(jobs) = store.workflow_publishes(&applied.messages, 10).await.unwrap().remove(0) else {
        panic!("a job")
    };
    let json = serde_json::to_string(&jobs[0].job).unwrap();
    assert!(json.contains("receipt") && json.contains(r#""payload":"{\"n\":1}""#), "{json}");
    assert_eq!(publish(&store, applied.messages).await, ["w:b"]);
    let applied = apply(&store, vec![ends.done(&StepRef::step("w", "b"), "2")]).await;
    assert_eq!(applied.ended, [("w".to_owned(), Status::Completed)]);
    let found = store.workflow("w").await.unwrap().unwrap();
    assert_eq!((found.status(), found.ended_at, found.labels["tenant"].as_str()), (Status::Completed, Some(NOW), "a"));
    let steps = store.workflow_steps(&found, 0, 10).await.unwrap();
    let names: Vec<_> =
        steps.iter().map(|step| (step.state.name.as_str(), step.state.phase, step.job.as_str())).collect();
    assert_eq!(names, [("a", StepPhase::Ended, "task"), ("b", StepPhase::Ended, "task")]);
    let jobs = store.workflow_jobs(&found, &steps[1], None, 10).await.unwrap().items;
    assert_eq!((jobs[0].result.as_deref(), jobs[0].worker.as_deref()), (Some("2"), Some("host:7")));
    assert!(store.due_workflow_messages(NOW + DAY, 10).await.unwrap().is_empty());
}

async fn the_same_definition_is_the_same_workflow_and_another_one_is_a_conflict(database: Database) {
    let store = database.open().await;
    let one = || Workflow::new("order").id("w").step("a", job());
    let other = Workflow::new("order").id("w").step("b", job());
    let applied = apply(&store, vec![start(one()), start(one()), start(other.clone())]).await;
    assert_eq!(applied.outcomes, [InputOutcome::Applied, InputOutcome::Repeated, InputOutcome::Conflict]);
    assert_eq!(applied.messages.len(), 1);
    let applied = apply(&store, vec![start(other), start(one())]).await;
    assert_eq!(applied.outcomes, [InputOutcome::Conflict, InputOutcome::Repeated]);
    assert!(applied.messages.is_empty() && applied.changed.is_empty());
    assert_eq!(store.workflow("w").await.unwrap().unwrap().conflicts, 2);
}

async fn the_first_end_of_a_life_wins(database: Database) {
    let store = database.open().await;
    let workflow = Workflow::new("order").id("w").step("a", job()).step("b", job()).after("a");
    publish(&store, apply(&store, vec![start(workflow)]).await.messages).await;
    let ends = Ends::of(&store, "w").await;
    let of = || StepRef::step("w", "a");
    let late = InputOutcome::Refused(Refusal::Late);
    let applied = apply(&store, vec![ends.done(&of(), "1"), ends.end(&of(), StepOutcome::failed("error", "no"))]).await;
    assert_eq!(applied.outcomes, [InputOutcome::Applied, late.clone()]);
    assert_eq!(apply(&store, vec![ends.done(&of(), "2")]).await.outcomes, [late]);
    let forged = Ends { origin: "guessed".into() };
    let applied = apply(&store, vec![forged.done(&StepRef::step("w", "b"), "1")]).await;
    assert_eq!(applied.outcomes, [InputOutcome::Refused(Refusal::Foreign)]);
    let found = store.workflow("w").await.unwrap().unwrap();
    let jobs = store.workflow_first_jobs(&found, 0, 10).await.unwrap();
    assert_eq!(
        (jobs.len(), jobs[0].result.as_deref(), &jobs[0].state.end),
        (1, Some("1"), &Some(MemberEnd::Completed))
    );
}

async fn a_group_is_published_in_pages_and_joined_once(database: Database) {
    let mut later = NOW;
    let store = database.open().await;
    let members = (0..1200).map(|n| NewJob::raw("task", "tasks", n.to_string()));
    let workflow = Workflow::new("fan").id("w").steps("each", members).step("join", job()).after("each");
    let mut messages = apply(&store, vec![start(workflow)]).await.messages;
    let mut published = 0;
    while let Some(message) = messages.pop() {
        let content = store.workflow_publishes(std::slice::from_ref(&message), 500).await.unwrap().remove(0);
        let WorkflowPublishes::Jobs(jobs) = content else { panic!("jobs") };
        assert_eq!(jobs[0].end.of, StepRef::member("w", "each", published));
        let json = serde_json::to_string(&jobs[3].job).unwrap();
        assert!(json.contains(&format!("\"payload\":\"{}\"", published + 3)), "{json}");
        let count = u32::try_from(jobs.len()).unwrap();
        published += count;
        store.workflow_published(&[(message.clone(), count)], NOW).await.unwrap();
        let rest = message.without_first(count);
        if rest.jobs() > 0 {
            // A server that is killed here leaves the rest to another one.
            later += DAY;
            let mut due = store.due_workflow_messages(later, 10).await.unwrap();
            assert_eq!((due.len(), due[0].jobs()), (1, rest.jobs()));
            messages.append(&mut due);
        }
    }
    assert_eq!(published, 1200);
    let ends = Ends::of(&store, "w").await;
    for batch in (0..1200).collect::<Vec<u32>>().chunks(400) {
        let inputs = batch.iter().map(|n| ends.done(&StepRef::member("w", "each", *n), &n.to_string())).collect();
        messages.extend(apply(&store, inputs).await.messages);
    }
    assert_eq!(publish(&store, messages).await, ["w:join"]);
    let found = store.workflow("w").await.unwrap().unwrap();
    let step = store.workflow_step(&found, "each").await.unwrap().unwrap();
    let first = store.workflow_jobs(&found, &step, None, 1000).await.unwrap();
    let second = store.workflow_jobs(&found, &step, first.next.as_ref(), 1000).await.unwrap();
    let all: Vec<_> = first.items.iter().chain(&second.items).map(|job| job.result.clone().unwrap()).collect();
    assert_eq!(all, (0..1200).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(second.next.is_none());
}

async fn of_two_servers_each_end_counts_once_and_each_step_is_published_once(database: Database) {
    let (one, two) = (database.open().await, database.open().await);
    let ids: Vec<_> = (0..8).map(|n| format!("w{n}")).collect();
    let workflow = |id: &str| {
        let members = (0..16).map(|_| job());
        Workflow::new("fan").id(id).steps("each", members).step("join", job()).after("each")
    };
    // Both start all workflows, one in the opposite order.
    let starts: Vec<_> = ids.iter().map(|id| start(workflow(id))).collect();
    let (first, second) = tokio::join!(
        one.apply_workflows(starts.clone(), NOW),
        two.apply_workflows(starts.into_iter().rev().collect(), NOW)
    );
    let messages = [first.unwrap().messages, second.unwrap().messages].concat();
    assert_eq!(messages.len(), 8);
    publish(&one, messages).await;
    let mut inputs = Vec::new();
    for id in &ids {
        let ends = Ends::of(&one, id).await;
        inputs.extend((0..16).map(|n| ends.done(&StepRef::member(id.as_str(), "each", n), "1")));
    }
    let reversed: Vec<_> = inputs.iter().rev().cloned().collect();
    let run = async |store: &Store, inputs: Vec<WorkflowInput>| {
        let mut joins = Vec::new();
        for batch in inputs.chunks(10) {
            joins.extend(store.apply_workflows(batch.to_vec(), NOW).await.unwrap().messages);
        }
        joins
    };
    let (first, second) = tokio::join!(run(&one, inputs), run(&two, reversed));
    let mut joins = publish(&one, [first, second].concat()).await;
    joins.sort();
    assert_eq!(joins, ids.iter().map(|id| format!("{id}:join")).collect::<Vec<_>>());
}

async fn a_message_is_leased_and_taken_over_after_its_lease(database: Database) {
    let store = database.open().await;
    let decided = apply(&store, vec![start(Workflow::new("o").id("w").step("a", job()))]).await.messages;
    assert!(store.due_workflow_messages(NOW + 19_000, 10).await.unwrap().is_empty());
    let renewed = store.renew_workflow_messages(decided.clone(), NOW + 19_000).await.unwrap();
    assert_eq!(renewed[0].leased_until, NOW + 39_000);
    assert!(store.due_workflow_messages(NOW + 30_000, 10).await.unwrap().is_empty());
    let due = store.due_workflow_messages(NOW + 40_000, 10).await.unwrap();
    assert_eq!((due[0].id, due[0].attempts), (decided[0].id, 1));
    assert!(store.due_workflow_messages(NOW + 50_000, 10).await.unwrap().is_empty(), "leased again");
    let late = store.renew_workflow_messages(renewed, NOW + 50_000).await.unwrap();
    assert!(late.is_empty(), "another server may have published it");
    assert_eq!(publish(&store, due).await, ["w:a"]);
    assert!(store.due_workflow_messages(NOW + DAY, 10).await.unwrap().is_empty());
}

async fn a_queue_that_is_missing_is_shown_until_it_exists(database: Database) {
    let store = database.open().await;
    let workflow = Workflow::new("o").id("w").step("a", job()).step("b", NewJob::raw("b", "absent", "{}"));
    let messages = apply(&store, vec![start(workflow)]).await.messages;
    let blocked = messages.iter().find(|message| message.jobs() == 1 && message.id != messages[0].id).unwrap();
    block(&store, blocked, NOW + 1000).await;
    publish(&store, vec![messages[0].clone()]).await;
    assert_eq!(status(&store, "w").await, Status::Waiting(Waiting::Queue("absent".into())));
    let found = store.workflow("w").await.unwrap().unwrap();
    let steps = store.workflow_steps(&found, 0, 10).await.unwrap();
    assert_eq!(steps.iter().map(|step| step.blocked_queue.as_deref()).collect::<Vec<_>>(), [None, Some("absent")]);
    let waiting = WorkflowFilter { status: Some("Waiting".into()), ..WorkflowFilter::default() };
    assert_eq!(store.workflows(&waiting, None, 10).await.unwrap().items.len(), 1);
    let counts = store.count_workflows().await.unwrap();
    assert_eq!((counts.by_waiting.get("queue"), counts.unpublished), (Some(&1), 1));
    assert_eq!(counts.unpublished_since, None, "what waits for a queue has an alert of its own");
    // Another one waits for the same queue, for longer.
    let other = Workflow::new("o").id("other").step("b", NewJob::raw("b", "absent", "{}"));
    let messages = apply(&store, vec![start(other)]).await.messages;
    block(&store, &messages[0], NOW + DAY).await;
    let due = store.due_workflow_messages(NOW + 1000, 10).await.unwrap();
    assert_eq!(publish(&store, due).await, ["w:b"]);
    assert_eq!(status(&store, "w").await, Status::Running);
    let due = store.due_workflow_messages(NOW + 1000, 10).await.unwrap();
    assert_eq!(publish(&store, due).await, ["other:b"], "the queue exists, so it need not wait");
    assert!(store.workflows(&waiting, None, 10).await.unwrap().items.is_empty());
}

async fn a_cancelled_workflow_ends_also_if_its_jobs_were_never_published(database: Database) {
    let store = database.open().await;
    let workflow = Workflow::new("o")
        .id("w")
        .step("a", job())
        .compensate(NewJob::raw("undo", "tasks", "{}"))
        .steps("b", (0..3).map(|_| NewJob::raw("b", "absent", "{}")))
        .after("a");
    publish(&store, apply(&store, vec![start(workflow)]).await.messages).await;
    let ends = Ends::of(&store, "w").await;
    let messages = apply(&store, vec![ends.done(&StepRef::step("w", "a"), "1")]).await.messages;
    block(&store, &messages[0], NOW + DAY).await;
    let applied = apply(&store, vec![input("w", Input::Cancel)]).await;
    assert_eq!(publish(&store, applied.messages).await, ["cancel w"]);
    let due = store.due_workflow_messages(NOW, 10).await.unwrap();
    let content = store.workflow_publishes(&due, 10).await.unwrap().remove(0);
    let WorkflowPublishes::Ends(cancelled) = content else { panic!("{content:?}") };
    let inputs = cancelled.into_iter().map(|end| input("w", Input::End(end))).collect();
    let applied = apply(&store, inputs).await;
    publish(&store, due).await;
    assert_eq!(publish(&store, applied.messages).await, ["w:a:compensation"]);
    let of = StepRef { role: Role::Compensation, ..StepRef::step("w", "a") };
    let applied = apply(&store, vec![ends.end(&of, StepOutcome::completed())]).await;
    assert_eq!(applied.ended, [("w".to_owned(), Status::Cancelled)]);
    assert_eq!(status(&store, "w").await, Status::Cancelled);
    assert!(store.due_workflow_messages(NOW + DAY, 10).await.unwrap().is_empty());
}

async fn a_failed_step_is_retried_in_its_next_life(database: Database) {
    let store = database.open().await;
    let members = (0..3).map(|_| job());
    let workflow = Workflow::new("o").id("w").steps("a", members).if_failed(IfFailed::Wait).step("b", job()).after("a");
    publish(&store, apply(&store, vec![start(workflow)]).await.messages).await;
    let ends = Ends::of(&store, "w").await;
    let member = |n| StepRef::member("w", "a", n);
    let failed = StepOutcome::failed("permanent", "no\0paper");
    apply(&store, vec![ends.done(&member(0), "1"), ends.end(&member(1), failed.clone()), ends.done(&member(2), "1")])
        .await;
    assert_eq!(status(&store, "w").await, Status::Waiting(Waiting::Operator));
    let found = store.workflow("w").await.unwrap().unwrap();
    let step = store.workflow_step(&found, "a").await.unwrap().unwrap();
    let jobs = store.workflow_jobs(&found, &step, None, 10).await.unwrap().items;
    let error = MemberEnd::Failed { kind: "permanent".into(), error: "no\u{fffd}paper".into() };
    assert_eq!(jobs[1].state.end, Some(error));
    let applied = apply(&store, vec![input("w", Input::Retry(Which::Step("a".into())))]).await;
    let content = store.workflow_publishes(&applied.messages, 10).await.unwrap().remove(0);
    let WorkflowPublishes::Jobs(jobs) = content else { panic!("a job") };
    assert_eq!(jobs.iter().map(|job| job.end.of.clone()).collect::<Vec<_>>(), [StepRef { life: 2, ..member(1) }]);
    publish(&store, applied.messages).await;
    let applied =
        apply(&store, vec![ends.end(&member(1), failed), ends.done(&StepRef { life: 2, ..member(1) }, "2")]).await;
    assert_eq!(applied.outcomes, [InputOutcome::Refused(Refusal::Late), InputOutcome::Applied]);
    assert_eq!(publish(&store, applied.messages).await, ["w:b"]);
}

async fn a_deadline_passes_once(database: Database) {
    let store = database.open().await;
    let workflow = Workflow::new("o").id("w").deadline(std::time::Duration::from_secs(60)).step("a", job());
    publish(&store, apply(&store, vec![start(workflow)]).await.messages).await;
    assert!(store.overdue_workflows(NOW + 59_000, 10).await.unwrap().is_empty());
    let overdue = store.overdue_workflows(NOW + 60_000, 10).await.unwrap();
    assert_eq!(overdue, ["w"]);
    let applied = apply(&store, vec![input("w", Input::DeadlinePassed)]).await;
    store.workflow_deadlines_handled(&overdue).await.unwrap();
    assert_eq!(publish(&store, applied.messages).await, ["cancel w"]);
    assert!(store.overdue_workflows(NOW + DAY, 10).await.unwrap().is_empty());
    let ends = Ends::of(&store, "w").await;
    let applied = apply(&store, vec![ends.end(&StepRef::step("w", "a"), StepOutcome::Cancelled)]).await;
    assert_eq!(applied.ended, [("w".to_owned(), Status::Failed)]);
}

async fn retention_deletes_ended_workflows_alone(database: Database) {
    let store = database.open().await;
    let workflow = |id: &str| Workflow::new("o").id(id).step("a", job());
    apply(&store, vec![start(workflow("ended")), start(workflow("open"))]).await;
    let ends = Ends::of(&store, "ended").await;
    apply(&store, vec![ends.done(&StepRef::step("ended", "a"), "1")]).await;
    let later = NOW + 7 * DAY;
    assert_eq!(store.prune(later, &Retention::default()).await.unwrap().workflows, 0);
    assert_eq!(store.prune(later + 1, &Retention::default()).await.unwrap().workflows, 1);
    assert!(store.workflow("ended").await.unwrap().is_none() && store.workflow("open").await.unwrap().is_some());
    let applied = apply(&store, vec![ends.done(&StepRef::step("ended", "a"), "1")]).await;
    assert_eq!(applied.outcomes, [InputOutcome::Unknown]);
    let applied = apply(&store, vec![start(workflow("ended"))]).await;
    assert_eq!(applied.outcomes, [InputOutcome::Applied], "its id is free");
}

async fn lists_are_narrowed_and_come_in_pages(database: Database) {
    let store = database.open().await;
    for n in 0..5u64 {
        let workflow = Workflow::new(if n == 4 { "other" } else { "order" }).id(format!("w{n}")).step("a", job());
        let workflow = if n == 2 { workflow.label("tenant", "b") } else { workflow };
        store.apply_workflows(vec![start(workflow)], NOW + n).await.unwrap();
    }
    let ids = async |filter: WorkflowFilter| {
        let (mut ids, mut after) = (Vec::new(), None);
        loop {
            let page = store.workflows(&filter, after.as_ref(), 2).await.unwrap();
            ids.extend(page.items.into_iter().map(|workflow| workflow.state.id));
            after = page.next;
            if after.is_none() {
                return ids;
            }
        }
    };
    assert_eq!(ids(WorkflowFilter::default()).await, ["w4", "w3", "w2", "w1", "w0"]);
    assert_eq!(ids(WorkflowFilter { name: Some("other".into()), ..Default::default() }).await, ["w4"]);
    let label = Some(("tenant".into(), "b".into()));
    assert_eq!(ids(WorkflowFilter { label, ..Default::default() }).await, ["w2"]);
    let pending = Some("Pending".into());
    assert_eq!(ids(WorkflowFilter { status: pending, ..Default::default() }).await.len(), 5);
    let running = Some("Running".into());
    assert!(ids(WorkflowFilter { status: running, ..Default::default() }).await.is_empty());
}

async fn texts_that_no_database_takes_are_refused_alone(database: Database) {
    let store = database.open().await;
    publish(&store, apply(&store, vec![start(Workflow::new("o").id("w").step("a", job()))]).await.messages).await;
    let ends = Ends::of(&store, "w").await;
    let applied = apply(
        &store,
        vec![
            ends.done(&StepRef::step("w\0", "a"), "1"),
            ends.done(&StepRef::step("w", "a\0"), "1"),
            ends.done(&StepRef::member("w", "a", 7), "1"),
            ends.done(&StepRef::step("w", "a"), r#""\u0000""#),
        ],
    )
    .await;
    let unknown = InputOutcome::Refused(Refusal::UnknownStep);
    assert_eq!(applied.outcomes, [InputOutcome::Unknown, unknown.clone(), unknown, InputOutcome::Applied]);
}

async fn a_payload_that_is_json_by_its_grammar_alone_is_published_as_it_is(database: Database) {
    let store = database.open().await;
    let payloads =
        [r#"{"cut": "\ud83d"}"#.to_owned(), "1e400".to_owned(), format!("{}{}", "[".repeat(200), "]".repeat(200))];
    for (number, payload) in payloads.iter().enumerate() {
        let json = format!(
            r#"{{"name": "o", "id": "w{number}", "steps": {{"a": {{"job": "task", "queue": "tasks", "priority": 3,
                "payload": {payload}}}}}}}"#
        );
        let applied = apply(&store, vec![start(serde_json::from_str(&json).unwrap())]).await;
        let content = store.workflow_publishes(&applied.messages, 10).await.unwrap().remove(0);
        let WorkflowPublishes::Jobs(jobs) = content else { panic!("{content:?}") };
        assert_eq!((jobs[0].job.name(), jobs[0].queue.as_deref()), ("task", Some("tasks")));
        let found = store.workflow(&format!("w{number}")).await.unwrap().unwrap();
        assert_eq!(store.workflow_steps(&found, 0, 10).await.unwrap()[0].job, "task");
    }
}

async fn a_cancelled_job_that_may_be_published_is_published_again_for_a_worker_to_end(database: Database) {
    let store = database.open().await;
    let workflow = Workflow::new("o").id("w").step("a", job()).compensate(job());
    apply(&store, vec![start(workflow)]).await;
    // The server that had it was killed, perhaps after the publish.
    let due = store.due_workflow_messages(NOW + DAY, 10).await.unwrap();
    apply(&store, vec![input("w", Input::Cancel)]).await;
    let content = store.workflow_publishes(&due, 10).await.unwrap().remove(0);
    let WorkflowPublishes::Jobs(jobs) = content else { panic!("{content:?}") };
    assert!(jobs[0].is_cancelled, "where it cannot be, it is not published at all");
    // It had run.
    let ends = Ends::of(&store, "w").await;
    let applied = apply(&store, vec![ends.done(&StepRef::step("w", "a"), "1")]).await;
    assert_eq!(publish(&store, applied.messages).await, ["w:a:compensation"]);
}

async fn of_two_servers_each_adds_its_steps(database: Database) {
    let (one, two) = (database.open().await, database.open().await);
    let workflow = Workflow::new("o").id("w").steps("each", (0..20).map(|_| job())).step("last", job()).after("each");
    publish(&one, apply(&one, vec![start(workflow)]).await.messages).await;
    let ends = Ends::of(&one, "w").await;
    let adding = |member: u32| {
        let add = Steps::new().step(format!("added-{member}"), job()).before("last");
        let outcome = StepOutcome::Completed { result: None, too_large: None, add };
        ends.end(&StepRef::member("w", "each", member), outcome)
    };
    let run = async |store: &Store, members: std::ops::Range<u32>| {
        for member in members {
            assert_eq!(apply(store, vec![adding(member)]).await.outcomes, [InputOutcome::Applied]);
        }
    };
    tokio::join!(run(&one, 0..10), run(&two, 10..20));
    let found = one.workflow("w").await.unwrap().unwrap();
    assert_eq!(one.workflow_steps(&found, 0, 100).await.unwrap().len(), 22);
    assert_eq!(found.status(), Status::Running);
}

async fn the_jobs_of_a_large_workflow_are_all_counted(database: Database) {
    let store = database.open().await;
    let steps = (0..1500).fold(Workflow::new("o").id("w"), |workflow, n| workflow.step(format!("s{n}"), job()));
    let workflow = steps.steps("late", (0..7).map(|_| job())).after("s0");
    publish(&store, apply(&store, vec![start(workflow)]).await.messages).await;
    let ends = Ends::of(&store, "w").await;
    let failed = StepOutcome::failed("permanent", "no");
    let inputs = vec![ends.done(&StepRef::step("w", "s1400"), "1"), ends.end(&StepRef::step("w", "s1401"), failed)];
    apply(&store, inputs).await;
    let found = store.workflow("w").await.unwrap().unwrap();
    let sums = store.workflow_sums(&found).await.unwrap();
    let expected = WorkflowSums { total: 1507, completed: 1, failed: 1, skipped: 0, running: 1498, waiting: 7 };
    assert_eq!(sums, expected);
}

async fn the_dead_letters_of_a_former_life_are_purged(database: Database) {
    let store = database.open().await;
    let workflow = Workflow::new("o").id("w").step("a", job()).if_failed(IfFailed::Wait);
    publish(&store, apply(&store, vec![start(workflow)]).await.messages).await;
    let letter = |hop: u32| NewDead {
        source: DeadSource::Dead,
        queue: "tasks".into(),
        job_id: Some("w:a".into()),
        job: "task".into(),
        kind: "permanent".into(),
        error: "no".into(),
        attempt: 1,
        hop,
        failed_at: None,
        properties: Vec::new(),
        payload: Vec::new(),
    };
    store.ingest(&[letter(1), letter(1_000_001)], NOW).await.unwrap();
    let ends = Ends::of(&store, "w").await;
    apply(&store, vec![ends.end(&StepRef::step("w", "a"), StepOutcome::failed("permanent", "no"))]).await;
    let applied = apply(&store, vec![input("w", Input::Retry(Which::All))]).await;
    assert_eq!(applied.superseded, [("w:a".to_owned(), 1_000_000)]);
    let by = AuditStamp { actor: "workflows", at: NOW };
    assert_eq!(store.purge_superseded(&applied.superseded, by).await.unwrap(), 1);
    let left = store.dead_letters(&DeadFilter::default(), None, 10).await.unwrap().items;
    assert_eq!(left.iter().map(|letter| letter.hop).collect::<Vec<_>>(), [1_000_001], "that of the present life stays");
}
