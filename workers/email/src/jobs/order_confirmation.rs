//! `email.order_confirmation`: tells a customer what was ordered and what it costs.

use leveret::{Context, JobError, JobResult};

use super::deliver;
use crate::{mail::Mail, order::OrderConfirmation};

pub(crate) async fn confirm_order(order: OrderConfirmation, ctx: Context<Mail>) -> JobResult {
    let draft = order.draft().map_err(JobError::permanent)?;
    deliver(draft, &ctx).await
}
