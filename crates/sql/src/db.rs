//! Typed connection pools of PostgreSQL and SQLite, with a time limit on every statement.
//!
//! This module is shared with `leveret-store`. It is not part of this crate's API and may change at any time.
//!
//! * `dialect`: the SQL in which the two databases differ.
//! * `statement`: a statement with its values. `row`: a row of its result.
//! * `connection`: runs a statement on a connection of sqlx, also in the user's transaction.
//! * `limit`: time limits. `timed`: a connection of a pool whose statements end in time.
//! * `pool`: opens a database. `address`: parses its address.
//! * `migrations`: creates and updates tables.

mod address;
mod connection;
mod dialect;
mod limit;
mod migrations;
mod pool;
mod row;
mod statement;
mod timed;

pub use self::{
    address::DatabaseAddress,
    connection::Connection,
    dialect::Dialect,
    migrations::Migrations,
    pool::Pool,
    row::{FromRow, Row, number},
    statement::{Arg, Sql, chunks, number_list, text_list, without_nul},
    timed::TimedConnection,
};
pub(crate) use self::{connection::ConnectionMut, limit::within, migrations::TABLES_LOCK, pool::from_pools};
