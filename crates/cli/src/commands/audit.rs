//! `leveret audit`: the audit log.

use clap::Args;
use leveret_store::Cursor;

use super::shared::{StoreArguments, time};
use crate::output::{Exit, Failure, Format, notice, one_line, print, print_json, table};

/// Shows the audit log: changes to jobs and dead letters with their actor, the latest first
///
/// The log records every cancel, retry, replay, edit, purge, restore and import, over HTTP and by this command line. Entries
/// are kept indefinitely.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    store: StoreArguments,

    /// Maximum number of entries
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "NUMBER")]
    limit: u32,

    /// Cursor of the next page, as the previous page printed it
    #[arg(long, value_name = "CURSOR")]
    after: Option<Cursor>,

    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  2  wrong usage
  4  an error of the program or its environment, such as an unreachable store

The actor of an HTTP request is named after its token: with LEVERET_API_TOKENS=operator:anna=TOKEN it is api:anna, with
operator:TOKEN it is api:operator.

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
        Format::Table => print(&table(["AT", "ACTOR", "ACTION", "DETAIL"], &rows.collect::<Vec<_>>()))?,
    }
    if let (Some(next), Format::Table) = (&page.next, arguments.output) {
        notice!("More entries: --after {next}");
    }
    Ok(Exit::Success)
}
