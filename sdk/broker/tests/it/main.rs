//! Black-box tests of the broker: what nodes say and times in, what they are told out.

mod broker;
mod introducer;
mod judge;
mod mapped;
mod membership;
mod rig;
mod windows;
