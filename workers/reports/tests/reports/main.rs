//! Tests of whole reports, from a CSV file to the written report, and of the job.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod dialects;
mod figures;
mod files;
mod invoice;
mod job;
mod pages;
mod program;
mod refusals;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use leveret_reports::{GenerateReport, GeneratedReport, ReportError, Reports};
use tempfile::TempDir;

/// A data directory and an output directory for one test.
struct TestDirs {
    root: TempDir,
}

const SALES: &str = "date,region,product,amount\n\
    2026-01-03,North,tea,0.10\n\
    2026-01-04,North,tea,0.20\n\
    2026-01-04,South,cups,1250.00\n\
    2026-02-01,Øst,tea,-3.50\n\
    2026-02-02,South,tea,99.95\n";

impl TestDirs {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("data")).unwrap();
        let dirs = Self { root };
        dirs.put("sales.csv", SALES);
        dirs
    }

    /// Writes a data set with an old modification time.
    fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.data().join(name);
        fs::write(&path, text).unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        fs::File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn output(&self) -> PathBuf {
        self.root.path().join("out")
    }

    fn reports(&self) -> Reports {
        let yield_every = Duration::from_secs(30);
        Reports { data_dir: self.data(), output_dir: self.output(), max_groups: 1_000, yield_every }
    }

    fn generate(&self, request: &str) -> Result<GeneratedReport, ReportError> {
        self.reports().generate(&read(request), &|| false)
    }

    /// Returns the files in the output directory, temporary files included.
    fn files(&self) -> Vec<String> {
        names(&self.output())
    }
}

/// Completes a request on the sales by region.
fn by_region(rest: &str) -> String {
    format!(r#"{{"dataset": "sales.csv", "group_by": ["region"], "output": "r", {rest}}}"#)
}

fn read(request: &str) -> GenerateReport {
    serde_json::from_str(request).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
