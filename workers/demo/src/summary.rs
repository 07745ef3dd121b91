//! The outcomes of the jobs as a table, and the places of their files.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use leveret_analytics::DayRevenue;
use leveret_email::money::Currency;
use leveret_orders::warehouse::WAREHOUSE;

use crate::{
    checkouts::CheckoutEnd,
    ledger::{JobOutcome, JobRecord, JobRecords},
    mail_server,
    shop::ShopRows,
};

/// Summary of a run that is finished or interrupted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunSummary {
    /// Counts for each job name, in alphabetical order.
    pub rows: Vec<(&'static str, JobCounts)>,
    /// Dead-lettered jobs.
    pub dead: Vec<DeadJob>,
    /// Rows of this run in the database of the shop.
    pub shop: ShopRows,
    /// The checkouts, which are workflows.
    pub checkouts: Vec<CheckoutEnd>,
    /// Number of jobs that ended as duplicates.
    pub duplicates: usize,
    /// Directory of the mails, and number of mails of this run.
    pub mails: (PathBuf, usize),
    /// Directory of the reports, and the reports of this run with their sizes in bytes.
    pub reports: (PathBuf, Vec<(String, u64)>),
}

/// Counts of the jobs of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// Jobs of the run.
    pub jobs: usize,
    /// Succeeded jobs.
    pub succeeded: usize,
    /// Jobs with more than one attempt.
    pub retried: usize,
    /// Dead-lettered jobs.
    pub dead: usize,
    /// Unfinished jobs.
    pub open: usize,
}

/// A dead-lettered job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadJob {
    /// Queue of the job.
    pub queue: &'static str,
    /// Name of the job.
    pub job: &'static str,
    /// Label for people.
    pub label: String,
    /// Kind of the error.
    pub kind: String,
    /// Text of the error.
    pub reason: String,
}

impl RunSummary {
    /// Counts the records and the files of succeeded jobs.
    #[must_use]
    pub fn new(
        records: &JobRecords,
        shop: ShopRows,
        checkouts: Vec<CheckoutEnd>,
        mail_dir: &Path,
        report_dir: &Path,
    ) -> Self {
        let (mut rows, mut mails, mut reports) = (BTreeMap::<_, JobCounts>::new(), 0, Vec::new());
        for record in records.all() {
            rows.entry(record.job).or_default().add(record);
            if !record.is_done() {
                continue;
            }
            match fs::metadata(report_dir.join(&record.label)) {
                Ok(report) if record.queue == "reports" => reports.push((record.label.clone(), report.len())),
                _ if record.queue != WAREHOUSE => {
                    mails += usize::from(mail_server::path_of(mail_dir, &record.label).exists());
                }
                _ => {}
            }
        }
        Self {
            rows: rows.into_iter().collect(),
            dead: records.all().iter().filter_map(DeadJob::of).collect(),
            shop,
            checkouts,
            duplicates: records.all().iter().map(|record| record.duplicates).sum(),
            mails: (mail_dir.to_owned(), mails),
            reports: (report_dir.to_owned(), reports),
        }
    }

    /// Returns whether every job succeeded or is a dead letter.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.rows.iter().all(|(_, counts)| counts.open == 0)
    }

    /// Formats the summary for a terminal of this many columns.
    #[must_use]
    pub fn render(&self, columns: usize) -> String {
        let mut text = self.table();
        if !self.dead.is_empty() {
            text.push_str("\nDead letters, kept with their errors in the store of the server:\n");
        }
        for dead in &self.dead {
            text.push_str(&format!("  {} {} ({})\n", dead.job, dead.label, dead.kind));
            text.push_str(&wrap(&dead.reason, columns, "      "));
        }
        text.push_str("\nCheckouts, which are workflows:\n");
        for CheckoutEnd { label, status, error } in &self.checkouts {
            text.push_str(&format!("  {label} {status}\n"));
            text.push_str(&error.as_deref().map(|error| wrap(error, columns, "      ")).unwrap_or_default());
        }
        text.push_str(&self.files());
        text
    }

    fn table(&self) -> String {
        let open = !self.is_complete();
        let width = self.rows.iter().map(|(job, _)| job.len()).max().unwrap_or_default();
        let mut text = format!("{:width$}  {:>5} {:>9} {:>7} {:>4}", "job", "jobs", "succeeded", "retried", "dead");
        text.push_str(if open { " unfinished\n" } else { "\n" });
        for (job, of) in &self.rows {
            text.push_str(&format!(
                "{job:width$}  {:>5} {:>9} {:>7} {:>4}",
                of.jobs, of.succeeded, of.retried, of.dead
            ));
            text.push_str(&if open { format!(" {:>10}\n", of.open) } else { "\n".to_owned() });
        }
        text
    }

    fn files(&self) -> String {
        let ShopRows { database, orders, pick_lists, days, top_products } = &self.shop;
        let duplicates = self.duplicates;
        let (mail_dir, mails) = &self.mails;
        let (report_dir, reports) = &self.reports;
        let mut text = format!("\nOrders: {orders} rows in {} ({duplicates} duplicates)\n", database.display());
        text.push_str(&format!("Pick lists: {pick_lists} rows beside them\n"));
        for DayRevenue { day, orders, cents } in days {
            let best = top_products.iter().map(|product| format!("{} {}", product.pieces, product.sku));
            let (revenue, best) = (Currency::EUR.format(*cents), best.collect::<Vec<_>>().join(", "));
            text.push_str(&format!(
                "Revenue of {day}, from the log of events: {revenue} in {orders} orders ({best})\n"
            ));
        }
        text.push_str(&format!("Mails: {mails} files in {}\n", mail_dir.display()));
        text.push_str(&format!("Reports: {} files in {}\n", reports.len(), report_dir.display()));
        for (name, bytes) in reports {
            text.push_str(&format!("  {:>7}  {name}\n", size(*bytes)));
        }
        text
    }
}

impl JobCounts {
    fn add(&mut self, record: &JobRecord) {
        self.jobs += 1;
        self.succeeded += usize::from(record.is_done());
        self.retried += usize::from(record.is_retried());
        self.dead += usize::from(record.is_dead());
        self.open += usize::from(record.is_open());
    }
}

impl DeadJob {
    fn of(record: &JobRecord) -> Option<Self> {
        let JobOutcome::Dead { kind, reason } = &record.outcome else { return None };
        let (kind, reason, label) = (kind.clone(), reason.clone(), record.label.clone());
        Some(Self { queue: record.queue, job: record.job, label, kind, reason })
    }
}

fn size(bytes: u64) -> String {
    if bytes < 1024 { format!("{bytes} B") } else { format!("{:.1} KB", bytes as f64 / 1024.0) }
}

/// Breaks a text at spaces into indented lines of at most `columns` characters. A longer word stays whole.
fn wrap(text: &str, columns: usize, indent: &str) -> String {
    let (mut lines, mut length) = (String::new(), usize::MAX);
    for word in text.split_whitespace() {
        let needed = word.chars().count() + 1;
        if length.saturating_add(needed) <= columns {
            lines.push(' ');
            length += needed;
        } else {
            lines.push_str(if lines.is_empty() { indent } else { "\n" });
            lines.push_str(if length == usize::MAX { "" } else { indent });
            length = indent.len() + needed - 1;
        }
        lines.push_str(word);
    }
    lines + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_broken_between_words_within_the_columns() {
        assert_eq!(wrap("there is no column at all", 14, "  "), "  there is no\n  column at\n  all\n");
        assert_eq!(wrap("incomprehensibilities", 8, "  "), "  incomprehensibilities\n");
    }
}
