//! Tells which failures are alike: the error with everything masked that differs from job to job.

use std::sync::LazyLock;

use regex_lite::{Captures, Regex};
use sha2::{Digest, Sha256};

/// Beyond it, errors are alike if they begin alike: some print whole documents.
const LONGEST: usize = 1000;

/// In the order of precedence. Words stay, also in quotes: a missing field's name tells one fault from another.
const PATTERNS: &str = r#"(?x)
    (?<uuid> \b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b )
  | (?<address>
        [A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*
      | \b\d{1,3}(?:\.\d{1,3}){3}\b (?: :\d+\b )?
      | \[[0-9a-fA-F:.]*:[0-9a-fA-F:.]*\] (?: :\d+\b )?
      | \b(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}\b
    )
  | (?<quoted> "[^"\n]*[0-9/][^"\n]*" | '[^'\n]*[0-9/][^'\n]*' | `[^`\n]*[0-9/][^`\n]*` )
  | (?<hex> \b0x[0-9a-fA-F]+\b )
  | (?<word> \b[0-9A-Za-z]{8,}\b )
  | (?<number> \d+(?:\.\d+)? )"#;

static PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(PATTERNS).ok());

/// What tells this failure from others, and the error as it is shown for all that are alike.
///
/// Masked are numbers, hexadecimal numbers, UUIDs, other long ids, network and mail addresses, and what stands in
/// quotes if there is a digit or a slash in it.
///
/// ```
/// use leveret_store::fingerprint;
///
/// let (first, text) = fingerprint("email.send", "handler", "no user 17 at 10.0.0.1:5432");
/// let (second, _) = fingerprint("email.send", "handler", "no user 4711 at 10.0.0.2:5432");
/// assert_eq!(first, second);
/// assert_eq!(text, "no user <n> at <address>");
/// ```
#[must_use]
pub fn fingerprint(job: &str, kind: &str, error: &str) -> (String, String) {
    let masked = mask(error);
    let digest =
        Sha256::new_with_prefix(job).chain_update([0]).chain_update(kind).chain_update([0]).chain_update(&masked);
    let digest = digest.finalize();
    (digest[..8].iter().map(|byte| format!("{byte:02x}")).collect(), masked)
}

fn mask(error: &str) -> String {
    let end = error.char_indices().nth(LONGEST).map_or(error.len(), |(end, _)| end);
    let Some(pattern) = &*PATTERN else { return error[..end].to_owned() };
    pattern.replace_all(&error[..end], replacement).into_owned()
}

fn replacement(found: &Captures<'_>) -> String {
    if let Some(word) = found.name("word") {
        return word_mask(word.as_str());
    }
    let masks = [("uuid", "<uuid>"), ("address", "<address>"), ("quoted", "<id>"), ("hex", "<hex>")];
    masks.into_iter().find(|(name, _)| found.name(name).is_some()).map_or("<n>", |(_, mask)| mask).to_owned()
}

fn word_mask(word: &str) -> String {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    if digits > 0 && digits < word.len() && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return "<hex>".to_owned();
    }
    if digits > 0 && digits < word.len() && word.len() >= 16 {
        return "<id>".to_owned();
    }
    let mut masked = String::new();
    for part in word.split_inclusive(|letter: char| letter.is_ascii_digit()) {
        masked.push_str(part.trim_end_matches(|letter: char| letter.is_ascii_digit()));
        if part.ends_with(|letter: char| letter.is_ascii_digit()) && (part.len() > 1 || !masked.ends_with("<n>")) {
            masked.push_str("<n>");
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_words_and_loses_what_differs_from_job_to_job() {
        for (error, masked) in [
            ("connection refused", "connection refused"),
            ("timeout after 30s", "timeout after <n>s"),
            ("took 1.5 of 2.25 seconds", "took <n> of <n> seconds"),
            ("order 123456789 is gone", "order <n> is gone"),
            ("user 0190163d-8694-739b-aea5-966c26f8ad91 unknown", "user <uuid> unknown"),
            ("at 0x7ffe42 in deadbeef01", "at <hex> in <hex>"),
            ("token 01ARZ3NDEKTSV4RRFFQ69G5FAV rejected", "token <id> rejected"),
            ("connect 10.0.0.1:5432: refused", "connect <address>: refused"),
            ("connect [fe80::1]:5432: refused", "connect <address>: refused"),
            ("mailbox anna.b@example.com is full", "mailbox <address> is full"),
            ("missing field `order_id`", "missing field `order_id`"),
            ("no customer 'C-17'", "no customer <id>"),
            ("cannot open \"/tmp/a/b.txt\"", "cannot open <id>"),
            ("acceptance of specification", "acceptance of specification"),
            ("order12and3456x failed", "order<n>and<n>x failed"),
            ("", ""),
        ] {
            assert_eq!(mask(error), masked);
        }
    }

    #[test]
    fn failures_are_alike_only_if_job_kind_and_masked_error_are() {
        let (first, _) = fingerprint("a", "handler", "no user 1");
        assert_eq!(fingerprint("a", "handler", "no user 2").0, first);
        for (job, kind, error) in [("b", "handler", "no user 1"), ("a", "timeout", "no user 1"), ("a", "handler", "no")]
        {
            assert_ne!(fingerprint(job, kind, error).0, first);
        }
        assert_ne!(fingerprint("ab", "c", "").0, fingerprint("a", "bc", "").0);
    }

    #[test]
    fn an_error_of_any_length_and_script_has_a_short_mask() {
        assert_eq!(mask(&"ä".repeat(5000)).chars().count(), LONGEST);
    }
}
