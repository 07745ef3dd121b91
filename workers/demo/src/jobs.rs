//! Reads the jobs to publish: one JSON object a line.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, bail};
use leveret::{Job, PublishError, Publisher};
use leveret_email::{OrderConfirmation, SendEmail};
use leveret_orders::PlaceOrder;
use leveret_reports::GenerateReport;
use serde::de::DeserializeOwned;

/// Delay of the plain mails, which shows that the broker holds delayed jobs.
pub const MAIL_DELAY: Duration = Duration::from_secs(2);

/// The purchase that is published twice, as if the customer pressed the button again.
const TWICE: &str = "purchase-1";

/// One job to publish.
#[derive(Debug)]
pub struct DemoJob {
    /// Label for people: the order number, the file of the report, `purchase-1`.
    pub label: String,
    /// Payload of the job.
    pub payload: JobPayload,
    /// Number of publishes with the same id.
    pub copies: usize,
}

/// Payload of a job of one of the workers.
#[derive(Debug)]
pub enum JobPayload {
    /// `email.order_confirmation`
    Confirmation(OrderConfirmation),
    /// `email.send`, scheduled [`MAIL_DELAY`] ahead.
    Mail(SendEmail),
    /// `report.generate`
    Report(GenerateReport),
    /// `order.place`
    Purchase(PlaceOrder),
}

impl DemoJob {
    fn new(label: String, payload: JobPayload) -> Self {
        let copies = if label == TWICE { 2 } else { 1 };
        Self { label, payload, copies }
    }

    /// Returns name and queue of the job.
    #[must_use]
    pub fn route(&self) -> (&'static str, &'static str) {
        fn of<J: Job>(_: &J) -> (&'static str, &'static str) {
            (J::NAME, J::QUEUE)
        }
        match &self.payload {
            JobPayload::Confirmation(job) => of(job),
            JobPayload::Mail(job) => of(job),
            JobPayload::Report(job) => of(job),
            JobPayload::Purchase(job) => of(job),
        }
    }

    /// Publishes the job once with this id.
    ///
    /// # Errors
    ///
    /// The publish fails.
    pub async fn publish(&self, publisher: &Publisher, id: &str) -> Result<(), PublishError> {
        let publish = match &self.payload {
            JobPayload::Confirmation(job) => publisher.publish(job),
            JobPayload::Mail(job) => publisher.publish(job).delay(MAIL_DELAY),
            JobPayload::Report(job) => publisher.publish(job),
            JobPayload::Purchase(job) => publisher.publish(job),
        };
        publish.id(id).await.map(drop)
    }
}

/// Reads `orders.jsonl`, `mails.jsonl`, `reports.jsonl` and `purchases.jsonl`, in this order.
///
/// # Errors
///
/// A file is missing, or a line is invalid.
pub fn read(data: &Path) -> anyhow::Result<Vec<DemoJob>> {
    let mut jobs = Vec::new();
    for order in lines::<OrderConfirmation>(&data.join("orders.jsonl"))? {
        jobs.push(DemoJob::new(order.id.to_lowercase(), JobPayload::Confirmation(order)));
    }
    for (index, mail) in lines::<SendEmail>(&data.join("mails.jsonl"))?.into_iter().enumerate() {
        jobs.push(DemoJob::new(format!("mail-{}", index + 1), JobPayload::Mail(mail)));
    }
    for report in lines::<GenerateReport>(&data.join("reports.jsonl"))? {
        let label = format!("{}.{}", report.output, report.format.extension());
        jobs.push(DemoJob::new(label, JobPayload::Report(report)));
    }
    for (index, purchase) in lines::<PlaceOrder>(&data.join("purchases.jsonl"))?.into_iter().enumerate() {
        jobs.push(DemoJob::new(format!("purchase-{}", index + 1), JobPayload::Purchase(purchase)));
    }
    Ok(jobs)
}

/// Reads a file with one JSON object a line.
pub(crate) fn lines<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
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
