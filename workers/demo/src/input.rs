//! The jobs to publish: one JSON object a line, as any service would publish them.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, bail};
use leveret::{Job, PublishError, Publisher};
use leveret_email::{OrderConfirmation, SendEmail};
use leveret_orders::PlaceOrder;
use leveret_reports::GenerateReport;
use serde::de::DeserializeOwned;

/// How far ahead the plain mails are scheduled, so that one sees the broker keep them.
pub const MAIL_DELAY: Duration = Duration::from_secs(2);

/// The purchase that comes twice, as from a customer who pressed the button again.
const TWICE: &str = "purchase-1";

/// One job to publish.
#[derive(Debug)]
pub struct Input {
    /// What a person calls it: the order's number, the report's file, `purchase-1`.
    pub label: String,
    /// The job itself.
    pub payload: Payload,
    /// How often it is published, under one id.
    pub copies: usize,
}

/// A job of one of the workers.
#[derive(Debug)]
pub enum Payload {
    /// `email.order_confirmation`
    Confirmation(OrderConfirmation),
    /// `email.send`, scheduled [`MAIL_DELAY`] ahead.
    Mail(SendEmail),
    /// `report.generate`
    Report(GenerateReport),
    /// `order.place`
    Purchase(PlaceOrder),
}

impl Input {
    fn new(label: String, payload: Payload) -> Self {
        let copies = if label == TWICE { 2 } else { 1 };
        Self { label, payload, copies }
    }

    /// The job's name and queue.
    #[must_use]
    pub fn route(&self) -> (&'static str, &'static str) {
        fn of<J: Job>(_: &J) -> (&'static str, &'static str) {
            (J::NAME, J::QUEUE)
        }
        match &self.payload {
            Payload::Confirmation(job) => of(job),
            Payload::Mail(job) => of(job),
            Payload::Report(job) => of(job),
            Payload::Purchase(job) => of(job),
        }
    }

    /// Publishes the job once under this id.
    ///
    /// # Errors
    ///
    /// The publisher's.
    pub async fn publish(&self, publisher: &Publisher, id: &str) -> Result<(), PublishError> {
        let publish = match &self.payload {
            Payload::Confirmation(job) => publisher.publish(job),
            Payload::Mail(job) => publisher.publish(job).delay(MAIL_DELAY),
            Payload::Report(job) => publisher.publish(job),
            Payload::Purchase(job) => publisher.publish(job),
        };
        publish.id(id).await.map(drop)
    }
}

/// Reads `orders.jsonl`, `mails.jsonl`, `reports.jsonl` and `purchases.jsonl`, in this order.
///
/// # Errors
///
/// Names the file and the line that is missing or not what it should be.
pub fn read(data: &Path) -> anyhow::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for order in lines::<OrderConfirmation>(&data.join("orders.jsonl"))? {
        inputs.push(Input::new(order.id.to_lowercase(), Payload::Confirmation(order)));
    }
    for (index, mail) in lines::<SendEmail>(&data.join("mails.jsonl"))?.into_iter().enumerate() {
        inputs.push(Input::new(format!("mail-{}", index + 1), Payload::Mail(mail)));
    }
    for report in lines::<GenerateReport>(&data.join("reports.jsonl"))? {
        let label = format!("{}.{}", report.output, report.format.extension());
        inputs.push(Input::new(label, Payload::Report(report)));
    }
    for (index, purchase) in lines::<PlaceOrder>(&data.join("purchases.jsonl"))?.into_iter().enumerate() {
        inputs.push(Input::new(format!("purchase-{}", index + 1), Payload::Purchase(purchase)));
    }
    Ok(inputs)
}

fn lines<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut values = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value = serde_json::from_str(line).with_context(|| format!("{} line {}", path.display(), index + 1))?;
        values.push(value);
    }
    if values.is_empty() {
        bail!("{} is empty", path.display());
    }
    Ok(values)
}
