use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use super::*;
use crate::{NewJob, workflow::IfFailed};

fn job() -> NewJob {
    NewJob::raw("task", "tasks", "{}")
}

fn read(json: Value) -> Result<Workflow, serde_json::Error> {
    serde_json::from_value(json)
}

#[test]
fn a_fault_is_named_with_its_step() {
    let w = || Workflow::new("w");
    let a = || w().step("a", job());
    let mixed = [job(), job().priority(3)];
    let table: Vec<(Workflow, &str)> = vec![
        (w(), "no steps"),
        (Workflow::new("no name").step("a", job()), r#""no name" of the workflow"#),
        (a().id("a:b"), r#"workflow id "a:b""#),
        (a().id("i".repeat(129)), "1 to 128 bytes"),
        (a().step("b/c", job()), r#""b/c" of a step"#),
        (a().step(&*"s".repeat(65), job()), "{1,64}"),
        (a().step("a", job()), r#"two steps have the name "a""#),
        (a().after("b"), r#"step "a" names "b" in after"#),
        (a().after("a"), "wait for each other, so that none can start: a"),
        (a().after("c").step("b", job()).after("a").step("c", job()).after("b"), "a after c after b"),
        (w().after("a"), "after sets a property of the step before it"),
        (a().step("b", job().id("mine")), r#"step "b": job id "mine""#),
        (a().step("b", job().unique("k", Duration::from_secs(5))), r#"step "b": unique key "k""#),
        (a().step("b", job().priority(40)), r#"step "b": priority "40""#),
        (a().step("b", NewJob::raw("Task", "tasks", "{}")), r#"step "b": job name "Task""#),
        (a().step("b", NewJob::raw("task", "tasks", "no json")), r#"step "b" is not JSON"#),
        (a().step("b", job().header("h", "x".repeat(80_000))), r#"step "b": the headers"#),
        (a().compensate(job().delay(Duration::MAX)), r#"step "a": delay"#),
        (a().on_failure(NewJob::raw("task", "", "{}")), r#"step "on_failure": queue"#),
        (a().steps("b", mixed), r#"group "b" differ"#),
        (a().steps("b", Vec::<NewJob>::new()), r#"group "b" is empty"#),
        (a().deadline(Duration::ZERO), "deadline"),
        (a().label("tenant", "x".repeat(256)), r#"label "tenant""#),
        (
            a().step("b", NewJob::raw("task", "tasks", format!("{:?}", "x".repeat(DEFINITION_LIMIT)))),
            r#"largest step is "b""#,
        ),
    ];
    for (workflow, part) in table {
        let error = workflow.check().unwrap_err();
        assert!(error.to_string().contains(part), "{error} ({part})");
        if workflow.steps.fault.is_some() {
            assert!(serde_json::to_string(&workflow).unwrap_err().to_string().contains(part), "{part}");
        }
    }
}

#[test]
fn more_jobs_than_a_server_keeps_in_memory_are_refused_however_they_are_written() {
    let group =
        |jobs: usize| Workflow::new("w").steps("many", (0..jobs).map(|_| job())).step("join", job()).after("many");
    assert_eq!(group(JOBS_LIMIT - 1).check(), Ok(()));
    let too_many = WorkflowError::TooManyJobs { step: "many".into(), jobs: JOBS_LIMIT + 1, limit: JOBS_LIMIT };
    assert_eq!(group(JOBS_LIMIT).check(), Err(too_many));
    let zeros = |zeros: usize| format!("[{}0]", "0,".repeat(zeros - 1));
    let of = |steps: String| {
        let json = format!(r#"{{"name": "w", "steps": {{{steps}}}}}"#);
        serde_json::from_str::<Workflow>(&json).map(drop).map_err(|error| error.to_string())
    };
    let each = |name: &str, jobs| format!(r#""{name}": {{"job": "task", "queue": "tasks", "each": {}}}"#, zeros(jobs));
    assert_eq!(of(each("a", JOBS_LIMIT)), Ok(()));
    assert!(of(each("a", JOBS_LIMIT + 1)).unwrap_err().contains("at most 100000 jobs"));
    let two = format!("{}, {}", each("a", JOBS_LIMIT), each("b", 1));
    assert!(of(two).unwrap_err().contains("more than 100000 jobs"));
    assert_eq!(of(r#""a": {"job": "task", "each": null}"#.to_owned()), Ok(()));
}

#[test]
fn a_long_cycle_and_a_long_name_are_errors_of_bounded_length() {
    let steps = 50_000;
    let ring: Vec<_> =
        (0..steps).map(|n| format!(r#""s{n}":{{"job":"a","after":["s{}"]}}"#, (n + 1) % steps)).collect();
    let json = format!(r#"{{"name": "w", "steps": {{{}}}}}"#, ring.join(","));
    let error = serde_json::from_str::<Workflow>(&json).unwrap().check().unwrap_err();
    let WorkflowError::Cycle { steps: found } = &error else { panic!("{error}") };
    assert_eq!(found.len(), steps);
    let text = error.to_string();
    assert!(text.len() < 500 && text.ends_with("after 49980 more"), "{text}");
    let long = "x".repeat(1 << 20);
    for workflow in [
        Workflow::new("w").step(&*long, job()),
        Workflow::new("w").step("a", job()).after(&*long),
        Workflow::new(&*long).step("a", job()),
        Workflow::new("w").step("a", job()).id(&*long),
        Workflow::new("w").step("a", job()).label(&*long, "x"),
    ] {
        let text = workflow.check().unwrap_err().to_string();
        assert!(text.len() < 1_000, "{} bytes", text.len());
    }
}

#[test]
fn json_with_a_fault_is_refused_by_name() {
    let of = |step: Value| json!({"name": "w", "steps": {"a": step}});
    for (json, part) in [
        (of(json!({"job": "task", "later": ["b"]})), "later"),
        (of(json!({"payload": {}})), "missing field `job`"),
        (of(json!({"job": "task", "if_failed": "never"})), "never"),
        (of(json!({"job": "task", "delay": "5 minutes"})), "5 minutes"),
        (json!({"name": "w", "steps": {}, "limit": 5}), "limit"),
    ] {
        let error = read(json).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let twice = r#"{"name": "w", "steps": {"a": {"job": "task"}, "a": {"job": "task"}}}"#;
    let error = serde_json::from_str::<Workflow>(twice).unwrap_err().to_string();
    assert!(error.contains(r#"two steps have the name "a""#), "{error}");
    for (step, part) in [
        (json!({"job": "task", "payload": 1, "each": [1]}), "both payload and each"),
        (json!({"job": "task", "before": ["b"]}), "has before"),
        (json!({"job": "task", "origin": "mine"}), "origin and step"),
    ] {
        let error = read(of(step)).unwrap().check().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_queue_that_is_not_named_comes_from_the_catalogue_or_is_an_error() {
    let mut workflow = read(json!({"name": "w", "on_failure": {"job": "mail"}, "steps": {
        "a": {"job": "task", "compensate": {"job": "undo"}}, "b": {"job": "task", "queue": "other", "after": ["a"]}
    }}))
    .unwrap();
    assert_eq!(workflow.check(), Ok(()));
    workflow.fill_queues(|job| (job != "undo").then(|| format!("{job}s")));
    let missing = WorkflowError::NoQueue { step: "a".into(), job: "undo".into() };
    assert_eq!(workflow.check_queues(), Err(missing));
    workflow.fill_queues(|_| Some("undos".into()));
    assert_eq!(workflow.check_queues(), Ok(()));
    let queues: Vec<_> = workflow.step_list().iter().map(|(_, step)| step.queue.clone().unwrap()).collect();
    assert_eq!(
        (queues, workflow.failure_job().unwrap().queue()),
        (vec!["tasks".into(), "other".into()], Some("mails"))
    );
}

#[test]
fn steps_that_are_added_may_come_after_each_other_and_their_adder() {
    let steps = || Steps::new().step("x", job());
    assert_eq!(
        steps().after("adder").step("y", job()).after(["x", "adder"]).before("z").check_added_by("adder"),
        Ok(())
    );
    let other = WorkflowError::AfterOther { step: "x".into(), after: "b".into() };
    assert_eq!(steps().after("b").check_added_by("adder"), Err(other));
    let cycle = steps().after("y").step("y", job()).after("x").check_added_by("adder");
    assert_eq!(cycle, Err(WorkflowError::Cycle { steps: vec!["x".into(), "y".into()] }));
}

/// The names of an object's members.
fn members(of: &Value) -> BTreeSet<String> {
    of.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_schema_has_the_members_that_a_definition_can_have() {
    let all = || {
        let base = NewJob::raw("task", "tasks", "{}").expires(Duration::from_secs(9)).priority(3).lanes().label("l");
        base.correlation_id("c").content_type("application/json").track().header("h", 1)
    };
    let workflow = Workflow::new("w")
        .id("w-1")
        .step("a", all().delay(Duration::from_millis(1_500)))
        .compensate(all().at(std::time::SystemTime::now()))
        .if_failed(IfFailed::Skip)
        .steps("b", [job()])
        .after("a")
        .on_failure(job())
        .deadline(Duration::from_secs(60))
        .label("tenant", "acme")
        .untracked();
    let written = serde_json::to_value(&workflow).unwrap();
    let schema = Workflow::schema();
    assert_eq!(members(&written), members(&schema["properties"]));
    let step = &written["steps"]["a"];
    let mut of_step: BTreeSet<_> = members(step).union(&members(&written["steps"]["b"])).cloned().collect();
    let of_job = members(&step["compensate"]);
    of_step.extend(of_job.iter().cloned());
    // Only a stored job has it.
    let stored = BTreeSet::from(["expires_at".to_owned()]);
    let known = members(&schema["$defs"]["step"]["properties"]);
    assert_eq!(known.difference(&of_step).cloned().collect::<BTreeSet<_>>(), stored);
    assert!(of_step.is_subset(&known), "{of_step:?}");
    assert!(of_job.is_subset(&members(&schema["$defs"]["job"]["properties"])), "{of_job:?}");
    assert_eq!(step["delay"], json!(1.5));
    assert!(read(written).unwrap().is_same_as(&workflow));
}
