//! The messages of workflows: leases, queues that do not exist, and several servers.

use super::*;

leveret_harness::on_both_databases! {
    of_two_servers_each_end_counts_once_and_each_step_is_published_once,
    of_two_servers_each_adds_its_steps,
    a_message_is_leased_and_taken_over_after_its_lease,
    a_queue_that_is_missing_is_shown_until_it_exists,
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
