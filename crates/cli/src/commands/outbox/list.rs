//! `leveret outbox status`: waiting jobs, and jobs that were set aside.

use clap::Args;
use leveret::time::unix_ms;
use leveret_sql::{Outbox, OutboxStatus, SetAsideJob};
use leveret_store::time::to_rfc3339;
use serde_json::json;

use super::super::shared::{DatabaseArguments, time};
use crate::output::{Exit, Failure, Format, one_line, print, print_json, table};

/// Shows the number of waiting jobs, the age of the oldest, and jobs that were set aside
#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    database: DatabaseArguments,

    /// Maximum number of jobs that were set aside to show
    #[arg(long, default_value = "20", value_name = "NUMBER")]
    limit: u32,

    /// Show jobs after this number
    #[arg(long, default_value = "0", value_name = "NUMBER")]
    after: i64,
}

impl Status {
    pub(super) async fn run(self, output: Format) -> Result<Exit, Failure> {
        let outbox = Outbox::open(self.database.existing()?).await?;
        let status = outbox.status().await?;
        let aside = outbox.set_aside(self.after, self.limit).await?;
        let age = status.oldest_at.map(|at| at.elapsed().unwrap_or_default().as_secs_f64());
        match output {
            Format::Json => print_json(&json!({
                "pending": status.pending,
                "leased": status.leased,
                "oldest_at": status.oldest_at.map(unix_ms).map(to_rfc3339),
                "oldest_seconds": age,
                "set_aside": status.set_aside,
                "published": status.published,
                "jobs_set_aside": aside.iter().map(document).collect::<Vec<_>>(),
            }))?,
            Format::Table => print(&lines(&status, age, &aside))?,
        }
        Ok(Exit::Success)
    }
}

fn document(job: &SetAsideJob) -> serde_json::Value {
    json!({
        "number": job.number,
        "id": job.id,
        "job": job.job,
        "queue": job.queue,
        "order_key": job.order_key,
        "enqueued_at": to_rfc3339(unix_ms(job.enqueued_at)),
        "set_aside_at": to_rfc3339(unix_ms(job.set_aside_at)),
        "tries": job.tries,
        "reason": job.reason,
    })
}

fn lines(status: &OutboxStatus, age: Option<f64>, aside: &[SetAsideJob]) -> String {
    let OutboxStatus { pending, leased, set_aside, published, .. } = status;
    let oldest = age.map_or_else(String::new, |age| format!(", the oldest for {age:.0} s"));
    let first = format!("{pending} waiting{oldest}; {leased} of them leased by relays\n");
    let second = format!("{set_aside} set aside; {published} published and kept\n");
    if aside.is_empty() {
        return first + &second;
    }
    let row = |job: &SetAsideJob| {
        [
            job.number.to_string(),
            time(unix_ms(job.set_aside_at)),
            one_line(&job.job, 32),
            one_line(&job.queue, 32),
            one_line(job.order_key.as_deref().unwrap_or("-"), 30),
            one_line(&job.reason, 100),
        ]
    };
    let rows: Vec<_> = aside.iter().map(row).collect();
    format!("{first}{second}\n{}", table(["NUMBER", "SET ASIDE", "JOB", "QUEUE", "ORDER KEY", "REASON"], &rows))
}
