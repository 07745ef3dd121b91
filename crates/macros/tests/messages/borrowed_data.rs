use leveret_macros::Job;

#[derive(Job)]
#[job(name = "email.send", queue = "email")]
struct SendEmail<'a> {
    to: &'a str,
}

fn main() {}
