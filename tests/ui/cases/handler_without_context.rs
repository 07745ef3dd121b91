use leveret::{Job, JobResult, Worker};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct SendEmail {
    customer: u64,
}

impl Job for SendEmail {
    const NAME: &'static str = "email.send";
    const QUEUE: &'static str = "email";
}

async fn send_email(_job: SendEmail) -> JobResult {
    Ok(())
}

fn main() {
    let _ = Worker::new(()).handle(send_email);
}
