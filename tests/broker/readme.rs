//! Runs the parts of the README and of the book's reference pages that are not Rust.

use std::collections::BTreeSet;

use leveret::{Batching, Broker, Config};
use leveret_harness::eventually;
use leveret_tests::jobs::{Act, Log, batch_worker, publish, script, start, worker_with};

use crate::{metrics::get, support::LONG};

const README: &str = include_str!("../../README.md");
pub(crate) const ON_THE_BROKER: &str = include_str!("../../docs/src/broker.md");
const SETTINGS: &str = include_str!("../../docs/src/settings.md");
const METRICS: &str = include_str!("../../docs/src/metrics.md");
const WIRE: &str = include_str!("../../docs/src/wire.md");

/// The first fenced block of a language on the page of the wire contract.
pub(crate) fn block(language: &str) -> &'static str {
    first_block(WIRE, language)
}

fn first_block(document: &'static str, language: &str) -> &'static str {
    let (_, from) = document.split_once(&format!("```{language}\n")).unwrap();
    from.split_once("```").unwrap().0
}

#[test]
fn the_readme_shows_what_is_tried() {
    assert_eq!(first_block(README, "python"), block("python"));
}

/// The words of a section of the page of the metrics that start with `prefix`.
fn words(section: &str, prefix: &str) -> BTreeSet<&'static str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (_, section) = METRICS.split_once(&format!("\n## {section}\n")).unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    section.split(|c| !is_word(c)).filter(|word| word.starts_with(prefix) && word.len() > prefix.len()).collect()
}

#[test]
fn every_setting_is_in_the_table_with_its_flag_and_default() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_scripted-worker")).arg("--help").env_clear().output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    let mut settings = BTreeSet::new();
    for option in help.split("\n      --").skip(1) {
        let value = |name: &str| option.split_once(&format!("[{name}: ")).and_then(|(_, rest)| rest.split_once(']'));
        let Some((variable, _)) = value("env") else { continue };
        let variable = variable.trim_end_matches('=');
        let flag = option.split(' ').next().unwrap();
        let default = value("default").map_or_else(String::new, |(default, _)| format!("`{default}` "));
        let row = format!("| `{variable}` | `--{flag}` | {default}|");
        assert!(SETTINGS.contains(&row), "the page lacks {row}");
        settings.insert(variable);
    }
    assert!(settings.len() > 10, "{help}");
    let (table, _) = SETTINGS.split_once("\n## The server\n").unwrap();
    let listed = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(settings, listed);
}

#[tokio::test]
async fn every_metric_is_in_the_table_and_no_other() {
    let broker = Broker::memory_with(Config { http_addr: ([127, 0, 0, 1], 0).into(), ..Config::default() });
    let (health, log) = (broker.serve_health().unwrap(), Log::default());
    let scheduled =
        worker_with("q", |queue| queue, &log, |h| h.circuit("smtp")).cron("@yearly", "UTC", &script("yearly", []));
    let running = start(scheduled, &broker);
    let job = script("one", [Act::Succeed]);
    eventually("it is published", LONG, async || publish(&broker, "q", &job).await.is_ok()).await;
    log.until("it has run", |runs| runs.len() == 1).await;
    let batches = start(batch_worker("batches", |queue| queue, Batching::up_to(10), &log), &broker);
    let request = async || broker.publisher().request(&job).queue("batches").await.is_ok();
    eventually("it is answered", LONG, request).await;
    broker.publisher().emit_raw("order.placed", "{}").await.unwrap();
    let (_, text) = get(&health.address().to_string(), "/metrics").await;
    batches.stop().await.unwrap();
    running.stop().await.unwrap();
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert_eq!(words("Every metric of a worker", "leveret_"), names);
}
