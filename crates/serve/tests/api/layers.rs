//! The modules of the server import only those above them, in the order of the crate's documentation.

use std::{
    fs,
    path::{Path, PathBuf},
};

const ORDER: [&str; 20] = [
    "time",
    "json",
    "detached",
    "field_error",
    "schema",
    "waiters",
    "recorder",
    "dead",
    "workflow_metrics",
    "publisher_task",
    "consumers",
    "services",
    "idempotency",
    "jobs",
    "workflows",
    "tracker",
    "tokens",
    "http",
    "options",
    "server",
];

#[test]
fn no_module_imports_one_below_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = Vec::new();
    for file in files(&src) {
        let relative = file.strip_prefix(&src).unwrap();
        let module = Path::new(relative.iter().next().unwrap()).with_extension("");
        let Some(own) = module.to_str().filter(|module| *module != "lib").map(layer) else { continue };
        let text = fs::read_to_string(&file).unwrap();
        for import in text.split("use crate::").skip(1).filter_map(|rest| rest.split(';').next()) {
            let below = heads(import).into_iter().filter(|head| layer(head) > own);
            faults.extend(below.map(|head| format!("{} imports {head}", relative.display())));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn layer(module: &str) -> usize {
    ORDER.iter().position(|known| *known == module).unwrap_or_else(|| panic!("{module} has no layer"))
}

/// The first segment of each path in an import.
fn heads(import: &str) -> Vec<&str> {
    let list = import.trim().strip_prefix('{').unwrap_or(import);
    let (mut depth, mut paths, mut start) = (0, Vec::new(), 0);
    for (at, letter) in list.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                paths.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    paths.push(&list[start..]);
    let heads = paths.into_iter().map(|path| path.trim().split([':', '}', ' ']).next().unwrap_or_default());
    heads.filter(|head| !head.is_empty()).collect()
}
