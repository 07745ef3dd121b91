use leveret_macros::Job;

#[derive(Job)]
#[job(name = "email.send", queue = "email\n")]
struct SendEmail;

fn main() {}
