//! Streams a CSV file row by row, in bounded memory, and says which line is wrong.
//!
//! The first row is the header. Cells are handed out as bytes: a file that is not UTF-8 throughout can still be
//! reported on as long as the columns in use are.

use std::io::{self, Read};

use csv::{ByteRecord, ErrorKind};

use crate::error::{ReportError, shown};

/// The most bytes of one row, so that a quotation mark that is never closed cannot fill the memory.
pub(crate) const ROW_LIMIT: usize = 1024 * 1024;

const BUFFER: usize = 64 * 1024;

/// A data set that is being read.
#[derive(Debug)]
pub(crate) struct Dataset<R> {
    name: String,
    header: Vec<String>,
    rows: csv::Reader<Metered<R>>,
    record: ByteRecord,
}

/// One row of a data set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    record: &'a ByteRecord,
    /// The line after the row.
    after: u64,
}

impl<R: Read> Dataset<R> {
    /// Reads the header.
    pub(crate) fn new(name: &str, input: R) -> Result<Self, ReportError> {
        let rows = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            // A row ends with its line, so that the reader's line is that of the next row; see `Row::cell` for `\r\n`.
            .terminator(csv::Terminator::Any(b'\n'))
            .buffer_capacity(BUFFER)
            .from_reader(Metered { input, allowance: ROW_LIMIT, last: b'\n' });
        let mut dataset = Self { name: name.to_owned(), header: Vec::new(), rows, record: ByteRecord::new() };
        dataset.header = match dataset.read()? {
            Some(row) => row.titles()?,
            None => Vec::new(),
        };
        Ok(dataset)
    }

    /// The columns, in the order of the file.
    pub(crate) fn header(&self) -> &[String] {
        &self.header
    }

    /// The next row, with as many cells as the header, or `None` at the end.
    pub(crate) fn next_row(&mut self) -> Result<Option<Row<'_>>, ReportError> {
        let expected = self.header.len();
        match self.read()? {
            Some(row) if row.record.len() != expected => {
                Err(ReportError::FieldCount { row: row.number(), expected, found: row.record.len() })
            }
            row => Ok(row),
        }
    }

    fn read(&mut self) -> Result<Option<Row<'_>>, ReportError> {
        loop {
            let before = self.rows.position().line();
            self.rows.get_mut().allowance = ROW_LIMIT;
            let found = self.rows.read_byte_record(&mut self.record);
            if !found.map_err(|error| explain(error, &self.name, before))? {
                return Ok(None);
            }
            if is_blank(&self.record) {
                continue;
            }
            let after = self.rows.position().line();
            if is_unclosed(&self.record, after - before) {
                return Err(ReportError::UnclosedQuote { row: before });
            }
            return Ok(Some(Row { record: &self.record, after }));
        }
    }
}

impl<'a> Row<'a> {
    /// The line on which the row begins, from 1.
    pub(crate) fn number(self) -> u64 {
        // Counted back from the row's end, because blank lines may precede it.
        self.after.saturating_sub(1 + line_breaks(self.record))
    }

    /// The cell of a column by its position in the header.
    pub(crate) fn cell(self, column: usize) -> &'a [u8] {
        let cell = self.record.get(column).unwrap_or_default();
        if column + 1 == self.record.len() { without_return(cell) } else { cell }
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

fn without_return(cell: &[u8]) -> &[u8] {
    cell.strip_suffix(b"\r").unwrap_or(cell)
}

/// An empty line that ends in `\r\n`; the reader itself leaves out those that end in `\n`.
fn is_blank(record: &ByteRecord) -> bool {
    record.len() == 1 && record.as_slice() == b"\r"
}

/// Whether the row took in the end of the last line as text: a quotation mark in it was still open.
fn is_unclosed(record: &ByteRecord, lines: u64) -> bool {
    record.as_slice().ends_with(b"\n") && line_breaks(record) >= lines
}

fn line_breaks(record: &ByteRecord) -> u64 {
    record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64
}

fn explain(error: csv::Error, name: &str, row: u64) -> ReportError {
    let source = match error.into_kind() {
        ErrorKind::Io(source) if source.kind() == io::ErrorKind::FileTooLarge => {
            return ReportError::RowTooLong { row, limit: ROW_LIMIT };
        }
        ErrorKind::Io(source) => source,
        other => io::Error::other(format!("{other:?}")),
    };
    ReportError::Read { name: name.to_owned(), source }
}

/// Fails once more has been read for one row than a row may have (the reader's own buffer comes on top), and ends the
/// last line if the file does not.
#[derive(Debug)]
struct Metered<R> {
    input: R,
    allowance: usize,
    last: u8,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.allowance == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut read = self.input.read(buffer)?;
        if read == 0 && self.last != b'\n' {
            read = (&b"\n"[..]).read(buffer)?;
        }
        self.last = buffer[..read].last().copied().unwrap_or(self.last);
        self.allowance = self.allowance.saturating_sub(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Vec<(u64, Vec<String>)>, ReportError> {
        let mut dataset = Dataset::new("d.csv", text)?;
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
    fn a_row_with_a_cell_too_few_is_named() {
        for text in ["a,b\n1,2\n3\n", "a,b\r\n1,2\r\n3\r\n", "a,b\n\n3"] {
            let error = read(text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), "row 3 has 1 cells where the header has 2", "{text:?}");
        }
    }

    #[test]
    fn a_quotation_mark_that_is_never_closed_is_named_before_it_fills_the_memory() {
        let endless = (&b"a,b\n1,2\n3,\""[..]).chain(io::repeat(b'x'));
        let mut dataset = Dataset::new("d.csv", endless).unwrap();
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
    fn a_file_without_a_byte_has_no_columns() {
        assert_eq!(read(b"").unwrap(), [(1, vec![])]);
    }
}
