//! Writes a flowchart for Mermaid.

use super::{DrawnStep, edges};

/// The colours of statuses, as class definitions.
const CLASSES: [(&str, &str); 6] = [
    ("Pending", "fill:#eef2fb,stroke:#5577bb"),
    ("Running", "fill:#e2ecff,stroke:#2f6fed,stroke-width:3px"),
    ("Completed", "fill:#e4f5e9,stroke:#2f9e57"),
    ("Failed", "fill:#fde8e8,stroke:#d13b3b,stroke-width:3px"),
    ("Cancelled", "fill:#f0f0f0,stroke:#999,stroke-dasharray:4 3"),
    ("Skipped", "fill:#f0f0f0,stroke:#999,stroke-dasharray:4 3"),
];

pub(super) fn written(steps: &[DrawnStep]) -> String {
    let mut lines = vec!["flowchart LR".to_owned()];
    // Numbers instead of names: Mermaid has reserved words, such as `end`.
    for (at, DrawnStep { name, note, .. }) in steps.iter().enumerate() {
        let note = if note.is_empty() { String::new() } else { format!("<br/>{}", escaped(note)) };
        lines.push(format!("  s{at}[\"{}{note}\"]", escaped(name)));
    }
    lines.extend(edges(steps).iter().map(|(from, to)| format!("  s{from} --> s{to}")));
    for (class, look) in CLASSES {
        let of_class = steps.iter().enumerate().filter(|(_, step)| step.status == class);
        let of_class: Vec<_> = of_class.map(|(at, _)| format!("s{at}")).collect();
        if !of_class.is_empty() {
            lines.push(format!("  classDef {class} {look}"));
            lines.push(format!("  class {} {class}", of_class.join(",")));
        }
    }
    lines.join("\n") + "\n"
}

/// Mermaid reads `#code;` in texts in quotation marks.
fn escaped(text: &str) -> String {
    let escape = |letter: char| match letter {
        '"' | '#' | '<' | '>' | '&' | ';' => format!("#{};", u32::from(letter)),
        letter if letter.is_control() => " ".to_owned(),
        letter => letter.to_string(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flowchart_has_each_step_edge_and_status_and_no_reserved_words() {
        let step = |name: &str, status: &str, after: &[&str]| DrawnStep {
            name: name.to_owned(),
            note: "say \"hi\"".to_owned(),
            status: status.to_owned(),
            after: after.iter().map(|&name| name.to_owned()).collect(),
        };
        let chart = written(&[step("start", "Completed", &[]), step("end", "Running", &["start", "unknown"])]);
        let expected = "flowchart LR\n  s0[\"start<br/>say #34;hi#34;\"]\n  s1[\"end<br/>say #34;hi#34;\"]\n  s0 --> s1\n  \
                        classDef Running fill:#e2ecff,stroke:#2f6fed,stroke-width:3px\n  class s1 Running\n  \
                        classDef Completed fill:#e4f5e9,stroke:#2f9e57\n  class s0 Completed\n";
        assert_eq!(chart, expected);
    }
}
