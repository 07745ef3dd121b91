use leveret_macros::Job;

#[derive(Job)]
#[job(name = "email.send", que = "email")]
struct SendEmail;

fn main() {}
