//! The server as its users meet it: real sockets on free ports, a real SQLite file, real clients.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod api_tokens;
mod audit;
mod client;
mod config;
mod contract;
mod control;
mod dashboard;
mod events;
mod full_disk;
mod identity;
mod lifecycle;
mod limits;
mod names;
mod node;
mod offline;
mod ops;
mod paths;
mod relay;
mod relay_keys;
mod rest;
mod rotation;
mod running;
mod schema;
mod seeds;
mod small_disk;
mod stun;
mod visitors;
