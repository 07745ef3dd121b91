//! `leveret audit`: who did what.

use clap::Args;
use leveret_store::Cursor;

use super::shared::{StoreArguments, time};
use crate::output::{Exit, Failure, Format, notice, one_line, print, print_json, table};

/// Shows who did what to jobs and dead letters, the latest first
///
/// Cancels, retries, replays, edits, purges, restores and imports, over HTTP and by these commands. It is kept for ever.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    store: StoreArguments,

    /// How many entries, at most
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "NUMBER")]
    limit: u32,

    /// The next page: what the page before named
    #[arg(long, value_name = "CURSOR")]
    after: Option<Cursor>,

    /// How to print them
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  2  wrong usage
  4  an error of the program or its surroundings, such as a store that is away

Who asked over HTTP is named by the token: LEVERET_API_TOKENS=operator:anna=TOKEN makes api:anna, and operator:TOKEN
api:operator.

Examples:
  leveret audit
  leveret audit --limit 1000 --output json";

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let page = arguments.store.open().await?.audit_log(arguments.after.as_ref(), arguments.limit).await?;
    let rows = page.items.iter().map(|entry| {
        let detail = one_line(&entry.detail.to_string(), 120);
        [time(entry.at), one_line(&entry.actor, 32), entry.action.clone(), detail]
    });
    match arguments.output {
        Format::Json => print_json(&page)?,
        Format::Table => print(&table(["AT", "WHO", "WHAT", "ON WHAT"], &rows.collect::<Vec<_>>()))?,
    }
    if let (Some(next), Format::Table) = (&page.next, arguments.output) {
        notice!("There are more: --after {next}");
    }
    Ok(Exit::Success)
}
