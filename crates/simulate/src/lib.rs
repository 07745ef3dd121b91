//! A model of one job queue. It predicts the wait of jobs for a number of workers, or for an autoscaler.
//!
//! Jobs arrive ([`load`]) and pass the leader of the queue, which is one core of the broker. The leader delivers them to the
//! [workers](Workers) in turn like RabbitMQ: to each worker as many as its prefetch, even if it has no free slot. A failed
//! job returns after a delay. An [`Autoscaler`] watches the queue like that of Kubernetes, and adds or removes workers.
//! [`run`] processes the events in the order of time and returns the outcome.
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
pub use load::{Arrivals, Job, Load, Peak, RetryDelays, Service};
pub use model::{System, Workers, run};
pub use outcome::{Histogram, Outcome};
