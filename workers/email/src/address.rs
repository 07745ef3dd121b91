//! Parses the mail addresses of jobs. An address that cannot be sent (RFC 5321) is refused with a reason.

use std::{
    fmt::Display,
    net::{Ipv4Addr, Ipv6Addr},
};

use lettre::{Address, message::Mailbox};

use crate::{error::MailError, text::one_line};

/// Maximum address of RFC 5321 in bytes (a path of 256 with its brackets).
const ADDRESS_LIMIT: usize = 254;
const LOCAL_LIMIT: usize = 64;
const LABEL_LIMIT: usize = 63;
const NAME_LIMIT: usize = 200;

/// Parses one mailbox: `ann@example.org` or `Ann <ann@example.org>`.
///
/// # Errors
/// [`MailError::Address`] with the text.
pub fn parse(text: &str) -> Result<Mailbox, MailError> {
    refuse_controls(text, text)?;
    if text.chars().count() > NAME_LIMIT + ADDRESS_LIMIT {
        return Err(invalid(text, &"too long"));
    }
    let trimmed = text.trim();
    let Some(inner) = trimmed.strip_suffix('>') else {
        return mailbox("", trimmed);
    };
    let (name, address) = split_at_bracket(inner).map_err(|reason| invalid(text, &reason))?;
    let name = unquote_name(name).map_err(|reason| invalid(text, &reason))?;
    let email = parse_bare(address).map_err(|reason| invalid(text, &reason))?;
    named(&name, email, text)
}

/// Splits `Ann <ann@example.org` at the first bracket that is not in quotes.
fn split_at_bracket(text: &str) -> Result<(&str, &str), &'static str> {
    let mut unquoted = QuoteTracker::default();
    match text.char_indices().find(|(_, c)| unquoted.read(*c) && *c == '<') {
        Some((at, _)) => Ok((&text[..at], &text[at + 1..])),
        None if unquoted.is_quoted => Err("a quote in the name is not closed"),
        None => Err("it has a > without a <"),
    }
}

/// Unquotes the name before an address. A comment such as `(Sales)` stays part of the name, because people read it.
fn unquote_name(text: &str) -> Result<String, &'static str> {
    let (mut name, mut unquoted) = (String::new(), QuoteTracker::default());
    for c in text.chars() {
        let was_escaped = unquoted.is_escaped;
        let is_bare = unquoted.read(c);
        match c {
            '"' if !was_escaped => {}
            '\\' if unquoted.is_escaped => {}
            '<' | '>' | ',' | ';' if is_bare => return Err("more than one mailbox, or a name that needs quotes"),
            _ => name.push(c),
        }
    }
    Ok(name)
}

/// Tracks whether a character is outside of quotes.
#[derive(Default)]
struct QuoteTracker {
    is_quoted: bool,
    is_escaped: bool,
}

impl QuoteTracker {
    /// Reads the next character, and returns whether it is outside of quotes.
    fn read(&mut self, c: char) -> bool {
        let is_escaped = std::mem::take(&mut self.is_escaped);
        match c {
            '"' if !is_escaped => self.is_quoted = !self.is_quoted,
            '\\' if self.is_quoted && !is_escaped => self.is_escaped = true,
            _ => {}
        }
        !self.is_quoted
    }
}

/// Creates a mailbox from a name, which may be empty or have any characters, and a bare address.
///
/// # Errors
/// [`MailError::Address`] with the address.
pub fn mailbox(name: &str, address: &str) -> Result<Mailbox, MailError> {
    refuse_controls(address, address)?;
    let email = parse_bare(address).map_err(|reason| invalid(address, &reason))?;
    named(name, email, address)
}

fn named(name: &str, email: Address, text: &str) -> Result<Mailbox, MailError> {
    let name = one_line(name);
    if name.chars().count() > NAME_LIMIT {
        return Err(invalid(text, &format!("the name before it is longer than {NAME_LIMIT} characters")));
    }
    Ok(Mailbox::new((!name.is_empty()).then_some(name), email))
}

/// Parses a bare address into the form for SMTP.
fn parse_bare(address: &str) -> Result<Address, String> {
    if address.len() > ADDRESS_LIMIT {
        return Err(format!("longer than {ADDRESS_LIMIT} bytes"));
    }
    let (local, domain) = match address.strip_prefix('"') {
        Some(rest) => split_quoted(rest)?,
        None => {
            let (local, domain) = address.split_once('@').ok_or("it has no @")?;
            if let Some(c) = local.chars().find(|c| !is_atom(*c) && *c != '.') {
                return Err(format!("{c:?} before the @ must be in quotes"));
            }
            (local.to_owned(), domain)
        }
    };
    if local.is_empty() || local.len() > LOCAL_LIMIT {
        return Err(format!("the part before the @ has {} bytes: it must have 1 to {LOCAL_LIMIT}", local.len()));
    }
    // Both parts are checked here, because the check of lettre refuses some valid addresses.
    Ok(Address::new_dangerous(quote_if_required(&local), ascii_domain(domain)?))
}

/// Splits a quoted local part from its domain, and removes the quotes.
fn split_quoted(rest: &str) -> Result<(String, &str), String> {
    let (mut local, mut chars) = (String::new(), rest.char_indices());
    while let Some((index, c)) = chars.next() {
        match c {
            '"' => {
                let domain = rest[index + 1..].strip_prefix('@').ok_or("the quotes must end before the @")?;
                return Ok((local, domain));
            }
            '\\' => local.push(chars.next().ok_or("its quotes are not closed")?.1),
            _ => local.push(c),
        }
    }
    Err("its quotes are not closed".to_owned())
}

/// Quotes a local part if RFC 5321 requires it. Some providers assign addresses with dots at the ends or in a row, which
/// servers accept in quotes only.
fn quote_if_required(local: &str) -> String {
    if local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom)) {
        return local.to_owned();
    }
    format!("\"{}\"", local.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Returns whether a character is valid without quotes (RFC 5321, RFC 6531).
fn is_atom(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !c.is_whitespace())
}

/// Converts a domain to its ASCII form, which every server accepts. Local parts have no such form.
fn ascii_domain(domain: &str) -> Result<String, String> {
    if let Some(literal) = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let ip6 = literal.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:")).map(|_| &literal[5..]);
        let is_ip = ip6.map_or(literal.parse::<Ipv4Addr>().is_ok(), |ip| ip.parse::<Ipv6Addr>().is_ok());
        return if is_ip { Ok(domain.to_owned()) } else { Err("the brackets do not have an IP address".to_owned()) };
    }
    if domain.parse::<Ipv4Addr>().is_ok() || domain.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("an IP address must be in brackets: [{domain}]"));
    }
    let ascii = idna::domain_to_ascii(domain).map_err(|_| "the domain is invalid".to_owned())?;
    let is_label = |label: &str| {
        let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=LABEL_LIMIT).contains(&label.len())
            && label.bytes().all(inside)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if ascii.len() <= ADDRESS_LIMIT && ascii.split('.').all(is_label) {
        Ok(ascii)
    } else {
        Err("the domain is invalid".to_owned())
    }
}

fn refuse_controls(text: &str, named: &str) -> Result<(), MailError> {
    if text.chars().any(char::is_control) {
        return Err(invalid(named, &"it contains a control character"));
    }
    Ok(())
}

fn invalid(address: &str, reason: &dyn Display) -> MailError {
    MailError::Address {
        address: address.chars().take(NAME_LIMIT + ADDRESS_LIMIT).collect(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{mailbox, parse};
    use crate::error::FailureKind;

    #[test]
    fn one_mailbox_with_or_without_a_name_is_accepted() {
        assert_eq!(parse("ann@example.org").unwrap().email.to_string(), "ann@example.org");
        assert_eq!(parse(" ann+tag@example.org ").unwrap().email.user(), "ann+tag");
        let named = parse("\"Núñez, Ann\" <ann@example.org>").unwrap();
        assert_eq!(named.name.as_deref(), Some("Núñez, Ann"));
    }

    #[test]
    fn what_rfc_5321_allows_is_sent_in_its_shortest_form() {
        let long = format!("{}@example.org", "a".repeat(64));
        let cases = [
            (r#""john doe"@example.net"#, r#""john doe"@example.net"#),
            (r#""john"@example.net"#, "john@example.net"),
            (r#""a@b"@example.net"#, r#""a@b"@example.net"#),
            (r#""a\"b\\c"@example.net"#, r#""a\"b\\c"@example.net"#),
            (r#""a<b>,c"@example.net"#, r#""a<b>,c"@example.net"#),
            ("user@[192.0.2.1]", "user@[192.0.2.1]"),
            ("user@[IPv6:2001:db8::1]", "user@[IPv6:2001:db8::1]"),
            ("a..b@docomo.ne.jp", r#""a..b"@docomo.ne.jp"#),
            ("a.@docomo.ne.jp", r#""a."@docomo.ne.jp"#),
            (".a@docomo.ne.jp", r#"".a"@docomo.ne.jp"#),
            (r#""a..b"@docomo.ne.jp"#, r#""a..b"@docomo.ne.jp"#),
            ("o'brien+tag/x=1@example.net", "o'brien+tag/x=1@example.net"),
            ("!#$%&*?^_`{|}~@example.net", "!#$%&*?^_`{|}~@example.net"),
            ("root@localhost", "root@localhost"),
            ("ann@EXAMPLE.org", "ann@example.org"),
            ("jörg@example.org", "jörg@example.org"),
            (&long, &long),
        ];
        for (text, sent) in cases {
            for text in [text.to_owned(), format!("<{text}>"), format!("Ann <{text}>")] {
                assert_eq!(parse(&text).expect(&text).email.to_string(), sent, "{text}");
            }
        }
    }

    #[test]
    fn a_name_may_hold_what_people_write_before_an_address() {
        let cases = [
            ("John (Sales) <j@example.org>", "John (Sales)"),
            ("j@example.org <j@example.org>", "j@example.org"),
            (r#""j@example.org" <j@example.org>"#, "j@example.org"),
            (r#""Núñez, Ann" <j@example.org>"#, "Núñez, Ann"),
            (r#"Ann "Bo" Núñez <j@example.org>"#, "Ann Bo Núñez"),
            (r#""Ann \"Bo\" <x>" <j@example.org>"#, r#"Ann "Bo" <x>"#),
            ("Dr. Ann O'Neill <j@example.org>", "Dr. Ann O'Neill"),
            ("Tea: the shop [x] <j@example.org>", "Tea: the shop [x]"),
            ("佐藤 陽菜<j@example.org>", "佐藤 陽菜"),
        ];
        for (text, name) in cases {
            let mailbox = parse(text).expect(text);
            assert_eq!((mailbox.name.as_deref(), mailbox.email.to_string().as_str()), (Some(name), "j@example.org"));
        }
    }

    #[test]
    fn an_international_domain_is_sent_in_its_ascii_form() {
        assert_eq!(parse("ann@bücher.example").unwrap().email.to_string(), "ann@xn--bcher-kva.example");
    }

    #[test]
    fn what_is_not_one_mailbox_is_the_jobs_fault_and_is_named() {
        let long = format!("{}@example.org", "a".repeat(300));
        let local = format!("{}@example.org", "a".repeat(65));
        let nested = "(".repeat(100_000);
        let cases = [
            "",
            " ",
            "ann",
            "ann@",
            "@example.org",
            "ann@@example.org",
            "ann example@example.org",
            "a@b@c",
            "ann@exam ple.org",
            "ann@example.org, bob@example.org",
            "Ann <ann@example.org>, Bob <bob@example.org>",
            "Ann <ann@example.org",
            "ann@example.org\r\nBcc: eve@example.org",
            "ann@example.org\0",
            "<>",
            "\"a\r\nRCPT TO:<eve@example.org>\"@example.org",
            "ann@example.org>",
            "Ann <<ann@example.org>>",
            "Ann <ann@example.org> <bob@example.org>",
            "Núñez, Ann <ann@example.org>",
            "Ann \"Bo <ann@example.org>",
            "<ann@example.org",
            "Ann ann@example.org",
            "ann@example.org (Ann)",
            "@a.example:ann@example.org",
            "\"ann@example.org",
            "\"ann\"x@example.org",
            "\"\"@example.org",
            "ann(x)@example.org",
            "ann@192.0.2.1",
            "ann@[192.0.2.1",
            "ann@[192.0.2]",
            "ann@[example.org]",
            "ann@[IPv6:192.0.2.1]",
            "ann@-example.org",
            "ann@example..org",
            "ann@.example.org",
            "ann@example.org.",
            "ann@exa$mple.org",
            "ann@[IPv6:é]",
            &local,
            &long,
            &nested,
        ];
        for case in cases {
            let error = parse(case).expect_err(case);
            assert_eq!(error.kind(), FailureKind::Permanent, "{case}");
            let start: String = case.chars().take(20).collect();
            let message = error.to_string();
            assert!(message.contains(&start.escape_debug().to_string()), "{message}");
            assert!(!message.contains(['\r', '\n', '\0']), "{message:?}");
        }
    }

    #[test]
    fn a_name_cannot_start_another_header_line() {
        let mailbox = mailbox("Ann\r\nBcc: eve@example.org", "ann@example.org").unwrap();
        assert_eq!(mailbox.name.as_deref(), Some("Ann Bcc: eve@example.org"));
    }
}
