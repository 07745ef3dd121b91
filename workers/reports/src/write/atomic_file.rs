//! Files that appear whole or not at all.
//!
//! A draft is a hidden temporary file in the target's own directory, because a rename is atomic within one file system
//! only. It is made durable before it gets its name and the directory after, so a crash leaves the old file or the new
//! one. A draft that is dropped is deleted; only a killed process leaves one behind (`.<name>.*.tmp`).

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

/// A file in the making.
#[derive(Debug)]
pub(crate) struct Draft {
    file: NamedTempFile,
    dir: PathBuf,
    name: String,
}

impl Draft {
    /// Begins the file `name` in `dir`, which is made when it is missing.
    pub(crate) fn create(dir: &Path, name: &str) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let file = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".tmp")
            // As any new file, less the umask: reports are read by others, while a temporary file would be private.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(dir)?;
        Ok(Self { file, dir: dir.to_owned(), name: name.to_owned() })
    }

    pub(crate) fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Gives the draft its name, replacing what has it.
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
        let draft = Draft::create(&dir, "r.csv").unwrap();
        draft.file().write_all(b"new").unwrap();
        assert!(!dir.join("r.csv").exists());
        let path = draft.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(&dir), ["r.csv"]);
    }

    #[test]
    fn a_draft_that_is_given_up_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("r.csv"), "old").unwrap();
        let draft = Draft::create(dir.path(), "r.csv").unwrap();
        draft.file().write_all(b"half").unwrap();
        drop(draft);
        assert_eq!(fs::read(dir.path().join("r.csv")).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["r.csv"]);
    }

    #[test]
    fn a_link_of_that_name_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = NamedTempFile::new().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("r.csv")).unwrap();
        let draft = Draft::create(dir.path(), "r.csv").unwrap();
        draft.file().write_all(b"new").unwrap();
        draft.publish().unwrap();
        assert_eq!(fs::read(elsewhere.path()).unwrap(), b"");
        assert!(!dir.path().join("r.csv").is_symlink());
    }

    #[test]
    fn a_report_can_be_read_by_others_as_the_umask_allows() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        fs::write(&plain, "").unwrap();
        let path = Draft::create(dir.path(), "r.csv").unwrap().publish().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
    }
}
