//! Simulator, NAT lab, end-to-end and attack tests of Meetpoint, and its relay benchmark.

#[cfg(target_os = "linux")]
pub mod bench;
#[cfg(target_os = "linux")]
pub mod binary;
#[cfg(target_os = "linux")]
pub mod capture;
#[cfg(target_os = "linux")]
pub mod delay;
#[cfg(target_os = "linux")]
pub mod lab;
pub mod model;
pub mod sim;
