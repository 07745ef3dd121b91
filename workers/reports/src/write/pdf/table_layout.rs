//! The table below the chart: titles on every page, figures to the right, every other row shaded.

use super::{
    canvas::{Align, Canvas, Ink, MARGIN, Sheet, Style},
    font::Font,
};
use crate::{
    error::ReportError,
    table::{Cell, Column, Role, Table},
};

const ROW: f32 = 16.0;
const TITLE_ROW: f32 = 20.0;
const TITLE_LINE: f32 = 11.0;
const TITLE_LINES: usize = 3;
const NOTE: f32 = 14.0;
const PADDING: f32 = 6.0;
const LARGEST: f32 = 9.0;
const SMALLEST: f32 = 7.0;
/// The widest that a column of text gets, and one of figures for its title alone.
const WIDEST: f32 = 230.0;
const WIDEST_TITLE: f32 = 100.0;
/// The narrowest that a group column gets so that figures keep their size, and so that they fit at all.
const NARROWEST: f32 = 120.0;
const LEAST: f32 = 80.0;
/// The most that a column gets of the room that is left over.
const MOST_SPARE: f32 = 60.0;

/// A table laid out: on one sheet's width, or in parts that each begin with the columns of the groups.
#[derive(Debug)]
pub(crate) struct Layout<'t> {
    pub(crate) sheet: Sheet,
    pub(crate) parts: Vec<Grid<'t>>,
}

/// The columns of a table that stand side by side.
#[derive(Debug)]
pub(crate) struct Grid<'t> {
    table: &'t Table,
    sheet: Sheet,
    size: f32,
    padding: f32,
    columns: Vec<usize>,
    widths: Vec<f32>,
    /// Which columns these are, where there are others.
    note: Option<String>,
}

impl<'t> Layout<'t> {
    /// Upright if the columns fit, else across; then group columns give way, then letters get somewhat smaller, and at
    /// last the figures are parted.
    pub(crate) fn new(table: &'t Table) -> Result<Self, ReportError> {
        let mut widths: Vec<_> = (0..table.columns.len()).map(|column| natural_width(table, column)).collect();
        let total = |widths: &[f32]| widths.iter().sum::<f32>();
        let sheet = if total(&widths) > Sheet::PORTRAIT.room() { Sheet::LANDSCAPE } else { Sheet::PORTRAIT };
        let (groups, figures) = widths.split_at_mut(table.keys());
        narrow(groups, sheet.room() - total(figures), NARROWEST);
        let shrink = (sheet.room() / (total(groups) + total(figures))).min(1.0);
        if shrink >= SMALLEST / LARGEST {
            let columns = (0..widths.len()).collect();
            return Ok(Self { sheet, parts: vec![Grid::new(table, sheet, columns, &widths, shrink)] });
        }
        let widest = figures.iter().copied().fold(0.0, f32::max);
        narrow(groups, sheet.room() - widest, LEAST);
        let room = sheet.room() - total(groups);
        if widest > room {
            let limit = ((sheet.room() - widest) / LEAST).max(0.0) as usize;
            let (place, what) = ("a page of a pdf", "columns of group_by");
            return Err(ReportError::TooManyColumns { place, what, columns: groups.len(), limit });
        }
        let parts = part(figures, room);
        let part = |(first, end): (usize, usize)| {
            let keys = table.keys();
            let columns: Vec<_> = (0..keys).chain(keys + first..keys + end).collect();
            let mut grid = Grid::new(table, sheet, columns, &widths, 1.0);
            let (first, last, all) = (keys + first + 1, keys + end, widths.len());
            grid.note = Some(match first == last {
                true => format!("Column {last} of {all}"),
                false => format!("Columns {first} to {last} of {all}"),
            });
            grid
        };
        Ok(Self { sheet, parts: parts.into_iter().map(part).collect() })
    }
}

impl<'t> Grid<'t> {
    fn new(table: &'t Table, sheet: Sheet, columns: Vec<usize>, natural: &[f32], shrink: f32) -> Self {
        let widths: Vec<_> = columns.iter().map(|column| natural[*column] * shrink).collect();
        // What is left over goes to the columns in equal parts, so that the table is as wide as the chart.
        let spare = (sheet.room() - widths.iter().sum::<f32>()).max(0.0) / widths.len() as f32;
        let spare = if columns.len() < table.columns.len() { spare.min(MOST_SPARE) } else { spare };
        let widths = widths.iter().map(|width| width + spare).collect();
        Self { table, sheet, size: LARGEST * shrink, padding: PADDING * shrink, columns, widths, note: None }
    }

    /// Draws the titles and as many rows from `first` as fit; returns where it ends and the next row.
    pub(crate) fn draw(&self, canvas: &mut Canvas, top: f32, bottom: f32, first: usize) -> (f32, usize) {
        let mut y = self.draw_titles(canvas, top);
        let mut next = first;
        if self.table.rows.is_empty() {
            let style = Style::new(Font::Regular, self.size, Ink::Quiet);
            canvas.text(
                "No row of the data set satisfies the filters.",
                style,
                (MARGIN + PADDING, y + 11.5),
                self.sheet.room(),
            );
        }
        for row in &self.table.rows[first..] {
            if y + ROW > bottom {
                return (y, next);
            }
            if (next - first) % 2 == 1 {
                canvas.fill((MARGIN, y), self.sheet.room(), ROW, Ink::Zebra);
            }
            self.draw_row(canvas, y, row, Style::new(Font::Regular, self.size, Ink::Text));
            y += ROW;
            next += 1;
        }
        (y, next)
    }

    /// Draws the total, for which [`Grid::total_height`] must be left.
    pub(crate) fn draw_total(&self, canvas: &mut Canvas, top: f32) -> f32 {
        let Some(total) = &self.table.total else {
            return top;
        };
        let style = Style::new(Font::Bold, self.size, Ink::Text);
        canvas.line((MARGIN, top + 1.0), (MARGIN + self.sheet.room(), top + 1.0), 0.8, Ink::Quiet);
        self.draw_row(canvas, top + 2.0, total, style);
        top + self.total_height()
    }

    pub(crate) fn total_height(&self) -> f32 {
        if self.table.total.is_some() { ROW + 2.0 } else { 0.0 }
    }

    /// The least height that is worth beginning the table in: titles, a row or two, the total.
    pub(crate) fn least_height(&self) -> f32 {
        let note = if self.note.is_some() { NOTE } else { 0.0 };
        note + TITLE_ROW + TITLE_LINE * (TITLE_LINES - 1) as f32 + 2.0 * ROW + self.total_height()
    }

    fn draw_titles(&self, canvas: &mut Canvas, mut top: f32) -> f32 {
        if let Some(note) = &self.note {
            let style = Style::new(Font::Regular, 8.0, Ink::Quiet);
            canvas.text(note, style, (MARGIN, top + 8.0), self.sheet.room());
            top += NOTE;
        }
        let style = Style::new(Font::Bold, self.size, Ink::White);
        let title =
            |(column, place): (&usize, Place)| style.lines(&self.table.columns[*column].title, place.room, TITLE_LINES);
        let titles: Vec<_> = self.columns.iter().zip(self.places()).map(title).collect();
        let lines = titles.iter().map(Vec::len).max().unwrap_or(1);
        let height = TITLE_ROW + TITLE_LINE * (lines - 1) as f32;
        canvas.fill((MARGIN, top), self.sheet.room(), height, Ink::Title);
        for ((column, place), title) in self.columns.iter().zip(self.places()).zip(titles) {
            let style = style.align(self.table.columns[*column].align());
            // The last lines of all titles are on one height.
            let first = top + height - 6.5 - TITLE_LINE * (title.len() - 1) as f32;
            for (at, line) in title.iter().enumerate() {
                place.draw(canvas, line, style, first + TITLE_LINE * at as f32);
            }
        }
        top + height
    }

    fn draw_row(&self, canvas: &mut Canvas, top: f32, row: &[Cell], style: Style) {
        for (at, place) in self.columns.iter().zip(self.places()) {
            let (column, cell) = (&self.table.columns[*at], &row[*at]);
            let text = column.role.shown(cell);
            // A figure that is cut would be another figure.
            let fits = !matches!(cell, Cell::Number(_)) || style.width(&text) <= place.room;
            place.draw(canvas, if fits { &text } else { "####" }, style.align(column.align()), top + 11.5);
        }
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        self.widths.iter().scan(MARGIN, |left, width| {
            // A hair more than the text, which is measured in other steps than it was for the width.
            let place = Place { left: *left + self.padding, room: *width - 2.0 * self.padding + 0.1 };
            *left += width;
            Some(place)
        })
    }
}

/// Where a column's text stands.
struct Place {
    left: f32,
    room: f32,
}

impl Place {
    fn draw(&self, canvas: &mut Canvas, text: &str, style: Style, baseline: f32) {
        let x = if style.is_right() { self.left + self.room } else { self.left };
        canvas.text(text, style, (x, baseline), self.room);
    }
}

impl Column {
    fn align(&self) -> Align {
        if self.role == Role::Group { Align::Left } else { Align::Right }
    }
}

/// Takes from the widest group columns until all fit, or are as narrow as `least`.
fn narrow(groups: &mut [f32], room: f32, least: f32) {
    let mut widest = WIDEST;
    while groups.iter().sum::<f32>() > room && widest > least {
        widest = (widest - 5.0).max(least);
        groups.iter_mut().for_each(|width| *width = width.min(widest));
    }
}

/// The figures in parts, from the first to before the last of each, that fit the room; each of them fits alone.
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

fn natural_width(table: &Table, column: usize) -> f32 {
    let style = Style::new(Font::Regular, LARGEST, Ink::Text);
    let bold = Style::new(Font::Bold, LARGEST, Ink::Text);
    let Column { title, role } = &table.columns[column];
    let width = |style: Style, row: &Vec<Cell>| match &row[column] {
        // A figure is never cut.
        cell @ Cell::Number(_) => style.width(&role.shown(cell)),
        cell => style.width(&role.shown(cell)).min(WIDEST),
    };
    let cells = table.rows.iter().map(|row| width(style, row));
    let total = table.total.iter().map(|row| width(bold, row));
    let widest_title = if *role == Role::Group { WIDEST } else { WIDEST_TITLE };
    let widest = cells.chain(total).fold(bold.width(title).min(widest_title), f32::max);
    widest + 2.0 * PADDING + 0.5
}
