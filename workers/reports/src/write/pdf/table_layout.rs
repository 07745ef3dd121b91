//! Lays out and draws the table: titles on every page, figures right-aligned, every other row shaded.

use super::{
    canvas::{Align, Canvas, Color, MARGIN, PageSize, TextStyle},
    font::Font,
};
use crate::{
    error::ReportError,
    table::{ColumnRole, ReportCell, ReportColumn, ReportTable},
};

const ROW: f32 = 16.0;
const TITLE_ROW: f32 = 20.0;
const TITLE_LINE: f32 = 11.0;
const TITLE_LINES: usize = 3;
const NOTE: f32 = 14.0;
const PADDING: f32 = 6.0;
const LARGEST: f32 = 9.0;
const SMALLEST: f32 = 7.0;
/// Maximum width of a text column, and of a figure column because of its title.
const WIDEST: f32 = 230.0;
const WIDEST_TITLE: f32 = 100.0;
/// Minimum width of a group column while the figures keep their size, and while they shrink.
const NARROWEST: f32 = 120.0;
const LEAST: f32 = 80.0;
/// Maximum that a column gets of the unused width.
const MOST_SPARE: f32 = 60.0;

/// A laid-out table: one part, or several parts that each begin with the group columns.
#[derive(Debug)]
pub(crate) struct TableLayout<'t> {
    pub(crate) sheet: PageSize,
    pub(crate) parts: Vec<TablePart<'t>>,
}

/// The columns of a table that are side by side on a page.
#[derive(Debug)]
pub(crate) struct TablePart<'t> {
    table: &'t ReportTable,
    sheet: PageSize,
    size: f32,
    padding: f32,
    columns: Vec<usize>,
    widths: Vec<f32>,
    /// Position of the columns in the table, if the table has several parts.
    note: Option<String>,
}

impl<'t> TableLayout<'t> {
    /// Fits the columns to a page: portrait, then landscape, then narrower group columns, then smaller letters, then several
    /// parts.
    ///
    /// # Errors
    ///
    /// The group columns and one figure do not fit a page.
    pub(crate) fn new(table: &'t ReportTable) -> Result<Self, ReportError> {
        let mut widths: Vec<_> = (0..table.columns.len()).map(|column| natural_width(table, column)).collect();
        let total = |widths: &[f32]| widths.iter().sum::<f32>();
        let sheet =
            if total(&widths) > PageSize::PORTRAIT.content_width() { PageSize::LANDSCAPE } else { PageSize::PORTRAIT };
        let (groups, figures) = widths.split_at_mut(table.keys());
        narrow(groups, sheet.content_width() - total(figures), NARROWEST);
        let shrink = (sheet.content_width() / (total(groups) + total(figures))).min(1.0);
        if shrink >= SMALLEST / LARGEST {
            let columns = (0..widths.len()).collect();
            return Ok(Self { sheet, parts: vec![TablePart::new(table, sheet, columns, &widths, shrink)] });
        }
        let widest = figures.iter().copied().fold(0.0, f32::max);
        narrow(groups, sheet.content_width() - widest, LEAST);
        let room = sheet.content_width() - total(groups);
        if widest > room {
            let limit = ((sheet.content_width() - widest) / LEAST).max(0.0) as usize;
            let (container, what) = ("a page of a pdf", "columns of group_by");
            return Err(ReportError::TooManyColumns { container, what, columns: groups.len(), limit });
        }
        let parts = part(figures, room);
        let part = |(first, end): (usize, usize)| {
            let keys = table.keys();
            let columns: Vec<_> = (0..keys).chain(keys + first..keys + end).collect();
            let mut part = TablePart::new(table, sheet, columns, &widths, 1.0);
            let (first, last, all) = (keys + first + 1, keys + end, widths.len());
            part.note = Some(match first == last {
                true => format!("ReportColumn {last} of {all}"),
                false => format!("Columns {first} to {last} of {all}"),
            });
            part
        };
        Ok(Self { sheet, parts: parts.into_iter().map(part).collect() })
    }
}

impl<'t> TablePart<'t> {
    fn new(table: &'t ReportTable, sheet: PageSize, columns: Vec<usize>, natural: &[f32], shrink: f32) -> Self {
        let widths: Vec<_> = columns.iter().map(|column| natural[*column] * shrink).collect();
        // The columns share the unused width equally, so that the table is as wide as the chart.
        let spare = (sheet.content_width() - widths.iter().sum::<f32>()).max(0.0) / widths.len() as f32;
        let spare = if columns.len() < table.columns.len() { spare.min(MOST_SPARE) } else { spare };
        let widths = widths.iter().map(|width| width + spare).collect();
        Self { table, sheet, size: LARGEST * shrink, padding: PADDING * shrink, columns, widths, note: None }
    }

    /// Draws the titles and the rows from `first` that fit, and returns the lower end and the next row.
    pub(crate) fn draw(&self, canvas: &mut Canvas, top: f32, bottom: f32, first: usize) -> (f32, usize) {
        let mut y = self.draw_titles(canvas, top);
        let mut next = first;
        if self.table.rows.is_empty() {
            let style = TextStyle::new(Font::Regular, self.size, Color::Muted);
            canvas.text(
                "No row of the data set satisfies the filters.",
                style,
                (MARGIN + PADDING, y + 11.5),
                self.sheet.content_width(),
            );
        }
        for row in &self.table.rows[first..] {
            if y + ROW > bottom {
                return (y, next);
            }
            if (next - first) % 2 == 1 {
                canvas.fill((MARGIN, y), self.sheet.content_width(), ROW, Color::Zebra);
            }
            self.draw_row(canvas, y, row, TextStyle::new(Font::Regular, self.size, Color::Text));
            y += ROW;
            next += 1;
        }
        (y, next)
    }

    /// Draws the total, which requires [`TablePart::total_height`].
    pub(crate) fn draw_total(&self, canvas: &mut Canvas, top: f32) -> f32 {
        let Some(total) = &self.table.total else {
            return top;
        };
        let style = TextStyle::new(Font::Bold, self.size, Color::Text);
        canvas.line((MARGIN, top + 1.0), (MARGIN + self.sheet.content_width(), top + 1.0), 0.8, Color::Muted);
        self.draw_row(canvas, top + 2.0, total, style);
        top + self.total_height()
    }

    pub(crate) fn total_height(&self) -> f32 {
        if self.table.total.is_some() { ROW + 2.0 } else { 0.0 }
    }

    /// Returns the minimum height to begin the table on a page: titles, two rows and the total.
    pub(crate) fn least_height(&self) -> f32 {
        let note = if self.note.is_some() { NOTE } else { 0.0 };
        note + TITLE_ROW + TITLE_LINE * (TITLE_LINES - 1) as f32 + 2.0 * ROW + self.total_height()
    }

    fn draw_titles(&self, canvas: &mut Canvas, mut top: f32) -> f32 {
        if let Some(note) = &self.note {
            let style = TextStyle::new(Font::Regular, 8.0, Color::Muted);
            canvas.text(note, style, (MARGIN, top + 8.0), self.sheet.content_width());
            top += NOTE;
        }
        let style = TextStyle::new(Font::Bold, self.size, Color::White);
        let title = |(column, area): (&usize, ColumnArea)| {
            style.lines(&self.table.columns[*column].title, area.room, TITLE_LINES)
        };
        let titles: Vec<_> = self.columns.iter().zip(self.column_areas()).map(title).collect();
        let lines = titles.iter().map(Vec::len).max().unwrap_or(1);
        let height = TITLE_ROW + TITLE_LINE * (lines - 1) as f32;
        canvas.fill((MARGIN, top), self.sheet.content_width(), height, Color::Title);
        for ((column, area), title) in self.columns.iter().zip(self.column_areas()).zip(titles) {
            let style = style.align(self.table.columns[*column].align());
            // The last lines of all titles are at the same height.
            let first = top + height - 6.5 - TITLE_LINE * (title.len() - 1) as f32;
            for (at, line) in title.iter().enumerate() {
                area.draw(canvas, line, style, first + TITLE_LINE * at as f32);
            }
        }
        top + height
    }

    fn draw_row(&self, canvas: &mut Canvas, top: f32, row: &[ReportCell], style: TextStyle) {
        for (at, area) in self.columns.iter().zip(self.column_areas()) {
            let (column, cell) = (&self.table.columns[*at], &row[*at]);
            let text = column.role.shown(cell);
            // A figure that is cut would read as another figure.
            let fits = !matches!(cell, ReportCell::Number(_)) || style.width(&text) <= area.room;
            area.draw(canvas, if fits { &text } else { "####" }, style.align(column.align()), top + 11.5);
        }
    }

    fn column_areas(&self) -> impl Iterator<Item = ColumnArea> {
        self.widths.iter().scan(MARGIN, |left, width| {
            // A margin for rounding: here the width is summed in other steps than in `natural_width`.
            let area = ColumnArea { left: *left + self.padding, room: *width - 2.0 * self.padding + 0.1 };
            *left += width;
            Some(area)
        })
    }
}

/// The area of a column's text.
struct ColumnArea {
    left: f32,
    room: f32,
}

impl ColumnArea {
    fn draw(&self, canvas: &mut Canvas, text: &str, style: TextStyle, baseline: f32) {
        let x = if style.is_right() { self.left + self.room } else { self.left };
        canvas.text(text, style, (x, baseline), self.room);
    }
}

impl ReportColumn {
    fn align(&self) -> Align {
        if self.role == ColumnRole::Group { Align::Left } else { Align::Right }
    }
}

/// Narrows the widest group columns until all fit, or are as narrow as `least`.
fn narrow(groups: &mut [f32], room: f32, least: f32) {
    let mut widest = WIDEST;
    while groups.iter().sum::<f32>() > room && widest > least {
        widest = (widest - 5.0).max(least);
        groups.iter_mut().for_each(|width| *width = width.min(widest));
    }
}

/// Splits the figures into ranges that fit the room. Each figure fits alone.
fn part(figures: &[f32], room: f32) -> Vec<(usize, usize)> {
    let mut parts = Vec::new();
    let (mut first, mut used) = (0, 0.0);
    for (at, width) in figures.iter().enumerate() {
        if used + width > room && at > first {
            parts.push((first, at));
            (first, used) = (at, 0.0);
        }
        used += width;
    }
    parts.push((first, figures.len()));
    parts
}

fn natural_width(table: &ReportTable, column: usize) -> f32 {
    let style = TextStyle::new(Font::Regular, LARGEST, Color::Text);
    let bold = TextStyle::new(Font::Bold, LARGEST, Color::Text);
    let ReportColumn { title, role } = &table.columns[column];
    let width = |style: TextStyle, row: &Vec<ReportCell>| match &row[column] {
        // Figures are not cut.
        cell @ ReportCell::Number(_) => style.width(&role.shown(cell)),
        cell => style.width(&role.shown(cell)).min(WIDEST),
    };
    let cells = table.rows.iter().map(|row| width(style, row));
    let total = table.total.iter().map(|row| width(bold, row));
    let widest_title = if *role == ColumnRole::Group { WIDEST } else { WIDEST_TITLE };
    let widest = cells.chain(total).fold(bold.width(title).min(widest_title), f32::max);
    widest + 2.0 * PADDING + 0.5
}
