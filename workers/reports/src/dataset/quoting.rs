//! Checks quoting by RFC 4180. The CSV reader is lenient: after `"Monitor 24"",10` it reads the next rows as text.
//!
//! The check reads the bytes before the CSV reader. A chunk without a quotation mark costs one search.

use std::io::{self, Read};

use memchr::{memchr, memchr_iter};

use crate::error::ReportError;

/// Passes on correctly quoted rows of bounded length, and ends the last line.
pub(crate) struct QuoteChecker<R> {
    input: R,
    quote: Option<u8>,
    delimiter: u8,
    /// Bytes that may be read before the next [`QuoteChecker::allow`], besides the buffer of the CSV reader.
    allowance: usize,
    state: QuoteState,
    last: u8,
    /// Line of the next byte, and line on which its row begins.
    line: u64,
    row: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QuoteState {
    Outside,
    Inside,
    /// After a quotation mark in a quoted cell: the end of the cell, or the first of two marks.
    AfterQuote,
    /// After a quoted cell and a carriage return.
    AfterReturn,
}

impl<R: Read> QuoteChecker<R> {
    /// Creates a checker whose first line has the number `line`.
    pub(crate) fn new(input: R, quote: Option<u8>, delimiter: u8, line: u64) -> Self {
        Self { input, quote, delimiter, allowance: 0, state: QuoteState::Outside, last: b'\n', line, row: line }
    }

    /// Allows the next row this many bytes.
    pub(crate) fn allow(&mut self, bytes: usize) {
        self.allowance = bytes;
    }

    fn check(&mut self, chunk: &[u8]) -> Result<(), ReportError> {
        let Some(quote) = self.quote else {
            return Ok(());
        };
        let mut at = 0;
        while at < chunk.len() {
            let rest = &chunk[at..];
            let passed = match self.state {
                QuoteState::Outside | QuoteState::Inside => self.pass(rest, memchr(quote, rest))?,
                QuoteState::AfterQuote => self.after_quote(rest[0], quote)?,
                QuoteState::AfterReturn if rest[0] == b'\n' => {
                    self.state = QuoteState::Outside;
                    0
                }
                QuoteState::AfterReturn => return Err(ReportError::StrayQuote { row: self.row }),
            };
            at += passed;
            if passed > 0 {
                self.last = chunk[at - 1];
            }
        }
        Ok(())
    }

    /// Passes the bytes up to and including the quotation mark, or all bytes without a mark.
    fn pass(&mut self, rest: &[u8], mark: Option<usize>) -> Result<usize, ReportError> {
        let before = &rest[..mark.unwrap_or(rest.len())];
        let lines = memchr_iter(b'\n', before).count() as u64;
        self.line += lines;
        if self.state == QuoteState::Outside && lines > 0 {
            self.row = self.line;
        }
        let Some(mark) = mark else {
            return Ok(rest.len());
        };
        let last = before.last().copied().unwrap_or(self.last);
        self.state = match self.state {
            QuoteState::Inside => QuoteState::AfterQuote,
            _ if last == b'\n' || last == self.delimiter => QuoteState::Inside,
            _ => return Err(ReportError::StrayQuote { row: self.row }),
        };
        Ok(mark + 1)
    }

    fn after_quote(&mut self, byte: u8, quote: u8) -> Result<usize, ReportError> {
        let (state, passed) = match byte {
            b'\r' => (QuoteState::AfterReturn, 1),
            // `pass` counts the line.
            b'\n' => (QuoteState::Outside, 0),
            _ if byte == quote => (QuoteState::Inside, 1),
            _ if byte == self.delimiter => (QuoteState::Outside, 1),
            _ => return Err(ReportError::StrayQuote { row: self.row }),
        };
        self.state = state;
        Ok(passed)
    }
}

impl<R: Read> Read for QuoteChecker<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.allowance == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let read = self.input.read(buffer)?;
        if read > 0 {
            self.check(&buffer[..read]).map_err(io::Error::other)?;
            self.last = buffer[read - 1];
            self.allowance = self.allowance.saturating_sub(read);
            return Ok(read);
        }
        if self.state == QuoteState::Inside {
            return Err(io::Error::other(ReportError::UnclosedQuote { row: self.row }));
        }
        if self.last == b'\n' {
            return Ok(0);
        }
        self.last = b'\n';
        (&b"\n"[..]).read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Passes a text on in pieces of `size` bytes.
    fn passed(text: &str, size: usize) -> io::Result<Vec<u8>> {
        let mut checked = QuoteChecker::new(text.as_bytes(), Some(b'"'), b',', 1);
        let (mut all, mut piece) = (Vec::new(), vec![0; size]);
        loop {
            checked.allow(usize::MAX);
            match checked.read(&mut piece)? {
                0 => return Ok(all),
                read => all.extend_from_slice(&piece[..read]),
            }
        }
    }

    /// RFC 4180's grammar, read letter by letter, with line feeds alone as ends of lines too.
    fn is_well_quoted(mut text: &str) -> bool {
        while !text.is_empty() {
            let Some(mut quoted) = text.strip_prefix('"') else {
                let end = text.find([',', '\n']).map_or(text.len(), |end| end + 1);
                if text[..end].contains('"') {
                    return false;
                }
                text = &text[end..];
                continue;
            };
            loop {
                let Some(mark) = quoted.find('"') else { return false };
                quoted = &quoted[mark + 1..];
                match quoted.strip_prefix('"') {
                    Some(rest) => quoted = rest,
                    None => break,
                }
            }
            let ends = [",", "\n", "\r\n"].into_iter().find_map(|end| quoted.strip_prefix(end));
            match ends {
                Some(rest) => text = rest,
                None => return quoted.is_empty() || quoted == "\r",
            }
        }
        true
    }

    proptest! {
        #[test]
        fn a_text_passes_exactly_if_it_is_quoted_by_the_rfc_whatever_the_pieces(
            text in "[a\",\r\n]{0,24}",
            size in 1_usize..9,
        ) {
            let result = passed(&text, size);
            prop_assert_eq!(result.is_ok(), is_well_quoted(&text), "{:?}", result);
            if let Ok(mut bytes) = result {
                bytes.truncate(text.len());
                prop_assert_eq!(bytes, text.as_bytes());
            }
        }
    }
}
