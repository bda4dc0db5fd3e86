//! The meetpoint command: serve, node, demo and the operator's tools.

#[cfg(target_os = "linux")]
pub mod lab;
