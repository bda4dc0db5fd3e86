//! The real binary as it runs. What was acknowledged stays: it is killed while it writes, copied while it writes, and
//! made anew of the copy. What it is told while it runs it does, and drops nobody. And the operator's commands, against
//! it.
#![cfg(target_os = "linux")]

mod backup;
mod drain;
mod kill;
mod live;
mod node;
mod operate;
mod restore;
mod server;
#[path = "../../../../tests/server/small_disk.rs"]
mod small_disk;
mod turn;
mod writers;
