//! The job `email.order_confirmation`, which mails an order with its prices to the customer.

use leveret::{Context, Job, JobError, JobResult};

use super::deliver::deliver;
use crate::{mail::Mail, order::OrderConfirmation};

impl Job for OrderConfirmation {
    const NAME: &'static str = "email.order_confirmation";
    const QUEUE: &'static str = "email";

    fn schema() -> Option<serde_json::Value> {
        Some(schemars::schema_for!(Self).to_value())
    }
}

pub(crate) async fn confirm_order(order: OrderConfirmation, ctx: Context<Mail>) -> JobResult {
    let draft = order.draft().map_err(JobError::permanent)?;
    deliver(draft, &ctx).await
}
