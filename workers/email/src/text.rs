//! Text from jobs, made fit for header lines and bodies.

/// Turns every run of white space and control characters into one space, and trims both ends.
///
/// What comes out is one line wherever it is put, so a value can never start a header of its own.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Ends every line in CRLF, whichever of LF, CR and CRLF it had.
///
/// A bare CR or LF that reached a server could be taken for a line end by the next one, and a dot after it for the
/// end of the mail. Done here in one pass: lettre's own conversion takes time in the square of the number of lines.
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
