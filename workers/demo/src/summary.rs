//! What became of the jobs, as a table, and where their files are.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    ledger::{Book, Entry, Fate},
    mail_server,
};

/// The end of a run, or the state of one that was interrupted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The figures of each job name, in alphabetical order.
    pub rows: Vec<(&'static str, Counts)>,
    /// The jobs that were given up.
    pub dead: Vec<Dead>,
    /// The shop's database, the orders of this run in it, and how many more were sent.
    pub orders: (PathBuf, usize, usize),
    /// The directory of the mails, and how many of this run are in it.
    pub mails: (PathBuf, usize),
    /// The directory of the reports, and those of this run that are in it, with their sizes in bytes.
    pub reports: (PathBuf, Vec<(String, u64)>),
}

/// How many jobs of a name ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs of the run.
    pub jobs: usize,
    /// Done.
    pub succeeded: usize,
    /// Those that needed more than one attempt, whatever their end.
    pub retried: usize,
    /// Given up.
    pub dead: usize,
    /// Not decided.
    pub open: usize,
}

/// A job that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// The queue that its dead letter names.
    pub queue: &'static str,
    /// The job's name.
    pub job: &'static str,
    /// What a person calls it.
    pub label: String,
    /// The class of the reason.
    pub kind: String,
    /// The reason in words.
    pub reason: String,
}

impl Summary {
    /// Adds up the book, and looks for the files of what succeeded. `orders` are the shop's file and the run's orders in it.
    #[must_use]
    pub fn new(book: &Book, (shop, orders): (PathBuf, usize), mail_dir: &Path, report_dir: &Path) -> Self {
        let (mut rows, mut mails, mut reports) = (BTreeMap::<_, Counts>::new(), 0, Vec::new());
        for entry in book.entries() {
            rows.entry(entry.job).or_default().add(entry);
            if !entry.is_done() {
                continue;
            }
            match fs::metadata(report_dir.join(&entry.label)) {
                Ok(report) if entry.queue == "reports" => reports.push((entry.label.clone(), report.len())),
                _ => mails += usize::from(mail_server::path_of(mail_dir, &entry.label).exists()),
            }
        }
        Self {
            rows: rows.into_iter().collect(),
            dead: book.entries().iter().filter_map(Dead::of).collect(),
            orders: (shop, orders, book.entries().iter().map(|entry| entry.duplicates).sum()),
            mails: (mail_dir.to_owned(), mails),
            reports: (report_dir.to_owned(), reports),
        }
    }

    /// Whether every job was done or given up.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.rows.iter().all(|(_, counts)| counts.open == 0)
    }

    /// The summary for a terminal of this many columns.
    #[must_use]
    pub fn render(&self, columns: usize) -> String {
        let mut text = self.table();
        if !self.dead.is_empty() {
            text.push_str(
                "\nGiven up, kept with their reasons in the queues email.dead, orders.dead and reports.dead:\n",
            );
        }
        for dead in &self.dead {
            text.push_str(&format!("  {} {} ({})\n", dead.job, dead.label, dead.kind));
            text.push_str(&wrap(&dead.reason, columns, "      "));
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
        let (shop, orders, duplicates) = &self.orders;
        let (mail_dir, mails) = &self.mails;
        let (report_dir, reports) = &self.reports;
        let mut text = format!("\nOrders: {orders} rows in {} ({duplicates} came twice)\n", shop.display());
        text.push_str(&format!("Mails: {mails} files in {}\n", mail_dir.display()));
        text.push_str(&format!("Reports: {} files in {}\n", reports.len(), report_dir.display()));
        for (name, bytes) in reports {
            text.push_str(&format!("  {:>7}  {name}\n", size(*bytes)));
        }
        text
    }
}

impl Counts {
    fn add(&mut self, entry: &Entry) {
        self.jobs += 1;
        self.succeeded += usize::from(entry.is_done());
        self.retried += usize::from(entry.is_retried());
        self.dead += usize::from(entry.is_dead());
        self.open += usize::from(entry.is_open());
    }
}

impl Dead {
    fn of(entry: &Entry) -> Option<Self> {
        let Fate::Dead { kind, reason } = &entry.fate else { return None };
        let (kind, reason, label) = (kind.clone(), reason.clone(), entry.label.clone());
        Some(Self { queue: entry.queue, job: entry.job, label, kind, reason })
    }
}

fn size(bytes: u64) -> String {
    if bytes < 1024 { format!("{bytes} B") } else { format!("{:.1} KB", bytes as f64 / 1024.0) }
}

/// Breaks a text at its spaces into indented lines of at most `columns` characters, where words allow it.
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
