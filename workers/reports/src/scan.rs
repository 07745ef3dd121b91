//! Reads every row once and keeps one set of figures per group: the only part whose time grows with the data set, and
//! whose memory grows with the number of groups alone.

use std::{collections::HashMap, io::Read};

use crate::{
    aggregate::{Accumulator, Fault, Kind},
    dataset::{Dataset, Row},
    error::{ReportError, shown},
    plan::{ColumnRef, Measure, Plan},
    request::AggregateOp,
};

/// How many rows are read between two looks at whether the attempt is to stop: a few milliseconds' worth.
const ROWS_PER_LOOK: u64 = 4096;

/// The most bytes of text that groups and their least and greatest values may hold together.
const TEXT_LIMIT: usize = 32 * 1024 * 1024;

/// All rows, reduced.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) groups: Vec<Group>,
    /// Rows in the data set.
    pub(crate) rows: u64,
    /// Rows that satisfied the filters.
    pub(crate) counted: u64,
}

/// The rows that agree in the columns of `group_by`.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: Vec<String>,
    pub(crate) figures: Vec<Accumulator>,
}

/// Reduces a data set as planned; `cancelled` is asked every few thousand rows.
pub(crate) fn scan<R: Read>(
    dataset: &mut Dataset<R>,
    plan: &Plan,
    max_groups: usize,
    cancelled: &dyn Fn() -> bool,
) -> Result<Scan, ReportError> {
    let mut groups = Groups::new(plan, max_groups);
    let (mut rows, mut counted) = (0, 0);
    while let Some(row) = dataset.next_row()? {
        rows += 1;
        if rows % ROWS_PER_LOOK == 0 && cancelled() {
            return Err(ReportError::Cancelled);
        }
        if plan.conditions.iter().all(|condition| condition.accepts(row)) {
            counted += 1;
            groups.add(row)?;
        }
    }
    Ok(Scan { groups: groups.groups, rows, counted })
}

/// The groups so far.
struct Groups<'p> {
    plan: &'p Plan,
    max_groups: usize,
    groups: Vec<Group>,
    /// Where a group is, by its key (see [`Groups::write_key`]).
    places: HashMap<Box<[u8]>, usize>,
    /// What the columns of the measures have held so far.
    kinds: Vec<Option<Kind>>,
    /// The key of the row in hand, kept for its allocation.
    key: Vec<u8>,
    /// Bytes of text in all groups.
    text: usize,
}

impl<'p> Groups<'p> {
    fn new(plan: &'p Plan, max_groups: usize) -> Self {
        let mut groups = Self {
            plan,
            max_groups,
            groups: Vec::new(),
            places: HashMap::new(),
            kinds: vec![None; plan.measures.len()],
            key: Vec::new(),
            text: 0,
        };
        if plan.group_by.is_empty() {
            // One row over everything, also when everything is nothing.
            groups.insert(Vec::new());
        }
        groups
    }

    fn add(&mut self, row: Row<'_>) -> Result<(), ReportError> {
        self.write_key(row);
        let place = match self.places.get(self.key.as_slice()) {
            Some(place) => *place,
            None => self.begin_group(row)?,
        };
        let figures = self.groups[place].figures.iter_mut().zip(&self.plan.measures).zip(&mut self.kinds);
        for ((figure, measure), kind) in figures {
            let before = figure.text_len();
            take_in(figure, measure, kind, row)?;
            self.text = self.text - before + figure.text_len();
        }
        if self.text > TEXT_LIMIT {
            return Err(ReportError::GroupsTooLarge { row: row.number(), limit: TEXT_LIMIT });
        }
        Ok(())
    }

    /// Each cell after its length, so that no two groups share a key.
    fn write_key(&mut self, row: Row<'_>) {
        self.key.clear();
        for column in &self.plan.group_by {
            let cell = row.cell(column.position);
            self.key.extend_from_slice(&cell.len().to_le_bytes());
            self.key.extend_from_slice(cell);
        }
    }

    fn begin_group(&mut self, row: Row<'_>) -> Result<usize, ReportError> {
        if self.groups.len() >= self.max_groups {
            return Err(ReportError::TooManyGroups { row: row.number(), limit: self.max_groups });
        }
        let values = self.plan.group_by.iter().map(|column| {
            let cell = row.cell(column.position);
            std::str::from_utf8(cell).map(str::to_owned).map_err(|_| not_utf8(row, column, cell))
        });
        let values = values.collect::<Result<_, _>>()?;
        Ok(self.insert(values))
    }

    fn insert(&mut self, key: Vec<String>) -> usize {
        let place = self.groups.len();
        self.text += self.key.len();
        self.places.insert(self.key.as_slice().into(), place);
        let figures = self.plan.measures.iter().map(|measure| Accumulator::new(measure.op)).collect();
        self.groups.push(Group { key, figures });
        place
    }
}

fn take_in(
    figure: &mut Accumulator,
    measure: &Measure,
    kind: &mut Option<Kind>,
    row: Row<'_>,
) -> Result<(), ReportError> {
    let Some(column) = &measure.column else {
        figure.add_row();
        return Ok(());
    };
    let cell = row.cell(column.position);
    if cell.trim_ascii().is_empty() {
        return Ok(());
    }
    figure.add(cell, kind).map_err(|fault| explain(fault, measure.op, column, row, cell))
}

fn not_utf8(row: Row<'_>, column: &ColumnRef, cell: &[u8]) -> ReportError {
    ReportError::NotUtf8 { row: row.number(), column: column.name.clone(), value: shown(cell) }
}

fn explain(fault: Fault, op: AggregateOp, column: &ColumnRef, row: Row<'_>, cell: &[u8]) -> ReportError {
    let (row, column, value) = (row.number(), column.name.clone(), shown(cell));
    match fault {
        Fault::NotANumber => ReportError::NotANumber { row, column, value, op },
        Fault::Overflow => ReportError::Overflow { row, column, value, op },
        Fault::NotUtf8 => ReportError::NotUtf8 { row, column, value },
        Fault::Mixed { so_far } => ReportError::MixedColumn { row, column, value, kind: so_far.name() },
    }
}
