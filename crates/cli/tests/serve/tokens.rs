//! Unusable tokens: the server does not start, and does not print them.

use std::process::{Command, Output};

const TOKEN: &str = "0123456789abcdef";

fn serve(name: &str, value: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--store", "/nowhere at all/leveret.db"]);
    command.env_remove("LEVERET_API_TOKENS").env_remove("LEVERET_API_TOKENS_FILE").env(name, value);
    command.output().unwrap()
}

#[test]
fn a_malformed_token_is_refused_and_none_is_repeated() {
    let output = serve("LEVERET_API_TOKENS", &format!("viewer:{TOKEN},operater:{TOKEN}"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("token 2") && !said.contains(TOKEN), "{said}");
}

#[test]
fn a_file_without_any_token_does_not_open_the_api() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    for nothing in ["# none yet\n", "", "\u{feff}"] {
        std::fs::write(&file, nothing).unwrap();
        let output = serve("LEVERET_API_TOKENS_FILE", file.to_str().unwrap());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("no token"), "{said}");
    }
}

#[test]
fn an_empty_variable_of_tokens_counts_as_unset_so_that_others_are_kept_out() {
    let (mut command, folder) = (Command::new(env!("CARGO_BIN_EXE_leveret")), tempfile::tempdir().unwrap());
    command.args(["serve", "--listen", "0.0.0.0:0", "--store"]).arg(folder.path().join("db"));
    let output = command.env("LEVERET_API_TOKENS", "").env_remove("LEVERET_API_TOKENS_FILE").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("requires tokens"), "{said}");
}
