//! The jobs of this worker.

mod confirm_order;
mod deliver;
mod send_email;

pub use self::send_email::SendEmail;
pub(crate) use self::{confirm_order::confirm_order, deliver::SMTP, send_email::send_email};
