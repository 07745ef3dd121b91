//! The book's Rust, compiled as documentation tests, and run where it is not `no_run`. `book.rs` checks that no page is
//! missing here.

/// Has each page be the documentation of a module.
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
    unique "unique.md"
    schedules "schedules.md"
    limits "limits.md"
    deploying "deploying.md"
    scaling "scaling.md"
    metrics "metrics.md"
    tracing "tracing.md"
    settings "settings.md"
    broker "broker.md"
    wire "wire.md"
    logs "logs.md"
    guarantees "guarantees.md"
    design "design.md"
    celery "moving/celery.md"
    sidekiq "moving/sidekiq.md"
    apalis "moving/apalis.md"
    lapin "moving/lapin.md"
}
