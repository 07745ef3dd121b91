//! Makes text from jobs safe for header lines and bodies.

/// Replaces each sequence of white space and control characters by one space, and trims both ends.
///
/// The result is one line, so a value cannot start another header.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Ends every line with CRLF instead of LF, CR or CRLF.
///
/// Some servers take a bare CR or LF as a line end, and a dot after it as the end of the mail. One pass is linear; the
/// conversion of lettre takes quadratic time.
pub(crate) fn crlf(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 32);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' if chars.peek() == Some(&'\n') => {}
            '\r' | '\n' => out.push_str("\r\n"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{crlf, one_line};

    #[test]
    fn one_line_has_no_line_ends_or_controls() {
        assert_eq!(one_line("  Hello\r\n\tBcc: x \u{2028}\u{85}\0y\n"), "Hello Bcc: x y");
        assert_eq!(one_line("\r\n"), "");
    }

    #[test]
    fn every_kind_of_line_end_becomes_crlf() {
        assert_eq!(crlf("a\nb\rc\r\nd\n\r\n.\r.\n"), "a\r\nb\r\nc\r\nd\r\n\r\n.\r\n.\r\n");
        assert_eq!(crlf(""), "");
    }
}
