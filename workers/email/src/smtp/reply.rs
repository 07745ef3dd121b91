//! Parses the replies of the mail server. The code decides; the text may have any bytes.

use crate::text::one_line;

/// Maximum length of a line or a reply in bytes.
pub(super) const REPLY_LIMIT: usize = 64 * 1024;

/// A complete reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SmtpReply {
    pub(super) code: u16,
    /// Text of each line, without the code.
    pub(super) lines: Vec<String>,
}

/// Collects the lines of a reply.
#[derive(Debug, Default)]
pub(super) struct ReplyReader {
    lines: Vec<String>,
    /// The highest code of the lines.
    code: u16,
    size: usize,
}

impl ReplyReader {
    /// Adds the next line, without its line end, and returns the reply after its last line.
    ///
    /// Blank lines are skipped, and a line without a code inside a reply is text, because servers and filters send both. If
    /// the codes of the lines differ, the highest counts, so that a refusal with the text `250 Main Street` is a refusal.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<Option<SmtpReply>, String> {
        self.size += line.len() + 1;
        if self.size > REPLY_LIMIT {
            return Err(format!("the reply is longer than {REPLY_LIMIT} bytes"));
        }
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let Some((code, is_last, text)) = split(line) else {
            if self.lines.is_empty() {
                return Err(format!("the reply is not SMTP: {}", decoded(line)));
            }
            self.lines.push(decoded(line));
            return Ok(None);
        };
        self.lines.push(decoded(text));
        self.code = self.code.max(code);
        let code = self.code;
        Ok(is_last.then(|| SmtpReply { code, lines: std::mem::take(&mut self.lines) }))
    }
}

impl SmtpReply {
    pub(super) fn is_refusal(&self) -> bool {
        self.code >= 400
    }

    pub(super) fn is_permanent(&self) -> bool {
        self.code >= 500
    }

    /// Returns subject and detail of the enhanced status code (RFC 3463): `5.7.1` is `(7, 1)`.
    pub(super) fn enhanced(&self) -> Option<(u16, u16)> {
        let (_, subject, detail) = status(self.lines.first()?.split_whitespace().next()?)?;
        Some((subject, detail))
    }

    /// Returns code and text as one line of limited length, such as `550 5.1.1 no such user`.
    pub(super) fn summary(&self) -> String {
        shown(&format!("{} {}", self.code, self.text()))
    }

    /// Returns all lines as one text. An enhanced status code that each line repeats is there once.
    pub(super) fn text(&self) -> String {
        let mut text = self.lines.first().cloned().unwrap_or_default();
        let repeated = text.split_whitespace().next().filter(|word| status(word).is_some()).unwrap_or("\n").to_owned();
        for line in self.lines.iter().skip(1) {
            text.push(' ');
            text.push_str(line.strip_prefix(&repeated).unwrap_or(line).trim_start());
        }
        text
    }
}

/// Returns a text of the server as one line of limited length, for error messages.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 500;
    one_line(text).chars().take(LONGEST).collect()
}

/// Splits a line into the code, whether it is the last line, and the text. `250` alone is a complete reply.
fn split(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    let code: u16 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let is_code = digits.iter().all(u8::is_ascii_digit) && (200..600).contains(&code);
    match rest.split_first() {
        _ if !is_code => None,
        None => Some((code, true, rest)),
        Some((b'-', text)) => Some((code, false, text)),
        Some((b' ' | b'\t', text)) => Some((code, true, text)),
        Some((first, _)) if first.is_ascii_alphanumeric() => None,
        Some(_) => Some((code, true, rest)),
    }
}

/// Parses `5.7.1`, also as `#5.7.1` or `(5.7.1)`.
fn status(word: &str) -> Option<(u16, u16, u16)> {
    let mut numbers = word.trim_matches(|c: char| !c.is_ascii_digit()).split('.');
    let mut next = |most| numbers.next().and_then(|part| part.parse().ok()).filter(|number| *number <= most);
    let (class, subject, detail) = (next(5)?, next(999)?, next(999)?);
    (matches!(class, 2 | 4 | 5) && numbers.next().is_none()).then_some((class, subject, detail))
}

/// Decodes a text as UTF-8, or else as Latin-1, in which every byte is a character.
fn decoded(text: &[u8]) -> String {
    match std::str::from_utf8(text) {
        Ok(text) => text.to_owned(),
        Err(_) => text.iter().map(|&byte| char::from(byte)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::{REPLY_LIMIT, ReplyReader, SmtpReply};

    fn read(bytes: &[u8]) -> Result<Option<SmtpReply>, String> {
        let mut reader = ReplyReader::default();
        for line in bytes.split(|b| *b == b'\n') {
            if let Some(reply) = reader.line(line.strip_suffix(b"\r").unwrap_or(line))? {
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }

    #[test]
    fn the_code_decides_whatever_the_text() {
        let cases: [(&[u8], u16, &str); 14] = [
            (b"250 fine", 250, "fine"),
            (b"250", 250, ""),
            (b"250 ", 250, ""),
            (b"250\tfine", 250, "fine"),
            (b"\r\n \r\n250 fine", 250, "fine"),
            (b"250 accept\xe9", 250, "accept\u{e9}"),
            (b"250 \xff\xfe\x00", 250, "\u{ff}\u{fe}\u{0}"),
            ("250 angenommen ✓".as_bytes(), 250, "angenommen ✓"),
            (b"550-5.1.1 The account\r\n550 5.1.1 is gone", 550, "5.1.1 The account is gone"),
            (b"250-\r\n250", 250, " "),
            (b"554-refused\r\nfor a reason\r\n\r\n554 see above", 554, "refused for a reason see above"),
            (b"250-looks well\r\n451 but is not", 451, "looks well but is not"),
            (b"554-Rejected, write to\r\n250 Main Street", 554, "Rejected, write to Main Street"),
            (b"451-Later\r\n250-Main Street\r\n250 sink", 451, "Later Main Street sink"),
        ];
        for (bytes, code, text) in cases {
            let reply = read(bytes).unwrap().expect("a whole reply");
            assert_eq!((reply.code, reply.text().as_str()), (code, text), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_line_that_is_no_reply_is_refused_and_an_unfinished_reply_is_none() {
        let other: [&[u8]; 8] =
            [b"HTTP/1.1 400 Bad Request", b"25", b"2500 ok", b"+50 ok", b"999 ok", b"150 ok", b"SSH-2.0-x", b"25O ok"];
        for line in other {
            assert!(read(line).is_err(), "{}", line.escape_ascii());
        }
        assert_eq!(read(b"250-first\r\n250-second"), Ok(None));
    }

    #[test]
    fn a_reply_without_end_is_refused() {
        let mut reader = ReplyReader::default();
        let lines = (0..=REPLY_LIMIT / 100)
            .try_for_each(|_| reader.line(&[b"250-"[..].to_vec(), vec![b'x'; 96]].concat()).map(drop));
        assert!(lines.is_err());
    }

    #[test]
    fn the_enhanced_status_is_found_in_the_forms_that_servers_write() {
        let of = |text: &str| SmtpReply { code: 550, lines: vec![text.to_owned()] }.enhanced();
        assert_eq!(of("5.7.1 no"), Some((7, 1)));
        assert_eq!(of("#5.1.0 Address rejected"), Some((1, 0)));
        assert_eq!(of("(5.7.26) unauthenticated"), Some((7, 26)));
        assert_eq!(of("5.7.708"), Some((7, 708)));
        for text in ["", "no", "192.0.2.1 is blocked", "5.7 no", "3.7.1 no", "no 5.7.1"] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
