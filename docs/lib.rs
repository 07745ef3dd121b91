//! The Rust of the book, compiled as documentation tests and run unless marked `no_run`. `book.rs` checks that no page is
//! missing here.

/// Makes each page the documentation of a module.
#[cfg(doctest)]
macro_rules! pages {
    ($($module:ident $page:literal)*) => {
        $(
            #[doc = include_str!(concat!("src/", $page))]
            pub mod $module {}
        )*
    };
}

#[cfg(doctest)]
pages! {
    introduction "introduction.md"
    first_worker "first-worker.md"
    retries "retries.md"
    dead_letters "dead-letters.md"
    testing "testing.md"
    outbox_inbox "outbox-inbox.md"
    results "results.md"
    unique "unique.md"
    requests "requests.md"
    batches "batches.md"
    workflows "workflows.md"
    events "events.md"
    projections "projections.md"
    schedules "schedules.md"
    limits "limits.md"
    deploying "deploying.md"
    clocks "clocks.md"
    scaling "scaling.md"
    metrics "metrics.md"
    tracing "tracing.md"
    settings "settings.md"
    email_worker "email-worker.md"
    broker "broker.md"
    wire "wire.md"
    logs "logs.md"
    outcomes "outcomes.md"
    leveret_acks_lost "runbooks/leveret-acks-lost.md"
    leveret_backlog_grows "runbooks/leveret-backlog-grows.md"
    leveret_broker_unreachable "runbooks/leveret-broker-unreachable.md"
    leveret_broker_blocked "runbooks/leveret-broker-blocked.md"
    leveret_broker_down "runbooks/leveret-broker-down.md"
    leveret_consumers_missing "runbooks/leveret-consumers-missing.md"
    leveret_crash_loop "runbooks/leveret-crash-loop.md"
    leveret_dead_letters "runbooks/leveret-dead-letters.md"
    leveret_circuit_open "runbooks/leveret-circuit-open.md"
    leveret_down "runbooks/leveret-down.md"
    leveret_status_updates_lost "runbooks/leveret-status-updates-lost.md"
    leveret_jobs_wait_long "runbooks/leveret-jobs-wait-long.md"
    leveret_outbox_set_aside "runbooks/leveret-outbox-set-aside.md"
    leveret_outbox_stalled "runbooks/leveret-outbox-stalled.md"
    leveret_outbox_unattended "runbooks/leveret-outbox-unattended.md"
    leveret_projection_stands_still "runbooks/leveret-projection-stands-still.md"
    leveret_publishes_refused "runbooks/leveret-publishes-refused.md"
    leveret_queue_unattended "runbooks/leveret-queue-unattended.md"
    leveret_reconnects "runbooks/leveret-reconnects.md"
    leveret_replies_lost "runbooks/leveret-replies-lost.md"
    leveret_events_refused "runbooks/leveret-events-refused.md"
    leveret_requests_unanswered "runbooks/leveret-requests-unanswered.md"
    leveret_retries_refused "runbooks/leveret-retries-refused.md"
    leveret_retry_storm "runbooks/leveret-retry-storm.md"
    leveret_schedule_late "runbooks/leveret-schedule-late.md"
    leveret_schedule_without_leader "runbooks/leveret-schedule-without-leader.md"
    leveret_unrouted "runbooks/leveret-unrouted.md"
    leveret_workflows_stand_still "runbooks/leveret-workflows-stand-still.md"
    leveret_workflows_wait "runbooks/leveret-workflows-wait.md"
    leveret_workers_saturated "runbooks/leveret-workers-saturated.md"
    checkpoints "checkpoints.md"
    guarantees "guarantees.md"
    design "design.md"
    celery "moving/celery.md"
    sidekiq "moving/sidekiq.md"
    apalis "moving/apalis.md"
    lapin "moving/lapin.md"
}
