//! Reads a CSV file row by row in bounded memory. Errors name the line.
//!
//! The first row is the header. Cells are bytes, because only the columns in use must be UTF-8. The bytes of the file pass
//! through `decode` and `quoting` to the CSV reader.

mod csv_format;
mod decode;
mod quoting;

use std::io::{self, Chain, Cursor, Read};

use csv::{ByteRecord, ErrorKind, Position};
use serde::{Deserialize, Serialize};

pub(crate) use self::csv_format::CsvFormat;
use self::{decode::Utf8Reader, quoting::QuoteChecker};
use crate::error::{ReportError, shown};

/// Maximum bytes of one row, so that a quotation mark that is not closed cannot fill the memory.
pub(crate) const ROW_LIMIT: usize = 1024 * 1024;

const BUFFER: usize = 64 * 1024;

/// A data set that is being read.
pub(crate) struct Dataset<R> {
    name: String,
    header: Vec<String>,
    rows: csv::Reader<Text<R>>,
    record: ByteRecord,
    delimiter: u8,
    /// The place of the first byte that `rows` reads.
    start: DatasetPosition,
    /// True if a row may have fewer cells than the header.
    pads: bool,
}

/// A place between two rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DatasetPosition {
    /// Bytes before it, decoded and without a byte order mark.
    pub(crate) byte: u64,
    /// Lines before it.
    line: u64,
}

/// The inspected beginning of a file, and the rest of it.
type Text<R> = QuoteChecker<Chain<Cursor<Vec<u8>>, Utf8Reader<R>>>;

/// One row of a data set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CsvRow<'a> {
    record: &'a ByteRecord,
    /// Number of the line after the row.
    after: u64,
}

impl<R: Read> Dataset<R> {
    /// Opens a data set, and reads its header.
    pub(crate) fn new(name: &str, input: R, format: &CsvFormat) -> Result<Self, ReportError> {
        let failed = |error| explain(error, name, 1);
        let mut text = Utf8Reader::new(name, input, format.encoding).map_err(failed)?;
        let mut beginning = read_beginning(&mut text).map_err(failed)?;
        if beginning.contains(&0) {
            let reason = "it has NUL characters, like UTF-16 without a byte order mark: set dialect.encoding";
            return Err(ReportError::NotText { name: name.to_owned(), reason });
        }
        let (delimiter, before) = format.open(&beginning);
        let start = DatasetPosition { byte: before as u64, line: u64::from(before > 0) };
        beginning.drain(..before);
        let mut dataset = Self {
            name: name.to_owned(),
            header: Vec::new(),
            rows: reader(Cursor::new(beginning).chain(text), format, delimiter, start),
            record: ByteRecord::new(),
            delimiter,
            start,
            pads: format.pads,
        };
        dataset.header = match dataset.read()? {
            Some(row) if row.has_lone_return() => {
                let reason = "its lines end in a carriage return alone: convert them to line feeds";
                return Err(ReportError::NotText { name: name.to_owned(), reason });
            }
            Some(row) => row.titles()?,
            None => Vec::new(),
        };
        Ok(dataset)
    }

    /// Goes on at `position`. `input` reads the same file from its beginning.
    pub(crate) fn go_to(&mut self, position: DatasetPosition, input: R, format: &CsvFormat) -> Result<(), ReportError> {
        let failed = |error| explain(error, &self.name, position.line);
        let mut text = Utf8Reader::new(&self.name, input, format.encoding).map_err(failed)?;
        // A decoder needs room for more than the last bytes, so whole chunks are read, and the rest of the last one is kept.
        let (mut left, mut rest, mut chunk) = (position.byte, Vec::new(), vec![0; BUFFER]);
        while left > 0 {
            let read = text.read(&mut chunk).map_err(failed)?;
            if read == 0 {
                break;
            }
            let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(read);
            left -= skipped as u64;
            rest = chunk[skipped..read].to_vec();
        }
        self.rows = reader(Cursor::new(rest).chain(text), format, self.delimiter, position);
        self.start = position;
        Ok(())
    }

    /// Returns the place after the last row that was read.
    pub(crate) fn position(&self) -> DatasetPosition {
        let read = self.rows.position();
        DatasetPosition { byte: self.start.byte + read.byte(), line: self.start.line + read.line() - 1 }
    }

    /// Returns the columns in the order of the file.
    pub(crate) fn header(&self) -> &[String] {
        &self.header
    }

    /// Returns the character between two cells.
    pub(crate) fn delimiter(&self) -> u8 {
        self.delimiter
    }

    /// Returns the next row, or `None` at the end.
    ///
    /// # Errors
    ///
    /// The row is invalid, or the number of its cells differs from the header.
    pub(crate) fn next_row(&mut self) -> Result<Option<CsvRow<'_>>, ReportError> {
        let (expected, pads) = (self.header.len(), self.pads);
        match self.read()? {
            Some(row) if row.record.len() > expected || row.record.len() < expected && !pads => {
                Err(ReportError::FieldCount { row: row.number(), expected, found: row.record.len() })
            }
            row => Ok(row),
        }
    }

    fn read(&mut self) -> Result<Option<CsvRow<'_>>, ReportError> {
        loop {
            let before = self.rows.position().clone();
            self.rows.get_mut().allow(ROW_LIMIT);
            let found = self.rows.read_byte_record(&mut self.record);
            if !found.map_err(|error| explain(into_io(error), &self.name, self.start.line + before.line()))? {
                return Ok(None);
            }
            let after = self.rows.position();
            if !is_blank(&self.record, &before, after) {
                return Ok(Some(CsvRow { record: &self.record, after: self.start.line + after.line() }));
            }
        }
    }
}

impl<'a> CsvRow<'a> {
    /// Returns the line on which the row begins, counted from 1.
    pub(crate) fn number(self) -> u64 {
        // Counted back from the end of the row, because blank lines may precede it.
        self.after.saturating_sub(1 + line_breaks(self.record))
    }

    /// Returns the cell of a column by its position in the header.
    pub(crate) fn cell(self, column: usize) -> &'a [u8] {
        let cell = self.record.get(column).unwrap_or_default();
        if column + 1 == self.record.len() { without_return(cell) } else { cell }
    }

    /// Returns whether the row has a carriage return that is not part of a line end.
    fn has_lone_return(self) -> bool {
        let lone =
            |cell: &[u8]| cell.iter().enumerate().any(|(at, byte)| *byte == b'\r' && cell.get(at + 1) != Some(&b'\n'));
        (0..self.record.len()).any(|column| lone(self.cell(column)))
    }

    fn titles(self) -> Result<Vec<String>, ReportError> {
        (0..self.record.len()).map(|column| self.title(column)).collect()
    }

    fn title(self, column: usize) -> Result<String, ReportError> {
        let title = self.cell(column).trim_ascii();
        let text = std::str::from_utf8(title).map_err(|_| {
            let (column, value) = (format!("number {}", column + 1), shown(title));
            ReportError::NotUtf8 { row: self.number(), column, value }
        })?;
        Ok(text.to_owned())
    }
}

/// Returns a reader of the rows of `text`, which begins at `start`.
fn reader<R: Read>(
    text: Chain<Cursor<Vec<u8>>, Utf8Reader<R>>,
    format: &CsvFormat,
    delimiter: u8,
    start: DatasetPosition,
) -> csv::Reader<Text<R>> {
    let mut reader = csv::ReaderBuilder::new();
    reader.quoting(format.quote.is_some()).quote(format.quote.unwrap_or(b'"')).delimiter(delimiter);
    // With `\n` as terminator, the reader's position is the line of the next row. `CsvRow::cell` handles `\r\n`.
    reader.has_headers(false).flexible(true).terminator(csv::Terminator::Any(b'\n')).buffer_capacity(BUFFER);
    reader.from_reader(QuoteChecker::new(text, format.quote, delimiter, 1 + start.line))
}

fn without_return(cell: &[u8]) -> &[u8] {
    cell.strip_suffix(b"\r").unwrap_or(cell)
}

/// Returns whether the record is an empty line that ends in `\r\n`. The reader itself skips empty lines that end in `\n`.
///
/// A quoted empty cell gives the same record, but has more than the two bytes of the line end.
fn is_blank(record: &ByteRecord, before: &Position, after: &Position) -> bool {
    // Each line before the last is an empty line of one byte, which the reader skipped.
    let skipped = (after.line() - before.line()).saturating_sub(1);
    record.len() == 1 && record.as_slice() == b"\r" && after.byte() - before.byte() - skipped == 2
}

fn line_breaks(record: &ByteRecord) -> u64 {
    record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Reads the first two lines, or the first 64 KB: a line such as `sep=;` may precede the header.
fn read_beginning(text: &mut impl Read) -> io::Result<Vec<u8>> {
    let (mut beginning, mut chunk) = (Vec::new(), vec![0; 4096]);
    while beginning.len() < BUFFER && beginning.iter().filter(|byte| **byte == b'\n').count() < 2 {
        match text.read(&mut chunk)? {
            0 => break,
            read => beginning.extend_from_slice(&chunk[..read]),
        }
    }
    Ok(beginning)
}

fn into_io(error: csv::Error) -> io::Error {
    match error.into_kind() {
        ErrorKind::Io(source) => source,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// Returns the error of `decode` or `quoting`, or else the error of the disk.
fn explain(error: io::Error, name: &str, row: u64) -> ReportError {
    if error.kind() == io::ErrorKind::FileTooLarge {
        return ReportError::RowTooLong { row, limit: ROW_LIMIT };
    }
    error.downcast().unwrap_or_else(|source| ReportError::Read { name: name.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Dialect;

    fn plain() -> CsvFormat {
        CsvFormat::new(&Dialect::default()).unwrap()
    }

    fn read(text: &[u8]) -> Result<Vec<(u64, Vec<String>)>, ReportError> {
        let mut dataset = Dataset::new("d.csv", text, &plain())?;
        let columns = dataset.header().len();
        let mut rows = vec![(1, dataset.header().to_vec())];
        while let Some(row) = dataset.next_row()? {
            let cells = (0..columns).map(|column| String::from_utf8_lossy(row.cell(column)).into_owned());
            rows.push((row.number(), cells.collect()));
        }
        Ok(rows)
    }

    #[test]
    fn rows_are_named_by_the_line_on_which_they_begin() {
        let expected = [(1, ["a", "b"]), (2, ["1", "x\ny"]), (5, ["2", "z"]), (6, ["3", ""])];
        let expected = expected.map(|(line, cells)| (line, cells.map(str::to_owned).to_vec()));
        for text in [
            "\u{feff}\"a\", b\n1,\"x\ny\"\n\n2,z\n3,\n",
            "\u{feff}\"a\", b\r\n1,\"x\ny\"\r\n\r\n2,\"z\"\r\n3,\"\"\r\n",
            "a,b\r\n1,\"x\ny\"\r\n\r\n2,z\r\n3,",
            "a,b\n1,\"x\ny\"\n\n2,z\n3,",
        ] {
            assert_eq!(read(text.as_bytes()).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_quoted_empty_cell_is_a_row_whatever_ends_its_line() {
        let expected = [(1, "a"), (2, "1"), (3, ""), (6, ""), (8, "2")];
        let expected = expected.map(|(line, cell)| (line, vec![cell.to_owned()]));
        let text = "a\n1\n\"\"\n\n\n\"\"\n\n2\n\n";
        assert_eq!(read(text.as_bytes()).unwrap(), expected);
        assert_eq!(read(text.replace('\n', "\r\n").as_bytes()).unwrap(), expected);
        let mixed = "a\r\n1\r\n\"\"\r\n\n\r\n\"\"\r\n\n2\r\n\n";
        assert_eq!(read(mixed.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn a_row_with_a_cell_too_few_is_named() {
        for text in ["a,b\n1,2\n3\n", "a,b\r\n1,2\r\n3\r\n", "a,b\n\n3"] {
            let error = read(text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), "row 3 has 1 cells where the header has 2", "{text:?}");
        }
    }

    #[test]
    fn a_quotation_mark_that_is_never_closed_is_named_before_it_fills_the_memory() {
        let endless = (&b"a,b\n1,2\n3,\""[..]).chain(io::repeat(b'x'));
        let mut dataset = Dataset::new("d.csv", endless, &plain()).unwrap();
        dataset.next_row().unwrap();
        let error = dataset.next_row().unwrap_err();
        assert!(matches!(error, ReportError::RowTooLong { row: 3, .. }), "{error}");
    }

    #[test]
    fn a_quotation_mark_that_is_not_closed_until_the_end_is_an_error_and_not_the_rest_of_the_file_in_one_cell() {
        for text in ["a,b\n1,2\n3,\"4\n5,6\n", "a,b\n1,2\n3,\"4\n5,6", "a,b\n1,2\n\"3,4\n", "a,b\n1,2\n3,\""] {
            let error = read(text.as_bytes()).unwrap_err();
            assert!(matches!(error, ReportError::UnclosedQuote { row: 3 }), "{text:?}: {error}");
        }
        assert_eq!(read(b"a\n\"x\n\"\n").unwrap()[1], (2, vec!["x\n".to_owned()]), "a cell may end in a line break");
    }

    #[test]
    fn a_long_row_within_the_limit_is_read() {
        let cell = "x".repeat(ROW_LIMIT - 100);
        assert_eq!(read(format!("a\n{cell}\n{cell}\n").as_bytes()).unwrap().len(), 3);
    }

    #[test]
    fn a_data_set_that_is_read_on_from_any_row_gives_the_same_rows_and_numbers() {
        let texts = ["\u{feff}sep=;\na;b\n1;\"x\ny\"\n\n2;z\n3;", "a,b\r\n1,\"x\ny\"\r\n\r\n2,z\r\n3,\"\"\r\n"];
        let utf16: Vec<u8> = "\u{feff}a,b\n1,é\n\n2,z\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for text in texts.iter().map(|text| text.as_bytes()).chain([utf16.as_slice()]) {
            let all = |dataset: &mut Dataset<&[u8]>| {
                let mut rows = Vec::new();
                while let Some(row) = dataset.next_row().unwrap() {
                    let cells = (0..2).map(|column| String::from_utf8_lossy(row.cell(column)).into_owned());
                    rows.push((row.number(), cells.collect::<Vec<_>>()));
                }
                rows
            };
            let rows = all(&mut Dataset::new("d.csv", text, &plain()).unwrap());
            assert!(rows.len() > 1);
            for read in 0..=rows.len() {
                let mut dataset = Dataset::new("d.csv", text, &plain()).unwrap();
                for _ in 0..read {
                    dataset.next_row().unwrap();
                }
                let position = dataset.position();
                dataset.go_to(position, text, &plain()).unwrap();
                assert_eq!(dataset.position(), position);
                assert_eq!(all(&mut dataset), rows[read..], "after {read} of {:?}", String::from_utf8_lossy(text));
            }
        }
    }

    #[test]
    fn a_file_without_a_byte_has_no_columns() {
        assert_eq!(read(b"").unwrap(), [(1, vec![])]);
    }
}
