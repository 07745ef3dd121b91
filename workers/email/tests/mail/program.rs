//! The program `email-worker` as an operator meets it.

use std::process::{Command, Output};

fn email_worker(arguments: &[&str], smtp_url: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_email-worker")).args(arguments).env("SMTP_URL", smtp_url).output().unwrap()
}

#[test]
fn help_lists_every_setting_and_shows_no_password() {
    let help = email_worker(&["--help"], "smtp://ann:hidden@mail.example.com");
    let text = String::from_utf8(help.stdout).unwrap();
    let settings = [
        "AMQP_URL",
        "LEVERET_HTTP_ADDR",
        "RUST_LOG",
        "SMTP_URL",
        "SMTP_CA_FILE",
        "SMTP_TIMEOUT",
        "MAIL_DIR",
        "MAIL_FROM",
        "--amqp-url",
        "--http-addr",
        "--log",
        "--smtp-url",
        "--smtp-ca-file",
        "--smtp-timeout",
        "--mail-dir",
        "--mail-from",
    ];
    for setting in settings {
        assert!(text.contains(setting), "{setting} is missing in {text}");
    }
    assert!(!text.contains("hidden"), "{text}");
}

#[test]
fn a_wrong_setting_stops_the_start_and_is_named() {
    let cases = [
        (vec![], "smtp://ann:hidden@mail.example.com?tls=maybe", "SMTP_URL"),
        (vec!["--mail-from", "nobody"], "", "MAIL_FROM"),
        (vec!["--log", "a=b=c"], "", "RUST_LOG"),
    ];
    for (arguments, url, expected) in cases {
        let run = email_worker(&arguments, url);
        let text = String::from_utf8(run.stderr).unwrap();
        assert!(!run.status.success(), "{text}");
        assert!(text.contains(expected) && !text.contains("hidden"), "{text}");
    }
}
