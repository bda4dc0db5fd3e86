//! The command as its user meets it.

mod config;
mod help;
mod running;
mod scratch;
