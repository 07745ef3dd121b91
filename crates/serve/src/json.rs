//! JSON as text. Decoding and encoding changes numbers and loses repeated keys, so code that searches a payload or hides a
//! part of it works on the original bytes.
//!
//! Nothing here recurses, and no memory grows with the depth: a payload may be nested as deeply as it is long.

use std::{
    borrow::Cow,
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
};

use serde_json::value::RawValue;

/// The greatest indentation, in levels.
const DEEPEST_INDENT: usize = 32;
/// The most arrays and objects around a visited value, which are as many as `serde_json` decodes.
const DEEPEST: usize = 128;

/// A value and its place.
#[derive(Debug)]
pub(crate) struct ValueAt<'a> {
    /// The JSON pointer (RFC 6901).
    pub(crate) pointer: &'a str,
    /// A digest of the pointer, which itself may be as long as the text. It is made from the digest of the outer value.
    pub(crate) digest: u64,
    /// The key, if the value is a member of an object.
    pub(crate) key: Option<&'a str>,
    /// True if the object has had this key before.
    pub(crate) is_twice: bool,
    /// True for an array or an object on the deepest level: its content is never visited.
    pub(crate) is_deepest: bool,
    /// The number of bytes before it, without those of skipped values.
    pub(crate) shown: usize,
    /// The text from the value's first byte on.
    pub(crate) rest: &'a str,
}

/// The decision whether the content of a value is visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    Enter,
    Skip,
    /// Neither the value nor what follows it is visited.
    Stop,
}

/// Reads bytes as JSON text.
///
/// # Errors
///
/// The reason why they are not JSON, without the bytes themselves.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, String> {
    if bytes.trim_ascii().is_empty() {
        return Err("is empty: expected JSON, such as {}".to_owned());
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err("begins with a byte order mark: remove it".to_owned());
    }
    let raw: &RawValue = serde_json::from_slice(bytes).map_err(|error| format!("is not JSON: {error}"))?;
    Ok(raw.get())
}

enum Frame {
    /// The keys so far.
    Object(HashSet<String>),
    /// The number of the next item.
    Array(usize),
}

impl Frame {
    /// The frame of the value that begins with this byte, if values are within it.
    fn of(byte: u8) -> Option<Self> {
        match byte {
            b'{' => Some(Self::Object(HashSet::new())),
            b'[' => Some(Self::Array(0)),
            _ => None,
        }
    }
}

/// Visits every value of a JSON text down to the deepest level. Returns the ranges of the skipped values.
pub(crate) fn visit(text: &str, mut visitor: impl FnMut(&ValueAt<'_>) -> Visit) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let (mut passed, mut skipped, mut pointer) = (Vec::new(), 0, String::new());
    // Each frame has the length and the digest of its own pointer.
    let mut frames: Vec<(Frame, usize, u64)> = Vec::new();
    let mut member: Option<(Cow<'_, str>, bool)> = None;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | b',' | b':' => at += 1,
            b'}' | b']' => {
                frames.pop();
                at += 1;
            }
            b'"' if member.is_none() && matches!(frames.last(), Some((Frame::Object(_), ..))) => {
                let end = value_end(bytes, at);
                let key = string(&text[at..end]);
                if let Some((Frame::Object(keys), ..)) = frames.last_mut() {
                    let is_new = keys.insert(key.clone().into_owned());
                    member = Some((key, !is_new));
                }
                at = end;
            }
            _ => {
                let (base, around) = frames.last().map_or((0, 0), |(_, length, digest)| (*length, *digest));
                pointer.truncate(base);
                let (key, is_twice) = member.take().map_or((None, false), |(key, twice)| (Some(key), twice));
                push_name(&mut pointer, key.as_deref(), frames.last_mut().map(|(frame, ..)| frame));
                let mut hasher = DefaultHasher::new();
                (around, &pointer[base..]).hash(&mut hasher);
                let digest = hasher.finish();
                let frame = Frame::of(*byte);
                let is_deepest = frame.is_some() && frames.len() == DEEPEST;
                let (key, shown, rest) = (key.as_deref(), at - skipped, &text[at..]);
                let place = ValueAt { pointer: &pointer, digest, key, is_twice, is_deepest, shown, rest };
                let visit = visitor(&place);
                if visit == Visit::Stop {
                    break;
                }
                if let Some(frame) = frame.filter(|_| visit == Visit::Enter && !is_deepest) {
                    frames.push((frame, pointer.len(), digest));
                    at += 1;
                    continue;
                }
                let end = value_end(bytes, at);
                if visit == Visit::Skip {
                    passed.push(at..end);
                    skipped += end - at;
                }
                at = end;
            }
        }
    }
    passed
}

/// Appends the name of a value within this frame: its key, or its number.
fn push_name(pointer: &mut String, key: Option<&str>, within: Option<&mut Frame>) {
    match (key, within) {
        (Some(key), _) => push(pointer, key),
        (None, Some(Frame::Array(next))) => {
            push(pointer, &next.to_string());
            *next += 1;
        }
        (None, _) => {}
    }
}

fn push(pointer: &mut String, name: &str) {
    pointer.push('/');
    for letter in name.chars() {
        match letter {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            letter => pointer.push(letter),
        }
    }
}

/// The end of the value that begins at `at`.
fn value_end(bytes: &[u8], mut at: usize) -> usize {
    let (start, mut depth) = (at, 0_usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            b' ' | b'\t' | b'\n' | b'\r' | b',' | b':' if depth == 0 && at > start => return at,
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

/// The end of the string whose quote is at `at`.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(byte) = bytes.get(end) {
        match byte {
            b'"' => return end + 1,
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
    bytes.len()
}

/// The content of the string at the start of `text`. Half of a surrogate pair becomes U+FFFD.
pub(crate) fn string(text: &str) -> Cow<'_, str> {
    let quoted = &text[..string_end(text.as_bytes(), 0).min(text.len())];
    let inner = quoted.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(quoted);
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    serde_json::from_str(quoted).map_or_else(|_| Cow::Owned(lossy(inner)), Cow::Owned)
}

/// Decodes a string with halves of surrogate pairs, which `serde_json` refuses.
fn lossy(inner: &str) -> String {
    let (mut decoded, mut rest) = (String::with_capacity(inner.len()), inner);
    while let Some(at) = rest.find('\\') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at..];
        // An escape, with the other half of a surrogate pair if it follows.
        let escape = [12, 6, 2].into_iter().filter_map(|length| rest.get(..length)).find_map(|escape| {
            let letter = serde_json::from_str::<String>(&format!("\"{escape}\"")).ok()?;
            (letter.chars().count() == 1).then_some((letter, escape.len()))
        });
        let (letter, length) = escape.unwrap_or_else(|| {
            let length = if rest.starts_with("\\u") { 6 } else { 2 };
            (char::REPLACEMENT_CHARACTER.to_string(), rest.floor_char_boundary(length.min(rest.len())).max(1))
        });
        decoded.push_str(&letter);
        rest = &rest[length..];
    }
    decoded.push_str(rest);
    decoded
}

/// The repeated keys of objects, as at most `most` JSON pointers.
pub(crate) fn repeated_keys(text: &str, most: usize) -> Vec<String> {
    let mut found = Vec::new();
    visit(text, |place| {
        if place.is_twice && found.len() < most {
            found.push(place.pointer.to_owned());
        }
        Visit::Enter
    });
    found
}

/// Lays a JSON text out with one value a line, and returns the number of bytes that it read. It stops after `most` bytes of
/// output. Only whitespace between values is changed.
pub(crate) fn laid_out(text: &str, most: usize) -> (String, usize) {
    let bytes = text.as_bytes();
    let (mut lines, mut depth, mut at, mut before) = (String::new(), 0_usize, 0, 0);
    while let Some(&byte) = bytes.get(at).filter(|_| lines.len() <= most) {
        let start = at;
        at = match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {
                at += 1;
                continue;
            }
            b'{' | b'[' | b'}' | b']' | b',' | b':' => at + 1,
            _ => value_end(bytes, at),
        };
        let (opened, closes) = (matches!(before, b'{' | b'['), matches!(byte, b'}' | b']'));
        depth -= usize::from(closes && depth > 0);
        if (opened && !closes) || (closes && !opened) || before == b',' {
            lines.push('\n');
            lines.extend(std::iter::repeat_n("  ", depth.min(DEEPEST_INDENT)));
        }
        lines.push_str(&text[start..at]);
        depth += usize::from(matches!(byte, b'{' | b'['));
        if byte == b':' {
            lines.push(' ');
        }
        before = byte;
    }
    (lines, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_text_that_can_be_published() {
        for good in ["{}", " 1 ", r#""a""#, "[1,{\"a\":null}]", "123456789012345678901234567890"] {
            assert!(text(good.as_bytes()).is_ok(), "{good}");
        }
        for (bad, why) in [
            (b"".as_slice(), "is empty"),
            (b" \n", "is empty"),
            (b"\xef\xbb\xbf{}", "byte order mark"),
            (b"not json", "is not JSON"),
            (b"{} {}", "is not JSON"),
            (b"\"\xff\"", "is not JSON"),
            (b"[1,]", "is not JSON"),
        ] {
            assert!(text(bad).unwrap_err().contains(why), "{bad:?}");
        }
    }

    #[test]
    fn every_value_is_shown_with_its_place() {
        let json = r#" {"a": [1, {"b/~": "x, }"}, []], "c\u0064": {"e": null}, "n": -1.50e+3} "#;
        let mut seen = Vec::new();
        let passed = visit(json, |place| {
            seen.push((place.pointer.to_owned(), place.key.map(str::to_owned)));
            if place.key == Some("e") || place.key == Some("n") { Visit::Skip } else { Visit::Enter }
        });
        let pointers: Vec<_> = seen.iter().map(|(pointer, _)| pointer.as_str()).collect();
        assert_eq!(pointers, ["", "/a", "/a/0", "/a/1", "/a/1/b~1~0", "/a/2", "/cd", "/cd/e", "/n"]);
        assert_eq!((seen[3].1.as_deref(), seen[4].1.as_deref()), (None, Some("b/~")));
        let passed: Vec<_> = passed.into_iter().map(|range| &json[range]).collect();
        assert_eq!(passed, ["null", "-1.50e+3"]);
    }

    #[test]
    fn a_key_that_stands_twice_is_found_however_it_is_written() {
        let json = r#"{"n": 1, "m": {"n": 2}, "a": [{"n": 1}, {"n": 1, "\u006e": 2}], "n": 2}"#;
        assert_eq!(repeated_keys(json, 9), ["/a/1/n", "/n"]);
        assert_eq!(repeated_keys(json, 1), ["/a/1/n"]);
        assert!(repeated_keys(r#"{"a": {"a": 1}, "b": ["a", "a"]}"#, 9).is_empty());
    }

    #[test]
    fn half_a_pair_of_surrogates_does_not_keep_a_string_from_being_decoded() {
        for (text, decoded) in [
            (r#""\ud800""#, "\u{fffd}"),
            (r#""a\udc00\n\u00e4\\\"""#, "a\u{fffd}\nä\\\""),
            (r#""\ud800\ud83d\ude00\ud83dx""#, "\u{fffd}😀\u{fffd}x"),
            (r#""\ud800\u0041""#, "\u{fffd}A"),
        ] {
            assert_eq!(string(text), decoded, "{text}");
        }
    }

    #[test]
    fn what_is_laid_out_is_the_same_text_but_for_space() {
        let json = r#"{"n":0.10000000000000000555,"a":[1,{"x":"a, {b"}],"e":{},"f":[ ]}"#;
        let lines = [
            "{",
            "  \"n\": 0.10000000000000000555,",
            "  \"a\": [",
            "    1,",
            "    {",
            "      \"x\": \"a, {b\"",
            "    }",
            "  ],",
            "  \"e\": {},",
            "  \"f\": []",
            "}",
        ];
        assert_eq!(laid_out(json, 1000), (lines.join("\n"), json.len()));
        let (some, read) = laid_out(json, 4);
        assert!(some.len() < 20 && read < 10, "{some} {read}");
    }

    #[test]
    fn depth_takes_no_stack_and_only_the_first_levels_are_visited() {
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        let mut deepest = Vec::new();
        visit(&format!("[{deep}, 1]"), |place| {
            deepest.push(place.is_deepest);
            Visit::Enter
        });
        assert_eq!((deepest.len(), deepest[DEEPEST], deepest[DEEPEST + 1]), (DEEPEST + 2, true, false));
        assert_eq!(deepest.iter().filter(|is_deepest| **is_deepest).count(), 1);
        assert!(laid_out(&deep, 1000).0.len() < 2000);
    }

    #[test]
    fn a_visit_ends_where_its_visitor_stops_it() {
        let json = format!(r#"[{{"key": "a skipped value"}},{}1]"#, "1,".repeat(100_000));
        let mut shown = Vec::new();
        visit(&json, |place| {
            shown.push(place.shown);
            match place.key {
                Some(_) => Visit::Skip,
                None if place.shown > 14 => Visit::Stop,
                None => Visit::Enter,
            }
        });
        assert_eq!(shown, [0, 1, 9, 11, 13, 15]);
    }
}
