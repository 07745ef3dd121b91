//! The end of a workflow: failures, cancellations, deadlines, and what is kept.

use super::*;

leveret_harness::on_both_databases! {
    a_cancelled_workflow_ends_also_if_its_jobs_were_never_published,
    a_failed_workflow_publishes_no_further_jobs_of_steps_that_had_started,
    a_cancelled_job_that_may_be_published_is_published_again_for_a_worker_to_end,
    a_failed_step_is_retried_in_its_next_life,
    the_dead_letters_of_a_former_life_are_purged,
    a_deadline_passes_once,
    retention_deletes_ended_workflows_alone,
    lists_are_narrowed_and_come_in_pages,
    a_page_of_results_and_errors_of_any_size_is_bounded_and_loses_no_job,
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

async fn a_failed_workflow_publishes_no_further_jobs_of_steps_that_had_started(database: Database) {
    let store = database.open().await;
    let workflow = Workflow::new("o")
        .id("w")
        .step("a", job())
        .compensate(NewJob::raw("undo", "tasks", "{}"))
        .steps("b", (0..3).map(|_| NewJob::raw("b", "absent", "{}")))
        .after("a")
        .step("c", job())
        .after("a");
    publish(&store, apply(&store, vec![start(workflow)]).await.messages).await;
    let ends = Ends::of(&store, "w").await;
    let messages = apply(&store, vec![ends.done(&StepRef::step("w", "a"), "1")]).await.messages;
    let (b, c): (Vec<_>, Vec<_>) = messages.into_iter().partition(|message| message.jobs() == 3);
    assert_eq!(publish(&store, c).await, ["w:c"]);
    let failed = ends.end(&StepRef::step("w", "c"), StepOutcome::failed("permanent", "sold out"));
    apply(&store, vec![failed]).await;
    let content = store.workflow_publishes(&b, 10).await.unwrap().remove(0);
    let WorkflowPublishes::Ends(unpublished) = content else { panic!("{content:?}") };
    let inputs = unpublished.into_iter().map(|end| input("w", Input::End(end))).collect();
    let applied = apply(&store, inputs).await;
    assert_eq!(publish(&store, applied.messages).await, ["w:a:compensation"]);
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

async fn a_page_of_results_and_errors_of_any_size_is_bounded_and_loses_no_job(database: Database) {
    let store = database.open().await;
    let workflow = Workflow::new("o").id("w").steps("a", (0..600).map(|_| job())).if_failed(IfFailed::Wait);
    publish(&store, apply(&store, vec![start(workflow)]).await.messages).await;
    let ends = Ends::of(&store, "w").await;
    let (result, error) = (format!("\"{}\"", "x".repeat(60_000)), "é".repeat(50_000));
    let end = |n: u32| {
        let of = StepRef::member("w", "a", n);
        if n.is_multiple_of(20) {
            ends.done(&of, &result)
        } else {
            ends.end(&of, StepOutcome::failed("permanent", &error))
        }
    };
    for members in (0..600).collect::<Vec<u32>>().chunks(100) {
        apply(&store, members.iter().map(|n| end(*n)).collect()).await;
    }
    let found = store.workflow("w").await.unwrap().unwrap();
    let step = store.workflow_step(&found, "a").await.unwrap().unwrap();
    let (mut members, mut pages, mut after) = (Vec::new(), Vec::new(), None);
    loop {
        let page = store.workflow_jobs(&found, &step, after.as_ref(), 1000).await.unwrap();
        let bytes = page.items.iter().map(|job| match &job.state.end {
            Some(MemberEnd::Failed { error, .. }) => error.len(),
            _ => job.result.as_ref().unwrap().len(),
        });
        pages.push(bytes.sum::<usize>());
        members.extend(page.items.iter().map(|job| job.member));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(members, (0..600).collect::<Vec<_>>());
    assert!(pages.len() == 5 && pages.iter().all(|bytes| *bytes <= 1 << 20), "{pages:?}");
}
