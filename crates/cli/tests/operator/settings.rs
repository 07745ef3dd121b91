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
