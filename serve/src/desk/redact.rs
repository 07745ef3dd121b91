//! Payloads as they are shown to people: readable, without secrets, and not too long.

use serde_json::Value;

/// Keys that end so have values that are not shown.
const SECRET_KEYS: [&str; 8] =
    ["password", "passwd", "secret", "token", "authorization", "api_key", "credit_card", "iban"];
const MASK: &str = "***";
/// Longer payloads are cut, in bytes.
const LONGEST: usize = 64 * 1024;

/// What is not shown of a payload.
///
/// ```
/// use leveret_serve::desk::redact::Rules;
///
/// let rules = Rules::new(["/customer/name".to_owned()]);
/// let shown = rules.show(br#"{"customer": {"name": "Ada", "Password": "hunter2", "age": 36}}"#);
/// assert!(shown.contains("36") && !shown.contains("Ada") && !shown.contains("hunter2"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Vec<String>,
}

impl Rules {
    /// Besides the usual ones, these: JSON pointers (`/customer/name`) or how keys end, wherever they are: `ssn` is also
    /// `client_ssn` and `clientSSN`.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = String>) -> Self {
        Self { rules: rules.into_iter().filter(|rule| !plain(rule).is_empty()).collect() }
    }

    /// The payload, pretty-printed if it is JSON; an excerpt if it is not, or is too long.
    #[must_use]
    pub fn show(&self, payload: &[u8]) -> String {
        self.show_json(payload).unwrap_or_else(|| excerpt(payload))
    }

    /// As [`show`](Self::show); none if it is not JSON, because nothing can be redacted in what is not understood.
    #[must_use]
    pub fn show_json(&self, payload: &[u8]) -> Option<String> {
        let mut value = serde_json::from_slice::<Value>(payload).ok()?;
        self.redact(&mut value);
        Some(cut(&serde_json::to_string_pretty(&value).unwrap_or_default()))
    }

    /// Replaces what is not to be shown.
    pub fn redact(&self, value: &mut Value) {
        for pointer in self.rules.iter().filter(|rule| rule.starts_with('/')) {
            if let Some(found) = value.pointer_mut(pointer) {
                *found = MASK.into();
            }
        }
        self.walk(value);
    }

    fn walk(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    if self.is_secret(key) { *value = MASK.into() } else { self.walk(value) }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.walk(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// Whether the value under this key is not shown.
    #[must_use]
    pub fn is_secret(&self, key: &str) -> bool {
        let key = plain(key);
        let own = self.rules.iter().map(String::as_str).filter(|rule| !rule.starts_with('/'));
        SECRET_KEYS.into_iter().chain(own).any(|rule| key.ends_with(&plain(rule)))
    }
}

/// Without what differs between `api_key`, `Api-Key` and `apiKey`.
fn plain(key: &str) -> String {
    key.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Text as it is; anything else in hexadecimal.
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
    let Some(rest) = text.len().checked_sub(LONGEST).filter(|rest| *rest > 0) else { return text.to_owned() };
    format!("{}\n… and {rest} bytes more", &text[..text.floor_char_boundary(LONGEST)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_by_key_and_by_pointer_at_any_depth() {
        let rules = Rules::new(["/list/1".to_owned(), "SSN".to_owned()]);
        let shown = rules.show(br#"{"a": [{"API_Key": {"deep": "s1"}}], "list": ["open", "s2"], "ssn": "s3", "n": 1}"#);
        assert!(["s1", "s2", "s3"].iter().all(|secret| !shown.contains(secret)), "{shown}");
        assert!(shown.contains("open") && shown.contains("\"n\": 1"), "{shown}");
    }

    #[test]
    fn a_key_is_known_by_its_end_however_it_is_written() {
        let rules = Rules::new(["ssn".to_owned(), "/list".to_owned(), String::new(), "-".to_owned()]);
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
        assert_eq!(Rules::default().show(b"hello"), "hello");
        assert_eq!(Rules::default().show(&[0xff, 0x00]), "not text: ff 00");
        let long = Rules::default().show(&[0xff; 1000]);
        assert!(long.ends_with("ff … and 488 bytes more"), "{long}");
        let long = Rules::default().show("ä".repeat(LONGEST).as_bytes());
        assert!(long.len() < LONGEST + 100 && long.ends_with(&format!("… and {LONGEST} bytes more")));
    }
}
