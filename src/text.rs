//! Makes foreign text safe to show. Names, ids, errors and payloads come from any publisher, and terminals execute
//! control sequences.

use std::{borrow::Cow, error::Error, iter};

/// Returns whether a terminal obeys the letter or shows nothing for it. That holds for control characters, marks that
/// change the direction of writing, and letters without width.
///
/// ```
/// use leveret::text::is_unsafe;
///
/// assert!(['\x1b', '\n', '\u{9b}', '\u{202e}', '\u{200b}'].into_iter().all(is_unsafe));
/// assert!(!['a', 'ä', ' ', '日', '\u{301}'].into_iter().any(is_unsafe));
/// ```
#[must_use]
pub fn is_unsafe(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{13430}'..='\u{1345f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Returns the text in one line of at most `longest` letters, with [unsafe](is_unsafe) letters written as `\u{1b}`.
/// Line ends and tabs become spaces. A final `…` marks cut text.
///
/// ```
/// use leveret::text::one_line;
///
/// assert_eq!(one_line("no mailbox\n\x1b[31m17", 80), "no mailbox \\u{1b}[31m17");
/// assert_eq!(one_line("abcdef", 3), "abc…");
/// ```
#[must_use]
pub fn one_line(text: &str, longest: usize) -> String {
    let mut letters = text.chars();
    let mut line = String::new();
    for letter in letters.by_ref().take(longest) {
        match letter {
            '\n' | '\r' | '\t' => line.push(' '),
            letter => push(&mut line, letter),
        }
    }
    if letters.next().is_some() {
        line.push('…');
    }
    line
}

/// Returns an error and its sources in one line, for logs. The `Debug` of an error may show contents, such as of a row.
///
/// ```
/// let error = "x".parse::<u16>().unwrap_err();
/// assert_eq!(leveret::text::error_chain(&error), "invalid digit found in string");
/// ```
#[must_use]
pub fn error_chain(error: &dyn Error) -> String {
    let sources = iter::successors(error.source(), |error| (**error).source());
    sources.fold(error.to_string(), |chain, error| format!("{chain}: {error}"))
}

/// Returns the bytes in hexadecimal, for digests.
#[doc(hidden)]
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the text with its line ends, and other [unsafe](is_unsafe) letters written as `\u{1b}`.
///
/// ```
/// assert_eq!(leveret::text::lines("a\nb\r\u{202e}"), "a\nb\\u{d}\\u{202e}");
/// ```
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    let is_kept = |letter: char| letter == '\n' || !is_unsafe(letter);
    if text.chars().all(is_kept) {
        return Cow::Borrowed(text);
    }
    let mut lines = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if is_kept(letter) { lines.push(letter) } else { push(&mut lines, letter) }
    }
    Cow::Owned(lines)
}

/// Returns JSON of the same value, with [unsafe](is_unsafe) letters as JSON escapes. Line ends stay.
///
/// ```
/// assert_eq!(leveret::text::json("[\"a\u{9b}\u{e0001}\"]\n"), "[\"a\\u009b\\udb40\\udc01\"]\n");
/// ```
#[must_use]
pub fn json(json: &str) -> Cow<'_, str> {
    // In valid JSON, control characters below the space occur only between values.
    let is_kept = |letter: char| letter < ' ' || !is_unsafe(letter);
    if json.chars().all(is_kept) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for letter in json.chars() {
        if is_kept(letter) {
            escaped.push(letter);
            continue;
        }
        for unit in letter.encode_utf16(&mut [0; 2]) {
            escaped.push_str(&format!("\\u{unit:04x}"));
        }
    }
    Cow::Owned(escaped)
}

fn push(line: &mut String, letter: char) {
    if is_unsafe(letter) { line.extend(letter.escape_unicode()) } else { line.push(letter) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_unsafe_letter_is_left_and_a_line_has_bounded_length(text in any::<String>(), longest in 0..50_usize) {
            let line = one_line(&text, longest);
            prop_assert!(!line.chars().any(is_unsafe));
            let of_one = r"\u{10ffff}".len();
            prop_assert!(line.chars().count() <= longest * of_one + 1);
            prop_assert!(!lines(&text).chars().any(|letter| letter != '\n' && is_unsafe(letter)));
        }

        #[test]
        fn escaped_json_has_the_same_value(text in any::<String>()) {
            let written = serde_json::to_string(&text).unwrap();
            let escaped = json(&written);
            prop_assert!(!escaped.chars().any(is_unsafe));
            prop_assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
        }
    }
}
