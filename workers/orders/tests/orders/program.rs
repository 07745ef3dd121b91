//! Tests of the program `orders-worker`.

use std::process::{Command, Output};

fn orders_worker(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orders-worker"));
    command.args(arguments).env("DATABASE_URL", "mysql://ann:hidden@db.example.com/shop").output().unwrap()
}

#[test]
fn help_lists_every_setting_and_shows_no_password() {
    let text = String::from_utf8(orders_worker(&["--help"]).stdout).unwrap();
    for setting in ["AMQP_URL", "LEVERET_HTTP_ADDR", "RUST_LOG", "DATABASE_URL", "--database-url", "--stock"] {
        assert!(text.contains(setting), "{setting} is missing in {text}");
    }
    assert!(!text.contains("hidden"), "{text}");
}

#[test]
fn a_wrong_setting_stops_the_start_and_is_named() {
    for (arguments, expected) in [
        (vec![], "DATABASE_URL"),
        (vec!["--database-url", "sqlite::memory:"], "DATABASE_URL"),
        (vec!["--database-url", "sqlite:/no/such/folder/shop.db"], "unable to open"),
        (vec!["--stock", "tea=many"], "--stock"),
        (vec!["--log", "a=b=c"], "RUST_LOG"),
    ] {
        let run = orders_worker(&arguments);
        let text = String::from_utf8(run.stderr).unwrap();
        assert!(!run.status.success(), "{text}");
        assert!(text.contains(expected) && !text.contains("hidden"), "{text}");
    }
}

#[test]
fn a_variable_that_is_empty_counts_as_unset_and_one_that_is_wrong_is_named_with_its_flag() {
    let program = env!("CARGO_BIN_EXE_orders-worker");
    let variables = leveret_harness::ignores_empty_variables(program, &[]);
    for variable in ["DATABASE_URL", "LEVERET_NAMESPACE", "RUST_LOG"] {
        assert!(variables.contains(variable), "{variable}");
    }
    let run = Command::new(program).env("LEVERET_HEARTBEAT", "soon").output().unwrap();
    let text = String::from_utf8(run.stderr).unwrap();
    assert!(!run.status.success() && text.contains("'--heartbeat <LEVERET_HEARTBEAT>'"), "{text}");
}
