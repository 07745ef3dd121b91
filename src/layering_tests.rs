//! Keeps the modules of this crate in the order of a job's life: a module imports from the modules before it, never
//! from a later one. So there is no import circle, and each module is understandable from the earlier ones.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The modules, from the lowest to the highest.
const ROOMS: [&str; 34] = [
    "time",
    "text",
    "names",
    "identity",
    "job",
    "event",
    "error",
    "outcome",
    "backoff",
    "config",
    "observe",
    "shutdown",
    "message",
    "topology",
    "transport",
    "tracking",
    "request",
    "broker",
    "http",
    "health_server",
    "trace",
    "publish",
    "workflow",
    "readers",
    "limits",
    "attempt",
    "worker",
    "schedule",
    "events",
    "testing",
    "internals",
    "layering_tests",
    "lib",
    "",
];

fn rank(room: &str) -> Option<usize> {
    ROOMS.iter().position(|known| *known == room)
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Returns the modules that a text of code imports, each with its line: the first word after each `crate::`, and after
/// each comma of the outermost braces that follow one.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let mut words = Vec::new();
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut begins) = (1, true);
            for (offset, letter) in group.char_indices() {
                match letter {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => begins = true,
                    letter if begins && letter.is_alphabetic() => {
                        words.push((at + "crate::{".len() + offset, &group[offset..]));
                        begins = false;
                    }
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            words.push((at, rest));
        }
        for (at, text) in words {
            let word: String = text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
            found.push((code[..at].lines().count().max(1), word));
        }
    }
    found
}

/// Returns the code of a file, without comments and tests.
fn code_of(text: &str) -> String {
    let tests = text.find("#[cfg(test)]\nmod tests {").or_else(|| text.find("#[cfg(test)]\npub(crate) mod tests {"));
    let lines = text[..tests.unwrap_or(text.len())].lines();
    lines.map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[test]
fn no_room_imports_from_a_later_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for path in files {
        let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        if name == "lib.rs" || name.ends_with("tests.rs") {
            continue;
        }
        let room = name.split('/').next().unwrap().trim_end_matches(".rs");
        let Some(own) = rank(room) else {
            wrong.push(format!("src/{name}: the module {room:?} has no place in the order"));
            continue;
        };
        for (line, import) in imports(&code_of(&fs::read_to_string(&path).unwrap())) {
            match rank(&import) {
                Some(other) if other <= own => {}
                Some(_) => {
                    wrong.push(format!("src/{name}:{line}: {room:?} must not import from {import:?}, which is later"));
                }
                None => wrong.push(format!("src/{name}:{line}: crate::{import} is a re-export: name its module")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_are_found_in_groups_and_in_paths() {
    let code = "use crate::{\n    text,\n    worker::{queue::Queue, spec},\n};\nlet x = crate::config::setting();\n";
    let words: Vec<_> = imports(code).into_iter().map(|(line, word)| format!("{line} {word}")).collect();
    assert_eq!(words, ["2 text", "3 worker", "5 config"]);
}
