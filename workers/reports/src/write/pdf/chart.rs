//! The picture above the table: one figure per row as bars, or as columns where the rows are a course of time.

use super::{
    canvas::{Align, Canvas, Ink, Style},
    font::Font,
    axis::Scale,
};
use crate::{
    generate::Report,
    table::{Cell, Role, Table},
};

const TITLE: Style = Style::new(Font::Bold, 10.0, Ink::Text);
const LABEL: Style = Style::new(Font::Regular, 8.5, Ink::Text);
const TICK: Style = Style::new(Font::Regular, 7.5, Ink::Quiet);

const MOST_BARS: usize = 15;
const MOST_COLUMNS: usize = 60;
const BAR_STEP: f32 = 17.0;
const COLUMNS_HEIGHT: f32 = 190.0;

/// What a chart shows.
#[derive(Debug)]
pub(crate) struct Chart {
    title: String,
    note: Option<String>,
    bars: Vec<Bar>,
    shape: Shape,
    scale: Scale,
}

#[derive(Debug)]
struct Bar {
    label: String,
    value: Option<f64>,
    shown: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Bars,
    Columns,
}

impl Chart {
    /// The chart of a report; `None` where there is nothing to compare.
    pub(crate) fn new(report: &Report) -> Option<Self> {
        let table = &report.table;
        let column = table.charted()?;
        if table.rows.len() < 2 {
            return None;
        }
        let shape = if is_course_of_time(table) { Shape::Columns } else { Shape::Bars };
        let most = if shape == Shape::Columns { MOST_COLUMNS } else { MOST_BARS };
        let bars: Vec<_> = table.rows.iter().take(most).map(|row| bar(table, row, column)).collect();
        let note = (table.rows.len() > most).then(|| format!("the first {most} of {} rows", table.rows.len()));
        let scale = Scale::spanning(bars.iter().filter_map(|bar| bar.value));
        let title = report.caption.figures[column - table.keys()].clone();
        Some(Self { title, note, bars, shape, scale })
    }

    /// Draws into the rectangle below `top` and returns where it ends.
    pub(crate) fn draw(&self, canvas: &mut Canvas, left: f32, top: f32, width: f32) -> f32 {
        canvas.text(&self.title, TITLE, (left, top + 10.0), width);
        if let Some(note) = &self.note {
            let after = TITLE.width(&self.title) + 8.0;
            canvas.text(note, TICK, (left + after, top + 10.0), (width - after).max(0.0));
        }
        match self.shape {
            Shape::Bars => self.draw_bars(canvas, left, top + 22.0, width),
            Shape::Columns => self.draw_columns(canvas, left, top + 26.0, width),
        }
    }

    fn draw_bars(&self, canvas: &mut Canvas, left: f32, top: f32, width: f32) -> f32 {
        let labels = self.bars.iter().map(|bar| LABEL.width(&bar.label)).fold(0.0, f32::max).min(width * 0.34);
        let values = self.bars.iter().map(|bar| LABEL.width(&bar.shown)).fold(0.0, f32::max) + 6.0;
        let has_negative = self.scale.place(0.0) > 0.0;
        let origin = left + labels + 8.0 + if has_negative { values } else { 0.0 };
        let length = left + width - values - origin;
        let bottom = top + BAR_STEP * self.bars.len() as f32 + 2.0;
        let x = |value: f64| origin + self.scale.place(value) * length;
        for tick in &self.scale.ticks {
            canvas.line((x(*tick), top), (x(*tick), bottom), 0.5, Ink::Rule);
            canvas.text(&self.scale.label(*tick), TICK.align(Align::Middle), (x(*tick), bottom + 10.0), width);
        }
        for (bar, middle) in self.bars.iter().zip((0..).map(|at: u16| top + (f32::from(at) + 0.5) * BAR_STEP + 1.0)) {
            canvas.text(&bar.label, LABEL.align(Align::Right), (left + labels, middle + 3.0), labels);
            let value = bar.value.unwrap_or(0.0);
            let (from, to) = (x(0.0).min(x(value)), x(0.0).max(x(value)));
            canvas.fill((from, middle - 5.5), (to - from).max(0.4), 11.0, ink(value));
            let (align, beside) = if value < 0.0 { (Align::Right, from - 3.0) } else { (Align::Left, to + 3.0) };
            canvas.text(&bar.shown, LABEL.align(align), (beside, middle + 3.0), width);
        }
        canvas.line((x(0.0), top), (x(0.0), bottom), 0.8, Ink::Quiet);
        bottom + 16.0
    }

    fn draw_columns(&self, canvas: &mut Canvas, left: f32, top: f32, width: f32) -> f32 {
        let ticks = self.scale.ticks.iter().map(|tick| TICK.width(&self.scale.label(*tick))).fold(0.0, f32::max);
        let origin = left + ticks + 6.0;
        let length = left + width - origin;
        let y = |value: f64| top + COLUMNS_HEIGHT * (1.0 - self.scale.place(value));
        for tick in &self.scale.ticks {
            canvas.line((origin, y(*tick)), (origin + length, y(*tick)), 0.5, Ink::Rule);
            canvas.text(&self.scale.label(*tick), TICK.align(Align::Right), (origin - 4.0, y(*tick) + 2.6), ticks);
        }
        let step = length / self.bars.len() as f32;
        let every = self.label_every(step);
        for (at, bar) in self.bars.iter().enumerate() {
            let middle = origin + (at as f32 + 0.5) * step;
            let value = bar.value.unwrap_or(0.0);
            let (upper, lower) = (y(0.0).min(y(value)), y(0.0).max(y(value)));
            canvas.fill((middle - step * 0.36, upper), step * 0.72, (lower - upper).max(0.4), ink(value));
            if at % every == 0 {
                canvas.text(&bar.label, TICK.align(Align::Middle), (middle, top + COLUMNS_HEIGHT + 11.0), width);
            }
        }
        canvas.line((origin, y(0.0)), (origin + length, y(0.0)), 0.8, Ink::Quiet);
        top + COLUMNS_HEIGHT + 18.0
    }

    /// Labels every so many columns that none runs into the next.
    fn label_every(&self, step: f32) -> usize {
        let widest = self.bars.iter().map(|bar| TICK.width(&bar.label)).fold(0.0, f32::max) + 6.0;
        (widest / step).ceil().max(1.0) as usize
    }
}

fn bar(table: &Table, row: &[Cell], column: usize) -> Bar {
    let keys: Vec<_> = row[..table.keys()].iter().map(|cell| Role::Group.shown(cell)).collect();
    let value = match &row[column] {
        Cell::Number(number) => Some(number.to_f64()),
        Cell::Text(_) | Cell::Date(..) | Cell::Empty => None,
    };
    Bar { label: keys.join(" · "), value, shown: table.columns[column].role.shown(&row[column]) }
}

fn ink(value: f64) -> Ink {
    if value < 0.0 { Ink::NegativeBar } else { Ink::Bar }
}

/// Whether the rows follow one group column that holds dates, or years and the like, in their order.
fn is_course_of_time(table: &Table) -> bool {
    let in_order = table.keys() == 1 && table.rows.is_sorted_by(|left, right| left[0].is_before(&right[0]));
    in_order && table.rows.iter().all(|row| is_moment(&row[0]))
}

/// A number, or text that begins as `2026-11` does.
fn is_moment(cell: &Cell) -> bool {
    match cell {
        Cell::Number(_) | Cell::Date(..) => true,
        Cell::Empty => false,
        Cell::Text(text) => {
            let shape = text.bytes().take(7).map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
            shape.eq(*b"0000-00")
        }
    }
}
