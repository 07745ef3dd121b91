use leveret_macros::Job;

#[derive(Job)]
#[job(name = "Send Email", queue = "email")]
struct SendEmail;

#[derive(Job)]
#[job(name = "", queue = "email")]
struct Nameless;

const NAME: &str = "email.send";

#[derive(Job)]
#[job(name = NAME, queue = "email")]
struct Constant;

fn main() {}
