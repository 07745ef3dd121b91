//! The job `email.order_confirmation`, which mails an order with its prices to the customer.

use leveret::{Context, JobError, JobResult};

use super::deliver::deliver;
use crate::{mail::Mail, order::OrderConfirmation};

pub(crate) async fn confirm_order(order: OrderConfirmation, ctx: Context<Mail>) -> JobResult {
    let draft = order.draft().map_err(JobError::permanent)?;
    deliver(draft, &ctx).await
}
