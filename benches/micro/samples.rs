//! Jobs and messages as input of the steps.

use std::sync::LazyLock;

use leveret::{
    Broker, Job, Publisher,
    internals::{Incoming, Message},
};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

pub(crate) const NOW_MS: u64 = 1_800_000_000_000;
pub(crate) const REASON: &str = "sending mail: connection refused (os error 111)";

/// Sizes of the payload's largest field.
pub(crate) const TEXT_BYTES: [usize; 2] = [200, 20_000];

#[derive(Serialize, Deserialize)]
pub(crate) struct SendEmail {
    to: String,
    subject: String,
    text: String,
    order: u64,
    tags: Vec<String>,
}

impl Job for SendEmail {
    const NAME: &'static str = "email.send";
    const QUEUE: &'static str = "email";
}

pub(crate) fn job(text_bytes: usize) -> SendEmail {
    SendEmail {
        to: "ada@example.com".into(),
        subject: "Your order".into(),
        text: "x".repeat(text_bytes),
        order: 4711,
        tags: vec!["order".into(), "welcome".into()],
    }
}

pub(crate) fn publisher() -> Publisher {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
    static BROKER: LazyLock<Broker> = LazyLock::new(|| {
        let _entered = RUNTIME.enter();
        Broker::memory()
    });
    BROKER.publisher()
}

pub(crate) fn message(text_bytes: usize) -> Message {
    Message::of(publisher().publish(&job(text_bytes)).header("tenant", "acme")).unwrap()
}

/// The job as received for this attempt.
pub(crate) fn received(attempt: u32) -> Incoming {
    let first = Incoming::read(message(TEXT_BYTES[0]), NOW_MS);
    (1..attempt).fold(first, |failed, _| Incoming::read(retried(&failed), NOW_MS))
}

/// The copy for the next attempt, as published.
pub(crate) fn retried(received: &Incoming) -> Message {
    received.retry(SendEmail::QUEUE, REASON, NOW_MS)
}
