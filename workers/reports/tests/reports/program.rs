//! Tests of the program `reports-worker`.

use std::process::Command;

#[test]
fn a_variable_that_is_empty_counts_as_unset_and_one_that_is_wrong_is_named_with_its_flag() {
    let program = env!("CARGO_BIN_EXE_reports-worker");
    let variables = leveret_harness::ignores_empty_variables(program, &[]);
    for variable in ["REPORTS_DATA_DIR", "LEVERET_NAMESPACE", "RUST_LOG"] {
        assert!(variables.contains(variable), "{variable}");
    }
    let run = Command::new(program).env("REPORTS_CONCURRENCY", "0").output().unwrap();
    let text = String::from_utf8(run.stderr).unwrap();
    assert!(!run.status.success() && text.contains("'--concurrency <REPORTS_CONCURRENCY>'"), "{text}");
}
