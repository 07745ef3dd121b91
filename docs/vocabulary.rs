//! Comments, messages and documents use the field's words. `make lint` checks single words with typos (`.typos.toml`);
//! this file checks what typos cannot: phrases, which may run over the end of a line, and how doc comments begin.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::root;

/// A phrase, and what to write instead.
const PHRASES: &[(&str, &str)] = &[
    ("an authority", "a CA"),
    ("are away", "are unreachable"),
    ("are taken in", "are ingested"),
    ("authorities", "CAs"),
    ("be away", "be unreachable"),
    ("broker away", "broker unreachable"),
    ("dependency is down", "circuit is open"),
    ("for ever", "indefinitely"),
    ("gave up", "dead-lettered, or: stopped waiting"),
    ("given up", "dead-lettered"),
    ("hand back", "requeue"),
    ("hand out", "deliver"),
    ("handed back", "requeued"),
    ("handed out", "delivered"),
    ("hands back", "requeues"),
    ("hands out", "delivers"),
    ("has heard", "has received"),
    ("has taken in", "has ingested"),
    ("heard of", "received"),
    ("in hand", "unacknowledged"),
    ("in the mean", "on average"),
    ("is away", "is unreachable"),
    ("of ours", "Leveret's"),
    ("put away", "purge, purged"),
    ("puts away", "purges"),
    ("suspect lane", "suspect queue"),
    ("take in", "ingest"),
    ("taken in by", "ingested by"),
    ("takes in", "ingests"),
    ("time after time", "repeatedly"),
    ("took in", "ingested"),
    ("tried again", "retried"),
    ("tries again", "retries"),
    ("trying again", "retrying"),
    ("was away", "was unreachable"),
    ("were away", "were unreachable"),
];

/// Words that no doc comment begins with: the item or its action is the subject.
const BEGINNINGS: [&str; 8] = ["How", "What", "Where", "Whether", "Which", "Who", "Whose", "Why"];

/// The text files of the repository, without hidden ones and what builds leave.
fn files() -> Vec<PathBuf> {
    const KINDS: [&str; 10] = ["conf", "md", "py", "rs", "sh", "sql", "toml", "txt", "yaml", "yml"];
    const SKIPPED: [&str; 4] = ["artifacts", "corpus", "node_modules", "target"];
    fn walk(path: &Path, found: &mut Vec<PathBuf>) {
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !name.starts_with('.') && !SKIPPED.contains(&name) {
            fs::read_dir(path).unwrap().for_each(|entry| walk(&entry.unwrap().path(), found));
        } else if path.extension().is_some_and(|extension| KINDS.iter().any(|kind| extension == *kind)) {
            found.push(path.to_owned());
        }
    }
    let mut found = Vec::new();
    fs::read_dir(root()).unwrap().for_each(|entry| walk(&entry.unwrap().path(), &mut found));
    assert!(found.iter().any(|path| path.ends_with("src/lib.rs")));
    found.retain(|path| !path.ends_with("docs/vocabulary.rs"));
    found
}

/// The text with one space between words, lower case, without comment signs and continuation signs; and the line of each
/// byte.
fn flowing(text: &str) -> (String, Vec<usize>) {
    let (mut flowing, mut lines) = (String::from(" "), vec![1]);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start().trim_start_matches(['/', '!', '#', '*']).trim_end_matches('\\');
        for word in line.split_whitespace() {
            flowing.push_str(&word.to_lowercase());
            flowing.push(' ');
            lines.resize(flowing.len(), number + 1);
        }
    }
    (flowing, lines)
}

#[test]
fn no_text_uses_a_phrase_that_has_a_better_word() {
    let mut found = Vec::new();
    for path in files() {
        let text = fs::read_to_string(&path).unwrap();
        let (flowing, lines) = flowing(&text);
        for (phrase, better) in PHRASES {
            let is_word = |at: usize| !flowing[at..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
            for (at, _) in flowing.match_indices(&format!(" {phrase}")) {
                if is_word(at + 1 + phrase.len()) {
                    found.push(format!("{}:{}: {phrase:?}: write {better:?}", path.display(), lines[at + 1]));
                }
            }
        }
    }
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}

#[test]
fn a_doc_comment_begins_with_a_verb_or_the_thing_itself() {
    let mut found = Vec::new();
    for path in files().iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
        let mut is_within = false;
        for (number, line) in fs::read_to_string(path).unwrap().lines().map(str::trim_start).enumerate() {
            let is_doc = line.starts_with("///") || line.starts_with("//!");
            let first = line.split_whitespace().nth(1).unwrap_or_default();
            if is_doc && !is_within && BEGINNINGS.contains(&first) {
                found.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
            is_within = is_doc;
        }
    }
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}
