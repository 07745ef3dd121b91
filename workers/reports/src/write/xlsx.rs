//! A report as an Excel workbook: the table on one sheet, where it comes from on another.
//!
//! Figures are real numbers with a format; text is always a string cell, so nothing is ever run as a formula. A
//! spreadsheet holds binary numbers of 15 digits: the exact figure is in the CSV. The first row stays in view, every
//! column can be filtered, and a total stands apart below.

use std::{fs::File, io, panic, path::Path};

use rust_xlsxwriter::{
    ColNum, DocProperties, ExcelDateTime, Format, FormatAlign, FormatBorder, RowNum, Workbook, Worksheet, XlsxError,
};

use crate::{
    report::Report,
    table::{Cell, Column, Role},
};

/// Rows that a sheet holds between its titles and a total.
pub(crate) const ROW_LIMIT: usize = 1_048_574;

const TITLE_FILL: u32 = 0x1F_4E_79;
const TITLE_INK: u32 = 0xFF_FF_FF;
const RULE: u32 = 0x7B_87_94;

/// Writes the workbook; its rows pass through a nameless temporary file in `dir`.
pub(crate) fn write(report: &Report, file: &File, dir: &Path) -> io::Result<()> {
    // The library panics where that file cannot be written, on a full disk say, which is not the report's fault.
    let written = panic::catch_unwind(|| {
        let mut workbook = Workbook::new();
        fill(&mut workbook, report, dir)?;
        workbook.save_to_writer(file)
    });
    written.map_err(|_| io::Error::other("the rows cannot be written to a temporary file"))?.map_err(
        |error| match error {
            XlsxError::IoError(source) | XlsxError::TempFileError(_, source) => source,
            other => io::Error::other(other),
        },
    )
}

fn fill(workbook: &mut Workbook, report: &Report, dir: &Path) -> Result<(), XlsxError> {
    // Not the date of now, because the same report is to be the same file.
    let made = ExcelDateTime::from_timestamp(report.caption.data_of_seconds.into())?;
    workbook.set_properties(&DocProperties::new().set_title(&report.caption.title).set_creation_datetime(&made));
    let sheet = workbook.set_tempdir(dir)?.add_worksheet_with_constant_memory()?.set_name("Report")?;
    sheet.set_freeze_panes(1, 0)?.set_repeat_rows(0, 0)?.set_print_fit_to_pages(1, 0);
    for (at, column) in (0..).zip(&report.table.columns) {
        sheet.write_string_with_format(0, at, fitting(&column.title), &title_format(column))?;
        sheet.set_column_width(at, width(usize::from(at), report))?;
    }
    write_rows(sheet, report)?;
    describe(workbook.add_worksheet().set_name("About")?, report)
}

fn write_rows(sheet: &mut Worksheet, report: &Report) -> Result<(), XlsxError> {
    let table = &report.table;
    let plain: Vec<_> = table.columns.iter().map(|column| cell_format(column.role)).collect();
    let mut next = 1;
    for row in &table.rows {
        write_row(sheet, next, row, &plain)?;
        next += 1;
    }
    let last_column = ColNum::try_from(table.columns.len()).unwrap_or(ColNum::MAX).saturating_sub(1);
    sheet.autofilter(0, 0, next - 1, last_column)?;
    let Some(total) = &table.total else {
        return Ok(());
    };
    let bold = |format: &Format| format.clone().set_bold().set_border_top(FormatBorder::Thin).set_border_color(RULE);
    let formats: Vec<_> = plain.iter().map(bold).collect();
    write_row(sheet, next, total, &formats)
}

fn write_row(sheet: &mut Worksheet, row: RowNum, cells: &[Cell], formats: &[Format]) -> Result<(), XlsxError> {
    for ((at, cell), format) in (0..).zip(cells).zip(formats) {
        match cell {
            Cell::Text(text) => sheet.write_string_with_format(row, at, fitting(text), format)?,
            Cell::Number(number) => sheet.write_number_with_format(row, at, number.to_f64(), format)?,
            Cell::Empty => sheet.write_blank(row, at, format)?,
        };
    }
    Ok(())
}

/// Where the figures come from, on a sheet of its own so that the first one is nothing but the table.
fn describe(sheet: &mut Worksheet, report: &Report) -> Result<(), XlsxError> {
    let caption = &report.caption;
    let groups = report.table.shown();
    let filters = if caption.filters.is_empty() { "none".to_owned() } else { caption.filters.join("; ") };
    let facts = [
        ("Report", &caption.title),
        ("Data set", &caption.dataset),
        ("Data of", &caption.data_of),
        ("Rows counted", &caption.rows),
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

fn title_format(column: &Column) -> Format {
    let align = if column.role == Role::Group { FormatAlign::Left } else { FormatAlign::Right };
    Format::new().set_bold().set_font_color(TITLE_INK).set_background_color(TITLE_FILL).set_align(align)
}

fn cell_format(role: Role) -> Format {
    match role {
        Role::Group => Format::new().set_align(FormatAlign::Left),
        Role::Figure { decimals: 0 } => Format::new().set_num_format("#,##0").set_align(FormatAlign::Right),
        Role::Figure { decimals } => {
            let zeros = "0".repeat(usize::from(decimals));
            Format::new().set_num_format(format!("#,##0.{zeros}")).set_align(FormatAlign::Right)
        }
    }
}

/// As wide as the widest cell in view, within reason; a filter's button takes some of the title's room.
fn width(column: usize, report: &Report) -> f64 {
    let table = &report.table;
    let cells = table.rows.iter().chain(&table.total).map(|row| table.columns[column].role.shown(&row[column]).len());
    let widest = cells.chain([table.columns[column].title.len() + 2]).max().unwrap_or(0);
    f64::from(u32::try_from(widest + 2).unwrap_or(u32::MAX)).clamp(8.0, 60.0)
}

/// As much of a text as a cell may hold.
fn fitting(text: &str) -> String {
    const LONGEST: usize = 32_767;
    let mut units = 0;
    let short = text.chars().take_while(|letter| {
        units += letter.len_utf16();
        units <= LONGEST
    });
    short.collect()
}
