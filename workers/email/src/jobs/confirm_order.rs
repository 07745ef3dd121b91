//! `email.order_confirmation`: tells a customer what was ordered and what it costs.

use leveret::{Context, Job, JobError, JobResult};

use super::deliver;
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
