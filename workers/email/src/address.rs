//! Mail addresses as jobs give them, checked before they come near a header or a server.

use std::fmt::Display;

use lettre::{Address, message::Mailbox};

use crate::{error::MailError, text::one_line};

/// Longest address of RFC 5321 (a path of 256 with its brackets).
const ADDRESS_LIMIT: usize = 254;
const NAME_LIMIT: usize = 200;

/// Parses `ann@example.org` or `Ann <ann@example.org>`; exactly one mailbox.
///
/// # Errors
/// [`MailError::Address`], which names the text.
pub fn parse(text: &str) -> Result<Mailbox, MailError> {
    refuse_controls(text, text)?;
    if text.chars().count() > NAME_LIMIT + ADDRESS_LIMIT {
        return Err(invalid(text, &"too long"));
    }
    let trimmed = text.trim();
    // The bare form first: a parser of lists is not needed for it, and its messages are about lists.
    if !trimmed.contains(['<', '>', ',']) {
        return mailbox("", trimmed);
    }
    let parsed: Mailbox = trimmed.parse().map_err(|e| invalid(text, &e))?;
    mailbox(parsed.name.as_deref().unwrap_or_default(), parsed.email.as_ref())
}

/// Makes a mailbox of a person's name, which may be empty or contain anything, and a bare address.
///
/// # Errors
/// [`MailError::Address`], which names the address.
pub fn mailbox(name: &str, address: &str) -> Result<Mailbox, MailError> {
    refuse_controls(address, address)?;
    let email = ascii_domain(address)?;
    let name = one_line(name);
    if name.chars().count() > NAME_LIMIT {
        return Err(invalid(address, &format!("the name before it is longer than {NAME_LIMIT} characters")));
    }
    Ok(Mailbox::new((!name.is_empty()).then_some(name), email))
}

/// An international domain has an ASCII form that every server takes; a local part has none.
fn ascii_domain(address: &str) -> Result<Address, MailError> {
    if address.len() > ADDRESS_LIMIT {
        return Err(invalid(address, &format!("longer than {ADDRESS_LIMIT} bytes")));
    }
    let parsed: Address = address.parse().map_err(|e| invalid(address, &e))?;
    if parsed.domain().is_ascii() {
        return Ok(parsed);
    }
    let domain = idna::domain_to_ascii(parsed.domain()).map_err(|e| invalid(address, &e))?;
    Address::new(parsed.user(), domain).map_err(|e| invalid(address, &e))
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
        reason: reason.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::{mailbox, parse};
    use crate::error::Fault;

    #[test]
    fn one_mailbox_with_or_without_a_name_is_accepted() {
        assert_eq!(parse("ann@example.org").unwrap().email.to_string(), "ann@example.org");
        assert_eq!(parse(" ann+tag@example.org ").unwrap().email.user(), "ann+tag");
        let named = parse("\"Núñez, Ann\" <ann@example.org>").unwrap();
        assert_eq!(named.name.as_deref(), Some("Núñez, Ann"));
    }

    #[test]
    fn an_international_domain_is_sent_in_its_ascii_form() {
        assert_eq!(parse("ann@bücher.example").unwrap().email.to_string(), "ann@xn--bcher-kva.example");
    }

    #[test]
    fn what_is_not_one_mailbox_is_the_jobs_fault_and_is_named() {
        let long = format!("{}@example.org", "a".repeat(300));
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
            &long,
            &nested,
        ];
        for case in cases {
            let error = parse(case).expect_err(case);
            assert_eq!(error.fault(), Fault::Job, "{case}");
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
