//! A model of one job queue: how long jobs wait with so many workers, or with an autoscaler.
//!
//! Jobs come ([`load`]), pass the queue's leader, which is one core of the broker, and go to the [workers](Workers) in
//! turn, as RabbitMQ hands them out: to each as many as its prefetch, whether or not it has a place free. A job that fails
//! comes back after a delay. An [`Autoscaler`] looks at the queue as Kubernetes' does, and adds or removes workers.
//! [`run`] lets the time pass event by event and tells what came of it.
//!
//! ```
//! use leveret_simulate::{Arrivals, Load, Service, System, Workers, run};
//!
//! let load = Load {
//!     arrivals: Arrivals::steady(200.0),
//!     service: Service::from_quantiles(0.080, 0.400),
//!     failures: 0.02,
//!     ..Load::default()
//! };
//! let system = System { workers: Workers { count: 3, ..Workers::default() }, ..System::default() };
//! let outcome = run(&system, load.jobs(600.0, 1));
//! assert!(outcome.waits.quantile(0.95) < 1.0);
//! ```

mod autoscaler;
pub mod load;
mod model;
mod outcome;
mod pool;

pub use autoscaler::Autoscaler;
pub use load::{Arrivals, Job, Load, Peak, Retry, Service};
pub use model::{System, Workers, run};
pub use outcome::{Outcome, Spread};
