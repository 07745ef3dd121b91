//! The part of the server process that runs workflows. Several servers on one store share the work.

use std::time::Duration;

use leveret::{Error, time::now_ms, workflow::engine::Input};
use leveret_store::WorkflowInput;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{ingest, publish};
use crate::services::Services;

/// Interval at which messages of other servers, and deadlines, are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// The most messages or deadlines of one look.
const AT_ONCE: u32 = 500;

/// Ingests and publishes until `stop`. Then it publishes the messages that are in memory.
pub(crate) async fn run(services: Services, stop: CancellationToken) -> Result<(), Error> {
    let (sender, messages) = mpsc::channel(publish::WAITING);
    services.workflow_messages.set(&sender);
    let publishing = tokio::spawn({
        let services = services.clone();
        async move { services.publish_until_closed(messages).await }
    });
    let result = tokio::select! {
        result = ingest::ingest(&services, &stop) => result,
        () = look(&services) => Ok(()),
        () = count(&services) => Ok(()),
    };
    drop(sender);
    // The task ends once its messages are published. The wait fails only if the task panicked.
    drop(publishing.await);
    result
}

/// Takes over messages whose lease is over, and passes deadlines. It runs until it is dropped.
async fn look(services: &Services) {
    let (mut due, mut is_logged) = (interval(LOOK_EVERY), false);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let looked = async {
            let messages = services.store.due_workflow_messages(now_ms(), AT_ONCE).await?;
            services.hand_over(messages).await;
            pass_deadlines(services).await
        };
        match looked.await {
            Ok(()) => is_logged = false,
            Err(error) if !std::mem::replace(&mut is_logged, true) => {
                let error = leveret::text::error_chain(&error);
                tracing::warn!(error, "cannot read due messages and deadlines of workflows, retrying");
            }
            Err(_) => {}
        }
    }
}

/// Counts workflows for the metrics. It runs until it is dropped.
async fn count(services: &Services) {
    let mut due = interval(COUNT_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        match services.store.count_workflows().await {
            Ok(counts) => services.workflow_metrics.set(&counts, now_ms()),
            Err(error) => tracing::debug!(error = leveret::text::error_chain(&error), "cannot count workflows"),
        }
    }
}

async fn pass_deadlines(services: &Services) -> Result<(), leveret_store::Error> {
    let overdue = services.store.overdue_workflows(now_ms(), AT_ONCE).await?;
    if overdue.is_empty() {
        return Ok(());
    }
    let passed = |id: &String| WorkflowInput::Input { workflow: id.clone(), input: Box::new(Input::DeadlinePassed) };
    match services.apply(overdue.iter().map(passed).collect()).await {
        Ok(_) => {}
        Err(error) if error.is_unavailable() => return Err(error),
        // A workflow that cannot be changed must not hold up the others.
        Err(_) => {
            for id in &overdue {
                if let Err(error) = services.apply(vec![passed(id)]).await {
                    let error = leveret::text::error_chain(&error);
                    tracing::error!(
                        workflow_id = id.as_str(),
                        error,
                        "cannot apply the deadline of a workflow: it runs on without one"
                    );
                }
            }
        }
    }
    services.store.workflow_deadlines_handled(&overdue).await
}
