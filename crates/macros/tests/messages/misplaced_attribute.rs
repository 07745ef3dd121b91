use leveret_macros::Job;

#[derive(Job)]
#[job(name = "email.send", queue = "email")]
struct SendEmail {
    #[job(name = "to")]
    to: String,
}

#[derive(Job)]
#[job(name = "email.send", queue = "email")]
enum Send {
    #[job(name = "text")]
    Text,
}

fn main() {}
