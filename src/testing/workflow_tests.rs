use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Broker, Config, Context, Job, JobError, JobResult, NewJob, Queue, RetryPolicy, Worker,
    job::JobId,
    message::{Message, step::StepHeaders},
    testing::{self, WorkflowRun},
    topology::Target,
    workflow::{
        IfFailed, StepEnd, StepOutcome, StepRef, StepResultError, Steps, Workflow,
        engine::{Status, Waiting},
    },
};

/// Adds to the sum of its predecessors, as its words say.
#[derive(Clone, Serialize, Deserialize)]
struct Act(String);

impl Job for Act {
    const NAME: &'static str = "act";
    const QUEUE: &'static str = "acts";
}

async fn act(job: Act, ctx: Context<()>) -> JobResult<u64> {
    match job.0.split_once(' ').unwrap_or((&job.0, "")) {
        ("return", number) => Ok(number.parse()?),
        ("increase", step) => Ok(ctx.result_of::<u64>(step)? + 1),
        ("default", step) => Ok(ctx.result_of::<Option<u64>>(step)?.unwrap_or(7)),
        ("refuse", reason) => Err(JobError::permanent(reason.to_owned())),
        ("flaky", _) if ctx.attempt() < 3 => Err("not yet".into()),
        ("sleep", _) => {
            ctx.cancelled().await;
            Err("cancelled".into())
        }
        ("add", count) => {
            let pages = (0..count.parse::<u32>()?).map(|page| Act(format!("return {page}")));
            ctx.add_steps(Steps::new().steps("pages", pages).before("last"))?;
            Ok(0)
        }
        _ => Ok(0),
    }
}

fn of(text: &str) -> NewJob {
    NewJob::of(&Act(text.to_owned()))
}

async fn run(workflow: &Workflow) -> WorkflowRun {
    let queue = Queue::of::<Act>().retry(RetryPolicy::fixed(Duration::from_secs(600)).max_attempts(3));
    let worker = Worker::new(()).queue(queue).handle(act);
    testing::workflow(worker, workflow).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_join_runs_after_its_group_and_reads_the_results_of_its_predecessors() {
    let workflow = Workflow::new("w")
        .step("first", of("return 41").delay(Duration::from_secs(86_400)))
        .step("next", of("increase first"))
        .after("first")
        .steps("group", (0..30).map(|at| if at % 7 == 0 { Act("flaky".into()) } else { Act("pass".into()) }))
        .after("first")
        .steps("none", std::iter::empty::<Act>())
        .after("first")
        .step("last", of("increase next"))
        .after(["next", "group", "none"]);
    let run = run(&workflow).await;
    assert_eq!(run.status(), &Status::Completed);
    assert_eq!((run.result_of::<u64>("next").unwrap(), run.result_of::<u64>("last").unwrap()), (42, 43));
    let order: Vec<_> = run.order().collect();
    assert_eq!((order.len(), order[0].as_str(), order[32].as_str()), (33, "w:first", "w:last"));
    let flaky = run.ends().iter().find(|end| end.of.to_string() == "w:group:7").unwrap();
    assert_eq!(flaky.attempt, 3, "a retry is no end, and its copy is still the step");
}

#[tokio::test(start_paused = true)]
async fn a_failure_compensates_in_reverse_and_a_compensation_reads_the_result_of_its_step() {
    let workflow = Workflow::new("w")
        .step("a", of("return 1"))
        .compensate(of("increase a"))
        .step("b", of("return 2"))
        .compensate(of("increase b"))
        .after("a")
        .step("c", of("refuse no money"))
        .compensate(of("return 9"))
        .after("b")
        .step("d", of("pass"))
        .after("c")
        .on_failure(of("pass"));
    let run = run(&workflow).await;
    assert_eq!(run.status(), &Status::Failed);
    let order: Vec<_> = run.order().collect();
    assert_eq!(order, ["w:a", "w:b", "w:c", "w:b:compensation", "w:a:compensation", "w::on_failure"]);
    assert_eq!(run.result_of::<u64>("b:compensation").unwrap(), 3);
    let refused = run.outcome("c").unwrap();
    assert!(matches!(refused, StepOutcome::Failed { kind, error } if kind == "permanent" && error == "no money"));
}

#[tokio::test(start_paused = true)]
async fn a_skipped_step_has_no_result_and_another_waits_for_an_operator() {
    let skips =
        Workflow::new("w").step("a", of("refuse")).if_failed(IfFailed::Skip).step("b", of("default a")).after("a");
    let skipped = run(&skips).await;
    assert_eq!((skipped.status(), skipped.result_of::<u64>("b").unwrap()), (&Status::Completed, 7));
    let waits = Workflow::new("w").step("a", of("refuse")).if_failed(IfFailed::Wait).step("b", of("pass")).after("a");
    let waiting = run(&waits).await;
    assert_eq!(waiting.status(), &Status::Waiting(Waiting::Operator));
    assert!(waiting.outcome("b").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_cancels_what_runs_and_compensations_run_all_the_same() {
    let workflow = Workflow::new("w")
        .deadline(Duration::from_secs(20))
        .step("a", of("return 1"))
        .compensate(of("increase a"))
        .step("b", of("sleep"))
        .after("a");
    let run = run(&workflow).await;
    assert_eq!(run.status(), &Status::Failed);
    assert!(matches!(run.outcome("b"), Some(StepOutcome::Cancelled)), "{:?}", run.outcome("b"));
    assert_eq!(run.result_of::<u64>("a:compensation").unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_running_step_adds_steps() {
    let workflow = Workflow::new("w").step("split", of("add 5")).step("last", of("pass")).after("split").untracked();
    let run = run(&workflow).await;
    assert_eq!(run.status(), &Status::Completed);
    let order: Vec<_> = run.order().collect();
    assert_eq!((order.len(), order[6].as_str()), (7, "w:last"));
    assert_eq!(run.result_of::<u64>("pages:4").unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_no_step_reads_no_results_and_adds_no_steps() {
    async fn alone(_: Act, ctx: Context<()>) -> JobResult {
        assert!(matches!(ctx.result_of::<u64>("a"), Err(StepResultError::NotAStep { .. })));
        assert!(ctx.add_steps(Steps::new().step("a", of("pass"))).is_err() && ctx.workflow_step().is_none());
        Ok(())
    }
    let outcome = testing::perform(Worker::new(()).handle(alone), &Act(String::new())).await.unwrap();
    assert_eq!(outcome, crate::Outcome::Done);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_step_that_no_worker_can_copy_is_reported_too() {
    let broker = Broker::memory_with(Config { payload_limit: 1_000, ..Config::default() });
    let running = testing::start(Worker::new(()).handle(act), &broker).await.unwrap();
    let at = StepRef::step("w", "large");
    let mut headers = lapin::types::FieldTable::default();
    StepHeaders { at: at.clone(), results: None }.write(&mut headers, 5);
    let message = Message::with_headers("act", &JobId::from("w:large"), vec![b' '; 2_000], 5, headers);
    broker.send(&Target::Queue("acts".to_owned()), Box::new(message), true).await.unwrap();
    let mut session = broker.transport().open_raw("leveret.v1.workflows", 10).await.unwrap();
    let end: StepEnd = serde_json::from_slice(&session.next().await.ok().unwrap().message.body).unwrap();
    assert_eq!(end.of, at);
    assert!(
        matches!(&end.outcome, StepOutcome::Failed { kind, error } if kind == "too_large" && error.contains("2000 bytes"))
    );
    assert_eq!(testing::dead_letters(&broker, "acts").await.unwrap().len(), 1);
    running.stop().await.unwrap();
}
