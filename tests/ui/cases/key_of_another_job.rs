use leveret::{Context, Job, JobResult, Worker};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct SendEmail {
    customer: u64,
}

impl Job for SendEmail {
    const NAME: &'static str = "email.send";
    const QUEUE: &'static str = "email";
}

struct Invoice {
    customer: u64,
}

async fn send_email(_job: SendEmail, _ctx: Context<()>) -> JobResult {
    Ok(())
}

fn main() {
    let _ = Worker::new(()).handle_with(send_email, |h| h.concurrency_per(|job: &Invoice| job.customer, 2));
}
