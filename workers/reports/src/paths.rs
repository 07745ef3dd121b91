//! Resolves the names in a request to files in the data directory and the output directory.
//!
//! A data set may be in a subdirectory, and may be a symbolic link to a file in the data directory. The check resolves
//! links before the file is opened. An attacker who can change links between the two can already read the directory. A
//! report is directly in the output directory, and replaces a link of its name.

use std::{
    fs::{self, File},
    io,
    path::{Component, Path},
    time::SystemTime,
};

use crate::{error::ReportError, request::ReportFormat};

/// An open data set.
#[derive(Debug)]
pub(crate) struct OpenDataset {
    pub(crate) file: File,
    /// Size of the file.
    pub(crate) bytes: u64,
    /// Time of the last change of the file.
    pub(crate) modified: SystemTime,
}

/// Opens the data set `name` below `data_dir`.
pub(crate) fn open_dataset(data_dir: &Path, name: &str) -> Result<OpenDataset, ReportError> {
    let refused = |reason| ReportError::DatasetName { name: name.to_owned(), reason };
    let failed = |source: io::Error| unreadable(name, source);
    plain_relative(name).map_err(refused)?;
    let root = data_dir.canonicalize().map_err(|source| ReportError::Read { name: name.to_owned(), source })?;
    let path = root.join(name).canonicalize().map_err(failed)?;
    if !path.starts_with(&root) {
        return Err(refused("it is a link that leads out of the data directory"));
    }
    // Checked before the file is opened, because opening a pipe waits for its writer.
    let metadata = fs::metadata(&path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(refused("it is not a file"));
    }
    let modified = metadata.modified().map_err(failed)?;
    Ok(OpenDataset { file: File::open(&path).map_err(failed)?, bytes: metadata.len(), modified })
}

/// Returns the file name of a report: `output` with the extension of the format.
pub(crate) fn output_name(output: &str, format: ReportFormat) -> Result<String, ReportError> {
    // Leaves space for the extension and the suffix of the temporary file within the usual 255 bytes.
    const LONGEST: usize = 200;
    let reason = match output {
        "" => "it is empty",
        _ if output.len() > LONGEST => "it is longer than 200 bytes",
        _ if output.contains(['/', '\\']) => "it must be a name without directories",
        _ if output.starts_with('.') => "it begins with a dot",
        _ if output.chars().any(char::is_control) => "it has a control character",
        _ => return Ok(with_extension(output, format)),
    };
    Err(ReportError::OutputName { name: output.to_owned(), reason })
}

fn with_extension(output: &str, format: ReportFormat) -> String {
    let extension = format.extension();
    let stem = output.strip_suffix(extension).and_then(|stem| stem.strip_suffix('.')).unwrap_or(output);
    format!("{stem}.{extension}")
}

fn plain_relative(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.contains('\0') {
        return Err("it has a NUL byte");
    }
    if name.contains('\\') {
        return Err("it has a backslash");
    }
    for component in Path::new(name).components() {
        match component {
            Component::Normal(_) => {}
            Component::ParentDir => return Err("it leads out of the data directory"),
            Component::RootDir | Component::Prefix(_) => return Err("it must be relative to the data directory"),
            Component::CurDir => return Err("it begins with a dot"),
        }
    }
    Ok(())
}

/// Returns an error of the request if the file cannot exist, else an error of the disk.
fn unreadable(name: &str, source: io::Error) -> ReportError {
    let name = name.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ReportError::DatasetMissing { name },
        io::ErrorKind::InvalidFilename => ReportError::DatasetName { name, reason: "it is too long" },
        _ => ReportError::Read { name, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_name_leads_out_of_the_data_directory() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        fs::create_dir_all(data.join("2026")).unwrap();
        fs::write(root.path().join("secret.csv"), "a\n1\n").unwrap();
        fs::write(data.join("2026/sales.csv"), "a\n1\n").unwrap();
        symlink(root.path().join("secret.csv"), data.join("escape.csv")).unwrap();
        symlink(root.path(), data.join("up")).unwrap();
        symlink("2026/sales.csv", data.join("latest.csv")).unwrap();
        let absolute = root.path().join("secret.csv").display().to_string();
        let long = "x".repeat(5000);
        for name in [
            "",
            "../secret.csv",
            "2026/../../secret.csv",
            "2026/../2026/sales.csv",
            "/etc/passwd",
            &absolute,
            "a\0b",
            "..\\secret.csv",
            "escape.csv",
            "up/secret.csv",
            "./2026/sales.csv",
            "2026",
            "2026/",
            &long,
        ] {
            let error = open_dataset(&data, name).unwrap_err();
            assert!(matches!(error, ReportError::DatasetName { .. }), "{name}: {error}");
        }
        for name in ["2026/sales.csv", "latest.csv"] {
            open_dataset(&data, name).unwrap();
        }
    }

    #[test]
    fn a_data_set_that_is_not_there_is_missing_and_a_data_directory_that_is_not_there_is_the_disks_fault() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("a.csv"), "").unwrap();
        for name in ["b.csv", "a.csv/b.csv", "no/b.csv"] {
            let error = open_dataset(data.path(), name).unwrap_err();
            assert!(matches!(error, ReportError::DatasetMissing { .. }), "{name}: {error}");
        }
        let error = open_dataset(&data.path().join("unmounted"), "a.csv").unwrap_err();
        assert!(matches!(error, ReportError::Read { .. }), "{error}");
    }

    #[test]
    fn a_report_is_a_plain_file_name_with_its_extension() {
        assert_eq!(output_name("by-region", ReportFormat::Pdf).unwrap(), "by-region.pdf");
        assert_eq!(output_name("by-region.pdf", ReportFormat::Pdf).unwrap(), "by-region.pdf");
        assert_eq!(output_name("by-region.csv", ReportFormat::Pdf).unwrap(), "by-region.csv.pdf");
        assert_eq!(output_name("Umsätze 2026", ReportFormat::Csv).unwrap(), "Umsätze 2026.csv");
        let long = "x".repeat(201);
        for name in ["", ".", "..", "../a", "a/b", "/a", "a\\b", ".hidden", "a\0b", "a\nb", &long] {
            assert!(output_name(name, ReportFormat::Csv).is_err(), "{name:?}");
        }
    }
}
