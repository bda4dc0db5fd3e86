//! What holds in virtual time: no sockets, no privileges. See [`meetpoint_tests::sim`].

mod forgetful;
mod hints;
mod matrix;
mod model;
mod models;
mod pairs;
mod recorded;
mod relay;
mod rendezvous;
mod verdicts;
