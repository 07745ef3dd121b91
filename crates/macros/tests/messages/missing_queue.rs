use leveret_macros::Job;

#[derive(Job)]
#[job(name = "email.send")]
struct SendEmail;

fn main() {}
