//! The course of a workflow: steps, groups, results, and what starts it.

use super::*;

leveret_harness::on_both_databases! {
    a_chain_runs_step_by_step_with_the_result_of_the_step_before,
    the_same_definition_is_the_same_workflow_and_another_one_is_a_conflict,
    the_first_end_of_a_life_wins,
    a_group_is_published_in_pages_and_joined_once,
    texts_that_no_database_takes_are_refused_alone,
    a_payload_that_is_json_by_its_grammar_alone_is_published_as_it_is,
    the_jobs_of_a_large_workflow_are_all_counted,
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
