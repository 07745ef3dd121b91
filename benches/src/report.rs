//! The result of a run, as tables for people and as JSON for programs.

use std::fmt;

use comfy_table::{CellAlignment, presets::NOTHING};
use serde::Serialize;

use crate::{
    figures::Spread,
    machine::Machine,
    measures::{Measure, Row, Table},
    targets::Verdict,
};

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Product and version, `None` if no scenario required a broker.
    pub(crate) broker: Option<String>,
    pub(crate) machine: Machine,
    pub(crate) tables: Vec<Table>,
    pub(crate) targets: Vec<Verdict>,
}

impl Report {
    /// True if a gating target was missed.
    #[must_use]
    pub fn has_regressed(&self) -> bool {
        self.targets.iter().any(Verdict::is_regression)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cores, processor, fsync_us } = &self.machine;
        let broker = self.broker.as_deref().unwrap_or("no broker");
        writeln!(f, "{broker}; {cores} cores, {processor}; write and fsync {fsync_us:.0} µs")?;
        writeln!(f, "Medians, with [min–max] where there are several rounds; ratios are taken round by round.")?;
        for table in &self.tables {
            write!(f, "\n{}\n{}", table.scenario, grid(&cells(table)))?;
        }
        if !self.targets.is_empty() {
            write!(f, "\nTargets\n")?;
        }
        self.targets.iter().try_for_each(|verdict| writeln!(f, "  {verdict}"))
    }
}

/// A title row and a row for each contestant. The last columns are the ratios of the first measure to each baseline.
fn cells(table: &Table) -> Vec<Vec<String>> {
    let samples = table.rows.iter().flat_map(|row| &row.samples);
    let mut measures: Vec<Measure> = samples.flat_map(|sample| sample.keys().copied()).collect();
    measures.sort_unstable();
    measures.dedup();
    let baselines: Vec<&Row> = table.rows.iter().filter(|row| row.contestant.starts_with("lapin")).collect();
    let first = measures.first().copied();
    let mut titles = vec![String::new()];
    titles.extend(measures.iter().map(|measure| measure.title().to_owned()));
    titles.extend(baselines.iter().map(|row| format!("× {}", row.contestant)));
    let mut lines = vec![titles];
    for row in &table.rows {
        let mut line = vec![row.contestant.to_owned()];
        line.extend(measures.iter().map(|measure| row.spread(*measure).map_or_else(String::new, show)));
        line.extend(baselines.iter().map(|other| {
            let ratio = first.and_then(|first| row.ratio(other, first));
            ratio.map_or_else(String::new, |ratio| format!("{:.2}", ratio.median))
        }));
        lines.push(line);
    }
    lines
}

fn show(spread: Spread) -> String {
    let number = |value: f64| match value {
        10_000.0.. => format!("{:.1} k", value / 1000.0),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    if spread.min < spread.max {
        format!("{} [{}–{}]", number(spread.median), number(spread.min), number(spread.max))
    } else {
        number(spread.median)
    }
}

/// A table without borders, the first column to the left and the others to the right.
fn grid(lines: &[Vec<String>]) -> String {
    let mut grid = comfy_table::Table::new();
    grid.load_style(NOTHING).add_rows(lines);
    for (number, column) in grid.column_iter_mut().enumerate() {
        let (spaces, alignment) = if number == 0 { (2, CellAlignment::Left) } else { (3, CellAlignment::Right) };
        column.set_padding((spaces, 0)).set_cell_alignment(alignment);
    }
    grid.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measures::Sample;

    fn row(contestant: &'static str, rates: &[f64]) -> Row {
        let samples = rates.iter().map(|rate| Sample::from([(Measure::JobsPerSecond, *rate)])).collect();
        Row { contestant, samples }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let (own, other) = (row("leveret", &[10.0, 40.0, 90.0]), row("lapin", &[10.0, 20.0, 30.0]));
        assert_eq!(own.ratio(&other, Measure::JobsPerSecond), Spread::of([1.0, 2.0, 3.0]));
        assert_eq!(own.ratio(&other, Measure::StartMs), None);
    }

    #[test]
    fn a_table_shows_medians_ranges_and_ratios() {
        let table = Table {
            scenario: "drain".to_owned(),
            rows: vec![row("leveret", &[50_000.0, 60_000.0, 70_000.0]), row("lapin", &[200.0])],
        };
        let shown = grid(&cells(&table));
        let expected = "                            jobs/s   × lapin\n  leveret   60.0 k [50.0 k–70.0 k]    250.00\n  lapin                        200      1.00\n";
        assert_eq!(shown, expected);
    }
}
