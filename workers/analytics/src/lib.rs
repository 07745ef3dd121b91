//! The analytics worker: revenue per day and the products that sell best, computed from the log of events.
//!
//! A [projection](leveret_sql::Projection) reads the events `order.placed` and keeps two tables beside each other in one
//! transaction. It can be computed again at any time: `leveret projections reset analytics`.
//!
//! In reading order: [`event`] has the event as this worker reads it. `view` has the tables, their handlers and their
//! queries.

pub mod event;
mod view;

pub use self::{
    event::{Line, OrderPlaced, PlacedAt},
    view::{Analytics, AnalyticsError, DayRevenue, NAME, ProductSales},
};
