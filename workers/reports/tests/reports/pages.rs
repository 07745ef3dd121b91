//! Tests of the pages of a PDF, and of the time to lay them out.

use std::{cell::Cell, fs};

use leveret_reports::ReportError;

use crate::{TestDirs, by_region, files::words, read};

const SUM: &str = r#""aggregates": [{"column": "amount", "op": "sum"}], "format": "pdf""#;

#[test]
fn latin_greek_and_cyrillic_letters_are_set_as_they_are() {
    let dirs = TestDirs::new();
    let names = ["Łódź", "Αθήνα", "Київ", "Straße 5 €", "Đà Nẵng", "İzmir – №7", "cafe\u{301}"];
    let rows: String = names.iter().map(|name| format!("{name},1\n")).collect();
    dirs.put("sales.csv", format!("region,amount\n{rows}"));
    let written = dirs.generate(&by_region(SUM)).unwrap();
    let page = words(&fs::read(&written.path).unwrap()).concat();
    for name in ["Łódź", "Αθήνα", "Київ", "Straße 5 €", "Đà Nẵng", "İzmir – №7", "café"] {
        assert!(page.contains(name), "{name} is not in {page}");
    }
    assert!(!page.contains("lacks"), "{page}");
    assert_eq!(serde_json::to_value(&written).unwrap()["missing_letters"], "");
    assert!(fs::metadata(&written.path).unwrap().len() < 100_000, "only the letters in use are embedded");
}

#[test]
fn letters_that_the_font_lacks_are_named_on_the_page_and_in_the_result() {
    let dirs = TestDirs::new();
    dirs.put("sales.csv", "region,amount\nLódź,1\n東京,2\nשלום,3\n");
    let written = dirs.generate(&by_region(SUM)).unwrap();
    let page = words(&fs::read(&written.path).unwrap()).concat();
    assert!(page.contains("Lódź") && page.contains("\u{fffd}\u{fffd}"), "{page}");
    assert!(page.contains("U+6771") && page.contains("CSV and XLSX keep them"), "{page}");
    let missing = serde_json::to_value(&written).unwrap()["missing_letters"].to_string();
    assert!(missing.contains("東") && missing.contains("京") && missing.contains("ש"), "{missing}");
    let written = dirs.generate(&by_region(SUM).replace("pdf", "csv")).unwrap();
    assert!(fs::read_to_string(&written.path).unwrap().contains("東京"));
    assert_eq!(serde_json::to_value(&written).unwrap()["missing_letters"], "");
}

#[test]
fn a_cell_of_nearly_a_megabyte_is_set_in_no_more_time_than_it_takes_to_read_it() {
    let dirs = TestDirs::new();
    dirs.put("sales.csv", format!("region,amount\nN,1\n{},2\n", "x y".repeat(300_000)));
    let written = dirs.generate(&by_region(SUM)).unwrap();
    assert!(words(&fs::read(written.path).unwrap()).concat().contains('…'));
}

#[test]
fn a_pdf_that_is_being_set_is_cancelled_between_its_pages() {
    let dirs = TestDirs::new();
    let rows: String = (0..1000).map(|number| format!("region {number:03},{number}.5\n")).collect();
    dirs.put("sales.csv", format!("region,amount\n{rows}"));
    let looks = Cell::new(0);
    let stop = || looks.replace(looks.get() + 1) == 5;
    let error = dirs.reports().generate(&read(&by_region(SUM)), &stop).unwrap_err();
    assert!(matches!(error, ReportError::Cancelled), "{error}");
    assert_eq!(looks.get(), 6, "it is asked once a page, and stops there");
    assert!(dirs.files().is_empty());
}

/// Writes a data set of many measures, and returns a request for the sum of each.
pub(crate) fn wide(dirs: &TestDirs, groups: usize, measures: usize) -> String {
    let header: Vec<_> =
        (0..groups).map(|at| format!("group_{at}")).chain((0..measures).map(|at| format!("measure_{at}"))).collect();
    let row = |number: usize| -> Vec<String> {
        let names = (0..groups).map(|_| format!("Region number {number}"));
        names.chain((0..measures).map(|at| format!("{}.25", 1_234_567 + at * number))).collect()
    };
    let rows: String = (0..60).map(|number| row(number).join(",") + "\n").collect();
    dirs.put("sales.csv", format!("{}\n{rows}", header.join(",")));
    let quoted: Vec<_> = header[..groups].iter().map(|title| format!("\"{title}\"")).collect();
    let sums: Vec<_> =
        header[groups..].iter().map(|title| format!(r#"{{"column": "{title}", "op": "sum"}}"#)).collect();
    format!(
        r#"{{"dataset": "sales.csv", "output": "r", "format": "pdf", "group_by": [{}], "aggregates": [{}]}}"#,
        quoted.join(", "),
        sums.join(", ")
    )
}

#[test]
fn a_table_of_many_measures_is_set_on_several_pages_side_by_side_with_every_name() {
    let dirs = TestDirs::new();
    let request = wide(&dirs, 1, 20);
    let pages = words(&fs::read(dirs.generate(&request).unwrap().path).unwrap());
    for at in 0..20 {
        let (title, total) = (format!("sum(measure_{at})"), format!("Region number {at}"));
        assert!(pages.iter().any(|page| page.contains(&title)), "{title}");
        assert!(pages.iter().any(|page| page.contains(&total)), "{total}");
    }
    let all = pages.concat();
    assert!(!all.contains('…') && !all.contains("####"), "nothing is cut: {all}");
    for page in &pages {
        assert!(page.contains("group_0"), "each page names its rows: {page}");
    }
    assert!(all.contains("Columns 2 to "), "{all}");
}

#[test]
fn a_table_that_no_page_holds_is_refused_with_the_number_that_fits() {
    let dirs = TestDirs::new();
    let error = dirs.generate(&wide(&dirs, 15, 1)).unwrap_err();
    assert!(error.is_permanent());
    let text = error.to_string();
    assert!(text.starts_with("15 columns of group_by do not fit a page of a pdf, which holds "), "{text}");
}
