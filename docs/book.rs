//! Checks of the whole book: no page is missing, and no link is broken.
#![expect(clippy::unwrap_used, reason = "an unreadable file fails the test")]

mod logs;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

const SUMMARY: &str = include_str!("src/SUMMARY.md");
const COMPILED: &str = include_str!("lib.rs");
/// Documents outside the book whose links are checked too.
const OTHERS: [&str; 5] = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "tests/faults/README.md"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn source() -> PathBuf {
    root().join("docs/src")
}

/// The pages of the book, as paths below `docs/src`.
fn pages() -> BTreeSet<String> {
    fn walk(folder: &Path, found: &mut BTreeSet<String>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                walk(&path, found)?;
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.insert(path.strip_prefix(source()).unwrap().display().to_string());
            }
        }
        Ok(())
    }
    let mut found = BTreeSet::new();
    walk(&source(), &mut found).unwrap();
    found.remove("SUMMARY.md");
    found
}

/// The text of a document without code blocks, where `](` is not a link.
fn prose(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.split("```").step_by(2).collect()
}

/// The link targets of a document, without web addresses.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://"))
}

/// The anchors of a document's headings, as mdBook and code hosts make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings =
        text.lines().filter_map(|line| line.strip_prefix('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings.map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn every_page_is_in_the_summary_and_is_compiled() {
    let listed: BTreeSet<_> = links(SUMMARY).map(str::to_owned).collect();
    let compiled: BTreeSet<_> =
        COMPILED.split('"').skip(1).step_by(2).filter(|text| text.ends_with(".md")).map(str::to_owned).collect();
    assert_eq!(listed, pages());
    assert_eq!(compiled, pages());
}

#[test]
fn every_link_leads_to_a_file_and_to_a_heading_in_it() {
    let mut followed = 0;
    for document in pages().iter().map(|page| source().join(page)).chain(OTHERS.map(|name| root().join(name))) {
        let text = prose(&document);
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link} is a broken link", document.display());
            let has = |anchor| anchors(&prose(&target)).contains(anchor);
            assert!(anchor.is_empty() || has(anchor), "{}: {link} has no such heading", document.display());
            followed += 1;
        }
    }
    assert!(followed > 30, "only {followed} links were found");
}

/// The book is read on code hosts, and as built by mdBook, which contains only the files of the book.
#[test]
fn no_page_links_out_of_the_book() {
    for page in pages() {
        for link in links(&prose(&source().join(&page))) {
            let depth = page.matches('/').count();
            assert!(
                link.matches("../").count() <= depth,
                "{page}: {link} is outside the book: write its path without a link"
            );
        }
    }
}

#[test]
fn no_rust_is_shown_that_is_not_compiled() {
    for page in pages() {
        let text = fs::read_to_string(source().join(&page)).unwrap();
        for fence in text.lines().filter_map(|line| line.strip_prefix("```")) {
            let known = ["", "rust", "rust,no_run", "text", "json", "python", "javascript", "go", "sh", "erlang"];
            assert!(known.contains(&fence), "{page}: a block of {fence:?}");
        }
    }
}
