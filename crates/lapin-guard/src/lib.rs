//! A guard between [lapin] and its socket.
//!
//! lapin parses what the broker sends in a thread of its own. Some frames end its connection, and one kind aborts the
//! process. RabbitMQ passes such frames on from any publisher. A publisher with access to one queue can therefore stop
//! every consumer of that queue, again with each redelivery. This crate filters the frames before lapin reads them.
//!
//! # Faults of lapin and what the guard does
//!
//! Each row is shown by a test in `tests/`, once with lapin alone and once with the guard. The tests fail as soon as a
//! lapin version no longer has the fault. All rows hold for **lapin 4.12.3**.
//!
//! | fault | lapin alone | with the guard |
//! |---|---|---|
//! | header tables nested some hundred levels deep | stack overflow, the process aborts | the message arrives, marked |
//! | a property or header name that is not UTF-8 | the connection ends | the message arrives, marked |
//! | an exchange, routing key or reply text that is not UTF-8 | the connection ends | each such byte becomes `?` |
//! | a header frame above the negotiated `frame_max` | the connection ends | the message arrives, marked |
//! | two headers with one name | lapin keeps the last, RabbitMQ reads the first | the message arrives, marked |
//! | deliveries on a channel that the broker has closed | the connection ends, with all its channels | the frames are dropped |
//! | the login in lapin's log at level `trace` | the password is logged | lapin never has the password |
//! | `connection_timeout` in the URI | ignored | bounds each TCP connection |
//! | a connection attempt that the caller drops | socket and thread stay | both end |
//! | a broker that refuses the client certificate and resets the connection | the reason may be lost | the reason is reported |
//! | a broker certificate that is its own CA | cannot be trusted | trusted if the CA file has exactly it |
//! | `amqps://` without a TLS feature | plaintext | an error |
//!
//! A marked message keeps every property that is sound. In place of its headers it has two of [`Markers`]: one with the
//! reason, and one with the original properties, byte for byte. If the original may contain an `x-death` array, the
//! marked message has an empty one.
//!
//! # Example
//!
//! ```no_run
//! use lapin::{ConnectionProperties, options::BasicAckOptions, uri::AMQPUri};
//! use lapin_guard::Options;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let uri: AMQPUri = "amqp://guest:guest@localhost:5672/%2f".parse()?;
//! let (connection, guard) = lapin_guard::connect(&uri, ConnectionProperties::default(), &Options::default()).await?;
//! println!("connected to {}, {}", guard.peer(), guard.server().version);
//! let channel = connection.create_channel().await?;
//! // Use lapin as usual, and keep `guard` as long as the connection.
//! # let _ = (channel, BasicAckOptions::default());
//! # Ok(())
//! # }
//! ```
//!
//! # Limits
//!
//! * Tokio only.
//! * The login is the URI's, with the mechanism of its `auth_mechanism`; [`connect`] replaces an
//!   [`AuthProvider`](lapin::auth::AuthProvider) in the connection properties. Mechanisms with a challenge do not work.
//! * lapin's own recovery stays off: a lost connection is made again by the caller.
//! * A header frame is held in memory until it is complete. RabbitMQ limits its size to its `frame_max`.
//! * Frames to the broker pass unchanged, except for the login.
//!
//! # Features
//!
//! * `tls`: `amqps://`, by rustls with PEM files ([`TlsFiles`]).

mod deferred_close;
mod dial;
mod error;
mod filter;
mod guard;
mod liveness;
mod login;
mod server;
mod stream;
#[cfg(feature = "tls")]
mod tls;

#[cfg(feature = "tls")]
pub use self::tls::{ClientIdentity, SettingNames, TlsFileError, TlsFiles};
pub use self::{
    error::ConnectError,
    filter::{FrameFilter, Markers, can_be_parsed},
    guard::{Guard, Options, connect},
    server::ServerProperties,
};
