//! Payloads for display: readable, without secrets, and cut to a length. Only hidden values are replaced in the
//! original text, so that numbers keep their digits and repeated keys stay repeated. Only the shown part is searched.

use std::{borrow::Cow, collections::HashSet};

use leveret::{reader::RawMessage, workflow::END};

use crate::json::{self, ValueAt, Visit};

/// Ends of the keys whose values are hidden.
const SECRET_KEYS: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "cookie",
    "api_key",
    "private_key",
    "credentials",
    "credit_card",
    "iban",
];
/// The header with which a message proves that it is of a job: its value is a secret of the job's messages.
const ORIGIN: &str = "leveret-origin";
/// Replaces a hidden value.
const MASK: &str = "***";
/// The same as JSON.
const MASKED: &str = "\"***\"";
/// The greatest length of a shown payload, in bytes.
const LONGEST: usize = 64 * 1024;

/// Rules that hide parts of a payload.
///
/// ```
/// use leveret_serve::dead::redact::RedactionRules;
///
/// let rules = RedactionRules::new(["/customer/name".to_owned()]);
/// let shown = rules.show(br#"{"customer": {"name": "Ada", "Password": "hunter2", "age": 36.0}}"#);
/// assert!(shown.contains("36.0") && !shown.contains("Ada") && !shown.contains("hunter2"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct RedactionRules {
    rules: Vec<String>,
}

impl RedactionRules {
    /// Adds rules to the default ones: JSON pointers (`/customer/name`), or ends of keys at any depth. `ssn` also hides
    /// `client_ssn` and `clientSSN`.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = String>) -> Self {
        Self { rules: rules.into_iter().filter(|rule| !plain(rule).is_empty()).collect() }
    }

    /// The rules for messages of this job. The payload of [`END`] also has the secret of its workflow, `origin`.
    ///
    /// ```
    /// use leveret::workflow::END;
    /// use leveret_serve::dead::redact::RedactionRules;
    ///
    /// let rules = RedactionRules::default();
    /// let end = br#"{"workflow": "order-17", "origin": "6f1c"}"#;
    /// assert_eq!(rules.of_job(END).text(end), r#"{"workflow": "order-17", "origin": "***"}"#);
    /// ```
    #[must_use]
    pub fn of_job(&self, job: &str) -> Cow<'_, Self> {
        if job != END {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Self { rules: self.rules.iter().cloned().chain(["/origin".to_owned()]).collect() })
    }

    /// The payload for people: JSON with one value a line. A payload that is not JSON, or too long, is an excerpt.
    #[must_use]
    pub fn show(&self, payload: &[u8]) -> String {
        let Some((text, more)) = self.redacted(payload) else { return excerpt(payload) };
        let (lines, read) = json::laid_out(&text, LONGEST);
        lines + &rest(text.len() - read + more)
    }

    /// The payload for programs: redacted, with its original whitespace.
    #[must_use]
    pub fn text(&self, payload: &[u8]) -> String {
        self.json_text(payload).unwrap_or_else(|| excerpt(payload))
    }

    /// Like [`text`](Self::text); `None` if the payload is not JSON, because secrets in it cannot be found.
    #[must_use]
    pub fn json_text(&self, payload: &[u8]) -> Option<String> {
        self.redacted(payload).map(|(text, more)| text + &rest(more))
    }

    /// All properties and headers of a message, redacted.
    #[must_use]
    pub fn fields(&self, message: &RawMessage) -> Vec<(String, String)> {
        let shown = |(name, value): (String, String)| {
            let is_json = value.trim_start().starts_with(['{', '[']);
            let redacted = if is_json { self.json_text(value.as_bytes()) } else { None };
            (name, redacted.unwrap_or(value))
        };
        message.fields_without(|name| self.is_secret_header(name)).into_iter().map(shown).collect()
    }

    /// The first part of a JSON payload, with `"***"` in place of hidden values, and the number of bytes after it.
    fn redacted(&self, payload: &[u8]) -> Option<(String, usize)> {
        let text = json::text(payload).ok()?;
        let (mut until, mut masks) = (text.len(), 0);
        let hidden = json::visit(text, |place| {
            if place.shown + masks * MASKED.len() > LONGEST {
                until = text.len() - place.rest.len();
                return Visit::Stop;
            }
            if self.hides(place) {
                masks += 1;
                return Visit::Skip;
            }
            Visit::Enter
        });
        let (mut redacted, mut from) = (String::new(), 0);
        for range in hidden {
            redacted.push_str(&text[from..range.start]);
            redacted.push_str(MASKED);
            from = range.end;
        }
        // The last value may be a text of any length.
        let room = LONGEST.saturating_sub(redacted.len());
        let until = text.floor_char_boundary(until.min(from + room));
        redacted.push_str(&text[from..until]);
        Some((redacted, text.len() - until))
    }

    /// Returns whether a value is hidden: a secret, or a value that is nested too deeply to be searched.
    fn hides(&self, place: &ValueAt<'_>) -> bool {
        place.is_deepest
            || place.key.is_some_and(|key| self.is_secret(key))
            || self.rules.iter().any(|rule| rule == place.pointer && !rule.is_empty())
            || self.hides_within(place.rest)
    }

    /// Returns whether a string is itself JSON with a secret in it. No more of it can be shown than is searched.
    fn hides_within(&self, rest: &str) -> bool {
        if !rest.starts_with('"') {
            return false;
        }
        let inner = json::string(rest);
        if !inner.trim_start().starts_with(['{', '[']) {
            return false;
        }
        let mut hides = false;
        if let Ok(text) = json::text(inner.as_bytes()) {
            json::visit(text, |place| {
                hides |= place.shown <= LONGEST && self.hides(place);
                if hides || place.shown > LONGEST { Visit::Stop } else { Visit::Enter }
            });
        }
        hides
    }

    /// Returns whether the value under this key is hidden.
    #[must_use]
    pub fn is_secret(&self, key: &str) -> bool {
        let key = plain(key);
        let own = self.rules.iter().map(String::as_str).filter(|rule| !rule.starts_with('/'));
        SECRET_KEYS.into_iter().chain(own).any(|rule| key.ends_with(&plain(rule)))
    }

    fn is_secret_header(&self, name: &str) -> bool {
        name == ORIGIN || self.is_secret(name)
    }
}

/// The places of `"***"` in a payload, as digests of JSON pointers: a publisher may write long pointers, and many.
pub(super) fn masked(text: &str) -> HashSet<u64> {
    let mut masked = HashSet::new();
    visit_masked(text, |place| {
        masked.insert(place.digest);
    });
    masked
}

/// The places of `"***"` in a payload that are not in `known`, as at most `most` JSON pointers. A payload that was copied
/// from a screen has lost its values there.
pub(super) fn masked_besides(text: &str, known: &HashSet<u64>, most: usize) -> Vec<String> {
    let mut masked = Vec::new();
    visit_masked(text, |place| {
        if masked.len() < most && !known.contains(&place.digest) {
            masked.push(place.pointer.to_owned());
        }
    });
    masked
}

fn visit_masked(text: &str, mut visitor: impl FnMut(&ValueAt<'_>)) {
    json::visit(text, |place| {
        if place.rest.starts_with('"') && json::string(place.rest) == MASK {
            visitor(place);
        }
        Visit::Enter
    });
}

/// Removes the differences between `api_key`, `Api-Key` and `apiKey`.
fn plain(key: &str) -> String {
    key.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Text unchanged, other bytes in hexadecimal.
fn excerpt(payload: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(payload) {
        return cut(text);
    }
    const SHOWN: usize = 512;
    let hex: Vec<_> = payload.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    let rest = payload.len().saturating_sub(SHOWN);
    let rest = if rest > 0 { format!(" … and {rest} bytes more") } else { String::new() };
    format!("not text: {}{rest}", hex.join(" "))
}

fn cut(text: &str) -> String {
    let shown = &text[..text.floor_char_boundary(LONGEST)];
    format!("{shown}{}", rest(text.len() - shown.len()))
}

fn rest(bytes: usize) -> String {
    if bytes > 0 { format!("\n… and {bytes} bytes more") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_by_key_and_by_pointer_at_any_depth() {
        let rules = RedactionRules::new(["/list/1".to_owned(), "SSN".to_owned()]);
        let shown = rules.show(br#"{"a": [{"API_Key": {"deep": "s1"}}], "list": ["open", "s2"], "ssn": "s3", "n": 1}"#);
        assert!(["s1", "s2", "s3"].iter().all(|secret| !shown.contains(secret)), "{shown}");
        assert!(shown.contains("open") && shown.contains("\"n\": 1"), "{shown}");
    }

    #[test]
    fn a_secret_in_json_within_a_string_is_hidden() {
        let rules = RedactionRules::default();
        let shown = rules.text(br#"{"body": "{\"user\": {\"password\": \"hunter2\"}}", "text": "{\"user\": 1}"}"#);
        assert_eq!(shown, r#"{"body": "***", "text": "{\"user\": 1}"}"#);
    }

    #[test]
    fn a_secret_in_json_within_a_string_is_hidden_beside_half_a_pair_of_surrogates() {
        let payload = br#"{"body": "{\"note\": \"\ud800\", \"password\": \"hunter2\"}"}"#;
        assert_eq!(RedactionRules::default().text(payload), r#"{"body": "***"}"#);
    }

    #[test]
    fn what_is_nested_too_deeply_to_be_searched_is_hidden() {
        let rules = RedactionRules::default();
        let within = |depth: usize, inner: &str| format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth));
        let secret = r#"{"token":"hunter2"}"#;
        assert_eq!(rules.text(within(127, secret).as_bytes()), within(127, r#"{"token":"***"}"#));
        for depth in [128, 129, 2_000_000] {
            let payload = within(depth, secret);
            assert_eq!(rules.text(payload.as_bytes()), within(128, MASKED), "{depth}");
            assert!(!rules.show(payload.as_bytes()).contains("hunter2"), "{depth}");
            assert_eq!(rules.text(format!("[\"{}\"]", within(depth, "{}")).as_bytes()), r#"["***"]"#);
        }
        assert_eq!(rules.text(within(128, "17").as_bytes()), within(128, "17"));
    }

    #[test]
    fn only_the_part_of_a_payload_that_is_shown_is_searched_for_secrets() {
        let rules = RedactionRules::default();
        let secrets = format!("[{}1]", r#"{"token":"hunter2"},"#.repeat(100_000));
        let text = rules.text(secrets.as_bytes());
        assert!(text.len() < LONGEST + 100 && !text.contains("hunter2"), "{} bytes", text.len());
        let more: usize = text.split(' ').rev().nth(2).unwrap().parse().unwrap();
        let shown = text.find('\n').unwrap() * r#"{"token":"hunter2"},"#.len() / r#"{"token":"***"},"#.len();
        assert!((shown + more).abs_diff(secrets.len()) < 100, "{shown} and {more} of {} bytes", secrets.len());
        let late = format!(r#"{{"text":"{}","token":"hunter2"}}"#, "ä".repeat(LONGEST));
        for shown in [rules.text(late.as_bytes()), rules.show(late.as_bytes())] {
            assert!(shown.len() < LONGEST + 100 && !shown.contains("hunter2"), "{} bytes", shown.len());
            assert!(shown.ends_with("bytes more"));
        }
    }

    #[test]
    fn the_origin_of_a_job_is_hidden_in_its_headers_and_in_the_end_of_a_step() {
        let header = |name: &str, text: &str| {
            let length = u32::try_from(text.len()).unwrap().to_be_bytes();
            [&[u8::try_from(name.len()).unwrap()], name.as_bytes(), b"S", &length, text.as_bytes()].concat()
        };
        let table = [header("leveret-origin", "6f1c"), header("tenant", "acme")].concat();
        let length = u32::try_from(table.len()).unwrap().to_be_bytes();
        let properties = [b"\x20\x00".as_slice(), &length, &table].concat();
        let message = RawMessage::from_parts(&properties, Vec::new()).unwrap();
        let rules = RedactionRules::default();
        let expected = [("leveret-origin", MASK), ("tenant", "acme")];
        assert_eq!(rules.fields(&message), expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
        let payload = br#"{"origin": "6f1c"}"#;
        assert_eq!(rules.of_job(END).text(payload), r#"{"origin": "***"}"#);
        assert_eq!(rules.of_job("email.send").text(payload), r#"{"origin": "6f1c"}"#);
    }

    #[test]
    fn masks_are_looked_for_in_a_payload_of_many_at_a_long_place() {
        let masks = |count: usize| {
            let list = vec![r#""***""#; count].join(",");
            format!(r#"{{"{}": [{list}], "open": 1}}"#, "k".repeat(500_000))
        };
        let (stored, edited) = (masks(100_000), masks(100_030));
        let known = masked(&stored);
        assert_eq!(known.len(), 100_000);
        assert!(masked_besides(&stored, &known, 20).is_empty());
        let lost = masked_besides(&edited, &known, 20);
        assert!(lost.len() == 20 && lost[0].ends_with("/100000"));
        assert_eq!(masked_besides(r#"{"a": {"b/c": ["***"]}}"#, &HashSet::new(), 20), ["/a/b~1c/0"]);
    }

    #[test]
    fn what_is_shown_has_every_byte_but_those_that_are_hidden() {
        let rules = RedactionRules::default();
        for (payload, text) in [
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            (
                r#"{"n": 0.10000000000000000555,  "n": 1.0, "e": 1E400}"#,
                r#"{"n": 0.10000000000000000555,  "n": 1.0, "e": 1E400}"#,
            ),
            (r#"{"z": "\u00e4", "token": [1, {"a": "}"}] , "b": 2}"#, r#"{"z": "\u00e4", "token": "***" , "b": 2}"#),
            (r#"{"token": 17, "token": "x"}"#, r#"{"token": "***", "token": "***"}"#),
        ] {
            assert_eq!(rules.text(payload.as_bytes()), text);
            let packed = |text: &str| text.split_whitespace().collect::<String>();
            assert_eq!(packed(&rules.show(payload.as_bytes())), packed(text));
        }
    }

    #[test]
    fn a_key_is_known_by_its_end_however_it_is_written() {
        let rules = RedactionRules::new(["ssn".to_owned(), "/list".to_owned(), String::new(), "-".to_owned()]);
        for key in ["access_token", "client_secret", "x-api-key", "apiKey", "dbPassword", "clientSSN", "Authorization"]
        {
            assert!(rules.is_secret(key), "{key}");
        }
        for key in ["token_count", "list", "secretary", "name", ""] {
            assert!(!rules.is_secret(key), "{key}");
        }
    }

    #[test]
    fn what_is_not_json_is_an_excerpt_and_what_is_long_is_cut() {
        assert_eq!(RedactionRules::default().show(b"hello"), "hello");
        assert_eq!(RedactionRules::default().show(&[0xff, 0x00]), "not text: ff 00");
        let long = RedactionRules::default().show(&[0xff; 1000]);
        assert!(long.ends_with("ff … and 488 bytes more"), "{long}");
        let long = RedactionRules::default().show("ä".repeat(LONGEST).as_bytes());
        assert!(long.len() < LONGEST + 100 && long.ends_with(&format!("… and {LONGEST} bytes more")));
        let long = format!("[{}1]", "1,".repeat(LONGEST));
        assert!(RedactionRules::default().text(long.as_bytes()).ends_with("bytes more"));
        assert!(RedactionRules::default().show(long.as_bytes()).len() < LONGEST + 100);
    }
}
