//! The settings of all commands, as an operator meets them.

use std::process::Command;

#[test]
fn a_variable_that_is_empty_counts_as_unset_and_one_that_is_wrong_is_named_with_its_flag() {
    let program = env!("CARGO_BIN_EXE_leveret");
    let variables = leveret_harness::ignores_empty_variables(program, &[]);
    for variable in
        ["AMQP_URL", "DATABASE_URL", "LEVERET_API_TOKENS", "LEVERET_MANAGEMENT_URL", "LEVERET_REDACT", "USER"]
    {
        assert!(variables.contains(variable), "{variable}");
    }
    let run = Command::new(program).arg("serve").env("LEVERET_KEEP_FAILED", "soon").output().unwrap();
    let text = String::from_utf8(run.stderr).unwrap();
    assert!(!run.status.success() && text.contains("'--keep-failed <LEVERET_KEEP_FAILED>'"), "{text}");
}

#[test]
fn what_is_missing_is_named_by_its_flag_and_its_variable() {
    let run = Command::new(env!("CARGO_BIN_EXE_leveret")).args(["outbox", "relay"]).env_clear().output().unwrap();
    let text = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.code() == Some(2) && text.contains("--database <DATABASE_URL>"), "{text}");
}

#[test]
fn no_error_shows_the_password_of_a_database_and_no_file_is_named_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 11] = [
        &["serve", "--listen", "127.0.0.1:0"],
        &["jobs", "list"],
        &["workflows", "list"],
        &["dead", "list"],
        &["audit"],
        &["outbox", "migrate"],
        &["outbox", "status"],
        &["inbox", "migrate"],
        &["inbox", "status"],
        &["projections", "migrate"],
        &["projections", "list"],
    ];
    // Each address has a port that does not exist, so that no command connects.
    for (address, code) in [
        ("\"postgres://u:S3cret@h:99999/db\"", 2),
        ("'postgres://u:S3cret@h:99999/db'", 2),
        ("Postgres://u:S3cret@h:99999/db", 4),
        (" postgres://u:S3cret@h:99999/db", 4),
        ("postgres:/u:S3cret@h:99999/db", 2),
        ("mysql://u:S3cret@h:99999/db", 2),
        ("host=h port=99999 dbname=db user=u password=S3cret", 2),
        ("sqlite:u:S3cret@h:99999/db", 2),
    ] {
        for arguments in commands {
            let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
            command.args(arguments).current_dir(folder.path()).env_clear().env("DATABASE_URL", address);
            let run = command.output().unwrap();
            let text = String::from_utf8(run.stderr).unwrap();
            assert_eq!(run.status.code(), Some(code), "{arguments:?} {address}: {text}");
            assert!(!text.contains("S3cret") && run.stdout.is_empty(), "{arguments:?} {address}: {text}");
            let names_both = text.contains("DATABASE_URL") && text.contains("sqlite:PATH");
            assert!(names_both || code != 2, "{arguments:?} {address}: {text}");
        }
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "a file was created");
}
