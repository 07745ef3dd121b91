//! Groups failures by their error, with the parts masked that differ from job to job.

use std::{net::Ipv6Addr, sync::LazyLock};

use leveret::reader::ERROR_TEXT_LIMIT;
use regex_lite::{Captures, Regex};
use sha2::{Digest, Sha256};

/// The characters of a masked error that are compared. Some errors print whole documents.
const LONGEST: usize = 1000;
/// The shortest id that is masked.
const SHORTEST_ID: usize = 8;
/// The length from which any word of letters and digits is an id.
const LONG_ID: usize = 16;
/// The characters of a UUID.
const UUID_LENGTH: usize = 36;

/// A number before its unit.
const AMOUNT: &str = r"\d+(?:[.,_']\d{3})*(?:\.\d+)?";
/// A duration without spaces between its parts.
const PERIOD: &str = r"(?:AMOUNT(?:mo|[mdwy]|\ ?(?:[nuµμm]?s|secs?|mins?|h|hrs?|(?:nano|micro|milli)?seconds?|minutes?
    |hours?|days?|weeks?|months?|years?)))+\b";
/// A part of a relative path.
const SEGMENT: &str = r#"[^\s"'`<>|:,;=+(){}\[\]/]+"#;
/// The masked parts, in order of precedence. Words are kept, also in quotes, because the name of a missing field
/// distinguishes faults. So do media types of vendors and places in a program, which look like paths.
const PATTERNS: &str = r#"(?x)
    (?<jwt> \beyJ[\w-]+(?:\.+[\w-]+){1,4} )
  | (?<kept>
        \b[a-z]+/vnd\.[\w.+-]+
      | \bSEGMENT(?:/+SEGMENT)+\.(?:cc?|cpp|cs|exs?|go|h|java|[jt]s|kt|php|py|r[bs]):\d+\b
    )
  | (?<file> \bSEGMENT(?:/+SEGMENT)+\.[A-Za-z]\w{0,9}\b )
  | (?<uuid> \b(?:\w*_)?[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}(?:_\w*)?\b )
  | (?<url> \b[A-Za-z][A-Za-z0-9+.-]*:// [^\s"'`<>]* [^\s"'`<>.,:;!?)}\]] )
  | (?<time>
        \b\d{4}[/-]\d{2}[/-]\d{2}[Tt\ ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:[Zz]|\ ?[+-]\d{2}:?\d{2}|\ ?UTC)?
      | \b(?:(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?,?\ )?(?:\d{1,2}[\ /-])?
        (?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?
            |Nov(?:ember)?|Dec(?:ember)?)[\ /-]{1,2}\d{1,4}\b(?:,?\ \d{4}\b)?
        (?: ,?[\ :]\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:\ ?[AP]M\b)?
            (?:\ (?:[12]\d{3}\b|[A-Z]{0,3}[+-]\d{2}:?\d{2}\b(?:\ \([A-Z][A-Za-z\ ]*\))?
                |(?:GMT|UTC?|Z|[ECMP][SD]T|[CEW]ES?T)\b)){0,2}
        )?
    )
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
  | (?<duration> \bPERIOD(?:\ PERIOD)*
      | \bP(?:\d+[YMWD])+(?:T(?:\d+(?:[.,]\d+)?[HMS])+)?\b | \bPT(?:\d+(?:[.,]\d+)?[HMS])+\b )
  | (?<size> \bAMOUNT\ ?(?:[kKMGT]i?B|B|bytes?)\b )
  | (?<thousands> \b\d{1,3}(?:[,_']\d{3})+(?:\.\d+)?\b )
  | (?<word> \b[0-9A-Za-z-]*_[\w-]* | \b[0-9A-Za-z]{8,}\b )
  | (?<number> \d+(?:\.\d+)?(?:[eE][+-]?\d+\b)? )"#;

static PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| regex(&format!("{PATTERNS}{PARTS}")));
static PART: LazyLock<Option<Regex>> = LazyLock::new(|| regex(&format!("(?x) (?<none>$.)\n{PARTS}")));

fn regex(patterns: &str) -> Option<Regex> {
    let patterns = patterns.replace("PERIOD", PERIOD).replace("AMOUNT", AMOUNT).replace("SEGMENT", SEGMENT);
    Regex::new(&patterns).ok()
}

/// Returns the fingerprint of a failure, and its masked error, which all failures of this fingerprint share.
///
/// It masks numbers, hexadecimal numbers, durations, sizes, times, UUIDs, other ids, URLs, paths, network and mail
/// addresses, and quoted texts with a digit or a slash. It reads the first 4 KiB of the error: workers write no more.
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

/// Masks the error before it cuts it: ids of different lengths must not move the cut. It ends once the mask is long
/// enough, because each search may read the rest of the error.
fn mask(error: &str) -> String {
    let error = &error[..error.floor_char_boundary(ERROR_TEXT_LIMIT)];
    let (mut masked, mut end) = (String::new(), 0);
    for found in PATTERN.iter().flat_map(|pattern| pattern.captures_iter(error)) {
        let Some(part) = found.get(0) else { break };
        masked.push_str(&error[end..part.start()]);
        masked.push_str(&replacement(&found));
        end = part.end();
        if masked.chars().count() >= LONGEST {
            break;
        }
    }
    masked.push_str(&error[end..]);
    let cut = masked.char_indices().nth(LONGEST).map_or(masked.len(), |(at, _)| at);
    masked.truncate(cut);
    masked
}

fn replacement(found: &Captures<'_>) -> String {
    if let Some(text) = found.name("colons") {
        return colons_mask(text.as_str());
    }
    if let Some(text) = found.name("kept") {
        let line = text.as_str().rsplit_once(':');
        return line.map_or_else(|| text.as_str().to_owned(), |(file, _)| format!("{file}:<n>"));
    }
    if found.name("uuid").is_some_and(|text| text.len() > UUID_LENGTH) {
        return "<id>".to_owned();
    }
    part(found).unwrap_or_else(|| {
        let masks = [("jwt", "<id>"), ("file", "<path>"), ("uuid", "<uuid>"), ("url", "<url>"), ("time", "<time>")];
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
    let masks = [
        ("quoted", "<id>"),
        ("hex", "<hex>"),
        ("duration", "<duration>"),
        ("size", "<size>"),
        ("thousands", "<n>"),
        ("number", "<n>"),
    ];
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

/// Masks a word of letters and digits, or several words that `_` and `-` join.
fn word_mask(word: &str) -> String {
    if is_hex(word) {
        return "<hex>".to_owned();
    }
    let is_joined = word.contains('_');
    if word.split(['_', '-']).any(|part| is_id(part) || (is_joined && is_prefixed_id(part))) {
        return "<id>".to_owned();
    }
    if word.contains('-') {
        return word.split('-').map(parts_masked).collect::<Vec<_>>().join("-");
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

/// Returns whether a word of letters and digits is an id: a long one, or a shorter one in upper case. A word directly
/// before or after a number is no id, because error codes such as `PGRST116` and amounts have this form.
fn is_id(word: &str) -> bool {
    let is_upper = !word.bytes().any(|byte| byte.is_ascii_lowercase());
    is_mixed(word) && (word.len() >= LONG_ID || (word.len() >= SHORTEST_ID && is_upper && changes(word) >= 2))
}

/// Returns whether a word is the id after a prefix, as in `cus_NffrFeUfNV2Hib`. Its letters and digits alternate more
/// often than in a name.
fn is_prefixed_id(word: &str) -> bool {
    word.len() >= SHORTEST_ID && (is_hex(word) || (is_mixed(word) && changes(word) * 2 >= word.len()))
}

/// Returns whether a word has letters and digits.
fn is_mixed(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    digits > 0 && digits < word.len()
}

fn is_hex(word: &str) -> bool {
    is_mixed(word) && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The number of changes between digits, upper case and lower case.
fn changes(word: &str) -> usize {
    let kind = |byte: u8| (byte.is_ascii_digit(), byte.is_ascii_uppercase());
    word.bytes().zip(word.bytes().skip(1)).filter(|(one, next)| kind(*one) != kind(*next)).count()
}

#[cfg(test)]
#[path = "fingerprint_tests.rs"]
mod tests;
