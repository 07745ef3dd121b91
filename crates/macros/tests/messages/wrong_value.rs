use leveret_macros::Job;

#[derive(Job)]
#[job(name = "email.send", queue = "email", lanes = true)]
struct SendEmail;

#[derive(Job)]
#[job]
struct Empty;

fn main() {}
