//! Protects readers of CSV files from formula injection.
//!
//! The triggers are those of OWASP: `=`, `+`, `-`, `@`, a tab, a line break, also in full width. Spreadsheets trim blanks
//! before they look for a formula. A spreadsheet with another delimiter splits a cell at semicolons, tabs and line breaks,
//! so each such part is checked as a cell.

use std::borrow::Cow;

use crate::number_format::NumberFormat;

const TRIGGERS: [char; 9] = ['=', '+', '-', '@', '＝', '＋', '－', '＠', '−'];

/// Puts an apostrophe before each part of a text that a spreadsheet would run. Numbers with a sign stay unchanged.
pub(crate) fn harmless<'t>(text: &'t str, number_format: &NumberFormat) -> Cow<'t, str> {
    let mut safe = String::new();
    let mut copied = 0;
    for start in parts(text) {
        let begins_with_control = start == 0 && text.starts_with(['\t', '\r', '\n']);
        if begins_with_control || runs(&text[start..], number_format) {
            safe.push_str(&text[copied..start]);
            safe.push('\'');
            copied = start;
        }
    }
    if safe.is_empty() { text.into() } else { (safe + &text[copied..]).into() }
}

/// Returns the positions of the beginning of the text and after each separator.
fn parts(text: &str) -> impl Iterator<Item = usize> {
    let content = text.len() - text.trim_start_matches(is_trimmed).len();
    let inner = text.char_indices().filter(move |(at, letter)| *at >= content && is_separator(*letter));
    std::iter::once(0).chain(inner.map(|(at, letter)| at + letter.len_utf8()))
}

fn runs(part: &str, number_format: &NumberFormat) -> bool {
    let end = part.find(is_separator).unwrap_or(part.len());
    let is_number = |text: &str| {
        number_format.number(text.as_bytes()).or_else(|| NumberFormat::PLAIN.number(text.as_bytes())).is_some()
    };
    // An empty part is safe, and the part after its separator is checked on its own.
    end > 0 && part.trim_start_matches(is_trimmed).starts_with(TRIGGERS) && !is_number(&part[..end])
}

fn is_separator(letter: char) -> bool {
    matches!(letter, ';' | '\t' | '\r' | '\n')
}

/// Returns whether the letter is a blank, a control character or a character without a width.
fn is_trimmed(letter: char) -> bool {
    letter.is_whitespace() || letter.is_control() || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
}
