use leveret_macros::Job;

#[derive(Job)]
struct SendEmail;

fn main() {}
