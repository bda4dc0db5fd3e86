//! What was acknowledged stays: the real binary, killed while it writes, copied while it writes, and made anew of the
//! copy.
#![cfg(target_os = "linux")]

mod backup;
mod kill;
mod restore;
mod scratch;
mod server;
mod writers;
