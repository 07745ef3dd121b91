//! A report to print or send: title, where it comes from, a chart, a table over as many pages as it takes.

mod canvas;
mod chart;
mod font;
mod grid;
mod scale;

use std::{
    fs::File,
    io::{self, BufWriter, Write},
};

use printpdf::{OffsetDateTime, PdfDocument, PdfSaveOptions};

use self::{
    canvas::{Align, Canvas, Ink, MARGIN, Sheet, Style},
    chart::Chart,
    font::Font,
    grid::Grid,
};
use crate::{caption::Caption, report::Report};

/// Rows of the longest report that anybody could want on paper: some 120 pages, laid out in memory.
pub(crate) const ROW_LIMIT: usize = 5_000;

const TITLE_SIZES: [f32; 3] = [18.0, 16.0, 14.0];
const SMALLEST_TITLE: f32 = 12.0;
const SUBTITLE: Style = Style::new(Font::Regular, 9.5, Ink::Quiet);
const FOOTER: Style = Style::new(Font::Regular, 8.0, Ink::Quiet);
const FOOTER_HEIGHT: f32 = 26.0;
const GAP: f32 = 14.0;

/// Writes the pages.
pub(crate) fn write(report: &Report, file: &File) -> io::Result<()> {
    let mut document = PdfDocument::new(&report.caption.title);
    document.metadata.info.subject.clone_from(&report.caption.dataset);
    if let Ok(made) = OffsetDateTime::from_unix_timestamp(report.caption.data_of_seconds.into()) {
        document.metadata.info.creation_date = made;
        document.metadata.info.modification_date = made;
    }
    document.pages = pages(report).into_iter().map(Canvas::into_page).collect();
    let mut pdf = printpdf::to_lopdf_doc(&document, &PdfSaveOptions::default(), &mut Vec::new());
    // A random identifier, which readers can do without: the same report is to be the same file.
    pdf.trailer.remove(b"ID");
    pdf.compress();
    let mut output = BufWriter::new(file);
    pdf.save_to(&mut output)?;
    output.flush()
}

fn pages(report: &Report) -> Vec<Canvas> {
    let grid = Grid::new(&report.table);
    let mut pages = vec![Canvas::new(grid.sheet)];
    let mut y = draw_head(&mut pages[0], &report.caption, &report.table.shown(), grid.sheet);
    if let Some(chart) = Chart::new(report) {
        y = chart.draw(&mut pages[0], MARGIN, y + GAP, grid.sheet.room());
    }
    let bottom = grid.sheet.height - MARGIN - FOOTER_HEIGHT;
    let mut top = y + GAP;
    let mut next = 0;
    loop {
        if top + grid.least_height() > bottom {
            pages.push(Canvas::new(grid.sheet));
            top = MARGIN;
        }
        let Some(page) = pages.last_mut() else { break };
        // The total stays with the last rows.
        let (end, reached) = grid.draw(page, top, bottom - grid.total_height(), next);
        if reached == report.table.rows.len() {
            grid.draw_total(page, end);
            break;
        }
        (next, top) = (reached, bottom);
    }
    draw_feet(&mut pages, &report.caption, grid.sheet);
    pages
}

fn draw_head(page: &mut Canvas, caption: &Caption, groups: &str, sheet: Sheet) -> f32 {
    let title = |size: &f32| Style::new(Font::Bold, *size, Ink::Text);
    let size = TITLE_SIZES.into_iter().find(|size| title(size).width(&caption.title) <= sheet.room());
    page.text(&caption.title, title(&size.unwrap_or(SMALLEST_TITLE)), (MARGIN, MARGIN + 14.0), sheet.room());
    let source = format!("{} · data of {} · {} · {groups}", caption.dataset, caption.data_of, caption.rows);
    page.text(&source, SUBTITLE, (MARGIN, MARGIN + 32.0), sheet.room());
    if caption.filters.is_empty() {
        return MARGIN + 36.0;
    }
    let filters = format!("Only where {}", caption.filters.join(" and "));
    page.text(&filters, SUBTITLE, (MARGIN, MARGIN + 46.0), sheet.room());
    MARGIN + 50.0
}

/// Title and page number on every page, and once for all that letters are missing.
fn draw_feet(pages: &mut [Canvas], caption: &Caption, sheet: Sheet) {
    let (count, y) = (pages.len(), sheet.height - MARGIN);
    let changed = pages.iter().any(|page| page.changed);
    for (page, number) in pages.iter_mut().zip(1..) {
        let numbering = format!("Page {number} of {count}");
        let room = sheet.room() - FOOTER.width(&numbering) - GAP;
        page.line((MARGIN, y - 12.0), (MARGIN + sheet.room(), y - 12.0), 0.5, Ink::Rule);
        let left = match changed {
            true => {
                "Letters that this page's font lacks are shown as ? or without their accent; CSV and XLSX keep them."
            }
            false => &caption.title,
        };
        page.text(left, FOOTER, (MARGIN, y), room);
        page.text(&numbering, FOOTER.align(Align::Right), (MARGIN + sheet.room(), y), sheet.room());
    }
}
