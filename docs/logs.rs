//! The log reference matches the log lines in the code.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use crate::{root, source};

/// The sources whose log lines the page describes.
const SOURCES: [&str; 8] = [
    "src",
    "crates/sql/src",
    "crates/store/src",
    "crates/serve/src",
    "crates/cli/src",
    "workers/email/src",
    "workers/reports/src",
    "workers/orders/src",
];

/// Level and fields.
type Line = (String, BTreeSet<String>);

/// The arguments of a macro, from after its parenthesis.
fn arguments(text: &str) -> Vec<String> {
    let (mut found, mut argument, mut depth, mut quoted) = (Vec::new(), String::new(), 0, false);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' if quoted => {
                argument.extend([c].into_iter().chain(characters.next()));
                continue;
            }
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(std::mem::take(&mut argument));
                continue;
            }
            _ => {}
        }
        argument.push(c);
    }
    found.push(argument);
    found.into_iter().map(|argument| argument.trim().to_owned()).filter(|argument| !argument.is_empty()).collect()
}

/// The text of a literal: without quotes, with continued lines joined.
fn literal(text: &str) -> String {
    text.trim_matches('"').split("\\\n").map(str::trim_start).collect()
}

fn field(argument: &str) -> String {
    argument.split('=').next().unwrap().trim().trim_start_matches(['%', '?']).to_owned()
}

fn read(code: &str, level: &str, lines: &mut BTreeMap<String, Line>) {
    for call in code.split(&format!("tracing::{level}!(")).skip(1) {
        let (messages, fields): (Vec<_>, Vec<_>) =
            arguments(call).into_iter().partition(|argument| argument.starts_with('"'));
        let [message] = messages.as_slice() else { panic!("a line has one message: {messages:?} {fields:?}") };
        let fields: BTreeSet<_> = fields.iter().map(|argument| field(argument)).collect();
        let line = (level.to_owned(), fields);
        let known = lines.insert(literal(message), line.clone());
        assert!(known.is_none_or(|known| known == line), "{message} is logged in two ways");
    }
}

/// The logged lines of these levels, by message.
fn logged(levels: &[&str]) -> BTreeMap<String, Line> {
    fn walk(folder: &Path, visit: &mut impl FnMut(&str)) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                walk(&path, visit)?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                visit(&fs::read_to_string(path)?);
            }
        }
        Ok(())
    }
    let mut lines = BTreeMap::new();
    let mut visit = |text: &str| {
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        let code = text.lines().filter(is_code).collect::<Vec<_>>().join("\n");
        levels.iter().for_each(|level| read(&code, level, &mut lines));
    };
    SOURCES.iter().for_each(|folder| walk(&root().join(folder), &mut visit).unwrap());
    lines
}

/// The lines that the page describes, by message.
fn described() -> BTreeMap<String, Line> {
    let page = fs::read_to_string(source().join("logs.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let row = |row: &str| {
        let (message, rest) = row.split_once("` | ").unwrap();
        let (level, rest) = rest.split_once(" | ").unwrap();
        let fields = rest.split("| ").next().unwrap().split('`').skip(1).step_by(2);
        (message.to_owned(), (level.to_owned(), fields.map(str::to_owned).collect()))
    };
    rows.map(row).collect()
}

#[test]
fn every_warning_and_error_is_in_the_log_reference_as_it_is_logged() {
    let (logged, described) = (logged(&["error", "warn"]), described());
    assert!(logged.len() > 60, "only {} lines were found", logged.len());
    for (message, line) in logged {
        assert_eq!(described.get(&message), Some(&line), "{message}");
    }
}

#[test]
fn the_log_reference_has_no_line_that_is_not_logged() {
    let logged = logged(&["error", "warn", "info"]);
    for (message, line) in described() {
        assert_eq!(logged.get(&message), Some(&line), "{message}");
    }
}
