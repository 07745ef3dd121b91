use super::*;
use crate::{
    NewJob,
    workflow::{StepOutcome, StepRef, Steps, Workflow},
};

fn job() -> NewJob {
    NewJob::raw("task", "tasks", "{}")
}

fn end(of: StepRef, outcome: StepOutcome) -> Input {
    let at = std::time::SystemTime::UNIX_EPOCH;
    let (started_at, replayed_at, worker) = (None, None, None);
    Input::End(StepEnd { of, origin: "o".into(), attempt: 1, started_at, at, replayed_at, worker, outcome })
}

fn done(step: &str) -> Input {
    end(StepRef::step("w", step), StepOutcome::completed())
}

fn adding(step: &str, add: Steps) -> Input {
    end(StepRef::step("w", step), StepOutcome::Completed { result: None, too_large: None, add })
}

fn publish(step: &str) -> Action {
    Action::Publish { step: step.into(), members: 0..1, life: 1 }
}

#[test]
fn added_steps_come_before_what_has_not_started() {
    let workflow = Workflow::new("w").step("a", job()).step("z", job()).after("a");
    let (mut all, _) = Snapshot::begin(&workflow, "w", "o");
    let add = Steps::new().step("x", job()).step("y", job()).after(["x", "a"]).before("z");
    assert_eq!(all.apply(&adding("a", add)), Ok(vec![publish("x")]));
    assert_eq!(all.apply(&done("x")), Ok(vec![publish("y")]));
    assert_eq!(all.apply(&done("y")), Ok(vec![publish("z")]));
    assert_eq!(all.apply(&done("z")), Ok(vec![Action::Ended(Status::Completed)]));
}

#[test]
fn a_step_that_is_added_before_one_that_has_started_fails_the_workflow_with_the_reason() {
    let workflow = Workflow::new("w").step("a", job()).step("b", job()).step("z", job()).after("a");
    let (mut all, _) = Snapshot::begin(&workflow, "w", "o");
    let add = Steps::new().step("x", job()).before("b");
    assert_eq!(all.apply(&adding("a", add)), Ok(vec![Action::CancelJobs]), "b runs");
    let cause = all.workflow().cause.clone().unwrap();
    assert_eq!((cause.of.as_str(), cause.kind.as_str()), ("w:a", "add_steps"));
    assert_eq!(cause.error, r#"added step "x" cannot come before "b", which has started"#);
    assert_eq!(all.apply(&done("b")), Ok(vec![Action::Ended(Status::Failed)]));
    assert_eq!(all.apply(&Input::Retry(Which::All)), Err(ApplyError::Refused(Refusal::HasEnded)));
}

#[test]
fn a_member_of_a_group_adds_steps_at_once_and_names_must_be_new() {
    let group = || (0..2).map(|_| job()).collect::<Vec<_>>();
    let workflow = Workflow::new("w").steps("g", group()).step("z", job()).after("g");
    let (mut all, actions) = Snapshot::begin(&workflow, "w", "o");
    assert_eq!(actions, [Action::Publish { step: "g".into(), members: 0..2, life: 1 }]);
    let member =
        |at, add| end(StepRef::member("w", "g", at), StepOutcome::Completed { result: None, too_large: None, add });
    let add = Steps::new().step("x", job()).before("z").step("y", job()).after("g");
    assert_eq!(all.apply(&member(0, add)), Ok(vec![publish("x")]));
    assert_eq!(all.apply(&member(1, Steps::new())), Ok(vec![publish("y")]), "its group has ended");
    assert_eq!(all.apply(&adding("x", Steps::new().step("y", job()))), Ok(vec![Action::CancelJobs]));
    assert_eq!(all.workflow().cause.as_ref().map(|cause| cause.kind.as_str()), Some("add_steps"), "y is taken");
}

#[test]
fn a_deadline_ends_a_paused_workflow_too() {
    let workflow = Workflow::new("w").step("a", job()).compensate(job()).step("b", job()).after("a");
    let (mut all, _) = Snapshot::begin(&workflow, "w", "o");
    assert_eq!(all.apply(&done("a")), Ok(vec![publish("b")]));
    assert_eq!(all.apply(&Input::Pause), Ok(vec![]));
    assert_eq!(all.apply(&Input::DeadlinePassed), Ok(vec![Action::CancelJobs]));
    let cancelled = end(StepRef::step("w", "b"), StepOutcome::Cancelled);
    assert_eq!(all.apply(&cancelled), Ok(vec![Action::Compensate { step: "a".into(), life: 1 }]));
}

#[test]
fn an_end_of_another_origin_or_of_no_step_changes_nothing() {
    let (mut all, _) = Snapshot::begin(&Workflow::new("w").step("a", job()), "w", "o");
    all.take_changes();
    let Input::End(own) = done("a") else { unreachable!() };
    let foreign = Input::End(StepEnd { origin: "other".into(), ..own });
    assert_eq!(all.apply(&foreign), Err(ApplyError::Refused(Refusal::Foreign)));
    assert_eq!(all.apply(&done("b")), Err(ApplyError::Refused(Refusal::UnknownStep)));
    let member = end(StepRef::member("w", "a", 0), StepOutcome::completed());
    assert_eq!(all.apply(&member), Err(ApplyError::Refused(Refusal::UnknownStep)), "it is no group");
    assert!(all.take_changes().workflow.is_none());
}

#[test]
fn an_end_in_a_group_of_ten_thousand_loads_and_changes_three_rows() {
    let jobs = (0..10_000).map(|_| job());
    let workflow = Workflow::new("w").steps("g", jobs).step("join", job()).after("g");
    let (mut all, _) = Snapshot::begin(&workflow, "w", "o");
    let rows = all.take_changes();
    assert_eq!((rows.steps.len(), rows.members.len()), (2, 0));
    let mut snapshot = Snapshot::new(rows.workflow.clone().unwrap());
    let input = end(StepRef::member("w", "g", 7), StepOutcome::completed());
    let expected = vec![Load::Step("g".into()), Load::Member("g".into(), 7)];
    assert_eq!(snapshot.apply(&input), Err(ApplyError::Missing(expected.clone())));
    expected.iter().for_each(|load| rows.answer(load, &mut snapshot));
    assert_eq!(snapshot.apply(&input), Ok(vec![]));
    let changes = snapshot.take_changes();
    assert_eq!((changes.workflow.is_some(), changes.steps.len(), changes.members.len()), (true, 1, 1));
    for at in (0..10_000).filter(|at| *at != 7) {
        snapshot.put_member("g", at, MemberState::default());
        let input = end(StepRef::member("w", "g", at), StepOutcome::completed());
        let actions = match snapshot.apply(&input) {
            Err(ApplyError::Missing(loads)) => {
                assert_eq!(loads, [Load::Step("join".into())]);
                rows.answer(&loads[0], &mut snapshot);
                snapshot.apply(&input)
            }
            actions => actions,
        };
        assert_eq!(actions, Ok(if at == 9_999 { vec![publish("join")] } else { vec![] }));
    }
}

#[test]
fn compensations_run_one_at_a_time_in_reverse_and_a_dead_one_is_an_alarm() {
    let workflow = Workflow::new("w")
        .step("a", job())
        .compensate(job())
        .step("b", job())
        .compensate(job())
        .step("c", job())
        .after(["a", "b"])
        .on_failure(job());
    let (mut all, _) = Snapshot::begin(&workflow, "w", "o");
    assert_eq!(all.apply(&done("b")), Ok(vec![]));
    assert_eq!(all.apply(&done("a")), Ok(vec![publish("c")]));
    let compensate = |step: &str, life| vec![Action::Compensate { step: step.into(), life }];
    let failed = || StepOutcome::failed("permanent", "refused");
    assert_eq!(all.apply(&end(StepRef::step("w", "c"), failed())), Ok(compensate("a", 1)), "a succeeded last");
    let undo = |life| StepRef { role: crate::workflow::Role::Compensation, life, ..StepRef::step("w", "a") };
    let alarm = Failure { of: "w:a:compensation".into(), kind: "permanent".into(), error: "refused".into() };
    assert_eq!(all.apply(&end(undo(1), failed())), Ok(vec![Action::Alarm(alarm)]));
    assert_eq!(all.workflow().status(), Status::Waiting(Waiting::Operator));
    assert_eq!(all.apply(&Input::Retry(Which::All)), Ok(compensate("a", 2)));
    assert_eq!(all.apply(&end(undo(2), StepOutcome::completed())), Ok(compensate("b", 1)));
    assert_eq!(all.workflow().cause.as_ref().map(|cause| cause.of.as_str()), Some("w:c"));
}
