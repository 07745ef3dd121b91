use leveret_macros::Job;

#[derive(Job)]
#[job(queue = "email")]
struct SendEmail;

fn main() {}
