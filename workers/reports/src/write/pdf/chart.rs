//! The chart above the table: one figure per row as bars, or as columns if the rows are in the order of time.

use super::{
    axis::Axis,
    canvas::{Align, Canvas, Color, TextStyle},
    font::Font,
};
use crate::{
    report::Report,
    table::{ColumnRole, ReportCell, ReportTable},
};

const TITLE: TextStyle = TextStyle::new(Font::Bold, 10.0, Color::Text);
const LABEL: TextStyle = TextStyle::new(Font::Regular, 8.5, Color::Text);
const TICK: TextStyle = TextStyle::new(Font::Regular, 7.5, Color::Muted);

const MOST_BARS: usize = 15;
const MOST_COLUMNS: usize = 60;
const BAR_STEP: f32 = 17.0;
const COLUMNS_HEIGHT: f32 = 190.0;

/// A chart with its data.
#[derive(Debug)]
pub(crate) struct Chart {
    title: String,
    note: Option<String>,
    bars: Vec<ChartBar>,
    kind: ChartKind,
    axis: Axis,
}

#[derive(Debug)]
struct ChartBar {
    label: String,
    value: Option<f64>,
    shown: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChartKind {
    Bars,
    Columns,
}

impl Chart {
    /// Creates the chart of a report; `None` if there are fewer than two rows or no numbers.
    pub(crate) fn new(report: &Report) -> Option<Self> {
        let table = &report.table;
        let column = table.charted()?;
        if table.rows.len() < 2 {
            return None;
        }
        let kind = if is_course_of_time(table) { ChartKind::Columns } else { ChartKind::Bars };
        let most = if kind == ChartKind::Columns { MOST_COLUMNS } else { MOST_BARS };
        let bars: Vec<_> = table.rows.iter().take(most).map(|row| bar(table, row, column)).collect();
        let note = (table.rows.len() > most).then(|| format!("the first {most} of {} rows", table.rows.len()));
        let axis = Axis::spanning(bars.iter().filter_map(|bar| bar.value));
        let title = report.caption.figures[column - table.keys()].clone();
        Some(Self { title, note, bars, kind, axis })
    }

    /// Draws the chart below `top`, and returns its lower end.
    pub(crate) fn draw(&self, canvas: &mut Canvas, left: f32, top: f32, width: f32) -> f32 {
        canvas.text(&self.title, TITLE, (left, top + 10.0), width);
        if let Some(note) = &self.note {
            let after = TITLE.width(&self.title) + 8.0;
            canvas.text(note, TICK, (left + after, top + 10.0), (width - after).max(0.0));
        }
        match self.kind {
            ChartKind::Bars => self.draw_bars(canvas, left, top + 22.0, width),
            ChartKind::Columns => self.draw_columns(canvas, left, top + 26.0, width),
        }
    }

    fn draw_bars(&self, canvas: &mut Canvas, left: f32, top: f32, width: f32) -> f32 {
        let labels = self.bars.iter().map(|bar| LABEL.width(&bar.label)).fold(0.0, f32::max).min(width * 0.34);
        let values = self.bars.iter().map(|bar| LABEL.width(&bar.shown)).fold(0.0, f32::max) + 6.0;
        let has_negative = self.axis.position(0.0) > 0.0;
        let origin = left + labels + 8.0 + if has_negative { values } else { 0.0 };
        let length = left + width - values - origin;
        let bottom = top + BAR_STEP * self.bars.len() as f32 + 2.0;
        let x = |value: f64| origin + self.axis.position(value) * length;
        for tick in &self.axis.ticks {
            canvas.line((x(*tick), top), (x(*tick), bottom), 0.5, Color::Rule);
            canvas.text(&self.axis.label(*tick), TICK.align(Align::Middle), (x(*tick), bottom + 10.0), width);
        }
        for (bar, middle) in self.bars.iter().zip((0..).map(|at: u16| top + (f32::from(at) + 0.5) * BAR_STEP + 1.0)) {
            canvas.text(&bar.label, LABEL.align(Align::Right), (left + labels, middle + 3.0), labels);
            let value = bar.value.unwrap_or(0.0);
            let (from, to) = (x(0.0).min(x(value)), x(0.0).max(x(value)));
            canvas.fill((from, middle - 5.5), (to - from).max(0.4), 11.0, color(value));
            let (align, beside) = if value < 0.0 { (Align::Right, from - 3.0) } else { (Align::Left, to + 3.0) };
            canvas.text(&bar.shown, LABEL.align(align), (beside, middle + 3.0), width);
        }
        canvas.line((x(0.0), top), (x(0.0), bottom), 0.8, Color::Muted);
        bottom + 16.0
    }

    fn draw_columns(&self, canvas: &mut Canvas, left: f32, top: f32, width: f32) -> f32 {
        let ticks = self.axis.ticks.iter().map(|tick| TICK.width(&self.axis.label(*tick))).fold(0.0, f32::max);
        let origin = left + ticks + 6.0;
        let length = left + width - origin;
        let y = |value: f64| top + COLUMNS_HEIGHT * (1.0 - self.axis.position(value));
        for tick in &self.axis.ticks {
            canvas.line((origin, y(*tick)), (origin + length, y(*tick)), 0.5, Color::Rule);
            canvas.text(&self.axis.label(*tick), TICK.align(Align::Right), (origin - 4.0, y(*tick) + 2.6), ticks);
        }
        let step = length / self.bars.len() as f32;
        let every = self.label_every(step);
        for (at, bar) in self.bars.iter().enumerate() {
            let middle = origin + (at as f32 + 0.5) * step;
            let value = bar.value.unwrap_or(0.0);
            let (upper, lower) = (y(0.0).min(y(value)), y(0.0).max(y(value)));
            canvas.fill((middle - step * 0.36, upper), step * 0.72, (lower - upper).max(0.4), color(value));
            if at % every == 0 {
                canvas.text(&bar.label, TICK.align(Align::Middle), (middle, top + COLUMNS_HEIGHT + 11.0), width);
            }
        }
        canvas.line((origin, y(0.0)), (origin + length, y(0.0)), 0.8, Color::Muted);
        top + COLUMNS_HEIGHT + 18.0
    }

    /// Returns the distance between two labelled columns at which labels do not overlap.
    fn label_every(&self, step: f32) -> usize {
        let widest = self.bars.iter().map(|bar| TICK.width(&bar.label)).fold(0.0, f32::max) + 6.0;
        (widest / step).ceil().max(1.0) as usize
    }
}

fn bar(table: &ReportTable, row: &[ReportCell], column: usize) -> ChartBar {
    let keys: Vec<_> = row[..table.keys()].iter().map(|cell| ColumnRole::Group.shown(cell)).collect();
    let value = match &row[column] {
        ReportCell::Number(number) => Some(number.to_f64()),
        ReportCell::Text(_) | ReportCell::Date(..) | ReportCell::Empty => None,
    };
    ChartBar { label: keys.join(" · "), value, shown: table.columns[column].role.shown(&row[column]) }
}

fn color(value: f64) -> Color {
    if value < 0.0 { Color::NegativeBar } else { Color::ChartBar }
}

/// Returns whether the rows are sorted by one group column of dates or numbers such as years.
fn is_course_of_time(table: &ReportTable) -> bool {
    let in_order = table.keys() == 1 && table.rows.is_sorted_by(|left, right| left[0].is_before(&right[0]));
    in_order && table.rows.iter().all(|row| is_moment(&row[0]))
}

/// Returns whether the cell is a number, a date, or text that begins like `2026-11`.
fn is_moment(cell: &ReportCell) -> bool {
    match cell {
        ReportCell::Number(_) | ReportCell::Date(..) => true,
        ReportCell::Empty => false,
        ReportCell::Text(text) => {
            let kind = text.bytes().take(7).map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
            kind.eq(*b"0000-00")
        }
    }
}
