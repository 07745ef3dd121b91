//! The settings of a program, as its help lists them.

use std::{collections::BTreeSet, process::Command};

/// Checks that a program takes each of its environment variables for unset while it is empty, and returns their names.
/// `path` leads to one of its commands; those below it are checked too.
///
/// # Panics
///
/// When the program cannot be run, or heeds a variable that is empty.
pub fn ignores_empty_variables(program: &str, path: &[&str]) -> BTreeSet<String> {
    let unset = help(program, path, &BTreeSet::new());
    let mut all = variables(&unset);
    let heeded = variables(&help(program, path, &all));
    assert!(heeded.is_empty(), "{program} {path:?} heeds these while they are empty: {heeded:?}");
    for command in commands(&unset) {
        all.append(&mut ignores_empty_variables(program, &[path, &[command]].concat()));
    }
    all
}

fn help(program: &str, path: &[&str], empty: &BTreeSet<String>) -> String {
    let mut command = Command::new(program);
    command.args(path).arg("--help").env_clear().envs(empty.iter().map(|name| (name, "")));
    let output = command.output().expect("the program can be run");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn variables(help: &str) -> BTreeSet<String> {
    let named = help.split("[env: ").skip(1).filter_map(|rest| rest.split([']', '=']).next());
    named.map(str::to_owned).collect()
}

fn commands(help: &str) -> impl Iterator<Item = &str> {
    let listed = help.split_once("\nCommands:\n").map_or("", |(_, rest)| rest);
    let lines = listed.lines().take_while(|line| line.starts_with("  ")).filter(|line| !line.starts_with("   "));
    lines.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help")
}
