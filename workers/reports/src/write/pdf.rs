//! Writes a report or an invoice as a PDF: title, lines about it, perhaps a chart, and a table on as many pages as it needs.

mod axis;
mod canvas;
mod chart;
mod font;
mod invoice;
mod table_layout;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Write},
};

use krilla::{
    Document,
    metadata::{DateTime, Metadata},
    page::PageSettings,
};

pub(super) use self::invoice::write_invoice;
use self::{
    canvas::{Align, Canvas, Color, MARGIN, PageSize, TextStyle},
    chart::Chart,
    font::{Font, LACKING},
    table_layout::{TableLayout, TablePart},
};
use super::error::{WriteError, refuse_more_rows, stop_if};
use crate::{caption::Caption, error::ReportError, report::Report, request::ReportFormat, table::ReportTable};

/// Maximum rows of a report: about 120 pages, which are laid out in memory.
pub(super) const ROW_LIMIT: usize = 5_000;
/// Maximum rows of all parts of a table together; each part has every row.
const ROW_LIMIT_OF_PARTS: usize = 20_000;

const TITLE_SIZES: [f32; 3] = [18.0, 16.0, 14.0];
const SMALLEST_TITLE: f32 = 12.0;
const LINE: f32 = 14.0;
const SUBTITLE: TextStyle = TextStyle::new(Font::Regular, 9.5, Color::Muted);
const FOOTER: TextStyle = TextStyle::new(Font::Regular, 8.0, Color::Muted);
const FOOTER_HEIGHT: f32 = 26.0;
const GAP: f32 = 14.0;
/// Maximum missing letters that a page names, and that the job's result names.
const MOST_NAMED: usize = 6;
const MOST_REPORTED: usize = 50;

/// The content of a PDF.
struct Content<'c> {
    title: &'c str,
    /// A text about the content, for the metadata of the file.
    about: &'c str,
    /// The lines below the title.
    lines: Vec<String>,
    chart: Option<Chart>,
    table: &'c ReportTable,
    /// The date of the content, and not of the file: the same content must be the same file.
    date: jiff::civil::DateTime,
}

/// Writes the pages of a report, and returns the letters that the fonts lack.
pub(super) fn write(report: &Report, file: &File, cancelled: &dyn Fn() -> bool) -> Result<String, WriteError> {
    let layout = TableLayout::new(&report.table)?;
    refuse_more_rows(report, ReportFormat::Pdf, (ROW_LIMIT_OF_PARTS / layout.parts.len()).clamp(1, ROW_LIMIT))?;
    let (caption, seconds) = (&report.caption, i64::from(report.caption.data_of_seconds));
    let date = jiff::Timestamp::from_second(seconds).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC).datetime();
    let content = Content {
        title: &caption.title,
        about: &caption.dataset,
        lines: source_lines(caption, &report.table.shown()),
        chart: Chart::new(report),
        table: &report.table,
        date,
    };
    write_content(&content, &layout, file, cancelled)
}

fn write_content(
    content: &Content<'_>,
    layout: &TableLayout<'_>,
    mut file: &File,
    cancelled: &dyn Fn() -> bool,
) -> Result<String, WriteError> {
    let (pages, missing) = pages(content, layout, cancelled)?;
    let mut document = Document::new();
    document.set_metadata(metadata(content));
    let broken = || io::Error::other("the embedded fonts of this program cannot be read");
    if [Font::Regular, Font::Bold].iter().any(|font| font.embedded().is_none()) {
        return Err(broken().into());
    }
    for canvas in &pages {
        stop_if(cancelled)?;
        let sheet = PageSettings::from_wh(layout.sheet.width, layout.sheet.height).ok_or_else(broken)?;
        let mut page = document.start_page_with(sheet);
        let mut surface = page.surface();
        canvas.draw(&mut surface);
        surface.finish();
        page.finish();
    }
    let pdf = document.finish().map_err(|error| io::Error::other(format!("{error:?}")))?;
    file.write_all(&pdf)?;
    Ok(missing.into_iter().take(MOST_REPORTED).collect())
}

fn metadata(content: &Content<'_>) -> Metadata {
    let (part, made) = (i8::unsigned_abs, content.date);
    let date = DateTime::new(made.year().unsigned_abs()).month(part(made.month())).day(part(made.day()));
    let date = date.hour(part(made.hour())).minute(part(made.minute())).second(part(made.second()));
    let date = date.utc_offset_hour(0).utc_offset_minute(0);
    Metadata::new().title(content.title.to_owned()).description(content.about.to_owned()).creation_date(date)
}

fn pages(
    content: &Content<'_>,
    layout: &TableLayout<'_>,
    cancelled: &dyn Fn() -> bool,
) -> Result<(Vec<Canvas>, BTreeSet<char>), ReportError> {
    let sheet = layout.sheet;
    let mut first = Canvas::new();
    let mut y = draw_head(&mut first, content, sheet);
    if let Some(chart) = &content.chart {
        y = chart.draw(&mut first, MARGIN, y + GAP, sheet.content_width());
    }
    let mut pages = vec![first];
    let bottom = sheet.height - MARGIN - FOOTER_HEIGHT;
    let mut top = y + GAP;
    for part in &layout.parts {
        draw_part(&mut pages, part, (top, bottom), content.table.rows.len(), cancelled)?;
        // The next part begins on a new page.
        top = bottom;
    }
    let missing = pages.iter().flat_map(|page| page.missing.iter().copied()).collect();
    draw_feet(&mut pages, content.title, sheet, &missing);
    Ok((pages, missing))
}

/// Draws all rows of a part, beginning at `top` of the last page.
fn draw_part(
    pages: &mut Vec<Canvas>,
    part: &TablePart<'_>,
    (mut top, bottom): (f32, f32),
    rows: usize,
    cancelled: &dyn Fn() -> bool,
) -> Result<(), ReportError> {
    let mut next = 0;
    loop {
        stop_if(cancelled)?;
        if top + part.least_height() > bottom {
            pages.push(Canvas::new());
            top = MARGIN;
        }
        let Some(page) = pages.last_mut() else { return Ok(()) };
        // The total stays on the page of the last rows.
        let (end, reached) = part.draw(page, top, bottom - part.total_height(), next);
        if reached == rows {
            part.draw_total(page, end);
            return Ok(());
        }
        (next, top) = (reached, bottom);
    }
}

fn draw_head(page: &mut Canvas, content: &Content<'_>, sheet: PageSize) -> f32 {
    let title = |size: &f32| TextStyle::new(Font::Bold, *size, Color::Text);
    let size = TITLE_SIZES.into_iter().find(|size| title(size).width(content.title) <= sheet.content_width());
    page.text(content.title, title(&size.unwrap_or(SMALLEST_TITLE)), (MARGIN, MARGIN + 14.0), sheet.content_width());
    let mut y = MARGIN + 32.0;
    for line in &content.lines {
        page.text(line, SUBTITLE, (MARGIN, y), sheet.content_width());
        y += LINE;
    }
    y - LINE + 4.0
}

/// Returns the lines about the data of a report.
fn source_lines(caption: &Caption, groups: &str) -> Vec<String> {
    let skipped =
        if caption.skipped == "none" { String::new() } else { format!(" · {} skipped as not valid", caption.skipped) };
    let source = format!("{} · data of {} · {}{skipped} · {groups}", caption.dataset, caption.data_of, caption.rows);
    let filters = format!("Only where {}", caption.filters.join(" and "));
    std::iter::once(source).chain((!caption.filters.is_empty()).then_some(filters)).collect()
}

/// Draws the footer of every page: the title, or the missing letters if there are some, and the page number.
fn draw_feet(pages: &mut [Canvas], title: &str, sheet: PageSize, missing: &BTreeSet<char>) {
    let (count, y) = (pages.len(), sheet.height - MARGIN);
    let left = if missing.is_empty() { title.to_owned() } else { lacking(missing) };
    for (page, number) in pages.iter_mut().zip(1..) {
        let numbering = format!("Page {number} of {count}");
        let room = sheet.content_width() - FOOTER.width(&numbering) - GAP;
        page.line((MARGIN, y - 12.0), (MARGIN + sheet.content_width(), y - 12.0), 0.5, Color::Rule);
        page.text(&left, FOOTER, (MARGIN, y), room);
        page.text(&numbering, FOOTER.align(Align::Right), (MARGIN + sheet.content_width(), y), sheet.content_width());
    }
}

fn lacking(missing: &BTreeSet<char>) -> String {
    let mut named: Vec<_> =
        missing.iter().take(MOST_NAMED).map(|letter| format!("U+{:04X}", u32::from(*letter))).collect();
    if missing.len() > MOST_NAMED {
        named.push(format!("{} more", missing.len() - MOST_NAMED));
    }
    format!("The font lacks {}, shown as {LACKING}; CSV and XLSX keep them.", named.join(", "))
}
