//! Tests of the program `demo`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

#[test]
fn a_variable_that_is_empty_counts_as_unset_and_one_that_is_wrong_is_named_with_its_flag() {
    let program = env!("CARGO_BIN_EXE_demo");
    let variables = leveret_harness::ignores_empty_variables(program, &[]);
    for variable in ["AMQP_URL", "DEMO_OUTPUT", "RUST_LOG"] {
        assert!(variables.contains(variable), "{variable}");
    }
    let run = Command::new(program).env("DEMO_API_ADDR", "nowhere").output().unwrap();
    let text = String::from_utf8(run.stderr).unwrap();
    assert!(!run.status.success() && text.contains("'--api-addr <DEMO_API_ADDR>'"), "{text}");
}
