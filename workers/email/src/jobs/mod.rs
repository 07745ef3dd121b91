//! The jobs and events of this worker.

mod confirm_order;
mod deliver;
mod mail_order;
mod send_email;

pub(crate) use self::{confirm_order::confirm_order, deliver::SMTP, mail_order::mail_order, send_email::send_email};
pub use self::{
    mail_order::{ORDER_MAILS, OrderPlaced, OrderedLine},
    send_email::SendEmail,
};
