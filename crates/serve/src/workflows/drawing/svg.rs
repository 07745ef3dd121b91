//! Writes SVG.

use super::{
    DrawnStep,
    layout::{Layout, MOST_LETTERS, Place},
};

/// The colours, light and dark. A status is a class, and is also written in the step's tooltip.
const STYLE: &str = "\
text{font:13px ui-monospace,monospace;fill:#1c2330}text.n{font-size:11px;fill:#5b6675}\
path{fill:none;stroke:#8b95a3;stroke-width:1.5}rect{fill:#f3f5f8;stroke:#8b95a3;stroke-width:1.5}\
.Pending rect{fill:#eef2fb;stroke:#5577bb}.Running rect{fill:#e2ecff;stroke:#2f6fed;stroke-width:2.5}\
.Completed rect{fill:#e4f5e9;stroke:#2f9e57}.Failed rect{fill:#fde8e8;stroke:#d13b3b;stroke-width:2.5}\
.Cancelled rect,.Skipped rect{fill:#f0f0f0;stroke:#999;stroke-dasharray:4 3}\
@media(prefers-color-scheme:dark){text{fill:#e6eaf0}text.n{fill:#a4adba}path{stroke:#788392}rect{fill:#232a35;stroke:#788392}\
.Pending rect{fill:#1f2b45}.Running rect{fill:#1d3260}.Completed rect{fill:#173a25}.Failed rect{fill:#4a1c1c}\
.Cancelled rect,.Skipped rect{fill:#2b2b2b}}";

pub(super) fn written(title: &str, steps: &[DrawnStep], layout: &Layout) -> String {
    let Layout { width, height, places, edges } = layout;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         role=\"img\"><title>{}</title><style>{STYLE}</style>\n<defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" \
         refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0L8 4L0 8\"/></marker></defs>\n",
        escaped(title)
    );
    for way in edges {
        svg += &edge(way);
    }
    for (step, place) in steps.iter().zip(places) {
        svg += &node(step, place);
    }
    svg + "</svg>\n"
}

fn edge(way: &[(usize, usize)]) -> String {
    let Some((x, y)) = way.first() else { return String::new() };
    let mut path = format!("<path marker-end=\"url(#tip)\" d=\"M{x} {y}");
    for pair in way.windows(2) {
        let ((x, y), (to_x, to_y)) = (pair[0], pair[1]);
        let middle = usize::midpoint(x, to_x);
        path += &format!("C{middle} {y} {middle} {to_y} {to_x} {to_y}");
    }
    path + "\"/>\n"
}

fn node(step: &DrawnStep, place: &Place) -> String {
    let Place { x, y, width, height } = place;
    let class: String = step.status.chars().filter(char::is_ascii_alphabetic).collect();
    let (text_x, first, second) = (x + width / 2, y + 20, y + 37);
    format!(
        "<g class=\"{class}\"><title>{}: {}</title><rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" \
         rx=\"7\"/><text x=\"{text_x}\" y=\"{first}\" text-anchor=\"middle\">{}</text><text class=\"n\" x=\"{text_x}\" \
         y=\"{second}\" text-anchor=\"middle\">{}</text></g>\n",
        escaped(&step.name),
        escaped(&step.status),
        escaped(&shortened(&step.name)),
        escaped(&shortened(&step.note)),
    )
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= MOST_LETTERS {
        return text.to_owned();
    }
    text.chars().take(MOST_LETTERS - 1).chain(['…']).collect()
}

/// XML has no control characters, not even escaped.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '&' => escaped += "&amp;",
            '"' => escaped += "&quot;",
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::{super::svg, *};

    #[test]
    fn names_cannot_change_the_picture() {
        let step = DrawnStep {
            name: "<script>\"&\u{1}".to_owned(),
            note: "]]>".to_owned(),
            status: "Completed\" onload=\"x".to_owned(),
            after: Vec::new(),
        };
        let picture = svg("</title>", &[step]).unwrap();
        assert!(!picture.contains("<script") && !picture.contains("onload=\"x") && !picture.contains('\u{1}'));
        assert_eq!(picture.matches("</title>").count(), 2, "{picture}");
    }

    #[test]
    fn the_picture_in_the_book_is_drawn_by_this_code() {
        let step = |name: &str, job: &str, status: &str, after: &[&str]| DrawnStep {
            name: name.to_owned(),
            note: job.to_owned(),
            status: status.to_owned(),
            after: after.iter().map(|&name| name.to_owned()).collect(),
        };
        let steps = [
            step("charge", "payment.charge", "Completed", &[]),
            step("reserve", "stock.reserve", "Completed", &["charge"]),
            step("invoice", "report.invoice", "Completed", &["charge"]),
            step("place", "order.place", "Running", &["reserve", "invoice"]),
            step("confirm", "email.order_confirmation", "Pending", &["place"]),
        ];
        let picture = svg("checkout", &steps).unwrap();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/checkout.svg");
        if std::env::var_os("WRITE_PICTURES").is_some() {
            std::fs::write(path, &picture).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), picture, "WRITE_PICTURES=1 writes it");
    }

    #[test]
    fn a_long_name_is_cut_in_the_picture_and_whole_in_its_tooltip() {
        let name = "n".repeat(64);
        let step = DrawnStep { name: name.clone(), note: String::new(), status: String::new(), after: Vec::new() };
        let picture = svg("t", &[step]).unwrap();
        assert!(picture.contains(&format!("<title>{name}: </title>")) && !picture.contains(&format!(">{name}<")));
    }
}
