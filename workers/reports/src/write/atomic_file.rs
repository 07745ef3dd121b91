//! Files that appear whole or not at all.
//!
//! The data goes to a hidden temporary file in the target's directory, because a rename is atomic within one file system
//! only. The file is synced before the rename, and the directory after it, so a crash leaves the old file or the new one.
//! A file that is dropped before [`AtomicFile::publish`] is deleted. A killed process leaves `.<name>.*.tmp` behind.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    file: NamedTempFile,
    dir: PathBuf,
    name: String,
}

impl AtomicFile {
    /// Creates the temporary file for `name` in `dir`, and the directory if it is missing.
    pub(crate) fn create(dir: &Path, name: &str) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let file = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".tmp")
            // Other users read reports, so the umask decides. The default of a temporary file is private.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(dir)?;
        Ok(Self { file, dir: dir.to_owned(), name: name.to_owned() })
    }

    pub(crate) fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Renames the file to its final name, and replaces an earlier file or link of that name.
    pub(crate) fn publish(self) -> io::Result<PathBuf> {
        self.file.as_file().sync_all()?;
        let path = self.dir.join(self.name);
        self.file.persist(&path).map_err(|error| error.error)?;
        File::open(self.dir)?.sync_all()?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_not_there_until_it_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("made/here");
        let file = AtomicFile::create(&dir, "r.csv").unwrap();
        file.file().write_all(b"new").unwrap();
        assert!(!dir.join("r.csv").exists());
        let path = file.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(&dir), ["r.csv"]);
    }

    #[test]
    fn a_file_that_is_dropped_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("r.csv"), "old").unwrap();
        let file = AtomicFile::create(dir.path(), "r.csv").unwrap();
        file.file().write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read(dir.path().join("r.csv")).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["r.csv"]);
    }

    #[test]
    fn a_link_of_that_name_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = NamedTempFile::new().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("r.csv")).unwrap();
        let file = AtomicFile::create(dir.path(), "r.csv").unwrap();
        file.file().write_all(b"new").unwrap();
        file.publish().unwrap();
        assert_eq!(fs::read(elsewhere.path()).unwrap(), b"");
        assert!(!dir.path().join("r.csv").is_symlink());
    }

    #[test]
    fn a_report_can_be_read_by_others_as_the_umask_allows() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        fs::write(&plain, "").unwrap();
        let path = AtomicFile::create(dir.path(), "r.csv").unwrap().publish().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
    }
}
