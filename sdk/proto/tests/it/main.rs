//! Black-box tests of the words that servers and nodes share.

mod join;
mod rules;
mod vectors;
mod wire;
