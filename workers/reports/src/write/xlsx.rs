//! Writes a report as an Excel workbook: the table on one sheet, its source on another.
//!
//! Figures are number cells with a format. Text is always a string cell, so a spreadsheet does not run it as a formula. A
//! spreadsheet holds binary numbers of 15 digits: a value that a number cell would change is written as text.
//! The first row is frozen, every column has a filter, and the total is below the filtered rows.

use std::{
    fs::File,
    io,
    panic::{self, AssertUnwindSafe},
    path::Path,
};

use rust_xlsxwriter::{
    ColNum, DocProperties, ExcelDateTime, Format, FormatAlign, FormatBorder, RowNum, Workbook, Worksheet, XlsxError,
};

use super::error::{WriteError, stop_at_row};
use crate::{
    decimal::Decimal,
    error::{ReportError, shown},
    report::Report,
    table::{ColumnRole, ReportCell, ReportColumn},
};

/// Maximum rows of a sheet between the titles and the total.
pub(crate) const ROW_LIMIT: usize = 1_048_574;

const COLUMN_LIMIT: usize = 16_384;
/// Maximum UTF-16 units of a cell.
const CELL_LIMIT: usize = 32_767;
/// Digits of a number cell that a spreadsheet keeps.
const DIGITS: usize = 15;

const TITLE_FILL: u32 = 0x1F_4E_79;
const TITLE_COLOR: u32 = 0xFF_FF_FF;
const RULE: u32 = 0x7B_87_94;

/// Writes the workbook. The rows pass through an unnamed temporary file in `dir`.
pub(super) fn write(report: &Report, file: &File, dir: &Path, cancelled: &dyn Fn() -> bool) -> Result<(), WriteError> {
    refuse_what_does_not_fit(report)?;
    // The library panics if it cannot write the temporary file, for example on a full disk. Another attempt can succeed.
    let written = panic::catch_unwind(AssertUnwindSafe(|| {
        let mut workbook = Workbook::new();
        fill(&mut workbook, report, dir, cancelled)?;
        workbook.save_to_writer(file)?;
        Ok(())
    }));
    written.map_err(|_| io::Error::other("the rows cannot be written to a temporary file"))?
}

fn refuse_what_does_not_fit(report: &Report) -> Result<(), ReportError> {
    let columns = report.table.columns.len();
    if columns > COLUMN_LIMIT {
        return Err(ReportError::TooManyColumns {
            container: "a sheet of an xlsx",
            what: "columns",
            columns,
            limit: COLUMN_LIMIT,
        });
    }
    let is_long = |text: &str| text.len() > CELL_LIMIT && text.encode_utf16().count() > CELL_LIMIT;
    for row in &report.table.rows {
        for (cell, column) in row.iter().zip(&report.table.columns) {
            if let ReportCell::Text(text) | ReportCell::Date(_, text) = cell
                && is_long(text)
            {
                let (column, value) = (shown(column.title.as_bytes()), shown(text.as_bytes()));
                return Err(ReportError::CellTooLong { column, value, limit: CELL_LIMIT });
            }
        }
    }
    Ok(())
}

impl From<XlsxError> for WriteError {
    fn from(error: XlsxError) -> Self {
        Self::Io(match error {
            XlsxError::IoError(source) | XlsxError::TempFileError(_, source) => source,
            other => io::Error::other(other),
        })
    }
}

fn fill(workbook: &mut Workbook, report: &Report, dir: &Path, cancelled: &dyn Fn() -> bool) -> Result<(), WriteError> {
    // The date of the data, not of today: the same report must be the same file.
    let made = ExcelDateTime::from_timestamp(report.caption.data_of_seconds.into())?;
    workbook.set_properties(&DocProperties::new().set_title(&report.caption.title).set_creation_datetime(&made));
    let sheet = workbook.set_tempdir(dir)?.add_worksheet_with_constant_memory()?.set_name("Report")?;
    sheet.set_freeze_panes(1, 0)?.set_repeat_rows(0, 0)?.set_print_fit_to_pages(1, 0);
    for (at, column) in (0..).zip(&report.table.columns) {
        sheet.write_string_with_format(0, at, fitting(&column.title), &title_format(column))?;
        sheet.set_column_width(at, width(usize::from(at), report))?;
    }
    write_rows(sheet, report, cancelled)?;
    Ok(describe(workbook.add_worksheet().set_name("About")?, report)?)
}

fn write_rows(sheet: &mut Worksheet, report: &Report, cancelled: &dyn Fn() -> bool) -> Result<(), WriteError> {
    let table = &report.table;
    let plain: Vec<_> = (0..table.columns.len()).map(|column| ColumnStyle::new(report, column)).collect();
    let mut next = 1;
    for (at, row) in table.rows.iter().enumerate() {
        stop_at_row(at, cancelled)?;
        write_row(sheet, next, row, &plain)?;
        next += 1;
    }
    let last_column = ColNum::try_from(table.columns.len()).unwrap_or(ColNum::MAX).saturating_sub(1);
    sheet.autofilter(0, 0, next - 1, last_column)?;
    if let Some(total) = &table.total {
        write_row(sheet, next, total, &plain.iter().map(ColumnStyle::of_total).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn write_row(
    sheet: &mut Worksheet,
    row: RowNum,
    cells: &[ReportCell],
    styles: &[ColumnStyle],
) -> Result<(), XlsxError> {
    for ((at, cell), style) in (0..).zip(cells).zip(styles) {
        match cell {
            ReportCell::Text(text) | ReportCell::Date(_, text) => {
                sheet.write_string_with_format(row, at, text, &style.format)?
            }
            ReportCell::Number(number) => match style.has_numbers.then(|| exact(*number)).flatten() {
                Some(binary) => sheet.write_number_with_format(row, at, binary, &style.format)?,
                None => sheet.write_string_with_format(row, at, number.to_string(), &style.format)?,
            },
            ReportCell::Empty => sheet.write_blank(row, at, &style.format)?,
        };
    }
    Ok(())
}

/// Format of the cells of a column.
struct ColumnStyle {
    format: Format,
    /// True if its numbers may be number cells.
    has_numbers: bool,
}

impl ColumnStyle {
    /// Writes the values of a group column all as numbers or all as text, so that they sort and filter alike.
    fn new(report: &Report, column: usize) -> Self {
        let role = report.table.columns[column].role;
        let same = |row: &Vec<ReportCell>| match &row[column] {
            ReportCell::Number(number) => exact(*number).is_some_and(|binary| binary.to_string() == number.to_string()),
            ReportCell::Text(_) | ReportCell::Date(..) | ReportCell::Empty => true,
        };
        let has_numbers = role != ColumnRole::Group || report.table.rows.iter().all(same);
        let is_whole = |row: &Vec<ReportCell>| match &row[column] {
            ReportCell::Number(number) => number.scale() == 0,
            ReportCell::Text(_) | ReportCell::Date(..) | ReportCell::Empty => true,
        };
        let format = match role {
            // Without a format, a spreadsheet shows twelve digits as a power of ten.
            ColumnRole::Group if report.table.rows.iter().all(is_whole) => cell_format(role).set_num_format("0"),
            _ => cell_format(role),
        };
        Self { format, has_numbers }
    }

    fn of_total(&self) -> Self {
        let format = self.format.clone().set_bold().set_border_top(FormatBorder::Thin).set_border_color(RULE);
        Self { format, ..*self }
    }
}

/// Returns the number as a spreadsheet holds it; `None` if that is another number.
fn exact(number: Decimal) -> Option<f64> {
    let text = number.to_string();
    let digits = text.trim_start_matches(['-', '0', '.']);
    let digits = if text.contains('.') { digits.trim_end_matches(['0', '.']) } else { digits.trim_end_matches('0') };
    let count = digits.bytes().filter(u8::is_ascii_digit).count();
    (count <= DIGITS).then(|| number.to_f64())
}

/// Writes the source of the figures on a second sheet, so that the first one has only the table.
fn describe(sheet: &mut Worksheet, report: &Report) -> Result<(), XlsxError> {
    let caption = &report.caption;
    let groups = report.table.shown();
    let filters = if caption.filters.is_empty() { "none".to_owned() } else { caption.filters.join("; ") };
    let facts = [
        ("Report", &caption.title),
        ("Data set", &caption.dataset),
        ("Data of", &caption.data_of),
        ("Rows counted", &caption.rows),
        ("Rows skipped", &caption.skipped),
        ("Filters", &filters),
        ("Groups shown", &groups),
    ];
    for (row, (name, value)) in (0..).zip(facts) {
        sheet.write_string_with_format(row, 0, name, &Format::new().set_bold().set_align(FormatAlign::Top))?;
        sheet.write_string_with_format(row, 1, fitting(value), &Format::new().set_text_wrap())?;
    }
    sheet.set_column_width(0, 16)?.set_column_width(1, 80)?;
    Ok(())
}

fn title_format(column: &ReportColumn) -> Format {
    let align = if column.role == ColumnRole::Group { FormatAlign::Left } else { FormatAlign::Right };
    Format::new().set_bold().set_font_color(TITLE_COLOR).set_background_color(TITLE_FILL).set_align(align)
}

fn cell_format(role: ColumnRole) -> Format {
    match role {
        ColumnRole::Group => Format::new().set_align(FormatAlign::Left),
        ColumnRole::Figure { decimals: 0 } => Format::new().set_num_format("#,##0").set_align(FormatAlign::Right),
        ColumnRole::Figure { decimals } => {
            let zeros = "0".repeat(usize::from(decimals));
            Format::new().set_num_format(format!("#,##0.{zeros}")).set_align(FormatAlign::Right)
        }
    }
}

/// Returns the width of the widest cell, within limits. The button of the filter takes two characters of the title.
fn width(column: usize, report: &Report) -> f64 {
    let table = &report.table;
    let cells = table.rows.iter().chain(&table.total).map(|row| table.columns[column].role.shown(&row[column]).len());
    let widest = cells.chain([table.columns[column].title.len() + 2]).max().unwrap_or(0);
    f64::from(u32::try_from(widest + 2).unwrap_or(u32::MAX)).clamp(8.0, 60.0)
}

/// Cuts a title or a filter to the length of a cell.
fn fitting(text: &str) -> String {
    let mut units = 0;
    let short = text.chars().take_while(|letter| {
        units += letter.len_utf16();
        units <= CELL_LIMIT
    });
    short.collect()
}
