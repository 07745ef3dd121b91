//! Decodes a file to UTF-8.

use std::io::{self, Chain, Cursor, Read};

use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_8};

use crate::error::ReportError;

const BUFFER: usize = 64 * 1024;

/// Reads a file as UTF-8, without its byte order mark.
///
/// Bytes that are invalid in the file's encoding are an error; they are not replaced. A UTF-8 file passes through unchecked,
/// because columns that the report does not use may have any bytes.
pub(crate) struct Utf8Reader<R> {
    name: String,
    input: Chain<Cursor<Vec<u8>>, R>,
    /// `None` for UTF-8.
    decoder: Option<Decoder>,
    raw: Vec<u8>,
    /// Number of decoded bytes of `raw`.
    used: usize,
    offset: u64,
    ended: bool,
}

impl<R: Read> Utf8Reader<R> {
    /// Opens the file. A byte order mark takes precedence over the `stated` encoding.
    pub(crate) fn new(name: &str, mut input: R, stated: Option<&'static Encoding>) -> io::Result<Self> {
        let mut first = Vec::new();
        input.by_ref().take(3).read_to_end(&mut first)?;
        let (encoding, mark) = Encoding::for_bom(&first).unwrap_or((stated.unwrap_or(UTF_8), 0));
        first.drain(..mark);
        let decoder = (encoding != UTF_8).then(|| encoding.new_decoder_without_bom_handling());
        let raw = Vec::new();
        let input = Cursor::new(first).chain(input);
        Ok(Self { name: name.to_owned(), input, decoder, raw, used: 0, offset: mark as u64, ended: false })
    }

    fn refill(&mut self) -> io::Result<()> {
        self.raw.resize(BUFFER, 0);
        let read = self.input.read(&mut self.raw)?;
        self.raw.truncate(read);
        self.used = 0;
        self.ended = read == 0;
        Ok(())
    }
}

impl<R: Read> Read for Utf8Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.decoder.is_none() {
            return self.input.read(buffer);
        }
        loop {
            if self.used == self.raw.len() {
                if self.ended {
                    return Ok(0);
                }
                self.refill()?;
            }
            let Some(decoder) = &mut self.decoder else { return Ok(0) };
            let (result, read, written) =
                decoder.decode_to_utf8_without_replacement(&self.raw[self.used..], buffer, self.ended);
            self.used += read;
            self.offset += read as u64;
            if let DecoderResult::Malformed(..) = result {
                let (encoding, offset) = (decoder.encoding().name(), self.offset);
                return Err(io::Error::other(ReportError::Encoding { name: self.name.clone(), encoding, offset }));
            }
            if written > 0 || self.ended {
                return Ok(written);
            }
        }
    }
}
