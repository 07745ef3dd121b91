//! Groups failures by their error, with the parts masked that differ from job to job.

use std::{net::Ipv6Addr, sync::LazyLock};

use regex_lite::{Captures, Regex};
use sha2::{Digest, Sha256};

/// The characters of an error that are compared. Some errors print whole documents.
const LONGEST: usize = 1000;

/// The masked parts, in order of precedence. Words are kept, also in quotes, because the name of a missing field
/// distinguishes faults.
const PATTERNS: &str = r#"(?x)
    (?<uuid> \b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b )
  | (?<url> \b[A-Za-z][A-Za-z0-9+.-]*:// [^\s"'`<>]* [^\s"'`<>.,:;!?)}\]] )
  | (?<time> \b\d{4}-\d{2}-\d{2}[Tt\ ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:[Zz]|\ ?[+-]\d{2}:?\d{2}|\ ?UTC)? )
  | (?<address>
        [A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*
      | \b\d{1,3}(?:\.\d{1,3}){3}\b (?: :\d+\b )?
      | \[[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(?:%[0-9A-Za-z]+)?\] (?: :\d+\b )?
    )
  | (?<colons> [0-9A-Za-z_.]*:[0-9A-Za-z_.:]*:[0-9A-Za-z_.:]* (?:%[0-9A-Za-z]+)? )
"#;
/// The parts that are also masked within a text with colons that is not an address.
const PARTS: &str = r#"
  | (?<quoted> "[^"\n]*[0-9/][^"\n]*" | '[^'\n]*[0-9/][^'\n]*' | `[^`\n]*[0-9/][^`\n]*` )
  | (?<path> (?<before>^|[\s(\[=,;:]) (?:
        (?:~|\.{1,2})? (?:/[^\s"'`<>|:,;(){}\[\]]+)+/?
      | (?:[A-Za-z]:|\\)\\[^\s"'`<>|,;(){}\[\]]+
    ) )
  | (?<hex> \b0x[0-9a-fA-F]+\b )
  | (?<duration> \b(?:\d+(?:\.\d+)?(?:ns|us|µs|μs|ms|s|m|min|h|d))+\b
      | \b\d+(?:\.\d+)?\ (?:ns|us|µs|μs|ms|s|secs?|mins?|h|hrs?
          | (?:nano|micro|milli)?seconds?|minutes?|hours?|days?)\b )
  | (?<size> \b\d+(?:\.\d+)?\ ?(?:[kKMGT]i?B|B|bytes?)\b )
  | (?<word> \b[0-9A-Za-z]{8,}\b )
  | (?<number> \d+(?:\.\d+)?(?:[eE][+-]?\d+\b)? )"#;

static PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(&format!("{PATTERNS}{PARTS}")).ok());
static PART: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(&format!("(?x) (?<none>$.)\n{PARTS}")).ok());

/// Returns the fingerprint of a failure, and its masked error, which all failures of this fingerprint share.
///
/// It masks numbers, hexadecimal numbers, durations, sizes, times, UUIDs, other long ids, URLs, paths, network and mail
/// addresses, and quoted texts with a digit or a slash.
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
    (leveret::text::hex(&digest.finalize()[..8]), masked)
}

fn mask(error: &str) -> String {
    let end = error.char_indices().nth(LONGEST).map_or(error.len(), |(end, _)| end);
    let Some(pattern) = &*PATTERN else { return error[..end].to_owned() };
    pattern.replace_all(&error[..end], replacement).into_owned()
}

fn replacement(found: &Captures<'_>) -> String {
    if let Some(text) = found.name("colons") {
        return colons_mask(text.as_str());
    }
    part(found).unwrap_or_else(|| {
        let masks = [("uuid", "<uuid>"), ("url", "<url>"), ("time", "<time>")];
        let mask = masks.into_iter().find(|(name, _)| found.name(name).is_some());
        mask.map_or("<address>", |(_, mask)| mask).to_owned()
    })
}

fn part(found: &Captures<'_>) -> Option<String> {
    if let Some(word) = found.name("word") {
        return Some(word_mask(word.as_str()));
    }
    if found.name("path").is_some() {
        return Some(format!("{}<path>", found.name("before").map_or("", |before| before.as_str())));
    }
    let masks =
        [("quoted", "<id>"), ("hex", "<hex>"), ("duration", "<duration>"), ("size", "<size>"), ("number", "<n>")];
    masks.into_iter().find(|(name, _)| found.name(name).is_some()).map(|(_, mask)| mask.to_owned())
}

/// Masks a text with two colons or more: an IPv6 or hardware address with words before it, a time, or a name in a
/// program such as `std::io`.
fn colons_mask(text: &str) -> String {
    let address = text.trim_end_matches([':', '.']);
    let starts = std::iter::once(0).chain(address.match_indices(':').map(|(at, _)| at + 1));
    for start in starts {
        if is_address(&address[start..]) {
            return format!("{}<address>{}", parts_masked(&text[..start]), &text[address.len()..]);
        }
        let is_word =
            address[start..].split(':').next().is_some_and(|word| word.bytes().any(|byte| !byte.is_ascii_hexdigit()));
        if !is_word {
            break;
        }
    }
    parts_masked(text)
}

fn is_address(text: &str) -> bool {
    let bare = text.split('%').next().unwrap_or(text);
    let has_digit = bare.bytes().any(|byte| byte.is_ascii_digit());
    let is_of_hardware = || {
        let pairs: Vec<_> = bare.split(':').collect();
        pairs.len() == 6
            && pairs.iter().all(|pair| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    (has_digit && bare.parse::<Ipv6Addr>().is_ok()) || is_of_hardware()
}

fn parts_masked(text: &str) -> String {
    let Some(pattern) = &*PART else { return text.to_owned() };
    pattern.replace_all(text, |found: &Captures<'_>| part(found).unwrap_or_default()).into_owned()
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_error_keeps_its_words_and_loses_what_differs_from_job_to_job() {
        for (error, masked) in [
            ("connection refused", "connection refused"),
            ("timeout after 30s", "timeout after <duration>"),
            ("took 950ms", "took <duration>"),
            ("took 1.2s, then 350µs", "took <duration>, then <duration>"),
            ("waited 1h2m3s of 2 hours", "waited <duration> of <duration>"),
            ("took 1.5 of 2.25 seconds", "took <n> of <duration>"),
            ("1 byte of 1.5 MiB, 12kB left", "<size> of <size>, <size> left"),
            ("order 123456789 is gone", "order <n> is gone"),
            ("factor 1.5e-7", "factor <n>"),
            ("user 0190163d-8694-739b-aea5-966c26f8ad91 unknown", "user <uuid> unknown"),
            ("at 0x7ffe42 in deadbeef01", "at <hex> in <hex>"),
            ("token 01ARZ3NDEKTSV4RRFFQ69G5FAV rejected", "token <id> rejected"),
            ("connect 10.0.0.1:5432: refused", "connect <address>: refused"),
            ("connect [fe80::1]:5432: refused", "connect <address>: refused"),
            ("connect [fe80::1%eth0]:5432: refused", "connect <address>: refused"),
            ("connect to 2001:db8::8a2e:370:7334: refused", "connect to <address>: refused"),
            ("connect to ::1 failed", "connect to <address> failed"),
            ("from fe80::1%eth0 to ::ffff:10.0.0.1.", "from <address> to <address>."),
            ("peer:2001:db8:0:0:0:0:0:1", "peer:<address>"),
            ("no card 00:1b:44:11:3a:b7", "no card <address>"),
            ("std::io::Error in f64::MAX at de::Error", "std::io::Error in f<n>::MAX at de::Error"),
            ("line 3:17:9 of a:b:c", "line <n>:<n>:<n> of a:b:c"),
            ("at 2026-11-21T15:00:00.123Z, 2026-11-21 15:00:00+01:00", "at <time>, <time>"),
            ("at 15:00:00", "at <n>:<n>:<n>"),
            ("mailbox anna.b@example.com is full", "mailbox <address> is full"),
            ("missing field `order_id`", "missing field `order_id`"),
            ("no customer 'C-17'", "no customer <id>"),
            ("cannot open \"/tmp/a/b.txt\"", "cannot open <id>"),
            ("cannot open /tmp/a/b.txt: no such file", "cannot open <path>: no such file"),
            ("no ./data/x.csv, ~/y or ../z (/etc/passwd)", "no <path>, <path> or <path> (<path>)"),
            ("cannot open C:\\data\\x.csv or \\\\host\\share", "cannot open <path> or <path>"),
            ("GET https://api.example.com/orders/abc?x=y#z: 404", "GET <url>: <n>"),
            ("see (http://[::1]:8080/a), amqp://u:p@h.", "see (<url>), <url>."),
            ("GET /orders/abc returned 500", "GET <path> returned <n>"),
            ("and/or text/html 10 / 2", "and/or text/html <n> / <n>"),
            ("acceptance of specification", "acceptance of specification"),
            ("order12and3456x failed", "order<n>and<n>x failed"),
            ("", ""),
        ] {
            assert_eq!(mask(error), masked);
        }
    }

    proptest! {
        #[test]
        fn what_differs_from_job_to_job_splits_no_group(
            host in "[a-z]{1,9}(\\.[a-z0-9]{1,9}){0,3}",
            path in "(/[a-zA-Z0-9._~-]{0,8}[a-zA-Z0-9]){1,5}",
            six in any::<u128>(),
            four in any::<u32>(),
            port in any::<u16>(),
            nanos in 1..u64::MAX / 2,
        ) {
            let (six, four) = (Ipv6Addr::from(six), std::net::Ipv4Addr::from(four));
            let took = std::time::Duration::from_nanos(nanos);
            for (error, masked) in [
                (format!("GET https://{host}:{port}{path}: refused"), "GET <url>: refused"),
                (format!("cannot read {path}: denied"), "cannot read <path>: denied"),
                (format!("connect to {six}: refused"), "connect to <address>: refused"),
                (format!("connect to [{six}]:{port}: refused"), "connect to <address>: refused"),
                (format!("connect to {four}:{port}: refused"), "connect to <address>: refused"),
                (format!("gave up after {took:?} of work"), "gave up after <duration> of work"),
            ] {
                prop_assert_eq!(mask(&error), masked, "{}", error);
            }
        }

        #[test]
        fn a_mask_is_made_of_any_text(error in any::<String>()) {
            mask(&error);
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
