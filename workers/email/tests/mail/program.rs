//! Tests of the program `email-worker`.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Output, Stdio},
};

fn email_worker(arguments: &[&str], smtp_url: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_email-worker"))
        .args(arguments)
        .env_remove("MAIL_DIR")
        .env("SMTP_URL", smtp_url)
        .output()
        .unwrap()
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
        (vec!["--mail-dir", "mail", "--mail-from", "no address"], "", "MAIL_FROM"),
        (vec!["--mail-dir", "mail", "--log", "a=b=c"], "", "RUST_LOG"),
        (vec![], "", "SMTP_URL"),
        (vec![], "", "MAIL_DIR"),
        (vec!["--mail-dir", "mail"], "smtp://ann:hidden@mail.example.com", "both SMTP_URL and MAIL_DIR"),
    ];
    for (arguments, url, expected) in cases {
        let run = email_worker(&arguments, url);
        let text = String::from_utf8(run.stderr).unwrap();
        assert!(!run.status.success(), "{text}");
        assert!(text.contains(expected) && !text.contains("hidden"), "{text}");
    }
}

#[test]
fn metrics_are_served_while_the_broker_is_unreachable() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_email-worker"))
        .args(["--mail-dir", "mail", "--http-addr", "127.0.0.1:0", "--amqp-url", "amqp://127.0.0.1:1", "--log", "info"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(program.stderr.take().unwrap());
    let address = log.lines().find_map(|line| Some(line.unwrap().split_once("health address=")?.1.to_owned()));
    let mut http = TcpStream::connect(address.unwrap()).unwrap();
    http.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    http.read_to_string(&mut answer).unwrap();
    program.kill().unwrap();
    program.wait().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("leveret_broker_connected"), "{answer}");
}

#[test]
fn only_the_framework_logs_a_broker_that_closes_the_connection() {
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://{}", broker.local_addr().unwrap());
    let mut program = Command::new(env!("CARGO_BIN_EXE_email-worker"))
        .args(["--mail-dir", "mail", "--http-addr", "127.0.0.1:0", "--amqp-url", &url])
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The worker logs each attempt before the next one.
    for _ in 0..4 {
        drop(broker.accept().unwrap());
    }
    program.kill().unwrap();
    let log = String::from_utf8(program.wait_with_output().unwrap().stderr).unwrap();
    assert!(log.contains("cannot connect to the broker") && !log.contains(" lapin"), "{log}");
}

#[test]
fn every_setting_is_in_the_book_with_its_flag_and_default() {
    let page = include_str!("../../../../docs/src/email-worker.md");
    let help = Command::new(env!("CARGO_BIN_EXE_email-worker")).arg("--help").env_clear().output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, own) = help.split_once("\nMail:").unwrap();
    let mut rows = 0;
    for option in own.split("\n      --").skip(1) {
        let value = |name: &str| option.split_once(&format!("[{name}: ")).and_then(|(_, rest)| rest.split_once(']'));
        let Some((variable, _)) = value("env") else { continue };
        let flag = option.split(' ').next().unwrap();
        let default =
            value("default").map_or_else(String::new, |(default, _)| format!("`{}` ", default.trim_matches('"')));
        let row = format!("| `{}` | `--{flag}` | {default}|", variable.trim_end_matches('='));
        assert!(page.contains(&row), "the page lacks {row}");
        rows += 1;
    }
    assert_eq!(rows, 7, "{help}");
}

#[test]
fn a_variable_that_is_empty_counts_as_unset_and_one_that_is_wrong_is_named_with_its_flag() {
    let program = env!("CARGO_BIN_EXE_email-worker");
    let variables = leveret_harness::ignores_empty_variables(program, &[]);
    for variable in ["SMTP_URL", "MAIL_DIR", "LEVERET_NAMESPACE", "RUST_LOG"] {
        assert!(variables.contains(variable), "{variable}");
    }
    let run = Command::new(program).env("SMTP_TIMEOUT", "soon").output().unwrap();
    let text = String::from_utf8(run.stderr).unwrap();
    assert!(!run.status.success() && text.contains("'--smtp-timeout <SMTP_TIMEOUT>'"), "{text}");
}
