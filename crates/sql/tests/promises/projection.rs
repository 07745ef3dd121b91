//! The promises of projections, on both databases.
//!
//! * `stage`: a view, its projection and its events. `views`: what the view has, whatever happens.
//! * `logs`: logs that were cut or made anew. `operate`: what an operator sees and does.
//! * `cuts`: connections that are cut between any two statements. `kills`: processes that are killed and halted.
//! * `topics`: programs and versions with other topics.

mod cuts;
mod kills;
mod logs;
mod operate;
mod stage;
mod topics;
mod views;
