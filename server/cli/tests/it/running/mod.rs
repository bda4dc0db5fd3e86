//! The real binary as it runs. What was acknowledged stays: it is killed while it writes, copied while it writes, and made
//! anew of the copy. And the operator's commands, against it.
#![cfg(target_os = "linux")]

mod backup;
mod kill;
mod operate;
mod restore;
mod server;
mod writers;
