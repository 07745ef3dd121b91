//! The table below the chart: titles on every page, figures to the right, every other row shaded.

use super::{
    canvas::{Align, Canvas, Ink, MARGIN, Sheet, Style},
    font::Font,
};
use crate::table::{Cell, Column, Role, Table};

const ROW: f32 = 16.0;
const TITLE_ROW: f32 = 20.0;
const PADDING: f32 = 6.0;
const LARGEST: f32 = 9.0;
const SMALLEST: f32 = 5.0;
/// The widest that a group column gets.
const WIDEST_GROUP: f32 = 230.0;
/// The narrowest that a group column gets so that figures keep their size.
const NARROWEST_GROUP: f32 = 120.0;

/// A table laid out for a sheet.
#[derive(Debug)]
pub(crate) struct Grid<'t> {
    table: &'t Table,
    pub(crate) sheet: Sheet,
    size: f32,
    padding: f32,
    widths: Vec<f32>,
}

impl<'t> Grid<'t> {
    /// Upright if the columns fit, else across; then group columns give way, and at last the letters get smaller.
    pub(crate) fn new(table: &'t Table) -> Self {
        let mut widths: Vec<_> = (0..table.columns.len()).map(|column| natural_width(table, column)).collect();
        let total = |widths: &[f32]| widths.iter().sum::<f32>();
        let sheet = if total(&widths) > Sheet::PORTRAIT.room() { Sheet::LANDSCAPE } else { Sheet::PORTRAIT };
        let (groups, figures) = widths.split_at_mut(table.keys());
        narrow(groups, sheet.room() - total(figures));
        let shrink = (sheet.room() / total(&widths)).min(1.0);
        // What is left over goes to the columns in equal parts, so that the table is as wide as the chart.
        let spare = (sheet.room() - total(&widths) * shrink) / widths.len() as f32;
        let widths = widths.iter().map(|width| width * shrink + spare).collect();
        Self { table, sheet, size: (LARGEST * shrink).max(SMALLEST), padding: PADDING * shrink, widths }
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
        TITLE_ROW + 2.0 * ROW + self.total_height()
    }

    fn draw_titles(&self, canvas: &mut Canvas, top: f32) -> f32 {
        canvas.fill((MARGIN, top), self.sheet.room(), TITLE_ROW, Ink::Title);
        let style = Style::new(Font::Bold, self.size, Ink::White);
        for (column, place) in self.table.columns.iter().zip(self.places()) {
            place.draw(canvas, &column.title, style.align(column.align()), top + 13.5);
        }
        top + TITLE_ROW
    }

    fn draw_row(&self, canvas: &mut Canvas, top: f32, row: &[Cell], style: Style) {
        for ((column, cell), place) in self.table.columns.iter().zip(row).zip(self.places()) {
            let text = column.role.shown(cell);
            // A figure that is cut would be another figure.
            let fits = !matches!(cell, Cell::Number(_)) || style.width(&text) <= place.room;
            place.draw(canvas, if fits { &text } else { "####" }, style.align(column.align()), top + 11.5);
        }
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        self.widths.iter().scan(MARGIN, |left, width| {
            let place = Place { left: *left + self.padding, room: *width - 2.0 * self.padding };
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

/// Takes from the widest group columns until all fit, or are as narrow as they get.
fn narrow(groups: &mut [f32], room: f32) {
    let mut widest = WIDEST_GROUP;
    while groups.iter().sum::<f32>() > room && widest > NARROWEST_GROUP {
        widest = (widest - 5.0).max(NARROWEST_GROUP);
        groups.iter_mut().for_each(|width| *width = width.min(widest));
    }
}

fn natural_width(table: &Table, column: usize) -> f32 {
    let style = Style::new(Font::Regular, LARGEST, Ink::Text);
    let bold = Style::new(Font::Bold, LARGEST, Ink::Text);
    let Column { title, role } = &table.columns[column];
    let cells = table.rows.iter().map(|row| style.width(&role.shown(&row[column])));
    let total = table.total.iter().map(|row| bold.width(&role.shown(&row[column])));
    // A hair more than the text, which is measured in other steps when it is put in its place.
    let widest = cells.chain(total).fold(bold.width(title), f32::max) + 2.0 * PADDING + 0.5;
    if *role == Role::Group { widest.min(WIDEST_GROUP) } else { widest }
}
