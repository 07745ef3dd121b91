//! Delimiter, quotation mark and encoding of a file, from the request or from the file's first line.

use encoding_rs::Encoding;

use crate::{
    error::ReportError,
    request::{Dialect, ShortRows},
};

/// The part of a dialect that separates cells.
#[derive(Debug)]
pub(crate) struct CsvFormat {
    pub(crate) encoding: Option<&'static Encoding>,
    pub(crate) quote: Option<u8>,
    pub(crate) pads: bool,
    delimiter: Option<u8>,
}

/// Delimiters that the worker detects in a header without a comma.
const SEPARATORS: [u8; 3] = [b';', b'\t', b'|'];

impl CsvFormat {
    pub(crate) fn new(dialect: &Dialect) -> Result<Self, ReportError> {
        let refused = |reason| ReportError::Request { field: "dialect", reason };
        let plain = |letter: char| {
            u8::try_from(letter).ok().filter(|byte| byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | 0))
        };
        let one = refused("`delimiter` and `quote` must each be one ASCII character other than a line break");
        let delimiter = match dialect.delimiter.map(plain) {
            Some(None) => return Err(one),
            delimiter => delimiter.flatten(),
        };
        let quote = match dialect.quote.as_deref().map(|text| (text, text.parse().ok().and_then(plain))) {
            None => Some(b'"'),
            Some(("", _)) => None,
            Some((_, None)) => return Err(one),
            Some((_, quote)) => quote,
        };
        if delimiter.is_some() && delimiter == quote {
            return Err(refused("`delimiter` and `quote` are the same"));
        }
        let encoding = match dialect
            .encoding
            .as_deref()
            .map(|label| Encoding::for_label_no_replacement(label.as_bytes()))
        {
            Some(None) => {
                return Err(refused(
                    "`encoding` is unknown: use a label of the WHATWG Encoding Standard, such as utf-8, utf-16le or windows-1252",
                ));
            }
            encoding => encoding.flatten(),
        };
        Ok(Self { encoding, quote, pads: dialect.short_rows == ShortRows::Pad, delimiter })
    }

    /// Returns the delimiter, and the number of bytes before the header. `text` is the beginning of the file.
    pub(crate) fn open(&self, text: &[u8]) -> (u8, usize) {
        let line = |text: &[u8]| text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| end + 1);
        let first = &text[..line(text)];
        let named = named_separator(first);
        let skipped = if named.is_some() { first.len() } else { 0 };
        let header = &text[skipped..];
        let delimiter = self.delimiter.or(named).or_else(|| self.separator(&header[..line(header)]));
        (delimiter.unwrap_or(b','), skipped)
    }

    /// Returns the separator of a header that has no comma and one kind of separator.
    fn separator(&self, header: &[u8]) -> Option<u8> {
        let mut quoted = false;
        let mut found = None;
        for byte in header {
            quoted ^= self.quote == Some(*byte);
            match byte {
                _ if quoted => {}
                b',' => return None,
                byte if SEPARATORS.contains(byte) && found.is_some_and(|found| found != *byte) => return None,
                byte if SEPARATORS.contains(byte) => found = Some(*byte),
                _ => {}
            }
        }
        found
    }
}

/// Returns the delimiter of a line such as `sep=;`, which spreadsheets write before the header.
fn named_separator(line: &[u8]) -> Option<u8> {
    let (name, rest) = line.split_at_checked(4)?;
    match rest {
        [separator, b'\n'] | [separator, b'\r', b'\n'] if name.eq_ignore_ascii_case(b"sep=") => Some(*separator)
            .filter(|separator| separator.is_ascii() && !separator.is_ascii_alphanumeric() && *separator != b'\r'),
        _ => None,
    }
}
