//! The job `email.order_confirmation`, which mails an order with its prices to the customer.

use leveret::{Context, JobResult};

use super::deliver::deliver;
use crate::{mail::Mail, order::OrderConfirmation};

pub(crate) async fn confirm_order(order: OrderConfirmation, ctx: Context<Mail>) -> JobResult {
    deliver(order.draft(), &ctx).await
}
