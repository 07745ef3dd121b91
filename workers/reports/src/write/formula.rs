//! Protects readers of CSV files from formula injection.
//!
//! The triggers are OWASP's: `=`, `+`, `-`, `@`, a tab, a line break, also in full width. Spreadsheets trim blanks before
//! they look. A spreadsheet set to another delimiter splits a cell at semicolons, tabs and line breaks, so each such part
//! is checked as a cell.

use std::borrow::Cow;

use crate::number_format::Notation;

const TRIGGERS: [char; 9] = ['=', '+', '-', '@', '＝', '＋', '－', '＠', '−'];

/// Puts an apostrophe before each part of a text that a spreadsheet would run. Numbers are unchanged, whatever their sign.
pub(crate) fn harmless<'t>(text: &'t str, notation: &Notation) -> Cow<'t, str> {
    let mut safe = String::new();
    let mut copied = 0;
    for start in parts(text) {
        let is_led = start == 0 && text.starts_with(['\t', '\r', '\n']);
        if is_led || is_run(&text[start..], notation) {
            safe.push_str(&text[copied..start]);
            safe.push('\'');
            copied = start;
        }
    }
    if safe.is_empty() { text.into() } else { (safe + &text[copied..]).into() }
}

/// The beginning of the text, and the place after each separator in it.
fn parts(text: &str) -> impl Iterator<Item = usize> {
    let content = text.len() - text.trim_start_matches(is_trimmed).len();
    let inner = text.char_indices().filter(move |(at, letter)| *at >= content && is_separator(*letter));
    std::iter::once(0).chain(inner.map(|(at, letter)| at + letter.len_utf8()))
}

fn is_run(part: &str, notation: &Notation) -> bool {
    let end = part.find(is_separator).unwrap_or(part.len());
    let is_number =
        |text: &str| notation.number(text.as_bytes()).or_else(|| Notation::PLAIN.number(text.as_bytes())).is_some();
    // A separator that follows another begins a part of its own.
    end > 0 && part.trim_start_matches(is_trimmed).starts_with(TRIGGERS) && !is_number(&part[..end])
}

fn is_separator(letter: char) -> bool {
    matches!(letter, ';' | '\t' | '\r' | '\n')
}

/// Blanks, control characters, and characters without a width.
fn is_trimmed(letter: char) -> bool {
    letter.is_whitespace() || letter.is_control() || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
}
