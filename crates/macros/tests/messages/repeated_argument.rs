use leveret_macros::Job;

#[derive(Job)]
#[job(name = "email.send", queue = "email")]
#[job(queue = "mail")]
struct SendEmail;

fn main() {}
