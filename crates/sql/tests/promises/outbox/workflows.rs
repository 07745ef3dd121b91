//! Workflows through the outbox.

use leveret::{NewJob, workflow::Workflow};
use leveret_harness::{
    Database,
    lapin::{options::QueueBindOptions, types::FieldTable},
    unique,
};
use leveret_sql::{Error, Outbox};

use super::stage::{Pool, Stage, run};

leveret_harness::on_both_databases! {
    a_workflow_is_started_if_and_only_if_its_transaction_commits,
}

async fn start(pool: &Pool, workflow: &Workflow, commits: bool) -> leveret_sql::Result<String> {
    match pool {
        Pool::Postgres(pool) => {
            let mut tx = pool.begin().await.unwrap();
            let id = Outbox::start(&mut tx, workflow).await;
            if commits {
                tx.commit().await.unwrap();
            } else {
                tx.rollback().await.unwrap();
            }
            id
        }
        Pool::Sqlite(pool) => {
            let mut tx = pool.begin().await.unwrap();
            let id = Outbox::start(&mut tx, workflow).await;
            if commits {
                tx.commit().await.unwrap();
            } else {
                tx.rollback().await.unwrap();
            }
            id
        }
    }
}

async fn a_workflow_is_started_if_and_only_if_its_transaction_commits(database: Database) {
    let stage = Stage::new(database).await;
    // The queue of workflows is that of all tests on this broker, so that this one takes copies.
    let (queue, key) = (stage.queue.as_str().into(), "leveret.v1.workflows".into());
    let bind = QueueBindOptions::default();
    stage.raw.channel().queue_bind(queue, "leveret.v1.jobs".into(), key, bind, FieldTable::default()).await.unwrap();
    // More than a job may have, and less than a workflow.
    let payload = format!("{:?}", "x".repeat(1_500_000));
    let workflow = || Workflow::new("order").step("a", NewJob::raw("task", "tasks", payload.as_str()));
    let (rolled_back, committed) = (unique("order").replace(':', "-"), unique("order").replace(':', "-"));
    start(&stage.pool, &workflow().id(rolled_back.as_str()), false).await.unwrap();
    let id = start(&stage.pool, &workflow().id(committed.as_str()), true).await.unwrap();
    assert_eq!(id, committed);
    let fault = start(&stage.pool, &workflow().after("b"), true).await.unwrap_err();
    assert!(matches!(fault, Error::InvalidWorkflow(_)), "{fault}");
    let relay = run(stage.relay());
    let taken = loop {
        let taken = stage.next().await;
        let id = taken.properties.message_id().as_ref().unwrap().to_string();
        assert_ne!(id, rolled_back);
        if id == committed {
            break taken;
        }
    };
    assert_eq!(taken.properties.kind().as_ref().unwrap().as_str(), leveret::workflow::START);
    let read: Workflow = serde_json::from_slice(&taken.data).unwrap();
    assert!(read.is_same_as(&workflow().id(committed)));
    stage.drained().await;
    relay.stop().await.unwrap();
    let status = stage.outbox.status().await.unwrap();
    assert_eq!((status.pending, status.set_aside), (0, 0));
}
